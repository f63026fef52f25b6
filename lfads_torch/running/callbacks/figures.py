"""Figures that are drawn while a model trains."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lfads_torch.analysis import figures
from lfads_torch.errors import UserError
from lfads_torch.running.callbacks.trials import (
    as_array,
    conditions_of,
    datasets_of,
    infer_trials,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")


class FigureCallback(pl.Callback, ABC):
    """Draws figures while a model trains: every few epochs, and after the last one.

    They are written to ``plots/{name}_epoch{E}.png`` in the trainer's ``default_root_dir``, where E
    is the epoch as in logs and names of checkpoints, and sent to TensorBoard if it is among the
    loggers. The final figures of a run, which show its best checkpoint, are drawn by
    :func:`lfads_torch.analysis.figures.plot_run`.

    Training continues exactly as it would without figures: the state of the random number
    generators and the mode of every module are restored, and a figure that fails is logged as a
    warning.

    A subclass defines :meth:`figures`, and must not override anything else.

    Parameters
    ----------
    log_every_n_epochs
        Draw in epochs 0, n, 2n, … and in the last one.

    Raises
    ------
    UserError
        If ``log_every_n_epochs`` is less than 1.
    """

    def __init__(self, log_every_n_epochs: int = 100) -> None:
        if log_every_n_epochs < 1:
            raise UserError(
                f"{type(self).__name__}: log_every_n_epochs must be at least 1, but is "
                f"{log_every_n_epochs}."
            )
        self.log_every_n_epochs = log_every_n_epochs
        self._epoch_to_draw: int | None = None  # the latest epoch, until its figures are drawn

    @abstractmethod
    def figures(
        self, trainer: pl.Trainer, model: pl.LightningModule
    ) -> Iterator[tuple[str, "Figure"]]:
        """Yield names of files (without the epoch and the suffix) and figures."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the figures if they are due in this epoch."""
        self._epoch_to_draw = trainer.current_epoch
        if trainer.current_epoch % self.log_every_n_epochs == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the figures of the last epoch, unless they have been drawn."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        epoch, self._epoch_to_draw = self._epoch_to_draw, None
        # fast_dev_run writes no files.
        if epoch is None or trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        folder = Path(trainer.default_root_dir) / "plots"
        try:
            for name, figure in self.figures(trainer, model):
                figures.save_figure(figure, folder / f"{name}_epoch{epoch:04d}.png")
                for tensorboard in trainer.loggers:
                    if isinstance(tensorboard, TensorBoardLogger):
                        tensorboard.experiment.add_figure(
                            name, figure, global_step=trainer.global_step
                        )
        except Exception:  # An error in a figure must not stop training.
            logger.warning(
                "%s failed in epoch %d; training continues:",
                type(self).__name__,
                epoch,
                exc_info=True,
            )


class RasterPlot(FigureCallback):
    """Draws the data, the rates and the inputs of a few trials of each session.

    See :func:`lfads_torch.analysis.figures.raster`.

    Parameters
    ----------
    split
        ``"train"``, ``"valid"`` or ``"test"``.
    n_samples
        Draw the first n trials, or all of them if there are fewer.
    log_every_n_epochs
        Draw in epochs 0, n, 2n, … and in the last one.

    Raises
    ------
    UserError
        If there is no such split, or a number is less than 1.
    """

    def __init__(
        self, split: str = "valid", n_samples: int = 3, log_every_n_epochs: int = 100
    ) -> None:
        super().__init__(log_every_n_epochs)
        _check_split(self, split)
        if n_samples < 1:
            raise UserError(f"RasterPlot: n_samples must be at least 1, but is {n_samples}.")
        self.split = split
        self.n_samples = n_samples

    def figures(
        self, trainer: pl.Trainer, model: pl.LightningModule
    ) -> Iterator[tuple[str, "Figure"]]:
        """Yield a figure for each session."""
        for session, dataset in enumerate(datasets_of(trainer, self.split)):
            trials = np.arange(min(self.n_samples, len(dataset)))
            inferred = infer_trials(trainer, model, self.split, session, trials)
            figure = figures.raster(
                inferred.data,
                as_array(inferred.output.output_params),
                truth=as_array(inferred.batch.truth),
                inferred_inputs=as_array(inferred.output.co_means),
                ext_input=as_array(inferred.batch.ext_input),
                title=_title(self.split, session),
                **figures.encoded_sizes(inferred.batch.encod_data),
            )
            yield f"raster_{self.split}_sess{session}", figure


