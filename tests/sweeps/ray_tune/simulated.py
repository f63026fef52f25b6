"""Trials that take no time, and a replacement of Ray's controller for schedulers."""

from types import SimpleNamespace

import numpy as np
from ray.train._internal.session import _TrainingResult
from ray.tune import Checkpoint, PlacementGroupFactory
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from lfads_torch.sweeps.ray_tune.scheduler import BinaryTournamentPBT
from lfads_torch.sweeps.space import HyperParam
from lfads_torch.sweeps.tournament import next_boundary

SPACE = {
    "x": HyperParam(0.01, 1.0, explore_wt=0.3),
    "y": HyperParam(0.0, 0.6, sample_fn="uniform", explore_wt=0.2, enforce_limits=True),
}


class Controller:
    """The part of Ray's controller that a scheduler uses."""

    def __init__(self, trials):
        self.trials = trials
        self.search_alg = None
        self.marked, self.saved = set(trials), {}
        self._actor_cache = SimpleNamespace(increase_max=lambda factory: None)
        self._staged_trials, self._resetting_trials = set(), set()
        self._live_trials = set(trials)

    def get_trials(self):
        return self.trials

    def stop_trial(self, trial):
        trial.status = Trial.TERMINATED

    def checkpoint(self, force):
        """Save the trials that were marked since the last call, as Ray does."""
        self.saved |= {trial.trial_id: trial.get_json_state() for trial in self.marked}
        self.marked.clear()

    def _mark_trial_to_checkpoint(self, trial):
        self.marked.add(trial)

    def _unstage_trial_with_resources(self, trial):
        self._staged_trials.discard(trial)

    def _set_trial_status(self, trial, status):
        trial.status = status


def make_trials(n):
    rng = np.random.default_rng(0)
    configs = [{"x": SPACE["x"].sample(rng), "y": SPACE["y"].sample(rng)} for _ in range(n)]
    trials = [
        Trial("none", stub=True, trial_id=f"abc_{i:05}", config={"seed": i, **config})
        for i, config in enumerate(configs)
    ]
    for trial in trials:
        trial.placement_group_factory = PlacementGroupFactory([{"CPU": 1}])
        trial.storage = SimpleNamespace(experiment_fs_path="/checkpoints", storage_filesystem=None)
    return trials


def make_scheduler(trials, **options):
    arguments = {"perturbation_interval": 5, "burn_in_period": 12, "metric": "loss", "mode": "min"}
    scheduler = BinaryTournamentPBT(hyperparam_mutations=SPACE, **{**arguments, **options})
    controller = Controller(trials)
    for trial in trials:
        scheduler.on_trial_add(controller, trial)
    return scheduler, controller


def save(trial, epoch, score):
    """Register a checkpoint whose path contains trial and epoch."""
    checkpoint = Checkpoint.from_directory(f"/checkpoints/{trial.trial_id}/{epoch}")
    metrics = {"cur_epoch": epoch, "loss": score}
    trial.run_metadata.checkpoint_manager.register_checkpoint(_TrainingResult(checkpoint, metrics))
    trial.invalidate_json_state()
    trial.run_metadata.invalidate_cache()


def finish_generation(scheduler, controller, scores):
    """Train trials until none is left to train before the next tournament.

    The number of steps is returned. ``scores`` is called with a trial and an epoch.
    """
    steps, until = 0, scheduler._next_perturbation_sync
    while scheduler._next_perturbation_sync == until:
        trial = scheduler.choose_trial_to_run(controller)
        if trial is None or scheduler._next_perturbation_sync != until:
            return steps
        latest = trial.latest_checkpoint_result
        epoch = next_boundary(latest.metrics["cur_epoch"] if latest else 0, 12, 5)
        score = scores(trial, epoch)
        trial.status = Trial.RUNNING
        decision = scheduler.on_trial_result(
            controller, trial, {"cur_epoch": epoch, "loss": score, "training_iteration": 1}
        )
        save(trial, epoch, score)
        controller._mark_trial_to_checkpoint(trial)
        if decision == TrialScheduler.PAUSE:
            trial.status = Trial.PAUSED
        else:
            trial.status = Trial.PENDING
        steps += 1
    return steps


def by_index(*scores):
    return lambda trial, epoch: scores[int(trial.trial_id[-5:])]


def losers(trials, epoch):
    return [trial for trial in trials if trial.config.get("cloned_at") == epoch]
