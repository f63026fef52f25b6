"""Products with masks, in one pass over large tensors where that is possible."""

from typing import Any

import torch
from torch import Tensor

from lfads_torch.recurrence.autograd import must_be_differentiable
from lfads_torch.recurrence.backend import Backend
from lfads_torch.recurrence.choice import choose_or_pytorch


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
    return _Masked.apply(choose_or_pytorch(x), x, keep.view(torch.uint8), scale)  # type: ignore[no-untyped-call, no-any-return]


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: Backend, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.backend, ctx.scale = backend, scale
        return backend.masked(x, keep, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:  # type: ignore[override]
        (keep,) = ctx.saved_tensors
        if must_be_differentiable(grad):
            return None, grad * keep * ctx.scale, None, None
        return None, ctx.backend.masked(grad, keep, ctx.scale), None, None


def pass_gradients(x: Tensor, keep: Tensor) -> Tensor:
    """Return x as it is, but with gradients only where the booleans ``keep`` say so."""
    if torch._C._are_functorch_transforms_active():
        return torch.where(keep, x, x.detach())
    return _PassGradients.apply(choose_or_pytorch(x), x, keep.view(torch.uint8))  # type: ignore[no-untyped-call, no-any-return]


class _PassGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: Backend, x: Tensor, keep: Tensor) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.backend = backend
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[override]
        (keep,) = ctx.saved_tensors
        if must_be_differentiable(grad):
            return None, grad * keep, None
        return None, ctx.backend.masked(grad, keep, 1.0), None
