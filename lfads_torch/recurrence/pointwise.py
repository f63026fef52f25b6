"""What is done to every element of large tensors, in one pass over them where it is compiled.

Reconstruction, augmentations, dropout and metrics know nothing of the model's choice, so it is set
for the length of a training or validation step by :func:`running`. Outside of that PyTorch runs.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lfads_torch import utils
from lfads_torch.recurrence import compiled
from lfads_torch.recurrence.interface import choose, must_be_differentiable
from lfads_torch.recurrence.memory import empty, pieces

_choice = ContextVar("recurrence", default="torch")


@contextmanager
def running(recurrence: str) -> Iterator[None]:
    """Run what is in this module as the model's ``recurrence`` says."""
    token = _choice.set(recurrence)
    try:
        yield
    finally:
        _choice.reset(token)


def _is_compiled(*tensors: Tensor) -> bool:
    return choose(_choice.get(), *tensors) is compiled


def masked(x: Tensor, keep: Tensor, scale: float = 1.0) -> Tensor:
    """Return x · keep · scale, as a new tensor whose elements lie in the order of its axes.

    Parameters
    ----------
    x
        (…, …, …).
    keep
        Booleans of the same shape.
    scale
        A number.
    """
    if torch._C._are_functorch_transforms_active():
        return x * keep * scale
    return _Masked.apply(x, keep.view(torch.uint8), scale, _fits(x, keep))  # type: ignore[no-untyped-call, no-any-return]


def _fits(x: Tensor, keep: Tensor) -> bool:
    """Return whether what is compiled can mask x."""
    return x.dim() == 3 and x.shape == keep.shape and _is_compiled(x)


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float, is_compiled: bool) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale, ctx.is_compiled = scale, is_compiled
        return _masked(x, keep, scale, is_compiled)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (keep,) = ctx.saved_tensors
        if must_be_differentiable(grad):
            return grad * keep * ctx.scale, None, None, None
        return _masked(grad, keep, ctx.scale, ctx.is_compiled), None, None, None


def _masked(x: Tensor, keep: Tensor, scale: float, is_compiled: bool) -> Tensor:
    if is_compiled:
        return compiled.masked(x, keep, scale)
    result = empty(x.shape, x)
    for out, part, mask in pieces(result, x, keep):
        # Bytes become numbers faster than booleans, and a product is faster than a choice.
        out.copy_(mask).mul_(part)
        if scale != 1:
            out.mul_(scale)
    return result


def pass_gradients(x: Tensor, keep: Tensor) -> Tensor:
    """Return x as it is, but with gradients only where the booleans ``keep`` say so."""
    if torch._C._are_functorch_transforms_active():
        return torch.where(keep, x, x.detach())
    return _PassGradients.apply(x, keep.view(torch.uint8), _fits(x, keep))  # type: ignore[no-untyped-call, no-any-return]


class _PassGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, is_compiled: bool) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.is_compiled = is_compiled
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (keep,) = ctx.saved_tensors
        if must_be_differentiable(grad):
            return grad * keep, None, None
        return _masked(grad, keep, 1.0, ctx.is_compiled), None, None


def poisson_losses(log_rates: Tensor, counts: Tensor, stirling: bool) -> Tensor:
    """Return the negative log-likelihood of counts k (B, …) with log rates x: exp(x) - k x.

    ``stirling`` adds Stirling's formula for log k! where k > 1, as
    :func:`torch.nn.functional.poisson_nll_loss` with ``full=True``.

    Raises
    ------
    ValueError
        If there are not as many log rates as counts.
    """
    _check_shapes(log_rates, counts)
    is_compiled = _is_compiled(log_rates, counts)
    return _PoissonLosses.apply(log_rates, counts, stirling, is_compiled)  # type: ignore[no-untyped-call, no-any-return]


def _check_shapes(log_rates: Tensor, counts: Tensor) -> None:
    if log_rates.shape != counts.shape:
        raise ValueError(
            f"There are log rates of shape {tuple(log_rates.shape)} for counts of shape "
            f"{tuple(counts.shape)} (trials, bins, channels): make model.recon_seq_len and "
            f"model.readout fit recon_data."
        )


class _PoissonLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, log_rates: Tensor, counts: Tensor, stirling: bool, is_compiled: bool
    ) -> Tensor:
        ctx.save_for_backward(log_rates, counts)
        ctx.is_compiled = is_compiled
        if is_compiled:
            return compiled.poisson_losses(log_rates, counts, stirling)
        losses = empty(counts.shape, counts)
        for out, x, k in pieces(losses, log_rates, counts):
            torch.exp(x, out=out).addcmul_(k, x, value=-1)
        return _add_log_factorial_(losses, counts) if stirling else losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        log_rates, counts = ctx.saved_tensors
        if must_be_differentiable(grad):
            return (torch.exp(log_rates) - counts) * grad, None, None, None
        if ctx.is_compiled:
            return compiled.poisson_gradient(log_rates, counts, grad), None, None, None
        grad_input = empty(counts.shape, counts)
        for out, x, k, outer in pieces(grad_input, log_rates, counts, grad):
            torch.exp(x, out=out).sub_(k).mul_(outer)
        return grad_input, None, None, None


def _add_log_factorial_(losses: Tensor, counts: Tensor) -> Tensor:
    """Add Stirling's log k! where k > 1, which in spikes of short bins is nearly nowhere."""
    if not utils.on_cpu(counts):  # looking for these would take longer than computing all
        return losses.add_(torch.where(counts > 1, _stirling(counts), 0.0))
    # NumPy finds them in a third of PyTorch's time.
    large = torch.from_numpy(np.flatnonzero(counts.numpy() > 1))
    return losses.put_(large, _stirling(counts.take(large)), accumulate=True)


def _stirling(k: Tensor) -> Tensor:
    return k * torch.log(k) - k + 0.5 * torch.log(2 * math.pi * k)


def poisson_sums(log_rates: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums over trials of counts k (B, …) and of exp(x) - k x, with log rates x.

    They are NaN where a trial's count is.

    Raises
    ------
    ValueError
        If there are not as many log rates as counts.
    """
    _check_shapes(log_rates, counts)
    if log_rates.requires_grad and torch.is_grad_enabled():
        losses = torch.exp(log_rates).addcmul(log_rates, counts, value=-1)
    elif _is_compiled(log_rates, counts):
        return compiled.poisson_sums(log_rates, counts)
    else:
        losses = empty(counts.shape, counts)
        for out, x, k in pieces(losses, log_rates, counts):
            torch.exp(x, out=out).addcmul_(x, k, value=-1)
    return counts.sum(dim=0), losses.sum(dim=0)
