"""Large buffers return to the pool when their last tensor is deleted, and are used again."""

import gc
import threading

import pytest
import torch

from lfads_torch import utils
from lfads_torch.recurrence.memory import BufferPool

LIKE = torch.zeros(1)


@pytest.fixture
def pool():
    return BufferPool()


def large(pool, shape=(512, 1024)):
    return pool.empty(shape, LIKE)


def test_a_block_is_lent_again_after_its_last_tensor(pool):
    x = large(pool)
    assert x.data_ptr() % 64 == 0
    address, part = x.data_ptr(), x[3:5]
    del x
    gc.collect()
    other = large(pool)
    assert other.data_ptr() != address  # `part` is still there
    del part
    gc.collect()
    assert large(pool).data_ptr() == address


def test_dtype_and_shape(pool):
    x = pool.empty((3, 100_000), torch.zeros(1, dtype=torch.float64))
    assert (x.dtype, x.shape) == (torch.float64, (3, 100_000))
    assert x.is_contiguous()
    assert pool.empty((0, 4), LIKE).shape == (0, 4)
    assert pool.empty((), LIKE).shape == ()


def test_a_buffer_may_be_changed_in_place_by_autograd(pool):
    x = large(pool).fill_(1.0)
    weight = torch.ones(1024, requires_grad=True)
    x.mul_(weight).sum().backward()
    assert torch.equal(weight.grad, torch.full((1024,), 512.0))


def test_blocks_that_are_not_used_are_returned_to_the_system():
    pool = BufferPool(patience=3)
    del_me = large(pool, (1024, 4096))
    del del_me
    for _ in range(6):
        large(pool)
    assert pool.idle_bytes() < 3 * 512 * 1024 * 4


def test_much_larger_blocks_are_not_lent(pool):
    big = large(pool, (4096, 1024))
    address = big.data_ptr()
    del big
    assert large(pool).data_ptr() != address


def test_of_equal_blocks_the_last_used_is_lent_first(pool):
    first, last = large(pool), large(pool)
    address = last.data_ptr()
    del first
    del last
    assert large(pool).data_ptr() == address


def test_small_buffers_and_other_devices_are_pytorchs(pool, monkeypatch):
    pool.empty((100,), LIKE)
    assert pool.idle_bytes() == 0
    monkeypatch.setattr(utils, "on_cpu", lambda x: False)
    monkeypatch.setattr(BufferPool, "_block", None)
    assert pool.empty((10**7,), LIKE).shape == (10**7,)


def test_threads_never_share_a_block(pool):
    """Every thread finds in its buffers what it has written to them."""
    wrong = []

    def work(number):
        for i in range(60):
            x, y = (large(pool, (300, 1024)).fill_(100 * number + i + k) for k in (0, 0.5))
            if not (x == 100 * number + i).all() or not (y == 100 * number + i + 0.5).all():
                wrong.append((number, i))
            del x

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert pool.idle_bytes() < 100 * 300 * 1024 * 4
