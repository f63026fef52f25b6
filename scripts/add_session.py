"""Add a recording session to a trained model, and leave all that is shared as it is.

    python scripts/add_session.py runs/mine --data day2.h5 run_dir=runs/mine_day2

fits a read-in and a read-out for the new session, and writes the model with one session more to
runs/mine_day2/model.ckpt. The file is like those that the model was trained on, with channels of
its own; readin_weight and readout_bias in it (scripts/align_sessions.py) are where the fit starts.

Words of the form key=value override the configuration of the trained run (trainer.max_epochs=300,
model.lr_init=1e-3 …). All that concerns how to train can be changed, but no size of the model.
"""

import argparse
import sys


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trained_run", metavar="RUN_DIR", help="folder of the trained run")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--data", metavar="FILE", required=True, help="file of the new session")
    parser.add_argument("--checkpoint", metavar="FILE", help="weights (default: the best ones)")
    parser.add_argument(
        "--random-init", action="store_true", help="ignore readin_weight and readout_bias"
    )
    parser.add_argument("--overwrite", action="store_true", help="rename an existing run_dir")
    parser.add_argument(
        "--trusted",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package of parts of your own",
    )
    args = parser.parse_intermixed_args()

    from lfads_torch.cli.run_options import split_run_dir
    from lfads_torch.running.new_session import run_new_session

    overrides, run_dir = split_run_dir(args.overrides)
    try:
        run_new_session(
            args.trained_run,
            args.data,
            overrides,
            run_dir=run_dir,
            checkpoint=args.checkpoint,
            pcr_init=not args.random_init,
            overwrite=args.overwrite,
            script=__file__,
            trusted=args.trusted,
        )
    except (ValueError, OSError) as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
