"""The folder of a run is made once, has a summary, and its checkpoint is found."""

import json

import pytest
from omegaconf import OmegaConf

from lfads_torch.errors import ExistingFileError, MissingFileError, UserError
from lfads_torch.running.run_folder import (
    checkpoint_in_folder,
    checkpoint_of_run,
    make_run_dir,
    read_config,
    read_summary,
    write_summary,
)

CONFIG = OmegaConf.create({"datamodule": {"datafile_pattern": "data/my_*.h5"}, "seed": 3})


def test_a_new_folder_has_configuration_and_script(tmp_path):
    (script := tmp_path / "script.py").write_text("pass")
    folder = make_run_dir(CONFIG, tmp_path / "a" / "b", script=script)
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "script.py"]
    assert read_config(folder) == CONFIG
    with pytest.raises(ExistingFileError, match="--resume"):
        make_run_dir(CONFIG, folder)
    again = make_run_dir(CONFIG, folder, overwrite=True)
    assert again == folder
    assert (tmp_path / "a" / "b.1" / "script.py").exists()
    assert not (folder / "script.py").exists()


def test_the_default_folder_is_named_after_data_and_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = make_run_dir(CONFIG), make_run_dir(CONFIG)
    assert first.parent == second.parent == tmp_path / "runs" / "my_"
    assert first != second


def test_a_folder_that_is_not_that_of_a_run(tmp_path):
    for ask in (read_config, checkpoint_of_run):
        with pytest.raises(
            MissingFileError, match=r"not the folder of a run: it has no config\.yaml"
        ):
            ask(tmp_path)
    (tmp_path / "config.yaml").write_text("- a\n- b\n")
    with pytest.raises(UserError, match="must be a mapping"):
        read_config(tmp_path)


def test_the_checkpoint_of_a_run(tmp_path):
    folder = make_run_dir(CONFIG, tmp_path / "run")
    with pytest.raises(MissingFileError, match=r"no checkpoint .*last\.ckpt"):
        checkpoint_of_run(folder)
    (folder / "lightning_checkpoints").mkdir()
    (last := folder / "lightning_checkpoints" / "last.ckpt").touch()
    assert checkpoint_of_run(folder) == last
    write_summary(folder, {"best_checkpoint": "best.ckpt"})
    with pytest.raises(MissingFileError, match=r"best\.ckpt"):
        checkpoint_of_run(folder)
    (folder / "best.ckpt").touch()
    assert checkpoint_of_run(folder) == folder / "best.ckpt"
    write_summary(folder, {"best_checkpoint": None})
    assert checkpoint_of_run(folder) == last


def test_the_only_checkpoint_in_a_folder(tmp_path):
    with pytest.raises(MissingFileError, match="not a file and holds no"):
        checkpoint_in_folder(tmp_path)
    (one := tmp_path / "one.ckpt").touch()
    assert checkpoint_in_folder(tmp_path) == checkpoint_in_folder(one) == one
    (tmp_path / "two.ckpt").touch()
    with pytest.raises(UserError, match=r"holds 2 checkpoints: .*one\.ckpt.*two\.ckpt"):
        checkpoint_in_folder(tmp_path)
    assert checkpoint_in_folder(one) == one


def test_a_summary_is_never_incomplete(tmp_path):
    assert read_summary(tmp_path) == {}
    write_summary(tmp_path, {"epochs": 3})
    with pytest.raises(TypeError):
        write_summary(tmp_path, {"epochs": object()})
    assert read_summary(tmp_path) == {"epochs": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    assert json.loads((tmp_path / "summary.json").read_text()) == {"epochs": 3}
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json cannot be read"):
        read_summary(tmp_path)
