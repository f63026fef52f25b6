"""The model works alone, under a trainer, with several sessions and with missing samples."""

import inspect
from collections import Counter

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lfads_torch.checks import NonFiniteLossError
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.model import LFADS
from lfads_torch.modules import augmentations as aug
from lfads_torch.modules.readin_readout import FanInLinear
from lfads_torch.modules.recons import Gaussian, Poisson
from lfads_torch.recurrence import choose
from lfads_torch.recurrence.library import Library
from lfads_torch.tuples import SessionBatch, SessionOutput
from tests.conftest import tiny_arrays, tiny_model, write_file

ARGUMENTS = [
    "encod_data_dim", "encod_seq_len", "recon_seq_len", "ext_input_dim", "ic_enc_seq_len",
    "ic_enc_dim", "ci_enc_dim", "ci_lag", "con_dim", "co_dim", "ic_dim", "gen_dim", "fac_dim",
    "dropout_rate", "reconstruction", "variational", "co_prior", "ic_prior", "ic_post_var_min",
    "cell_clip", "train_aug_stack", "infer_aug_stack", "readin", "readout", "loss_scale",
    "recon_reduce_mean", "lr_scheduler", "lr_init", "lr_stop", "lr_decay", "lr_patience",
    "lr_adam_beta1", "lr_adam_beta2", "lr_adam_epsilon", "weight_decay", "l2_start_epoch",
    "l2_increase_epoch", "l2_ic_enc_scale", "l2_ci_enc_scale", "l2_gen_scale", "l2_con_scale",
    "kl_start_epoch", "kl_increase_epoch", "kl_ic_scale", "kl_co_scale",
    "recurrence", "encoder", "decoder",
]  # fmt: skip


def batch(n=4, seed=0, **fields):
    arrays = tiny_arrays(n_train=n, seed=seed)
    tensors = {name: torch.tensor(arrays[f"train_{name}"]) for name in ("encod_data", "recon_data")}
    return SessionBatch(**{**tensors, **fields})


def bare(model, epoch=0):
    """Replace the logging methods, as users without a trainer do."""
    logged = {}
    model.log = lambda name, value, **_: logged.update({name: float(value)})
    model.log_dict = lambda values, **_: logged.update({k: float(v) for k, v in values.items()})
    return logged


def two_sessions(**overrides):
    return tiny_model(
        readin=[nn.Identity(), nn.Linear(2, 4)], readout=[FanInLinear(3, 5), FanInLinear(3, 3)],
        reconstruction=[Poisson(), Poisson()], **overrides,
    )  # fmt: skip


def quiet_trainer(**options):
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip


def test_frozen_names():
    assert list(inspect.signature(LFADS).parameters) == ARGUMENTS
    assert SessionBatch._fields == (
        "encod_data", "recon_data", "ext_input", "truth", "sv_mask")  # fmt: skip
    assert SessionOutput._fields == (
        "output_params", "factors", "ic_mean", "ic_std", "co_means", "co_stds", "gen_states",
        "gen_init", "gen_inputs", "con_states")  # fmt: skip
    model = tiny_model()
    for name in ("readin", "readout", "recon", "encoder", "decoder", "ic_prior", "co_prior",
                 "train_aug_stack", "infer_aug_stack", "use_con", "valid_recon_smth"):  # fmt: skip
        assert hasattr(model, name)
    assert model.hparams.gen_dim == 9


def test_a_bare_batch_is_session_0():
    model = tiny_model().eval()
    with torch.no_grad():
        alone, keyed = model(batch()), model({0: batch()})
    assert list(alone) == [0]
    for a, b in zip(alone[0], keyed[0], strict=True):
        assert torch.equal(a, b)


