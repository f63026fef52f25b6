"""Figures show the right trials, and never change or break a training."""

import csv
import logging
import random

import numpy as np
import pytest
import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lfads_torch.analysis import figures
from lfads_torch.running.callbacks import (
    LossPlot,
    PSTHPlot,
    RasterPlot,
    TrajectoryPlot,
)
from tests.running.callbacks.training import (
    N_ENC,
    T_ENC,
    T_REC,
    Losses,
    N,
    all_figures,
    drawn,
    fit,
    make_data,
    make_model,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")


def test_figures_of_a_run(tmp_path):
    datamodule = make_data(
        tmp_path, conditions=True, truth=True, attr_keys=["train_cond_idx", "valid_cond_idx"]
    )
    loggers = [
        CSVLogger(tmp_path, name="", version="csv_logs"),
        TensorBoardLogger(tmp_path, name="", version="tb"),
    ]
    fit(tmp_path, all_figures(3), datamodule, max_epochs=4, logger=loggers)
    names = ["psth_valid_sess0", "raster_train_sess0", "raster_valid_sess0"]
    names += ["trajectories_valid_sess0"]
    expected = [f"{name}_epoch000{e}.png" for name in names for e in (0, 3)]
    expected += [f"losses_epoch000{e}.png" for e in (0, 3)]
    assert drawn(tmp_path) == sorted(expected)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert sorted(events.Tags()["images"]) == sorted([*names, "losses"])
    assert [image.step for image in events.Images("losses")] == [2, 8]


def test_figures_do_not_change_training(tmp_path):
    """Losses and random numbers are bitwise equal, and the modes of the modules are the same."""
    runs = []
    for callbacks in ([], all_figures(1)):
        losses, model = Losses(), make_model()
        model.recon.eval()  # a mode that a user has chosen, and that has to be kept
        datamodule = make_data(tmp_path, conditions=True, attr_keys=["valid_cond_idx"])
        random.seed(0)
        fit(tmp_path, [*callbacks, losses], datamodule, model)
        runs.append((losses.values, random.random(), [m.training for m in model.modules()]))
    assert len(drawn(tmp_path)) == 4 * 2
    assert runs[0] == runs[1]
    assert False in runs[0][2]
    assert True in runs[0][2]


def test_figures_show_the_data(tmp_path, monkeypatch):
    """The arrays are those of the chosen trials, with the sizes of what the encoder sees."""
    shown = {}

    def record(name):
        original = getattr(figures, name)

        def wrapper(*arrays, **options):
            shown.setdefault(name, []).append((arrays, options))
            return original(*arrays, **options)

        monkeypatch.setattr(figures, name, wrapper)

    for name in ("raster", "psth", "trajectories"):
        record(name)
    datamodule = make_data(
        tmp_path, n_sessions=2, conditions=True, truth=True, attr_keys=["valid_cond_idx"]
    )
    callbacks = [RasterPlot(n_samples=99), PSTHPlot(max_trials=3), TrajectoryPlot(max_trials=2)]
    fit(tmp_path, callbacks, datamodule, make_model(n_sessions=2), max_epochs=1)
    assert drawn(tmp_path) == [
        f"{name}_valid_sess{session}_epoch0000.png"
        for name in ("psth", "raster", "trajectories")
        for session in (0, 1)
    ]
    for session in (0, 1):
        data = datamodule.valid_data[session][0].recon_data.numpy()
        (counts, rates), options = shown["raster"][session]
        np.testing.assert_array_equal(counts, data)
        assert rates.shape == (4, T_REC, N)
        assert options["inferred_inputs"].shape == (4, T_REC, 2)
        assert (options["n_encod_bins"], options["n_encod_channels"]) == (T_ENC, N_ENC)
        np.testing.assert_allclose(options["truth"], 0.5)
        assert options["title"] == f"session {session}, valid trials"
        (counts, _, labels), _ = shown["psth"][session]
        np.testing.assert_array_equal(counts, data[[0, 2, 3]])
        np.testing.assert_array_equal(labels, [0, 0, 1])
        (factors, labels), _ = shown["trajectories"][session]
        assert factors.shape == (2, T_REC, 3)
        np.testing.assert_array_equal(labels, [0, 1])


def test_conditions_from_batch_keys_and_lists_of_trials(tmp_path):
    callbacks = [PSTHPlot()]
    datamodule = make_data(tmp_path, conditions=True, batch_keys=["cond_idx"])
    fit(tmp_path, callbacks, datamodule, max_epochs=1)
    assert drawn(tmp_path) == ["psth_valid_sess0_epoch0000.png"]
    lists = np.array([np.array([0, 3]), np.array([1])], dtype=object)
    datamodule = make_data(tmp_path)
    datamodule.valid_cond_idx = lists
    (tmp_path / "lists").mkdir()
    fit(tmp_path / "lists", callbacks, datamodule, max_epochs=1)
    assert drawn(tmp_path / "lists") == ["psth_valid_sess0_epoch0000.png"]


def test_no_psth_without_conditions(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="lfads_torch"):
        fit(tmp_path, [PSTHPlot(), TrajectoryPlot()], make_data(tmp_path), max_epochs=1)
    assert drawn(tmp_path) == ["trajectories_valid_sess0_epoch0000.png"]
    assert not caplog.records
    # Once trials are shuffled between the splits, indices of trials are not valid any more.
    datamodule = make_data(tmp_path)
    datamodule.hparams.reshuffle_tv_seed = 0
    datamodule.valid_cond_idx = np.array([np.array([0, 3]), np.array([1])], dtype=object)
    fit(tmp_path, [PSTHPlot()], datamodule, max_epochs=1)
    assert len(drawn(tmp_path)) == 1


@pytest.mark.parametrize("overrides", [{"co_dim": 0, "ci_enc_dim": 0}, {"fac_dim": 1}])
def test_other_architectures(tmp_path, overrides):
    if "co_dim" in overrides:
        overrides = {**overrides, "co_prior": {"_target_": "lfads_torch.modules.priors.Null"}}
    fit(tmp_path, all_figures(1), make_data(tmp_path), make_model(**overrides), max_epochs=1)
    assert len(drawn(tmp_path)) == 3


def test_missing_split_and_missing_datamodule(tmp_path, caplog):
    datamodule = make_data(tmp_path)
    with caplog.at_level(logging.WARNING, logger="lfads_torch"):
        fit(tmp_path, [RasterPlot("test")], datamodule, max_epochs=1)
        trainer = pl.Trainer(
            default_root_dir=tmp_path,
            max_epochs=1,
            callbacks=all_figures(1),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
        )
        trainer.fit(make_model(), datamodule.train_dataloader(), datamodule.val_dataloader())
    assert drawn(tmp_path) == []
    assert not caplog.records


def test_test_split_without_targets(tmp_path):
    test_data = np.ones((2, T_ENC, N_ENC))
    fit(tmp_path, [RasterPlot("test")], make_data(tmp_path, test_encod_data=test_data))
    assert len(drawn(tmp_path)) == 2


def test_failure_does_not_stop_training(tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("no ink")

    monkeypatch.setattr(figures, "raster", fail)
    losses = Losses()
    with caplog.at_level(logging.WARNING, logger="lfads_torch"):
        fit(tmp_path, [RasterPlot(log_every_n_epochs=1), losses], make_data(tmp_path), max_epochs=2)
    assert len(losses.values) == 4
    failed = [r for r in caplog.records if r.name == "lfads_torch.running.callbacks.figures"]
    assert [r.getMessage()[:28] for r in failed] == [
        "RasterPlot failed in epoch 0",
        "RasterPlot failed in epoch 1",
    ]
    assert "no ink" in caplog.text
    assert "Traceback" in caplog.text


def test_fast_dev_run_leaves_no_files(tmp_path):
    fit(tmp_path, [RasterPlot(), LossPlot()], make_data(tmp_path), fast_dev_run=True)
    assert not (tmp_path / "plots").exists()


def test_loss_plot_reads_what_was_logged(tmp_path):
    csv_logger = CSVLogger(tmp_path, name="", version="csv_logs")
    rate = pl.callbacks.LearningRateMonitor()
    fit(tmp_path, [LossPlot(), rate], make_data(tmp_path), logger=csv_logger, max_epochs=3)
    path = tmp_path / "csv_logs" / "metrics.csv"
    metrics = figures.read_metrics(path)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for name in ("train/loss", "valid/loss", "valid/recon_smth"):
        logged = [float(row[name]) for row in rows if row[name]]
        np.testing.assert_array_equal(metrics[name], [[0, 1, 2], logged])
    np.testing.assert_allclose(metrics["lr-AdamW"], [[0, 1, 2], [4e-3] * 3])
    assert drawn(tmp_path) == ["losses_epoch0000.png", "losses_epoch0002.png"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RasterPlot("validation"), "split must be one of train, valid, test"),
        (lambda: RasterPlot(n_samples=0), "n_samples must be at least 1"),
        (lambda: PSTHPlot(n_channels=0), "n_channels and max_trials"),
        (lambda: PSTHPlot("all"), "split must be one of"),
        (lambda: TrajectoryPlot(max_trials=0), "max_trials must be at least 1"),
        (lambda: LossPlot(log_every_n_epochs=0), "log_every_n_epochs must be at least 1"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
