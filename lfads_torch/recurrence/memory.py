"""Large buffers, used again, and worked on piece by piece.

What a training step keeps for its backward pass is handed back to the system after it and asked for
again in the next step. The system clears every page anew, which takes longer than to fill it. So
blocks are kept here, and lent out as tensors: a block returns when the last tensor on it is gone,
however that comes about, so that no two uses can meet.

For the same reason several operations on large tensors take a fraction of the time if they are all
done to a piece that stays in the processor's cache, before the next piece is taken.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lfads_torch import utils

_SMALLEST = 1 << 20
"""Bytes from which blocks are kept; below, the ordinary allocator is as good."""
_PATIENCE = 256
"""A block that was not used for so many requests is given back to the system."""
_ALIGNMENT = 64
_PIECE = 1 << 16
"""Elements of a piece, for each thread."""

_idle: list[tuple[int, np.ndarray]] = []
_returned: deque[np.ndarray] = deque()
_requests = 0
_lock = threading.Lock()


class _Loan(np.ndarray):
    """A block while it is lent out."""

    def __del__(self) -> None:
        if isinstance(self.base, np.ndarray) and not isinstance(self.base, _Loan):
            _returned.append(self.base)  # Atomic: this may run in any thread, at any time.


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return an uninitialised tensor of the dtype and device of ``like``."""
    count = 1
    for size in shape:
        count *= size
    n_bytes = count * like.element_size()
    if not utils.on_cpu(like) or n_bytes < _SMALLEST:
        return like.new_empty(tuple(shape))
    loan = _block(n_bytes).view(_Loan)
    start = -loan.ctypes.data % _ALIGNMENT
    flat = torch.frombuffer(loan, dtype=like.dtype, count=count, offset=start)
    # Not a view of the flat one, which autograd would not let be changed in place.
    tensor: Tensor = torch.ops.aten._unsafe_view(flat, tuple(shape))
    return tensor


def _block(n_bytes: int) -> np.ndarray:
    """Return an idle block of suitable size, or a new one."""
    global _requests
    n_bytes += _ALIGNMENT
    with _lock:
        _requests += 1
        while _returned:
            _idle.append((_requests, _returned.popleft()))
        _idle[:] = [(since, block) for since, block in _idle if _requests - since < _PATIENCE]
        fitting = [
            (block.nbytes, -i)  # of equally large ones the last used, which may still be cached
            for i, (_, block) in enumerate(_idle)
            if n_bytes <= block.nbytes <= 1.5 * n_bytes
        ]
        if fitting:
            return _idle.pop(-min(fitting)[1])[1]
    return np.empty(n_bytes, np.uint8)


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield pieces of tensors that are equally long, together: slices along their first axis.

    On other devices than a CPU they are yielded whole.
    """
    first = tensors[0]
    if not utils.on_cpu(first) or first.numel() <= _PIECE:
        yield tensors
        return
    length = max(1, _PIECE * torch.get_num_threads() * len(first) // first.numel())
    yield from zip(*(tensor.split(length) for tensor in tensors), strict=True)


def clear() -> None:
    """Give every idle block back to the system."""
    with _lock:
        _returned.clear()
        _idle.clear()
