"""Continuous recordings become windows and come back: no bin is lost, shared or bridged."""

import json
import runpy
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from lfads_torch.data.windows import (
    Chop,
    chop_file,
    chop_recording,
    continuous_path,
    cross_fade,
    cut,
    find_segments,
    is_chopped,
    merge,
    merge_file,
    plan_chop,
    read_recording,
)
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.running.inference import infer
from lfads_torch.running.new_session import save_model
from lfads_torch.running.sampling import run_posterior_sampling
from lfads_torch.running.start import start_run
from tests.conftest import TINY_SIZES, tiny_model, write_file

SCRIPTS = Path(__file__).parents[1] / "scripts"

pytestmark = pytest.mark.filterwarnings("ignore:.*covered by no window.*")


def counts(n_bins=100, n_channels=5, seed=0):
    return np.random.default_rng(seed).poisson(0.8, (n_bins, n_channels)).astype("uint8")


def every_window(chop):
    """Return (first bin, split) of all windows."""
    return [(start, split) for split, starts in chop.starts.items() for start in starts.tolist()]


# --------------------------------------------------------------------------------- any recording


@st.composite
def recordings(draw):
    """Draw labels of trials (-1 between them), gaps and how to cut."""
    window = draw(st.integers(1, 12))
    length = st.builds(
        lambda windows, more: windows * window + more,
        st.sampled_from([0, 1, 3, 6, 9]), st.integers(1, window),
    )  # fmt: skip
    lengths = draw(st.lists(length, min_size=1, max_size=5))
    labels = draw(st.lists(st.integers(-1, 3), min_size=len(lengths), max_size=len(lengths)))
    trial_ids = np.repeat(labels, lengths)
    gaps = np.zeros(len(trial_ids), dtype=bool)
    for gap in draw(st.lists(st.integers(0, len(gaps) - 1), max_size=3)):
        gaps[gap : gap + draw(st.integers(1, 5))] = True
    how = {
        "overlap": draw(st.integers(0, window - 1)),
        "block": draw(st.sampled_from([None, window, window + 1, 2 * window])),
        "valid_fraction": draw(st.sampled_from([None, 0.01, 0.2, 0.35, 0.5])),
        "seed": draw(st.integers(0, 9)),
        "bridges": draw(st.sampled_from([True, True, False])),
    }
    return trial_ids, gaps, window, how


def planned(trial_ids, gaps, window, how):
    """Lay windows, or return None for a recording that has not enough bins."""
    try:
        segments, ids = find_segments(len(gaps), gaps, trial_ids)
        return plan_chop(segments, ids, len(gaps), window, **how)
    except ValueError as error:
        message = str(error)
        assert "None of the" in message or "as long as" in message or "only one block" in message
        return None


