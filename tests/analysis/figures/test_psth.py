"""PSTHs show the averages over the trials of each condition."""

import numpy as np
import pytest

from lfads_torch.analysis.figures import psth, trajectories
from tests.analysis.figures.drawn import (
    DATA,
    N_ENC,
    RATES,
    TRUTH,
    B,
    T,
    labelled,
    legend_texts,
    rendered,
    row_of,
)


def test_psth_averages_conditions(tmp_path):
    labels = np.array([2.5, 1, 2.5, 1, 2.5, np.nan])
    figure = psth(
        DATA,
        RATES,
        labels,
        truth=TRUTH[:, 3:],
        channels=[4, 1],
        smooth_bins=0,
        n_encod_channels=N_ENC,
    )
    rendered(figure, tmp_path)
    groups = [[1, 3], [0, 2, 4]]
    sources = {"data": (DATA, 0), "inferred rates": (RATES, 0), "true rates": (TRUTH[:, 3:], 3)}
    for name, (values, offset) in sources.items():
        axes = row_of(figure, name, 2)
        assert axes[0].get_ylabel() == f"{name}\nspikes per bin"
        for axis, channel in zip(axes, [4, 1], strict=True):
            for line, group in zip(axis.lines, groups, strict=True):
                np.testing.assert_allclose(
                    line.get_ydata(), values[group][..., channel].mean(axis=0)
                )
                np.testing.assert_allclose(line.get_xdata(), np.arange(offset, T) + 0.5)
    assert [axis.get_title() for axis in row_of(figure, "data", 2)] == [
        "channel 4 (held out)",
        "channel 1",
    ]
    assert legend_texts(figure) == ["condition 1 (n = 2)", "condition 2.5 (n = 3)"]


def test_psth_smooths_only_data_and_labels_it():
    constant = np.full((4, T, 1), 3.0)
    figure = psth(constant, RATES[:4, :, :1], [0, 0, 0, 0], smooth_bins=2)
    data, rates = labelled(figure, "data, smoothed")[0], labelled(figure, "inferred rates")[0]
    assert "Gaussian, s.d. 2 bins" in data.get_ylabel()
    np.testing.assert_allclose(data.lines[0].get_ydata(), 3)  # This includes the ends.
    np.testing.assert_allclose(rates.lines[0].get_ydata(), RATES[:4, :, 0].mean(axis=0))


def test_psth_averages_observed_samples_near_a_bin():
    """Missing samples and bins beyond the ends have no weight, in the sum and in the division."""
    data = DATA[:3].copy()
    data[1, 4:7, 0] = np.nan
    data[:, 9:, 1] = np.nan
    figure = psth(data, RATES[:3], [0, 0, 0], channels=[0, 1], smooth_bins=0.4)
    weights = np.exp(-0.5 * (np.arange(-2, 3) / 0.4) ** 2)  # up to four standard deviations
    for channel, ax in enumerate(row_of(figure, "data, smoothed", 2)):
        expected = np.full(T, np.nan)
        for t in range(T):
            total = number = 0.0
            for shift, weight in zip(range(-2, 3), weights, strict=True):
                for trial in range(3):
                    if 0 <= t + shift < T and np.isfinite(data[trial, t + shift, channel]):
                        total += weight * data[trial, t + shift, channel]
                        number += weight
            if number:
                expected[t] = total / number
        np.testing.assert_allclose(ax.lines[0].get_ydata(), expected)
    assert np.isnan(expected).sum() == 1  # the last bin, which is too far from any sample


def test_psth_leaves_missing_samples_out():
    data = DATA[:3, :, :1].copy()
    data[0, 3] = np.nan
    data[:, 7] = np.nan
    figure = psth(data, RATES[:3, :, :1], [0, 0, 0], smooth_bins=0)
    shown = labelled(figure, "data")[0].lines[0].get_ydata()
    assert shown[3] == data[1:, 3, 0].mean()
    assert np.isnan(shown[7])
    assert np.isfinite(np.delete(shown, 7)).all()


def test_psth_chooses_active_channels_and_frequent_conditions():
    data = np.zeros((20, T, 6))
    data[:, :, [1, 4]] = 2.0
    data[:, :, 3] = np.nan
    labels = np.repeat([9, 5, 7, 3], [2, 9, 8, 1])
    figure = psth(data, data, labels, n_channels=2, max_conditions=2)
    assert [axis.get_title() for axis in row_of(figure, "data", 2)] == ["channel 1", "channel 4"]
    assert legend_texts(figure) == ["condition 5 (n = 9)", "condition 7 (n = 8)"]


def test_psth_without_conditions_is_refused():
    with pytest.raises(ValueError, match="at least one trial"):
        psth(DATA, RATES, np.full(B, np.nan))
    with pytest.raises(ValueError, match="one label for each of the 6 trials"):
        psth(DATA, RATES, [0, 1])


def test_psth_refuses_a_negative_width():
    with pytest.raises(ValueError, match="smooth_bins must be at least 0, but is -1"):
        psth(DATA, RATES, np.zeros(B), smooth_bins=-1)


def test_named_conditions(tmp_path):
    labels = np.array(["left", "right"] * 3)
    figure = rendered(psth(DATA, RATES, labels), tmp_path)
    assert legend_texts(figure)[0] == "condition left (n = 3)"
    rendered(trajectories(RATES, labels), tmp_path)
