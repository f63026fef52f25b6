"""Smoothing with a Gaussian agrees with its definition."""

import numpy as np
import pytest

from lfads_torch.data.smoothing import smooth


@pytest.mark.parametrize("width", [0.7, 2.0])
def test_smoothing_by_definition(width):
    values = np.random.default_rng(0).normal(size=(3, 11, 2))
    reach = int(4 * width + 0.5)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / width) ** 2)
    weights /= weights.sum()
    padded = {
        "reflect": np.pad(values, [(0, 0), (reach, reach), (0, 0)], mode="symmetric"),
        "constant": np.pad(values, [(0, 0), (reach, reach), (0, 0)]),
    }
    for mode, longer in padded.items():
        expected = sum(w * longer[:, i : i + 11] for i, w in enumerate(weights))
        np.testing.assert_allclose(smooth(values, width, mode=mode), expected, atol=1e-12)
    np.testing.assert_array_equal(smooth(values, width), smooth(values, width, 1, "reflect"))
    along_first_axis = smooth(np.moveaxis(values, 1, 0), width, axis=0)
    np.testing.assert_allclose(np.moveaxis(along_first_axis, 0, 1), smooth(values, width))


def test_a_width_of_zero_changes_nothing():
    values = np.random.default_rng(0).normal(size=(3, 5, 2)).astype("float32")
    np.testing.assert_array_equal(smooth(values, 0), values)


def test_precision():
    counts = np.arange(12, dtype="uint8").reshape(2, 6, 1)
    assert smooth(counts.astype("float32"), 1.0).dtype == np.float32
    for width in (0, 1.0):
        assert smooth(counts, width).dtype == np.float64
    np.testing.assert_allclose(smooth(counts, 1.0), smooth(counts.astype(float), 1.0))
