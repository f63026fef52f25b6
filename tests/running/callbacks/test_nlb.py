"""The scores during training are those that the benchmark's own code computes."""

import sys

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from nlb_tools.evaluation import evaluate

from lfads_torch.data.sessions import load_session
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.datasets.nlb.registry import import_nlb_tools
from lfads_torch.modules.readin_readout import FanInLinear
from lfads_torch.modules.recons import Gaussian, Poisson
from lfads_torch.running.callbacks import NLBEvaluation
from lfads_torch.tuples import SessionBatch
from tests.conftest import tiny_model
from tests.datasets.nlb.benchmark import N_ENC, N_TRIALS, T_ENC, T_REC, N, benchmark_arrays, write

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:.*log_device_order.*"),
]


def fit(files, callback, n_sessions=1, epochs=2, ckpt=None, recon=Poisson, root=None, **dm):
    torch.manual_seed(0)
    datamodule = BasicDataModule(str(files), batch_size=12, **dm)
    model = tiny_model(
        readin=[torch.nn.Identity() for _ in range(n_sessions)],
        readout=[FanInLinear(3, 5 * recon().n_params) for _ in range(n_sessions)],
        reconstruction=[recon() for _ in range(n_sessions)],
    )
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[callback], logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        num_sanity_val_steps=1, log_every_n_steps=1, default_root_dir=root,
    )  # fmt: skip
    trainer.fit(model, datamodule, ckpt_path=ckpt)
    return trainer, model, datamodule


def by_hand(model, arrays, group):
    """Score a model with nlb_tools from the arrays of its data file."""
    model.eval()
    rates = {}
    for split in ("train", "valid"):
        batch = session_batch(arrays, split)
        with torch.no_grad():
            rates[split] = model({0: batch})[0].output_params.double().numpy()
    recon = arrays["valid_recon_data"].astype(float)
    heldout = recon[:, :T_ENC, N_ENC:].copy()
    target = {
        "eval_spikes_heldin_forward": recon[:, T_ENC:, :N_ENC],
        "eval_spikes_heldout_forward": recon[:, T_ENC:, N_ENC:],
        "train_behavior": arrays["train_behavior"], "eval_behavior": arrays["valid_behavior"],
    }  # fmt: skip
    if "valid_score_mask" in arrays:
        heldout[arrays["valid_score_mask"] == 0] = np.nan
        target["eval_jitter"] = arrays["valid_jitter"]
    else:
        target["train_decode_mask"] = arrays["train_decode_mask"]
        target["eval_decode_mask"] = arrays["valid_decode_mask"]
    if "psth" in arrays:
        target |= {"psth": arrays["psth"], "eval_cond_idx": arrays["valid_cond_idx"]}
    target["eval_spikes_heldout"] = heldout
    submission = {
        "train_rates_heldin": rates["train"][:, :T_ENC, :N_ENC],
        "train_rates_heldout": rates["train"][:, :T_ENC, N_ENC:],
        "eval_rates_heldin": rates["valid"][:, :T_ENC, :N_ENC],
        "eval_rates_heldout": rates["valid"][:, :T_ENC, N_ENC:],
        "eval_rates_heldin_forward": rates["valid"][:, T_ENC:, :N_ENC],
        "eval_rates_heldout_forward": rates["valid"][:, T_ENC:, N_ENC:],
    }
    ((result,),) = ([*d.values()] for d in evaluate({group: target}, {group: submission}))
    names = {"co-bps": "co_bps", "fp-bps": "fp_bps", "vel R2": "behavior_r2", "psth R2": "psth_r2"}
    return {({**names, "tp corr": "tp_corr"})[key]: value for key, value in result.items()}


def session_batch(arrays, split):
    encod = torch.tensor(arrays[f"{split}_encod_data"])
    empty = torch.zeros(len(encod), 0, 0)
    return SessionBatch(encod, empty, torch.zeros(len(encod), T_ENC, 0), empty, empty)


EXPECTED = {
    "mc_maze": {"co_bps", "fp_bps", "behavior_r2", "psth_r2"},
    "mc_rtt": {"co_bps", "fp_bps", "behavior_r2"},
    "dmfc_rsg": {"co_bps", "fp_bps", "tp_corr", "psth_r2"},
}


