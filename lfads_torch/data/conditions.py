"""Conditions of trials, in the two forms in which data files give them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfads_torch.errors import UserError


def trial_conditions(cond_idx: Any, n_trials: int) -> NDArray[Any] | None:
    """Return the condition of each trial, given in either of the two forms.

    Parameters
    ----------
    cond_idx
        A label for each trial, or, as in files of the Neural Latents Benchmark, the indices of the
        trials of each condition. None if there are no conditions.
    n_trials
        The number of trials.

    Returns
    -------
    array of shape (n_trials,), or None
        The labels. If ``cond_idx`` holds indices of trials, the labels are the numbers of the
        conditions, counted from 0, and NaN for trials that belong to no condition. None if there
        are no conditions.

    Raises
    ------
    UserError
        If the number of labels is not the number of trials, or if an index of a trial is too large.
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
            wrong = indices[(indices < 0) | (indices >= n_trials)][0]
            raise UserError(
                f"cond_idx says that condition {condition} has trial {wrong}, but the {n_trials} "
                f"trials are numbered from 0 to {n_trials - 1}."
            )
        labels[indices] = condition
    return labels
