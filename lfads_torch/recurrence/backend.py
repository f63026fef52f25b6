"""The interface of an implementation of the fused recurrences."""

from abc import ABC, abstractmethod

from torch import Tensor

from lfads_torch.recurrence.tuples import (
    DecoderArguments,
    DecoderGrads,
    DecoderTrace,
    Draws,
    GRUArguments,
    GRUTrace,
)


class Backend(ABC):
    """An implementation of the fused recurrences, and of the operations before and after them.

    To add one, subclass :class:`~lfads_torch.recurrence.pytorch.PyTorchBackend`. Override
    :attr:`name`, :meth:`handles`, the operations that the new implementation does faster (PyTorch
    does the others) and, if the implementation may be missing on a machine, :meth:`unavailable`.
    Then add it to :data:`lfads_torch.recurrence.choice.BACKENDS` and to the list over which the
    tests run. A forward pass and its backward pass share a trace, so override both or neither.

    Operations do not use autograd. They are called with tensors for which :meth:`handles` returns
    True and whose shapes have been checked. They must not change their arguments, and several
    threads must be able to call them at once.
    """

    name: str
    """The value of ``model.recurrence`` that asks for this implementation."""

    @abstractmethod
    def handles(self, *tensors: Tensor) -> bool:
        """Return whether the implementation supports the devices and dtypes of these tensors."""

    def unavailable(self) -> str | None:
        """Return why this implementation cannot be used on this machine, or None if it can."""
        return None

    def supports(self, *tensors: Tensor) -> bool:
        """Return whether the implementation can be used for these tensors on this machine."""
        return self.handles(*tensors) and self.unavailable() is None

    # -------------------------------------------------------------- recurrences

    @abstractmethod
    def gru_forward(self, args: GRUArguments, clip: float, reverse: bool, save: bool) -> GRUTrace:
        """Run a gated recurrent unit over time.

        Parameters
        ----------
        args
            Inputs, initial state and weights.
        clip
            Largest magnitude of a state.
        reverse
            Whether time is reversed, so that the last bin comes first.
        save
            Whether the trace must hold what the backward pass needs; its states are always
            complete.
        """

    @abstractmethod
    def gru_backward(
        self,
        grad_states: Tensor | None,
        grad_final: Tensor | None,
        args: GRUArguments,
        trace: GRUTrace,
        clip: float,
        reverse: bool,
        needs_inputs: bool,
    ) -> GRUArguments:
        """Return the gradients of the arguments of :meth:`gru_forward`.

        Parameters
        ----------
        grad_states, grad_final
            (T, B, H) and (B, H) gradients of the states and of the one that was computed last.
        args, trace, clip, reverse
            Arguments and result of the forward pass.
        needs_inputs
            Whether the gradient of the inputs is needed. Otherwise it is None.
        """

    @abstractmethod
    def decoder_forward(
        self, args: DecoderArguments, draws: Draws, clip: float, save: bool
    ) -> DecoderTrace:
        """Run the decoder over time.

        Parameters
        ----------
        args
            Inputs, initial states and weights.
        draws
            Noise and dropout masks.
        clip
            Largest magnitude of a state.
        save
            Whether the trace must hold the gates, which the backward pass needs.
        """

    @abstractmethod
    def decoder_backward(
        self,
        grads: DecoderGrads,
        args: DecoderArguments,
        draws: Draws,
        trace: DecoderTrace,
        clip: float,
        needs_ci: bool,
        needs_ext: bool,
    ) -> DecoderArguments:
        """Return the gradients of the arguments of :meth:`decoder_forward`.

        Parameters
        ----------
        grads
            Gradients of the decoder's states.
        args, draws, trace, clip
            Arguments and result of the forward pass.
        needs_ci, needs_ext
            Whether the gradients of controller inputs and external inputs are needed. Otherwise
            they are None.
        """

    # -------------------------------------------------------------- linear maps

    @abstractmethod
    def linear_forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return W x + b (B, T, N) for x (B, T, D), W (N, D) and b (N)."""

    @abstractmethod
    def linear_backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, needs_x: bool, needs_parameters: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of x, W and b that are needed, given that of W x + b (B, T, N)."""

    @abstractmethod
    def mean_rates(self, factors: Tensor, weight: Tensor, bias: Tensor, n_samples: int) -> Tensor:
        """Return the mean over samples of exp(W f + b), (B, T, N).

        Factors f are (B S, T, F), the S samples of each trial one after the other.
        """

    # -------------------------------------------------------------- Poisson likelihood

    @abstractmethod
    def poisson_losses(self, log_rates: Tensor, counts: Tensor, stirling: bool) -> Tensor:
        """Return exp(x) - k x for log rates x and counts k of the same shape (B, …).

        ``stirling`` adds Stirling's formula for log k! where k > 1.
        """

    @abstractmethod
    def poisson_gradient(self, log_rates: Tensor, counts: Tensor, grad: Tensor) -> Tensor:
        """Return (exp(x) - k) · grad, for the gradient (B, …) of the losses."""

    @abstractmethod
    def poisson_sums(self, log_rates: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums over trials (…) of k and of exp(x) - k x."""
