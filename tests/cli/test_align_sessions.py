"""The command prints how well sessions align, and the command that trains on them."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from lfads_torch.cli.align_sessions import main
from lfads_torch.data.alignment.regression import align
from lfads_torch.data.alignment.responses import condition_psths
from lfads_torch.running.compose import compose
from tests.data.alignment.sessions import stamps, write_sessions

SCRIPT = Path(__file__).parents[2] / "scripts" / "align_sessions.py"


def run(*args, cwd):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, args)], cwd=cwd, capture_output=True, text=True
    )


def test_command(tmp_path):
    write_sessions(tmp_path)
    done = run("sess*.h5", "--n-components", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0][:5] == ["session", "channels", "trials", "conditions", "R2"]
    assert rows[1][:4] == ["sess0.h5", "7", "20", "4"]
    assert rows[2][:4] == ["sess1.h5", "10", "20", "4"]
    psths = [condition_psths(tmp_path / f"sess{i}.h5").rates for i in (0, 1)]
    for row, right in zip(rows[1:3], align(psths, 3), strict=True):
        assert row[4:] == [f"{right.score:.3f}", f"{right.explained_variance:.3f}"]
    with h5py.File(tmp_path / "sess1.h5") as file:
        assert file["readin_weight"].attrs["smoothing_width"] == 2.0
        assert file["readin_weight"].attrs["ridge_alpha"] == 1.0

    command = done.stdout.split("scripts/run_single.py")[1]
    words = shlex.split(command.replace("\\\n", " "))
    assert "model=multisession" in words
    assert "model.fac_dim=3" in words
    config = compose(overrides=[word.replace("sess*", f"{tmp_path}/sess*") for word in words])
    assert config.datamodule.datafile_pattern == f"{tmp_path}/sess*.h5"
    assert config.model.encod_data_dim == 3

    before = stamps(tmp_path)
    again = run("sess*.h5", "--n-components", 2, cwd=tmp_path)
    assert again.returncode == 1
    assert re.search(r"^UserError: sess0\.h5 has .* --overwrite\)", again.stderr, re.MULTILINE)
    assert "Traceback" not in again.stderr
    assert stamps(tmp_path) == before


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run the command within this process, which takes less time: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["align_sessions.py", *map(str, args)])
        return main(), *capsys.readouterr()

    return call


def test_command_with_every_option(tmp_path, call):
    paths = write_sessions(tmp_path)
    (tmp_path / "unrelated.h5").write_bytes(paths[0].read_bytes())
    options = ("--n-components", 2, "--smoothing-width", 1, "--ridge-alpha", 0.5,
               "--output-dir", "out", "--overwrite")  # fmt: skip
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sess0.h5").write_bytes(b"earlier")
    code, out, _ = call("sess0.h5", "sess1.h5", *options)
    assert code == 0
    assert re.search(r"^out/sess1\.h5 +10 +20 +4 ", out, re.MULTILINE)
    # The pattern to train on matches what was aligned.
    assert 'datafile_pattern="out/*.h5"' in out
    with h5py.File(tmp_path / "out" / "sess0.h5") as file:
        attributes = dict(file["readout_bias"].attrs)
        attributes.pop("sessions")
    assert attributes == {"n_components": 2, "smoothing_width": 1.0, "ridge_alpha": 0.5}
    with h5py.File(paths[0]) as file:
        assert "readin_weight" not in file


def test_command_names_no_pattern_that_matches_other_files(tmp_path, call):
    paths = write_sessions(tmp_path)
    (tmp_path / "sess2.h5").write_bytes(paths[0].read_bytes())
    code, out, _ = call("sess0.h5", "sess1.h5", "--n-components", 2)
    assert code == 0
    assert "datafile_pattern=PATTERN" in out
    for path, folder in zip(paths, ("a", "b"), strict=True):
        (tmp_path / folder).mkdir()
        path.rename(tmp_path / folder / path.name)
    words = ("b/sess1.h5", "a/sess0.h5", "--n-components", 2, "--overwrite")
    code, out, _ = call(*words)
    assert code == 0
    assert "datafile_pattern=PATTERN" in out


def test_command_reports_a_missing_file(call):
    code, out, err = call("none.h5", "--n-components", 2)
    assert (code, out) == (1, "")
    assert err.startswith("\nMissingFileError: ")
