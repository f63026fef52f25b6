"""What the operations of this package have in common as operations that autograd knows."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor


def is_recorded(args: Iterable[Tensor]) -> bool:
    """Return whether there may be a backward pass to these tensors."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in args)


def must_be_differentiable(*grads: Tensor | None) -> bool:
    """Return whether a backward pass is itself to be differentiated, or is of batched gradients."""
    return (
        torch.is_grad_enabled()
        or torch._C._are_functorch_transforms_active()
        or any(x is not None and is_legacy_batchedtensor(x) for x in grads)
    )


def refuse_second_derivatives(*grads: Tensor | None) -> None:
    """Raise a RuntimeError if a backward pass is asked for more than first derivatives."""
    if must_be_differentiable(*grads):
        raise RuntimeError(
            "The fused recurrences have no second derivatives (create_graph=True) and no batched "
            "ones (is_grads_batched=True): make the model with recurrence='plain', "
            "LFADS(…, recurrence='plain') or "
            "LFADS.load_from_checkpoint(path, recurrence='plain'), or run its parts within "
            "lfads_torch.recurrence.using('plain')."
        )


def expect(name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    """Check that a tensor is as the backends rely on, which read memory without looking.

    Parameters
    ----------
    name
        What to call it in the message.
    tensor
        A tensor.
    shape
        The shape that it must have.
    like
        A tensor of the device and dtype that it must have.

    Raises
    ------
    ValueError
        If its shape, device or dtype is another.
    """
    if tensor.shape != shape:
        raise ValueError(f"{name} must be of shape {shape}, but is of shape {tuple(tensor.shape)}.")
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise ValueError(
            f"{name} must be {like.dtype} on {like.device}, but is {tensor.dtype} on "
            f"{tensor.device}."
        )
