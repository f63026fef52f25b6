"""Makes ``nlb_tools`` 0.0.4 work with current versions of pandas and with less memory."""

import contextlib
import copy
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfads_torch.datasets.nlb.registry import import_nlb_tools

SAMPLES_AT_ONCE = 2e8
"""Largest number of neurons times ms in a call of ``nlb_tools``, which takes 36 bytes for each."""


@contextlib.contextmanager
def patched_nlb_tools() -> Iterator[None]:
    """Replace, within a block, the functions of ``nlb_tools`` that fail or need too much memory.

    ``NWBDataset.load`` leaves its index unsorted where behaviour has gaps, which ``resample`` does
    not expect; and ``resample`` calls ``nan_to_num`` in place on arrays that pandas 3 returns
    read-only. The functions are replaced, because ``nlb_tools`` creates such objects itself and
    would not use a subclass.
    """
    interface, tensors = import_nlb_tools("nwb_interface"), import_nlb_tools("make_tensors")
    load, numpy, make_psth = interface.NWBDataset.load, interface.np, tensors._make_psth

    def load_sorted(self: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        data, *others = load(self, *args, **kwargs)
        return (data.sort_index(), *others)

    interface.NWBDataset.load = load_sorted
    interface.np = _CopyingNumPy()
    tensors._make_psth = functools.partial(_make_psth_in_blocks, make_psth)
    try:
        yield
    finally:
        interface.NWBDataset.load, interface.np = load, numpy
        tensors._make_psth = make_psth


class _CopyingNumPy:
    """NumPy, except that ``nan_to_num`` always copies."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def nan_to_num(values: NDArray[Any], copy: bool = True) -> NDArray[Any]:
        return np.nan_to_num(values)


def _make_psth_in_blocks(make_psth: Any, recording: Any, *masks: Any, **parameters: Any) -> Any:
    """Make the PSTHs of one block of neurons after another, and join them.

    ``nlb_tools`` smooths every neuron of the whole recording at 1 ms. It is given as many neurons
    at a time as fit into a few gigabytes, and reads the file again for each block.

    Parameters
    ----------
    make_psth
        The function of ``nlb_tools``.
    recording, *masks, **parameters
        Its arguments.

    Returns
    -------
    tuple
        The value that ``make_psth`` would return for all neurons.
    """
    heldin, heldout = (
        [column for column in recording.data.columns if column[0] == field]
        for field in ("spikes", "heldout_spikes")
    )
    n_samples = len(recording.data) * recording.bin_width * (len(heldin) + len(heldout))
    # Every block needs held-in and held-out neurons.
    n_blocks = min(int(np.ceil(n_samples / SAMPLES_AT_ONCE)), len(heldin), len(heldout))
    psths = []
    for block in range(n_blocks):
        part = copy.copy(recording)
        part.data = recording.data[heldin[block::n_blocks] + heldout[block::n_blocks]]
        cond_idx, psth, conditions = make_psth(part, *masks, **parameters)
        psths.append(psth)
    joined = np.empty((*psths[0].shape[:2], len(heldin) + len(heldout)))
    for block, psth in enumerate(psths):
        n_heldin = len(heldin[block::n_blocks])
        joined[..., : len(heldin)][..., block::n_blocks] = psth[..., :n_heldin]
        joined[..., len(heldin) :][..., block::n_blocks] = psth[..., n_heldin:]
    return cond_idx, joined, conditions
