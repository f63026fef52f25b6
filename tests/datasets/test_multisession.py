"""Several sessions share only the network, its conditions and its latents."""

import os

import h5py
import numpy as np
import pytest

from lfads_torch.datasets.chaotic_rnn import chaotic_rnn
from lfads_torch.datasets.multisession import multisession_chaotic_rnn, write_sessions
from tests.datasets.synthetic import SESSIONS, both, check_layout, digest


@pytest.fixture(scope="module")
def sessions():
    return multisession_chaotic_rnn()


def test_multisession_layout(sessions):
    assert len(sessions) == 8
    for arrays in sessions:
        check_layout(arrays, 40, 5, 1, 50, 25, 8)
        assert arrays["conversion_factor"] == 50


def test_sessions_share_the_network_and_no_neuron(sessions):
    units = np.concatenate([arrays["unit_idx"] for arrays in sessions])
    assert np.array_equal(np.sort(units), np.arange(200))
    assert all((np.diff(arrays["unit_idx"]) > 0).all() for arrays in sessions)
    assert len({arrays["unit_idx"].max() for arrays in sessions}) > 1  # Units are mixed.
    # Together the sessions have the rates of all units of one network.
    whole = chaotic_rnn(
        n_conditions=40, n_trials=5, n_bins=50, n_neurons=200, bin_width=0.02, gain=1.5, tau=0.05
    )
    for arrays in sessions:
        rates = both(whole, "truth")[:, :, arrays["unit_idx"]]
        assert np.array_equal(both(arrays, "truth"), rates)


def test_sessions_share_the_latents_of_a_condition(sessions):
    latents = [both(arrays, "latents") for arrays in sessions]
    assert all(np.array_equal(latents[0], other) for other in latents[1:])


def test_sessions_have_different_trials():
    """The same rates, but other spikes and other validation trials."""
    arrays = multisession_chaotic_rnn(n_sessions=2, n_conditions=30, n_neurons=10)
    surplus = [both(a, "recon_data") - both(a, "truth") / 50 for a in arrays]
    correlation = np.corrcoef(surplus[0].ravel(), surplus[1].ravel())[0, 1]
    assert abs(correlation) < 0.02
    assert not np.array_equal(arrays[0]["valid_inds"], arrays[1]["valid_inds"])


def test_the_network_of_a_seed_does_not_depend_on_the_numbers_of_trials_and_latents():
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


def test_a_seed_gives_the_same_sessions_and_another_does_not(tmp_path):
    first, again, other = (
        write_sessions(tmp_path / str(i), multisession_chaotic_rnn(seed=seed, **SESSIONS))
        for i, seed in enumerate([5, 5, 6])
    )
    assert [digest(path) for path in first] == [digest(path) for path in again]
    assert not {digest(path) for path in first} & {digest(path) for path in other}


# ------------------------------------------------------------------ files


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