class PSTHPlot(FigureCallback):
    """Draws the averages of data and of rates over the trials of each condition.

    See :func:`lfads_torch.analysis.figures.psth`. The conditions are the data's
    ``{split}_cond_idx``, which has to be named among the data module's ``attr_keys`` or, as
    ``cond_idx``, among its ``batch_keys``. Without conditions no figure is drawn.

    Parameters
    ----------
    split
        ``"train"``, ``"valid"`` or ``"test"``.
    n_channels
        Draw this number of channels, namely those with the highest means.
    log_every_n_epochs
        Draw in epochs 0, n, 2n, … and in the last one.
    max_trials
        Average over at most this number of trials, evenly spaced over all.

    Raises
    ------
    UserError
        If there is no such split, or a number is less than 1.
    """

    def __init__(
        self,
        split: str = "valid",
        n_channels: int = 5,
        log_every_n_epochs: int = 100,
        max_trials: int = 256,
    ) -> None:
        super().__init__(log_every_n_epochs)
        _check_split(self, split)
        if min(n_channels, max_trials) < 1:
            raise UserError(
                f"PSTHPlot: n_channels and max_trials must be at least 1, but are {n_channels} and "
                f"{max_trials}."
            )
        self.split = split
        self.n_channels = n_channels
        self.max_trials = max_trials

    def figures(
        self, trainer: pl.Trainer, model: pl.LightningModule
    ) -> Iterator[tuple[str, "Figure"]]:
        """Yield a figure for each session that has conditions."""
        for session, dataset in enumerate(datasets_of(trainer, self.split)):
            conditions = conditions_of(trainer, self.split, session)
            if conditions is None:
                continue
            trials = figures.evenly_spaced_trials(len(dataset), self.max_trials)
            inferred = infer_trials(trainer, model, self.split, session, trials)
            figure = figures.psth(
                inferred.data,
                as_array(inferred.output.output_params),
                conditions[trials],
                truth=as_array(inferred.batch.truth),
                n_channels=self.n_channels,
                title=_title(self.split, session),
                **figures.encoded_sizes(inferred.batch.encod_data),
            )
            yield f"psth_{self.split}_sess{session}", figure


class TrajectoryPlot(FigureCallback):
    """Draws the factors of validation trials in their first principal components.

    See :func:`lfads_torch.analysis.figures.trajectories`.

    Parameters
    ----------
    log_every_n_epochs
        Draw in epochs 0, n, 2n, … and in the last one.
    max_trials
        Draw at most this number of trials, evenly spaced over all.

    Raises
    ------
    UserError
        If a number is less than 1.
    """

    def __init__(self, log_every_n_epochs: int = 100, max_trials: int = 100) -> None:
        super().__init__(log_every_n_epochs)
        if max_trials < 1:
            raise UserError(f"TrajectoryPlot: max_trials must be at least 1, but is {max_trials}.")
        self.max_trials = max_trials

    def figures(
        self, trainer: pl.Trainer, model: pl.LightningModule
    ) -> Iterator[tuple[str, "Figure"]]:
        """Yield a figure for each session."""
        for session, dataset in enumerate(datasets_of(trainer, "valid")):
            trials = figures.evenly_spaced_trials(len(dataset), self.max_trials)
            conditions = conditions_of(trainer, "valid", session)
            inferred = infer_trials(trainer, model, "valid", session, trials)
            figure = figures.trajectories(
                as_array(inferred.output.factors),
                None if conditions is None else conditions[trials],
                title=_title("valid", session),
            )
            yield f"trajectories_valid_sess{session}", figure


class LossPlot(FigureCallback):
    """Draws the metrics that the trainer's CSVLogger has written, if it has such a logger.

    See :func:`lfads_torch.analysis.figures.losses`. Since the metrics are read from the file, a
    resumed run also shows those of the run before it. The training metrics of the epoch in which
    the figure is drawn are logged only later, and are not shown.
    """

    def figures(
        self, trainer: pl.Trainer, model: pl.LightningModule
    ) -> Iterator[tuple[str, "Figure"]]:
        """Yield one figure."""
        for csv_logger in trainer.loggers:
            if isinstance(csv_logger, CSVLogger):
                path = Path(csv_logger.log_dir) / "metrics.csv"
                if path.exists():
                    yield "losses", figures.losses(figures.read_metrics(path))
                return


def _title(split: str, session: int) -> str:
    """Return the title of a figure."""
    return f"session {session}, {split} trials"


def _check_split(callback: pl.Callback, split: str) -> None:
    """Refuse a split that does not exist."""
    if split not in SPLITS:
        raise UserError(
            f"{type(callback).__name__}: split must be one of {', '.join(SPLITS)}, but is "
            f"{split!r}."
        )
