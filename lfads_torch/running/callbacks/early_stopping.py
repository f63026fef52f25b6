"""Early stopping that begins after a number of epochs."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping

from lfads_torch.errors import UserError


class EarlyStoppingWithBurnInPeriod(EarlyStopping):
    """Early stopping that ignores the epochs of a burn-in period.

    The loss can increase while the weights of the penalties are raised. Epochs of the burn-in
    period therefore neither count towards the patience nor set the best value. A metric that does
    not exist is reported at once, not only after the burn-in period.

    Parameters
    ----------
    monitor
        Name of the metric.
    burn_in_period
        The number of epochs that are ignored, which is also the number of the first epoch that
        counts.
    **kwargs
        Arguments of :class:`pytorch_lightning.callbacks.EarlyStopping`.

    Raises
    ------
    UserError
        If ``burn_in_period`` is negative.
    """

    def __init__(self, monitor: str, burn_in_period: int = 0, **kwargs: Any) -> None:
        super().__init__(monitor, **kwargs)
        if burn_in_period < 0:
            raise UserError(
                f"EarlyStoppingWithBurnInPeriod: burn_in_period must be at least 0, but is "
                f"{burn_in_period}."
            )
        self.burn_in_period = burn_in_period

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the metric after a training epoch, if this callback checks it then."""
        if not self._is_burning_in(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the metric after a validation, if this callback checks it then."""
        if not self._is_burning_in(trainer):
            super().on_validation_end(trainer, pl_module)

    def _is_burning_in(self, trainer: pl.Trainer) -> bool:
        """Return whether the present epoch belongs to the burn-in period."""
        exists = self.monitor in trainer.callback_metrics
        return exists and trainer.current_epoch < self.burn_in_period
