"""Every implementation of the recurrences equals the cells step by step, gradients included."""

import contextlib
import itertools
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.distributions import Normal

from lfads_torch import recurrence
from lfads_torch.modules.decoder import Decoder, DecoderCell, DecoderRNN, DecoderState
from lfads_torch.modules.encoder import Encoder
from lfads_torch.modules.priors import (
    AutoregressiveMultivariateNormal,
    MultivariateNormal,
    MultivariateStudentT,
    Null,
)
from lfads_torch.modules.readin_readout import FanInLinear
from lfads_torch.modules.recurrent import BidirectionalClippedGRU, ClippedGRU, ClippedGRUCell
from lfads_torch.recurrence import compiled, eager, interface, memory
from lfads_torch.recurrence.layout import Draws
from tests.modules.reference import randomize_

KERNELS = {"torch": eager, "compiled": compiled}
TOLERANCES = {torch.float64: 1e-11, torch.float32: 1e-5}
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
implementations = pytest.mark.parametrize("name", KERNELS)
dtypes = st.sampled_from(list(TOLERANCES))
BIG = {torch.float64: 0.7, torch.float32: 0.4}
blocks = st.sampled_from([1, 2000, 1 << 22])
"""Bytes of the gates of a block: bin by bin, a few bins, all of them."""


@contextlib.contextmanager
def blocks_of(n_bytes):
    with (
        mock.patch.object(eager, "_BLOCK_BYTES", n_bytes),
        mock.patch.object(memory, "_PIECE", n_bytes // 12 + 1),
    ):
        yield


def assert_close(actual, expected, dtype):
    """Compare relative to the largest expected value, as sums of cancelling terms are."""
    assert actual.shape == expected.shape
    if expected.numel():
        error = (actual - expected).abs().max() / expected.abs().max().clamp(min=1.0)
        assert error.item() < TOLERANCES[dtype]


def gradients(outputs, weights, inputs):
    """Differentiate a weighted sum of those outputs that have a weight."""
    total = sum((o * w).sum() for o, w in zip(outputs, weights, strict=True) if w is not None)
    inputs = [x for x in inputs if x.requires_grad]
    return torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)


def some_weights(outputs, used, generator):
    return [
        torch.randn(o.shape, generator=generator, dtype=o.dtype) if use else None
        for o, use in zip(outputs, used, strict=True)
    ]


# ------------------------------------------------------------------ recurrent units


def gru_of(name, *sizes, seed=0, dtype=torch.float64, scale=0.5):
    return randomize_(ClippedGRU(*sizes, recurrence=name), seed, scale).to(dtype)


@implementations
@SETTINGS
@given(
    dtype=dtypes,
    trials=st.integers(1, 19),
    bins=st.integers(1, 7),
    inputs=st.sampled_from([0, 1, 5, 33]),
    units=st.sampled_from([1, 3, 8, 17, 33]),
    clip=st.sampled_from([0.3, 0.999, 1.0, 5.0, float("inf")]),
    sparse=st.booleans(),
    reverse=st.booleans(),
    needs_inputs=st.booleans(),
    used=st.sampled_from([(True, True), (True, False), (False, True)]),
    block=blocks,
    seed=st.integers(0, 100),
)
def test_recurrent_unit(
    name, dtype, trials, bins, inputs, units, clip, sparse, reverse, needs_inputs, used, block, seed
):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(trials, bins, inputs, generator=generator, dtype=dtype)
    if sparse:
        x = x * (torch.rand(x.shape, generator=generator) < 0.1)
    x.requires_grad_(needs_inputs)
    h_0 = torch.randn(trials, units, generator=generator, dtype=dtype).requires_grad_()
    results = []
    for choice in ("plain", name):
        gru = gru_of(choice, inputs, units, clip, seed=seed, dtype=dtype, scale=BIG[dtype])
        gru.cell.bias_hh.requires_grad_()
        with blocks_of(block):
            outputs = (gru.backwards if reverse else gru)(x, h_0)
            weights = some_weights(outputs, used, torch.Generator().manual_seed(seed))
            results.append((*outputs, *gradients(outputs, weights, [x, h_0, *gru.parameters()])))
            with torch.no_grad():
                again = (gru.backwards if reverse else gru)(x, h_0)
        for recorded, not_recorded in zip(outputs, again, strict=True):
            assert_close(not_recorded, recorded, dtype)
    for expected, actual in zip(*results, strict=True):
        assert_close(actual, expected, dtype)


