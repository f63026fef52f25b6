"""Commands print a user's error in one line; other exceptions keep their traceback."""

import subprocess
import sys

import pytest

from lfads_torch.cli.command import reporting_user_errors
from lfads_torch.errors import MissingFileError, UserError


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("window = 0"), 1, "\nUserError: window = 0\n"),
        (MissingFileError("There is no a.h5"), 1, "\nMissingFileError: There is no a.h5\n"),
        (KeyboardInterrupt(), 130, "\nInterrupted.\n"),
        (KeyboardInterrupt("Stopped after epoch 3."), 130, "\nStopped after epoch 3.\n"),
    ],
)
def test_users_errors_are_printed_in_one_line(capsys, error, status, line):
    with reporting_user_errors() as outcome:
        raise error
    assert outcome.status == status
    assert capsys.readouterr() == ("", line)


def test_success(capsys):
    with reporting_user_errors() as outcome:
        pass
    assert outcome.status == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), ImportError("x"), SystemExit(2)])
def test_other_exceptions_keep_their_traceback(capsys, error):
    with pytest.raises(type(error)), reporting_user_errors():
        raise error
    assert capsys.readouterr() == ("", "")


def test_nothing_heavy_is_imported():
    code = (
        "import sys, lfads_torch.cli.command\n"
        "print({'torch', 'numpy', 'h5py', 'hydra'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
