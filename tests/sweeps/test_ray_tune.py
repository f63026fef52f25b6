"""Trials, tournaments and stopping rules, run in this process: no Ray cluster is started."""

import dataclasses
import math
import tempfile
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from ray.train._internal.session import _TrainingResult
from ray.tune import Checkpoint, PlacementGroupFactory
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from lfads_torch.running.compose import compose_unresolved
from lfads_torch.sweeps.history import read_history
from lfads_torch.sweeps.ray_tune import (
    BinaryTournamentPBT,
    ImprovementRatioStopper,
    LFADSTrial,
    Recorder,
    _keep_state,
    _make_scheduler,
    _mend_state,
    _resources,
    _storage,
    next_boundary,
    to_domain,
)
from lfads_torch.sweeps.search import SweepOptions
from lfads_torch.sweeps.tournament import HyperParam
from tests.conftest import TINY_SIZES, tiny_arrays, write_file

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_file(tmp_path_factory.mktemp("data") / "tiny.h5", tiny_arrays())


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    """Where trials keep their files, and Ray its logs of trials outside of a cluster."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    return folder


@pytest.fixture
def make_trial(data):
    """Make trials as Ray does, but here: ``make_trial({key: value}, word, …, setting=…)``."""
    made = []

    def make(config=None, *words, name="pbt.yaml", **changes):
        composed = compose_unresolved(
            f"configs/{name}",
            ["model=generic", "datamodule=generic", f"datamodule.datafile_pattern={data}",
             *TINY_SIZES, "model.l2_increase_epoch=2", "model.kl_increase_epoch=2",
             "trainer.accelerator=cpu", *words],
        )  # fmt: skip
        options = {
            "config": OmegaConf.to_yaml(composed),
            "first": 2,
            "every": 2,
            "metric": "valid/recon_smth",
            "mode": "min",
            "population": True,
            "id": "sweep",
            **changes,
        }

        class Trial(LFADSTrial):
            def setup(self, config):
                super().setup(config, options)

        made.append(Trial({"seed": 1, **(config or {})}))
        return made[-1]

    yield make
    for trial in made:
        trial.stop()


def weights(trial):
    return torch.load(trial.folder / "last.ckpt", weights_only=True)


def assert_same(first, second):
    """Compare what two checkpoints hold to the bit: weights, moments, schedule, smoothed metric."""
    a, b = weights(first), weights(second)
    for key in ("epoch", "global_step", "valid_recon_smth"):
        assert a[key] == b[key], key
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for key, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][key]), key
    (mine,), (theirs,) = a["optimizer_states"], b["optimizer_states"]
    assert mine["param_groups"] == theirs["param_groups"]
    for i, state in mine["state"].items():
        assert all(torch.equal(state[name], theirs["state"][i][name]) for name in state)
    assert a["lr_schedulers"] == b["lr_schedulers"]


def edit(checkpoint, change):
    """Change what a checkpoint that was saved to a folder holds."""
    path = Path(checkpoint, "last.ckpt")
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


# ------------------------------------------------------------------ a trial


@given(st.integers(0, 500), st.integers(1, 150), st.integers(1, 40))
@settings(deadline=None)
def test_boundaries_are_those_of_the_scheduler(epoch, burn_in, every):
    """The first is at the end of burn-in or of a generation, and all others a generation apart."""
    first = max(burn_in, every)
    boundary = next_boundary(epoch, first, every)
    assert epoch < boundary <= epoch + every
    assert (boundary - first) % every == 0


def test_boundaries_from_the_beginning():
    """So that there is a checkpoint before the end of a long burn-in."""
    epoch, boundaries = 0, []
    while epoch < 155:
        epoch = next_boundary(epoch, 105, 25)
        boundaries.append(epoch)
    assert boundaries == [5, 30, 55, 80, 105, 130, 155]


def test_another_trial_continues_as_if_nothing_had_happened(make_trial, tmp_path):
    """A loser that takes over checkpoint and hyperparameters does what the winner does, to the bit.

    So does a trial that continues after an interruption, compared with one that trains in one go.
    """
    schedule = "model.lr_scheduler=true"
    config = {"seed": 5, "model.lr_init": 0.02, "model.dropout_rate": 0.3}
    whole = make_trial(config, schedule, first=6, every=6, id="whole")
    whole_result = whole.train()
    winner = make_trial(config, schedule, id="winner")
    results = [winner.train(), winner.train()]
    winner.save(str(tmp_path / "saved"))
    results.append(winner.train())
    assert [result["cur_epoch"] for result in results] == [2, 4, 6]
    assert whole_result["cur_epoch"] == 6
    history = [row for result in results for row in result["history"]]
    assert len(history) == 6
    assert history == whole_result["history"]
    assert_same(winner, whole)

    loser = make_trial({"seed": 9, "model.lr_init": 1e-3}, schedule, id="loser")
    loser.train()
    assert loser.reset(dict(config))
    loser.restore(str(tmp_path / "saved"))
    result = loser.train()
    assert result["history"] == history[4:]
    names = set(whole_result["history"][-1]) | {"cur_epoch", "done"}
    assert {n for n in names if result[n] != whole_result[n]} == set()
    assert_same(loser, whole)


def test_results_hold_the_metrics_of_the_last_epoch(make_trial):
    trial = make_trial()
    result = trial.train()
    assert [row["epoch"] for row in result["history"]] == [0, 1]
    last = result["history"][-1]
    for name in ("valid/recon_smth", "valid/loss", "train/loss", "valid/wt_kl/ramp"):
        assert result[name] == last[name]
    assert result["history"][0]["valid/recon_smth"] != last["valid/recon_smth"]
    assert not any(name.startswith("hp/") for row in result["history"] for name in row)
    assert 0 < result["train_seconds"] < result["time_this_iter_s"]
    assert result["done"] is False
    assert "best_checkpoint" not in result


class LogsInEpochs(pl.Callback):
    """Logs its epoch as a metric, in every so many."""

    def __init__(self, every):
        self.every = every

    def on_validation_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch % self.every == 0:
            pl_module.log("now_and_then", float(trainer.current_epoch))


def test_results_hold_metrics_that_are_not_of_every_epoch(make_trial):
    """Such as those of the Neural Latents Benchmark."""
    callback = f"+callbacks.c={{_target_: {__name__}.LogsInEpochs, every: 3}}"
    trial = make_trial(None, callback, first=5, every=5)
    result = trial.train()
    assert "now_and_then" not in result["history"][-1]
    assert result["now_and_then"] == 3


NEW = {
    "model.lr_init": 1e-3, "model.weight_decay": 0.3, "model.lr_adam_epsilon": 1e-3,
    "model.lr_adam_beta1": 0.5, "model.lr_adam_beta2": 0.9,
}  # fmt: skip


def test_new_hyperparameters_reach_the_optimiser(make_trial, tmp_path):
    """The moments are the winner's, the settings the trial's own, and it trains with these."""
    config = {"seed": 5, "model.lr_init": 4e-3}
    winner = make_trial(config, id="winner")
    winner.train()
    saved = tmp_path / "saved"
    winner.save(str(saved))
    loser = make_trial({**config, **NEW}, id="loser")
    loser.restore(str(saved))
    loser.train()
    (optimizer,) = weights(loser)["optimizer_states"]
    for group in optimizer["param_groups"]:
        assert (group["lr"], group["eps"], group["betas"]) == (1e-3, 1e-3, (0.5, 0.9))
        assert group["weight_decay"] == 0.3  # both ramps have ended
    steps = weights(winner)["global_step"]
    assert {int(state["step"]) for state in optimizer["state"].values()} == {2 * steps}

    def rewrite(content):
        content["hyper_parameters"]["lr_init"] = 1e-3
        for group in content["optimizer_states"][0]["param_groups"]:
            group.update(lr=1e-3, eps=1e-3, betas=(0.5, 0.9), weight_decay=0.3)

    edit(saved, rewrite)
    reference = make_trial({**config, **NEW}, id="reference")
    reference.restore(str(saved))
    reference.train()
    assert_same(loser, reference)
    winner.train()
    states = weights(winner)["state_dict"], weights(loser)["state_dict"]
    assert not torch.equal(*(state["encoder.ic_linear.weight"] for state in states))


def test_new_hyperparameters_reach_the_model(make_trial, tmp_path):
    winner = make_trial()
    winner.train()
    winner.save(str(tmp_path / "saved"))
    cd_rate = "model.train_aug_stack.transforms.0.cd_rate"
    new = {"seed": 1, "model.dropout_rate": 0.55, "model.kl_co_scale": 0.5, cd_rate: 0.66,
           "model.ic_prior.variance": 0.7}  # fmt: skip
    loser = make_trial(new, id="loser")
    loser.restore(str(tmp_path / "saved"))
    first, last = winner.train(), loser.train()
    content = weights(loser)
    assert content["hyper_parameters"]["dropout_rate"] == 0.55
    assert content["lfads_parts"]["train_aug_stack"]["transforms"][0]["cd_rate"] == 0.66
    variance = content["state_dict"]["ic_prior.logvar"].exp()
    assert torch.allclose(variance, torch.full_like(variance, 0.7))
    # That of the default is 1e-5.
    assert last["valid/wt_kl/co"] > 1e3 * first["valid/wt_kl/co"]


def test_a_lowered_learning_rate_keeps_its_ratio(make_trial, tmp_path):
    """With a scheduler, which a checkpoint brings its settings of along too."""
    words = ["model.lr_scheduler=true", "model.lr_patience=6"]
    config = {"seed": 5, "model.lr_init": 4e-3}
    winner = make_trial(config, *words, id="winner")
    winner.train()
    saved = tmp_path / "saved"
    winner.save(str(saved))

    def lower(content):
        content["optimizer_states"][0]["param_groups"][0]["lr"] = 1e-3  # a quarter
        content["lr_schedulers"][0].update(num_bad_epochs=2, best=0.5)

    edit(saved, lower)
    own = {"model.lr_init": 2e-3, "model.lr_decay": 0.7, "model.lr_stop": 1e-7}
    loser = make_trial({**config, **own, "model.lr_patience": 9}, *words, id="loser")
    loser.restore(str(saved))
    loser.train()
    content = weights(loser)
    assert content["optimizer_states"][0]["param_groups"][0]["lr"] == 0.5e-3
    (scheduler,) = content["lr_schedulers"]
    assert (scheduler["factor"], scheduler["patience"], scheduler["min_lrs"]) == (0.7, 9, [1e-7])
    # No epoch is better than 0.5: the count goes on.
    assert (scheduler["num_bad_epochs"], scheduler["best"]) == (4, 0.5)


@pytest.mark.parametrize("population", [True, False])
def test_a_loss_that_is_not_finite_ends_the_generation(make_trial, tmp_path, population):
    """In a population the trial will follow another; alone it has ended."""
    trial = make_trial({"model.lr_init": 1e30}, population=population)
    result = trial.train()
    assert result["valid/recon_smth"] == math.inf
    assert result["cur_epoch"] == 2
    assert "loss" in result["diverged"]
    assert result["done"] is not population
    trial.save(str(tmp_path / "nothing"))
    assert list(tmp_path.glob("nothing/last.ckpt")) == []
    if not population:
        return
    healthy = make_trial(id="healthy")
    first = healthy.train()
    healthy.save(str(tmp_path / "saved"))
    # Its last checkpoint is what is left of a trial that diverges later.
    healthy.reset({"seed": 1, "model.lr_init": 1e30})
    healthy.restore(str(tmp_path / "saved"))
    assert "diverged" in healthy.train()
    healthy.save(str(tmp_path / "after"))
    before, after = (torch.load(tmp_path / name / "last.ckpt", weights_only=True)
                     for name in ("saved", "after"))  # fmt: skip
    assert before["global_step"] == after["global_step"] > 0
    trial.reset({"seed": 1})
    trial.restore(str(tmp_path / "saved"))
    result = trial.train()
    assert "diverged" not in result
    assert math.isfinite(result["valid/recon_smth"])
    assert result["cur_epoch"] == 4
    assert first["valid/recon_smth"] != result["valid/recon_smth"]


def test_a_loss_that_is_not_finite_in_the_last_generation_ends_the_trial(make_trial):
    """There is no tournament after it, so that the trial would train and diverge for ever."""
    trial = make_trial({"model.lr_init": 1e30}, "trainer.max_epochs=2")
    result = trial.train()
    assert "diverged" in result
    assert (result["cur_epoch"], result["done"]) == (2, True)


def test_other_failures_are_not_hidden(make_trial):
    trial = make_trial({"model.reconstruction.0._target_": "lfads_torch.modules.recons.Gone"})
    with pytest.raises(ValueError, match=r"recons\.Gone"):
        trial.step()


def test_ends_at_the_last_epoch(make_trial):
    trial = make_trial(None, "trainer.max_epochs=3")
    first, last = trial.train(), trial.train()
    assert (first["cur_epoch"], first["done"]) == (2, False)
    assert (last["cur_epoch"], last["done"]) == (3, True)


@pytest.mark.parametrize("limit", ["null", "-1"])
def test_a_trial_without_a_last_epoch_goes_on(make_trial, limit):
    result = make_trial(None, f"trainer.max_epochs={limit}").train()
    assert (result["cur_epoch"], result["done"]) == (2, False)


def test_ends_when_stopped_early(make_trial):
    """The first epoch that counts is the third (number 2), and the next is no better by so much."""
    trial = make_trial(
        None, "callbacks=[early_stopping]", "callbacks.early_stopping.patience=1",
        "+callbacks.early_stopping.min_delta=1e9", first=9, every=9,
    )  # fmt: skip
    result = trial.train()
    assert (result["cur_epoch"], result["done"]) == (4, True)
    assert len(result["history"]) == 4


def test_the_best_model_is_kept_where_the_trial_continues(make_trial, tmp_path, temporary_folder):
    """Also elsewhere, and after a generation that only worsens."""
    trial = make_trial(name="multi.yaml")
    first = trial.train()
    assert first["best_score"] == pytest.approx(
        min(row["valid/recon_smth"] for row in first["history"])
    )
    best = torch.load(trial.folder / first["best_checkpoint"], weights_only=True)
    trial.save(str(tmp_path / "saved"))
    files = {str(p.relative_to(tmp_path / "saved")) for p in tmp_path.glob("saved/**/*.ckpt")}
    assert files == {"last.ckpt", first["best_checkpoint"]}
    trial.stop()
    assert list(temporary_folder.glob("lfads_torch_*")) == []

    again = make_trial({"model.lr_init": 0.5}, name="multi.yaml")
    again.restore(str(tmp_path / "saved"))
    result = again.train()
    assert result["valid/recon_smth"] > first["best_score"]
    for name in ("best_score", "best_checkpoint"):
        assert result[name] == first[name]
    again.save(str(tmp_path / "again"))
    kept = torch.load(tmp_path / "again" / result["best_checkpoint"], weights_only=True)
    assert kept["epoch"] == best["epoch"]
    for key, value in best["state_dict"].items():
        assert torch.equal(value, kept["state_dict"][key])


def test_a_better_model_replaces_the_best_one(make_trial, tmp_path):
    trial = make_trial({"model.lr_init": 0.02}, name="multi.yaml")
    first = trial.train()
    trial.save(str(tmp_path / "saved"))
    trial.restore(str(tmp_path / "saved"))
    result = trial.train()
    assert result["best_score"] < first["best_score"]
    assert result["best_checkpoint"] != first["best_checkpoint"]
    trial.save(str(tmp_path / "again"))
    assert (tmp_path / "again" / result["best_checkpoint"]).is_file()
    assert len(list(tmp_path.glob("again/**/*.ckpt"))) == 2


def test_cleaning_up_spares_what_another_process_has_taken_over(make_trial, tmp_path):
    """Ray may start two processes for a trial, or clean one up when another has the trial."""
    first = make_trial()
    first.train()
    first.save(str(tmp_path / "saved"))
    second = make_trial()
    assert second.folder == first.folder
    second.stop()  # before it did anything
    assert first.train()["cur_epoch"] == 4
    third = make_trial()
    third.restore(str(tmp_path / "saved"))
    first.stop()
    assert third.train()["cur_epoch"] == 4


def test_leaves_nothing_behind(make_trial, temporary_folder):
    """Nor takes up what a process that was killed has left there."""
    leftover = temporary_folder / "lfads_torch_sweep_default"
    leftover.mkdir()
    (leftover / "last.ckpt").write_text("of another life")
    here = Path.cwd()
    trial = make_trial()
    assert trial.train()["cur_epoch"] == 2
    assert list(temporary_folder.glob("lfads_torch_*")) == [leftover]
    assert Path.cwd() == here
    trial.reset({"seed": 2})
    assert list(temporary_folder.glob("lfads_torch_*")) == []
    trial.train()
    trial.stop()
    assert list(temporary_folder.glob("lfads_torch_*")) == []


def test_a_process_that_lost_a_trial_does_not_clean_up_after_the_next(make_trial, tmp_path):
    """Ray may end it later than it starts the one that takes over."""
    first = make_trial()
    first.train()
    first.save(str(tmp_path / "saved"))
    second = make_trial()
    second.restore(str(tmp_path / "saved"))
    assert first.folder == second.folder
    first.stop()
    first.reset({"seed": 3})
    assert second.train()["cur_epoch"] == 4
    second.save(str(tmp_path / "again"))
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["last.ckpt"]


def test_a_logger_that_cannot_be_made_does_not_stop_a_trial(make_trial):
    trial = make_trial(None, "+logger.broken._target_=lfads_torch.NoSuchLogger")
    with pytest.warns(UserWarning, match=r"logger\.broken .* cannot be used"):
        result = trial.train()
    assert result["cur_epoch"] == 2


# ------------------------------------------------------------------ tournaments

SPACE = {
    "x": HyperParam(0.01, 1.0, explore_wt=0.3),
    "y": HyperParam(0.0, 0.6, sample_fn="uniform", explore_wt=0.2, enforce_limits=True),
}


class Controller:
    """What a scheduler sees of Ray's, with trials that take no time."""

    def __init__(self, trials):
        self.trials = trials
        self.search_alg = None
        self.marked, self.saved = set(trials), {}
        self._actor_cache = SimpleNamespace(increase_max=lambda factory: None)
        self._staged_trials, self._resetting_trials = set(), set()
        self._live_trials = set(trials)

    def get_trials(self):
        return self.trials

    def stop_trial(self, trial):
        trial.status = Trial.TERMINATED

    def checkpoint(self, force):
        """Save what Ray does: the trials that were marked since."""
        self.saved |= {trial.trial_id: trial.get_json_state() for trial in self.marked}
        self.marked.clear()

    def _mark_trial_to_checkpoint(self, trial):
        self.marked.add(trial)

    def _unstage_trial_with_resources(self, trial):
        self._staged_trials.discard(trial)

    def _set_trial_status(self, trial, status):
        trial.status = status


