"""Trials of the trainer's data module, and what the model infers about them during training."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from numpy.typing import NDArray

from lfads_torch.data.conditions import trial_conditions
from lfads_torch.data.trials import SessionDataset
from lfads_torch.tuples import SessionBatch, SessionOutput
from lfads_torch.utils import send_batch_to_device


class InferredTrials(NamedTuple):
    """Trials of a session and what the model infers about them."""

    batch: SessionBatch
    """The trials as they are in the data; NaN marks missing samples."""
    output: SessionOutput
    """The output for the means of the posteriors; ``output_params`` are means."""

    @property
    def data(self) -> NDArray[Any]:
        """(B, T, N) data to reconstruct, or the encoded data if there are no others."""
        recon, encod = self.batch.recon_data, self.batch.encod_data
        return as_array(recon if recon.numel() else encod)


def infer_trials(
    trainer: pl.Trainer,
    model: pl.LightningModule,
    split: str,
    session: int,
    trials: NDArray[Any],
) -> InferredTrials:
    """Infer trials from the means of the posteriors.

    Training is not affected: the state of the random number generators and the mode of every module
    are restored afterwards.

    Parameters
    ----------
    trainer
        A trainer that is running, and whose data module is a
        :class:`~lfads_torch.datamodules.BasicDataModule`.
    model
        The model that it trains.
    split
        ``"train"``, ``"valid"`` or ``"test"``.
    session
        The session.
    trials
        (B,) indices of the trials in this split of the session.

    Returns
    -------
    InferredTrials
        The trials and the output.
    """
    batch, extras = datasets_of(trainer, split)[session][torch.as_tensor(trials)]
    precision = trainer.precision_plugin
    on_device = precision.convert_input(send_batch_to_device((batch, extras), model.device))
    modes = {module: module.training for module in model.modules()}
    cuda = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.no_grad(), precision.forward_context():
        model.eval()
        try:
            output = model.predict_step({session: on_device}, 0, sample_posteriors=False)[session]
        finally:
            for module, mode in modes.items():
                module.training = mode
    return InferredTrials(batch, output)


def datasets_of(trainer: pl.Trainer, split: str) -> Sequence[SessionDataset]:
    """Return the trials of each session, or none if the trainer has no BasicDataModule."""
    return getattr(getattr(trainer, "datamodule", None), f"{split}_ds", [])


def conditions_of(trainer: pl.Trainer, split: str, session: int) -> NDArray[Any] | None:
    """Return the condition of each trial of a session, or None if the data have no conditions.

    They are the data's ``{split}_cond_idx``, which is named among the ``attr_keys`` of the data
    module or, as ``cond_idx``, among its ``batch_keys``.
    """
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
    datasets = datasets_of(trainer, split)
    hps = datamodule.hparams
    cond_idx = getattr(datamodule, f"{split}_cond_idx", None)
    if cond_idx is not None and len(datasets) > 1:
        cond_idx = cond_idx[session]
    elif cond_idx is None and "cond_idx" in hps.batch_keys:
        extra = datasets[session].extra_tensors[list(hps.batch_keys).index("cond_idx")]
        cond_idx = extra.numpy() if extra.numel() else None
    n_trials = len(datasets[session])
    if cond_idx is not None and hps.reshuffle_tv_seed is not None and len(cond_idx) != n_trials:
        return None  # indices of trials, which are not valid once the trials are shuffled
    return trial_conditions(cond_idx, n_trials)


def as_array(tensor: Any) -> Any:
    """Return a tensor as an array of floats in the memory of the CPU, and None as None."""
    return None if tensor is None else tensor.detach().cpu().float().numpy()
