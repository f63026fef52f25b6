"""The figures of a run show what is in the files of its folder."""

import logging

import h5py
import numpy as np
import pytest

from lfads_torch.analysis.figures import plot_run, run_figures
from tests.analysis.figures.drawn import DATA, N_ENC, RATES, T_ENC, TRUTH, B, T


def write_output(path, **extra):
    arrays = {
        "valid_encod_data": DATA[:, :T_ENC, :N_ENC],
        "valid_recon_data": DATA,
        "valid_output_params": RATES,
        "valid_factors": RATES[..., :3],
        "valid_co_means": np.zeros((B, T, 0)),
        **extra,
    }
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


def test_plot_run(tmp_path, monkeypatch):
    shown = {}
    for name in ("raster", "psth", "trajectories"):
        original = getattr(run_figures, name)
        monkeypatch.setattr(
            run_figures,
            name,
            lambda *a, n=name, f=original, **k: shown.update({n: (a, k)}) or f(*a, **k),
        )
    (tmp_path / "csv_logs").mkdir()
    (tmp_path / "csv_logs" / "metrics.csv").write_text("epoch,step,train/loss\n0,0,1.0\n")
    labels = np.array([0, 0, 1, 1, 2, 2])
    write_output(
        tmp_path / "lfads_output_sess0.h5",
        valid_truth=TRUTH * 4,
        conversion_factor=4.0,
        valid_cond_idx=labels,
    )
    write_output(tmp_path / "lfads_output_sess10.h5")
    written = plot_run(tmp_path)
    names = ["losses"] + [f"{kind}_valid_sess0" for kind in ("raster", "psth", "trajectories")]
    names += ["raster_valid_sess10", "trajectories_valid_sess10"]
    assert written == [tmp_path / "plots" / f"{name}.png" for name in names]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    (data, rates, conditions), options = shown["psth"]
    np.testing.assert_array_equal(data, DATA)
    np.testing.assert_array_equal(rates, RATES)
    np.testing.assert_array_equal(conditions, labels)
    np.testing.assert_allclose(options["truth"], TRUTH)
    assert (options["n_encod_bins"], options["n_encod_channels"]) == (T_ENC, N_ENC)
    (data, rates), options = shown["raster"]
    assert (len(data), len(rates), options["truth"]) == (3, 3, None)  # of session 10


def test_plot_run_continues_after_a_failure(tmp_path, caplog):
    write_output(tmp_path / "lfads_output_sess0.h5", valid_cond_idx=np.zeros(99))
    with caplog.at_level(logging.WARNING):
        written = plot_run(tmp_path)
    assert written == []
    assert "99 labels" in caplog.text
    (tmp_path / "lfads_output_sess0.h5").write_bytes(b"no HDF5")
    write_output(tmp_path / "lfads_output_sess1.h5")
    assert len(plot_run(tmp_path)) == 2


def test_plot_run_of_an_empty_folder(tmp_path):
    assert plot_run(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="nowhere"):
        plot_run(tmp_path / "nowhere")


def test_arrays_that_a_file_does_not_hold_are_not_drawn(tmp_path, caplog):
    path = tmp_path / "lfads_output_sess0.h5"
    write_output(path)
    with h5py.File(path, "a") as file:
        del file["valid_factors"], file["valid_recon_data"]
    with caplog.at_level(logging.WARNING):
        assert [path.name for path in plot_run(tmp_path)] == ["raster_valid_sess0.png"]
    assert not caplog.records
