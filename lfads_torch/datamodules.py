"""The data module, which reads session files and makes batches of trials.

    session files → arrays → SessionBatch of all trials → SessionDataset → batches

The arrays of every session are read once (:mod:`lfads_torch.data.sessions`) and kept in memory as
tensors (:mod:`lfads_torch.data.trials`), so that a batch is an indexing of whole tensors.
"""

import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader

from lfads_torch.data.schema import MANDATORY_KEYS
from lfads_torch.data.sessions import find_session_files, load_session
from lfads_torch.data.splits import reshuffle_train_valid
from lfads_torch.data.trials import (
    EpochShuffle,
    Extras,
    SessionDataset,
    split_tensors,
    to_tensor,
)
from lfads_torch.errors import UserError
from lfads_torch.tuples import SessionBatch

__all__ = [
    "MANDATORY_KEYS",
    "BasicDataModule",
    "SessionDataset",
    "attach_tensors",
    "reshuffle_train_valid",
    "to_tensor",
]

Arrays = Mapping[str, np.ndarray]
"""The arrays of a session by name."""


def attach_tensors(
    datamodule: "BasicDataModule", data_dicts: Sequence[Arrays], extra_keys: Sequence[str] = ()
) -> None:
    """Turn the arrays of each session into tensors and data sets of a data module.

    Sets ``{train,valid,test}_data`` (a list over sessions of ``(SessionBatch, extras)``) and
    ``{train,valid,test}_ds`` (a list of :class:`SessionDataset`). For a test split that the files
    do not have, both are empty.

    Parameters
    ----------
    datamodule
        The data module whose attributes are set. Its hyperparameters give T_ic and the rate and
        seed of the sample-validation masks.
    data_dicts
        The arrays of each session, as :func:`~lfads_torch.data.sessions.load_session` returns them.
    extra_keys
        Names of the extras, without their split.
    """
    hps = datamodule.hparams
    generator = torch.Generator().manual_seed(hps.sv_seed)
    for split in MANDATORY_KEYS:
        data = [
            split_tensors(arrays, split, extra_keys, hps.dm_ic_enc_seq_len, hps.sv_rate, generator)
            for arrays in data_dicts
            if f"{split}_encod_data" in arrays
        ]
        setattr(datamodule, f"{split}_data", data)
        setattr(datamodule, f"{split}_ds", [SessionDataset(*tensors) for tensors in data])


