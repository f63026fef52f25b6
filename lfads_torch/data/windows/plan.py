"""Places windows in segments, and assigns them to training and validation."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lfads_torch.data.windows.layout import SPLITS, Chop, Ints
from lfads_torch.errors import UserError

WINDOWS_PER_BLOCK = 10
"""The default length of a block, in windows."""


class Stretch(NamedTuple):
    """Neighbouring blocks of one split, or a whole segment, which windows cover evenly.

    Attributes
    ----------
    start, stop
        First bin and end (not included).
    split
        The split of all of its windows.
    """

    start: int
    stop: int
    split: str


def plan_chop(
    segments: Ints,
    segment_ids: NDArray[Any],
    n_bins: int,
    window: int,
    overlap: int,
    valid_fraction: float | None = 0.2,
    block: int | None = None,
    seed: int = 0,
    bridges: bool = True,
) -> Chop:
    """Cover segments with windows.

    In a stretch (a segment, or neighbouring blocks of one split) the windows are spread evenly:
    the first begins with it, the last ends with it, and neighbours share ``overlap`` bins or a few
    more. Therefore all bins of a stretch are covered if it is at least as long as a window.

    Segments are cut into blocks of ``block`` bins or more; a shorter segment is one block. Of each
    1 / valid_fraction neighbouring blocks, one is drawn at random for validation.

    Parameters
    ----------
    segments, segment_ids
        From :func:`~lfads_torch.data.windows.segments.find_segments`.
    n_bins
        Time bins of the recording.
    window, overlap
        Number of bins of a window, and the least number that neighbouring windows share.
    valid_fraction
        Fraction of the blocks that are for validation, above 0 and at most 0.5. With None nothing
        is trained on, and all windows are in the ``test`` split.
    block
        Number of bins of a block; by default that of ten windows.
    seed
        Seed of the random draw of validation blocks.
    bridges
        Whether to place further windows, in the ``test`` split, across the borders between training
        and validation blocks. Without overlap there are none.

    Returns
    -------
    Chop
        Where the windows lie.

    Raises
    ------
    UserError
        If a number is out of range, or if there are too few bins for the windows or blocks.
    """
    if not 0 <= overlap < window:
        raise UserError(
            f"A window needs at least one bin, and the overlap at least 0 and fewer than the "
            f"window, but there are window = {window} and overlap = {overlap}."
        )
    lengths = np.diff(segments)[:, 0]
    if lengths.max() < window:
        raise UserError(
            f"No segment is as long as a window of {window} bins: the longest has {lengths.max()}. "
            f"Choose a smaller window."
        )
    long_enough = segments[lengths >= window]
    if valid_fraction is None:
        stretches = [Stretch(start, stop, "test") for start, stop in long_enough.tolist()]
    else:
        stretches = _split_into_stretches(long_enough, window, valid_fraction, block, seed)
    starts: dict[str, list[Ints]] = {}
    for start, stop, split in stretches:
        starts.setdefault(split, []).append(_spread_evenly(start, stop, window, overlap))
    if bridges and overlap:
        first_bins = set(long_enough[:, 0].tolist())
        borders = [stretch.start for stretch in stretches if stretch.start not in first_bins]
        if borders:
            starts["test"] = [np.array(borders, dtype=np.int64) - window // 2]
    ordered = {split: np.concatenate(starts[split]) for split in SPLITS if split in starts}
    return Chop(n_bins, window, overlap, segments, segment_ids, ordered)


def _split_into_stretches(
    segments: Ints, window: int, valid_fraction: float, block: int | None, seed: int
) -> list[Stretch]:
    """Cut segments into blocks, assign these to splits, and join neighbours of one split."""
    if not 0 < valid_fraction <= 0.5:
        raise UserError(f"valid_fraction must be above 0 and at most 0.5, not {valid_fraction}.")
    block = WINDOWS_PER_BLOCK * window if block is None else block
    if block < window:
        raise UserError(f"A block of {block} bins is shorter than a window of {window}.")
    blocks = _cut_into_blocks(segments, block)
    if len(blocks) < 2:
        raise UserError(
            f"There is only one block of {block} bins, so that there is nothing to validate on: "
            f"choose shorter blocks (they need {window} bins, those of a window)."
        )
    n_valid = max(1, round(valid_fraction * len(blocks)))
    rng = np.random.default_rng(seed)
    groups = np.array_split(np.arange(len(blocks)), n_valid)
    valid = {int(rng.choice(group)) for group in groups}
    stretches: list[Stretch] = []
    previous = (-1, "")
    for number, (segment, start, stop) in enumerate(blocks):
        split = "valid" if number in valid else "train"
        if (segment, split) == previous:
            stretches[-1] = stretches[-1]._replace(stop=stop)
        else:
            stretches.append(Stretch(start, stop, split))
        previous = (segment, split)
    return stretches


def _cut_into_blocks(segments: Ints, block: int) -> list[tuple[int, int, int]]:
    """Return the row of the segment, the first bin and the end of each block."""
    blocks = []
    for segment, (start, stop) in enumerate(segments.tolist()):
        n_blocks = max(1, (stop - start) // block)
        edges = (start + (stop - start) * np.arange(n_blocks + 1) // n_blocks).tolist()
        blocks += [(segment, *ends) for ends in pairwise(edges)]
    return blocks


def _spread_evenly(start: int, stop: int, window: int, overlap: int) -> Ints:
    """Return the first bins of windows that cover the bins from ``start`` to ``stop`` evenly."""
    last = stop - start - window
    n_steps = -(-last // (window - overlap))
    return start + last * np.arange(n_steps + 1) // max(n_steps, 1)
