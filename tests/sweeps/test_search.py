"""Starting and resuming a sweep, up to the search itself."""

import dataclasses

import pytest
from omegaconf import OmegaConf

from lfads_torch.running.run_folder import write_summary
from lfads_torch.sweeps.history import append_history
from lfads_torch.sweeps.options import SweepOptions
from lfads_torch.sweeps.search import resume_sweep, run_sweep
from lfads_torch.sweeps.space import HyperParam
from tests.sweeps.conftest import PBT, Started, words


def test_space_given_in_python(data, tmp_path, searched):
    space = {
        "model.lr_init": HyperParam(1e-4, 1e-2, explore_wt=0.4),
        "model.gen_dim": [16, 32],
        "model.fac_dim": {"grid": [2, 3]},
    }
    with pytest.raises(Started):
        run_sweep(words(data), tmp_path / "run", PBT, space=space)
    made = searched[-1][2]
    assert made.space == {**space, "model.gen_dim": {"choice": [16, 32]}}
    again = SweepOptions.from_config(OmegaConf.load(tmp_path / "run" / "config.yaml"))
    assert again == made
    assert len(made.id) == 12
    with pytest.raises(ValueError, match=r"model\.lr_init must be a HyperParam, a list.*but is 3"):
        run_sweep(words(data), tmp_path / "other", PBT, space={"model.lr_init": 3})


def test_the_path_of_the_data_becomes_absolute(data, tmp_path, searched, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Started):
        run_sweep(words("tiny.h5"), "run", PBT)
    assert searched[-1][1].datamodule.datafile_pattern == str(data)
    assert searched[-1][0] == tmp_path / "run"


def test_a_folder_that_exists_is_not_touched(data, tmp_path, searched):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("")
    with pytest.raises(FileExistsError, match="--resume"):
        run_sweep(words(data), tmp_path / "run", PBT)
    with pytest.raises(Started):
        run_sweep(words(data), tmp_path / "run", PBT, overwrite=True)
    assert (tmp_path / "run.1" / "precious").exists()
    assert not (tmp_path / "run" / "precious").exists()


def test_resuming(data, tmp_path, searched):
    run_dir = tmp_path / "run"
    with pytest.raises(
        FileNotFoundError, match="is not the folder of a sweep that could be resumed"
    ):
        resume_sweep(run_dir)
    with pytest.raises(Started):
        run_sweep(words(data), run_dir, PBT)
    with pytest.raises(Started):
        resume_sweep(run_dir)
    assert searched[1][2] == searched[0][2]
    assert searched[1][3] is True
    assert not (run_dir / "config.1.yaml").exists()
    with pytest.raises(ValueError, match="num_trials"):
        resume_sweep(run_dir, ["sweep.num_trials=0"])
    append_history(run_dir, {"trial": "a", "epoch": 2})
    with pytest.raises(ValueError, match=r"trainer\.max_epochs = 1, but.*up to 2 epochs"):
        resume_sweep(run_dir, ["trainer.max_epochs=1"])
    assert not (run_dir / "config.1.yaml").exists()
    with pytest.raises(Started):
        resume_sweep(run_dir, ["sweep.max_failures=9"])
    assert searched[-1][2] == dataclasses.replace(searched[0][2], max_failures=9)
    assert OmegaConf.load(run_dir / "config.yaml").sweep.max_failures == 9
    assert OmegaConf.load(run_dir / "config.1.yaml").sweep.max_failures == 3
    # A sweep that has ended does not change.
    write_summary(run_dir, {"best_trial": "a"})
    resume_sweep(run_dir, ["sweep.max_failures=8"])
    assert OmegaConf.load(run_dir / "config.yaml").sweep.max_failures == 9
    assert len(searched) == 3
