"""All synthetic data sets: layout, splits, Poisson spikes, seeds and checks of arguments."""

import hashlib
import math
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from lfads_torch.data.hdf5 import write_h5
from lfads_torch.datasets import simulation
from lfads_torch.datasets.chaotic_rnn import chaotic_rnn
from lfads_torch.datasets.lorenz import lorenz
from lfads_torch.datasets.multisession import multisession_chaotic_rnn
from tests.datasets.synthetic import SMALL, SPLITS, both, check_layout, digest, same

SHIPPED = Path(__file__).parents[2] / "datasets" / "lorenz.h5"


@pytest.fixture(scope="module")
def benchmark():
    return lorenz()


@pytest.fixture(scope="module")
def network():
    return chaotic_rnn(n_conditions=30, n_trials=5, pulse=True)


# ------------------------------------------------------------------ random streams


def test_streams_of_a_seed_differ():
    first = [
        simulation.random_stream(0, name, session).random()
        for name in simulation.STREAMS
        for session in (None, 0, 1, 2)
    ]
    assert len(set(first)) == 4 * len(simulation.STREAMS)


# ------------------------------------------------------------------ layout and splits


def test_each_condition_has_its_own_validation_trials(benchmark):
    place = (benchmark["valid_inds"] % 24).reshape(65, 5)
    assert len(np.unique(place, axis=0)) > 60
    assert np.bincount(place.ravel(), minlength=24).min() > 0


@pytest.mark.parametrize(
    ("n_trials", "ratio", "n_valid"), [(2, 0.2, 1), (10, 0.2, 2), (5, 0.9, 4), (4, 0.5, 2)]
)
def test_both_splits_have_trials(n_trials, ratio, n_valid):
    arrays = lorenz(**{**SMALL, "n_trials": n_trials}, valid_ratio=ratio)
    check_layout(arrays, 4, n_trials, n_valid, 12, 6, 3)


@pytest.mark.parametrize("generator", [lorenz, chaotic_rnn])
def test_encoder_lacks_the_last_channels_and_bins(generator):
    whole = generator(**SMALL)
    part = generator(**SMALL, heldout_neurons=2, forward_bins=3)
    for split in SPLITS:
        assert np.array_equal(
            part.pop(f"{split}_encod_data"), whole.pop(f"{split}_encod_data")[:, :9, :4]
        )
    assert same(part, whole)


def test_the_dynamics_of_a_seed_do_not_depend_on_the_number_of_trials():
    few, many = lorenz(**SMALL), lorenz(**{**SMALL, "n_trials": 8})
    assert np.array_equal(both(few, "truth")[::5], both(many, "truth")[::8])


# ------------------------------------------------------------------ spikes


@pytest.mark.parametrize("name", ["benchmark", "network"])
def test_counts_are_poisson_given_the_rates(name, request):
    check_poisson(request.getfixturevalue(name))


def check_poisson(arrays):
    """Check mean, variance and independence of the counts."""
    expected = both(arrays, "truth") / arrays["conversion_factor"]
    counts = both(arrays, "recon_data").astype(float)
    surplus = counts - expected
    # Total of each neuron: normal with the standard deviation of a Poisson number.
    assert np.abs(surplus.sum((0, 1)) / np.sqrt(expected.sum((0, 1)))).max() < 4.5
    # Mean and variance at low, middle and high rates.
    for lower, upper in [(0.02, 0.1), (0.1, 0.3), (0.3, 1.6)]:
        chosen = (expected >= lower) & (expected < upper)
        if chosen.sum() > 1e5:
            rate = expected[chosen].mean()
            assert counts[chosen].mean() == pytest.approx(rate, rel=0.02)
            assert (surplus[chosen] ** 2).mean() == pytest.approx(rate, rel=0.02)
    # Trials, bins and neurons are independent: sums over them vary as Poisson numbers do.
    n_conditions = arrays["train_cond_idx"].max() + 1
    for axis in (1, 2, 3):
        total, variance = (
            array.reshape(n_conditions, -1, *array.shape[1:]).sum(axis)
            for array in (surplus, expected)
        )
        chosen = variance > 0.1
        ratio = total[chosen] ** 2 / variance[chosen]
        deviation = np.sqrt(np.mean(2 + 1 / variance[chosen]) / chosen.sum())
        assert ratio.mean() == pytest.approx(1, abs=4.5 * deviation), axis
        assert deviation < 0.03


def test_rates_too_high_to_draw():
    with pytest.raises(ValueError, match="200 spikes per bin and at most 100 can be drawn"):
        chaotic_rnn(**SMALL, max_rate=20000.0)


# ------------------------------------------------------------------ reproducibility


