"""The rule that ends a population-based search."""

import math

import pytest

from lfads_torch.sweeps.ray_tune.stopper import ImprovementRatioStopper


def report(stopper, epoch, *scores):
    for i, score in enumerate(scores):
        assert stopper(f"trial_{i}", {"cur_epoch": epoch, "loss": score}) is False
    return stopper.stop_all()


def make_stopper(n=3, **options):
    arguments = {"perturbation_interval": 5, "burn_in_period": 12, "metric": "loss", "patience": 2}
    return ImprovementRatioStopper(n, **{**arguments, **options})


def test_stopper_compares_the_best_of_each_generation():
    stopper = make_stopper()
    assert not stopper.stop_all()
    assert not report(stopper, 12, 3.0, 2.0, 1.0)
    assert not report(stopper, 17, 0.9, 2.0, 9.0)
    assert report(stopper, 22, 9.0, 9.0, 0.9)


def test_stopper_leaves_out_burn_in_and_epochs_within_a_generation():
    stopper = make_stopper()
    for epoch in (2, 7, 11, 13, 16):
        assert not report(stopper, epoch, 1.0, 1.0, 1.0)
    assert stopper.scores == {}
    assert not report(stopper, 12, 1.0, 1.0, 1.0)
    assert report(stopper, 17, 1.0, 1.0, 1.0)


def test_stopper_waits_for_all_trials_of_a_generation():
    stopper = make_stopper()
    report(stopper, 12, 1.0, 1.0, 1.0)
    assert not report(stopper, 17, 1.0, 1.0)  # the third may be better
    assert report(stopper, 17, 1.0, 1.0, 1.0)


def test_stopper_does_not_wait_for_a_trial_that_has_failed():
    """A generation that one trial never reported counts once there is a later one."""
    stopper = make_stopper()
    report(stopper, 12, 1.0, 1.0, 1.0)
    assert not report(stopper, 17, 1.0, 1.0)
    assert report(stopper, 22, 1.0, 1.0)
    assert not report(make_stopper(), 12, 1.0, 1.0)


def test_stopper_counts_a_generation_that_is_repeated_once():
    stopper = make_stopper()
    for _ in range(3):
        assert not report(stopper, 12, 1.0, 1.0, 1.0)
    assert report(stopper, 17, 1.0, 1.0, 1.0)


def test_stopper_with_diverged_trials():
    stopper = make_stopper()
    assert not report(stopper, 12, math.inf, 1.0, math.nan)
    assert report(stopper, 17, 1.0, math.inf, math.inf)
    assert not report(make_stopper(), 12, math.inf, math.inf, math.inf)
    lost = make_stopper()
    report(lost, 12, 1.0, 1.0, 1.0)
    assert not report(lost, 17, math.inf, math.inf, math.inf)


def test_stopper_where_higher_is_better():
    stopper = make_stopper(mode="max")
    assert not report(stopper, 12, 0.1, 0.2, 0.3)
    assert not report(stopper, 17, 0.1, 0.2, 0.4)
    assert report(stopper, 22, 0.1, 0.4, 0.2)


def test_stopper_has_the_published_defaults():
    stopper = ImprovementRatioStopper(20)
    assert (stopper.patience, stopper.min_improvement_ratio) == (4, 5e-4)
    assert (stopper.metric, stopper.every) == ("valid/recon_smth", 25)
    with pytest.raises(ValueError, match="patience must be at least 2 generations, but is 1"):
        ImprovementRatioStopper(20, patience=1)
