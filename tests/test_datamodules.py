"""Session files become tensors, and tensors become batches in which no trial is lost."""

import inspect
import warnings
from itertools import chain
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import default_collate

from lfads_torch.datamodules import (
    MANDATORY_KEYS,
    BasicDataModule,
    SessionDataset,
    attach_tensors,
)
from lfads_torch.modules import recons
from lfads_torch.modules.priors import Null
from lfads_torch.modules.readin_readout import FanInLinear
from lfads_torch.tuples import SessionBatch
from tests.conftest import tiny_arrays, tiny_model, write_file
from tests.data.session_files import changed, set_up, with_test, write_sessions, zeros

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fewer than its share of a batch"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


few = settings(max_examples=25, deadline=None)


sizes = st.integers(1, 9)


def in_memory(*sessions, extra_keys=("inds",), **options):
    """Make a data module without files."""
    datamodule = BasicDataModule("unused", **options)
    attach_tensors(datamodule, sessions, extra_keys)
    return datamodule


def numbered(n_train, n_valid=3, session=0):
    """Make trials with numbers that no trial of another session has."""
    arrays = tiny_arrays(n_train, n_valid, n_bins=2, n_channels=2, n_forward=0)
    arrays["train_inds"] = 1000 * session + np.arange(n_train)
    arrays["valid_inds"] = 1000 * session + 500 + np.arange(n_valid)
    return arrays


def numbers(batch):
    """Return the numbers of each session's trials, None for a session that has no more."""
    return {s: None if item is None else item[1][0].int().tolist() for s, item in batch.items()}


def joined(lists):
    return list(chain.from_iterable(lists))


def one_pass(loader, epoch=0):
    """Return the trials' numbers in the batches of an epoch."""
    for session in loader.flattened:
        if hasattr(session.sampler, "set_epoch"):
            session.sampler.set_epoch(epoch)
    return [numbers(batch) for batch, _, _ in loader]


@pytest.fixture
def two_sessions(tmp_path):
    """Two sessions of 12 and 7 training trials, 6 and 4 validation trials, 4 and 6 channels."""
    second = tiny_arrays(7, 4, n_channels=7, seed=1)
    return write_sessions(tmp_path, tiny_arrays(), second)


# ------------------------------------------------------------------ names


def test_frozen_names():
    parameters = inspect.signature(BasicDataModule).parameters
    assert {name: p.default for name, p in parameters.items() if name != "datafile_pattern"} == {
        "batch_keys": (), "attr_keys": (), "batch_size": 64, "reshuffle_tv_seed": None,
        "reshuffle_tv_ratio": None, "sv_rate": 0.0, "sv_seed": 0, "dm_ic_enc_seq_len": 0,
    }  # fmt: skip
    assert next(iter(parameters)) == "datafile_pattern"
    assert {split: list(keys) for split, keys in MANDATORY_KEYS.items()} == {
        "train": ["encod_data", "recon_data"],
        "valid": ["encod_data", "recon_data"],
        "test": ["encod_data"],
    }


# ------------------------------------------------------------------ what setup() makes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values(tmp_path, dtype):
    arrays = with_test(tiny_arrays())
    arrays["train_encod_data"] = arrays["train_encod_data"].astype("uint8")
    for split, n in [("train", 12), ("valid", 6), ("test", 3)]:
        arrays[f"{split}_ext_input"] = np.random.default_rng(0).normal(size=(n, 8, 2))
    path = write_file(tmp_path / "a.h5", arrays)
    torch.set_default_dtype(dtype)
    try:
        datamodule = set_up(path)
    finally:
        torch.set_default_dtype(torch.float32)
    for split in MANDATORY_KEYS:
        [(batch, extras)] = getattr(datamodule, f"{split}_data")
        [dataset] = getattr(datamodule, f"{split}_ds")
        assert type(batch) is SessionBatch
        assert extras == ()
        assert len(dataset) == len(arrays[f"{split}_encod_data"])
        for name in ("encod_data", "recon_data", "ext_input"):
            tensor = getattr(batch, name)
            assert tensor.dtype == dtype
            np.testing.assert_array_equal(tensor, arrays[f"{split}_{name}"].astype(str(dtype)[6:]))
        assert batch.sv_mask.shape == (len(dataset), 0, 0)
        np.testing.assert_allclose(batch.truth, arrays[f"{split}_truth"] / 20, rtol=1e-6)
        for field, tensor in zip(dataset[0][0], batch, strict=True):
            assert torch.equal(field, tensor[0])


