"""Arrays for figures, and functions that find the parts of a figure."""

import numpy as np

from lfads_torch.analysis.figures import save_figure

RNG = np.random.default_rng(0)
B, T, N, T_ENC, N_ENC = 6, 12, 5, 9, 4
DATA = RNG.poisson(0.5, (B, T, N)).astype(float)
RATES = RNG.uniform(0.1, 1, (B, T, N))
TRUTH = RNG.uniform(0.1, 1, (B, T, N))


def labelled(figure, text):
    """Return the axes whose vertical label begins with a text."""
    return [axis for axis in figure.axes if axis.get_ylabel().startswith(text)]


def row_of(figure, text, n_columns):
    """Return the axes of the row whose first vertical label begins with a text."""
    grid = [axis for axis in figure.axes if axis.get_subplotspec() and axis.get_label() == ""]
    first = labelled(figure, text)[0]
    start = grid.index(first)
    return grid[start : start + n_columns]


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def rendered(figure, tmp_path):
    """Render a figure and return it, since a layout that fails warns only when it is rendered."""
    save_figure(figure, tmp_path / "figure.png", dpi=40)
    return figure
