"""Training finds what there is to find, in synthetic and in real data."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

ROOT = Path(__file__).parents[1]
RECORDING = ROOT.parent / "shared" / "data" / "m1_isometric_day0-50ms.h5"

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
    """Different neurons of the same trials, dealt out to two files."""
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
