"""Recurrent cells follow their equations, over time and in both directions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from lfads_torch.modules.recurrent import BidirectionalClippedGRU, ClippedGRU, ClippedGRUCell
from tests.modules.reference import arrays, gru_step, randomize_

SETTINGS = settings(max_examples=25, deadline=None, derandomize=True)


@SETTINGS
@given(
    trials=st.integers(1, 3),
    inputs=st.integers(0, 4),
    units=st.integers(1, 5),
    clip=st.sampled_from([0.1, 0.5, 5.0, np.inf]),
    seed=st.integers(0, 100),
)
def test_cell_follows_the_equations(trials, inputs, units, clip, seed):
    cell = randomize_(ClippedGRUCell(inputs, units, clip), seed)
    rng = np.random.default_rng(seed)
    x, h = rng.normal(size=(trials, inputs)), rng.normal(size=(trials, units))
    new = cell(torch.tensor(x), torch.tensor(h)).detach().numpy()
    params = arrays(cell)
    expected = [gru_step(params, *xh, clip) for xh in zip(x, h, strict=True)]
    np.testing.assert_allclose(new, np.stack(expected), rtol=1e-12, atol=1e-14)


def remembering_cell(units, *clip_value):
    """Make a cell that keeps its old state, because z = 1."""
    cell = ClippedGRUCell(1, units, *clip_value)
    with torch.no_grad():
        cell.weight_hh.zero_()
        cell.bias_ih[:units] = 50.0
    return cell


def test_states_are_clipped_at_both_ends_and_not_before():
    cell = remembering_cell(2, 0.3)
    state = cell(torch.zeros(3, 1), torch.tensor([[-7.0, 7.0], [-0.31, 0.31], [-0.29, 0.29]]))
    expected = torch.tensor([[-0.3, 0.3], [-0.3, 0.3], [-0.29, 0.29]])
    torch.testing.assert_close(state, expected)


def test_without_clip_value_states_are_not_clipped():
    cell = remembering_cell(1)
    assert cell(torch.zeros(1, 1), torch.full((1, 1), 1e4)).item() == pytest.approx(1e4)


def test_second_bias_is_zero_not_trained_but_loaded_and_applied():
    cell = ClippedGRUCell(2, 3)
    assert not cell.bias_hh.any()
    assert {n for n, p in cell.named_parameters() if p.requires_grad} == {
        "weight_ih",
        "weight_hh",
        "bias_ih",
    }
    other = ClippedGRUCell(2, 3)
    state = cell.state_dict() | {"bias_hh": torch.linspace(-1, 1, 9)}
    other.load_state_dict(state, strict=True)
    torch.testing.assert_close(other.bias_hh.detach(), torch.linspace(-1, 1, 9))
    assert not other.bias_hh.requires_grad
    x, h = torch.randn(4, 2), torch.randn(4, 3)
    assert not torch.allclose(cell(x, h), other(x, h))


@pytest.mark.parametrize(("is_encoder", "k_ih", "k_hh"), [(True, 500, 500), (False, 300, 200)])
def test_initial_values(is_encoder, k_ih, k_hh):
    torch.manual_seed(0)
    cell = ClippedGRUCell(300, 200, is_encoder=is_encoder)
    assert (cell.weight_ih.shape, cell.weight_hh.shape) == ((600, 300), (600, 200))
    for weight, k in [(cell.weight_ih, k_ih), (cell.weight_hh, k_hh)]:
        for gate in weight.detach().chunk(3):
            assert gate.std().item() == pytest.approx(k**-0.5, rel=0.02)
            assert abs(gate.mean().item()) < 5 * k**-0.5 / gate.numel() ** 0.5
            kurtosis = (gate**4).mean() / (gate**2).mean() ** 2
            assert kurtosis.item() == pytest.approx(3, abs=0.15)  # Normal; a uniform has 1.8.
    expected = torch.cat([torch.ones(400), torch.zeros(200)])
    torch.testing.assert_close(cell.bias_ih.detach(), expected)
    assert not cell.bias_hh.any()


def test_the_gru_over_time_is_an_encoder_cell():
    torch.manual_seed(0)
    for gru in (BidirectionalClippedGRU(300, 200).bwd_gru, ClippedGRU(300, 200)):
        assert gru.cell.weight_ih.std().item() == pytest.approx(500**-0.5, rel=0.02)
        assert gru.cell.weight_hh.std().item() == pytest.approx(500**-0.5, rel=0.02)


@pytest.mark.parametrize("is_encoder", [True, False])
def test_no_inputs(is_encoder):
    cell = ClippedGRUCell(0, 200, is_encoder=is_encoder)
    assert cell.weight_ih.shape == (600, 0)
    assert cell.weight_hh.std().item() == pytest.approx(200**-0.5, rel=0.02)
    assert cell(torch.zeros(2, 0), torch.zeros(2, 200)).shape == (2, 200)


@SETTINGS
@given(
    trials=st.integers(1, 3),
    bins=st.integers(1, 5),
    clip=st.sampled_from([0.3, 5.0]),
    seed=st.integers(0, 100),
)
def test_over_time_and_in_both_directions_equals_step_by_step(trials, bins, clip, seed):
    gru = randomize_(BidirectionalClippedGRU(2, 3, clip), seed)
    rng = np.random.default_rng(seed)
    x, h_0 = rng.normal(size=(trials, bins, 2)), rng.normal(size=(2, trials, 3))
    expected = np.zeros((2, trials, bins, 3))
    final = h_0.copy()
    for d, (name, order) in enumerate([("fwd", range(bins)), ("bwd", range(bins)[::-1])]):
        params = arrays(gru, f"{name}_gru.cell.")
        for b in range(trials):
            for t in order:
                final[d, b] = expected[d, b, t] = gru_step(params, x[b, t], final[d, b], clip)
    with torch.no_grad():
        states, finals = gru(torch.tensor(x), torch.tensor(h_0))
        fwd_states, fwd_final = gru.fwd_gru(torch.tensor(x), torch.tensor(h_0[0]))
    np.testing.assert_allclose(torch.stack(states), expected, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(torch.stack(finals), final, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(fwd_states, expected[0], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(fwd_final, final[0], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("clip", [5.0, 0.4])
def test_gradients(clip):
    gru = randomize_(BidirectionalClippedGRU(2, 3, clip), scale=0.5)
    params = {n: p.detach().clone().requires_grad_() for n, p in gru.named_parameters()}
    inputs = torch.randn(2, 3, 2, dtype=torch.float64, generator=torch.manual_seed(0))
    h_0 = 0.3 * torch.randn(2, 2, 3, dtype=torch.float64)

    def run(inputs, h_0, *values):
        states, finals = functional_call(gru, dict(zip(params, values, strict=True)), (inputs, h_0))
        return *states, *finals

    tensors = (inputs.requires_grad_(), h_0.requires_grad_(), *params.values())
    assert torch.autograd.gradcheck(run, tensors)


def test_penalised_weights_are_both_recurrent_matrices():
    gru = BidirectionalClippedGRU(2, 3)
    fwd, bwd = gru.recurrent_weights()
    assert fwd is gru.fwd_gru.cell.weight_hh
    assert bwd is gru.bwd_gru.cell.weight_hh
