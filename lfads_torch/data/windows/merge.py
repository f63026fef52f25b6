"""Merges values inferred in overlapping windows to one value in each bin of the recording."""

import warnings
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lfads_torch.data.hdf5 import open_hdf5
from lfads_torch.data.windows.layout import Chop, Ints
from lfads_torch.errors import UserError
from lfads_torch.files import written_atomically

Floats = NDArray[np.float64]

FIELDS = ("output_params", "factors", "co_means", "co_stds", "gen_states", "gen_inputs",
          "con_states")  # fmt: skip
"""The fields that posterior sampling saves for every bin, and which can therefore be merged."""


def cross_fade(window: int, overlap: int) -> Floats:
    """Return the weight of each bin of a window (window,), before weights are divided by their sum.

    The weights rise linearly over the first ``overlap`` bins, 1/(overlap + 1), 2/(overlap + 1), …,
    stay at 1, and fall in the same way. Where two windows overlap by exactly that many bins, their
    weights sum to one; :func:`merge` divides by the sum in any case.
    """
    edge = 1.0 + np.minimum(np.arange(window), np.arange(window)[::-1])
    return np.minimum(1.0, edge / (overlap + 1))


def merge(windows: NDArray[Any], starts: Ints, n_bins: int, overlap: int) -> Floats:
    """Average windows where they overlap.

    Parameters
    ----------
    windows
        (windows, window, …), the values in each window.
    starts
        (windows,), the first bin of each window.
    n_bins
        Time bins of the recording.
    overlap
        Bins over which the weights of windows fade, see :func:`cross_fade`.

    Returns
    -------
    NDArray
        (n_bins, …): in each bin the weighted mean over the windows that hold it, with weights that
        sum to one, or NaN if there is no window.

    Raises
    ------
    UserError
        If windows reach beyond the recording, or there are more or fewer windows than first bins.
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


def is_chopped(path: str | Path) -> bool:
    """Return whether the trials of a file are windows whose place in a recording is known."""
    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path) as file:
        return "chop_n_bins" in file


def continuous_path(path: str | Path) -> Path:
    """Return the path of the file that :func:`merge_file` writes: ``NAME_continuous.h5``."""
    path = Path(path)
    return path.with_name(f"{path.stem}_continuous{path.suffix}")


def merge_file(
    path: str | Path, output: str | Path | None = None, fields: Sequence[str] = ()
) -> Path:
    """Merge what posterior sampling inferred about windows to fields of the whole recording.

    Parameters
    ----------
    path
        The output of posterior sampling for a file that
        :func:`~lfads_torch.data.windows.chop.chop_file` wrote. Its windows of all splits are
        merged.
    output
        The file to write; by default that of :func:`continuous_path`. An existing file of that
        name is renamed to ``….1.h5`` first.
    fields
        Names of fields, without split; by default all of :data:`FIELDS` that the file holds, and
        their standard deviations ``FIELD_std`` if these were saved. (Standard deviations are
        averaged in the same way, which overestimates them where windows overlap.)

    Returns
    -------
    Path
        A file with each field as (n_bins, …). Bins that no window covers are NaN, and a warning
        gives their number. The file also holds ``train_mask`` and ``valid_mask`` (n_bins,), which
        bins were trained and validated on, and ``segments`` and ``segment_ids``, as in
        :class:`~lfads_torch.data.windows.layout.Chop`.

    Raises
    ------
    MissingFileError
        If there is no such file.
    UserError
        If the file cannot be read, has not been chopped, or does not hold such fields for all
        windows.
    """
    path = Path(path)
    output = continuous_path(path) if output is None else Path(output)
    with open_hdf5(path) as source:
        chop = Chop.read(source)
        fields = fields or _fields_of(source, chop)
        _check_fields(source, chop, fields)
        with (
            written_atomically(output, keep_old=True) as temporary,
            h5py.File(temporary, "w") as target,
        ):
            _write_merged(target, source, chop, fields)
            target.attrs["source"] = path.name
    if chop.describe_uncovered():
        warnings.warn(f"{output.name}: {chop.describe_uncovered()}", stacklevel=2)
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
    """Check that a file has these fields for all windows."""
    for field, (split, starts) in product(fields, chop.starts.items()):
        key = f"{split}_{field}"
        shape = file[key].shape if key in file else None
        if shape is None or shape[:2] != (len(starts), chop.window):
            raise UserError(
                f"{key} in {file.filename} should be ({len(starts)} windows, {chop.window} bins, "
                f"…), but {'is not there' if shape is None else f'its shape is {shape}'}."
            )


def _write_merged(target: h5py.File, source: h5py.File, chop: Chop, fields: Sequence[str]) -> None:
    """Write the merged fields, of which only one at a time is in memory, and the masks."""
    starts = np.concatenate([*chop.starts.values()])
    for field in fields:
        windows = np.concatenate([source[f"{split}_{field}"][()] for split in chop.starts])
        merged = merge(windows, starts, chop.n_bins, chop.overlap)
        target[field] = merged.astype(np.result_type(windows.dtype, np.float32))
    for split in ("train", "valid"):
        if split in chop.starts:
            target[f"{split}_mask"] = chop.covered(split)
    target["segments"], target["segment_ids"] = chop.segments, chop.segment_ids
