"""A logger that cannot be made does not stop training."""

import pytest

from lfads_torch.running.training import run_model
from tests.running.runs import words


def test_a_broken_logger_does_not_stop_training(tmp_path, tiny_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broken = "+logger.broken={_target_: pytorch_lightning.loggers.NoSuchLogger}"
    with pytest.warns(UserWarning, match="logger.broken"):
        run_model(words(tiny_file, "trainer.max_epochs=1", broken, "callbacks=[checkpoint]"))
    assert (tmp_path / "csv_logs" / "metrics.csv").exists()
