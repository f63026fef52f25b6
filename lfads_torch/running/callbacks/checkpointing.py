"""A checkpoint of the last epoch, from which a run can be resumed."""

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint


class LastCheckpoint(Checkpoint):
    """Saves ``last.ckpt`` after every epoch, for a ModelCheckpoint whose ``save_last`` is true.

    Lightning 2.6 does so only after an epoch that is among the best ones. A run that was
    interrupted would then continue from its best epoch rather than from its last one.

    Parameters
    ----------
    of
        The callback that keeps the best checkpoint.
    """

    def __init__(self, of: ModelCheckpoint) -> None:
        self.of = of
        self._best_path = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the best checkpoint so far, which a resumed run already has."""
        self._best_path = self.of.best_model_path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the model, unless the other callback has just done so because it is the best."""
        previous, self._best_path = self._best_path, self.of.best_model_path
        has_improved = self._best_path != previous
        if trainer.fast_dev_run or not self.of.dirpath or has_improved:  # type: ignore[attr-defined]
            return
        path = Path(self.of.dirpath, f"{self.of.CHECKPOINT_NAME_LAST}{self.of.FILE_EXTENSION}")
        self.of.last_model_path = str(path)
        trainer.save_checkpoint(path)