def make_trials(n):
    rng = np.random.default_rng(0)
    configs = [{"x": SPACE["x"].sample(rng), "y": SPACE["y"].sample(rng)} for _ in range(n)]
    trials = [
        Trial("none", stub=True, trial_id=f"abc_{i:05}", config={"seed": i, **config})
        for i, config in enumerate(configs)
    ]
    for trial in trials:
        trial.placement_group_factory = PlacementGroupFactory([{"CPU": 1}])
        trial.storage = SimpleNamespace(experiment_fs_path="/checkpoints", storage_filesystem=None)
    return trials


def make_scheduler(trials, **options):
    arguments = {"perturbation_interval": 5, "burn_in_period": 12, "metric": "loss", "mode": "min"}
    scheduler = BinaryTournamentPBT(hyperparam_mutations=SPACE, **{**arguments, **options})
    controller = Controller(trials)
    for trial in trials:
        scheduler.on_trial_add(controller, trial)
    return scheduler, controller


def save(trial, epoch, score):
    """Leave a checkpoint whose path says whose it is."""
    checkpoint = Checkpoint.from_directory(f"/checkpoints/{trial.trial_id}/{epoch}")
    metrics = {"cur_epoch": epoch, "loss": score}
    trial.run_metadata.checkpoint_manager.register_checkpoint(_TrainingResult(checkpoint, metrics))
    trial.invalidate_json_state()
    trial.run_metadata.invalidate_cache()


