"""The trials of a session in memory, as tensors from which batches are taken by indexing."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from lfads_torch.errors import UserError
from lfads_torch.tuples import SessionBatch
from lfads_torch.utils import send_batch_to_device

log = logging.getLogger(__name__)

Extras = tuple[Tensor, ...]
"""The further arrays of a batch, in the order of ``batch_keys``; their first axis is trials."""


def to_tensor(array: np.ndarray) -> Tensor:
    """Return a copy of an array as a tensor of the default floating-point dtype.

    Raises
    ------
    UserError
        If the array does not hold real numbers.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise UserError(f"Numbers are expected, but an array holds {array.dtype}.")
    native = array.astype(array.dtype.newbyteorder("="))
    return torch.tensor(native, dtype=torch.get_default_dtype())


def split_tensors(
    arrays: Mapping[str, np.ndarray],
    split: str,
    extra_keys: Sequence[str],
    n_ic_bins: int,
    sv_rate: float,
    generator: torch.Generator,
) -> tuple[SessionBatch, Extras]:
    """Turn the arrays of one split of a session into tensors.

    Parameters
    ----------
    arrays
        The arrays of the session by name, as ``load_session`` returns them.
    split
        ``"train"``, ``"valid"`` or ``"test"``.
    extra_keys
        Names of the extras, without their split.
    n_ic_bins
        T_ic: ``ext_input``, ``truth`` and ``sv_mask`` start at this bin.
    sv_rate
        Fraction of the samples that ``sv_mask`` holds out.
    generator
        Draws ``sv_mask``.

    Returns
    -------
    SessionBatch
        All trials of the split. Absent optional arrays are empty, and the truth is in expected
        counts per bin.
    tuple of Tensor
        The extras; those that the test split does not have are empty.

    Raises
    ------
    UserError
        If an extra is missing from the training or validation split.
    """
    encod_data = to_tensor(arrays[f"{split}_encod_data"])
    n_trials, n_bins, n_channels = encod_data.shape
    recon, ext, truth = (arrays.get(f"{split}_{k}") for k in ("recon_data", "ext_input", "truth"))
    if sv_rate > 0:
        drawn = torch.rand(n_trials, n_bins - n_ic_bins, n_channels, generator=generator)
        sv_mask = (drawn >= sv_rate).to(encod_data.dtype)
    else:
        sv_mask = torch.zeros(n_trials, 0, 0)
    if truth is not None and "conversion_factor" in arrays:
        truth = truth / np.asarray(arrays["conversion_factor"]).item()
    empty = torch.zeros(n_trials, 0, 0)
    no_input = torch.zeros(n_trials, n_bins - n_ic_bins, 0)
    batch = SessionBatch(
        encod_data=encod_data,
        recon_data=empty if recon is None else to_tensor(recon),
        ext_input=no_input if ext is None else to_tensor(ext[:, n_ic_bins:]),
        truth=empty if truth is None else to_tensor(truth[:, n_ic_bins:]),
        sv_mask=sv_mask,
    )
    extras = []
    for key in extra_keys:
        if f"{split}_{key}" not in arrays and split != "test":
            raise UserError(f"The data have no {split}_{key}: they hold {sorted(arrays)}.")
        extras.append(to_tensor(arrays.get(f"{split}_{key}", np.zeros((n_trials, 0)))))
    return batch, tuple(extras)


class SessionDataset(Dataset[tuple[SessionBatch, Extras]]):
    """The trials of one session.

    An item is ``(SessionBatch, extras)``: of one trial, without its trial axis, if the index is an
    integer, and of many trials if it is a list (which is how a DataLoader asks for a batch).

    Parameters
    ----------
    model_tensors
        A :class:`~lfads_torch.tuples.SessionBatch` of all trials.
    extra_tensors
        Further tensors whose first axis is trials.

    Raises
    ------
    UserError
        If the tensors differ in their number of trials.
    """

    def __init__(self, model_tensors: SessionBatch, extra_tensors: Sequence[Tensor] = ()) -> None:
        self.model_tensors = model_tensors
        self.extra_tensors = tuple(extra_tensors)
        for tensor in (*model_tensors, *self.extra_tensors):
            if tensor is not None and len(tensor) != len(self):
                raise UserError(
                    f"All tensors of a session need one entry for each trial, but there are "
                    f"{len(self)} trials and a tensor of shape {tuple(tensor.shape)}."
                )

    def __len__(self) -> int:
        """Return the number of trials."""
        return len(self.model_tensors.encod_data)

    def __getitem__(self, index: Any) -> tuple[SessionBatch, Extras]:
        """Return one trial (for an int), or several (for a list, tensor or slice)."""
        fields: Any = (None if tensor is None else tensor[index] for tensor in self.model_tensors)
        return SessionBatch(*fields), tuple(tensor[index] for tensor in self.extra_tensors)

    def __getitems__(self, indices: list[int]) -> tuple[SessionBatch, Extras]:
        """Return several trials as one batch, gathered by a single indexing of each tensor."""
        return self[torch.as_tensor(indices, device=self.model_tensors.encod_data.device)]

    def to(self, device: torch.device) -> "SessionDataset":
        """Return the data set with its tensors on a device, so that batches are gathered there.

        A data set that would take more than half of a CUDA device's free memory stays where it is,
        and its batches are moved one by one.
        """
        tensors = [t for t in (*self.model_tensors, *self.extra_tensors) if t is not None]
        size = sum(tensor.nbytes for tensor in tensors)
        if device.type == "cuda" and size > torch.cuda.mem_get_info(device)[0] / 2:
            log.info("Data of %.1f GB stay in main memory.", size / 1e9)
            return self
        return SessionDataset(
            *send_batch_to_device((self.model_tensors, self.extra_tensors), device)
        )


class EpochShuffle(Sampler[int]):
    """Yields every trial once, in a random order that depends only on a seed and the epoch.

    A run that is resumed therefore sees the batches that it would have seen without interruption.
    Where a session is repeated within an epoch, because it is shorter than another one, every
    repetition has its own order.

    Parameters
    ----------
    n_trials
        Number of trials.
    seed
        Seed of the orders of all epochs.
    """

    def __init__(self, n_trials: int, seed: int) -> None:
        self.n_trials = n_trials
        self.seed = seed
        self.epoch = 0
        self.passes = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch; the trainer calls this method."""
        self.epoch = epoch
        self.passes = 0

    def __len__(self) -> int:
        """Return the number of trials."""
        return self.n_trials

    def __iter__(self) -> Iterator[int]:
        """Iterate over the indices of the trials."""
        generator = np.random.default_rng([self.seed, self.epoch, self.passes])
        self.passes += 1
        return iter(generator.permutation(self.n_trials).tolist())
