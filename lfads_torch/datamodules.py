"""From HDF5 files to batches of trials.

A file is a session. Its arrays are read once and kept in memory, and a batch is an indexing of
whole arrays. ``datasets/README.md`` states what a file must hold.
"""

import fnmatch
import glob
import logging
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lfads_torch.errors import MissingFileError, UserError
from lfads_torch.tuples import SessionBatch
from lfads_torch.utils import send_batch_to_device

log = logging.getLogger(__name__)

MANDATORY_KEYS = {
    "train": ["encod_data", "recon_data"],
    "valid": ["encod_data", "recon_data"],
    "test": ["encod_data"],
}
"""What a file must hold of each split (``{split}_{key}``); the test split may be absent."""

DANDI = {
    "mc_maze": "000128",
    "mc_maze_large": "000138",
    "mc_maze_medium": "000139",
    "mc_maze_small": "000140",
    "mc_rtt": "000129",
    "area2_bump": "000127",
    "dmfc_rsg": "000130",
}
"""The recordings of the Neural Latents Benchmark, and where they are."""

Extras = tuple[Tensor, ...]
"""The ``batch_keys`` of a batch, in their order."""


def find_session_files(datafile_pattern: str | Path) -> list[Path]:
    """Return the sorted files that a glob pattern matches, one a session.

    Raises
    ------
    FileNotFoundError
        If there is none; the message says how to get the file where this is known.
    """
    if Path(datafile_pattern).is_file():  # its name may hold characters of patterns
        return [Path(datafile_pattern)]
    paths = sorted(Path(match) for match in glob.glob(str(datafile_pattern)))
    if paths:
        return paths
    raise MissingFileError(
        f"datamodule.datafile_pattern = {str(datafile_pattern)!r} matches no file "
        f"(looked from {Path.cwd()}). {_how_to_get(Path(datafile_pattern))}"
    )


def _how_to_get(path: Path) -> str:
    for name in ("lorenz", "chaotic_rnn"):
        if path.name.startswith(name):
            return (
                f"Generate it: python -m lfads_torch.datasets.synthetic {name} --output "
                + shlex.quote(str(path))
            )
    if path.name.startswith("sess") and path.parent.name == "multisession":
        return (
            "Generate it: python -m lfads_torch.datasets.synthetic multisession --output "
            + shlex.quote(str(path.parent))
        )
    sets = fnmatch.filter(DANDI, path.name.split("-")[0])
    if sets:
        return (
            f"This is data of the Neural Latents Benchmark, DANDI "
            f"{', '.join(DANDI[name] for name in sets)} "
            f"(https://dandiarchive.org/dandiset/{DANDI[sets[0]]}). Make the file by "
            f"scripts/prepare_nlb.py {' '.join(sets)} (docs/nlb.md)."
        )
    return "Give the path of an HDF5 file, or a pattern that matches one file for each session."


@dataclass(frozen=True)
class SessionShapes:
    """The sizes that a session file imposes on a model."""

    n_encod_bins: int
    n_recon_bins: int
    n_encod_channels: int
    n_recon_channels: int
    n_ext_inputs: int
    n_components: int | None
    """Columns of ``readin_weight``, where the session has been aligned to others."""


def session_shapes(path: str | Path) -> SessionShapes:
    """Read the sizes of a session from its training arrays, without reading these."""
    with _open(path) as file:
        shapes = {key: file[key].shape for key in file if isinstance(file[key], h5py.Dataset)}
    _rename_tf_era(shapes)
    _check_shapes(shapes, Path(path))
    encod, recon = shapes["train_encod_data"], shapes["train_recon_data"]
    return SessionShapes(
        n_encod_bins=encod[1],
        n_recon_bins=recon[1],
        n_encod_channels=encod[2],
        n_recon_channels=recon[2],
        n_ext_inputs=shapes.get("train_ext_input", (0, 0, 0))[2],
        n_components=shapes.get("readin_weight", (0, None))[-1],
    )


