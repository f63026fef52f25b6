"""Read-ins, read-outs and reconstructions of several sessions are made from their files."""

import inspect

import numpy as np
import pytest
import torch

from lfads_torch.modules import recons
from lfads_torch.modules.readin_readout import MultisessionReadin, MultisessionReadout
from lfads_torch.modules.recons import MultisessionReconstruction
from tests.conftest import tiny_arrays, tiny_model
from tests.data.session_files import changed, write_sessions, zeros

ZIG = recons.ZeroInflatedGamma(5, 0.5, 1.0, 1.0, 0.1)


def aligned(folder, channels=(5, 7), components=3, **changes):
    """Write sessions with alignment arrays; return the pattern and the arrays."""
    rng = np.random.default_rng(0)
    sessions = []
    for i, n in enumerate(channels):
        arrays = tiny_arrays(n_channels=n, n_heldout=0, seed=i)
        arrays["readin_weight"] = rng.normal(size=(n, components))
        arrays["readout_bias"] = rng.normal(size=n)
        sessions.append(changed(arrays, **changes))
    return write_sessions(folder, *sessions), sessions


def test_aligned_maps(tmp_path):
    pattern, sessions = aligned(tmp_path)
    readin, readout = MultisessionReadin(pattern), MultisessionReadout(pattern)
    for ins, out, arrays in zip(readin, readout, sessions, strict=True):
        weight, bias = arrays["readin_weight"], arrays["readout_bias"]
        np.testing.assert_allclose(ins.weight, weight.T, rtol=1e-6)
        np.testing.assert_allclose(ins.bias, -bias @ weight, rtol=1e-5, atol=1e-6)
        inverse = np.linalg.inv(weight.T @ weight) @ weight.T
        np.testing.assert_allclose(out.weight.detach(), inverse.T, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(out.bias.detach(), bias, rtol=1e-6)


@pytest.mark.parametrize("components", [1, 3, 5])
def test_read_in_after_read_out_is_the_identity(tmp_path, components):
    pattern, _ = aligned(tmp_path, components=components)
    factors = torch.randn(4, 6, components)
    for ins, out in zip(MultisessionReadin(pattern), MultisessionReadout(pattern), strict=True):
        torch.testing.assert_close(ins(out(factors)), factors, rtol=1e-3, atol=1e-4)


def test_random_maps(tmp_path):
    channels = (40, 60)
    pattern = write_sessions(tmp_path, *(tiny_arrays(n_channels=n, n_heldout=10) for n in channels))
    torch.manual_seed(0)
    readin = MultisessionReadin(pattern, out_features=100, pcr_init=False, requires_grad=True)
    readout = MultisessionReadout(pattern, in_features=100, pcr_init=False, recon_params=2)
    for ins, out, n in zip(readin, readout, channels, strict=True):
        assert (ins.in_features, ins.out_features) == (n - 10, 100)
        assert (out.in_features, out.out_features) == (100, 2 * n)
        for layer in (ins, out):
            assert layer.weight.std().item() * layer.in_features**0.5 == pytest.approx(1, abs=0.05)
            assert not layer.bias.any()
    assert not torch.equal(readin[0].weight, readin[1].weight[:, :30])


@pytest.mark.parametrize("pcr_init", [True, False])
def test_read_ins_are_fixed_and_read_outs_trained(tmp_path, pcr_init):
    pattern, _ = aligned(tmp_path)
    for make, default in [(MultisessionReadin, False), (MultisessionReadout, True)]:
        for chosen in (None, True, False):
            options = {} if chosen is None else {"requires_grad": chosen}
            maps = make(pattern, 3, pcr_init=pcr_init, **options)
            expected = default if chosen is None else chosen
            assert {p.requires_grad for p in maps.parameters()} == {expected}


def test_frozen_signatures_of_the_maps():
    assert {
        make.__name__: str(inspect.signature(make)).replace(" | None", "")
        for make in (MultisessionReadin, MultisessionReadout)
    } == {
        "MultisessionReadin": "(datafile_pattern: str, out_features: int = None, "
        "pcr_init: bool = True, requires_grad: bool = False) -> None",
        "MultisessionReadout": "(datafile_pattern: str, in_features: int = None, "
        "pcr_init: bool = True, requires_grad: bool = True, recon_params: int = 1) -> None",
    }


def test_aligned_read_out_of_several_parameters(tmp_path):
    """The first block of channels is the mean, and starts from the file."""
    pattern, sessions = aligned(tmp_path)
    one = MultisessionReadout(pattern)
    several = MultisessionReadout(pattern, recon_params=2)
    factors = torch.randn(2, 4, 3)
    for session, arrays in enumerate(sessions):
        n = len(arrays["readout_bias"])
        assert several[session].out_features == 2 * n
        params = recons.Gaussian().reshape_output_params(several[session](factors))
        torch.testing.assert_close(params[..., 0], one[session](factors))
        assert several[session].weight[n:].any()
        assert not several[session].bias[n:].any()


def test_parameter_names(tmp_path):
    """The names are those of published checkpoints."""
    pattern, _ = aligned(tmp_path)
    model = tiny_model(
        encod_data_dim=3,
        readin=MultisessionReadin(pattern),
        readout=MultisessionReadout(pattern, recon_params=3),
        reconstruction=MultisessionReconstruction(pattern, ZIG),
    )
    names = {name for name in model.state_dict() if name.startswith(("read", "recon"))}
    assert names == {
        *(f"{part}.{s}.{p}" for part in ("readin", "readout") for s in (0, 1)
          for p in ("weight", "bias")),
        "recon.0.scale", "recon.1.scale",
    }  # fmt: skip
    assert set(MultisessionReadin(pattern).state_dict()) == {
        "0.weight", "0.bias", "1.weight", "1.bias"
    }  # fmt: skip


def test_each_session_has_its_own_reconstruction(tmp_path):
    pattern, _ = aligned(tmp_path, channels=(5, 5, 5))
    copies = MultisessionReconstruction(pattern, ZIG)
    assert [type(copy) for copy in copies] == [recons.ZeroInflatedGamma] * 3
    with torch.no_grad():
        copies[0].scale += 1
    assert torch.equal(copies[1].scale, ZIG.scale)
    assert len({id(copy) for copy in (*copies, ZIG)}) == 4


@pytest.mark.parametrize("make", [MultisessionReadin, MultisessionReadout])
@pytest.mark.parametrize(("changes", "options", "message"), [
    ({"readin_weight": None}, {}, r"session0\.h5 has no readin_weight,"),
    ({"readin_weight": None, "readout_bias": None}, {}, "no readin_weight and no readout_bias"),
    ({"readin_weight": zeros(5)}, {}, r"session0\.h5: readin_weight must be .* \(5,\)"),
    ({"readout_bias": zeros(4)}, {}, r"session0\.h5: .*readout_bias .* \(4,\)"),
    ({}, {"features": 4}, r"_features is 4, but readin_weight in .*session0\.h5 has 3"),
    ({}, {"pcr_init": False}, r"needs (in|out)_features"),
])  # fmt: skip
def test_maps_that_cannot_be_made(tmp_path, make, changes, options, message):
    pattern, _ = aligned(tmp_path, channels=(5, 5), **changes)
    options = dict(options)
    if "features" in options:
        name = "out_features" if make is MultisessionReadin else "in_features"
        options[name] = options.pop("features")
    with pytest.raises(ValueError, match=message):
        make(pattern, **options)


def test_read_out_of_other_channels_than_the_file_has(tmp_path):
    weight, bias = zeros(6, 3), zeros(6)
    pattern, _ = aligned(tmp_path, channels=(5, 5), readin_weight=weight, readout_bias=bias)
    with pytest.raises(ValueError, match=r"readout_bias in .*session0\.h5 has 6 .* has 5: align"):
        MultisessionReadout(pattern)


def test_read_in_of_other_channels_than_are_encoded(tmp_path):
    weight, bias = zeros(6, 3), zeros(6)
    pattern, _ = aligned(tmp_path, channels=(5, 5), readin_weight=weight, readout_bias=bias)
    with pytest.raises(ValueError, match=r"readin_weight in .*session0\.h5 has 6 .* has 5"):
        MultisessionReadin(pattern)


def test_aligned_read_out_with_held_out_channels(tmp_path):
    """The encoded channels, which come first, start from the file, and the others at random."""
    arrays = tiny_arrays(n_channels=8, n_heldout=3)
    arrays |= {"readin_weight": np.random.default_rng(0).normal(size=(5, 3))}
    pattern = write_sessions(tmp_path, {**arrays, "readout_bias": np.arange(5.0)})
    [ins], [out] = MultisessionReadin(pattern), MultisessionReadout(pattern, recon_params=2)
    assert out.out_features == 16
    factors = torch.randn(2, 4, 3)
    torch.testing.assert_close(ins(out(factors)[..., :5]), factors, rtol=1e-3, atol=1e-4)
    assert not out.bias[5:].any()
