"""Keeps the hyperparameters of a model that continues from the checkpoint of another model."""

from typing import Any

import pytorch_lightning as pl
import torch


class ApplyHyperparameters(pl.Callback):
    """Keeps the hyperparameters of a model when it loads the checkpoint of another model.

    The states of an optimiser and of a learning-rate scheduler contain their settings. A model that
    continues from the checkpoint of another model, as in population-based training, would therefore
    take over its settings. This callback keeps the moments of the optimiser and restores the
    model's own settings. If a scheduler has lowered the learning rate of the checkpoint, its ratio
    to ``lr_init`` is kept. Parameters that are not trained, such as the variance of a prior, are
    settings too.
    """

    def __init__(self) -> None:
        self._lr_init_of_checkpoint: float | None = None
        self._fixed: dict[str, torch.Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Before a checkpoint is loaded, copy the parameters that are not trained."""
        self._fixed = {
            name: parameter.detach().clone()
            for name, parameter in pl_module.named_parameters()
            if not parameter.requires_grad
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore these parameters, and remember the initial learning rate of the checkpoint."""
        self._lr_init_of_checkpoint = checkpoint["hyper_parameters"]["lr_init"]
        parameters = dict(pl_module.named_parameters())
        for name, value in self._fixed.items():
            parameters[name].data.copy_(value)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the settings of the optimiser and of the learning-rate scheduler."""
        if self._lr_init_of_checkpoint is None:
            return
        configured: Any = pl_module.configure_optimizers()
        optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
        for group, own in zip(
            trainer.optimizers[0].param_groups, optimizer.param_groups, strict=True
        ):
            if group["lr"] == self._lr_init_of_checkpoint:
                learning_rate = own["lr"]
            else:
                learning_rate = group["lr"] * (own["lr"] / self._lr_init_of_checkpoint)
            settings = {key: value for key, value in own.items() if key != "params"}
            group.update(settings, lr=learning_rate)
        for config in trainer.lr_scheduler_configs:
            scheduler = configured["lr_scheduler"]["scheduler"]
            for name in ("factor", "patience", "min_lrs"):
                setattr(config.scheduler, name, getattr(scheduler, name))