def finish_generation(scheduler, controller, scores):
    """Train trials for as long as there is one to train before the next tournament.

    Returns how many steps that took. ``scores`` may depend on trial and epoch.
    """
    steps, until = 0, scheduler._next_perturbation_sync
    while scheduler._next_perturbation_sync == until:
        trial = scheduler.choose_trial_to_run(controller)
        if trial is None or scheduler._next_perturbation_sync != until:
            return steps
        latest = trial.latest_checkpoint_result
        epoch = next_boundary(latest.metrics["cur_epoch"] if latest else 0, 12, 5)
        score = scores(trial, epoch)
        trial.status = Trial.RUNNING
        decision = scheduler.on_trial_result(
            controller, trial, {"cur_epoch": epoch, "loss": score, "training_iteration": 1}
        )
        save(trial, epoch, score)
        controller._mark_trial_to_checkpoint(trial)
        if decision == TrialScheduler.PAUSE:
            trial.status = Trial.PAUSED
        else:
            trial.status = Trial.PENDING
        steps += 1
    return steps


def by_index(*scores):
    return lambda trial, epoch: scores[int(trial.trial_id[-5:])]


def losers(trials, epoch):
    return [trial for trial in trials if trial.config.get("cloned_at") == epoch]


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
    # Losers of one winner's config would be perturbed alike if the trial did not matter.
    changes = {trial.config["x"] / before[int(trial.config["cloned_from"][-5:])]["x"]
               for trial in beaten}  # fmt: skip
    assert len(changes) == 3


