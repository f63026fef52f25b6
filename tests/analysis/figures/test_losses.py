"""The curves of losses are the metrics that were logged."""

import numpy as np
import pytest

from lfads_torch.analysis.figures import losses
from tests.analysis.figures.drawn import rendered


def test_losses(tmp_path):
    epochs = np.arange(4.0)
    metrics = {
        "train/loss": (epochs, np.array([4.0, 3, 2, 1])),
        "valid/loss": (epochs, np.array([5.0, 4, np.nan, 2])),
        "valid/recon_smth": (epochs, np.array([5.0, 3, 2, 4])),
        "valid/bps": (epochs, np.full(4, np.nan)),
        "lr-AdamW": (epochs, np.full(4, 4e-3)),
        "lr-AdamW-momentum": (epochs, np.ones(4)),
        "hp/cd_rate": (epochs, np.ones(4)),
    }
    figure = rendered(losses(metrics), tmp_path)
    panels = {axis.get_ylabel(): axis for axis in figure.axes}
    assert set(panels) == {"loss", "reconstruction loss", "learning rate"}
    for line, name in zip(panels["loss"].lines, ["train/loss", "valid/loss"], strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.stack(metrics[name], 1))
        assert line.get_label() == name.split("/")[0]
    texts = [text.get_text() for text in panels["reconstruction loss"].get_legend().get_texts()]
    assert texts == ["valid, smoothed (best: 2)"]
    assert len(panels["learning rate"].lines) == 1
    assert {axis.get_xlabel() for axis in figure.axes} == {"epoch"}


@pytest.mark.parametrize("n_epochs", [0, 1])
def test_losses_of_few_epochs(n_epochs, tmp_path):
    epochs = np.arange(float(n_epochs))
    figure = losses({"train/loss": (epochs, epochs)} if n_epochs else {})
    rendered(figure, tmp_path)
    assert len(figure.axes) == n_epochs
    assert [text.get_text() for text in figure.texts if text.get_text()] == (
        [] if n_epochs else ["no metrics yet"]
    )


def test_first_epochs_do_not_flatten_the_rest():
    values = np.r_[1e6, 1e5, np.linspace(2, 1, 200)]
    figure = losses({"train/loss": (np.arange(202.0), values)})
    low, high = figure.axes[0].get_ylim()
    assert low < 1
    assert 2 < high < 4
