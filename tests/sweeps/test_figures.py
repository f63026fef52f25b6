"""The figure of a sweep shows scores, hyperparameters and the lineage of the best model."""

import matplotlib.image
import numpy as np
import pytest

from lfads_torch.sweeps.figures import plot_pbt_hps
from lfads_torch.sweeps.history import append_history
from tests.sweeps.conftest import GENERATIONS, write_sweep


@pytest.fixture
def sweep(tmp_path):
    return write_sweep(tmp_path)


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def test_draws_the_score_and_hyperparameters_that_vary(sweep):
    figure = plot_pbt_hps(sweep, save_dir=sweep / "plots")
    assert titles(figure) == ["score", "model.lr_init"]
    assert matplotlib.image.imread(sweep / "plots" / "pbt_hps.png").std() > 0
    score, lr = figure.axes
    # Three trials, and the lineage of the best on top.
    assert len(score.lines) == len(lr.lines) == 4
    np.testing.assert_array_equal(score.lines[-1].get_xdata(), [5, 10, 15])
    np.testing.assert_array_equal(score.lines[-1].get_ydata(), [3.0, 2.5, 1.5])
    # A value holds for the generation before its score.
    np.testing.assert_array_equal(lr.lines[-1].get_xdata(), [0, 5, 10, 15])
    np.testing.assert_array_equal(lr.lines[-1].get_ydata(), [2e-3, 2.2e-3, 2.4e-3, 2.4e-3])
    assert lr.lines[-1].get_drawstyle() == "steps-post"
    assert (lr.get_yscale(), score.get_yscale()) == ("log", "linear")
    assert score.get_legend().texts[0].get_text() == "lineage of the best model"
    assert score.lines[-1].get_color() != score.lines[0].get_color()


def test_draws_the_requested_fields(sweep):
    assert titles(plot_pbt_hps(sweep, "model.dropout_rate")) == ["model.dropout_rate"]
    names = ["model.lr_init", "score"]
    assert titles(plot_pbt_hps(sweep, plot_field=names)) == ["model.lr_init", "score"]
    assert not list(sweep.glob("**/*.png"))


def test_an_unknown_field_is_refused_with_the_fields_there_are(sweep):
    with pytest.raises(ValueError, match=r"no numbers called \['lr'\], but .*'model.lr_init'"):
        plot_pbt_hps(sweep, "lr")
    with pytest.raises(ValueError, match=r"no numbers called \['trial'\]"):
        plot_pbt_hps(sweep, ["score", "trial"])


def test_draws_a_single_generation(tmp_path):
    assert len(plot_pbt_hps(write_sweep(tmp_path, GENERATIONS[:1])).axes) == 2


def test_draws_hyperparameters_that_are_choices(tmp_path):
    """Choices among numbers are drawn, choices among names are not."""
    for trial, size, kind in (("a", 64, "x"), ("b", 128, "y")):
        config = {"model.gen_dim": size, "model.kind": kind}
        append_history(
            tmp_path,
            {"trial": trial, "epoch": 5, "score": 1.0, "config": config, "history": []},
        )
    assert titles(plot_pbt_hps(tmp_path)) == ["score", "model.gen_dim"]


def test_an_earlier_figure_is_replaced(sweep):
    plot_pbt_hps(sweep, "score", save_dir=sweep)
    before = (sweep / "pbt_hps.png").read_bytes()
    plot_pbt_hps(sweep, save_dir=sweep)
    assert (sweep / "pbt_hps.png").read_bytes() != before
    assert [path.name for path in sweep.glob("*.png")] == ["pbt_hps.png"]
