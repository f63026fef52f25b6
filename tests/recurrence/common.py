"""The implementations that the tests run over, and the recurrences computed step by step."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from hypothesis import strategies as st

from lfads_torch import recurrence
from lfads_torch.recurrence import BACKENDS, DecoderWeights, Draws, GRUWeights

WHERE = [("torch", "cpu"), ("compiled", "cpu"), ("torch", "cuda")]
"""Names of implementations, and the devices on which each is tested."""

TOLERANCES = {torch.float64: 1e-11, torch.float32: 1e-5}
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
dtypes = st.sampled_from(list(TOLERANCES))


class Case(NamedTuple):
    """An implementation, and the device on which it runs."""

    name: str
    device: str = "cpu"

    @property
    def backend(self):
        (backend,) = (backend for backend in BACKENDS if backend.name == self.name)
        return backend

    def to(self, *tensors):
        """Return tensors as leaves on the device, with gradients if the originals have them."""
        return [x.detach().to(self.device).requires_grad_(x.requires_grad) for x in tensors]


def _on(device, value, name):
    missing = device == "cuda" and not torch.cuda.is_available()
    marks = pytest.mark.skipif(missing, reason="there is no GPU, or it is hidden")
    return pytest.param(value, id=name, marks=marks)


cases = pytest.mark.parametrize(
    "case", [_on(device, Case(name, device), f"{name}-{device}") for name, device in WHERE]
)
devices = pytest.mark.parametrize(
    "device", [_on(device, device, device) for device in ("cpu", "cuda")]
)


def assert_close(actual, expected, dtype):
    """Compare with a tolerance relative to the largest value, since sums of terms may cancel."""
    actual, expected = actual.cpu(), expected.cpu()
    assert actual.shape == expected.shape
    if expected.numel():
        error = (actual - expected).abs().max() / expected.abs().max().clamp(min=1.0)
        assert error.item() < TOLERANCES[dtype]


def gradients(outputs, weights, inputs):
    """Differentiate a weighted sum of those outputs that have a weight."""
    total = sum(
        (o * w.to(o.device)).sum() for o, w in zip(outputs, weights, strict=True) if w is not None
    )
    inputs = [x for x in inputs if x.requires_grad]
    return torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)


def some_weights(outputs, used, generator):
    return [
        torch.randn(o.shape, generator=generator, dtype=o.dtype) if use else None
        for o, use in zip(outputs, used, strict=True)
    ]


def normal(generator, shape, dtype=torch.float64, scale=1.0):
    """Draw a leaf that requires a gradient."""
    return (scale * torch.randn(shape, generator=generator, dtype=dtype)).requires_grad_()


# ------------------------------------------------------------------ step by step


def gru_weights(generator, n_inputs, size, clip=5.0, dtype=torch.float64, scale=0.5):
    shapes = (3 * size, n_inputs), (3 * size, size), (3 * size,)
    return GRUWeights(*(normal(generator, shape, dtype, scale) for shape in shapes), clip)


def gru_step(weights, x, h):
    """Advance states h (B, H) by one bin with inputs x (B, D)."""
    w_z, w_r, w_n = weights.weight_ih.chunk(3)
    u_z, u_r, u_n = weights.weight_hh.chunk(3)
    b_z, b_r, b_n = weights.bias.chunk(3)
    z = torch.sigmoid(F.linear(x, w_z, b_z) + F.linear(h, u_z))
    r = torch.sigmoid(F.linear(x, w_r, b_r) + F.linear(h, u_r))
    n = torch.tanh(F.linear(x, w_n, b_n) + F.linear(r * h, u_n))
    return torch.clamp(z * h + (1 - z) * n, -weights.clip, weights.clip)


def gru_by_steps(weights, inputs, h, reverse=False):
    """Run over time as :func:`lfads_torch.recurrence.run_gru` does."""
    states = []
    for x in inputs.flip(1).unbind(1) if reverse else inputs.unbind(1):
        h = gru_step(weights, x, h)
        states.append(h)
    return torch.stack(states[::-1] if reverse else states, dim=1), h


def decoder_weights(
    generator, ext=1, ci=4, con=4, co=2, gen=5, fac=3, clip=5.0, use_con=True,
    dtype=torch.float64, scale=0.5,
):  # fmt: skip
    gen_weights = gru_weights(generator, (co if use_con else 0) + ext, gen, clip, dtype, scale)
    weights = DecoderWeights(gen_weights, normal(generator, (fac, gen), dtype, scale))
    if not use_con:
        return weights
    return weights._replace(
        controller=gru_weights(generator, ci + fac, con, clip, dtype, scale),
        co_weight=normal(generator, (2 * co, con), dtype, scale),
        co_bias=normal(generator, (2 * co,), dtype, scale),
    )


def leaves(weights):
    """Return the tensors of (nested) weights."""
    found = []
    for value in weights:
        if isinstance(value, tuple):
            found += leaves(value)
        elif isinstance(value, torch.Tensor):
            found.append(value)
    return found


def placed(case, weights):
    """Return (nested) weights on the device of a case."""
    return type(weights)(
        *(
            placed(case, value)
            if isinstance(value, tuple)
            else case.to(value)[0]
            if isinstance(value, torch.Tensor)
            else value
            for value in weights
        )
    )


def decoder_inputs(generator, weights, trials, bins, dtype=torch.float64, con=3):
    """Draw ci, ext_input, gen_0, con_0 and fac_0; without a controller, con_0 is of size con."""
    n_fac, n_gen = weights.fac_weight.shape
    n_ci = n_co = 0
    if weights.controller is not None:
        con = weights.controller.weight_hh.shape[1]
        n_ci = weights.controller.weight_ih.shape[1] - n_fac
        n_co = len(weights.co_bias) // 2
    n_ext = weights.generator.weight_ih.shape[1] - n_co
    shapes = [(trials, bins, n_ci), (trials, bins, n_ext)]
    shapes += [(trials, size) for size in (n_gen, con, n_fac)]
    return [normal(generator, shape, dtype) for shape in shapes]


def random_draws(generator, weights, trials, bins, dtype, sample=True, dropout=True):
    n_fac, n_gen = weights.fac_weight.shape
    use_con = weights.controller is not None
    draws = Draws()
    if sample and use_con:
        shape = bins, trials, len(weights.co_bias) // 2
        draws = draws._replace(noise=torch.randn(shape, generator=generator, dtype=dtype))
    if dropout:
        keep_f, keep_g = (
            (torch.rand(bins, trials, n, generator=generator) > 0.3).to(torch.uint8)
            for n in (n_fac, n_gen)
        )
        draws = draws._replace(keep_f=keep_f if use_con else None, keep_g=keep_g, scale=1 / 0.7)
    return draws


def decoder_by_steps(weights, ci, ext_input, gen, con, fac, draws):
    """Run over time as :func:`lfads_torch.recurrence.run_decoder` does."""
    n_bins, n_trials = ext_input.shape[1], len(ext_input)
    mean = std = ext_input.new_zeros(n_trials, 0)
    steps = []
    for t in range(n_bins):
        gen_input = ext_input[:, t]
        if weights.controller is not None:
            seen = fac if draws.keep_f is None else fac * draws.keep_f[t] * draws.scale
            con = gru_step(weights.controller, torch.cat([ci[:, t], seen], dim=1), con)
            mean, logvar = F.linear(con, weights.co_weight, weights.co_bias).chunk(2, dim=1)
            std = torch.exp(0.5 * logvar)
            drawn = mean if draws.noise is None else mean + std * draws.noise[t]
            gen_input = torch.cat([drawn, gen_input], dim=1)
        gen = gru_step(weights.generator, gen_input, gen)
        seen = gen if draws.keep_g is None else gen * draws.keep_g[t] * draws.scale
        fac = F.linear(seen, weights.fac_weight)
        steps.append((gen, con, fac, mean, std, gen_input))
    return recurrence.DecoderStates(*(torch.stack(x, dim=1) for x in zip(*steps, strict=True)))
