"""Copies of the files in tests/legacy/data, and the scripts that are run on them."""

import contextlib
import csv
import io
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).resolve().parent / "data"
TEXTS = (".yaml", ".json", ".jsonl")

FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}
"""Tolerance within which two processors agree in weights, and in outputs for given inputs."""
TRAINED = {"rtol": 1e-4, "atol": 1e-5}
"""Tolerance for scores and samples after training, which amplifies differences."""


def copy_of(*names, to):
    """Copy files and folders, so that those of the repository do not change.

    The word FOLDER in configurations, which stands for the original folder, is replaced by ``to``.
    """
    for name in names:
        source, target = DATA / name, to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
        for path in target.rglob("*") if target.is_dir() else [target]:
            if path.suffix in TEXTS and "trials" not in path.relative_to(to).parts:
                path.write_text(path.read_text().replace("FOLDER", str(to)))
    return to


def script(name, *words, cwd, status=0):
    """Run a script of this checkout in a folder, as a new process; return its output."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, words)], cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == status, done.stdout
    return done.stdout


def script_here(name, *words, cwd, status=0):
    """Do the same in this process, which saves the seconds that the imports take."""
    path = ROOT / "scripts" / f"{name}.py"
    printed = io.StringIO()
    before = sys.argv, Path.cwd()
    sys.argv = [str(path), *map(str, words)]
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        ended = end.code
    else:
        ended = 0
    finally:
        sys.argv = before[0]
        os.chdir(before[1])
    assert ended == status, printed.getvalue()
    return printed.getvalue()


def last_checkpoint(run_dir):
    """Return the checkpoint of the last epoch."""
    folder = run_dir / "lightning_checkpoints"
    return max(folder.glob("*.ckpt"), key=lambda path: torch.load(path, weights_only=True)["epoch"])


def metrics(path):
    """Return the numbers of a log by epoch, step and name."""
    with Path(path).open(newline="") as file:
        return {
            (row["epoch"], row["step"], name): float(value)
            for row in csv.DictReader(file)
            for name, value in row.items()
            if value and name not in ("epoch", "step")
        }


def assert_same_metrics(path, expected, **tolerance):
    found, wanted = metrics(path), metrics(expected)
    assert found.keys() >= wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, **tolerance, err_msg=str(key))


def assert_same_weights(checkpoint, expected):
    content = torch.load(checkpoint, weights_only=True)
    weights = dict(np.load(expected))
    smoothed = weights.pop("smoothed")
    assert content["state_dict"].keys() == weights.keys()
    for key, value in weights.items():
        np.testing.assert_allclose(content["state_dict"][key], value, **FLOAT32, err_msg=key)
    np.testing.assert_allclose(content["valid_recon_smth"]["smoothed"], smoothed, **FLOAT32)


def assert_same_arrays(path, expected, **tolerance):
    """Compare HDF5 files: the names, shapes and values of all arrays, and the attributes."""
    with h5py.File(path) as found, h5py.File(expected) as wanted:
        assert found.keys() >= wanted.keys()
        assert found.attrs.keys() >= wanted.attrs.keys()
        for key, array in wanted.items():
            np.testing.assert_allclose(found[key][()], array[()], **tolerance, err_msg=key)