def test_no_tournament_before_the_end_of_burn_in_and_then_one_a_generation():
    trials = make_trials(4)
    scheduler, controller = make_scheduler(trials)
    scores = by_index(1.0, 2.0, 3.0, 4.0)
    # Epochs 2, 7 and 12: reports in between are no reason to wait.
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
def test_no_diverged_model_goes_on(scores, seed):
    trials = make_trials(len(scores))
    scheduler, controller = make_scheduler(trials, seed=seed)
    if not any(map(math.isfinite, scores)):
        with pytest.raises(RuntimeError, match=r"every trial.* at epoch 12.*model\.lr_init"):
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


def test_one_of_an_odd_number_stays_out():
    trials = make_trials(5)
    scheduler, controller = make_scheduler(trials)
    finish_generation(scheduler, controller, by_index(1.0, 2.0, 3.0, 4.0, 5.0))
    assert len(losers(trials, 12)) == 2


def test_tournaments_depend_on_seed_and_epoch_alone():
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
    """After a kill that follows the second one; one trial has trained on and left a checkpoint."""
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


def test_a_trial_that_restarts_is_still_what_it_was():
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
def test_nobody_waits_for_a_trial_that_has_ended(status):
    trials = make_trials(5)
    scheduler, controller = make_scheduler(trials)
    trials[0].status = status
    finish_generation(scheduler, controller, by_index(0.0, 1.0, 2.0, 3.0, 4.0))
    assert len(losers(trials, 12)) == 2
    assert "cloned_from" not in trials[0].config
    assert trials[0].trial_id not in {t.config.get("cloned_from") for t in trials}
    # Also one that ends while the others wait.
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
def test_diverged_trials_that_are_left_alone_end(status):
    """The search is not lost where all others have left good models."""
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


