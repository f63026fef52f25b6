"""Names and arguments that programs written for the published package use.

Those of LFADS, the tuples, the data module and the read-ins and read-outs are tested in the tests
of these modules.
"""

import importlib
import inspect
import subprocess
import sys

import pytest

from lfads_torch.model import LFADS

# The leading arguments of each name, in their order. Further ones may follow; None: no callable
# arguments are used (a base class, or a name that is only imported).
PUBLISHED = {
    "lfads_torch.tuples": {
        "SessionBatch": "encod_data recon_data ext_input truth sv_mask",
        "SessionOutput": (
            "output_params factors ic_mean ic_std co_means co_stds gen_states gen_init "
            "gen_inputs con_states"
        ),
    },
    "lfads_torch.model": {"LFADS": "encod_data_dim encod_seq_len recon_seq_len ext_input_dim"},
    "lfads_torch.datamodules": {
        "BasicDataModule": (
            "datafile_pattern batch_keys attr_keys batch_size reshuffle_tv_seed "
            "reshuffle_tv_ratio sv_rate sv_seed dm_ic_enc_seq_len"
        ),
        "SessionDataset": "",
        "attach_tensors": "",
        "reshuffle_train_valid": "",
        "to_tensor": "",
        "MANDATORY_KEYS": None,
    },
    "lfads_torch.modules.augmentations": {
        "AugmentationStack": "transforms batch_order loss_order",
        "CoordinatedDropout": "cd_rate cd_pass_rate ic_enc_seq_len",
        "SelectiveBackpropThruTime": "",
        "SpikeJitter": "width",
        "TemporalShift": "std max_shift",
        "SampleValidation": "sv_rate ic_enc_seq_len recon_reduce_mean",
    },
    "lfads_torch.modules.recurrent": {
        "ClippedGRUCell": "input_size hidden_size clip_value is_encoder",
        "ClippedGRU": "input_size hidden_size clip_value",
        "BidirectionalClippedGRU": "input_size hidden_size clip_value",
    },
    "lfads_torch.modules.encoder": {"Encoder": None},
    "lfads_torch.modules.decoder": {
        "Decoder": None,
        "DecoderRNN": None,
        "DecoderCell": None,
        "KernelNormalizedLinear": "in_features out_features bias",
    },
    "lfads_torch.modules.priors": {
        "Null": "",
        "MultivariateNormal": "mean variance shape",
        "AutoregressiveMultivariateNormal": "tau nvar shape",
        "MultivariateStudentT": "loc scale df shape",
    },
    "lfads_torch.modules.recons": {
        "Reconstruction": None,
        "Poisson": "",
        "PoissonBPS": "",
        "MSE": "",
        "Gaussian": "",
        "Gamma": "",
        "ZeroInflatedGamma": "recon_dim gamma_loc scale_init scale_prior scale_penalty",
        "MultisessionReconstruction": "datafile_pattern recon",
    },
    "lfads_torch.modules.readin_readout": {
        "FanInLinear": "in_features out_features bias",
        "MultisessionReadin": "datafile_pattern out_features pcr_init requires_grad",
        "MultisessionReadout": "datafile_pattern in_features pcr_init requires_grad recon_params",
    },
    "lfads_torch.modules.initializers": {"init_linear_": "linear"},
    "lfads_torch.modules.l2": {"compute_l2_penalty": "lfads hps"},
    "lfads_torch.run_model": {
        "run_model": "overrides checkpoint_dir config_path do_train do_posterior_sample"
    },
    "lfads_torch.post_run.analysis": {
        "run_posterior_sampling": "model datamodule filename num_samples"
    },
    "lfads_torch.post_run.pbt": {"read_pbt_hps": "pbt_dir", "plot_pbt_hps": "pbt_dir plot_field"},
    "lfads_torch.metrics": {
        "r2_score": "preds targets",
        "bits_per_spike": "preds targets",
        "regional_bits_per_spike": "preds targets encod_data_dim encod_seq_len",
        "ExpSmoothedMetric": "coef",
    },
    "lfads_torch.callbacks": {
        "RasterPlot": "split n_samples log_every_n_epochs",
        "TrajectoryPlot": "log_every_n_epochs",
    },
    "lfads_torch.extensions.nlb": {"NLBEvaluation": "log_every_n_epochs decoding_cv_sweep"},
    "lfads_torch.extensions.tune": {
        "HyperParam": "min_samp max_samp init sample_fn explore_wt enforce_limits",
        "BinaryTournamentPBT": "",
        "ImprovementRatioStopper": "num_trials",
        "EarlyStoppingWithBurnInPeriod": "",
        "read_pbt_fitlog": "pbt_dir",
    },
    "lfads_torch.utils": {"flatten": "", "transpose_lists": "", "send_batch_to_device": ""},
}

