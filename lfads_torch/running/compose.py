"""Configurations: from YAML files and overrides to one complete, checked configuration.

The packaged configurations are found from this package, a user's own from wherever they are.
Sizes that the data impose are read from the data files.
"""

import difflib
import glob
import inspect
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lfads_torch.errors import MissingFileError, UserError
from lfads_torch.running.parts import defer_parts, hydra_overrides
from lfads_torch.utils import flatten

PACKAGE = Path(__file__).resolve().parents[1]
_HYDRA_KEYS = ("_target_", "_convert_", "_recursive_", "_partial_", "_args_")


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
    folders = (PACKAGE.parent, PACKAGE, Path.cwd())
    candidates = [os.path.normpath(folder / path) for folder in folders]
    # Where there is nothing yet, a path in the checkout is meant, or without one in this folder.
    default = candidates[0] if (PACKAGE.parent / "setup.py").is_file() else candidates[-1]
    return next(filter(glob.glob, candidates), default)


def find_config(config_path: str | Path) -> Path:
    """Return the absolute path of a configuration file.

    It may be absolute, relative to the current folder, relative to the package's folder (as the
    published implementation has it), or name a packaged file; tried in this order.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    candidates = [Path.cwd() / config_path, PACKAGE / config_path]
    candidates.append(packaged_configs() / Path(config_path).name)
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise MissingFileError(
        f"There is no configuration {str(config_path)!r}: neither of "
        f"{[str(candidate) for candidate in candidates]} exists."
    )


def format_overrides(overrides: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Turn nested or dotted overrides into Hydra's ``key=value``, with values quoted as needed.

    Sequences of ready-made overrides are returned as they are.
    """
    if not isinstance(overrides, Mapping):
        return list(overrides)
    return [f"{key}={_hydra_value(value)}" for key, value in flatten(overrides).items()]


def _hydra_value(value: Any) -> str:
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
    # Backslashes count only in front of quotes.
    escaped = re.sub(r'(\\*)"', lambda found: found.group(1) * 2 + '\\"', text)
    escaped = re.sub(r"(\\+)\Z", lambda found: found.group(1) * 2, escaped)
    return f'"{escaped}"'


def compose(
    config_path: str | Path = "../configs/single.yaml",
    overrides: Mapping[str, Any] | Sequence[str] = (),
    config_dir: str | Path | None = None,
) -> DictConfig:
    """Compose a configuration, fill in what the data impose, and check it.

    Parameters
    ----------
    config_path
        The primary configuration, see :func:`find_config`. Its folder is searched first for
        groups (``model/…``), the packaged folder behind it.
    overrides
        Nested or dotted dictionary, or Hydra's ``key=value`` strings.
    config_dir
        A folder of one's own that is searched before everything else, for groups and, where it
        has one, for the primary configuration.

    Returns
    -------
    DictConfig
        Without interpolations and missing values.

    Raises
    ------
    FileNotFoundError
        If the configuration, the folder or the data are not there.
    ValueError
        If a key or an option is unknown, missing or contradicts the data.
    """
    config = compose_unresolved(config_path, overrides, config_dir)
    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise UserError(f"The configuration {config_path} cannot be resolved: {error}") from error
    _check_complete(config)
    _modernise_trainer(config)
    if isinstance(config.get("model"), DictConfig):
        defer_parts(config.model)
    _drop_inherited_arguments(config)
    _check_keys(config)
    infer_dimensions(config)
    _check_model(config.model)
    _warn_if_unregularised(config)
    return config


def compose_unresolved(
    config_path: str | Path,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    config_dir: str | Path | None = None,
) -> DictConfig:
    """Compose a configuration whose values still follow each other.

    Such a configuration can be saved and composed again with other overrides. Parameters and
    exceptions are those of :func:`compose`; nothing is filled in and nothing checked.
    """
    register_resolvers()
    primary = find_config(config_path)
    folders = [primary.parent, packaged_configs()]
    if config_dir is not None:
        own = Path(config_dir).resolve()
        if not own.is_dir():
            raise MissingFileError(f"There is no folder of configurations {config_dir}.")
        folders.insert(0, own)
        if (own / primary.name).is_file():
            primary = own / primary.name
    words = hydra_overrides(format_overrides(overrides))
    with tempfile.TemporaryDirectory() as main:
        # Hydra looks in the folder of the primary configuration before all others.
        shutil.copy(primary, Path(main, f"{primary.stem}.yaml"))
        return _compose(Path(main), primary.stem, words, folders)


