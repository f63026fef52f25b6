"""Inputs and outputs of the model, and of its encoder and decoder.

Notation: B trials, T time bins, N channels; ``T_enc`` encoded bins, ``T_rec`` reconstructed
bins, ``T_ic`` bins that only the initial-condition encoder sees (0 if there are none).
"""

from typing import NamedTuple

from torch import Tensor


class SessionBatch(NamedTuple):
    """A batch of trials of one session. Absent optional fields are empty tensors or ``None``."""

    encod_data: Tensor
    """(B, T_enc, N_enc) what the encoder sees: spikes per bin, NaN where missing."""
    recon_data: Tensor
    """(B, T_rec, N) what is reconstructed; its first bins and channels are the encoded ones."""
    ext_input: Tensor | None = None
    """(B, T_enc - T_ic, D) measured inputs of the generator, from bin T_ic on."""
    truth: Tensor | None = None
    """(B, T_rec - T_ic, N) true rates in spikes per bin, from bin T_ic on."""
    sv_mask: Tensor | None = None
    """(B, T_enc - T_ic, N_enc) 1 where a sample is kept, 0 where it is held out to validate."""


class SessionOutput(NamedTuple):
    """What the model infers about a batch of trials of one session."""

    output_params: Tensor
    """(B, T_rec, N) means (rates: spikes per bin), or (B, T_rec, N, P) distribution parameters."""
    factors: Tensor
    """(B, T_rec, fac_dim) low-dimensional factors."""
    ic_mean: Tensor
    """(B, ic_dim) mean of the initial condition's posterior."""
    ic_std: Tensor
    """(B, ic_dim) standard deviation of the initial condition's posterior."""
    co_means: Tensor
    """(B, T_rec, co_dim) mean of the controller output's (inferred input's) posterior."""
    co_stds: Tensor
    """(B, T_rec, co_dim) standard deviation of the controller output's posterior."""
    gen_states: Tensor
    """(B, T_rec, gen_dim) generator states."""
    gen_init: Tensor
    """(B, gen_dim) generator state before the first bin."""
    gen_inputs: Tensor
    """(B, T_rec, co_dim + ext_input_dim) inputs of the generator: inferred, then measured."""
    con_states: Tensor
    """(B, T_rec, con_dim) controller states."""


class EncoderOutput(NamedTuple):
    """Output of the encoder."""

    ic_mean: Tensor
    """(B, ic_dim) mean of the initial condition's posterior."""
    ic_std: Tensor
    """(B, ic_dim) standard deviation of the initial condition's posterior."""
    ci: Tensor
    """(B, T_rec, 2 * ci_enc_dim) controller inputs; 0 channels without a controller."""


class Encoding(NamedTuple):
    """Input of the decoder: trials of all sessions, concatenated over sessions.

    Many posterior samples need only one encoding.
    """

    ic_mean: Tensor
    """(B, ic_dim) mean of the initial condition's posterior."""
    ic_std: Tensor
    """(B, ic_dim) standard deviation of the initial condition's posterior."""
    ci: Tensor
    """(B, T_rec, 2 * ci_enc_dim) controller inputs; 0 channels without a controller."""
    ext_input: Tensor
    """(B, T_rec, ext_input_dim) external inputs, zero before bin T_ic and from T_enc on."""
    n_trials: dict[int, int]
    """Trials of each session, in the order in which they are concatenated."""


class DecoderOutput(NamedTuple):
    """Output of the decoder; the fields mean the same in :class:`SessionOutput`."""

    gen_init: Tensor
    """(B, gen_dim)."""
    gen_states: Tensor
    """(B, T_rec, gen_dim)."""
    con_states: Tensor
    """(B, T_rec, con_dim)."""
    co_means: Tensor
    """(B, T_rec, co_dim); co_dim is 0 without a controller."""
    co_stds: Tensor
    """(B, T_rec, co_dim)."""
    gen_inputs: Tensor
    """(B, T_rec, co_dim + ext_input_dim)."""
    factors: Tensor
    """(B, T_rec, fac_dim)."""