DEFAULTS = {
    ("lfads_torch.modules.augmentations", "SpikeJitter"): {"width": 2},
    ("lfads_torch.modules.augmentations", "TemporalShift"): {"std": 3.0, "max_shift": 6},
    ("lfads_torch.run_model", "run_model"): {
        "checkpoint_dir": None, "config_path": "../configs/single.yaml", "do_train": True,
        "do_posterior_sample": True,
    },
    ("lfads_torch.post_run.analysis", "run_posterior_sampling"): {"num_samples": 50},
    ("lfads_torch.callbacks", "RasterPlot"): {
        "split": "valid", "n_samples": 3, "log_every_n_epochs": 100,
    },
    ("lfads_torch.callbacks", "TrajectoryPlot"): {"log_every_n_epochs": 100},
    ("lfads_torch.extensions.nlb", "NLBEvaluation"): {
        "log_every_n_epochs": 20, "decoding_cv_sweep": False,
    },
    ("lfads_torch.extensions.tune", "HyperParam"): {
        "init": None, "sample_fn": "loguniform", "explore_wt": 0.2, "enforce_limits": False,
    },
    ("lfads_torch.modules.readin_readout", "MultisessionReadin"): {
        "out_features": None, "pcr_init": True, "requires_grad": False,
    },
    ("lfads_torch.modules.readin_readout", "MultisessionReadout"): {
        "in_features": None, "pcr_init": True, "requires_grad": True, "recon_params": 1,
    },
}  # fmt: skip


def names():
    return [(module, name) for module, members in PUBLISHED.items() for name in members]


@pytest.mark.parametrize(("module", "name"), names())
def test_name_and_arguments(module, name):
    found = getattr(importlib.import_module(module), name)
    arguments = PUBLISHED[module][name]
    if arguments is None:
        return
    parameters = inspect.signature(found).parameters
    expected = arguments.split()
    assert list(parameters)[: len(expected)] == expected
    for further in list(parameters.values())[len(expected) :]:
        # Later arguments are new, so older programs do not pass them.
        if arguments and name != "LFADS":
            assert further.default is not further.empty or further.kind == further.VAR_KEYWORD
    for argument, default in DEFAULTS.get((module, name), {}).items():
        assert parameters[argument].default == default, argument


METHODS = {
    "forward": "self batch sample_posteriors output_means",
    "predict_step": "self batch batch_idx sample_posteriors",
    "training_step": "self batch batch_idx",
    "validation_step": "self batch batch_idx",
    "configure_optimizers": "self",
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_of_the_model(name):
    assert list(inspect.signature(getattr(LFADS, name)).parameters) == METHODS[name].split()


def test_optional_packages_are_not_imported_with_the_published_modules():
    """Ray, nlb_tools and the like are heavy or not installed: they are imported where used."""
    modules = ["lfads_torch", *PUBLISHED]
    code = (
        f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
        "found = {'ray', 'nlb_tools', 'pandas', 'sklearn', 'wandb'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_and_the_sweep_history_import_no_drawing():
    """PyTorch Lightning imports Matplotlib itself, so only modules without it can be tested."""
    code = (
        "import sys, lfads_torch, lfads_torch.post_run.pbt, lfads_torch.tuples\n"
        "assert 'matplotlib' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
