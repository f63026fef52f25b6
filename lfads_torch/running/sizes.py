"""Sizes of the model that follow from the data: numbers of channels, time bins and inputs."""

from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from lfads_torch.data.sessions import SessionShapes, find_session_files, session_shapes
from lfads_torch.errors import UserError
from lfads_torch.running.targets import takes


def infer_dimensions(config: DictConfig) -> None:
    """Fill in the sizes that follow from the data, and check those that are given, in place.

    These are ``model.{encod_data_dim, encod_seq_len, recon_seq_len, ext_input_dim}``, the
    features of read-ins and read-outs (as many as channels times parameters of the
    reconstruction), ``recon_dim`` and ``datamodule.dm_ic_enc_seq_len``. Data modules without a
    ``datafile_pattern`` are skipped.

    Raises
    ------
    UserError
        If a given size contradicts the data.
    """
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
    readins = _session_nodes(model, "readin", len(files))
    readouts = _session_nodes(model, "readout", len(files))
    recons = _session_nodes(model, "reconstruction", len(files))
    for i, (path, shapes) in enumerate(sessions):
        fill_or_check(model, "model.encod_seq_len", shapes.n_encod_bins, path)
        fill_or_check(model, "model.recon_seq_len", shapes.n_recon_bins, path)
        if readins:
            _infer_readin(model, readins[i], f"model.readin.{i}", shapes, path)
        # A reconstruction that is copied for each session gets the width of each session.
        copied = i > 0 and bool(recons) and recons[i] is recons[0]
        n_params = 1
        if recons:
            key = f"model.reconstruction.{i}"
            n_params = _infer_reconstruction(recons[i], key, copied, shapes, path)
        if readouts:
            key = f"model.readout.modules.{i}"
            _infer_readout(model, readouts[i], key, n_params, shapes, path)
        elif takes(model.get("readout"), "recon_params"):
            fill_or_check(model.readout, "model.readout.recon_params", n_params, path)
            aligned = takes(model.readout, "pcr_init") and model.readout.get("pcr_init", True)
            if aligned and shapes.n_components is not None:
                fill_or_check(model, "model.fac_dim", shapes.n_components, path)
        if not readins and takes(model.get("readin"), "pcr_init"):
            pcr_init = model.readin.get("pcr_init", True)
            inputs = shapes.n_components if pcr_init else model.readin.get("out_features")
            if inputs is not None:
                fill_or_check(model, "model.encod_data_dim", inputs, path)
        _infer_external_inputs(model, shapes, path)
    _match_leading_bins(model, datamodule)
    OmegaConf.set_struct(config, True)


def fill_or_check(
    node: DictConfig, key: str, required: int, source: Path | str, unit: str = ""
) -> None:
    """Set a size in a node to the value that is required, or check that it has this value.

    Parameters
    ----------
    node
        The part of the configuration that has the size.
    key
        The dotted key of the size, whose last part is its name in ``node``.
    required
        The value.
    source
        The file or key that requires it, for the error message.
    unit
        How the value follows from the number of channels, for the error message.

    Raises
    ------
    UserError
        If the size is given and has another value.
    """
    name = key.rpartition(".")[2]
    if node.get(name) is None:
        node[name] = required
    elif node[name] != required:
        channels = f" (channels{unit})" if unit else ""
        raise UserError(
            f"{key} = {node[name]}, but {source} asks for {required}{channels}. Leave {key} out to "
            f"have it follow, or change either."
        )


def _session_nodes(model: DictConfig, name: str, n_sessions: int) -> list[DictConfig]:
    """Return the configurations of a part for each session, or an empty list if one makes all."""
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


def _infer_readin(
    model: DictConfig, readin: DictConfig, key: str, shapes: SessionShapes, path: Path
) -> None:
    """Fill in the inputs of a session's read-in, or of the encoder if there is no read-in."""
    if takes(readin, "in_features"):
        fill_or_check(readin, f"{key}.in_features", shapes.n_encod_channels, path)
    elif str(readin.get("_target_")).endswith(".Identity"):
        fill_or_check(model, "model.encod_data_dim", shapes.n_encod_channels, path)


def _infer_reconstruction(
    recon: DictConfig, key: str, copied: bool, shapes: SessionShapes, path: Path
) -> int:
    """Fill in a reconstruction's width, and return its number of parameters for each channel."""
    if takes(recon, "recon_dim"):
        width = recon.get("recon_dim") if copied else None
        fill_or_check(recon, f"{key}.recon_dim", width or shapes.n_recon_channels, path)
    try:
        made: Any = hydra.utils.instantiate(recon, _convert_="all")
        return int(made.n_params)
    except (HydraException, AttributeError) as error:
        raise UserError(f"The reconstruction {key} cannot be made: {error}") from error


def _infer_readout(
    model: DictConfig,
    readout: DictConfig,
    key: str,
    n_params: int,
    shapes: SessionShapes,
    path: Path,
) -> None:
    """Fill in the inputs and outputs of a session's read-out."""
    if takes(readout, "in_features"):
        fill_or_check(readout, f"{key}.in_features", model.get("fac_dim"), "model.fac_dim")
    if takes(readout, "out_features"):
        width = shapes.n_recon_channels * n_params
        fill_or_check(readout, f"{key}.out_features", width, path, f" x {n_params} parameters")


def _infer_external_inputs(model: DictConfig, shapes: SessionShapes, path: Path) -> None:
    """Fill in the number of external inputs; a model with 0 ignores those of the data."""
    stated = model.get("ext_input_dim")
    if stated is None or (shapes.n_ext_inputs and stated != 0):
        fill_or_check(model, "model.ext_input_dim", shapes.n_ext_inputs, path)
    elif stated and not shapes.n_ext_inputs:
        raise UserError(
            f"model.ext_input_dim = {stated}, but {path} has no train_ext_input: add it to the "
            f"file, or set model.ext_input_dim to 0."
        )


def _match_leading_bins(model: DictConfig, datamodule: DictConfig) -> None:
    """Set the data module's number of bins that only the initial-condition encoder sees."""
    if not takes(datamodule, "dm_ic_enc_seq_len"):
        return
    t_ic = model.get("ic_enc_seq_len", 0)
    if datamodule.setdefault("dm_ic_enc_seq_len", t_ic) != t_ic:
        raise UserError(
            f"datamodule.dm_ic_enc_seq_len = {datamodule.dm_ic_enc_seq_len}, but "
            f"model.ic_enc_seq_len = {t_ic}: they must be equal. Leave the former out."
        )