def _compose(main: Path, name: str, overrides: list[str], folders: Sequence[Path]) -> DictConfig:
    searched = [f"file://{folder}" for folder in dict.fromkeys(folders)]
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        # A search path of the user's own comes before the packaged folder, which is the last.
        own = OmegaConf.select(OmegaConf.load(main / f"{name}.yaml"), "hydra.searchpath") or []
        searched[-1:-1] = [str(folder) for folder in own]
        search = f"hydra.searchpath={_hydra_value(searched)}"
        with hydra.initialize_config_dir(str(main), version_base="1.3"):
            return hydra.compose(name, [search, *overrides])
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        message = str(error).split("\nConfig search path")[0].strip()
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        hint = _did_you_mean(message, main, name, overrides, folders)
        raise UserError(
            f"The configuration {name}.yaml cannot be composed: {message}{cause}{hint}\n"
            f"Overrides: {overrides}. "
            f"Folders searched: {searched}."
        ) from error
    finally:
        GlobalHydra.instance().hydra = outer


def _did_you_mean(
    message: str, main: Path, name: str, overrides: list[str], folders: Sequence[Path]
) -> str:
    """Name the key nearest to one that could not be overridden, since it does not exist."""
    unknown = re.match(r"Could not override '([^']+)'", message)
    if not unknown:
        return ""
    others = [word for word in overrides if not word.startswith(f"{unknown[1]}=")]
    if len(others) == len(overrides):
        return ""
    try:
        config = _compose(main, name, others, folders)
    except ValueError:  # it is not the only fault
        return ""
    keys = flatten(OmegaConf.to_container(config))  # type: ignore[arg-type]
    near = difflib.get_close_matches(unknown[1], keys, n=1)
    return f" Did you mean {near[0]}?" if near else ""


# ---------------------------------------------------------------- what the data impose


def infer_dimensions(config: DictConfig) -> None:
    """Fill in the sizes that the data impose and check those that are given, in place.

    These are ``model.{encod_data_dim, encod_seq_len, recon_seq_len, ext_input_dim}``, the
    features of read-ins and read-outs (as many as channels times parameters of the
    reconstruction), ``recon_dim`` and ``datamodule.dm_ic_enc_seq_len``. Data modules without a
    ``datafile_pattern`` are left alone.

    Raises
    ------
    ValueError
        If a given size is not that of the data.
    """
    from lfads_torch.datamodules import find_session_files, session_shapes

    model, datamodule = config.get("model"), config.get("datamodule")
    if not isinstance(model, DictConfig) or not isinstance(datamodule, DictConfig):
        raise UserError(
            "The configuration needs a model and a datamodule: choose them, as in "
            "model=generic datamodule=generic datamodule.datafile_pattern=FILE."
        )
    if "datafile_pattern" not in datamodule:
        return
    if not datamodule.datafile_pattern:
        raise UserError(
            "datamodule.datafile_pattern is missing: give the path of an HDF5 file, or a pattern "
            "that matches one file for each session."
        )
    files = find_session_files(datamodule.datafile_pattern)
    sessions = [(path, session_shapes(path)) for path in files]
    OmegaConf.set_struct(config, False)
    readins = _per_session(model, "readin", len(files))
    readouts = _per_session(model, "readout", len(files))
    recons = _per_session(model, "reconstruction", len(files))

    for i, (path, shapes) in enumerate(sessions):
        _settle(model, "model.encod_seq_len", shapes.n_encod_bins, path)
        _settle(model, "model.recon_seq_len", shapes.n_recon_bins, path)
        if readins:
            readin, key = readins[i], f"model.readin.{i}"
            if _takes(readin, "in_features"):
                _settle(readin, f"{key}.in_features", shapes.n_encod_channels, path)
            elif str(readin.get("_target_")).endswith(".Identity"):
                _settle(model, "model.encod_data_dim", shapes.n_encod_channels, path)
        n_params = 1
        if recons:
            recon = recons[i]
            if _takes(recon, "recon_dim"):
                key = f"model.reconstruction.{i}.recon_dim"
                # One that is copied for each session becomes as wide as the session.
                width = recon.get("recon_dim") if i and recon is recons[0] else None
                _settle(recon, key, width or shapes.n_recon_channels, path)
            n_params = _n_params(recon, f"model.reconstruction.{i}")
        if readouts:
            readout, key = readouts[i], f"model.readout.modules.{i}"
            if _takes(readout, "in_features"):
                _settle(readout, f"{key}.in_features", model.get("fac_dim"), "model.fac_dim")
            if _takes(readout, "out_features"):
                width = shapes.n_recon_channels * n_params
                _settle(readout, f"{key}.out_features", width, path, f" x {n_params} parameters")
        elif _takes(model.get("readout"), "recon_params"):
            _settle(model.readout, "model.readout.recon_params", n_params, path)
            aligned = _takes(model.readout, "pcr_init") and model.readout.get("pcr_init", True)
            if aligned and shapes.n_components is not None:
                _settle(model, "model.fac_dim", shapes.n_components, path)
        if not readins and _takes(model.get("readin"), "pcr_init"):
            pcr_init = model.readin.get("pcr_init", True)
            inputs = shapes.n_components if pcr_init else model.readin.get("out_features")
            if inputs is not None:
                _settle(model, "model.encod_data_dim", inputs, path)
        if shapes.n_ext_inputs or model.get("ext_input_dim") is None:
            if model.get("ext_input_dim") != 0:
                _settle(model, "model.ext_input_dim", shapes.n_ext_inputs, path)
        elif model.ext_input_dim:
            raise UserError(
                f"model.ext_input_dim = {model.ext_input_dim}, but {path} has no train_ext_input: "
                f"add it to the file, or set model.ext_input_dim to 0."
            )
    if _takes(datamodule, "dm_ic_enc_seq_len"):
        t_ic = model.get("ic_enc_seq_len", 0)
        if datamodule.setdefault("dm_ic_enc_seq_len", t_ic) != t_ic:
            raise UserError(
                f"datamodule.dm_ic_enc_seq_len = {datamodule.dm_ic_enc_seq_len}, but "
                f"model.ic_enc_seq_len = {t_ic}: they must be equal. Leave the former out."
            )
    OmegaConf.set_struct(config, True)


