"""Helpers that write session files and set up data modules."""

import numpy as np

from lfads_torch.datamodules import BasicDataModule
from tests.conftest import write_file


def changed(arrays, **changes):
    """Return arrays with some replaced or added, and without those that are None."""
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


def with_test(arrays, n=3):
    """Add a test split: the first validation trials."""
    names = ("encod_data", "recon_data", "truth", "behavior")
    return {**arrays, **{f"test_{name}": arrays[f"valid_{name}"][:n] for name in names}}


def write_sessions(folder, *sessions):
    """Write the arrays of each session; return the pattern of the files."""
    for i, arrays in enumerate(sessions):
        write_file(folder / f"session{i}.h5", arrays)
    return str(folder / "session*.h5")


def set_up(pattern, **options):
    datamodule = BasicDataModule(str(pattern), **options)
    datamodule.setup()
    return datamodule


def zeros(*shape):
    return np.zeros(shape, dtype="float32")
