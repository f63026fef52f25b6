"""Which implementation of the fused recurrences runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lfads_torch.errors import UserError
from lfads_torch.recurrence.backend import Backend
from lfads_torch.recurrence.compiled import CompiledBackend
from lfads_torch.recurrence.pytorch import PyTorchBackend

PYTORCH = PyTorchBackend()
"""The implementation that runs everywhere, on all tensors."""

BACKENDS: tuple[Backend, ...] = (CompiledBackend(), PYTORCH)
"""The implementations, in the order in which ``auto`` prefers them."""

CHOICES = ("auto", *(backend.name for backend in reversed(BACKENDS)), "plain")
"""What ``recurrence`` may be."""

_choice: ContextVar[str] = ContextVar("recurrence", default="auto")


def check_choice(recurrence: str) -> str:
    """Return a choice of the implementation if it is one.

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
    """Run everything within as one of :data:`CHOICES` says; outside, ``auto`` holds.

    It may be nested, and holds for the thread (or the asynchronous task) that enters it. A
    backward pass is run by the implementation that ran the forward pass, wherever it is called.

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
    """Return the implementation that is to run on these tensors; None for step by step.

    Raises
    ------
    RuntimeError
        If an implementation is asked for by its name that this machine cannot run.
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
            raise RuntimeError(
                f"model.recurrence is {choice!r}, but the {choice} recurrences cannot be had here: "
                f"{reason}. Choose 'auto' or 'torch', or mend that."
            )
    return None


def _can_be_fused(tensors: tuple[Tensor, ...]) -> bool:
    """Return whether PyTorch is to run operations on these tensors as they are."""
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
    """Return what :func:`choose` does, and PyTorch where that is step by step.

    This is for operations that have no steps.
    """
    return choose(*tensors) or PYTORCH
