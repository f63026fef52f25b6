"""The segments of a recording: stretches of bins that no window may leave."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lfads_torch.data.windows.layout import Ints
from lfads_torch.errors import UserError


def find_segments(
    n_bins: int,
    missing: ArrayLike | None = None,
    trial_ids: ArrayLike | None = None,
    segments: ArrayLike | None = None,
) -> tuple[Ints, NDArray[Any]]:
    """Return the stretches of a recording that no window may leave.

    Parameters
    ----------
    n_bins
        Time bins of the recording.
    missing
        (n_bins,), true in bins that hold no data. A run of such bins is a gap.
    trial_ids
        (n_bins,), the number of the trial that each bin belongs to; NaN or a negative number
        between trials. Every run of equal numbers is a segment. Or a mask, true in trials.
    segments
        (segments, 2), instead of ``trial_ids``: first bin, counted from 0, and end (not included)
        of each segment.

    Returns
    -------
    segments
        (segments, 2), sorted; a gap cuts the segment that it lies in.
    segment_ids
        (segments,), the numbers of the trials, or the rows of the segments that were given; if
        neither was given, 0, 1, ….

    Raises
    ------
    UserError
        If the arguments contradict each other, or no bin is left.
    """
    if trial_ids is not None and segments is not None:
        raise UserError("Give trial_ids or segments, not both: both define where trials begin.")
    # The label of a bin is the row of its trial, and -1 outside of all trials and in gaps.
    labels = np.zeros(n_bins, dtype=np.int64)
    ids: NDArray[Any] | None = None
    if trial_ids is not None:
        labels, ids = _labels_of_trials(trial_ids, n_bins)
    elif segments is not None:
        labels = _labels_of_segments(segments, n_bins)
    if missing is not None:
        gaps = np.asarray(missing, dtype=bool)
        if gaps.shape != (n_bins,):
            raise UserError(f"missing must have {n_bins} bins, but its shape is {gaps.shape}.")
        labels = np.where(gaps, -1, labels)

    borders = np.flatnonzero(np.diff(labels)) + 1
    starts = np.concatenate([[0], borders]) if n_bins else borders
    stops = np.concatenate([borders, [n_bins]]) if n_bins else borders
    inside = labels[starts] >= 0
    found = np.stack([starts[inside], stops[inside]], axis=1).astype(np.int64)
    if not len(found):
        raise UserError(f"None of the {n_bins} bins lies in a trial and holds data.")
    rows = labels[found[:, 0]]
    if trial_ids is None and segments is None:
        return found, np.arange(len(found))
    return found, rows if ids is None else ids[rows]


def _labels_of_trials(trial_ids: ArrayLike, n_bins: int) -> tuple[Ints, NDArray[Any]]:
    """Return the label of each bin (n_bins,), and the number of the trial for each label."""
    given = np.asarray(trial_ids).ravel()
    if given.dtype.kind not in "biuf" or given.shape != (n_bins,):
        raise UserError(
            f"trial_ids must be a number for each of the {n_bins} bins, but have the shape "
            f"{np.shape(trial_ids)} and the type {given.dtype}."
        )
    numbers = np.where(np.isnan(given), -1, given) if given.dtype.kind == "f" else given
    if given.dtype.kind == "b":
        numbers = given.astype(np.int64) - 1
    elif given.dtype.kind == "f" and np.array_equal(numbers, np.trunc(numbers)):
        numbers = numbers.astype(np.int64)
    ids, labels = np.unique(numbers, return_inverse=True)
    return np.where(numbers < 0, -1, labels), ids


def _labels_of_segments(segments: ArrayLike, n_bins: int) -> Ints:
    """Return the row of the segment that each bin lies in (n_bins,), -1 outside of all."""
    table = np.asarray(segments)
    if table.ndim != 2 or table.shape[1] != 2 or table.dtype.kind not in "iuf":
        raise UserError(
            f"segments must be (segments, 2), first bins and ends, but their shape is "
            f"{table.shape} and their type {table.dtype}."
        )
    integers = table.astype(np.int64)
    if not np.array_equal(integers, table):
        raise UserError("segments must be whole bins, counted from 0, not times.")
    labels = np.full(n_bins, -1)
    for row, (start, stop) in enumerate(integers.tolist()):
        if not 0 <= start < stop <= n_bins:
            raise UserError(
                f"Segment {row} is {[start, stop]}: its first bin must be at least 0 and less than "
                f"its end, which must be at most {n_bins}, the bins of the recording."
            )
        if (labels[start:stop] >= 0).any():
            raise UserError(f"Segment {row}, bins {start} to {stop}, overlaps another one.")
        labels[start:stop] = row
    return labels
