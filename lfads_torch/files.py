"""Files that are never half-written and never silently replaced."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_atomically(path: str | Path) -> Iterator[Path]:
    """Give the path of a temporary file to write, which becomes ``path`` when all is written.

    The temporary file lies beside ``path`` and has its suffix. When the block ends, its content is
    flushed to the disk and it takes the place of ``path`` in one step, so that no reader and no
    interruption ever meets half a file. If the block raises, the temporary file is removed and
    ``path`` stays as it was. The folder of ``path`` must exist.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def move_aside(path: str | Path) -> Path | None:
    """Rename an existing file or folder to ``name.1``, or the first such name that is free.

    So a new file can take its name and the old one is kept. The number goes before the suffix of
    a file (``metrics.1.csv``). Returns the new path, or None where there was nothing to rename.
    """
    path = Path(path)
    if not path.exists():
        return None
    stem, suffix = (path.name, "") if path.is_dir() else (path.stem, path.suffix)
    number = 1
    while (aside := path.with_name(f"{stem}.{number}{suffix}")).exists():
        number += 1
    path.rename(aside)
    return aside
