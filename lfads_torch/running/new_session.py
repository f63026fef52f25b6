"""Adds a recording session to a trained model, whose dynamics do not change.

In a model of several sessions only the read-ins, read-outs and reconstructions belong to a session
(Pandarinath et al. 2018, Nature Methods). For a new session only these three are trained, in a
model of this one session with a frozen copy of everything that the sessions share. They are then
appended to those of the other sessions, which have not changed.

    one_session_model → the fit of any trainer → append_session

:func:`add_session` does all three; :mod:`lfads_torch.running.new_session_run` does them in a
folder.
"""

import copy
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn

from lfads_torch.checkpoints import load_weights
from lfads_torch.data.sessions import SessionShapes, session_shapes
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.errors import MissingFileError, UserError
from lfads_torch.files import written_atomically
from lfads_torch.model import LFADS
from lfads_torch.modules.mlp_readout import MLPReadout
from lfads_torch.modules.readin_readout import MultisessionReadin, MultisessionReadout
from lfads_torch.modules.recons import Reconstruction, for_channels

ONE_SESSION_TARGETS = (
    "lfads_torch.running.new_session.one_session_model",
    "lfads_torch.new_session.one_session_model",
)
"""Names of :func:`one_session_model` in the ``config.yaml`` of a run that added a session.

The first is the present name, the second that of earlier versions.
"""

_SHARED = ("encoder", "decoder", "ic_prior", "co_prior")
_CHANGEABLE = ("dropout_rate", "loss_scale", "recon_reduce_mean", "weight_decay", "train_aug_stack",
               "lr_", "l2_", "kl_")  # fmt: skip
"""Prefixes of the hyperparameters that only concern training."""
_ENDED_RAMPS = {"l2_start_epoch": 0, "l2_increase_epoch": 0,
                "kl_start_epoch": 0, "kl_increase_epoch": 0}  # fmt: skip


