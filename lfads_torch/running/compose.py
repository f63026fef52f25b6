"""Makes one complete, checked configuration from YAML files and overrides.

    find the primary file → compose with groups and overrides (Hydra) → resolve interpolations
    → checks → sizes from the data files → checks of the model

The packaged configurations are located from this package, and those of users by their paths.
"""

import copy
import glob
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lfads_torch.errors import MissingFileError, UserError, did_you_mean
from lfads_torch.running.checks import (
    check_complete,
    check_keys,
    check_model,
    drop_inherited_arguments,
    translate_trainer_arguments,
    warn_if_unregularised,
)
from lfads_torch.running.parts import defer_parts, hydra_overrides
from lfads_torch.running.sizes import infer_dimensions
from lfads_torch.utils import flatten

PACKAGE = Path(__file__).resolve().parents[1]

_HYDRA_LOCK = threading.RLock()
"""Hydra keeps its state in globals of the process, so only one thread may compose at a time."""
_IN_MEMORY = "in memory"
"""The name in error messages of a configuration that does not come from a file."""


def packaged_configs() -> Path:
    """Return the folder of the configurations that come with the library."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def register_resolvers() -> None:
    """Make ``${relpath:…}``, ``${max:…}`` and ``${sum:…}`` known to OmegaConf.

    ``relpath`` finds a path or glob pattern that is relative to the checkout, to the package or
    to the current folder, in this order.
    """
    OmegaConf.register_new_resolver("relpath", _relpath, replace=True)
    OmegaConf.register_new_resolver("max", lambda *numbers: max(numbers), replace=True)
    OmegaConf.register_new_resolver("sum", lambda *numbers: sum(numbers), replace=True)


def _relpath(path: str) -> str:
    """Return the first existing candidate for a relative path, see :func:`register_resolvers`."""
    folders = (PACKAGE.parent, PACKAGE, Path.cwd())
    candidates = [os.path.normpath(folder / path) for folder in folders]
    # A path that does not exist yet is placed in the checkout or, if the library was installed
    # without a checkout, in the current folder.
    default = candidates[0] if (PACKAGE.parent / "setup.py").is_file() else candidates[-1]
    return next(filter(glob.glob, candidates), default)


def find_config(config_path: str | Path) -> Path:
    """Return the absolute path of a configuration file.

    The path may be absolute, relative to the current folder, relative to the package's folder (as
    in the published implementation), or the name of a packaged file. These are tried in this
    order.

    Raises
    ------
    MissingFileError
        If the file is in none of these places.
    """
    candidates = [Path.cwd() / config_path, PACKAGE / config_path]
    candidates.append(packaged_configs() / Path(config_path).name)
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise MissingFileError(
        f"There is no configuration {str(config_path)!r}: none of "
        f"{[str(candidate) for candidate in candidates]} exists."
    )


def format_overrides(overrides: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Turn nested or dotted overrides into Hydra's ``key=value``, with values quoted as needed.

    Sequences of strings in that form are returned without changes.
    """
    if not isinstance(overrides, Mapping):
        return list(overrides)
    return [f"{key}={_hydra_value(value)}" for key, value in flatten(overrides).items()]


