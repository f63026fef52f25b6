"""Write the rates of a run as a submission to the Neural Latents Benchmark.

    python scripts/make_nlb_submission.py runs/maze

writes runs/maze/nlb_submission_val.h5 (or …_test.h5, for data of the test phase). In the validation
phase it also prints the scores that nlb_tools.evaluation.evaluate computes from it. The folders of
several recordings make one submission together.
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
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", help="folder of a run")
    parser.add_argument("--output", metavar="FILE", help="(RUN_DIR/nlb_submission_{phase}.h5)")
    parser.add_argument(
        "--rates",
        action="append",
        default=[],
        metavar="FILE",
        help="file with rates, such as scripts/infer.py writes, to read instead of those in "
        "RUN_DIR; may be given several times",
    )
    parser.add_argument("--dataset", help="recording (default: from the data file's name)")
    parser.add_argument("--bin-width-ms", type=int, help="5 or 20 (default: from that name)")
    parser.add_argument("--phase", help="val or test (default: from that name)")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, write the submission, and print its scores.

    Parameters
    ----------
    words
        The arguments of the command line; by default those with which the process was started.

    Returns
    -------
    int
        The exit status.
    """
    args = make_parser().parse_args(words)

    from lfads_torch.analysis.nlb_submission import find_rates, identify, make_nlb_submission

    recording = (args.dataset, args.bin_width_ms, args.phase)
    with reporting_user_errors() as outcome:
        files = args.rates or [path for run_dir in args.run_dirs for path in find_rates(run_dir)]
        submission = make_nlb_submission(args.run_dirs, args.output, files, *recording)
        print(submission)
        if identify(files[0], *recording).phase == "val":
            _print_scores(submission, files, args.dataset, args.bin_width_ms)
    return outcome.status


def _print_scores(
    submission: Path, files: Sequence[Path], dataset: str | None, bin_width_ms: int | None
) -> None:
    """Print the scores of a submission for the validation phase."""
    from lfads_torch.analysis.nlb_submission import score_nlb_submission

    for result in score_nlb_submission(submission, files, dataset, bin_width_ms):
        for split, scores in result.items():
            for name, value in scores.items():
                print(f"  {split:<28} {name:<16} {value:8.4f}")
