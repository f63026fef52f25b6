"""Ramps, and sums of the terms of the loss, follow their formulas."""

import pytest
import torch

from lfads_torch.losses import LossTerms, ramp, reduce_recon


@pytest.mark.parametrize(
    ("epoch", "start", "increase", "expected"),
    [
        (0, 0, 80, 1 / 81),
        (39, 0, 80, 40 / 81),
        (79, 0, 80, 80 / 81),
        (80, 0, 80, 1),
        (1000, 0, 80, 1),
        # With a later start, the ramp is 0 in the epochs before it.
        (0, 5, 10, 0),
        (4, 5, 10, 0),
        (5, 5, 10, 1 / 11),
        (10, 5, 10, 6 / 11),
        (15, 5, 10, 1),
        (16, 5, 10, 1),
        # Without a ramp, the penalty applies fully from the first epoch or from a later one.
        (0, 0, 0, 1),
        (4, 5, 0, 0),
        (5, 5, 0, 1),
    ],
)
def test_ramp(epoch, start, increase, expected):
    assert ramp(epoch, start, increase) == pytest.approx(expected)


def test_reduce_recon():
    losses = torch.rand(3, 4, 5)
    torch.testing.assert_close(reduce_recon(losses, mean=True), losses.sum() / 60)
    torch.testing.assert_close(reduce_recon(losses, mean=False), losses.sum() / 3)


def terms(**changes):
    values = {
        "recon_sessions": {0: torch.tensor(1.0), 3: torch.tensor(2.0)},
        "l2": torch.tensor(10.0),
        "kl_ic": torch.tensor(100.0),
        "kl_co": torch.tensor(1000.0),
        "l2_ramp": 0.5,
        "kl_ramp": 0.1,
        "loss_scale": 2.0,
    }
    return LossTerms(**values | changes)


def test_total():
    assert terms().total.item() == pytest.approx(2 * (1.5 + 0.5 * 10 + 0.1 * 1100))
    assert terms(l2_ramp=0.0).total.item() == pytest.approx(2 * (1.5 + 0.1 * 1100))
    assert terms(kl_ramp=0.0).total.item() == pytest.approx(2 * (1.5 + 0.5 * 10))


def test_means_and_sums_of_terms():
    assert terms().recon.item() == pytest.approx(1.5)
    assert terms().kl.item() == pytest.approx(1100)


def test_gradient_of_the_total():
    leaves = [torch.tensor(1.0, requires_grad=True) for _ in range(5)]
    first, second, l2, kl_ic, kl_co = leaves
    total = terms(recon_sessions={0: first, 1: second}, l2=l2, kl_ic=kl_ic, kl_co=kl_co).total
    gradients = torch.autograd.grad(total, leaves)
    torch.testing.assert_close(torch.stack(gradients), torch.tensor([1.0, 1.0, 1.0, 0.2, 0.2]))
