"""Sweeps on Ray Tune: the trial, the scheduler, the stopping rule and the search itself.

This is the only file that imports Ray. Ray runs one process for each trial that trains at a time;
a trial (:class:`LFADSTrial`) trains for a generation, leaves a checkpoint and its metrics, and may
then be continued there, elsewhere, or after exploitation: always from a checkpoint, so that all of
these are the same thing.
"""

import inspect
import json
import logging
import math
import os
import shutil
import tempfile
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from lfads_torch.errors import MissingPackageError, UserError

try:
    import ray
    from ray import tune
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator
except ImportError as error:
    raise MissingPackageError(
        'Sweeps need Ray Tune: install it with pip install "lfads_torch[tune]", or, in a checkout, '
        'pip install -e ".[tune]".'
    ) from error

from lfads_torch.checkpoints import load_checkpoint
from lfads_torch.checks import NonFiniteLossError
from lfads_torch.running.callbacks import ApplyHyperparameters, EpochHistory, Stopwatch
from lfads_torch.running.compose import compose
from lfads_torch.running.paths import placed_in
from lfads_torch.running.training import build, train
from lfads_torch.sweeps.history import (
    CLONED_AT,
    CLONED_FROM,
    append_history,
    hyperparameters,
    read_history,
)
from lfads_torch.sweeps.search import SweepOptions, last_line, progress
from lfads_torch.sweeps.tournament import HyperParam, explore, has_converged, pair_off

log = logging.getLogger(__name__)

EPOCH = "cur_epoch"
BEST_SCORE = "best_score"
DIVERGED = "diverged"
LAST = "last.ckpt"
BEST_FILE = "best_checkpoint"
OWNER = "owner"
EXPERIMENT = "trials"


# ------------------------------------------------------------------ a trial


