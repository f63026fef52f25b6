"""A gated recurrent unit over time has the outputs and gradients of its equations."""

import contextlib
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lfads_torch import recurrence
from lfads_torch.recurrence import GRUWeights, unit
from tests.recurrence.common import (
    SETTINGS,
    Case,
    assert_close,
    cases,
    dtypes,
    gradients,
    gru_by_steps,
    gru_weights,
    leaves,
    normal,
    placed,
    some_weights,
)

SCALES = {torch.float64: 0.7, torch.float32: 0.4}
blocks = st.sampled_from([1, 2000, 1 << 22])
"""Bytes of the gates of a block, such that blocks have one bin, a few bins or all bins."""


@contextlib.contextmanager
def blocks_of(n_bytes):
    with mock.patch.object(unit, "BLOCK_BYTES", n_bytes):
        yield


@cases
@SETTINGS
@given(
    dtype=dtypes,
    trials=st.integers(1, 19),
    bins=st.integers(1, 7),
    inputs=st.sampled_from([0, 1, 5, 33]),
    units=st.sampled_from([1, 3, 8, 17, 33]),
    clip=st.sampled_from([0.3, 0.999, 1.0, 5.0, float("inf")]),
    sparse=st.booleans(),
    reverse=st.booleans(),
    needs_inputs=st.booleans(),
    used=st.sampled_from([(True, True), (True, False), (False, True)]),
    block=blocks,
    seed=st.integers(0, 100),
)
def test_recurrent_unit(
    case, dtype, trials, bins, inputs, units, clip, sparse, reverse, needs_inputs, used, block, seed
):
    generator = torch.Generator().manual_seed(seed)
    weights = gru_weights(generator, inputs, units, clip, dtype, SCALES[dtype])
    x = torch.randn(trials, bins, inputs, generator=generator, dtype=dtype)
    if sparse:
        x = x * (torch.rand(x.shape, generator=generator) < 0.1)
    x.requires_grad_(needs_inputs)
    h_0 = normal(generator, (trials, units), dtype)
    expected = gru_by_steps(weights, x, h_0, reverse)
    by = some_weights(expected, used, generator)
    expected += gradients(expected, by, [x, h_0, *leaves(weights)])
    weights = placed(case, weights)
    x, h_0 = case.to(x, h_0)
    with blocks_of(block):
        actual = tuple(recurrence.run_gru(case.backend, weights, x, h_0, reverse))
        with torch.no_grad():
            again = recurrence.run_gru(case.backend, weights, x, h_0, reverse)
        for recorded, not_recorded in zip(actual, again, strict=True):
            assert_close(not_recorded, recorded, dtype)
        actual += gradients(actual, by, [x, h_0, *leaves(weights)])
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, dtype)


@cases
@pytest.mark.parametrize("clip", [5.0, 0.4])
@pytest.mark.parametrize("reverse", [False, True])
def test_recurrent_unit_gradcheck(case, clip, reverse):
    generator = torch.Generator().manual_seed(0)
    weights = placed(case, gru_weights(generator, 3, 4, clip))
    x, h_0 = case.to(normal(generator, (3, 4, 3)), normal(generator, (3, 4), scale=0.3))

    def run(x, h_0, *tensors):
        return tuple(recurrence.run_gru(case.backend, GRUWeights(*tensors, clip), x, h_0, reverse))

    assert torch.autograd.gradcheck(run, (x, h_0, *weights[:3]))


@cases
def test_a_gradient_passes_at_exactly_the_clip_and_not_beyond(case):
    """With z = 1 the state does not change, so that it stays at, within or beyond the clip."""
    bias = torch.cat([torch.full((4,), 200.0), torch.zeros(8)])
    weights = placed(case, GRUWeights(torch.ones(12, 1), torch.zeros(12, 4), bias, 0.5))
    (h_0,) = case.to(torch.tensor([[0.5, -0.5, 0.75, 0.25]], requires_grad=True))
    x = torch.zeros(1, 3, 1, device=case.device)
    expected = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    for final in (
        gru_by_steps(weights, x, h_0)[1],
        recurrence.run_gru(case.backend, weights, x, h_0).final,
    ):
        (grad,) = torch.autograd.grad(final.sum(), h_0)
        torch.testing.assert_close(grad.cpu(), expected)


def test_half_precision_keeps_small_candidates():
    n = torch.tensor([1e-3, -2e-3, 3e-3, 0.5])
    bias = torch.cat([torch.full((4,), -30.0), torch.zeros(4), n])
    tensors = torch.zeros(12, 1), torch.zeros(12, 4), bias
    weights = GRUWeights(*(x.bfloat16() for x in tensors), float("inf"))
    x, h_0 = torch.zeros(1, 1, 1).bfloat16(), torch.zeros(1, 4).bfloat16()
    backend = recurrence.choose(x, h_0)
    assert backend.name == "torch"
    states, _ = recurrence.run_gru(backend, weights, x, h_0)
    torch.testing.assert_close(states[0, 0].float(), n.tanh(), rtol=0.01, atol=0)


