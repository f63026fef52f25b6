"""Continuous recordings: cut into overlapping windows, and what was inferred merged again.

    recording → segments → blocks (train, valid) → windows → model → windows → recording

A *segment* is a stretch of bins that no window may leave: a trial, or what lies between two gaps.
Segments are cut into *blocks*, each of which is for training or for validation as a whole, so that
no bin is in both. In each block overlapping *windows* are cut out, the trials of the model. What
it infers about them is averaged where they overlap, with weights that fade in and out (as in the
continuous analyses with AutoLFADS: Keshtkaran et al. 2022, Nature Methods 19:1572). At the borders
of blocks further windows *bridge* the two; they make the ``test`` split, on which nothing is
trained or selected, so that there is no seam at these borders either.

The file that is written holds all that merging needs, and posterior sampling copies it to its
output: ``{split}_chop_start`` (windows,), the first bin of each window in the recording;
``{split}_chop_segment`` (windows,), the row of ``chop_segments`` that it lies in;
``chop_segments`` (segments, 2), first bins and ends (not included) of all segments;
``chop_segment_ids`` (segments,), the numbers of the trials; and the scalars ``chop_n_bins``,
``chop_window`` and ``chop_overlap``.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lfads_torch.datasets.synthetic import write_h5
from lfads_torch.errors import ExistingFileError, MissingFileError, UserError
from lfads_torch.files import move_aside

__all__ = ["Chop", "chop_file", "chop_recording", "continuous_path", "cross_fade", "cut",
           "find_segments", "is_chopped", "merge", "merge_file", "plan_chop",
           "read_recording"]  # fmt: skip

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SPLITS = ("train", "valid", "test")
FIELDS = ("output_params", "factors", "co_means", "co_stds", "gen_states", "gen_inputs",
          "con_states")  # fmt: skip
"""What posterior sampling saves of every bin: these fields can be merged."""


@dataclass(frozen=True, eq=False)
class Chop:
    """Where the windows of a recording lie.

    Attributes
    ----------
    n_bins
        Time bins of the recording.
    window
        Bins of a window.
    overlap
        Bins that two neighbouring windows share at least, and over which they fade into each other.
    segments
        (segments, 2), first bin and end (not included) of each segment, sorted.
    segment_ids
        (segments,), numbers of the trials; of what lies between two gaps, 0, 1, ….
    starts
        First bin of each window (windows,), sorted, by split; no split is empty.
    """

    n_bins: int
    window: int
    overlap: int
    segments: Ints
    segment_ids: NDArray[Any]
    starts: Mapping[str, Ints]

    def covered(self, *splits: str) -> NDArray[np.bool_]:
        """Return which bins (n_bins,) the windows of these splits hold; by default, of any."""
        inside = np.zeros(self.n_bins, dtype=bool)
        for split in splits or self.starts:
            inside[_bins(self.starts.get(split, np.zeros(0, np.int64)), self.window)] = True
        return inside

    def segment_of(self, split: str) -> Ints:
        """Return the row of ``segments`` that each window of a split lies in (windows,)."""
        return np.searchsorted(self.segments[:, 0], self.starts[split], side="right") - 1

    def uncovered(self) -> str:
        """Say which bins no window covers, and why; nothing if there is none."""
        n_uncovered = int((~self.covered()).sum())
        if not n_uncovered:
            return ""
        lengths = np.diff(self.segments)[:, 0]
        short = lengths[lengths < self.window]
        n_outside = self.n_bins - int(lengths.sum())
        reasons = [f"{n_outside} in gaps or between trials"] if n_outside else []
        if len(short):
            reasons.append(
                f"{short.sum()} in {len(short)} of {len(lengths)} segments that are shorter than a "
                f"window of {self.window} bins"
            )
        rest = n_uncovered - n_outside - int(short.sum())
        if rest:  # in a file that was not written here, or that windows were taken out of
            reasons.append(f"{rest} without a window")
        return (
            f"{n_uncovered} of {self.n_bins} bins ({n_uncovered / self.n_bins:.1%}) are covered by "
            f"no window, and are NaN in what is merged: {', '.join(reasons)}."
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what a data file holds of the chop, as the module describes it."""
        arrays: dict[str, NDArray[Any]] = {
            "chop_n_bins": np.array(self.n_bins),
            "chop_window": np.array(self.window),
            "chop_overlap": np.array(self.overlap),
            "chop_segments": self.segments,
            "chop_segment_ids": self.segment_ids,
        }
        order = np.argsort(np.concatenate([*self.starts.values()]), kind="stable")
        ranks, first = np.argsort(order), 0
        for split, starts in self.starts.items():
            arrays[f"{split}_chop_start"] = starts
            arrays[f"{split}_chop_segment"] = self.segment_of(split)
            arrays[f"{split}_inds"] = ranks[first : first + len(starts)]
            first += len(starts)
        return arrays

    @classmethod
    def read(cls, file: h5py.File) -> "Chop":
        """Read the chop of a data file, or of what was inferred about it.

        Raises
        ------
        ValueError
            If it holds none.
        """
        if "chop_n_bins" not in file:
            raise UserError(
                f"{file.filename} was not chopped by scripts/chop.py: it holds no chop_n_bins, so "
                f"that nobody knows where its trials lie in a recording."
            )
        keys = {split: f"{split}_chop_start" for split in SPLITS}
        return cls(
            n_bins=int(file["chop_n_bins"][()]),
            window=int(file["chop_window"][()]),
            overlap=int(file["chop_overlap"][()]),
            segments=file["chop_segments"][()],
            segment_ids=file["chop_segment_ids"][()],
            starts={split: file[key][()] for split, key in keys.items() if key in file},
        )


