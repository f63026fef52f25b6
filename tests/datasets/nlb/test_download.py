"""Files are downloaded from the archive completely or not at all.

If dandi is installed, the archive is a server on this machine that implements the part of DANDI's
interface that a download needs. The last tests replace dandi itself, so that they need neither.
"""

import hashlib
import http.server
import json
import re
import runpy
import sys
import threading
import types
from pathlib import Path

import pytest

from lfads_torch.datasets.nlb.download import describe, download_nwb, list_nwb
from lfads_torch.errors import FileAccessError
from tests.datasets.nlb.nwb import write_nwb

SCRIPT = Path(__file__).parents[3] / "scripts" / "prepare_nlb.py"
NAME = "sub-Test/sub-Test_desc-train_behavior+ecephys.nwb"
INSTANCE = "dandi-api-local-docker-tests"


def etag(content):
    """Return DANDI's checksum of a small file: that of an upload in one part."""
    return hashlib.md5(hashlib.md5(content).digest()).hexdigest() + "-1"


class Archive(http.server.BaseHTTPRequestHandler):
    """The part of DANDI's interface that a download needs, with one data set and its files."""

    files: dict
    requests: list
    cut_after: int | None = None  # Bytes after which the connection breaks, once.

    def log_message(self, *_):
        pass

    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.partition("?")[0]
        base = f"http://127.0.0.1:{self.server.server_port}"
        date = "2022-01-13T04:00:00Z"
        version = {
            "version": "0.220113.0400", "name": "test", "asset_count": len(self.files), "size": 1,
            "created": date, "modified": date, "status": "Published",
        }  # fmt: skip
        ids = {f"00000000-0000-0000-0000-00000000000{i}": p for i, p in enumerate(self.files)}
        assets = [
            {
                "asset_id": i, "blob": i, "zarr": None, "path": p, "size": len(self.files[p]),
                "created": date, "modified": date,
            }
            for i, p in ids.items()
        ]  # fmt: skip
        self.requests.append((path, self.headers.get("Range")))
        if path == "/api/info/":
            self.answer(
                {
                    "schema_version": "0.6.0", "version": "0.0.0", "cli-minimal-version": "0.1.0",
                    "cli-bad-versions": [],
                    "services": {
                        "api": {"url": f"{base}/api"}, "webui": {"url": base},
                        "jupyterhub": {"url": base},
                    },
                }
            )  # fmt: skip
        elif path == "/api/dandisets/000129/":
            self.answer(
                {
                    "identifier": "000129", "created": date, "modified": date,
                    "contact_person": "nobody", "embargo_status": "OPEN",
                    "most_recent_published_version": version, "draft_version": version,
                }
            )  # fmt: skip
        elif path.endswith("/info/"):
            self.answer({**version, "asset_validation_errors": [], "version_validation_errors": []})
        elif path.endswith("/assets/"):
            self.answer({"count": len(assets), "next": None, "previous": None, "results": assets})
        elif match := re.search(r"/assets/([-0-9]+)/download/$", path):
            self.send_content(self.files[ids[match[1]]])
        elif match := re.search(r"/assets/([-0-9]+)/(info/)?$", path):
            content = self.files[ids[match[1]]]
            digest = {"dandi:dandi-etag": etag(content)}
            self.answer({"digest": digest, "blobDateModified": date, "path": ids[match[1]]})
        else:
            self.send_error(404)

    def send_content(self, content):
        requested = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        first = int(requested[1]) if requested else 0
        self.send_response(206 if requested else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if Archive.cut_after is not None:
            content, Archive.cut_after = content[: Archive.cut_after], None
            self.close_connection = True
        self.wfile.write(content[first:])


@pytest.fixture
def archive(tmp_path, monkeypatch):
    consts = pytest.importorskip("dandi.consts", reason="needs dandi (pip install dandi)")
    recording = write_nwb(tmp_path / "source", "mc_rtt", n_trials=6)
    Archive.files = {NAME: recording.path.read_bytes()}
    Archive.requests = []
    Archive.cut_after = None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Archive)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/api"
    instance = consts.DandiInstance(INSTANCE, None, url)
    monkeypatch.setitem(consts.known_instances, INSTANCE, instance)
    monkeypatch.setenv("DANDI_INSTANCE", INSTANCE)
    monkeypatch.setenv("DANDI_NO_ET", "1")
    monkeypatch.setenv("DANDI_CACHE", "ignore")
    yield Archive
    server.shutdown()
    server.server_close()


def test_download(archive, tmp_path):
    folder = tmp_path / "000129"
    (file,) = files = list_nwb("mc_rtt", folder)
    content = archive.files[NAME]
    assert (file.size, file.local, file.is_downloaded) == (
        len(content), folder / Path(NAME).name, False,
    )  # fmt: skip
    description = describe(files)
    assert f"{len(content) / 1e6:.1f} MB" in description
    assert f"dandi://{INSTANCE}/000129@0.220113.0400/{NAME}" in description
    assert not folder.exists()
    # Nothing is downloaded yet.
    assert not any("/download/" in path for path, _ in archive.requests)

    assert download_nwb(files) == [file.local]
    assert file.local.read_bytes() == content
    assert [path.name for path in folder.iterdir()] == [file.local.name]
    assert describe(files).endswith("To download: 0.0 MB")

    archive.requests.clear()
    download_nwb(files)  # All files are there already.
    assert archive.requests == []


