"""Sessions are mapped to the components that they share."""

import math
from itertools import permutations

import h5py
import numpy as np
import pytest
import torch

from lfads_torch.data.alignment.files import align_files
from lfads_torch.data.alignment.regression import align
from lfads_torch.data.alignment.responses import condition_psths
from lfads_torch.modules.readin_readout import MultisessionReadin, MultisessionReadout
from tests.data.alignment.sessions import N_LATENTS, latents, shared_psths, write_sessions


def r2(target, estimate):
    return 1 - np.sum((target - estimate) ** 2) / np.sum((target - target.mean(axis=(0, 1))) ** 2)


def aligned_psths(psths, alignments):
    return [
        psth @ a.readin_weight - a.readout_bias @ a.readin_weight
        for psth, a in zip(psths, alignments, strict=True)
    ]


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
    (everything,) = align([psth], 9)  # As many components as dimensions.
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
def test_arguments_that_are_refused(psths, options, message):
    with pytest.raises(ValueError, match=message):
        align(psths, **{"n_components": 2, **options})