@implementations
@pytest.mark.parametrize("clip", [5.0, 0.4])
@pytest.mark.parametrize("reverse", [False, True])
def test_recurrent_unit_gradcheck(name, clip, reverse):
    gru = gru_of(name, 3, 4, clip)
    torch.manual_seed(0)
    x = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    h_0 = (0.3 * torch.randn(3, 4, dtype=torch.float64)).requires_grad_()
    params = dict(gru.cell.named_parameters())

    def run(x, h_0, *values):
        kernels = recurrence.choose(name, x)
        cell = ClippedGRUCell(3, 4, clip).double()
        for key, value in zip(params, values, strict=True):
            del cell._parameters[key]
            setattr(cell, key, value)
        return recurrence.run_gru(cell, kernels, x, h_0, reverse)

    values = [p.detach().requires_grad_() for p in params.values()]
    assert torch.autograd.gradcheck(run, (x, h_0, *values))


@implementations
def test_a_gradient_passes_at_exactly_the_clip_and_not_beyond(name):
    """z = 1 keeps the state, so that it stays at, within or beyond the clip."""
    expected = None
    for choice in ("plain", name):
        gru = ClippedGRU(1, 4, 0.5, recurrence=choice)
        with torch.no_grad():
            gru.cell.weight_hh.zero_()
            gru.cell.bias_ih[:4] = 200.0
        h_0 = torch.tensor([[0.5, -0.5, 0.75, 0.25]], requires_grad=True)
        gru(torch.zeros(1, 3, 1), h_0)[1].sum().backward()
        expected = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
        torch.testing.assert_close(h_0.grad, expected)


def test_half_precision_keeps_small_candidates():
    gru = ClippedGRU(1, 4, recurrence="torch")
    with torch.no_grad():
        gru.cell.bias_ih.copy_(torch.tensor([-30.0] * 4 + [0.0] * 4 + [1e-3, -2e-3, 3e-3, 0.5]))
    states, _ = gru.bfloat16()(torch.zeros(1, 1, 1).bfloat16(), torch.zeros(1, 4).bfloat16())
    expected = torch.tensor([1e-3, -2e-3, 3e-3, 0.5]).tanh()
    torch.testing.assert_close(states[0, 0].float(), expected, rtol=0.01, atol=0)


# ------------------------------------------------------------------ decoder


class Replay(nn.Module):
    """Dropout with given masks, in the order in which the cell asks for them."""

    def __init__(self, draws, n_ci, use_con, n_bins):
        super().__init__()
        self.masks = []
        for t in range(n_bins):
            self.masks.append(None)  # external inputs
            if use_con:
                self.masks.append(self.of_con(draws, t, n_ci))
            self.masks.append(
                None if draws.keep_g is None else draws.keep_g[t].double() * draws.scale
            )

    @staticmethod
    def of_con(draws, t, n_ci):
        if draws.keep_f is None:
            return None
        keep_f = draws.keep_f[t].double() * draws.scale
        return torch.cat([keep_f.new_ones(len(keep_f), n_ci), keep_f], dim=1)

    def forward(self, x):
        mask = self.masks.pop(0)
        return x if mask is None else x * mask.to(x.dtype)


class GivenNoise:
    """Posteriors whose samples are mean + std · given noise, bin after bin."""

    def __init__(self, noise):
        self.noise = list(noise)

    def __call__(self, mean, std):
        sample = mean + std * self.noise.pop(0)
        posterior = Normal(mean, std)
        posterior.rsample = lambda: sample
        return posterior


