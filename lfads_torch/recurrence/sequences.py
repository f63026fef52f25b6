"""Operations on whole sequences before and between the recurrences.

Results have the shape (B, T, N), but in memory one bin of all trials follows another, which is the
order in which the recurrences read them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lfads_torch.recurrence.masks import random_mask
from lfads_torch.recurrence.pointwise import masked


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