def test_setup_reads_once(tiny_file):
    datamodule = set_up(tiny_file)
    before = datamodule.train_data[0][0].encod_data
    tiny_file.unlink()
    datamodule.setup("fit")
    assert datamodule.train_data[0][0].encod_data is before


@few
@given(
    n_trials=st.tuples(sizes, sizes), n_bins=st.integers(2, 9), n_channels=sizes,
    n_forward=st.integers(0, 3), n_heldout=st.integers(0, 3), n_inputs=st.integers(0, 2),
    t_ic=st.integers(0, 8), sv_rate=st.sampled_from([0.0, 0.3]), truth=st.booleans(),
)  # fmt: skip
def test_shapes(n_trials, n_bins, n_channels, n_forward, n_heldout, n_inputs, t_ic, sv_rate, truth):
    t_ic = min(t_ic, n_bins - 1)
    arrays = tiny_arrays(*n_trials, n_bins, n_channels + n_heldout, n_forward, n_heldout)
    for split, n in zip(("train", "valid"), n_trials, strict=True):
        if n_inputs:
            arrays[f"{split}_ext_input"] = np.zeros((n, n_bins, n_inputs))
        if not truth:
            del arrays[f"{split}_truth"]
    datamodule = in_memory(arrays, dm_ic_enc_seq_len=t_ic, sv_rate=sv_rate)
    splits = (datamodule.train_data, datamodule.valid_data)
    for [(batch, _)], n in zip(splits, n_trials, strict=True):
        assert batch.encod_data.shape == (n, n_bins, n_channels)
        assert batch.recon_data.shape == (n, n_bins + n_forward, n_channels + n_heldout)
        assert batch.ext_input.shape == (n, n_bins - t_ic, n_inputs)
        shape = (n_bins + n_forward - t_ic, n_channels + n_heldout) if truth else (0, 0)
        assert batch.truth.shape == (n, *shape)
        assert batch.sv_mask.shape == (n, *((n_bins - t_ic, n_channels) if sv_rate else (0, 0)))
    assert datamodule.test_data == datamodule.test_ds == []


def test_leading_bins_are_trimmed(tmp_path):
    arrays = tiny_arrays()
    for split, n in [("train", 12), ("valid", 6)]:
        arrays[f"{split}_ext_input"] = np.random.default_rng(0).normal(size=(n, 8, 2))
    path = write_file(tmp_path / "a.h5", arrays)
    whole = set_up(path, sv_rate=0.5).valid_data[0][0]
    batch = set_up(path, sv_rate=0.5, dm_ic_enc_seq_len=3).valid_data[0][0]
    assert torch.equal(batch.ext_input, whole.ext_input[:, 3:])
    assert torch.equal(batch.truth, whole.truth[:, 3:])
    assert torch.equal(batch.encod_data, whole.encod_data)
    assert torch.equal(batch.recon_data, whole.recon_data)
    assert batch.sv_mask.shape == (6, 5, 4)


@pytest.mark.parametrize("factor", [None, np.array(4.0), np.array([4.0])])
def test_conversion_factor(tmp_path, factor):
    arrays = changed(tiny_arrays(), conversion_factor=factor)
    truth = set_up(write_file(tmp_path / "a.h5", arrays)).train_data[0][0].truth
    divisor = 1 if factor is None else 4
    np.testing.assert_allclose(truth, arrays["train_truth"] / divisor, rtol=1e-6)


@pytest.mark.parametrize("named_as_today", [False, True])
def test_files_of_the_tensorflow_implementation(tmp_path, named_as_today):
    arrays = tiny_arrays(n_forward=0, n_heldout=0)
    old = {"train_data": arrays["train_encod_data"], "valid_data": arrays["valid_encod_data"]}
    old |= {"test_data": arrays["valid_encod_data"][:2], "train_truth": arrays["train_truth"]}
    if named_as_today:  # These names take precedence.
        old |= {f"{split}_encod_data": 2 * old[f"{split}_data"] for split in MANDATORY_KEYS}
        old |= {f"{split}_recon_data": 2 * old[f"{split}_data"] for split in MANDATORY_KEYS}
    datamodule = set_up(write_file(tmp_path / "a.h5", old))
    for split in MANDATORY_KEYS:
        batch = getattr(datamodule, f"{split}_data")[0][0]
        np.testing.assert_array_equal(batch.encod_data, old[f"{split}_data"] * (1 + named_as_today))
        assert torch.equal(batch.encod_data, batch.recon_data)