def test_absent_fields_may_be_none_or_empty():
    model = tiny_model().eval()
    empty = torch.zeros(4, 0, 0)
    full = batch(ext_input=torch.zeros(4, 8, 0), truth=empty, sv_mask=empty)
    with torch.no_grad():
        for a, b in zip(model(batch())[0], model(full)[0], strict=True):
            assert torch.equal(a, b)
    bare(model)
    assert torch.isfinite(model.training_step({0: (batch(), ())}, 0))


def test_steps_work_without_a_trainer():
    model = tiny_model()
    logged = bare(model)
    loss = model.training_step({0: (batch(), ())}, 0)
    assert logged["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    optimizer = model.configure_optimizers()
    loss.backward()
    model.on_before_optimizer_step(optimizer)
    optimizer.step()
    assert logged["valid/loss"] if model.validation_step({0: (batch(), ())}, 0) else None
    output = model.predict_step({0: (batch(), ())}, 0)
    assert output[0].output_params.shape == (4, 10, 5)


def test_sampling_only_on_request():
    model = tiny_model().eval()
    step = {0: (batch(), ())}
    with torch.no_grad():
        means = [model.predict_step(step, 0, sample_posteriors=False)[0].factors for _ in range(2)]
        samples = [model.predict_step(step, 0)[0].factors for _ in range(2)]
    assert torch.equal(*means)
    assert not torch.equal(*samples)
    model.hparams.variational = False
    with torch.no_grad():
        assert torch.equal(model.predict_step(step, 0)[0].factors, means[0])


@pytest.mark.parametrize("scheduler", [False, True])
def test_optimizer(scheduler):
    model = tiny_model(lr_scheduler=scheduler, weight_decay=0.5, l2_increase_epoch=9, lr_init=0.1)
    configured = model.configure_optimizers()
    optimizer = configured["optimizer"] if scheduler else configured
    assert isinstance(optimizer, torch.optim.AdamW)
    if scheduler:
        assert configured["lr_scheduler"]["monitor"] == "valid/recon_smth"
        plateau = configured["lr_scheduler"]["scheduler"]
        assert (plateau.factor, plateau.patience, plateau.threshold) == (0.95, 6, 0.0)
        assert plateau.min_lrs == [1e-5]
    model.on_before_optimizer_step(optimizer)
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.5 * 0.1)


def test_missing_samples_have_no_part_in_bits_per_spike():
    sbtt = aug.AugmentationStack([aug.SelectiveBackpropThruTime()], [0], [0])
    model = tiny_model(train_aug_stack=sbtt, infer_aug_stack=sbtt, dropout_rate=0.0)
    full = batch(n=6)
    holes = full._replace(recon_data=full.recon_data.clone())
    holes.recon_data[:3] = torch.nan
    logged = bare(model)
    model.eval()
    model.hparams.variational = False
    model.training_step({0: (holes, ())}, 0)
    with_holes = dict(logged)
    model.training_step({0: (SessionBatch(full.encod_data[3:], full.recon_data[3:]), ())}, 0)
    for name in ("train/bps", "train/co_bps", "train/fp_bps", "train/recon"):
        assert np.isfinite(with_holes[name])
        assert with_holes[name] == pytest.approx(logged[name], rel=1e-4), name


def test_only_counts_have_bits_per_spike():
    model = tiny_model(reconstruction=[Gaussian()], readout=[FanInLinear(3, 10)])
    logged = bare(model)
    model.training_step({0: (batch(), ())}, 0)
    assert not any(name.endswith("bps") for name in logged)
    assert "train/recon" in logged


def test_r2_leaves_out_the_initial_condition_bins():
    model = tiny_model(ic_enc_seq_len=3, variational=False).eval()
    logged = bare(model)
    with torch.no_grad():
        rates = model(batch())[0].output_params
    model.validation_step({0: (batch(truth=rates[:, 3:]), ())}, 0)
    assert logged["valid/r2"] == pytest.approx(1.0)
    model.validation_step({0: (batch(truth=rates[:, :7]), ())}, 0)
    assert logged["valid/r2"] < 0.999


