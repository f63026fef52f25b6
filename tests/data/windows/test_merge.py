"""Windows are averaged with weights that fade, and every value returns to its bin."""

import h5py
import numpy as np
import pytest

from lfads_torch.data.windows.chop import chop_recording, cut
from lfads_torch.data.windows.merge import (
    continuous_path,
    cross_fade,
    is_chopped,
    merge,
    merge_file,
)
from lfads_torch.data.windows.plan import plan_chop
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.running.sampling import run_posterior_sampling
from tests.conftest import tiny_model, write_file
from tests.data.windows.recording import counts

pytestmark = pytest.mark.filterwarnings("ignore:.*covered by no window.*")


# ------------------------------------------------------------------ closed forms


def test_cross_fade_of_two_windows():
    """Over r bins of overlap the later window has the weights 1, 2, … r over r + 1."""
    window, overlap = 8, 3
    starts = np.array([0, window - overlap])
    windows = np.stack([np.zeros(window), np.ones(window)])
    merged = merge(windows, starts, 13, overlap)
    np.testing.assert_allclose(merged, [0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1], rtol=1e-15)


@pytest.mark.parametrize(("window", "overlap"), [(8, 3), (8, 4), (9, 0), (5, 1), (1, 0)])
def test_weights_of_regular_windows_sum_to_one_by_themselves(window, overlap):
    fade = cross_fade(window, overlap)
    step = window - overlap
    total = np.zeros(step * 6 + overlap)
    for start in range(0, step * 6, step):
        total[start : start + window] += fade
    np.testing.assert_allclose(total[overlap : len(total) - overlap], 1.0, rtol=1e-15)


