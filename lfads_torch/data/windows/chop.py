"""Cuts a continuous recording into windows, which become the trials of a session file."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lfads_torch.data.hdf5 import write_h5
from lfads_torch.data.recordings import read_recording
from lfads_torch.data.windows.layout import Chop, Ints, bins_of_windows
from lfads_torch.data.windows.plan import plan_chop
from lfads_torch.data.windows.segments import find_segments
from lfads_torch.errors import ExistingFileError, UserError


def cut(values: NDArray[Any], starts: Ints, window: int) -> NDArray[Any]:
    """Cut windows out of an array.

    Parameters
    ----------
    values
        (bins, …), an array whose first axis is time.
    starts
        (windows,), the first bin of each window.
    window
        Number of bins of a window.

    Returns
    -------
    NDArray
        (windows, window, …).
    """
    return values[bins_of_windows(starts, window)]


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

    Bins in which all channels are NaN are gaps. If only some channels are NaN, samples are
    missing, which needs :class:`~lfads_torch.modules.augmentations.SelectiveBackpropThruTime`; a
    warning says so. Another warning gives the number of bins that no window covers.

    Parameters
    ----------
    spikes
        (bins, channels), spikes in each bin, or any signal.
    window, overlap
        Number of bins of a window, and the least number that neighbouring windows share.
    others
        Further arrays by name, (bins, …) each, which become ``{split}_NAME``, such as
        ``behavior``, or ``ext_input`` and ``truth``, which the model knows.
    trial_ids, segments
        See :func:`~lfads_torch.data.windows.segments.find_segments`.
    heldout
        How many of the last channels are hidden from the encoder (co-smoothing).
    valid_fraction, block, seed, bridges
        See :func:`~lfads_torch.data.windows.plan.plan_chop`.

    Returns
    -------
    arrays
        The arrays by name, as in datasets/README.md, with those that describe where the windows
        lie (:mod:`lfads_torch.data.windows`). Windows of the ``test`` split are not used for
        training and have no ``recon_data``.
    chop
        Where the windows lie.

    Raises
    ------
    UserError
        If the shapes of the arrays do not match, or for the reasons given in
        :func:`~lfads_torch.data.windows.segments.find_segments` and
        :func:`~lfads_torch.data.windows.plan.plan_chop`.
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
    missing = np.isnan(counts)
    chop = plan_chop(
        *find_segments(n_bins, missing.all(axis=1), trial_ids, segments),
        n_bins, window, overlap, valid_fraction, block, seed, bridges,
    )  # fmt: skip
    covered = chop.covered()
    if missing[covered].any():
        warnings.warn(
            f"{missing[covered].mean():.2%} of the samples in windows are missing (NaN), in "
            f"{missing[covered].any(axis=0).sum()} channel(s): train with a transform that handles "
            f"them (lfads_torch.modules.augmentations.SelectiveBackpropThruTime).",
            stacklevel=2,
        )
    if chop.describe_uncovered():
        warnings.warn(chop.describe_uncovered(), stacklevel=2)
    continuous = {"encod_data": counts[:, : n_channels - heldout], "recon_data": counts}
    for name, values in (others or {}).items():
        continuous[name] = _check_other(name, np.asarray(values), n_bins, covered)
    arrays = chop.arrays()
    for split, starts in chop.starts.items():
        for name, values in continuous.items():
            if (split, name) != ("test", "recon_data"):
                arrays[f"{split}_{name}"] = cut(values, starts, window)
    return arrays, chop


def _check_other(
    name: str, values: NDArray[Any], n_bins: int, covered: NDArray[np.bool_]
) -> NDArray[Any]:
    """Check an array that accompanies the spikes, and return it with an axis of channels."""
    if name in ("encod_data", "recon_data", "inds") or name.startswith("chop_"):
        raise UserError(f"A further array cannot be named {name!r}: choose another name.")
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
    """Convert small counts to bytes, and other double-precision numbers to single precision."""
    if values.size and values.dtype.kind in "biuf":
        with np.errstate(invalid="ignore"):
            small = values.astype(np.uint8)
        if np.array_equal(small, values):
            return small
    return values.astype(np.float32) if values.dtype == np.float64 else values


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
        The file of the recording, see :func:`~lfads_torch.data.recordings.read_recording`.
    output
        The session file to write.
    window, overlap, heldout, valid_fraction, block, seed, bridges
        See :func:`chop_recording`.
    spikes, others, trial_ids, segments
        Keys of the arrays in the recording; see :func:`chop_recording`.
    scale
        Factor by which the spikes are multiplied: the bin width in seconds, if they are rates in
        Hz.
    overwrite
        Whether an existing output may be replaced.

    Returns
    -------
    Chop
        Where the windows lie.

    Raises
    ------
    ExistingFileError
        If the output exists and ``overwrite`` is false.
    MissingFileError
        If there is no recording.
    UserError
        For the reasons given in :func:`~lfads_torch.data.recordings.read_recording` and
        :func:`chop_recording`; if the recording is a single array although others are requested;
        or if the output would replace the recording.
    """
    recording, output = Path(recording), Path(output)
    if output.exists() and not overwrite:
        raise ExistingFileError(f"{output} exists already: choose another path, or --overwrite it.")
    if output.resolve() == recording.resolve():
        raise UserError(f"{output} is the recording itself: choose another path for the windows.")
    _check_keys(recording, [*(others or {}).values(), trial_ids, segments])
    arrays, chop = chop_recording(
        _read_counts(recording, spikes, scale),
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
    write_h5(output, arrays, {"recording": recording.name}, overwrite)
    return chop


def _check_keys(recording: Path, keys: list[str | None]) -> None:
    """Check that no other arrays are requested from a recording that is a single array."""
    inside = [key for key in keys if key is not None and not str(key).endswith(".npy")]
    if inside and recording.suffix == ".npy":
        raise UserError(
            f"{recording} is one array, the spikes, and holds no {', '.join(inside)}: give files "
            f"that end in .npy, or a recording of several arrays (.npz, HDF5, .mat)."
        )


def _read_counts(recording: Path, key: str, scale: float) -> NDArray[Any]:
    """Read and scale the spikes. Scaled values that are whole up to rounding become whole."""
    counts = read_recording(recording, key)
    if scale == 1.0:
        return counts
    scaled = counts * scale
    whole = np.round(scaled)
    return whole if np.allclose(scaled, whole, rtol=0, atol=1e-6, equal_nan=True) else scaled
