"""Files are written completely or not at all, and are replaced only on request."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from lfads_torch.errors import UserError
from lfads_torch.files import all_written_atomically, move_aside, written_atomically


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


# ------------------------------------------------------------------ written_atomically


def test_the_file_appears_at_the_end(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    with written_atomically(path) as temporary:
        temporary.write_text("all")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".json"
    assert contents(path.parent) == {"a.json": "all"}


def test_an_existing_file_stays_until_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with written_atomically(str(path)) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert contents(tmp_path) == {"a.txt": "new"}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), ValueError()])
@pytest.mark.parametrize("written", [False, True])
def test_nothing_changes_after_a_failure(tmp_path, error, written):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(temporary):
        if written:
            temporary.write_text("half")
        raise error

    with pytest.raises(type(error)), written_atomically(path) as temporary:
        write(temporary)
    assert contents(tmp_path) == {"a.txt": "old"}


def test_nothing_changes_after_a_kill(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import os, signal, sys\n"
        "from lfads_torch.files import written_atomically\n"
        "with written_atomically(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)])
    assert done.returncode == -signal.SIGKILL
    left = contents(tmp_path)
    assert left.pop("a.txt") == "old"
    assert all(name.startswith(".") for name in left)


def test_the_disk_is_waited_for_before_anything_is_replaced(tmp_path, monkeypatch):
    """If there are several files, all are on the disk before the first takes its place."""
    calls = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, f=function, n=name: calls.append(n) or f(*args))
    with all_written_atomically([tmp_path / "a", tmp_path / "b"]) as temporaries:
        for temporary in temporaries:
            temporary.write_text(temporary.name)
    assert calls == ["fsync", "fsync", "replace", "replace"]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_no_file_changes_if_one_of_several_fails(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")

    def write(first, _):
        first.write_text("new")
        raise OSError("disk full")

    with (
        pytest.raises(OSError, match="full"),
        all_written_atomically([tmp_path / "a", tmp_path / "b"]) as temporaries,
    ):
        write(*temporaries)
    assert contents(tmp_path) == {"a": "old", "b": "old"}


def test_permissions(tmp_path):
    """A file keeps the permissions of the one that it replaces; a new file has the usual ones."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    mask = os.umask(0o027)
    try:
        for name in ("a.txt", "b.txt"):
            with written_atomically(tmp_path / name) as temporary:
                temporary.write_text("new")
    finally:
        os.umask(mask)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "b.txt")] == [
        0o640, 0o640,
    ]  # fmt: skip
    path.chmod(0o600)
    with written_atomically(path) as temporary:
        temporary.write_text("newer")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_symbolic_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "a.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    with written_atomically(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert contents(tmp_path / "real") == {"a.txt": "new"}


def test_several_writers_at_once(tmp_path):
    path = tmp_path / "a.txt"
    with written_atomically(path) as first, written_atomically(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert contents(tmp_path) == {"a.txt": "first"}


def test_an_old_file_can_be_kept(tmp_path):
    for text in ("old", "newer", "newest"):
        with written_atomically(tmp_path / "a.h5", keep_old=True) as temporary:
            temporary.write_text(text)
    assert contents(tmp_path) == {"a.1.h5": "old", "a.2.h5": "newer", "a.h5": "newest"}

    link = tmp_path / "link.h5"
    link.symlink_to(tmp_path / "a.h5")
    with written_atomically(link, keep_old=True) as temporary:
        temporary.write_text("instead of the link")
    assert (tmp_path / "link.1.h5").is_symlink()
    assert (tmp_path / "a.h5").read_text() == "newest"
    assert not link.is_symlink()
    assert link.read_text() == "instead of the link"


def test_places_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    for path, message in [
        (tmp_path / "folder", "folder is a folder"),
        (tmp_path / "file" / "a.txt", "folder of .*a.txt cannot be made"),
    ]:
        with pytest.raises(UserError, match=message), written_atomically(path):
            pass
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "folder")
    message = r"a\.txt cannot be written: its folder is write-protected"
    with (
        pytest.raises(UserError, match=message),
        written_atomically(tmp_path / "folder" / "a.txt"),
    ):
        pass


# ------------------------------------------------------------------ move_aside


def test_move_aside_a_file(tmp_path):
    path = tmp_path / "metrics.csv"
    for text, expected in [("old", "metrics.1.csv"), ("newer", "metrics.2.csv")]:
        path.write_text(text)
        assert move_aside(path) == tmp_path / expected
        assert (tmp_path / expected).read_text() == text
        assert not path.exists()
    assert (tmp_path / "metrics.1.csv").read_text() == "old"


def test_move_aside_takes_the_first_free_number(tmp_path):
    for name in ("a.csv", "a.1.csv", "a.3.csv"):
        (tmp_path / name).write_text(name)
    assert move_aside(str(tmp_path / "a.csv")) == tmp_path / "a.2.csv"
    assert {p.name for p in tmp_path.iterdir()} == {"a.1.csv", "a.2.csv", "a.3.csv"}


@pytest.mark.parametrize("name", ["run", "run_lr0.01"])
def test_move_aside_a_folder(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "content").write_text("kept")
    assert move_aside(folder) == tmp_path / f"{name}.1"
    assert (tmp_path / f"{name}.1" / "content").read_text() == "kept"


def test_move_aside_nothing(tmp_path):
    assert move_aside(tmp_path / "absent") is None
