"""With a seed for every epoch, a resumed run has the numbers of an uninterrupted run."""

import random

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lfads_torch.running.callbacks import EpochSeed
from tests.running.callbacks.training import Losses, all_figures, fit, make_data

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")


def draws():
    return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002


class FakeTrainer:
    global_rank = 0

    def __init__(self, current_epoch, global_rank=0):
        self.current_epoch, self.global_rank = current_epoch, global_rank


def seeded(seed, epoch, rank=0, first_batch=False):
    callback, trainer = EpochSeed(seed), FakeTrainer(epoch, rank)
    callback.on_train_epoch_start(trainer, None)
    if first_batch:
        callback.on_train_batch_start(trainer, None, None, 0)
    return draws()


def test_epoch_seeds_depend_only_on_seed_epoch_and_rank():
    cases = [(0, 0), (0, 1), (1, 0), (0, 0, 1), (0, 0, 0, True), (2**40, 0)]
    first = [seeded(*case) for case in cases]
    draws()
    assert [seeded(*case) for case in cases] == first
    for numbers in zip(*first, strict=True):
        assert len(set(numbers)) == len(cases)


def test_epoch_seed_does_not_affect_later_batches():
    seeded(0, 0, first_batch=True)
    before = torch.get_rng_state()
    EpochSeed(0).on_train_batch_start(FakeTrainer(0), None, None, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_resumed_run_is_the_uninterrupted_one(tmp_path):
    """Two and two epochs equal four epochs, with dropout, posterior samples and figures."""
    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", save_last=True)
    options = {"enable_checkpointing": True}
    whole, first, second = Losses(), Losses(), Losses()
    fit(tmp_path, [whole, EpochSeed(5)], make_data(tmp_path), max_epochs=4)
    fit(tmp_path, [first, EpochSeed(5), checkpoint], make_data(tmp_path), max_epochs=2, **options)
    fit(
        tmp_path,
        [second, EpochSeed(5), *all_figures(1)],
        make_data(tmp_path),
        max_epochs=4,
        ckpt_path=tmp_path / "checkpoints" / "last.ckpt",
    )
    assert len(whole.values) == 8
    assert first.values + second.values == whole.values
    without = Losses()
    fit(tmp_path, [without], make_data(tmp_path), max_epochs=4)
    assert without.values != whole.values


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed must be at least 0, but is -1"):
        EpochSeed(-1)
