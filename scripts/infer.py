"""Apply a trained model to trials that it has not seen.

    python scripts/infer.py runs/mine --data new_trials.h5

writes rates, factors and inputs, averaged over samples of the posterior, to
runs/mine/inferred/new_trials_sess0.h5. The file needs test_encod_data (trials, time bins,
channels), or train_… and valid_… arrays as for training, with the bins and channels that the model
was trained on. Windows that scripts/chop.py cut out of a recording are also merged to continuous
rates, in new_trials_sess0_continuous.h5.
"""

import argparse
import sys


def main() -> int:
    """Parse the command line, infer, and say where it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder of the run")
    parser.add_argument("--data", metavar="FILE", required=True, help="file with the trials")
    parser.add_argument(
        "--session", type=int, metavar="S", help="which session of a model of several they are from"
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
        help="a package of parts of your own",
    )
    args = parser.parse_args()

    from lfads_torch.data.windows.merge import continuous_path, is_chopped
    from lfads_torch.running.inference import infer

    try:
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
    except (ValueError, OSError) as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(path)
    if is_chopped(path):
        print(continuous_path(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
