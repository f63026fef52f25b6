"""The raster shows the arrays that it is given."""

import numpy as np
import pytest

from lfads_torch.analysis.figures import raster
from tests.analysis.figures.drawn import (
    DATA,
    N_ENC,
    RATES,
    RNG,
    T_ENC,
    TRUTH,
    N,
    T,
    labelled,
    legend_texts,
    rendered,
    row_of,
)


def test_raster_shows_data(tmp_path):
    inputs, ext = RNG.normal(size=(3, T, 2)), RNG.normal(size=(3, T_ENC - 2, 1))
    figure = raster(
        DATA[:3],
        RATES[:3],
        truth=TRUTH[:3, 2:],
        inferred_inputs=inputs,
        ext_input=ext,
        n_encod_bins=T_ENC,
        n_encod_channels=N_ENC,
        trials=[3, 5, 8],
    )
    rendered(figure, tmp_path)
    data, rates, truth = (
        row_of(figure, name, 3) for name in ("data", "inferred rates", "true rates")
    )
    for i in range(3):
        assert data[i].get_title() == f"trial {[3, 5, 8][i]}"
        np.testing.assert_array_equal(data[i].images[0].get_array(), DATA[i].T)
        np.testing.assert_array_equal(rates[i].images[0].get_array(), RATES[i].T)
        np.testing.assert_array_equal(truth[i].images[0].get_array(), TRUTH[i, 2:].T)
        assert truth[i].images[0].get_extent() == [2, T, N, 0]
        assert rates[i].images[0].get_clim() == truth[i].images[0].get_clim()
    assert len({axis.images[0].get_clim() for axis in data}) == 1
    for axis, trial in zip(row_of(figure, "inferred\ninputs", 3), inputs, strict=True):
        for line, values in zip(axis.lines, trial.T, strict=False):
            np.testing.assert_array_equal(line.get_ydata(), values)
            np.testing.assert_array_equal(line.get_xdata(), np.arange(T) + 0.5)
    for axis, trial in zip(row_of(figure, "external\ninputs", 3), ext, strict=True):
        np.testing.assert_array_equal(axis.lines[0].get_ydata(), trial[:, 0])
        np.testing.assert_array_equal(axis.lines[0].get_xdata(), np.arange(2, T_ENC) + 0.5)
    assert {axis.get_xlabel() for axis in row_of(figure, "external", 3)} == {"time (bins)"}
    assert legend_texts(figure) == ["end of encoded bins", "held-out channels (below)"]
    marks = [list(line.get_xdata()) for line in data[0].lines]
    assert [T_ENC, T_ENC] in marks
    assert [N_ENC, N_ENC] in [list(line.get_ydata()) for line in data[0].lines]
    assert len(labelled(figure, "spikes per bin")) == 2  # one bar for data, one for rates


def test_raster_without_optional_arrays(tmp_path):
    """Rows of inputs and true rates, which are absent here, are left out."""
    figure = raster(
        DATA[:2],
        RATES[:2],
        inferred_inputs=np.zeros((2, T, 0)),
        truth=np.zeros((2, 0, 0)),
        ext_input=np.zeros((2, T, 0)),
        bin_width=0.02,
    )
    rendered(figure, tmp_path)
    assert len(figure.axes) == 2 * 2 + 2
    assert not labelled(figure, "inferred\ninputs")
    assert not labelled(figure, "external")
    assert not figure.legends
    bottom = row_of(figure, "inferred rates", 2)
    assert [axis.get_xlabel() for axis in bottom] == ["time (s)"] * 2
    np.testing.assert_allclose(bottom[0].get_xlim(), (0, 0.24))


def test_raster_marks_missing_samples(tmp_path):
    data = DATA[:1].copy()
    data[0, 2:4, 1] = np.nan
    figure = rendered(raster(data, RATES[:1]), tmp_path)
    shown = row_of(figure, "data", 1)[0].images[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), np.isnan(data[0].T))
    assert legend_texts(figure) == ["missing samples"]


def test_raster_of_continuous_data(tmp_path):
    figure = rendered(raster(DATA[:1] - 0.5, RATES[:1]), tmp_path)
    assert labelled(figure, "data units")
    assert row_of(figure, "data", 1)[0].images[0].get_clim()[0] == -0.5


@pytest.mark.parametrize("shape", [(3, 4), (0, 3, 4), (2, 3, 4, 1)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"must be \(trials, time, channels\)"):
        raster(np.zeros(shape), RATES[:3])