def decoder_inputs(cell, trials, bins, ext, generator, dtype):
    sizes = (cell.gen_cell.hidden_size, cell.con_cell.hidden_size if cell.use_con else 3)
    sizes = (*sizes, cell.fac_linear.out_features)
    n_ci = cell.con_cell.input_size - sizes[2] if cell.use_con else 0
    shapes = [(trials, bins, n_ci), (trials, bins, ext), *((trials, size) for size in sizes)]
    draw = [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]
    return draw


def cell_of(ext=1, ci=2, con=4, co=2, gen=5, fac=3, clip=5.0, use_con=True):
    return DecoderCell(
        ext_input_dim=ext, ci_enc_dim=ci, con_dim=con, co_dim=co, gen_dim=gen, fac_dim=fac,
        dropout_rate=0.0, cell_clip=clip, use_con=use_con,
    )  # fmt: skip


def plain_decoder(cell, ci, ext, gen_0, con_0, fac_0, draws):
    if cell.use_con:
        n_ci = ci.shape[2]
    else:
        n_ci = 0
    cell.dropout = Replay(draws, n_ci, cell.use_con, ext.shape[1])
    posterior = None if draws.noise is None else GivenNoise(draws.noise)
    nothing = ext.new_zeros(len(ext), 0)
    state = DecoderState(gen_0, con_0, fac_0, nothing, nothing, nothing)
    return DecoderRNN(cell, "plain")(ci, ext, state, posterior)


@implementations
@SETTINGS
@given(
    dtype=dtypes,
    trials=st.integers(1, 19),
    bins=st.integers(1, 6),
    ext=st.sampled_from([0, 1, 5]),
    ci=st.sampled_from([1, 9]),
    con=st.sampled_from([1, 7, 17]),
    co=st.sampled_from([1, 3]),
    gen=st.sampled_from([3, 6, 33]),
    fac=st.sampled_from([1, 5, 18]),
    clip=st.sampled_from([0.3, 5.0]),
    use_con=st.booleans(),
    sample=st.booleans(),
    dropout=st.booleans(),
    needs=st.tuples(st.booleans(), st.booleans()),
    used=st.sampled_from([*itertools.product([True, False], repeat=6)][:-1]),
    block=blocks,
    seed=st.integers(0, 100),
)
def test_decoder(
    name, dtype, trials, bins, ext, ci, con, co, gen, fac, clip, use_con, sample, dropout, needs,
    used, block, seed,
):  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    draws = Draws()
    if sample and use_con:
        draws = draws._replace(noise=torch.randn(bins, trials, co, dtype=dtype))
    if dropout:
        keep_g = (torch.rand(bins, trials, gen, generator=generator) > 0.3).to(torch.uint8)
        draws = draws._replace(keep_g=keep_g, scale=1 / 0.7)
        if use_con:
            keep_f = (torch.rand(bins, trials, fac, generator=generator) > 0.3).to(torch.uint8)
            draws = draws._replace(keep_f=keep_f)
    if not use_con:
        used = (True, *used[1:])  # The others may be without a gradient.
    results = []
    state = generator.get_state()
    for choice in ("plain", name):
        cell = cell_of(ext, ci, con, co, gen, fac, clip, use_con)
        randomize_(cell, seed, BIG[dtype]).to(dtype)
        generator.set_state(state)
        inputs = decoder_inputs(cell, trials, bins, ext, generator, dtype)
        for x, needed in zip(inputs, needs, strict=False):
            x.requires_grad_(needed)
        if choice == "plain":
            outputs = plain_decoder(cell, *inputs, draws)
        else:
            kernels = recurrence.choose(name, *inputs)
            with blocks_of(block), torch.no_grad():
                again = recurrence.run_decoder(cell, kernels, *inputs, None, draws)
            with blocks_of(block):
                outputs = recurrence.run_decoder(cell, kernels, *inputs, None, draws)
            for recorded, not_recorded in zip(outputs, again, strict=True):
                assert_close(not_recorded, recorded, dtype)
        weights = some_weights(outputs, used, torch.Generator().manual_seed(seed))
        with blocks_of(block):
            grads = gradients(outputs, weights, [*inputs, *cell.parameters()])
        results.append((*outputs, *grads))
    for expected, actual in zip(*results, strict=True):
        assert_close(actual, expected, dtype)


