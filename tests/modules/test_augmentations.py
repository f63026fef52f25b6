"""Each augmentation changes a batch and its losses as documented."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from lfads_torch.metrics import bits_per_spike
from lfads_torch.modules.augmentations import (
    AugmentationStack,
    CoordinatedDropout,
    SampleValidation,
    SelectiveBackpropThruTime,
    SpikeJitter,
    TemporalShift,
)
from lfads_torch.modules.recons import (
    MSE,
    Gamma,
    Gaussian,
    Poisson,
    PoissonBPS,
    ZeroInflatedGamma,
)
from lfads_torch.tuples import SessionBatch

NAN = float("nan")
SETTINGS = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def ones_batch(trials=400, t_enc=6, t_rec=8, n_enc=4, n_rec=5, **fields):
    encod_data, recon_data = torch.ones(trials, t_enc, n_enc), torch.ones(trials, t_rec, n_rec)
    return SessionBatch(encod_data, recon_data, **fields)


def alone(transform):
    return AugmentationStack([transform], [0], [0])


def no_log(*args, **kwargs):
    raise AssertionError("nothing should be logged")


def loss_and_gradient(transform, batch, losses=None, split="train", log_fn=no_log):
    """Return the losses after the transform, and the gradient of their sum."""
    losses = torch.rand_like(batch.recon_data) if losses is None else losses
    losses.requires_grad_()
    processed = transform.process_losses(losses, batch, log_fn, split)
    (gradient,) = torch.autograd.grad(processed.sum(), losses)
    return processed.detach(), gradient


# ------------------------------------------------------------------ coordinated dropout


def test_cd_zeroes_with_its_rate_and_keeps_the_expected_input():
    batch = ones_batch(trials=5000)
    encod_data = CoordinatedDropout(0.3).process_batch(batch).encod_data
    kept = encod_data != 0
    torch.testing.assert_close(encod_data[kept], torch.full_like(encod_data[kept], 1 / 0.7))
    # Samples are zeroed independently of each other in all bins and channels.
    assert (kept.float().mean(dim=0) - 0.7).abs().max() < 5 * (0.21 / 5000) ** 0.5
    correlations = torch.corrcoef(kept.flatten(1).float().T) - torch.eye(24)
    assert correlations.abs().max() < 5 / 5000**0.5


def test_cd_changes_nothing_but_the_input():
    batch = ones_batch(ext_input=torch.rand(400, 6, 2), truth=torch.rand(400, 8, 5))
    before = batch.encod_data.clone()
    processed = CoordinatedDropout(0.3).process_batch(batch)
    for field in ("recon_data", "ext_input", "truth", "sv_mask"):
        assert getattr(processed, field) is getattr(batch, field)
    torch.testing.assert_close(batch.encod_data, before)


@pytest.mark.parametrize("t_ic", [0, 2])
def test_cd_passes_gradients_only_of_samples_that_were_zeroed_or_never_seen(t_ic):
    cd = CoordinatedDropout(0.3, ic_enc_seq_len=t_ic)
    batch = cd.process_batch(ones_batch())
    assert batch.encod_data[:, :t_ic].eq(1).all()
    expected = torch.ones(400, 8, 5)
    expected[:, t_ic:6, :4] = (batch.encod_data[:, t_ic:] == 0).float()
    losses = torch.rand(400, 8, 5)
    processed, gradient = loss_and_gradient(cd, batch, losses)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(processed, losses.detach(), rtol=0, atol=0)


def test_cd_passes_second_derivatives():
    cd, batch = CoordinatedDropout(0.4), ones_batch(trials=3)
    batch = cd.process_batch(batch._replace(encod_data=batch.encod_data.double()))
    losses = torch.rand(3, 8, 5, dtype=torch.float64, requires_grad=True)
    process = lambda x: cd.process_losses(x, batch, no_log, "train").square()  # noqa: E731
    (first,) = torch.autograd.grad(process(losses).sum(), losses, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), losses)
    passed = torch.ones(3, 8, 5, dtype=torch.float64)
    passed[:, :6, :4] = (batch.encod_data == 0).double()
    torch.testing.assert_close(second, 2 * passed)


def test_cd_pass_rate():
    cd = CoordinatedDropout(0.3, cd_pass_rate=0.2)
    batch = cd.process_batch(ones_batch(trials=5000))
    _, gradient = loss_and_gradient(cd, batch)
    gradient, zeroed = gradient[:, :6, :4], batch.encod_data == 0
    assert gradient[zeroed].eq(1).all()
    assert gradient[~zeroed].mean().item() == pytest.approx(0.2, abs=0.01)
    assert set(gradient.unique().tolist()) == {0.0, 1.0}


def test_cd_draws_a_new_mask_for_every_batch_and_does_not_mix_them_up():
    cd = CoordinatedDropout(0.5)
    first, second = cd.process_batch(ones_batch()), cd.process_batch(ones_batch())
    assert (first.encod_data != second.encod_data).any()
    for batch in (first, second):
        _, gradient = loss_and_gradient(cd, batch)
        torch.testing.assert_close(gradient[:, :6, :4], (batch.encod_data == 0).float())


def test_cd_of_rate_0_is_off():
    cd, batch = CoordinatedDropout(0.0), ones_batch()
    assert cd.process_batch(batch) is batch
    _, gradient = loss_and_gradient(cd, batch)
    assert gradient.eq(1).all()


@pytest.mark.parametrize("rates", [(1.0, 0.0), (-0.1, 0.0), (0.3, 1.5), (0.3, -0.1)])
def test_cd_rates_out_of_range(rates):
    with pytest.raises(ValueError, match=r"cd_(pass_)?rate must be"):
        CoordinatedDropout(*rates)


def test_cd_needs_the_batch_that_it_processed():
    with pytest.raises(ValueError, match=r"CoordinatedDropout .*batch_order"):
        CoordinatedDropout(0.3).process_losses(torch.ones(400, 8, 5), ones_batch(), no_log, "train")


def test_cd_needs_an_input_that_is_part_of_the_target():
    batch = ones_batch(n_enc=6)
    cd = CoordinatedDropout(0.3)
    with pytest.raises(ValueError, match=r"6 bins and 6 channels.*8 and 5"):
        loss_and_gradient(cd, cd.process_batch(batch))


# ------------------------------------------------------------------ missing samples


def missing_batch():
    """Make a batch in which samples are missing at random; the last channel is never observed."""
    batch = ones_batch(trials=20)
    batch.encod_data[torch.rand(20, 6, 4) < 0.2] = NAN
    batch.recon_data[torch.rand(20, 8, 5) < 0.3] = NAN
    batch.recon_data[..., 4] = NAN
    return batch


def test_sbtt_input():
    batch = missing_batch()
    processed = SelectiveBackpropThruTime().process_batch(batch)
    torch.testing.assert_close(processed.encod_data, batch.encod_data.nan_to_num(nan=0.0))
    observed = ~batch.recon_data.isnan()
    assert not processed.recon_data.isnan().any()
    torch.testing.assert_close(processed.recon_data[observed], batch.recon_data[observed])
    assert batch.recon_data.isnan().any()


def test_sbtt_losses():
    sbtt, batch = SelectiveBackpropThruTime(), missing_batch()
    observed = ~batch.recon_data.isnan()
    losses = torch.where(observed, 3.0, torch.tensor(NAN))
    processed, gradient = loss_and_gradient(sbtt, sbtt.process_batch(batch), losses)
    fraction = observed.float().mean()
    torch.testing.assert_close(gradient, observed / fraction)
    torch.testing.assert_close(processed, 3 * observed / fraction)
    assert processed.mean().item() == pytest.approx(3)


def test_sbtt_without_missing_samples_changes_nothing():
    sbtt, batch = SelectiveBackpropThruTime(), ones_batch()
    processed = sbtt.process_batch(batch)
    torch.testing.assert_close(processed.encod_data, batch.encod_data)
    torch.testing.assert_close(processed.recon_data, batch.recon_data)
    losses, gradient = loss_and_gradient(sbtt, processed, torch.full((400, 8, 5), 2.0))
    assert losses.eq(2).all()
    assert gradient.eq(1).all()


def test_sbtt_with_nothing_observed():
    sbtt, batch = SelectiveBackpropThruTime(), ones_batch(trials=2)
    batch.recon_data[:] = NAN
    losses, gradient = loss_and_gradient(sbtt, sbtt.process_batch(batch))
    assert not losses.any()
    assert not gradient.any()


RECONS = {
    "Poisson": Poisson(),
    "PoissonBPS": PoissonBPS(),
    "MSE": MSE(),
    "Gaussian": Gaussian(),
    "Gamma": Gamma(),
    # Most samples are 0. The mean of a channel is above 0 but below gamma_loc, where the likelihood
    # is zero.
    "ZeroInflatedGamma": ZeroInflatedGamma(5, 0.9, 1.0, 1.0, 0.0),
}


@pytest.mark.parametrize("with_cd", [False, True])
@pytest.mark.parametrize("recon", RECONS.values(), ids=RECONS)
def test_sbtt_with_every_reconstruction(recon, with_cd):
    batch = missing_batch()
    if isinstance(recon, ZeroInflatedGamma):
        batch.recon_data[1:][~batch.recon_data[1:].isnan()] = 0.0
    observed = ~batch.recon_data.isnan()
    stack = AugmentationStack(
        [CoordinatedDropout(0.3), SelectiveBackpropThruTime()], [0, 1][1 - with_cd :], [1]
    )
    processed = stack.process_batch(batch)
    params = torch.randn(20, 8, 5, recon.n_params, requires_grad=True)
    losses = recon.compute_loss(processed.recon_data, params)
    assert losses.isfinite().all()
    losses = stack.process_losses(losses, processed, no_log, "train")
    losses.sum().backward()
    assert losses.isfinite().all()
    assert not losses[~observed].any()
    assert params.grad.isfinite().all()
    assert not params.grad[~observed].any()
    assert params.grad[observed].any(dim=-1).all()
    assert all(p.grad.isfinite().all() for p in recon.parameters())
    for parameter in recon.parameters():
        parameter.grad = None


@pytest.mark.parametrize("unseen_channel", [False, True])
def test_sbtt_keeps_bits_per_spike(unseen_channel):
    counts = torch.poisson(torch.tensor([0.2, 1.0, 3.0]).expand(20, 8, 3))
    # The number of missing samples is equal in all channels.
    missing = torch.rand(160, 3).argsort(dim=0).view(20, 8, 3) < 50
    counts[missing] = NAN
    if unseen_channel:
        counts[..., 0] = NAN
    log_rates = torch.randn(20, 8, 3)
    sbtt = SelectiveBackpropThruTime()
    batch = sbtt.process_batch(SessionBatch(counts, counts))
    losses = PoissonBPS().compute_loss(batch.recon_data, log_rates[..., None])
    losses, _ = loss_and_gradient(sbtt, batch, losses)
    torch.testing.assert_close(losses.mean(), -bits_per_spike(log_rates, counts))


# ------------------------------------------------------------------ jitter and shift


@SETTINGS
@given(
    trials=st.integers(1, 3),
    bins=st.integers(1, 6),
    channels=st.integers(1, 3),
    width=st.integers(0, 15),
    rate=st.sampled_from([0.0, 0.3, 4.0]),
    seed=st.integers(0, 100),
)
def test_jitter_keeps_counts(trials, bins, channels, width, rate, seed):
    torch.manual_seed(seed)
    counts = torch.poisson(torch.full((trials, bins, channels), rate))
    batch = SpikeJitter(width).process_batch(SessionBatch(counts, counts.clone()))
    for jittered in batch[:2]:
        torch.testing.assert_close(jittered.sum(dim=1), counts.sum(dim=1))
        assert (jittered >= 0).all()
        assert (jittered == jittered.round()).all()
        if width == 0:
            torch.testing.assert_close(jittered, counts)


def one_spike(n, bins, at):
    """Make a batch of n trials with one spike at a bin in one channel."""
    data = torch.zeros(n, bins, 1)
    data[:, at] = 1
    return SessionBatch(data, data.clone())


def moves(data, at):
    """Return by how many bins the spike of every trial moved."""
    return data[:, :, 0].argmax(dim=1) - at


def test_jitter_is_uniform_and_at_most_its_width():
    batch = SpikeJitter(width=3).process_batch(one_spike(14_000, 21, at=10))
    for data in batch[:2]:
        values, counts = moves(data, 10).unique(return_counts=True)
        assert values.tolist() == list(range(-3, 4))
        assert (counts - 2000).abs().max() < 5 * 2000**0.5


def test_jitter_reflects_at_both_ends():
    for at, expected in [(0, {0: 1 / 5, 1: 2 / 5, 2: 2 / 5}), (9, {9: 0.2, 8: 0.4, 7: 0.4})]:
        batch = SpikeJitter(width=2).process_batch(one_spike(10_000, 10, at))
        frequencies = batch.encod_data[:, :, 0].mean(dim=0)
        for t in range(10):
            assert frequencies[t].item() == pytest.approx(expected.get(t, 0), abs=0.025)


def test_jitter_moves_the_spikes_of_a_bin_independently():
    data = torch.zeros(1, 21, 1)
    data[0, 10] = 10_000
    jittered = SpikeJitter(width=2).process_batch(SessionBatch(data, data)).encod_data
    assert (jittered[0, 8:13, 0] - 2000).abs().max() < 5 * 2000**0.5


@pytest.mark.parametrize("transform", [SpikeJitter(4), TemporalShift(std=5.0, max_shift=8)])
def test_input_and_target_move_independently(transform):
    batch = transform.process_batch(one_spike(5000, 21, at=10))
    pair = torch.stack([moves(data, 10) for data in batch[:2]]).float()
    assert pair.std(dim=1).min() > 2
    assert torch.corrcoef(pair)[0, 1].abs() < 5 / 5000**0.5


def test_jitter_without_spikes():
    data = torch.zeros(2, 5, 3)
    batch = SpikeJitter().process_batch(SessionBatch(data, data))
    torch.testing.assert_close(batch.encod_data, data)
    torch.testing.assert_close(batch.recon_data, data)


def test_jitter_leaves_missing_samples_missing_and_loses_no_spike_to_them():
    data = torch.poisson(torch.full((20, 10, 3), 2.0))
    data[:, ::3] = NAN
    jittered = SpikeJitter(2).process_batch(SessionBatch(data, data)).recon_data
    assert (jittered.isnan() == data.isnan()).all()
    torch.testing.assert_close(jittered.nansum(dim=1), data.nansum(dim=1))


def test_jitter_keeps_fractions_and_other_fields():
    data = torch.full((2, 5, 3), 0.25)
    ext_input = torch.rand(2, 5, 1)
    batch = SpikeJitter().process_batch(SessionBatch(data, data, ext_input))
    torch.testing.assert_close(batch.encod_data, data)
    assert batch.ext_input is ext_input


def test_shift_is_a_rounded_and_clipped_normal():
    shifted = TemporalShift(std=3.0, max_shift=6).process_batch(one_spike(20_000, 21, at=10))
    for data in shifted[:2]:
        shifts = moves(data, 10).numpy()
        values = np.arange(-6, 7)
        frequencies = (shifts[:, None] == values).mean(axis=0)
        below = norm(scale=3.0).cdf([-np.inf, *(values[:-1] + 0.5), np.inf])
        np.testing.assert_allclose(frequencies, np.diff(below), atol=0.015)
        assert frequencies.sum() == 1


def test_shift_repeats_the_edges_and_moves_whole_channels():
    ramp = torch.arange(21.0)[None, :, None].expand(50, 21, 4)
    shifted = TemporalShift(std=3.0, max_shift=6).process_batch(SessionBatch(ramp, ramp))
    for data in shifted[:2]:
        shifts = 10 - data[:, 10:11]
        time = torch.arange(21.0)[None, :, None]
        torch.testing.assert_close(data, (time - shifts).clamp(0, 20))
        # Channels and trials are shifted independently.
        assert shifts.std(dim=2).mean() > 1
        assert shifts.std(dim=0).mean() > 1


@pytest.mark.parametrize("options", [(0.0, 6), (3.0, 0)])
def test_no_shift(options):
    data = torch.rand(3, 5, 2)
    shifted = TemporalShift(*options).process_batch(SessionBatch(data, data))
    torch.testing.assert_close(shifted.encod_data, data)


def test_negative_widths():
    with pytest.raises(ValueError, match=r"width .* -1"):
        SpikeJitter(-1)
    with pytest.raises(ValueError, match=r"std and max_shift .* -1"):
        TemporalShift(std=-1.0)
    with pytest.raises(ValueError, match=r"std and max_shift .* -2"):
        TemporalShift(max_shift=-2)


# ------------------------------------------------------------------ sample validation


def sv_batch(t_ic, trials=10):
    mask = (torch.rand(trials, 6 - t_ic, 4) >= 0.3).float()
    # Empty fields of absent inputs must not be used as the mask.
    empty = torch.zeros(trials, 6 - t_ic, 0)
    return ones_batch(trials, ext_input=empty, sv_mask=mask)


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("reduce_mean", [True, False])
@pytest.mark.parametrize("t_ic", [0, 2])
def test_sv_hides_samples_and_logs_their_loss(t_ic, reduce_mean, split):
    sv = SampleValidation(0.3, ic_enc_seq_len=t_ic, recon_reduce_mean=reduce_mean)
    raw = sv_batch(t_ic)
    kept = torch.ones(10, 8, 5)
    kept[:, t_ic:6, :4] = raw.sv_mask
    assert 0 < kept.mean() < 1

    batch = sv.process_batch(raw)
    torch.testing.assert_close(batch.encod_data, kept[:, :6, :4])
    assert batch.recon_data is raw.recon_data

    logged = {}
    losses = torch.rand(10, 8, 5)
    processed, gradient = loss_and_gradient(
        sv, batch, losses, split, log_fn=lambda name, value, **_: logged.update({name: value})
    )
    losses = losses.detach()
    torch.testing.assert_close(processed, losses * kept)
    torch.testing.assert_close(gradient, kept)
    held_out = losses[kept == 0]
    expected = held_out.mean() if reduce_mean else held_out.sum() / 10
    assert logged.keys() == {f"{split}/recon/sv"}
    torch.testing.assert_close(logged[f"{split}/recon/sv"], expected)


def test_sv_of_rate_0_is_off():
    sv, batch = SampleValidation(0.0), sv_batch(0)
    assert sv.process_batch(batch) is batch
    _, gradient = loss_and_gradient(sv, batch)
    assert gradient.eq(1).all()


def test_sv_with_nothing_held_out():
    sv, logged = SampleValidation(0.1), []
    batch = sv.process_batch(ones_batch(trials=2, sv_mask=torch.ones(2, 6, 4)))
    loss_and_gradient(sv, batch, log_fn=lambda name, value, **_: logged.append(value.item()))
    assert logged == [0.0]


@pytest.mark.parametrize("mask", [None, torch.zeros(400, 0, 0)])
def test_sv_without_a_mask(mask):
    sv, batch = SampleValidation(0.3), ones_batch(sv_mask=mask)
    with pytest.raises(ValueError, match=r"sv_rate = 0\.3.*sv_mask.*datamodule\.sv_rate"):
        sv.process_batch(batch)


@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_sv_rate_out_of_range(rate):
    with pytest.raises(ValueError, match="sv_rate must be"):
        SampleValidation(rate)


# ------------------------------------------------------------------ stacks


class Recorder:
    """A user's transform with both methods."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def process_batch(self, batch):
        self.calls.append(self.name)
        return batch._replace(encod_data=2 * batch.encod_data + len(self.calls))

    def process_losses(self, losses, batch, log_fn, split):
        self.calls.append(self.name)
        log_fn(f"{split}/{self.name}", losses.mean(), on_epoch=True)
        return 2 * losses + len(self.calls)


