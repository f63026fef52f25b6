"""The synthetic data have the truth that they claim, and the same bits everywhere."""

import hashlib
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import solve_ivp

from lfads_torch.datasets import synthetic
from lfads_torch.datasets.synthetic import (
    chaotic_rnn,
    lorenz,
    multisession_chaotic_rnn,
    write_h5,
    write_sessions,
)

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "datasets" / "lorenz.h5"
SPLITS = ("train", "valid")
SMALL = {"n_conditions": 4, "n_trials": 5, "n_bins": 12, "n_neurons": 6}
SESSIONS = {**SMALL, "n_sessions": 3, "n_latents": 5}


@pytest.fixture(scope="module")
def benchmark():
    return lorenz()


@pytest.fixture(scope="module")
def network():
    return chaotic_rnn(n_conditions=30, n_trials=5, pulse=True)


@pytest.fixture(scope="module")
def sessions():
    return multisession_chaotic_rnn()


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


def run(*arguments, cwd=ROOT, **environment):
    """Run Python in a fresh process that finds this checkout from any folder."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# ------------------------------------------------------------------------------ building blocks


def test_elementary_functions_are_those_of_the_mathematics_library():
    x = np.concatenate([np.linspace(-100, 100, 20001), np.linspace(-1e-3, 1e-3, 2001)])
    assert np.allclose(synthetic._exp(x), np.exp(x), rtol=1e-15, atol=0)
    assert np.allclose(synthetic._tanh(x), np.tanh(x), rtol=0, atol=4e-16)
    positive = np.concatenate([np.exp(x), np.linspace(1e-3, 5, 20001)])
    assert np.allclose(synthetic._log(positive), np.log(positive), rtol=1e-15, atol=0)


def test_random_numbers_have_their_distributions():
    uniform = synthetic._uniform(synthetic._stream(3, "network"), 200, 100)
    normal = synthetic._normal(synthetic._stream(3, "network"), 201, 100)
    assert uniform.shape == (200, 100)
    assert normal.shape == (201, 100)
    assert 0 <= uniform.min() < uniform.max() < 1
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(normal.ravel(), "norm").pvalue > 1e-3
    assert normal.std() == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef(normal.ravel()[:-1], normal.ravel()[1:])[0, 1]) < 0.03


def test_streams_of_a_seed_differ():
    first = [
        synthetic._uniform(synthetic._stream(0, name, session), 1)[0]
        for name in synthetic.STREAMS
        for session in (None, 0, 1, 2)
    ]
    assert len(set(first)) == 4 * len(synthetic.STREAMS)


@pytest.mark.parametrize("expected", [0.0, 0.01, 0.3, 2.0, 20.0, 100.0])
def test_counts_invert_the_poisson_distribution(expected):
    uniform = synthetic._uniform(synthetic._stream(0, "spikes"), 5000)
    counts = synthetic._poisson(np.array([expected]), uniform)
    assert np.array_equal(counts, stats.poisson.ppf(uniform, expected))


# -------------------------------------------------------------------------- layout of the arrays


def check_layout(arrays, n_conditions, n_trials, n_valid, n_bins, n_neurons, n_latents):
    """Check names, shapes, dtypes and that each condition is split alike."""
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
    # The trials of a condition share the rates and nothing else.
    for key in ("truth", "latents"):
        by_condition = both(arrays, key).reshape(n_conditions, n_trials, n_bins, -1)
        assert (by_condition == by_condition[:, :1]).all()
        assert len(np.unique(by_condition[:, 0, 0], axis=0)) == n_conditions


def test_lorenz_layout(benchmark):
    check_layout(benchmark, 65, 24, 5, 50, 29, 3)
    assert benchmark["conversion_factor"] == 50


def test_chaotic_rnn_layout(network):
    check_layout(network, 30, 5, 1, 100, 50, 50)
    assert network["conversion_factor"] == 100


def test_multisession_layout(sessions):
    assert len(sessions) == 8
    for arrays in sessions:
        check_layout(arrays, 40, 5, 1, 50, 25, 8)
        assert arrays["conversion_factor"] == 50


def test_validation_trials_are_drawn_anew_for_each_condition(benchmark):
    place = (benchmark["valid_inds"] % 24).reshape(65, 5)
    assert len(np.unique(place, axis=0)) > 60
    assert np.bincount(place.ravel(), minlength=24).min() > 0


@pytest.mark.parametrize(
    ("n_trials", "ratio", "n_valid"), [(2, 0.2, 1), (10, 0.2, 2), (5, 0.9, 4), (4, 0.5, 2)]
)
def test_split_leaves_trials_on_both_sides(n_trials, ratio, n_valid):
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


def test_more_trials_leave_the_dynamics_of_a_seed():
    few, many = lorenz(**SMALL), lorenz(**{**SMALL, "n_trials": 8})
    assert np.array_equal(both(few, "truth")[::5], both(many, "truth")[::8])


# ------------------------------------------------------------------------------ rates and spikes


def test_lorenz_rates_are_realistic(benchmark):
    truth = both(benchmark, "truth")
    mean = truth.mean(axis=(0, 1), dtype=np.float64)
    assert 5 <= mean.min() < 7
    assert 12 < mean.max() <= 15
    assert 60 < truth.max() <= 80
    # Either the log rate varies as asked for, or the highest rate is the limit.
    deviation = np.log(truth).std(axis=(0, 1))
    limited = deviation < 0.95
    assert (truth.max(axis=(0, 1))[limited] > 74).all()
    assert deviation[~limited] == pytest.approx(1, abs=0.05)
    assert not limited.all()


def test_lorenz_rates_are_log_linear_in_the_latents(benchmark):
    for split in SPLITS:
        log_rate = benchmark[f"{split}_latents"] @ benchmark["rate_weight"].T
        rates = np.exp(log_rate + benchmark["rate_bias"])
        assert np.allclose(benchmark[f"{split}_truth"], rates, rtol=2e-4)


@pytest.mark.parametrize("name", ["benchmark", "network"])
def test_counts_are_poisson_given_the_rates(name, request):
    arrays = request.getfixturevalue(name)
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
    # Trials, bins and neurons are independent.
    n_conditions = arrays["train_cond_idx"].max() + 1
    by_condition = surplus.reshape(n_conditions, -1, *surplus.shape[1:])
    for axis in (1, 2, 3):
        ratio = (by_condition.sum(axis) ** 2).mean() * surplus.size
        ratio /= by_condition.shape[axis] * expected.sum()
        assert ratio == pytest.approx(1, abs=0.03), axis


def test_a_narrow_range_of_mean_rates():
    arrays = lorenz(n_conditions=6, n_trials=2, mean_rates=(8.0, 8.0), max_rate=20.0)
    truth = both(arrays, "truth")
    assert truth.mean(axis=(0, 1), dtype=np.float64) == pytest.approx(np.full(29, 8.0), rel=1e-3)
    assert truth.max() <= 20


# -------------------------------------------------------------------------------------- dynamics


def lorenz_velocity(_, state):
    x, y, z = state.reshape(3, -1)
    return np.concatenate([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])


@pytest.mark.parametrize(("speed", "bin_width"), [(2.0, 0.02), (1.0, 0.05), (1.0, 0.001)])
def test_latents_solve_the_lorenz_equations(speed, bin_width):
    states = lorenz(n_conditions=9, n_trials=2, speed=speed, bin_width=bin_width)["train_latents"]
    before, after = (
        part.reshape(-1, 3).T.astype(float) for part in (states[:, :-1], states[:, 1:])
    )
    solution = solve_ivp(
        lorenz_velocity, (0, speed * bin_width), before.ravel(), rtol=1e-9, atol=1e-9
    )
    assert np.abs(solution.y[:, -1].reshape(3, -1) - after).max() < 5e-5
    assert np.abs(after - before).max() > 0.1


def test_conditions_start_all_over_the_attractor(benchmark):
    latents = both(benchmark, "latents")[::24]
    assert 20 < (latents[:, 0, 0] > 0).sum() < 45
    flat = latents.reshape(-1, 3)
    assert flat.mean(0) == pytest.approx(np.array(synthetic.ATTRACTOR_MEAN), abs=1)
    assert flat.std(0) == pytest.approx(np.array(synthetic.ATTRACTOR_STD), rel=0.05)
    correlation = np.corrcoef(flat[:, 0], flat[:, 1])[0, 1]
    assert correlation == pytest.approx(synthetic.ATTRACTOR_XY_CORRELATION, abs=0.03)
    changes = (np.diff(np.sign(latents[..., 0]), axis=1) != 0).sum(axis=1)
    assert 0.5 < changes.mean() < 2  # of the lobe, in a trial


@pytest.mark.parametrize(
    ("gain", "tau", "pulse"), [(1.5, 0.025, False), (2.5, 0.025, True), (2.5, 0.05, True)]
)
def test_network_follows_its_equation_step_by_step(gain, tau, pulse):
    arrays = chaotic_rnn(n_conditions=12, n_trials=2, n_neurons=20, gain=gain, tau=tau, pulse=pulse)
    state = arrays["train_latents"].astype(float)
    drive = gain * np.tanh(state) @ arrays["recurrent_weight"].T
    if pulse:
        drive[:, :-1] += arrays["train_input"][:, 1:] * arrays["input_weight"]
    step = 0.01 / tau
    expected = (1 - step) * state[:, :-1] + step * drive[:, :-1]
    assert np.abs(state[:, 1:] - expected).max() < 1e-5
    rates = 30 * (1 + np.tanh(state)) / 2
    assert np.allclose(arrays["train_truth"], rates, rtol=2e-4, atol=1e-4)


def test_network_is_drawn_from_the_distributions_of_the_paper():
    arrays = chaotic_rnn(n_conditions=60, n_trials=2, n_bins=4, pulse=True)
    weight = arrays["recurrent_weight"]
    assert weight.shape == (50, 50)
    assert stats.kstest(weight.ravel() * np.sqrt(50), "norm").pvalue > 1e-3
    assert stats.kstest(arrays["train_latents"][:, 0].ravel(), "norm").pvalue > 1e-3
    assert stats.kstest(arrays["input_weight"], "norm").pvalue > 1e-3


def test_pulse_changes_the_rates_from_its_own_bin_on(network):
    quiet = chaotic_rnn(n_conditions=30, n_trials=5)
    assert "train_input" not in quiet
    assert np.array_equal(quiet["recurrent_weight"], network["recurrent_weight"])
    for split in SPLITS:
        changed = (quiet[f"{split}_truth"] != network[f"{split}_truth"]).any(axis=2)
        pulse_time = network[f"{split}_pulse_time"]
        assert np.array_equal(changed.argmax(axis=1), pulse_time)
        signal = network[f"{split}_input"]
        assert signal.shape == (*changed.shape, 1)
        assert np.array_equal(signal[..., 0].argmax(axis=1), pulse_time)
        assert np.array_equal(signal.sum(axis=(1, 2)), np.full(len(signal), 50))
        assert (signal.max(axis=(1, 2)) == 50).all()
        assert pulse_time.min() >= 25
        assert pulse_time.max() < 75
    assert len(np.unique(network["train_pulse_time"])) > 15
    by_condition = both(network, "pulse_time").reshape(30, 5)
    assert (by_condition == by_condition[:, :1]).all()


# ------------------------------------------------------------------------------ several sessions


def test_sessions_share_the_network_and_no_neuron(sessions):
    units = np.concatenate([arrays["unit_idx"] for arrays in sessions])
    assert np.array_equal(np.sort(units), np.arange(200))
    assert all((np.diff(arrays["unit_idx"]) > 0).all() for arrays in sessions)
    assert len({arrays["unit_idx"].max() for arrays in sessions}) > 1  # mixed, not cut in blocks
    # Together they have the rates of one network that is recorded completely.
    whole = chaotic_rnn(
        n_conditions=40, n_trials=5, n_bins=50, n_neurons=200, bin_width=0.02, gain=1.5, tau=0.05
    )
    for arrays in sessions:
        rates = both(whole, "truth")[:, :, arrays["unit_idx"]]
        assert np.array_equal(both(arrays, "truth"), rates)


def test_sessions_share_the_latents_of_a_condition(sessions):
    latents = [both(arrays, "latents") for arrays in sessions]
    assert all(np.array_equal(latents[0], other) for other in latents[1:])


def test_sessions_have_trials_of_their_own():
    """The same rates, but other spikes and other validation trials."""
    arrays = multisession_chaotic_rnn(n_sessions=2, n_conditions=30, n_neurons=10)
    surplus = [both(a, "recon_data") - both(a, "truth") / 50 for a in arrays]
    correlation = np.corrcoef(surplus[0].ravel(), surplus[1].ravel())[0, 1]
    assert abs(correlation) < 0.02
    assert not np.array_equal(arrays[0]["valid_inds"], arrays[1]["valid_inds"])


def test_more_trials_or_latents_leave_the_network_of_a_seed():
    few = multisession_chaotic_rnn(**SESSIONS)
    many = multisession_chaotic_rnn(**{**SESSIONS, "n_trials": 8, "n_latents": 7})
    for first, second in zip(few, many, strict=True):
        assert np.array_equal(first["unit_idx"], second["unit_idx"])
        assert np.array_equal(both(first, "truth")[::5], both(second, "truth")[::8])
        assert np.array_equal(both(first, "latents")[::5], both(second, "latents")[::8, :, :5])


def test_latents_are_the_principal_components_of_all_units(sessions):
    whole = chaotic_rnn(
        n_conditions=40, n_trials=2, n_bins=50, n_neurons=200, bin_width=0.02, gain=1.5, tau=0.05
    )
    states = both(whole, "latents")[::2].reshape(-1, 200)
    latents = both(sessions[0], "latents")[::5].reshape(-1, 8).astype(float)
    states = states - states.mean(axis=0, dtype=np.float64)
    total = (states**2).sum()
    variance = np.linalg.svd(states, compute_uv=False) ** 2
    assert latents.mean(axis=0) == pytest.approx(np.zeros(8), abs=1e-5)
    assert (latents**2).sum(axis=0) == pytest.approx(variance[:8], rel=1e-5)
    assert sessions[0]["latent_variance"] == pytest.approx(variance[:8] / total, rel=1e-5)
    assert np.abs(np.corrcoef(latents.T) - np.eye(8)).max() < 1e-5
    # They are linear in the states, and the largest weight of each is positive.
    weight = np.linalg.lstsq(states, latents, rcond=None)[0]
    assert np.abs(states @ weight - latents).max() < 1e-4
    assert (weight[np.abs(weight).argmax(axis=0), np.arange(8)] > 0).all()


def test_no_spike_depends_on_linear_algebra(monkeypatch):
    before = multisession_chaotic_rnn(**SESSIONS)
    eigh = np.linalg.eigh

    def turned(matrix):
        values, vectors = eigh(matrix)
        return values, np.roll(vectors, 1, axis=1)

    monkeypatch.setattr(np.linalg, "eigh", turned)
    for first, second in zip(before, multisession_chaotic_rnn(**SESSIONS), strict=True):
        latents = [f"{split}_latents" for split in SPLITS]
        assert not same({k: first[k] for k in latents}, {k: second[k] for k in latents})
        for arrays in (first, second):
            for key in latents:
                del arrays[key]
        assert same(first, second)


# ------------------------------------------------------------------------------- reproducibility


@pytest.mark.parametrize("generator", [lorenz, chaotic_rnn])
def test_nothing_is_used_whose_last_bit_depends_on_the_processor(generator, monkeypatch):
    before = generator(**SMALL)

    def inexact(*_, **__):
        raise AssertionError("not exact")

    names = "exp exp2 expm1 log log2 log1p sin cos tanh power hypot cbrt dot matmul einsum sum mean"
    for name in names.split():
        monkeypatch.setattr(np, name, inexact)
    monkeypatch.setattr(np.random, "default_rng", inexact)
    monkeypatch.setattr(np.random, "Generator", inexact)
    assert same(generator(**SMALL), before)


@pytest.mark.parametrize("generator", [lorenz, chaotic_rnn])
def test_a_seed_gives_the_same_bytes_and_another_does_not(generator, tmp_path):
    files = [
        write_h5(tmp_path / f"{i}.h5", generator(seed=seed, **SMALL), {"generator": "x"})
        for i, seed in enumerate([5, 5, 6])
    ]
    assert digest(files[0]) == digest(files[1])
    assert not same(generator(seed=5, **SMALL), generator(seed=6, **SMALL))


def test_a_seed_gives_the_same_sessions_and_another_does_not(tmp_path):
    first, again, other = (
        write_sessions(tmp_path / str(i), multisession_chaotic_rnn(seed=seed, **SESSIONS))
        for i, seed in enumerate([5, 5, 6])
    )
    assert [digest(path) for path in first] == [digest(path) for path in again]
    assert not {digest(path) for path in first} & {digest(path) for path in other}


def test_shipped_file_says_how_to_make_it():
    with h5py.File(SHIPPED) as file:
        arguments = dict(file.attrs)
        shipped = {key: file[key][()] for key in file}
    assert arguments.pop("generator") == "lorenz"
    assert arguments["seed"] == 0
    assert arguments["bin_width"] == 0.02
    arguments["mean_rates"] = tuple(arguments["mean_rates"])
    made = lorenz(**arguments)
    assert shipped.keys() == made.keys()
    for key in made:
        assert np.array_equal(shipped[key], made[key]), key
    assert SHIPPED.stat().st_size < 1.5e6


def test_shipped_file_is_made_again_byte_for_byte_on_a_plain_processor(tmp_path):
    """NumPy's code for newer processors is switched off here, so its results are not relied on."""
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    done = run(
        *("-m", "lfads_torch.datasets.synthetic", "lorenz", "--output", "again.h5"),
        cwd=tmp_path,
        NPY_DISABLE_CPU_FEATURES=" ".join(simd.get("found", [])),
    )
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "again.h5") == digest(SHIPPED)


