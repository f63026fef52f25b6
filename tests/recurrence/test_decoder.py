"""The decoder over time has the outputs and gradients of its equations, step by step."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lfads_torch import recurrence
from lfads_torch.recurrence import DecoderWeights, Draws, GRUWeights
from lfads_torch.recurrence.masks import random_mask
from tests.recurrence.common import (
    SETTINGS,
    Case,
    assert_close,
    cases,
    decoder_by_steps,
    decoder_inputs,
    decoder_weights,
    dtypes,
    gradients,
    leaves,
    placed,
    random_draws,
    some_weights,
)
from tests.recurrence.test_gru import SCALES, blocks, blocks_of


@cases
@SETTINGS
@given(
    dtype=dtypes,
    trials=st.integers(1, 19),
    bins=st.integers(1, 6),
    ext=st.sampled_from([0, 1, 5]),
    ci=st.sampled_from([1, 18]),
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
    case, dtype, trials, bins, ext, ci, con, co, gen, fac, clip, use_con, sample, dropout, needs,
    used, block, seed,
):  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    weights = decoder_weights(
        generator, ext, ci, con, co, gen, fac, clip, use_con, dtype, SCALES[dtype]
    )
    inputs = decoder_inputs(generator, weights, trials, bins, dtype)
    for x, needed in zip(inputs, needs, strict=False):
        x.requires_grad_(needed)
    draws = random_draws(generator, weights, trials, bins, dtype, sample, dropout)
    if not use_con:
        used = (True, *used[1:])  # The others may be without a gradient.
    expected = tuple(decoder_by_steps(weights, *inputs, draws))
    by = some_weights(expected, used, generator)
    expected += gradients(expected, by, [*inputs, *leaves(weights)])
    weights, draws, inputs = placed(case, weights), placed(case, draws), case.to(*inputs)
    with blocks_of(block):
        actual = tuple(recurrence.run_decoder(case.backend, weights, *inputs, draws))
        with torch.no_grad():
            again = recurrence.run_decoder(case.backend, weights, *inputs, draws)
        for recorded, not_recorded in zip(actual, again, strict=True):
            assert_close(not_recorded, recorded, dtype)
        actual += gradients(actual, by, [*inputs, *leaves(weights)])
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, dtype)


@cases
@pytest.mark.parametrize("use_con", [True, False])
@pytest.mark.parametrize("clip", [5.0, 0.4])
def test_decoder_gradcheck(case, use_con, clip):
    generator = torch.Generator().manual_seed(0)
    weights = placed(case, decoder_weights(generator, use_con=use_con, clip=clip))
    inputs = case.to(*decoder_inputs(generator, weights, 3, 4))
    draws = placed(case, random_draws(generator, weights, 3, 4, torch.float64))

    def run(*tensors):
        gen = GRUWeights(*tensors[5:8], clip)
        con = GRUWeights(*tensors[9:12], clip) if use_con else None
        rebuilt = DecoderWeights(gen, tensors[8], con, *tensors[12:])
        return tuple(recurrence.run_decoder(case.backend, rebuilt, *tensors[:5], draws))

    assert torch.autograd.gradcheck(run, (*inputs, *leaves(weights)))


@cases
def test_samples_share_controller_inputs(case):
    """This also holds in a backward pass, in which each sample has its own gradient."""
    generator = torch.Generator().manual_seed(0)
    weights = decoder_weights(generator)
    ci, *others = decoder_inputs(generator, weights, 6, 4)
    ci = ci[:2].detach().requires_grad_()
    draws = random_draws(generator, weights, 6, 4, torch.float64)
    expected = decoder_by_steps(weights, ci.repeat_interleave(3, dim=0), *others, draws).factors
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), ci)
    weights, draws = placed(case, weights), placed(case, draws)
    inputs = case.to(ci, *others)
    with torch.no_grad():
        factors = recurrence.run_decoder(case.backend, weights, *inputs, draws).factors
    assert_close(factors, expected, torch.float64)
    factors = recurrence.run_decoder(case.backend, weights, *inputs, draws).factors
    (grad,) = torch.autograd.grad(factors.square().sum(), inputs[0])
    assert_close(grad, expected_grad, torch.float64)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_trials_and_threads(threads):
    """Trials are divided among threads, and into parts that fit into a cache."""
    generator = torch.Generator().manual_seed(0)
    weights = decoder_weights(generator)
    inputs = decoder_inputs(generator, weights, 600, 8)
    draws = random_draws(generator, weights, 600, 8, torch.float64)
    before = torch.get_num_threads()
    results = []
    try:
        for case, n_threads in [(Case("torch"), 1), (Case("compiled"), threads)]:
            torch.set_num_threads(n_threads)
            outputs = tuple(recurrence.run_decoder(case.backend, weights, *inputs, draws))
            by = some_weights(outputs, [True] * 6, torch.Generator().manual_seed(1))
            results.append((*outputs, *gradients(outputs, by, [*inputs, *leaves(weights)])))
    finally:
        torch.set_num_threads(before)
    for expected, actual in zip(*results, strict=True):
        assert_close(actual, expected, torch.float64)


@cases
def test_second_derivatives_are_refused_with_a_remedy(case):
    generator = torch.Generator().manual_seed(0)
    weights = placed(case, decoder_weights(generator))
    inputs = case.to(*decoder_inputs(generator, weights, 3, 4))
    factors = recurrence.run_decoder(case.backend, weights, *inputs, Draws()).factors
    with pytest.raises(RuntimeError, match="recurrence='plain'"):
        torch.autograd.grad(factors.sum(), inputs[0], create_graph=True)


@cases
def test_wrong_shapes_are_refused(case):
    generator = torch.Generator().manual_seed(0)
    weights = decoder_weights(generator, ext=1, ci=4, con=3, co=2, gen=5, fac=4)
    weights = placed(case, weights)
    right = [(6, 7, 4), (6, 7, 1), (6, 5), (6, 3), (6, 4)]
    names = ["ci", "ext_input", "gen_0", "con_0", "fac_0"]

    def run(*shapes, weights=weights, draws=None):
        inputs = (torch.zeros(s, dtype=torch.float64, device=case.device) for s in shapes)
        draws = Draws() if draws is None else placed(case, draws)
        return recurrence.run_decoder(case.backend, weights, *inputs, draws)

    run(*right)
    with torch.no_grad():
        run((3, 7, 4), *right[1:])
    for i, shape in enumerate([(6, 8, 4), (6, 7, 2), (6, 4), (5, 3), (6, 5)]):
        with pytest.raises(ValueError, match=f"{names[i]} must be of shape"):
            run(*right[:i], shape, *right[i + 1 :])
    with pytest.raises(ValueError, match="ci must be of shape"):
        run((4, 7, 4), *right[1:])
    for change, message in [
        ({"co_weight": weights.co_weight[:, :2]}, "co_weight must be of shape"),
        ({"fac_weight": weights.fac_weight[:, :4]}, "fac_weight must be of shape"),
        ({"controller": weights.controller._replace(bias=weights.co_bias)}, "controller bias must"),
        ({"co_bias": None}, "given together"),
        ({"controller": weights.controller._replace(clip=4.0)}, "has one clip"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(*right, weights=weights._replace(**change))
    good = random_draws(generator, weights, 6, 7, torch.float64)
    run(*right, draws=good)
    for field in ("noise", "keep_f", "keep_g"):
        with pytest.raises(ValueError, match=f"{field} must be of shape"):
            run(*right, draws=good._replace(**{field: getattr(good, field)[1:]}))
    with pytest.raises(ValueError, match=r"keep_g must be torch\.uint8"):
        run(*right, draws=good._replace(keep_g=good.keep_g.double()))


# ------------------------------------------------------------------ draws


@pytest.mark.parametrize("use_con", [True, False])
def test_masks_of_the_factors_are_drawn_before_those_of_the_generator(use_con):
    weights = decoder_weights(torch.Generator().manual_seed(0), use_con=use_con)
    noise = torch.zeros(7, 2, 2)
    torch.manual_seed(3)
    draws = recurrence.dropout_draws(weights, n_trials=2, n_bins=7, rate=0.3, noise=noise)
    torch.manual_seed(3)
    cpu = torch.device("cpu")
    if use_con:
        assert torch.equal(draws.keep_f, random_mask((7, 2, 3), 0.7, cpu).view(torch.uint8))
    else:
        assert draws.keep_f is None
    assert torch.equal(draws.keep_g, random_mask((7, 2, 5), 0.7, cpu).view(torch.uint8))
    assert draws.noise is noise
    assert draws.scale == pytest.approx(1 / 0.7)


def test_without_dropout_nothing_is_drawn():
    weights = decoder_weights(torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    assert recurrence.dropout_draws(weights, 2, 7, 0.0) == Draws()
    assert torch.equal(torch.get_rng_state(), state)
