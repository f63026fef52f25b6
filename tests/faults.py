"""Faults for trials of a sweep, with which tests check that the sweep survives them."""

import errno
import os
import signal
from pathlib import Path

import pytorch_lightning as pl
import torch


class Fault(pl.Callback):
    """A fault in one trial, from one epoch on.

    Parameters
    ----------
    trial
        The number of the trial.
    epoch
        The epoch.
    how
        ``kill`` (the process gets signal 9, once), ``diverge`` (a weight becomes NaN, once) or
        ``disk`` (the disk is full whenever a checkpoint is written).
    marker
        A file that is made when the fault happens.
    """

    def __init__(self, trial: int, epoch: int, how: str, marker: str) -> None:
        self.trial = trial
        self.epoch = epoch
        self.how = how
        self.marker = Path(marker)

    def on_train_epoch_start(self, trainer, pl_module):
        if not self._due(trainer) or self.marker.exists():
            return
        if self.how == "diverge":
            self.marker.touch()
            with torch.no_grad():
                pl_module.decoder.ic_to_g0.bias.fill_(torch.nan)
        elif self.how == "kill":
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        if self.how == "disk" and self._due(trainer):
            self.marker.touch()
            raise OSError(errno.ENOSPC, "No space left on device")

    def _due(self, trainer):
        # The folder of a trial is named after it.
        this = Path(trainer.default_root_dir).name.endswith(f"_{self.trial:05d}")
        return this and trainer.current_epoch >= self.epoch
