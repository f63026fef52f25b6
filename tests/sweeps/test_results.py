"""The best trial of a sweep is chosen by its score."""

import dataclasses
import math

import pytest

from lfads_torch.errors import UserError
from lfads_torch.sweeps.results import Outcome, best_outcome
from tests.sweeps.conftest import options


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
        outcome("e", 2.0, error="boom"),  # it failed after its last checkpoint
    ]
    assert best_outcome(outcomes, options()).trial == "e"
    highest = dataclasses.replace(options(), mode="max")
    assert best_outcome(outcomes, highest).trial == "a"


def test_trials_may_be_ranked_by_their_best_epoch():
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
    with pytest.raises(UserError, match=r"'a': 'The loss is NaN\.', 'b': 'OSError: disk full'"):
        best_outcome(outcomes, options())
