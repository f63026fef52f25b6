"""Arrays are written to HDF5 files completely or not at all, and read errors name the file."""

import os

import h5py
import numpy as np
import pytest

from lfads_torch.data.hdf5 import open_hdf5, read_arrays, read_shapes, write_h5
from lfads_torch.datasets.lorenz import lorenz
from lfads_torch.errors import FileAccessError, MissingFileError
from tests.datasets.synthetic import SMALL, digest, same


def test_written_file_holds_arrays_and_attributes(tmp_path):
    arrays = {**lorenz(**SMALL), "empty": np.zeros((0, 3)), "text": np.array(b"name")}
    path = write_h5(tmp_path / "new" / "data.h5", arrays, {"seed": 3, "generator": "lorenz"})
    with h5py.File(path) as file:
        assert same({key: np.asarray(file[key][()]) for key in file}, arrays)
        assert dict(file.attrs) == {"seed": 3, "generator": "lorenz"}
        assert file["train_truth"].compression == "gzip"
        assert file["train_truth"].shuffle
    assert os.listdir(path.parent) == ["data.h5"]


def test_existing_file_is_replaced_only_on_request(tmp_path):
    path = write_h5(tmp_path / "data.h5", {"a": np.arange(3)})
    before = digest(path)
    with pytest.raises(FileExistsError, match=r"overwrite=True.*--overwrite"):
        write_h5(path, {"a": np.arange(4)})
    assert digest(path) == before
    write_h5(path, {"a": np.arange(4)}, overwrite=True)
    assert digest(path) != before


def test_a_failed_write_does_not_change_the_existing_file(tmp_path):
    path = write_h5(tmp_path / "data.h5", {"a": np.arange(3)})
    before = digest(path)
    with pytest.raises(TypeError):
        write_h5(path, {"a": np.arange(4), "b": np.array([object()])}, overwrite=True)
    assert digest(path) == before
    assert os.listdir(tmp_path) == ["data.h5"]


def test_reading_what_was_written(tmp_path):
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.array(1.5)}
    path = write_h5(tmp_path / "data.h5", arrays)
    with h5py.File(path, "a") as file:
        file.create_group("group")["c"] = 1
    assert same({key: np.asarray(value) for key, value in read_arrays(path).items()}, arrays)
    assert read_shapes(path) == {"a": (2, 3), "b": ()}


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(MissingFileError, match=r"no file .*gone\.h5 \(looked from "):
        open_hdf5(tmp_path / "gone.h5")
    (tmp_path / "text.h5").write_text("x")
    for path in (tmp_path / "text.h5", tmp_path):
        with pytest.raises(FileAccessError, match=f"{path} cannot be read as an HDF5 file"):
            open_hdf5(path)