def test_test_data_are_optional(tmp_path, tiny_file):
    datamodule = set_up(tiny_file)
    assert datamodule.test_data == datamodule.test_ds == []
    arrays = changed(with_test(tiny_arrays()), test_recon_data=None, test_truth=None)
    arrays = changed(arrays, test_behavior=None)
    path = write_file(tmp_path / "a.h5", arrays)
    [(batch, (behavior,))] = set_up(path, batch_keys=["behavior"]).test_data
    assert batch.encod_data.shape == (3, 8, 4)
    assert batch.recon_data.shape == batch.truth.shape == (3, 0, 0)
    assert behavior.shape == (3, 0)


def test_sessions_are_sorted(tmp_path):
    for name, n in [("b", 5), ("a10", 4), ("c", 6), ("a9", 3)]:
        write_file(tmp_path / f"{name}.h5", tiny_arrays(n_train=n))
    datamodule = set_up(tmp_path / "*.h5")
    assert [path.stem for path in datamodule.session_files] == ["a10", "a9", "b", "c"]
    assert [len(dataset) for dataset in datamodule.train_ds] == [4, 3, 5, 6]


def test_extras(two_sessions, tmp_path):
    datamodule = set_up(two_sessions, batch_keys=["cond_idx", "behavior"])
    for session, path in enumerate(datamodule.session_files):
        with h5py.File(path) as file:
            for split in ("train", "valid"):
                conditions, behavior = getattr(datamodule, f"{split}_data")[session][1]
                np.testing.assert_array_equal(conditions, file[f"{split}_cond_idx"])
                np.testing.assert_array_equal(behavior, file[f"{split}_behavior"])


def test_attributes(two_sessions, tiny_file):
    """The array of one session, or a list of several (the published code kept the last only)."""
    keys = ["psth", "train_cond_idx", "conversion_factor"]
    one, two = set_up(tiny_file, attr_keys=keys), set_up(two_sessions, attr_keys=keys)
    expected = tiny_arrays(), tiny_arrays(7, 4, n_channels=7, seed=1)
    for key in keys:
        np.testing.assert_array_equal(getattr(one, key), expected[0][key])
        assert isinstance(getattr(two, key), list)
        assert len(getattr(two, key)) == 2
        for found, arrays in zip(getattr(two, key), expected, strict=True):
            np.testing.assert_array_equal(found, arrays[key])


@pytest.mark.parametrize("split", ["test", "valid"])
def test_one_split_is_enough_to_infer(tmp_path, split):
    everything = with_test(tiny_arrays())
    arrays = {key: everything[key] for key in everything if key.startswith((split, "conv"))}
    path = write_file(tmp_path / "a.h5", arrays)
    datamodule = BasicDataModule(str(path), batch_size=2)
    with pytest.raises(ValueError, match="has no train_encod_data"):
        datamodule.setup("fit")
    datamodule.setup("predict")
    [(batch, _)] = getattr(datamodule, f"{split}_data")
    np.testing.assert_array_equal(batch.encod_data, arrays[f"{split}_encod_data"])
    [loaders] = datamodule.predict_dataloader().values()
    assert list(loaders) == [split]
    assert sum(len(trials.encod_data) for trials, _ in loaders[split]) == len(batch.encod_data)
    with pytest.raises(ValueError, match="has no train_encod_data"):
        datamodule.setup("fit")


# ------------------------------------------------------------------ sample validation


def sv_masks(pattern, **options):
    datamodule = set_up(pattern, **options)
    return [batch.sv_mask for batch, _ in datamodule.train_data + datamodule.valid_data]


