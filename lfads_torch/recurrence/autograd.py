"""Functions that the differentiable operations of this package share."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor


def is_recorded(args: Iterable[Tensor]) -> bool:
    """Return whether autograd may later run a backward pass to these tensors."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in args)


def must_be_differentiable(*grads: Tensor | None) -> bool:
    """Return whether a backward pass must be differentiable itself, or has batched gradients."""
    return (
        torch.is_grad_enabled()
        or torch._C._are_functorch_transforms_active()
        or any(x is not None and is_legacy_batchedtensor(x) for x in grads)
    )


def refuse_second_derivatives(*grads: Tensor | None) -> None:
    """Raise a RuntimeError if a backward pass must return more than first derivatives."""
    if must_be_differentiable(*grads):
        raise RuntimeError(
            "The fused recurrences have no second derivatives (create_graph=True) and no batched "
            "ones (is_grads_batched=True): make the model with recurrence='plain', "
            "LFADS(…, recurrence='plain') or "
            "LFADS.load_from_checkpoint(path, recurrence='plain'), or run its parts within "
            "lfads_torch.recurrence.using('plain')."
        )


def expect(name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    """Check a tensor before it is passed to a backend, which reads its memory without checks.

    Parameters
    ----------
    name
        The name of the tensor in the error message.
    tensor
        The tensor.
    shape
        The shape that it must have.
    like
        A tensor with the device and dtype that it must have.

    Raises
    ------
    ValueError
        If its shape, device or dtype is different.
    """
    if tensor.shape != shape:
        raise ValueError(f"{name} must be of shape {shape}, but is of shape {tuple(tensor.shape)}.")
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise ValueError(
            f"{name} must be {like.dtype} on {like.device}, but is {tensor.dtype} on "
            f"{tensor.device}."
        )
