"""Tournaments of simulated trials, without a Ray cluster."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Trial

from lfads_torch.errors import UserError
from lfads_torch.sweeps.ray_tune.scheduler import BinaryTournamentPBT
from lfads_torch.sweeps.ray_tune.stopper import ImprovementRatioStopper
from lfads_torch.sweeps.space import HyperParam
from tests.sweeps.ray_tune.simulated import (
    by_index,
    finish_generation,
    losers,
    make_scheduler,
    make_trials,
    save,
)


def state(trials):
    return [(trial.config, trial.checkpoint.path) for trial in trials]


def test_losers_follow_their_winners():
    trials = make_trials(6)
    before = [dict(trial.config) for trial in trials]
    scheduler, controller = make_scheduler(trials)
    scores = [3.0, 1.0, 2.0, 6.0, 5.0, 4.0]
    finish_generation(scheduler, controller, by_index(*scores))
    beaten = losers(trials, 12)
    assert len(beaten) == 3
    winners = {trial.config["cloned_from"] for trial in beaten}
    assert len(winners) == 3
    assert trials[1].trial_id in winners  # the best
    assert trials[3] in beaten  # the worst
    for i, trial in enumerate(trials):
        if trial not in beaten:
            assert trial.config == before[i]
            assert trial.checkpoint.path == f"/checkpoints/{trial.trial_id}/12"
            continue
        winner = int(trial.config["cloned_from"][-5:])
        assert scores[winner] < scores[i]
        assert trial.checkpoint.path == f"/checkpoints/{trials[winner].trial_id}/12"
        assert trial.latest_checkpoint_result.metrics["loss"] == scores[winner]
        assert trial.config["seed"] == before[winner]["seed"]
        for name, w in (("x", 0.3), ("y", 0.2)):
            assert trial.config[name] != before[winner][name]
            assert abs(trial.config[name] / before[winner][name] - 1) <= w + 1e-9
    # Perturbations differ between trials.
    changes = {trial.config["x"] / before[int(trial.config["cloned_from"][-5:])]["x"]
               for trial in beaten}  # fmt: skip
    assert len(changes) == 3


def test_no_tournament_before_the_end_of_burn_in_and_then_one_a_generation():
    trials = make_trials(4)
    scheduler, controller = make_scheduler(trials)
    scores = by_index(1.0, 2.0, 3.0, 4.0)
    # Trials report at epochs 2, 7 and 12, and wait only at epoch 12.
    assert finish_generation(scheduler, controller, scores) == 4 * 3
    assert {t.config["cloned_at"] for t in trials if "cloned_at" in t.config} == {12}
    for epoch in (17, 22):
        assert finish_generation(scheduler, controller, scores) == 4
        assert len(losers(trials, epoch)) == 2
    assert scheduler._next_perturbation_sync == 27


def test_no_trial_waits_for_a_tournament_that_it_has_reached():
    trials = make_trials(2)
    scheduler, controller = make_scheduler(trials)
    for trial in trials:
        trial.status = Trial.PAUSED
        save(trial, 7, 1.0)
        scheduler.on_trial_result(controller, trial, {"cur_epoch": 7, "loss": 1.0})
    assert scheduler.choose_trial_to_run(controller) in trials
    scheduler.on_trial_result(controller, trials[0], {"cur_epoch": 12, "loss": 1.0})
    assert scheduler.choose_trial_to_run(controller) is trials[1]
    trials[1].status = Trial.RUNNING
    assert scheduler.choose_trial_to_run(controller) is None


def test_the_higher_score_wins_if_that_is_the_mode():
    trials = make_trials(2)
    scheduler, controller = make_scheduler(trials, mode="max")
    finish_generation(scheduler, controller, by_index(1.0, 2.0))
    assert losers(trials, 12) == [trials[0]]


@given(
    st.lists(st.one_of(st.floats(-9, 9), st.sampled_from([math.inf, math.nan])), min_size=1,
             max_size=9),
    st.integers(0, 100),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_no_diverged_model_continues(scores, seed):
    trials = make_trials(len(scores))
    scheduler, controller = make_scheduler(trials, seed=seed)
    if not any(map(math.isfinite, scores)):
        with pytest.raises(UserError, match=r"every trial.* at epoch 12.*model\.lr_init"):
            finish_generation(scheduler, controller, by_index(*scores))
        return
    finish_generation(scheduler, controller, by_index(*scores))
    beaten = losers(trials, 12)
    for trial in trials:
        own = scores[int(trial.trial_id[-5:])]
        if trial in beaten:
            winner = int(trial.config["cloned_from"][-5:])
            assert trials[winner] not in beaten
            assert trials[winner].checkpoint.path == trial.checkpoint.path
            assert scores[winner] <= own or not math.isfinite(own)
            own = scores[winner]
        assert math.isfinite(own)
        assert trial.latest_checkpoint_result.metrics["loss"] == own
    diverged = sum(not math.isfinite(score) for score in scores)
    assert max(diverged, len(scores) // 2) <= len(beaten) <= len(scores) // 2 + diverged


def test_one_of_an_odd_number_of_trials_has_no_opponent():
    trials = make_trials(5)
    scheduler, controller = make_scheduler(trials)
    finish_generation(scheduler, controller, by_index(1.0, 2.0, 3.0, 4.0, 5.0))
    assert len(losers(trials, 12)) == 2


def test_tournaments_depend_only_on_seed_and_epoch():
    played = []
    for seed in (0, 0, 1):
        trials = make_trials(8)
        scheduler, controller = make_scheduler(trials, seed=seed)
        scores = by_index(*map(float, range(8)))
        pairs = []
        for epoch in (12, 17):
            finish_generation(scheduler, controller, scores)
            pairs.append({t.trial_id: t.config["cloned_from"] for t in losers(trials, epoch)})
        played.append((state(trials), pairs))
    assert played[0] == played[1]
    assert played[0][0] != played[2][0]
    assert played[0][1] != played[2][1]
    assert played[0][1][0] != played[0][1][1]


def test_a_search_that_is_resumed_holds_the_same_tournaments():
    """The search is killed after the second one, when one trial has saved a later checkpoint."""
    scores = by_index(*map(float, range(5)))
    whole = make_trials(5)
    scheduler, controller = make_scheduler(whole)
    for _ in range(2):
        finish_generation(scheduler, controller, scores)
    restored = []
    for trial in whole:
        trial_state, metadata = controller.saved[trial.trial_id]
        restored.append(Trial.from_json_state(trial_state, stub=True))
        restored[-1].restore_run_metadata(metadata)
        restored[-1].status = Trial.PENDING
    assert state(restored) == state(whole)
    save(restored[3], 22, 3.0)
    resumed, new_controller = make_scheduler(restored)
    assert resumed._next_perturbation_sync == 22
    assert finish_generation(resumed, new_controller, scores) == 4
    finish_generation(scheduler, controller, scores)
    assert state(restored) == state(whole)
    assert len(losers(restored, 22)) == 2


def test_a_trial_that_restarts_keeps_its_state():
    trials = make_trials(2)
    scheduler, controller = make_scheduler(trials)
    finish_generation(scheduler, controller, by_index(1.0, 2.0))
    scheduler.on_trial_result(controller, trials[0], {"cur_epoch": 17, "loss": 1.0})
    save(trials[0], 17, 1.0)
    trials[0].status = Trial.PAUSED
    trials[1].status = Trial.PENDING
    scheduler.on_trial_add(controller, trials[1])
    scheduler.on_trial_add(controller, trials[0])
    assert scheduler.choose_trial_to_run(controller) is trials[1]
    assert scheduler._trial_state[trials[0]].last_train_time == 17


@pytest.mark.parametrize("status", [Trial.ERROR, Trial.TERMINATED])
def test_tournaments_do_not_wait_for_trials_that_have_ended(status):
    trials = make_trials(5)
    scheduler, controller = make_scheduler(trials)
    trials[0].status = status
    finish_generation(scheduler, controller, by_index(0.0, 1.0, 2.0, 3.0, 4.0))
    assert len(losers(trials, 12)) == 2
    assert "cloned_from" not in trials[0].config
    assert trials[0].trial_id not in {t.config.get("cloned_from") for t in trials}
    # A trial may also end while the others wait.
    for trial in trials[1:4]:
        trial.status = Trial.RUNNING
        scheduler.on_trial_result(controller, trial, {"cur_epoch": 17, "loss": 1.0})
        save(trial, 17, 1.0)
        trial.status = Trial.PAUSED
    trials[4].status = Trial.RUNNING
    assert scheduler.choose_trial_to_run(controller) is None
    trials[4].status = status
    assert scheduler.choose_trial_to_run(controller) in trials[1:4]
    assert scheduler._next_perturbation_sync == 22


@pytest.mark.parametrize("status", [Trial.ERROR, Trial.TERMINATED])
def test_the_search_ends_if_only_diverged_trials_are_left(status):
    """All other trials have ended with good models, which are kept."""
    trials = make_trials(3)
    scheduler, controller = make_scheduler(trials)
    finish_generation(scheduler, controller, by_index(1.0, 2.0, 3.0))
    save(trials[0], 17, 1.0)
    trials[0].status = status
    finish_generation(scheduler, controller, by_index(1.0, math.inf, math.nan))
    assert [trial.status for trial in trials] == [status, Trial.TERMINATED, Trial.TERMINATED]


def test_a_trial_whose_new_process_is_dead_is_started_again():
    trials = make_trials(2)
    scheduler, controller = make_scheduler(trials)
    trials[0].status, trials[1].status = Trial.ERROR, Trial.RUNNING
    controller._resetting_trials.add(trials[0])
    controller._staged_trials.add(trials[0])
    scheduler.on_trial_error(controller, trials[0])
    controller._live_trials.clear()
    assert scheduler.choose_trial_to_run(controller) is trials[0]
    assert trials[0].status == Trial.PENDING
    assert controller._live_trials == {trials[0]}
    assert controller._staged_trials == controller._resetting_trials == set()


def test_all_trials_stop_when_the_stopper_stops_them():
    trials = make_trials(3)
    stopper = ImprovementRatioStopper(3, 5, 12, metric="loss", patience=2)
    scheduler, controller = make_scheduler(trials, stopper=stopper)
    finish_generation(scheduler, controller, by_index(1.0, 2.0, 3.0))
    assert not any(trial.is_finished() for trial in trials)
    finish_generation(scheduler, controller, by_index(1.0, 2.0, 3.0))
    assert all(trial.is_finished() for trial in trials)
    assert scheduler.choose_trial_to_run(controller) is None
    assert losers(trials, 17) == []


def test_warns_of_what_perturbations_cannot_move():
    space = {
        "a": HyperParam(0, 1, init=0, sample_fn="uniform"),
        "b": HyperParam(0, 1, init=0.5, sample_fn="uniform"),
        "c": HyperParam(0, 5, init=0, sample_fn="randint"),
    }
    with pytest.warns(UserWarning, match=r"^a: perturbations multiply"):
        BinaryTournamentPBT(hyperparam_mutations=space)


@pytest.mark.parametrize("mutations", [None, {}, {"model.lr_init": [1e-3, 1e-2]}])
def test_only_hyperparameters_with_a_range_can_be_perturbed(mutations):
    with pytest.raises(ValueError, match="hyperparam_mutations must hold a HyperParam"):
        BinaryTournamentPBT(hyperparam_mutations=mutations)
