"""Callbacks for the trainer: figures during training, early stopping, reproducible epochs."""

import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from lfads_torch.analysis import figures as plots
from lfads_torch.data.trials import SessionDataset
from lfads_torch.errors import UserError
from lfads_torch.tuples import SessionBatch, SessionOutput
from lfads_torch.utils import send_batch_to_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")


# ------------------------------------------------------------------ figures


class FigureCallback(pl.Callback, ABC):
    """Draws figures while a model trains: every so many epochs, and after the last one.

    They become ``plots/{name}_epoch{E}.png`` under the trainer's ``default_root_dir``, E being the
    epoch as in the logs and checkpoints, and images in TensorBoard if there is such a logger. The
    final figures of a run, of its best checkpoint, are :func:`lfads_torch.analysis.figures.plot_run`'s.

    Training goes on exactly as without figures: the state of the random number generator and the
    mode of every module are restored, and a figure that fails is logged as a warning.

    Subclasses say which figures there are (:meth:`figures`), and nothing else.

    Parameters
    ----------
    log_every_n_epochs
        Draw in epochs 0, n, 2n, ….
    """

    def __init__(self, log_every_n_epochs: int = 100) -> None:
        if log_every_n_epochs < 1:
            raise UserError(
                f"{type(self).__name__}: log_every_n_epochs must be at least 1, but is "
                f"{log_every_n_epochs}."
            )
        self.log_every_n_epochs = log_every_n_epochs
        self._undrawn: int | None = None  # the latest epoch, unless its figures were drawn

    @abstractmethod
    def figures(
        self, trainer: pl.Trainer, model: pl.LightningModule
    ) -> Iterator[tuple[str, "Figure"]]:
        """Yield names of files (without epoch and suffix) and figures."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, if it is time."""
        self._undrawn = trainer.current_epoch
        if trainer.current_epoch % self.log_every_n_epochs == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last epoch."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        epoch, self._undrawn = self._undrawn, None
        # A fast_dev_run shall leave no files.
        if epoch is None or trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        try:
            for name, figure in self.figures(trainer, model):
                folder = Path(trainer.default_root_dir) / "plots"
                plots.save_figure(figure, folder / f"{name}_epoch{epoch:04d}.png")
                for tensorboard in trainer.loggers:
                    if isinstance(tensorboard, TensorBoardLogger):
                        tensorboard.experiment.add_figure(
                            name, figure, global_step=trainer.global_step
                        )
        except Exception:  # a figure is not worth a run
            logger.warning(
                "%s failed in epoch %d; training goes on:",
                type(self).__name__,
                epoch,
                exc_info=True,
            )


class RasterPlot(FigureCallback):
    """Draws data, rates and inputs of a few trials, see :func:`lfads_torch.analysis.figures.raster`.

    Parameters
    ----------
    split
        ``"train"``, ``"valid"`` or ``"test"``.
    n_samples
        Draw the first n trials, or all if there are fewer.
    log_every_n_epochs
        Draw in epochs 0, n, 2n, … and in the last one.
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
        for session, dataset in enumerate(_datasets(trainer, self.split)):
            trials = np.arange(min(self.n_samples, len(dataset)))
            shown = infer_trials(trainer, model, self.split, session, trials)
            figure = plots.raster(
                shown.data,
                _array(shown.output.output_params),
                truth=_array(shown.batch.truth),
                inferred_inputs=_array(shown.output.co_means),
                ext_input=_array(shown.batch.ext_input),
                title=_title(self.split, session),
                **plots.encoded_part(shown.batch.encod_data),
            )
            yield f"raster_{self.split}_sess{session}", figure


class PSTHPlot(FigureCallback):
    """Draws averages over conditions of data and rates, see :func:`lfads_torch.analysis.figures.psth`.

    Conditions are the data's ``{split}_cond_idx``, named among the data module's ``attr_keys`` or
    (as ``cond_idx``) its ``batch_keys``. There is no figure without.

    Parameters
    ----------
    split
        ``"train"``, ``"valid"`` or ``"test"``.
    n_channels
        Draw this many channels, the most active ones.
    log_every_n_epochs
        Draw in epochs 0, n, 2n, … and in the last one.
    max_trials
        Average over at most this many trials, evenly spread over all.
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
        """Yield a figure for each session."""
        for session, dataset in enumerate(_datasets(trainer, self.split)):
            conditions = _conditions(trainer, self.split, session)
            if conditions is None:
                continue
            trials = plots.spread(len(dataset), self.max_trials)
            shown = infer_trials(trainer, model, self.split, session, trials)
            figure = plots.psth(
                shown.data,
                _array(shown.output.output_params),
                conditions[trials],
                truth=_array(shown.batch.truth),
                n_channels=self.n_channels,
                title=_title(self.split, session),
                **plots.encoded_part(shown.batch.encod_data),
            )
            yield f"psth_{self.split}_sess{session}", figure


