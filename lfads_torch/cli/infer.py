"""Apply a trained model to trials that it was not trained on.

    python scripts/infer.py runs/mine --data new_trials.h5

writes rates, factors and inputs, averaged over samples of the posterior, to
runs/mine/inferred/new_trials_sess0.h5. The file needs test_encod_data (trials, time bins,
channels), or train_… and valid_… arrays as for training, with the bins and channels that the model
was trained on. Windows that scripts/chop.py cut out of a recording are also merged to continuous
rates, in new_trials_sess0_continuous.h5.
"""

import argparse
from collections.abc import Sequence

from lfads_torch.cli.command import reporting_user_errors


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, infer, print the paths of the outputs, return the exit status.

    Parameters
    ----------
    words
        The arguments of the command line; by default those with which the script was called.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder of the run")
    parser.add_argument("--data", metavar="FILE", required=True, help="file with the trials")
    parser.add_argument(
        "--session",
        type=int,
        metavar="S",
        help="session that the trials are from, in a model of several",
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="weights (default: the best ones)")
    parser.add_argument(
        "--num-samples", type=int, default=50, help="samples of the posterior (%(default)s)"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="_sess{S} is added (RUN_DIR/inferred/{data}.h5)"
    )
    parser.add_argument("--save-std", action="store_true", help="also save standard deviations")
    parser.add_argument("--save-samples", action="store_true", help="also save every sample")
    parser.add_argument(
        "--trusted",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package whose parts the model uses and that may be imported",
    )
    args = parser.parse_args(words)

    # This is imported here, because it takes seconds and would delay --help.
    from lfads_torch.data.windows.merge import continuous_path, is_chopped
    from lfads_torch.running.inference import infer

    with reporting_user_errors() as outcome:
        path = infer(
            args.run_dir,
            args.data,
            session=args.session,
            checkpoint=args.checkpoint,
            output=args.output,
            num_samples=args.num_samples,
            save_std=args.save_std,
            save_samples=args.save_samples,
            trusted=args.trusted,
        )
        print(path)
        if is_chopped(path):
            print(continuous_path(path))
    return outcome.status
