"""The options of a sweep are those of the packaged files, and mistakes of users are named."""

import dataclasses

import numpy as np
import pytest
from omegaconf import OmegaConf

from lfads_torch.running.compose import compose, compose_unresolved
from lfads_torch.sweeps.options import SweepOptions
from lfads_torch.sweeps.space import HyperParam
from tests.sweeps.conftest import PBT, RANDOM, options, words

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
    assert (made.num_trials, made.metric, made.mode) == (20, "valid/recon_smth", "min")
    assert made.boundaries() == (105, 25)
    assert made.stopper["patience"] == 4
    assert made.stopper["min_improvement_ratio"] == 5e-4
    assert (made.max_epochs, made.use_best) == (1000, False)
    assert compose_unresolved(PBT).model.lr_scheduler is False


def test_random_search_draws_what_was_published():
    made = options(config=RANDOM)
    assert made.num_trials == 60
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
    """Every key exists in a model with a controller and in one without."""
    made = options(config=f"configs/{name}.yaml")
    rng = np.random.default_rng(0)
    values = {key: value.sample(rng) for key, value in made.space.items()}
    overrides = [f"{key}={value}" for key, value in values.items()]
    config = compose(f"configs/{name}.yaml", [*words(data), *controller, *overrides])
    for key, value in values.items():
        assert OmegaConf.select(config, key) == value


def test_options_are_those_of_the_base_configuration():
    """Therefore every option is documented there."""
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
        ("+sweep.num_trial=3", r"sweep\.num_trial is not an option.*Did you mean num_trials\?"),
        ("+sweep.zzz=3", r"sweep\.zzz is not an option of a sweep\.$"),
        ("sweep.num_trials=0", "num_trials must be an integer of at least 1, but is 0"),
        ("sweep.num_trials=2.5", "num_trials must be an integer of at least 1, but is 2.5"),
        ("sweep.num_trials=true", "num_trials must be an integer of at least 1, but is True"),
        ("sweep.num_trials=null", "num_trials must be an integer of at least 1, but is None"),
        ("sweep.num_trials=???", "sweep cannot be read: .*num_trials"),
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
        ("~sweep.num_trials", "num_trials must be an integer of at least 1, but is None"),
        ("sweep.mode=least", "sweep.mode must be min or max, but is 'least'"),
        ("sweep.space=null", r"sweep\.space is empty: choose one \(sweep=random or sweep=pbt\)"),
        ("sweep=base", r"sweep.*num_trials"),
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


def test_trials_of_a_grid():
    space = {**options().space, "a": {"grid": [1, 2]}, "b": {"choice": [1, 2, 3]}}
    made = dataclasses.replace(options(), num_trials=4, space={**space, "c": {"grid": [5, 6, 7]}})
    assert (made.total_trials, options("sweep.num_trials=4").total_trials) == (24, 4)
