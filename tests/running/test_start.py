"""Runs by the real script and by start_run: the files that they write, and where."""

import json
import os
import re
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from lfads_torch.cli.run_single import main
from lfads_torch.errors import UserError
from lfads_torch.model import LFADS
from lfads_torch.running.start import start_run
from tests.conftest import tiny_arrays, write_file
from tests.running.runs import SCRIPT, rows, run, words


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Train a run of 6 epochs, and return it with its output and the folder of its start."""
    home = tmp_path_factory.mktemp("runs")
    write_file(home / "tiny.h5", tiny_arrays())
    # The path of the data is relative to the folder in which the run is started.
    done = run(*words("tiny.h5", "trainer.max_epochs=6", "run_dir=finished"), cwd=home)
    assert done.returncode == 0, done.stderr
    return home, home / "finished", done


def test_a_run_leaves_its_files_and_prints_their_paths(finished):
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


def test_mistakes_make_no_folder(tmp_path, tiny_file, capsys):
    for mistake, message in [
        ("model.gen_dimm=3", "gen_dimm"),
        ("datamodule.datafile_pattern=none*.h5", "datafile_pattern"),
        ("model.encod_seq_len=7", "encod_seq_len = 7"),
        ("model.gen_dim=0", "model.gen_dim must be at least 1"),
        ("datamodule.batch_keys=[nothing]", "train_nothing"),
    ]:
        status = main(None, SCRIPT, words=words(tiny_file, mistake, f"run_dir={tmp_path}/new"))
        assert status == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
    done = run(*words(tiny_file, "model.gen_dimm=3", "run_dir=new"), cwd=tmp_path)
    assert done.returncode == 1
    assert "gen_dimm" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()


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
    def on_train_batch_start(self, trainer, *args):
        times = os.times()
        with open(os.path.join(trainer.default_root_dir, "first_step.json"), "w") as file:
            json.dump(times.user + times.system, file)
        os._exit(0)
"""


def test_the_first_training_step_comes_soon(tmp_path):
    """It takes less than 10 s of processor time, which does not depend on other programs."""
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


# ------------------------------------------------------------------ where it writes


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_nothing_is_written_to_the_current_folder(finished):
    """After the run, the folder only holds the data and the run."""
    home, run_dir, _ = finished
    assert {path.name for path in home.iterdir()} <= {"tiny.h5", "finished"}
    epoch = {"plots/raster_valid_sess0_epoch0000.png", "plots/losses_epoch0005.png"}
    assert epoch <= set(files(run_dir))


def test_paths_in_the_saved_configuration_are_relative(finished):
    config = OmegaConf.load(finished[1] / "config.yaml")
    assert config.callbacks.checkpoint.dirpath == "lightning_checkpoints"
    assert config.logger.csv.save_dir == config.logger.tensorboard.save_dir == "."
    assert config.posterior_sampling.fn.filename == "lfads_output.h5"
    assert "default_root_dir" not in config.trainer
    summary = json.loads((finished[1] / "summary.json").read_text())
    assert summary["best_checkpoint"].startswith("lightning_checkpoints/best-epoch")


def test_the_current_folder_is_never_changed(tmp_path, tiny_file, monkeypatch):
    """Two runs in two threads each write to their own folder and nowhere else."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(os, "chdir", lambda folder: pytest.fail(f"chdir to {folder}"))
    short = words(tiny_file, "trainer.max_epochs=2", "trainer.log_every_n_steps=1",
                  "callbacks=[checkpoint,loss_plot]",
                  "+trainer.enable_progress_bar=false")  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        sizes = {"a": 6, "b": 7}
        runs = {
            name: pool.submit(start_run, [*short, f"model.gen_dim={size}"], tmp_path / name)
            for name, size in sizes.items()
        }
        folders = {name: future.result() for name, future in runs.items()}
    assert Path.cwd() == here
    assert list(here.iterdir()) == []
    for name, size in sizes.items():
        folder = folders[name]
        assert folder == tmp_path / name
        with h5py.File(folder / "lfads_output_sess0.h5") as output:
            assert output["valid_gen_states"].shape[-1] == size
        summary = json.loads((folder / "summary.json").read_text())
        assert (
            LFADS.load_from_checkpoint(folder / summary["best_checkpoint"]).hparams.gen_dim == size
        )
        assert {int(epoch) for epoch, _ in rows(folder)} == {0, 1}
        found = set(files(folder))
        assert {"lightning_checkpoints/last.ckpt", "plots/losses_epoch0001.png", "plots/losses.png",
                "config.yaml"} <= found  # fmt: skip
        assert any(file.startswith("events.out.tfevents") for file in found)


def test_the_script_takes_the_packaged_configuration(tmp_path, tiny_file, monkeypatch):
    """This holds even if ../configs/single.yaml belongs to another project."""
    project = tmp_path / "project"
    (project / "configs").mkdir(parents=True)
    (project / "configs" / "single.yaml").write_text("defaults: []\nof_another_project: true\n")
    (project / "scripts").mkdir()
    monkeypatch.chdir(project / "scripts")
    options = ["trainer.max_epochs=1", "callbacks=[]", "logger=[]", "run_dir=../run"]
    status = main(None, SCRIPT, words=words(tiny_file, *options))
    assert status == 0
    config = OmegaConf.load(project / "run" / "config.yaml")
    assert "of_another_project" not in config
    assert config.trainer.gradient_clip_val == 200
    assert files(project / "scripts") == []


def test_the_script_sets_no_configuration():
    options = runpy.run_path(str(SCRIPT))
    assert options["CONFIG_PATH"] is None
    assert options["OVERRIDES"] == {"model": "lorenz", "datamodule": "lorenz"}
    assert options["main"] is main


def test_a_refused_argument_is_reported_with_its_key(tmp_path, tiny_file):
    """This also holds if the class that refuses it does not belong to this library."""
    for override, message in [
        ("datamodule.batch_size=0", "batch_size"),
        ("+trainer.accelerator_=1", "accelerator_"),
        ("trainer.accelerator=abacus", r"trainer \(pytorch_lightning\.Trainer\) cannot be made"),
        ("callbacks.checkpoint.save_top_k=-2", r"callbacks\.checkpoint .* cannot be made: .*-2"),
    ]:
        with pytest.raises(UserError, match=message):
            start_run(words(tiny_file, "trainer.max_epochs=1", override), tmp_path / "run",
                      overwrite=True)  # fmt: skip


def test_a_folder_that_cannot_be_made(tmp_path, tiny_file):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"file.run cannot be made"):
        start_run(words(tiny_file), tmp_path / "file" / "run")