class LFADSTrial(tune.Trainable):  # type: ignore[misc]
    """One model of a sweep.

    A step trains up to the next boundary: ``first``, ``first + every``, … epochs, and as many
    whole ``every`` before the first. It begins with the checkpoint that was last left or loaded.

    Ray calls the methods; :func:`run_trials` hands over ``settings``: ``config`` (YAML text that
    hyperparameters are composed with), ``first``, ``every``, ``metric``, ``mode``, ``population``
    (whether a trial that has diverged will be replaced) and ``id`` (of the sweep).
    """

    def setup(self, config: dict[str, Any], settings: dict[str, Any]) -> None:
        """Take up what stays the same over the trials of a process."""
        self.settings = settings
        self.token = uuid.uuid4().hex
        self._become(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial, which starts anew unless a checkpoint is loaded next."""
        self.cleanup()
        self._become(new_config)
        return True

    def _become(self, config: dict[str, Any]) -> None:
        self.config = config
        # The same path on every node, since checkpoint callbacks remember where their files are.
        name = f"lfads_torch_{self.settings['id']}_{self.trial_id}"
        self.folder = Path(tempfile.gettempdir(), name)
        self.claimed = False
        self.kept = [LAST]

    def step(self) -> dict[str, Any]:
        """Train up to the next boundary.

        Returns
        -------
        dict
            The metrics of the last epoch (of one that is not logged in every epoch, its last
            value in this step), ``cur_epoch`` (how many epochs the trial has been trained for),
            ``best_score`` and ``best_checkpoint`` (if a callback keeps the best), ``history``
            (metrics of every epoch), ``train_seconds`` (of epochs) and ``done``. Where the loss
            became infinite or NaN: ``diverged``, with an infinite score.
        """
        if not self.claimed:
            self._claim()
        config = self._compose()
        last = self.folder / LAST
        start = load_checkpoint(last)["epoch"] if last.is_file() else 0
        limit = config.trainer.get("max_epochs")
        max_epochs = math.inf if limit is None or limit < 0 else limit
        boundary = next_boundary(start, self.settings["first"], self.settings["every"])
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
            worst = -math.inf if self.settings["mode"] == "max" else math.inf
            return {
                self.settings["metric"]: worst,
                EPOCH: target,
                DIVERGED: str(error),
                # In a population it will follow another, unless this was the last generation.
                "done": not self.settings["population"] or target >= max_epochs,
            }
        partial = self.folder / f"{LAST}.partial"
        trainer.save_checkpoint(partial)
        partial.replace(last)
        rows = [row for _, row in sorted(history.rows.items())]
        epoch = trainer.current_epoch
        return {
            **{name: value for row in rows for name, value in row.items()},
            EPOCH: epoch,
            **self._best(trainer.checkpoint_callback),
            "history": rows,
            "train_seconds": stopwatch.seconds,
            # Fewer epochs than wanted: early stopping.
            "done": epoch >= max_epochs or epoch < target,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Copy what a later step, perhaps elsewhere, begins with, and the best model."""
        for name in self.kept:
            if (self.folder / name).is_file():
                Path(checkpoint_dir, name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.folder / name, Path(checkpoint_dir, name))

    def load_checkpoint(self, checkpoint: str) -> None:
        """Begin with a checkpoint, of this trial or of the one that it is to follow."""
        self._claim(checkpoint)

    def cleanup(self) -> None:
        """Leave nothing behind."""
        if self._owns():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _claim(self, checkpoint: str | None = None) -> None:
        """Make the folder that of this process, with a checkpoint in it or nothing.

        Another process may have begun with the trial, and may clean up after this one took over.
        """
        fresh = self.folder.with_name(f"{self.folder.name}.{self.token}")
        shutil.rmtree(fresh, ignore_errors=True)
        if checkpoint is None:
            fresh.mkdir()
        else:
            shutil.copytree(checkpoint, fresh)
        (fresh / OWNER).write_text(self.token)
        shutil.rmtree(self.folder, ignore_errors=True)
        fresh.rename(self.folder)
        self.claimed = True

    def _owns(self) -> bool:
        """Tell whether the folder is still that of this process."""
        owner = self.folder / OWNER
        return owner.is_file() and owner.read_text() == self.token

    def _compose(self) -> DictConfig:
        """Return the configuration of the sweep with the values of this trial."""
        base: Any = OmegaConf.create(self.settings["config"])
        config = placed_in(compose(base, hyperparameters(self.config)), self.folder)
        OmegaConf.set_struct(config, False)
        config.trainer.enable_progress_bar = False
        config.trainer.enable_model_summary = False
        targets = [node["_target_"] for node in (config.get("callbacks") or {}).values()]
        config.trainer.enable_checkpointing = any("Checkpoint" in target for target in targets)
        return config

    def _best(self, callback: Any) -> dict[str, Any]:
        """Return score and file of the best model so far, if a callback keeps it."""
        path = Path(getattr(callback, "best_model_path", "") or "")
        if not path.is_file():
            return {}
        file = str(path.relative_to(self.folder.resolve()))
        self.kept = [LAST, file]
        return {BEST_SCORE: float(callback.best_model_score), BEST_FILE: file}


def next_boundary(epoch: int, first: int, every: int) -> int:
    """Return the first of the epochs first ± k · every that comes after an epoch."""
    return epoch + every - (epoch - first) % every


# ------------------------------------------------------------------ population-based training


class ImprovementRatioStopper(tune.Stopper):  # type: ignore[misc]
    """Stops all trials when the best of them has stopped improving.

    See :func:`lfads_torch.sweeps.tournament.has_converged`. A generation counts once every trial has
    reported it, or any has reported a later one (since some trial has failed).

    Parameters
    ----------
    num_trials
        How many trials there are.
    perturbation_interval, burn_in_period
        As the scheduler has them, in epochs: generations end at max(interval, burn-in),
        and every interval from there.
    metric, mode
        Of the results; ``"max"`` if higher ones are better.
    patience
        How many generations to look at.
    min_improvement_ratio
        Relative improvement that is not enough.
    """

    def __init__(
        self,
        num_trials: int,
        perturbation_interval: int = 25,
        burn_in_period: int = 0,
        metric: str = "valid/recon_smth",
        patience: int = 4,
        min_improvement_ratio: float = 5e-4,
        mode: str = "min",
    ) -> None:
        if patience < 2:
            raise UserError(f"patience must be at least 2 generations, but is {patience}.")
        self.num_trials = num_trials
        self.first = max(perturbation_interval, burn_in_period)
        self.every = perturbation_interval
        self.metric = metric
        self.sign = -1 if mode == "max" else 1
        self.patience = patience
        self.min_improvement_ratio = min_improvement_ratio
        self.scores: dict[int, dict[str, float]] = {}

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Take note of a result. No single trial is ever stopped."""
        epoch = result[EPOCH]
        if epoch >= self.first and (epoch - self.first) % self.every == 0:
            self.scores.setdefault(epoch, {})[trial_id] = self.sign * float(result[self.metric])
        return False

    def stop_all(self) -> bool:
        """Tell whether to stop."""
        epochs = sorted(self.scores)
        if epochs and len(self.scores[epochs[-1]]) < self.num_trials:
            del epochs[-1]
        best = [np.nanmin(list(self.scores[epoch].values())) for epoch in epochs]
        return has_converged(best, self.patience, self.min_improvement_ratio)


class BinaryTournamentPBT(PopulationBasedTraining):  # type: ignore[misc]
    """Population-based training by binary tournament (Keshtkaran et al. 2022, AutoLFADS).

    When all trials have trained for a generation they pair off at random. The loser takes the
    winner's checkpoint (weights, state of the optimiser, smoothed metric) and its hyperparameters,
    perturbed. A trial whose score is not finite has lost to any that has one. Pairs and
    perturbations depend on the seed and the epoch alone: a search that is resumed holds the
    tournaments that it would have held.

    This is Ray's synchronous scheduler with another rule for who exploits whom. Ray's waits for
    trials that have failed, forgets a trial that had to be restarted, and is itself forgotten when
    a search is resumed. Here the tournament is held when every trial that is alive is paused with
    its checkpoint in place, which is looked up each time rather than counted; times and scores of
    trials that Ray has restored are those of their checkpoints.

    Parameters
    ----------
    perturbation_interval
        Epochs in a generation.
    burn_in_period
        Epochs before the first tournament, if it is more than that.
    hyperparam_mutations
        :class:`HyperParam` of each hyperparameter that is perturbed.
    metric, mode
        What to compare; may be given to Ray instead.
    time_attr
        The result that counts epochs.
    seed
        Of pairs and perturbations.
    stopper
        Asked before each tournament whether to end the search.
    """

    _next_perturbation_sync: int  # of Ray's scheduler: the epoch of the next tournament

    def __init__(
        self,
        perturbation_interval: int = 25,
        burn_in_period: int = 0,
        hyperparam_mutations: Mapping[str, HyperParam] | None = None,
        metric: str | None = None,
        mode: str | None = None,
        time_attr: str = EPOCH,
        seed: int = 0,
        stopper: ImprovementRatioStopper | None = None,
    ) -> None:
        mutations = dict(hyperparam_mutations or {})
        wrong = [name for name, value in mutations.items() if not isinstance(value, HyperParam)]
        if wrong or not mutations:
            raise UserError(
                f"hyperparam_mutations must hold a HyperParam for at least one hyperparameter; "
                f"these are none: {wrong}."
            )
        still = [name for name, v in mutations.items() if v.init == 0 and v.sample_fn != "randint"]
        if still:
            warnings.warn(
                f"{', '.join(still)}: perturbations multiply, so what starts at init = 0 stays "
                f"there. Give a small value, or null to draw one for each trial.",
                stacklevel=2,
            )
        super().__init__(
            time_attr=time_attr,
            metric=metric,
            mode=mode,
            perturbation_interval=perturbation_interval,
            burn_in_period=burn_in_period,
            hyperparam_mutations=mutations,
            log_config=False,
            synch=True,
        )
        self.seed = seed
        self.stopper = stopper
        self._stale = False
        self._without_process: list[Trial] = []

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Take in a new trial, or one that continues from its checkpoint."""
        if trial in self._trial_state:  # restarted after a failure: it is still what it was
            return
        super().on_trial_add(tune_controller, trial)
        # A process for each trial that could be waiting for the tournament: these stay.
        tune_controller._actor_cache.increase_max(trial.placement_group_factory)
        state = self._trial_state[trial]
        cloned_at = trial.config.get(CLONED_AT, 0)
        if cloned_at:  # the tournament of that epoch has been held
            sync = max(self._next_perturbation_sync, cloned_at + self._perturbation_interval)
            self._next_perturbation_sync = sync
        if trial.checkpoint is not None:
            _follow_folder(trial)
            metrics = trial.latest_checkpoint_result.metrics
            self._save_trial_state(state, metrics[self._time_attr], metrics, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> str:
        """Pause a trial that has reached the end of the generation."""
        time_ = result[self._time_attr]
        self._save_trial_state(self._trial_state[trial], time_, dict(result), trial)
        if self.stopper is not None:
            self.stopper(trial.trial_id, result)
        self._stale = True
        wait = time_ >= self._next_perturbation_sync
        return str(TrialScheduler.PAUSE if wait else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Note a trial that failed because the process that it was to take over is dead."""
        if trial in tune_controller._resetting_trials:
            tune_controller._resetting_trials.discard(trial)
            self._without_process.append(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Hold the tournament if all are there, and return a trial that is behind."""
        # Ray hands over a wrapper, which warns of what a scheduler cannot do without.
        controller = getattr(tune_controller, "_tune_controller", tune_controller)
        for trial in self._without_process:
            if trial in controller._staged_trials:
                controller._unstage_trial_with_resources(trial)
            controller._set_trial_status(trial, Trial.PENDING)
            controller._live_trials.add(trial)
        self._without_process.clear()
        alive = [trial for trial in controller.get_trials() if not trial.is_finished()]
        for trial in alive:
            # Of a search that is resumed, Ray starts all; those that are there have to wait.
            unasked = trial not in controller._staged_trials
            if trial.status == Trial.PENDING and unasked and self._reached(trial):
                controller._set_trial_status(trial, Trial.PAUSED)
        if alive and all(t.status == Trial.PAUSED and self._reached(t) for t in alive):
            # Those that are left may all have diverged while others have ended well.
            lost = all(self._score(trial) == -math.inf for trial in alive)
            over = self.stopper is not None and self.stopper.stop_all()
            if over or (lost and len(alive) < len(controller.get_trials())):
                for trial in alive:
                    controller.stop_trial(trial)
                return None
            self._hold_tournament(controller, alive)
            self._stale = True
        if self._stale and not any(trial.is_saving for trial in alive):
            # So that a search whose driver is killed resumes from here.
            self._stale = False
            controller.checkpoint(force=True)
        behind = [
            trial
            for trial in alive
            if trial.status in (Trial.PAUSED, Trial.PENDING) and not self._reached(trial)
        ]
        # Trials for which no process has been asked for yet come first, so that all start at once.
        behind.sort(key=lambda trial: (trial.status == Trial.PENDING, trial.trial_id))
        return behind[0] if behind else None

    def _reached(self, trial: Trial) -> bool:
        """Tell whether a trial is where the next tournament is held."""
        return bool(self._trial_state[trial].last_train_time >= self._next_perturbation_sync)

    def _hold_tournament(self, controller: Any, trials: Sequence[Trial]) -> None:
        """Let losers exploit winners, and begin the next generation."""
        trials = sorted(trials, key=lambda trial: str(trial.trial_id))
        rng = np.random.default_rng([self.seed, self._next_perturbation_sync])
        scores = {trial: self._score(trial) for trial in trials}
        finite = [trial for trial in trials if scores[trial] > -math.inf]
        if not finite:
            raise RuntimeError(
                f"The loss of every trial is infinite or not a number at epoch "
                f"{self._next_perturbation_sync}. Lower the learning rates (model.lr_init) that "
                f"the sweep begins with."
            )
        beaten = {}
        for pair in pair_off(trials, rng):
            loser, winner = sorted(pair, key=scores.__getitem__)
            beaten[loser] = winner
        survivors = [trial for trial in finite if trial not in beaten]
        for trial in trials:
            winner = beaten.get(trial)
            if scores.get(winner, scores[trial]) == -math.inf:
                beaten[trial] = survivors[rng.integers(len(survivors))]
        for loser, winner in beaten.items():
            state = self._trial_state[winner]
            state.last_checkpoint = winner.checkpoint
            state.last_result = winner.latest_checkpoint_result.metrics
            self._exploit(controller, loser, winner)
            self._trial_state[loser].last_score = scores[winner]
            # Ray does not see that what it has to save of the loser has changed.
            loser.run_metadata.invalidate_cache()
            loser.invalidate_json_state()
            controller._mark_trial_to_checkpoint(loser)
        self._next_perturbation_sync += self._perturbation_interval

    def _score(self, trial: Trial) -> float:
        """Return the score, higher being better, and minus infinity for all that is no number."""
        score = self._trial_state[trial].last_score
        return score if score is not None and math.isfinite(score) else -math.inf

    def _get_new_config(
        self, trial: Trial, trial_to_clone: Trial
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Perturb the winner's hyperparameters."""
        epoch = self._next_perturbation_sync
        rng = np.random.default_rng([self.seed, epoch, int(trial.trial_id.split("_")[-1])])
        new = explore(trial_to_clone.config, self._hyperparam_mutations, rng)
        return {**new, CLONED_FROM: trial_to_clone.trial_id, CLONED_AT: epoch}, {}


def _follow_folder(trial: Trial) -> None:
    """Find the checkpoint that a trial has taken over, where the sweep's folder has been moved.

    Ray sees to the checkpoints that are the trial's own.
    """
    result, storage = trial.latest_checkpoint_result, trial.storage
    path = Path(storage.experiment_fs_path, *Path(result.checkpoint.path).parts[-2:]).as_posix()
    result.checkpoint = tune.Checkpoint(path, filesystem=storage.storage_filesystem)


class Population(BasicVariantGenerator):  # type: ignore[misc]
    """Draws all trials at the beginning, and ends when all of them have ended.

    (Ray's ends with the last draw, from where on processes are not kept for trials that pause.)
    """

    def is_finished(self) -> bool:
        """Tell whether neither a draw nor a trial is left."""
        return bool(super().is_finished() and not self._live_trials)


# ------------------------------------------------------------------ the search


@dataclass(frozen=True)
class Outcome:
    """What has become of a trial."""

    trial: str
    """Its identity, as in the history."""
    status: str
    """``TERMINATED`` or ``ERROR``; ``PENDING``, ``PAUSED`` or ``RUNNING`` if interrupted."""
    metrics: dict[str, Any]
    """Those of its last checkpoint; empty if there is none."""
    config: dict[str, Any]
    """Its hyperparameters."""
    checkpoint: Any
    """The last checkpoint: a Ray Checkpoint with ``as_directory()``, or None."""
    error: str | None
    """What made it fail."""


def run_trials(
    options: SweepOptions, config: str, run_dir: Path, resume: bool = False
) -> list[Outcome]:
    """Search.

    Parameters
    ----------
    options
        What to search and how.
    config
        YAML text of the configuration that the hyperparameters are composed with.
    run_dir
        The folder of the sweep: Ray's files are in ``trials/``, unless ``options.storage`` says
        otherwise, and the history in ``history.jsonl``.
    resume
        Go on with the search whose files are there.

    Raises
    ------
    ValueError
        If the cluster cannot run a trial, or the searcher or scheduler cannot be made.
    """
    with _cluster(options):
        resources = _resources(options)
        searcher, scheduler = make_search(options, read_history(run_dir))
        population = isinstance(scheduler, BinaryTournamentPBT)
        exploits = isinstance(scheduler, PopulationBasedTraining)
        first, every = options.boundaries()
        settings = {
            "config": config,
            "first": first,
            "every": every,
            "metric": options.metric,
            "mode": options.mode,
            "population": population,
            "id": options.id,
        }
        space: dict[str, Any] = {"seed": tune.randint(0, 2**31 - 1)}
        space |= {key: to_domain(value) for key, value in options.space.items()}
        own_limit: dict[str, Any] = {}
        if searcher is None:
            searcher = (Population if population else BasicVariantGenerator)(
                random_state=options.seed, max_concurrent=options.max_concurrent or 0
            )
        elif options.max_concurrent:
            own_limit["max_concurrent_trials"] = options.max_concurrent
        if resume:
            _mend_state(run_dir / EXPERIMENT)
        analysis = tune.run(
            tune.with_parameters(LFADSTrial, settings=settings),
            metric=options.metric,
            mode=options.mode,
            config=space,
            num_samples=options.num_samples,
            resources_per_trial=resources,
            search_alg=searcher,
            scheduler=scheduler,
            time_budget_s=options.time_budget_hours and options.time_budget_hours * 3600,
            checkpoint_config=tune.CheckpointConfig(
                # One may yet be exploited, or be the last that the saved state of the search knows.
                num_to_keep=4 if exploits and not population else 2,
                checkpoint_frequency=1,
                checkpoint_at_end=True,
            ),
            max_failures=options.max_failures,
            raise_on_failed_trial=False,
            reuse_actors=population,
            resume="AUTO+ERRORED" if resume else None,
            callbacks=[Recorder(options, run_dir)],
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
            verbose=0,
            **own_limit,
            **_storage(options, run_dir),
        )
        return [_outcome(trial) for trial in analysis.trials]


def to_domain(value: Any) -> Any:
    """Return how Ray samples a hyperparameter of :attr:`SweepOptions.space`."""
    if isinstance(value, HyperParam):
        if value.init is not None:
            return value.init
        return getattr(tune, value.sample_fn)(value.min_samp, value.max_samp)
    if isinstance(value, Mapping) and "choice" in value:
        return tune.choice(value["choice"])
    if isinstance(value, Mapping) and "grid" in value:
        return tune.grid_search(value["grid"])
    return instantiate(value, _convert_="all")


@contextmanager
def _cluster(options: SweepOptions) -> Iterator[None]:
    """Join the cluster, or start one on this machine for as long as the search takes."""
    # Neither Ray's own account of results, which ours replaces, nor word to its makers.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The state of the search is small: it is saved every second.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")
    # Ray's answer to Ctrl-C ends all trials as if they had been trained. Without it, Ctrl-C is
    # what a kill is, which a search is resumed from.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # A GPU is hidden from trials that asked for none, as today's Ray does only if told so.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    # Two checkpoints are enough where each generation leaves one, and all wait for each other.
    warnings.filterwarnings("ignore", ".*CheckpointConfig.num_to_keep <= 2.*")
    if ray.is_initialized():
        yield
        return
    arguments: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if options.ray_address is None:
        # Nothing of size is handed between processes: checkpoints are files.
        arguments |= {"include_dashboard": False, "object_store_memory": 200_000_000}
    ray.init(address=options.ray_address or "local", **arguments)
    try:
        yield
    finally:
        ray.shutdown()


def _resources(options: SweepOptions) -> dict[str, float]:
    """Return what a trial asks for."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    asked: dict[str, float] = {"cpu": options.cpus_without_gpu}
    if options.gpus_per_trial and any(node.get("GPU") for node in nodes):
        asked = {"cpu": options.cpus_per_trial, "gpu": options.gpus_per_trial}
    if not any(
        all(node.get(name.upper(), 0) >= wanted for name, wanted in asked.items()) for node in nodes
    ):
        there = [{name: node.get(name, 0) for name in ("CPU", "GPU")} for node in nodes]
        raise UserError(
            f"A trial asks for {asked}, which no machine has: {there}. Lower sweep.cpus_per_trial, "
            f"sweep.gpus_per_trial or sweep.cpus_without_gpu."
        )
    return asked


def make_search(
    options: SweepOptions, history: Sequence[Mapping[str, Any]] = ()
) -> tuple[Any, Any]:
    """Make the searcher, or None, and the scheduler.

    Parameters
    ----------
    options
        Of the sweep.
    history
        What :func:`lfads_torch.sweeps.history.read_history` returns of a search that is resumed.

    Raises
    ------
    ValueError
        If there is no such class, if its package is missing, or if it does not take its arguments.
    """
    try:
        searcher = instantiate(options.searcher, _convert_="all")
    except Exception as error:
        raise UserError(f"sweep.searcher cannot be made: {error}") from error
    try:
        return searcher, _make_scheduler(options, history)
    except Exception as error:
        raise UserError(f"sweep.scheduler cannot be made: {error}") from error


def _make_scheduler(options: SweepOptions, history: Sequence[Mapping[str, Any]]) -> Any:
    """Make the scheduler, and give it what the sweep knows."""
    node = dict(options.scheduler or {"_target_": "ray.tune.schedulers.FIFOScheduler"})
    parameters = inspect.signature(get_class(node["_target_"])).parameters
    perturbed = {k: v for k, v in options.space.items() if isinstance(v, HyperParam)}
    known = {
        "time_attr": EPOCH,
        "seed": options.seed,
        "perturbation_interval": options.boundaries()[1],
        "hyperparam_mutations": perturbed,
    }
    known = {name: value for name, value in known.items() if name in parameters}
    if options.stopper:
        if "stopper" not in parameters:
            raise UserError(
                f"{node['_target_']} asks no stopper: say sweep.stopper=null, or use "
                f"lfads_torch.sweeps.tournament.BinaryTournamentPBT."
            )
        compared = {"metric": options.metric, "mode": options.mode}
        stopper: ImprovementRatioStopper = instantiate(
            {"num_trials": options.num_trials, **compared, **options.stopper},
            perturbation_interval=options.boundaries()[1],
            burn_in_period=node.get("burn_in_period", 0),
        )
        for row in history:
            stopper(row["trial"], {EPOCH: row["epoch"], options.metric: row["score"]})
        known["stopper"] = stopper
    return get_class(node.pop("_target_"))(**{**known, **node})


def _storage(options: SweepOptions, run_dir: Path) -> dict[str, Any]:
    """Return where Ray keeps its files, as it wants to be told."""
    if options.storage is None:
        return {"name": EXPERIMENT, "storage_path": str(run_dir)}
    where: dict[str, Any] = {"name": f"{run_dir.name}_{options.id}"}
    protocol = urlsplit(options.storage).scheme
    if protocol in ("", "file", "s3", "gs", "gcs", "hdfs"):  # those that pyarrow knows
        return {**where, "storage_path": options.storage}
    import fsspec
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem, path = fsspec.core.url_to_fs(options.storage)
    handler = PyFileSystem(FSSpecHandler(filesystem))
    return {**where, "storage_path": path, "storage_filesystem": handler}


def _trial_name(trial: Trial) -> str:
    return f"trial_{trial.trial_id.split('_')[-1]}"


def _outcome(trial: Trial) -> Outcome:
    latest = trial.latest_checkpoint_result
    return Outcome(
        trial=trial.trial_id,
        status=trial.status,
        metrics=dict(latest.metrics) if latest else {},
        config=dict(trial.config),
        checkpoint=latest.checkpoint if latest else None,
        error=trial.get_error(),
    )


def _keep_state(folder: Path) -> None:
    """Keep a copy of Ray's account of the search, which a kill while it is written would ruin."""
    newest = max(folder.glob("experiment_state-*.json"), default=None)
    if newest is None or not _is_json(newest):
        return
    backup, partial = folder / "state_backup", folder / "state_backup.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.suffix in (".json", ".pkl"):
            shutil.copy2(path, partial)
    shutil.rmtree(backup, ignore_errors=True)
    partial.rename(backup)


def _mend_state(folder: Path) -> None:
    """Put the copy in place of an account that cannot be read."""
    newest = max(folder.glob("experiment_state-*.json"), default=None)
    backup = folder / "state_backup"
    if newest is not None and not _is_json(newest) and backup.is_dir():
        log.warning("%s cannot be read: the copy before it is used.", newest)
        for path in backup.iterdir():
            shutil.copy2(path, folder)
        if not _is_json(newest):
            newest.rename(newest.with_suffix(".unreadable"))


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


# ------------------------------------------------------------------ what a person can read


class Recorder(tune.Callback):  # type: ignore[misc]
    """Writes every result to ``history.jsonl``, and says how the search is getting on.

    Parameters
    ----------
    options
        Those of the sweep.
    run_dir
        Its folder.
    """

    def __init__(self, options: SweepOptions, run_dir: Path) -> None:
        self.options = options
        self.run_dir = run_dir
        self.rows = {(row["trial"], row["epoch"]): row for row in read_history(run_dir)}
        self.start = time.monotonic()
        self.epochs = 0
        self._last_said = self.start

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Forget checkpoints that were deleted after the state of a resumed search was written.

        Ray would fail to delete them again, and count its checkpoints wrongly from there.
        """
        manager = trial.run_metadata.checkpoint_manager
        files = trial.storage.storage_filesystem
        manager._checkpoint_results = [
            result
            for result in manager._checkpoint_results
            if files.get_file_info(result.checkpoint.path).type.name != "NotFound"
        ]

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Record, and say how things stand if a generation has ended."""
        result = dict(result)
        row = {
            "trial": trial.trial_id,
            "epoch": result[EPOCH],
            "score": result[self.options.metric],
            "time": time.time(),
            "seconds": result.get("time_this_iter_s"),
            "train_seconds": result.get("train_seconds"),
            "config": hyperparameters(trial.config),
            CLONED_FROM: trial.config.get(CLONED_FROM),
            CLONED_AT: trial.config.get(CLONED_AT),
            "history": result.get("history", []),
        }
        if DIVERGED in result:
            row[DIVERGED] = result[DIVERGED]
            say(f"{_trial_name(trial)} diverged: {result[DIVERGED]}")
        append_history(self.run_dir, row)
        self.rows[trial.trial_id, row["epoch"]] = row
        self.epochs += len(row["history"])
        alive = [t for t in trials if not t.is_finished()]
        at_it = sum((t.trial_id, row["epoch"]) in self.rows for t in alive)
        if at_it == len(alive) or time.monotonic() - self._last_said > 60:
            self.say(trials)

    def on_trial_save(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Keep a copy of the state before this."""
        if self.options.storage is None:
            _keep_state(self.run_dir / EXPERIMENT)

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Say so."""
        say(
            f"{_trial_name(trial)} failed and goes on from its last checkpoint (failure "
            f"{trial.num_failures} of at most {self.options.max_failures}): {_last_line(trial)}"
        )

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Say so."""
        say(f"{_trial_name(trial)} failed: {_last_line(trial)}")

    def say(self, trials: Sequence[Trial]) -> None:
        """Say how things stand."""
        self._last_said = time.monotonic()
        counts = Counter("running" if t.status == Trial.RUNNING else t.status for t in trials)
        say(
            progress(
                list(self.rows.values()),
                self.options,
                dict(counts),
                seconds=self._last_said - self.start,
                epochs=self.epochs,
            )
        )


def _last_line(trial: Trial) -> str:
    """Return what has made a trial fail, which Ray does not copy to its storage at once."""
    path = Path(trial.error_file or "")
    error = path.read_text() if path.is_file() else trial.get_error()
    return last_line(error) or "no reason is known"


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)