@implementations
@pytest.mark.parametrize("use_con", [True, False])
@pytest.mark.parametrize("clip", [5.0, 0.4])
def test_decoder_gradcheck(name, use_con, clip):
    generator = torch.Generator().manual_seed(0)
    cell = randomize_(cell_of(use_con=use_con, clip=clip), scale=0.5)
    inputs = decoder_inputs(cell, 3, 4, 1, generator, torch.float64)
    keep = [(torch.rand(4, 3, n, generator=generator) > 0.3).to(torch.uint8) for n in (3, 5)]
    noise = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)
    draws = Draws(noise, keep[0], keep[1], 1 / 0.7) if use_con else Draws(None, None, keep[1], 1.4)
    parameters = [p for p in cell.parameters() if p.requires_grad]

    def run(*_):
        kernels = recurrence.choose(name, *inputs)
        return recurrence.run_decoder(cell, kernels, *inputs, None, draws)

    assert torch.autograd.gradcheck(run, (*inputs, *parameters))


# ------------------------------------------------------------------ whole encoder and decoder


def halves(name, dtype, seed, t_ic=0, lag=1, ext=0, use_con=True, dropout=0.0):
    encoder = Encoder(
        encod_data_dim=4, encod_seq_len=6, recon_seq_len=8, ic_enc_seq_len=t_ic, ic_enc_dim=5,
        ci_enc_dim=3, ci_lag=lag, ic_dim=4, ic_post_var_min=1e-3, dropout_rate=dropout,
        cell_clip=5.0, use_con=use_con, recurrence=name,
    )  # fmt: skip
    decoder = Decoder(
        ext_input_dim=ext, ic_dim=4, ci_enc_dim=3, con_dim=4, co_dim=2, gen_dim=6, fac_dim=3,
        dropout_rate=dropout, cell_clip=5.0, use_con=use_con, recurrence=name,
    )  # fmt: skip
    both = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    return randomize_(both, seed, 0.5).to(dtype)


@implementations
@SETTINGS
@given(
    dtype=dtypes,
    t_ic=st.sampled_from([0, 2]),
    lag=st.sampled_from([0, 1, 3, 9]),
    ext=st.sampled_from([0, 2]),
    use_con=st.booleans(),
    prior=st.sampled_from(
        [
            None,
            Null(),
            MultivariateNormal(0.0, 0.1, 2),
            AutoregressiveMultivariateNormal(10.0, 0.1, 2),
            MultivariateStudentT(0.0, 1.0, 4.0, 2),
        ]
    ),
    seed=st.integers(0, 100),
)
def test_encoder_and_decoder(name, dtype, t_ic, lag, ext, use_con, prior, seed):
    generator = torch.Generator().manual_seed(seed)
    data = torch.poisson(torch.full((5, 6, 4), 0.3, dtype=dtype), generator=generator)
    ext_input = torch.randn(5, 8, ext, generator=generator, dtype=dtype)
    noise = []
    results = []
    for choice in (name, "plain"):  # the fused one draws, the plain one is given the same
        both = halves(choice, dtype, seed, t_ic, lag, ext, use_con)
        mean, std, ci = both["encoder"](data)
        posterior = None if prior is None else prior.make_posterior
        if choice == "plain" and prior is not None and use_con:
            posterior = GivenNoise(noise)
        output = both["decoder"](mean + 0.1 * std, ci, ext_input, posterior)
        if use_con:
            drive = output.gen_inputs[:, :, :2]
            noise = ((drive - output.co_means) / output.co_stds).detach().unbind(1)
        outputs = (mean, std, ci, *output)
        weights = some_weights(outputs, [True] * len(outputs), torch.Generator().manual_seed(1))
        results.append((*outputs, *gradients(outputs, weights, list(both.parameters()))))
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected, dtype)


