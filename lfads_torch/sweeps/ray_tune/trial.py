"""One model of a sweep, as Ray trains it."""

import logging
import math
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from ray import tune

from lfads_torch.checkpoints import load_checkpoint
from lfads_torch.checks import NonFiniteLossError
from lfads_torch.files import written_atomically
from lfads_torch.running.callbacks import ApplyHyperparameters, EpochHistory, Stopwatch
from lfads_torch.running.compose import compose
from lfads_torch.running.paths import placed_in
from lfads_torch.running.training import build, train
from lfads_torch.sweeps.compose import checkpoint_callbacks
from lfads_torch.sweeps.history import hyperparameters
from lfads_torch.sweeps.results import (
    BEST_CHECKPOINT,
    BEST_SCORE,
    DIVERGED,
    EPOCH,
    LAST_CHECKPOINT,
)
from lfads_torch.sweeps.tournament import next_boundary

log = logging.getLogger(__name__)

OWNER_FILE = "owner"
"""File in the folder of a trial that names the process that works there."""


@dataclass(frozen=True)
class TrialSettings:
    """What all trials of a sweep have in common."""

    config: str
    """YAML text of the configuration with which hyperparameters are composed."""
    first: int
    """Epoch of the first tournament."""
    every: int
    """Epochs between two tournaments."""
    metric: str
    """The metric by which trials are compared."""
    mode: str
    """``"min"`` if the lowest metric is best, ``"max"`` if the highest one is."""
    population: bool
    """Whether a trial that has diverged takes over the model of another trial."""
    id: str
    """Distinguishes the sweep from all others."""


# The saved state of a search names this class, so that it cannot be renamed.
class LFADSTrial(tune.Trainable):  # type: ignore[misc]
    """One model of a sweep.

    A step trains up to the next boundary (:func:`~lfads_torch.sweeps.tournament.next_boundary`). It
    begins with the checkpoint that was saved or loaded last. Each trial has its own folder for its
    files; the working folder of the process does not change.

    Ray calls the methods, with the settings that
    :func:`~lfads_torch.sweeps.ray_tune.runner.run_trials` gives.
    """

    def setup(self, config: dict[str, Any], settings: TrialSettings) -> None:
        """Begin the first trial of a process."""
        self.settings = settings
        self.token = uuid.uuid4().hex
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial, from its first epoch unless a checkpoint is loaded next."""
        self.cleanup()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        """Begin a trial, without files and without a checkpoint."""
        self.config = config
        # The path is the same on every node, because checkpoint callbacks save absolute paths.
        name = f"lfads_torch_{self.settings.id}_{self.trial_id}"
        self.folder = Path(tempfile.gettempdir(), name)
        self.has_folder = False
        self.files_to_save = [LAST_CHECKPOINT]

    def step(self) -> dict[str, Any]:
        """Train up to the next boundary.

        Returns
        -------
        dict
            The metrics of the last epoch (of a metric that is not logged in every epoch, the last
            value in this step), ``cur_epoch`` (how many epochs the trial has been trained for),
            ``best_score`` and ``best_checkpoint`` (if a callback keeps the best model), ``history``
            (the metrics of every epoch), ``train_seconds`` (of the epochs) and ``done``. If the
            loss became infinite or not a number: ``diverged``, with an infinite score.
        """
        if not self.has_folder:
            self._take_folder()
        config = self._compose()
        last = self.folder / LAST_CHECKPOINT
        start = load_checkpoint(last)["epoch"] if last.is_file() else 0
        limit = config.trainer.get("max_epochs")
        max_epochs = math.inf if limit is None or limit < 0 else limit
        boundary = next_boundary(start, self.settings.first, self.settings.every)
        target = int(min(boundary, max_epochs))
        config.trainer.max_epochs = target
        history, stopwatch = EpochHistory(), Stopwatch()
        run = build(config)
        try:
            trainer = train(
                config,
                run,
                last if start else None,
                callbacks=[ApplyHyperparameters(), stopwatch],
                loggers=[history],
            )
        except NonFiniteLossError as error:
            log.warning("Trial %s: %s", self.trial_name, error)
            return {
                self.settings.metric: -math.inf if self.settings.mode == "max" else math.inf,
                EPOCH: target,
                DIVERGED: str(error),
                # In a population the trial takes over another model, unless no tournament is left.
                "done": not self.settings.population or target >= max_epochs,
            }
        with written_atomically(last) as temporary:
            trainer.save_checkpoint(temporary)
        rows = [row for _, row in sorted(history.rows.items())]
        epoch = trainer.current_epoch
        return {
            **{name: value for row in rows for name, value in row.items()},
            EPOCH: epoch,
            **self._best(trainer.checkpoint_callback),
            "history": rows,
            "train_seconds": stopwatch.seconds,
            # With early stopping, the trial may have trained for fewer epochs than requested.
            "done": epoch >= max_epochs or epoch < target,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Copy the checkpoint from which a later step continues, and that of the best model."""
        for name in self.files_to_save:
            if (self.folder / name).is_file():
                Path(checkpoint_dir, name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.folder / name, Path(checkpoint_dir, name))

    def load_checkpoint(self, checkpoint: str) -> None:
        """Continue from a checkpoint of this trial, or of the trial whose model it takes over."""
        self._take_folder(checkpoint)

    def cleanup(self) -> None:
        """Remove the folder of the trial."""
        if self._owns_folder():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _take_folder(self, checkpoint: str | None = None) -> None:
        """Take possession of the folder, which gets the files of a checkpoint or is emptied.

        Another process may have worked on the trial before, and may call :meth:`cleanup` after this
        one has taken over. Therefore a file names the process that owns the folder.
        """
        new = self.folder.with_name(f"{self.folder.name}.{self.token}")
        shutil.rmtree(new, ignore_errors=True)
        if checkpoint is None:
            new.mkdir()
        else:
            shutil.copytree(checkpoint, new)
        (new / OWNER_FILE).write_text(self.token)
        shutil.rmtree(self.folder, ignore_errors=True)
        new.rename(self.folder)
        self.has_folder = True

    def _owns_folder(self) -> bool:
        """Return whether this process owns the folder, and no other process has taken over."""
        owner = self.folder / OWNER_FILE
        return owner.is_file() and owner.read_text() == self.token

    def _compose(self) -> DictConfig:
        """Return the configuration of this trial, whose files are in its folder."""
        sweep: Any = OmegaConf.create(self.settings.config)
        config = placed_in(compose(sweep, hyperparameters(self.config)), self.folder)
        OmegaConf.set_struct(config, False)
        config.trainer.enable_progress_bar = False
        config.trainer.enable_model_summary = False
        config.trainer.enable_checkpointing = bool(checkpoint_callbacks(config))
        return config

    def _best(self, callback: Any) -> dict[str, Any]:
        """Return score and file of the best model so far, if a callback keeps it."""
        path = Path(getattr(callback, "best_model_path", "") or "")
        if not path.is_file():
            return {}
        file = str(path.relative_to(self.folder.resolve()))
        self.files_to_save = [LAST_CHECKPOINT, file]
        return {BEST_SCORE: float(callback.best_model_score), BEST_CHECKPOINT: file}
