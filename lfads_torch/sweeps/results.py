"""The results and outcomes of the trials of a sweep, and the choice of the best trial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lfads_torch.errors import UserError
from lfads_torch.sweeps.options import SweepOptions

EPOCH = "cur_epoch"
"""Name of a result: the number of epochs that a trial has been trained for."""
BEST_SCORE = "best_score"
"""Name of a result: the metric of the trial's best epoch, if a callback keeps its model."""
BEST_CHECKPOINT = "best_checkpoint"
"""Name of a result: the checkpoint of that epoch, relative to the trial's checkpoint."""
DIVERGED = "diverged"
"""Name of a result: why training ended, if the loss became infinite or not a number."""
LAST_CHECKPOINT = "last.ckpt"
"""Name of the file in a trial's checkpoint from which it continues."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial."""

    trial: str
    """Identifier of the trial, as in the history."""
    status: str
    """``TERMINATED`` or ``ERROR``; ``PENDING``, ``PAUSED`` or ``RUNNING`` if interrupted."""
    metrics: dict[str, Any]
    """The results of the trial at its last checkpoint; empty if there is none."""
    config: dict[str, Any]
    """The hyperparameters of the trial."""
    checkpoint: Any
    """The last checkpoint: a Ray Checkpoint, which has ``as_directory()``, or None."""
    error: str | None
    """The traceback of the error that ended the trial, or None."""


def best_outcome(outcomes: Sequence[Outcome], options: SweepOptions) -> Outcome:
    """Return the trial with the best score among those that left a checkpoint.

    Raises
    ------
    UserError
        If there is none.
    """
    candidates = [
        outcome
        for outcome in outcomes
        if outcome.checkpoint is not None and np.isfinite(score(outcome.metrics, options))
    ]
    if not candidates:
        errors = {o.trial: error_message(o.error) or o.metrics.get(DIVERGED) for o in outcomes}
        raise UserError(f"Every trial failed before it left a model: {errors}.")
    sign = 1 if options.mode == "min" else -1
    return min(candidates, key=lambda outcome: sign * score(outcome.metrics, options))


def score(metrics: Mapping[str, Any], options: SweepOptions) -> float:
    """Return the score of the model that a trial would leave, given its last results.

    It is NaN if the metric was never reported.
    """
    if options.use_best and BEST_SCORE in metrics:
        return float(metrics[BEST_SCORE])
    return float(metrics.get(options.metric, np.nan))


def error_message(traceback: str | None) -> str | None:
    """Return the last line of a traceback, which names the error, or None if there is none."""
    lines = [line for line in (traceback or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else None