def test_a_broken_connection(archive, tmp_path):
    files = list_nwb("mc_rtt", tmp_path / "000129")
    archive.cut_after = 5000
    download_nwb(files)
    assert files[0].local.read_bytes() == archive.files[NAME]


def test_an_interrupted_download_continues(archive, tmp_path):
    (file,) = list_nwb("mc_rtt", tmp_path / "000129")
    content = archive.files[NAME]
    partial = file.local.with_name(f"{file.local.name}.dandidownload")  # As dandi leaves it.
    partial.mkdir(parents=True)
    (partial / "checksum").write_text(json.dumps({"dandi-etag": etag(content)}))
    (partial / "file").write_bytes(content[:5000])
    assert not file.is_downloaded
    download_nwb([file])
    assert file.local.read_bytes() == content
    ranges = [wanted for path, wanted in archive.requests if "/download/" in path]
    assert ranges == ["bytes=5000-"]


def test_a_file_with_another_content_does_not_change(archive, tmp_path):
    (file,) = list_nwb("mc_rtt", tmp_path)
    file.local.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"ecephys\.nwb exists, but its content is not that"):
        download_nwb([file])
    assert file.local.read_bytes() == b"mine"


def test_a_wrong_checksum_is_an_error(archive, tmp_path):
    (file,) = list_nwb("mc_rtt", tmp_path / "a")
    archive.files = {NAME: b"something else"}  # dandi gets a matching checksum.
    with pytest.raises(OSError, match=r"checksum of .* is wrong"):
        download_nwb([file])


def test_files_that_the_archive_does_not_have(archive, tmp_path):
    with pytest.raises(
        ValueError, match=r"DANDI 000129 \(mc_rtt\) was expected to have one \*test"
    ):
        list_nwb("mc_rtt", tmp_path, ["train", "test"])


def test_the_script_prints_what_it_downloads_and_then_prepares(
    archive, tmp_path, monkeypatch, capfd
):
    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["prepare_nlb.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return ended.value.code, capfd.readouterr()

    monkeypatch.chdir(tmp_path)
    code, said = main("mc_rtt", "--list")
    assert code == 0, said.err
    assert "mc_rtt (DANDI 000129):" in said.out
    assert not Path("datasets").exists()
    code, said = main("mc_rtt")
    assert code == 0, said.err
    size = f"{len(archive.files[NAME]) / 1e6:.1f} MB"
    assert said.out.index(f"To download: {size}") < said.out.index("mc_rtt: preparing")
    assert Path("datasets/nwb/000129", Path(NAME).name).is_file()
    assert Path("datasets/mc_rtt-05ms-val.h5").is_file()


class Asset:
    def __init__(self, path, content):
        self.path, self.content, self.size = path, content, len(content)

    def get_raw_digest(self):
        return etag(self.content)


@pytest.fixture
def replaced(monkeypatch):
    """Replace the functions of dandi that are used, and record what is downloaded."""
    assets = [Asset(NAME, b"spikes"), Asset("sub-Test/sub-Test_desc-test_ecephys.nwb", b"more")]
    asked = []

    class Client:
        dandi_instance = types.SimpleNamespace(name="dandi")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def get_dandiset(self, number, lazy):
            return types.SimpleNamespace(
                identifier=number, version_id="0.1.2", get_assets=lambda: iter(assets)
            )

    def download(url, folder):
        asked.append(url)
        if "fail" in str(folder):
            raise RuntimeError("Encountered 1 error while downloading.")
        name = url.rpartition("/")[2]
        (content,) = (a.content for a in assets if a.path.endswith(name))
        Path(folder, name).write_bytes(content)

    def get_digest(path, kind):
        assert kind == "dandi-etag"
        return etag(Path(path).read_bytes())

    modules = {
        "dandi": {}, "dandi.support": {}, "dandi.dandiapi": {"DandiAPIClient": Client},
        "dandi.download": {"download": download},
        "dandi.support.digests": {"get_digest": get_digest},
    }  # fmt: skip
    for name, members in modules.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return asked


def test_calls_of_dandi(replaced, tmp_path):
    files = list_nwb("mc_rtt", tmp_path / "new", ["train", "test"])
    urls = [f"dandi://dandi/000129@0.1.2/{NAME}",
            "dandi://dandi/000129@0.1.2/sub-Test/sub-Test_desc-test_ecephys.nwb"]  # fmt: skip
    assert [file.url for file in files] == urls
    assert [file.size for file in files] == [6, 4]
    assert replaced == []
    assert download_nwb(files) == [file.local for file in files]
    assert replaced == urls
    download_nwb(files)
    assert replaced == urls
    files[0].local.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="its content is not that of dandi://"):
        download_nwb(files)
    assert files[0].local.read_bytes() == b"mine"
    with pytest.raises(OSError, match=r"desc-test_ecephys\.nwb was not downloaded: Encountered"):
        download_nwb(list_nwb("mc_rtt", tmp_path / "fail", ["test"]))


@pytest.mark.parametrize("error", [ConnectionError("no route"), RuntimeError("not found")])
def test_an_archive_that_cannot_be_read(replaced, tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(sys.modules["dandi.dandiapi"].DandiAPIClient, "get_dandiset", fail)
    with pytest.raises(FileAccessError, match=rf"archive cannot be read: {error}"):
        list_nwb("mc_rtt", tmp_path)


def test_without_dandi(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "dandi.dandiapi", None)
    with pytest.raises(ImportError, match=r"pip install dandi\. Or download by hand.*000129"):
        list_nwb("mc_rtt", tmp_path)