@pytest.mark.parametrize("generator", [lorenz, chaotic_rnn])
def test_a_seed_gives_the_same_bytes_and_another_does_not(generator, tmp_path):
    files = [
        write_h5(tmp_path / f"{i}.h5", generator(seed=seed, **SMALL), {"generator": "x"})
        for i, seed in enumerate([5, 5, 6])
    ]
    assert digest(files[0]) == digest(files[1])
    assert not same(generator(seed=5, **SMALL), generator(seed=6, **SMALL))


def test_the_shipped_file_is_unchanged():
    checksum = hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert checksum == "10502a44c14723924146d8e88c4270da1ad51f8ed5f574e062a8fde5c7561fc7"


def test_the_shipped_file_has_the_layout_of_the_generator_that_it_names():
    """Its random numbers are different, but its arrays have the same names, types and sizes."""
    with h5py.File(SHIPPED) as file:
        arguments = dict(file.attrs)
        shipped = {key: np.asarray(file[key][()]) for key in file}
    assert arguments.pop("generator") == "lorenz"
    assert arguments["seed"] == 0
    arguments["mean_rates"] = tuple(arguments["mean_rates"])
    made = lorenz(**arguments)
    assert shipped.keys() == made.keys()
    for key, array in made.items():
        assert (shipped[key].shape, shipped[key].dtype) == (array.shape, array.dtype), key
    np.testing.assert_array_equal(shipped["train_cond_idx"], made["train_cond_idx"])
    for arrays in (shipped, made):
        truth = both(arrays, "truth")
        assert 5 <= truth.mean(axis=(0, 1)).min() < truth.mean(axis=(0, 1)).max() <= 15.01
        assert 60 < truth.max() <= 80
        check_poisson(arrays)


# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("generator", "name", "value", "expected"),
    [
        (lorenz, "seed", -1, "an integer of at least 0"),
        (lorenz, "seed", 1.5, "an integer of at least 0"),
        (lorenz, "n_conditions", 0, "an integer of at least 1"),
        (lorenz, "n_trials", 1, "an integer of at least 2"),
        (lorenz, "n_trials", True, "an integer of at least 2"),
        (lorenz, "n_bins", 3, "an integer of at least 4"),
        (lorenz, "n_neurons", 0, "an integer of at least 1"),
        (lorenz, "bin_width", 0.0, "a positive, finite number"),
        (lorenz, "speed", math.inf, "a positive, finite number"),
        (lorenz, "modulation", -1.0, "a positive, finite number"),
        (lorenz, "modulation", 11.0, "at most 10"),
        (lorenz, "max_rate", 15.0, "above the highest mean rate (15.0 Hz)"),
        (lorenz, "mean_rates", (15.0, 5.0), "0 < lowest <= highest"),
        (lorenz, "mean_rates", 10.0, "two rates in Hz"),
        (lorenz, "valid_ratio", 1.0, "a number between 0 and 1"),
        (lorenz, "heldout_neurons", 29, "an integer from 0 to 28"),
        (lorenz, "forward_bins", -1, "an integer from 0 to 49"),
        (chaotic_rnn, "n_conditions", 2.0, "an integer of at least 1"),
        (chaotic_rnn, "gain", 0, "a positive, finite number"),
        (chaotic_rnn, "tau", 0.001, "at least `bin_width` (0.01 s)"),
        (chaotic_rnn, "max_rate", math.nan, "a positive, finite number"),
        (chaotic_rnn, "pulse_magnitude", "high", "a positive, finite number"),
        (chaotic_rnn, "forward_bins", 100, "an integer from 0 to 99"),
        (multisession_chaotic_rnn, "seed", -1, "an integer of at least 0"),
        (multisession_chaotic_rnn, "n_sessions", 0, "an integer of at least 1"),
        (multisession_chaotic_rnn, "n_sessions", 2.0, "an integer of at least 1"),
        (multisession_chaotic_rnn, "n_neurons", 0, "an integer of at least 1"),
        (multisession_chaotic_rnn, "n_trials", 1, "an integer of at least 2"),
        (multisession_chaotic_rnn, "n_latents", 0, "an integer from 1 to 200"),
        (multisession_chaotic_rnn, "n_latents", 201, "an integer from 1 to 200"),
        (multisession_chaotic_rnn, "gain", -1.0, "a positive, finite number"),
        (multisession_chaotic_rnn, "tau", 0.01, "at least `bin_width` (0.02 s)"),
        (multisession_chaotic_rnn, "valid_ratio", 1.0, "a number between 0 and 1"),
    ],
)
def test_bad_argument_is_named_with_what_was_expected(generator, name, value, expected):
    pattern = f"`{name}` must be .*{re.escape(expected)}.*got {re.escape(repr(value))}"
    with pytest.raises(ValueError, match=pattern):
        generator(**{name: value})
