"""A gated recurrent unit in PyTorch, bin by bin within blocks of bins.

Blocks are so short that their tensors stay in the processor's cache. Quantities that do not depend
on the neighbouring bin are computed for a whole block at once: in the forward pass the projected
inputs, in the backward pass the gradients of the weights and the coefficients from which the
gradients of the gates are computed. In between, the bins of the block are computed one after the
other. ``docs/recurrence.md`` derives the equations, with the symbols of this file.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from lfads_torch import utils
from lfads_torch.recurrence.memory import empty
from lfads_torch.recurrence.tuples import may_clip

BLOCK_BYTES = 4 << 20
"""Largest size in bytes of the gates of a block, unless it has only one bin."""


class Unit:
    """The forward pass of a gated recurrent unit.

    A caller enters a block of bins, writes its projected inputs to ``gates`` (or to ``gate``, bin
    by bin), and calls :meth:`step` for its bins in ``order``.

    Parameters
    ----------
    n_bins
        T.
    h_0
        (B, H) initial state.
    weight_hh
        (3H, H) recurrent weights.
    clip
        Largest magnitude of a state.
    reverse
        Whether time is reversed, so that the last bin comes first.
    bins_of_buffer
        Number of bins whose gates are in memory at a time. With None, the gates of all bins are
        kept, which the backward pass needs.
    """

    def __init__(
        self,
        n_bins: int,
        h_0: Tensor,
        weight_hh: Tensor,
        clip: float,
        reverse: bool = False,
        bins_of_buffer: int | None = None,
    ) -> None:
        n_trials, size = h_0.shape
        self.size, self.reverse = size, reverse
        self.clip = clip if may_clip(h_0, clip) else None
        self.states = empty((n_bins + 1, n_trials, size), h_0)
        self.states[n_bins if reverse else 0] = h_0
        self.buffer = empty((bins_of_buffer or n_bins, n_trials, 3 * size), h_0)
        """(T, B, 3H) gates of all bins, or (bins_of_buffer, B, 3H) of a block at a time."""
        self.of_a_block = bins_of_buffer is not None
        self.weight_zr, self.weight_n = weight_hh[: 2 * size].t(), weight_hh[2 * size :].t()
        # Half precision would lose values near 0; on other devices each operation costs a launch.
        by_sigmoid = utils.on_cpu(h_0) and h_0.dtype in (torch.float32, torch.float64)
        self.minus_one = h_0.new_full((), -1) if by_sigmoid else None
        self.reset = torch.empty_like(self.states[0])

    def enter(self, bins: slice) -> None:
        """Start a block of bins."""
        n_bins = bins.stop - bins.start
        self.order = range(n_bins)[::-1] if self.reverse else range(n_bins)
        self.gates = self.buffer[:n_bins] if self.of_a_block else self.buffer[bins]
        self.gate = self.gates.unbind(0)
        self.zr = self.gates[:, :, : 2 * self.size].unbind(0)
        self.z, self.r, self.n = (x.unbind(0) for x in self.gates.split(self.size, dim=2))
        states = self.states[bins.start : bins.stop + 1].unbind(0)
        self.before, self.after = states[:-1], states[1:]
        if self.reverse:
            self.before, self.after = self.after, self.before

    def step(self, i: int) -> None:
        """Compute gates from the projected inputs of bin i of the block, and write its state."""
        h, after, n = self.before[i], self.after[i], self.n[i]
        self.zr[i].addmm_(h, self.weight_zr).sigmoid_()
        torch.mul(self.r[i], h, out=self.reset)
        if self.minus_one is None:
            n.addmm_(self.reset, self.weight_n).tanh_()
        else:  # tanh(x) = 2 sigmoid(2 x) - 1 takes PyTorch a fraction of the time of tanh(x)
            n.addmm_(self.reset, self.weight_n, beta=2, alpha=2).sigmoid_()
            torch.add(self.minus_one, n, alpha=2, out=n)
        torch.lerp(n, h, self.z[i], out=after)
        if self.clip is not None:
            after.clamp_(-self.clip, self.clip)


class UnitBackward:
    """The backward pass of a gated recurrent unit.

    A caller enters a block of bins, calls :meth:`step` for its bins in ``order``, and leaves the
    block, which adds to the gradients of the weights.

    Parameters
    ----------
    gates, states
        (T, B, 3H) gates and (T + 1, B, H) states of the forward pass.
    weight_hh, clip, reverse
        Arguments of the forward pass.
    bins_of_block
        Number of bins of a block.
    grad_final
        (B, H) gradient of the state that was computed last; None for zero.
    """

    def __init__(
        self,
        gates: Tensor,
        states: Tensor,
        weight_hh: Tensor,
        clip: float,
        bins_of_block: int,
        reverse: bool = False,
        grad_final: Tensor | None = None,
    ) -> None:
        self.all_gates, self.reverse, self.size = gates, reverse, states.shape[2]
        self.all_before = states[1:] if reverse else states[:-1]
        self.carry = torch.zeros_like(states[0]) if grad_final is None else grad_final.clone()
        """(B, H) gradient of the state after the next bin that :meth:`step` is called for. The
        caller adds the gradients from other uses of that state."""
        self.weight_zr, self.weight_n = weight_hh.split([2 * self.size, self.size])
        self.grad_weight = torch.zeros_like(weight_hh)
        self.grad_bias = weight_hh.new_zeros(len(weight_hh))
        self.clip = clip if may_clip(states[-1 if reverse else 0], clip) else None
        self.buffer = gates.new_empty(bins_of_block, *gates.shape[1:])
        self.reset_buffer = states.new_empty(bins_of_block, *states.shape[1:])
        self.grad_reset = torch.empty_like(self.carry)
        self.grad = self.buffer.unbind(0)
        grad_zr = self.buffer[:, :, : 2 * self.size]
        grad_z_n = self.buffer.unflatten(2, (3, self.size))[:, :, ::2]
        _, grad_r, grad_n = self.buffer.split(self.size, dim=2)
        self.grad_z_n, self.grad_zr = grad_z_n.unbind(0), grad_zr.unbind(0)
        self.grad_r, self.grad_n = grad_r.unbind(0), grad_n.unbind(0)

    def enter(self, bins: slice) -> None:
        """Start a block of bins.

        The gradient of a gate is the product of a coefficient that only depends on the forward
        pass, and of a gradient that comes from the next bin. The coefficients are written to
        ``grads`` here.
        """
        n_bins, size = bins.stop - bins.start, self.size
        self.order = range(n_bins) if self.reverse else range(n_bins)[::-1]
        self.h = h = self.all_before[bins]
        self.grads, self.reset = self.buffer[:n_bins], self.reset_buffer[:n_bins]
        z, r, n = self.all_gates[bins].split(size, dim=2)
        grad_z, grad_r, grad_n = self.grads.split(size, dim=2)
        scratch = torch.sub(h, n, out=self.reset)
        _sigmoid_backward(scratch, z, grad_input=grad_z)  # (h - n) z (1 - z)
        _sigmoid_backward(h, r, grad_input=grad_r)  # h r (1 - r)
        torch.sub(1, z, out=scratch)
        _tanh_backward(scratch, n, grad_input=grad_n)  # (1 - z) (1 - n²)
        torch.mul(r, h, out=self.reset)
        self.z, self.r = z.unbind(0), r.unbind(0)
        if self.clip is not None:
            self.passes = (torch.lerp(n, h, z).abs() <= self.clip).unbind(0)

    def step(self, i: int) -> None:
        """Compute the gradients of the gates of bin i, and (in ``carry``) of its initial state."""
        if self.clip is not None:
            self.carry.mul_(self.passes[i])
        self.grad_z_n[i].mul_(self.carry.unsqueeze(1))
        torch.mm(self.grad_n[i], self.weight_n, out=self.grad_reset)
        self.grad_r[i].mul_(self.grad_reset)
        self.carry.mul_(self.z[i]).addcmul_(self.grad_reset, self.r[i])
        self.carry.addmm_(self.grad_zr[i], self.weight_zr)

    def leave(self) -> None:
        """Add the block's share of the gradients of recurrent weights and bias."""
        size = self.size
        add_products(self.grad_weight[: 2 * size], self.grads[:, :, : 2 * size], self.h)
        add_products(self.grad_weight[2 * size :], self.grads[:, :, 2 * size :], self.reset)
        self.grad_bias.add_(self.grads.sum((0, 1)))


