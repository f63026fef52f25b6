"""Runs through the real script: what they leave behind, and that they survive kill -9."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lfads_torch.model import LFADS
from lfads_torch.running.resume import resume_run
from lfads_torch.running.start import start_run
from lfads_torch.running.training import run_model
from tests.conftest import TINY_SIZES, tiny_arrays, write_file

SCRIPT = Path(__file__).parents[2] / "scripts" / "run_single.py"
TIMES = {"epoch", "step"}


def words(data, *more):
    return [
        "model=generic", "datamodule=generic", f"datamodule.datafile_pattern={data}", *TINY_SIZES,
        "posterior_sampling.fn.num_samples=3", *more,
    ]  # fmt: skip


def run(*args, cwd):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, args)], cwd=cwd, capture_output=True, text=True
    )


def rows(run_dir):
    """Return {(epoch, metric): value} of a run's log."""
    with open(run_dir / "csv_logs" / "metrics.csv", newline="") as file:
        return {
            (row["epoch"], key): value
            for row in csv.DictReader(file)
            for key, value in row.items()
            if value and key not in TIMES and row["epoch"]
        }


def weights(run_dir):
    path = run_dir / "lightning_checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)


def assert_same_run(a, b):
    first, second = weights(a), weights(b)
    assert first["epoch"] == second["epoch"]
    assert first["valid_recon_smth"] == second["valid_recon_smth"]
    for key, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][key]), key
    logged, again = rows(a), rows(b)
    assert logged.keys() == again.keys()
    assert {key for key in logged if logged[key] != again[key]} == set()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 6 epochs with its output, and the folder that it was started in."""
    home = tmp_path_factory.mktemp("runs")
    write_file(home / "tiny.h5", tiny_arrays())
    # The path is relative to where the run is started, though it works in its own folder.
    done = run(*words("tiny.h5", "trainer.max_epochs=6", "run_dir=finished"), cwd=home)
    assert done.returncode == 0, done.stderr
    return home, home / "finished", done


def test_leaves_everything_behind_and_says_where(finished):
    home, run_dir, done = finished
    names = ["config.yaml", "run_single.py", "summary.json", "csv_logs/metrics.csv",
             "lightning_checkpoints/last.ckpt", "lfads_output_sess0.h5", "plots/losses.png",
             "plots/raster_valid_sess0.png", "plots/psth_valid_sess0.png",
             "plots/trajectories_valid_sess0.png"]  # fmt: skip
    for name in names:
        assert (run_dir / name).stat().st_size > 0, name
    assert list(run_dir.glob("events.out.tfevents.*"))
    assert list(run_dir.glob("lightning_checkpoints/best-epoch*.ckpt"))
    for name in names[3:]:
        assert f"finished/{name}" in done.stdout
    for line in done.stdout.split("Files:")[1].split():
        assert (home / line).exists()
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["epochs"] == 6
    assert f"best valid/recon_smth: {summary['best_score']}\n" in done.stdout
    for name, value in summary["scores"][0].items():
        assert re.search(rf"{name}\s+{value:.4f}", done.stdout)
    assert {"bps", "co_bps", "fp_bps", "r2", "smoothing_r2"} <= set(summary["scores"][0])


def test_logs_every_metric_name(finished):
    logged = {key for _, key in rows(finished[1])}
    for split in ("train", "valid"):
        for name in ("loss", "recon", "recon/sess0", "bps", "co_bps", "fp_bps", "r2", "wt_l2",
                     "wt_l2/ramp", "wt_kl", "wt_kl/ic", "wt_kl/co", "wt_kl/ramp"):  # fmt: skip
            assert f"{split}/{name}" in logged
    assert {"valid/recon_smth", "hp_metric", "cur_epoch"} <= logged
    assert "lr-AdamW" in (finished[1] / "csv_logs" / "metrics.csv").read_text()
    hps = ["lr_init", "dropout_rate", "weight_decay", "cd_rate", "kl_ic_scale", "kl_co_scale"]
    hps += [f"l2_{part}_scale" for part in ("ic_enc", "ci_enc", "gen", "con")]
    assert {f"hp/{name}" for name in hps} <= logged


def test_smoothed_metric_follows_its_formula(finished):
    logged, smoothed = rows(finished[1]), None
    for epoch in map(str, range(6)):
        recon = float(logged[epoch, "valid/recon"])
        smoothed = recon if smoothed is None else 0.3 * smoothed + 0.7 * recon
        assert float(logged[epoch, "valid/recon_smth"]) == pytest.approx(smoothed, rel=1e-5)


def test_best_checkpoint_makes_the_output(finished):
    home, run_dir, _ = finished
    summary = json.loads((run_dir / "summary.json").read_text())
    logged = rows(run_dir)
    best = min(range(6), key=lambda epoch: float(logged[str(epoch), "valid/recon_smth"]))
    assert f"epoch{best:04d}" in summary["best_checkpoint"]
    model = LFADS.load_from_checkpoint(run_dir / summary["best_checkpoint"]).eval()
    output_file = run_dir / "lfads_output_sess0.h5"
    with h5py.File(output_file) as output, h5py.File(home / "tiny.h5") as data:
        for key in data:
            np.testing.assert_array_equal(output[key][()], data[key][()])
        with torch.no_grad():
            ic_mean, ic_std, _ = model.encoder(torch.tensor(data["valid_encod_data"][()]))
        np.testing.assert_allclose(output["valid_ic_mean"], ic_mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(output["valid_ic_std"], ic_std, rtol=1e-4)
        assert output["train_output_params"].shape == (12, 10, 5)
        assert output.attrs["session_file"] == "tiny.h5"


def test_refuses_to_overwrite(finished):
    home, run_dir, _ = finished
    before = sorted(run_dir.rglob("*"))
    again = run(*words("tiny.h5", "trainer.max_epochs=1", "run_dir=finished"), cwd=home)
    assert again.returncode == 1
    assert "--resume" in again.stderr
    assert "Traceback" not in again.stderr
    assert sorted(run_dir.rglob("*")) == before


def test_mistakes_make_no_folder(tmp_path, tiny_file):
    for mistake, message in [
        ("model.gen_dimm=3", "gen_dimm"),
        ("datamodule.datafile_pattern=none*.h5", "datafile_pattern"),
        ("model.encod_seq_len=7", "encod_seq_len = 7"),
        ("model.gen_dim=0", "model.gen_dim must be at least 1"),
        ("datamodule.batch_keys=[nothing]", "train_nothing"),
    ]:
        done = run(*words(tiny_file, mistake, "run_dir=new"), cwd=tmp_path)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "new").exists()


def start_and_kill(args, cwd, run_dir, n_epochs):
    """Start a run, and kill -9 it once so many epochs have been logged."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, args)], cwd=cwd,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    try:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if len({epoch for epoch, key in rows(run_dir) if key == "train/loss"}) >= n_epochs:
                    break
            except (FileNotFoundError, KeyError):
                pass
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (run_dir / "summary.json").exists(), "the run ended before it could be killed"


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
    home, run_dir, _ = finished
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
    home, run_dir, _ = finished
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


