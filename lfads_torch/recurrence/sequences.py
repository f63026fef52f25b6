"""Operations on whole sequences before and between the recurrences.

Results have the shape (B, T, N), but in memory one bin of all trials follows another, which is the
order in which the recurrences read them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lfads_torch.recurrence.autograd import must_be_differentiable
from lfads_torch.recurrence.choice import choose
from lfads_torch.recurrence.masks import random_mask
from lfads_torch.recurrence.memory import empty
from lfads_torch.recurrence.pointwise import masked


def shared(inputs: Tensor) -> Tensor:
    """Return inputs (B, T, N) with a store for what several recurrences derive from them.

    The store belongs to another tensor on the same memory, which is to be kept no longer than the
    recurrences run. It must not belong to the caller's tensor: numbers in that can change without
    notice, for example where NumPy owns the memory.
    """
    if hasattr(inputs, "_lfads_derived") or choose(inputs) is None:
        return inputs
    view = inputs.view_as(inputs)
    view._lfads_derived = {}  # type: ignore[attr-defined]
    return view


def dropped(sequence: Tensor, rate: float) -> Tensor:
    """Zero elements with probability ``rate`` and multiply the others by 1 / (1 - rate).

    Parameters
    ----------
    sequence
        (B, T, N).
    rate
        At least 0 and below 1.
    """
    by_bin = sequence.transpose(0, 1)
    keep = random_mask(by_bin.shape, 1 - rate, sequence.device)
    return masked(by_bin, keep, 1 / (1 - rate)).transpose(0, 1)


def lagged(forward: Tensor, backward: Tensor, lag: int, before: int, after: int) -> Tensor:
    """Return the controller's input, which consists of both directions of its encoder.

    In bin t it is [forward in bin t - lag, backward in bin t + lag], with zeros for bins outside of
    the encoder's window.

    Parameters
    ----------
    forward, backward
        (B, T, H) states of the two directions of an encoder.
    lag
        Number of bins.
    before, after
        Numbers of further bins of zeros at the beginning and at the end.

    Returns
    -------
    Tensor
        (B, before + T + after, 2H).
    """
    by_bin = forward.transpose(0, 1), backward.transpose(0, 1)
    if torch._C._are_functorch_transforms_active():
        shifted = [_shifted(x, delay) for x, delay in zip(by_bin, (lag, -lag), strict=True)]
        both = F.pad(torch.cat(shifted, dim=2), (0, 0, 0, 0, before, after))
    else:
        both = _Lagged.apply(*by_bin, lag, before, after)  # type: ignore[no-untyped-call]
    return both.transpose(0, 1)


class _Lagged(torch.autograd.Function):
    """As :func:`lagged` for sequences (T, B, H), written to a buffer that is used again."""

    @staticmethod
    def forward(
        ctx: Any, forward: Tensor, backward: Tensor, lag: int, before: int, after: int
    ) -> Tensor:
        n_bins, n_trials, size = forward.shape
        ctx.lag, ctx.bins = lag, slice(before, before + n_bins)
        both = empty((before + n_bins + after, n_trials, 2 * size), forward)
        both[:before] = 0
        both[before + n_bins :] = 0
        halves = both[ctx.bins].chunk(2, dim=2)
        _shift(forward, lag, out=halves[0])
        _shift(backward, -lag, out=halves[1])
        return both

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        halves = grad[ctx.bins].chunk(2, dim=2)
        delays = -ctx.lag, ctx.lag
        if must_be_differentiable(grad):
            grads = [_shifted(x, delay) for x, delay in zip(halves, delays, strict=True)]
        else:
            grads = [empty(x.shape, x) for x in halves]
            for x, delay, out in zip(halves, delays, grads, strict=True):
                _shift(x, delay, out)
        return *grads, None, None, None


def _shift(states: Tensor, delay: int, out: Tensor) -> None:
    """Write states (T, B, H), delayed by some bins within their window, to ``out``."""
    source, target = _bins(len(states), delay)
    out[: target.start] = 0
    out[target] = states[source]
    out[target.stop :] = 0


def _shifted(states: Tensor, delay: int) -> Tensor:
    """Return what :func:`_shift` writes, by operations that autograd knows."""
    source, target = _bins(len(states), delay)
    return F.pad(states[source], (0, 0, 0, 0, target.start, len(states) - target.stop))


def _bins(n_bins: int, delay: int) -> tuple[slice, slice]:
    """Return the bins that stay in a window when it is delayed, and where they come to lie."""
    delay = min(max(delay, -n_bins), n_bins)
    early, late = slice(0, n_bins - abs(delay)), slice(abs(delay), n_bins)
    return (early, late) if delay >= 0 else (late, early)
