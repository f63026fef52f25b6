"""Reading the arrays of continuous recordings from HDF5, NumPy and MATLAB files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lfads_torch.errors import FileAccessError, MissingFileError, UserError


def read_recording(path: str | Path, key: str) -> NDArray[Any]:
    """Read an array of a recording, with time as its first axis.

    Parameters
    ----------
    path
        The recording: HDF5, .npz, .npy, or .mat of any version.
    key
        The name of the array: ``name``, or ``group/name`` or ``struct.name`` if it is nested. A
        key that ends in .npy is the path of another file, which holds the array. A file that ends
        in .npy has one array, which does not depend on the key.

    Returns
    -------
    NDArray
        The array as it is stored. (MATLAB 7.3 files store arrays transposed, which is undone.)

    Raises
    ------
    MissingFileError
        If there is no such file.
    UserError
        If the file cannot be read, or does not hold the array.
    """
    path = Path(key) if str(key).endswith(".npy") else Path(path)
    if not path.is_file():
        raise MissingFileError(f"There is no file {path} (looked from {Path.cwd()}).")
    try:
        contents = _open(path)
    except (OSError, NotImplementedError, ValueError) as error:
        raise FileAccessError(f"{path} cannot be read: {error}") from error
    if isinstance(contents, np.ndarray):
        return contents
    names = [key] if key in list(contents) else key.replace("/", ".").split(".")
    if isinstance(contents, dict):
        return _look_up(contents, names, path)
    with contents as file:
        array = _look_up(file, names, path)
        # MATLAB stores arrays column by column, and h5py reads them row by row.
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
    """Return the array that is found by following the names from level to level."""
    for depth, name in enumerate(names):
        fields = getattr(contents, "_fieldnames", None)  # The fields of a MATLAB structure.
        held = sorted(contents if isinstance(contents, Mapping) else fields or ())
        if name not in held:
            raise UserError(
                f"{path} has no array {'/'.join(names)!r}: "
                f"{'/'.join(names[:depth]) or 'it'} holds {held or 'numbers'}."
            )
        contents = contents[name] if isinstance(contents, Mapping) else getattr(contents, name)
    array = contents[()] if isinstance(contents, h5py.Dataset) else contents
    if not isinstance(array, np.ndarray):
        raise UserError(f"{'/'.join(names)} in {path} is not an array, but {type(array).__name__}.")
    return array
