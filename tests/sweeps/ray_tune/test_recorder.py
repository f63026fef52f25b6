"""The history is written, and the progress is printed, while Ray runs a search."""

import math
from types import SimpleNamespace

from pyarrow.fs import LocalFileSystem
from ray.tune.experiment import Trial

from lfads_torch.sweeps.history import read_history
from lfads_torch.sweeps.ray_tune.recorder import Recorder
from tests.sweeps.conftest import options
from tests.sweeps.ray_tune.simulated import make_trials


def record(recorder, trials, trial, epoch, score, **more):
    result = {"cur_epoch": epoch, "valid/recon_smth": score, "history": [{"epoch": 0.0}] * 25}
    recorder.on_trial_result(1, trials, trial, {**result, **more})


def test_every_result_is_written_and_every_generation_reported(tmp_path, capsys):
    trials = make_trials(3)
    trials[2].config |= {"cloned_from": "abc_00000", "cloned_at": 105}
    recorder = Recorder(options("sweep.num_trials=3"), tmp_path)
    for trial in trials:
        trial.status = Trial.RUNNING
    for i in (0, 1):
        record(recorder, trials, trials[i], 130, float(i + 1), train_seconds=2.0)
        assert capsys.readouterr().out == ""
    record(recorder, trials, trials[2], 130, math.inf, diverged="The loss is NaN.")
    text = capsys.readouterr().out
    assert "trial_00002 diverged: The loss is NaN." in text
    assert "generation 2, epoch 130; trials: 3 running" in text
    assert "best 1 (abc_00000), median 1.5" in text
    rows = read_history(tmp_path)
    assert [row["score"] for row in rows] == [1.0, 2.0, math.inf]
    assert rows[0]["config"] == trials[0].config
    assert (rows[0]["cloned_from"], rows[0]["train_seconds"]) == (None, 2.0)
    assert (rows[2]["cloned_from"], rows[2]["cloned_at"]) == ("abc_00000", 105)
    assert "cloned_from" not in rows[2]["config"]
    assert rows[2]["diverged"] == "The loss is NaN."
    assert len(rows[0]["history"]) == 25


def test_progress_does_not_wait_for_trials_that_have_ended(tmp_path, capsys):
    trials = make_trials(2)
    trials[0].status, trials[1].status = Trial.ERROR, Trial.RUNNING
    recorder = Recorder(options(), tmp_path)
    record(recorder, trials, trials[1], 130, 1.0)
    assert "1 error, 1 running" in capsys.readouterr().out


def test_progress_continues_after_an_interruption(tmp_path, capsys):
    trials = make_trials(2)
    for trial in trials:
        trial.status = Trial.RUNNING
    record(Recorder(options(), tmp_path), trials, trials[0], 130, 0.5)
    capsys.readouterr()
    record(Recorder(options(), tmp_path), trials, trials[1], 130, 1.0)
    assert "best 0.5 (abc_00000), median 0.75" in capsys.readouterr().out
    assert len(read_history(tmp_path)) == 2


def test_checkpoints_deleted_after_the_state_was_saved_are_forgotten(tmp_path):
    (tmp_path / "there").mkdir()
    results = [
        SimpleNamespace(checkpoint=SimpleNamespace(path=str(tmp_path / name)))
        for name in ("gone", "there")
    ]
    manager = SimpleNamespace(_checkpoint_results=results)
    trial = SimpleNamespace(
        run_metadata=SimpleNamespace(checkpoint_manager=manager),
        storage=SimpleNamespace(storage_filesystem=LocalFileSystem()),
    )
    Recorder(None, tmp_path).on_trial_start(0, [trial], trial)
    assert manager._checkpoint_results == results[1:]
