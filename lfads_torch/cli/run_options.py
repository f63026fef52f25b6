"""The command line that training and sweeps share: overrides, the folder, resuming.

This module imports nothing that would delay ``--help``.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lfads_torch.cli.command import reporting_user_errors


def parse_run(
    description: str | None,
    config_path: str | Path | None,
    config_dir: str | Path | None,
    overwrite: bool,
    words: Sequence[str] | None = None,
) -> argparse.Namespace:
    """Parse the command line of a script that makes a run folder.

    Parameters
    ----------
    description
        The text of ``--help``.
    config_path, config_dir, overwrite
        Defaults of the options.
    words
        The arguments of the command line; by default those with which the script was called.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--resume", metavar="RUN_DIR", help="continue the run in this folder")
    parser.add_argument(
        "--config-path", default=config_path, help="primary configuration (the packaged one)"
    )
    parser.add_argument("--config-dir", default=config_dir, help="folder that is searched first")
    parser.add_argument(
        "--overwrite", action="store_true", default=overwrite, help="rename an existing run_dir"
    )
    return parser.parse_intermixed_args(words)


def split_run_dir(
    words: Sequence[str], run_dir: str | Path | None = None
) -> tuple[list[str], str | Path | None]:
    """Return the overrides among the arguments, and the value of the last ``run_dir=…``.

    Without a ``run_dir=…`` among the arguments, ``run_dir`` is returned.
    """
    overrides = [word for word in words if not word.startswith("run_dir=")]
    run_dirs = [word.removeprefix("run_dir=") for word in words if word not in overrides]
    return overrides, run_dirs[-1] if run_dirs else run_dir


def start_or_resume(
    args: argparse.Namespace,
    start: Callable[..., Any],
    resume: Callable[..., Any],
    overrides: Mapping[str, Any],
    run_dir: str | Path | None,
    **options: Any,
) -> int:
    """Start or resume a run as the command line asks, and return the exit status.

    A user's mistake is printed in one line, see
    :func:`lfads_torch.cli.command.reporting_user_errors`.

    Parameters
    ----------
    args
        The parsed command line, see :func:`parse_run`.
    start, resume
        :func:`lfads_torch.running.start.start_run` and
        :func:`lfads_torch.running.resume.resume_run`, or the functions of
        :mod:`lfads_torch.sweeps.search` for sweeps. ``start`` is called without a ``config_path``
        if none is given, and then uses its own default.
    overrides, run_dir
        The settings of the script, over which the command line takes precedence. They are not
        applied to a run that is resumed.
    **options
        Further arguments of ``start``.
    """
    # This is imported here, because it takes seconds and would delay --help.
    from lfads_torch.running.compose import format_overrides

    words, run_dir = split_run_dir(args.overrides, run_dir)
    if args.config_path is not None:
        options["config_path"] = args.config_path
    with reporting_user_errors() as outcome:
        if args.resume:
            resume(args.resume, words)
        else:
            start(
                [*format_overrides(overrides), *words],
                run_dir=run_dir,
                config_dir=args.config_dir,
                overwrite=args.overwrite,
                **options,
            )
    return outcome.status
