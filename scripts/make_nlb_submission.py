"""Write a run's rates as a submission to the Neural Latents Benchmark.

    python scripts/make_nlb_submission.py runs/maze

writes runs/maze/nlb_submission_val.h5 (or …_test.h5, for data of the test phase) and, in the
validation phase, prints its scores by nlb_tools.evaluation.evaluate. Several folders, of different
recordings, make one submission.
"""

import argparse
import sys


def main() -> int:
    """Parse the command line, write the submission and print its scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", help="folder of a run")
    parser.add_argument("--output", metavar="FILE", help="(RUN_DIR/nlb_submission_{phase}.h5)")
    parser.add_argument(
        "--rates",
        action="append",
        default=[],
        metavar="FILE",
        help="rates from this file, as of scripts/infer.py, rather than RUN_DIR; may be repeated",
    )
    parser.add_argument("--dataset", help="name of the recording (default: the data file says)")
    parser.add_argument("--bin-width-ms", type=int, help="5 or 20 (default: the data file says)")
    parser.add_argument("--phase", help="val or test (default: the data file says)")
    args = parser.parse_args()

    from lfads_torch.analysis.nlb_submission import (
        find_rates,
        identify,
        make_nlb_submission,
        score_nlb_submission,
    )

    known = (args.dataset, args.bin_width_ms, args.phase)
    try:
        files = args.rates or [path for run_dir in args.run_dirs for path in find_rates(run_dir)]
        path = make_nlb_submission(args.run_dirs, args.output, files, *known)
        print(path)
        if identify(files[0], *known).phase == "val":
            for result in score_nlb_submission(path, files, *known[:2]):
                for split, scores in result.items():
                    for name, value in scores.items():
                        print(f"  {split:<28} {name:<16} {value:8.4f}")
    except (ValueError, OSError, ImportError) as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
