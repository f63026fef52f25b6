"""Output paths of a run: relative paths in a configuration are in the folder of the run.

Configurations name files relative to the folder of their run (``dirpath: lightning_checkpoints``,
``save_dir: .``), and so does the ``config.yaml`` that is saved in it. Therefore the folder can be
moved or renamed, and the run can still be resumed. The path of the folder is an argument when a run
starts, and :func:`placed_in` makes the other paths absolute in memory. The current folder of the
process never changes.
"""

import copy
import glob
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from lfads_torch.running.targets import find_targets, import_target, parameters_of

FOLDER_ARGUMENTS = ("dirpath", "save_dir")
"""Arguments of callbacks, loggers and profilers that are output folders."""


def placed_in(config: DictConfig, run_dir: str | Path) -> DictConfig:
    """Return a copy of a configuration whose relative output paths are in the folder of a run.

    These are ``trainer.default_root_dir`` (by default the folder itself, to which the user's
    callbacks should write too), ``dirpath`` and ``save_dir`` of callbacks, loggers and the
    trainer's profiler, and ``filename`` in ``posterior_sampling``. Absolute paths, URLs and paths
    in the home folder (``~``) do not change.

    Parameters
    ----------
    config
        A configuration without interpolations, as :func:`~lfads_torch.running.compose.compose`
        returns it.
    run_dir
        The folder of the run; it need not exist yet.
    """
    folder = Path(run_dir).absolute()
    placed = copy.deepcopy(config)
    for section in ("trainer", "callbacks", "logger"):
        for _, node in find_targets(placed.get(section)):
            _place_arguments(node, FOLDER_ARGUMENTS, folder)
    for _, node in find_targets(placed.get("posterior_sampling")):
        _place_arguments(node, ("filename",), folder)
    for _, node in find_targets(placed.get("logger")):
        _place_default(node, folder)
    if isinstance(placed.get("trainer"), DictConfig):
        with open_dict(placed.trainer):
            root = placed.trainer.get("default_root_dir") or "."
            placed.trainer.default_root_dir = _anchored(root, folder)
    return placed


def make_data_path_absolute(config: DictConfig) -> None:
    """Make the path of the data absolute, in place, if it is relative to the current folder.

    A run that is resumed later may be started from another folder.
    """
    pattern = config.datamodule.get("datafile_pattern")
    if pattern and glob.glob(str(pattern)):
        absolute = str(Path(pattern).absolute())
        for node in (config.datamodule, *config.model.values()):
            if isinstance(node, DictConfig) and node.get("datafile_pattern") == pattern:
                node.datafile_pattern = absolute


def _place_arguments(node: DictConfig, names: tuple[str, ...], folder: Path) -> None:
    """Make those of the named arguments that a node has absolute."""
    for name in names:
        if node.get(name) is not None:
            with open_dict(node):
                node[name] = _anchored(node[name], folder)


def _place_default(node: DictConfig, folder: Path) -> None:
    """Make the default folder of a logger absolute (W&B's is ``.``), if no folder is given."""
    try:
        parameter = parameters_of(import_target(node._target_, "logger")).get("save_dir")
    except (ValueError, TypeError):  # If the logger cannot be made, training warns of it.
        return
    default: Any = None if parameter is None else parameter.default
    if "save_dir" not in node and isinstance(default, str):
        with open_dict(node):
            node.save_dir = _anchored(default, folder)


def _anchored(path: Any, folder: Path) -> str:
    """Return the absolute path of a path that is relative to a folder."""
    text = str(path)
    return text if "://" in text or text.startswith("~") else str(folder / text)
