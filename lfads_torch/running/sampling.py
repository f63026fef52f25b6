"""Posterior sampling: writes what a trained model infers to files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from lfads_torch import utils
from lfads_torch.data.sessions import load_session
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.errors import UserError
from lfads_torch.files import written_atomically
from lfads_torch.model import LFADS
from lfads_torch.modules.decoder import Decoder
from lfads_torch.modules.parts import declared, linear_weights
from lfads_torch.recurrence import mean_rates, using
from lfads_torch.tuples import Encoding, SessionBatch, SessionOutput
from lfads_torch.utils import send_batch_to_device

_ROWS = 256
"""Number of samples that are decoded together on a CPU, whose states fit into its cache."""
_ROWS_ON_A_DEVICE = 16384


def run_posterior_sampling(
    model: LFADS,
    datamodule: BasicDataModule,
    filename: str | Path,
    num_samples: int = 50,
    save_std: bool = False,
    save_samples: bool = False,
    max_memory_gb: float = 1.0,
    sessions: Sequence[int] | None = None,
) -> list[Path]:
    """Average what the model infers over samples of its posteriors, and save it.

    Each trial is encoded once; the samples are decoded in batches. A file is written for each
    session, ``{filename}_sess{S}.h5``, with the mean over samples of every field of
    :class:`~lfads_torch.tuples.SessionOutput` as ``{split}_{field}`` (``output_params`` are means:
    rates in spikes per bin), a copy of the session's input arrays and the trial numbers
    ``{split}_inds``. It is written under a temporary name and then renamed. An existing file of
    that name is renamed to ``….1.h5`` first.

    Parameters
    ----------
    model
        A trained model. It remains on its device.
    datamodule
        The data. ``setup("predict")`` is called if necessary, so the files need not hold trials for
        training.
    filename
        Path of the output; ``_sess{S}`` goes before its suffix.
    num_samples
        Number of samples for each trial. A model that is not variational is evaluated once.
    save_std, save_samples
        Whether to save the standard deviation over samples too, as ``{split}_{field}_std``, and the
        samples themselves, as ``{split}_{field}_samples`` (trials, samples, …).
    max_memory_gb
        Memory, in GB, that decoded samples may take at a time, approximately.
    sessions
        The session of the model for each file of the data module; by default 0, 1, 2, ….

    Returns
    -------
    list of Path
        The files, one for each session.

    Raises
    ------
    ValueError
        If ``num_samples`` is less than 1, or if ``sessions`` does not have one session of the model
        for each file.
    """
    if num_samples < 1:
        raise UserError(f"num_samples must be at least 1, but is {num_samples}.")
    if not model.hparams.variational:
        num_samples = 1
    sampling = _Sampling(num_samples, save_std, save_samples, max_memory_gb)
    datamodule.setup("predict")
    n_files, n_sessions = len(datamodule.session_files), len(model.readin)
    sessions = range(n_files) if sessions is None else sessions
    if len(sessions) != n_files or not set(sessions) <= set(range(n_sessions)):
        raise UserError(
            f"There are data of sessions {list(sessions)} in {n_files} file(s), but the model has "
            f"sessions {list(range(n_sessions))}: name one of them for each file."
        )
    was_training = model.training
    model.eval()
    try:
        return [
            _sample_session(model, datamodule, i, session, Path(filename), sampling)
            for i, session in enumerate(sessions)
        ]
    finally:
        model.train(was_training)


def _sample_session(
    model: LFADS,
    datamodule: BasicDataModule,
    i: int,
    session: int,
    filename: Path,
    sampling: "_Sampling",
) -> Path:
    """Write what the model infers about the data module's file ``i``, and return the path."""
    path = filename.with_name(f"{filename.stem}_sess{session}{filename.suffix}")
    with written_atomically(path, keep_old=True) as partial, h5py.File(partial, "w") as file:
        file.attrs["session_file"] = datamodule.session_files[i].name
        file.attrs["num_samples"] = sampling.num_samples
        _copy_inputs(datamodule, i, file)
        for split, loader in datamodule.predict_dataloader()[i].items():
            first, n_trials = 0, len(getattr(datamodule, f"{split}_ds")[i])
            for batch, _ in loader:
                batch = model.infer_aug_stack.process_batch(
                    send_batch_to_device(batch, model.device)
                )
                for name, trials, samples, values in sampling.run(model, session, batch):
                    key = f"{split}_{name}"
                    if key not in file:
                        shape = (n_trials, *values.shape[1:])
                        if samples is not None:
                            shape = (n_trials, sampling.num_samples, *values.shape[2:])
                        file.create_dataset(key, shape, dtype=values.dtype)
                    rows = slice(first + trials.start, first + trials.stop)
                    file[key][rows if samples is None else (rows, samples)] = values
                first += len(batch.encod_data)
    return path


def _copy_inputs(datamodule: BasicDataModule, i: int, file: h5py.File) -> None:
    """Copy all arrays of the data module's file ``i``, with its assignment of trials to splits."""
    hps = datamodule.hparams
    source = datamodule.session_files[i]
    with h5py.File(source) as original:
        for key in original:
            original.copy(key, file)
    reshuffled = hps.reshuffle_tv_seed is not None
    arrays = load_session(source, hps.reshuffle_tv_seed, hps.reshuffle_tv_ratio, to_infer=True)
    for key, array in arrays.items():
        if key not in file:
            file[key] = array
        elif reshuffled and key.startswith(("train_", "valid_")):
            del file[key]
            file[key] = array


