"""A configuration becomes a trained model: compose → build → fit → sample."""

import contextlib
import csv
import functools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import call, instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger

from lfads_torch.checkpoints import load_checkpoint
from lfads_torch.data.windows.merge import is_chopped, merge_file
from lfads_torch.errors import MissingFileError, UserError
from lfads_torch.model import LFADS
from lfads_torch.running.callbacks import EpochSeed, LastCheckpoint
from lfads_torch.running.compose import compose

log = logging.getLogger(__name__)


@dataclass
class Run:
    """What a run has in memory, and the files it left."""

    model: LFADS
    datamodule: pl.LightningDataModule
    trainer: pl.Trainer | None = None
    best_checkpoint: Path | None = None
    output_files: list[Path] = field(default_factory=list)
    continuous_files: list[Path] = field(default_factory=list)


def run_model(
    overrides: Mapping[str, Any] | Sequence[str] = (),
    checkpoint_dir: str | Path | None = None,
    config_path: str | Path = "../configs/single.yaml",
    do_train: bool = True,
    do_posterior_sample: bool = True,
) -> Run:
    """Train a model and sample its posteriors, in the current folder.

    Parameters
    ----------
    overrides
        Of the configuration: a nested or dotted dictionary, or Hydra's ``key=value`` strings.
    checkpoint_dir
        A checkpoint to start from: a file, or a folder that holds one.
    config_path
        The primary configuration: absolute, relative to the current folder, or relative to this
        package; see :func:`lfads_torch.running.compose.compose`.
    do_train
        Train, continuing from the checkpoint if there is one.
    do_posterior_sample
        Sample the posteriors, of the best model if the configuration says so.

    Returns
    -------
    Run
        The model with its best weights, and the files.

    Raises
    ------
    FileNotFoundError, ValueError
        If the configuration, the data or the checkpoint are not usable.
    """
    config = compose(config_path, overrides)
    checkpoint = None if checkpoint_dir is None else find_checkpoint(checkpoint_dir)
    run = build(config)
    if do_train:
        fit(config, run, checkpoint)
    elif checkpoint is not None:
        run.model.load_state_dict(load_checkpoint(checkpoint)["state_dict"])
    if do_posterior_sample:
        sample(config, run)
    return run


def find_checkpoint(path: str | Path) -> Path:
    """Return a checkpoint file, given itself or a folder that holds no other.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If the folder holds several: which is meant has to be said.
    """
    path = Path(path).absolute()
    if path.is_file():
        return path
    found = sorted(path.glob("*.ckpt"))
    if not found:
        raise MissingFileError(f"checkpoint_dir = {path} is no file and holds no .ckpt file.")
    if len(found) > 1:
        raise UserError(
            f"checkpoint_dir = {path} holds {len(found)} checkpoints: name one of "
            f"{[file.name for file in found]}."
        )
    return found[0]


def build(config: DictConfig) -> Run:
    """Seed, and make the data module and the model with its initial weights."""
    _quieten()
    if config.get("seed") is not None:
        pl.seed_everything(config.seed, workers=True, verbose=False)
    with _errors_as_they_are():
        return Run(
            datamodule=instantiate(config.datamodule, _convert_="all"),
            model=instantiate(config.model, _convert_="all"),
        )


def fit(config: DictConfig, run: Run, checkpoint: Path | None = None) -> None:
    """Train, continuing from a checkpoint if there is one, and load the best weights."""
    train(config, run, checkpoint)
    if config.posterior_sampling.use_best_ckpt:
        _restore_best(run)


def train(
    config: DictConfig,
    run: Run,
    checkpoint: Path | None = None,
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[Logger] = (),
) -> pl.Trainer:
    """Train, continuing from a checkpoint if there is one, and return the trainer.

    Parameters
    ----------
    callbacks, loggers
        Beside those of the configuration.
    """
    loggers = [*_make_loggers(config, checkpoint), *loggers]
    nodes = (config.get("callbacks") or {}).values()
    callbacks = [*(instantiate(node, _convert_="all") for node in nodes), *callbacks]
    keeping = [c for c in callbacks if isinstance(c, ModelCheckpoint) and c.save_last is True]
    callbacks.extend(LastCheckpoint(callback) for callback in keeping)
    if config.get("seed") is not None:
        callbacks.append(EpochSeed(config.seed))
    trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers, _convert_="all")
    run.trainer = trainer
    trainer.fit(run.model, run.datamodule, ckpt_path=checkpoint)
    return trainer


def sample(config: DictConfig, run: Run) -> None:
    """Sample the posteriors as the configuration says, and merge windows of recordings."""
    # A run that was interrupted draws the same samples as one that was not.
    if config.get("seed") is not None:
        pl.seed_everything(config.seed, workers=True, verbose=False)
    run.model.to(_device(config))
    node = config.posterior_sampling.fn
    with _errors_as_they_are():
        files = call(node, model=run.model, datamodule=run.datamodule, _convert_="all")
    # Published configurations give the function rather than call it.
    run.output_files = list((files() if isinstance(files, functools.partial) else files) or [])
    run.continuous_files = [merge_file(path) for path in run.output_files if is_chopped(path)]


def _device(config: DictConfig) -> str:
    """Return the device that the trainer's accelerator stands for."""
    accelerator = str(config.get("trainer", {}).get("accelerator", "auto"))
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


@contextlib.contextmanager
def _errors_as_they_are() -> Iterator[None]:
    """Say to the user what a class says of its arguments, without Hydra's account of the call."""
    try:
        yield
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError | OSError):
            raise error.__cause__ from None
        raise


def _make_loggers(config: DictConfig, checkpoint: Path | None) -> list[Logger]:
    """Make the loggers; one that fails is left out, with a warning, and training goes on."""
    loggers: list[Logger] = []
    for name, node in (config.get("logger") or {}).items():
        try:
            logger = instantiate(node, _convert_="all")
            if type(logger) is CSVLogger:
                _keep_rows(logger, checkpoint)
            _ = logger.experiment
        except Exception as error:
            warnings.warn(
                f"logger.{name} ({node.get('_target_')}) cannot be used, and training goes on "
                f"without it: {error}",
                stacklevel=2,
            )
        else:
            loggers.append(logger)
    return loggers


def _keep_rows(logger: CSVLogger, checkpoint: Path | None) -> None:
    """Keep the rows of a run that is resumed, up to its checkpoint; Lightning deletes them all."""
    path = Path(logger.log_dir) / "metrics.csv"
    if not path.is_file():
        return
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows, names = list(reader), list(reader.fieldnames or [])
    step = load_checkpoint(checkpoint)["global_step"] if checkpoint else 0
    # A kill may have cut the last row short.
    kept = [row for row in rows if (row.get("step") or "").isdigit() and int(row["step"]) < step]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*directory .* exists and is not empty.*")
        writer = logger.experiment
    if kept:
        writer.metrics_keys = names
        writer.metrics = [{key: row[key] or None for key in names} for row in kept]
        writer.save()


def _restore_best(run: Run) -> None:
    """Load the weights of the best epoch by the monitored metric."""
    callback = run.trainer.checkpoint_callback if run.trainer else None
    path = Path(getattr(callback, "best_model_path", "") or "")
    if not path.is_file():
        warnings.warn(
            "There is no best checkpoint to restore (callbacks.checkpoint with a monitored metric "
            "makes one): the last weights are used.",
            stacklevel=2,
        )
        return
    run.best_checkpoint = path
    run.model.load_state_dict(load_checkpoint(path)["state_dict"])


def _quieten() -> None:
    """Silence advice of Lightning that does not apply to data that are in memory."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*is smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*treespec.*is deprecated.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