class BasicDataModule(pl.LightningDataModule):
    """Trials of one or more recording sessions.

    A training step sees ``batch_size // sessions`` trials of every session. An epoch goes over the
    longest session once and repeats the shorter ones. Validation goes over every session once.

    Parameters
    ----------
    datafile_pattern
        Path or glob pattern; the sorted matches are the sessions.
    batch_keys
        Names of arrays, ``{split}_{key}`` in the files, that come as extras with each batch.
    attr_keys
        Names of arrays that become attributes after ``setup()``: the array itself if there is one
        session, and a list of arrays if there are several.
    batch_size
        Trials in a batch, divided evenly among the sessions.
    reshuffle_tv_seed, reshuffle_tv_ratio
        Divide the trials at random into new training and validation sets, with this seed and this
        fraction of training trials (None: as many as in the file).
    sv_rate, sv_seed
        Fraction of samples that ``sv_mask`` holds out for validation, and the seed of that mask.
    dm_ic_enc_seq_len
        T_ic: ``ext_input``, ``truth`` and ``sv_mask`` start at this bin.

    Raises
    ------
    UserError
        If an argument is out of range; and from ``setup()``, if no file matches the pattern or if a
        file lacks an array that is needed.
    """

    hparams: Any  # type: ignore[assignment]
    train_data: list[tuple[SessionBatch, Extras]]
    valid_data: list[tuple[SessionBatch, Extras]]
    test_data: list[tuple[SessionBatch, Extras]]
    train_ds: list[SessionDataset]
    valid_ds: list[SessionDataset]
    test_ds: list[SessionDataset]

    def __init__(
        self,
        datafile_pattern: str,
        batch_keys: Sequence[str] = (),
        attr_keys: Sequence[str] = (),
        batch_size: int = 64,
        reshuffle_tv_seed: int | None = None,
        reshuffle_tv_ratio: float | None = None,
        sv_rate: float = 0.0,
        sv_seed: int = 0,
        dm_ic_enc_seq_len: int = 0,
    ) -> None:
        super().__init__()
        datafile_pattern = str(datafile_pattern)
        batch_keys, attr_keys = list(batch_keys), list(attr_keys)
        if not 0 <= sv_rate < 1:
            raise UserError(f"datamodule.sv_rate must be at least 0 and below 1, but is {sv_rate}.")
        if reshuffle_tv_ratio is not None and reshuffle_tv_seed is None:
            raise UserError(
                f"datamodule.reshuffle_tv_ratio = {reshuffle_tv_ratio} divides the trials at "
                f"random and needs a datamodule.reshuffle_tv_seed."
            )
        self.save_hyperparameters()
        self.session_files: list[Path] = []
        self._shuffle_seed = torch.initial_seed() % 2**63

    # ------------------------------------------------------------------ reading the files

    def setup(self, stage: str | None = None) -> None:
        """Read the files when this is called for the first time.

        At stage ``"predict"`` they need not hold trials for training: any one of the splits is
        enough.
        """
        to_infer = stage == "predict"
        if self.session_files and (to_infer or (self.train_ds and self.valid_ds)):
            return
        hps = self.hparams
        files = find_session_files(hps.datafile_pattern)
        if hps.batch_size < len(files):
            raise UserError(
                f"datamodule.batch_size = {hps.batch_size} is less than the {len(files)} sessions "
                f"that {hps.datafile_pattern!r} matches: every session needs a share of a batch."
            )
        sessions = {
            path: load_session(path, hps.reshuffle_tv_seed, hps.reshuffle_tv_ratio, to_infer)
            for path in files
        }
        self._check_sessions_agree(sessions)
        self._check_batch_keys(sessions)
        attach_tensors(self, [*sessions.values()], hps.batch_keys)
        self._set_attributes(sessions)
        if not to_infer:
            self._warn_of_small_sessions(files)
        self.session_files = files

    def _check_sessions_agree(self, sessions: Mapping[Path, Arrays]) -> None:
        """Check that trials are equally long in all sessions, and the test split in all or none."""
        n_ic_bins = self.hparams.dm_ic_enc_seq_len
        for split, name in product(MANDATORY_KEYS, ("encod_data", "recon_data")):
            key = f"{split}_{name}"
            n_bins = {
                path: arrays[key].shape[1] for path, arrays in sessions.items() if key in arrays
            }
            for path, n in n_bins.items():
                first = next(iter(n_bins))
                if n != n_bins[first]:
                    raise UserError(
                        f"{key} has {n} time bins in {path}, but {n_bins[first]} in {first}: "
                        f"sessions of one model need equally long trials."
                    )
                if name == "encod_data" and not 0 <= n_ic_bins < n:
                    raise UserError(
                        f"datamodule.dm_ic_enc_seq_len = {n_ic_bins} leaves none of the {n} "
                        f"encoded bins in {path}."
                    )
            if name == "encod_data" and 0 < len(n_bins) < len(sessions):
                raise UserError(
                    f"{key} is in {len(n_bins)} of {len(sessions)} session files "
                    f"({next(iter(n_bins))}, for example): give it to all of them or to none."
                )

    def _check_batch_keys(self, sessions: Mapping[Path, Arrays]) -> None:
        """Check that all files have the extras, with an entry for each trial."""
        for path, arrays in sessions.items():
            for key, split in product(self.hparams.batch_keys, MANDATORY_KEYS):
                if f"{split}_encod_data" not in arrays:
                    continue
                values = arrays.get(f"{split}_{key}")
                if values is None and split != "test":
                    raise UserError(
                        f"datamodule.batch_keys names {key!r}, but {path} has no {split}_{key}: "
                        f"it holds {sorted(arrays)}."
                    )
                n_trials = len(arrays[f"{split}_encod_data"])
                if values is not None and np.shape(values)[:1] != (n_trials,):
                    raise UserError(
                        f"datamodule.batch_keys names {key!r}, but {split}_{key} in {path} has "
                        f"the shape {np.shape(values)} for {n_trials} trials."
                    )

    def _set_attributes(self, sessions: Mapping[Path, Arrays]) -> None:
        """Set the arrays that ``attr_keys`` names as attributes."""
        for key in self.hparams.attr_keys:
            if hasattr(type(self), key) or key in BasicDataModule.__annotations__:
                raise UserError(
                    f"datamodule.attr_keys names {key!r}, which the data module needs for itself."
                )
            for path, arrays in sessions.items():
                if key not in arrays:
                    raise UserError(
                        f"datamodule.attr_keys names {key!r}, but {path} does not hold it: it "
                        f"holds {sorted(arrays)}."
                    )
            values = [arrays[key] for arrays in sessions.values()]
            setattr(self, key, values[0] if len(values) == 1 else values)

    def _warn_of_small_sessions(self, files: Sequence[Path]) -> None:
        """Warn of sessions that have fewer trials than their share of a batch."""
        n_trials = self._trials_per_session(len(files))
        for path, dataset in zip(files, self.train_ds, strict=True):
            if len(dataset) < n_trials:
                warnings.warn(
                    f"{path} has {len(dataset)} training trials, fewer than its share of a batch "
                    f"({n_trials}: datamodule.batch_size = {self.hparams.batch_size}, "
                    f"{len(files)} session(s)). All of them make one batch.",
                    stacklevel=3,
                )

    # ------------------------------------------------------------------ making batches

    def train_dataloader(self) -> CombinedLoader:
        """Yield ``{session: (SessionBatch, extras)}`` with every session in each batch."""
        return CombinedLoader(self._loaders(self.train_ds, train=True), "max_size_cycle")

    def val_dataloader(self) -> CombinedLoader:
        """Yield ``{session: (SessionBatch, extras)}``.

        The value is None for a session that has fewer batches than the longest one, once all of
        its trials have been seen.
        """
        return CombinedLoader(self._loaders(self.valid_ds, train=False), "max_size")

    def predict_dataloader(self) -> dict[int, dict[str, DataLoader]]:
        """Return ``{session: {split: DataLoader}}`` over all trials in the order of the file."""
        splits = {
            split: self._loaders(getattr(self, f"{split}_ds"), train=False)
            for split in MANDATORY_KEYS
        }
        return {
            session: {split: loaders[session] for split, loaders in splits.items() if loaders}
            for session in range(max(len(loaders) for loaders in splits.values()))
        }

    def _trials_per_session(self, n_sessions: int) -> int:
        """Return how many trials of each session a batch holds."""
        return self.hparams.batch_size // n_sessions

    def _loaders(self, datasets: Sequence[SessionDataset], train: bool) -> dict[int, DataLoader]:
        """Return the loader of batches of each session."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        loaders = {}
        for session, dataset in enumerate(datasets):
            loaders[session] = DataLoader(
                dataset.to(device),
                batch_size=min(self._trials_per_session(len(datasets)), len(dataset)),
                sampler=EpochShuffle(len(dataset), self._shuffle_seed + session) if train else None,
                drop_last=train,
                collate_fn=_unchanged,
            )
        return loaders


def _unchanged(batch: Any) -> Any:
    """Return an item of the data set, which is already a batch."""
    return batch