def test_resume_of_no_run(tmp_path):
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


def test_run_model_works_in_the_current_folder(tmp_path, tiny_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = {
        "model": "generic", "datamodule": "generic",
        "datamodule.datafile_pattern": str(tiny_file), "trainer.max_epochs": 2,
        "posterior_sampling": {"fn": {"num_samples": 2}},
        "callbacks": ["checkpoint", "lr_monitor"], "+trainer.enable_progress_bar": False,
        **dict(word.split("=") for word in TINY_SIZES),
    }  # fmt: skip
    trained = run_model(overrides)
    assert (tmp_path / "csv_logs" / "metrics.csv").exists()
    assert trained.output_files[0].resolve() == (tmp_path / "lfads_output_sess0.h5").resolve()
    with pytest.raises(ValueError, match=r"holds 2 checkpoints.*last\.ckpt"):
        run_model(overrides, "lightning_checkpoints", do_train=False)
    (other := tmp_path / "other").mkdir()
    monkeypatch.chdir(other)
    loaded = run_model(overrides, trained.best_checkpoint, do_train=False)
    for key, value in trained.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value)
    with pytest.raises(FileNotFoundError, match="no file and holds no"):
        run_model(overrides, other)


def test_goes_on_from_the_last_epoch_where_another_was_the_best(tmp_path, tiny_file):
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


def test_a_broken_logger_does_not_stop_training(tmp_path, tiny_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broken = "+logger.broken={_target_: pytorch_lightning.loggers.NoSuchLogger}"
    with pytest.warns(UserWarning, match="logger.broken"):
        run_model(words(tiny_file, "trainer.max_epochs=1", broken, "callbacks=[checkpoint]"))
    assert (tmp_path / "csv_logs" / "metrics.csv").exists()


def test_nothing_optional_is_imported(tmp_path, tiny_file):
    code = (
        "import sys, pkgutil, importlib, lfads_torch, lfads_torch.modules, lfads_torch.post_run\n"
        "for p in (lfads_torch, lfads_torch.modules, lfads_torch.post_run):\n"
        "    for m in pkgutil.iter_modules(p.__path__, p.__name__ + '.'):\n"
        "        importlib.import_module(m.name)\n"
        "from omegaconf import OmegaConf\n"
        "bad = {'ray', 'nlb_tools', 'wandb', 'pandas'} & set(sys.modules)\n"
        "assert not bad, bad\n"
        "assert not OmegaConf.has_resolver('relpath')\n"
        "from lfads_torch.running.training import run_model\n"
        "run_model(sys.argv[1:])\n"
        "bad = {'ray', 'nlb_tools', 'wandb'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words(tiny_file, "trainer.max_epochs=1")],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


FIRST_STEP = """
import json, os, time
import pytorch_lightning as pl

class Stop(pl.Callback):
    def on_train_batch_start(self, *args):
        times = os.times()
        with open("first_step.json", "w") as file:
            json.dump(times.user + times.system, file)
        os._exit(0)
"""


def test_the_first_training_step_comes_soon(tmp_path):
    """Within 10 s of the processor, which do not depend on what else the machine does."""
    (tmp_path / "first_step.py").write_text(FIRST_STEP)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    stop = "+callbacks.first={_target_: first_step.Stop}"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "run_dir=run", stop],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "first_step.json").read_text()) < 10
