"""The command of ``scripts/run_single.py``: train one model, or resume a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lfads_torch.cli.run_options import parse_run, start_or_resume


def main(
    description: str | None,
    script: str | Path,
    config_path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    run_dir: str | Path | None = None,
    config_dir: str | Path | None = None,
    overwrite: bool = False,
    words: Sequence[str] | None = None,
) -> int:
    """Parse the command line, run, and return the exit status.

    Parameters
    ----------
    description
        The text of ``--help``.
    script
        The file that is copied into the folder of the run.
    config_path, overrides, run_dir, config_dir, overwrite
        The options that the script sets, see :func:`lfads_torch.running.start.start_run`; the
        command line overrides them.
    words
        The arguments of the command line; by default those with which the script was called.
    """
    args = parse_run(description, config_path, config_dir, overwrite, words)

    # This is imported here, because it takes seconds and would delay --help.
    from lfads_torch.running.resume import resume_run
    from lfads_torch.running.start import start_run

    return start_or_resume(args, start_run, resume_run, overrides or {}, run_dir, script=script)