def test_external_inputs_must_have_the_right_shape():
    model = tiny_model(ext_input_dim=2)
    for wrong in (None, torch.zeros(4, 8, 1), torch.zeros(4, 7, 2)):
        with pytest.raises(ValueError, match=r"model.ext_input_dim = 2.*\(4, 8, 2\)"):
            model(batch(ext_input=wrong))
    assert model(batch(ext_input=torch.ones(4, 8, 2)))[0].gen_inputs.shape == (4, 10, 4)


def test_external_inputs_start_where_the_ic_bins_end():
    """A known fault of the published code: trimmed inputs were used as if they were not."""
    model = tiny_model(ext_input_dim=1, ic_enc_seq_len=3).eval()
    inputs = torch.arange(1.0, 6.0)[None, :, None].expand(4, 5, 1)
    with torch.no_grad():
        used = model(batch(ext_input=inputs))[0].gen_inputs[0, :, -1]
    assert used.tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 0, 0]


def test_sessions_in_any_order_and_number():
    """A known fault of the published code: session 0 had to be there."""
    model = two_sessions().eval()
    other = SessionBatch(torch.rand(3, 8, 2), torch.ones(3, 10, 3))
    with torch.no_grad():
        both = model({0: batch(), 1: other})
        turned = model({1: other, 0: batch()})
        alone = model({1: other})
    for a, b, c in zip(both[1], turned[1], alone[1], strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)
    logged = bare(model)
    model.validation_step({1: (other, ()), 0: None}, 0)
    assert "valid/recon/sess1" in logged
    assert "valid/recon/sess0" not in logged


def test_bits_per_spike_of_each_sessions_own_channels():
    model = two_sessions(variational=False).eval()
    other = SessionBatch(torch.rand(3, 8, 2), torch.ones(3, 10, 3))
    logged = bare(model)
    model.validation_step({0: (batch(), ()), 1: (other, ())}, 0)
    both = dict(logged)
    values = []
    for session, b in ((0, batch()), (1, other)):
        model.validation_step({session: (b, ())}, 0)
        values.append(logged["valid/co_bps"])
    assert both["valid/co_bps"] == pytest.approx(np.mean(values), rel=1e-5)


class Recorder(pl.Callback):
    """Keeps what was logged in each validation epoch."""

    def __init__(self):
        self.epochs = []

    def on_validation_end(self, trainer, pl_module):
        self.epochs.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def test_validation_is_the_mean_over_sessions_of_their_trials(tmp_path):
    """A known fault of the published code: shorter sessions were repeated."""
    write_file(tmp_path / "a.h5", tiny_arrays(n_train=20, n_valid=13))
    arrays = tiny_arrays(n_train=10, n_valid=3, n_channels=3, seed=1)
    write_file(tmp_path / "b.h5", arrays)
    model = two_sessions(variational=False, lr_init=0.0)
    datamodule = BasicDataModule(str(tmp_path / "?.h5"), batch_size=8)
    recorder = Recorder()
    quiet_trainer(max_epochs=1, callbacks=[recorder]).fit(model, datamodule)
    recons = []
    model.eval()
    for session, (data, _) in enumerate(datamodule.valid_data):
        with torch.no_grad():
            params = model({session: data}, output_means=False)[session].output_params
        recons.append(model.recon[session].compute_loss(data.recon_data, params).mean())
        logged = recorder.epochs[0][f"valid/recon/sess{session}"]
        assert logged == pytest.approx(float(recons[-1]), rel=1e-5)
    assert recorder.epochs[0]["valid/recon"] == pytest.approx(float(sum(recons) / 2), rel=1e-5)
    assert recorder.epochs[0]["valid/recon_smth"] == pytest.approx(float(sum(recons) / 2), rel=1e-5)


