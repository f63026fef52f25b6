"""The NWB files of the Neural Latents Benchmark, from the DANDI archive.

``dandi`` is imported where it is used.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfads_torch.datamodules import DANDI
from lfads_torch.errors import ExistingFileError, FileAccessError, MissingPackageError, UserError


@dataclass(frozen=True)
class RemoteFile:
    """A file that is to be downloaded, or is here already."""

    url: str
    size: int
    """In bytes."""
    etag: str
    """What DANDI's checksum of its content is."""
    local: Path

    @property
    def is_here(self) -> bool:
        """Whether the file is in its folder, under its final name."""
        return self.local.is_file()


def list_nwb(
    dataset: str, nwb_dir: str | Path, parts: Sequence[str] = ("train",)
) -> list[RemoteFile]:
    """Ask the archive for the NWB files of a recording.

    Parameters
    ----------
    dataset
        ``mc_maze``, ``mc_rtt``, ….
    nwb_dir
        The folder that they shall be in.
    parts
        ``"train"`` (training and validation trials), ``"test"`` or both.

    Raises
    ------
    ImportError
        If ``dandi`` is missing.
    OSError
        If the archive cannot be reached.
    ValueError
        If the archive does not have exactly one such file.
    """
    api = _dandi("dandiapi")
    with api.DandiAPIClient() as client:
        dandiset = client.get_dandiset(DANDI[dataset], lazy=False)
        instance = client.dandi_instance.name
        assets = sorted(dandiset.get_assets(), key=lambda asset: asset.path)
        files = []
        for part in parts:
            found = [a for a in assets if a.path.endswith(".nwb") and part in Path(a.path).name]
            if len(found) != 1:
                raise UserError(
                    f"DANDI {DANDI[dataset]} ({dataset}) was expected to have one *{part}*.nwb, "
                    f"but version {dandiset.version_id} has {[asset.path for asset in found]}."
                )
            (asset,) = found
            files.append(
                RemoteFile(
                    url=f"dandi://{instance}/{dandiset.identifier}@{dandiset.version_id}/{asset.path}",
                    size=asset.size,
                    etag=asset.get_raw_digest(),
                    local=Path(nwb_dir) / Path(asset.path).name,
                )
            )
    return files


def download_nwb(files: Sequence[RemoteFile]) -> list[Path]:
    """Download what is not here yet, and compare checksums.

    A download that was interrupted goes on where it stopped (``….dandidownload`` holds what there
    is); a file gets its name only once it is whole.

    Returns
    -------
    list of Path
        The files, all of them.

    Raises
    ------
    ImportError
        If ``dandi`` is missing.
    FileExistsError
        If a file of that name has another content than the archive's. It is left as it is.
    OSError
        If a download fails, or its checksum is wrong.
    """
    download, digests = _dandi("download"), _dandi("support.digests")
    for file in files:
        if file.is_here:
            if digests.get_digest(file.local, "dandi-etag") != file.etag:
                raise ExistingFileError(
                    f"{file.local} exists, but its content is not that of {file.url}. Move it "
                    f"away, or name another folder by --nwb."
                )
            continue
        file.local.parent.mkdir(parents=True, exist_ok=True)
        try:
            download.download(file.url, file.local.parent)
        except RuntimeError as error:
            raise FileAccessError(f"{file.url} was not downloaded: {error}") from error
        if digests.get_digest(file.local, "dandi-etag") != file.etag:
            raise FileAccessError(
                f"The checksum of {file.local} is wrong: delete it, and download again."
            )
    return [file.local for file in files]


def describe(files: Sequence[RemoteFile]) -> str:
    """Say which files there are, how large, and what is to be downloaded."""
    lines = [
        f"  {file.size / 1e6:10.1f} MB  {file.local}  ({'is here' if file.is_here else file.url})"
        for file in files
    ]
    missing = sum(file.size for file in files if not file.is_here)
    return "\n".join([*lines, f"To download: {missing / 1e6:.1f} MB"])


def _dandi(module: str) -> Any:
    """Import a module of ``dandi``, or say how to do without."""
    try:
        return importlib.import_module(f"dandi.{module}")
    except ImportError as error:
        raise MissingPackageError(
            f"Downloading needs dandi ({error}): pip install dandi. Or download by hand, from "
            f"https://dandiarchive.org/dandiset/NUMBER with NUMBER one of "
            f"{', '.join(f'{number} ({name})' for name, number in DANDI.items())}, and name the "
            f"folder by --nwb."
        ) from error