@implementations
def test_noise_is_that_of_the_prior(name):
    """Mean, variance and kurtosis of what moves the controller output off its mean."""
    decoder = halves(name, torch.float32, 0)["decoder"]
    inputs = torch.zeros(4000, 4), torch.zeros(4000, 8, 6), torch.zeros(4000, 8, 0)
    for prior, variance in [(Null(), 1.0), (MultivariateStudentT(0.0, 1.0, 8.0, 2), 8 / 6)]:
        with torch.no_grad():
            out = decoder(*inputs, prior.make_posterior)
        noise = (out.gen_inputs - out.co_means) / out.co_stds
        assert noise.mean().abs() < 0.02
        assert noise.var().item() == pytest.approx(variance, rel=0.04)
        assert not torch.allclose(noise[:, 0], noise[:, 1])


# ------------------------------------------------------------------ autograd's ways


@implementations
def test_two_forward_passes_before_two_backward_passes(name):
    both = halves(name, torch.float64, 0)
    trained = [p for p in both.parameters() if p.requires_grad]

    def loss(seed):
        data = torch.randn(4, 6, 4, dtype=torch.float64, generator=torch.manual_seed(seed))
        mean, std, ci = both["encoder"](data)
        return both["decoder"](mean + std, ci, data.new_zeros(4, 8, 0)).factors.square().sum()

    def grads(value, **options):
        return torch.autograd.grad(
            value, trained, allow_unused=True, materialize_grads=True, **options
        )

    apart = [grads(loss(seed)) for seed in (1, 2)]
    losses = [loss(seed) for seed in (1, 2)]
    together = [grads(losses[1]), grads(losses[0])][::-1]
    for a, b in zip(itertools.chain(*apart), itertools.chain(*together), strict=True):
        torch.testing.assert_close(a, b)
    kept = loss(1)
    first, second = grads(kept, retain_graph=True), grads(kept)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        grads(kept)


@implementations
def test_large_buffers_are_used_again_and_never_shared(name):
    gru = ClippedGRU(20, 64, recurrence=name)
    x = torch.randn(64, 40, 20)
    with torch.no_grad():
        reference = gru(x, torch.zeros(64, 64))[0].clone()
        kept = [gru(x, torch.zeros(64, 64))[0] for _ in range(4)]
        gru(-x, torch.zeros(64, 64))
    assert len({states.data_ptr() for states in kept}) == 4
    assert all(torch.equal(states, reference) for states in kept)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dense", [True, False])
def test_many_trials_and_threads(threads, dense):
    """Trials are divided among threads, and into parts that fit a cache."""
    torch.manual_seed(0)
    x = torch.randn(600, 7, 5, dtype=torch.float64)
    x = x if dense else x * (torch.rand(x.shape) < 0.1)
    noise = torch.randn(8, 600, 2, dtype=torch.float64)
    before = torch.get_num_threads()
    results = []
    try:
        for name, n_threads in [("torch", 1), ("compiled", threads)]:
            torch.set_num_threads(n_threads)
            gru = gru_of(name, 5, 6)
            h_0 = torch.ones(600, 6, dtype=torch.float64, requires_grad=True)
            outputs = gru(x, h_0)
            cell = randomize_(cell_of(), 1, 0.5)
            inputs = decoder_inputs(cell, 600, 8, 1, torch.manual_seed(1), torch.float64)
            kernels = recurrence.choose(name, *inputs)
            outputs += recurrence.run_decoder(cell, kernels, *inputs, None, Draws(noise))
            weights = some_weights(outputs, [True] * 8, torch.Generator().manual_seed(1))
            leaves = [h_0, *gru.parameters(), *inputs, *cell.parameters()]
            results.append((*outputs, *gradients(outputs, weights, leaves)))
    finally:
        torch.set_num_threads(before)
    for expected, actual in zip(*results, strict=True):
        assert_close(actual, expected, torch.float64)


