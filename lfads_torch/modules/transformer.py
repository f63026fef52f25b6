"""An encoder that attends to all bins at once."""

import torch
from torch import Tensor, nn

from lfads_torch.errors import UserError
from lfads_torch.modules.encoder import posterior_params
from lfads_torch.modules.initializers import init_linear_
from lfads_torch.modules.parts import BaseEncoder
from lfads_torch.tuples import EncoderOutput


class TransformerEncoder(BaseEncoder):
    r"""A bidirectional transformer over bins, as in the Neural Data Transformer.

    Each bin is a token, :math:`e_t = W x_t + b + p_t`, with learned positions p. The tokens pass
    layers of self-attention and feed-forward networks, each preceded by a normalisation and bridged
    by a residual connection, which return :math:`s_1 … s_T` (Ye & Pandarinath 2021, Neurons,
    Behavior, Data Analysis, and Theory). Two posteriors are read out of these:

    .. math::
        (μ, \log σ^2)_{\mathrm{IC}} = A \frac{1}{T} \sum_t s_t + a \qquad
        \mathrm{ci}_t = C s_t + c

    the posterior of the initial condition (std = √(exp(logvar) + ic_post_var_min)), and the
    controller's inputs, from which the controller makes the posterior of the inferred inputs. With
    ``ic_enc_seq_len`` = T_ic > 0 the initial condition is read out of the first T_ic bins. These
    attend only to each other, and so do the later bins, so that the initial condition cannot see
    the future.

    Every controller input sees all bins, its own included, and there is no lag (``model.ci_lag``):
    coordinated dropout keeps the model from copying its input. There are no recurrent weights, so
    the L2 penalties of the encoders count nothing.

    Parameters
    ----------
    encod_data_dim, encod_seq_len, recon_seq_len, ic_enc_seq_len
        N_enc, T_enc, T_rec, T_ic.
    ci_enc_dim
        Half the number of channels of the controller inputs.
    ic_dim
        Dimensions of the initial condition.
    ic_post_var_min
        Minimum that is added to the variance of the initial condition's posterior.
    use_con
        Whether there is a controller, which needs inputs.
    dropout_rate
        Probability of dropout in tokens, attention and feed-forward networks.
    token_dim
        Number of features of a token; a multiple of ``n_heads``.
    n_layers, n_heads
        Number of layers, and of attention heads in each layer.
    feedforward_dim
        Hidden units of the feed-forward networks.

    Raises
    ------
    UserError
        If a size is below 1, if ``token_dim`` is not a multiple of ``n_heads``, or if data have
        another number of bins or channels.
    """

    def __init__(
        self,
        *,
        encod_data_dim: int,
        encod_seq_len: int,
        recon_seq_len: int,
        ic_enc_seq_len: int,
        ci_enc_dim: int,
        ic_dim: int,
        ic_post_var_min: float,
        use_con: bool,
        dropout_rate: float = 0.1,
        token_dim: int = 64,
        n_layers: int = 2,
        n_heads: int = 4,
        feedforward_dim: int = 128,
    ) -> None:
        super().__init__()
        sizes = {"n_layers": n_layers, "n_heads": n_heads, "feedforward_dim": feedforward_dim}
        for name, size in {"token_dim": token_dim, **sizes}.items():
            if size < 1:
                raise UserError(f"model.encoder.{name} must be at least 1, but is {size}.")
        if token_dim % n_heads:
            raise UserError(
                f"model.encoder.token_dim must be a multiple of model.encoder.n_heads, but they "
                f"are {token_dim} and {n_heads}."
            )
        self.encod_data_dim = encod_data_dim
        self.encod_seq_len = encod_seq_len
        self.recon_seq_len = recon_seq_len
        self.ic_enc_seq_len = ic_enc_seq_len
        self.ci_enc_dim = ci_enc_dim
        self.ic_dim = ic_dim
        self.ic_post_var_min = ic_post_var_min
        self.use_con = use_con
        self.dropout_rate = dropout_rate
        self.token_dim = token_dim
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.feedforward_dim = feedforward_dim
        self.embedding = nn.Linear(encod_data_dim, token_dim)
        self.positions = nn.Parameter(0.02 * torch.randn(encod_seq_len, token_dim))
        self.dropout = nn.Dropout(dropout_rate)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                token_dim,
                n_heads,
                feedforward_dim,
                dropout_rate,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(token_dim)
        self.ic_linear = nn.Linear(token_dim, 2 * ic_dim)
        init_linear_(self.ic_linear)
        if use_con:
            self.ci_linear = nn.Linear(token_dim, 2 * ci_enc_dim)
            init_linear_(self.ci_linear)

    def forward(self, data: Tensor) -> EncoderOutput:
        """Encode data (B, T_enc, N_enc).

        Raises
        ------
        UserError
            If the data have another number of bins or channels.
        """
        if data.shape[1:] != (self.encod_seq_len, self.encod_data_dim):
            raise UserError(
                f"The encoder takes {self.encod_seq_len} bins (model.encod_seq_len) of "
                f"{self.encod_data_dim} channels (model.encod_data_dim), but a batch has "
                f"{data.shape[1]} bins of {data.shape[2]} channels."
            )
        n_trials, t_ic = len(data), self.ic_enc_seq_len
        tokens = self.dropout(self.embedding(data) + self.positions)
        hidden = self._segments(data.device)
        for layer in self.layers:
            tokens = layer(tokens, src_mask=hidden)
        tokens = self.norm(tokens)
        ic_tokens, ci_tokens = (tokens[:, :t_ic], tokens[:, t_ic:]) if t_ic else (tokens, tokens)
        ic_mean, ic_std = posterior_params(self.ic_linear(ic_tokens.mean(1)), self.ic_post_var_min)
        if not self.use_con:
            return EncoderOutput(ic_mean, ic_std, data.new_zeros(n_trials, self.recon_seq_len, 0))
        n_forward = self.recon_seq_len - self.encod_seq_len
        ci = nn.functional.pad(self.ci_linear(ci_tokens), (0, 0, t_ic, n_forward))
        return EncoderOutput(ic_mean, ic_std, ci)

    def _segments(self, device: torch.device) -> Tensor | None:
        """Return which bins (rows) must not attend to which (columns), or None if all may."""
        if not self.ic_enc_seq_len:
            return None
        in_ic = torch.arange(self.encod_seq_len, device=device) < self.ic_enc_seq_len
        return in_ic.unsqueeze(1) != in_ic.unsqueeze(0)
