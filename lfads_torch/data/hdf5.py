"""Opening, reading and writing HDF5 files of named arrays."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lfads_torch.errors import ExistingFileError, FileAccessError, MissingFileError
from lfads_torch.files import written_atomically

CHUNK_BYTES = 2**20
"""The largest size in bytes of a chunk of a dataset, unless a single trial is larger."""


def open_hdf5(path: str | Path) -> h5py.File:
    """Open an HDF5 file to read.

    Raises
    ------
    MissingFileError
        If there is no such file.
    FileAccessError
        If it cannot be read, or is not an HDF5 file.
    """
    try:
        return h5py.File(path)
    except FileNotFoundError as error:
        raise MissingFileError(f"There is no file {path} (looked from {Path.cwd()}).") from error
    except OSError as error:
        raise FileAccessError(f"{path} cannot be read as an HDF5 file: {error}") from error


def read_arrays(path: str | Path) -> dict[str, Any]:
    """Read every array at the root of a file; groups are left out."""
    with open_hdf5(path) as file:
        return {key: file[key][()] for key in file if isinstance(file[key], h5py.Dataset)}


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Read only the shapes of the arrays at the root of a file."""
    with open_hdf5(path) as file:
        return {key: file[key].shape for key in file if isinstance(file[key], h5py.Dataset)}


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise an ExistingFileError if a file exists that may not be replaced."""
    if path.exists() and not overwrite:
        raise ExistingFileError(
            f"{path} exists already: choose another path, or pass overwrite=True (on the command "
            "line --overwrite) to replace it."
        )


def write_h5(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write arrays to a compressed HDF5 file.

    The file appears under its name only once it is complete. It holds no times or versions, so
    that equal contents give equal bytes.

    Parameters
    ----------
    path
        The file to write; missing folders are made.
    arrays
        Arrays by name, written in alphabetical order. Chunks hold whole trials (the first axis),
        so that repeated trials compress well.
    attributes
        Attributes of the file: numbers, strings, or sequences of numbers.
    overwrite
        Whether an existing file may be replaced.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ExistingFileError
        If the file exists and ``overwrite`` is false.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    with (
        written_atomically(path) as temporary,
        h5py.File(temporary, "w", libver=("earliest", "v108")) as file,
    ):
        for name, value in sorted(arrays.items()):
            little_endian = value.astype(value.dtype.newbyteorder("<"), copy=False)
            file.create_dataset(name, data=little_endian, dcpl=_layout(value), track_times=False)
        for name, value in (attributes or {}).items():
            file.attrs[name] = value
    return path


def _layout(array: NDArray[Any]) -> Any:
    """Choose chunks and compression explicitly: h5py's defaults differ between its versions."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_fill_time(h5py.h5d.FILL_TIME_IFSET)
    if array.ndim > 0 and array.size > 0:
        n_trials = CHUNK_BYTES // (array.nbytes // len(array))
        layout.set_chunk((int(np.clip(n_trials, 1, len(array))), *array.shape[1:]))
        layout.set_shuffle()
        layout.set_deflate(6)
    return layout
