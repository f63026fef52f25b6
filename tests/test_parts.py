"""Other cells, generators and encoders than the usual ones work in a model and its training."""

import functools
import logging

import pytest
import torch
from torch import nn
from torch.func import functional_call

from lfads_torch import recurrence
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.errors import UserError
from lfads_torch.modules.encoder import Encoder
from lfads_torch.modules.generators import LowRankGenerator, VanillaRNNGenerator
from lfads_torch.modules.l2 import compute_l2_penalty
from lfads_torch.modules.recurrent import ClippedGRUCell
from lfads_torch.modules.transformer import TransformerEncoder
from tests.conftest import tiny_model
from tests.test_model import bare, batch, quiet_trainer


class Shrinking(ClippedGRUCell):
    """A cell that only overrides forward."""

    def forward(self, input, hidden):
        return 0.5 * super().forward(input, hidden)


class Plain(nn.Module):
    """A cell that derives from no class of this library and has no weight_hh."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.map = nn.Linear(input_size + hidden_size, hidden_size)

    def forward(self, input, hidden):
        return torch.tanh(self.map(torch.cat([input, hidden], dim=1)))


class Halved(nn.Module):
    """A cell that computes its recurrent weights, and declares weights for fused execution."""

    def __init__(self, input_size, hidden_size, clip_value=5.0):
        super().__init__()
        self.stock = ClippedGRUCell(input_size, hidden_size, clip_value)

    def fused_weights(self):
        weights = self.stock.fused_weights()
        return weights._replace(weight_hh=0.5 * weights.weight_hh)

    def forward(self, input, hidden):
        halved = {"weight_hh": 0.5 * self.stock.weight_hh}
        return functional_call(self.stock, halved, (input, hidden))


def hooked(cell):
    cell.register_forward_hook(lambda module, inputs, output: 0.5 * output)
    return cell


CHANGES = {
    "overridden": lambda old: Shrinking(old.input_size, old.hidden_size, old.clip_value),
    "hooked": hooked,
    "equivalent to a fused cell": lambda old: Halved(old.input_size, old.hidden_size),
    "plain": lambda old: Plain(old.input_size, old.hidden_size),
}


@pytest.fixture(params=recurrence.CHOICES)
def choice(request):
    for backend in recurrence.BACKENDS:
        if backend.name == request.param and backend.unavailable():
            pytest.skip(backend.unavailable())
    return request.param


@pytest.fixture(params=CHANGES)
def change(request):
    return CHANGES[request.param]


def assert_close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_changed_cell_takes_effect_in_the_encoder(choice, change):
    encoder = tiny_model(recurrence=choice).eval().encoder
    grus = encoder.ic_enc.fwd_gru, encoder.ic_enc.bwd_gru
    for gru in grus:
        gru.cell = change(gru.cell)
    data, h_0 = torch.rand(3, 8, 4), torch.randn(2, 3, 6)
    with recurrence.using(choice), torch.no_grad():
        states, finals = encoder.ic_enc(data, h_0)
    for gru, start, found, final, order in zip(
        grus, h_0, states, finals, (range(8), reversed(range(8))), strict=True
    ):
        state = start
        for t in order:
            state = gru.cell(data[:, t], state)
            assert_close(found[:, t], state)
        assert_close(final, state)


@pytest.mark.parametrize("name", ["gen_cell", "con_cell"])
def test_a_changed_cell_takes_effect_in_the_decoder(choice, change, name):
    model = tiny_model(recurrence=choice).eval()
    cell = model.decoder.rnn.cell
    setattr(cell, name, change(getattr(cell, name)))
    with torch.no_grad():
        encoding = model.encode({0: batch()})
        out = model.unroll(encoding)
        gen_state, con_state = out.gen_init, model.decoder.con_h0.expand(4, -1)
        factor = cell.factor(gen_state)
        for t in range(10):
            con_state = cell.con_cell(torch.cat([encoding.ci[:, t], factor], dim=1), con_state)
            gen_state = cell.gen_cell(out.gen_inputs[:, t], gen_state)
            factor = cell.factor(gen_state)
            assert_close(out.con_states[:, t], con_state)
            assert_close(out.gen_states[:, t], gen_state)
            assert_close(out.factors[:, t], factor)


@pytest.mark.parametrize("scale", [0.0, 0.1])
@pytest.mark.parametrize("place", ["generator", "controller", "cell"])
def test_a_plain_module_as_a_cell_trains(place, scale):
    parts = {"encoder": {"cell": Plain}} if place == "cell" else {"decoder": {place: Plain}}
    scales = {f"l2_{name}_scale": scale for name in ("gen", "con", "ic_enc", "ci_enc")}
    model = tiny_model(**parts, **scales)
    bare(model)
    model.training_step({0: (batch(), ())}, 0).backward()
    gradients = [p.grad for m in model.modules() if isinstance(m, Plain) for p in m.parameters()]
    assert len(gradients) == (8 if place == "cell" else 2)
    assert all(gradient.any() for gradient in gradients)


def test_a_cell_that_declares_its_weights_runs_fused(monkeypatch):
    def step(*args):
        raise AssertionError("it was run step by step")

    monkeypatch.setattr(Halved, "forward", step)
    model = tiny_model(decoder={"generator": Halved}, encoder={"cell": Halved})
    assert model.decoder.rnn.why_step_by_step() is None
    assert model.encoder.ic_enc.bwd_gru.why_step_by_step() is None
    bare(model)
    model.training_step({0: (batch(), ())}, 0).backward()
    assert model.decoder.generator.stock.weight_hh.grad.any()


# ------------------------------------------------------------------ the L2 penalty


class WithAGroup(Encoder):
    """An encoder that declares an additional group of weights for the L2 penalty."""

    def recurrent_weights(self):
        return super().recurrent_weights() | {"own": [self.ic_linear.weight]}

    def l2_scales(self):
        return {"own": 3.0}


def penalty_of(**scaled_weights):
    """Return the penalty of weights, each given with its scale."""
    pairs = [(scale, w) for scale, ws in scaled_weights.values() for w in ws]
    norm = sum(0.5 * scale * w.square().sum() for scale, w in pairs)
    return (norm / sum(w.numel() for _, w in pairs)).item()


def test_an_encoder_may_declare_a_group_of_weights_with_its_scale():
    model = tiny_model(encoder=WithAGroup, l2_gen_scale=2.0, l2_con_scale=0.0)
    generator = [model.decoder.rnn.cell.gen_cell.weight_hh]
    own = [model.encoder.ic_linear.weight]
    expected = penalty_of(gen=(2.0, generator), own=(3.0, own))
    assert compute_l2_penalty(model, model.hparams).item() == pytest.approx(expected, rel=1e-5)


def test_low_rank_weights_are_penalised():
    model = tiny_model(decoder={"generator": LowRankGenerator}, l2_gen_scale=2.0, l2_con_scale=0.0)
    cell = model.decoder.rnn.cell.gen_cell
    expected = penalty_of(gen=(2.0, [cell.m, cell.n]))
    assert compute_l2_penalty(model, model.hparams).item() == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------ what is reported


def fit(model, data, **options):
    datamodule = BasicDataModule(data, batch_size=4)
    trainer = quiet_trainer(max_epochs=1, **options)
    trainer.fit(model, datamodule)
    return trainer


REPORTED = {
    "usual": ({}, None),
    "usual without a choice": ({"recurrence": "plain", "decoder": {"generator": Plain}}, None),
    "generator": (
        {"decoder": {"generator": functools.partial(LowRankGenerator, rank=2)}},
        "decoder.rnn (gen_cell is LowRankGenerator)",
    ),
    "both": (
        {"decoder": {"generator": Plain, "controller": VanillaRNNGenerator}},
        "decoder.rnn (gen_cell is Plain, con_cell is VanillaRNNGenerator)",
    ),
    "encoder": (
        {"encoder": {"cell": VanillaRNNGenerator}},
        "encoder.ic_enc.fwd_gru (its cell, VanillaRNNGenerator, declares no fused_weights)",
    ),
    "no recurrence": ({"encoder": functools.partial(TransformerEncoder, token_dim=8)}, None),
}


@pytest.mark.parametrize("case", REPORTED)
def test_a_fit_reports_once_what_runs_step_by_step(case, tiny_file, caplog):
    arguments, expected = REPORTED[case]
    with caplog.at_level(logging.INFO, "lfads_torch"):
        fit(tiny_model(**arguments), tiny_file)
    found = [
        record.getMessage() for record in caplog.records if "step by step" in record.getMessage()
    ]
    assert len(found) == (expected is not None)
    if expected:
        assert expected in found[0]


# ------------------------------------------------------------------ mistakes


class OtherShape(Encoder):
    def forward(self, data):
        ic_mean, ic_std, ci = super().forward(data)
        return ic_mean, ic_std[:, :1], ci


def test_an_encoder_that_returns_other_shapes_is_named():
    with pytest.raises(ValueError, match=r"model\.encoder must return ic_std of shape \(4, 6\)"):
        tiny_model(encoder=OtherShape)(batch())


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_an_unknown_argument_of_a_part_is_named(part):
    with pytest.raises(ValueError, match=rf"model\.{part}\.use_cons .*Did you mean use_con\?"):
        tiny_model(**{part: {"use_cons": True}})


@pytest.mark.parametrize(
    "found", [(torch.zeros(4, 6), torch.ones(4, 6)), torch.zeros(3, 4, 6), None]
)
def test_an_encoder_that_returns_something_else_is_refused(found):
    model = tiny_model()
    model.encoder.forward = lambda data: found
    with pytest.raises(
        UserError, match=r"must return an EncoderOutput\(ic_mean, ic_std, ci\), but"
    ):
        model({0: batch()})
