"""Merge what was inferred about the windows of a recording to continuous rates.

    python scripts/merge.py runs/mine/lfads_output_sess0.h5

writes rates, factors and inputs (bins, …) to runs/mine/lfads_output_sess0_continuous.h5, NaN where
there is no window. scripts/run_single.py and scripts/infer.py do so themselves; this is for output
of lfads_torch.running.sampling.run_posterior_sampling. The data must be of scripts/chop.py.
"""

import argparse
import sys


def main() -> int:
    """Parse the command line, merge, and say where it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE", help="output of posterior sampling")
    parser.add_argument("--output", metavar="FILE", help="(FILE with _continuous in its name)")
    parser.add_argument(
        "--fields",
        nargs="+",
        default=(),
        metavar="FIELD",
        help="output_params, factors, co_means, … (all that have time bins)",
    )
    args = parser.parse_args()

    from lfads_torch.data.windows import merge_file

    try:
        path = merge_file(args.file, args.output, args.fields)
    except (ValueError, OSError) as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
