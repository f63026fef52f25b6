"""Trajectories are the first principal components of the factors."""

import numpy as np

from lfads_torch.analysis.figures import COLOURS, trajectories
from tests.analysis.figures.drawn import RATES, RNG, B, T, legend_texts, rendered


def test_trajectories_are_principal_components(tmp_path):
    """Factors on a rotated plane in five dimensions have two components."""
    plane = RNG.normal(size=(B, T, 2)) * [3.0, 1.0]
    plane -= plane.mean(axis=(0, 1))
    turn = np.linalg.qr(RNG.normal(size=(5, 5)))[0][:2]
    figure = rendered(trajectories(plane @ turn + 7), tmp_path)
    axis = figure.axes[0]
    assert axis.name == "3d"
    lines = np.array([np.array(line.get_data_3d()).T for line in axis.lines[::2]])
    starts = np.array([np.array(line.get_data_3d()).T for line in axis.lines[1::2]])
    assert lines.shape == (B, T, 3)
    np.testing.assert_array_equal(starts[:, 0], lines[:, 0])
    np.testing.assert_allclose(lines[..., 2], 0, atol=1e-9)
    flat, shown = plane.reshape(-1, 2), lines.reshape(-1, 3)
    np.testing.assert_allclose(flat @ flat.T, shown @ shown.T, atol=1e-9)
    variances = np.linalg.eigvalsh(flat.T @ flat)[::-1]
    share = variances[0] / variances.sum()
    assert axis.get_xlabel() == f"PC 1 ({share:.0%})"
    assert axis.get_zlabel() == "PC 3 (0%)"
    assert "start" in legend_texts(figure)


def test_missing_samples_have_no_influence_on_the_components():
    """The components are those of the covariance of the other samples, except for the sign."""
    factors = RNG.normal(size=(B, T, 2)) * [1.0, 3.0] + RNG.normal(size=(B, T, 1))
    factors[2, 5:7, 0] = np.nan
    known = factors.reshape(-1, 2)[np.isfinite(factors).all(-1).ravel()]
    variances, directions = np.linalg.eigh(np.cov(known.T))
    directions = directions[:, ::-1]
    directions *= np.sign(directions[np.abs(directions).argmax(0), [0, 1]])
    expected = (factors - known.mean(0)) @ directions
    ax = trajectories(factors).axes[0]
    np.testing.assert_allclose([line.get_xydata() for line in ax.lines[::2]], expected)
    assert ax.get_xlabel() == f"PC 1 ({variances[1] / variances.sum():.0%})"


def test_fewer_samples_than_components():
    """Two samples determine one component, which is the line between them."""
    factors = RNG.normal(size=(1, 2, 4))
    ax = trajectories(factors).axes[0]
    points = np.array(ax.lines[0].get_data_3d()).T
    distance = np.linalg.norm(factors[0, 0] - factors[0, 1])
    np.testing.assert_allclose(np.abs(points[:, 0]), distance / 2)
    np.testing.assert_allclose(points[:, 1:], 0, atol=1e-12)
    assert ax.get_xlabel() == "PC 1 (100%)"


def test_trajectories_by_condition(tmp_path):
    labels = np.array([0, 1, 1, 0, 0, np.nan])
    figure = rendered(trajectories(RATES[..., :2], labels), tmp_path)
    axis = figure.axes[0]
    assert axis.name == "rectilinear"
    colours = {line.get_color() for line in axis.lines}
    assert colours == {*COLOURS[:2], "#999999"}
    assert legend_texts(figure) == ["condition 0", "condition 1", "start", "condition average"]
    thick = [line for line in axis.lines if line.get_linewidth() == 2 and len(line.get_xdata()) > 1]
    assert len(thick) == 2
    trials = [line for line in axis.lines if line.get_linewidth() == 0.6]
    first = np.mean([line.get_xydata() for line in trials[:3]], axis=0)
    np.testing.assert_allclose(thick[0].get_xydata(), first)


def test_single_factor_against_time(tmp_path):
    figure = rendered(trajectories(RATES[:2, :, :1], bin_width=0.5), tmp_path)
    axis = figure.axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("time (s)", "factor")
    np.testing.assert_allclose(axis.lines[0].get_ydata(), RATES[0, :, 0])
    np.testing.assert_allclose(axis.lines[0].get_xdata(), (np.arange(T) + 0.5) * 0.5)


def test_many_conditions_get_a_bar(tmp_path):
    figure = rendered(trajectories(RATES.repeat(4, 0), np.arange(24) % 12), tmp_path)
    assert [axis.get_ylabel() for axis in figure.axes[1:]] == ["condition"]
    assert legend_texts(figure) == ["start", "condition average"]
