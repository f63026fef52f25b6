"""Where the windows of a recording lie, in memory and in a data file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lfads_torch.errors import UserError

Ints = NDArray[np.int64]

SPLITS = ("train", "valid", "test")


def bins_of_windows(starts: Ints, window: int) -> Ints:
    """Return the bins (windows, window) of windows that begin at ``starts`` (windows,)."""
    return starts[:, None] + np.arange(window)


@dataclass(frozen=True, eq=False)
class Chop:
    """Where the windows of a recording lie.

    Attributes
    ----------
    n_bins
        Time bins of the recording.
    window
        Bins of a window.
    overlap
        The least number of bins that two neighbouring windows share, over which their weights fade
        from one to the other.
    segments
        (segments, 2), first bin and end (not included) of each segment, sorted.
    segment_ids
        (segments,), the numbers of the trials; 0, 1, … for segments between gaps.
    starts
        First bin of each window (windows,), sorted, by split; no split is empty.
    """

    n_bins: int
    window: int
    overlap: int
    segments: Ints
    segment_ids: NDArray[Any]
    starts: Mapping[str, Ints]

    def covered(self, *splits: str) -> NDArray[np.bool_]:
        """Return which bins (n_bins,) lie in a window of these splits; by default, of any."""
        inside = np.zeros(self.n_bins, dtype=bool)
        for split in splits or self.starts:
            starts = self.starts.get(split, np.zeros(0, np.int64))
            inside[bins_of_windows(starts, self.window)] = True
        return inside

    def segment_of(self, split: str) -> Ints:
        """Return the row of ``segments`` in which each window of a split lies (windows,)."""
        return np.searchsorted(self.segments[:, 0], self.starts[split], side="right") - 1

    def describe_uncovered(self) -> str:
        """Return a sentence on the bins that no window covers, and why; empty if there are none."""
        n_uncovered = int((~self.covered()).sum())
        if not n_uncovered:
            return ""
        lengths = np.diff(self.segments)[:, 0]
        short = lengths[lengths < self.window]
        n_outside = self.n_bins - int(lengths.sum())
        reasons = [f"{n_outside} in gaps or between trials"] if n_outside else []
        if len(short):
            reasons.append(
                f"{short.sum()} in {len(short)} of {len(lengths)} segments that are shorter than a "
                f"window of {self.window} bins"
            )
        # Other bins are only uncovered if windows have been removed from the file.
        rest = n_uncovered - n_outside - int(short.sum())
        if rest:
            reasons.append(f"{rest} without a window")
        return (
            f"{n_uncovered} of {self.n_bins} bins ({n_uncovered / self.n_bins:.1%}) are covered by "
            f"no window, and are NaN in what is merged: {', '.join(reasons)}."
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that a data file holds of this layout, by name.

        They are described at :mod:`lfads_torch.data.windows`. ``{split}_inds`` numbers the windows
        of all splits in the order of time.
        """
        arrays: dict[str, NDArray[Any]] = {
            "chop_n_bins": np.array(self.n_bins),
            "chop_window": np.array(self.window),
            "chop_overlap": np.array(self.overlap),
            "chop_segments": self.segments,
            "chop_segment_ids": self.segment_ids,
        }
        order = np.argsort(np.concatenate([*self.starts.values()]), kind="stable")
        ranks, first = np.argsort(order), 0
        for split, starts in self.starts.items():
            arrays[f"{split}_chop_start"] = starts
            arrays[f"{split}_chop_segment"] = self.segment_of(split)
            arrays[f"{split}_inds"] = ranks[first : first + len(starts)]
            first += len(starts)
        return arrays

    @classmethod
    def read(cls, file: h5py.File) -> "Chop":
        """Read the layout from a data file, or from the output of inference on that file.

        Raises
        ------
        UserError
            If the file was not written by ``scripts/chop.py``.
        """
        if "chop_n_bins" not in file:
            raise UserError(
                f"{file.filename} was not chopped by scripts/chop.py: it holds no chop_n_bins, so "
                f"it is unknown where its trials lie in a recording."
            )
        keys = {split: f"{split}_chop_start" for split in SPLITS}
        return cls(
            n_bins=int(file["chop_n_bins"][()]),
            window=int(file["chop_window"][()]),
            overlap=int(file["chop_overlap"][()]),
            segments=file["chop_segments"][()],
            segment_ids=file["chop_segment_ids"][()],
            starts={split: file[key][()] for split, key in keys.items() if key in file},
        )