@implementations
def test_second_derivatives_are_refused_with_a_remedy(name):
    x = torch.randn(2, 3, 2, requires_grad=True)
    h_0 = torch.zeros(2, 4)
    final = ClippedGRU(2, 4, recurrence=name)(x, h_0)[1]
    with pytest.raises(RuntimeError, match="recurrence='plain'"):
        torch.autograd.grad(final.sum(), x, create_graph=True)
    plain = ClippedGRU(2, 4, recurrence="plain")(x, h_0)[1]
    (gradient,) = torch.autograd.grad(plain.sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad.any()


@implementations
def test_states_changed_in_place_before_the_backward_pass_are_noticed(name):
    gru = ClippedGRU(2, 4, recurrence=name)
    states, final = gru(torch.randn(2, 3, 2), torch.zeros(2, 4))
    loss = final.sum() + states.sum()
    with torch.no_grad():
        states.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_autocast_and_transforms_go_step_by_step():
    x = torch.randn(2, 3, 2)
    assert recurrence.choose("auto", x) is not None
    with torch.autocast("cpu"):
        assert recurrence.choose("auto", x) is None
    gru = ClippedGRU(2, 4)
    single = torch.func.vmap(lambda trial: gru(trial[None], torch.zeros(1, 4))[1][0])(x)
    torch.testing.assert_close(single, gru(x, torch.zeros(2, 4))[1])
    assert recurrence.choose("auto", x, torch.zeros(2, dtype=torch.float64)) is None
    assert recurrence.choose("plain", x) is None


def test_the_choice_is_checked():
    with pytest.raises(ValueError, match=r"model\.recurrence must be one of auto, torch"):
        ClippedGRU(2, 4, recurrence="fast")


# ------------------------------------------------------------------ parts of the user's own


class OwnCell(ClippedGRUCell):
    def step(self, projected, hidden):
        return 0.5 * super().step(projected, hidden)


class OwnReadout(nn.Linear):
    def forward(self, input):
        return torch.tanh(super().forward(input))


def test_own_recurrent_cell():
    gru, plain = (ClippedGRU(2, 4, recurrence=name) for name in ("auto", "plain"))
    torch.manual_seed(0)
    gru.cell = plain.cell = OwnCell(2, 4)
    x, h_0 = torch.randn(2, 3, 2), torch.zeros(2, 4)
    assert all(torch.equal(a, b) for a, b in zip(gru(x, h_0), plain(x, h_0), strict=True))


def test_own_backward_direction_is_handed_flipped_inputs():
    class Own(nn.Module):
        def forward(self, input, h_0):
            states = input.cumsum(1)
            return states, states[:, -1]

    gru = BidirectionalClippedGRU(2, 2)
    gru.bwd_gru = Own()
    x = torch.randn(3, 4, 2)
    (_, states), (_, final) = gru(x, torch.zeros(2, 3, 2))
    torch.testing.assert_close(states, x.flip(1).cumsum(1).flip(1))
    torch.testing.assert_close(final, x.sum(1))


@pytest.mark.parametrize("part", ["gen_cell", "con_cell", "fac_linear", "co_linear", "dropout"])
def test_own_part_of_the_decoder(part):
    decoder = halves("auto", torch.float32, 0)["decoder"]
    cell = decoder.rnn.cell
    own = {
        "gen_cell": OwnCell(2, 6),
        "con_cell": OwnCell(9, 4),
        "fac_linear": OwnReadout(6, 3),
        "co_linear": OwnReadout(4, 4),
        "dropout": nn.Dropout(0.5),
    }
    setattr(cell, part, own[part])
    inputs = torch.randn(2, 4), torch.randn(2, 8, 6), torch.zeros(2, 8, 0)
    outputs = []
    for choice in ("auto", "plain"):
        decoder.rnn.recurrence = choice
        torch.manual_seed(0)
        outputs.append(decoder(*inputs))
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


def test_hooks_are_called():
    decoder = halves("auto", torch.float32, 0)["decoder"]
    calls = []
    decoder.rnn.cell.gen_cell.register_forward_hook(lambda *args: calls.append(args))
    decoder(torch.randn(2, 4), torch.randn(2, 8, 6), torch.zeros(2, 8, 0))
    assert len(calls) == 8
    gru = ClippedGRU(2, 4)
    gru.cell.forward = lambda *args: None
    assert gru._kernels(torch.zeros(1, 1, 2), torch.zeros(1, 4)) is None


def test_parametrised_weights():
    gru = ClippedGRU(2, 4, recurrence="auto")
    nn.utils.parametrizations.weight_norm(gru.cell, "weight_hh")
    assert gru._kernels(torch.zeros(1, 1, 2), torch.zeros(1, 4)) is None
    gru(torch.randn(2, 3, 2), torch.zeros(2, 4))[1].sum().backward()
    assert gru.cell.parametrizations.weight_hh.original1.grad.any()


def test_posteriors_that_are_not_declared_are_sampled_bin_by_bin():
    class Own(MultivariateNormal):
        def make_posterior(self, mean, std):
            return Normal(mean + 7, 1e-6)

    decoder = halves("auto", torch.float32, 0)["decoder"]
    inputs = torch.randn(2, 4), torch.randn(2, 8, 6), torch.zeros(2, 8, 0)
    output = decoder(*inputs, Own(0.0, 1.0, 2).make_posterior)
    torch.testing.assert_close(output.gen_inputs, output.co_means + 7, rtol=0, atol=1e-4)


# ------------------------------------------------------------------ read-out


@SETTINGS
@given(
    dtype=dtypes,
    trials=st.integers(0, 40),
    bins=st.integers(1, 20),
    inputs=st.sampled_from([1, 5, 33, 100]),
    outputs=st.sampled_from([1, 16, 37, 182]),
    by_bin=st.booleans(),
    seed=st.integers(0, 100),
)
def test_compiled_linear_map(dtype, trials, bins, inputs, outputs, by_bin, seed):
    generator = torch.Generator().manual_seed(seed)
    module = nn.Linear(inputs, outputs).to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            parameter.mul_(inputs**-0.5)
    shape = (bins, trials, inputs) if by_bin else (trials, bins, inputs)
    x = torch.randn(shape, generator=generator, dtype=dtype)
    x = (x.transpose(0, 1) if by_bin else x).requires_grad_()
    weights = torch.randn(trials, bins, outputs, generator=generator, dtype=dtype)
    results = []
    for choice in ("plain", "compiled"):
        y = recurrence.linear(module, choice, x)
        results.append((y, *gradients([y], [weights], [x, *module.parameters()])))
    for expected, actual in zip(*results, strict=True):
        assert_close(actual, expected, dtype)


def test_compiled_linear_map_gradcheck():
    module = nn.Linear(3, 4).double()
    x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)

    def run(x, weight, bias):
        return interface._Linear.apply(x, weight, bias).square()

    assert torch.autograd.gradcheck(run, (x, *module.parameters()))
    assert torch.autograd.gradgradcheck(run, (x, *module.parameters()))


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def test_other_modules_than_linear_maps_are_called(monkeypatch):
    calls = []
    linear_forward = compiled.linear_forward
    monkeypatch.setattr(
        compiled, "linear_forward", lambda *args: calls.append(1) or linear_forward(*args)
    )
    x = torch.randn(2, 3, 4)
    hooked = nn.Linear(4, 5)
    hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    patched = nn.Linear(4, 5)
    patched.forward = lambda x: 2 * nn.functional.linear(x, patched.weight, patched.bias)
    for module in (Doubled(4, 5), hooked, patched):
        expected = 2 * nn.functional.linear(x, module.weight, module.bias)
        torch.testing.assert_close(recurrence.linear(module, "compiled", x), expected)
    for module in (nn.Linear(4, 5, bias=False), nn.Identity(), nn.Linear(4, 5).bfloat16()):
        x = x.bfloat16() if next(module.parameters(), x).dtype == torch.bfloat16 else x
        torch.testing.assert_close(recurrence.linear(module, "compiled", x), module(x))
    assert not calls
    scaled = nn.utils.parametrizations.weight_norm(FanInLinear(4, 5))
    x = x.float()
    torch.testing.assert_close(recurrence.linear(scaled, "compiled", x), scaled(x))
    assert calls


