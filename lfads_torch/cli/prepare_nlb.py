"""Make the data files of the Neural Latents Benchmark from its NWB files.

    python scripts/prepare_nlb.py mc_maze mc_rtt

writes datasets/mc_maze-20ms-val.h5 and datasets/mc_rtt-05ms-val.h5, the files that model=mc_maze
and model=mc_rtt are for. NWB files that are not in datasets/nwb/{number} are downloaded from the
DANDI archive first, if dandi is installed (pip install dandi); --list only prints which files these
are, and how large.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lfads_torch.cli.command import reporting_user_errors


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="mc_maze, mc_rtt, …")
    parser.add_argument(
        "--bin-width-ms",
        type=int,
        nargs="+",
        help="5, 20 or both (default: that of the shipped model, 20 for mc_maze, otherwise 5)",
    )
    parser.add_argument(
        "--phase", nargs="+", default=["val"], help="val, test or both (default: val)"
    )
    parser.add_argument(
        "--nwb",
        metavar="DIR",
        help="folder with the NWB files, or with a folder {number} of them (datasets/nwb)",
    )
    parser.add_argument(
        "--output-dir", default="datasets", help="folder of the data files (%(default)s)"
    )
    parser.add_argument("--list", action="store_true", help="only print what would be downloaded")
    parser.add_argument(
        "--no-download", action="store_true", help="only use files that are there already"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="rename data files that exist to ….1.h5"
    )
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, and download and prepare each recording."""
    args = make_parser().parse_args(words)
    with reporting_user_errors() as outcome:
        for dataset in args.datasets:
            _download_and_prepare(dataset, args)
    return outcome.status


def _download_and_prepare(dataset: str, args: argparse.Namespace) -> None:
    """Download a recording if it is missing, and write its data files."""
    from lfads_torch.data.catalogue import DANDI
    from lfads_torch.datasets.nlb.download import describe, download_nwb, list_nwb
    from lfads_torch.datasets.nlb.prepare import check_arguments, prepare_nlb, refuse_existing
    from lfads_torch.datasets.nlb.registry import file_name

    widths = args.bin_width_ms or [20 if dataset == "mc_maze" else 5]
    check_arguments(dataset, widths, args.phase)
    if not (args.list or args.overwrite):  # Before anything is downloaded.
        refuse_existing(dataset, args.output_dir, widths, args.phase)
    nwb_dir = _nwb_dir(args.nwb, DANDI[dataset])
    parts = ["train", "test"] if "test" in args.phase else ["train"]
    if args.list or (_is_missing(nwb_dir, parts) and not args.no_download):
        files = list_nwb(dataset, nwb_dir, parts)
        print(f"{dataset} (DANDI {DANDI[dataset]}):\n{describe(files)}", flush=True)
        if args.list:
            return
        download_nwb(files)
    names = ", ".join(file_name(dataset, width, p) for width in widths for p in args.phase)
    print(f"{dataset}: preparing {names}", flush=True)
    for path in prepare_nlb(dataset, nwb_dir, args.output_dir, widths, args.phase, args.overwrite):
        print(f"  {path}")


def _nwb_dir(given: str | None, number: str) -> Path:
    """Return the folder with the NWB files of a recording, whose DANDI number is given.

    It is the subfolder with that number in the user's folder, or the user's folder itself if it
    holds NWB files.
    """
    nwb_dir = Path(given or "datasets/nwb") / number
    if given and not nwb_dir.is_dir() and any(Path(given).glob("*.nwb")):
        return Path(given)
    return nwb_dir


def _is_missing(nwb_dir: Path, parts: Sequence[str]) -> bool:
    """Return whether a folder lacks one of the NWB files."""
    from lfads_torch.datasets.nlb.prepare import find_nwb
    from lfads_torch.errors import MissingFileError

    try:
        for part in parts:
            find_nwb(nwb_dir, part)
    except MissingFileError:
        return True
    return False
