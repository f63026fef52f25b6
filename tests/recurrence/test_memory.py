"""Large buffers return when the last tensor on them is gone, and are then used again."""

import gc

import pytest
import torch

from lfads_torch.recurrence import memory


@pytest.fixture(autouse=True)
def clean():
    memory.clear()
    yield
    memory.clear()


def large(shape=(512, 1024)):
    return memory.empty(shape, torch.zeros(1))


def test_a_block_is_lent_again_after_its_last_tensor():
    x = large()
    assert x.data_ptr() % 64 == 0
    address, part = x.data_ptr(), x[3:5]
    del x
    gc.collect()
    other = large()
    assert other.data_ptr() != address  # `part` is still there
    del part
    gc.collect()
    assert large().data_ptr() == address


def test_dtype_and_shape():
    x = memory.empty((3, 100_000), torch.zeros(1, dtype=torch.float64))
    assert (x.dtype, x.shape) == (torch.float64, (3, 100_000))
    assert x.is_contiguous()
    assert memory.empty((0, 4), torch.zeros(1)).shape == (0, 4)


def test_blocks_that_nobody_wants_are_given_back(monkeypatch):
    monkeypatch.setattr(memory, "_PATIENCE", 3)
    del_me = large((1024, 4096))
    del del_me
    for _ in range(6):
        large()
    assert sum(block.nbytes for _, block in memory._idle) < 3 * 512 * 1024 * 4


def test_much_larger_blocks_are_not_lent():
    big = large((4096, 1024))
    address = big.data_ptr()
    del big
    assert large().data_ptr() != address


def test_of_equal_blocks_the_last_used_is_lent_first():
    first, last = large(), large()
    address = last.data_ptr()
    del first
    del last
    assert large().data_ptr() == address


def test_pieces_cover_their_tensors(monkeypatch):
    monkeypatch.setattr(memory, "_PIECE", 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    x, y = torch.arange(7 * 6).view(7, 6), torch.arange(7)
    parts = list(memory.pieces(x, y))
    assert [len(a) for a, _ in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([a for a, _ in parts]), x)
    assert torch.equal(torch.cat([b for _, b in parts]), y)
    for a, _ in parts:
        a.zero_()
    assert not x.any()  # They are parts, not copies.
    assert [len(a) for (a,) in memory.pieces(torch.zeros(5, 2, 100))] == [1] * 5
    assert [a.shape for (a,) in memory.pieces(torch.zeros(0, 4))] == [(0, 4)]
