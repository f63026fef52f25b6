"""Early stopping with a burn-in period is the same as early stopping that begins later."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping

from lfads_torch.running.callbacks import EarlyStoppingWithBurnInPeriod

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")


class Script(pl.LightningModule):
    """Logs one of the given values in each epoch."""

    def __init__(self, values):
        super().__init__()
        self.values = values
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        self.log("metric", self.values[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Watch(pl.Callback):
    """Records the wait count and the best value of an early stopping after each epoch."""

    def __init__(self, stopping):
        self.stopping, self.seen = stopping, []

    def on_train_epoch_end(self, trainer, pl_module):
        self.seen.append((self.stopping.wait_count, float(self.stopping.best_score)))


def run_script(stopping, values, tmp_path, max_epochs=None, **options):
    watch = Watch(stopping)
    watch.on_train_end = watch.on_train_epoch_end  # after the callback that stops
    trainer = pl.Trainer(
        max_epochs=max_epochs or len(values),
        callbacks=[stopping, watch],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
        **{"enable_checkpointing": False, **options},
    )
    loader = torch.utils.data.DataLoader(torch.zeros(1), batch_size=1)
    trainer.fit(Script(values), loader, loader)
    return watch.seen, trainer.current_epoch


VALUES = [1.0, 0.5, 0.9, 3.0, 2.0, 2.5, 2.6, 1.5, 1.8, 1.7, 1.9, 1.2, 1.1]


@pytest.mark.parametrize("at_train_end", [True, False, None])
@pytest.mark.parametrize("burn_in", [0, 1, 3, 5])
def test_burn_in_is_a_plain_early_stopping_that_starts_later(burn_in, at_train_end, tmp_path):
    options = {"patience": 3, "mode": "min", "check_on_train_epoch_end": at_train_end}
    late = EarlyStoppingWithBurnInPeriod("metric", burn_in_period=burn_in, **options)
    seen, stopped = run_script(late, VALUES, tmp_path)
    plain = EarlyStopping("metric", **options)
    expected, expected_stop = run_script(plain, VALUES[burn_in:], tmp_path)
    untouched = (0, float("inf"))
    assert seen == [untouched] * burn_in + expected
    assert stopped == burn_in + expected_stop
    assert late.wait_count == plain.wait_count == 3
    assert late.best_score == plain.best_score


def test_burn_in_does_not_stop_at_a_non_finite_value(tmp_path):
    values = [float("nan"), float("inf"), 1.0, 2.0]
    stopping = EarlyStoppingWithBurnInPeriod("metric", 2, patience=9)
    assert run_script(stopping, values, tmp_path)[1] == 4
    assert run_script(EarlyStopping("metric", patience=9), values, tmp_path)[1] == 1


def test_wrong_metric_is_reported_during_burn_in(tmp_path):
    stopping = EarlyStoppingWithBurnInPeriod("metrik", burn_in_period=5)
    with pytest.raises(RuntimeError, match="metrik"):
        run_script(stopping, VALUES, tmp_path)
    lenient = EarlyStoppingWithBurnInPeriod("metrik", burn_in_period=1, strict=False)
    assert run_script(lenient, VALUES[:3], tmp_path)[1] == 3


def test_a_negative_period_is_refused():
    with pytest.raises(ValueError, match="burn_in_period must be at least 0, but is -1"):
        EarlyStoppingWithBurnInPeriod("x", -1)