@settings(max_examples=300, deadline=None)
@given(recordings(), st.data())
def test_any_recording(drawn, data):
    trial_ids, gaps, window, how = drawn
    chop = planned(*drawn)
    if chop is None:
        return
    starts = np.concatenate([*chop.starts.values()])

    # No window leaves its segment, which is of one trial, without gaps, and as long as can be.
    inside = (trial_ids >= 0) & ~gaps
    for start, split in every_window(chop):
        held = slice(start, start + window)
        assert inside[held].all()
        assert len(set(trial_ids[held])) == 1
        row = chop.segment_of(split)[chop.starts[split].tolist().index(start)]
        assert chop.segments[row, 0] <= start
        assert start + window <= chop.segments[row, 1]
        assert chop.segment_ids[row] == trial_ids[start]
    for start, stop in chop.segments:
        assert inside[start:stop].all()
        for before, after in ((start - 1, start), (stop - 1, stop)):
            if before >= 0 and after < len(gaps) and inside[before] and inside[after]:
                assert trial_ids[before] != trial_ids[after]

    # No bin is in two splits, and every bin of a segment of sufficient length is covered.
    assert not (chop.covered("train") & chop.covered("valid")).any()
    expected = np.zeros(len(gaps), dtype=bool)
    for start, stop in chop.segments:
        expected[start:stop] = stop - start >= window
    np.testing.assert_array_equal(chop.covered(), expected)
    if how["valid_fraction"] is None:
        assert list(chop.starts) == ["test"]
    else:
        assert {"train", "valid"} <= chop.starts.keys()
        np.testing.assert_array_equal(chop.covered("train", "valid"), expected)
        assert ("test" in chop.starts) <= (how["bridges"] and how["overlap"] > 0)

    # Weights are positive and sum to one in every bin that is covered.
    weights = merge(np.ones((len(starts), window)), starts, len(gaps), how["overlap"])
    np.testing.assert_allclose(weights[expected], 1.0, rtol=1e-12)
    assert np.isnan(weights[~expected]).all()

    # Whatever is cut and merged comes back.
    values = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(len(gaps), 2, 3))
    merged = merge(cut(values, starts, window), starts, len(gaps), how["overlap"])
    np.testing.assert_allclose(merged[expected], values[expected], rtol=1e-12)
    assert np.isnan(merged[~expected]).all()


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 40), st.integers(0, 300), st.integers(0, 39), st.integers(0, 50)
)  # fmt: skip
def test_windows_are_spread_evenly(window, more, overlap, first):
    overlap = min(overlap, window - 1)
    n_bins = window + more
    segments = np.array([[first, first + n_bins]])
    chop = plan_chop(segments, np.array([0]), first + n_bins, window, overlap, valid_fraction=None)
    starts = chop.starts["test"]
    assert starts[0] == first
    assert starts[-1] == first + more
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= window - overlap).all()
    assert not len(steps) or steps.max() - steps.min() <= 1
    # Not more than are needed.
    assert len(starts) == 1 + np.ceil(more / (window - overlap))


# ---------------------------------------------------------------------------------- closed forms


def test_cross_fade_of_two_windows():
    """Over r bins of overlap the later window has the weights 1, 2, … r over r + 1."""
    window, overlap = 8, 3
    starts = np.array([0, window - overlap])
    windows = np.stack([np.zeros(window), np.ones(window)])
    merged = merge(windows, starts, 13, overlap)
    np.testing.assert_allclose(merged, [0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1], rtol=1e-15)


@pytest.mark.parametrize(("window", "overlap"), [(8, 3), (8, 4), (9, 0), (5, 1), (1, 0)])
def test_weights_of_regular_windows_sum_to_one_by_themselves(window, overlap):
    fade = cross_fade(window, overlap)
    step = window - overlap
    total = np.zeros(step * 6 + overlap)
    for start in range(0, step * 6, step):
        total[start : start + window] += fade
    np.testing.assert_allclose(total[overlap : len(total) - overlap], 1.0, rtol=1e-15)


