"""Backs up Ray's saved state of a search, and repairs it.

Ray Tune writes the state of a search to ``experiment_state-{time}.json`` in the folder of the
search, and the state of its search algorithm beside it. A process that is killed while it writes
leaves a file that cannot be read. Therefore a copy of the last readable state is kept.
"""

import json
import logging
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

BACKUP = "state_backup"


def back_up_state(folder: Path) -> None:
    """Copy the state of a search to a subfolder, if it can be read.

    Parameters
    ----------
    folder
        The folder of Ray's files.
    """
    newest = _newest_state(folder)
    if newest is None or not _is_json(newest):
        return
    backup, partial = folder / BACKUP, folder / f"{BACKUP}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.suffix in (".json", ".pkl"):
            shutil.copy2(path, partial)
    shutil.rmtree(backup, ignore_errors=True)
    partial.rename(backup)


def repair_state(folder: Path) -> None:
    """Restore the backup if the newest state cannot be read, with a warning.

    Parameters
    ----------
    folder
        The folder of Ray's files.
    """
    newest, backup = _newest_state(folder), folder / BACKUP
    if newest is None or _is_json(newest) or not backup.is_dir():
        return
    log.warning("%s cannot be read: its backup is used.", newest)
    for path in backup.iterdir():
        shutil.copy2(path, folder)
    if not _is_json(newest):  # the backup is older, and has another name
        newest.rename(newest.with_suffix(".unreadable"))


def _newest_state(folder: Path) -> Path | None:
    """Return the newest file, which Ray would read. Each resumption begins a new file."""
    return max(folder.glob("experiment_state-*.json"), default=None)


def _is_json(path: Path) -> bool:
    """Return whether a file can be read as JSON."""
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True