def test_orders_of_a_stack():
    calls, logged = [], {}
    a, b, c = (Recorder(name, calls) for name in "abc")
    stack = AugmentationStack([a, b, c], batch_order=[2, 0], loss_order=[1, 2, 0])
    batch = ones_batch(trials=2)
    processed = stack.process_batch(batch)
    assert calls == ["c", "a"]
    assert processed.encod_data.eq(2 * (2 * 1 + 1) + 2).all()
    assert isinstance(processed, SessionBatch)
    calls.clear()
    losses = stack.process_losses(
        torch.ones(2, 8, 5), processed, lambda name, value, **_: logged.update({name: value}), "x"
    )
    assert calls == ["b", "c", "a"]
    assert losses.eq(2 * (2 * (2 * 1 + 1) + 2) + 3).all()
    assert list(logged) == ["x/b", "x/c", "x/a"]


def test_an_empty_stack_changes_nothing():
    stack, batch, losses = AugmentationStack(), ones_batch(), torch.ones(400, 8, 5)
    assert stack.process_batch(batch) is batch
    assert stack.process_losses(losses, batch, no_log, "train") is losses
    # A transform that is in neither order has no effect.
    assert AugmentationStack([CoordinatedDropout(0.5)]).process_batch(batch) is batch


def test_transforms_with_one_of_the_two_methods():
    doubles = SimpleNamespace(process_batch=lambda b: b._replace(encod_data=2 * b.encod_data))
    halves = SimpleNamespace(process_losses=lambda losses, batch, log_fn, split: losses / 2)
    stack = AugmentationStack([doubles, halves], batch_order=[0], loss_order=[1])
    batch = stack.process_batch(ones_batch())
    assert batch.encod_data.eq(2).all()
    assert stack.process_losses(torch.ones(400, 8, 5), batch, no_log, "train").eq(0.5).all()


