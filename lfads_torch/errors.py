"""Errors that the user can correct, and a suggestion for a name that is unknown.

Commands print a :class:`UserError` in one line. Any other exception is a fault of this library, or
of the system, and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user gave is wrong.

    The message names the argument, key or file, what was expected, what was found, and the remedy.
    """


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named does not exist."""


class ExistingFileError(UserError, FileExistsError):
    """A file or folder that would be overwritten exists."""


class FileAccessError(UserError, OSError):
    """A file cannot be read, written or downloaded."""


class UnavailableBackendError(UserError, RuntimeError):
    """An implementation of the recurrences that was chosen by its name cannot run here."""


class MissingPackageError(UserError, ImportError):
    """An optional package that is needed is not installed."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a sentence that suggests the nearest of several names to a mistyped one.

    The sentence starts with a space, so that it can be appended to a message. If no name is near,
    it is empty.
    """
    nearest = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {nearest[0]}?" if nearest else ""