# --------------------------------------------------------------------------------- writing files


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


def test_failed_write_leaves_what_was_there(tmp_path):
    path = write_h5(tmp_path / "data.h5", {"a": np.arange(3)})
    before = digest(path)
    with pytest.raises(TypeError):
        write_h5(path, {"a": np.arange(4), "b": np.array([object()])}, overwrite=True)
    assert digest(path) == before
    assert os.listdir(tmp_path) == ["data.h5"]


def test_files_of_sessions_are_in_order(tmp_path):
    arrays = [{"a": np.array(session)} for session in range(11)]
    paths = write_sessions(tmp_path / "new", arrays, {"seed": 3})
    assert [path.name for path in paths] == [f"sess{session:02d}.h5" for session in range(11)]
    assert sorted((tmp_path / "new").glob("sess*.h5")) == paths
    for session, path in enumerate(paths):
        with h5py.File(path) as file:
            assert file["a"][()] == session
            assert dict(file.attrs) == {"seed": 3, "session": session}


def test_sessions_replace_others_only_on_request(tmp_path):
    write_sessions(tmp_path, [{"a": np.arange(3)}] * 2)
    before = digest(tmp_path / "sess1.h5")
    (tmp_path / "sess0.h5").unlink()
    with pytest.raises(FileExistsError, match=r"sess1\.h5 exists already.*--overwrite"):
        write_sessions(tmp_path, [{"a": np.arange(4)}] * 2)
    assert os.listdir(tmp_path) == ["sess1.h5"]
    write_sessions(tmp_path, [{"a": np.arange(4)}] * 2, overwrite=True)
    assert digest(tmp_path / "sess1.h5") != before


