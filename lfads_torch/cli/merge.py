"""Merge what was inferred about the windows of a recording to continuous rates.

    python scripts/merge.py runs/mine/lfads_output_sess0.h5

writes rates, factors and inputs (bins, …) to runs/mine/lfads_output_sess0_continuous.h5, NaN where
there is no window. scripts/run_single.py and scripts/infer.py already do this; use this command for
files that your own program wrote with lfads_torch.post_run.analysis.run_posterior_sampling. The
data must have been cut by scripts/chop.py.
"""

import argparse
from collections.abc import Sequence

from lfads_torch.cli.command import reporting_user_errors


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE", help="output of posterior sampling")
    parser.add_argument(
        "--output", metavar="FILE", help="the file to write (FILE with _continuous in its name)"
    )
    parser.add_argument(
        "--fields",
        nargs="+",
        default=(),
        metavar="FIELD",
        help="output_params, factors, co_means, … (all that have time bins)",
    )
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, merge, and print the path of the file that was written."""
    args = make_parser().parse_args(words)

    from lfads_torch.data.windows.merge import merge_file

    with reporting_user_errors() as outcome:
        print(merge_file(args.file, args.output, args.fields))
    return outcome.status
