"""Recordings are read from files of every format, and errors name the file and the array."""

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from lfads_torch.data.recordings import read_recording
from lfads_torch.data.windows.chop import chop_file, cut
from lfads_torch.data.windows.layout import Chop
from tests.conftest import write_file
from tests.data.windows.recording import counts


@pytest.fixture
def sources(tmp_path):
    """The same recording in every format, with a key for each."""
    spikes, trials = counts(60), np.repeat([1, 2], 30)
    np.save(tmp_path / "a.npy", spikes)
    np.save(tmp_path / "trials.npy", trials)
    np.savez(tmp_path / "a.npz", spikes=spikes, trials=trials)
    write_file(tmp_path / "a.h5", {"deep/spikes": spikes, "deep/trials": trials})
    savemat(tmp_path / "a.mat", {"data": {"spikes": spikes, "trials": trials}, "name": "x"})
    with h5py.File(tmp_path / "b.mat", "w", userblock_size=512) as file:  # As MATLAB 7.3 writes.
        file["data/spikes"], file["data/trials"] = spikes.T, trials[:, None]
    return spikes, {
        "a.npy": ("spikes", str(tmp_path / "trials.npy")),
        "a.npz": ("spikes", "trials"),
        "a.h5": ("deep/spikes", "deep.trials"),
        "a.mat": ("data.spikes", "data/trials"),
        "b.mat": ("data.spikes", "data.trials"),
    }


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5", "a.mat", "b.mat"])
def test_formats(sources, tmp_path, name):
    spikes, keys = sources
    key, trials = keys[name]
    np.testing.assert_array_equal(read_recording(tmp_path / name, key), spikes)
    chop = chop_file(
        tmp_path / name, tmp_path / "out" / "o.h5", 8, 3, spikes=key, trial_ids=trials, block=15
    )
    np.testing.assert_array_equal(chop.segments, [[0, 30], [30, 60]])
    np.testing.assert_array_equal(chop.segment_ids, [1, 2])
    with h5py.File(tmp_path / "out" / "o.h5") as file:
        kept = Chop.read(file)
        np.testing.assert_array_equal(
            file["train_recon_data"], cut(spikes, kept.starts["train"], 8)
        )
    assert kept.starts.keys() == chop.starts.keys()
    for split, starts in chop.starts.items():
        np.testing.assert_array_equal(kept.starts[split], starts)
    assert (kept.n_bins, kept.window, kept.overlap) == (60, 8, 3)


def test_files_that_are_refused(sources, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.h5"):
        read_recording(tmp_path / "gone.h5", "spikes")
    for name, message in [
        ("a.npz", r"no array 'rates': it holds \['spikes', 'trials'\]"),
        ("a.h5", r"no array 'rates': it holds \['deep'\]"),
        ("a.mat", r"no array 'rates'.* 'data'"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_recording(tmp_path / name, "rates")
    with pytest.raises(ValueError, match=r"data/rates.* data holds \['spikes', 'trials'\]"):
        read_recording(tmp_path / "a.mat", "data.rates")
    with pytest.raises(ValueError, match=r"data in .* is not an array"):
        read_recording(tmp_path / "a.mat", "data")
    with pytest.raises(ValueError, match=r"deep in .* is not an array, but Group"):
        read_recording(tmp_path / "a.h5", "deep")
    with pytest.raises(ValueError, match="deep/spikes holds numbers"):
        read_recording(tmp_path / "a.h5", "deep.spikes.more")
    (tmp_path / "a.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"a\.txt cannot be read: it should be HDF5"):
        read_recording(tmp_path / "a.txt", "spikes")
    (tmp_path / "c.npz").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"c\.npz cannot be read"):
        read_recording(tmp_path / "c.npz", "spikes")
