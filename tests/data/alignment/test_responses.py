"""PSTHs are smoothed averages over the observed samples of training trials."""

import math

import h5py
import numpy as np
import pytest

from lfads_torch.data.alignment.files import align_files
from lfads_torch.data.alignment.responses import condition_psths
from tests.conftest import write_file
from tests.data.alignment.sessions import (
    N_BINS,
    N_CONDITIONS,
    session_arrays,
    shared_psths,
    write_sessions,
)


def smoothed_average(trials, width):
    """Average (trials, time) by definition: weights of the Gaussian, over observed samples."""
    n_bins = trials.shape[1]
    average = np.empty(n_bins)
    for t in range(n_bins):
        total = weights = 0.0
        for trial in trials:
            for u in range(n_bins):
                if not math.isnan(trial[u]) and abs(u - t) <= int(4 * width + 0.5):
                    weight = math.exp(-0.5 * ((u - t) / width) ** 2) if width else float(u == t)
                    total += weight * float(trial[u])
                    weights += weight
        average[t] = total / weights
    return average


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("width", [0, 0.8, 2.0])
def test_psths_are_smoothed_averages_of_observed_samples(tmp_path, width, missing):
    arrays = session_arrays(shared_psths()[0], n_trials=60)
    data = arrays["train_encod_data"]
    data[np.random.default_rng(2).random(data.shape) < missing] = np.nan
    found = condition_psths(write_file(tmp_path / "a.h5", arrays), width)
    assert found.labels.tolist() == [0, 1, 2, 3]
    assert found.n_trials.tolist() == [15, 15, 15, 15]
    assert found.rates.shape == (N_CONDITIONS, N_BINS, 7)
    for condition in range(N_CONDITIONS):
        trials = data[arrays["train_cond_idx"] == condition]
        for channel in (0, 6):
            expected = smoothed_average(trials[..., channel], width)
            np.testing.assert_allclose(found.rates[condition, :, channel], expected, rtol=1e-10)


def test_default_smoothing_is_two_bins(tmp_path):
    (path,) = write_sessions(tmp_path, (7,))
    np.testing.assert_array_equal(condition_psths(path).rates, condition_psths(path, 2.0).rates)


def test_a_constant_rate_is_constant_at_the_ends_of_trials(tmp_path):
    arrays = session_arrays(np.full((2, 10, 3), 4.0), counts=False)
    rates = condition_psths(write_file(tmp_path / "a.h5", arrays), 3.0).rates
    np.testing.assert_allclose(rates, 4.0, rtol=1e-12)


def test_conditions_of_every_form(tmp_path):
    arrays = session_arrays(shared_psths()[0])
    condition = arrays["train_cond_idx"]
    expected = condition_psths(write_file(tmp_path / "int.h5", arrays))

    names = np.array(["up", "down", "left", "right"], dtype=object)
    path = write_file(tmp_path / "str.h5", {**arrays, "train_cond_idx": names[condition]})
    found = condition_psths(path)
    assert found.labels.tolist() == ["down", "left", "right", "up"]
    np.testing.assert_array_equal(found.rates, expected.rates[[1, 2, 3, 0]])

    # Trials without a condition, in either form, are left out.
    nan = condition.astype(float)
    nan[:3] = np.nan
    by_condition = np.empty(N_CONDITIONS, dtype=object)
    for c in range(N_CONDITIONS):
        by_condition[c] = np.flatnonzero(nan == c)
    path = tmp_path / "nlb.h5"
    write_file(path, {key: array for key, array in arrays.items() if key != "train_cond_idx"})
    with h5py.File(path, "a") as file:
        dataset = file.create_dataset("train_cond_idx", (N_CONDITIONS,), h5py.vlen_dtype(int))
        dataset[:] = by_condition
    listed = condition_psths(path)
    unlabelled = condition_psths(write_file(tmp_path / "nan.h5", {**arrays, "train_cond_idx": nan}))
    fewer = {key: array[3:] for key, array in arrays.items() if key.startswith("train")}
    fewer |= {key: array for key, array in arrays.items() if key.startswith("valid")}
    rest = condition_psths(write_file(tmp_path / "fewer.h5", fewer))
    for found in (listed, unlabelled):
        assert found.labels.tolist() == [0, 1, 2, 3]
        assert found.n_trials.tolist() == rest.n_trials.tolist()
        assert found.n_trials.sum() == 17
        np.testing.assert_allclose(found.rates, rest.rates, rtol=1e-12)


def test_files_of_the_tensorflow_implementation(tmp_path):
    arrays = session_arrays(shared_psths()[0])
    expected = condition_psths(write_file(tmp_path / "new.h5", arrays)).rates
    old = {f"{split}_data": arrays[f"{split}_encod_data"] for split in ("train", "valid")}
    old["train_cond_idx"] = arrays["train_cond_idx"]
    path = write_file(tmp_path / "old.h5", old)
    np.testing.assert_array_equal(condition_psths(path).rates, expected)
    align_files(path, 3)
    with h5py.File(path) as file:
        assert file.keys() == {*old, "readin_weight", "readout_bias"}
        attributes = file["readin_weight"].attrs
        assert (attributes["smoothing_width"], attributes["ridge_alpha"]) == (2.0, 1.0)


def test_only_training_trials_are_averaged(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    rng = np.random.default_rng(0)
    other = {
        "valid_encod_data": rng.poisson(9, (6, N_BINS, 7)),
        "valid_recon_data": rng.poisson(9, (6, N_BINS, 7)),
        "valid_cond_idx": np.arange(6) + 50,
        "test_encod_data": rng.poisson(9, (3, N_BINS, 7)),
    }
    for folder, changes in (("a", [{}]), ("b", [other])):
        write_sessions(tmp_path / folder, (7, 10), changes)
        align_files(tmp_path / folder / "*.h5", 3)
    for name in ("sess0.h5", "sess1.h5"):
        with h5py.File(tmp_path / "a" / name) as a, h5py.File(tmp_path / "b" / name) as b:
            for key in ("readin_weight", "readout_bias"):
                np.testing.assert_array_equal(a[key][()], b[key][()])
