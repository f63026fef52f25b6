"""The style that all figures share: colours, fonts, axes, colour bars and legends.

No function here uses pyplot or changes the settings of matplotlib, which is imported only when
something is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lfads_torch.analysis.figures.arrays import Array, is_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that colour-blind readers can distinguish (Okabe & Ito 2008).

Yellow is left out, because it is hard to see on a white background.
"""

BOUNDARY_COLOUR = "#D55E00"
"""Colour of lines at the end of the bins, or of the channels, that the encoder sees."""
MISSING_COLOUR = "#F3DDCB"
"""Colour of missing samples (NaN) in images."""
GREY = "#999999"

SMALL_FONT, NORMAL_FONT, LARGE_FONT = 7, 8, 10
"""Font sizes in points: of ticks and legends, of labels, and of the title of a figure."""


def time_axis(bin_width: float | None) -> tuple[float, str]:
    """Return the width of a bin in the unit of the time axis, and the label of that axis.

    Parameters
    ----------
    bin_width
        The width of a bin in seconds. If it is None, time is measured in bins.
    """
    return (1.0, "time (bins)") if bin_width is None else (bin_width, "time (s)")


def colour_limits(*arrays: Array, percentile: float = 100) -> tuple[float, float]:
    """Return the limits of a colour scale for the finite values of arrays.

    The scale starts at 0, or at the lowest value if that is negative, and ends at a percentile of
    the values.
    """
    finite = np.concatenate([array[np.isfinite(array)] for array in arrays])
    if not finite.size:
        return 0.0, 1.0
    low, high = min(0.0, float(finite.min())), float(np.percentile(finite, percentile))
    return low, high if high > low else low + 1.0


def style_axes(ax: Axes, integer_x: bool = False) -> None:
    """Remove two of the spines, and set few ticks with small labels.

    Parameters
    ----------
    ax
        The axes, after everything has been drawn. If they show an image, the ticks of the vertical
        axis are integers.
    integer_x
        Whether the ticks of the horizontal axis are integers.
    """
    from matplotlib.ticker import ScalarFormatter

    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=SMALL_FONT, length=2.5)
    ax.xaxis.set_major_locator(_tick_locator(integer_x))
    ax.yaxis.set_major_locator(_tick_locator(integer=bool(ax.images)))
    formatter = ScalarFormatter(useMathText=True, useOffset=False)
    formatter.set_powerlimits((-2, 4))
    ax.yaxis.set_major_formatter(formatter)
    ax.yaxis.get_offset_text().set_fontsize(SMALL_FONT)


def _tick_locator(integer: bool = False) -> MaxNLocator:
    """Return a locator of few ticks, at integers if ``integer``."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4, steps=[1, 2, 5, 10], integer=integer, min_n_ticks=1 if integer else 3)


def draw_curves(ax: Axes, time: Array, values: Array, linewidth: float = 0.9) -> None:
    """Draw curves in different colours.

    Parameters
    ----------
    ax
        The axes.
    time
        (T,), the horizontal coordinates.
    values
        (T, N), a curve in each column.
    linewidth
        Width of the lines in points.
    """
    marker = "o" if len(time) == 1 else None
    for i, curve in enumerate(values.T):
        colour = COLOURS[i % len(COLOURS)]
        ax.plot(time, curve, color=colour, linewidth=linewidth, marker=marker, markersize=3)


def add_colour_bar(
    figure: Figure, image: AxesImage, axes: Sequence[Axes] | Array, values: Array, unit: str
) -> None:
    """Add the colour bar of images that share one scale.

    Parameters
    ----------
    figure
        The figure.
    image
        One of the images.
    axes
        The axes of all images, next to which the bar is drawn.
    values
        The values that the images show. The bar has a pointed end if some of them exceed the scale.
    unit
        The label of the bar.
    """
    upper_limit = image.get_clim()[1]
    exceeds = upper_limit is not None and bool((values > upper_limit).any())
    bar = figure.colorbar(
        image, ax=list(axes), extend="max" if exceeds else "neither", aspect=12, pad=0.02
    )
    _style_colour_bar(bar, integer=is_counts(values))
    bar.set_label(unit, fontsize=SMALL_FONT)


def add_ramp_bar(figure: Figure, ax: Axes, limits: tuple[float, float], label: str) -> None:
    """Add the colour bar of curves whose colours are those of :func:`ramp_colours`."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    scale = ScalarMappable(Normalize(*limits), ListedColormap(ramp_colours(256)))
    bar = figure.colorbar(scale, ax=ax, shrink=0.6, aspect=25, pad=0.12)
    _style_colour_bar(bar, integer=True)
    bar.set_label(label, fontsize=NORMAL_FONT)


def ramp_colours(n_colours: int) -> Array:
    """Return colours (n_colours, 4) from dark to light, without the lightest yellow."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0, 0.95, n_colours))


def _style_colour_bar(bar: Colorbar, integer: bool) -> None:
    """Set few ticks with small labels, and remove the frame of a colour bar."""
    bar.locator = _tick_locator(integer)
    bar.update_ticks()
    bar.ax.tick_params(labelsize=SMALL_FONT, length=2)
    bar.outline.set_visible(False)  # type: ignore[operator]


def add_legend_below(figure: Figure, handles: Sequence[Any]) -> None:
    """Add a legend below all axes, unless there are no handles."""
    if handles:
        figure.legend(
            handles=list(handles),
            loc="outside lower center",
            ncols=min(len(handles), 4),
            fontsize=SMALL_FONT,
            frameon=False,
        )


def condition_label(condition: Any) -> str:
    """Return the name of a condition in legends."""
    return f"condition {condition if isinstance(condition, str) else format(condition, 'g')}"
