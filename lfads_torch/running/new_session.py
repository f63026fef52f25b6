"""A further recording session for a trained model, whose dynamics stay as they are.

Of a model of several sessions only the read-ins, read-outs and reconstructions belong to a session
(Pandarinath et al. 2018, Nature Methods). So a new day is a matter of these three: they are fitted
to the new session in a model of its own, with a frozen copy of everything that sessions share, and
then join those of the other sessions, which no training has touched.

    one_session_model → any trainer's fit → append_session

:func:`add_session` does all three, :func:`run_new_session` does them in a folder.
"""

import copy
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn

from lfads_torch.analysis.figures import plot_run
from lfads_torch.checkpoints import describe, load_checkpoint
from lfads_torch.datamodules import BasicDataModule, SessionShapes, session_shapes
from lfads_torch.errors import MissingFileError, UserError
from lfads_torch.model import LFADS, PARTS
from lfads_torch.modules.readin_readout import MultisessionReadin, MultisessionReadout
from lfads_torch.modules.recons import Reconstruction, for_channels
from lfads_torch.running.compose import compose
from lfads_torch.running.inference import checkpoint_of
from lfads_torch.running.run_folder import (
    CONFIG,
    make_run_dir,
    report,
    training_summary,
    working_in,
    write_summary,
)
from lfads_torch.running.sampling import validation_scores
from lfads_torch.running.training import build, fit, sample

MODEL = "model.ckpt"
"""In the folder of a run that added a session: the model with all sessions."""

_SHARED = ("encoder", "decoder", "ic_prior", "co_prior")
_CHANGEABLE = ("dropout_rate", "loss_scale", "recon_reduce_mean", "weight_decay", "train_aug_stack",
               "lr_", "l2_", "kl_")  # fmt: skip
_RAMPS_OVER = {"l2_start_epoch": 0, "l2_increase_epoch": 0,
               "kl_start_epoch": 0, "kl_increase_epoch": 0}  # fmt: skip


