"""The metrics and the duration of epochs are kept."""

import csv
import time

import pytest
import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger

from lfads_torch.running.callbacks import EpochHistory, Stopwatch
from tests.running.callbacks.training import fit, make_data, make_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")


def test_history_of_every_epoch(tmp_path):
    model, history = make_model(), EpochHistory()
    logger = CSVLogger(tmp_path, name="", version="csv_logs")
    fit(tmp_path, [], make_data(tmp_path), model, max_epochs=3, logger=[logger, history])
    assert sorted(history.rows) == [0, 1, 2]
    names = {"train/loss", "valid/loss", "valid/recon_smth", "valid/wt_kl/ramp", "epoch"}
    for epoch, row in history.rows.items():
        assert names <= set(row)
        assert row["epoch"] == epoch
        assert {type(value) for value in row.values()} == {float}
        assert not any(name.startswith("hp/") for name in row)
    with open(tmp_path / "csv_logs" / "metrics.csv", newline="") as file:
        logged = list(csv.DictReader(file))
    assert any(name.startswith("hp/") for name in logged[0])
    found = {
        (int(row["epoch"]), name): float(row[name]) for row in logged for name in names if row[name]
    }
    kept = {(epoch, name): row[name] for epoch, row in history.rows.items() for name in names}
    assert found == pytest.approx(kept)
    history.log_metrics({"no epoch": 1.0})
    assert len(history.rows) == 3


class Slow(pl.Callback):
    """Waits 20 ms in each part of a training."""

    def wait(self, *args, **kwargs):
        time.sleep(0.02)

    setup = on_fit_start = on_train_batch_start = on_validation_epoch_start = wait
    on_fit_end = teardown = wait


def test_stopwatch_measures_epochs_and_nothing_else(tmp_path):
    stopwatch = Stopwatch()
    start = time.perf_counter()
    fit(tmp_path, [stopwatch, Slow()], make_data(tmp_path), num_sanity_val_steps=0)
    whole = time.perf_counter() - start
    # Two epochs have two batches and one validation each. Four parts are outside of the epochs.
    assert 2 * 3 * 0.02 <= stopwatch.seconds <= whole - 4 * 0.02
