"""Random masks, drawn fast: a training step needs millions of elements."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lfads_torch import utils
from lfads_torch.recurrence.memory import empty

_CHUNK = 1 << 17
"""Number of bytes that are drawn at a time, which fits into the processor's cache."""


def random_mask(shape: Sequence[int], probability: float, device: torch.device) -> Tensor:
    """Draw independent booleans, each of which is True with a probability.

    On a CPU a random byte for each element is compared with the first digit, to the base 256, of
    the probability of the rarer value. This makes the rarer value too rare, by less than 1/256. So
    a few more elements are set to it, at geometrically distributed distances, and its probability
    is exact to float precision. NumPy's generator SFC64 draws all of this, from a seed that
    PyTorch's generator draws.

    Parameters
    ----------
    shape
        Shape of the mask.
    probability
        From 0 to 1.
    device
        Where the mask is to be.
    """
    if not utils.on_cpu(device) or torch._C._are_functorch_transforms_active():
        return torch.rand(shape, device=device) < probability
    mask = empty(shape, torch.empty(0, dtype=torch.bool, device=device))
    flat = mask.view(-1).numpy()
    generator = np.random.Generator(np.random.SFC64(int(torch.randint(2**63 - 1, ()))))
    rarer = probability <= 0.5
    scaled = 256 * (probability if rarer else 1 - probability)
    digit = int(scaled)
    compare = np.less if rarer else np.greater_equal
    for start in range(0, len(flat), _CHUNK):
        chunk = flat[start : start + _CHUNK]
        words = generator.bit_generator.random_raw(-(-len(chunk) // 8))
        compare(words.view(np.uint8)[: len(chunk)], digit, out=chunk)
    if scaled > digit:
        flat[_events(generator, len(flat), (scaled - digit) / (256 - digit))] = rarer
    return mask


def _events(generator: np.random.Generator, size: int, probability: float) -> NDArray[np.int64]:
    """Draw which of ``size`` Bernoulli trials of a small probability succeed, as their indices."""
    expected = size * probability
    count = int(expected + 6 * math.sqrt(expected)) + 6  # This is nearly always enough.
    parts, last = [], -1
    while last < size:
        gaps = np.minimum(generator.geometric(probability, count), size + 1)
        parts.append(last + gaps.cumsum())
        last = parts[-1][-1]
    events = np.concatenate(parts)
    return events[: np.searchsorted(events, size)]
