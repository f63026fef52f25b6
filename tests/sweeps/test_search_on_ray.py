"""Sweeps that the scripts run on a real Ray cluster on this machine, with all kinds of failures."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lfads_torch.model import LFADS
from lfads_torch.sweeps.history import read_history, read_pbt_fitlog, read_pbt_hps
from tests.conftest import TINY_SIZES, tiny_arrays, write_file

ROOT = Path(__file__).parents[2]
POPULATION = [
    "model=generic", "datamodule=generic", *TINY_SIZES, "posterior_sampling.fn.num_samples=3",
    "sweep.num_trials=4", "sweep.scheduler.perturbation_interval=2",
    "sweep.scheduler.burn_in_period=3", "sweep.stopper.min_improvement_ratio=0",
    "trainer.max_epochs=9",
]  # fmt: skip
"""Four trials, with tournaments after 3, 5, 7 and 9 epochs."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("sweeps")
    write_file(home / "tiny.h5", tiny_arrays())
    return home


def command(script, *words):
    return [sys.executable, str(ROOT / "scripts" / script), *map(str, words)]


def environment():
    # Trials import tests.faults.
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(home, script, *words):
    data = () if "--resume" in words else ("datamodule.datafile_pattern=tiny.h5",)
    done = subprocess.run(
        command(script, *data, *words), cwd=home, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def history(run_dir):
    """Return the history by numbers of trials and epochs, without times."""

    def number(trial):
        return None if trial is None else int(trial.split("_")[-1])

    return {
        (number(row["trial"]), row["epoch"]): {
            **{key: row[key] for key in ("score", "config", "cloned_at", "history")},
            "cloned_from": number(row["cloned_from"]),
        }
        for row in read_history(run_dir)
    }


def best_weights(run_dir):
    path = next((run_dir / "best_model" / "lightning_checkpoints").glob("*.ckpt"))
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same_sweep(a, b):
    assert history(a) == history(b)
    first, second = best_weights(a), best_weights(b)
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.fixture(scope="module")
def population(home):
    """Run a search with a misconfigured logger, and return its folder and what it printed."""
    said = run(home, "run_pbt.py", *POPULATION, "logger=[wandb]", "run_dir=whole")
    return home / "whole", said


def test_a_population(population):
    run_dir, said = population
    found = history(run_dir)
    assert sorted(found) == [(trial, epoch) for trial in range(4) for epoch in (1, 3, 5, 7, 9)]
    hps = read_pbt_hps(run_dir)
    for at, of in ((5, 3), (7, 5), (9, 7)):
        generation = [found[trial, at] for trial in range(4)]
        losers = [row for row in generation if row["cloned_at"] == of]
        assert len(losers) == 2
        for row in losers:
            parent = found[row["cloned_from"], of]
            assert row["config"]["seed"] == parent["config"]["seed"]
            ratio = row["config"]["model.lr_init"] / parent["config"]["model.lr_init"]
            assert 0 < abs(ratio - 1) <= 0.3
    assert hps["epoch"].max() == 9
    fitlog = read_pbt_fitlog(run_dir)
    assert len(fitlog) == 4 * 9
    assert fitlog["valid/recon_smth"].notna().all()
    summary = json.loads((run_dir / "summary.json").read_text())
    last = {trial: found[trial, 9]["score"] for trial in range(4)}
    assert summary["best_score"] == min(last.values())
    assert int(summary["best_trial"].split("_")[-1]) == min(last, key=last.get)
    assert "generation 4, epoch 9" in said
    assert (run_dir / "plots" / "pbt_hps.png").is_file()


def test_the_best_model_has_its_own_run_folder(population):
    run_dir, _ = population
    best = run_dir / "best_model"
    model = LFADS.load_from_checkpoint(best / "lightning_checkpoints" / "last.ckpt")
    summary = json.loads((run_dir / "summary.json").read_text())
    for name in ("lr_init", "dropout_rate", "kl_ic_scale"):
        assert model.hparams[name] == summary["hyperparameters"][f"model.{name}"]
    with h5py.File(best / "lfads_output_sess0.h5") as file:
        assert file["valid_output_params"].shape == (6, 10, 5)
    assert len((best / "csv_logs" / "metrics.csv").read_text().splitlines()) == 1 + 9
    assert json.loads((best / "summary.json").read_text())["epochs"] == 9


def test_disk_use_is_bounded(population):
    run_dir, _ = population
    for trial in (run_dir / "trials").glob("trial_*"):
        assert len(list(trial.glob("checkpoint_*"))) <= 2
    assert not list(Path(tempfile.gettempdir()).glob(f"lfads_torch_{sweep_id(run_dir)}_*"))


def test_a_search_that_has_ended_does_not_change(population, home):
    run_dir, _ = population
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    assert "has ended" in run(home, "run_pbt.py", "--resume", run_dir)
    assert before == {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}


def sweep_id(run_dir):
    from omegaconf import OmegaConf

    return OmegaConf.load(run_dir / "config.yaml").sweep.id


def start_and_kill(home, script, words, run_dir, n_results, how=signal.SIGKILL):
    """Start a sweep, and kill its process as soon as it has ``n_results`` results."""
    process = subprocess.Popen(
        command(script, "datamodule.datafile_pattern=tiny.h5", *words, f"run_dir={run_dir}"),
        cwd=home, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        # Some shells start background processes with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 300
    try:
        while time.monotonic() < deadline and process.poll() is None:
            if len(read_history(home / run_dir)) >= n_results:
                break
            time.sleep(0.05)
    finally:
        os.kill(process.pid, how)
        status = process.wait()
    assert status == (130 if how == signal.SIGINT else -how)
    assert not (home / run_dir / "summary.json").exists(), "it ended before it could be killed"


@pytest.mark.slow
def test_the_driver_is_killed(population, home):
    start_and_kill(home, "run_pbt.py", POPULATION, "cut", n_results=10)
    lines = len((home / "cut" / "history.jsonl").read_text().splitlines())
    (home / "cut").rename(home / "moved")
    run(home, "run_pbt.py", "--resume", "moved")
    assert_same_sweep(population[0], home / "moved")
    # Only generations that the kill interrupted are trained again.
    again = len((home / "moved" / "history.jsonl").read_text().splitlines()) - 20
    assert again <= 2, f"{again} of {lines} results were repeated"


def fault(home, trial, epoch, how, name):
    marker = home / f"{name}.marker"
    options = (
        f"{{_target_:tests.faults.Fault,trial:{trial},epoch:{epoch},how:{how},marker:'{marker}'}}"
    )
    return [f"+callbacks.fault={options}", f"run_dir={name}"], marker


@pytest.mark.slow
def test_a_trial_is_killed(population, home):
    words, marker = fault(home, 1, 4, "kill", "killed")
    said = run(home, "run_pbt.py", *POPULATION, *words)
    assert marker.exists()
    assert "trial_00001 failed and continues" in said
    assert "no reason is known" not in said
    assert_same_sweep(population[0], home / "killed")


@pytest.mark.slow
def test_a_trial_diverges(home):
    words, marker = fault(home, 2, 4, "diverge", "diverged")
    said = run(home, "run_pbt.py", *POPULATION, *words)
    assert marker.exists()
    assert "trial_00002 diverged" in said
    found = history(home / "diverged")
    assert found[2, 5]["score"] == np.inf
    assert found[2, 7]["cloned_at"] == 5
    assert np.isfinite(found[2, 7]["score"])
    assert np.isfinite(found[2, 9]["score"])


@pytest.mark.slow
def test_a_trial_diverges_in_the_last_generation(home):
    """No tournament follows, and all other trials have ended."""
    words, marker = fault(home, 2, 8, "diverge", "diverged_last")
    run(home, "run_pbt.py", *POPULATION, *words)
    assert marker.exists()
    assert history(home / "diverged_last")[2, 9]["score"] == np.inf
    summary = json.loads((home / "diverged_last" / "summary.json").read_text())
    assert [trial[-1] for trial in summary["diverged"]] == ["2"]
    assert np.isfinite(summary["best_score"])


@pytest.mark.slow
def test_the_disk_of_a_trial_is_full(home):
    words, marker = fault(home, 0, 4, "disk", "disk")
    said = run(home, "run_pbt.py", *POPULATION, *words, "sweep.max_failures=1")
    assert marker.exists()
    assert "No space left" in said
    found = history(home / "disk")
    assert (0, 5) not in found
    assert all((trial, 9) in found for trial in (1, 2, 3))
    summary = json.loads((home / "disk" / "summary.json").read_text())
    assert len(summary["failed"]) == 1


RANDOM = [
    "model=generic", "datamodule=generic", *TINY_SIZES, "posterior_sampling.fn.num_samples=3",
    "sweep.num_trials=3", "sweep.report_every=2", "trainer.max_epochs=6",
    "callbacks.early_stopping.patience=100",
]  # fmt: skip


@pytest.mark.slow
def test_random_search_with_another_scheduler_and_storage_by_url(home):
    words = [
        *RANDOM, "sweep.scheduler={_target_:ray.tune.schedulers.ASHAScheduler,grace_period:2}",
        "+sweep.space.gen={key:model.gen_dim,choice:[5,7]}", f"sweep.storage=local://{home}/store",
    ]  # fmt: skip
    run(home, "run_multi.py", *words, "run_dir=random")
    found = history(home / "random")
    assert {trial for trial, _ in found} == {0, 1, 2}
    assert all(row["config"]["model.gen_dim"] in (5, 7) for row in found.values())
    assert not (home / "random" / "trials").exists()
    assert list((home / "store").glob("random_*/trial_0000*/checkpoint_*"))
    summary = json.loads((home / "random" / "summary.json").read_text())
    scores = {
        trial: min(
            metrics["valid/recon_smth"]
            for (number, _), row in found.items()
            for metrics in row["history"]
            if number == trial
        )
        for trial in range(3)
    }
    assert summary["best_score"] == min(scores.values())
    model = LFADS.load_from_checkpoint(
        next((home / "random" / "best_model" / "lightning_checkpoints").glob("best-epoch*.ckpt"))
    )
    assert model.hparams.gen_dim == summary["hyperparameters"]["model.gen_dim"]


@pytest.mark.slow
def test_a_random_search_whose_driver_is_killed(home):
    run(home, "run_multi.py", *RANDOM, "run_dir=random_whole")
    start_and_kill(home, "run_multi.py", RANDOM, "random_cut", 4)
    run(home, "run_multi.py", "--resume", "random_cut")
    assert_same_sweep(home / "random_whole", home / "random_cut")


@pytest.mark.slow
def test_mistakes_are_printed_in_one_line(home):
    words = [*RANDOM, "run_dir=wrong", "datamodule.datafile_pattern=tiny.h5"]
    for word, reason in (
        ("sweep.space.dropout_rate.key=model.dropout", "Did you mean model.dropout_rate"),
        ("sweep.cpus_without_gpu=1000", "Lower sweep.cpus_per_trial"),
        ("sweep.space.dropout_rate.min_samp=2", "sweep.space.dropout_rate"),
    ):
        done = subprocess.run(
            command("run_multi.py", *words, word), cwd=home, env=environment(),
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 1
        assert reason in done.stderr, done.stderr
