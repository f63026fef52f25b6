"""Windows cover every bin, stay in their segments, and no bin is in two splits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfads_torch.data.windows.chop import cut
from lfads_torch.data.windows.merge import merge
from lfads_torch.data.windows.plan import plan_chop
from lfads_torch.data.windows.segments import find_segments

# ------------------------------------------------------------------ any recording


def every_window(chop):
    """Return (first bin, split) of all windows."""
    return [(start, split) for split, starts in chop.starts.items() for start in starts.tolist()]


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
    """Place windows, or return None if the recording has too few bins."""
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

    # No window leaves its segment, and segments are the longest stretches of a trial without gaps.
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

    # Cutting and merging restores the recording.
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
    # There are no more windows than necessary.
    assert len(starts) == 1 + np.ceil(more / (window - overlap))


# ------------------------------------------------------------------ blocks


def test_validation_blocks_are_drawn_evenly_and_at_random():
    def blocks(seed):
        chop = plan_chop(np.array([[0, 5000]]), np.array([0]), 5000, 10, 2, 0.2, 100, seed)
        valid = chop.covered("valid").reshape(50, 100)
        assert (valid.all(axis=1) | ~valid.any(axis=1)).all()
        return valid[:, 0]

    first = blocks(0)
    np.testing.assert_array_equal(first.reshape(10, 5).sum(axis=1), 1)
    np.testing.assert_array_equal(first, blocks(0))
    assert (first != blocks(1)).any()


def test_short_trials_stay_whole():
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
def test_plans_that_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        plan_chop(np.array([[0, 200]]), np.array([0]), 200, *how)
