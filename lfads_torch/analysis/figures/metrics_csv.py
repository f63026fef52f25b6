"""Reads the metrics that Lightning's CSVLogger writes (``metrics.csv``)."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lfads_torch.analysis.figures.arrays import Array

Metrics = Mapping[str, tuple[Array, Array]]
"""For each metric by its name, the epochs at which it was logged and its values, each (epochs,)."""


def read_metrics(csv_path: str | Path) -> dict[str, tuple[Array, Array]]:
    """Read the metrics of a training, also while the file is still being written.

    Parameters
    ----------
    csv_path
        Path of a ``metrics.csv``. A last line that is incomplete is left out.

    Returns
    -------
    dict of str to tuple of array
        For each metric, the epochs at which it was logged (counted from 0, ascending) and its
        values. If an epoch has several values, as when a resumed run repeats it, the last one is
        taken. Rows without an epoch, like those of the learning rate, are assigned to the epoch of
        their step.
    """
    text = Path(csv_path).read_text(errors="replace")
    complete = text[: text.rfind("\n") + 1]
    rows = list(csv.DictReader(complete.splitlines()))
    epochs = _epochs_of_rows(rows)
    found: dict[str, dict[float, float]] = {}
    for row, epoch in zip(rows, epochs, strict=True):
        for name, cell in row.items():
            value = _number(cell) if name not in (None, "epoch", "step") else None
            if value is not None:
                found.setdefault(name, {})[epoch] = value
    return {
        name: (np.array(sorted(values)), np.array([values[epoch] for epoch in sorted(values)]))
        for name, values in found.items()
    }


def _epochs_of_rows(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the epoch of each row, which is found from the step where the row does not say it."""
    numbers = [(_number(row.get("epoch")), _number(row.get("step"))) for row in rows]
    known = [(step, epoch) for epoch, step in numbers if epoch is not None and step is not None]
    last_steps = {epoch: step for step, epoch in sorted(known)}
    known_epochs = sorted(last_steps)
    ends = np.array([last_steps[epoch] for epoch in known_epochs])

    def epoch_of_step(step: float) -> float:
        i = int(np.searchsorted(ends, step))
        if i < len(known_epochs):
            return known_epochs[i]
        return known_epochs[-1] + 1 if known_epochs else 0.0

    return [epoch_of_step(step or 0) if epoch is None else epoch for epoch, step in numbers]


def _number(cell: str | None) -> float | None:
    """Return the number in a cell, or None if the cell is empty or holds no number."""
    try:
        return float(cell) if cell else None
    except ValueError:
        return None
