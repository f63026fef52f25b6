"""The benchmark of sweeps has correct test trials and scores, and both searches start equally."""

import json

import h5py
import numpy as np
import pytest

from benchmarks import pbt_lorenz
from lfads_torch.sweeps.history import read_history

SMALL = ["--conditions", "3", "--trials-per-condition", "10", "--bins", "10", "--neurons", "6",
         "--heldout-neurons", "2", "--units", "4", "--trials", "3", "--epochs", "4",
         "--generation", "2", "--burn-in", "2", "--ramp", "1", "--seeds", "5"]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    return pbt_lorenz.make_data(
        tmp_path / "data.h5", pbt_lorenz.options().parse_args([*SMALL, "--output", str(tmp_path)])
    )


def read(path):
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


def test_test_trials_cover_all_conditions_and_are_seen_by_no_search(data):
    arrays = read(data)
    splits = [arrays[f"{split}_inds"] for split in ("train", "valid", "test")]
    assert [len(inds) for inds in splits] == [18, 6, 6]
    assert sorted(np.concatenate(splits)) == list(range(30))
    for split in ("valid", "test"):
        assert np.bincount(arrays[f"{split}_cond_idx"]).tolist() == [2, 2, 2]
    assert arrays["test_encod_data"].shape == (6, 10, 4)
    assert np.array_equal(arrays["test_encod_data"], arrays["test_recon_data"][:, :, :4])


def evaluate(data, run_dir, rates):
    """Score rates as if they were those of the best model of a sweep."""
    (run_dir / "best_model").mkdir(parents=True)
    seconds = {"seconds": 9.0, "trial_seconds": 8.0, "trial_train_seconds": 6.0}
    (run_dir / "summary.json").write_text(json.dumps({"best_score": 0.5, **seconds}))
    with h5py.File(run_dir / "best_model" / "lfads_output_sess0.h5", "w") as file:
        file["test_output_params"] = rates
    return pbt_lorenz.evaluate(run_dir, data)


def test_scores_are_those_of_test_trials(data, tmp_path):
    arrays = read(data)
    truth = arrays["test_truth"] / arrays["conversion_factor"]
    of_truth = evaluate(data, tmp_path / "truth", truth)
    assert of_truth["r2"] == pytest.approx(1.0)
    assert of_truth["co_bps"] > 0.05
    means = arrays["test_recon_data"].mean(axis=(0, 1)).clip(1e-3)
    of_means = evaluate(data, tmp_path / "means", np.broadcast_to(means, truth.shape))
    assert of_means["co_bps"] == pytest.approx(0.0, abs=1e-4)
    assert of_means["r2"] <= 0.0
    # Bits per spike are those of the held-out neurons, R² is that of all neurons.
    mixed = truth.copy()
    mixed[:, :, :4] = means[:4]
    of_mixed = evaluate(data, tmp_path / "mixed", mixed)
    assert of_mixed["co_bps"] == pytest.approx(of_truth["co_bps"])
    assert of_mixed["r2"] < 0.5
    assert (of_mixed["loss"], of_mixed["train_seconds"]) == (0.5, 6.0)


def test_tables():
    seconds = {"seconds": 10.0, "trial_seconds": 8.0, "train_seconds": 6.0}
    scores = {
        (name, seed): {"co_bps": a + seed, "r2": 0.5, "loss": 0.25, **seconds}
        for name, a in ((pbt_lorenz.PBT, 1.0), (pbt_lorenz.RANDOM, 0.0))
        for seed in (0, 2)
    }
    first, second = pbt_lorenz.tables(scores).strip().split("\n\n")
    rows = first.splitlines()
    assert "| 2 | 3.0000 | 2.0000 | 0.5000 | 0.5000 | 0.2500 | 0.2500 |" in rows
    assert rows[-1].startswith("| mean ± s.d. | 2.0000 ± 1.4142 | 1.0000 ± 1.4142 | 0.5000 ±")
    assert second.splitlines()[-1] == "| random search | 20 | 16 | 25.0% |"


def test_overhead_is_the_time_outside_of_epochs():
    rows = [{"train_seconds": 8.0}, {"train_seconds": 10.0}]
    assert pbt_lorenz._shares(10.0, rows, slots=2) == ["10.0", "9.0", "10.0%"]


@pytest.mark.slow
def test_the_whole_benchmark(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["pbt_lorenz.py", *SMALL, "--output", str(tmp_path)])
    pbt_lorenz.main()
    histories = [read_history(tmp_path / folder) for folder in ("pbt_5", "random_5")]
    first, _ = (
        {tuple(row["config"].items()) for row in history if row["cloned_from"] is None}
        for history in histories
    )
    drawn = {tuple(row["config"].items()) for row in histories[1]}
    assert len(drawn) == 3
    assert first <= drawn, "the population must start where the random search stays"
    for history in histories:
        assert sum(len(row["history"]) for row in history) == 3 * 4
    assert "| 5 | " in capsys.readouterr().out
    table = (tmp_path / "tables.md").read_text()
    pbt_lorenz.main()  # The second call trains nothing.
    assert (tmp_path / "tables.md").read_text() == table
