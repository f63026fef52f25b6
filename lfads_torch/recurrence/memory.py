"""Large buffers in main memory that are used several times.

Memory for the tensors that a training step saves for its backward pass is freed after the step and
requested again in the next one. The operating system clears every page of a large block before a
process gets it, which takes longer than filling the block. Therefore a pool keeps blocks and lends
them as tensors. A block returns to the pool when the last tensor on it is deleted, so that no block
is used twice at the same time.
"""

import threading
import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lfads_torch import utils

_ALIGNMENT = 64
"""Bytes. Tensors begin at a multiple of this, where a line of the processor's cache begins."""


class BufferPool:
    """Blocks of main memory, lent as tensors.

    Parameters
    ----------
    smallest
        Size in bytes of the smallest block that is kept. For smaller ones, PyTorch's allocator is
        as good.
    patience
        Number of requests after which a block is returned to the system if none of them could use
        it.
    """

    def __init__(self, smallest: int = 1 << 20, patience: int = 256) -> None:
        self.smallest = smallest
        self.patience = patience
        self._idle: list[tuple[int, np.ndarray]] = []
        self._returned: deque[np.ndarray] = deque()
        self._requests = 0
        self._lock = threading.Lock()

    def empty(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return an uninitialised tensor of a shape, of the dtype and device of ``like``."""
        count = 1
        for size in shape:
            count *= size
        n_bytes = count * like.element_size()
        if not utils.on_cpu(like) or n_bytes < self.smallest:
            return like.new_empty(tuple(shape))
        block = self._block(n_bytes + _ALIGNMENT)
        loan = block.view()
        # This may run in any thread and at any time, even while the lock is held: appending to a
        # deque is atomic and takes no lock.
        weakref.finalize(loan, self._returned.append, block).atexit = False
        start = -loan.ctypes.data % _ALIGNMENT
        flat = torch.frombuffer(loan, dtype=like.dtype, count=count, offset=start)
        # An ordinary view would not do: autograd forbids changing some views in place.
        tensor: Tensor = torch.ops.aten._unsafe_view(flat, tuple(shape))
        return tensor

    def _block(self, n_bytes: int) -> np.ndarray:
        """Return an idle block of suitable size, or a new one."""
        with self._lock:
            self._requests += 1
            while self._returned:
                self._idle.append((self._requests, self._returned.popleft()))
            oldest = self._requests - self.patience
            self._idle = [(since, block) for since, block in self._idle if since > oldest]
            fitting = [
                (block.nbytes, -i)  # Among equal sizes the last used one, which may be cached.
                for i, (_, block) in enumerate(self._idle)
                if n_bytes <= block.nbytes <= 1.5 * n_bytes
            ]
            if fitting:
                return self._idle.pop(-min(fitting)[1])[1]
        return np.empty(n_bytes, np.uint8)

    def idle_bytes(self) -> int:
        """Return the total size in bytes of the blocks that are not lent."""
        with self._lock:
            return sum(block.nbytes for _, block in self._idle) + sum(
                block.nbytes for block in self._returned
            )


_pool = BufferPool()

empty = _pool.empty
"""Return an uninitialised tensor: this is :meth:`BufferPool.empty` of the library's pool."""
