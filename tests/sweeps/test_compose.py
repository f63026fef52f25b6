"""Sweeps are composed with packaged search spaces, and with the former name of num_trials."""

import pytest
from omegaconf import OmegaConf

from lfads_torch.errors import UserError
from lfads_torch.sweeps.compose import checkpoint_callbacks, compose_sweep
from lfads_torch.sweeps.options import SweepOptions
from lfads_torch.sweeps.search import run_sweep
from tests.sweeps.conftest import PBT, Started, words
from tests.sweeps.test_options import PUBLISHED


def test_a_published_configuration_gets_a_search(data, tmp_path, searched):
    """A configuration without ``sweep`` gets the search that belongs to its file name."""
    body = OmegaConf.load(PBT)
    body.defaults = [entry for entry in body.defaults if "sweep" not in entry]
    for name, expected in (("pbt", PUBLISHED), ("mine", 5)):
        (tmp_path / name).mkdir()
        OmegaConf.save(body, tmp_path / name / f"{name}.yaml")
        with pytest.raises(Started):
            run_sweep(
                words(data, "sweep.num_trials=3"), tmp_path / f"run_{name}",
                tmp_path / name / f"{name}.yaml",
            )  # fmt: skip
        made = searched[-1][2]
        assert made.num_trials == 3
        assert made.space == expected or len(made.space) == expected
        saved = OmegaConf.load(tmp_path / f"run_{name}" / "config.yaml")
        assert len(saved.sweep.space) == len(made.space)
    with pytest.raises(Started):
        run_sweep(words(data, "+sweep=pbt"), tmp_path / "run_as", tmp_path / "mine" / "mine.yaml")
    assert searched[-1][2].space == PUBLISHED


def num_trials(config, *overrides, config_dir=None):
    composed = compose_sweep(config, overrides, config_dir)
    assert "num_samples" not in composed.sweep
    return SweepOptions.from_config(composed).num_trials


@pytest.fixture
def own_sweeps(tmp_path):
    """A folder with search spaces of a user, who calls the number of trials num_samples."""
    folder = tmp_path / "configs"
    (folder / "sweep").mkdir(parents=True)
    space = "space: {lr: {key: model.lr_init, min_samp: 1e-4, max_samp: 1e-2}}"
    (folder / "sweep" / "changed.yaml").write_text("defaults: [pbt, _self_]\nnum_samples: 12\n")
    (folder / "sweep" / "own.yaml").write_text(f"defaults: [base, _self_]\nnum_samples: 7\n{space}")
    return folder


def test_num_trials_may_be_called_num_samples_as_before(own_sweeps):
    assert num_trials(PBT, "sweep.num_samples=4") == 4
    assert num_trials(PBT, "+sweep.num_samples=5") == 5
    assert num_trials(PBT, "sweep.num_samples=4", "sweep.num_trials=4") == 4
    assert num_trials(PBT, "sweep=changed", config_dir=own_sweeps) == 12
    assert num_trials(PBT, "sweep=changed", "sweep.num_samples=3", config_dir=own_sweeps) == 3
    assert num_trials(PBT, "sweep=own", config_dir=own_sweeps) == 7


def test_two_different_numbers_of_trials_are_refused(own_sweeps):
    message = r"sweep\.num_trials = 3, but sweep\.num_samples = 4.*former name: give one"
    with pytest.raises(UserError, match=message):
        compose_sweep(PBT, ["sweep.num_samples=4", "sweep.num_trials=3"])
    with pytest.raises(UserError, match=r"num_trials = 3, but sweep\.num_samples = 12"):
        compose_sweep(PBT, ["sweep=changed", "sweep.num_trials=3"], own_sweeps)


def test_a_sweep_is_saved_with_num_trials(data, tmp_path, searched):
    with pytest.raises(Started):
        run_sweep(words(data, "sweep.num_samples=3"), tmp_path / "run", PBT)
    saved = OmegaConf.load(tmp_path / "run" / "config.yaml").sweep
    assert (saved.num_trials, "num_samples" in saved) == (3, False)


def test_callbacks_that_save_checkpoints():
    callbacks = {
        "best": {"_target_": "pytorch_lightning.callbacks.ModelCheckpoint"},
        "last": {"_target_": "lfads_torch.callbacks.LastCheckpoint"},
        "stop": {"_target_": "lfads_torch.extensions.tune.EarlyStoppingWithBurnInPeriod"},
        "made": {"_target_": "builtins.print"},
    }
    found = checkpoint_callbacks(OmegaConf.create({"callbacks": callbacks}))
    assert list(found) == ["best", "last"]
    assert checkpoint_callbacks(OmegaConf.create({"callbacks": None})) == {}