@pytest.mark.parametrize("frozen", [("x",), ("weight", "bias"), ("bias",)])
def test_frozen_parts_of_a_linear_map(frozen):
    module = nn.Linear(3, 4)
    tensors = {"x": torch.randn(2, 5, 3), **dict(module.named_parameters())}
    for name, tensor in tensors.items():
        tensor.requires_grad_(name not in frozen)
    y = recurrence.linear(module, "compiled", tensors["x"])
    y.square().sum().backward()
    for name, tensor in tensors.items():
        assert (tensor.grad is None) == (name in frozen)
    trained = [tensor for name, tensor in tensors.items() if name not in frozen]
    expected = torch.autograd.grad(module(tensors["x"]).square().sum(), trained)
    torch.testing.assert_close([tensor.grad for tensor in trained], list(expected))


def test_batched_and_forward_derivatives_of_a_linear_map():
    module = nn.Linear(3, 4).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    y, expected = recurrence.linear(module, "compiled", x), module(x)
    outer = torch.randn(6, 2, 5, 4, dtype=torch.float64)
    inputs = [x, *module.parameters()]
    results = [
        torch.autograd.grad(out, inputs, outer, is_grads_batched=True) for out in (y, expected)
    ]
    torch.testing.assert_close(*results)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach(), torch.ones_like(x))
        tangents = [
            forward_ad.unpack_dual(out).tangent
            for out in (recurrence.linear(module, "compiled", dual), module(dual))
        ]
    torch.testing.assert_close(*tangents)


