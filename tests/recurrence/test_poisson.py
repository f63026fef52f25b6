"""Poisson losses equal PyTorch's, with gradients of any order."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lfads_torch import recurrence
from tests.recurrence.common import SETTINGS, TOLERANCES, assert_close, cases, dtypes

shapes = st.tuples(st.integers(0, 40), st.integers(1, 5), st.sampled_from([0, 1, 7, 130]))


def counts_of(kind, shape, generator, dtype):
    rates = {"spikes": 0.1, "many": 30.0, "very many": 300.0, "fractions": 2.0}[kind]
    counts = torch.poisson(torch.full(shape, rates, dtype=dtype), generator=generator)
    return counts * 0.77 if kind == "fractions" else counts


@cases
@pytest.mark.parametrize("kind", ["spikes", "many", "very many", "fractions"])
@pytest.mark.parametrize("stirling", [False, True])
@SETTINGS
@given(dtype=dtypes, shape=shapes, seed=st.integers(0, 100))
def test_poisson_losses(case, kind, stirling, dtype, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    counts = counts_of(kind, shape, generator, dtype)
    log_rates = torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
    weights = torch.randn(shape, generator=generator, dtype=dtype)
    counts, log_rates, weights = case.to(counts, log_rates, weights)
    expected = F.poisson_nll_loss(log_rates, counts, full=stirling, reduction="none")
    with recurrence.using(case.name):
        losses = recurrence.poisson_losses(log_rates, counts, stirling)
        sums = recurrence.poisson_sums(log_rates.detach(), counts)
    assert_close(losses, expected, dtype)
    same = weights[:1, :1, :1].expand(shape) if weights.numel() else weights
    for grad in (weights, same):
        grads = [torch.autograd.grad(x, log_rates, grad, True) for x in (losses, expected)]
        assert_close(grads[0][0], grads[1][0], dtype)
    without = F.poisson_nll_loss(log_rates, counts, reduction="none").detach()
    assert_close(sums[0], counts.sum(dim=0), dtype)
    assert_close(sums[1], without.sum(dim=0), dtype)


@cases
@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_poisson_losses_of_extreme_and_missing_values(case, dtype):
    log_rates = torch.tensor([-200.0, -87.5, -30.0, 0.0, 20.0, 87.0, torch.nan, 1.0], dtype=dtype)
    counts = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 2.0, 1.0, torch.nan], dtype=dtype)
    log_rates, counts = case.to(log_rates[:, None, None], counts[:, None, None])
    with recurrence.using(case.name):
        losses = recurrence.poisson_losses(log_rates, counts, True)
        missing = recurrence.poisson_sums(log_rates, counts)
        too_large = recurrence.poisson_losses(
            log_rates.new_full((1, 1, 1), 800.0), counts[:1], True
        )
    expected = F.poisson_nll_loss(log_rates, counts, full=True, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-30, equal_nan=True)
    assert all(x.isnan().all() for x in missing)
    assert too_large.item() == torch.inf


@cases
def test_poisson_losses_have_second_derivatives(case):
    log_rates = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    log_rates, counts = case.to(log_rates, torch.poisson(torch.ones(3, 2, 4, dtype=torch.float64)))

    def run(x):
        with recurrence.using(case.name):
            return recurrence.poisson_losses(x, counts, True)

    assert torch.autograd.gradcheck(run, log_rates)
    assert torch.autograd.gradgradcheck(run, log_rates)
    with recurrence.using(case.name):
        total = recurrence.poisson_sums(log_rates, counts)[1].sum()
    (grad,) = torch.autograd.grad(total, log_rates)
    torch.testing.assert_close(grad, log_rates.exp() - counts)


@cases
def test_batched_gradients(case):
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    (x,) = case.to(x)
    grads = torch.randn(5, 3, 2, 4, dtype=torch.float64, device=case.device)
    with recurrence.using(case.name):
        losses = recurrence.poisson_losses(x, x.detach().abs(), True)
    (batched,) = torch.autograd.grad(losses, x, grads, True, is_grads_batched=True)
    for grad, one in zip(batched, grads, strict=True):
        torch.testing.assert_close(grad, torch.autograd.grad(losses, x, one, True)[0])


@cases
def test_shapes_that_differ(case):
    """No memory outside of the tensors is read."""
    (x,) = case.to(torch.ones(2, 3, 4, requires_grad=True))
    with recurrence.using(case.name):
        for shape in [(2, 3, 5), (2, 4, 4), (2, 3)]:
            counts = torch.ones(shape, device=case.device)
            with pytest.raises(ValueError, match=r"shape \(2, 3, 4\) for counts of shape \(2,"):
                recurrence.poisson_losses(x, counts, True)
            with pytest.raises(ValueError, match="for counts of shape"):
                recurrence.poisson_sums(x.detach(), counts)