def add_session(
    model: LFADS,
    data: str | Path | BasicDataModule,
    max_epochs: int = 200,
    patience: int = 50,
    pcr_init: bool = True,
    **changes: Any,
) -> LFADS:
    """Return a model with one more session, of which only the parts of the session are trained.

    The session's parts have the weights of the epoch with the best ``valid/recon_smth``. All other
    weights are exactly those of ``model``, which does not change.

    Parameters
    ----------
    model
        A trained model.
    data
        The file of the new session, with training and validation trials; or a data module of only
        this file, if you need its other arguments (such as ``batch_size``).
    max_epochs
        The largest number of epochs.
    patience
        Training stops after this number of epochs without improvement.
    pcr_init, **changes
        See :func:`one_session_model`.

    Returns
    -------
    LFADS
        A model whose last session is the new one. :func:`save_model` saves it.

    Raises
    ------
    MissingFileError, UserError
        See :func:`one_session_model`. It is also an error if the data module has several files.
    """
    if isinstance(data, BasicDataModule):
        datamodule = data
        datamodule.setup("fit")
        data_file, *others = datamodule.session_files
        if others:
            raise UserError(
                f"datamodule.datafile_pattern = {datamodule.hparams.datafile_pattern!r} matches "
                f"{1 + len(others)} files, but one session is added at a time."
            )
    else:
        data_file, t_ic = Path(data), model.hparams.ic_enc_seq_len
        datamodule = BasicDataModule(str(data_file), dm_ic_enc_seq_len=t_ic)
    one = one_session_model(model, data_file, pcr_init, **changes)
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="valid/recon_smth")
        trainer = pl.Trainer(
            max_epochs=max_epochs,
            callbacks=[best, EarlyStopping("valid/recon_smth", patience=patience)],
            gradient_clip_val=200,
            num_sanity_val_steps=0,
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(one, datamodule)
        load_weights(one, best.best_model_path)
    return append_session(model, one)


def one_session_model(
    model: LFADS | str | Path,
    data_file: str | Path,
    pcr_init: bool = True,
    trusted: Sequence[str] = (),
    **changes: Any,
) -> LFADS:
    """Return an untrained model of only a new session, with frozen copies of the shared parts.

    Encoder, decoder and priors are copies of those of a trained model and require no gradients:
    the optimiser does not get them, so that weight decay does not change them either, and their L2
    penalty is a constant. The parts of the session are new:

    - The read-in is linear, like those of the other sessions. If these are identities (in models of
      one session), it is an identity too, and the new session needs as many channels.
    - The read-out is linear. If that of session 0 is a multilayer perceptron, it is one with the
      same architecture.
    - The reconstruction is a copy of session 0's. If that has parameters for each channel
      (``recon_dim``), it is a new one with the same arguments.

    You may replace ``readin[0]``, ``readout[0]`` and ``recon[0]`` of the result by other modules
    before training.

    Parameters
    ----------
    model
        The trained model, or the path of its checkpoint.
    data_file
        The file of the new session.
    pcr_init
        Whether linear read-ins and read-outs start from ``readin_weight`` and ``readout_bias`` if
        the file has them (:mod:`lfads_torch.data.alignment`), rather than at random; see
        :class:`~lfads_torch.modules.readin_readout.MultisessionReadin`.
    trusted
        See :meth:`lfads_torch.model.LFADS.load_from_checkpoint`.
    **changes
        Hyperparameters that only concern training (``lr_init``, ``dropout_rate``, ``kl_ic_scale``,
        …), or ``train_aug_stack``. By default they are those of the trained model. Only the ramps
        of the penalties differ: they have already ended, since they are meant for untrained
        dynamics.

    Raises
    ------
    MissingFileError
        If the file or the checkpoint does not exist.
    UserError
        If bins, channels or inputs of the session's trials are not those of the model, or if a
        change does not only concern training.
    """
    if not isinstance(model, LFADS):
        model = LFADS.load_from_checkpoint(model, trusted=trusted)
    shapes = _fitting_shapes(model, data_file)
    for name, value in changes.items():
        if name not in (*model.hparams, "train_aug_stack"):
            raise UserError(f"model.{name} is not a hyperparameter of the model.")
        if not name.startswith(_CHANGEABLE) and value != model.hparams[name]:
            raise UserError(
                f"model.{name} = {value} cannot be chosen: the model was trained with "
                f"{model.hparams[name]}, and its shared weights do not change."
            )
    hps, pattern = model.hparams, str(data_file)
    recon = for_channels(model.recon[0], shapes.n_recon_channels)
    if _reads_as_is(model):
        readin: nn.Module = nn.Identity()
        aligned = False
    else:
        aligned = pcr_init and shapes.n_components is not None
        readin = MultisessionReadin(pattern, hps.encod_data_dim, aligned, requires_grad=True)[0]
    readout: nn.Module
    if isinstance(model.readout[0], MLPReadout):
        readout = model.readout[0].with_outputs(shapes.n_recon_channels * recon.n_params)
    else:
        readout = MultisessionReadout(pattern, hps.fac_dim, aligned, recon_params=recon.n_params)[0]
    one = _with_sessions(model, [readin], [readout], [recon], {**_ENDED_RAMPS, **changes})
    for name in _SHARED:
        getattr(one, name).requires_grad_(False)
    return one


def append_session(model: LFADS, one: LFADS) -> LFADS:
    """Return a model with the sessions of ``model``, followed by those of ``one``.

    Parameters
    ----------
    model
        The trained model; it is copied.
    one
        The model of :func:`one_session_model` after training.

    Raises
    ------
    UserError
        If the two do not share their encoder, decoder and priors.
    """
    for name in _SHARED:
        shared, other = (getattr(m, name).state_dict() for m in (model, one))
        if any(not torch.equal(shared[key], other[key].to(model.device)) for key in shared):
            raise UserError(
                f"The {name} of the new session's model is not that of the trained model: either "
                f"it was made from another one, or its training changed what is shared."
            )
    readin, readout, recon = (
        [*copy.deepcopy(getattr(model, name)), *copy.deepcopy(getattr(one, name))]
        for name in ("readin", "readout", "recon")
    )
    return _with_sessions(model, readin, readout, recon, {})


def save_model(model: LFADS, path: str | Path) -> Path:
    """Write a checkpoint from which ``LFADS.load_from_checkpoint`` rebuilds a model.

    It holds the weights and the description of the model, but not the state of the optimiser, so
    training cannot be continued from it.
    """
    checkpoint = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": pl.__version__,
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
    }
    model.on_save_checkpoint(checkpoint)
    with written_atomically(path) as temporary:
        torch.save(checkpoint, temporary)
    return Path(path)