def test_a_weighted_mean_by_hand():
    """Three windows over one bin, fading over two bins: weights 1/3, 1 and 2/3."""
    np.testing.assert_allclose(cross_fade(5, 2), [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    windows = np.arange(15.0).reshape(3, 5)
    merged = merge(windows, np.array([0, 2, 3]), 9, 2)
    by_hand = (1 / 3 * windows[0, 4] + 1 * windows[1, 2] + 2 / 3 * windows[2, 1]) / 2
    assert merged[4] == pytest.approx(by_hand, rel=1e-15)
    assert np.isnan(merged[8])


def test_no_seam_at_borders_of_blocks():
    """Each window has its own offset; after merging no step is larger than in a fade."""
    chop = plan_chop(np.array([[0, 400]]), np.array([0]), 400, 20, 5, block=40)
    rng = np.random.default_rng(0)
    starts = np.concatenate([*chop.starts.values()])
    windows = np.repeat(rng.uniform(-1, 1, (len(starts), 1)), 20, axis=1)
    step = np.abs(np.diff(merge(windows, starts, 400, 5)))
    assert step.max() < 2 / 5

    alone = np.concatenate([chop.starts[split] for split in ("train", "valid")])
    without = np.abs(np.diff(merge(windows[: len(alone)], alone, 400, 5)))
    borders = chop.starts["test"] + 10 - 1
    assert without[borders].mean() > 3 * step[borders].mean()


def test_windows_of_nlb_tools():
    """If regular windows fit, both libraries cut the same ones and merge them to the original."""
    theirs = pytest.importorskip("nlb_tools.chop")
    values = np.random.default_rng(0).normal(size=(8 + 5 * 9, 2))
    chop = plan_chop(np.array([[0, 53]]), np.array([0]), 53, 8, 3, valid_fraction=None)
    windows = cut(values, chop.starts["test"], 8)
    np.testing.assert_allclose(windows, theirs.chop_data(values, 3, 8), rtol=1e-6)
    merged = merge(windows, chop.starts["test"], 53, 3)
    np.testing.assert_allclose(merged, theirs.merge_chops(windows, 3, 53), rtol=1e-10)


# ------------------------------------------------------------------ files


def chopped(path, **how):
    """Write a recording as windows of the tiny model's sizes, without forward bins."""
    arrays, chop = chop_recording(counts(), 8, 3, heldout=1, block=20, **how)
    write_file(path, arrays)
    return chop


def window_model(**overrides):
    return tiny_model(recon_seq_len=8, **overrides)


def test_merged_fields(tmp_path):
    chop = chopped(tmp_path / "data.h5", trial_ids=np.repeat([3, -1, 4], [50, 4, 46]))
    (path,) = run_posterior_sampling(
        window_model(), BasicDataModule(str(tmp_path / "data.h5")), tmp_path / "o.h5", 3,
        save_std=True, save_samples=True,
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"o_sess0_continuous\.h5: 4 of 100 bins"):
        merged = merge_file(path)
    assert merged == tmp_path / "o_sess0_continuous.h5" == continuous_path(path)
    sizes = {"output_params": 5, "factors": 3, "co_means": 2, "co_stds": 2, "gen_states": 9,
             "gen_inputs": 2, "con_states": 4}  # fmt: skip
    with h5py.File(merged) as file, h5py.File(path) as source:
        names = {*sizes, *(f"{field}_std" for field in sizes)}
        assert set(file) == {*names, "train_mask", "valid_mask", "segments", "segment_ids"}
        for field, size in sizes.items():
            assert file[field].shape == (100, size)
            assert file[field].dtype == np.float32
            assert np.isnan(file[field][50:54]).all()
            assert not np.isnan(file[field][:50]).any()
        # The expected values are computed for each bin from the saved windows.
        fade = cross_fade(8, 3)
        for bin_ in (0, 7, 23, 49, 54, 71, 99):
            total, weight = np.zeros(5), 0.0
            for split in chop.starts:
                for i, start in enumerate(source[f"{split}_chop_start"][()]):
                    if start <= bin_ < start + 8:
                        total += (
                            fade[bin_ - start] * source[f"{split}_output_params"][i, bin_ - start]
                        )
                        weight += fade[bin_ - start]
            np.testing.assert_allclose(file["output_params"][bin_], total / weight, rtol=1e-5)
        np.testing.assert_array_equal(file["train_mask"][()], chop.covered("train"))
        np.testing.assert_array_equal(file["valid_mask"][()], chop.covered("valid"))
        np.testing.assert_array_equal(file["segment_ids"], [3, 4])

    again = merge_file(path, fields=["factors"])
    assert again == merged
    with h5py.File(again) as file:
        assert "output_params" not in file
    assert (tmp_path / "o_sess0_continuous.1.h5").exists()


def test_files_that_cannot_be_merged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.h5"):
        merge_file(tmp_path / "gone.h5")
    (tmp_path / "text.h5").write_text("x")
    with pytest.raises(ValueError, match=r"text\.h5 cannot be read as an HDF5 file"):
        merge_file(tmp_path / "text.h5")
    plain = write_file(tmp_path / "plain.h5", {"valid_factors": np.ones((2, 8, 3))})
    assert not is_chopped(plain)
    with pytest.raises(ValueError, match=r"plain\.h5 was not chopped by scripts/chop\.py"):
        merge_file(plain)
    chopped(tmp_path / "data.h5")
    with pytest.raises(ValueError, match=r"data\.h5 holds nothing that was inferred"):
        merge_file(tmp_path / "data.h5")
    with pytest.raises(ValueError, match=r"train_ic_mean .* is not there"):
        merge_file(tmp_path / "data.h5", fields=["ic_mean"])
    with h5py.File(tmp_path / "data.h5", "a") as file:
        file["train_factors"] = np.ones((3, 8, 3))
    with pytest.raises(ValueError, match=r"train_factors .* 8 bins.*\(3, 8, 3\)"):
        merge_file(tmp_path / "data.h5")
    assert not continuous_path(tmp_path / "data.h5").exists()
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(ValueError, match="3 windows, but 2 first bins"):
        merge(np.ones((3, 4)), np.array([0, 2]), 9, 1)
    with pytest.raises(ValueError, match="beyond the 9"):
        merge(np.ones((1, 4)), np.array([6]), 9, 1)
