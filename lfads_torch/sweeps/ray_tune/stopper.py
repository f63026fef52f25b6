"""The rule that ends a population-based search."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ray import tune

from lfads_torch.errors import UserError
from lfads_torch.sweeps.results import EPOCH
from lfads_torch.sweeps.tournament import has_converged


class ImprovementRatioStopper(tune.Stopper):  # type: ignore[misc]
    """Stops all trials when the best of them has stopped improving.

    The rule is :func:`~lfads_torch.sweeps.tournament.has_converged`. A generation counts once every
    trial has reported it, or any trial has reported a later one (as after a trial has failed).

    Parameters
    ----------
    num_trials
        Number of trials.
    perturbation_interval, burn_in_period
        Those of the scheduler, in epochs: the first generation ends at the larger of the two, and
        each later one ``perturbation_interval`` epochs after it.
    metric, mode
        The result that is compared, and ``"max"`` if higher values are better.
    patience
        How many generations are compared, at least 2.
    min_improvement_ratio
        The largest relative improvement that does not count as an improvement.

    Raises
    ------
    ValueError
        If ``patience`` is less than 2.
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
        """Record a result. No single trial is ever stopped."""
        epoch = result[EPOCH]
        if epoch >= self.first and (epoch - self.first) % self.every == 0:
            self.scores.setdefault(epoch, {})[trial_id] = self.sign * float(result[self.metric])
        return False

    def stop_all(self) -> bool:
        """Return whether all trials should stop."""
        epochs = sorted(self.scores)
        if epochs and len(self.scores[epochs[-1]]) < self.num_trials:
            del epochs[-1]
        best = [np.nanmin(list(self.scores[epoch].values())) for epoch in epochs]
        return has_converged(best, self.patience, self.min_improvement_ratio)
