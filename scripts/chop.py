"""Cut a continuous recording into overlapping windows: the trials of a model.

    python scripts/chop.py recording.h5 --window 50 --overlap 10 --output datasets/mine.h5

reads the array "spikes" (bins, channels), spikes in each bin, and writes a data file for
scripts/run_single.py, which merges what it infers to continuous rates again. The recording may be
HDF5, .npz, .npy or .mat (--spikes struct.name). docs/continuous.md explains blocks and windows.

For a model that is trained already: --to-infer, then scripts/infer.py.
"""

import argparse
import shlex
import sys
import warnings


def main() -> int:
    """Parse the command line, cut, and say what was done and what comes next."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", metavar="FILE", help="HDF5, .npz, .npy or .mat")
    parser.add_argument("--output", metavar="FILE", required=True, help="the data file")
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
        "--valid-fraction", type=float, default=0.2, help="of the blocks (%(default)s)"
    )
    parser.add_argument("--block", type=int, help="bins of a block (those of ten windows)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of validation blocks")
    parser.add_argument(
        "--no-bridges",
        action="store_true",
        help="no windows across the borders of training and validation blocks",
    )
    parser.add_argument(
        "--to-infer", action="store_true", help="nothing is to be trained on: no blocks"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing data file")
    args = parser.parse_args()

    others = dict(word.partition("=")[::2] for word in args.array)
    if not all(others) or not all(others.values()):
        parser.error(f"--array takes NAME=KEY, but not {args.array}.")

    from lfads_torch.data.windows import chop_file

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
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
        except (ValueError, OSError) as error:
            print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
            return 1
    for warning in caught:
        print(f"Warning: {warning.message}", file=sys.stderr)

    print(f"{chop.n_bins} bins in {len(chop.segments)} segment(s):")
    for split, starts in chop.starts.items():
        print(f"  {split:<5}  {len(starts):>6} windows  {chop.covered(split).sum():>8} bins")
    output = shlex.quote(args.output)
    if args.to_infer:
        print(f"\nNext:\n  python scripts/infer.py RUN_DIR --data {output}")
    else:
        print(
            f"\nNext:\n  python scripts/run_single.py model=generic datamodule=generic \\\n"
            f"      {shlex.quote(f'datamodule.datafile_pattern={args.output}')}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