def add_session(
    model: LFADS,
    data: str | Path | BasicDataModule,
    max_epochs: int = 200,
    patience: int = 50,
    pcr_init: bool = True,
    **changes: Any,
) -> LFADS:
    """Return a model with one session more, whose own parts are fitted and nothing else.

    The session's parts are the best ones by ``valid/recon_smth``. The weights of everything else
    are those of ``model``, which is left as it is, bit by bit.

    Parameters
    ----------
    model
        A trained model.
    data
        The file of the new session, with trials to train and to validate on; or a data module with
        this file alone, to say more (``batch_size``, say).
    max_epochs
        Epochs at most.
    patience
        Epochs without improvement to stop after.
    pcr_init, **changes
        See :func:`one_session_model`.

    Returns
    -------
    LFADS
        With the new session as the last one. :func:`save_model` saves it.

    Raises
    ------
    FileNotFoundError, ValueError
        See :func:`one_session_model`.
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
        one.load_state_dict(load_checkpoint(best.best_model_path)["state_dict"])
    return append_session(model, one)


def one_session_model(
    model: LFADS | str | Path,
    data_file: str | Path,
    pcr_init: bool = True,
    trusted: Sequence[str] = (),
    **changes: Any,
) -> LFADS:
    """Return a model of a new session alone, to be trained, in which all that is shared is frozen.

    Encoder, decoder and priors are copies of those of a trained model, without gradients: the
    optimiser, and so weight decay, does not know of them, and their L2 penalty is a constant. The
    session's own parts are new:

    - The read-in is linear, as the other sessions' are. Where these are identities (of models of
      one session) it is one too, and the new session needs as many channels.
    - The read-out is linear.
    - The reconstruction is a copy of session 0's, or, where it has parameters for each channel
      (``recon_dim``), a new one like it.

    ``one.readin[0]`` and so on may be replaced by a module of your own before the training.

    Parameters
    ----------
    model
        The trained model, or the path of its checkpoint.
    data_file
        The file of the new session.
    pcr_init
        Start linear read-ins and read-outs from ``readin_weight`` and ``readout_bias`` where the
        file has them (:mod:`lfads_torch.data.alignment`), rather than at random; see
        :class:`~lfads_torch.modules.readin_readout.MultisessionReadin`.
    trusted
        Of :meth:`lfads_torch.model.LFADS.load_from_checkpoint`.
    **changes
        Hyperparameters that say how to train (``lr_init``, ``dropout_rate``, ``kl_ic_scale``, …),
        or ``train_aug_stack``. By default they are those of the trained model, except that the
        ramps of the penalties are over from the start: they are for untrained dynamics.

    Raises
    ------
    ValueError
        If the session's trials do not fit the model, or a change is not one of how to train.
    """
    if not isinstance(model, LFADS):
        model = LFADS.load_from_checkpoint(model, trusted=trusted)
    shapes = _fitting_shapes(model, data_file)
    for name, value in changes.items():
        if name not in (*model.hparams, "train_aug_stack"):
            raise UserError(f"model.{name} is no hyperparameter of the model.")
        if not name.startswith(_CHANGEABLE) and value != model.hparams[name]:
            raise UserError(
                f"model.{name} = {value} cannot be chosen: the model was trained with "
                f"{model.hparams[name]}, and its shared weights stay as they are."
            )
    hps, pattern = model.hparams, str(data_file)
    recon = for_channels(model.recon[0], shapes.n_recon_channels)
    if _reads_as_is(model):
        readin: nn.Module = nn.Identity()
        aligned = False
    else:
        aligned = pcr_init and shapes.n_components is not None
        readin = MultisessionReadin(pattern, hps.encod_data_dim, aligned, requires_grad=True)[0]
    readout = MultisessionReadout(pattern, hps.fac_dim, aligned, recon_params=recon.n_params)[0]
    one = _with_sessions(model, [readin], [readout], [recon], {**_RAMPS_OVER, **changes})
    for name in _SHARED:
        getattr(one, name).requires_grad_(False)
    return one


def append_session(model: LFADS, one: LFADS) -> LFADS:
    """Return a model with the sessions of ``model`` and, behind them, those of ``one``.

    Parameters
    ----------
    model
        The trained model; it is copied.
    one
        What became of :func:`one_session_model` in training.

    Raises
    ------
    ValueError
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

    It holds the weights and how to make the model, but no state of a training to go on with.
    """
    checkpoint = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": pl.__version__,
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
    }
    model.on_save_checkpoint(checkpoint)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)
    return path


def run_new_session(
    trained_run: str | Path,
    data_file: str | Path,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    run_dir: str | Path | None = None,
    checkpoint: str | Path | None = None,
    pcr_init: bool = True,
    overwrite: bool = False,
    script: str | Path | None = None,
    trusted: Sequence[str] = (),
) -> Path:
    """Add a session to the model of a run, in a folder of its own.

    The folder is like that of :func:`lfads_torch.running.run_folder.run_single`: configuration, logs and
    checkpoints are those of :func:`one_session_model` in training. ``model.ckpt`` is the model
    with all sessions, and ``lfads_output_sess{S}.h5`` what it infers about the new one.

    Parameters
    ----------
    trained_run
        The folder of the run. Its trainer, callbacks, loggers and data module are used.
    data_file
        The file of the new session.
    overrides
        Of the run's configuration, and of what :func:`one_session_model` lets change
        (``model.lr_init=1e-3``).
    run_dir, overwrite, script
        See :func:`lfads_torch.running.run_folder.run_single`.
    checkpoint
        The weights; by default the best ones, see :func:`lfads_torch.running.inference.checkpoint_of`.
    pcr_init, trusted
        See :func:`one_session_model`.

    Returns
    -------
    Path
        The new folder.

    Raises
    ------
    FileExistsError
        If the new folder exists and is not empty.
    FileNotFoundError, ValueError
        If the run, the data or the overrides are not usable; then no folder is made.
    """
    weights = checkpoint_of(trained_run) if checkpoint is None else Path(checkpoint)
    model = LFADS.load_from_checkpoint(weights, trusted=trusted)
    one = one_session_model(model, data_file, pcr_init)
    arguments = {
        "_target_": f"{__name__}.{one_session_model.__name__}",
        "model": str(weights.absolute()),
        "data_file": str(Path(data_file).absolute()),
        "pcr_init": pcr_init,
        "trusted": list(trusted),
        **one.hparams,
        "train_aug_stack": describe(one.train_aug_stack),
    }
    session = len(model.readin)
    config = _configure(Path(trained_run), arguments, session, overrides)
    build(config)  # a mistake in the overrides is reported before there is a folder
    run_dir = make_run_dir(config, run_dir, overwrite, script)
    with working_in(run_dir):
        run = build(config)
        start = time.monotonic()
        fit(config, run)
        run.model = append_session(model, run.model)
        run.best_checkpoint = save_model(run.model, Path(MODEL).absolute())
        summary = training_summary(run, time.monotonic() - start) | {"session": session}
        write_summary(run_dir, summary)
        sample(config, run)
        summary["scores"] = [validation_scores(run.model, run.output_files[0], session)]
        write_summary(run_dir, summary)
        pictures = plot_run(run_dir)
    files = [*run.output_files, *run.continuous_files]
    report(run_dir, summary, [run.best_checkpoint, *files, *pictures])
    return run_dir


def _configure(
    trained_run: Path,
    arguments: Mapping[str, Any],
    session: int,
    overrides: Mapping[str, Any] | Sequence[str],
) -> DictConfig:
    """Return a run's configuration with another model, another file and overrides."""
    config: Any = OmegaConf.load(trained_run / CONFIG)
    config.model = dict(arguments)
    config.datamodule.datafile_pattern = arguments["data_file"]
    config.posterior_sampling.fn.sessions = [session]
    for callback in (config.get("callbacks") or {}).values():
        if "burn_in_period" in callback:
            callback.burn_in_period = 0  # that of the ramps
    with tempfile.TemporaryDirectory() as folder:
        OmegaConf.save(config, Path(folder, CONFIG))
        return compose(Path(folder, CONFIG), overrides)


def _fitting_shapes(model: LFADS, data_file: str | Path) -> SessionShapes:
    """Return the sizes of a session, or raise an error if its trials do not fit the model."""
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
            f"its own session as they are. A model that is to take on sessions with other neurons "
            f"needs linear read-ins: train one with model=multisession."
        )
    return shapes


def _reads_as_is(model: LFADS) -> bool:
    return all(isinstance(readin, nn.Identity) for readin in model.readin)


def _with_sessions(
    model: LFADS,
    readin: Iterable[nn.Module],
    readout: Iterable[nn.Module],
    recon: Iterable[Reconstruction],
    changes: Mapping[str, Any],
) -> LFADS:
    """Make a model with what sessions of another one share, and with these sessions."""
    sessions = {"readin": readin, "readout": readout, "reconstruction": recon}
    shared = {name: copy.deepcopy(model._part(name)) for name in PARTS if name not in sessions}
    made = type(model)(**{**model.hparams, **shared, **changes, **sessions})
    # These are also copies of what was put into the model by hand.
    made.encoder = copy.deepcopy(model.encoder)
    made.decoder = copy.deepcopy(model.decoder)
    return made.to(model.device).train()
