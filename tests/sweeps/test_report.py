"""A sweep prints its progress and its result."""

import dataclasses
import math

from lfads_torch.sweeps.report import describe_progress, print_result
from tests.sweeps.conftest import options


def row(trial, epoch, score, lr=1e-3, **config):
    config = {"model.lr_init": lr, "model.dropout_rate": 0.25, **config}
    return {"trial": trial, "epoch": epoch, "score": score, "config": config}


def test_progress():
    rows = [
        row("a", 105, 3.0), row("b", 105, 1.0), row("c", 105, math.inf), row("d", 105, 2.0),
        row("a", 130, 2.5, 4e-3), row("b", 130, 0.5), row("c", 130, math.nan),
        row("d", 130, 1.5, 2e-4),
    ]  # fmt: skip
    made = options("sweep.num_trials=4")
    text = describe_progress(rows, made, {"running": 3, "ERROR": 1}, seconds=3725.0, epochs=400)
    # 4 x 1000 - 4 x 130 epochs are left, at 400 in 3725 s: 32,407 s.
    assert text.splitlines() == [
        "1:02:05  generation 2, epoch 130; trials: 1 error, 3 running",
        "  valid/recon_smth: best 0.5 (b), median 1.5",
        "  lr_init 0.0002 to 0.004, dropout_rate 0.25 to 0.25",
        "  time left: at most 9:00:07",
    ]


def test_time_left_counts_all_trials_of_a_grid():
    space = {"a": {"grid": [1, 2]}, "b": {"choice": [1, 2, 3]}, "c": {"grid": [5, 6, 7]}}
    made = dataclasses.replace(options(), num_trials=4, space=space, max_epochs=1000)
    rows = [{"trial": "a", "epoch": 500, "score": 1.0, "config": {}}]
    assert "left: at most 0:15:40" in describe_progress(rows, made, {}, seconds=20.0, epochs=500)


def test_progress_of_trials_at_different_epochs():
    rows = [row("a", 130, 3.0), row("b", 105, 4.0), row("b", 80, 2.0)]
    text = describe_progress(rows, options(), {"running": 2}, seconds=5)
    assert "generation 2, epochs 105 to 130; trials: 2 running" in text
    assert "best 3 (a), median 3.5" in text
    assert "time left" not in text


def test_progress_where_higher_is_better():
    rows = [row("a", 105, 3.0), row("b", 105, 4.0)]
    assert "best 4 (b)" in describe_progress(rows, dataclasses.replace(options(), mode="max"), {})


def test_progress_before_the_first_result_and_when_all_have_diverged():
    assert describe_progress([], options(), {"pending": 20}).splitlines() == [
        "0:00:00  generation 0, epoch 0; trials: 20 pending"
    ]
    text = describe_progress([row("a", 105, math.inf)], options(), {"running": 1})
    assert "best" not in text
    assert "lr_init" in text


def test_progress_without_a_last_epoch():
    made = options("trainer.max_epochs=-1")
    assert "time left" not in describe_progress(
        [row("a", 105, 1.0)], made, {}, seconds=9.0, epochs=105
    )


def test_progress_leaves_out_choices_that_are_not_numbers():
    made = options("+sweep.space.kind={key: model.kind, choice: [x, y]}")
    text = describe_progress([row("a", 105, 1.0, **{"model.kind": "x"})], made, {})
    assert "kind" not in text


def test_report(tmp_path, capsys):
    print_result(
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