def _fitting_shapes(model: LFADS, data_file: str | Path) -> SessionShapes:
    """Return the sizes of a session, or raise a UserError if its trials do not fit the model."""
    if not Path(data_file).is_file():
        raise MissingFileError(f"There is no data file {data_file} (looked from {Path.cwd()}).")
    shapes, hps = session_shapes(data_file), model.hparams
    found = (shapes.n_encod_bins, shapes.n_recon_bins)
    if found != (hps.encod_seq_len, hps.recon_seq_len):
        raise UserError(
            f"{data_file} has {found[0]} encoded and {found[1]} reconstructed time bins, but the "
            f"model was trained on {hps.encod_seq_len} and {hps.recon_seq_len}: cut and bin the "
            f"trials of the new session as those of the others."
        )
    if hps.ext_input_dim not in (0, shapes.n_ext_inputs):
        raise UserError(
            f"train_ext_input in {data_file} has {shapes.n_ext_inputs} inputs, but the model takes "
            f"{hps.ext_input_dim}."
        )
    n_channels = shapes.n_encod_channels
    if _reads_as_is(model) and n_channels != hps.encod_data_dim:
        raise UserError(
            f"train_encod_data in {data_file} has {n_channels} channels, but the model has no "
            f"read-in (torch.nn.Identity): its encoder sees the {hps.encod_data_dim} channels of "
            f"its own session directly. A model for further sessions with other neurons "
            f"needs linear read-ins: train one with model=multisession."
        )
    return shapes


def _reads_as_is(model: LFADS) -> bool:
    """Return whether the sessions' channels are the inputs of the encoder, without a read-in."""
    return all(isinstance(readin, nn.Identity) for readin in model.readin)


def _with_sessions(
    model: LFADS,
    readin: Iterable[nn.Module],
    readout: Iterable[nn.Module],
    recon: Iterable[Reconstruction],
    changes: Mapping[str, Any],
) -> LFADS:
    """Return a model with copies of a model's shared parts, other sessions and hyperparameters."""
    names = ("ic_prior", "co_prior", "train_aug_stack", "infer_aug_stack")
    shared = {name: copy.deepcopy(getattr(model, name)) for name in names}
    sessions = {"readin": readin, "readout": readout, "reconstruction": recon}
    parts = {name: copy.deepcopy(model._part(name)) for name in ("encoder", "decoder")}
    made = type(model)(**{**model.hparams, **shared, **parts, **changes, **sessions})
    for name in ("encoder", "decoder"):
        trained = getattr(model, name)
        if made.hparams.dropout_rate == model.hparams.dropout_rate:
            # The module is copied rather than its weights, so that modules put in by hand are kept.
            setattr(made, name, copy.deepcopy(trained))
        elif _classes(getattr(made, name)) == _classes(trained):
            getattr(made, name).load_state_dict(trained.state_dict())
        else:
            raise UserError(
                f"model.dropout_rate cannot be changed: modules of the trained model's {name} were "
                f"put in by hand, so that it cannot be built again with another rate."
            )
    return made.to(model.device).train()


def _classes(part: nn.Module) -> dict[str, type[nn.Module]]:
    """Return the class of every module in a part, by its name."""
    return {name: type(module) for name, module in part.named_modules()}