def test_sessions_do_not_mix_with_others(tmp_path):
    write_sessions(tmp_path, [{"a": np.arange(3)}] * 3)
    with pytest.raises(FileExistsError, match=r"holds sess2\.h5 besides the 2 session"):
        write_sessions(tmp_path, [{"a": np.arange(4)}] * 2, overwrite=True)


# ---------------------------------------------------------------------------------------- errors


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


def test_rates_too_high_to_draw():
    with pytest.raises(ValueError, match="200 spikes per bin and at most 100 can be drawn"):
        chaotic_rnn(**SMALL, max_rate=20000.0)


# ---------------------------------------------------------------------------------- command line


def test_import_does_nothing_and_needs_little(tmp_path):
    done = run(
        "-c",
        "import sys, lfads_torch.datasets.synthetic; "
        "print({'torch', 'scipy', 'matplotlib', 'hydra'} & set(sys.modules))",
        cwd=tmp_path,
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")
    assert os.listdir(tmp_path) == []


def test_command_writes_what_it_says(tmp_path):
    arguments = ["-m", "lfads_torch.datasets.synthetic", "chaotic_rnn", "--gain", "1.5", "--pulse"]
    arguments += ["--n-conditions", "4", "--n-trials", "5", "--n-bins", "12", "--n-neurons", "6"]
    arguments += ["--seed", "9", "--heldout-neurons", "1"]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "datasets" / "chaotic_rnn.h5"
    with h5py.File(path) as file:
        made = chaotic_rnn(seed=9, gain=1.5, pulse=True, heldout_neurons=1, **SMALL)
        assert same({key: np.asarray(file[key][()]) for key in file}, made)
        assert file.attrs["generator"] == "chaotic_rnn"
        assert file.attrs["gain"] == 1.5
        assert file.attrs["pulse"]
        assert file.attrs["bin_width"] == 0.01
    mean = both(made, "truth").mean()
    assert done.stdout.startswith(f"Wrote {Path('datasets', 'chaotic_rnn.h5')} (0.0")
    assert re.search(r"train_encod_data +uint8 +\(16, 12, 5\)", done.stdout)
    assert f"mean rate {mean:.1f} Hz" in done.stdout

    before = digest(path)
    again = run(*arguments, cwd=tmp_path)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    assert digest(path) == before


def test_command_writes_every_session(tmp_path):
    arguments = ["-m", "lfads_torch.datasets.synthetic", "multisession", "--seed", "9"]
    for key, value in SESSIONS.items():
        arguments += [f"--{key.replace('_', '-')}", str(value)]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = Path("datasets", "multisession")
    for session, made in enumerate(multisession_chaotic_rnn(seed=9, **SESSIONS)):
        with h5py.File(tmp_path / folder / f"sess{session}.h5") as file:
            assert same({key: np.asarray(file[key][()]) for key in file}, made)
            assert file.attrs["generator"] == "multisession"
            assert file.attrs["session"] == session
            assert file.attrs["n_sessions"] == 3
            assert file.attrs["bin_width"] == 0.02
        assert f"Wrote {folder / f'sess{session}.h5'} (0.0" in done.stdout

    before = [digest(path) for path in sorted((tmp_path / folder).glob("*"))]
    again = run(*arguments, cwd=tmp_path)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    fewer = run(*arguments, "--n-sessions", "2", "--overwrite", cwd=tmp_path)
    assert fewer.returncode == 2
    assert "holds sess2.h5 besides" in fewer.stderr
    assert [digest(path) for path in sorted((tmp_path / folder).glob("*"))] == before


@pytest.mark.parametrize("name", ["lorenz", "chaotic_rnn", "multisession"])
def test_every_parameter_is_an_option_with_help(name, capsys):
    with pytest.raises(SystemExit):
        synthetic.main([name, "--help"])
    shown = capsys.readouterr().out
    for key in synthetic.inspect.signature(synthetic.GENERATORS[name]).parameters:
        assert f"--{key.replace('_', '-')}" in shown


def test_command_reports_a_bad_argument_without_a_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        synthetic.main(["lorenz", "--n-trials", "1", "--output", str(tmp_path / "data.h5")])
    assert "`n_trials` must be an integer of at least 2; got 1." in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
