"""Cut a continuous recording into overlapping windows: the trials of a model.

    python scripts/chop.py recording.h5 --window 50 --overlap 10 --output datasets/mine.h5

reads the array "spikes" (bins, channels), spikes in each bin, and writes a data file for
scripts/run_single.py, which merges what it infers to continuous rates again. The recording may be
HDF5, .npz, .npy or .mat (--spikes struct.name). docs/continuous.md explains blocks and windows.

To apply a model that is already trained, use --to-infer and then scripts/infer.py.
"""

import argparse
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lfads_torch.cli.command import reporting_user_errors

if TYPE_CHECKING:
    from lfads_torch.data.windows.layout import Chop


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", metavar="FILE", help="HDF5, .npz, .npy or .mat")
    parser.add_argument("--output", metavar="FILE", required=True, help="the data file to write")
    parser.add_argument("--window", type=int, required=True, help="bins of a window")
    parser.add_argument(
        "--overlap", type=int, required=True, help="bins that neighbouring windows share at least"
    )
    parser.add_argument(
        "--spikes",
        metavar="KEY",
        default="spikes",
        help="the array of spikes; a KEY is a name in FILE, or a .npy file (%(default)s)",
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiplies the spikes (bin width: Hz to counts)"
    )
    parser.add_argument(
        "--array",
        action="append",
        default=[],
        metavar="NAME=KEY",
        help="also cut this array, as {split}_NAME (behavior=…, ext_input=…); may be repeated",
    )
    parser.add_argument(
        "--trial-ids", metavar="KEY", help="the trial of each bin; no window leaves its trial"
    )
    parser.add_argument(
        "--segments", metavar="KEY", help="or first bins and ends of segments (segments, 2)"
    )
    parser.add_argument(
        "--heldout", type=int, default=0, help="last channels, which the model has to predict"
    )
    parser.add_argument(
        "--valid-fraction",
        type=float,
        default=0.2,
        help="fraction of the blocks that are for validation (%(default)s)",
    )
    parser.add_argument("--block", type=int, help="bins of a block (default: ten windows)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the draw of validation blocks (%(default)s)"
    )
    parser.add_argument(
        "--no-bridges",
        action="store_true",
        help="no windows across the borders of training and validation blocks",
    )
    parser.add_argument(
        "--to-infer", action="store_true", help="cut everything for inference, without blocks"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing data file")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, cut the recording, and print a summary and the next command."""
    parser = make_parser()
    args = parser.parse_args(words)
    others = dict(word.partition("=")[::2] for word in args.array)
    if not all(others) or not all(others.values()):
        parser.error(f"--array takes NAME=KEY, but not {args.array}.")

    from lfads_torch.data.windows.chop import chop_file

    with reporting_user_errors() as outcome:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            chop = chop_file(
                args.recording,
                args.output,
                args.window,
                args.overlap,
                spikes=args.spikes,
                scale=args.scale,
                others=others,
                trial_ids=args.trial_ids,
                segments=args.segments,
                heldout=args.heldout,
                valid_fraction=None if args.to_infer else args.valid_fraction,
                block=args.block,
                seed=args.seed,
                bridges=not args.no_bridges,
                overwrite=args.overwrite,
            )
        for warning in caught:
            print(f"Warning: {warning.message}", file=sys.stderr)
        print(_summary(chop))
        print(f"\nNext:\n  {_next_command(args.output, args.to_infer)}")
    return outcome.status


def _summary(chop: "Chop") -> str:
    """Return the numbers of windows and bins of each split, as text."""
    lines = [f"{chop.n_bins} bins in {len(chop.segments)} segment(s):"]
    for split, starts in chop.starts.items():
        n_bins = chop.covered(split).sum()
        lines.append(f"  {split:<5}  {len(starts):>6} windows  {n_bins:>8} bins")
    return "\n".join(lines)


def _next_command(output: str, to_infer: bool) -> str:
    """Return the command that uses the data file next."""
    if to_infer:
        return f"python scripts/infer.py RUN_DIR --data {shlex.quote(output)}"
    return (
        f"python scripts/run_single.py model=generic datamodule=generic \\\n"
        f"      {shlex.quote(f'datamodule.datafile_pattern={output}')}"
    )