@pytest.mark.parametrize(
    ("orders", "words"),
    [
        (([2], []), "batch_order names transform 2, but there are 2"),
        (([0, -3], []), "batch_order names transform -3"),
        (([], [5]), "loss_order names transform 5"),
        (([], [0]), "loss_order names transform 0.*SpikeJitter has no method process_losses"),
        (([1], []), "batch_order names transform 1.*SimpleNamespace has no method process_batch"),
    ],
)
def test_invalid_orders(orders, words):
    transforms = [SpikeJitter(), SimpleNamespace(process_losses=lambda losses, *_: losses)]
    with pytest.raises(ValueError, match=words):
        AugmentationStack(transforms, *orders)


class Rebuilds:
    """A transform that makes a new batch without the notes."""

    def process_batch(self, batch):
        return SessionBatch(*(field for field in batch))


class Replaces:
    def process_batch(self, batch):
        return batch._replace(truth=None)


@pytest.mark.parametrize("between", [Rebuilds(), Replaces(), SpikeJitter(0), TemporalShift(0.0)])
def test_masks_survive_other_transforms(between):
    # Sample validation, missing samples and coordinated dropout are combined.
    raw = sv_batch(t_ic=0, trials=200)
    raw.recon_data[torch.rand(200, 8, 5) < 0.3] = NAN
    observed = ~raw.recon_data.isnan()
    transforms = [
        SelectiveBackpropThruTime(),
        CoordinatedDropout(0.3),
        SampleValidation(0.3),
        between,
    ]
    stack = AugmentationStack(transforms, [3, 0, 3, 1, 3, 2, 3], [0, 1, 2])
    batch = stack.process_batch(raw)
    losses = torch.ones(200, 8, 5, requires_grad=True)
    processed = stack.process_losses(losses, batch, lambda *_: None, "train")
    (gradient,) = torch.autograd.grad(processed.sum(), losses)

    kept, passed = torch.ones(2, 200, 8, 5).bool()
    kept[:, :6, :4] = raw.sv_mask.bool()
    passed[:, :6, :4] = batch.encod_data == 0
    scale = 1 / observed.float().mean()
    torch.testing.assert_close(processed, scale * (kept & observed))
    torch.testing.assert_close(gradient, scale * (kept & observed & passed))
    assert 0.1 < gradient.bool().float().mean() < 0.5


def test_transforms_store_nothing_of_a_batch():
    stack = AugmentationStack([CoordinatedDropout(0.3), SelectiveBackpropThruTime()], [0, 1], [0])
    before = [dict(vars(transform)) for transform in (stack, *stack.transforms)]
    stack.process_losses(torch.ones(400, 8, 5), stack.process_batch(ones_batch()), no_log, "train")
    assert [dict(vars(transform)) for transform in (stack, *stack.transforms)] == before


def test_a_processed_batch_can_be_changed_and_keeps_its_masks():
    stack = alone(CoordinatedDropout(0.3))
    batch = stack.process_batch(ones_batch())
    changed = batch._replace(truth=torch.zeros(1))
    _, gradient = loss_and_gradient(stack, changed)
    torch.testing.assert_close(gradient[:, :6, :4], (batch.encod_data == 0).float())
