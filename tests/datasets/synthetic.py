"""Sizes of small synthetic data sets, and functions that compare such data sets."""

import hashlib
from pathlib import Path

import numpy as np

SPLITS = ("train", "valid")
SMALL = {"n_conditions": 4, "n_trials": 5, "n_bins": 12, "n_neurons": 6}
SESSIONS = {**SMALL, "n_sessions": 3, "n_latents": 5}


def both(arrays, key):
    """Return an array of both splits in the order of the trials of the whole data set."""
    order = np.argsort(np.concatenate([arrays[f"{split}_inds"] for split in SPLITS]))
    return np.concatenate([arrays[f"{split}_{key}"] for split in SPLITS])[order]


def same(first, second):
    return first.keys() == second.keys() and all(
        first[key].dtype == second[key].dtype and np.array_equal(first[key], second[key])
        for key in first
    )


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def check_layout(arrays, n_conditions, n_trials, n_valid, n_bins, n_neurons, n_latents):
    """Check names, shapes, dtypes and that each condition is split in the same way."""
    for split, n_each in (("train", n_trials - n_valid), ("valid", n_valid)):
        n = n_conditions * n_each
        for key, shape, dtype in [
            ("encod_data", (n, n_bins, n_neurons), np.uint8),
            ("recon_data", (n, n_bins, n_neurons), np.uint8),
            ("truth", (n, n_bins, n_neurons), np.float32),
            ("latents", (n, n_bins, n_latents), np.float32),
            ("inds", (n,), np.int64),
            ("cond_idx", (n,), np.int64),
        ]:
            array = arrays[f"{split}_{key}"]
            assert (array.shape, array.dtype) == (shape, dtype), key
        counts = np.bincount(arrays[f"{split}_cond_idx"], minlength=n_conditions)
        assert counts.tolist() == [n_each] * n_conditions
        assert np.array_equal(arrays[f"{split}_encod_data"], arrays[f"{split}_recon_data"])
        assert np.array_equal(arrays[f"{split}_cond_idx"], arrays[f"{split}_inds"] // n_trials)
    inds = np.concatenate([arrays["train_inds"], arrays["valid_inds"]])
    assert np.array_equal(np.sort(inds), np.arange(n_conditions * n_trials))
    assert arrays["conversion_factor"].shape == ()
    # The trials of a condition share only the rates.
    for key in ("truth", "latents"):
        by_condition = both(arrays, key).reshape(n_conditions, n_trials, n_bins, -1)
        assert (by_condition == by_condition[:, :1]).all()
        assert len(np.unique(by_condition[:, 0, 0], axis=0)) == n_conditions
