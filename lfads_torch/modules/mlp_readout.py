"""Non-linear read-outs: multilayer perceptrons from the factors to the parameters of the data."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from lfads_torch.data.sessions import find_session_files, session_shapes
from lfads_torch.errors import UserError
from lfads_torch.modules.initializers import init_linear_

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
"""The activation functions by name."""


class MLPReadout(nn.Module):
    r"""A multilayer perceptron, applied to the factors of each bin.

    .. math:: y = W_L\, φ(… φ(W_1 f + b_1) …) + b_L

    A linear read-out makes log rates that are linear in the factors, so that dynamics on a curved
    manifold need as many factors as that manifold needs linear dimensions; a non-linear read-out
    needs fewer (Versteeg et al. 2023, arXiv 2309.06402). Weights start as N(0, 1 / inputs), biases
    at zero.

    Parameters
    ----------
    in_features, out_features
        Number of factors, and of channels times parameters of the reconstruction.
    hidden_features
        Number of units of each hidden layer, in the order from the factors to the output.
    activation
        φ: ``gelu``, ``relu``, ``softplus`` or ``tanh``.

    Raises
    ------
    ValueError
        If a layer has no unit, or if the activation is unknown.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: Sequence[int] = (64,),
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise UserError(
                f"activation of an MLPReadout must be one of {', '.join(ACTIVATIONS)}, but is "
                f"{activation!r}."
            )
        if not isinstance(hidden_features, Sequence) or any(size < 1 for size in hidden_features):
            raise UserError(
                f"hidden_features of an MLPReadout must be a list of numbers of at least 1, one "
                f"for each hidden layer, but is {hidden_features!r}."
            )
        self.in_features = in_features
        self.out_features = out_features
        self.hidden_features = list(hidden_features)
        self.activation = activation
        sizes = [in_features, *hidden_features, out_features]
        layers: list[nn.Module] = []
        for n_inputs, n_outputs in itertools.pairwise(sizes):
            linear = nn.Linear(n_inputs, n_outputs)
            init_linear_(linear)
            layers += [linear, ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers[:-1])

    def with_outputs(self, out_features: int) -> "MLPReadout":
        """Return a new read-out of the same architecture with other outputs."""
        return MLPReadout(self.in_features, out_features, self.hidden_features, self.activation)

    def forward(self, factors: Tensor) -> Tensor:
        """Map factors (..., in_features) to (..., out_features)."""
        result: Tensor = self.layers(factors)
        return result


class MultisessionMLPReadout(nn.ModuleList):
    """One :class:`MLPReadout` from the shared factors to the channels of each session.

    Parameters
    ----------
    datafile_pattern
        A pattern that matches the files of the sessions.
    in_features
        Number of factors.
    hidden_features, activation
        See :class:`MLPReadout`.
    requires_grad
        Whether the read-outs are trained.
    recon_params
        Number of parameters that the reconstruction needs for each channel.
    """

    def __init__(
        self,
        datafile_pattern: str,
        in_features: int,
        hidden_features: Sequence[int] = (64,),
        activation: str = "gelu",
        requires_grad: bool = True,
        recon_params: int = 1,
    ) -> None:
        readouts = []
        for path in find_session_files(datafile_pattern):
            n_outputs = session_shapes(path).n_recon_channels * recon_params
            readout = MLPReadout(in_features, n_outputs, hidden_features, activation)
            readouts.append(readout.requires_grad_(requires_grad))
        super().__init__(readouts)
