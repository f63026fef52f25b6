"""Training finds what there is to find, in synthetic and in real data."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORDING = ROOT.parent / "shared" / "data" / "m1_isometric_day0-50ms.h5"

pytestmark = pytest.mark.slow


def scores(run_dir, *words):
    subprocess.run(
        [sys.executable, ROOT / "scripts" / "run_single.py", *words, f"run_dir={run_dir}",
         "callbacks=[checkpoint]", "+trainer.enable_progress_bar=false"],
        check=True,
    )  # fmt: skip
    return json.loads((run_dir / "summary.json").read_text())["scores"][0]


def test_lorenz_rates_far_better_than_smoothing(tmp_path):
    found = scores(tmp_path / "run", "trainer.max_epochs=60")
    assert found["r2"] > 0.8
    assert found["r2"] > found["smoothing_r2"] + 0.5


@pytest.mark.skipif(not RECORDING.exists(), reason="the recording is not there")
def test_held_out_neurons_of_motor_cortex(tmp_path):
    found = scores(
        tmp_path / "run", "model=generic", "datamodule=generic",
        f"datamodule.datafile_pattern={RECORDING}", "trainer.max_epochs=60",
    )  # fmt: skip
    assert found["bps"] > 0
    assert found["co_bps"] > 0.05
