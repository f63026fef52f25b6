"""run_model trains, and writes its files to the current folder."""

import pytest
import torch

from lfads_torch.running.training import run_model
from tests.conftest import TINY_SIZES


def test_run_model_works_in_the_current_folder(tmp_path, tiny_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = {
        "model": "generic", "datamodule": "generic",
        "datamodule.datafile_pattern": str(tiny_file), "trainer.max_epochs": 2,
        "posterior_sampling": {"fn": {"num_samples": 2}},
        "callbacks": ["checkpoint", "lr_monitor"], "+trainer.enable_progress_bar": False,
        **dict(word.split("=") for word in TINY_SIZES),
    }  # fmt: skip
    trained = run_model(overrides)
    assert (tmp_path / "csv_logs" / "metrics.csv").exists()
    assert trained.output_files[0].resolve() == (tmp_path / "lfads_output_sess0.h5").resolve()
    with pytest.raises(ValueError, match=r"holds 2 checkpoints.*last\.ckpt"):
        run_model(overrides, "lightning_checkpoints", do_train=False)
    (other := tmp_path / "other").mkdir()
    monkeypatch.chdir(other)
    loaded = run_model(overrides, trained.best_checkpoint, do_train=False)
    for key, value in trained.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value)
    with pytest.raises(FileNotFoundError, match="not a file and holds no"):
        run_model(overrides, other)
