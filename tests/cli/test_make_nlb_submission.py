"""The command writes a submission, prints its scores, and reports mistakes in one line."""

import runpy
import sys
from pathlib import Path

import pytest

from lfads_torch.analysis import nlb_submission
from lfads_torch.analysis.nlb_submission import score_nlb_submission
from lfads_torch.cli.make_nlb_submission import main
from tests.analysis.submissions import run_dir
from tests.datasets.nlb.benchmark import benchmark_arrays

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_nlb_submission.py"


@pytest.fixture
def validation(tmp_path):
    return run_dir(tmp_path, "mc_maze-20ms-val.h5", benchmark_arrays())


def test_the_script(validation, monkeypatch, capsys):
    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["make_nlb_submission.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return ended.value.code, capsys.readouterr()

    code, said = main(validation)
    assert code == 0
    lines = said.out.splitlines()
    assert lines[0] == str(validation / "nlb_submission_val.h5")
    scores = dict(line.split()[-2:] for line in lines[1:] if "co-bps" in line)
    expected = score_nlb_submission(lines[0], [validation / "lfads_output_sess0.h5"])
    assert float(scores["co-bps"]) == pytest.approx(
        expected[0]["mc_maze_20_split"]["co-bps"], abs=5e-5
    )
    code, said = main(validation / "nothing")
    assert code == 1
    assert said.err.startswith("\nMissingFileError: ")
    assert len(said.err.strip().splitlines()) == 1


def test_a_file_of_another_format_is_named(tmp_path, capsys):
    path = tmp_path / "rates.h5"
    path.write_bytes(b"not HDF5")
    assert main([str(tmp_path), "--rates", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"\nFileAccessError: {path} cannot be read as an HDF5 file")


def test_other_errors_keep_their_traceback(validation, monkeypatch):
    def fail(*_):
        raise ValueError("a mistake in this library")

    monkeypatch.setattr(nlb_submission, "make_nlb_submission", fail)
    with pytest.raises(ValueError, match="a mistake in this library"):
        main([str(validation)])
