"""Dropout and lag of whole sequences compute what is documented, with gradients of any order."""

import pytest
import torch
import torch.nn.functional as F

from lfads_torch import recurrence
from lfads_torch.modules.dropout import Dropout


def bin_by_bin(forward, backward, lag, before, after):
    n_trials, n_bins, size = forward.shape
    rows = []
    for t in range(-before, n_bins + after):
        halves = []
        for states, source in ((forward, t - lag), (backward, t + lag)):
            seen = 0 <= t < n_bins and 0 <= source < n_bins
            halves.append(states[:, source] if seen else states.new_zeros(n_trials, size))
        rows.append(torch.cat(halves, dim=1))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("lag", [0, 1, 3, 4, 5, 9, -2])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 0), (0, 3), (1, 2)])
def test_lagged(lag, before, after):
    torch.manual_seed(0)
    states = [torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    results = []
    for function in (bin_by_bin, recurrence.lagged):
        ci = function(*states, lag, before, after)
        weights = torch.randn(ci.shape, generator=torch.Generator().manual_seed(0)).double()
        total = (ci * weights).sum() + 0 * (states[0] + states[1]).sum()
        grads = torch.autograd.grad(total, states)
        results.append((ci, *grads))
    for expected, actual in zip(*results, strict=True):
        assert torch.equal(actual, expected)
    assert ci.transpose(0, 1).is_contiguous()


def test_lagged_has_derivatives_of_any_order():
    states = [torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def run(*states):
        return recurrence.lagged(*states, 1, 1, 2)

    assert torch.autograd.gradcheck(run, states)
    assert torch.autograd.gradgradcheck(run, states)
    by_transform = torch.func.vmap(lambda x, y: run(x[None], y[None])[0])(*states)
    torch.testing.assert_close(by_transform, run(*states))


@pytest.mark.parametrize("contiguous", [True, False])
def test_dropout_of_sequences(contiguous):
    torch.manual_seed(0)
    dropout = Dropout(0.3)
    x = torch.rand(40, 50, 7, dtype=torch.float64) + 1
    x = (x if contiguous else x.transpose(0, 1)).requires_grad_()
    y = dropout(x)
    kept = y != 0
    assert y.transpose(0, 1).is_contiguous()
    assert kept.double().mean().item() == pytest.approx(0.7, abs=0.02)
    torch.testing.assert_close(y, x * kept / 0.7, rtol=1e-14, atol=0)
    weights = torch.randn_like(x)
    (grad,) = torch.autograd.grad((y * weights).sum(), x)
    torch.testing.assert_close(grad, weights * kept / 0.7, rtol=1e-14, atol=0)
    other = dropout(x) != 0
    assert (kept != other).double().mean().item() == pytest.approx(0.42, abs=0.02)
    dropout.eval()
    assert dropout(x) is x


def test_dropout_of_sequences_has_derivatives_of_any_order():
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)

    def run(x):
        torch.manual_seed(3)
        return Dropout(0.5)(x).square()

    assert torch.autograd.gradcheck(run, x)
    assert torch.autograd.gradgradcheck(run, x)
    by_transform = torch.func.grad(lambda x: run(x).sum())(x)  # of (2 x)², or of 0
    assert set((by_transform / x).round(decimals=9).unique().tolist()) == {0.0, 8.0}


def test_dropout_of_vectors_is_that_of_pytorch_in_the_mean():
    torch.manual_seed(0)
    y = Dropout(0.25)(torch.ones(400, 300))
    assert set(y.unique().tolist()) == {0.0, F.dropout(torch.ones(99), 0.25).max().item()}
    assert y.mean().item() == pytest.approx(1, abs=0.01)