class TrajectoryPlot(FigureCallback):
    """Draws the factors of validation trials, see :func:`lfads_torch.analysis.figures.trajectories`.

    Parameters
    ----------
    log_every_n_epochs
        Draw in epochs 0, n, 2n, … and in the last one.
    max_trials
        Draw at most this many trials, evenly spread over all.
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
        for session, dataset in enumerate(_datasets(trainer, "valid")):
            trials = plots.spread(len(dataset), self.max_trials)
            conditions = _conditions(trainer, "valid", session)
            shown = infer_trials(trainer, model, "valid", session, trials)
            figure = plots.trajectories(
                _array(shown.output.factors),
                None if conditions is None else conditions[trials],
                title=_title("valid", session),
            )
            yield f"trajectories_valid_sess{session}", figure


class LossPlot(FigureCallback):
    """Draws the metrics that the trainer's CSVLogger has written, if it has one.

    So a resumed run shows what its ``metrics.csv`` holds, and nothing needs to be saved here.
    Training metrics of the very epoch are logged after it is drawn.
    """

    def figures(
        self, trainer: pl.Trainer, model: pl.LightningModule
    ) -> Iterator[tuple[str, "Figure"]]:
        """Yield one figure."""
        for csv_logger in trainer.loggers:
            if isinstance(csv_logger, CSVLogger):
                path = Path(csv_logger.log_dir) / "metrics.csv"
                if path.exists():
                    yield "losses", plots.losses(plots.read_metrics(path))
                return


class Shown(NamedTuple):
    """Trials of a session and what the model infers about them."""

    batch: SessionBatch
    """As in the data; NaN marks missing samples."""
    output: SessionOutput
    """Of the posterior means; ``output_params`` are means."""

    @property
    def data(self) -> NDArray[Any]:
        """(B, T, N) what is to be reconstructed, or what is encoded if there is nothing else."""
        recon, encod = self.batch.recon_data, self.batch.encod_data
        return _array(recon if recon.numel() else encod)


def infer_trials(
    trainer: pl.Trainer,
    model: pl.LightningModule,
    split: str,
    session: int,
    trials: NDArray[Any],
) -> Shown:
    """Infer from posterior means, and leave no trace in the model or the random number generators.

    Parameters
    ----------
    trainer, model
        At any time while the trainer runs; its data module has the trials.
    split, session, trials
        Which trials: indices into those of a split of a session.
    """
    batch, extras = _datasets(trainer, split)[session][torch.as_tensor(trials)]
    precision = trainer.precision_plugin
    on_device = precision.convert_input(send_batch_to_device((batch, extras), model.device))
    modes = {module: module.training for module in model.modules()}
    cuda = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.no_grad(), precision.forward_context():
        model.eval()
        try:
            output = model.predict_step({session: on_device}, 0, sample_posteriors=False)[session]
        finally:
            for module, mode in modes.items():
                module.training = mode
    return Shown(batch, output)


def _array(tensor: Any) -> Any:
    """Return a tensor as an array, and None as None."""
    return None if tensor is None else tensor.detach().cpu().float().numpy()


def _datasets(trainer: pl.Trainer, split: str) -> Sequence[SessionDataset]:
    """Return the trials of each session; none if the trainer has no BasicDataModule."""
    return getattr(getattr(trainer, "datamodule", None), f"{split}_ds", [])


def _conditions(trainer: pl.Trainer, split: str, session: int) -> NDArray[Any] | None:
    """Return the condition of each trial of a session, or None if the data do not say."""
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
    datasets = _datasets(trainer, split)
    hps = datamodule.hparams
    cond_idx = getattr(datamodule, f"{split}_cond_idx", None)
    if cond_idx is not None and len(datasets) > 1:
        cond_idx = cond_idx[session]
    elif cond_idx is None and "cond_idx" in hps.batch_keys:
        extra = datasets[session].extra_tensors[list(hps.batch_keys).index("cond_idx")]
        cond_idx = extra.numpy() if extra.numel() else None
    n_trials = len(datasets[session])
    if cond_idx is not None and hps.reshuffle_tv_seed is not None and len(cond_idx) != n_trials:
        return None  # indices of trials, which the data module has dealt out anew
    return plots.trial_conditions(cond_idx, n_trials)


def _title(split: str, session: int) -> str:
    return f"session {session}, {split} trials"


def _check_split(callback: pl.Callback, split: str) -> None:
    if split not in SPLITS:
        raise UserError(
            f"{type(callback).__name__}: split must be one of {', '.join(SPLITS)}, but is "
            f"{split!r}."
        )


# ------------------------------------------------------------------ training


class EarlyStoppingWithBurnInPeriod(EarlyStopping):
    """Early stopping that looks at no epoch before the end of a burn-in.

    While the penalties' ramps rise, the loss may well worsen: these epochs neither use up
    patience nor set the value to beat. A metric that does not exist is reported at once.

    Parameters
    ----------
    monitor
        Name of the metric.
    burn_in_period
        How many epochs to leave out: the first one that counts has this number.
    **kwargs
        Those of :class:`pytorch_lightning.callbacks.EarlyStopping`.
    """

    def __init__(self, monitor: str, burn_in_period: int = 0, **kwargs: Any) -> None:
        super().__init__(monitor, **kwargs)
        if burn_in_period < 0:
            raise UserError(
                f"EarlyStoppingWithBurnInPeriod: burn_in_period must be at least 0, but is "
                f"{burn_in_period}."
            )
        self.burn_in_period = burn_in_period

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check after a training epoch, if that is when to check."""
        if not self._burning_in(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check after validation, if that is when to check."""
        if not self._burning_in(trainer):
            super().on_validation_end(trainer, pl_module)

    def _burning_in(self, trainer: pl.Trainer) -> bool:
        known = self.monitor in trainer.callback_metrics
        return known and trainer.current_epoch < self.burn_in_period


class EpochSeed(pl.Callback):
    """Seeds all random number generators anew in every epoch, from a seed and its number.

    A generator's state is not in the checkpoint, so without this a resumed run would draw other
    dropout masks and posterior samples than the run that went on: 4 + 4 epochs would not be 8.
    Seeds depend on nothing but the arguments, the epoch and the process's rank.

    Parameters
    ----------
    seed
        At least 0. Runs with different seeds have unrelated streams.
    """

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise UserError(f"EpochSeed: seed must be at least 0, but is {seed}.")
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed for what happens before the first batch."""
        self._seed_everything(trainer, 0)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed for the epoch's batches.

        The trainer makes the loaders' iterators, which draw a number each, before the start of the
        first epoch of a fit and after that of later ones: hence once more, here.
        """
        if batch_idx == 0:
            self._seed_everything(trainer, 1)

    def _seed_everything(self, trainer: pl.Trainer, phase: int) -> None:
        key = (trainer.current_epoch, trainer.global_rank, phase)
        words = np.random.SeedSequence(self.seed, spawn_key=key).generate_state(3, np.uint64)
        random.seed(int(words[0]))
        np.random.seed(int(words[1]) % 2**32)  # noqa: NPY002 (transforms of users may draw from it)
        torch.manual_seed(int(words[2]))  # and CUDA


class LastCheckpoint(Checkpoint):
    """Saves ``last.ckpt`` after every epoch, for a ModelCheckpoint whose ``save_last`` is true.

    Lightning 2.6 does so only after an epoch that is among the best, so that a run that was
    interrupted would go on from its best epoch rather than from its last one.

    Parameters
    ----------
    of
        The callback that keeps the best checkpoint.
    """

    def __init__(self, of: ModelCheckpoint) -> None:
        self.of = of
        self._best = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the best epoch of a run that goes on."""
        self._best = self.of.best_model_path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, unless the epoch is the best so far, which the other callback has just saved."""
        before, self._best = self._best, self.of.best_model_path
        if trainer.fast_dev_run or not self.of.dirpath or self._best != before:  # type: ignore[attr-defined]
            return
        path = Path(self.of.dirpath, f"{self.of.CHECKPOINT_NAME_LAST}{self.of.FILE_EXTENSION}")
        self.of.last_model_path = str(path)
        trainer.save_checkpoint(path)


# ------------------------------------------------------------------ trials of a sweep


class ApplyHyperparameters(pl.Callback):
    """Trains on with the model's own hyperparameters, where a checkpoint brings others along.

    The state of an optimiser, and of a learning-rate scheduler, holds their settings, so a model
    that continues from the checkpoint of another would go on with that one's. Here the moments
    are kept and the settings replaced; a learning rate that a scheduler has lowered keeps its
    ratio to ``lr_init``. Parameters that are not trained (a prior's variance) are settings too.
    """

    def __init__(self) -> None:
        self._lr_init: float | None = None
        self._fixed: dict[str, torch.Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take note of the parameters that are not trained, before a checkpoint is loaded."""
        self._fixed = {
            name: parameter.detach().clone()
            for name, parameter in pl_module.named_parameters()
            if not parameter.requires_grad
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore them, and take note of where the learning rate of the checkpoint began."""
        self._lr_init = checkpoint["hyper_parameters"]["lr_init"]
        parameters = dict(pl_module.named_parameters())
        for name, value in self._fixed.items():
            parameters[name].data.copy_(value)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the settings."""
        if self._lr_init is None:
            return
        made: Any = pl_module.configure_optimizers()
        optimizer = made["optimizer"] if isinstance(made, dict) else made
        for group, new in zip(
            trainer.optimizers[0].param_groups, optimizer.param_groups, strict=True
        ):
            rate = (
                new["lr"]
                if group["lr"] == self._lr_init
                else group["lr"] * (new["lr"] / self._lr_init)
            )
            group.update({key: value for key, value in new.items() if key != "params"}, lr=rate)
        for config in trainer.lr_scheduler_configs:
            fresh = made["lr_scheduler"]["scheduler"]
            for name in ("factor", "patience", "min_lrs"):
                setattr(config.scheduler, name, getattr(fresh, name))


class EpochHistory(Logger):
    """Keeps the metrics of every epoch: ``rows[epoch][name]``.

    Hyperparameters (``hp/…``) are left out, being the same in every epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "history"

    @property
    def version(self) -> str:
        """Version of the logger: it has none."""
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add metrics to the row of their epoch."""
        if "epoch" in metrics:
            row = self.rows.setdefault(int(metrics["epoch"]), {})
            kept = {name: v for name, v in metrics.items() if not name.startswith("hp/")}
            row.update({name: float(value) for name, value in kept.items()})


class Stopwatch(pl.Callback):
    """Measures how many seconds the epochs take, from the first batch to the end of validation."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        self.seconds += time.perf_counter() - self._start
