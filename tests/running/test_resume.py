"""Runs are resumed after kill -9, after their end, and in a folder that was moved."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from lfads_torch.errors import UserError
from lfads_torch.running.compose import compose
from lfads_torch.running.paths import placed_in
from lfads_torch.running.resume import resume_run
from lfads_torch.running.start import start_run
from lfads_torch.running.training import build, fit
from tests.conftest import tiny_arrays, write_file
from tests.running.runs import assert_same_run, rows, run, start_and_kill, weights, words


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Train a run of 6 epochs, and return it with the folder in which it was started."""
    home = tmp_path_factory.mktemp("runs")
    data = write_file(home / "tiny.h5", tiny_arrays())
    return home, start_run(words(data, "trainer.max_epochs=6"), home / "finished")


def test_resumes_after_kill_to_the_same_numbers(tmp_path, tiny_file):
    args = words(tiny_file, "trainer.max_epochs=40", "model.lr_scheduler=true",
                 "model.lr_patience=2", "callbacks.raster_plot.log_every_n_epochs=20")  # fmt: skip
    whole = run(*args, "run_dir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    start_and_kill([*args, "run_dir=cut"], tmp_path, tmp_path / "cut", n_epochs=5)
    killed_at = len({epoch for epoch, _ in rows(tmp_path / "cut")})
    resumed = run("--resume", "cut", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert 5 <= killed_at < 40
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    outputs = [tmp_path / name / "lfads_output_sess0.h5" for name in ("whole", "cut")]
    with h5py.File(outputs[0]) as whole, h5py.File(outputs[1]) as cut:
        assert whole.keys() == cut.keys()
        for key in whole:
            np.testing.assert_array_equal(whole[key][()], cut[key][()])


def test_resume_of_a_finished_run(finished):
    home, run_dir = finished
    epochs = weights(run_dir)["epoch"]
    again = run("--resume", run_dir, cwd=home)
    assert again.returncode == 0, again.stderr
    assert weights(run_dir)["epoch"] == epochs
    assert (run_dir / "lfads_output_sess0.1.h5").exists()  # the earlier output is kept
    longer = run("--resume", run_dir, "trainer.max_epochs=8", cwd=home)
    assert longer.returncode == 0, longer.stderr
    assert {int(epoch) for epoch, _ in rows(run_dir)} == set(range(8))
    assert (run_dir / "config.1.yaml").exists()


def test_a_mistake_when_resuming_changes_nothing(finished):
    home, run_dir = finished
    before = (run_dir / "config.yaml").read_text(), sorted(run_dir.iterdir())
    done = run("--resume", run_dir, "datamodule.batch_size=0", cwd=home)
    assert done.returncode == 1
    assert "batch_size" in done.stderr
    assert ((run_dir / "config.yaml").read_text(), sorted(run_dir.iterdir())) == before


def test_a_finished_run_that_is_trained_further_can_be_interrupted(tmp_path, tiny_file):
    run_dir = tmp_path / "run"
    args = words(tiny_file, "trainer.max_epochs=2", "callbacks=[checkpoint]", "run_dir=run")
    assert run(*args, cwd=tmp_path).returncode == 0
    start_and_kill(["--resume", "run", "trainer.max_epochs=40"], tmp_path, run_dir, n_epochs=5)
    assert json.loads((run_dir / "summary.1.json").read_text())["epochs"] == 2
    done = run("--resume", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((run_dir / "summary.json").read_text())["epochs"] == 40


def test_resuming_a_folder_that_is_not_a_run(tmp_path):
    done = run("--resume", tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert "config.yaml" in done.stderr


def test_non_finite_loss_stops_and_keeps_the_checkpoints(tmp_path, tiny_file):
    args = words(tiny_file, "trainer.max_epochs=5", "run_dir=cut")
    assert run(*args, cwd=tmp_path).returncode == 0
    before = weights(tmp_path / "cut")
    poisoned = dict(before, state_dict=dict(before["state_dict"]))
    key = "decoder.ic_to_g0.bias"
    poisoned["state_dict"][key] = torch.full_like(before["state_dict"][key], torch.nan)
    last = tmp_path / "cut" / "lightning_checkpoints" / "last.ckpt"
    torch.save(poisoned, last)
    stamp = last.read_bytes()
    done = run("--resume", "cut", "trainer.max_epochs=9", cwd=tmp_path)
    assert done.returncode == 1
    assert "not finite in epoch 5" in done.stderr
    assert "model.lr_init" in done.stderr
    assert last.read_bytes() == stamp


def test_continues_from_the_last_epoch_even_if_another_was_the_best(tmp_path, tiny_file):
    args = words(tiny_file, "callbacks=[checkpoint]", "callbacks.checkpoint.mode=max",
                 "model.lr_scheduler=true", "model.lr_patience=0", "model.lr_init=0.2",
                 "posterior_sampling.use_best_ckpt=false")  # fmt: skip
    whole = start_run([*args, "trainer.max_epochs=6"], tmp_path / "whole")
    cut = start_run([*args, "trainer.max_epochs=4"], tmp_path / "cut")
    (best,) = cut.glob("lightning_checkpoints/best-epoch*.ckpt")
    assert best.name < "best-epoch0003.ckpt"
    assert weights(cut)["epoch"] == 3
    assert weights(cut)["lr_schedulers"][0]["last_epoch"] == 4
    resume_run(cut)  # samples again
    outputs = [cut / f"lfads_output_{name}.h5" for name in ("sess0", "sess0.1")]
    with h5py.File(outputs[0]) as again, h5py.File(outputs[1]) as before:
        np.testing.assert_array_equal(again["valid_output_params"], before["valid_output_params"])
    resume_run(cut, ["trainer.max_epochs=6"])
    assert rows(cut) == rows(whole)
    again, never = (weights(run_dir) for run_dir in (cut, whole))
    for key, value in again["state_dict"].items():
        assert torch.equal(value, never["state_dict"][key])
    assert again["lr_schedulers"] == never["lr_schedulers"]


# ------------------------------------------------------------------ folders that were moved

SHORT = ["callbacks=[checkpoint]", "logger=[csv]", "+trainer.enable_progress_bar=false"]


def without_its_end(run_dir):
    """Change a finished run as if it had been interrupted after its last epoch."""
    (run_dir / "summary.json").unlink()
    for output in run_dir.glob("*.h5"):
        output.unlink()


def test_a_moved_run_is_resumed_in_its_new_folder(tmp_path, tiny_file, monkeypatch):
    """The best epoch so far is kept, whose file is only in the new folder."""
    # The loss grows, so that the best epoch is before the interruption.
    args = words(tiny_file, *SHORT, "model.lr_init=0.3", "model.lr_scheduler=true",
                 "callbacks.checkpoint.filename=best")  # fmt: skip
    whole = start_run([*args, "trainer.max_epochs=6"], tmp_path / "whole")
    cut = start_run([*args, "trainer.max_epochs=4"], tmp_path / "cut")
    without_its_end(cut)
    summary = json.loads((whole / "summary.json").read_text())
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(cut, moved)
    shutil.rmtree(cut)
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    resume_run(moved, ["trainer.max_epochs=6"])
    assert_same_run(whole, moved)
    again = json.loads((moved / "summary.json").read_text())
    for key in ("best_checkpoint", "best_score", "epochs", "scores"):
        assert again[key] == summary[key]
    assert not cut.exists()
    assert list(here.iterdir()) == []
    with h5py.File(whole / "lfads_output_sess0.h5") as a, \
            h5py.File(moved / "lfads_output_sess0.h5") as b:  # fmt: skip
        np.testing.assert_array_equal(a["valid_factors"], b["valid_factors"])


def test_the_best_score_of_another_run_does_not_count(tmp_path, tiny_file):
    """A run that begins with a checkpoint from another folder keeps its own checkpoints."""
    first = start_run([*words(tiny_file, *SHORT), "trainer.max_epochs=2"], tmp_path / "first")
    second = tmp_path / "second"
    shutil.copytree(first, second)
    without_its_end(second)
    elsewhere = first / "lightning_checkpoints" / "last.ckpt"
    config = compose(second / "config.yaml", ["trainer.max_epochs=3"])
    with pytest.warns(UserWarning, match="dirpath has changed"):
        fit(placed_in(config, second), build(config), elsewhere)


def test_a_run_that_added_a_session_is_not_resumed(tmp_path):
    """This holds for this version and for an earlier one, whose function had another path."""
    for target in ("lfads_torch.running.new_session", "lfads_torch.new_session"):
        model = {"_target_": f"{target}.one_session_model"}
        OmegaConf.save({"model": model}, tmp_path / "config.yaml")
        with pytest.raises(UserError, match=r"add_session\.py"):
            resume_run(tmp_path)


def test_a_run_without_a_checkpoint_starts_from_the_beginning(tmp_path, tiny_file):
    args = [*words(tiny_file, *SHORT), "trainer.max_epochs=2"]
    run_dir = start_run(args, tmp_path / "run")
    without_its_end(run_dir)
    expected = weights(run_dir)["state_dict"]
    shutil.rmtree(run_dir / "lightning_checkpoints")
    with pytest.warns(UserWarning, match="starts from the beginning"):
        resume_run(run_dir)
    for key, value in weights(run_dir)["state_dict"].items():
        assert torch.equal(value, expected[key])
