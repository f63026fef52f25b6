"""Distributions, searchers and schedulers that are made from the options of a sweep."""

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from lfads_torch.sweeps.ray_tune.components import make_search, to_domain
from lfads_torch.sweeps.ray_tune.scheduler import BinaryTournamentPBT
from lfads_torch.sweeps.space import HyperParam
from tests.sweeps.conftest import RANDOM, options


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


def test_the_scheduler_gets_the_options_of_the_sweep():
    made = options(
        "sweep.seed=7", "sweep.num_trials=3", "sweep.mode=max",
        "+sweep.space.gen={key: model.gen_dim, choice: [64, 128]}",
    )  # fmt: skip
    reported = [(trial, epoch) for epoch in (105, 130) for trial in "abc"]
    history = [{"trial": trial, "epoch": epoch, "score": 1.0} for trial, epoch in reported]
    scheduler = make_search(made, history)[1]
    assert isinstance(scheduler, BinaryTournamentPBT)
    assert scheduler.seed == 7
    assert scheduler._time_attr == "cur_epoch"
    # A choice cannot be perturbed.
    expected = {key: value for key, value in made.space.items() if key != "model.gen_dim"}
    assert scheduler._hyperparam_mutations == expected
    stopper = scheduler.stopper
    assert (stopper.num_trials, stopper.first, stopper.every) == (3, 105, 25)
    assert (stopper.metric, stopper.sign) == ("valid/recon_smth", -1)
    # The earlier results of a resumed search are included.
    assert {epoch: len(scores) for epoch, scores in stopper.scores.items()} == {105: 3, 130: 3}
    assert make_search(options("sweep.stopper=null"))[1].stopper is None
    words = ["~sweep.scheduler.perturbation_interval", "sweep.report_every=10"]
    scheduler = make_search(options(*words))[1]
    assert scheduler._perturbation_interval == scheduler.stopper.every == 10


def test_any_scheduler_of_ray_can_be_named():
    assert type(make_search(options(config=RANDOM))[1]) is FIFOScheduler
    asha = "{_target_: ray.tune.schedulers.ASHAScheduler, max_t: 50, grace_period: 10}"
    scheduler = make_search(options(f"sweep.scheduler={asha}", config=RANDOM))[1]
    assert isinstance(scheduler, ASHAScheduler)
    assert (scheduler._time_attr, scheduler._max_t) == ("cur_epoch", 50)
