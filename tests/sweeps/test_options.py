"""What a sweep is told, before it starts: options, search spaces, and what it says of itself."""

import dataclasses
import functools
import math

import numpy as np
import pytest
from omegaconf import OmegaConf

from lfads_torch.running.compose import compose, compose_unresolved
from lfads_torch.running.run_folder import write_summary
from lfads_torch.sweeps import search as sweeps
from lfads_torch.sweeps.history import append_history
from lfads_torch.sweeps.ray_tune import Outcome, to_domain
from lfads_torch.sweeps.search import (
    SweepOptions,
    best_outcome,
    progress,
    report,
    resume_sweep,
    run_sweep,
)
from lfads_torch.sweeps.tournament import HyperParam
from tests.conftest import TINY_SIZES, tiny_arrays, write_file

PBT = "configs/pbt.yaml"


@pytest.fixture
def data(tmp_path):
    return write_file(tmp_path / "tiny.h5", tiny_arrays())


def words(data, *more):
    return [
        "model=generic", "datamodule=generic", f"datamodule.datafile_pattern={data}", *TINY_SIZES,
        *more,
    ]  # fmt: skip


@functools.cache
def options(*more, name=PBT):
    return SweepOptions.of(compose_unresolved(name, more))


# ------------------------------------------------------------------ configurations


PUBLISHED = {
    "model.lr_init": HyperParam(1e-5, 5e-3, 4e-3, "loguniform", 0.3, True),
    "model.dropout_rate": HyperParam(0.0, 0.6, None, "uniform", 0.3, True),
    "model.train_aug_stack.transforms.0.cd_rate": HyperParam(0.01, 0.7, 0.5, "uniform", 0.3, True),
    "model.kl_co_scale": HyperParam(1e-6, 1e-4, explore_wt=0.8),
    "model.kl_ic_scale": HyperParam(1e-6, 1e-3, explore_wt=0.8),
    "model.l2_gen_scale": HyperParam(1e-4, 1.0, explore_wt=0.8),
    "model.l2_con_scale": HyperParam(1e-4, 1.0, explore_wt=0.8),
}


def test_population_searches_what_was_published():
    made = options()
    assert made.space == PUBLISHED
    assert (made.num_samples, made.metric, made.mode) == (20, "valid/recon_smth", "min")
    assert made.boundaries() == (105, 25)
    assert made.stopper["patience"] == 4
    assert made.stopper["min_improvement_ratio"] == 5e-4
    assert (made.max_epochs, made.use_best) == (1000, False)
    assert compose_unresolved(PBT).model.lr_scheduler is False


def test_random_search_draws_what_was_published():
    made = options(name="configs/multi.yaml")
    assert made.num_samples == 60
    assert (made.cpus_per_trial, made.gpus_per_trial) == (3, 0.5)
    assert made.space == {
        "model.dropout_rate": HyperParam(0.0, 0.6, sample_fn="uniform"),
        "model.kl_co_scale": HyperParam(1e-6, 1e-4),
        "model.kl_ic_scale": HyperParam(1e-6, 1e-3),
        "model.l2_gen_scale": HyperParam(1e-4, 1.0),
        "model.l2_con_scale": HyperParam(1e-4, 1.0),
    }
    assert (made.scheduler, made.stopper, made.searcher) == (None, None, None)
    assert made.boundaries() == (25, 25)
    assert made.use_best is True


@pytest.mark.parametrize("name", ["pbt", "multi"])
@pytest.mark.parametrize("controller", [[], ["model.con_dim=0", "model.co_dim=0"]])
def test_everything_that_is_searched_exists(data, name, controller):
    """In a model with a controller and in one without."""
    made = options(name=f"configs/{name}.yaml")
    rng = np.random.default_rng(0)
    values = {key: value.sample(rng) for key, value in made.space.items()}
    overrides = [f"{key}={value}" for key, value in values.items()]
    config = compose(f"configs/{name}.yaml", [*words(data), *controller, *overrides])
    for key, value in values.items():
        assert OmegaConf.select(config, key) == value


