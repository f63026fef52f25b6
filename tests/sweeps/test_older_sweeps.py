"""A population of an older version, which was killed after two of three generations, is resumed.

``data/interrupted_sweep.tar.xz`` is its folder. :data:`SCORES` are the scores of the older version
without an interruption.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ray.tune.experiment import Trial

from lfads_torch.sweeps.compose import compose_sweep
from lfads_torch.sweeps.history import read_history
from lfads_torch.sweeps.options import SweepOptions
from lfads_torch.sweeps.ray_tune.recorder import trial_name
from tests.conftest import tiny_arrays, write_file

ROOT = Path(__file__).parents[2]
SCORES = {
    (0, 2): 1.3843753337860107,
    (0, 4): 1.298004150390625,
    (0, 6): 1.2296726703643799,
    (1, 2): 1.5824233293533325,
    (1, 4): 1.2889530658721924,
    (1, 6): 1.2306724786758423,
}
"""``valid/recon_smth`` by number of the trial and epoch."""


@pytest.fixture
def sweep(tmp_path):
    shutil.unpack_archive(Path(__file__).parent / "data" / "interrupted_sweep.tar.xz", tmp_path)
    return tmp_path / "sweep"


def test_its_configuration_is_read(sweep):
    """It has sweep.num_samples, the former name of sweep.num_trials."""
    options = SweepOptions.from_config(compose_sweep(sweep / "config.yaml"))
    assert (options.num_trials, options.boundaries(), len(options.space)) == (2, (2, 2), 7)
    again = compose_sweep(sweep / "config.yaml", ["sweep.num_samples=2", "sweep.max_failures=5"])
    assert SweepOptions.from_config(again).max_failures == 5


def test_the_state_of_its_search_is_read(sweep):
    """It refers to a function of the older version."""
    (path,) = (sweep / "trials").glob("experiment_state-*.json")
    states = json.loads(path.read_text())["trial_data"]
    trials = [Trial.from_json_state(state, stub=True) for state, _ in states]
    assert sorted(trial.trial_id[-1] for trial in trials) == ["0", "1"]
    assert {trial.trainable_name for trial in trials} == {"LFADSTrial"}
    assert {trial.trial_name_creator for trial in trials} == {trial_name}


@pytest.mark.slow
def test_it_is_resumed_and_finds_what_the_older_version_finds(sweep):
    data = write_file(sweep.parent / "tiny.h5", tiny_arrays())
    command = [sys.executable, ROOT / "scripts" / "run_pbt.py", "--resume", sweep]
    done = subprocess.run(
        [*map(str, command), f"datamodule.datafile_pattern={data}"], cwd=sweep.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = {(int(row["trial"][-1]), row["epoch"]): row["score"] for row in read_history(sweep)}
    assert found == pytest.approx(SCORES, rel=1e-5)
    assert json.loads((sweep / "summary.json").read_text())["best_trial"].endswith("0")