def test_all_trials_stop_when_the_stopper_says_so():
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


# ------------------------------------------------------------------ stopping


def tell(stopper, epoch, *scores):
    for i, score in enumerate(scores):
        assert stopper(f"trial_{i}", {"cur_epoch": epoch, "loss": score}) is False
    return stopper.stop_all()


def make_stopper(n=3, **options):
    arguments = {"perturbation_interval": 5, "burn_in_period": 12, "metric": "loss", "patience": 2}
    return ImprovementRatioStopper(n, **{**arguments, **options})


def test_stopper_looks_at_the_best_of_each_generation():
    stopper = make_stopper()
    assert not stopper.stop_all()
    assert not tell(stopper, 12, 3.0, 2.0, 1.0)
    assert not tell(stopper, 17, 0.9, 2.0, 9.0)
    assert tell(stopper, 22, 9.0, 9.0, 0.9)


def test_stopper_leaves_out_burn_in_and_epochs_within_a_generation():
    stopper = make_stopper()
    for epoch in (2, 7, 11, 13, 16):
        assert not tell(stopper, epoch, 1.0, 1.0, 1.0)
    assert stopper.scores == {}
    assert not tell(stopper, 12, 1.0, 1.0, 1.0)
    assert tell(stopper, 17, 1.0, 1.0, 1.0)


