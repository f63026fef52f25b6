"""The command writes the data of its generators, and replaces files only on request."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from lfads_torch.cli.simulate import GENERATORS, main
from lfads_torch.datasets.chaotic_rnn import chaotic_rnn
from lfads_torch.datasets.multisession import multisession_chaotic_rnn
from tests.datasets.synthetic import SESSIONS, SMALL, both, digest, same

ROOT = Path(__file__).parents[2]


def run(*arguments, cwd=ROOT, **environment):
    """Run Python in a new process that finds this checkout from any folder."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_import_does_nothing_and_needs_little(tmp_path):
    done = run(
        "-c",
        "import sys, lfads_torch.cli.simulate; "
        "print({'torch', 'scipy', 'matplotlib', 'hydra'} & set(sys.modules))",
        cwd=tmp_path,
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")
    assert os.listdir(tmp_path) == []


def test_command_writes_what_it_prints(tmp_path):
    arguments = ["-m", "lfads_torch.synthetic", "chaotic_rnn", "--gain", "1.5", "--pulse"]
    arguments += ["--n-conditions", "4", "--n-trials", "5", "--n-bins", "12", "--n-neurons", "6"]
    arguments += ["--seed", "9", "--heldout-neurons", "1"]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "datasets" / "chaotic_rnn.h5"
    with h5py.File(path) as file:
        made = chaotic_rnn(seed=9, gain=1.5, pulse=True, heldout_neurons=1, **SMALL)
        assert same({key: np.asarray(file[key][()]) for key in file}, made)
        assert file.attrs["generator"] == "chaotic_rnn"
        assert file.attrs["gain"] == 1.5
        assert file.attrs["pulse"]
        assert file.attrs["bin_width"] == 0.01
    mean = both(made, "truth").mean()
    assert done.stdout.startswith(f"Wrote {Path('datasets', 'chaotic_rnn.h5')} (0.0")
    assert re.search(r"train_encod_data +uint8 +\(16, 12, 5\)", done.stdout)
    assert f"mean rate {mean:.1f} Hz" in done.stdout

    before = digest(path)
    again = run(*arguments, cwd=tmp_path)
    assert again.returncode == 1
    assert "--overwrite" in again.stderr
    assert digest(path) == before


def test_command_writes_every_session(tmp_path):
    arguments = ["-m", "lfads_torch.synthetic", "multisession", "--seed", "9"]
    for key, value in SESSIONS.items():
        arguments += [f"--{key.replace('_', '-')}", str(value)]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = Path("datasets", "multisession")
    for session, made in enumerate(multisession_chaotic_rnn(seed=9, **SESSIONS)):
        with h5py.File(tmp_path / folder / f"sess{session}.h5") as file:
            assert same({key: np.asarray(file[key][()]) for key in file}, made)
            assert file.attrs["generator"] == "multisession"
            assert file.attrs["session"] == session
            assert file.attrs["n_sessions"] == 3
            assert file.attrs["bin_width"] == 0.02
        assert f"Wrote {folder / f'sess{session}.h5'} (0.0" in done.stdout

    before = [digest(path) for path in sorted((tmp_path / folder).glob("*"))]
    again = run(*arguments, cwd=tmp_path)
    assert again.returncode == 1
    assert "--overwrite" in again.stderr
    fewer = run(*arguments, "--n-sessions", "2", "--overwrite", cwd=tmp_path)
    assert fewer.returncode == 1
    assert "holds sess2.h5 besides" in fewer.stderr
    assert [digest(path) for path in sorted((tmp_path / folder).glob("*"))] == before


@pytest.mark.parametrize("name", ["lorenz", "chaotic_rnn", "multisession"])
def test_every_parameter_is_an_option_with_help(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = capsys.readouterr().out
    for key in inspect.signature(GENERATORS[name]).parameters:
        assert f"--{key.replace('_', '-')}" in shown


def test_command_reports_a_bad_argument_without_a_traceback(tmp_path, capsys):
    assert main(["lorenz", "--n-trials", "1", "--output", str(tmp_path / "data.h5")]) == 1
    error = "\nUserError: `n_trials` must be an integer of at least 2; got 1.\n"
    assert capsys.readouterr() == ("", error)
    assert os.listdir(tmp_path) == []
