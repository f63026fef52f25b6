"""Errors that are the user's to mend, and the hint that an unknown name deserves.

Commands print a :class:`UserError` in one line. Any other exception is a fault of this library and
keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave: names the key or file, what was expected and found."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named does not exist."""


class ExistingFileError(UserError, FileExistsError):
    """A file or folder that would be overwritten exists."""


class FileAccessError(UserError, OSError):
    """A file cannot be read, written or downloaded."""


class MissingPackageError(UserError, ImportError):
    """An optional package that is needed is not installed."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a sentence that suggests the nearest of several names, or an empty string.

    The sentence starts with a space, so that it can be appended to a message.
    """
    nearest = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {nearest[0]}?" if nearest else ""
