"""Sweeps of the version before are read and used; tests/sweeps/test_older_sweeps.py resumes one."""

import json

import numpy as np
import pytest

from lfads_torch.extensions.tune import read_pbt_fitlog
from lfads_torch.post_run.pbt import plot_pbt_hps, read_pbt_hps
from tests.legacy.legacy import DATA, FLOAT32, assert_same_arrays, copy_of, script_here

EPOCHS = {"random": (2, 4), "pbt": (2, 4, 6)}


@pytest.mark.parametrize("name", EPOCHS)
def test_the_history_is_read(name, tmp_path):
    sweep = copy_of(f"runs/{name}", to=tmp_path) / "runs" / name
    summary = json.loads((sweep / "summary.json").read_text())
    hps = read_pbt_hps(sweep)
    assert hps.attrs["best_trial"] == summary["best_trial"]
    assert hps["trial"].nunique() == 2
    assert set(hps["epoch"]) == set(EPOCHS[name])
    last = hps[(hps["trial"] == summary["best_trial"]) & (hps["epoch"] == EPOCHS[name][-1])]
    for key, value in summary["hyperparameters"].items():
        assert last[key].item() == value, key
    fitlog = read_pbt_fitlog(sweep)
    assert len(fitlog) == 2 * EPOCHS[name][-1]
    smoothed = fitlog[fitlog["trial"] == summary["best_trial"]]["valid/recon_smth"]
    best = smoothed.min() if name == "random" else smoothed.iloc[-1]
    np.testing.assert_allclose(best, summary["best_score"], rtol=1e-6)
    plot_pbt_hps(sweep, save_dir=tmp_path / "plots")
    assert (tmp_path / "plots" / "pbt_hps.png").stat().st_size > 0


@pytest.mark.parametrize("name", EPOCHS)
def test_the_best_model_infers_as_before(name, tmp_path):
    copy_of(f"runs/{name}", "data/one.h5", to=tmp_path)
    best = tmp_path / "runs" / name / "best_model"
    words = ["--data", "data/one.h5", "--num-samples", 3, "--output", "new.h5"]
    script_here("infer", best, *words, cwd=tmp_path)
    expected = DATA / "runs" / name / "best_model" / "lfads_output_sess0.h5"
    if expected.is_file():
        assert_same_arrays(tmp_path / "new_sess0.h5", expected, **FLOAT32)


def test_a_sweep_that_has_ended_does_not_change(tmp_path):
    copy_of("runs/pbt", "data/one.h5", to=tmp_path)
    files = sorted((tmp_path / "runs").rglob("*"))
    said = script_here("run_pbt", "--resume", "runs/pbt", cwd=tmp_path)
    assert "has ended" in said
    assert sorted((tmp_path / "runs").rglob("*")) == files
