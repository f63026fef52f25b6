"""Finds the checkpoints of a run whose folder has been moved or renamed."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint


class MovedCheckpoints(pl.Callback):
    """Lets checkpoint callbacks find their files in the folder where they are now.

    A :class:`~pytorch_lightning.callbacks.ModelCheckpoint` saves the absolute paths of its files,
    and forgets its best score if the path of its folder has changed. This callback changes the
    paths to those in the present folder, provided that the checkpoint lies in it: then the folder
    was moved, and the run continues in the new place. A checkpoint elsewhere belongs to another
    run, whose best score does not count.

    Parameters
    ----------
    checkpoint
        The checkpoint that training continues from.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Change the paths, before the callbacks load their states."""
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if not isinstance(callback, ModelCheckpoint) or not state or not callback.dirpath:
                continue
            folder = Path(callback.dirpath)
            if self.checkpoint.resolve().parent == folder and state.get("dirpath"):
                checkpoint["callbacks"][callback.state_key] = {
                    key: _moved(value, Path(state["dirpath"]), folder)
                    for key, value in state.items()
                }


def _moved(value: Any, old: Path, new: Path) -> Any:
    """Replace the folder of a path, or of the paths that are a dictionary's keys."""
    if isinstance(value, dict):
        return {_moved(key, old, new): score for key, score in value.items()}
    if isinstance(value, str) and value and Path(value).is_relative_to(old):
        return str(new / Path(value).relative_to(old))
    return value
