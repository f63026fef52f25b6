"""The condition of each trial, in whichever form a data file gives it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfads_torch.errors import UserError


def trial_conditions(cond_idx: Any, n_trials: int) -> NDArray[Any] | None:
    """Return the condition of each trial.

    Parameters
    ----------
    cond_idx
        A label for each trial; or, as in files of the Neural Latents Benchmark, for each condition
        the indices of its trials. None if there are no conditions.
    n_trials
        Number of trials.

    Returns
    -------
    array or None
        (n_trials,), the labels, or the numbers of the conditions, with NaN for trials that are in
        none. None if there are no conditions.

    Raises
    ------
    UserError
        If there are more or fewer labels than trials, or indices of trials that do not exist.
    """
    if cond_idx is None:
        return None
    entries = [entry.decode() if isinstance(entry, bytes) else entry for entry in cond_idx]
    if all(np.size(entry) == 1 for entry in entries) and len(entries) == n_trials:
        return np.array([np.ravel(entry)[0] for entry in entries])
    if any(np.ndim(entry) != 1 for entry in entries):
        raise UserError(
            f"cond_idx must have a label for each of the {n_trials} trials, or for each condition "
            f"the indices of its trials, but it has {len(entries)} labels."
        )
    labels = np.full(n_trials, np.nan)
    for condition, trials in enumerate(entries):
        indices = np.asarray(trials, dtype=int)
        if indices.size and not 0 <= indices.min() <= indices.max() < n_trials:
            raise UserError(
                f"cond_idx says that condition {condition} has trial {indices.max()}, but the "
                f"{n_trials} trials are numbered from 0."
            )
        labels[indices] = condition
    return labels
