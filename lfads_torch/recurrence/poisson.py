"""The Poisson likelihood of spike counts: losses of samples, and sums over trials."""

from typing import Any

import torch
from torch import Tensor

from lfads_torch.errors import UserError
from lfads_torch.recurrence.autograd import must_be_differentiable
from lfads_torch.recurrence.backend import Backend
from lfads_torch.recurrence.choice import choose_or_pytorch


def poisson_losses(log_rates: Tensor, counts: Tensor, stirling: bool) -> Tensor:
    """Return the negative log-likelihood of counts k (B, …) with log rates x: exp(x) - k x.

    ``stirling`` adds Stirling's formula for log k! where k > 1, as
    :func:`torch.nn.functional.poisson_nll_loss` with ``full=True``.

    Raises
    ------
    ValueError
        If log rates and counts have different shapes.
    """
    _check_shapes(log_rates, counts)
    backend = choose_or_pytorch(log_rates, counts)
    return _PoissonLosses.apply(backend, log_rates, counts, stirling)  # type: ignore[no-untyped-call, no-any-return]


def poisson_sums(log_rates: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums over trials of counts k (B, …) and of exp(x) - k x, with log rates x.

    A sum is NaN where the count of any trial is NaN.

    Raises
    ------
    ValueError
        If log rates and counts have different shapes.
    """
    _check_shapes(log_rates, counts)
    if log_rates.requires_grad and torch.is_grad_enabled():
        losses = torch.exp(log_rates).addcmul(log_rates, counts, value=-1)
        return counts.sum(dim=0), losses.sum(dim=0)
    return choose_or_pytorch(log_rates, counts).poisson_sums(log_rates, counts)


def _check_shapes(log_rates: Tensor, counts: Tensor) -> None:
    """Raise a ValueError if log rates and counts have different shapes."""
    if log_rates.shape != counts.shape:
        raise UserError(
            f"There are log rates of shape {tuple(log_rates.shape)} for counts of shape "
            f"{tuple(counts.shape)} (trials, bins, channels): make model.recon_seq_len and "
            f"model.readout fit recon_data."
        )


class _PoissonLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, backend: Backend, log_rates: Tensor, counts: Tensor, stirling: bool
    ) -> Tensor:
        ctx.save_for_backward(log_rates, counts)
        ctx.backend = backend
        return backend.poisson_losses(log_rates, counts, stirling)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:  # type: ignore[override]
        log_rates, counts = ctx.saved_tensors
        if must_be_differentiable(grad):
            return None, (torch.exp(log_rates) - counts) * grad, None, None
        return None, ctx.backend.poisson_gradient(log_rates, counts, grad), None, None
