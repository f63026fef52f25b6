"""Users' errors can be distinguished from all others, and unknown names get a suggestion."""

import pytest

from lfads_torch import errors
from lfads_torch.errors import UserError, did_you_mean


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("MissingFileError", FileNotFoundError),
        ("ExistingFileError", FileExistsError),
        ("FileAccessError", OSError),
        ("MissingPackageError", ImportError),
    ],
)
def test_users_errors_are_also_those_of_python(name, base):
    error = getattr(errors, name)("message")
    assert isinstance(error, UserError)
    assert isinstance(error, ValueError)
    assert isinstance(error, base)
    assert str(error) == "message"


def test_did_you_mean():
    names = ["mc_maze", "mc_rtt", "area2_bump"]
    assert did_you_mean("mc_mase", names) == " Did you mean mc_maze?"
    assert did_you_mean("mc_mase", iter(names)) == " Did you mean mc_maze?"
    assert did_you_mean("lorenz", names) == ""
    assert did_you_mean("lorenz", []) == ""
