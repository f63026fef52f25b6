"""Checks and summaries of the arrays (trials, time, channels) that figures show."""

from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lfads_torch.errors import UserError

Array = NDArray[Any]


class Condition(NamedTuple):
    """A condition of the experiment and its trials."""

    label: Any
    """A number or a string."""
    trials: Array
    """(n,) indices of the trials of this condition."""


class EncodedSizes(TypedDict, total=False):
    """The part of the data that the encoder sees, as keyword arguments of the figures."""

    n_encod_bins: int
    n_encod_channels: int


def as_trials(values: ArrayLike, name: str) -> Array:
    """Return values as an array of floats of shape (trials, time, channels).

    Raises
    ------
    UserError
        If the array does not have three axes, or if one of them has length zero.
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(f"{name} must be (trials, time, channels), but its shape is {array.shape}.")
    return array


def as_optional_array(values: ArrayLike | None) -> Array | None:
    """Return values as an array of floats, or None if they are absent or empty."""
    return None if values is None or np.size(values) == 0 else np.asarray(values, dtype=float)


def group_by_condition(cond_idx: ArrayLike, n_trials: int) -> list[Condition]:
    """Group trials by their condition.

    Parameters
    ----------
    cond_idx
        (n_trials,) condition of each trial. Trials whose condition is NaN are left out.
    n_trials
        The number of trials.

    Returns
    -------
    list of Condition
        The conditions, sorted by their labels.

    Raises
    ------
    UserError
        If the number of labels is not the number of trials.
    """
    labels = np.asarray(cond_idx)
    if labels.shape != (n_trials,):
        raise UserError(
            f"cond_idx needs one label for each of the {n_trials} trials, but its shape is "
            f"{labels.shape}."
        )
    known = np.unique(labels[~np.isnan(labels)] if labels.dtype.kind == "f" else labels)
    return [Condition(label, np.flatnonzero(labels == label)) for label in known.tolist()]


def evenly_spaced_trials(n_trials: int, max_trials: int | None = None) -> Array:
    """Return the indices of at most ``max_trials`` trials, evenly spaced over all trials."""
    n_chosen = n_trials if max_trials is None else min(n_trials, max_trials)
    return np.linspace(0, n_trials - 1, n_chosen).round().astype(int)


def encoded_sizes(encod_data: Any) -> EncodedSizes:
    """Return the sizes of encoded data (B, T_enc, N_enc), or none if the data are None."""
    if encod_data is None:
        return {}
    return {"n_encod_bins": encod_data.shape[1], "n_encod_channels": encod_data.shape[2]}


def is_counts(values: Array) -> bool:
    """Return whether all finite values are whole numbers that are not negative."""
    finite = values[np.isfinite(values)]
    return bool((finite >= 0).all() and (finite == finite.round()).all())


def unit_of(data: Array) -> str:
    """Return the name of the unit of data, for the labels of axes."""
    return "spikes per bin" if is_counts(data) else "data units"
