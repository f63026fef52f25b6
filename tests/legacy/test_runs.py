"""Runs of an older version are continued, sampled, used and merged with the same results."""

import json
import shutil

import numpy as np
import pytest
import torch

from lfads_torch.model import LFADS
from lfads_torch.run_model import run_model
from tests.legacy.legacy import (
    DATA,
    FLOAT32,
    TRAINED,
    assert_same_arrays,
    assert_same_metrics,
    assert_same_weights,
    copy_of,
    last_checkpoint,
    script,
    script_here,
)

LAST = "lightning_checkpoints/last.ckpt"


def assert_complete(run_dir, epochs):
    """Check that a run folder has its summary, its output and its pictures."""
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["epochs"] == epochs
    assert (run_dir / summary["best_checkpoint"]).is_file()
    assert {"bps", "co_bps", "fp_bps", "r2"} <= set(summary["scores"][0])
    for name in ("losses", "raster_valid_sess0", "psth_valid_sess0", "trajectories_valid_sess0"):
        assert (run_dir / "plots" / f"{name}.png").stat().st_size > 0, name
    return summary


def test_an_interrupted_run_is_resumed_to_the_same_numbers(tmp_path):
    """The optimiser, the learning-rate schedule, the random numbers and the log continue."""
    copy_of("runs/interrupted", "data/one.h5", to=tmp_path)
    run_dir = tmp_path / "runs" / "interrupted"
    script("run_single", "--resume", run_dir, cwd=tmp_path)
    assert_same_weights(last_checkpoint(run_dir), DATA / "expected" / "resumed.npz")
    log = run_dir / "csv_logs" / "metrics.csv"
    assert_same_metrics(log, DATA / "expected" / "resumed.csv", **TRAINED)
    output = run_dir / "lfads_output_sess0.h5"
    assert_same_arrays(output, DATA / "expected" / "resumed.h5", **TRAINED)
    assert_complete(run_dir, epochs=7)


def test_a_finished_run_is_trained_further(tmp_path):
    copy_of("runs/finished", "data/one.h5", to=tmp_path)
    run_dir = tmp_path / "runs" / "finished"
    script_here("run_single", "--resume", run_dir, "trainer.max_epochs=6", cwd=tmp_path)
    assert_same_weights(last_checkpoint(run_dir), DATA / "expected" / "continued.npz")
    log = run_dir / "csv_logs" / "metrics.csv"
    assert_same_metrics(log, DATA / "expected" / "continued.csv", **TRAINED)
    assert_complete(run_dir, epochs=6)
    assert "max_epochs: 4" in (run_dir / "config.1.yaml").read_text()
    assert json.loads((run_dir / "summary.1.json").read_text())["epochs"] == 4


def test_a_finished_run_is_sampled_and_drawn_again(tmp_path):
    copy_of("runs/finished", "data/one.h5", to=tmp_path)
    run_dir = tmp_path / "runs" / "finished"
    (run_dir / "lfads_output_sess0.h5").unlink()
    weights = (run_dir / LAST).read_bytes()
    script_here("run_single", "--resume", run_dir, cwd=tmp_path)
    assert (run_dir / LAST).read_bytes() == weights
    expected = DATA / "runs" / "finished"
    assert_same_arrays(
        run_dir / "lfads_output_sess0.h5", expected / "lfads_output_sess0.h5", **FLOAT32
    )
    summary = assert_complete(run_dir, epochs=4)
    before = json.loads((expected / "summary.json").read_text())
    for name, score in before["scores"][0].items():
        assert summary["scores"][0][name] == pytest.approx(score, rel=1e-4, abs=1e-5), name


def test_new_trials_are_inferred_as_before(tmp_path):
    copy_of("runs/finished", "data/new_trials.h5", to=tmp_path)
    words = ["--data", "data/new_trials.h5", "--num-samples", "4", "--save-std"]
    script_here("infer", "runs/finished", *words, "--output", "new.h5", cwd=tmp_path)
    expected = DATA / "runs" / "finished" / "inferred" / "new_trials_sess0.h5"
    assert_same_arrays(tmp_path / "new_sess0.h5", expected, **FLOAT32)


def test_run_model_samples_from_a_checkpoint(tmp_path, monkeypatch):
    copy_of("runs/finished", "data/one.h5", to=tmp_path)
    monkeypatch.chdir(tmp_path)
    run_dir = tmp_path / "runs" / "finished"
    (best,) = (run_dir / "lightning_checkpoints").glob("best*.ckpt")
    run_model(checkpoint_dir=best, config_path=run_dir / "config.yaml", do_train=False)
    expected = DATA / "runs" / "finished" / "lfads_output_sess0.h5"
    assert_same_arrays(tmp_path / "lfads_output_sess0.h5", expected, **FLOAT32)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_run_model_continues_from_a_checkpoint(tmp_path, monkeypatch):
    copy_of("runs/finished", "data/one.h5", to=tmp_path)
    folder = tmp_path / "elsewhere"
    (folder / "last").mkdir(parents=True)
    shutil.copy(tmp_path / "runs" / "finished" / LAST, folder / "last")
    monkeypatch.chdir(folder)
    run_model(
        {"trainer": {"max_epochs": 6}},
        checkpoint_dir=folder / "last",
        config_path=tmp_path / "runs" / "finished" / "config.yaml",
        do_posterior_sample=False,
    )
    assert_same_weights(last_checkpoint(folder), DATA / "expected" / "continued.npz")


def test_windows_are_merged_as_before(tmp_path):
    copy_of("runs/chopped", to=tmp_path)
    run_dir = tmp_path / "runs" / "chopped"
    merged = run_dir / "lfads_output_sess0_continuous.h5"
    merged.unlink()
    script_here("merge", run_dir / "lfads_output_sess0.h5", cwd=tmp_path)
    expected = DATA / "runs" / "chopped" / merged.name
    assert_same_arrays(merged, expected, rtol=1e-6, atol=1e-7)


# ------------------------------------------------------------------ a session that was added


def test_a_model_with_an_added_session_infers_as_before(tmp_path):
    copy_of("runs/added", "data/new_session.h5", to=tmp_path)
    words = ["--data", "data/new_session.h5", "--session", 2, "--num-samples", 3]
    script_here("infer", "runs/added", *words, "--output", "new.h5", cwd=tmp_path)
    model = LFADS.load_from_checkpoint(tmp_path / "runs" / "added" / "model.ckpt")
    assert len(model.readin) == len(model.readout) == len(model.recon) == 3
    expected = DATA / "runs" / "added" / "lfads_output_sess2.h5"
    assert_same_arrays(tmp_path / "new_sess2.h5", expected, **FLOAT32)


def test_a_run_that_added_a_session_is_not_resumed(tmp_path):
    copy_of("runs/added", "data", to=tmp_path)
    said = script_here("run_single", "--resume", "runs/added", cwd=tmp_path, status=1)
    assert "add_session.py" in said
    assert "Traceback" not in said


def test_the_shared_parts_of_an_added_session_are_those_of_the_trained_model():
    trained = torch.load(DATA / "models" / "two_sessions.ckpt", weights_only=True)["state_dict"]
    added = torch.load(DATA / "runs" / "added" / "model.ckpt", weights_only=True)["state_dict"]
    assert trained.keys() < added.keys()
    for key in trained:
        assert trained[key].shape == added[key].shape
    assert np.any([".2." in key for key in added])