@dataclass(frozen=True)
class _Sampling:
    """The options of sampling, see :func:`run_posterior_sampling`."""

    num_samples: int
    save_std: bool
    save_samples: bool
    max_memory_gb: float

    @torch.no_grad()
    def run(
        self, model: LFADS, session: int, batch: SessionBatch
    ) -> Iterator[tuple[str, slice, slice | None, np.ndarray]]:
        """Yield the name of a field, its trials, its samples (None for all) and their values.

        All trials are encoded together, and are then decoded in groups.
        """
        encoding = model.encode({session: batch})
        n_trials = len(encoding.ic_mean)
        n_rows = self._rows_at_once(model, batch.recon_data.shape[2])
        trials_at_once = max(1, n_rows // self.num_samples)
        samples_at_once = min(self.num_samples, n_rows)
        for start in range(0, n_trials, trials_at_once):
            trials = slice(start, min(start + trials_at_once, n_trials))
            moments = {field: _Moments(self.save_std) for field in SessionOutput._fields}
            for first in range(0, self.num_samples, samples_at_once):
                n_samples = min(samples_at_once, self.num_samples - first)
                repeated = _repeat(model, encoding, session, trials, n_samples)
                decoded = model.unroll(repeated, model.hparams.variational)
                fields = {"ic_mean": repeated.ic_mean, "ic_std": repeated.ic_std}
                fields |= decoded._asdict()
                rates = None
                if not (self.save_std or self.save_samples):
                    rates = _mean_rates(model, session, decoded.factors, n_samples)
                if rates is not None:
                    moments["output_params"].update_mean(rates, n_samples)
                else:
                    fields["output_params"] = model.read_out(session, decoded.factors)
                for field, values in fields.items():
                    values = values.unflatten(0, (-1, n_samples))
                    moments[field].update(values)
                    if self.save_samples:
                        samples = slice(first, first + n_samples)
                        yield f"{field}_samples", trials, samples, _numpy(values)
            for field, moment in moments.items():
                yield field, trials, None, _numpy(moment.mean)
                if self.save_std:
                    yield f"{field}_std", trials, None, _numpy(moment.std)

    def _rows_at_once(self, model: LFADS, n_channels: int) -> int:
        """Return how many samples, counted over all trials, may be decoded together."""
        hps = model.hparams
        # A bin holds the fields of SessionOutput, and a few temporary copies of the states.
        per_bin = 3 * (hps.gen_dim + hps.con_dim + hps.co_dim + hps.fac_dim)
        per_bin += 3 * n_channels + 2 * hps.ci_enc_dim + 2 * hps.ext_input_dim
        itemsize = next(model.parameters()).element_size()
        per_row = hps.recon_seq_len * per_bin * itemsize
        most = _ROWS if utils.on_cpu(model.device) else _ROWS_ON_A_DEVICE
        return max(1, min(most, int(self.max_memory_gb * 1e9 / per_row)))


class _Moments:
    """Mean and standard deviation over samples that come in parts (Chan et al. 1983)."""

    def __init__(self, with_squares: bool) -> None:
        self.with_squares = with_squares
        self.count = 0
        self.mean: Tensor = torch.zeros(())
        self.squares: Tensor = torch.zeros(())

    def update(self, values: Tensor) -> None:
        """Add values (trials, samples, …)."""
        count, mean = values.shape[1], values.mean(dim=1)
        if self.with_squares:
            squares = ((values - mean.unsqueeze(1)) ** 2).sum(dim=1)
            between = (mean - self.mean) ** 2 * (self.count * count / (self.count + count))
            self.squares = self.squares + squares + between
        self.update_mean(mean, count)

    def update_mean(self, mean: Tensor, count: int) -> None:
        """Add the mean (trials, …) of ``count`` samples."""
        self.count += count
        self.mean = self.mean + (mean - self.mean) * (count / self.count)

    @property
    def std(self) -> Tensor:
        """The standard deviation of the samples (0 for one sample)."""
        return torch.sqrt(self.squares / max(self.count - 1, 1))


def _repeat(
    model: LFADS, encoding: Encoding, session: int, trials: slice, n_samples: int
) -> Encoding:
    """Repeat some trials of one session, so that samples of a trial follow each other."""

    def repeated(tensor: Tensor) -> Tensor:
        return tensor[trials].repeat_interleave(n_samples, dim=0)

    ic_mean = repeated(encoding.ic_mean)
    shared = declared(model.decoder, "shares_ci", Decoder)()
    return Encoding(
        ic_mean=ic_mean,
        ic_std=repeated(encoding.ic_std),
        ci=encoding.ci[trials] if shared else repeated(encoding.ci),
        ext_input=repeated(encoding.ext_input),
        n_trials={session: len(ic_mean)},
    )


def _mean_rates(model: LFADS, session: int, factors: Tensor, n_samples: int) -> Tensor | None:
    """Return the mean rates over samples (trials, T, N), or None if they are not exp(linear)."""
    linear = linear_weights(model.readout[session])
    if linear is None or not model.recon[session].means_are_exponential():
        return None
    with using(model.hparams.recurrence):
        return mean_rates(factors, *linear, n_samples)


def _numpy(values: Tensor) -> np.ndarray:
    """Return a tensor as an array of single-precision numbers."""
    return values.float().cpu().numpy()
