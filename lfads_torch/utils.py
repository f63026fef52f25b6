"""Small helper functions for several parts of the library and for users' scripts."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def on_cpu(x: Tensor | torch.device) -> bool:
    """Return whether a tensor or a device is on the CPU, that is, in main memory.

    On any other device, operations are queued: reading a result waits for all operations before it,
    and launching an operation takes time, however small it is. Therefore values are only inspected,
    and work is only split into small operations, on the CPU.
    """
    device = x.device if isinstance(x, Tensor) else x
    return device.type == "cpu"


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