def _hydra_value(value: Any) -> str:
    """Write a value in the grammar of Hydra's overrides."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_hydra_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple | ListConfig):
        return "[" + ",".join(_hydra_value(item) for item in value) + "]"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if re.fullmatch(r"[\w./:@%+-]+|\$\{[\w.:,/-]+\}", text, re.ASCII):
        return text
    # In the grammar a backslash has a meaning only in front of a quote.
    escaped = re.sub(r'(\\*)"', lambda found: found.group(1) * 2 + '\\"', text)
    escaped = re.sub(r"(\\+)\Z", lambda found: found.group(1) * 2, escaped)
    return f'"{escaped}"'


def compose(
    config: str | Path | DictConfig | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    config_dir: str | Path | None = None,
) -> DictConfig:
    """Compose a configuration, fill in the sizes that follow from the data, and check it.

    Parameters
    ----------
    config
        The primary configuration: the path of a file, see :func:`find_config`, or a configuration
        in memory, which does not change. By default it is the packaged ``single.yaml``. The folder
        of the file is searched for groups (``model/…``) before the packaged folder.
    overrides
        A nested or dotted dictionary, or Hydra's ``key=value`` strings.
    config_dir
        A further folder, which is searched before all others for groups and, if it has a file of
        the same name, for the primary configuration.

    Returns
    -------
    DictConfig
        A configuration without interpolations and missing values.

    Raises
    ------
    MissingFileError
        If the configuration, the folder or the data do not exist.
    UserError
        If a key or an option is unknown, missing or contradicts the data.
    """
    resolved = compose_unresolved(config, overrides, config_dir)
    try:
        OmegaConf.resolve(resolved)
    except OmegaConfBaseException as error:
        name = _IN_MEMORY if isinstance(config, DictConfig) else config or "single.yaml"
        raise UserError(f"The configuration {name} cannot be resolved: {error}") from error
    check_complete(resolved)
    translate_trainer_arguments(resolved)
    if isinstance(resolved.get("model"), DictConfig):
        defer_parts(resolved.model)
    drop_inherited_arguments(resolved, _packaged_models())
    check_keys(resolved)
    infer_dimensions(resolved)
    check_model(resolved.model)
    warn_if_unregularised(resolved)
    return resolved


def compose_unresolved(
    config: str | Path | DictConfig | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    config_dir: str | Path | None = None,
) -> DictConfig:
    """Compose a configuration whose interpolations (``${…}``) are kept.

    Values still depend on each other in such a configuration, so it can be saved and composed again
    with other overrides. Parameters and errors are those of :func:`compose`, but nothing is filled
    in and nothing is checked.
    """
    register_resolvers()
    folders: list[Path] = []
    if config_dir is not None:
        folders.append(Path(config_dir).resolve())
        if not folders[0].is_dir():
            raise MissingFileError(f"There is no folder of configurations {config_dir}.")
    if not isinstance(config, DictConfig):
        primary = packaged_configs() / "single.yaml" if config is None else find_config(config)
        folders.append(primary.parent)
        if (folders[0] / primary.name).is_file():
            primary = folders[0] / primary.name
        config, name = _load(primary), primary.name
    else:
        config, name = copy.deepcopy(config), _IN_MEMORY
        OmegaConf.set_struct(config, False)
        OmegaConf.set_readonly(config, False)
    folders.append(packaged_configs())
    words = hydra_overrides(format_overrides(overrides))
    return _compose(config, name, words, folders)


def _load(path: Path) -> DictConfig:
    """Read a YAML file.

    Raises
    ------
    UserError
        If it is not YAML, or not a mapping of keys to values.
    """
    try:
        config = OmegaConf.load(path)
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"The configuration {path} cannot be read: {error}") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"The configuration {path} must be a mapping of keys to values.")
    return config


def _packaged_models() -> list[DictConfig]:
    """Return the packaged models from which models in configurations inherit."""
    names = ("base", "single_session", "multisession")
    return [_load(packaged_configs() / "model" / f"{name}.yaml") for name in names]


def _compose(
    config: DictConfig, name: str, overrides: list[str], folders: Sequence[Path]
) -> DictConfig:
    """Let Hydra compose a primary configuration, which error messages call ``name``."""
    searched = [f"file://{folder}" for folder in dict.fromkeys(folders)]
    # A search path in the configuration comes before the packaged folder, which is the last one.
    extra = OmegaConf.select(config, "hydra.searchpath") or []
    searched[-1:-1] = [str(folder) for folder in extra]
    words = [f"hydra.searchpath={_hydra_value(searched)}", *overrides]
    try:
        with _stored(config, name) as stored_name:
            return hydra.compose(stored_name, words)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        message = str(error).split("\nConfig search path")[0].strip()
        message = message.replace(_primary_name(name), name)
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        hint = _suggest_key(message, config, name, overrides, folders)
        raise UserError(
            f"The configuration {name} cannot be composed: {message}{cause}{hint}\n"
            f"Overrides: {overrides}. "
            f"Folders searched: {searched}."
        ) from error


@contextmanager
def _stored(config: DictConfig, name: str) -> Iterator[str]:
    """Initialise Hydra with a primary configuration in memory, and restore its state afterwards.

    Hydra finds the configuration by the name that the block receives. No file has this name, so
    groups and other primary configurations in the folders that are searched can still be found.
    """
    stored_name = _primary_name(name)
    with _HYDRA_LOCK:
        store = ConfigStore.instance()
        previous = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        store.store(stored_name, config)
        try:
            with hydra.initialize(config_path=None, version_base="1.3"):
                yield stored_name
        finally:
            del store.repo[f"{stored_name}.yaml"]
            GlobalHydra.instance().hydra = previous


def _primary_name(name: str) -> str:
    """Return the name under which Hydra finds a configuration in memory."""
    return f"{name} (primary)"


def _suggest_key(
    message: str,
    config: DictConfig,
    name: str,
    overrides: list[str],
    folders: Sequence[Path],
) -> str:
    """Return a sentence with the key nearest to a key that could not be overridden, if any.

    Hydra's message does not have the other keys, so the configuration is composed again without
    the faulty override.
    """
    unknown = re.match(r"Could not override '([^']+)'", message)
    if not unknown:
        return ""
    others = [word for word in overrides if not word.startswith(f"{unknown[1]}=")]
    if len(others) == len(overrides):
        return ""
    try:
        composed = _compose(config, name, others, folders)
    except UserError:  # the configuration has another mistake as well
        return ""
    keys: Any = OmegaConf.to_container(composed)
    return did_you_mean(unknown[1], flatten(keys))
