"""Callbacks do what they say, and figures never change or break a training."""

import csv
import logging
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import h5py
import hydra
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lfads_torch.analysis import figures as plots
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.modules.augmentations import AugmentationStack
from lfads_torch.running.callbacks import (
    ApplyHyperparameters,
    EarlyStoppingWithBurnInPeriod,
    EpochHistory,
    EpochSeed,
    FigureCallback,
    LastCheckpoint,
    LossPlot,
    PSTHPlot,
    RasterPlot,
    Stopwatch,
    TrajectoryPlot,
)

CONFIG = Path(__file__).parent / "golden" / "controller_forward_heldout_l2.yaml"
N_TRIALS = {"train": 6, "valid": 4}
T_ENC, T_REC, N_ENC, N = 11, 14, 7, 10

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")


def write_data(path, conditions=False, truth=False, seed=0, **extra):
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for split, n_trials in N_TRIALS.items():
            counts = rng.poisson(0.5, (n_trials, T_REC, N)).astype(float)
            file[f"{split}_recon_data"] = counts
            file[f"{split}_encod_data"] = counts[:, :T_ENC, :N_ENC]
            if conditions:
                file[f"{split}_cond_idx"] = np.arange(n_trials) % 2
            if truth:
                file[f"{split}_truth"] = np.full_like(counts, 0.5)
        for name, values in extra.items():
            file[name] = values


def make_model(n_sessions=1, **overrides):
    """Build a tiny model that draws random numbers in training: dropout, posterior samples."""
    torch.manual_seed(1)
    config = OmegaConf.load(CONFIG)
    model = config.model
    model.variational, model.dropout_rate = True, 0.2
    for name, dim in (("ic_prior", model.ic_dim), ("co_prior", model.co_dim)):
        model[name] = {
            "_target_": "lfads_torch.modules.priors.MultivariateNormal",
            "mean": 0.0,
            "variance": 0.1,
            "shape": dim,
        }
    model.readin = list(model.readin) * n_sessions
    model.readout.modules = list(model.readout.modules) * n_sessions
    model.reconstruction = list(model.reconstruction) * n_sessions
    for name, value in overrides.items():
        model[name] = value
    return hydra.utils.instantiate(config.model, _convert_="all")


def make_data(tmp_path, n_sessions=1, attr_keys=(), batch_keys=(), **content):
    for session in range(n_sessions):
        write_data(tmp_path / f"data{session}.h5", seed=session, **content)
    torch.manual_seed(2)  # seeds the order of the trials
    pattern = str(tmp_path / "data*.h5")
    return BasicDataModule(pattern, batch_keys, attr_keys, batch_size=3 * n_sessions)


def fit(tmp_path, callbacks, datamodule, model=None, max_epochs=2, ckpt_path=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            default_root_dir=tmp_path,
            max_epochs=max_epochs,
            callbacks=callbacks,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            **{
                "logger": False,
                "enable_checkpointing": False,
                "num_sanity_val_steps": 1,
                "log_every_n_steps": 1,
                **options,
            },
        )
        torch.manual_seed(3)
        trainer.fit(model or make_model(), datamodule, ckpt_path=ckpt_path)
    return trainer


def drawn(tmp_path):
    return sorted(path.name for path in (tmp_path / "plots").glob("*"))


