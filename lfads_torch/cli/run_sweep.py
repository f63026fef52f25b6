"""The command of ``scripts/run_multi.py`` and ``run_pbt.py``: a sweep, started or resumed."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lfads_torch.cli.run_options import parse_run, start_or_resume


def main(
    packaged_config: str,
    description: str | None,
    script: str | Path,
    config_path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    space: Mapping[str, Any] | None = None,
    run_dir: str | Path | None = None,
    config_dir: str | Path | None = None,
    overwrite: bool = False,
    words: Sequence[str] | None = None,
) -> int:
    """Parse the command line, search, and return the exit status.

    Parameters
    ----------
    packaged_config
        The packaged configuration of the script, ``multi.yaml`` or ``pbt.yaml``.
    description
        The text of ``--help``.
    script
        The file that is copied into the folder of the sweep.
    config_path, overrides, space, run_dir, config_dir, overwrite
        The options that the script sets, see :func:`lfads_torch.sweeps.search.run_sweep`; the
        command line overrides them. By default ``packaged_config`` is used.
    words
        The arguments of the command line; by default those with which the script was called.
    """
    args = parse_run(description, config_path, config_dir, overwrite, words)

    # This is imported here, because it takes seconds and would delay --help.
    from lfads_torch.running.compose import packaged_configs
    from lfads_torch.sweeps.search import resume_sweep, run_sweep

    return start_or_resume(
        args,
        partial(run_sweep, config_path=packaged_configs() / packaged_config),
        resume_sweep,
        overrides or {},
        run_dir,
        space=space,
        script=script,
    )