@cases
def test_results_are_not_overwritten(case):
    """This includes large results, whose memory may be used again."""
    generator = torch.Generator().manual_seed(0)
    weights = placed(case, gru_weights(generator, 20, 64, dtype=torch.float32))
    (x,) = case.to(torch.randn(64, 40, 20, generator=generator))
    h_0 = torch.zeros(64, 64, device=case.device)

    def run(x):
        return recurrence.run_gru(case.backend, weights, x, h_0).states

    with torch.no_grad():
        reference = run(x).clone()
        kept = [run(x) for _ in range(4)]
        run(-x)
    assert len({states.data_ptr() for states in kept}) == 4
    assert all(torch.equal(states, reference) for states in kept)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dense", [True, False])
def test_many_trials_and_threads(threads, dense):
    """Trials are divided among threads, and into parts that fit into a cache."""
    generator = torch.Generator().manual_seed(0)
    weights = gru_weights(generator, 5, 6)
    x = normal(generator, (600, 7, 5)).detach()
    x = x if dense else x * (torch.rand(x.shape, generator=generator) < 0.1)
    h_0 = normal(generator, (600, 6))
    before = torch.get_num_threads()
    results = []
    try:
        for case, n_threads in [(Case("torch"), 1), (Case("compiled"), threads)]:
            torch.set_num_threads(n_threads)
            outputs = tuple(recurrence.run_gru(case.backend, weights, x, h_0))
            by = some_weights(outputs, [True] * 2, torch.Generator().manual_seed(1))
            results.append((*outputs, *gradients(outputs, by, [h_0, *leaves(weights)])))
    finally:
        torch.set_num_threads(before)
    for expected, actual in zip(*results, strict=True):
        assert_close(actual, expected, torch.float64)


@cases
def test_inputs_that_are_changed_in_place_are_read_again(case):
    generator = torch.Generator().manual_seed(0)
    weights = placed(case, gru_weights(generator, 5, 6))
    (x,) = case.to((torch.rand(4, 7, 5, generator=generator) < 0.1).double())
    h_0 = torch.zeros(4, 6, dtype=torch.float64, device=case.device)

    def run():
        return recurrence.run_gru(case.backend, weights, x, h_0).states

    assert_close(run(), gru_by_steps(weights, x, h_0)[0], torch.float64)
    x[:, 2:4] = 1.0
    assert_close(run(), gru_by_steps(weights, x, h_0)[0], torch.float64)
    with torch.inference_mode():
        y = x.clone()
        for _ in range(2):
            states = recurrence.run_gru(case.backend, weights, y, h_0).states
            assert_close(states, gru_by_steps(weights, y, h_0)[0], torch.float64)
            y[:, 1] += 1


@cases
def test_second_derivatives_are_refused_with_a_remedy(case):
    generator = torch.Generator().manual_seed(0)
    weights = placed(case, gru_weights(generator, 2, 4))
    (x,) = case.to(normal(generator, (2, 3, 2)))
    h_0 = torch.zeros(2, 4, dtype=torch.float64, device=case.device)
    final = recurrence.run_gru(case.backend, weights, x, h_0).final
    with pytest.raises(RuntimeError, match="recurrence='plain'"):
        torch.autograd.grad(final.sum(), x, create_graph=True)


@cases
def test_states_changed_in_place_before_the_backward_pass_are_noticed(case):
    generator = torch.Generator().manual_seed(0)
    weights = placed(case, gru_weights(generator, 2, 4))
    (x,) = case.to(normal(generator, (2, 3, 2)))
    h_0 = torch.zeros(2, 4, dtype=torch.float64, device=case.device)
    states, final = recurrence.run_gru(case.backend, weights, x, h_0)
    loss = final.sum() + states.sum()
    with torch.no_grad():
        states.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@cases
def test_wrong_shapes_are_refused(case):
    weights = placed(case, gru_weights(torch.Generator().manual_seed(0), 3, 4, dtype=torch.float32))

    def run(weights, *shapes, dtype=torch.float32):
        x, h_0 = (torch.zeros(shape, device=case.device, dtype=dtype) for shape in shapes)
        return recurrence.run_gru(case.backend, weights, x, h_0)

    right = (2, 5, 3), (2, 4)
    run(weights, *right)
    with pytest.raises(ValueError, match=r"inputs must be of shape \(2, 5, 3\)"):
        run(weights, (2, 5, 7), (2, 4))
    with pytest.raises(ValueError, match=r"h_0 must be of shape \(2, 4\)"):
        run(weights, (2, 5, 3), (1, 4))
    with pytest.raises(ValueError, match=r"weight_ih must be of shape \(12, 3\)"):
        run(weights._replace(weight_ih=weights.weight_ih[:9]), *right)
    with pytest.raises(ValueError, match=r"weight_hh must be of shape \(12, 4\)"):
        run(weights._replace(weight_hh=weights.weight_hh[:11]), *right)
    with pytest.raises(ValueError, match=r"bias must be of shape \(12,\)"):
        run(weights._replace(bias=weights.bias[:11]), *right)
    with pytest.raises(ValueError, match=r"must be torch.float64 on .*, but is torch.float32"):
        run(weights, *right, dtype=torch.float64)
