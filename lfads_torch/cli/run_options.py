"""What the command lines of scripts have in common. It imports nothing that would delay --help."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MISTAKES = (ValueError, OSError, ImportError)
"""Errors that say all that a user has to know; of others the traceback is shown."""


def parse_run(
    description: str | None,
    config_path: str | Path,
    config_dir: str | Path | None,
    overwrite: bool,
    words: Sequence[str] | None = None,
) -> argparse.Namespace:
    """Parse the command line of a script that makes a run folder.

    Parameters
    ----------
    description
        The script's docstring.
    config_path, config_dir, overwrite
        Defaults of the options.
    words
        By default those that the script was called with.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--resume", metavar="RUN_DIR", help="continue what was begun there")
    parser.add_argument("--config-path", default=config_path, help="primary configuration")
    parser.add_argument("--config-dir", default=config_dir, help="folder searched first")
    parser.add_argument("--overwrite", action="store_true", default=overwrite)
    return parser.parse_intermixed_args(words)


def split_run_dir(
    words: Sequence[str], run_dir: str | Path | None = None
) -> tuple[list[str], str | Path | None]:
    """Return the overrides among words, and the last ``run_dir=…`` (or what it is without)."""
    overrides = [word for word in words if not word.startswith("run_dir=")]
    run_dirs = [word.removeprefix("run_dir=") for word in words if word not in overrides]
    return overrides, run_dirs[-1] if run_dirs else run_dir


def start_or_resume(
    args: argparse.Namespace,
    start: Callable[..., Any],
    resume: Callable[..., Any],
    overrides: Mapping[str, Any],
    run_dir: str | Path | None,
    mistakes: tuple[type[Exception], ...] = MISTAKES,
    **options: Any,
) -> int:
    """Run what a command line asks for, report mistakes, and return the exit status.

    Parameters
    ----------
    args
        What :func:`parse_run` returned.
    start, resume
        :func:`lfads_torch.running.run_folder.run_single` and :func:`lfads_torch.running.run_folder.resume_single`, or those of
        :mod:`lfads_torch.sweeps.search`.
    overrides, run_dir
        What the script says, which words of the command line override.
    mistakes
        Errors that are reported in one line.
    **options
        More arguments of ``start``.
    """
    from lfads_torch.running.compose import format_overrides

    words, run_dir = split_run_dir(args.overrides, run_dir)
    try:
        if args.resume:
            resume(args.resume, words)
        else:
            start(
                [*format_overrides(overrides), *words],
                run_dir=run_dir,
                config_path=args.config_path,
                config_dir=args.config_dir,
                overwrite=args.overwrite,
                **options,
            )
    except mistakes as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        print(f"\n{str(interruption) or 'Interrupted.'}", file=sys.stderr)
        return 130
    return 0
