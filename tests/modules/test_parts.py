"""Parts are made from the user's specifications, and are asked for what they declare."""

import functools

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from lfads_torch.errors import UserError
from lfads_torch.modules.decoder import Decoder
from lfads_torch.modules.encoder import Encoder
from lfads_torch.modules.generators import LowRankGenerator, VanillaRNNGenerator
from lfads_torch.modules.parts import (
    BaseEncoder,
    Cell,
    Generator,
    declared,
    linear_weights,
    make_part,
    runs_as_defined,
)
from lfads_torch.modules.readin_readout import FanInLinear
from lfads_torch.modules.recurrent import BidirectionalClippedGRU, ClippedGRU, ClippedGRUCell

SIZES = {"input_size": 2, "hidden_size": 4, "clip_value": 3.0}


def make(spec, **more):
    return make_part("model.decoder.generator", spec, ClippedGRUCell, **SIZES, **more)


# ------------------------------------------------------------------ making parts


def test_without_a_specification_the_default_is_made_with_known_arguments():
    cell = make(None)
    assert type(cell) is ClippedGRUCell
    assert (cell.input_size, cell.hidden_size, cell.clip_value) == (2, 4, 3.0)


def test_a_class_gets_the_arguments_that_it_takes():
    cell = make(LowRankGenerator)
    assert (type(cell), cell.hidden_size, cell.rank) == (LowRankGenerator, 4, 3)


def test_arguments_of_a_partial_are_not_overwritten():
    cell = make(functools.partial(ClippedGRUCell, clip_value=1.0))
    assert (cell.clip_value, cell.input_size) == (1.0, 2)
    cell = make(functools.partial(ClippedGRUCell, 7))
    assert (cell.clip_value, cell.input_size) == (3.0, 7)


def test_a_mapping_holds_arguments_of_the_default():
    cell = make({"clip_value": 1.0})
    assert (type(cell), cell.clip_value, cell.input_size) == (ClippedGRUCell, 1.0, 2)


def test_a_module_is_used_without_changes():
    cell = VanillaRNNGenerator(9, 9)
    assert make(cell) is cell


def test_a_function_may_make_it():
    cell = make(lambda hidden_size: VanillaRNNGenerator(1, hidden_size))
    assert (cell.input_size, cell.hidden_size) == (1, 4)


class TakesSizes(nn.Module):
    def __init__(self, **sizes):
        super().__init__()
        self.sizes = sizes


class HandsOn(VanillaRNNGenerator):
    def __init__(self, gain=2.0, **kwargs):
        super().__init__(**kwargs)
        self.gain = gain


class HandsOnTwice(HandsOn):
    def __init__(self, *args, name="x", **kwargs):
        super().__init__(*args, **kwargs)
        self.name = name


def test_other_arguments_reach_a_constructor_that_takes_any():
    assert make(TakesSizes, extra=1).sizes == SIZES | {"extra": 1}


@pytest.mark.parametrize("spec", [HandsOn, HandsOnTwice, functools.partial(HandsOn, gain=3.0)])
def test_other_arguments_that_go_to_a_base_class_are_arguments_of_it(spec):
    cell = make(spec)
    assert (cell.input_size, cell.hidden_size) == (2, 4)
    assert cell.gain == (2.0 if isinstance(spec, type) else 3.0)


def test_an_argument_that_goes_to_a_base_class_may_be_unknown():
    with pytest.raises(
        UserError, match=r"generator\.gian is not an argument of HandsOn.*mean gain"
    ):
        make(functools.partial(HandsOn, gian=1.0))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"clip_val": 1.0},
            r"generator\.clip_val is not an argument of ClippedGRUCell.*mean clip_value",
        ),
        (
            functools.partial(LowRankGenerator, rang=1),
            r"generator\.rang is not an argument of LowRankGenerator.*mean rank.*takes: input_size",
        ),
        (lambda width, input_size: None, r"generator lacks the arguments width.*model knows input"),
        (lambda: "text", r"generator must make a torch.nn.Module, but made str"),
        (3, r"generator must be .*but is 3"),
        ("lfads_torch.modules.encoder.Encoder", r"generator must be a configuration"),
    ],
)
def test_mistakes_name_the_part(spec, message):
    with pytest.raises(UserError, match=message):
        make(spec)


def test_a_mistake_in_a_constructor_keeps_its_own_message():
    with pytest.raises(UserError, match="rank must be between 1"):
        make(functools.partial(LowRankGenerator, rank=9))


def test_one_module_cannot_be_the_cell_of_both_directions():
    with pytest.raises(UserError, match=r"encoder\.cell must be a class.*VanillaRNNGenerator"):
        BidirectionalClippedGRU(2, 3, cell=VanillaRNNGenerator(2, 3))


# ------------------------------------------------------------------ asking parts


class Bare(nn.Module):
    """A cell that declares nothing."""

    def forward(self, input, hidden):
        return hidden


def test_the_base_class_supplies_what_a_part_does_not_declare():
    part = Bare()
    state = torch.zeros(2, 3)
    assert declared(part, "recurrent_weights", Cell)() == []
    assert declared(part, "fused_weights", Cell)() is None
    assert declared(part, "output", Generator)(state) is state
    assert declared(part, "recurrent_weights", BaseEncoder)() == {}
    assert declared(part, "l2_scales", BaseEncoder)() == {}


