"""The history of a sweep is written and read, and the lineage of a model is found in it."""

import json
import math

import numpy as np
import pytest

from lfads_torch.sweeps.figures import plot_pbt_hps
from lfads_torch.sweeps.history import (
    append_history,
    lineage,
    read_history,
    read_pbt_fitlog,
    read_pbt_hps,
)
from tests.sweeps.conftest import GENERATIONS, write_sweep


@pytest.fixture
def sweep(tmp_path):
    return write_sweep(tmp_path)


def test_history_is_read_by_trial_and_epoch(sweep):
    rows = read_history(sweep)
    assert [(row["trial"], row["epoch"]) for row in rows] == [
        (trial, epoch) for trial in "abc" for epoch in (5, 10, 15)
    ]
    assert rows[1]["score"] == 2.5
    assert rows[1]["cloned_from"] == "b"
    assert rows[7]["score"] == float("inf")
    assert read_history(sweep / "elsewhere") == []


def test_the_repetition_of_a_generation_counts(sweep):
    again = {**read_history(sweep)[0], "score": 3.5}
    append_history(sweep, again)
    rows = read_history(sweep)
    assert len(rows) == 9
    assert rows[0]["score"] == 3.5


def test_an_incomplete_line_is_left_out(sweep):
    """The line that is appended next is complete."""
    path = sweep / "history.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines)[:-7])
    rows = read_history(sweep)
    assert len(rows) == 8
    append_history(sweep, json.loads(lines[-1]))
    assert len(read_history(sweep)) == 9
    assert read_history(sweep)[-1] == json.loads(lines[-1])


def test_hyperparameters_and_scores(sweep):
    hps = read_pbt_hps(sweep)
    assert list(hps.columns) == [
        "trial", "generation", "epoch", "score", "cloned_from", "cloned_at", "seed",
        "model.lr_init", "model.dropout_rate",
    ]  # fmt: skip
    assert len(hps) == 9
    assert hps["generation"].tolist() == [0, 1, 2] * 3
    assert hps["trial"].tolist() == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    assert hps["score"].tolist() == [4.0, 2.5, 2.0, 3.0, 2.9, 2.1, 5.0, np.inf, 1.5]
    assert hps["model.lr_init"].tolist()[:3] == [1e-3, 2.2e-3, 2.2e-3]
    c = hps.iloc[-1]
    assert (c["cloned_from"], c["cloned_at"]) == ("a", 10)
    assert hps["cloned_at"].isna().sum() == 5


def test_metrics_of_every_epoch(sweep):
    log = read_pbt_fitlog(sweep)
    assert len(log) == 3 * 15
    assert log["epoch"].dtype.kind == "i"
    assert log[log["trial"] == "b"]["epoch"].tolist() == list(range(15))
    row = log[(log["trial"] == "a") & (log["epoch"] == 7)].iloc[0]
    assert row["valid/recon_smth"] == 2.5 + 7
    assert row["train/loss"] == 70


@pytest.mark.parametrize("read", [read_pbt_hps, read_pbt_fitlog, plot_pbt_hps])
def test_a_folder_without_history_is_refused(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"holds no history.*history\.jsonl.*result\.json"):
        read(tmp_path)


def test_published_folders_are_read(tmp_path):
    """A result.json for each trial, with a result for each epoch."""
    for i, scores in enumerate(([3.0, 2.0], [4.0, 1.0])):
        folder = tmp_path / f"run_model_{i}"
        folder.mkdir()
        config = {"model": {"lr_init": 0.01 * (i + 1)}, "seed": 5, "model.dropout_rate": 0.2,
                  "logger": "csv", "flag": True}  # fmt: skip
        lines = [
            {"cur_epoch": e, "training_iteration": e + 1, "valid/recon_smth": score,
             "train/loss": 1.0, "nlb": {"co_bps": 0.1}, "trial_id": f"t{i}", "config": config,
             "pid": 3}
            for e, score in enumerate(scores)
        ]  # fmt: skip
        text = "\n".join(map(json.dumps, lines))
        (folder / "result.json").write_text(text + "\n" + ('{"cur_ep' if i else ""))
    with pytest.warns(UserWarning, match=r"run_model_1.result\.json holds a line .* cut short"):
        hps = read_pbt_hps(tmp_path)
    assert hps["trial"].tolist() == ["t0", "t0", "t1", "t1"]
    assert hps["score"].tolist() == [3.0, 2.0, 4.0, 1.0]
    assert hps["model.lr_init"].tolist() == [0.01, 0.01, 0.02, 0.02]
    assert {"seed", "model.dropout_rate"} <= set(hps.columns)
    assert not {"logger", "flag", "pid"} & set(hps.columns)
    with pytest.warns(UserWarning, match="cut short"):
        log = read_pbt_fitlog(tmp_path)
    assert log["nlb/co_bps"].tolist() == [0.1] * 4
    assert log["epoch"].tolist() == [0, 1, 0, 1]
    with pytest.warns(UserWarning, match="cut short"):
        assert len(plot_pbt_hps(tmp_path, save_dir=tmp_path).axes) == 2
    assert (tmp_path / "pbt_hps.png").is_file()


def steps(table):
    return list(zip(table["trial"], table["epoch"], strict=True))


def test_lineage_contains_the_trials_whose_checkpoints_were_taken_over(sweep):
    hps = read_pbt_hps(sweep)
    assert steps(lineage(hps)) == [("b", 5), ("a", 10), ("c", 15)]
    assert steps(lineage(hps, "c")) == steps(lineage(hps))
    assert steps(lineage(hps, "a")) == [("b", 5), ("a", 10), ("a", 15)]
    assert steps(lineage(hps, "b")) == [("b", 5), ("a", 10), ("b", 15)]


def test_lineage_of_the_best_last_score(tmp_path):
    """A better score in the past does not count, nor does a trial that has diverged."""
    generations = [
        {"a": (1.0, 1e-3, None), "b": (9.0, 1e-3, None), "c": (8.0, 1e-3, None)},
        {"a": (5.0, 1e-3, None), "b": (4.0, 1e-3, None), "c": (float("nan"), 1e-3, None)},
    ]
    hps = read_pbt_hps(write_sweep(tmp_path, generations))
    assert steps(lineage(hps)) == [("b", 5), ("b", 10)]


def test_lineage_of_the_best_model_where_higher_is_better(sweep):
    """A trial that has diverged, whose score is then minus infinity, is not the best."""
    (sweep / "config.yaml").write_text("sweep: {mode: max}\n")
    last = {"trial": "c", "epoch": 20, "score": -math.inf, "config": {}, "history": []}
    append_history(sweep, last)
    assert steps(lineage(read_pbt_hps(sweep))) == [("b", 5), ("a", 10), ("b", 15)]


def test_lineage_of_the_model_that_was_kept(sweep):
    """It is read from the summary, since a random search keeps the best epoch of a trial."""
    (sweep / "summary.json").write_text('{"best_trial": "a"}')
    assert steps(lineage(read_pbt_hps(sweep))) == [("b", 5), ("a", 10), ("a", 15)]


def test_lineage_without_tournaments(tmp_path):
    hps = read_pbt_hps(write_sweep(tmp_path, GENERATIONS[:1]))
    assert steps(lineage(hps)) == [("b", 5)]
