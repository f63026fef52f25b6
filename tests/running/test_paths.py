"""Relative output paths of a configuration are in the folder of the run."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lfads_torch.running.paths import make_data_path_absolute, placed_in

CHECKPOINT = {"_target_": "pytorch_lightning.callbacks.ModelCheckpoint"}
CSV = {"_target_": "pytorch_lightning.loggers.CSVLogger"}
TRAINER = {"_target_": "pytorch_lightning.Trainer", "max_epochs": 3}
SAMPLING = {"_target_": "lfads_torch.post_run.analysis.run_posterior_sampling"}


def config(**sections):
    return OmegaConf.create({"trainer": TRAINER, **sections})


@pytest.mark.parametrize(
    ("given", "placed"),
    [
        ("lightning_checkpoints", "/runs/one/lightning_checkpoints"),
        (".", "/runs/one"),
        ("a/b", "/runs/one/a/b"),
        ("/elsewhere", "/elsewhere"),
        ("~/mine", "~/mine"),
        ("s3://bucket/run", "s3://bucket/run"),
    ],
)
def test_paths_of_every_kind(given, placed):
    node = config(
        trainer={**TRAINER, "default_root_dir": given,
                 "profiler": {"_target_": "pytorch_lightning.profilers.SimpleProfiler",
                              "dirpath": given, "filename": "profile"}},
        callbacks={"a": {**CHECKPOINT, "dirpath": given, "filename": "best-{epoch}"}},
        logger={"b": {**CSV, "save_dir": given, "name": "csv_logs"}},
        posterior_sampling={"use_best_ckpt": True, "fn": {**SAMPLING, "filename": given}},
    )  # fmt: skip
    before = OmegaConf.to_yaml(node)
    OmegaConf.set_struct(node, True)
    result = placed_in(node, "/runs/one")
    assert result.trainer.default_root_dir == placed
    assert result.trainer.profiler.dirpath == placed
    assert result.trainer.profiler.filename == "profile"
    assert result.callbacks.a.dirpath == placed
    assert result.callbacks.a.filename == "best-{epoch}"
    assert (result.logger.b.save_dir, result.logger.b.name) == (placed, "csv_logs")
    assert result.posterior_sampling.fn.filename == placed
    assert OmegaConf.to_yaml(node) == before


def test_the_trainer_writes_to_the_folder_by_default():
    for root in ({}, {"default_root_dir": None}):
        result = placed_in(config(trainer={**TRAINER, **root}), "/runs/one")
        assert result.trainer.default_root_dir == "/runs/one"


def test_other_values_do_not_change():
    sections = {
        "callbacks": {"a": {**CHECKPOINT, "dirpath": None}, "b": dict(CHECKPOINT)},
        "logger": {"c": {"_target_": "no.such.Logger"}, "d": {**CSV, "save_dir": 3}},
        "datamodule": {"_target_": "lfads_torch.datamodules.BasicDataModule", "save_dir": "x"},
    }
    result = placed_in(config(**sections), "/runs/one")
    for name in ("a", "b"):
        assert result.callbacks[name] == sections["callbacks"][name]
    assert result.logger.c == sections["logger"]["c"]
    assert result.datamodule == sections["datamodule"]
    assert "posterior_sampling" not in result
    empty = placed_in(OmegaConf.create({"callbacks": None, "logger": []}), "/runs/one")
    assert empty == {"callbacks": None, "logger": []}


class Logger:
    """A logger that writes to the current folder by default, as that of W&B does."""

    def __init__(self, project, save_dir="."):
        self.save_dir = save_dir


def test_a_logger_without_a_folder():
    node = {"_target_": f"{__name__}.Logger", "project": "mine"}
    result = placed_in(config(logger={"wandb": node}), "/runs/one")
    assert result.logger.wandb == {**node, "save_dir": "/runs/one"}


def test_relative_run_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = placed_in(config(), "runs/one")
    assert result.trainer.default_root_dir == str(tmp_path / "runs" / "one")


def test_data_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a1.h5").touch()
    node = OmegaConf.create(
        {
            "datamodule": {"datafile_pattern": "a*.h5"},
            "model": {"readin": {"datafile_pattern": "a*.h5"}, "readout": {"datafile_pattern": "b"},
                      "gen_dim": 3},
        }
    )  # fmt: skip
    make_data_path_absolute(node)
    assert node.datamodule.datafile_pattern == str(tmp_path / "a*.h5")
    assert node.model.readin.datafile_pattern == str(tmp_path / "a*.h5")
    assert node.model.readout.datafile_pattern == "b"
    missing = OmegaConf.create({"datamodule": {"datafile_pattern": "b*.h5"}, "model": {}})
    make_data_path_absolute(missing)
    assert missing.datamodule.datafile_pattern == "b*.h5"
