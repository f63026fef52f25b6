"""The trial, run in this process: no Ray cluster is started."""

import math
import tempfile
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from lfads_torch.running.compose import compose_unresolved
from lfads_torch.sweeps.ray_tune.trial import LFADSTrial, TrialSettings
from tests.conftest import TINY_SIZES, tiny_arrays, write_file

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_file(tmp_path_factory.mktemp("data") / "tiny.h5", tiny_arrays())


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    """The folder in which trials have their files; Ray's logs of trials are redirected too."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "logs"))
    return folder


@pytest.fixture
def make_trial(data):
    """Return a function that makes a trial as Ray does: ``make({key: value}, word, setting=…)``."""
    made = []

    def make(config=None, *words, name="pbt.yaml", **changes):
        composed = compose_unresolved(
            f"configs/{name}",
            ["model=generic", "datamodule=generic", f"datamodule.datafile_pattern={data}",
             *TINY_SIZES, "model.l2_increase_epoch=2", "model.kl_increase_epoch=2",
             "trainer.accelerator=cpu", *words],
        )  # fmt: skip
        settings = {
            "config": OmegaConf.to_yaml(composed),
            "first": 2,
            "every": 2,
            "metric": "valid/recon_smth",
            "mode": "min",
            "population": True,
            "id": "sweep",
        }
        settings = TrialSettings(**{**settings, **changes})

        class Trial(LFADSTrial):
            def setup(self, config):
                super().setup(config, settings)

        made.append(Trial({"seed": 1, **(config or {})}))
        return made[-1]

    yield make
    for trial in made:
        trial.stop()


def weights(trial):
    return torch.load(trial.folder / "last.ckpt", weights_only=True)


def assert_same(first, second):
    """Assert that weights, moments, schedule and smoothed metric of two checkpoints are equal."""
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
    """Change the content of a checkpoint that was saved to a folder."""
    path = Path(checkpoint, "last.ckpt")
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def test_another_trial_continues_exactly_like_the_first(make_trial, tmp_path):
    """A loser with the winner's checkpoint and hyperparameters continues exactly like the winner.

    The same holds for a trial that continues after an interruption, compared with one that trains
    without an interruption.
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
    """Logs the epoch as a metric, in every n-th epoch."""

    def __init__(self, every):
        self.every = every

    def on_validation_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch % self.every == 0:
            pl_module.log("now_and_then", float(trainer.current_epoch))


def test_results_hold_metrics_that_are_not_of_every_epoch(make_trial):
    """The metrics of the Neural Latents Benchmark, for example, are not logged in every epoch."""
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
    """The optimiser has the winner's moments and the trial's own settings."""
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
    # The default scale is 1e-5.
    assert last["valid/wt_kl/co"] > 1e3 * first["valid/wt_kl/co"]


def test_a_lowered_learning_rate_keeps_its_ratio(make_trial, tmp_path):
    """The learning-rate scheduler, too, has the trial's own settings rather than the winner's."""
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
    # No epoch is better than 0.5, so the count continues.
    assert (scheduler["num_bad_epochs"], scheduler["best"]) == (4, 0.5)


@pytest.mark.parametrize("population", [True, False])
def test_a_loss_that_is_not_finite_ends_the_generation(make_trial, tmp_path, population):
    """In a population the trial takes over another model later; otherwise it has ended."""
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
    # A trial that diverges later keeps its last checkpoint.
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
    """No tournament follows, in which it would take over another model."""
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
def test_a_trial_without_a_last_epoch_continues(make_trial, limit):
    result = make_trial(None, f"trainer.max_epochs={limit}").train()
    assert (result["cur_epoch"], result["done"]) == (2, False)


def test_ends_when_stopped_early(make_trial):
    """The third epoch (number 2) is the first that counts; the fourth improves too little."""
    trial = make_trial(
        None, "callbacks=[early_stopping]", "callbacks.early_stopping.patience=1",
        "+callbacks.early_stopping.min_delta=1e9", first=9, every=9,
    )  # fmt: skip
    result = trial.train()
    assert (result["cur_epoch"], result["done"]) == (4, True)
    assert len(result["history"]) == 4


def test_the_best_model_is_kept_where_the_trial_continues(make_trial, tmp_path, temporary_folder):
    """The trial continues in another process, and its next generation is worse."""
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


def test_cleaning_up_keeps_files_that_another_process_has_taken_over(make_trial, tmp_path):
    """Ray may start two processes for a trial, or end one when another has taken over."""
    first = make_trial()
    first.train()
    first.save(str(tmp_path / "saved"))
    second = make_trial()
    assert second.folder == first.folder
    second.stop()  # before it has trained
    assert first.train()["cur_epoch"] == 4
    third = make_trial()
    third.restore(str(tmp_path / "saved"))
    first.stop()
    assert third.train()["cur_epoch"] == 4


def test_leaves_nothing_behind(make_trial, temporary_folder):
    """Files that a killed process has left are not used either."""
    leftover = temporary_folder / "lfads_torch_sweep_default"
    leftover.mkdir()
    (leftover / "last.ckpt").write_text("of another process")
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


def test_all_files_are_in_the_folder_of_the_trial(make_trial, tmp_path, monkeypatch):
    """The working folder of the process stays the same, and nothing is written to it."""
    packaged = Path("configs").absolute()
    here = tmp_path / "here"
    here.mkdir()
    (here / "configs").symlink_to(packaged)
    monkeypatch.chdir(here)
    trial = make_trial(
        None, "+callbacks.c={_target_: lfads_torch.callbacks.LossPlot, log_every_n_epochs: 1}",
        "logger=[csv]", name="multi.yaml",
    )  # fmt: skip
    folders = []
    monkeypatch.setattr("os.chdir", folders.append)
    trial.train()
    assert folders == []
    assert [path.name for path in here.iterdir()] == ["configs"]
    files = {str(path.relative_to(trial.folder)) for path in trial.folder.rglob("*.*")}
    assert {"last.ckpt", "csv_logs/metrics.csv", "plots/losses_epoch0001.png"} <= files
    assert len(list(trial.folder.glob("lightning_checkpoints/*.ckpt"))) == 1


def test_a_process_that_lost_a_trial_does_not_clean_up_after_the_next(make_trial, tmp_path):
    """Ray may start the process that takes over before it ends the earlier one."""
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