def test_sv_mask_is_reproducible(two_sessions):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = sv_masks(two_sessions, sv_rate=0.5, sv_seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = sv_masks(two_sessions, sv_rate=0.5, sv_seed=3)
    other = sv_masks(two_sessions, sv_rate=0.5, sv_seed=4)
    for mask, same, different in zip(first, again, other, strict=True):
        assert torch.equal(mask, same)
        assert not torch.equal(mask, different)
    assert not torch.equal(first[0][:6], first[2])  # Each split has its own draw.


def test_sv_mask_keeps_all_but_sv_rate():
    arrays = tiny_arrays(n_train=100, n_bins=20, n_channels=20)
    for rate in (0.1, 0.7):
        mask = in_memory(arrays, sv_rate=rate).train_data[0][0].sv_mask
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        assert abs((mask == 0).float().mean() - rate) < 0.01


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_sv_rate_is_checked(rate):
    with pytest.raises(ValueError, match=r"datamodule\.sv_rate .* is -0.1|datamodule\.sv_rate.*1"):
        BasicDataModule("unused", sv_rate=rate)


# ------------------------------------------------------------------ training batches


def test_training_batches(two_sessions):
    datamodule = set_up(two_sessions, batch_size=6, batch_keys=["inds", "behavior"])
    batches = [batch for batch, _, _ in datamodule.train_dataloader()]
    assert len(batches) == 4
    for batch in batches:
        assert list(batch) == [0, 1]
        for session, n_channels in [(0, 4), (1, 6)]:
            trials, (inds, behavior) = batch[session]
            assert type(trials) is SessionBatch
            assert trials.encod_data.shape == (3, 8, n_channels)
            assert behavior.shape == (3, 8, 2)
            whole, extras = datamodule.train_data[session]
            assert torch.equal(behavior, extras[1][inds.long()])
            for field, tensor in zip(trials, whole, strict=True):
                assert torch.equal(field, tensor[inds.long()])


@few
@given(n=st.lists(st.integers(1, 20), min_size=1, max_size=3), share=st.integers(1, 8))
def test_an_epoch_sees_the_longest_session_once(n, share):
    sessions = [numbered(n_train, session=s) for s, n_train in enumerate(n)]
    datamodule = in_memory(*sessions, batch_size=share * len(n) + len(n) - 1)
    batches = one_pass(datamodule.train_dataloader())
    n_batches = [n_train // min(share, n_train) for n_train in n]
    assert len(batches) == max(n_batches)
    for s, n_train in enumerate(n):
        own = [batch[s] for batch in batches]
        assert {len(trials) for trials in own} == {min(share, n_train)}
        for start in range(0, len(own), n_batches[s]):
            seen = joined(own[start : start + n_batches[s]])
            assert len(set(seen)) == len(seen)
            assert set(seen) <= set(sessions[s]["train_inds"])


def test_a_shorter_session_comes_in_another_order_when_repeated():
    datamodule = in_memory(numbered(60), numbered(20, session=1), batch_size=20)
    order = joined(batch[1] for batch in one_pass(datamodule.train_dataloader()))
    passes = [order[:20], order[20:40], order[40:]]
    assert len({tuple(trials) for trials in passes}) == 3
    assert {tuple(sorted(trials)) for trials in passes} == {tuple(range(1000, 1020))}


def test_shuffling_depends_only_on_seed_and_epoch():
    def epochs(seed):
        torch.manual_seed(seed)
        loader = in_memory(numbered(20), numbered(9, session=1), batch_size=8).train_dataloader()
        torch.rand(seed + 3)
        np.random.seed(seed + 3)  # noqa: NPY002
        return [one_pass(loader, epoch) for epoch in range(3)]

    first = epochs(0)
    assert epochs(0) == first
    assert epochs(1) != first
    assert first[0] != first[1] != first[2] != first[0]
    torch.manual_seed(0)
    datamodule = in_memory(numbered(20), numbered(9, session=1), batch_size=8)
    assert one_pass(datamodule.train_dataloader(), epoch=2) == first[2]  # As in a resumed run.


def test_a_set_smaller_than_a_batch_still_trains(two_sessions):
    """The published code dropped it without a warning."""
    with pytest.warns(UserWarning, match=r"session1\.h5 has 7 training trials, fewer than .*\(8"):
        datamodule = set_up(two_sessions, batch_size=16, batch_keys=["inds"])
    [batch] = one_pass(datamodule.train_dataloader())
    assert sorted(batch[1]) == list(range(7))
    assert len(batch[0]) == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_up(two_sessions, batch_size=14)


# ------------------------------------------------------------------ validation and prediction


@few
@given(n=st.lists(st.integers(1, 12), min_size=1, max_size=3), share=st.integers(1, 6))
def test_validation_sees_every_trial_once(n, share):
    sessions = [numbered(2, n_valid, session=s) for s, n_valid in enumerate(n)]
    datamodule = in_memory(*sessions, batch_size=share * len(n))
    batches = one_pass(datamodule.val_dataloader())
    assert batches == one_pass(datamodule.val_dataloader())
    for s, arrays in enumerate(sessions):
        own = [batch[s] for batch in batches]
        present = [trials for trials in own if trials is not None]
        assert own == present + [None] * (len(own) - len(present))
        assert joined(present) == arrays["valid_inds"].tolist()


def test_prediction_sees_every_split_in_order(tmp_path):
    arrays = with_test(tiny_arrays(5, 4))
    pattern = write_sessions(tmp_path, arrays, with_test(tiny_arrays(7, 3, seed=1), n=2))
    datamodule = set_up(pattern, batch_size=6)
    loaders = datamodule.predict_dataloader()
    assert list(loaders) == [0, 1]
    for session, splits in loaders.items():
        assert list(splits) == ["train", "valid", "test"]
        for split, loader in splits.items():
            whole = getattr(datamodule, f"{split}_data")[session][0]
            batches = [batch for batch, _ in loader]
            assert all(len(batch.encod_data) <= 3 for batch in batches)
            for field, tensor in enumerate(whole):
                assert torch.equal(torch.cat([batch[field] for batch in batches]), tensor)


def test_prediction_without_a_test_split(tiny_file):
    assert list(set_up(tiny_file).predict_dataloader()[0]) == ["train", "valid"]


# ------------------------------------------------------------------ under a trainer


class Recorder(pl.LightningModule):
    """Records which trials the trainer passes to it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "valid": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append((self.current_epoch, numbers(batch)))
        return self.weight**2

    def validation_step(self, batch, batch_idx):
        self.seen["valid"].append((self.current_epoch, numbers(batch)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def epoch(self, split, epoch):
        return [trials for e, trials in self.seen[split] if e == epoch]


def trainer(**options):
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip


def test_batches_under_a_trainer(two_sessions):
    torch.manual_seed(5)
    options = {"batch_size": 4, "batch_keys": ["inds"]}
    datamodule = BasicDataModule(two_sessions, **options)
    model = Recorder()
    trainer(max_epochs=3).fit(model, datamodule)
    torch.manual_seed(5)
    expected = set_up(two_sessions, **options).train_dataloader()
    for epoch in range(3):
        assert model.epoch("train", epoch) == one_pass(expected, epoch)
        assert model.epoch("valid", epoch) == [
            {0: [12, 13], 1: [7, 8]},
            {0: [14, 15], 1: [9, 10]},
            {0: [16, 17], 1: None},
        ]


def test_metrics_are_logged_once_an_epoch(tiny_file, monkeypatch):
    """Each call of log costs more than a small model's step."""
    calls = []
    model = tiny_model()
    for name in ("log", "log_dict"):
        method = getattr(model, name)
        monkeypatch.setattr(
            model,
            name,
            lambda *args, method=method, **kw: calls.append(args) or method(*args, **kw),
        )
    counts = []
    for batch_size in (12, 3):
        calls.clear()
        fit = trainer(max_epochs=2)
        fit.fit(model, BasicDataModule(str(tiny_file), batch_size=batch_size))
        counts.append((fit.global_step, len(calls)))
    (few, n_calls), (many, as_many_calls) = counts
    assert many == 4 * few
    assert n_calls == as_many_calls
    assert n_calls


def test_the_validation_loss_does_not_depend_on_the_batch_size(two_sessions):
    """The published code repeated the trials of the shorter session."""
    torch.manual_seed(0)
    model = tiny_model(
        readin=[nn.Identity(), nn.Linear(6, 4)],
        readout=[FanInLinear(3, 5), FanInLinear(3, 7)],
        reconstruction=[recons.Poisson(), recons.Poisson()],
        variational=False, ic_prior=Null(), co_prior=Null(),
    )  # fmt: skip
    results = []
    for batch_size in (2, 4, 6, 100):
        datamodule = BasicDataModule(two_sessions, batch_size=batch_size)
        results += trainer().validate(model, datamodule, verbose=False)
    for metrics in results[:-1]:
        for name in ("valid/recon", "valid/recon/sess0", "valid/recon/sess1"):
            assert metrics[name] == pytest.approx(results[-1][name], rel=1e-5)


# ------------------------------------------------------------------ where the data are


def test_batches_are_gathered_at_once(monkeypatch):
    """The published code collated them trial by trial."""
    datamodule = in_memory(tiny_arrays(), batch_size=5, extra_keys=["inds", "behavior"])
    [dataset] = datamodule.train_ds
    chosen = [7, 0, 3]
    one_by_one = default_collate([dataset[i] for i in chosen])
    at_once = dataset.__getitems__(chosen)
    flat = [(*batch, *extras) for batch, extras in (one_by_one, at_once)]
    for expected, found in zip(*flat, strict=True):
        assert torch.equal(expected, found)

    indexed = []
    getitem = SessionDataset.__getitem__
    monkeypatch.setattr(
        SessionDataset, "__getitem__", lambda self, i: indexed.append(i) or getitem(self, i)
    )
    for loader in (datamodule.train_dataloader(), datamodule.val_dataloader()):
        for _ in loader:
            pass
    assert [len(i) for i in indexed] == [5, 5, 5, 1]


def test_data_are_moved_to_the_device_of_the_model(monkeypatch):
    datamodule = in_memory(tiny_arrays(), batch_size=5, extra_keys=["inds"])
    device = torch.device("meta")
    datamodule.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=device))
    for loader in (datamodule.train_dataloader(), datamodule.val_dataloader()):
        for step, _, _ in loader:
            batch, extras = step[0]
            assert batch.encod_data.shape == (len(batch.recon_data), 8, 4)
            assert {tensor.device for tensor in (*batch, *extras)} == {device}
    # The tensors that callbacks and users read do not move.
    assert datamodule.train_ds[0].model_tensors.encod_data.device.type == "cpu"


