"""Sessions of different neurons are led to the components that they share, and files stay whole."""

import math
import os
import re
import shlex
import stat
import subprocess
import sys
from itertools import permutations, zip_longest
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lfads_torch.cli.align_sessions import main
from lfads_torch.data.alignment import files
from lfads_torch.data.alignment.files import align_files
from lfads_torch.data.alignment.regression import align
from lfads_torch.data.alignment.responses import condition_psths
from lfads_torch.errors import FileAccessError
from lfads_torch.modules.readin_readout import MultisessionReadin, MultisessionReadout
from lfads_torch.running.compose import compose
from lfads_torch.running.training import run_model
from tests.conftest import TINY_SIZES, tiny_arrays, write_file

SCRIPT = Path(__file__).parents[2] / "scripts" / "align_sessions.py"
N_CONDITIONS, N_BINS, N_LATENTS = 4, 12, 3


def latents(seed=0):
    """Make smooth latents (conditions, time, latents) that all sessions share."""
    rng = np.random.default_rng(seed)
    t = np.arange(N_BINS)[None, :, None]
    frequency, phase = rng.uniform(0.2, 0.8, (2, N_CONDITIONS, 1, N_LATENTS)) * [[[[1]]], [[[8]]]]
    return np.sin(frequency * t + phase)


def shared_psths(n_channels=(7, 10, 8), noise=0.0):
    """Make sessions of rates (conditions, time, channels) that read out the same latents."""
    rng = np.random.default_rng(1)
    shared = latents()
    return [
        10
        + shared @ rng.normal(size=(N_LATENTS, n))
        + noise * rng.normal(size=(*shared.shape[:2], n))
        for n in n_channels
    ]


