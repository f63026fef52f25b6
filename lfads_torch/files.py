"""Writes files so that they are never incomplete and never replaced without notice."""

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lfads_torch.errors import FileAccessError


@contextmanager
def written_atomically(path: str | Path, keep_old: bool = False) -> Iterator[Path]:
    """Yield the path of a temporary file, which becomes ``path`` when it is complete.

    When the block ends, the content of the temporary file is flushed to the disk and the file
    takes the place of ``path`` in one step. So no reader ever sees an incomplete file, and no
    interruption ever leaves one. If the block raises an error, the temporary file is removed and
    ``path`` does not change.

    The temporary file lies in the folder of ``path``, which is made if it is missing. It is hidden
    (its name starts with a dot) and has the suffix of ``path``, so that writers that choose a
    format by the suffix work. If the process is killed, only this hidden file may remain.

    Parameters
    ----------
    path
        The file to write. An existing file is replaced by one with its permissions; if ``path`` is
        a symbolic link, the file that it leads to is replaced and the link stays.
    keep_old
        Rename an existing file with :func:`move_aside` rather than replace it.

    Raises
    ------
    FileAccessError
        If the folder cannot be made or written to, or ``path`` is a folder.
    """
    with all_written_atomically([path], keep_old) as (temporary,):
        yield temporary


@contextmanager
def all_written_atomically(
    paths: Sequence[str | Path], keep_old: bool = False
) -> Iterator[list[Path]]:
    """Do what :func:`written_atomically` does for several files that belong together.

    No file is replaced before all of them are complete and on the disk.
    """
    finals = [Path(path if keep_old else os.path.realpath(path)) for path in paths]
    for final in finals:
        _prepare_folder(final)
    temporaries = [_temporary(final) for final in finals]
    try:
        yield temporaries
        for final, temporary in zip(finals, temporaries, strict=True):
            if final.exists():
                shutil.copymode(final, temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        for final, temporary in zip(finals, temporaries, strict=True):
            if keep_old:
                move_aside(final)
            os.replace(temporary, final)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def _prepare_folder(path: Path) -> None:
    """Make the folder of a file, and refuse one that cannot be written to."""
    if path.is_dir():
        raise FileAccessError(f"{path} is a folder: a file cannot be written in its place.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileAccessError(f"The folder of {path} cannot be made: {error}") from error
    if not os.access(path.parent, os.W_OK):
        raise FileAccessError(f"{path} cannot be written: its folder is write-protected.")


def _temporary(path: Path) -> Path:
    """Return an unused path in the folder of ``path``, so that several processes can write."""
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")


def move_aside(path: str | Path) -> Path | None:
    """Rename an existing file or folder to ``name.1``, or to the first such name that is free.

    A new file can then take its name without replacing the old one. The number goes before the
    suffix of a file (``metrics.1.csv``).

    Returns
    -------
    Path or None
        The new path of what was renamed, or None if there was nothing to rename.
    """
    path = Path(path)
    if not path.exists():
        return None
    stem, suffix = (path.name, "") if path.is_dir() else (path.stem, path.suffix)
    number = 1
    while (renamed := path.with_name(f"{stem}.{number}{suffix}")).exists():
        number += 1
    path.rename(renamed)
    return renamed
