"""Make the data files of the Neural Latents Benchmark from its NWB files.

    python scripts/prepare_nlb.py mc_maze mc_rtt

writes datasets/mc_maze-20ms-val.h5 and datasets/mc_rtt-05ms-val.h5, the files that model=mc_maze
and model=mc_rtt are for. NWB files that are not in datasets/nwb/{number} are downloaded from the
DANDI archive first, if dandi is installed (pip install dandi); --list only says which, and how
large they are.
"""

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Parse the command line, download what is missing, and prepare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="mc_maze, mc_rtt, …")
    parser.add_argument(
        "--bin-width-ms",
        type=int,
        nargs="+",
        help="5, 20 or both (default: what the shipped model is for, 20 for mc_maze, else 5)",
    )
    parser.add_argument(
        "--phase", nargs="+", default=["val"], help="val, test or both (default: val)"
    )
    parser.add_argument(
        "--nwb",
        metavar="DIR",
        help="folder with the NWB files, or with a folder {number} of them (datasets/nwb)",
    )
    parser.add_argument("--output-dir", default="datasets", help="(%(default)s)")
    parser.add_argument("--list", action="store_true", help="say what would be downloaded, no more")
    parser.add_argument("--no-download", action="store_true", help="only use files that are here")
    parser.add_argument(
        "--overwrite", action="store_true", help="rename data files that exist to ….1.h5"
    )
    args = parser.parse_args()

    from lfads_torch.datamodules import DANDI
    from lfads_torch.datasets.nlb.download import describe, download_nwb, list_nwb
    from lfads_torch.datasets.nlb.prepare import (
        check_arguments,
        file_name,
        find_nwb,
        prepare_nlb,
        refuse_existing,
    )

    def missing(nwb_dir: Path, parts: list[str]) -> bool:
        try:
            for part in parts:
                find_nwb(nwb_dir, part)
        except FileNotFoundError:
            return True
        return False

    try:
        for dataset in args.datasets:
            widths = args.bin_width_ms or [20 if dataset == "mc_maze" else 5]
            check_arguments(dataset, widths, args.phase)
            if not (args.list or args.overwrite):  # before anything is downloaded
                refuse_existing(dataset, args.output_dir, widths, args.phase)
            nwb_dir = Path(args.nwb or "datasets/nwb") / DANDI[dataset]
            if args.nwb and not nwb_dir.is_dir() and any(Path(args.nwb).glob("*.nwb")):
                nwb_dir = Path(args.nwb)
            parts = ["train", "test"] if "test" in args.phase else ["train"]
            if args.list or (missing(nwb_dir, parts) and not args.no_download):
                files = list_nwb(dataset, nwb_dir, parts)
                print(f"{dataset} (DANDI {DANDI[dataset]}):\n{describe(files)}", flush=True)
                if args.list:
                    continue
                download_nwb(files)
            names = ", ".join(file_name(dataset, w, p) for w in widths for p in args.phase)
            print(f"{dataset}: preparing {names}", flush=True)
            for path in prepare_nlb(
                dataset, nwb_dir, args.output_dir, widths, args.phase, args.overwrite
            ):
                print(f"  {path}")
    except (ValueError, OSError, ImportError) as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