def test_data_too_large_for_a_device_stay_in_main_memory(monkeypatch):
    [dataset] = in_memory(tiny_arrays(), batch_size=5).train_ds
    size = sum(tensor.nbytes for tensor in dataset.model_tensors)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * size - 1, 10**12))
    assert dataset.to(torch.device("cuda")) is dataset


# ------------------------------------------------------------------ what is refused


def test_sessions_of_unequal_length(tmp_path):
    for name, options in [("train_encod_data", {"n_bins": 7, "n_forward": 3}),
                          ("train_recon_data", {"n_forward": 3})]:  # fmt: skip
        pattern = write_sessions(tmp_path, tiny_arrays(), tiny_arrays(**options))
        with pytest.raises(ValueError, match=rf"{name} has \d+ .*session1\.h5, but .*session0\.h5"):
            set_up(pattern)


def test_a_test_split_in_only_some_sessions(tmp_path):
    pattern = write_sessions(tmp_path, tiny_arrays(), with_test(tiny_arrays()))
    with pytest.raises(ValueError, match=r"test_encod_data is in 1 of 2 .*session1\.h5"):
        set_up(pattern)


def test_more_sessions_than_trials_in_a_batch(two_sessions):
    set_up(two_sessions, batch_size=2)
    with pytest.raises(ValueError, match=r"datamodule\.batch_size = 1 .* 2 sessions"):
        set_up(two_sessions, batch_size=1)


