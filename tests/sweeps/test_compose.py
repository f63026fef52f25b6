"""Composing a sweep: packaged search spaces, and the former name of num_trials."""

import pytest
from omegaconf import OmegaConf

from lfads_torch.sweeps.search import run_sweep
from tests.sweeps.conftest import PBT, Started, words
from tests.sweeps.test_options import PUBLISHED


def test_a_published_configuration_gets_a_search(data, tmp_path, searched):
    """One without ``sweep`` gets the search that its file's name stands for."""
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