def test_validating_or_sanity_checking_does_not_smooth(tiny_file):
    model = tiny_model()
    datamodule = BasicDataModule(str(tiny_file), batch_size=4)
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(model, datamodule)
    smoothed = model.valid_recon_smth.smoothed
    trainer.validate(model, datamodule, verbose=False)
    assert model.valid_recon_smth.smoothed == smoothed


def test_a_training_set_smaller_than_a_batch_trains(tiny_file):
    """A known fault of the published code: it trained on nothing, silently."""
    model = tiny_model()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.warns(UserWarning, match="12 training trials"):
        quiet_trainer(max_epochs=1).fit(model, BasicDataModule(str(tiny_file), batch_size=1000))
    trained = [p for p in model.parameters() if p.requires_grad]
    assert model.trainer.global_step == 1
    assert any(not torch.equal(a, b) for a, b in zip(before, trained, strict=False))


def test_missing_samples_need_a_transform(tmp_path):
    arrays = tiny_arrays()
    arrays["train_encod_data"][0, 2, 1] = np.nan
    file = write_file(tmp_path / "nan.h5", arrays)
    with pytest.raises(ValueError, match=r"encod_data are NaN.*SelectiveBackpropThruTime"):
        quiet_trainer(max_epochs=1).fit(tiny_model(), BasicDataModule(str(file), batch_size=4))
    sbtt = aug.AugmentationStack([aug.SelectiveBackpropThruTime()], [0], [0])
    model = tiny_model(train_aug_stack=sbtt, infer_aug_stack=sbtt)
    quiet_trainer(max_epochs=1).fit(model, BasicDataModule(str(file), batch_size=4))


def test_sample_validation_end_to_end(tiny_file):
    sv = aug.AugmentationStack([aug.SampleValidation(0.3)], [0], [0])
    recorder = Recorder()
    trainer = quiet_trainer(max_epochs=1, callbacks=[recorder])
    datamodule = BasicDataModule(str(tiny_file), batch_size=4, sv_rate=0.3)
    trainer.fit(tiny_model(train_aug_stack=sv, infer_aug_stack=sv), datamodule)
    assert recorder.epochs[0]["valid/recon/sv"] > 0
    assert trainer.callback_metrics["train/recon/sv"] > 0


def test_non_finite_loss_names_the_term():
    model = tiny_model()
    bare(model)
    with torch.no_grad():
        model.encoder.ic_linear.bias[0] = torch.inf
    with pytest.raises(NonFiniteLossError, match=r"epoch 0, step 7.*wt_kl/ic = (inf|nan)"):
        model.training_step({0: (batch(), ())}, 7)


def test_own_parts_are_used():
    """A user's encoder, read-out and reconstruction replace the usual ones without other edits."""

    class OwnEncoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 6)

        def forward(self, data):
            mean = self.linear(data.mean(1))
            return mean, torch.ones_like(mean), torch.zeros(len(data), 10, 10)

        def recurrent_weights(self):
            return {}

    model = tiny_model(
        readout=[nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 5))], l2_ic_enc_scale=1.0
    )
    model.encoder = OwnEncoder()
    bare(model)
    model.training_step({0: (batch(), ())}, 0).backward()
    assert model.encoder.linear.weight.grad.abs().sum() > 0
    assert model.readout[0][0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"encod_seq_len": 12}, "model.encod_seq_len <= model.recon_seq_len"),
        ({"ic_enc_seq_len": 8}, "model.ic_enc_seq_len < model.encod_seq_len"),
        ({"dropout_rate": 1.5}, "model.dropout_rate"),
        ({"gen_dim": 0}, "model.gen_dim"),
        ({"readout": []}, "model.readout"),
    ],
)
def test_impossible_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**wrong)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_in_any_precision(tiny_file, precision):
    model = tiny_model()
    datamodule = BasicDataModule(str(tiny_file), batch_size=4)
    trainer = quiet_trainer(max_epochs=1, gradient_clip_val=200, precision=precision)
    trainer.fit(model, datamodule)
    assert trainer.global_step == 3


