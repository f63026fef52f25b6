"""Generators follow their equations, and have the documented initial weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from lfads_torch.errors import UserError
from lfads_torch.modules.decoder import Decoder
from lfads_torch.modules.generators import LowRankGenerator, VanillaRNNGenerator
from tests.modules.reference import arrays, randomize_

SETTINGS = settings(max_examples=25, deadline=None, derandomize=True)
SHAPES = {
    "trials": st.integers(1, 3),
    "inputs": st.integers(0, 4),
    "units": st.integers(2, 5),
    "seed": st.integers(0, 100),
}


def vanilla_step(params, u, h):
    drive = [w @ u for w in params["weight_ih"]]
    return np.tanh(drive + params["weight_hh"] @ h + params["bias"])


def low_rank_step(params, u, x, alpha):
    """Take an Euler step as in the paper, with a rank-one term for every column of M and N."""
    n_units = len(x)
    current = np.zeros(n_units)
    for m, n in zip(params["m"].T, params["n"].T, strict=True):
        current += m * (n @ np.tanh(x)) / n_units
    velocity = -x + current + params["weight_ih"] @ u + params["bias"]
    return x + alpha * velocity


def trial_by_trial(step, params, inputs, states, *more):
    trials = zip(inputs, states, strict=True)
    return np.stack([step(params, u, state, *more) for u, state in trials])


@SETTINGS
@given(**SHAPES)
def test_vanilla_follows_its_equation(trials, inputs, units, seed):
    cell = randomize_(VanillaRNNGenerator(inputs, units), seed)
    rng = np.random.default_rng(seed)
    u, h = rng.normal(size=(trials, inputs)), rng.normal(size=(trials, units))
    state = cell(torch.tensor(u), torch.tensor(h)).detach()
    expected = trial_by_trial(vanilla_step, arrays(cell), u, h)
    np.testing.assert_allclose(state, expected, rtol=1e-12, atol=1e-14)
    assert cell.output(state) is state


@SETTINGS
@given(**SHAPES, rank=st.integers(1, 2), alpha=st.sampled_from([0.01, 0.2, 1.0]))
def test_low_rank_follows_its_equation(trials, inputs, units, seed, rank, alpha):
    cell = randomize_(LowRankGenerator(inputs, units, rank, alpha), seed)
    rng = np.random.default_rng(seed)
    u, x = rng.normal(size=(trials, inputs)), rng.normal(size=(trials, units))
    state = cell(torch.tensor(u), torch.tensor(x)).detach()
    expected = trial_by_trial(low_rank_step, arrays(cell), u, x, alpha)
    np.testing.assert_allclose(state, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(cell.output(state), np.tanh(expected), rtol=1e-12)


@pytest.mark.parametrize("rank", [1, 2])
def test_the_autonomous_low_rank_state_moves_only_in_the_span_of_m(rank):
    cell = randomize_(LowRankGenerator(0, 6, rank, alpha=0.3))
    with torch.no_grad():
        cell.bias.zero_()
    basis = np.linalg.qr(cell.m.detach().numpy())[0]
    outside = np.eye(6) - basis @ basis.T
    start = torch.tensor(np.random.default_rng(0).normal(size=(4, 6)))
    state = start
    for _ in range(10):
        state = cell(torch.zeros(4, 0, dtype=torch.float64), state).detach()
    state, start = state.numpy(), start.numpy()
    np.testing.assert_allclose(state @ outside, 0.7**10 * (start @ outside), atol=1e-12)
    inside = np.abs(state @ basis - 0.7**10 * (start @ basis))
    assert inside.min() > 1e-3, "the recurrence does nothing"


def test_initial_values():
    torch.manual_seed(0)
    vanilla = VanillaRNNGenerator(300, 200)
    low_rank = LowRankGenerator(300, 4000, rank=5)
    for weight, shape, std in [
        (vanilla.weight_ih, (200, 300), 300**-0.5),
        (vanilla.weight_hh, (200, 200), 200**-0.5),
        (low_rank.weight_ih, (4000, 300), 300**-0.5),
        (low_rank.m, (4000, 5), 1.0),
        (low_rank.n, (4000, 5), 1.0),
    ]:
        assert weight.shape == shape
        assert weight.std().item() == pytest.approx(std, rel=0.02)
        assert abs(weight.mean().item()) < 5 * std / weight.numel() ** 0.5
        kurtosis = (weight**4).mean() / (weight**2).mean() ** 2
        assert kurtosis.item() == pytest.approx(3, abs=0.15)  # Normal; a uniform has 1.8.
    assert not vanilla.bias.any()
    assert not low_rank.bias.any()
    assert all(p.requires_grad for cell in (vanilla, low_rank) for p in cell.parameters())


@pytest.mark.parametrize("cell", [VanillaRNNGenerator(2, 3), LowRankGenerator(2, 3, rank=2)])
def test_gradients(cell):
    randomize_(cell, scale=0.5)
    values = {name: p.detach().clone().requires_grad_() for name, p in cell.named_parameters()}

    def run(inputs, state, *parameters):
        named = dict(zip(values, parameters, strict=True))
        return cell.output(functional_call(cell, named, (inputs, state)))

    generator = torch.manual_seed(0)
    tensors = (torch.randn(2, n, dtype=torch.float64, generator=generator) for n in (2, 3))
    assert torch.autograd.gradcheck(run, (*(x.requires_grad_() for x in tensors), *values.values()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, r"generator\.rank must be between 1 .*gen_dim = 4\), but is 0"),
        ({"rank": 5}, r"generator\.rank .*but is 5"),
        ({"alpha": 0.0}, r"generator\.alpha must be above 0 and at most 1, but is 0\.0"),
        ({"alpha": 1.1}, r"generator\.alpha .*but is 1\.1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        LowRankGenerator(2, 4, **{"rank": 2, **arguments})


@pytest.mark.parametrize("alpha", [1e-6, 1.0])
def test_the_ends_of_the_allowed_ranges(alpha):
    assert LowRankGenerator(0, 4, rank=4, alpha=alpha)(torch.zeros(1, 0), torch.ones(1, 4)).any()


def test_penalised_weights():
    vanilla, low_rank = VanillaRNNGenerator(2, 3), LowRankGenerator(2, 3, rank=2)
    assert [id(w) for w in vanilla.recurrent_weights()] == [id(vanilla.weight_hh)]
    assert [id(w) for w in low_rank.recurrent_weights()] == [id(low_rank.m), id(low_rank.n)]


@pytest.mark.parametrize("use_con", [True, False])
@pytest.mark.parametrize("ext_input_dim", [0, 2])
@pytest.mark.parametrize("generator", [VanillaRNNGenerator, LowRankGenerator])
def test_in_a_decoder(generator, ext_input_dim, use_con):
    """The decoder advances the generator, and reads the factors from its output."""
    decoder = Decoder(
        ext_input_dim=ext_input_dim, ic_dim=3, ci_enc_dim=2, con_dim=4, co_dim=2, gen_dim=5,
        fac_dim=3, dropout_rate=0.0, cell_clip=5.0, use_con=use_con, generator=generator,
    )  # fmt: skip
    randomize_(decoder)
    cell = decoder.rnn.cell
    assert type(cell.gen_cell) is generator
    assert cell.gen_cell.input_size == (2 if use_con else 0) + ext_input_dim
    rng = np.random.default_rng(0)
    shapes = (2, 3), (2, 4, 4 if use_con else 0), (2, 4, ext_input_dim)
    ic, ci, ext = (torch.tensor(rng.normal(size=shape)) for shape in shapes)
    with torch.no_grad():
        out = decoder(ic, ci, ext)
    state = start = out.gen_init.numpy()
    params = arrays(cell.gen_cell)
    step = vanilla_step if generator is VanillaRNNGenerator else low_rank_step
    more = () if generator is VanillaRNNGenerator else (cell.gen_cell.alpha,)
    fac = cell.fac_linear.normalized_weight().detach().numpy()
    for t in range(4):
        gen_input = out.gen_inputs[:, t].numpy()
        state = trial_by_trial(step, params, gen_input, state, *more)
        np.testing.assert_allclose(out.gen_states[:, t], state, rtol=1e-11, atol=1e-13)
        read = state if generator is VanillaRNNGenerator else np.tanh(state)
        np.testing.assert_allclose(out.factors[:, t], read @ fac.T, rtol=1e-11, atol=1e-13)
    assert not np.allclose(start, state)
