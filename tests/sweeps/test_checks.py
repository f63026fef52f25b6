"""Mistakes are found before a sweep starts and before its folder is made."""

import pytest

from lfads_torch.running.compose import compose
from lfads_torch.sweeps.ray_tune.components import to_domain
from lfads_torch.sweeps.search import run_sweep
from tests.sweeps.conftest import PBT, RANDOM, Started, words


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
         r"FIFOScheduler takes no stopper: set sweep\.stopper=null"),
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
    """Trials keep their best epoch by the metric that they are compared by."""
    by = ["sweep.metric=valid/co_bps", "sweep.mode=max"]
    with pytest.raises(Started):
        run_sweep(words(data, *by), tmp_path / "run", RANDOM)
    kept = compose(tmp_path / "run" / "config.yaml").callbacks.checkpoint
    assert (kept.monitor, kept.mode) == ("valid/co_bps", "max")
    other = words(data, *by, "callbacks.checkpoint.monitor=valid/loss")
    with pytest.raises(ValueError, match=r"callbacks\.checkpoint keeps .* max valid/loss, but"):
        run_sweep(other, tmp_path / "other", RANDOM)
    last = "posterior_sampling.use_best_ckpt=false"
    with pytest.raises(Started):
        run_sweep([*other, last], tmp_path / "last", RANDOM)


def test_sampling_functions_of_ray(data, tmp_path, searched):
    tau = "{key: model.co_prior.tau, _target_: ray.tune.lograndint, lower: 2, upper: 9}"
    with pytest.raises(Started):
        run_sweep(words(data, f"+sweep.space.tau={tau}"), tmp_path / "run", PBT)
    made = searched[-1][2].space
    assert 2 <= to_domain(made["model.co_prior.tau"]).sample() < 9
    # Trials compose their configuration in this way.
    assert compose(tmp_path / "run" / "config.yaml", {"model.co_prior.tau": 3})