# ------------------------------------------------------------------ implementations


@pytest.mark.parametrize("recurrence", ["plain", "torch", "compiled", "auto"])
def test_the_model_chooses_what_is_compiled(recurrence, monkeypatch):
    called = Counter()
    choose(torch.ones(1))  # checks the library when it is first used
    call = Library.call

    def counting(library, name, *args):
        called[name] += 1
        return call(library, name, *args)

    monkeypatch.setattr(Library, "call", counting)
    model = tiny_model(recurrence=recurrence)
    bare(model)
    model.training_step({0: (batch(), ())}, 0).backward()
    expected = {"gru_forward": 4, "gru_backward": 4, "linear_forward": 1, "linear_backward": 1}
    expected |= {"decoder_forward": 1, "decoder_backward": 1, "count_inputs": 1}
    expected |= {"poisson_losses": 1, "poisson_gradient": 1, "poisson_sums": 1}
    called.pop("compress_inputs", None)
    assert called == (expected if recurrence in ("compiled", "auto") else {})


def test_a_step_is_the_same_however_it_is_run():
    """With the same noise and masks, losses, metrics and gradients agree."""
    results = []
    for recurrence in ("torch", "compiled"):
        torch.manual_seed(0)
        model = tiny_model(recurrence=recurrence).double()
        logged = bare(model)
        data = SessionBatch(*(x.double() if x is not None else None for x in batch()))
        model.training_step({0: (data, ())}, 0).backward()
        results.append((logged, {name: p.grad for name, p in model.named_parameters()}))
    (expected_log, expected), (log, grads) = results
    assert log == pytest.approx(expected_log, rel=1e-10, nan_ok=True)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("recurrence", ["plain", "torch", "compiled"])
@pytest.mark.parametrize(
    ("bins", "channels", "bins_recon", "channels_recon"),
    [(8, 3, 10, 5), (7, 4, 10, 5), (8, 4, 9, 5), (8, 4, 10, 6), (8, 4, 12, 4)],
)
def test_data_of_other_sizes_than_the_model_are_refused(
    bins, channels, bins_recon, channels_recon, recurrence
):
    model = tiny_model(recurrence=recurrence)
    bare(model)
    data = SessionBatch(torch.ones(4, bins, channels), torch.ones(4, bins_recon, channels_recon))
    for step in (model.training_step, model.validation_step):
        with pytest.raises((ValueError, RuntimeError)):
            step({0: (data, ())}, 0)
    if (bins, channels) != (8, 4):
        message = rf"encodes 8 bins.* of 4 channels .* has {bins} bins of {channels} channels"
        with pytest.raises(ValueError, match=message):
            model(data)


def test_a_reconstruction_may_change_its_parameters_in_place():
    """This also holds for large batches, whose memory is used again."""

    class Clamped(Poisson):
        def compute_loss(self, data, output_params):
            return super().compute_loss(data, output_params.clamp_(max=3.0)).mul_(1.0)

    model = tiny_model(reconstruction=[Clamped()], recurrence="compiled")
    bare(model)
    data = SessionBatch(torch.ones(6000, 8, 4), torch.ones(6000, 10, 5))
    model.training_step({0: (data, ())}, 0).backward()
    assert model.readout[0].weight.grad.isfinite().all()


def test_a_users_encoder_may_take_data_of_other_sizes():
    class Padded(nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder

        def forward(self, data):
            return self.encoder(nn.functional.pad(data, (0, 1)))

    model = tiny_model().eval()
    data = batch()
    fewer = data._replace(encod_data=data.encod_data[:, :, :3])
    with pytest.raises(ValueError, match="has 8 bins of 3 channels"):
        model(fewer)
    model.encoder = Padded(model.encoder)
    assert model(fewer)[0].factors.shape == (4, 10, 3)
