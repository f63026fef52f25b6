"""Composes the configuration of a sweep, and finds its checkpoint callbacks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.callbacks import Checkpoint

from lfads_torch.errors import UserError
from lfads_torch.running.compose import compose_unresolved, format_overrides, packaged_configs

FORMER_NUM_TRIALS = "num_samples"
"""The former name of ``sweep.num_trials``, which is also its name in Ray Tune."""


def compose_sweep(
    config_path: str | Path | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    config_dir: str | Path | None = None,
) -> DictConfig:
    """Compose the configuration of a sweep, whose values still refer to each other.

    A configuration without ``sweep``, such as the published ones, gets the packaged sweep with the
    name of its file (``pbt``), or otherwise ``random``. ``sweep.num_samples``, the former name of
    ``sweep.num_trials``, is accepted in files and overrides, and renamed.

    Parameters
    ----------
    config_path, overrides, config_dir
        See :func:`lfads_torch.running.compose.compose`. By default the configuration is the
        packaged ``pbt.yaml``.

    Raises
    ------
    FileNotFoundError, ValueError
        If the configuration cannot be found or composed, or if it gives both ``sweep.num_trials``
        and another ``sweep.num_samples``.
    """
    if config_path is None:
        config_path = packaged_configs() / "pbt.yaml"
    words = [_add_former_name(word) for word in format_overrides(overrides)]
    chosen = any(word.startswith(("sweep=", "+sweep=")) for word in words)
    if not chosen and _lacks_sweep(config_path, words, config_dir):
        words.insert(0, f"+sweep={'pbt' if Path(config_path).stem == 'pbt' else 'random'}")
    config = compose_unresolved(config_path, words, config_dir)
    _rename_num_trials(config)
    return config


def checkpoint_callbacks(config: DictConfig) -> dict[str, DictConfig]:
    """Return the nodes of those callbacks of a configuration that save checkpoints, by name."""
    nodes = {str(name): node for name, node in (config.get("callbacks") or {}).items()}
    return {name: node for name, node in nodes.items() if _saves_checkpoints(node)}


def _saves_checkpoints(node: DictConfig) -> bool:
    """Return whether a node makes a checkpoint callback of Lightning."""
    target = get_object(node._target_)
    return isinstance(target, type) and issubclass(target, Checkpoint)


def _lacks_sweep(
    config_path: str | Path, words: Sequence[str], config_dir: str | Path | None
) -> bool:
    """Return whether a configuration has no ``sweep`` before its overrides are applied."""
    others = [word for word in words if not word.lstrip("+~").startswith("sweep")]
    try:
        return "sweep" not in compose_unresolved(config_path, others, config_dir)
    except UserError:  # The caller composes with all overrides and reports the error.
        return False


def _add_former_name(word: str) -> str:
    """Let an override add ``sweep.num_samples``, which packaged configurations do not have."""
    return f"++{word}" if word.startswith(f"sweep.{FORMER_NUM_TRIALS}=") else word


def _rename_num_trials(config: DictConfig) -> None:
    """Rename ``sweep.num_samples`` to ``sweep.num_trials``, in place.

    Packaged sweeps set ``num_trials`` to ``num_samples`` if that is given, so that the two differ
    only if the user has given both.
    """
    sweep = config.get("sweep")
    if not isinstance(sweep, DictConfig) or FORMER_NUM_TRIALS not in sweep:
        return
    number = sweep[FORMER_NUM_TRIALS]
    given = None if OmegaConf.is_missing(sweep, "num_trials") else sweep.get("num_trials")
    if given not in (None, number):
        raise UserError(
            f"sweep.num_trials = {given}, but sweep.{FORMER_NUM_TRIALS} = {number}, which is its "
            f"former name: give one of them."
        )
    with open_dict(sweep):
        sweep.num_trials = number
        del sweep[FORMER_NUM_TRIALS]
