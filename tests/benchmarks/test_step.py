"""The floor in benchmarks/step.py consists of exactly the dense products of a training step."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lfads_torch.tuples import SessionBatch
from tests.conftest import tiny_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def step():
    spec = importlib.util.spec_from_file_location("benchmark_step", BENCHMARKS / "step.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Options, and the number of superfluous operations of the step for 3 trials: factors that are not
# used, and gradients of the external inputs.
OPTIONS = {
    "controller": ({}, 0),
    "no controller": ({"co_dim": 0}, 2 * 3 * 9 * 3),
    "separate initial bins": ({"ic_enc_seq_len": 3}, 0),
    "external inputs": ({"ext_input_dim": 2}, 2 * 3 * 10 * 2 * 27),
}


@pytest.mark.parametrize(("options", "superfluous"), OPTIONS.values(), ids=OPTIONS)
def test_floor_counts_the_operations_of_a_step(step, options, superfluous):
    model, n_trials = tiny_model(**options), 3
    n_bins = 8 - model.hparams.ic_enc_seq_len
    counts = torch.poisson(torch.ones(n_trials, 10, 5))
    ext_input = torch.randn(n_trials, n_bins, model.hparams.ext_input_dim)
    batch = SessionBatch(counts[:, :8, :4].clone(), counts, ext_input)
    train = step.training_step(model, batch)
    with FlopCounterMode(display=False) as counted:
        train()
    assert counted.get_total_flops() - superfluous == step.floor_flops(model, n_trials)
    with FlopCounterMode(display=False) as counted:
        step.floor(model, n_trials)()
    assert counted.get_total_flops() == step.floor_flops(model, n_trials)