def test_a_weighted_mean_by_hand():
    """Three windows over one bin, fading over two bins: weights 1/3, 1 and 2/3."""
    np.testing.assert_allclose(cross_fade(5, 2), [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    windows = np.arange(15.0).reshape(3, 5)
    merged = merge(windows, np.array([0, 2, 3]), 9, 2)
    by_hand = (1 / 3 * windows[0, 4] + 1 * windows[1, 2] + 2 / 3 * windows[2, 1]) / 2
    assert merged[4] == pytest.approx(by_hand, rel=1e-15)
    assert np.isnan(merged[8])


def test_no_seam_at_borders_of_blocks():
    """Windows that differ by an offset of their own: merged, no step is larger than in a fade."""
    chop = plan_chop(np.array([[0, 400]]), np.array([0]), 400, 20, 5, block=40)
    rng = np.random.default_rng(0)
    starts = np.concatenate([*chop.starts.values()])
    windows = np.repeat(rng.uniform(-1, 1, (len(starts), 1)), 20, axis=1)
    step = np.abs(np.diff(merge(windows, starts, 400, 5)))
    assert step.max() < 2 / 5

    alone = np.concatenate([chop.starts[split] for split in ("train", "valid")])
    without = np.abs(np.diff(merge(windows[: len(alone)], alone, 400, 5)))
    borders = chop.starts["test"] + 10 - 1
    assert without[borders].mean() > 3 * step[borders].mean()


def test_windows_of_nlb_tools():
    """Where its regular windows fit, they are the same, and both merge to what was cut."""
    theirs = pytest.importorskip("nlb_tools.chop")
    values = np.random.default_rng(0).normal(size=(8 + 5 * 9, 2))
    chop = plan_chop(np.array([[0, 53]]), np.array([0]), 53, 8, 3, valid_fraction=None)
    windows = cut(values, chop.starts["test"], 8)
    np.testing.assert_allclose(windows, theirs.chop_data(values, 3, 8), rtol=1e-6)
    merged = merge(windows, chop.starts["test"], 53, 3)
    np.testing.assert_allclose(merged, theirs.merge_chops(windows, 3, 53), rtol=1e-10)


# -------------------------------------------------------------------------------- segments, blocks


def test_segments_of_trials_and_gaps():
    ids = np.array([7, 7, 7, np.nan, 5, 5, -1, 5, 7, 7])
    segments, of = find_segments(10, trial_ids=ids)
    np.testing.assert_array_equal(segments, [[0, 3], [4, 6], [7, 8], [8, 10]])
    np.testing.assert_array_equal(of, [7, 5, 5, 7])
    missing = np.isin(np.arange(10), [1, 9])
    segments, of = find_segments(10, missing, ids)
    np.testing.assert_array_equal(segments, [[0, 1], [2, 3], [4, 6], [7, 8], [8, 9]])
    np.testing.assert_array_equal(of, [7, 7, 5, 5, 7])
    segments, of = find_segments(10, missing)
    np.testing.assert_array_equal(segments, [[0, 1], [2, 9]])
    np.testing.assert_array_equal(of, [0, 1])
    segments, _ = find_segments(5, trial_ids=[True, True, False, True, False])
    np.testing.assert_array_equal(segments, [[0, 2], [3, 4]])
    # Segments that touch remain two, in the order of time.
    segments, of = find_segments(10, segments=[[5.0, 9.0], [0.0, 5.0]])
    np.testing.assert_array_equal(segments, [[0, 5], [5, 9]])
    np.testing.assert_array_equal(of, [1, 0])


SEGMENTS = {
    "both": ({"trial_ids": np.zeros(9), "segments": [[0, 9]]}, "trial_ids or segments, not both"),
    "ids": ({"trial_ids": np.zeros(8)}, r"each of the 9 bins.*\(8,\)"),
    "names": ({"trial_ids": np.array(["a"] * 9)}, "number for each of the 9 bins.*<U1"),
    "gaps": ({"missing": np.zeros(8)}, r"9 bins, but its shape is \(8,\)"),
    "shape": ({"segments": [0, 9]}, r"\(segments, 2\).*\(2,\)"),
    "times": ({"segments": [[0.0, 1.5]]}, "whole bins"),
    "end": ({"segments": [[0, 4], [4, 10]]}, r"Segment 1 is \[4, 10\].*at most 9"),
    "start": ({"segments": [[-1, 4]]}, r"Segment 0 is \[-1, 4\].*at least 0"),
    "turned": ({"segments": [[4, 4]]}, r"Segment 0 is \[4, 4\].*less than its end"),
    "overlap": ({"segments": [[0, 4], [3, 6]]}, "Segment 1, bins 3 to 6, overlaps"),
    "nothing": ({"trial_ids": np.full(9, -1)}, "None of the 9 bins lies in a trial"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), SEGMENTS.values(), ids=SEGMENTS)
def test_mistakes_in_segments(arguments, message):
    with pytest.raises(ValueError, match=message):
        find_segments(9, **arguments)


def test_blocks_are_dealt_out_evenly_and_at_random():
    def blocks(seed):
        chop = plan_chop(np.array([[0, 5000]]), np.array([0]), 5000, 10, 2, 0.2, 100, seed)
        valid = chop.covered("valid").reshape(50, 100)
        assert (valid.all(axis=1) | ~valid.any(axis=1)).all()
        return valid[:, 0]

    first = blocks(0)
    np.testing.assert_array_equal(first.reshape(10, 5).sum(axis=1), 1)
    np.testing.assert_array_equal(first, blocks(0))
    assert (first != blocks(1)).any()


def test_trials_are_dealt_out_whole():
    """Trials that are shorter than a block are blocks; no bridges are needed."""
    ids = np.repeat(np.arange(40), 25)
    chop = plan_chop(*find_segments(1000, trial_ids=ids), 1000, 10, 4, 0.25)
    valid = chop.covered("valid").reshape(40, 25)
    assert (valid.all(axis=1) | ~valid.any(axis=1)).all()
    assert valid[:, 0].sum() == 10
    assert "test" not in chop.starts


def test_borders_are_bridged():
    chop = plan_chop(np.array([[5, 205]]), np.array([0]), 210, 10, 4, block=20)
    borders = np.flatnonzero(np.diff(chop.covered("valid")[5:205].astype(int))) + 1 + 5
    np.testing.assert_array_equal(chop.starts["test"], borders - 5)
    for more in ({"bridges": False}, {"overlap": 0}):
        how = {"overlap": 4, "block": 20, **more}
        chop = plan_chop(np.array([[5, 205]]), np.array([0]), 210, 10, **how)
        assert "test" not in chop.starts


PLANS = {
    "window": ((0, 0, 0.2, None), "window = 0"),
    "overlap": ((10, 10, 0.2, None), "window = 10 and overlap = 10"),
    "negative": ((10, -1, 0.2, None), "overlap = -1"),
    "long": ((201, 10, 0.2, None), "window of 201 bins: the longest has 200"),
    "fraction": ((10, 2, 0.6, None), "valid_fraction .* at most 0.5, not 0.6"),
    "none": ((10, 2, 0.0, None), "valid_fraction must be above 0"),
    "block": ((10, 2, 0.2, 9), "block of 9 bins is shorter than a window of 10"),
    "one block": ((50, 2, 0.2, None), "only one block of 500 bins"),
}


@pytest.mark.parametrize(("how", "message"), PLANS.values(), ids=PLANS)
def test_mistakes_in_plans(how, message):
    with pytest.raises(ValueError, match=message):
        plan_chop(np.array([[0, 200]]), np.array([0]), 200, *how)


# -------------------------------------------------------------------------------------- data files


def test_arrays_of_a_recording():
    spikes, force = counts(), np.random.default_rng(1).normal(size=100)
    arrays, chop = chop_recording(
        spikes, 8, 3, {"behavior": force, "ext_input": spikes[:, :2]}, heldout=2, block=20
    )
    assert chop.covered().all()
    total = 0
    for split, starts in chop.starts.items():
        total += len(starts)
        for i, start in enumerate(starts):
            held = slice(start, start + 8)
            np.testing.assert_array_equal(arrays[f"{split}_encod_data"][i], spikes[held, :3])
            np.testing.assert_array_equal(arrays[f"{split}_ext_input"][i], spikes[held, :2])
            np.testing.assert_array_equal(
                arrays[f"{split}_behavior"][i], force[held, None].astype("float32")
            )
            if split != "test":
                np.testing.assert_array_equal(arrays[f"{split}_recon_data"][i], spikes[held])
    assert "test_recon_data" not in arrays
    assert arrays["train_recon_data"].dtype == np.uint8
    # Trial numbers count the windows in the order of time.
    inds = np.concatenate([arrays[f"{split}_inds"] for split in chop.starts])
    starts = np.concatenate([*chop.starts.values()])
    np.testing.assert_array_equal(np.sort(inds), np.arange(total))
    assert (np.diff(starts[np.argsort(inds)]) >= 0).all()


def test_gaps_and_short_trials_are_warned_of():
    spikes = counts().astype(float)
    spikes[30:34] = np.nan
    ids = np.repeat([0, 1, 2], [60, 36, 4])
    with pytest.warns(
        UserWarning,
        match=r"8 of 100 bins \(8\.0%\) .* NaN .* 4 in gaps.*4 in 1 of 4 segments .* 8 bins",
    ):
        arrays, chop = chop_recording(spikes, 8, 3, trial_ids=ids)
    np.testing.assert_array_equal(chop.segments, [[0, 30], [34, 60], [60, 96], [96, 100]])
    np.testing.assert_array_equal(chop.segment_ids, [0, 0, 1, 2])
    assert not any(np.isnan(arrays[f"{split}_recon_data"]).any() for split in ("train", "valid"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chop_recording(counts(), 8, 3, block=20)


def test_missing_samples_are_kept_and_warned_of():
    spikes = counts().astype(float)
    spikes[10:20, 1] = np.nan
    with pytest.warns(UserWarning, match=r"2\.00% of the samples .* 1 channel.*SelectiveBackprop"):
        arrays, chop = chop_recording(spikes, 8, 3, valid_fraction=None)
    assert chop.covered().all()
    merged = merge(arrays["test_encod_data"], chop.starts["test"], 100, 3)
    np.testing.assert_allclose(merged, spikes, rtol=1e-6)


RECORDINGS = {
    "rank": ({"spikes": np.ones(100)}, r"\(bins, channels\).*\(100,\)"),
    "empty": ({"spikes": np.ones((0, 3))}, r"\(0, 3\)"),
    "text": ({"spikes": np.full((100, 2), "a")}, "<U1"),
    "heldout": ({"heldout": 5}, "5 held-out channels leave none of 5"),
    "bins": ({"others": {"behavior": np.ones(99)}}, r"behavior .* 100 bins.*\(99,\)"),
    "name": ({"others": {"recon_data": np.ones(100)}}, "cannot be named 'recon_data'"),
    "inputs": ({"others": {"ext_input": np.r_[np.ones(99), np.nan]}}, "ext_input is NaN in 1 bins"),
}


@pytest.mark.parametrize(("changes", "message"), RECORDINGS.values(), ids=RECORDINGS)
def test_mistakes_in_recordings(changes, message):
    arguments = {"spikes": counts(), "window": 8, "overlap": 3, "block": 20, **changes}
    with pytest.raises(ValueError, match=message):
        chop_recording(**arguments)


def test_windows_are_not_dealt_out_anew(tmp_path):
    """Neighbouring windows share bins, so that the blocks must stay as they are."""
    arrays, _ = chop_recording(counts(), 8, 3, block=20)
    data = write_file(tmp_path / "data.h5", arrays)
    BasicDataModule(str(data), batch_size=4).setup()
    with pytest.raises(ValueError, match=r"reshuffle_tv_seed = 1 .*data\.h5 .* both"):
        BasicDataModule(str(data), reshuffle_tv_seed=1).setup()


# ------------------------------------------------------------------------------------ file formats


@pytest.fixture
def sources(tmp_path):
    """The same recording in every format, with a key for each."""
    spikes, trials = counts(60), np.repeat([1, 2], 30)
    np.save(tmp_path / "a.npy", spikes)
    np.save(tmp_path / "trials.npy", trials)
    np.savez(tmp_path / "a.npz", spikes=spikes, trials=trials)
    write_file(tmp_path / "a.h5", {"deep/spikes": spikes, "deep/trials": trials})
    savemat(tmp_path / "a.mat", {"data": {"spikes": spikes, "trials": trials}, "name": "x"})
    with h5py.File(tmp_path / "b.mat", "w", userblock_size=512) as file:  # as MATLAB 7.3
        file["data/spikes"], file["data/trials"] = spikes.T, trials[:, None]
    return spikes, {
        "a.npy": ("spikes", str(tmp_path / "trials.npy")),
        "a.npz": ("spikes", "trials"),
        "a.h5": ("deep/spikes", "deep.trials"),
        "a.mat": ("data.spikes", "data/trials"),
        "b.mat": ("data.spikes", "data.trials"),
    }


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5", "a.mat", "b.mat"])
def test_formats(sources, tmp_path, name):
    spikes, keys = sources
    key, trials = keys[name]
    np.testing.assert_array_equal(read_recording(tmp_path / name, key), spikes)
    chop = chop_file(
        tmp_path / name, tmp_path / "out" / "o.h5", 8, 3, spikes=key, trial_ids=trials, block=15
    )
    np.testing.assert_array_equal(chop.segments, [[0, 30], [30, 60]])
    np.testing.assert_array_equal(chop.segment_ids, [1, 2])
    with h5py.File(tmp_path / "out" / "o.h5") as file:
        kept = Chop.read(file)
        np.testing.assert_array_equal(
            file["train_recon_data"], cut(spikes, kept.starts["train"], 8)
        )
    assert kept.starts.keys() == chop.starts.keys()
    for split, starts in chop.starts.items():
        np.testing.assert_array_equal(kept.starts[split], starts)
    assert (kept.n_bins, kept.window, kept.overlap) == (60, 8, 3)


def test_an_output_is_not_replaced_unasked(sources, tmp_path):
    chop_file(tmp_path / "a.npy", tmp_path / "o.h5", 8, 3, block=20)
    with pytest.raises(FileExistsError, match=r"o\.h5 exists already"):
        chop_file(tmp_path / "a.npy", tmp_path / "o.h5", 8, 4, block=20)
    chop_file(tmp_path / "a.npy", tmp_path / "o.h5", 8, 4, block=20, overwrite=True)
    with h5py.File(tmp_path / "o.h5") as file:
        assert Chop.read(file).overlap == 4


def test_the_recording_itself_is_never_replaced(sources, tmp_path):
    before = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "link.h5").symlink_to(tmp_path / "a.h5")
    for output in ("a.h5", "link.h5"):
        with pytest.raises(ValueError, match="is the recording itself"):
            chop_file(tmp_path / "a.h5", tmp_path / output, 8, 3, overwrite=True)
    assert (tmp_path / "a.h5").read_bytes() == before


@pytest.mark.parametrize(
    "other", [{"others": {"behavior": "force"}}, {"trial_ids": "t"}, {"segments": "s"}]
)
def test_a_recording_of_one_array_holds_no_other(sources, tmp_path, other):
    """Rather than take the spikes for behaviour."""
    with pytest.raises(
        ValueError, match=r"a\.npy is one array, the spikes, and holds no (force|t|s):"
    ):
        chop_file(tmp_path / "a.npy", tmp_path / "o.h5", 8, 3, **other)
    with_file = {"others": {"trial": str(tmp_path / "trials.npy")}}
    chop_file(tmp_path / "a.npy", tmp_path / "o.h5", 8, 3, block=20, **with_file)


def test_rates_in_hz_become_counts(tmp_path):
    np.save(tmp_path / "a.npy", counts(60) / 0.05)
    chop_file(tmp_path / "a.npy", tmp_path / "o.h5", 8, 3, scale=0.05, block=20)
    with h5py.File(tmp_path / "o.h5") as file:
        assert file["train_recon_data"].dtype == np.uint8
        np.testing.assert_array_equal(file["valid_recon_data"][0],
                                      counts(60)[file["valid_chop_start"][0] :][:8])  # fmt: skip


def test_mistakes_in_files(sources, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.h5"):
        read_recording(tmp_path / "gone.h5", "spikes")
    for name, message in [
        ("a.npz", r"no array 'rates': it holds \['spikes', 'trials'\]"),
        ("a.h5", r"no array 'rates': it holds \['deep'\]"),
        ("a.mat", r"no array 'rates'.* 'data'"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_recording(tmp_path / name, "rates")
    with pytest.raises(ValueError, match=r"data/rates.* data holds \['spikes', 'trials'\]"):
        read_recording(tmp_path / "a.mat", "data.rates")
    with pytest.raises(ValueError, match=r"data in .* is no array"):
        read_recording(tmp_path / "a.mat", "data")
    with pytest.raises(ValueError, match=r"deep in .* is no array, but Group"):
        read_recording(tmp_path / "a.h5", "deep")
    with pytest.raises(ValueError, match="deep/spikes holds numbers"):
        read_recording(tmp_path / "a.h5", "deep.spikes.more")
    (tmp_path / "a.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"a\.txt cannot be read: it should be HDF5"):
        read_recording(tmp_path / "a.txt", "spikes")
    (tmp_path / "c.npz").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"c\.npz cannot be read"):
        read_recording(tmp_path / "c.npz", "spikes")


# --------------------------------------------------------------------------------- what is inferred


def chopped(path, **how):
    """Write a recording as windows that suit the tiny model, but for its two forward bins."""
    arrays, chop = chop_recording(counts(), 8, 3, heldout=1, block=20, **how)
    write_file(path, arrays)
    return chop


def window_model(**overrides):
    return tiny_model(recon_seq_len=8, **overrides)


def test_merged_fields(tmp_path):
    chop = chopped(tmp_path / "data.h5", trial_ids=np.repeat([3, -1, 4], [50, 4, 46]))
    (path,) = run_posterior_sampling(
        window_model(), BasicDataModule(str(tmp_path / "data.h5")), tmp_path / "o.h5", 3,
        save_std=True, save_samples=True,
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"o_sess0_continuous\.h5: 4 of 100 bins"):
        merged = merge_file(path)
    assert merged == tmp_path / "o_sess0_continuous.h5" == continuous_path(path)
    sizes = {"output_params": 5, "factors": 3, "co_means": 2, "co_stds": 2, "gen_states": 9,
             "gen_inputs": 2, "con_states": 4}  # fmt: skip
    with h5py.File(merged) as file, h5py.File(path) as source:
        names = {*sizes, *(f"{field}_std" for field in sizes)}
        assert set(file) == {*names, "train_mask", "valid_mask", "segments", "segment_ids"}
        for field, size in sizes.items():
            assert file[field].shape == (100, size)
            assert file[field].dtype == np.float32
            assert np.isnan(file[field][50:54]).all()
            assert not np.isnan(file[field][:50]).any()
        # Bin by bin, from the windows as they were saved.
        fade = cross_fade(8, 3)
        for bin_ in (0, 7, 23, 49, 54, 71, 99):
            total, weight = np.zeros(5), 0.0
            for split in chop.starts:
                for i, start in enumerate(source[f"{split}_chop_start"][()]):
                    if start <= bin_ < start + 8:
                        total += (
                            fade[bin_ - start] * source[f"{split}_output_params"][i, bin_ - start]
                        )
                        weight += fade[bin_ - start]
            np.testing.assert_allclose(file["output_params"][bin_], total / weight, rtol=1e-5)
        np.testing.assert_array_equal(file["train_mask"][()], chop.covered("train"))
        np.testing.assert_array_equal(file["valid_mask"][()], chop.covered("valid"))
        np.testing.assert_array_equal(file["segment_ids"], [3, 4])

    again = merge_file(path, fields=["factors"])
    assert again == merged
    with h5py.File(again) as file:
        assert "output_params" not in file
    assert (tmp_path / "o_sess0_continuous.1.h5").exists()


def test_what_cannot_be_merged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.h5"):
        merge_file(tmp_path / "gone.h5")
    (tmp_path / "text.h5").write_text("x")
    with pytest.raises(ValueError, match=r"text\.h5 is no HDF5 file"):
        merge_file(tmp_path / "text.h5")
    plain = write_file(tmp_path / "plain.h5", {"valid_factors": np.ones((2, 8, 3))})
    assert not is_chopped(plain)
    with pytest.raises(ValueError, match=r"plain\.h5 was not chopped by scripts/chop\.py"):
        merge_file(plain)
    chopped(tmp_path / "data.h5")
    with pytest.raises(ValueError, match=r"data\.h5 holds nothing that was inferred"):
        merge_file(tmp_path / "data.h5")
    with pytest.raises(ValueError, match=r"train_ic_mean .* is not there"):
        merge_file(tmp_path / "data.h5", fields=["ic_mean"])
    with h5py.File(tmp_path / "data.h5", "a") as file:
        file["train_factors"] = np.ones((3, 8, 3))
    with pytest.raises(ValueError, match=r"train_factors .* 8 bins.*\(3, 8, 3\)"):
        merge_file(tmp_path / "data.h5")
    assert not continuous_path(tmp_path / "data.h5").exists()
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(ValueError, match="3 windows, but 2 first bins"):
        merge(np.ones((3, 4)), np.array([0, 2]), 9, 1)
    with pytest.raises(ValueError, match="beyond the 9"):
        merge(np.ones((1, 4)), np.array([6]), 9, 1)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run a script as on the command line: return its exit status and what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(script, *words):
        monkeypatch.setattr(sys, "argv", [script, *words])
        main = runpy.run_path(str(SCRIPTS / script))["main"]
        try:
            status = main()
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


def test_from_a_recording_to_rates(tmp_path, command):
    """Chop, train, and infer another recording."""
    np.savez(tmp_path / "recording.npz", spikes=counts(), force=np.arange(100.0))
    status, out, _ = command(
        "chop.py", "recording.npz", "--window", "8", "--overlap", "3", "--block", "20",
        "--array", "behavior=force", "--output", "data.h5",
    )  # fmt: skip
    assert status == 0
    assert "100 bins in 1 segment(s):" in out
    assert "datamodule.datafile_pattern=data.h5" in out
    run_dir = start_run(
        ["model=generic", "datamodule=generic", "datamodule.datafile_pattern=data.h5",
         *TINY_SIZES, "posterior_sampling.fn.num_samples=2", "trainer.max_epochs=2",
         "callbacks=[checkpoint]", "logger=[csv]", "+trainer.enable_progress_bar=false"],
        run_dir=tmp_path / "run",
    )  # fmt: skip
    with h5py.File(run_dir / "lfads_output_sess0_continuous.h5") as file:
        assert file["output_params"].shape == (100, 5)
        assert not np.isnan(file["output_params"][()]).any()
    assert "bps" in json.loads((run_dir / "summary.json").read_text())["scores"][0]

    trials = np.repeat([0.0, np.nan, 1.0], [40, 20, 40])
    np.savez(tmp_path / "new.npz", counts=counts(), trials=trials)
    status, out, err = command(
        "chop.py", "new.npz", "--spikes", "counts", "--trial-ids", "trials", "--window", "8",
        "--overlap", "3", "--output", "new.h5", "--to-infer",
    )  # fmt: skip
    assert status == 0
    assert "Warning: 20 of 100 bins (20.0%) are covered by no window" in err
    assert "scripts/infer.py RUN_DIR --data new.h5" in out
    with pytest.warns(UserWarning, match=r"new_sess0_continuous\.h5: 20 of 100 bins"):
        status, out, _ = command("infer.py", "run", "--data", "new.h5", "--num-samples", "2")
    assert status == 0
    assert out.split() == ["run/inferred/new_sess0.h5", "run/inferred/new_sess0_continuous.h5"]
    with h5py.File("run/inferred/new_sess0_continuous.h5") as file:
        known = ~np.isnan(file["output_params"][()]).any(axis=1)
        np.testing.assert_array_equal(known, ~np.isnan(trials))
        assert "train_mask" not in file

    words = ("run/inferred/new_sess0.h5", "--fields", "factors", "--output", "f.h5")
    assert command("merge.py", *words)[:2] == (0, "f.h5\n")
    with h5py.File("f.h5") as file:
        assert file["factors"].shape == (100, 3)


def test_scripts_report_mistakes(tmp_path, command):
    np.savez(tmp_path / "new.npz", counts=counts())
    how = ("--window", "8", "--overlap", "3", "--output", "x.h5")
    for words, message in [
        (("merge.py", "gone.h5"), "FileNotFoundError: There is no file gone.h5"),
        (("chop.py", "new.npz", *how), "ValueError: new.npz has no array 'spikes'"),
        (("chop.py", "new.npz", *how, "--array", "force"), "--array takes NAME=KEY"),
    ]:
        status, _, err = command(*words)
        assert status
        assert message in err


def test_infer_without_windows_merges_nothing(tmp_path):
    """Trials that were cut otherwise are left as they are."""
    model = window_model()
    save_model(model, tmp_path / "run" / "lightning_checkpoints" / "last.ckpt")
    (tmp_path / "run" / "config.yaml").write_text(
        "datamodule: {}\nposterior_sampling: {}\nseed: 0\n"
    )
    data = write_file(tmp_path / "trials.h5", {"test_encod_data": counts(16, 4).reshape(2, 8, 4)})
    path = infer(tmp_path / "run", data, num_samples=1)
    assert path.exists()
    assert not continuous_path(path).exists()
