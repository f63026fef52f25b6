"""The scheduler of population-based training: it lets losers of a tournament follow its winners."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from lfads_torch.errors import UserError
from lfads_torch.sweeps.history import CLONED_AT, CLONED_FROM
from lfads_torch.sweeps.ray_tune.stopper import ImprovementRatioStopper
from lfads_torch.sweeps.results import EPOCH
from lfads_torch.sweeps.space import HyperParam
from lfads_torch.sweeps.tournament import choose_winners, explore


class BinaryTournamentPBT(PopulationBasedTraining):  # type: ignore[misc]
    """Population-based training by binary tournament (Keshtkaran et al. 2022, AutoLFADS).

    When all trials have trained for a generation they are paired at random. The loser of a pair
    takes over the winner's checkpoint (weights, state of the optimiser, smoothed metric) and its
    hyperparameters, which are perturbed. A trial whose score is not finite loses to any trial whose
    score is. Pairs and perturbations depend only on the seed and the epoch, so that a resumed
    search holds the same tournaments as an uninterrupted one. The rules are defined in
    :mod:`lfads_torch.sweeps.tournament`.

    This is Ray's synchronous scheduler, with another rule for which trial takes over the checkpoint
    of which. It also behaves differently in three situations: Ray's scheduler waits for trials that
    have failed, loses the state of a trial that had to be restarted, and is not restored when a
    search is resumed. Here the tournament is held when every unfinished trial is paused with its
    checkpoint saved; this is determined from the trials each time, rather than counted. The epochs
    and scores of trials that Ray has restored are those of their checkpoints.

    Parameters
    ----------
    perturbation_interval
        Epochs in a generation.
    burn_in_period
        Epochs before the first tournament, if this is more than a generation.
    hyperparam_mutations
        The :class:`~lfads_torch.sweeps.space.HyperParam` of each hyperparameter that is perturbed.
    metric, mode
        The result by which trials are compared; it may be given to Ray instead.
    time_attr
        The result that counts epochs.
    seed
        Seed of pairs and perturbations.
    stopper
        The rule that is asked before each tournament whether the search ends.

    Raises
    ------
    ValueError
        If no hyperparameter is perturbed, or one has no ``HyperParam``.
    """

    _next_perturbation_sync: (
        int  # This attribute of Ray's scheduler is the epoch of the next tournament.
    )

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
                f"hyperparam_mutations must hold a HyperParam for at least one hyperparameter, and "
                f"nothing else; these are not: {wrong}."
            )
        constant = [
            name for name, v in mutations.items() if v.init == 0 and v.sample_fn != "randint"
        ]
        if constant:
            warnings.warn(
                f"{', '.join(constant)}: perturbations multiply, so what starts at init = 0 stays "
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
        self._state_changed = False
        self._without_process: list[Trial] = []

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Register a new trial, or one that continues from its checkpoint."""
        if trial in self._trial_state:  # It was restarted after a failure, and keeps its state.
            return
        super().on_trial_add(tune_controller, trial)
        # Ray keeps a process for each trial that may wait for the tournament.
        tune_controller._actor_cache.increase_max(trial.placement_group_factory)
        state = self._trial_state[trial]
        cloned_at = trial.config.get(CLONED_AT, 0)
        if cloned_at:  # The tournament of that epoch has been held.
            following = cloned_at + self._perturbation_interval
            self._next_perturbation_sync = max(self._next_perturbation_sync, following)
        if trial.checkpoint is not None:
            _update_checkpoint_path(trial)
            metrics = trial.latest_checkpoint_result.metrics
            self._save_trial_state(state, metrics[self._time_attr], metrics, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> str:
        """Pause a trial that has reached the end of the generation."""
        epoch = result[self._time_attr]
        self._save_trial_state(self._trial_state[trial], epoch, dict(result), trial)
        if self.stopper is not None:
            self.stopper(trial.trial_id, result)
        self._state_changed = True
        reached = epoch >= self._next_perturbation_sync
        return str(TrialScheduler.PAUSE if reached else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Record a trial that failed because the process in which it was to continue is dead."""
        if trial in tune_controller._resetting_trials:
            tune_controller._resetting_trials.discard(trial)
            self._without_process.append(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Hold the tournament if all trials have reached it, and return a trial that has not."""
        # Ray passes a wrapper, which warns of methods that this scheduler needs.
        controller = getattr(tune_controller, "_tune_controller", tune_controller)
        for trial in self._without_process:
            if trial in controller._staged_trials:
                controller._unstage_trial_with_resources(trial)
            controller._set_trial_status(trial, Trial.PENDING)
            controller._live_trials.add(trial)
        self._without_process.clear()
        alive = [trial for trial in controller.get_trials() if not trial.is_finished()]
        for trial in alive:
            # Ray starts all trials of a search that is resumed; some of them have to wait.
            is_staged = trial in controller._staged_trials
            if trial.status == Trial.PENDING and not is_staged and self._reached(trial):
                controller._set_trial_status(trial, Trial.PAUSED)
        if alive and all(t.status == Trial.PAUSED and self._reached(t) for t in alive):
            converged = self.stopper is not None and self.stopper.stop_all()
            # All unfinished trials may have diverged while others have finished.
            diverged = all(self._score(trial) == -math.inf for trial in alive)
            if converged or (diverged and len(alive) < len(controller.get_trials())):
                for trial in alive:
                    controller.stop_trial(trial)
                return None
            self._hold_tournament(controller, alive)
            self._state_changed = True
        if self._state_changed and not any(trial.is_saving for trial in alive):
            # A search whose process is killed resumes from here.
            self._state_changed = False
            controller.checkpoint(force=True)
        waiting = [
            trial
            for trial in alive
            if trial.status in (Trial.PAUSED, Trial.PENDING) and not self._reached(trial)
        ]
        # Pending trials come last. Ray has been asked for their processes, so all start at once.
        waiting.sort(key=lambda trial: (trial.status == Trial.PENDING, trial.trial_id))
        return waiting[0] if waiting else None

    def _reached(self, trial: Trial) -> bool:
        """Return whether a trial has reached the epoch of the next tournament."""
        return bool(self._trial_state[trial].last_train_time >= self._next_perturbation_sync)

    def _hold_tournament(self, controller: Any, trials: Sequence[Trial]) -> None:
        """Let losers follow winners, and begin the next generation."""
        by_id = {str(trial.trial_id): trial for trial in trials}
        scores = {name: self._score(by_id[name]) for name in sorted(by_id)}
        if all(score == -math.inf for score in scores.values()):
            raise UserError(
                f"The loss of every trial is infinite or not a number at epoch "
                f"{self._next_perturbation_sync}. Lower the learning rates (model.lr_init) that "
                f"the sweep begins with."
            )
        rng = np.random.default_rng([self.seed, self._next_perturbation_sync])
        for loser_id, winner_id in choose_winners(scores, rng).items():
            loser, winner = by_id[loser_id], by_id[winner_id]
            state = self._trial_state[winner]
            state.last_checkpoint = winner.checkpoint
            state.last_result = winner.latest_checkpoint_result.metrics
            self._exploit(controller, loser, winner)
            self._trial_state[loser].last_score = scores[winner_id]
            # Ray does not notice that the state of the loser has changed and must be saved.
            loser.run_metadata.invalidate_cache()
            loser.invalidate_json_state()
            controller._mark_trial_to_checkpoint(loser)
        self._next_perturbation_sync += self._perturbation_interval

    def _score(self, trial: Trial) -> float:
        """Return the score, higher being better; minus infinity if it is not finite."""
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


def _update_checkpoint_path(trial: Trial) -> None:
    """Find the checkpoint that a trial has taken over if the folder of the sweep was moved.

    Ray does this for the trial's own checkpoints only.
    """
    result, storage = trial.latest_checkpoint_result, trial.storage
    path = Path(storage.experiment_fs_path, *Path(result.checkpoint.path).parts[-2:]).as_posix()
    result.checkpoint = tune.Checkpoint(path, filesystem=storage.storage_filesystem)


class Population(BasicVariantGenerator):  # type: ignore[misc]
    """Draws all trials at the beginning, and is finished when all trials are finished.

    Ray's class is finished after the last draw. From then on, Ray does not keep processes for
    trials that are paused.
    """

    def is_finished(self) -> bool:
        """Return whether neither a draw nor a trial is left."""
        return bool(super().is_finished() and not self._live_trials)
