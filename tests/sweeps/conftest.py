"""Configurations and histories of small sweeps, and a search that only records its arguments."""

import functools

import pytest

from lfads_torch.sweeps import search
from lfads_torch.sweeps.compose import compose_sweep
from lfads_torch.sweeps.history import append_history
from lfads_torch.sweeps.options import SweepOptions
from tests.conftest import TINY_SIZES, tiny_arrays, write_file

PBT = "configs/pbt.yaml"
RANDOM = "configs/multi.yaml"
EVERY = 5
"""Epochs of a generation."""
GENERATIONS = [
    {"a": (4.0, 1e-3, None), "b": (3.0, 2e-3, None), "c": (5.0, 3e-2, None)},
    {"a": (2.5, 2.2e-3, "b"), "b": (2.9, 2e-3, None), "c": (float("inf"), 3e-2, None)},
    {"a": (2.0, 2.2e-3, None), "b": (2.1, 2.3e-3, "a"), "c": (1.5, 2.4e-3, "a")},
]
"""For each generation, by trial: score, learning rate, and the trial whose model it took over."""


@pytest.fixture
def data(tmp_path):
    return write_file(tmp_path / "tiny.h5", tiny_arrays())


def words(data, *more):
    return [
        "model=generic", "datamodule=generic", f"datamodule.datafile_pattern={data}", *TINY_SIZES,
        *more,
    ]  # fmt: skip


@functools.cache
def options(*overrides, config=PBT):
    return SweepOptions.from_config(compose_sweep(config, overrides))


class Started(Exception):
    """Raised when the search would begin."""


@pytest.fixture
def searched(monkeypatch):
    """Replace the search, and return the list of the arguments of its calls."""
    calls = []

    def record(run_dir, config, options, resume=False):
        calls.append((run_dir, config, options, resume))
        raise Started

    monkeypatch.setattr(search, "_search", record)
    return calls


def write_sweep(folder, generations=GENERATIONS):
    """Write the history of three trials. The best one is c, which followed a, which followed b."""
    since = {}
    for g, trials in enumerate(generations, 1):
        for trial, (score, lr, parent) in trials.items():
            if parent:
                since[trial] = {"cloned_from": parent, "cloned_at": (g - 1) * EVERY}
            row = {
                "trial": trial,
                "epoch": g * EVERY,
                "score": score,
                "config": {"seed": 3, "model.lr_init": lr, "model.dropout_rate": 0.1},
                **since.get(trial, {"cloned_from": None, "cloned_at": None}),
                "history": [
                    {"epoch": float(e), "valid/recon_smth": score + e, "train/loss": 10.0 * e}
                    for e in range((g - 1) * EVERY, g * EVERY)
                ],
            }
            append_history(folder, row)
    return folder
