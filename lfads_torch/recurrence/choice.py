"""Chooses the implementation of the fused recurrences that runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lfads_torch.errors import UnavailableBackendError, UserError
from lfads_torch.recurrence.backend import Backend
from lfads_torch.recurrence.compiled import CompiledBackend
from lfads_torch.recurrence.pytorch import PyTorchBackend

PYTORCH = PyTorchBackend()
"""The implementation that runs everywhere, on all tensors."""

BACKENDS: tuple[Backend, ...] = (CompiledBackend(), PYTORCH)
"""The implementations, in the order in which ``auto`` prefers them."""

CHOICES = ("auto", *(backend.name for backend in reversed(BACKENDS)), "plain")
"""The values that ``recurrence`` may have."""

_choice: ContextVar[str] = ContextVar("recurrence", default="auto")


def check_choice(recurrence: str) -> str:
    """Return a value of ``recurrence`` if it is valid.

    Raises
    ------
    UserError
        If it is none of :data:`CHOICES`.
    """
    if recurrence not in CHOICES:
        raise UserError(
            f"model.recurrence must be one of {', '.join(CHOICES)}, but is {recurrence!r}."
        )
    return recurrence


@contextmanager
def using(choice: str) -> Iterator[None]:
    """Run everything within this block with one of :data:`CHOICES`; outside, ``auto`` applies.

    Blocks may be nested, and a block applies to the thread (or the asynchronous task) that enters
    it. A backward pass is run by the implementation of its forward pass, wherever it is called.

    Raises
    ------
    UserError
        If it is none of :data:`CHOICES`.
    """
    token = _choice.set(check_choice(choice))
    try:
        yield
    finally:
        _choice.reset(token)


def choose(*tensors: Tensor) -> Backend | None:
    """Return the implementation for these tensors, or None if they must run step by step.

    Raises
    ------
    UnavailableBackendError
        If the implementation was chosen by its name and this machine cannot run it.
    """
    choice = _choice.get()
    if choice == "plain" or not _can_be_fused(tensors):
        return None
    names = [backend.name for backend in BACKENDS]
    start = 0 if choice == "auto" else names.index(choice)
    for backend in BACKENDS[start:]:
        if not backend.handles(*tensors):
            continue
        reason = backend.unavailable()
        if reason is None:
            return backend
        if choice == backend.name:
            raise UnavailableBackendError(
                f"model.recurrence is {choice!r}, but the {choice} recurrences are not available: "
                f"{reason}. Choose 'auto' or 'torch', or remove this cause."
            )
    return None


def _can_be_fused(tensors: tuple[Tensor, ...]) -> bool:
    """Return whether fused operations may run on these tensors in the present mode of PyTorch."""
    first = tensors[0]
    return not (
        any(x.device != first.device or x.dtype != first.dtype for x in tensors)
        or not first.is_floating_point()
        or first.device.type == "meta"
        or torch.is_autocast_enabled(first.device.type)
        or torch.jit.is_tracing()
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def choose_or_pytorch(*tensors: Tensor) -> Backend:
    """Return what :func:`choose` returns, or the PyTorch implementation if that is None.

    It serves operations that do not consist of steps.
    """
    return choose(*tensors) or PYTORCH
