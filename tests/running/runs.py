"""Runs of the real script, and how they are compared."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from tests.conftest import TINY_SIZES

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


def start_and_kill(args, cwd, run_dir, n_epochs):
    """Start a run, and kill it with kill -9 once ``n_epochs`` epochs have been logged."""
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
