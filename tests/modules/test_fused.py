"""Fused modules have the same outputs and gradients as the same modules step by step."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Normal

from lfads_torch import recurrence
from lfads_torch.modules.decoder import Decoder, DecoderCell
from lfads_torch.modules.encoder import Encoder
from lfads_torch.modules.parts import linear_weights
from lfads_torch.modules.priors import (
    AutoregressiveMultivariateNormal,
    MultivariateNormal,
    MultivariateStudentT,
    Null,
)
from lfads_torch.modules.readin_readout import FanInLinear
from lfads_torch.modules.recurrent import BidirectionalClippedGRU, ClippedGRU, ClippedGRUCell
from tests.modules.reference import randomize_
from tests.recurrence.common import SETTINGS, assert_close, dtypes, gradients, some_weights

names = pytest.mark.parametrize("name", ["torch", "compiled"])


class GivenNoise(Null):
    """A prior whose posterior samples are mean + std · given noise, bin after bin."""

    def __init__(self, noise):
        super().__init__()
        self.noise = list(noise)

    def make_posterior(self, mean, std):
        sample = mean + std * self.noise.pop(0)
        posterior = Normal(mean, std)
        posterior.rsample = lambda: sample
        return posterior


def halves(dtype, seed, t_ic=0, lag=1, ext=0, use_con=True, dropout=0.0):
    encoder = Encoder(
        encod_data_dim=4, encod_seq_len=6, recon_seq_len=8, ic_enc_seq_len=t_ic, ic_enc_dim=5,
        ci_enc_dim=3, ci_lag=lag, ic_dim=4, ic_post_var_min=1e-3, dropout_rate=dropout,
        cell_clip=5.0, use_con=use_con,
    )  # fmt: skip
    decoder = Decoder(
        ext_input_dim=ext, ic_dim=4, ci_enc_dim=3, con_dim=4, co_dim=2, gen_dim=6, fac_dim=3,
        dropout_rate=dropout, cell_clip=5.0, use_con=use_con,
    )  # fmt: skip
    both = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    return randomize_(both, seed, 0.5).to(dtype)


# ------------------------------------------------------------------ whole encoder and decoder


@names
@SETTINGS
@given(
    dtype=dtypes,
    t_ic=st.sampled_from([0, 2]),
    lag=st.sampled_from([0, 1, 3, 9]),
    ext=st.sampled_from([0, 2]),
    use_con=st.booleans(),
    prior=st.sampled_from(
        [
            None,
            Null(),
            MultivariateNormal(0.0, 0.1, 2),
            AutoregressiveMultivariateNormal(10.0, 0.1, 2),
            MultivariateStudentT(0.0, 1.0, 4.0, 2),
        ]
    ),
    seed=st.integers(0, 100),
)
def test_encoder_and_decoder(name, dtype, t_ic, lag, ext, use_con, prior, seed):
    generator = torch.Generator().manual_seed(seed)
    data = torch.poisson(torch.full((5, 6, 4), 0.3, dtype=dtype), generator=generator)
    ext_input = torch.randn(5, 8, ext, generator=generator, dtype=dtype)
    noise = []
    results = []
    both = halves(dtype, seed, t_ic, lag, ext, use_con)
    for choice in (name, "plain"):  # The fused one draws the noise that the plain one then gets.
        used = prior
        if choice == "plain" and prior is not None and use_con:
            used = GivenNoise(noise)
        with recurrence.using(choice):
            mean, std, ci = both["encoder"](data)
            output = both["decoder"](mean + 0.1 * std, ci, ext_input, used)
        if use_con:
            drive = output.gen_inputs[:, :, :2]
            noise = ((drive - output.co_means) / output.co_stds).detach().unbind(1)
        outputs = (mean, std, ci, *output)
        weights = some_weights(outputs, [True] * len(outputs), torch.Generator().manual_seed(1))
        results.append((*outputs, *gradients(outputs, weights, list(both.parameters()))))
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected, dtype)


@names
def test_noise_is_that_of_the_prior(name):
    """Compare mean, variance and kurtosis of the noise of the controller output."""
    decoder = halves(torch.float32, 0)["decoder"]
    inputs = torch.zeros(4000, 4), torch.zeros(4000, 8, 6), torch.zeros(4000, 8, 0)
    for prior, variance in [(Null(), 1.0), (MultivariateStudentT(0.0, 1.0, 8.0, 2), 8 / 6)]:
        with torch.no_grad(), recurrence.using(name):
            out = decoder(*inputs, prior)
        noise = (out.gen_inputs - out.co_means) / out.co_stds
        assert noise.mean().abs() < 0.02
        assert noise.var().item() == pytest.approx(variance, rel=0.04)
        assert not torch.allclose(noise[:, 0], noise[:, 1])


# ------------------------------------------------------------------ derivatives


@names
def test_two_forward_passes_before_two_backward_passes(name):
    both = halves(torch.float64, 0)
    trained = [p for p in both.parameters() if p.requires_grad]

    def loss(seed):
        data = torch.randn(4, 6, 4, dtype=torch.float64, generator=torch.manual_seed(seed))
        with recurrence.using(name):
            mean, std, ci = both["encoder"](data)
            return both["decoder"](mean + std, ci, data.new_zeros(4, 8, 0)).factors.square().sum()

    def grads(value, **options):
        return torch.autograd.grad(
            value, trained, allow_unused=True, materialize_grads=True, **options
        )

    separate = [grads(loss(seed)) for seed in (1, 2)]
    losses = [loss(seed) for seed in (1, 2)]
    together = [grads(losses[1]), grads(losses[0])][::-1]
    for a, b in zip(itertools.chain(*separate), itertools.chain(*together), strict=True):
        torch.testing.assert_close(a, b)
    kept = loss(1)
    first, second = grads(kept, retain_graph=True), grads(kept)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        grads(kept)


def test_second_derivatives_step_by_step():
    x = torch.randn(2, 3, 2, requires_grad=True)
    gru = ClippedGRU(2, 4)
    with recurrence.using("plain"):
        final = gru(x, torch.zeros(2, 4))[1]
    (gradient,) = torch.autograd.grad(final.sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad.any()


def test_transforms_run_step_by_step():
    x = torch.randn(2, 3, 2)
    gru = ClippedGRU(2, 4)
    single = torch.func.vmap(lambda trial: gru(trial[None], torch.zeros(1, 4))[1][0])(x)
    torch.testing.assert_close(single, gru(x, torch.zeros(2, 4))[1])


# ------------------------------------------------------------------ users' parts


class OwnCell(ClippedGRUCell):
    def forward(self, input, hidden):
        return 0.5 * super().forward(input, hidden)


class OwnReadout(nn.Linear):
    def forward(self, input):
        return torch.tanh(super().forward(input))


def fused_and_plain(run):
    """Return the results of a function with the same random numbers, fused and step by step."""
    results = []
    for choice in ("auto", "plain"):
        torch.manual_seed(0)
        with recurrence.using(choice):
            results.append(run())
    return zip(*results, strict=True)


def test_own_recurrent_cell():
    gru = ClippedGRU(2, 4)
    gru.cell = OwnCell(2, 4)
    x, h_0 = torch.randn(2, 3, 2), torch.zeros(2, 4)
    assert all(torch.equal(a, b) for a, b in fused_and_plain(lambda: gru(x, h_0)))


def test_own_backward_direction_gets_flipped_inputs():
    class Own(nn.Module):
        def forward(self, input, h_0):
            states = input.cumsum(1)
            return states, states[:, -1]

    gru = BidirectionalClippedGRU(2, 2)
    gru.bwd_gru = Own()
    x = torch.randn(3, 4, 2)
    (_, states), (_, final) = gru(x, torch.zeros(2, 3, 2))
    torch.testing.assert_close(states, x.flip(1).cumsum(1).flip(1))
    torch.testing.assert_close(final, x.sum(1))


@pytest.mark.parametrize("part", ["gen_cell", "con_cell", "fac_linear", "co_linear", "dropout"])
def test_own_part_of_the_decoder(part):
    decoder = halves(torch.float32, 0)["decoder"]
    own = {
        "gen_cell": OwnCell(2, 6),
        "con_cell": OwnCell(9, 4),
        "fac_linear": OwnReadout(6, 3),
        "co_linear": OwnReadout(4, 4),
        "dropout": nn.Dropout(0.5),
    }
    setattr(decoder.rnn.cell, part, own[part])
    inputs = torch.randn(2, 4), torch.randn(2, 8, 6), torch.zeros(2, 8, 0)
    assert all(torch.equal(a, b) for a, b in fused_and_plain(lambda: decoder(*inputs)))


def test_methods_replaced_in_the_decoder_are_called():
    decoder = halves(torch.float32, 0)["decoder"]
    factor = decoder.rnn.cell.factor
    decoder.rnn.cell.factor = lambda gen_state: 2 * factor(gen_state)
    inputs = torch.randn(2, 4), torch.randn(2, 8, 6), torch.zeros(2, 8, 0)
    assert all(torch.equal(a, b) for a, b in fused_and_plain(lambda: decoder(*inputs)))


class WithAnOutput(ClippedGRUCell):
    """Declares fused weights, although the factors are not read from its state."""

    def fused_weights(self):
        bias = self.bias_ih + self.bias_hh
        return recurrence.GRUWeights(self.weight_ih, self.weight_hh, bias, self.clip_value)

    def output(self, state):
        return state.square()


def test_the_output_of_a_generator_counts():
    decoder = halves(torch.float32, 0)["decoder"]
    decoder.rnn.cell.gen_cell = WithAnOutput(2, 6, clip_value=5.0)
    inputs = torch.randn(2, 4), torch.randn(2, 8, 6), torch.zeros(2, 8, 0)
    assert all(torch.equal(a, b) for a, b in fused_and_plain(lambda: decoder(*inputs)))


@names
@pytest.mark.parametrize("dropped", [True, False])
def test_dropout_may_be_switched_without_the_decoder(name, dropped):
    """As for samples of dropout masks in evaluation (Gal & Ghahramani 2016)."""
    decoder = halves(torch.float32, 0, dropout=0.5)["decoder"].train(not dropped)
    decoder.rnn.cell.dropout.train(dropped)
    inputs = torch.zeros(2, 4), torch.zeros(2, 8, 6), torch.zeros(2, 8, 0)
    with recurrence.using(name):
        outputs = decoder(*inputs)
    linear = decoder.rnn.cell.fac_linear(outputs.gen_states)
    assert torch.allclose(outputs.factors, linear, atol=1e-6) != dropped


@names
@pytest.mark.parametrize("part", [ClippedGRU, BidirectionalClippedGRU, Encoder])
def test_inputs_that_numpy_changes(name, part):
    """Nothing that was derived from their numbers before is used again."""
    torch.manual_seed(0)
    encoder = halves(torch.float32, 0)["encoder"].eval()
    module = encoder if part is Encoder else part(4, 5)
    start = (
        ()
        if part is Encoder
        else (torch.zeros(2, 5) if part is ClippedGRU else torch.zeros(2, 2, 5),)
    )
    counts = np.zeros((2, 6, 4), np.float32)
    inputs = torch.from_numpy(counts)
    counts[0, 0, 0] = 1
    with recurrence.using(name), torch.no_grad():
        module(inputs, *start)
        counts[:] = 0
        counts[1, 5, 3] = 2
        actual, expected = module(inputs, *start)[0], module(inputs.clone(), *start)[0]
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_hooks_are_called():
    decoder = halves(torch.float32, 0)["decoder"]
    calls = []
    decoder.rnn.cell.gen_cell.register_forward_hook(lambda *args: calls.append(args))
    decoder(torch.randn(2, 4), torch.randn(2, 8, 6), torch.zeros(2, 8, 0))
    assert len(calls) == 8
    gru = ClippedGRU(2, 4)
    gru.cell.forward = lambda *args: None
    assert gru._fused(torch.zeros(1, 1, 2), torch.zeros(1, 4)) is None


def test_parametrised_weights():
    gru = ClippedGRU(2, 4)
    nn.utils.parametrizations.weight_norm(gru.cell, "weight_hh")
    assert gru._fused(torch.zeros(1, 1, 2), torch.zeros(1, 4)) is None
    gru(torch.randn(2, 3, 2), torch.zeros(2, 4))[1].sum().backward()
    assert gru.cell.parametrizations.weight_hh.original1.grad.any()


def test_posteriors_that_are_not_declared_are_sampled_bin_by_bin():
    class Own(MultivariateNormal):
        def make_posterior(self, mean, std):
            return Normal(mean + 7, 1e-6)

    decoder = halves(torch.float32, 0)["decoder"]
    inputs = torch.randn(2, 4), torch.randn(2, 8, 6), torch.zeros(2, 8, 0)
    output = decoder(*inputs, Own(0.0, 1.0, 2))
    torch.testing.assert_close(output.gen_inputs, output.co_means + 7, rtol=0, atol=1e-4)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r"inputs must be of shape \(2, 5, 3\)"):
        ClippedGRU(3, 4)(torch.zeros(2, 5, 7), torch.zeros(2, 4))
    cell = DecoderCell(
        ext_input_dim=1, ci_enc_dim=2, con_dim=3, co_dim=2, gen_dim=5, fac_dim=4,
        dropout_rate=0.0, cell_clip=5.0, use_con=True,
    )  # fmt: skip
    shapes = [(6, 8, 4), (6, 7, 1), (6, 5), (6, 3), (6, 4)]
    backend = recurrence.choose(torch.zeros(1))
    with pytest.raises(ValueError, match="ci must be of shape"):
        recurrence.run_decoder(
            backend, cell.fused_weights(), *map(torch.zeros, shapes), recurrence.Draws()
        )


# ------------------------------------------------------------------ linear maps


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def hooked():
    module = nn.Linear(4, 5)
    module.register_forward_hook(lambda module, inputs, output: 2 * output)
    return module


def patched():
    module = nn.Linear(4, 5)
    module.forward = lambda x: 2 * nn.functional.linear(x, module.weight, module.bias)
    return module


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(4, 5), True),
        (FanInLinear(4, 5), True),
        (nn.utils.parametrizations.weight_norm(FanInLinear(4, 5)), True),
        (nn.Linear(4, 5, bias=False), False),
        (nn.Identity(), False),
        (Doubled(4, 5), False),
        (hooked(), False),
        (patched(), False),
    ],
)
def test_other_modules_than_linear_maps_are_called(module, expected):
    assert (linear_weights(module) is not None) == expected
    if expected:
        x = torch.randn(2, 3, 4)
        torch.testing.assert_close(recurrence.linear(x, module.weight, module.bias), module(x))
