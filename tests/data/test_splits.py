"""Trials are divided at random into training and validation trials, and no trial is lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfads_torch.data.splits import reshuffle_train_valid
from tests.conftest import tiny_arrays, write_file
from tests.data.session_files import changed, set_up

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer than its share of a batch")


few = settings(max_examples=25, deadline=None)


@few
@given(
    n_train=st.integers(1, 12), n_valid=st.integers(1, 12),
    ratio=st.none() | st.floats(0.05, 0.95), seed=st.integers(0, 5),
)  # fmt: skip
def test_reshuffling(n_train, n_valid, ratio, seed):
    n = n_train + n_valid
    n_new = n_train if ratio is None else round(ratio * n)
    arrays = tiny_arrays(n_train, n_valid, n_bins=2, n_channels=2)
    # These arrays have no counterpart in the other split, or no entry for each trial.
    others = {"train_unpaired": np.arange(n_train), "train_table": np.ones(99)}
    others |= {"valid_table": np.ones(99), "readin_weight": np.ones((2, 2))}
    before = {**arrays, **others}
    if not 0 < n_new < n:
        with pytest.raises(ValueError, match=rf"reshuffle_tv_ratio = .* {n_new} of {n} trials"):
            reshuffle_train_valid(before, seed, ratio)
        return
    after = reshuffle_train_valid(before, seed, ratio)
    assert after.keys() == before.keys()
    order = np.concatenate([after["train_inds"], after["valid_inds"]])
    assert len(after["train_inds"]) == n_new
    assert sorted(order) == list(range(n))
    for name in ("encod_data", "recon_data", "truth", "cond_idx", "behavior"):
        everything = np.concatenate([before[f"train_{name}"], before[f"valid_{name}"]])
        np.testing.assert_array_equal(after[f"train_{name}"], everything[order[:n_new]])
        np.testing.assert_array_equal(after[f"valid_{name}"], everything[order[n_new:]])
    for key in ("psth", "conversion_factor", *others):
        np.testing.assert_array_equal(after[key], before[key])
    np.testing.assert_array_equal(before["train_inds"], np.arange(n_train))


def test_reshuffling_is_reproducible_and_shuffles():
    arrays = tiny_arrays(30, 10)
    first, again = (reshuffle_train_valid(arrays, 3)["train_inds"] for _ in range(2))
    other = reshuffle_train_valid(arrays, 4)["train_inds"]
    np.testing.assert_array_equal(first, again)
    assert list(first) != list(other)
    assert sorted(first) != list(range(30))


def test_reshuffling_from_the_data_module(tmp_path):
    arrays = changed(tiny_arrays(), train_inds=None, valid_inds=None)
    path = write_file(tmp_path / "a.h5", arrays)
    datamodule = set_up(
        path, reshuffle_tv_seed=1, reshuffle_tv_ratio=0.5, batch_keys=["inds"],
        attr_keys=["train_inds"],
    )  # fmt: skip
    everything = np.concatenate([arrays["train_encod_data"], arrays["valid_encod_data"]])
    all_inds = []
    for data in (datamodule.train_data, datamodule.valid_data):
        [(batch, (inds,))] = data
        assert len(inds) == 9
        np.testing.assert_array_equal(batch.encod_data, everything[inds.int()])
        all_inds += inds.int().tolist()
    assert sorted(all_inds) == list(range(18))
    assert datamodule.train_inds.tolist() == all_inds[:9]


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.01, 1.5, -1.0])
def test_reshuffling_leaves_neither_set_empty(tiny_file, ratio):
    with pytest.raises(ValueError, match=rf"datamodule\.reshuffle_tv_ratio = {ratio}"):
        set_up(tiny_file, reshuffle_tv_seed=0, reshuffle_tv_ratio=ratio)


def test_reshuffling_truth_of_one_split_only(tmp_path):
    path = write_file(tmp_path / "a.h5", changed(tiny_arrays(), valid_truth=None))
    set_up(path)
    with pytest.raises(ValueError, match=r"valid_truth"):
        set_up(path, reshuffle_tv_seed=0)