@implementations
def test_sizes_that_do_not_fit_are_refused(name):
    kernels = KERNELS[name]
    cell = ClippedGRUCell(3, 4)
    with pytest.raises(ValueError, match=r"inputs must be of shape \(2, 5, 3\)"):
        recurrence.run_gru(cell, kernels, torch.zeros(2, 5, 7), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"h_0 must be of shape \(2, 4\)"):
        recurrence.run_gru(cell, kernels, torch.zeros(2, 5, 3), torch.zeros(1, 4))
    decoder = DecoderCell(
        ext_input_dim=1, ci_enc_dim=2, con_dim=3, co_dim=2, gen_dim=5, fac_dim=4,
        dropout_rate=0.0, cell_clip=5.0, use_con=True,
    )  # fmt: skip
    right = [(6, 7, 4), (6, 7, 1), (6, 5), (6, 3), (6, 4)]
    names = ["ci", "ext_input", "gen_0", "con_0", "fac_0"]

    def run(*shapes):
        return recurrence.run_decoder(decoder, kernels, *map(torch.zeros, shapes), None)

    run(*right)
    with torch.no_grad():
        run((3, 7, 4), *right[1:])
    for i, shape in enumerate([(6, 8, 4), (6, 7, 2), (6, 4), (5, 3), (6, 5)]):
        with pytest.raises(ValueError, match=f"{names[i]} must be of shape"):
            run(*right[:i], shape, *right[i + 1 :])
    with pytest.raises(ValueError, match="ci must be of shape"):
        run((4, 7, 4), *right[1:])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        recurrence.linear(nn.Linear(4, 5), name, torch.zeros(2, 3, 6))