# ---------------------------------------------------------------------------------- where to cut


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
        (n_bins,), which bins hold no data: gaps.
    trial_ids
        (n_bins,), the number of the trial that each bin belongs to; NaN or a negative number
        between trials. Every run of equal numbers is a segment. Or a mask, true in trials.
    segments
        (segments, 2), instead of trial_ids: first bin, counted from 0, and end (not included) of
        each segment.

    Returns
    -------
    segments
        (segments, 2), sorted; a gap cuts the segment that it lies in.
    segment_ids
        (segments,), the numbers of the trials, or the rows of the segments that were given; if
        neither was given, 0, 1, ….

    Raises
    ------
    ValueError
        If arguments contradict each other, or nothing is left.
    """
    if trial_ids is not None and segments is not None:
        raise UserError("Give trial_ids or segments, not both: each says where trials begin.")
    # A number for each bin: equal in a segment, different in the next, -1 outside of all.
    label = np.zeros(n_bins, dtype=np.int64)
    ids: NDArray[Any] | None = None
    if trial_ids is not None:
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
        ids, label = np.unique(numbers, return_inverse=True)
        label = np.where(numbers < 0, -1, label)
    elif segments is not None:
        table = _segment_table(segments, n_bins)
        label = np.full(n_bins, -1)
        for row, (start, stop) in enumerate(table):
            if (label[start:stop] >= 0).any():
                raise UserError(f"Segment {row}, bins {start} to {stop}, overlaps another one.")
            label[start:stop] = row
    if missing is not None:
        gaps = np.asarray(missing, dtype=bool)
        if gaps.shape != (n_bins,):
            raise UserError(f"missing must have {n_bins} bins, but its shape is {gaps.shape}.")
        label = np.where(gaps, -1, label)

    borders = np.flatnonzero(np.diff(label)) + 1
    starts = np.concatenate([[0], borders]) if n_bins else borders
    stops = np.concatenate([borders, [n_bins]]) if n_bins else borders
    inside = label[starts] >= 0
    found = np.stack([starts[inside], stops[inside]], axis=1).astype(np.int64)
    if not len(found):
        raise UserError(f"None of the {n_bins} bins lies in a trial and holds data.")
    rows = label[found[:, 0]]
    if trial_ids is None and segments is None:
        return found, np.arange(len(found))
    return found, rows if ids is None else ids[rows]


def _segment_table(segments: ArrayLike, n_bins: int) -> Ints:
    table = np.asarray(segments)
    if table.ndim != 2 or table.shape[1] != 2 or table.dtype.kind not in "iuf":
        raise UserError(
            f"segments must be (segments, 2), first bins and ends, but their shape is "
            f"{table.shape} and their type {table.dtype}."
        )
    integers = table.astype(np.int64)
    if not np.array_equal(integers, table):
        raise UserError("segments must be whole bins, counted from 0, and no times.")
    bad = (integers[:, 0] < 0) | (integers[:, 0] >= integers[:, 1]) | (integers[:, 1] > n_bins)
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"Segment {row} is {integers[row].tolist()}: its first bin must be at least 0 and less "
            f"than its end, which must be at most {n_bins}, the bins of the recording."
        )
    return integers


def plan_chop(
    segments: Ints,
    segment_ids: NDArray[Any],
    n_bins: int,
    window: int,
    overlap: int,
    valid_fraction: float | None = 0.2,
    block: int | None = None,
    seed: int = 0,
    bridges: bool = True,
) -> Chop:
    """Lay windows over segments.

    In a stretch (a segment, or neighbouring blocks of one split) the windows are spread evenly:
    the first begins with it, the last ends with it, and neighbours share ``overlap`` bins or a few
    more. So all of its bins are covered, if only it is as long as a window.

    Segments are cut into blocks of ``block`` bins or more; shorter ones are a block. For validation
    one block of each 1 / valid_fraction neighbouring ones is drawn at random.

    Parameters
    ----------
    segments, segment_ids
        From :func:`find_segments`.
    n_bins
        Time bins of the recording.
    window, overlap
        In bins.
    valid_fraction
        Of the blocks, for validation, above 0 and at most 0.5. None: nothing is to be trained on,
        and all windows are of the ``test`` split.
    block
        In bins; by default that of ten windows.
    seed
        Of the draw of validation blocks.
    bridges
        Lay further windows, of the ``test`` split, across the borders between training and
        validation blocks. There are none without overlap.

    Raises
    ------
    ValueError
        If a number is out of range, or there are too few bins for what is wanted.
    """
    if not 0 <= overlap < window:
        raise UserError(
            f"A window needs at least one bin, and the overlap at least 0 and fewer than the "
            f"window, but there are window = {window} and overlap = {overlap}."
        )
    lengths = np.diff(segments)[:, 0]
    if lengths.max() < window:
        raise UserError(
            f"No segment is as long as a window of {window} bins: the longest has {lengths.max()}. "
            f"Choose a smaller window."
        )
    long_enough = segments[lengths >= window]
    if valid_fraction is None:
        runs = [(start, stop, "test") for start, stop in long_enough.tolist()]
    else:
        runs = _deal(long_enough, window, valid_fraction, block, seed)
    starts: dict[str, list[Ints]] = {}
    for start, stop, split in runs:
        starts.setdefault(split, []).append(_spread(start, stop, window, overlap))
    if bridges and overlap:
        first_bins = set(long_enough[:, 0].tolist())
        borders = [start for start, _, _ in runs if start not in first_bins]
        if borders:
            starts["test"] = [np.array(borders, dtype=np.int64) - window // 2]
    ordered = {split: np.concatenate(starts[split]) for split in SPLITS if split in starts}
    return Chop(n_bins, window, overlap, segments, segment_ids, ordered)


def _deal(
    segments: Ints, window: int, valid_fraction: float, block: int | None, seed: int
) -> list[tuple[int, int, str]]:
    """Cut segments into blocks, deal these out, and join neighbours of one split."""
    if not 0 < valid_fraction <= 0.5:
        raise UserError(f"valid_fraction must be above 0 and at most 0.5, not {valid_fraction}.")
    block = 10 * window if block is None else block
    if block < window:
        raise UserError(f"A block of {block} bins is shorter than a window of {window}.")
    blocks: list[tuple[int, int, int]] = []  # segment, first bin, end
    for row, (start, stop) in enumerate(segments.tolist()):
        n = max(1, (stop - start) // block)
        edges = start + (stop - start) * np.arange(n + 1) // n
        blocks += [
            (row, a, b) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        ]
    if len(blocks) < 2:
        raise UserError(
            f"There is only one block of {block} bins, so that there is nothing to validate on: "
            f"choose shorter blocks (they need {window} bins, those of a window)."
        )
    n_valid = max(1, round(valid_fraction * len(blocks)))
    rng = np.random.default_rng(seed)
    groups = np.array_split(np.arange(len(blocks)), n_valid)
    valid = {int(rng.choice(group)) for group in groups}
    runs: list[tuple[int, int, str]] = []
    previous = (-1, "")
    for i, (row, start, stop) in enumerate(blocks):
        split = "valid" if i in valid else "train"
        if (row, split) == previous:
            runs[-1] = (runs[-1][0], stop, split)
        else:
            runs.append((start, stop, split))
        previous = (row, split)
    return runs


def _spread(start: int, stop: int, window: int, overlap: int) -> Ints:
    """Return the first bins of windows that cover the bins from ``start`` to ``stop`` evenly."""
    room = stop - start - window
    n_steps = -(-room // (window - overlap))
    return start + room * np.arange(n_steps + 1) // max(n_steps, 1)


# --------------------------------------------------------------------------------- cut and merge


def _bins(starts: Ints, window: int) -> Ints:
    return starts[:, None] + np.arange(window)


def cut(values: NDArray[Any], starts: Ints, window: int) -> NDArray[Any]:
    """Return windows (windows, window, …) of an array whose first axis is time."""
    return values[_bins(starts, window)]


def cross_fade(window: int, overlap: int) -> Floats:
    """Return the weight of each bin of a window (window,), before those of others are known.

    It rises linearly over the first ``overlap`` bins, 1/(overlap + 1), 2/(overlap + 1), …, stays
    at 1, and falls in the same way. Where two windows overlap by just as many bins, their weights
    add up to one; :func:`merge` divides by the sum in any case.
    """
    edge = 1.0 + np.minimum(np.arange(window), np.arange(window)[::-1])
    return np.minimum(1.0, edge / (overlap + 1))


def merge(windows: NDArray[Any], starts: Ints, n_bins: int, overlap: int) -> Floats:
    """Average windows where they overlap.

    Parameters
    ----------
    windows
        (windows, window, …).
    starts
        (windows,), their first bins.
    n_bins
        Time bins of the recording.
    overlap
        Bins over which windows fade into each other, see :func:`cross_fade`.

    Returns
    -------
    NDArray
        (n_bins, …): in each bin the weighted mean of the windows that hold it, with weights that
        sum to one; NaN where there is none.

    Raises
    ------
    ValueError
        If windows reach beyond the recording, or their number is not that of their first bins.
    """
    if len(windows) != len(starts):
        raise UserError(f"There are {len(windows)} windows, but {len(starts)} first bins of them.")
    window = windows.shape[1]
    if len(starts) and (starts.min() < 0 or starts.max() + window > n_bins):
        raise UserError(f"A window of {window} bins reaches beyond the {n_bins} of the recording.")
    fade = cross_fade(window, overlap).reshape(-1, *[1] * (windows.ndim - 2))
    total = np.zeros((n_bins, *windows.shape[2:]))
    weight = np.zeros((n_bins, *fade.shape[1:]))
    for start, values in zip(starts, windows, strict=True):
        total[start : start + window] += fade * values
        weight[start : start + window] += fade
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


# ------------------------------------------------------------------------------------- recordings


def chop_recording(
    spikes: ArrayLike,
    window: int,
    overlap: int,
    others: Mapping[str, ArrayLike] | None = None,
    trial_ids: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    heldout: int = 0,
    valid_fraction: float | None = 0.2,
    block: int | None = None,
    seed: int = 0,
    bridges: bool = True,
) -> tuple[dict[str, NDArray[Any]], Chop]:
    """Cut a continuous recording into the arrays of a session file.

    Bins in which all channels are NaN are gaps. Where only some are, samples are missing, which
    needs :class:`~lfads_torch.modules.augmentations.SelectiveBackpropThruTime`; a warning says so,
    and another one how many bins no window covers.

    Parameters
    ----------
    spikes
        (n_bins, channels), spikes in each bin, or any signal.
    window, overlap
        In bins.
    others
        More arrays by name, (n_bins, …) each, which become ``{split}_NAME``: ``behavior``, say, or
        ``ext_input`` and ``truth``, which the model knows.
    trial_ids, segments
        See :func:`find_segments`.
    heldout
        How many of the last channels are hidden from the encoder (co-smoothing).
    valid_fraction, block, seed, bridges
        See :func:`plan_chop`.

    Returns
    -------
    arrays
        By name, as in datasets/README.md, with those that the module describes. Windows of the
        ``test`` split, which are not to be learnt from, have no ``recon_data``.
    chop
        Where the windows lie.

    Raises
    ------
    ValueError
        If arrays do not fit each other, or see :func:`find_segments` and :func:`plan_chop`.
    """
    counts = _compact(np.asarray(spikes))
    if counts.ndim != 2 or 0 in counts.shape or counts.dtype.kind not in "biuf":
        raise UserError(
            f"spikes must be numbers (bins, channels), but their shape is {counts.shape} and "
            f"their type {counts.dtype}."
        )
    n_bins, n_channels = counts.shape
    if not 0 <= heldout < n_channels:
        raise UserError(f"{heldout} held-out channels leave none of {n_channels} to the encoder.")
    absent = np.isnan(counts)
    chop = plan_chop(
        *find_segments(n_bins, absent.all(axis=1), trial_ids, segments),
        n_bins, window, overlap, valid_fraction, block, seed, bridges,
    )  # fmt: skip
    covered = chop.covered()
    if absent[covered].any():
        warnings.warn(
            f"{absent[covered].mean():.2%} of the samples in windows are missing (NaN), in "
            f"{absent[covered].any(axis=0).sum()} channel(s): train with a transform that handles "
            f"them (lfads_torch.modules.augmentations.SelectiveBackpropThruTime).",
            stacklevel=2,
        )
    if chop.uncovered():
        warnings.warn(chop.uncovered(), stacklevel=2)
    continuous = {"encod_data": counts[:, : n_channels - heldout], "recon_data": counts}
    for name, values in (others or {}).items():
        continuous[name] = _other(name, np.asarray(values), n_bins, covered)
    arrays = chop.arrays()
    for split, starts in chop.starts.items():
        for name, values in continuous.items():
            if (split, name) != ("test", "recon_data"):
                arrays[f"{split}_{name}"] = cut(values, starts, window)
    return arrays, chop


def _other(
    name: str, values: NDArray[Any], n_bins: int, covered: NDArray[np.bool_]
) -> NDArray[Any]:
    """Check an array that goes with the spikes, and give it channels if it has none."""
    if name in ("encod_data", "recon_data", "inds") or name.startswith("chop_"):
        raise UserError(f"An array beside the spikes cannot be named {name!r}: choose another.")
    if values.shape[:1] != (n_bins,) or values.dtype.kind not in "biuf":
        raise UserError(
            f"{name} must be numbers for each of the {n_bins} bins, but its shape is "
            f"{values.shape} and its type {values.dtype}."
        )
    values = _compact(values if values.ndim > 1 else values[:, None])
    if name == "ext_input" and np.isnan(values[covered]).any():
        raise UserError(
            f"ext_input is NaN in {np.isnan(values[covered]).any(axis=-1).sum()} bins that windows "
            f"cover, but the model needs it there: fill it in, or make these bins a gap (NaN in "
            f"all spikes)."
        )
    return values


def _compact(values: NDArray[Any]) -> NDArray[Any]:
    """Store small counts as bytes, and other numbers in single precision."""
    if values.size and values.dtype.kind in "biuf":
        with np.errstate(invalid="ignore"):
            small = values.astype(np.uint8)
        if np.array_equal(small, values):
            return small
    return values.astype(np.float32) if values.dtype == np.float64 else values


def read_recording(path: str | Path, key: str) -> NDArray[Any]:
    """Read an array of a recording, time first.

    Parameters
    ----------
    path
        Of the recording: HDF5, .npz, .npy, or .mat of any version.
    key
        Of the array: ``name``, or ``group/name`` or ``struct.name`` where it lies deeper. A key
        that ends in .npy is a file of its own. A path that ends in .npy has one array, which
        needs no key.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read, or does not hold the array.
    """
    path = Path(key) if str(key).endswith(".npy") else Path(path)
    if not path.is_file():
        raise MissingFileError(f"There is no file {path} (looked from {Path.cwd()}).")
    try:
        contents = _open(path)
    except (OSError, NotImplementedError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if isinstance(contents, np.ndarray):
        return contents
    names = [key] if key in list(contents) else key.replace("/", ".").split(".")
    if isinstance(contents, dict):
        return _look_up(contents, names, path)
    with contents as file:
        array = _look_up(file, names, path)
        # MATLAB writes columns first, h5py reads rows first.
        return array.T if path.suffix == ".mat" else array


def _open(path: Path) -> Any:
    """Return an array, a dictionary, or an open file of named arrays."""
    if path.suffix in (".npy", ".npz"):
        return np.load(path)
    if h5py.is_hdf5(path):
        return h5py.File(path)
    if path.suffix == ".mat":
        from scipy.io import loadmat

        return loadmat(path, squeeze_me=True, struct_as_record=False)
    raise UserError("it should be HDF5, .npz, .npy or .mat.")


def _look_up(contents: Any, names: Sequence[str], path: Path) -> NDArray[Any]:
    """Go down from name to name, to an array."""
    for i, name in enumerate(names):
        fields = getattr(contents, "_fieldnames", None)  # of a MATLAB structure
        held = sorted(contents if isinstance(contents, Mapping) else fields or ())
        if name not in held:
            raise UserError(
                f"{path} has no array {'/'.join(names)!r}: "
                f"{'/'.join(names[:i]) or 'it'} holds {held or 'numbers'}."
            )
        contents = contents[name] if isinstance(contents, Mapping) else getattr(contents, name)
    array = contents[()] if isinstance(contents, h5py.Dataset) else contents
    if not isinstance(array, np.ndarray):
        raise UserError(f"{'/'.join(names)} in {path} is no array, but {type(array).__name__}.")
    return array


def chop_file(
    recording: str | Path,
    output: str | Path,
    window: int,
    overlap: int,
    spikes: str = "spikes",
    scale: float = 1.0,
    others: Mapping[str, str] | None = None,
    trial_ids: str | None = None,
    segments: str | None = None,
    heldout: int = 0,
    valid_fraction: float | None = 0.2,
    block: int | None = None,
    seed: int = 0,
    bridges: bool = True,
    overwrite: bool = False,
) -> Chop:
    """Cut the recording in a file into windows, and write them as a session file.

    Parameters
    ----------
    recording
        See :func:`read_recording`.
    output
        The file to be written.
    spikes, others, trial_ids, segments
        Keys of the arrays in the recording; see :func:`chop_recording`.
    scale
        Multiplies the spikes: the bin width in seconds, if they are rates in Hz.
    window, overlap, heldout, valid_fraction, block, seed, bridges
        See :func:`chop_recording`.
    overwrite
        Whether an existing output may be replaced.

    Raises
    ------
    FileExistsError
        If the output exists and ``overwrite`` is false.
    FileNotFoundError, ValueError
        See :func:`read_recording` and :func:`chop_recording`; or if the recording is one array,
        which does not hold the others, or would be overwritten itself.
    """
    output = Path(output)
    if output.exists() and not overwrite:
        raise ExistingFileError(f"{output} exists already: choose another path, or --overwrite it.")
    if output.resolve() == Path(recording).resolve():
        raise UserError(f"{output} is the recording itself: choose another path for the windows.")
    keys = [*(others or {}).values(), *(key for key in (trial_ids, segments) if key is not None)]
    nameless = [key for key in keys if not str(key).endswith(".npy")]
    if nameless and Path(recording).suffix == ".npy":
        raise UserError(
            f"{recording} is one array, the spikes, and holds no {', '.join(nameless)}: give files "
            f"that end in .npy, or a recording of several arrays (.npz, HDF5, .mat)."
        )
    counts = read_recording(recording, spikes)
    if scale != 1.0:
        counts = counts * scale
        whole = np.round(counts)
        if np.allclose(counts, whole, rtol=0, atol=1e-6, equal_nan=True):
            counts = whole
    arrays, chop = chop_recording(
        counts,
        window,
        overlap,
        {name: read_recording(recording, key) for name, key in (others or {}).items()},
        None if trial_ids is None else read_recording(recording, trial_ids),
        None if segments is None else read_recording(recording, segments),
        heldout,
        valid_fraction,
        block,
        seed,
        bridges,
    )
    write_h5(output, arrays, {"recording": Path(recording).name}, overwrite)
    return chop


# ----------------------------------------------------------------------------- what was inferred


def is_chopped(path: str | Path) -> bool:
    """Return whether a file is of windows whose place in a recording is known."""
    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path) as file:
        return "chop_n_bins" in file


def continuous_path(path: str | Path) -> Path:
    """Return where :func:`merge_file` puts what it merges: ``NAME_continuous.h5``."""
    path = Path(path)
    return path.with_name(f"{path.stem}_continuous{path.suffix}")


def merge_file(
    path: str | Path, output: str | Path | None = None, fields: Sequence[str] = ()
) -> Path:
    """Merge what posterior sampling inferred about windows to what it inferred about a recording.

    Parameters
    ----------
    path
        The output of posterior sampling for a file that :func:`chop_file` wrote. Its windows of
        all splits are merged.
    output
        Of this function; by default that of :func:`continuous_path`. A file of that name is
        renamed to ``….1.h5`` first.
    fields
        Names without split; by default all of :data:`FIELDS` that there are, and their standard
        deviations ``FIELD_std`` if these were saved. (Those of samples are averaged like all else,
        which is too large rather than too small where windows overlap.)

    Returns
    -------
    Path
        A file with each field as (n_bins, …), NaN in bins that no window covers, of which a warning
        tells; with ``train_mask`` and ``valid_mask`` (n_bins,), which bins were trained and
        validated on; and with ``segments`` and ``segment_ids``, as in :class:`Chop`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it has not been chopped, or does not hold such fields for all windows.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"There is no file {path} (looked from {Path.cwd()}).")
    if not h5py.is_hdf5(path):
        raise UserError(f"{path} is no HDF5 file.")
    output = continuous_path(path) if output is None else Path(output)
    partial = output.with_name(f"{output.name}.partial")
    with h5py.File(path) as source:
        chop = Chop.read(source)
        starts = np.concatenate([*chop.starts.values()])
        fields = fields or _fields_of(source, chop)
        _check_fields(source, chop, fields)
        output.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(partial, "w") as target:
            for field in fields:  # one at a time is in memory
                windows = np.concatenate([source[f"{split}_{field}"][()] for split in chop.starts])
                merged = merge(windows, starts, chop.n_bins, chop.overlap)
                target[field] = merged.astype(np.result_type(windows.dtype, np.float32))
            for split in ("train", "valid"):
                if split in chop.starts:
                    target[f"{split}_mask"] = chop.covered(split)
            target["segments"], target["segment_ids"] = chop.segments, chop.segment_ids
            target.attrs["source"] = path.name
    move_aside(output)
    os.replace(partial, output)
    if chop.uncovered():
        warnings.warn(f"{output.name}: {chop.uncovered()}", stacklevel=2)
    return output


def _fields_of(file: h5py.File, chop: Chop) -> list[str]:
    """Return the fields that a file holds and that can be merged."""
    names = [f"{field}{kind}" for field in FIELDS for kind in ("", "_std")]
    found = [name for name in names if any(f"{split}_{name}" in file for split in chop.starts)]
    if not found:
        raise UserError(
            f"{file.filename} holds nothing that was inferred (such as valid_output_params): give "
            f"the output of posterior sampling, lfads_output_sess0.h5."
        )
    return found


def _check_fields(file: h5py.File, chop: Chop, fields: Sequence[str]) -> None:
    for field, (split, starts) in product(fields, chop.starts.items()):
        key = f"{split}_{field}"
        shape = file[key].shape if key in file else None
        if shape is None or shape[:2] != (len(starts), chop.window):
            raise UserError(
                f"{key} in {file.filename} should be ({len(starts)} windows, {chop.window} bins, "
                f"…), but {'is not there' if shape is None else f'its shape is {shape}'}."
            )
