"""Scores of the Neural Latents Benchmark, from targets and rates."""

import copy

import numpy as np

from lfads_torch.analysis.nlb import (
    benchmark_scores,
    rate_tensors,
    target_tensors,
    unavailable_scores,
)
from tests.datasets.nlb.benchmark import N_ENC, N_TRIALS, T_ENC, T_REC, N, benchmark_arrays


def test_a_fixed_penalty_is_the_default():
    arrays = benchmark_arrays()
    targets = target_tensors(arrays, "data")
    rng = np.random.default_rng(3)
    rates = rate_tensors(*(rng.random((n, T_REC, N)) for n in N_TRIALS.values()), N_ENC, T_ENC)
    scores = {sweep: benchmark_scores(targets, rates, sweep) for sweep in (False, True)}
    assert scores[False]["behavior_r2"] != scores[True]["behavior_r2"]
    assert scores[False]["co_bps"] == scores[True]["co_bps"]


def test_scoring_does_not_change_its_arguments():
    arrays = benchmark_arrays()
    targets = target_tensors(arrays, "data")
    zeros = [np.zeros((n, T_REC, N)) for n in N_TRIALS.values()]
    rates = rate_tensors(*zeros, N_ENC, T_ENC)
    before = copy.deepcopy(targets)
    assert benchmark_scores(targets, rates)["co_bps"] < -1  # nlb_tools replaces rates of 0 by 1e-9
    assert all((value == 0).all() for value in rates.values())
    for key in targets.keys() - {"eval_cond_idx"}:
        np.testing.assert_array_equal(targets[key], before[key])


def test_scores_that_targets_do_not_allow_are_named_with_the_reason():
    assert set(unavailable_scores({})) == {"co_bps", "fp_bps", "behavior_r2", "tp_corr", "psth_r2"}
    for dataset, expected in (("mc_maze", set()), ("mc_rtt", {"psth_r2"}), ("dmfc_rsg", set())):
        assert set(unavailable_scores(target_tensors(benchmark_arrays(dataset), "x"))) == expected
