"""Inference: applies a trained model to trials that it was not trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lfads_torch.data.schema import MANDATORY_KEYS
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.errors import MissingFileError, UserError
from lfads_torch.model import LFADS
from lfads_torch.modules.mlp_readout import MLPReadout
from lfads_torch.running.run_folder import checkpoint_of_run, read_config
from lfads_torch.running.training import Run, sample
from lfads_torch.tuples import SessionBatch

INFERRED = "inferred"
"""The subfolder of a run that :func:`infer` writes to."""


def infer(
    run_dir: str | Path,
    data_file: str | Path,
    session: int | None = None,
    checkpoint: str | Path | None = None,
    output: str | Path | None = None,
    num_samples: int = 50,
    save_std: bool = False,
    save_samples: bool = False,
    trusted: Sequence[str] = (),
) -> Path:
    """Infer rates, factors and inputs of further trials of a session that a run was trained on.

    Nothing is trained: the trained read-in, encoder, decoder and read-out are applied to the trials
    (Pandarinath et al. 2018, Nature Methods). The random number generators are seeded as in the
    run, so that a model of one session reproduces the run's output from the run's trials.
    Windows of a continuous recording (:mod:`lfads_torch.data.windows`) are also merged, into
    ``…_continuous.h5`` in the folder of the output.

    Parameters
    ----------
    run_dir
        The folder of the run.
    data_file
        The HDF5 file with the trials of one or more splits; ``test_encod_data`` (trials, T_enc,
        N_enc) is enough. Bins and channels must be those of training.
    session
        The session of the model to which the trials belong; optional if there is only one.
    checkpoint
        The file with the weights; by default those with the best ``valid/recon_smth``, see
        :func:`~lfads_torch.running.run_folder.checkpoint_of_run`.
    output
        Path of the output, to which ``_sess{S}`` is added before the suffix; by default
        ``inferred/{data}.h5`` in the folder of the run. An earlier file of that name is renamed.
    num_samples, save_std, save_samples
        See :func:`lfads_torch.running.sampling.run_posterior_sampling`, which also describes the
        content of the output.
    trusted
        See :meth:`lfads_torch.model.LFADS.load_from_checkpoint`.

    Returns
    -------
    Path
        The output.

    Raises
    ------
    MissingFileError
        If the run, the checkpoint or the data file does not exist.
    UserError
        If bins, channels or inputs of the trials are not those of the model, if the model has
        several sessions and none is named, or if ``num_samples`` is less than 1.
    """
    run_dir, data_file = Path(run_dir), Path(data_file)
    if not data_file.is_file():
        raise MissingFileError(f"There is no data file {data_file} (looked from {Path.cwd()}).")
    weights = checkpoint_of_run(run_dir) if checkpoint is None else checkpoint
    model = LFADS.load_from_checkpoint(weights, trusted=trusted)
    n_sessions = len(model.readin)
    if session is None and n_sessions > 1:
        raise UserError(
            f"The model in {run_dir} has {n_sessions} sessions: say which of them, 0 to "
            f"{n_sessions - 1}, the trials in {data_file} are from."
        )
    session = session or 0
    if not 0 <= session < n_sessions:
        raise UserError(
            f"There is no session {session} in the model in {run_dir}: it has {n_sessions}, "
            f"counted from 0."
        )
    config: Any = read_config(run_dir)
    datamodule = BasicDataModule(
        str(data_file),
        batch_size=config.datamodule.get("batch_size", 64),
        sv_rate=config.datamodule.get("sv_rate", 0.0),
        sv_seed=config.datamodule.get("sv_seed", 0),
        dm_ic_enc_seq_len=model.hparams.ic_enc_seq_len,
    )
    datamodule.setup("predict")
    for split in MANDATORY_KEYS:
        for batch, _ in getattr(datamodule, f"{split}_data"):
            _check_fits(model, session, batch, split, data_file)
    sampling = {
        "_target_": "lfads_torch.running.sampling.run_posterior_sampling",
        "filename": str(output or run_dir / INFERRED / f"{data_file.stem}.h5"),
        "num_samples": num_samples,
        "save_std": save_std,
        "save_samples": save_samples,
        "sessions": [session],
    }
    config.posterior_sampling = {"fn": sampling}
    run = Run(model, datamodule)
    sample(config, run)
    return run.output_files[0]


def _check_fits(model: LFADS, session: int, batch: SessionBatch, split: str, path: Path) -> None:
    """Raise a UserError if the model cannot infer from these trials."""
    hps, readin, readout = model.hparams, model.readin[session], model.readout[session]
    n_params = model.recon[session].n_params
    n_encod = hps.encod_data_dim if isinstance(readin, nn.Identity) else _size(readin, "in")
    n_recon = _size(readout, "out")
    expected = {
        "encod_data": (hps.encod_seq_len, n_encod),
        "recon_data": (hps.recon_seq_len, None if n_recon is None else n_recon // n_params),
    }
    for field, (n_bins, n_channels) in expected.items():
        data = getattr(batch, field)
        if field == "recon_data" and not data.numel():
            continue  # Targets are not needed for inference.
        if data.shape[1] != n_bins or n_channels not in (None, data.shape[2]):
            raise UserError(
                f"{split}_{field} in {path} has {data.shape[1]} time bins and {data.shape[2]} "
                f"channels, but session {session} of the model was trained on {n_bins} bins"
                f"{f' and {n_channels} channels' if n_channels else ''}: the trials must be cut, "
                f"binned and sorted as those were. (Is it another session?)"
            )
    n_inputs = 0 if batch.ext_input is None else batch.ext_input.shape[2]
    if hps.ext_input_dim not in (0, n_inputs):
        raise UserError(
            f"{split}_ext_input in {path} has {n_inputs} inputs, but the model takes "
            f"{hps.ext_input_dim}."
        )
    if torch.isinf(batch.encod_data).any():
        raise UserError(f"{split}_encod_data in {path} holds infinite values.")
    missing = batch.encod_data.isnan().any()
    if missing and model.infer_aug_stack.process_batch(batch).encod_data.isnan().any():
        raise UserError(
            f"{batch.encod_data.isnan().float().mean():.2%} of {split}_encod_data in {path} are "
            f"NaN, and the model was trained without a transform that handles missing samples "
            f"(lfads_torch.modules.augmentations.SelectiveBackpropThruTime)."
        )


def _size(module: nn.Module, end: str) -> int | None:
    """Return the size of a module's input (``"in"``) or output (``"out"``), or None if unknown."""
    known = isinstance(module, nn.Linear | MLPReadout)
    return getattr(module, f"{end}_features") if known else None
