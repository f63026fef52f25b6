"""The optimiser of a model, and the schedule of its learning rate."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from lfads_torch import utils

MONITOR = "valid/recon_smth"
"""The metric that the schedule watches."""


def make_optimiser(
    parameters: Sequence[Tensor], hps: Any, trainer: pl.Trainer | None
) -> OptimizerLRScheduler:
    """Return AdamW, with ReduceLROnPlateau if ``lr_scheduler`` is True.

    Parameters
    ----------
    parameters
        The parameters to train.
    hps
        The model's hyperparameters.
    trainer
        The trainer, if there is one.
    """
    optimiser = torch.optim.AdamW(
        parameters,
        lr=hps.lr_init,
        betas=(hps.lr_adam_beta1, hps.lr_adam_beta2),
        eps=hps.lr_adam_epsilon,
        weight_decay=hps.weight_decay,
        fused=True if _may_be_fused(parameters, trainer) else None,
    )
    if not hps.lr_scheduler:
        return optimiser
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser,
        factor=hps.lr_decay,
        patience=hps.lr_patience,
        threshold=0.0,
        min_lr=hps.lr_stop,
    )
    return {
        "optimizer": optimiser,
        "lr_scheduler": {"scheduler": scheduler, "monitor": MONITOR},
    }


def _may_be_fused(parameters: Sequence[Tensor], trainer: pl.Trainer | None) -> bool:
    """Return whether AdamW may use its fused kernel, which PyTorch does not choose on a CPU.

    Under mixed precision, Lightning does not clip the gradients of an optimiser that uses it.
    """
    plugin = None if trainer is None else trainer.precision_plugin
    on_cpu = all(utils.on_cpu(parameter) for parameter in parameters)
    return on_cpu and not isinstance(plugin, MixedPrecision)


def plateau_schedules(trainer: pl.Trainer) -> list[Any]:
    """Return the schedules that watch the smoothed validation loss after every epoch."""
    return [
        config.scheduler
        for config in trainer.lr_scheduler_configs
        if config.reduce_on_plateau
        and config.monitor == MONITOR
        and (config.interval, config.frequency) == ("epoch", 1)
    ]
