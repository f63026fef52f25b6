"""What is done to every element of large tensors, in one pass over them where it is compiled.

The reconstruction, the augmentations and the metrics know nothing of the model's choice, so it is
set for the length of a step by :func:`running`. Outside of that PyTorch runs.
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
from lfads_torch.recurrence.interface import choose
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
    return _Masked.apply(x, keep.view(torch.uint8), scale, _is_compiled(x))  # type: ignore[no-untyped-call, no-any-return]


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float, is_compiled: bool) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale, ctx.is_compiled = scale, is_compiled
        if is_compiled:
            return compiled.masked(x, keep, scale)
        result = empty(x.shape, x)
        for out, part, mask in pieces(result, x, keep):
            # Bytes become numbers faster than booleans, and a product is faster than a choice.
            out.copy_(mask).mul_(part)
            if scale != 1:
                out.mul_(scale)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (keep,) = ctx.saved_tensors
        return _Masked.apply(grad, keep, ctx.scale, ctx.is_compiled), None, None, None  # type: ignore[no-untyped-call]


def poisson_losses(log_rates: Tensor, counts: Tensor, stirling: bool) -> Tensor:
    """Return the negative log-likelihood of counts k (B, …) with log rates x: exp(x) - k x.

    ``stirling`` adds Stirling's formula for log k! where k > 1, as
    :func:`torch.nn.functional.poisson_nll_loss` with ``full=True``.
    """
    is_compiled = _is_compiled(log_rates, counts)
    return _PoissonLosses.apply(log_rates, counts, stirling, is_compiled)  # type: ignore[no-untyped-call, no-any-return]


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
        if torch.is_grad_enabled():  # for second derivatives
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
    """
    if log_rates.requires_grad and torch.is_grad_enabled():
        losses = torch.exp(log_rates).addcmul(log_rates, counts, value=-1)
    elif _is_compiled(log_rates, counts):
        return compiled.poisson_sums(log_rates, counts)
    else:
        losses = empty(counts.shape, counts)
        for out, x, k in pieces(losses, log_rates, counts):
            torch.exp(x, out=out).addcmul_(x, k, value=-1)
    return counts.sum(dim=0), losses.sum(dim=0)