def session_arrays(rates, n_trials=20, seed=0, counts=True):
    """Make the arrays of a file whose trials, in random order, have these rates per condition."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, n in (("train", n_trials), ("valid", 4)):
        condition = rng.permutation(np.arange(n) % len(rates))
        data = rng.poisson(rates[condition]) if counts else rates[condition]
        arrays[f"{split}_encod_data"] = arrays[f"{split}_recon_data"] = data.astype("float32")
        arrays[f"{split}_cond_idx"] = condition
    return arrays


def write_sessions(folder, n_channels=(7, 10), changes=(), noise=0.3, **options):
    """Write a file for each session, with some arrays replaced or (None) left out."""
    paths = []
    psths = shared_psths(n_channels, noise)
    for i, (rates, change) in enumerate(zip_longest(psths, changes, fillvalue={})):
        arrays = {**session_arrays(rates, seed=i, **options), **change}
        arrays = {key: array for key, array in arrays.items() if array is not None}
        paths.append(write_file(folder / f"sess{i}.h5", arrays))
    return paths


def contents(path):
    """Return all that a file holds except for the alignment, as comparable values."""
    found = {}

    def attributes(item):
        return {
            key: (str(np.asarray(v).dtype), np.asarray(v).tolist()) for key, v in item.attrs.items()
        }

    def visit(name, item):
        found[name] = [attributes(item)]
        if isinstance(item, h5py.Dataset) and name not in ("readin_weight", "readout_bias"):
            layout = (item.chunks, item.compression, item.compression_opts, item.shuffle,
                      item.fletcher32, item.maxshape, item.fillvalue)  # fmt: skip
            data = item[()]
            data = data.tobytes() if data.dtype.kind != "O" else data.tolist()
            found[name] += [str(item.dtype), item.shape, repr(layout), data]

    with h5py.File(path) as file:
        found["/"] = [attributes(file)]
        file.visititems(visit)
    return {
        key: value for key, value in found.items() if key not in ("readin_weight", "readout_bias")
    }


def stamps(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def r2(target, estimate):
    return 1 - np.sum((target - estimate) ** 2) / np.sum((target - target.mean(axis=(0, 1))) ** 2)


def aligned_psths(psths, alignments):
    return [
        psth @ a.readin_weight - a.readout_bias @ a.readin_weight
        for psth, a in zip(psths, alignments, strict=True)
    ]


# ------------------------------------------------------------------------------------- responses


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
def test_psths_are_smoothed_averages_of_what_was_observed(tmp_path, width, missing):
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


def test_a_rate_that_is_constant_stays_so_at_the_ends_of_trials(tmp_path):
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


def test_files_of_the_tensorflow_era(tmp_path):
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


def test_only_training_trials_count(tmp_path):
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


# ------------------------------------------------------------------------------------- alignment


@pytest.mark.parametrize("n_components", [1, 4])
@pytest.mark.parametrize("alpha", [0.01, 1.0, 30.0])
def test_agrees_with_normal_equations(n_components, alpha):
    psths = shared_psths(noise=0.5)
    flat = [psth.reshape(-1, psth.shape[-1]) for psth in psths]
    centred = [x - x.mean(axis=0) for x in flat]
    together = np.concatenate(centred, axis=1)
    _, vectors = np.linalg.eigh(together.T @ together)
    directions = vectors[:, ::-1][:, :n_components]
    components = together @ directions
    found = align(psths, n_components, alpha)
    assert len(found) == 3
    split_at = np.cumsum([x.shape[1] for x in centred])[:-1]
    for x, rows, got, raw in zip(centred, np.split(directions, split_at), found, flat, strict=True):
        weight = np.linalg.solve(x.T @ x + alpha * np.eye(x.shape[1]), x.T @ components)
        # The sign of a principal component is arbitrary, but the same for all sessions.
        signs = np.sign(np.sum(weight * got.readin_weight, axis=0))
        if got is found[0]:
            first_signs = signs
        np.testing.assert_array_equal(signs, first_signs)
        np.testing.assert_allclose(got.readin_weight, weight * signs, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(got.readout_bias, raw.mean(axis=0), rtol=1e-12)
        residual = components - x @ weight
        assert got.score == pytest.approx(1 - np.sum(residual**2) / np.sum(components**2))
        q = np.linalg.qr(components)[0]
        held = 1 - np.sum((x - q @ (q.T @ x)) ** 2) / np.sum(x**2)
        assert got.explained_variance == pytest.approx(held)
        assert rows.shape == got.readin_weight.shape


def test_default_penalty_is_one():
    psths = shared_psths(noise=0.5)
    for default, one in zip(align(psths, 3), align(psths, 3, 1.0), strict=True):
        np.testing.assert_array_equal(default.readin_weight, one.readin_weight)


def test_aligned_sessions_coincide_and_unaligned_ones_do_not():
    psths = shared_psths(noise=0.1)
    together = aligned_psths(psths, align(psths, N_LATENTS))
    alone = [aligned_psths([psth], align([psth], N_LATENTS))[0] for psth in psths]
    shuffled = [psth[::-1] if i else psth for i, psth in enumerate(psths)]
    mislabelled = align(shuffled, N_LATENTS)
    wrong = aligned_psths(psths, mislabelled)
    assert mislabelled[0].score < 0.9 < min(a.score for a in mislabelled[1:])
    for i, j in permutations(range(3), 2):
        assert r2(together[i], together[j]) > 0.98
        assert r2(alone[i], alone[j]) < 0.7
    assert r2(wrong[0], wrong[1]) < 0.7
    # The components are the latents, up to a linear map.
    flat, truth = together[0].reshape(-1, N_LATENTS), latents().reshape(-1, N_LATENTS)
    truth = truth - truth.mean(axis=0)
    estimate = flat @ np.linalg.lstsq(flat, truth, rcond=None)[0]
    assert r2(truth.reshape(latents().shape), estimate.reshape(latents().shape)) > 0.97


def test_aligned_files_of_spikes_coincide(tmp_path):
    write_sessions(tmp_path, (25, 30), n_trials=200, noise=0.0)
    sessions = align_files(tmp_path / "*.h5", N_LATENTS, smoothing_width=1.0)
    shared = []
    for session in sessions:
        with h5py.File(session.path) as file:
            weight, bias = file["readin_weight"][()], file["readout_bias"][()]
        rates = condition_psths(session.path, 1.0).rates
        np.testing.assert_allclose(bias, rates.mean(axis=(0, 1)), rtol=1e-6)
        shared.append((rates - bias) @ weight)
    assert r2(*shared) > 0.95
    assert all(0.95 < session.score <= 1 for session in sessions)


def test_one_session_is_aligned_with_itself():
    (psth,) = shared_psths((9,), noise=0.5)
    (found,) = align([psth], 4, 1e-9)
    assert found.score == pytest.approx(1)
    x = psth.reshape(-1, 9) - psth.mean(axis=(0, 1))
    variances = np.linalg.svd(x, compute_uv=False) ** 2
    assert found.explained_variance == pytest.approx(variances[:4].sum() / variances.sum())
    (everything,) = align([psth], 9)  # as many components as there are dimensions
    assert everything.explained_variance == pytest.approx(1)


def test_silent_channels_have_no_weight(tmp_path):
    psths = shared_psths(noise=0.5)
    expected = align(psths, 4)
    with_silent = [np.insert(psths[0], [2, 2], [0.0, 7.3], axis=-1), *psths[1:]]
    found = align(with_silent, 4)
    weight = found[0].readin_weight
    np.testing.assert_array_equal(weight[2:4], 0)
    assert found[0].readout_bias[2:4].tolist() == [0, pytest.approx(7.3)]
    np.testing.assert_allclose(np.delete(weight, [2, 3], 0), expected[0].readin_weight, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.pinv(weight) @ weight, np.eye(4), atol=1e-9)


def test_a_session_with_few_channels_is_warned_about():
    psths = shared_psths((3, 20), noise=0.5)
    message = r"^mine has 3 channels that vary, fewer than the 5 components"
    with pytest.warns(UserWarning, match=message):
        found = align(psths, 5, names=["mine", "yours"])
    assert found[0].readin_weight.shape == (3, 5)
    assert np.abs(np.linalg.pinv(found[0].readin_weight)).max() < 1e3


def test_read_in_after_read_out_is_the_identity(tmp_path):
    paths = write_sessions(tmp_path)
    align_files(tmp_path / "*.h5", N_LATENTS)
    pattern = str(tmp_path / "*.h5")
    readin = MultisessionReadin(pattern, N_LATENTS)
    readout = MultisessionReadout(pattern, N_LATENTS)
    factors = torch.randn(5, N_LATENTS)
    for i, path in enumerate(paths):
        np.testing.assert_allclose(readin[i](readout[i](factors)).detach(), factors, atol=1e-4)
        rates = condition_psths(path).rates
        inputs = readin[i](torch.tensor(rates, dtype=torch.float32)).detach()
        np.testing.assert_allclose(inputs.mean(dim=(0, 1)), np.zeros(N_LATENTS), atol=1e-4)
        # A channel at its mean gives no input, and no input gives each channel its mean.
        means = rates.mean(axis=(0, 1))
        np.testing.assert_allclose(readout[i](torch.zeros(N_LATENTS)).detach(), means, rtol=1e-5)


# ----------------------------------------------------------------------------------------- files


def rich_file(path):
    """Turn a session file into one with everything that HDF5 offers."""
    with h5py.File(path, "a") as file:
        file.attrs["bin_width"] = 0.02
        file.attrs["subject"] = "R"
        file["train_encod_data"].attrs["unit"] = "spikes per bin"
        group = file.create_group("notes", track_order=True)
        group.attrs["by"] = ["A", "B"]
        group["words"] = np.array(["some", "words"], dtype=object)
        group["deeper/scalar"] = 3.5
        rng = np.random.default_rng(0)
        file.create_dataset("packed", data=rng.poisson(1, (40, 9)), chunks=(7, 9), shuffle=True,
                            compression="gzip", compression_opts=7, maxshape=(None, 9),
                            fletcher32=True)  # fmt: skip
        file.create_dataset("holes", (5,), "f4", fillvalue=-1.0)
        file["link"] = h5py.SoftLink("/notes/words")


@pytest.mark.parametrize("copied", [False, True])
def test_nothing_else_changes(tmp_path, copied):
    (home := tmp_path / "data").mkdir()
    paths = write_sessions(home)
    rich_file(paths[0])
    paths[0].chmod(0o640)
    before, bytes_before = [contents(path) for path in paths], stamps(home)
    assert before[0]["train_encod_data"][0] == {"unit": ("<U14", "spikes per bin")}
    assert "gzip" in before[0]["packed"][3]
    output_dir = tmp_path / "new" / "out" if copied else None
    sessions = align_files(home / "*.h5", 3, output_dir=output_dir)
    assert [session.source for session in sessions] == paths
    folder = output_dir or home
    assert [session.path for session in sessions] == [folder / path.name for path in paths]
    assert sorted(path.name for path in folder.iterdir()) == ["sess0.h5", "sess1.h5"]
    for session, old in zip(sessions, before, strict=True):
        assert contents(session.path) == old
        with h5py.File(session.path) as file:
            assert file["readin_weight"].shape == (session.n_channels, 3)
            assert file["readout_bias"].shape == (session.n_channels,)
    if copied:
        assert stamps(home) == bytes_before
    else:
        assert stat.S_IMODE(paths[0].stat().st_mode) == 0o640


def test_says_what_was_done(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    first, second = write_sessions(tmp_path, n_trials=16)
    files = [first.rename(tmp_path / "x" / "s.h5"), second.rename(tmp_path / "y" / "s.h5")]
    sessions = align_files(files[::-1], 3, smoothing_width=1.5, ridge_alpha=0.7)
    assert [session.path for session in sessions] == files
    expected = align([condition_psths(path, 1.5).rates for path in files], 3, 0.7)
    for session, right, n in zip(sessions, expected, (7, 10), strict=True):
        assert (session.n_channels, session.n_trials, session.n_conditions) == (n, 16, 4)
        assert session.score == right.score
        assert session.explained_variance == right.explained_variance
        with h5py.File(session.path) as file:
            np.testing.assert_allclose(file["readin_weight"], right.readin_weight, rtol=1e-6)
            np.testing.assert_allclose(file["readout_bias"], right.readout_bias, rtol=1e-6)
            for key in ("readin_weight", "readout_bias"):
                assert file[key].dtype == np.float32
                attributes = dict(file[key].attrs)
                assert attributes.pop("sessions").tolist() == ["x/s.h5", "y/s.h5"]
                assert attributes == {"n_components": 3, "smoothing_width": 1.5, "ridge_alpha": 0.7}


def test_an_alignment_is_replaced_only_if_told_so(tmp_path):
    paths = write_sessions(tmp_path)
    align_files(tmp_path / "*.h5", 3)
    before, others = stamps(tmp_path), [contents(path) for path in paths]
    message = r"sess0\.h5 has readin_weight and readout_bias already: pass overwrite=True"
    with pytest.raises(ValueError, match=message):
        align_files(tmp_path / "*.h5", 2)
    with h5py.File(paths[0], "a") as file:
        del file["readin_weight"]
    with pytest.raises(ValueError, match=r"sess0\.h5 has readout_bias already"):
        align_files(paths[:1], 2)
    paths[0].write_bytes(before["sess0.h5"])
    assert stamps(tmp_path) == before
    copies = align_files(tmp_path / "*.h5", 2, output_dir=tmp_path / "out")
    align_files(tmp_path / "*.h5", 2, overwrite=True)
    for session in copies:
        for path in (session.path, session.source):
            with h5py.File(path) as file:
                assert file["readin_weight"].shape[1] == 2
                assert file["readout_bias"].attrs["n_components"] == 2
    assert [contents(path) for path in paths] == others

    (tmp_path / "out" / "sess1.h5").write_bytes(b"mine")
    kept = stamps(tmp_path / "out")
    (tmp_path / "out" / "sess0.h5").unlink()
    with pytest.raises(FileExistsError, match=r"out/sess1\.h5 exists already: choose another"):
        align_files(tmp_path / "*.h5", 2, output_dir=tmp_path / "out")
    assert stamps(tmp_path / "out") == {"sess1.h5": kept["sess1.h5"]}
    align_files(tmp_path / "*.h5", 2, output_dir=tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out" / "sess1.h5") == others[1]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "links").mkdir()
    paths = write_sessions(tmp_path)
    for path in paths:
        (tmp_path / "links" / path.name).symlink_to(path)
    align_files(tmp_path / "links" / "*.h5", 3)
    for path in paths:
        assert (tmp_path / "links" / path.name).is_symlink()
        with h5py.File(path) as file:
            assert "readin_weight" in file


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("step", ["_write_alignment", "fsync"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_all_files_as_they_were(tmp_path, monkeypatch, copied, step, error):
    write_sessions(tmp_path)
    before, calls = stamps(tmp_path), []
    (out := tmp_path.parent / f"{tmp_path.name}-out").mkdir()
    place = os if step == "fsync" else files
    works = getattr(place, step)

    def fails(*args):
        works(*args)
        calls.append(args)
        if len(calls) == 2:  # the first file is ready, the second is not
            raise error

    monkeypatch.setattr(place, step, fails)
    with pytest.raises(type(error)):
        align_files(tmp_path / "*.h5", 3, output_dir=out if copied else None)
    assert len(calls) == 2
    assert stamps(tmp_path) == before
    assert stamps(out) == {}


def test_a_kill_leaves_all_files_as_they_were(tmp_path):
    write_sessions(tmp_path)
    before = stamps(tmp_path)
    code = (
        "import os, signal, sys\n"
        "from lfads_torch.data.alignment.files import align_files\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "align_files(sys.argv[1], 3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "*")], capture_output=True)
    assert done.returncode < 0, done.stderr
    after = stamps(tmp_path)
    left = after.keys() - before.keys()
    assert {name: after[name] for name in before} == before
    assert all(name.startswith(".") for name in left)  # no pattern of sessions matches them
    assert len(align_files(tmp_path / "*", 3)) == 2
    assert stamps(tmp_path).keys() == after.keys()


# ------------------------------------------------------------------------------------- mistakes

PSTH = shared_psths((6,), noise=0.5)[0]
COPIED = np.repeat(PSTH[..., :2], 3, axis=-1)


@pytest.mark.parametrize(
    ("psths", "options", "message"),
    [
        ([], {}, r"^There is no session to align: give"),
        ([PSTH], {"n_components": 0}, r"^n_components = 0, but .* integer of at least 1"),
        ([PSTH], {"n_components": 2.0}, r"^n_components = 2\.0, but"),
        ([PSTH], {"n_components": True}, r"^n_components = True, but"),
        ([PSTH], {"ridge_alpha": 0}, r"^ridge_alpha = 0, but it must be positive .* without a"),
        ([PSTH], {"ridge_alpha": math.nan}, r"^ridge_alpha = nan, but"),
        ([PSTH], {"ridge_alpha": math.inf}, r"^ridge_alpha = inf, but"),
        ([PSTH[0]], {}, r"^The PSTHs of session 0 must be \(cond.*\), but .* \(12, 6\)\.$"),
        ([PSTH[:, :0]], {}, r"session 0 must be .* \(4, 0, 6\)"),
        ([PSTH, PSTH[:, 1:]], {}, r"session 1 have 4 conditions of 11 bins, but those of session 0 "
         r"have 4 conditions of 12 bins: .* Cut their trials alike"),
        ([PSTH, PSTH[1:]], {}, r"session 1 have 3 conditions of 12 bins, but"),
        ([PSTH, np.full_like(PSTH, np.nan)], {}, r"session 1 hold values that are not fin"),
        ([PSTH, np.full_like(PSTH, 0.3)], {}, r"session 1 do not vary .* leave the session out"),
        ([PSTH], {"n_components": 7}, r"^n_components = 7, but the PSTHs \(conditions: 4, bins: 12"
         r", channels of all sessions: 6\) have 6 dimensions: choose at most as many"),
        ([PSTH[:1, :4]], {"n_components": 4}, r"have 3 dimensions"),
        (shared_psths(), {"n_components": 4}, r"of all sessions: 25\) have 3 dimensions"),
        ([PSTH, COPIED], {"n_components": 3}, r"^n_components = 3, but the 6 channels of session 1 "
         r"that vary determine only 2 of the components, .* leave out channels that copy others"),
    ],
)  # fmt: skip
def test_mistakes_in_arrays(psths, options, message):
    with pytest.raises(ValueError, match=message):
        align(psths, **{"n_components": 2, **options})


def with_samples(value, n_channels=7):
    """Make the data of session 0 with a channel that has this value in all trials and bins."""
    arrays = session_arrays(shared_psths((7,), 0.3)[0])
    data = arrays["train_encod_data"]
    data[arrays["train_cond_idx"] == 2, :, 5] = value
    return {"train_encod_data": data, "train_cond_idx": arrays["train_cond_idx"]}


MISTAKES = [
    ([{"train_cond_idx": None}], {}, r"sess0\.h5 has no train_cond_idx\. .* an array of 20 labels"),
    ([{"train_cond_idx": np.arange(7)}], {}, r"sess0\.h5: train_cond_idx must have .* 20 trials"),
    ([{"train_cond_idx": np.full(20, np.nan)}], {}, r"sess0\.h5 gives none of the 20 training"),
    ([{}, {"train_cond_idx": np.arange(20) % 3 + 1}], {},
     r"of the 4 in train_cond_idx \S*sess1\.h5 lacks \[0\]\. Give a condition the same label"),
    ([{"train_cond_idx": np.arange(20) % 3}, {"train_cond_idx": np.arange(20) % 2 + 1}], {},
     r"of the 3 in train_cond_idx \S*sess1\.h5 lacks \[0\]\."),
    ([{"train_cond_idx": np.arange(20) % 2}, {"train_cond_idx": np.arange(20) % 2 + 1}], {},
     r"of the 3 in train_cond_idx \S*sess0\.h5 lacks \[2\]; \S*sess1\.h5 lacks \[0\]\."),
    ([{f"{split}_{name}": np.ones((n, 11, 7)) for split, n in (("train", 20), ("valid", 4))
       for name in ("encod_data", "recon_data")}], {},
     r"sess1\.h5 have 4 conditions of 12 bins, but those of \S*sess0\.h5 have 4 .* of 11 bins"),
    ([{"train_recon_data": None}], {}, r"sess0\.h5 has no train_recon_data"),
    ([with_samples(np.nan)], {}, r"sess0\.h5: channel 5 was never observed at bin 0 of condition 2 "
     r"\(NaN in all of its 5 training trials.* smooth more \(smoothing_width = 2\.0\)"),
    ([with_samples(np.inf)], {}, r"sess0\.h5 holds infinite values: mark missing samples by NaN"),
    ([{"train_encod_data": np.ones((20, 12, 7))}], {}, r"PSTHs of \S*sess0\.h5 do not vary"),
    ([], {"smoothing_width": -1}, r"^smoothing_width = -1, but .* 12 bins of a trial in \S*sess0"),
    ([], {"smoothing_width": 12}, r"^smoothing_width = 12, but .* not milliseconds"),
    ([], {"smoothing_width": math.nan}, r"^smoothing_width = nan, but"),
    ([], {"n_components": 18}, r"^n_components = 18, but .*all sessions: 17\) have 17 dimensions"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "options", "message"), MISTAKES)
def test_mistakes_in_files(tmp_path, changes, options, message):
    write_sessions(tmp_path, changes=changes)
    before = stamps(tmp_path)
    with pytest.raises(ValueError, match=message):
        align_files(tmp_path / "*.h5", **{"n_components": 3, **options})
    assert stamps(tmp_path) == before


def test_mistakes_in_paths(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="matches no file"):
        align_files(tmp_path / "*.h5", 3)
    paths = write_sessions(tmp_path)
    (tmp_path / "notes.txt").write_text("no data")
    with pytest.raises(ValueError, match=r"notes\.txt cannot be read as an HDF5 file"):
        align_files(tmp_path / "*", 3)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "sess0.h5").write_bytes(paths[0].read_bytes())
    message = r"b/sess0\.h5 and \S*/sess0\.h5 would both be written to \S*out/sess0\.h5"
    with pytest.raises(ValueError, match=message):
        align_files([tmp_path / "b" / "*.h5", paths[0]], 3, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "b" / "link.h5").symlink_to(paths[0])
    with pytest.raises(ValueError, match=r"would both be written to \S*/sess0\.h5"):
        align_files([tmp_path / "b" / "link.h5", paths[0]], 3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: path != paths[1])
        with pytest.raises(FileAccessError, match=r"sess1\.h5 is write-protected: .* output_dir"):
            align_files(paths, 3)
        align_files(paths, 3, output_dir=tmp_path / "out")
    # The same file twice is one session.
    assert len(align_files([tmp_path / "sess*.h5", paths[0]], 3)) == 2


# ----------------------------------------------------------------------------------- the command


def run(*args, cwd):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, args)], cwd=cwd, capture_output=True, text=True
    )


def test_command(tmp_path):
    write_sessions(tmp_path)
    done = run("sess*.h5", "--n-components", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0][:5] == ["session", "channels", "trials", "conditions", "R2"]
    assert rows[1][:4] == ["sess0.h5", "7", "20", "4"]
    assert rows[2][:4] == ["sess1.h5", "10", "20", "4"]
    psths = [condition_psths(tmp_path / f"sess{i}.h5").rates for i in (0, 1)]
    for row, right in zip(rows[1:3], align(psths, 3), strict=True):
        assert row[4:] == [f"{right.score:.3f}", f"{right.explained_variance:.3f}"]
    with h5py.File(tmp_path / "sess1.h5") as file:
        assert file["readin_weight"].attrs["smoothing_width"] == 2.0
        assert file["readin_weight"].attrs["ridge_alpha"] == 1.0

    command = done.stdout.split("scripts/run_single.py")[1]
    words = shlex.split(command.replace("\\\n", " "))
    assert "model=multisession" in words
    assert "model.fac_dim=3" in words
    config = compose(overrides=[word.replace("sess*", f"{tmp_path}/sess*") for word in words])
    assert config.datamodule.datafile_pattern == f"{tmp_path}/sess*.h5"
    assert config.model.encod_data_dim == 3

    before = stamps(tmp_path)
    again = run("sess*.h5", "--n-components", 2, cwd=tmp_path)
    assert again.returncode == 1
    assert re.search(r"^UserError: sess0\.h5 has .* --overwrite\)", again.stderr, re.MULTILINE)
    assert "Traceback" not in again.stderr
    assert stamps(tmp_path) == before


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run the command within this process, which takes less time: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["align_sessions.py", *map(str, args)])
        return main(), *capsys.readouterr()

    return call


def test_command_with_every_option(tmp_path, call):
    paths = write_sessions(tmp_path)
    (tmp_path / "unrelated.h5").write_bytes(paths[0].read_bytes())
    options = ("--n-components", 2, "--smoothing-width", 1, "--ridge-alpha", 0.5,
               "--output-dir", "out", "--overwrite")  # fmt: skip
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sess0.h5").write_bytes(b"earlier")
    code, out, _ = call("sess0.h5", "sess1.h5", *options)
    assert code == 0
    assert re.search(r"^out/sess1\.h5 +10 +20 +4 ", out, re.MULTILINE)
    # The pattern to train on matches what was aligned.
    assert 'datafile_pattern="out/*.h5"' in out
    with h5py.File(tmp_path / "out" / "sess0.h5") as file:
        attributes = dict(file["readout_bias"].attrs)
        attributes.pop("sessions")
    assert attributes == {"n_components": 2, "smoothing_width": 1.0, "ridge_alpha": 0.5}
    with h5py.File(paths[0]) as file:
        assert "readin_weight" not in file


def test_command_names_no_pattern_that_matches_other_files(tmp_path, call):
    paths = write_sessions(tmp_path)
    (tmp_path / "sess2.h5").write_bytes(paths[0].read_bytes())
    code, out, _ = call("sess0.h5", "sess1.h5", "--n-components", 2)
    assert code == 0
    assert "datafile_pattern=PATTERN" in out
    for path, folder in zip(paths, ("a", "b"), strict=True):
        (tmp_path / folder).mkdir()
        path.rename(tmp_path / folder / path.name)
    words = ("b/sess1.h5", "a/sess0.h5", "--n-components", 2, "--overwrite")
    code, out, _ = call(*words)
    assert code == 0
    assert "datafile_pattern=PATTERN" in out


def test_command_reports_a_missing_file(call):
    code, out, err = call("none.h5", "--n-components", 2)
    assert (code, out) == (1, "")
    assert err.startswith("\nMissingFileError: ")


def test_a_model_starts_from_aligned_files(tmp_path, monkeypatch):
    paths = write_sessions(tmp_path)
    align_files(paths, 3)
    monkeypatch.chdir(tmp_path)
    trained = run_model([
        "model=multisession", "datamodule=generic",
        f'datamodule.datafile_pattern="{tmp_path}/*.h5"', *TINY_SIZES,
        "trainer.max_epochs=1", "callbacks=[checkpoint]", "logger=[csv]",
        "posterior_sampling.fn.num_samples=2", "model.kl_ic_scale=1e-5",
        "+trainer.enable_progress_bar=false",
    ])  # fmt: skip
    assert [path.name for path in trained.output_files] == [
        "lfads_output_sess0.h5", "lfads_output_sess1.h5",
    ]  # fmt: skip
    for i, path in enumerate(paths):
        with h5py.File(path) as file:
            weight, bias = file["readin_weight"][()], file["readout_bias"][()]
        readin, readout = trained.model.readin[i], trained.model.readout[i]
        np.testing.assert_allclose(readin.weight, weight.T)
        np.testing.assert_allclose(readin.bias, -bias @ weight, atol=1e-5)
        assert not readin.weight.requires_grad
        # One epoch of training moves the read-outs a little.
        np.testing.assert_allclose(readout.bias.detach(), bias, atol=0.1)
        assert not np.array_equal(readout.bias.detach(), bias)


def test_held_out_channels_have_no_part(tmp_path):
    """The channels that the encoder does not see are reconstructed, but cannot align."""
    for name, seed in (("a", 0), ("b", 1)):
        write_file(tmp_path / f"{name}.h5", tiny_arrays(n_channels=7, n_heldout=2, seed=seed))
    align_files(str(tmp_path / "?.h5"), n_components=2)
    for path in sorted(tmp_path.glob("?.h5")):
        with h5py.File(path) as file:
            assert file["readin_weight"].shape == (5, 2)
            assert file["readout_bias"].shape == (5,)
    (readout, _) = MultisessionReadout(str(tmp_path / "?.h5"))
    assert readout.out_features == 7
