"""The L2 penalty agrees with its formula."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lfads_torch.modules.decoder import Decoder
from lfads_torch.modules.encoder import Encoder
from lfads_torch.modules.l2 import compute_l2_penalty
from lfads_torch.modules.recons import Poisson, ZeroInflatedGamma

SIZES = {"ci_enc_dim": 3, "dropout_rate": 0.0, "cell_clip": 5.0, "ic_dim": 2}


def make_model(use_con=True, recons=()):
    encoder = Encoder(
        encod_data_dim=4, encod_seq_len=3, recon_seq_len=3, ic_enc_seq_len=0, ic_enc_dim=2,
        ci_lag=1, ic_post_var_min=1e-4, use_con=use_con, **SIZES,
    )  # fmt: skip
    decoder = Decoder(
        ext_input_dim=1, con_dim=4, co_dim=2, gen_dim=5, fac_dim=3, use_con=use_con, **SIZES
    )
    return SimpleNamespace(encoder=encoder, decoder=decoder, recon=nn.ModuleList(recons))


def scales(ic_enc=0.0, ci_enc=0.0, gen=0.0, con=0.0):
    groups = {"ic_enc": ic_enc, "ci_enc": ci_enc, "gen": gen, "con": con}
    return SimpleNamespace(**{f"l2_{name}_scale": scale for name, scale in groups.items()})


def matrices(model):
    """Return the recurrent matrices by group, with their names in a checkpoint."""
    state = model.encoder.state_dict() | model.decoder.state_dict()
    names = {
        "ic_enc": ["ic_enc.fwd_gru.cell", "ic_enc.bwd_gru.cell"],
        "ci_enc": ["ci_enc.fwd_gru.cell", "ci_enc.bwd_gru.cell"],
        "gen": ["rnn.cell.gen_cell"],
        "con": ["rnn.cell.con_cell"],
    }
    return {g: [state[f"{name}.weight_hh"].numpy() for name in ns] for g, ns in names.items()}


@pytest.mark.parametrize(
    "groups",
    [
        {"ic_enc": 2.0},
        {"ci_enc": 2.0},
        {"gen": 2.0},
        {"con": 2.0},
        {"gen": 0.1, "con": 3.0},
        {"ic_enc": 1.0, "ci_enc": 2.0, "gen": 3.0, "con": 4.0},
    ],
)
def test_formula(groups):
    model = make_model(recons=[Poisson()])
    weights = matrices(model)
    norm = sum(
        s * 0.5 * np.sum(w.astype(float) ** 2) for g, s in groups.items() for w in weights[g]
    )
    size = sum(w.size for g in groups for w in weights[g])
    penalty = compute_l2_penalty(model, scales(**groups))
    assert penalty.shape == ()
    assert penalty.item() == pytest.approx(norm / (size + 1e-8), rel=1e-5)


def test_only_the_penalised_matrices_have_a_gradient():
    model = make_model()
    compute_l2_penalty(model, scales(gen=2.0)).backward()
    cell = model.decoder.rnn.cell
    expected = 2.0 * cell.gen_cell.weight_hh.detach() / cell.gen_cell.weight_hh.numel()
    torch.testing.assert_close(cell.gen_cell.weight_hh.grad, expected)
    parameters = [*model.encoder.parameters(), *model.decoder.parameters()]
    assert sum(p.grad is not None and p.grad.any() for p in parameters) == 1


def test_no_penalty_is_zero():
    penalty = compute_l2_penalty(make_model(recons=[Poisson()]), scales())
    assert isinstance(penalty, torch.Tensor)
    assert penalty.item() == 0


def test_without_a_controller_its_scales_count_nothing():
    model = make_model(use_con=False)
    everything = compute_l2_penalty(model, scales(ic_enc=1.0, ci_enc=5.0, gen=1.0, con=5.0))
    rest = compute_l2_penalty(model, scales(ic_enc=1.0, gen=1.0))
    torch.testing.assert_close(everything, rest)


def test_every_reconstruction_adds_its_own_penalty():
    zig = [
        ZeroInflatedGamma(3, 0.1, scale_init, scale_prior=1.0, scale_penalty=0.5)
        for scale_init in (2.0, 4.0)
    ]
    own = 0.5 * 0.5 * 6 * (1**2 + 3**2)
    assert compute_l2_penalty(make_model(recons=zig), scales()).item() == pytest.approx(own)
    model = make_model(recons=[*zig, Poisson()])
    with_gen = compute_l2_penalty(model, scales(gen=2.0))
    model.recon = nn.ModuleList()
    alone = compute_l2_penalty(model, scales(gen=2.0))
    assert (with_gen - alone).item() == pytest.approx(own, rel=1e-5)