def test_stopper_waits_for_all_trials_of_a_generation():
    stopper = make_stopper()
    tell(stopper, 12, 1.0, 1.0, 1.0)
    assert not tell(stopper, 17, 1.0, 1.0)  # the third may be better
    assert tell(stopper, 17, 1.0, 1.0, 1.0)


def test_stopper_does_not_wait_for_a_trial_that_has_failed():
    """A generation that one trial never reported counts once there is a later one."""
    stopper = make_stopper()
    tell(stopper, 12, 1.0, 1.0, 1.0)
    assert not tell(stopper, 17, 1.0, 1.0)
    assert tell(stopper, 22, 1.0, 1.0)
    assert not tell(make_stopper(), 12, 1.0, 1.0)


def test_stopper_counts_a_generation_that_is_repeated_once():
    stopper = make_stopper()
    for _ in range(3):
        assert not tell(stopper, 12, 1.0, 1.0, 1.0)
    assert tell(stopper, 17, 1.0, 1.0, 1.0)


def test_stopper_with_diverged_trials():
    stopper = make_stopper()
    assert not tell(stopper, 12, math.inf, 1.0, math.nan)
    assert tell(stopper, 17, 1.0, math.inf, math.inf)
    assert not tell(make_stopper(), 12, math.inf, math.inf, math.inf)
    lost = make_stopper()
    tell(lost, 12, 1.0, 1.0, 1.0)
    assert not tell(lost, 17, math.inf, math.inf, math.inf)


def test_stopper_where_higher_is_better():
    stopper = make_stopper(mode="max")
    assert not tell(stopper, 12, 0.1, 0.2, 0.3)
    assert not tell(stopper, 17, 0.1, 0.2, 0.4)
    assert tell(stopper, 22, 0.1, 0.4, 0.2)


def test_stopper_has_the_published_defaults():
    stopper = ImprovementRatioStopper(20)
    assert (stopper.patience, stopper.min_improvement_ratio) == (4, 5e-4)
    assert (stopper.metric, stopper.every) == ("valid/recon_smth", 25)
    with pytest.raises(ValueError, match="patience must be at least 2 generations, but is 1"):
        ImprovementRatioStopper(20, patience=1)


# ------------------------------------------------------------------ the search


def make_options(*words, name="pbt.yaml"):
    return SweepOptions.of(compose_unresolved(f"configs/{name}", words))


def drawn(domain, n=200):
    return [domain.sample() for _ in range(n)]


def test_how_first_values_are_drawn():
    values = drawn(to_domain(HyperParam(1e-4, 1.0)))
    assert min(values) >= 1e-4
    assert max(values) <= 1
    assert 60 < sum(value < 1e-2 for value in values) < 140
    values = drawn(to_domain(HyperParam(0.0, 0.6, sample_fn="uniform")))
    assert 60 < sum(value < 0.3 for value in values) < 140
    assert max(values) <= 0.6
    assert set(drawn(to_domain(HyperParam(2, 5, sample_fn="randint")))) == {2, 3, 4}
    assert to_domain(HyperParam(1e-5, 5e-3, init=4e-3)) == 4e-3
    assert set(drawn(to_domain({"choice": [64, "x"]}))) == {64, "x"}
    assert to_domain({"grid": [1, 2]}) == {"grid_search": [1, 2]}
    domain = to_domain({"_target_": "ray.tune.quniform", "lower": 1, "upper": 2, "q": 0.5})
    assert set(drawn(domain)) == {1.0, 1.5, 2.0}


