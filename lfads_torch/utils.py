"""Small helpers that more than one part of the library, and users' scripts, rely on."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")


def random_mask(shape: Sequence[int], probability: float, device: torch.device) -> Tensor:
    """Draw booleans, each True with a probability, which holds to float precision.

    On a CPU a random byte is compared with the first digit, to the base 256, of the probability of
    the rarer value. What that lacks of it is added by a few more, whose distances are
    geometrically distributed: a tenth of the time of ``torch.bernoulli``.
    """
    if device.type != "cpu" or torch._C._are_functorch_transforms_active():
        return torch.rand(shape, device=device) < probability
    size = math.prod(shape)
    words = torch.empty(-(-size // 8), dtype=torch.int64).random_(-(2**63), None)
    drawn = words.numpy().view(np.uint8)[:size]
    rarer = probability <= 0.5
    scaled = 256 * (probability if rarer else 1 - probability)
    digit = int(scaled)
    mask = drawn < digit if rarer else drawn >= digit
    if scaled > digit:
        mask[_events(size, (scaled - digit) / (256 - digit))] = rarer
    return torch.from_numpy(mask.reshape(shape))


def _events(size: int, probability: float) -> NDArray[np.int64]:
    """Draw which of so many trials of a small probability succeed."""
    expected = size * probability
    count = int(expected + 6 * math.sqrt(expected)) + 6  # mostly enough, at once
    parts, last = [], -1
    while last < size:
        gaps = torch.empty(count, dtype=torch.float64).exponential_(-math.log1p(-probability))
        parts.append(last + gaps.ceil_().clamp_(min=1).cumsum_(0).numpy())
        last = parts[-1][-1]
    events = np.concatenate(parts)
    return events[: np.searchsorted(events, size)].astype(np.int64)


def flatten(dictionary: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in dictionary.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, prefix=f"{name}."))
        else:
            flat[name] = value
    return flat


def transpose_lists(lists: Sequence[Sequence[T]]) -> list[list[T]]:
    """Turn a list of rows into the list of its columns; the rows must be equally long."""
    return [list(column) for column in zip(*lists, strict=True)]


def send_batch_to_device(batch: Any, device: torch.device | str) -> Any:
    """Move every tensor in nested dictionaries, lists and (named) tuples to ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: send_batch_to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(send_batch_to_device(value, device) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(send_batch_to_device(value, device) for value in batch)
    return batch


def move_aside(path: str | Path) -> Path | None:
    """Rename an existing file or folder to ``name.1``, or the first such name that is free.

    So a new file can take its name and the old one is kept. The number goes before the suffix of
    a file (``metrics.1.csv``). Returns the new path, or None where there was nothing to rename.
    """
    path = Path(path)
    if not path.exists():
        return None
    stem, suffix = (path.name, "") if path.is_dir() else (path.stem, path.suffix)
    number = 1
    while (aside := path.with_name(f"{stem}.{number}{suffix}")).exists():
        number += 1
    path.rename(aside)
    return aside