@pytest.mark.parametrize("t_ic", [8, 9, -1])
def test_no_bins_left_after_the_initial_condition(tiny_file, t_ic):
    with pytest.raises(ValueError, match=rf"dm_ic_enc_seq_len = {t_ic} .* 8 .*tiny\.h5"):
        set_up(tiny_file, dm_ic_enc_seq_len=t_ic)


def test_unknown_attr_keys(tmp_path):
    second = changed(tiny_arrays(), psth=None)
    pattern = write_sessions(tmp_path, tiny_arrays(), second)
    with pytest.raises(ValueError, match=r"attr_keys names 'psth'.*session1\.h5.*train_cond_idx"):
        set_up(pattern, attr_keys=["psth"])


def test_unknown_batch_keys(tmp_path):
    second = changed(tiny_arrays(), valid_behavior=None)
    pattern = write_sessions(tmp_path, tiny_arrays(), second)
    with pytest.raises(ValueError, match=r"batch_keys names 'behavior'.*valid_behavior.*valid_ind"):
        set_up(pattern, batch_keys=["behavior"])


def test_unknown_batch_keys_name_the_file(tmp_path):
    pattern = write_sessions(tmp_path, tiny_arrays(), changed(tiny_arrays(), valid_behavior=None))
    with pytest.raises(ValueError, match="valid_behavior") as error:
        set_up(pattern, batch_keys=["behavior"])
    assert "session1.h5" in str(error.value)


def test_trials_of_batch_keys(tmp_path):
    path = write_file(tmp_path / "a.h5", changed(tiny_arrays(), valid_behavior=zeros(7, 8, 2)))
    with pytest.raises(ValueError, match="7") as error:
        set_up(path, batch_keys=["behavior"])
    assert "valid_behavior" in str(error.value)
    assert str(path) in str(error.value)