def test_the_scheduler_knows_what_the_sweep_knows():
    options = make_options(
        "sweep.seed=7", "sweep.num_samples=3", "sweep.mode=max",
        "+sweep.space.gen={key: model.gen_dim, choice: [64, 128]}",
    )  # fmt: skip
    told = [(trial, epoch) for epoch in (105, 130) for trial in "abc"]
    history = [{"trial": trial, "epoch": epoch, "score": 1.0} for trial, epoch in told]
    scheduler = _make_scheduler(options, history)
    assert isinstance(scheduler, BinaryTournamentPBT)
    assert scheduler.seed == 7
    assert scheduler._time_attr == "cur_epoch"
    # A choice cannot be perturbed.
    expected = {key: value for key, value in options.space.items() if key != "model.gen_dim"}
    assert scheduler._hyperparam_mutations == expected
    stopper = scheduler.stopper
    assert (stopper.num_trials, stopper.first, stopper.every) == (3, 105, 25)
    assert (stopper.metric, stopper.sign) == ("valid/recon_smth", -1)
    # What a search that is resumed has found already counts.
    assert {epoch: len(scores) for epoch, scores in stopper.scores.items()} == {105: 3, 130: 3}
    assert _make_scheduler(make_options("sweep.stopper=null"), []).stopper is None
    words = ["~sweep.scheduler.perturbation_interval", "sweep.report_every=10"]
    scheduler = _make_scheduler(make_options(*words), [])
    assert scheduler._perturbation_interval == scheduler.stopper.every == 10


def test_any_scheduler_of_ray_can_be_named():
    assert type(_make_scheduler(make_options(name="multi.yaml"), [])) is FIFOScheduler
    asha = "{_target_: ray.tune.schedulers.ASHAScheduler, max_t: 50, grace_period: 10}"
    scheduler = _make_scheduler(make_options(f"sweep.scheduler={asha}", name="multi.yaml"), [])
    assert isinstance(scheduler, ASHAScheduler)
    assert (scheduler._time_attr, scheduler._max_t) == ("cur_epoch", 50)


def nodes(*resources, alive=True):
    return lambda: [{"Alive": alive, "Resources": resource} for resource in resources]


@pytest.mark.parametrize(
    ("found", "words", "expected"),
    [
        (nodes({"CPU": 2}), [], {"cpu": 1}),
        (nodes({"CPU": 8, "GPU": 1}), [], {"cpu": 3, "gpu": 0.5}),
        (nodes({"CPU": 2}, {"CPU": 4, "GPU": 2}), [], {"cpu": 3, "gpu": 0.5}),
        (nodes({"CPU": 8, "GPU": 1}), ["sweep.gpus_per_trial=0"], {"cpu": 1}),
        (nodes({"CPU": 8, "GPU": 1}), ["sweep.gpus_per_trial=0.25"], {"cpu": 3, "gpu": 0.25}),
        (nodes({"CPU": 2}), ["sweep.cpus_without_gpu=2"], {"cpu": 2}),
    ],
)
def test_resources_follow_the_machines(monkeypatch, found, words, expected):
    monkeypatch.setattr("ray.nodes", found)
    assert _resources(make_options(*words)) == expected


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (nodes({"CPU": 2}), ["sweep.cpus_without_gpu=3"]),
        (nodes({"CPU": 2, "GPU": 1}), []),  # 3 CPUs beside half a GPU
        (nodes({"CPU": 8, "GPU": 1}), ["sweep.gpus_per_trial=2"]),
        (nodes({"CPU": 8}, alive=False), []),
    ],
)
def test_resources_that_no_machine_has_are_refused(monkeypatch, found, words):
    monkeypatch.setattr("ray.nodes", found)
    with pytest.raises(ValueError, match=r"which no machine has.*sweep\.cpus_per_trial"):
        _resources(make_options(*words))


def test_where_files_are_kept(tmp_path):
    options = make_options()
    assert _storage(options, tmp_path) == {"name": "trials", "storage_path": str(tmp_path)}
    shared = dataclasses.replace(options, storage="/shared", id="1234")
    expected = {"name": f"{tmp_path.name}_1234", "storage_path": "/shared"}
    assert _storage(shared, tmp_path) == expected
    shared = dataclasses.replace(options, storage="s3://bucket/sweeps", id="1234")
    assert _storage(shared, tmp_path)["storage_path"] == "s3://bucket/sweeps"
    # pyarrow does not know this one, fsspec does.
    memory = dataclasses.replace(options, storage="memory://sweeps", id="1234")
    found = _storage(memory, tmp_path)
    with found["storage_filesystem"].open_output_stream(f"{found['storage_path']}/x") as file:
        file.write(b"here")
    assert fsspec.filesystem("memory").cat("/sweeps/x") == b"here"


