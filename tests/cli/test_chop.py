"""The commands chop and merge lead from a recording to its rates."""

import json
import runpy
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from lfads_torch.data.windows.merge import continuous_path
from lfads_torch.running.inference import infer
from lfads_torch.running.new_session import save_model
from lfads_torch.running.start import start_run
from tests.conftest import TINY_SIZES, tiny_model, write_file
from tests.data.windows.recording import counts

SCRIPTS = Path(__file__).parents[2] / "scripts"

pytestmark = pytest.mark.filterwarnings("ignore:.*covered by no window.*")


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run a script as on the command line: return its exit status and what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(script, *words):
        monkeypatch.setattr(sys, "argv", [script, *words])
        main = runpy.run_path(str(SCRIPTS / script))["main"]
        try:
            status = main()
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


def test_from_a_recording_to_rates(tmp_path, command):
    """Chop, train, and infer another recording."""
    np.savez(tmp_path / "recording.npz", spikes=counts(), force=np.arange(100.0))
    status, out, _ = command(
        "chop.py", "recording.npz", "--window", "8", "--overlap", "3", "--block", "20",
        "--array", "behavior=force", "--output", "data.h5",
    )  # fmt: skip
    assert status == 0
    assert "100 bins in 1 segment(s):" in out
    assert "datamodule.datafile_pattern=data.h5" in out
    run_dir = start_run(
        ["model=generic", "datamodule=generic", "datamodule.datafile_pattern=data.h5",
         *TINY_SIZES, "posterior_sampling.fn.num_samples=2", "trainer.max_epochs=2",
         "callbacks=[checkpoint]", "logger=[csv]", "+trainer.enable_progress_bar=false"],
        run_dir=tmp_path / "run",
    )  # fmt: skip
    with h5py.File(run_dir / "lfads_output_sess0_continuous.h5") as file:
        assert file["output_params"].shape == (100, 5)
        assert not np.isnan(file["output_params"][()]).any()
    assert "bps" in json.loads((run_dir / "summary.json").read_text())["scores"][0]

    trials = np.repeat([0.0, np.nan, 1.0], [40, 20, 40])
    np.savez(tmp_path / "new.npz", counts=counts(), trials=trials)
    status, out, err = command(
        "chop.py", "new.npz", "--spikes", "counts", "--trial-ids", "trials", "--window", "8",
        "--overlap", "3", "--output", "new.h5", "--to-infer",
    )  # fmt: skip
    assert status == 0
    assert "Warning: 20 of 100 bins (20.0%) are covered by no window" in err
    assert "scripts/infer.py RUN_DIR --data new.h5" in out
    with pytest.warns(UserWarning, match=r"new_sess0_continuous\.h5: 20 of 100 bins"):
        status, out, _ = command("infer.py", "run", "--data", "new.h5", "--num-samples", "2")
    assert status == 0
    assert out.split() == ["run/inferred/new_sess0.h5", "run/inferred/new_sess0_continuous.h5"]
    with h5py.File("run/inferred/new_sess0_continuous.h5") as file:
        known = ~np.isnan(file["output_params"][()]).any(axis=1)
        np.testing.assert_array_equal(known, ~np.isnan(trials))
        assert "train_mask" not in file

    words = ("run/inferred/new_sess0.h5", "--fields", "factors", "--output", "f.h5")
    assert command("merge.py", *words)[:2] == (0, "f.h5\n")
    with h5py.File("f.h5") as file:
        assert file["factors"].shape == (100, 3)


def test_users_errors_are_one_line(tmp_path, command):
    np.savez(tmp_path / "new.npz", counts=counts())
    how = ("--window", "8", "--overlap", "3", "--output", "x.h5")
    for words, message in [
        (("merge.py", "gone.h5"), "MissingFileError: There is no file gone.h5"),
        (("chop.py", "new.npz", *how), "UserError: new.npz has no array 'spikes'"),
        (("chop.py", "new.npz", *how, "--array", "force"), "--array takes NAME=KEY"),
    ]:
        status, _, err = command(*words)
        assert status
        assert message in err


def test_infer_without_windows_merges_nothing(tmp_path):
    """Nothing is merged for trials that scripts/chop.py did not cut."""
    model = tiny_model(recon_seq_len=8)
    save_model(model, tmp_path / "run" / "lightning_checkpoints" / "last.ckpt")
    (tmp_path / "run" / "config.yaml").write_text(
        "datamodule: {}\nposterior_sampling: {}\nseed: 0\n"
    )
    data = write_file(tmp_path / "trials.h5", {"test_encod_data": counts(16, 4).reshape(2, 8, 4)})
    path = infer(tmp_path / "run", data, num_samples=1)
    assert path.exists()
    assert not continuous_path(path).exists()
