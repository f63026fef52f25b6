"""Training reaches good scores on synthetic and on real data."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import h5py
import numpy as np
import pytest

from benchmarks import continuous

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
RECORDING = DATA / "m1_isometric_day0-50ms.h5"
CONTINUOUS = DATA / "m1_isometric_day0.mat"

pytestmark = pytest.mark.slow


def scores(run_dir, *words):
    """Train, and return the validation scores of each session."""
    subprocess.run(
        [sys.executable, ROOT / "scripts" / "run_single.py", *words, f"run_dir={run_dir}",
         "callbacks=[checkpoint]", "+trainer.enable_progress_bar=false"],
        check=True,
    )  # fmt: skip
    return json.loads((run_dir / "summary.json").read_text())["scores"]


def test_lorenz_rates_far_better_than_smoothing(tmp_path):
    (found,) = scores(tmp_path / "run", "trainer.max_epochs=60")
    assert found["r2"] > 0.8
    assert found["r2"] > found["smoothing_r2"] + 0.5


@pytest.mark.skipif(not RECORDING.exists(), reason="the recording is not there")
def test_held_out_neurons_of_motor_cortex(tmp_path):
    (found,) = scores(
        tmp_path / "run", "model=generic", "datamodule=generic",
        f"datamodule.datafile_pattern={RECORDING}", "trainer.max_epochs=60",
    )  # fmt: skip
    assert found["bps"] > 0
    assert found["co_bps"] > 0.05


@pytest.mark.skipif(not RECORDING.exists(), reason="the recording is not there")
def test_two_halves_of_motor_cortex_as_sessions(tmp_path):
    """The neurons of the same trials are divided between two files."""
    with h5py.File(RECORDING) as recording:
        for name, channels in (("a", slice(0, 40)), ("b", slice(40, 96))):
            with h5py.File(tmp_path / f"{name}.h5", "w") as file:
                for split in ("train", "valid"):
                    counts = recording[f"{split}_recon_data"][:, :, channels]
                    file[f"{split}_recon_data"] = counts
                    file[f"{split}_encod_data"] = counts[:, :34]
                    file[f"{split}_cond_idx"] = recording[f"{split}_cond_idx"][()]
    subprocess.run(
        [sys.executable, ROOT / "scripts" / "align_sessions.py", tmp_path / "?.h5",
         "--n-components", "8"],
        check=True,
    )  # fmt: skip
    found = scores(
        tmp_path / "run", "model=multisession", "datamodule=generic",
        f"datamodule.datafile_pattern={tmp_path / '?.h5'}", "model.fac_dim=8",
        "model.kl_ic_scale=1e-5", "model.kl_co_scale=1e-5", "model.dropout_rate=0.2",
        "trainer.max_epochs=25",
    )  # fmt: skip
    assert len(found) == 2
    assert all(session["bps"] > 0.02 for session in found)


@pytest.mark.skipif(not CONTINUOUS.exists(), reason="the recording is not there")
def test_motor_cortex_as_one_continuous_recording(tmp_path, monkeypatch):
    """After short training, rates have no seams, and the hand's movement is decoded from them."""
    args = Namespace(
        output=tmp_path, window=40, overlap=10, epochs=40,
        overrides=["posterior_sampling.fn.num_samples=10"],
    )  # fmt: skip
    run_dir = continuous.train(CONTINUOUS, 0, args)
    recording = continuous.read(CONTINUOUS, run_dir)
    assert recording.rates.shape == (24_000, 96)
    assert not np.isnan(recording.rates).any()
    assert not (recording.train & recording.valid).any()
    assert (recording.train | recording.valid).all()
    merged, end_to_end = continuous.seams(run_dir)
    assert merged < 1.1 < 1.2 < end_to_end
    assert json.loads((run_dir / "summary.json").read_text())["scores"][0]["bps"] > 0.05
    monkeypatch.setattr(continuous, "LAGS", (4,))
    assert continuous.decode("merged LFADS rates", recording).r2 > 0.5
