"""Align sessions that record different neurons in the same task, for one model of them all.

    python scripts/align_sessions.py 'datasets/mine/*.h5' --n-components 50

writes readin_weight and readout_bias into each file (or into copies, with --output-dir), from which
the read-ins and read-outs of model=multisession start. The files need train_cond_idx, with the same
conditions in all of them, and trials of equal length.
"""

import argparse
import shlex
import sys
from pathlib import Path


def main() -> int:
    """Parse the command line, align, and say what was done and what comes next."""
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
    parser.add_argument("--output-dir", help="write copies here, and leave the files alone")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier alignment, or earlier copies"
    )
    args = parser.parse_args()

    from lfads_torch.data.alignment import align_files

    try:
        aligned = align_files(
            args.sessions,
            args.n_components,
            args.smoothing_width,
            args.ridge_alpha,
            args.output_dir,
            args.overwrite,
        )
    except (ValueError, OSError) as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1

    width = max(len("session"), *(len(str(session.path)) for session in aligned))
    print(f"{'session':<{width}}  channels  trials  conditions     R2  variance kept")
    for session in aligned:
        print(
            f"{session.path!s:<{width}}  {session.n_channels:>8}  {session.n_trials:>6}  "
            f"{session.n_conditions:>10}  {session.score:5.3f}  {session.explained_variance:13.3f}"
        )
    print(
        "\nR2: how much of the shared components each session's PSTHs explain. Variance kept: how "
        "much of\nits PSTHs these hold. A session that falls far behind in either may have other "
        "conditions under\nthe same labels.\n"
    )
    print(_next(args.sessions, [session.path for session in aligned], args.n_components))
    return 0


def _next(patterns: list[str], paths: list[Path], n_components: int) -> str:
    """Return the command that trains on these files and on no others, if a pattern gives them."""
    from lfads_torch.datamodules import find_session_files
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
        except FileNotFoundError:
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


if __name__ == "__main__":
    sys.exit(main())
