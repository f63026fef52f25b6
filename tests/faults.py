"""Faults that trials of a sweep are given by configuration, to see it survive them."""

import errno
import os
import signal
from pathlib import Path

import pytorch_lightning as pl
import torch


class Fault(pl.Callback):
    """Goes wrong in one trial, at one epoch.

    Parameters
    ----------
    trial
        Its number.
    epoch
        Its epoch.
    how
        ``kill`` (-9, of the process, once), ``diverge`` (a weight becomes NaN), ``disk`` (full when
        a checkpoint is written).
    marker
        A file that says that it has happened.
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
        # A trial works in a folder that is named after it.
        this = Path.cwd().name.endswith(f"_{self.trial:05d}")
        return this and trainer.current_epoch >= self.epoch
