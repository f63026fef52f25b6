"""The average response of a session to each condition (its PSTHs)."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lfads_torch.data.conditions import trial_conditions
from lfads_torch.data.hdf5 import open_hdf5
from lfads_torch.data.sessions import session_shapes
from lfads_torch.data.smoothing import smooth
from lfads_torch.errors import UserError

Floats = NDArray[np.float64]


class ConditionPSTHs(NamedTuple):
    """The average response of one session to each condition.

    Attributes
    ----------
    rates
        (conditions, time, channels), in the unit of the data: spikes per bin for counts.
    labels
        (conditions,), sorted.
    n_trials
        (conditions,), how many trials were averaged.
    """

    rates: Floats
    labels: NDArray[Any]
    n_trials: NDArray[np.int64]


def condition_psths(path: str | Path, smoothing_width: float = 2.0) -> ConditionPSTHs:
    """Smooth the training trials of a session and average them by condition.

    Only ``train_encod_data`` and ``train_cond_idx`` are read, so that validation and test trials
    have no influence on the alignment. Missing samples (NaN) are left out, and bins beyond the ends
    of a trial count as missing: the rate at a bin is a mean of the samples of all trials at all
    bins near it, weighted by the Gaussian. Trials without a condition are left out too.

    Parameters
    ----------
    path
        The session file.
    smoothing_width
        Standard deviation of the Gaussian in bins; 0 does not smooth. The default of 2 bins suits
        bins of 20 ms. With shorter bins, choose a larger number.

    Returns
    -------
    ConditionPSTHs
        The averages, the sorted conditions and their numbers of trials. If the file lists the
        trials of each condition, the labels are the numbers of the conditions.

    Raises
    ------
    UserError
        If the file cannot be read or has no conditions, or if samples are infinite or never
        observed.
    """
    path = Path(path)
    shapes = session_shapes(path)
    if not 0 <= smoothing_width < shapes.n_encod_bins:
        raise UserError(
            f"smoothing_width = {smoothing_width}, but it must be at least 0 and less than the "
            f"{shapes.n_encod_bins} bins of a trial in {path}: it counts bins, not milliseconds."
        )
    with open_hdf5(path) as file:
        cond_idx = file["train_cond_idx"][()] if "train_cond_idx" in file else None
        data = file["train_encod_data" if "train_encod_data" in file else "train_data"][()]
    trial_labels = _labels_of_trials(cond_idx, len(data), path)
    labelled = _has_label(trial_labels)
    if not labelled.any():
        raise UserError(
            f"train_cond_idx in {path} gives none of the {len(data)} training trials a condition."
        )
    labels, condition_of, n_trials = np.unique(
        trial_labels[labelled], return_inverse=True, return_counts=True
    )
    totals, numbers = _sum_by_condition(data[labelled], condition_of, len(labels))
    if not np.isfinite(totals).all():
        raise UserError(
            f"train_encod_data in {path} holds infinite values: mark missing samples by NaN."
        )
    totals = smooth(totals, smoothing_width, mode="constant")
    numbers = smooth(numbers, smoothing_width, mode="constant")
    if not (numbers > 0).all():
        condition, time, channel = np.argwhere(numbers == 0)[0].tolist()
        raise UserError(
            f"{path}: channel {channel} was never observed at bin {time} of condition "
            f"{labels[condition].item()!r} (NaN in all of its {n_trials[condition]} training "
            f"trials, at the bins near it too): leave that channel or condition out, or smooth "
            f"more (smoothing_width = {smoothing_width})."
        )
    return ConditionPSTHs(totals / numbers, labels, n_trials)


def _labels_of_trials(cond_idx: Any, n_trials: int, path: Path) -> NDArray[Any]:
    """Return the condition of each training trial (trials,), NaN for a trial without one."""
    try:
        labels = trial_conditions(cond_idx, n_trials)
    except UserError as error:
        raise UserError(f"{path}: train_{error}") from error
    if labels is None:
        raise UserError(
            f"{path} has no train_cond_idx. Sessions are aligned by their average responses to the "
            f"same conditions: add the condition of each training trial, an array of {n_trials} "
            f"labels, or for each condition the indices of its trials."
        )
    return labels


def _has_label(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which trials have a condition: those whose label is not NaN."""
    return ~np.isnan(labels) if labels.dtype.kind == "f" else np.ones(len(labels), dtype=bool)


def _sum_by_condition(
    data: NDArray[Any], condition_of: NDArray[np.int64], n_conditions: int
) -> tuple[Floats, Floats]:
    """Return the sums and the numbers of observed samples (conditions, time, channels)."""
    totals = np.empty((n_conditions, *data.shape[1:]))
    numbers = np.empty_like(totals)
    for condition in range(n_conditions):
        trials = data[condition_of == condition].astype(np.float64)
        observed = ~np.isnan(trials)
        totals[condition] = np.where(observed, trials, 0).sum(axis=0)
        numbers[condition] = observed.sum(axis=0)
    return totals, numbers