class Losses(pl.Callback):
    """Keeps the training losses of every step, and a random number after it."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        state = torch.get_rng_state()
        self.values.append((outputs["loss"].item(), torch.rand(()).item()))
        torch.set_rng_state(state)


@pytest.fixture
def all_figures():
    return lambda n: [
        RasterPlot("train", n_samples=2, log_every_n_epochs=n),
        RasterPlot(log_every_n_epochs=n),
        PSTHPlot(n_channels=2, log_every_n_epochs=n),
        TrajectoryPlot(log_every_n_epochs=n),
        LossPlot(log_every_n_epochs=n),
    ]


def test_import_does_not_import_matplotlib():
    """Lightning does, by way of torchmetrics; what the import of this module adds is nothing."""
    code = (
        "import sys, pytorch_lightning\n"
        "for name in [name for name in sys.modules if name.startswith('matplotlib')]:\n"
        "    del sys.modules[name]\n"
        "import lfads_torch.running.callbacks\n"
        "sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------ figures


def test_figures_of_a_run(tmp_path, all_figures):
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


def test_figures_do_not_change_training(tmp_path, all_figures):
    """Losses and random numbers agree to the bit, and so do the modes of the modules."""
    runs = []
    for callbacks in ([], all_figures(1)):
        losses, model = Losses(), make_model()
        model.recon.eval()  # somebody's choice, to be respected
        datamodule = make_data(tmp_path, conditions=True, attr_keys=["valid_cond_idx"])
        random.seed(0)
        fit(tmp_path, [*callbacks, losses], datamodule, model)
        runs.append((losses.values, random.random(), [m.training for m in model.modules()]))
    assert len(drawn(tmp_path)) == 4 * 2
    assert runs[0] == runs[1]
    assert False in runs[0][2]
    assert True in runs[0][2]


def test_figures_restore_modes_and_random_state(tmp_path):
    """Also where an augmentation draws random numbers at inference."""

    class Noise:
        def process_batch(self, batch):
            torch.rand(3)
            return batch

    class Check(FigureCallback):
        def figures(self, trainer, model):
            from lfads_torch.running import callbacks

            before = torch.get_rng_state()
            modes = [module.training for module in model.modules()]
            assert any(modes)
            shown = callbacks.infer_trials(trainer, model, "valid", 0, np.array([2, 0]))
            assert torch.equal(torch.get_rng_state(), before)
            assert [module.training for module in model.modules()] == modes
            data = trainer.datamodule.valid_data[0][0].recon_data
            np.testing.assert_array_equal(shown.data, data[[2, 0]])
            model.eval()
            batch = {0: trainer.datamodule.valid_ds[0][torch.tensor([2, 0])]}
            expected = model.predict_step(batch, 0, sample_posteriors=False)[0]
            for field, value in zip(expected._fields, expected, strict=True):
                torch.testing.assert_close(getattr(shown.output, field), value)
            assert not shown.output.factors.requires_grad
            checked.append(trainer.current_epoch)
            yield from ()

    checked = []
    model = make_model()
    model.infer_aug_stack = AugmentationStack([Noise()], batch_order=[0])
    fit(tmp_path, [Check()], make_data(tmp_path), model, max_epochs=1)
    assert checked == [0]


def test_figures_show_the_data(tmp_path, monkeypatch):
    """The right trials of the right session, and what is held out of them."""
    shown = {}

    def record(name):
        original = getattr(plots, name)

        def wrapper(*arrays, **options):
            shown.setdefault(name, []).append((arrays, options))
            return original(*arrays, **options)

        monkeypatch.setattr(plots, name, wrapper)

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
    # Reshuffling deals trials out anew, so that indices of trials mean others.
    datamodule = make_data(tmp_path)
    datamodule.hparams.reshuffle_tv_seed = 0
    datamodule.valid_cond_idx = np.array([np.array([0, 3]), np.array([1])], dtype=object)
    fit(tmp_path, [PSTHPlot()], datamodule, max_epochs=1)
    assert len(drawn(tmp_path)) == 1


@pytest.mark.parametrize("overrides", [{"co_dim": 0, "ci_enc_dim": 0}, {"fac_dim": 1}])
def test_other_architectures(tmp_path, overrides, all_figures):
    if "co_dim" in overrides:
        overrides = {**overrides, "co_prior": {"_target_": "lfads_torch.modules.priors.Null"}}
    fit(tmp_path, all_figures(1), make_data(tmp_path), make_model(**overrides), max_epochs=1)
    assert len(drawn(tmp_path)) == 3


def test_missing_split_and_missing_datamodule(tmp_path, caplog, all_figures):
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

    monkeypatch.setattr(plots, "raster", fail)
    losses = Losses()
    with caplog.at_level(logging.WARNING, logger="lfads_torch"):
        fit(tmp_path, [RasterPlot(log_every_n_epochs=1), losses], make_data(tmp_path), max_epochs=2)
    assert len(losses.values) == 4
    failed = [r for r in caplog.records if r.name == "lfads_torch.running.callbacks"]
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
    metrics = plots.read_metrics(path)
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
        (lambda: EpochSeed(-1), "seed must be at least 0"),
        (lambda: EarlyStoppingWithBurnInPeriod("x", -1), "burn_in_period must be at least 0"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ------------------------------------------------------------------ early stopping


class Script(pl.LightningModule):
    """Logs given values, one an epoch."""

    def __init__(self, values):
        super().__init__()
        self.values = values
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        self.log("metric", self.values[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Watch(pl.Callback):
    """Keeps the count and the best value of an early stopping after each epoch."""

    def __init__(self, stopping):
        self.stopping, self.seen = stopping, []

    def on_train_epoch_end(self, trainer, pl_module):
        self.seen.append((self.stopping.wait_count, float(self.stopping.best_score)))


def run_script(stopping, values, tmp_path, max_epochs=None, **options):
    watch = Watch(stopping)
    watch.on_train_end = watch.on_train_epoch_end  # callbacks run before those that monitor
    trainer = pl.Trainer(
        max_epochs=max_epochs or len(values),
        callbacks=[stopping, watch],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
        **{"enable_checkpointing": False, **options},
    )
    loader = torch.utils.data.DataLoader(torch.zeros(1), batch_size=1)
    trainer.fit(Script(values), loader, loader)
    return watch.seen, trainer.current_epoch


VALUES = [1.0, 0.5, 0.9, 3.0, 2.0, 2.5, 2.6, 1.5, 1.8, 1.7, 1.9, 1.2, 1.1]


@pytest.mark.parametrize("at_train_end", [True, False, None])
@pytest.mark.parametrize("burn_in", [0, 1, 3, 5])
def test_burn_in_is_a_plain_early_stopping_that_starts_later(burn_in, at_train_end, tmp_path):
    options = {"patience": 3, "mode": "min", "check_on_train_epoch_end": at_train_end}
    late = EarlyStoppingWithBurnInPeriod("metric", burn_in_period=burn_in, **options)
    seen, stopped = run_script(late, VALUES, tmp_path)
    plain = EarlyStopping("metric", **options)
    expected, expected_stop = run_script(plain, VALUES[burn_in:], tmp_path)
    untouched = (0, float("inf"))
    assert seen == [untouched] * burn_in + expected
    assert stopped == burn_in + expected_stop
    assert late.wait_count == plain.wait_count == 3
    assert late.best_score == plain.best_score


def test_burn_in_does_not_stop_at_a_non_finite_value(tmp_path):
    values = [float("nan"), float("inf"), 1.0, 2.0]
    stopping = EarlyStoppingWithBurnInPeriod("metric", 2, patience=9)
    assert run_script(stopping, values, tmp_path)[1] == 4
    assert run_script(EarlyStopping("metric", patience=9), values, tmp_path)[1] == 1


def test_wrong_metric_is_reported_during_burn_in(tmp_path):
    stopping = EarlyStoppingWithBurnInPeriod("metrik", burn_in_period=5)
    with pytest.raises(RuntimeError, match="metrik"):
        run_script(stopping, VALUES, tmp_path)
    lenient = EarlyStoppingWithBurnInPeriod("metrik", burn_in_period=1, strict=False)
    assert run_script(lenient, VALUES[:3], tmp_path)[1] == 3


# ------------------------------------------------------------------ seeds


def draws():
    return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002


class FakeTrainer:
    global_rank = 0

    def __init__(self, current_epoch, global_rank=0):
        self.current_epoch, self.global_rank = current_epoch, global_rank


def seeded(seed, epoch, rank=0, first_batch=False):
    callback, trainer = EpochSeed(seed), FakeTrainer(epoch, rank)
    callback.on_train_epoch_start(trainer, None)
    if first_batch:
        callback.on_train_batch_start(trainer, None, None, 0)
    return draws()


def test_epoch_seeds_depend_on_seed_epoch_and_rank_alone():
    cases = [(0, 0), (0, 1), (1, 0), (0, 0, 1), (0, 0, 0, True), (2**40, 0)]
    first = [seeded(*case) for case in cases]
    draws()
    assert [seeded(*case) for case in cases] == first
    for numbers in zip(*first, strict=True):
        assert len(set(numbers)) == len(cases)


def test_epoch_seed_leaves_later_batches_alone():
    seeded(0, 0, first_batch=True)
    before = torch.get_rng_state()
    EpochSeed(0).on_train_batch_start(FakeTrainer(0), None, None, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_resumed_run_is_the_uninterrupted_one(tmp_path, all_figures):
    """4 epochs are 2 + 2, with dropout, posterior samples and figures in between."""
    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", save_last=True)
    options = {"enable_checkpointing": True}
    whole, first, second = Losses(), Losses(), Losses()
    fit(tmp_path, [whole, EpochSeed(5)], make_data(tmp_path), max_epochs=4)
    fit(tmp_path, [first, EpochSeed(5), checkpoint], make_data(tmp_path), max_epochs=2, **options)
    fit(
        tmp_path,
        [second, EpochSeed(5), *all_figures(1)],
        make_data(tmp_path),
        max_epochs=4,
        ckpt_path=tmp_path / "checkpoints" / "last.ckpt",
    )
    assert len(whole.values) == 8
    assert first.values + second.values == whole.values
    without = Losses()
    fit(tmp_path, [without], make_data(tmp_path), max_epochs=4)
    assert without.values != whole.values


# ------------------------------------------------------------------ trials of a sweep


def resume(tmp_path, model, *callbacks, change=None, max_epochs=2, logger=False):
    """Train a model on from a checkpoint of one epoch, made with rate 4e-3."""
    path = tmp_path / "first.ckpt"
    if not path.is_file():
        first = fit(tmp_path, [], make_data(tmp_path), make_model(lr_init=4e-3), max_epochs=1)
        first.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    (change or (lambda content: None))(content)
    torch.save(content, tmp_path / "changed.ckpt")
    return fit(
        tmp_path, list(callbacks), make_data(tmp_path), model, max_epochs,
        ckpt_path=tmp_path / "changed.ckpt", logger=logger,
    )  # fmt: skip


def test_hyperparameters_of_the_model_replace_those_of_a_checkpoint(tmp_path):
    own = {"lr_init": 1e-3, "lr_adam_epsilon": 1e-5, "lr_adam_beta1": 0.5, "weight_decay": 0.2}
    (optimizer,) = resume(tmp_path, make_model(**own), ApplyHyperparameters()).optimizers
    group = optimizer.param_groups[0]
    assert (group["lr"], group["eps"], group["betas"]) == (1e-3, 1e-5, (0.5, 0.999))
    assert optimizer.state[group["params"][0]]["step"] == 2 * 2  # moments go on
    # Without, they are those of the checkpoint.
    (optimizer,) = resume(tmp_path, make_model(**own)).optimizers
    assert optimizer.param_groups[0]["lr"] == 4e-3
    assert optimizer.param_groups[0]["eps"] == 1e-8


def test_hyperparameters_are_left_alone_without_a_checkpoint(tmp_path):
    runs = []
    for callbacks in ([], [ApplyHyperparameters()]):
        losses = Losses()
        fit(tmp_path, [*callbacks, losses], make_data(tmp_path), make_model(lr_init=2e-3))
        runs.append(losses.values)
    assert runs[0] == runs[1]


def test_hyperparameters_that_are_the_same_change_nothing(tmp_path):
    """To the bit, also of a learning rate that has been lowered."""

    def lower(content):
        content["optimizer_states"][0]["param_groups"][0]["lr"] = 1.1e-3

    for change, rate in ((None, 4e-3), (lower, 1.1e-3)):
        runs = []
        for callbacks in ([], [ApplyHyperparameters()]):
            losses, model = Losses(), make_model(lr_init=4e-3)
            trainer = resume(tmp_path, model, *callbacks, losses, change=change)
            assert trainer.optimizers[0].param_groups[0]["lr"] == rate
            runs.append(losses.values)
        assert runs[0] == runs[1]


def test_history_of_every_epoch(tmp_path):
    model, history = make_model(), EpochHistory()
    logger = CSVLogger(tmp_path, name="", version="csv_logs")
    fit(tmp_path, [], make_data(tmp_path), model, max_epochs=3, logger=[logger, history])
    assert sorted(history.rows) == [0, 1, 2]
    names = {"train/loss", "valid/loss", "valid/recon_smth", "valid/wt_kl/ramp", "epoch"}
    for epoch, row in history.rows.items():
        assert names <= set(row)
        assert row["epoch"] == epoch
        assert {type(value) for value in row.values()} == {float}
        assert not any(name.startswith("hp/") for name in row)
    with open(tmp_path / "csv_logs" / "metrics.csv", newline="") as file:
        logged = list(csv.DictReader(file))
    assert any(name.startswith("hp/") for name in logged[0])
    found = {
        (int(row["epoch"]), name): float(row[name]) for row in logged for name in names if row[name]
    }
    kept = {(epoch, name): row[name] for epoch, row in history.rows.items() for name in names}
    assert found == pytest.approx(kept)
    history.log_metrics({"no epoch": 1.0})
    assert len(history.rows) == 3


class Slow(pl.Callback):
    """Takes 20 ms in each part of training."""

    def wait(self, *args, **kwargs):
        time.sleep(0.02)

    setup = on_fit_start = on_train_batch_start = on_validation_epoch_start = wait
    on_fit_end = teardown = wait


def test_stopwatch_measures_epochs_and_nothing_else(tmp_path):
    stopwatch = Stopwatch()
    start = time.perf_counter()
    fit(tmp_path, [stopwatch, Slow()], make_data(tmp_path), num_sanity_val_steps=0)
    whole = time.perf_counter() - start
    # Two epochs of two batches and one validation; the four other parts are no epochs.
    assert 2 * 3 * 0.02 <= stopwatch.seconds <= whole - 4 * 0.02


def test_the_last_epoch_is_kept_from_the_first_of_a_resumed_run_on(tmp_path):
    keeping = ModelCheckpoint(tmp_path, save_last=True)
    keeping.best_model_path = "best of the run before"
    saved = []
    trainer = SimpleNamespace(fast_dev_run=False, save_checkpoint=saved.append)
    callback = LastCheckpoint(keeping)
    callback.on_train_start(trainer, None)
    callback.on_train_epoch_end(trainer, None)
    assert saved == [tmp_path / "last.ckpt"]
    keeping.best_model_path = "a better one, with which the last was saved"
    callback.on_train_epoch_end(trainer, None)
    assert len(saved) == 1
    callback.on_train_epoch_end(trainer, None)
    assert len(saved) == 2
