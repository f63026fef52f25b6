"""The encoder: infers the initial condition's posterior and the controller's inputs from data."""

import torch
from torch import Tensor, nn

from lfads_torch import recurrence
from lfads_torch.errors import UserError
from lfads_torch.modules.dropout import Dropout
from lfads_torch.modules.initializers import init_linear_
from lfads_torch.modules.parts import BaseEncoder, Cell, Spec, declared
from lfads_torch.modules.recurrent import BidirectionalClippedGRU
from lfads_torch.tuples import EncoderOutput


class Encoder(BaseEncoder):
    """Bidirectional encoders of the initial condition (IC) and of the controller inputs (CI).

    With ``ic_enc_seq_len`` > 0 only the IC encoder sees the first bins, and only the CI encoder
    sees the others, so that the initial condition cannot see the future; otherwise both see
    all bins (Sussillo et al. 2016, arXiv 1608.06315; Keshtkaran & Pandarinath 2019).

    Parameters
    ----------
    encod_data_dim, encod_seq_len, recon_seq_len, ic_enc_seq_len
        N_enc, T_enc, T_rec, T_ic.
    ic_enc_dim, ci_enc_dim
        Units of each direction of the encoders.
    ci_lag
        Bins by which the controller lags behind the forward encoder and precedes the backward one.
    ic_dim
        Dimensions of the initial condition.
    ic_post_var_min
        Minimum that is added to the variance of the initial condition's posterior.
    dropout_rate, cell_clip
        Probability of dropout, and the largest magnitude of a recurrent state.
    use_con
        Whether there is a controller, which needs inputs.
    cell
        How the cells of both encoders are made, in place of
        :class:`~lfads_torch.modules.recurrent.ClippedGRUCell`: a class or a partial of a
        :class:`~lfads_torch.modules.parts.Cell`.
    """

    def __init__(
        self,
        *,
        encod_data_dim: int,
        encod_seq_len: int,
        recon_seq_len: int,
        ic_enc_seq_len: int,
        ic_enc_dim: int,
        ci_enc_dim: int,
        ci_lag: int,
        ic_dim: int,
        ic_post_var_min: float,
        dropout_rate: float,
        cell_clip: float,
        use_con: bool,
        cell: Spec = None,
    ) -> None:
        super().__init__()
        self.encod_data_dim = encod_data_dim
        self.encod_seq_len = encod_seq_len
        self.recon_seq_len = recon_seq_len
        self.ic_enc_seq_len = ic_enc_seq_len
        self.ic_enc_dim = ic_enc_dim
        self.ci_enc_dim = ci_enc_dim
        self.ci_lag = ci_lag
        self.ic_dim = ic_dim
        self.ic_post_var_min = ic_post_var_min
        self.dropout_rate = dropout_rate
        self.cell_clip = cell_clip
        self.use_con = use_con
        self.cell = cell
        self.dropout = Dropout(dropout_rate)
        self.ic_enc_h0 = nn.Parameter(torch.zeros(2, 1, ic_enc_dim))
        self.ic_enc = BidirectionalClippedGRU(encod_data_dim, ic_enc_dim, cell_clip, cell)
        self.ic_linear = nn.Linear(2 * ic_enc_dim, 2 * ic_dim)
        init_linear_(self.ic_linear)
        if use_con:
            self.ci_enc_h0 = nn.Parameter(torch.zeros(2, 1, ci_enc_dim))
            self.ci_enc = BidirectionalClippedGRU(encod_data_dim, ci_enc_dim, cell_clip, cell)

    def forward(self, data: Tensor) -> EncoderOutput:
        """Encode data (B, T_enc, N_enc).

        Raises
        ------
        ValueError
            If the data have another number of bins or channels.
        """
        self._check(data)
        data = recurrence.shared(self.dropout(data))
        n_trials, t_ic = len(data), self.ic_enc_seq_len
        ic_data, ci_data = (data[:, :t_ic], data[:, t_ic:]) if t_ic else (data, data)

        _, finals = self.ic_enc(ic_data, self.ic_enc_h0.expand(-1, n_trials, -1))
        ic_params = self.ic_linear(self.dropout(torch.cat(finals, dim=1)))
        ic_mean, ic_std = posterior_params(ic_params, self.ic_post_var_min)
        if not self.use_con:
            return EncoderOutput(ic_mean, ic_std, data.new_zeros(n_trials, self.recon_seq_len, 0))

        (forward, backward), _ = self.ci_enc(ci_data, self.ci_enc_h0.expand(-1, n_trials, -1))
        n_after = self.recon_seq_len - self.encod_seq_len
        ci = recurrence.lagged(forward, backward, self.ci_lag, before=t_ic, after=n_after)
        return EncoderOutput(ic_mean, ic_std, ci)

    def _check(self, data: Tensor) -> None:
        """Check that data have the numbers of bins and channels of the model."""
        n_bins, n_channels = self.encod_seq_len, self.encod_data_dim
        if data.shape[1:] != (n_bins, n_channels):
            raise UserError(
                f"The model encodes {n_bins} bins (model.encod_seq_len) of {n_channels} channels "
                f"(model.encod_data_dim), but after its read-in a batch has {data.shape[1]} bins "
                f"of {data.shape[2]} channels: set these to what encod_data and model.readin give."
            )

    def recurrent_weights(self) -> dict[str, list[Tensor]]:
        """Return the matrices that ``l2_ic_enc_scale`` and ``l2_ci_enc_scale`` penalise."""
        weights = {"ic_enc": declared(self.ic_enc, "recurrent_weights", Cell)()}
        if self.use_con:
            weights["ci_enc"] = declared(self.ci_enc, "recurrent_weights", Cell)()
        return weights


def posterior_params(params: Tensor, min_variance: float) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (B, D) from mean and log variance (B, 2D).

    ``min_variance`` is added to the variance: std = √(exp(logvar) + min_variance).
    """
    mean, logvar = params.chunk(2, dim=1)
    return mean, torch.sqrt(torch.exp(logvar) + min_variance)
