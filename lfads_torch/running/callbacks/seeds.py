"""Reproducible random numbers in every epoch, also after a run has been resumed."""

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from lfads_torch.errors import UserError


class EpochSeed(pl.Callback):
    """Seeds all random number generators at the start of every epoch.

    A checkpoint does not contain the states of the generators. Without this callback, a resumed run
    would draw other dropout masks and posterior samples than a run that was not interrupted. With
    it, the seeds depend only on the arguments, the epoch and the rank of the process.

    Parameters
    ----------
    seed
        A number that is at least 0. Runs with different seeds draw independent random numbers.

    Raises
    ------
    UserError
        If the seed is negative.
    """

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise UserError(f"EpochSeed: seed must be at least 0, but is {seed}.")
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed the generators for what happens before the first batch."""
        self._seed_everything(trainer, 0)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the generators for the batches of the epoch.

        The trainer creates the iterators of the loaders, each of which draws a random number,
        before ``on_train_epoch_start`` in the first epoch of a fit, but after it in later epochs.
        Therefore the generators are seeded a second time before the first batch.
        """
        if batch_idx == 0:
            self._seed_everything(trainer, 1)

    def _seed_everything(self, trainer: pl.Trainer, phase: int) -> None:
        """Seed all generators, given the part of the epoch that follows."""
        key = (trainer.current_epoch, trainer.global_rank, phase)
        words = np.random.SeedSequence(self.seed, spawn_key=key).generate_state(3, np.uint64)
        random.seed(int(words[0]))
        # Transforms that users write may draw from NumPy's global generator.
        np.random.seed(int(words[1]) % 2**32)  # noqa: NPY002
        torch.manual_seed(int(words[2]))  # this seeds the generators of CUDA, too