@pytest.mark.parametrize("dataset", EXPECTED)
@pytest.mark.filterwarnings("ignore:.*scores that.*does not allow.*")
def test_scores_are_those_of_nlb_tools_called_by_hand(tmp_path, dataset):
    arrays = benchmark_arrays(dataset)
    path = write(tmp_path / "data.h5", arrays)
    # After epochs 0 and 1, the logged scores are those of the final weights.
    trainer, model, _ = fit(path, NLBEvaluation(1, decoding_cv_sweep=True))
    logged = {k.removeprefix("nlb/"): float(v) for k, v in trainer.callback_metrics.items()
              if k.startswith("nlb/") and "_smth" not in k}  # fmt: skip
    expected = by_hand(model, arrays, dataset)
    assert set(logged) == EXPECTED[dataset] == set(expected)
    for name, value in expected.items():
        assert np.isfinite(value)
        assert logged[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name
    assert {f"nlb/{name}_smth" for name in expected} < set(trainer.callback_metrics)


def test_training_is_the_same_without_it(tmp_path):
    path = write(tmp_path / "data.h5", benchmark_arrays())
    states = [
        fit(path, callback, epochs=2)[1].state_dict()
        for callback in (NLBEvaluation(1), pl.Callback())
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def logged(files, epochs, every, root, ckpt=None):
    """Train, and return the scores that are logged after each validation, and the trainer."""
    rows = {}

    class Spy(NLBEvaluation):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                rows[trainer.current_epoch] = {
                    key: float(value)
                    for key, value in trainer.logged_metrics.items()
                    if key.startswith("nlb/")
                }

    trainer, _, _ = fit(files, Spy(every), epochs=epochs, ckpt=ckpt, root=root)
    return rows, trainer


def test_every_n_epochs_and_smoothed(tmp_path):
    path = write(tmp_path / "data.h5", benchmark_arrays())
    rows, _ = logged(path, 5, 2, tmp_path)
    fresh = [rows[epoch] for epoch in (0, 2, 4)]
    smoothed = None
    for row in fresh:
        value = row["nlb/co_bps"]
        smoothed = value if smoothed is None else 0.3 * smoothed + 0.7 * value
        assert row["nlb/co_bps_smth"] == pytest.approx(smoothed, rel=1e-6)
    assert len({row["nlb/co_bps"] for row in fresh}) == 3
    # There is no evaluation in the other epochs.
    assert rows[1] in ({}, rows[0])
    assert rows[3] in ({}, rows[2])


def test_smoothed_scores_are_in_the_checkpoint(tmp_path):
    path = write(tmp_path / "data.h5", benchmark_arrays())
    _, trainer = logged(path, 2, 1, tmp_path)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    state = torch.load(tmp_path / "half.ckpt", weights_only=True)["callbacks"]
    assert any("co_bps" in callback for callback in state.values())
    rows, _ = logged(path, 3, 1, tmp_path, ckpt=tmp_path / "half.ckpt")
    (key,) = (key for key, value in state.items() if "co_bps" in value)
    expected = 0.3 * state[key]["co_bps"]["smoothed"] + 0.7 * rows[2]["nlb/co_bps"]
    assert rows[2]["nlb/co_bps_smth"] == pytest.approx(expected, rel=1e-6)


def test_every_session_has_its_scores(tmp_path):
    both = [benchmark_arrays(seed=seed) for seed in (1, 2)]
    for i, arrays in enumerate(both):
        write(tmp_path / f"s{i}.h5", arrays)
    trainer, model, _ = fit(tmp_path / "s?.h5", NLBEvaluation(1, True), n_sessions=2)
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    for name in EXPECTED["mc_maze"]:
        for suffix in ("", "_smth"):
            sessions = [metrics[f"nlb/{name}{suffix}/sess{s}"] for s in range(2)]
            assert metrics[f"nlb/{name}{suffix}"] == pytest.approx(np.mean(sessions), rel=1e-6)
    # The scores of the second session are computed by hand with its own read-out.
    model.readout[0], model.readin[0] = model.readout[1], model.readin[1]
    expected = by_hand(model, both[1], "mc_maze")
    for name, value in expected.items():
        assert metrics[f"nlb/{name}/sess1"] == pytest.approx(value, rel=2e-5, abs=2e-6)


def test_test_trials_are_not_used(tmp_path):
    arrays = benchmark_arrays()
    rng = np.random.default_rng(9)
    paths = []
    for seed in (1, 2):
        counts = rng.poisson(seed, (7, T_REC, N)).astype("float32")
        test = {"test_encod_data": counts[:, :T_ENC, :N_ENC], "test_recon_data": counts}
        paths.append(write(tmp_path / f"d{seed}.h5", {**arrays, **test}))
    one, other = ((logged(path, 1, 1, tmp_path))[0][0] for path in paths)
    assert one == other
    assert "nlb/co_bps" in one


def test_shuffled_trials_keep_their_conditions(tmp_path):
    arrays = benchmark_arrays()
    path = write(tmp_path / "data.h5", arrays)
    trainer, model, _ = fit(
        path, NLBEvaluation(1, True), reshuffle_tv_seed=5, batch_keys=["behavior"]
    )
    shuffled = load_session(path, 5)
    condition = np.empty(sum(N_TRIALS.values()))
    for split, first in (("train", 0), ("valid", N_TRIALS["train"])):
        for i, trials in enumerate(arrays[f"{split}_cond_idx"]):
            condition[first + trials] = i
    order = np.random.default_rng(5).permutation(len(condition))[N_TRIALS["train"] :]
    shuffled["valid_cond_idx"] = np.empty(3, dtype=object)
    for i in range(3):
        shuffled["valid_cond_idx"][i] = np.flatnonzero(condition[order] == i)
    expected = by_hand(model, shuffled, "mc_maze")
    for name, value in expected.items():
        value_logged = float(trainer.callback_metrics[f"nlb/{name}"])
        assert value_logged == pytest.approx(value, rel=2e-5, abs=2e-6), name


def test_arrays_that_cannot_be_shuffled(tmp_path):
    path = write(tmp_path / "data.h5", without("train_jitter")(benchmark_arrays("dmfc_rsg")))
    with pytest.raises(ValueError, match=r"data\.h5 holds valid_jitter only for validation trials"):
        fit(path, NLBEvaluation(1), reshuffle_tv_seed=5)


def test_validation_without_training(tmp_path):
    path = write(tmp_path / "data.h5", benchmark_arrays())
    trainer, model, datamodule = fit(path, NLBEvaluation(1))
    fitted = {k: float(v) for k, v in trainer.callback_metrics.items()
              if k.startswith("nlb/") and "_smth" not in k}  # fmt: skip
    trainer.validate(model, datamodule, verbose=False)
    again = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("nlb/")}
    assert again == pytest.approx(fitted)


def without(*keys, **replaced):
    return lambda arrays: {
        **{key: value for key, value in arrays.items() if key not in keys}, **replaced
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("train_behavior"), "has no train_behavior, which .*scripts/prepare_nlb.py"),
        (without("train_decode_mask"), "has no train_decode_mask"),
        (without("valid_cond_idx"), "has no valid_cond_idx"),
        (
            without(valid_behavior=np.zeros((18, 7, 2))),
            r"valid_behavior in .*data.h5 must be of shape \(18, 8, any\), but is \(18, 7, 2\)",
        ),
        (without(psth=np.zeros((3, 8, 4))), r"psth in .* must be of shape \(any, 8, 5\)"),
        (without(psth=np.zeros((2, 8, 5))), "psth has 2 conditions"),
        (
            lambda arrays: {
                key: value[:, :T_ENC, :N_ENC] if value.ndim == 3 else value
                for key, value in arrays.items()
                if key.endswith(("encod_data", "recon_data"))
            },
            "can score nothing in .*data.h5",
        ),
    ],
)
def test_incomplete_data_are_named(tmp_path, change, message):
    path = write(tmp_path / "data.h5", change(benchmark_arrays()))
    model = tiny_model()
    if "nothing" in message:
        model = tiny_model(recon_seq_len=8, readout=[FanInLinear(3, 4)])
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[NLBEvaluation()], logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        trainer.fit(model, BasicDataModule(str(path), batch_size=12))
    assert trainer.global_step == 0