def _open(path: str | Path) -> h5py.File:
    try:
        return h5py.File(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read as an HDF5 file: {error}") from error


def load_session(
    path: str | Path,
    reshuffle_seed: int | None = None,
    reshuffle_ratio: float | None = None,
    to_infer: bool = False,
) -> dict[str, np.ndarray]:
    """Read every array of a session file and check what the model relies on.

    Trial numbers ``{split}_inds`` are added where the file has none: they count the trials of the
    file, training trials first, then validation and test trials.

    Parameters
    ----------
    path
        The file.
    reshuffle_seed, reshuffle_ratio
        See :func:`reshuffle_train_valid`; None leaves the trials where they are.
    to_infer
        The trials are not to be trained on: any one of the splits is enough, such as
        ``test_encod_data`` alone.

    Raises
    ------
    ValueError
        If a mandatory array is missing, or one has the wrong rank, number of trials or of bins.
    """
    path = Path(path)
    with _open(path) as file:
        arrays = {key: file[key][()] for key in file if isinstance(file[key], h5py.Dataset)}
    _rename_tf_era(arrays)
    _check_shapes({key: np.shape(value) for key, value in arrays.items()}, path, to_infer)
    factor = np.asarray(arrays.get("conversion_factor", 1.0))
    if factor.size != 1 or not factor > 0:
        raise UserError(f"conversion_factor in {path} must be a number above 0, but is {factor}.")
    first = 0
    for split in MANDATORY_KEYS:
        if f"{split}_encod_data" in arrays:
            n_trials = len(arrays[f"{split}_encod_data"])
            arrays.setdefault(f"{split}_inds", np.arange(first, first + n_trials))
            first += n_trials
    if reshuffle_seed is not None and "chop_overlap" in arrays:
        raise UserError(
            f"datamodule.reshuffle_tv_seed = {reshuffle_seed} would put bins of {path} into both "
            f"training and validation: its trials are windows of a recording that overlap. Chop "
            f"the recording again, with another seed (scripts/chop.py --seed)."
        )
    if reshuffle_seed is not None and {"train_encod_data", "valid_encod_data"} <= arrays.keys():
        arrays = reshuffle_train_valid(arrays, reshuffle_seed, reshuffle_ratio)
    return arrays


def _rename_tf_era(arrays: dict[str, Any]) -> None:
    """Read files of the TensorFlow implementation, ``{split}_data``, as encod = recon."""
    for split in MANDATORY_KEYS:
        old = f"{split}_data"
        if old in arrays and f"{split}_encod_data" not in arrays:
            arrays[f"{split}_encod_data"] = arrays[old]
            arrays.setdefault(f"{split}_recon_data", arrays[old])
            del arrays[old]


def _check_shapes(
    shapes: Mapping[str, tuple[int, ...]], path: Path, to_infer: bool = False
) -> None:
    present = {split for split in MANDATORY_KEYS if f"{split}_encod_data" in shapes}
    for split, names in MANDATORY_KEYS.items():
        if split not in present and (split == "test" or (to_infer and present)):
            continue
        for key in (f"{split}_{name}" for name in names):
            if key not in shapes:
                raise UserError(
                    f"{path} has no {key}. It needs "
                    f"{{train,valid}}_{{encod_data,recon_data}}, each (trials, time, channels)"
                    f"{', or test_encod_data alone' if to_infer else ''}, and holds "
                    f"{sorted(shapes) or 'nothing'}."
                )
        encod = shapes[f"{split}_encod_data"]
        for name in ("encod_data", "recon_data", "ext_input", "truth"):
            shape = shapes.get(f"{split}_{name}")
            if shape is None:
                continue
            if len(shape) != 3:
                raise UserError(
                    f"{split}_{name} in {path} must be (trials, time, channels), but its shape is "
                    f"{shape}."
                )
            if shape[0] != encod[0]:
                raise UserError(
                    f"{split}_{name} in {path} has {shape[0]} trials, but {split}_encod_data has "
                    f"{encod[0]}: every {split} array needs one entry for each trial."
                )
            if 0 in shape:
                raise UserError(f"{split}_{name} in {path} is empty: its shape is {shape}.")
        recon = shapes.get(f"{split}_recon_data", encod)
        if encod[1] > recon[1]:
            raise UserError(
                f"{split}_encod_data in {path} has {encod[1]} time bins and {split}_recon_data has "
                f"{recon[1]}: the encoded bins must be the first of the reconstructed ones."
            )
        for name, n_bins in [("ext_input", encod[1]), ("truth", recon[1])]:
            shape = shapes.get(f"{split}_{name}", (0, n_bins, 0))
            if shape[1] != n_bins:
                raise UserError(
                    f"{split}_{name} in {path} has {shape[1]} time bins, but {n_bins} are expected."
                )
    for name in ("encod_data", "recon_data", "ext_input"):
        given = {
            split: shapes.get(f"{split}_{name}") for split in MANDATORY_KEYS if split in present
        }
        first, expected = next((item for item in given.items() if item[1]), ("", None))
        for split, shape in given.items():
            # Trials of the test split may come without targets and inputs.
            if expected is None or (shape is None and (split == "test" or name == "recon_data")):
                continue
            if shape is None or shape[1:] != expected[1:]:
                raise UserError(
                    f"{first}_{name} and {split}_{name} in {path} must agree in time bins and "
                    f"channels, but their shapes are {expected} and {shape}."
                )
    for split in present:
        channels = [
            shapes[f"{split}_{name}"][2]
            for name in ("truth", "recon_data")
            if f"{split}_{name}" in shapes
        ]
        if len(set(channels)) > 1:
            raise UserError(
                f"{split}_truth in {path} has {channels[0]} channels, but {split}_recon_data has "
                f"{channels[1]}."
            )


def reshuffle_train_valid(
    data_dict: Mapping[str, np.ndarray], seed: int, ratio: float | None = None
) -> dict[str, np.ndarray]:
    """Deal training and validation trials out anew.

    Parameters
    ----------
    data_dict
        Arrays of a session. Each pair ``train_X``, ``valid_X`` with one entry a trial takes part;
        all pairs are dealt in the same way.
    seed
        Of the permutation.
    ratio
        Fraction of the trials that become training trials; None keeps their number.

    Raises
    ------
    ValueError
        If the ratio leaves either set empty.
    """
    n_train, n_valid = (len(data_dict[f"{split}_encod_data"]) for split in ("train", "valid"))
    n_new = n_train if ratio is None else round(ratio * (n_train + n_valid))
    if not 0 < n_new < n_train + n_valid:
        raise UserError(
            f"datamodule.reshuffle_tv_ratio = {ratio} makes {n_new} of {n_train + n_valid} trials "
            f"training trials: choose a fraction between 0 and 1 that leaves both sets some."
        )
    order = np.random.default_rng(seed).permutation(n_train + n_valid)
    dealt = dict(data_dict)
    for train_key in [key for key in data_dict if key.startswith("train_")]:
        valid_key = "valid_" + train_key.removeprefix("train_")
        train, valid = data_dict[train_key], data_dict.get(valid_key)
        if valid is None and train_key in ("train_truth", "train_ext_input"):
            raise UserError(
                f"datamodule.reshuffle_tv_seed deals trials out anew, but there is a {train_key} "
                f"and no {valid_key}."
            )
        if valid is None or (np.shape(train)[:1], np.shape(valid)[:1]) != ((n_train,), (n_valid,)):
            continue
        trials = np.concatenate([train, valid])[order]
        dealt[train_key], dealt[valid_key] = trials[:n_new], trials[n_new:]
    return dealt


def to_tensor(array: np.ndarray) -> Tensor:
    """Return a copy of an array as a tensor of the default floating-point dtype."""
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise UserError(f"Numbers are expected, but an array holds {array.dtype}.")
    native = array.astype(array.dtype.newbyteorder("="))
    return torch.tensor(native, dtype=torch.get_default_dtype())


class SessionDataset(Dataset[tuple[SessionBatch, Extras]]):
    """The trials of one session.

    An item is ``(SessionBatch, extras)`` of one trial without its trial axis, or of many trials
    where it is indexed by a list (which is how a DataLoader asks for a batch).

    Parameters
    ----------
    model_tensors
        A :class:`~lfads_torch.tuples.SessionBatch` of all trials.
    extra_tensors
        Further tensors whose first axis are the trials.
    """

    def __init__(self, model_tensors: SessionBatch, extra_tensors: Sequence[Tensor] = ()) -> None:
        self.model_tensors = model_tensors
        self.extra_tensors = tuple(extra_tensors)
        for tensor in (*model_tensors, *self.extra_tensors):
            if tensor is not None and len(tensor) != len(self):
                raise UserError(
                    f"All tensors of a session need one entry a trial, but there are "
                    f"{len(self)} trials and a tensor of shape {tuple(tensor.shape)}."
                )

    def __len__(self) -> int:
        """Return the number of trials."""
        return len(self.model_tensors.encod_data)

    def __getitem__(self, index: Any) -> tuple[SessionBatch, Extras]:
        """Return one trial (int), or several (list, tensor or slice)."""
        fields: Any = (None if tensor is None else tensor[index] for tensor in self.model_tensors)
        return SessionBatch(*fields), tuple(tensor[index] for tensor in self.extra_tensors)

    def __getitems__(self, indices: list[int]) -> tuple[SessionBatch, Extras]:
        """Return several trials at once, already in one batch."""
        return self[torch.as_tensor(indices, device=self.model_tensors.encod_data.device)]

    def to(self, device: torch.device) -> "SessionDataset":
        """Return the data set with its tensors on a device, where a batch is an indexing of them.

        A data set that would take more than half of a CUDA device's free memory stays where it is;
        its batches are moved one by one.
        """
        tensors = [t for t in (*self.model_tensors, *self.extra_tensors) if t is not None]
        size = sum(tensor.nbytes for tensor in tensors)
        if device.type == "cuda" and size > torch.cuda.mem_get_info(device)[0] / 2:
            log.info("Data of %.1f GB stay in main memory.", size / 1e9)
            return self
        return SessionDataset(
            *send_batch_to_device((self.model_tensors, self.extra_tensors), device)
        )


def attach_tensors(
    datamodule: "BasicDataModule",
    data_dicts: Sequence[Mapping[str, np.ndarray]],
    extra_keys: Sequence[str] = (),
) -> None:
    """Turn the arrays of each session into tensors and data sets of the data module.

    Sets ``{train,valid,test}_data`` (a list over sessions of ``(SessionBatch, extras)``) and
    ``{train,valid,test}_ds`` (a list of :class:`SessionDataset`); both are empty for a test split
    that the files do not have.

    Parameters
    ----------
    datamodule
        What they are attached to; its hyperparameters give T_ic and the rate and seed of the
        sample-validation masks.
    data_dicts
        The arrays of each session, as :func:`load_session` returns them.
    extra_keys
        Names of the extras, without their split.
    """
    hps = datamodule.hparams
    generator = torch.Generator().manual_seed(hps.sv_seed)
    for split in MANDATORY_KEYS:
        data = [
            _session_tensors(arrays, split, extra_keys, hps, generator)
            for arrays in data_dicts
            if f"{split}_encod_data" in arrays
        ]
        setattr(datamodule, f"{split}_data", data)
        setattr(datamodule, f"{split}_ds", [SessionDataset(*tensors) for tensors in data])


def _session_tensors(
    arrays: Mapping[str, np.ndarray],
    split: str,
    extra_keys: Sequence[str],
    hps: Any,
    generator: torch.Generator,
) -> tuple[SessionBatch, Extras]:
    """Make the tensors of one split of one session; absent optional ones are empty."""
    t_ic = hps.dm_ic_enc_seq_len
    encod_data = to_tensor(arrays[f"{split}_encod_data"])
    n_trials, n_bins, n_channels = encod_data.shape
    recon, ext, truth = (arrays.get(f"{split}_{k}") for k in ("recon_data", "ext_input", "truth"))
    if hps.sv_rate > 0:
        drawn = torch.rand(n_trials, n_bins - t_ic, n_channels, generator=generator)
        sv_mask = (drawn >= hps.sv_rate).to(encod_data.dtype)
    else:
        sv_mask = torch.zeros(n_trials, 0, 0)
    if truth is not None and "conversion_factor" in arrays:
        truth = truth / np.asarray(arrays["conversion_factor"]).item()
    nothing = torch.zeros(n_trials, 0, 0)
    batch = SessionBatch(
        encod_data=encod_data,
        recon_data=nothing if recon is None else to_tensor(recon),
        ext_input=(
            torch.zeros(n_trials, n_bins - t_ic, 0) if ext is None else to_tensor(ext[:, t_ic:])
        ),
        truth=nothing if truth is None else to_tensor(truth[:, t_ic:]),
        sv_mask=sv_mask,
    )
    extras = []
    for key in extra_keys:
        if f"{split}_{key}" not in arrays and split != "test":
            raise UserError(f"The data have no {split}_{key}: they hold {sorted(arrays)}.")
        extra = arrays.get(f"{split}_{key}", np.zeros((n_trials, 0)))
        extras.append(to_tensor(extra))
    return batch, tuple(extras)


class EpochShuffle(Sampler[int]):
    """Every trial once, in an order that depends on nothing but a seed and the epoch.

    So a run that is resumed sees the batches that it would have seen. A second pass within an
    epoch, as a shorter session makes one, has an order of its own.
    """

    def __init__(self, n_trials: int, seed: int) -> None:
        self.n_trials = n_trials
        self.seed = seed
        self.epoch = 0
        self.passes = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; the trainer does."""
        self.epoch = epoch
        self.passes = 0

    def __len__(self) -> int:
        """Return the number of trials."""
        return self.n_trials

    def __iter__(self) -> Iterator[int]:
        """Iterate over the trials' indices."""
        order = np.random.default_rng([self.seed, self.epoch, self.passes])
        self.passes += 1
        return iter(order.permutation(self.n_trials).tolist())


def _as_is(batch: Any) -> Any:
    return batch


class BasicDataModule(pl.LightningDataModule):
    """Trials of one or more recording sessions.

    A training step sees ``batch_size // sessions`` trials of every session; an epoch passes
    through the longest session once and repeats the shorter ones. Validation passes through every
    session once.

    Parameters
    ----------
    datafile_pattern
        Path or glob pattern; the sorted matches are the sessions.
    batch_keys
        Names of arrays, ``{split}_{key}`` in the files, that come as extras with each batch.
    attr_keys
        Names of arrays that become attributes after ``setup()``: the array for one session, and
        a list of arrays for several.
    batch_size
        Trials of a batch, shared out evenly among the sessions.
    reshuffle_tv_seed, reshuffle_tv_ratio
        Deal training and validation trials out anew, with this seed and this fraction of training
        trials (None: as many as in the file).
    sv_rate, sv_seed
        Fraction of samples that ``sv_mask`` holds out to validate on, and its seed.
    dm_ic_enc_seq_len
        T_ic: ``ext_input``, ``truth`` and ``sv_mask`` start at this bin.

    Raises
    ------
    FileNotFoundError, ValueError
        From ``setup()``, if there is no file or a file does not hold what it must.
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
                f"datamodule.reshuffle_tv_ratio = {reshuffle_tv_ratio} deals trials out anew and "
                f"needs a datamodule.reshuffle_tv_seed."
            )
        self.save_hyperparameters()
        self.session_files: list[Path] = []
        self._shuffle_seed = torch.initial_seed() % 2**63

    def setup(self, stage: str | None = None) -> None:
        """Read the files, once.

        At stage ``"predict"`` they need not hold trials to train on: any one of the splits is
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
        sessions = [
            load_session(path, hps.reshuffle_tv_seed, hps.reshuffle_tv_ratio, to_infer)
            for path in files
        ]
        self._check_sessions_agree(files, sessions)
        self._check_batch_keys(files, sessions)
        attach_tensors(self, sessions, hps.batch_keys)
        for key in hps.attr_keys:
            if hasattr(type(self), key) or key in BasicDataModule.__annotations__:
                raise UserError(
                    f"datamodule.attr_keys names {key!r}, which the data module needs for itself."
                )
            for path, arrays in zip(files, sessions, strict=True):
                if key not in arrays:
                    raise UserError(
                        f"datamodule.attr_keys names {key!r}, but {path} does not hold it: it "
                        f"holds {sorted(arrays)}."
                    )
            values = [arrays[key] for arrays in sessions]
            setattr(self, key, values[0] if len(files) == 1 else values)
        share = self._share(len(files))
        for path, dataset in () if to_infer else zip(files, self.train_ds, strict=True):
            if len(dataset) < share:
                warnings.warn(
                    f"{path} has {len(dataset)} training trials, fewer than its share of a batch "
                    f"({share}: datamodule.batch_size = {hps.batch_size}, {len(files)} "
                    f"session(s)). All of them make one batch.",
                    stacklevel=2,
                )
        self.session_files = files

    def _check_batch_keys(
        self, files: Sequence[Path], sessions: Sequence[Mapping[str, np.ndarray]]
    ) -> None:
        for path, arrays in zip(files, sessions, strict=True):
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

    def _check_sessions_agree(
        self, files: Sequence[Path], sessions: Sequence[Mapping[str, np.ndarray]]
    ) -> None:
        t_ic = self.hparams.dm_ic_enc_seq_len
        for split, name in product(MANDATORY_KEYS, ("encod_data", "recon_data")):
            key = f"{split}_{name}"
            n_bins = {
                path: arrays[key].shape[1]
                for path, arrays in zip(files, sessions, strict=True)
                if key in arrays
            }
            for path, n in n_bins.items():
                first = next(iter(n_bins))
                if n != n_bins[first]:
                    raise UserError(
                        f"{key} has {n} time bins in {path}, but {n_bins[first]} in {first}: "
                        f"sessions of one model need equally long trials."
                    )
                if name == "encod_data" and not 0 <= t_ic < n:
                    raise UserError(
                        f"datamodule.dm_ic_enc_seq_len = {t_ic} leaves none of the {n} encoded "
                        f"bins in {path}."
                    )
            if name == "encod_data" and 0 < len(n_bins) < len(files):
                raise UserError(
                    f"{key} is in {len(n_bins)} of {len(files)} session files "
                    f"({next(iter(n_bins))}, for example): give it to all of them or to none."
                )

    def _share(self, n_sessions: int) -> int:
        """Return the trials of each session in a batch."""
        return self.hparams.batch_size // n_sessions

    def _loaders(self, datasets: Sequence[SessionDataset], train: bool) -> dict[int, DataLoader]:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        loaders = {}
        for session, dataset in enumerate(datasets):
            loaders[session] = DataLoader(
                dataset.to(device),
                batch_size=min(self._share(len(datasets)), len(dataset)),
                sampler=EpochShuffle(len(dataset), self._shuffle_seed + session) if train else None,
                drop_last=train,
                collate_fn=_as_is,
            )
        return loaders

    def train_dataloader(self) -> CombinedLoader:
        """Yield ``{session: (SessionBatch, extras)}`` with every session in each batch."""
        return CombinedLoader(self._loaders(self.train_ds, train=True), "max_size_cycle")

    def val_dataloader(self) -> CombinedLoader:
        """Yield ``{session: (SessionBatch, extras)}``, None for sessions that are through."""
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
