"""What is done to whole sequences before and between the recurrences, in few passes over them.

Results are (B, T, D), but bins follow each other in memory, as the recurrences read them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lfads_torch.recurrence.masks import random_mask
from lfads_torch.recurrence.memory import empty
from lfads_torch.recurrence.pointwise import masked


def dropped(sequence: Tensor, rate: float) -> Tensor:
    """Zero elements with probability ``rate`` and scale the others by 1 / (1 - rate).

    Parameters
    ----------
    sequence
        (B, T, D).
    rate
        At least 0 and below 1.
    """
    by_bin = sequence.transpose(0, 1)
    keep = random_mask(by_bin.shape, 1 - rate, sequence.device)
    return masked(by_bin, keep, 1 / (1 - rate)).transpose(0, 1)


def lagged(forward: Tensor, backward: Tensor, lag: int, before: int, behind: int) -> Tensor:
    """Return what the controller sees of both directions of its encoder.

    In bin t it is [forward in bin t - lag, backward in bin t + lag], with zeros for bins outside of
    the encoder's window.

    Parameters
    ----------
    forward, backward
        (B, T, H) states of the two directions of an encoder.
    lag
        Bins.
    before, behind
        Further bins of zeros at either end.

    Returns
    -------
    Tensor
        (B, before + T + behind, 2H).
    """
    if torch._C._are_functorch_transforms_active():
        shifted = [_shifted(forward, lag), _shifted(backward, -lag)]
        return F.pad(torch.cat(shifted, dim=2), (0, 0, before, behind))
    directions = forward.transpose(0, 1), backward.transpose(0, 1)
    return _Lagged.apply(*directions, lag, before, behind).transpose(0, 1)  # type: ignore[no-untyped-call, no-any-return]


def _shifted(states: Tensor, delay: int) -> Tensor:
    source, target = _bins(states.shape[1], delay)
    return F.pad(states[:, source], (0, 0, target.start, states.shape[1] - target.stop))


def _bins(n_bins: int, delay: int) -> tuple[slice, slice]:
    """Return the bins that stay within the window, and where to, if states are delayed."""
    delay = min(max(delay, -n_bins), n_bins)
    first, last = slice(0, n_bins - abs(delay)), slice(abs(delay), n_bins)
    return (first, last) if delay >= 0 else (last, first)


class _Lagged(torch.autograd.Function):
    """As :func:`lagged`, with bins first."""

    @staticmethod
    def forward(
        ctx: Any, forward: Tensor, backward: Tensor, lag: int, before: int, behind: int
    ) -> Tensor:
        n_bins, n_trials, size = forward.shape
        ctx.options = lag, before, behind
        both = empty((before + n_bins + behind, n_trials, 2 * size), forward)
        halves = both.split(size, dim=2)
        for states, half, delay in zip((forward, backward), halves, (lag, -lag), strict=True):
            _move(states, half, *_bins(n_bins, delay), before)
        return both

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return *_Unlagged.apply(grad, *ctx.options), None, None, None  # type: ignore[no-untyped-call]


class _Unlagged(torch.autograd.Function):
    """The gradient of :class:`_Lagged`, which is that of this one."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, lag: int, before: int, behind: int
    ) -> tuple[Tensor, Tensor]:
        n_bins, size = len(grad) - before - behind, grad.shape[2] // 2
        ctx.options = lag, before, behind
        window = grad[before : before + n_bins]
        forward, backward = (empty((n_bins, grad.shape[1], size), grad) for _ in range(2))
        halves = window.split(size, dim=2)
        for states, half, delay in zip((forward, backward), halves, (lag, -lag), strict=True):
            source, target = _bins(n_bins, delay)
            _move(half, states, target, source)
        return forward, backward

    @staticmethod
    def backward(ctx: Any, forward: Tensor, backward: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return _Lagged.apply(forward, backward, *ctx.options), None, None, None  # type: ignore[no-untyped-call]


def _move(states: Tensor, out: Tensor, source: slice, target: slice, before: int = 0) -> None:
    """Copy bins to others, ``before`` bins further on, and set all the rest to zero."""
    start, stop = target.start + before, target.stop + before
    out[:start].zero_()
    out[start:stop] = states[source]
    out[stop:].zero_()
