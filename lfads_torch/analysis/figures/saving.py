"""Writes figures to files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lfads_torch.files import written_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: Figure, path: str | Path, dpi: int = 150) -> None:
    """Write a figure as a PNG file.

    The file is written atomically: it is never incomplete, and an earlier file of that name is
    replaced.

    Parameters
    ----------
    figure
        The figure.
    path
        Path of the file. Its folder is created if it does not exist.
    dpi
        Resolution in dots per inch.
    """
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)
