"""Align sessions with different neurons in the same task, to train one model of all of them.

    python scripts/align_sessions.py 'datasets/mine/*.h5' --n-components 50

writes readin_weight and readout_bias into each file (or into copies, with --output-dir), which are
the initial values of the read-ins and read-outs of model=multisession. The files need
train_cond_idx, with the same conditions in all of them, and trials of equal length.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lfads_torch.cli.command import reporting_user_errors

if TYPE_CHECKING:
    from lfads_torch.data.alignment.files import AlignedSession


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sessions", nargs="+", metavar="FILES", help="session files, or a pattern")
    parser.add_argument(
        "--n-components", type=int, required=True, help="shared components: the model's factors"
    )
    parser.add_argument(
        "--smoothing-width",
        type=float,
        default=2.0,
        help="standard deviation in bins of the Gaussian that smooths responses (%(default)s)",
    )
    parser.add_argument(
        "--ridge-alpha", type=float, default=1.0, help="penalty of the regression (%(default)s)"
    )
    parser.add_argument(
        "--output-dir", help="write copies to this folder, and do not change the files"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier alignment, or earlier copies"
    )
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, align, and print the quality of alignment and the next command."""
    args = make_parser().parse_args(words)

    from lfads_torch.data.alignment.files import align_files

    with reporting_user_errors() as outcome:
        aligned = align_files(
            args.sessions,
            args.n_components,
            args.smoothing_width,
            args.ridge_alpha,
            args.output_dir,
            args.overwrite,
        )
        print(_table(aligned))
        print(_next_command(args.sessions, [s.path for s in aligned], args.n_components))
    return outcome.status


def _table(aligned: Sequence["AlignedSession"]) -> str:
    """Return a table of the sessions, with an explanation of its columns."""
    width = max(len("session"), *(len(str(session.path)) for session in aligned))
    lines = [f"{'session':<{width}}  channels  trials  conditions     R2  variance kept"]
    for session in aligned:
        lines.append(
            f"{session.path!s:<{width}}  {session.n_channels:>8}  {session.n_trials:>6}  "
            f"{session.n_conditions:>10}  {session.score:5.3f}  {session.explained_variance:13.3f}"
        )
    return "\n".join(lines) + (
        "\n\nR2: how much of the shared components each session's PSTHs explain. Variance kept: "
        "how much of\nthe variance of its PSTHs lies in the space of these components. A session "
        "far below the others\nin either may have other conditions under the same labels.\n"
    )


def _next_command(patterns: list[str], paths: list[Path], n_components: int) -> str:
    """Return the command that trains on these files, with a pattern that matches no others.

    If there is no such pattern, the command contains the word PATTERN in its place.
    """
    from lfads_torch.data.sessions import find_session_files
    from lfads_torch.errors import MissingFileError
    from lfads_torch.running.compose import format_overrides

    folder = paths[0].parent
    candidates = [
        *patterns,
        str(folder / Path(patterns[0]).name),
        str(folder / f"*{paths[0].suffix}"),
    ]
    pattern = "PATTERN"
    for candidate in candidates:
        try:
            if find_session_files(candidate) == sorted(paths):
                pattern = candidate
                break
        except MissingFileError:
            continue
    words = format_overrides(
        {"datamodule.datafile_pattern": pattern, "model.fac_dim": n_components}
    )
    return (
        "Next, with scales of regularisation to start from:\n"
        "  python scripts/run_single.py model=multisession datamodule=generic \\\n"
        f"      {shlex.join(words)} \\\n"
        "      model.kl_ic_scale=1e-5 model.kl_co_scale=1e-5 model.l2_gen_scale=1e-2 "
        "model.l2_con_scale=1e-2"
    )