def test_options_are_those_of_the_base_configuration():
    """So that what can be set is what is documented there."""
    base = OmegaConf.load("configs/sweep/base.yaml")
    own = {field.name for field in dataclasses.fields(SweepOptions)}
    assert set(base) == own - {"id", "max_epochs", "use_best"}
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(SweepOptions)
        if field.default is not dataclasses.MISSING and field.name in base
    }
    assert {name: base[name] for name in defaults} == defaults


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+sweep.num_sample=3", r"sweep\.num_sample is no option.*Did you mean num_samples\?"),
        ("+sweep.zzz=3", r"sweep\.zzz is no option of a sweep\.$"),
        ("sweep.num_samples=0", "num_samples must be an integer of at least 1, but is 0"),
        ("sweep.num_samples=2.5", "num_samples must be an integer of at least 1, but is 2.5"),
        ("sweep.num_samples=true", "num_samples must be an integer of at least 1, but is True"),
        ("sweep.num_samples=null", "num_samples must be an integer of at least 1, but is None"),
        ("sweep.num_samples=???", "sweep cannot be read: .*num_samples"),
        ("sweep.report_every=-1", "report_every must be an integer of at least 1, but is -1"),
        ("sweep.max_concurrent=0", "max_concurrent must be an integer of at least 1, but is 0"),
        ("sweep.max_failures=x", "max_failures must be an integer of at least 0, but is x"),
        ("sweep.seed=null", "seed must be an integer of at least 0, but is None"),
        ("sweep.seed=-1", "seed must be an integer of at least 0, but is -1"),
        ("sweep.cpus_per_trial=abc", "cpus_per_trial must be a number of at least 0, but is 'abc'"),
        ("sweep.cpus_without_gpu=null", "cpus_without_gpu must be a number .* but is None"),
        ("sweep.gpus_per_trial=-0.5", "gpus_per_trial must be a number of at least 0, but is -0.5"),
        ("sweep.time_budget_hours=all", "time_budget_hours must be a number .* but is 'all'"),
        ("sweep.scheduler=ASHA", r"sweep\.scheduler must be null, or a class .* but is 'ASHA'"),
        ("sweep.searcher={seed: 0}", r"sweep\.searcher must be null, or a class .*_target_"),
        ("sweep.stopper=never", r"sweep\.stopper must be null, or a class .* but is 'never'"),
        ("sweep.metric=null", r"sweep\.metric must name a metric, but is None"),
        ("trainer.max_epochs=long", r"trainer\.max_epochs must be an integer, but is 'long'"),
        ("~sweep", "has no sweep: choose sweep=random or sweep=pbt"),
        ("~sweep.num_samples", "num_samples must be an integer of at least 1, but is None"),
        ("sweep.mode=least", "sweep.mode must be min or max, but is 'least'"),
        ("sweep.space=null", r"sweep\.space is empty: choose one \(sweep=random or sweep=pbt\)"),
        ("sweep=base", r"sweep.*num_samples"),
        ("+sweep.space.gen=64", r"sweep\.space\.gen must be a mapping, but is 64"),
        ("+sweep.space.lr_init.max=1", r"sweep\.space\.lr_init: .*unexpected.*'max'"),
        ("sweep.space.lr_init.min_samp=1", r"sweep\.space\.lr_init: .*min_samp must be smaller"),
        ("+sweep.space.gen={key: model.gen_dim}", r"sweep\.space\.gen: .*missing.*min_samp"),
        ("+sweep.space.gen={choice: [64], min_samp: 3}", "gen must be one of choice, grid or a r"),
        ("+sweep.space.gen={choice: [64], grid: [3]}", "gen must be one of choice, grid or a r"),
        ("+sweep.space.gen={choice: 64}", r"sweep\.space\.gen.*list"),
        ("+sweep.space.gen={grid: []}", r"sweep\.space\.gen.*list"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(ValueError, match=message):
        options(override)


def test_a_search_that_would_never_end_is_refused():
    never = ["trainer.max_epochs=null", "sweep.stopper=null", "sweep.scheduler=null"]
    with pytest.raises(ValueError, match=r"never end: set trainer\.max_epochs or"):
        options(*never)
    with pytest.raises(ValueError, match="never end"):
        options("trainer.max_epochs=-1", *never[1:])
    assert options(*never, "sweep.time_budget_hours=1").max_epochs is None
    assert options("trainer.max_epochs=-1").max_epochs is None


def test_space_in_a_configuration():
    made = options(
        "~sweep.space.cd_rate",
        "+sweep.space.gen={key: model.gen_dim, choice: [64, 128]}",
        "+sweep.space.model_fac_dim={key: model.fac_dim, grid: [8, 16]}",
        "+sweep.space.tau={key: model.co_prior.tau, _target_: ray.tune.lograndint, lower: 1, "
        "upper: 100}",
        "sweep.space.lr_init.max_samp=1e-2",
    )
    assert "model.train_aug_stack.transforms.0.cd_rate" not in made.space
    assert made.space["model.lr_init"].max_samp == 1e-2
    assert made.space["model.gen_dim"] == {"choice": [64, 128]}
    assert made.space["model.fac_dim"] == {"grid": [8, 16]}
    assert made.space["model.co_prior.tau"] == {
        "_target_": "ray.tune.lograndint", "lower": 1, "upper": 100,
    }  # fmt: skip


# ------------------------------------------------------------------ before the search


class Started(Exception):
    """Raised in place of searching."""


@pytest.fixture
def searched(monkeypatch):
    """Return what would have been searched."""
    calls = []

    def search(run_dir, config, options, resume=False):
        calls.append((run_dir, config, options, resume))
        raise Started

    monkeypatch.setattr(sweeps, "_search", search)
    return calls


def test_a_published_configuration_gets_a_search(data, tmp_path, searched):
    """One without ``sweep``: by its name that of a population or a random one."""
    body = OmegaConf.load(PBT)
    body.defaults = [entry for entry in body.defaults if "sweep" not in entry]
    for name, expected in (("pbt", PUBLISHED), ("mine", 5)):
        (tmp_path / name).mkdir()
        OmegaConf.save(body, tmp_path / name / f"{name}.yaml")
        with pytest.raises(Started):
            run_sweep(
                words(data, "sweep.num_samples=3"), tmp_path / f"run_{name}",
                tmp_path / name / f"{name}.yaml",
            )  # fmt: skip
        made = searched[-1][2]
        assert made.num_samples == 3
        assert made.space == expected or len(made.space) == expected
        saved = OmegaConf.load(tmp_path / f"run_{name}" / "config.yaml")
        assert len(saved.sweep.space) == len(made.space)
    with pytest.raises(Started):
        run_sweep(words(data, "+sweep=pbt"), tmp_path / "run_as", tmp_path / "mine" / "mine.yaml")
    assert searched[-1][2].space == PUBLISHED


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
    again = SweepOptions.of(OmegaConf.load(tmp_path / "run" / "config.yaml"))
    assert again == made
    assert len(made.id) == 12
    with pytest.raises(ValueError, match=r"model\.lr_init must be a HyperParam, a list.*but is 3"):
        run_sweep(words(data), tmp_path / "other", PBT, space={"model.lr_init": 3})


def test_data_are_found_from_wherever_a_trial_runs(data, tmp_path, searched, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Started):
        run_sweep(words("tiny.h5"), "run", PBT)
    assert searched[-1][1].datamodule.datafile_pattern == str(data)
    assert searched[-1][0] == tmp_path / "run"


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("sweep.space.lr_init.key=model.lr_int", ValueError,
         r"(?s)lr_int.*Did you mean model\.lr_init"),
        ("sweep.space.cd_rate.key=model.train_aug_stack.transforms.1.cd_rate", ValueError,
         r"transforms\.1"),
        ("+sweep.space.gen={key: model.gen_dim, _target_: ray.tune.nothing}", ValueError,
         r"sweep\.space: model\.gen_dim cannot be sampled: .*nothing"),
        ("+sweep.space.gen={key: model.gen_dim, _target_: ray.tune.randint, low: 1}", ValueError,
         r"(?s)sweep\.space: model\.gen_dim cannot be sampled: .*low"),
        ("datamodule.datafile_pattern=gone.h5", FileNotFoundError, "gone.h5"),
        ("~seed", ValueError, "seed"),
        ("datamodule.batch_size=0", ValueError, "batch_size"),
        ("model.gen_dim=0", ValueError, r"model\.gen_dim must be at least 1"),
        ("sweep.scheduler._target_=ray.tune.schedulers.FIFOScheduler", ValueError,
         r"FIFOScheduler asks no stopper: say sweep\.stopper=null"),
        ("model.gen_dims=5", ValueError, "gen_dim"),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_anything_starts(
    data, tmp_path, searched, override, error, message
):
    with pytest.raises(error, match=message):
        run_sweep(words(data, override), tmp_path / "run", PBT)
    assert not searched
    assert not (tmp_path / "run").exists()


def test_the_best_epoch_of_a_trial_is_that_of_the_sweep(data, tmp_path, searched):
    """By one metric, or it would not be known which model the score is of."""
    by = ["sweep.metric=valid/co_bps", "sweep.mode=max"]
    with pytest.raises(Started):
        run_sweep(words(data, *by), tmp_path / "run", "configs/multi.yaml")
    kept = compose(tmp_path / "run" / "config.yaml").callbacks.checkpoint
    assert (kept.monitor, kept.mode) == ("valid/co_bps", "max")
    other = words(data, *by, "callbacks.checkpoint.monitor=valid/loss")
    with pytest.raises(ValueError, match=r"callbacks\.checkpoint keeps .* max valid/loss, but"):
        run_sweep(other, tmp_path / "other", "configs/multi.yaml")
    last = "posterior_sampling.use_best_ckpt=false"
    with pytest.raises(Started):
        run_sweep([*other, last], tmp_path / "last", "configs/multi.yaml")


def test_functions_of_ray_that_sample(data, tmp_path, searched):
    tau = "{key: model.co_prior.tau, _target_: ray.tune.lograndint, lower: 2, upper: 9}"
    with pytest.raises(Started):
        run_sweep(words(data, f"+sweep.space.tau={tau}"), tmp_path / "run", PBT)
    made = searched[-1][2].space
    assert 2 <= to_domain(made["model.co_prior.tau"]).sample() < 9
    # As trials do.
    assert compose(tmp_path / "run" / "config.yaml", {"model.co_prior.tau": 3})


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
    with pytest.raises(FileNotFoundError, match="is no folder of a sweep that could be resumed"):
        resume_sweep(run_dir)
    with pytest.raises(Started):
        run_sweep(words(data), run_dir, PBT)
    with pytest.raises(Started):
        resume_sweep(run_dir)
    assert searched[1][2] == searched[0][2]
    assert searched[1][3] is True
    assert not (run_dir / "config.1.yaml").exists()
    with pytest.raises(ValueError, match="num_samples"):
        resume_sweep(run_dir, ["sweep.num_samples=0"])
    append_history(run_dir, {"trial": "a", "epoch": 2})
    with pytest.raises(ValueError, match=r"trainer\.max_epochs = 1, but.*up to 2 epochs"):
        resume_sweep(run_dir, ["trainer.max_epochs=1"])
    assert not (run_dir / "config.1.yaml").exists()
    with pytest.raises(Started):
        resume_sweep(run_dir, ["sweep.max_failures=9"])
    assert searched[-1][2] == dataclasses.replace(searched[0][2], max_failures=9)
    assert OmegaConf.load(run_dir / "config.yaml").sweep.max_failures == 9
    assert OmegaConf.load(run_dir / "config.1.yaml").sweep.max_failures == 3
    # One that has ended stays as it is.
    write_summary(run_dir, {"best_trial": "a"})
    resume_sweep(run_dir, ["sweep.max_failures=8"])
    assert OmegaConf.load(run_dir / "config.yaml").sweep.max_failures == 9
    assert len(searched) == 3


# ------------------------------------------------------------------ the best


def outcome(trial, score, checkpoint="there", error=None, **metrics):
    return Outcome(
        trial, "ERROR" if error else "TERMINATED", {"valid/recon_smth": score, **metrics}, {},
        checkpoint, error,
    )  # fmt: skip


def test_the_best_is_the_lowest_score_that_left_a_model():
    outcomes = [
        outcome("a", 3.0),
        outcome("b", 1.0, checkpoint=None, error="disk full"),
        outcome("c", math.nan),
        outcome("d", -math.inf, diverged="yes"),
        outcome("e", 2.0, error="boom"),  # its checkpoint is as good as others
    ]
    assert best_outcome(outcomes, options()).trial == "e"
    highest = dataclasses.replace(options(), mode="max")
    assert best_outcome(outcomes, highest).trial == "a"


def test_the_best_may_be_of_an_earlier_epoch():
    outcomes = [
        outcome("a", 3.0, best_score=1.0),
        outcome("b", 2.0, best_score=1.5),
    ]
    made = options()
    assert best_outcome(outcomes, made).trial == "b"
    made = dataclasses.replace(made, use_best=True)
    assert best_outcome(outcomes, made).trial == "a"
    made = dataclasses.replace(made, metric="valid/co_bps", mode="max")
    assert best_outcome(outcomes, made).trial == "b"


def test_no_best_where_all_have_failed():
    outcomes = [
        outcome("a", math.inf, diverged="The loss is NaN."),
        outcome("b", 1.0, checkpoint=None, error="Traceback\n  File\nOSError: disk full\n"),
    ]
    with pytest.raises(RuntimeError, match=r"'a': 'The loss is NaN\.', 'b': 'OSError: disk full'"):
        best_outcome(outcomes, options())


# ------------------------------------------------------------------ what a person can read


def row(trial, epoch, score, lr=1e-3, **config):
    config = {"model.lr_init": lr, "model.dropout_rate": 0.25, **config}
    return {"trial": trial, "epoch": epoch, "score": score, "config": config}


def test_progress():
    rows = [
        row("a", 105, 3.0), row("b", 105, 1.0), row("c", 105, math.inf), row("d", 105, 2.0),
        row("a", 130, 2.5, 4e-3), row("b", 130, 0.5), row("c", 130, math.nan),
        row("d", 130, 1.5, 2e-4),
    ]  # fmt: skip
    made = options("sweep.num_samples=4")
    text = progress(rows, made, {"running": 3, "ERROR": 1}, seconds=3725.0, epochs=400)
    # 4 x 1000 - 4 x 130 epochs are left, at 400 in 3725 s: 32,407 s.
    assert text.splitlines() == [
        "1:02:05  generation 2, epoch 130; trials: 1 error, 3 running",
        "  valid/recon_smth: best 0.5 (b), median 1.5",
        "  lr_init 0.0002 to 0.004, dropout_rate 0.25 to 0.25",
        "  time left: at most 9:00:07",
    ]


def test_trials_of_a_grid():
    space = {**options().space, "a": {"grid": [1, 2]}, "b": {"choice": [1, 2, 3]}}
    made = dataclasses.replace(options(), num_samples=4, space={**space, "c": {"grid": [5, 6, 7]}})
    assert (made.num_trials, options("sweep.num_samples=4").num_trials) == (24, 4)
    rows = [{"trial": "a", "epoch": 500, "score": 1.0, "config": {}}]
    assert "left: at most 0:15:40" in progress(
        rows, dataclasses.replace(made, max_epochs=1000), {}, seconds=20.0, epochs=500
    )


def test_progress_of_trials_that_are_apart():
    rows = [row("a", 130, 3.0), row("b", 105, 4.0), row("b", 80, 2.0)]
    text = progress(rows, options(), {"running": 2}, seconds=5)
    assert "generation 2, epochs 105 to 130; trials: 2 running" in text
    assert "best 3 (a), median 3.5" in text
    assert "time left" not in text


def test_progress_where_higher_is_better():
    rows = [row("a", 105, 3.0), row("b", 105, 4.0)]
    assert "best 4 (b)" in progress(rows, dataclasses.replace(options(), mode="max"), {})


def test_progress_before_the_first_result_and_when_all_have_diverged():
    assert progress([], options(), {"pending": 20}).splitlines() == [
        "0:00:00  generation 0, epoch 0; trials: 20 pending"
    ]
    text = progress([row("a", 105, math.inf)], options(), {"running": 1})
    assert "best" not in text
    assert "lr_init" in text


def test_progress_without_a_last_epoch():
    made = options("trainer.max_epochs=-1")
    assert "time left" not in progress([row("a", 105, 1.0)], made, {}, seconds=9.0, epochs=105)


def test_progress_of_choices_names_numbers_alone():
    made = options("+sweep.space.kind={key: model.kind, choice: [x, y]}")
    text = progress([row("a", 105, 1.0, **{"model.kind": "x"})], made, {})
    assert "kind" not in text


def test_report(tmp_path, capsys):
    report(
        tmp_path,
        {
            "trials": 20, "failed": {"abc_3": "boom"}, "diverged": ["abc_1", "abc_2"],
            "best_trial": "abc_7", "epochs": 405, "metric": "valid/recon_smth",
            "best_score": 0.123456789, "hyperparameters": {"model.lr_init": 2e-3},
            "trial_seconds": 1000.4, "trial_train_seconds": 912.3,
        },
    )  # fmt: skip
    text = capsys.readouterr().out
    assert "Searched 20 trials; 1 failed, 2 diverged. Best: abc_7 after 405 epochs" in text
    assert "valid/recon_smth = 0.12346, with" in text
    assert "model.lr_init                                 0.002\n" in text
    assert "Trials took 1000 s, 912 s of which they trained." in text
    for name in ("best_model", "plots/pbt_hps.png", "history.jsonl", "summary.json"):
        assert str(tmp_path / name) in text