def test_a_part_is_asked_for_what_it_declares():
    cell = LowRankGenerator(1, 3, rank=1)
    assert declared(cell, "recurrent_weights", Cell)()[0] is cell.m
    assert declared(cell, "output", Generator)(torch.ones(1, 3)).allclose(torch.tanh(torch.ones(3)))


def test_base_classes_require_only_forward():
    for base in (Cell, Generator, BaseEncoder):
        with pytest.raises(TypeError, match="forward"):
            base()
        complete = type("Complete", (base,), {"forward": lambda self, *args: None})
        complete()


def test_a_generator_is_read_out_as_wide_as_its_output():
    class Halved(VanillaRNNGenerator):
        @property
        def output_size(self):
            return 2

        def output(self, state):
            return state[:, :2]

    decoder = Decoder(
        ext_input_dim=0, ic_dim=3, ci_enc_dim=0, con_dim=0, co_dim=0, gen_dim=4, fac_dim=3,
        dropout_rate=0.0, cell_clip=5.0, use_con=False, generator=Halved,
    )  # fmt: skip
    assert decoder.rnn.cell.fac_linear.weight.shape == (3, 2)
    out = decoder(torch.randn(2, 3), torch.zeros(2, 5, 0), torch.zeros(2, 5, 0))
    expected = decoder.rnn.cell.fac_linear(out.gen_states[..., :2])
    torch.testing.assert_close(out.factors, expected)


def hooked(register):
    cell = ClippedGRUCell(2, 3)
    getattr(cell, register)(lambda *args: None)
    return cell


def patched():
    cell = ClippedGRUCell(2, 3)
    cell.forward = lambda input, hidden: hidden
    return cell


def with_another_output():
    cell = ClippedGRUCell(2, 3)
    cell.output = torch.tanh
    return cell


def parametrized():
    cell = ClippedGRUCell(2, 3)
    nn.utils.parametrize.register_parametrization(cell, "weight_hh", nn.Identity())
    return cell


CHANGED = {
    **{
        kind: functools.partial(hooked, f"register_{kind}")
        for kind in (
            "forward_hook",
            "forward_pre_hook",
            "full_backward_hook",
            "full_backward_pre_hook",
        )
    },
    "subclass": lambda: type("Derived", (ClippedGRUCell,), {})(2, 3),
    "patched forward": patched,
    "patched output": with_another_output,
    "parametrization": parametrized,
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_changed_cell_does_not_run_as_defined(change):
    cell = CHANGED[change]()
    assert not runs_as_defined(cell, ClippedGRUCell)
    assert cell.fused_weights() is None
    gru = ClippedGRU(2, 3, cell=cell)
    assert type(cell).__name__ in gru.why_step_by_step()


def test_a_class_that_was_changed_afterwards_does_not_run_as_defined(monkeypatch):
    original = ClippedGRUCell.forward

    @functools.wraps(original)
    def shrinking(self, input, hidden):
        return 0.5 * original(self, input, hidden)

    monkeypatch.setattr(ClippedGRUCell, "forward", shrinking)
    assert not runs_as_defined(ClippedGRUCell(2, 3), ClippedGRUCell)


def test_an_unchanged_cell_runs_as_defined():
    cell = ClippedGRUCell(2, 3)
    assert runs_as_defined(cell, ClippedGRUCell)
    weights = cell.fused_weights()
    assert weights.weight_ih is cell.weight_ih
    assert weights.weight_hh is cell.weight_hh
    assert ClippedGRU(2, 3, cell=cell).why_step_by_step() is None


def test_a_hook_that_was_removed_or_is_global():
    cell = ClippedGRUCell(2, 3)
    handle = cell.register_forward_hook(lambda *args: None)
    handle.remove()
    assert runs_as_defined(cell, ClippedGRUCell)
    handle = register_module_forward_hook(lambda *args: None)
    try:
        assert not runs_as_defined(cell, ClippedGRUCell)
    finally:
        handle.remove()
    assert runs_as_defined(cell, ClippedGRUCell)


def test_linear_weights():
    linear = FanInLinear(2, 3)
    weight, bias = linear_weights(linear)
    assert weight is linear.weight
    assert bias is linear.bias
    assert linear_weights(nn.Linear(2, 3, bias=False)) is None
    assert linear_weights(nn.Identity()) is None
    assert linear_weights(type("Own", (nn.Linear,), {"forward": lambda self, x: x})(2, 3)) is None
    linear.register_forward_hook(lambda *args: None)
    assert linear_weights(linear) is None


def test_parts_of_an_encoder_that_declare_no_weights():
    class Mean(nn.Module):
        def forward(self, input, h_0):
            states = input.new_zeros(*input.shape[:2], 4)
            return (states, states), (states[:, 0], states[:, 0])

    encoder = Encoder(
        encod_data_dim=3, encod_seq_len=5, recon_seq_len=5, ic_enc_seq_len=0, ic_enc_dim=4,
        ci_enc_dim=4, ci_lag=1, ic_dim=2, ic_post_var_min=1e-4, dropout_rate=0.0, cell_clip=5.0,
        use_con=True,
    )  # fmt: skip
    encoder.ic_enc = Mean()
    encoder.ci_enc.bwd_gru = Bare()
    assert encoder.recurrent_weights()["ic_enc"] == []
    assert len(encoder.recurrent_weights()["ci_enc"]) == 1
