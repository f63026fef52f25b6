"""Add a recording session to a trained model, whose shared weights do not change.

    python scripts/add_session.py runs/mine --data day2.h5 run_dir=runs/mine_day2

trains a read-in and a read-out for the new session, and writes the model with one more session to
runs/mine_day2/model.ckpt. The file is like those that the model was trained on, with channels of
its own. If it has readin_weight and readout_bias (scripts/align_sessions.py), training starts from
these.

Arguments of the form key=value override the configuration of the trained run
(trainer.max_epochs=300, model.lr_init=1e-3, …). You can change everything that concerns training,
but not the sizes of the model.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lfads_torch.cli.command import reporting_user_errors
from lfads_torch.cli.run_options import split_run_dir


def main(words: Sequence[str] | None = None, script: str | Path | None = None) -> int:
    """Parse the command line, run, and return the exit status.

    Parameters
    ----------
    words
        The arguments of the command line; by default those with which the script was called.
    script
        A file that is copied into the folder of the run.
    """
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
        help="a package whose parts the model uses and that may be imported",
    )
    args = parser.parse_intermixed_args(words)

    # This is imported here, because it takes seconds and would delay --help.
    from lfads_torch.running.new_session_run import run_new_session

    overrides, run_dir = split_run_dir(args.overrides)
    with reporting_user_errors() as outcome:
        run_new_session(
            args.trained_run,
            args.data,
            overrides,
            run_dir=run_dir,
            checkpoint=args.checkpoint,
            pcr_init=not args.random_init,
            overwrite=args.overwrite,
            script=script,
            trusted=args.trusted,
        )
    return outcome.status
