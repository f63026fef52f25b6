"""Measure how the time of a training step grows with bins, trials and neurons.

    python benchmarks/scaling.py [--threads 1] [--repeats 5] [--plot docs/images/scaling.png]

Takes the packaged model of MC_Maze_Small, with as many bins encoded as reconstructed, and changes
one size at a time. Each row has the median of whole training steps (see benchmarks/step.py), and
that of the floor, the matrix products of the step. The last column is the exponent k with which
time grew since the previous row, as size to the power of k; 1 is linear. Bins and trials multiply
all of the arithmetic, neurons only the first and the last product.
"""

import argparse
import itertools
import math
import os
import platform
from pathlib import Path
from typing import NamedTuple

import torch
from step import IMPLEMENTATIONS, measure_time

from lfads_torch.analysis.figures import COLOURS, save_figure

MODEL = "nlb_mc_maze_small"
BASE = {"bins": 140, "trials": 64, "neurons": 100}
AXES = {
    "bins": (35, 70, 140, 280, 500),
    "trials": (16, 64, 256, 1024),
    "neurons": (30, 100, 300, 1000),
}


class Row(NamedTuple):
    """Seconds of one training step, and of its floor."""

    axis: str
    size: int
    floor: float
    steps: dict[str, float]


def overrides(sizes: dict[str, int]) -> list[str]:
    """Return the overrides that give a packaged model of one session these sizes."""
    return [
        f"model.encod_seq_len={sizes['bins']}",
        f"model.recon_seq_len={sizes['bins']}",
        f"model.encod_data_dim={sizes['neurons']}",
        f"model.readout.modules.0.out_features={sizes['neurons']}",
        f"datamodule.batch_size={sizes['trials']}",
    ]


def exponent(before: tuple[int, float], now: tuple[int, float]) -> float:
    """Return k if time grew as size to the power of k."""
    return math.log(now[1] / before[1]) / math.log(now[0] / before[0])


def plot(rows: list[Row], path: Path) -> None:
    """Draw one panel for each size, with a line that is linear in it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = {row.axis for row in rows}
    panels = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    for panel, (axis, group) in zip(
        panels, itertools.groupby(rows, lambda row: row.axis), strict=True
    ):
        points = list(group)
        sizes = [row.size for row in points]
        for colour, label in zip(COLOURS, points[0].steps, strict=False):
            panel.plot(sizes, [row.steps[label] for row in points], "o-", color=colour, label=label)
        panel.plot(sizes, [row.floor for row in points], "k.-", label="floor")
        first = points[0].floor
        panel.plot(
            sizes, [first * size / sizes[0] for size in sizes], ":", color="0.6", label="linear"
        )
        panel.set(xscale="log", yscale="log", xlabel=axis, title=title(axis))
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.minorticks_off()
    panels[0].set_ylabel("seconds a step")
    panels[-1].legend(frameon=False, fontsize="small")
    save_figure(figure, path)


def title(axis: str) -> str:
    """Return the title of a panel, which names the sizes that do not change."""
    return ", ".join(f"{size} {name}" for name, size in BASE.items() if name != axis)


def main() -> None:
    """Measure, print a table and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--implementations", nargs="+", default=IMPLEMENTATIONS, choices=IMPLEMENTATIONS
    )
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plot", type=Path, default=Path("docs/images/scaling.png"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    labels = args.implementations
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"{args.threads} thread(s), medians of {args.repeats}, milliseconds\n"
    )
    print(
        "| size | | floor | "
        + " | ".join(f"{label} | x floor | exponent" for label in labels)
        + " |"
    )
    print("| --- " * (3 + 3 * len(labels)) + "|")
    rows: list[Row] = []
    for axis in args.axes:
        for size in AXES[axis]:
            words = overrides({**BASE, axis: size})
            _, times = measure_time(MODEL, labels, args.repeats, words)
            row = Row(axis, size, times.pop("floor"), times)
            cells = [axis, str(size), f"{1e3 * row.floor:.1f}"]
            for label in labels:
                took = row.steps[label]
                grew = ""
                if rows and rows[-1].axis == axis:
                    grew = f"{exponent((rows[-1].size, rows[-1].steps[label]), (size, took)):.2f}"
                cells += [f"{1e3 * took:.1f}", f"{took / row.floor:.2f}", grew]
            print("| " + " | ".join(cells) + " |", flush=True)
            rows.append(row)
    plot(rows, args.plot)


if __name__ == "__main__":
    main()
