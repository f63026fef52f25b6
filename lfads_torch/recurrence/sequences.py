"""What is done to whole sequences before and between the recurrences.

Results are (B, T, N), but bins follow each other in memory, as the recurrences read them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lfads_torch.recurrence.choice import choose
from lfads_torch.recurrence.masks import random_mask
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
    """Return what the controller sees of both directions of its encoder.

    In bin t it is [forward in bin t - lag, backward in bin t + lag], with zeros for bins outside of
    the encoder's window.

    Parameters
    ----------
    forward, backward
        (B, T, H) states of the two directions of an encoder.
    lag
        Bins.
    before, after
        Further bins of zeros at either end.

    Returns
    -------
    Tensor
        (B, before + T + after, 2H).
    """
    directions = ((forward, lag), (backward, -lag))
    shifted = [_shifted(x.transpose(0, 1), delay, before, after) for x, delay in directions]
    return torch.cat(shifted, dim=2).transpose(0, 1)


def _shifted(states: Tensor, delay: int, before: int, after: int) -> Tensor:
    """Delay states (T, B, H) by some bins within their window, and add bins of zeros around it."""
    delay = min(max(delay, -len(states)), len(states))
    if delay >= 0:
        states = states[: len(states) - delay]
    else:
        states = states[-delay:]
    return F.pad(states, (0, 0, 0, 0, before + max(delay, 0), after + max(-delay, 0)))
