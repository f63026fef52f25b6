"""The metrics and the duration of epochs, kept in memory for a tuning run."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger


class EpochHistory(Logger):
    """A logger that keeps the metrics of every epoch in memory, as ``rows[epoch][name]``.

    Hyperparameters (``hp/…``) are left out, since they are the same in every epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    @property
    def name(self) -> str:
        """The name of the logger."""
        return "history"

    @property
    def version(self) -> str:
        """The version of the logger, which is empty."""
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing, since hyperparameters are not kept."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add metrics to the row of their epoch."""
        if "epoch" in metrics:
            row = self.rows.setdefault(int(metrics["epoch"]), {})
            row.update(
                {
                    name: float(value)
                    for name, value in metrics.items()
                    if not name.startswith("hp/")
                }
            )


class Stopwatch(pl.Callback):
    """Measures the duration of epochs, from the first batch to the end of validation.

    ``seconds`` is the sum over all epochs.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the watch."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the watch and add the duration of the epoch."""
        self.seconds += time.perf_counter() - self._start