def test_scores_that_the_data_do_not_allow_are_named(tmp_path):
    keys = ("train_score_mask", "valid_score_mask", "psth", "train_cond_idx", "valid_cond_idx")
    path = write(tmp_path / "data.h5", without(*keys)(benchmark_arrays("dmfc_rsg")))
    with pytest.warns(UserWarning, match="does not allow") as warned:
        trainer, _, _ = fit(path, NLBEvaluation(1), epochs=1)
    (text,) = (str(w.message) for w in warned if "does not allow" in str(w.message))
    assert "tp_corr (no valid_score_mask" in text
    assert "psth_r2 (no psth)" in text
    scored = {key for key in trainer.callback_metrics if key.startswith("nlb/")}
    assert scored == {"nlb/co_bps", "nlb/fp_bps", "nlb/co_bps_smth", "nlb/fp_bps_smth"}


def test_models_of_other_data_than_counts(tmp_path):
    path = write(tmp_path / "data.h5", benchmark_arrays())
    with pytest.raises(ValueError, match=r"needs a model of spike counts, such as model\.recon"):
        fit(path, NLBEvaluation(1), recon=Gaussian)


def test_without_nlb_tools(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nlb_tools.evaluation", None)
    with pytest.raises(ImportError, match=r"pip install --no-deps nlb_tools==0\.0\.4"):
        import_nlb_tools("evaluation")
    path = write(tmp_path / "data.h5", benchmark_arrays())
    with pytest.raises(ImportError, match=r"pip install --no-deps nlb_tools==0\.0\.4"):
        fit(path, NLBEvaluation(1))


def test_arguments():
    with pytest.raises(ValueError, match="log_every_n_epochs must be at least 1, but is 0"):
        NLBEvaluation(0)
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    with pytest.raises(ValueError, match="BasicDataModule"):
        NLBEvaluation().setup(trainer, tiny_model(), "fit")
