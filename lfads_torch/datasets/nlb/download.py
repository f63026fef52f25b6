"""Downloading the NWB files of the Neural Latents Benchmark from the DANDI archive.

The ``dandi`` package is optional and is imported where it is used.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfads_torch.data.catalogue import DANDI
from lfads_torch.errors import ExistingFileError, FileAccessError, MissingPackageError, UserError


@dataclass(frozen=True)
class RemoteFile:
    """A file of the archive.

    Attributes
    ----------
    url
        Its address in the archive.
    size
        Its size in bytes.
    etag
        DANDI's checksum of its content.
    local
        The path that it has after the download.
    """

    url: str
    size: int
    etag: str
    local: Path

    @property
    def is_downloaded(self) -> bool:
        """Whether the file has been downloaded completely."""
        return self.local.is_file()


def list_nwb(
    dataset: str, nwb_dir: str | Path, parts: Sequence[str] = ("train",)
) -> list[RemoteFile]:
    """Ask the archive for the NWB files of a recording.

    Parameters
    ----------
    dataset
        The name of the recording: ``mc_maze``, ``mc_rtt``, ….
    nwb_dir
        The folder to which the files are to be downloaded.
    parts
        ``"train"`` (training and validation trials), ``"test"`` or both.

    Raises
    ------
    MissingPackageError
        If ``dandi`` is missing.
    FileAccessError
        If the archive cannot be reached.
    UserError
        If the archive does not have exactly one such file.
    """
    api = _import_dandi("dandiapi")
    try:
        with api.DandiAPIClient() as client:
            dandiset = client.get_dandiset(DANDI[dataset], lazy=False)
            instance = client.dandi_instance.name
            assets = sorted(dandiset.get_assets(), key=lambda asset: asset.path)
            chosen = [_asset_of(part, assets, dataset, dandiset.version_id) for part in parts]
            return [
                RemoteFile(
                    url=f"dandi://{instance}/{dandiset.identifier}@{dandiset.version_id}/{asset.path}",
                    size=asset.size,
                    etag=asset.get_raw_digest(),
                    local=Path(nwb_dir) / Path(asset.path).name,
                )
                for asset in chosen
            ]
    except (OSError, RuntimeError) as error:
        raise FileAccessError(f"The DANDI archive cannot be read: {error}") from error


def _asset_of(part: str, assets: Sequence[Any], dataset: str, version: str) -> Any:
    """Return the only NWB file of one part of a recording."""
    found = [a for a in assets if a.path.endswith(".nwb") and part in Path(a.path).name]
    if len(found) != 1:
        raise UserError(
            f"DANDI {DANDI[dataset]} ({dataset}) was expected to have one *{part}*.nwb, but "
            f"version {version} has {[asset.path for asset in found]}."
        )
    return found[0]


def download_nwb(files: Sequence[RemoteFile]) -> list[Path]:
    """Download the files that have not been downloaded yet, and compare checksums.

    A download that was interrupted continues where it stopped: ``….dandidownload`` holds the part
    that has arrived. A file gets its final name only once it is complete.

    Returns
    -------
    list of Path
        The local paths of all files.

    Raises
    ------
    MissingPackageError
        If ``dandi`` is missing.
    ExistingFileError
        If a file of that name exists and differs from the archive's. It is not changed.
    FileAccessError
        If a download fails, or its checksum is wrong.
    """
    download, digests = _import_dandi("download"), _import_dandi("support.digests")
    for file in files:
        if file.is_downloaded:
            if digests.get_digest(file.local, "dandi-etag") != file.etag:
                raise ExistingFileError(
                    f"{file.local} exists, but its content is not that of {file.url}. Move it "
                    f"away, or name another folder by --nwb."
                )
            continue
        try:
            file.local.parent.mkdir(parents=True, exist_ok=True)
            download.download(file.url, file.local.parent)
        except (OSError, RuntimeError) as error:
            raise FileAccessError(f"{file.url} was not downloaded: {error}") from error
        if digests.get_digest(file.local, "dandi-etag") != file.etag:
            raise FileAccessError(
                f"The checksum of {file.local} is wrong: delete it, and download again."
            )
    return [file.local for file in files]


def describe(files: Sequence[RemoteFile]) -> str:
    """Return a table of the files and their sizes, and the size of the remaining download."""
    lines = [
        f"  {file.size / 1e6:10.1f} MB  {file.local}  "
        f"({'downloaded' if file.is_downloaded else file.url})"
        for file in files
    ]
    missing = sum(file.size for file in files if not file.is_downloaded)
    return "\n".join([*lines, f"To download: {missing / 1e6:.1f} MB"])


def _import_dandi(module: str) -> Any:
    """Import a module of ``dandi``, or raise an error that says how to download without it."""
    try:
        return importlib.import_module(f"dandi.{module}")
    except ImportError as error:
        raise MissingPackageError(
            f"Downloading needs dandi ({error}): pip install dandi. Or download by hand, from "
            f"https://dandiarchive.org/dandiset/NUMBER with NUMBER one of "
            f"{', '.join(f'{number} ({name})' for name, number in DANDI.items())}, and name the "
            f"folder by --nwb."
        ) from error
