"""Products with masks, which save the mask as bytes for the backward pass."""

from typing import Any

import torch
from torch import Tensor

from lfads_torch.recurrence.autograd import must_be_differentiable
from lfads_torch.recurrence.memory import empty


def masked(x: Tensor, keep: Tensor, scale: float = 1.0) -> Tensor:
    """Return x · keep · scale, as a new tensor whose elements lie in the order of its axes.

    Parameters
    ----------
    x
        A tensor.
    keep
        Booleans of the same shape.
    scale
        A number.
    """
    if torch._C._are_functorch_transforms_active():
        return x * keep * scale
    return _Masked.apply(x, keep.view(torch.uint8), scale)  # type: ignore[no-untyped-call, no-any-return]


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return _product(x, keep, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (keep,) = ctx.saved_tensors
        if must_be_differentiable(grad):
            return grad * keep * ctx.scale, None, None
        return _product(grad, keep, ctx.scale), None, None


def _product(x: Tensor, keep: Tensor, scale: float) -> Tensor:
    """Return x · keep · scale, for a mask ``keep`` of bytes."""
    # On a CPU, multiplying by numbers takes a fraction of the time of torch.where, and bytes are
    # converted to numbers faster than booleans are.
    result = empty(x.shape, x).copy_(keep)
    if scale == 1:
        return result.mul_(x)
    return torch.addcmul(x.new_zeros(()), result, x, value=scale, out=result)


def pass_gradients(x: Tensor, keep: Tensor) -> Tensor:
    """Return x itself, but with gradients only where the booleans ``keep`` are True.

    ``keep`` is of the same shape.
    """
    if torch._C._are_functorch_transforms_active():
        return torch.where(keep, x, x.detach())
    return _PassGradients.apply(x, keep.view(torch.uint8))  # type: ignore[no-untyped-call, no-any-return]


class _PassGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor) -> Tensor:
        ctx.save_for_backward(keep)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (keep,) = ctx.saved_tensors
        if must_be_differentiable(grad):
            return grad * keep, None
        return _product(grad, keep, 1.0), None