def test_an_account_that_a_kill_has_ruined_is_mended(tmp_path, caplog):
    """By the copy of the last that could be read, which one that cannot never replaces."""
    account = tmp_path / "experiment_state-2026-01-01.json"
    account.write_text('{"trials": 1}')
    (tmp_path / "searcher-state.pkl").write_bytes(b"one")
    (tmp_path / "trial_00000").mkdir()
    _keep_state(tmp_path)
    account.write_text('{"trials": 2}')
    (tmp_path / "searcher-state.pkl").write_bytes(b"two")
    _keep_state(tmp_path)
    account.write_text('{"trials": 3')
    (tmp_path / "searcher-state.pkl").write_bytes(b"thr")
    _keep_state(tmp_path)
    _mend_state(tmp_path)
    assert account.read_text() == '{"trials": 2}'
    assert (tmp_path / "searcher-state.pkl").read_bytes() == b"two"
    assert "cannot be read" in caplog.text
    # One that can be read stays.
    account.write_text('{"trials": 4}')
    _mend_state(tmp_path)
    assert account.read_text() == '{"trials": 4}'


def test_a_newer_account_that_cannot_be_read_makes_way(tmp_path):
    """Ray takes the newest; each resumption begins one."""
    older = tmp_path / "experiment_state-2026-01-01.json"
    newer = tmp_path / "experiment_state-2026-01-02.json"
    older.write_text('{"trials": 1}')
    _keep_state(tmp_path)
    newer.write_text("")
    _mend_state(tmp_path)
    assert max(tmp_path.glob("experiment_state-*.json")) == older
    assert older.read_text() == '{"trials": 1}'


def test_nothing_to_mend(tmp_path):
    (tmp_path / "trials").mkdir()
    _keep_state(tmp_path / "trials")
    _mend_state(tmp_path / "trials")
    assert list((tmp_path / "trials").iterdir()) == []


def record(recorder, trials, trial, epoch, score, **more):
    result = {"cur_epoch": epoch, "valid/recon_smth": score, "history": [{"epoch": 0.0}] * 25}
    recorder.on_trial_result(1, trials, trial, {**result, **more})


def test_every_result_is_recorded_and_every_generation_told(tmp_path, capsys):
    trials = make_trials(3)
    trials[2].config |= {"cloned_from": "abc_00000", "cloned_at": 105}
    recorder = Recorder(make_options("sweep.num_samples=3"), tmp_path)
    for trial in trials:
        trial.status = Trial.RUNNING
    for i in (0, 1):
        record(recorder, trials, trials[i], 130, float(i + 1), train_seconds=2.0)
        assert capsys.readouterr().out == ""
    record(recorder, trials, trials[2], 130, math.inf, diverged="The loss is NaN.")
    text = capsys.readouterr().out
    assert "trial_00002 diverged: The loss is NaN." in text
    assert "generation 2, epoch 130; trials: 3 running" in text
    assert "best 1 (abc_00000), median 1.5" in text
    rows = read_history(tmp_path)
    assert [row["score"] for row in rows] == [1.0, 2.0, math.inf]
    assert rows[0]["config"] == trials[0].config
    assert (rows[0]["cloned_from"], rows[0]["train_seconds"]) == (None, 2.0)
    assert (rows[2]["cloned_from"], rows[2]["cloned_at"]) == ("abc_00000", 105)
    assert "cloned_from" not in rows[2]["config"]
    assert rows[2]["diverged"] == "The loss is NaN."
    assert len(rows[0]["history"]) == 25


def test_progress_does_not_wait_for_trials_that_have_ended(tmp_path, capsys):
    trials = make_trials(2)
    trials[0].status, trials[1].status = Trial.ERROR, Trial.RUNNING
    recorder = Recorder(make_options(), tmp_path)
    record(recorder, trials, trials[1], 130, 1.0)
    assert "1 error, 1 running" in capsys.readouterr().out


def test_progress_goes_on_where_the_search_was_interrupted(tmp_path, capsys):
    trials = make_trials(2)
    for trial in trials:
        trial.status = Trial.RUNNING
    record(Recorder(make_options(), tmp_path), trials, trials[0], 130, 0.5)
    capsys.readouterr()
    record(Recorder(make_options(), tmp_path), trials, trials[1], 130, 1.0)
    assert "best 0.5 (abc_00000), median 0.75" in capsys.readouterr().out
    assert len(read_history(tmp_path)) == 2


def test_checkpoints_deleted_after_the_state_was_saved_are_forgotten(tmp_path):
    from types import SimpleNamespace

    from pyarrow.fs import LocalFileSystem

    (tmp_path / "there").mkdir()
    results = [
        SimpleNamespace(checkpoint=SimpleNamespace(path=str(tmp_path / name)))
        for name in ("gone", "there")
    ]
    manager = SimpleNamespace(_checkpoint_results=results)
    trial = SimpleNamespace(
        run_metadata=SimpleNamespace(checkpoint_manager=manager),
        storage=SimpleNamespace(storage_filesystem=LocalFileSystem()),
    )
    Recorder(None, tmp_path).on_trial_start(0, [trial], trial)
    assert manager._checkpoint_results == results[1:]