_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
"""Writes g y (1 - y), given g and y."""
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
"""Writes g (1 - y²), given g and y."""


def bins_of_block(n_bins: int, n_gates: int, like: Tensor) -> int:
    """Return the number of bins of a block, given the number of gates in a bin.

    On devices other than a CPU a block has all bins, because launching an operation takes time.
    """
    if not utils.on_cpu(like):
        return n_bins
    return max(1, min(n_bins, BLOCK_BYTES // max(1, n_gates * like.element_size())))


def blocks(n_bins: int, bins_of_block: int, reverse: bool = False) -> Iterator[slice]:
    """Yield the bins of each block, in the order of time, or from the last block if ``reverse``."""
    starts = range(0, n_bins, bins_of_block)
    for start in reversed(starts) if reverse else starts:
        yield slice(start, min(start + bins_of_block, n_bins))


def project(inputs: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """Write W x + b for inputs (K, B, D) to gates (K, B, 3H).

    If there are inputs of fewer trials, (K, B / S, D), S consecutive trials share each.
    """
    if weight.shape[1] == 0:
        out.copy_(bias)
    elif inputs.shape[1] < out.shape[1]:
        n_inputs = inputs.shape[1]
        out.unflatten(1, (n_inputs, -1)).copy_((inputs @ weight.t()).add_(bias).unsqueeze(2))
    else:
        torch.addmm(bias, inputs.flatten(0, 1), weight.t(), out=out.flatten(0, 1))


def apply(grads: Tensor, weight: Tensor, out: Tensor) -> None:
    """Write the gradients (K, B, D) of inputs x, given the gradients (K, B, N) of W x."""
    torch.mm(grads.flatten(0, 1), weight, out=out.flatten(0, 1))


def add_products(total: Tensor, grads: Tensor, inputs: Tensor) -> None:
    """Add to the gradient (N, D) of a weight: the sum over bins and trials of grads · inputsᵀ.

    ``grads`` (K, B, N) are the gradients of W x, for the weight W and the inputs x (K, B, D).
    """
    total.addmm_(grads.flatten(0, 1).t(), inputs.flatten(0, 1))
