"""A recording becomes the arrays of a session file, and recordings that do not fit are refused."""

import warnings

import h5py
import numpy as np
import pytest

from lfads_torch.data.windows.chop import chop_file, chop_recording
from lfads_torch.data.windows.layout import Chop
from lfads_torch.data.windows.merge import merge
from lfads_torch.datamodules import BasicDataModule
from tests.conftest import write_file
from tests.data.windows.recording import counts

pytestmark = pytest.mark.filterwarnings("ignore:.*covered by no window.*")


# ------------------------------------------------------------------ arrays


def test_arrays_of_a_recording():
    spikes, force = counts(), np.random.default_rng(1).normal(size=100)
    arrays, chop = chop_recording(
        spikes, 8, 3, {"behavior": force, "ext_input": spikes[:, :2]}, heldout=2, block=20
    )
    assert chop.covered().all()
    total = 0
    for split, starts in chop.starts.items():
        total += len(starts)
        for i, start in enumerate(starts):
            held = slice(start, start + 8)
            np.testing.assert_array_equal(arrays[f"{split}_encod_data"][i], spikes[held, :3])
            np.testing.assert_array_equal(arrays[f"{split}_ext_input"][i], spikes[held, :2])
            np.testing.assert_array_equal(
                arrays[f"{split}_behavior"][i], force[held, None].astype("float32")
            )
            if split != "test":
                np.testing.assert_array_equal(arrays[f"{split}_recon_data"][i], spikes[held])
    assert "test_recon_data" not in arrays
    assert arrays["train_recon_data"].dtype == np.uint8
    # Trial numbers count the windows in the order of time.
    inds = np.concatenate([arrays[f"{split}_inds"] for split in chop.starts])
    starts = np.concatenate([*chop.starts.values()])
    np.testing.assert_array_equal(np.sort(inds), np.arange(total))
    assert (np.diff(starts[np.argsort(inds)]) >= 0).all()


def test_gaps_and_short_trials_are_warned_of():
    spikes = counts().astype(float)
    spikes[30:34] = np.nan
    ids = np.repeat([0, 1, 2], [60, 36, 4])
    with pytest.warns(
        UserWarning,
        match=r"8 of 100 bins \(8\.0%\) .* NaN .* 4 in gaps.*4 in 1 of 4 segments .* 8 bins",
    ):
        arrays, chop = chop_recording(spikes, 8, 3, trial_ids=ids)
    np.testing.assert_array_equal(chop.segments, [[0, 30], [34, 60], [60, 96], [96, 100]])
    np.testing.assert_array_equal(chop.segment_ids, [0, 0, 1, 2])
    assert not any(np.isnan(arrays[f"{split}_recon_data"]).any() for split in ("train", "valid"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chop_recording(counts(), 8, 3, block=20)


def test_missing_samples_are_kept_and_warned_of():
    spikes = counts().astype(float)
    spikes[10:20, 1] = np.nan
    with pytest.warns(UserWarning, match=r"2\.00% of the samples .* 1 channel.*SelectiveBackprop"):
        arrays, chop = chop_recording(spikes, 8, 3, valid_fraction=None)
    assert chop.covered().all()
    merged = merge(arrays["test_encod_data"], chop.starts["test"], 100, 3)
    np.testing.assert_allclose(merged, spikes, rtol=1e-6)


RECORDINGS = {
    "rank": ({"spikes": np.ones(100)}, r"\(bins, channels\).*\(100,\)"),
    "empty": ({"spikes": np.ones((0, 3))}, r"\(0, 3\)"),
    "text": ({"spikes": np.full((100, 2), "a")}, "<U1"),
    "heldout": ({"heldout": 5}, "5 held-out channels leave none of 5"),
    "bins": ({"others": {"behavior": np.ones(99)}}, r"behavior .* 100 bins.*\(99,\)"),
    "name": ({"others": {"recon_data": np.ones(100)}}, "cannot be named 'recon_data'"),
    "inputs": ({"others": {"ext_input": np.r_[np.ones(99), np.nan]}}, "ext_input is NaN in 1 bins"),
}


@pytest.mark.parametrize(("changes", "message"), RECORDINGS.values(), ids=RECORDINGS)
def test_recordings_that_are_refused(changes, message):
    arguments = {"spikes": counts(), "window": 8, "overlap": 3, "block": 20, **changes}
    with pytest.raises(ValueError, match=message):
        chop_recording(**arguments)


def test_windows_are_not_reshuffled(tmp_path):
    """Neighbouring windows share bins, so that the blocks must not change."""
    arrays, _ = chop_recording(counts(), 8, 3, block=20)
    data = write_file(tmp_path / "data.h5", arrays)
    BasicDataModule(str(data), batch_size=4).setup()
    with pytest.raises(ValueError, match=r"reshuffle_tv_seed = 1 .*data\.h5 .* both"):
        BasicDataModule(str(data), reshuffle_tv_seed=1).setup()


# ------------------------------------------------------------------ files


def test_an_output_is_replaced_only_on_request(tmp_path):
    np.save(tmp_path / "a.npy", counts(60))
    chop_file(tmp_path / "a.npy", tmp_path / "o.h5", 8, 3, block=20)
    with pytest.raises(FileExistsError, match=r"o\.h5 exists already"):
        chop_file(tmp_path / "a.npy", tmp_path / "o.h5", 8, 4, block=20)
    chop_file(tmp_path / "a.npy", tmp_path / "o.h5", 8, 4, block=20, overwrite=True)
    with h5py.File(tmp_path / "o.h5") as file:
        assert Chop.read(file).overlap == 4


def test_the_recording_itself_is_never_replaced(tmp_path):
    write_file(tmp_path / "a.h5", {"spikes": counts(60)})
    before = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "link.h5").symlink_to(tmp_path / "a.h5")
    for output in ("a.h5", "link.h5"):
        with pytest.raises(ValueError, match="is the recording itself"):
            chop_file(tmp_path / "a.h5", tmp_path / output, 8, 3, overwrite=True)
    assert (tmp_path / "a.h5").read_bytes() == before


@pytest.mark.parametrize(
    "other", [{"others": {"behavior": "force"}}, {"trial_ids": "t"}, {"segments": "s"}]
)
def test_a_recording_of_one_array_holds_no_other(tmp_path, other):
    """The spikes must not be used as behaviour."""
    np.save(tmp_path / "a.npy", counts(60))
    np.save(tmp_path / "trials.npy", np.repeat([1, 2], 30))
    with pytest.raises(
        ValueError, match=r"a\.npy is one array, the spikes, and holds no (force|t|s):"
    ):
        chop_file(tmp_path / "a.npy", tmp_path / "o.h5", 8, 3, **other)
    with_file = {"others": {"trial": str(tmp_path / "trials.npy")}}
    chop_file(tmp_path / "a.npy", tmp_path / "o.h5", 8, 3, block=20, **with_file)


def test_rates_in_hz_become_counts(tmp_path):
    np.save(tmp_path / "a.npy", counts(60) / 0.05)
    chop_file(tmp_path / "a.npy", tmp_path / "o.h5", 8, 3, scale=0.05, block=20)
    with h5py.File(tmp_path / "o.h5") as file:
        assert file["train_recon_data"].dtype == np.uint8
        np.testing.assert_array_equal(file["valid_recon_data"][0],
                                      counts(60)[file["valid_chop_start"][0] :][:8])  # fmt: skip
