"""Makes a trained model from a configuration: build → train → restore best weights → sample."""

import contextlib
import functools
import os
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
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lfads_torch.checkpoints import load_weights
from lfads_torch.data.windows.merge import is_chopped, merge_file
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.errors import UserError
from lfads_torch.model import LFADS
from lfads_torch.running.callbacks import EpochSeed, LastCheckpoint, MovedCheckpoints
from lfads_torch.running.compose import compose
from lfads_torch.running.loggers import make_loggers
from lfads_torch.running.run_folder import checkpoint_in_folder


@dataclass
class Run:
    """A run in memory, and the files that it has written."""

    model: LFADS
    """The model. After training it has its best weights, if the configuration says so."""
    datamodule: pl.LightningDataModule
    """The data."""
    trainer: pl.Trainer | None = None
    """The trainer; None before training."""
    best_checkpoint: Path | None = None
    """The checkpoint whose weights were restored after training."""
    output_files: list[Path] = field(default_factory=list)
    """The files that posterior sampling wrote, one for each session."""
    continuous_files: list[Path] = field(default_factory=list)
    """Outputs of chopped recordings, merged to continuous ones."""


def run_model(
    overrides: Mapping[str, Any] | Sequence[str] = (),
    checkpoint_dir: str | Path | None = None,
    config_path: str | Path = "../configs/single.yaml",
    do_train: bool = True,
    do_posterior_sample: bool = True,
) -> Run:
    """Train a model and sample its posteriors; relative output paths are in the current folder.

    Parameters
    ----------
    overrides
        Changes of the configuration: a nested or dotted dictionary, or Hydra's ``key=value``
        strings.
    checkpoint_dir
        A checkpoint to start from: a file, or a folder that holds exactly one.
    config_path
        The primary configuration: absolute, relative to the current folder, or relative to this
        package; see :func:`lfads_torch.running.compose.find_config`.
    do_train
        Whether to train, starting from the checkpoint if there is one.
    do_posterior_sample
        Whether to sample the posteriors, with the best weights if the configuration says so.

    Returns
    -------
    Run
        The model, the data, the trainer and the files.

    Raises
    ------
    UserError
        If the configuration, the data or the checkpoint are missing or invalid.
    """
    config = compose(config_path, overrides)
    checkpoint = None if checkpoint_dir is None else checkpoint_in_folder(checkpoint_dir)
    run = build(config)
    if do_train:
        fit(config, run, checkpoint)
    elif checkpoint is not None:
        load_weights(run.model, checkpoint)
    if do_posterior_sample:
        sample(config, run)
    return run


def prepare(config: DictConfig) -> Run:
    """Build the model and read the data, so that mistakes are found before a folder is made.

    Raises
    ------
    UserError
        If the model cannot be built or the data cannot be read.
    """
    run = build(config)
    if isinstance(run.datamodule, BasicDataModule):  # it reads the files only once
        run.datamodule.setup("fit")
    return run


def build(config: DictConfig) -> Run:
    """Seed the random number generators, and make the data module and the untrained model.

    Raises
    ------
    UserError
        If one of them refuses its arguments.
    """
    _ignore_irrelevant_warnings()
    _seed(config)
    datamodule = _instantiate(config.datamodule, "datamodule")
    return Run(model=_instantiate(config.model, "model"), datamodule=datamodule)


def fit(config: DictConfig, run: Run, checkpoint: Path | None = None) -> None:
    """Train with :func:`train`, and restore the best weights if the configuration says so.

    Parameters
    ----------
    config, run, checkpoint
        See :func:`train`.
    """
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
    """Train, and return the trainer.

    Parameters
    ----------
    config
        The configuration, whose trainer, callbacks and loggers are made here. Relative paths in it
        are in the current folder, see :func:`lfads_torch.running.paths.placed_in`.
    run
        The run that :func:`build` returned. Its model is trained in place.
    checkpoint
        A checkpoint to continue from.
    callbacks, loggers
        Further callbacks and loggers, in addition to those of the configuration.
    """
    loggers = [*make_loggers(config, checkpoint), *loggers]
    configured = [
        _instantiate(node, f"callbacks.{name}")
        for name, node in (config.get("callbacks") or {}).items()
    ]
    callbacks = [*configured, *callbacks]
    saving_last = [c for c in callbacks if isinstance(c, ModelCheckpoint) and c.save_last is True]
    callbacks.extend(LastCheckpoint(callback) for callback in saving_last)
    if config.get("seed") is not None:
        callbacks.append(EpochSeed(config.seed))
    if checkpoint is not None:
        callbacks.append(MovedCheckpoints(checkpoint))
    trainer: pl.Trainer = _instantiate(
        config.trainer, "trainer", callbacks=callbacks, logger=loggers
    )
    run.trainer = trainer
    trainer.fit(run.model, run.datamodule, ckpt_path=checkpoint)
    return trainer


def sample(config: DictConfig, run: Run) -> None:
    """Sample the posteriors with the configuration's options, and merge windows of recordings.

    The random number generators are seeded first, so that a resumed run draws the same samples as
    an uninterrupted one.
    """
    _seed(config)
    run.model.to(_device(config))
    node = config.posterior_sampling.fn
    with _causes_of_user_errors():
        files = call(node, model=run.model, datamodule=run.datamodule, _convert_="all")
        # Published configurations make the function (_partial_: true) rather than call it.
        if isinstance(files, functools.partial):
            files = files()
    run.output_files = list(files or [])
    run.continuous_files = [merge_file(path) for path in run.output_files if is_chopped(path)]


def training_summary(run: Run, seconds: float, run_dir: Path) -> dict[str, Any]:
    """Return the entries of a run's summary that concern training.

    Parameters
    ----------
    run
        The run after training.
    seconds
        How long training took.
    run_dir
        The folder of the run. The path of the best checkpoint is relative to it.
    """
    checkpoint, trainer = run.best_checkpoint, run.trainer
    callback = getattr(trainer, "checkpoint_callback", None)
    score = getattr(callback, "best_model_score", None)
    best = None if checkpoint is None else os.path.relpath(checkpoint.resolve(), run_dir.resolve())
    return {
        "epochs": trainer.current_epoch if trainer else 0,
        "training_seconds": round(seconds, 1),
        "best_checkpoint": best,
        "monitor": getattr(callback, "monitor", None),
        "best_score": None if score is None else float(score),
    }


def _seed(config: DictConfig) -> None:
    """Seed the generators of Python, NumPy and PyTorch, if the configuration has a seed."""
    if config.get("seed") is not None:
        pl.seed_everything(config.seed, workers=True, verbose=False)


def _device(config: DictConfig) -> str:
    """Return the device that belongs to the trainer's accelerator."""
    accelerator = str(config.get("trainer", {}).get("accelerator", "auto"))
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def _instantiate(node: DictConfig, key: str, **arguments: Any) -> Any:
    """Make the object that a configuration describes.

    Raises
    ------
    UserError
        If its class refuses the arguments, with the reason that the class gives.
    """
    try:
        with _causes_of_user_errors():
            return instantiate(node, _convert_="all", **arguments)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError | OSError | MisconfigurationException):
            raise UserError(
                f"{key} ({node.get('_target_')}) cannot be made: {error.__cause__}"
            ) from error
        raise


@contextlib.contextmanager
def _causes_of_user_errors() -> Iterator[None]:
    """Raise a constructor's UserError without the description that Hydra adds."""
    try:
        yield
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


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
    load_weights(run.model, path)


def _ignore_irrelevant_warnings() -> None:
    """Silence advice of Lightning that does not apply to data in memory."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*is smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*treespec.*is deprecated.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