def _per_session(model: DictConfig, name: str, n_sessions: int) -> list[DictConfig]:
    """Return the configurations of a part, one a session; none if one object makes them all."""
    node = model.get(name)
    if isinstance(node, DictConfig) and isinstance(node.get("recon"), DictConfig):
        return [node.recon] * n_sessions
    if isinstance(node, DictConfig):
        node = node.get("modules")
    if not isinstance(node, ListConfig):
        return []
    if len(node) != n_sessions:
        raise UserError(
            f"model.{name} has {len(node)} entries, but datamodule.datafile_pattern matches "
            f"{n_sessions} file(s): one entry for each session is needed."
        )
    return list(node)


def _takes(node: Any, argument: str) -> bool:
    """Tell whether what a configuration makes takes an argument."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return False
    return argument in _parameters(_locate(node._target_, "model"))


def _parameters(target: Any) -> dict[str, inspect.Parameter]:
    """Return the arguments that something takes."""
    # Modules without a constructor of their own inherit one that takes anything, and refuses it.
    if getattr(getattr(target, "__init__", None), "__qualname__", "") == "Module.__init__":
        return {}
    return dict(inspect.signature(target).parameters)


def _n_params(recon: DictConfig, key: str) -> int:
    """Return how many parameters a reconstruction has for each channel."""
    try:
        return int(hydra.utils.instantiate(recon, _convert_="all").n_params)
    except (HydraException, AttributeError) as error:
        raise UserError(f"{key} is no reconstruction that can be made: {error}") from error


def _settle(node: DictConfig, key: str, found: int, path: Path | str, unit: str = "") -> None:
    """Set the last part of ``key`` in ``node`` to what was found, or check that it is that."""
    name = key.rpartition(".")[2]
    if node.get(name) is None:
        node[name] = found
    elif node[name] != found:
        what = f" (channels{unit})" if unit else ""
        raise UserError(
            f"{key} = {node[name]}, but {path} asks for {found}{what}. Leave {key} out to have it "
            f"follow, or change either."
        )


# ---------------------------------------------------------------- checks


def _locate(target: str, key: str) -> Any:
    try:
        return hydra.utils.get_object(target)
    except Exception as error:
        raise UserError(f"{key} = {target!r} cannot be imported: {error}") from error


def _targets(node: Any, key: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Yield every node that makes an object, with its key."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield key, node
        for name in node:
            yield from _targets(node[name], f"{key}.{name!s}".lstrip("."))
    elif isinstance(node, ListConfig):
        for i, item in enumerate(node):
            yield from _targets(item, f"{key}.{i}")


def _check_complete(config: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"The configuration leaves out {', '.join(missing)}: give their values.")


def _check_keys(config: DictConfig) -> None:
    """Raise a ValueError for arguments that are unknown."""
    # A logger that cannot be made is no reason not to train: see run_model. What a sweep is made of
    # is checked where it is made, and its space has keys of its own.
    names = [str(name) for name in config if name not in ("logger", "sweep")]
    checked = OmegaConf.masked_copy(config, names)
    for key, node in _targets(checked):
        parameters = _parameters(_locate(node._target_, f"{key}._target_"))
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            continue
        for name in (str(name) for name in node if name not in _HYDRA_KEYS):
            if name not in parameters:
                near = difflib.get_close_matches(name, parameters, n=1)
                hint = f" Did you mean {near[0]}?" if near else ""
                raise UserError(
                    f"{key}.{name} is no argument of {node._target_}.{hint} It takes: "
                    f"{', '.join(parameters)}."
                )


def _check_model(model: DictConfig) -> None:
    """Raise a ValueError if the model lacks arguments that the data do not give."""
    if "_target_" not in model:
        raise UserError("The model's configuration leaves out _target_: lfads_torch.model.LFADS.")
    parameters = _parameters(_locate(model._target_, "model._target_"))
    lacking = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is not parameter.VAR_KEYWORD
        and model.get(name) is None
    ]
    if lacking:
        raise UserError(
            f"The model's configuration leaves out {', '.join(lacking)}. Start from the packaged "
            f"model/base.yaml (defaults: [base, _self_]), which has them all."
        )


def _drop_inherited_arguments(config: DictConfig) -> None:
    """Take from parts with another class than in the packaged models what only the latter takes.

    Composition merges a user's part into that of base.yaml, single_session.yaml or
    multisession.yaml, arguments included.
    """
    if not isinstance(config.get("model"), DictConfig):
        return
    folder = packaged_configs() / "model"
    bases: list[Any] = [
        OmegaConf.load(folder / f"{name}.yaml")
        for name in ("base", "single_session", "multisession")
    ]
    for key, node in _targets(config.model):
        parts = [base.get(key) for base in bases]
        others = [
            part
            for part in parts
            if isinstance(part, DictConfig) and part._target_ != node._target_
        ]
        if not others:
            continue
        parameters = _parameters(_locate(node._target_, f"model.{key}._target_"))
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            continue
        with open_dict(node):
            for name in {str(name) for part in others for name in part}:
                if name in node and name not in (*_HYDRA_KEYS, *parameters):
                    del node[name]


def _modernise_trainer(config: DictConfig) -> None:
    """Translate the trainer's arguments of Lightning 1.6 that are gone, with a warning."""
    trainer = config.get("trainer")
    if not isinstance(trainer, DictConfig):
        return
    gone = (
        "gpus",
        "track_grad_norm",
        "weights_summary",
        "progress_bar_refresh_rate",
        "resume_from_checkpoint",
        "checkpoint_callback",
        "auto_select_gpus",
    )
    with open_dict(trainer):
        dropped = {name: trainer.pop(name) for name in gone if name in trainer}
        if not dropped:
            return
        if "gpus" in dropped:
            trainer.setdefault("accelerator", "gpu" if dropped["gpus"] else "cpu")
            trainer.setdefault("devices", dropped["gpus"] or 1)
    warnings.warn(
        f"Today's Lightning has no trainer.{', trainer.'.join(dropped)}: they are ignored"
        f"{' except that gpus chooses the accelerator' if 'gpus' in dropped else ''}.",
        stacklevel=3,
    )


def _warn_if_unregularised(config: DictConfig) -> None:
    model = config.model
    scales = [name for name in model if re.fullmatch(r"(l2|kl)_\w+_scale", str(name))]
    if scales and model.get("variational") and not any(model[name] for name in scales):
        warnings.warn(
            "All L2 and KL scales of the model are 0: it trains without regularisation. This file "
            "is meant for sweeps; for a single run set, say, model.kl_ic_scale=1e-5 "
            "model.kl_co_scale=1e-5, or use model=generic.",
            stacklevel=3,
        )
