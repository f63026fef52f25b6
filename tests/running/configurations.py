"""Configurations for tests: packaged ones for a tiny file, and those of a user."""

from lfads_torch.running.compose import (
    compose,
    format_overrides,
)
from tests.conftest import TINY_SIZES

MODULES = "lfads_torch.modules"


def generic(*overrides, file="tiny.h5"):
    """Compose the generic model for the tiny file in the current folder."""
    data = ["model=generic", "datamodule=generic", f"datamodule.datafile_pattern={file}"]
    return compose("single.yaml", [*data, *TINY_SIZES, *overrides])


RECONS = {
    "Poisson": {}, "PoissonBPS": {}, "MSE": {}, "Gaussian": {}, "Gamma": {},
    "ZeroInflatedGamma": {"gamma_loc": 0.1, "scale_init": 1.0, "scale_prior": 1.0,
                          "scale_penalty": 0.1},
}  # fmt: skip


def recon_override(name, **arguments):
    recon = {"_target_": f"{MODULES}.recons.{name}", **RECONS[name], **arguments}
    return format_overrides({"model.reconstruction": [recon]})[0]


PUBLISHED = {
    "configs/single.yaml": """
        defaults:
          - _self_
          - datamodule: mydata
          - model: mymodel
          - callbacks: [checkpoint, lr_monitor]
          - logger: [csv]
        seed: 0
        trainer:
          _target_: pytorch_lightning.Trainer
          gradient_clip_val: 200
          max_epochs: 7
          log_every_n_steps: 5
          gpus: 0
          enable_progress_bar: false
        posterior_sampling:
          use_best_ckpt: true
          fn:
            _target_: lfads_torch.running.sampling.run_posterior_sampling
            _partial_: true
            filename: lfads_output.h5
            num_samples: 50
    """,
    "configs/datamodule/mydata.yaml": """
        _target_: lfads_torch.datamodules.BasicDataModule
        datafile_pattern: ${relpath:mydata/*.h5}
        batch_keys: [behavior]
        attr_keys: [psth, train_cond_idx]
        batch_size: 4
        reshuffle_tv_seed: null
        reshuffle_tv_ratio: null
        sv_rate: 0.0
        sv_seed: 0
        dm_ic_enc_seq_len: ${model.ic_enc_seq_len}
    """,
    "configs/model/mymodel.yaml": """
        _target_: lfads_torch.model.LFADS
        encod_data_dim: 4
        encod_seq_len: 8
        recon_seq_len: 10
        ext_input_dim: 0
        ic_enc_seq_len: 0
        ic_enc_dim: 6
        ci_enc_dim: 5
        ci_lag: 1
        con_dim: 4
        co_dim: 2
        ic_dim: 6
        gen_dim: 9
        fac_dim: 3
        readin:
          - _target_: torch.nn.Identity
        readout:
          _target_: torch.nn.ModuleList
          modules:
            - _target_: lfads_torch.modules.readin_readout.FanInLinear
              in_features: ${model.fac_dim}
              out_features: 5
        train_aug_stack:
          _target_: lfads_torch.modules.augmentations.AugmentationStack
          transforms:
            - _target_: lfads_torch.modules.augmentations.CoordinatedDropout
              cd_rate: 0.4
              cd_pass_rate: 0.0
              ic_enc_seq_len: ${model.ic_enc_seq_len}
          batch_order: [0]
          loss_order: [0]
        infer_aug_stack:
          _target_: lfads_torch.modules.augmentations.AugmentationStack
        reconstruction:
          - _target_: lfads_torch.modules.recons.Poisson
        variational: true
        co_prior:
          _target_: lfads_torch.modules.priors.AutoregressiveMultivariateNormal
          tau: 10.0
          nvar: 0.1
          shape: ${model.co_dim}
        ic_prior:
          _target_: lfads_torch.modules.priors.MultivariateNormal
          mean: 0
          variance: 0.1
          shape: ${model.ic_dim}
        ic_post_var_min: 1.0e-4
        dropout_rate: 0.02
        cell_clip: 5.0
        loss_scale: 1.0e+4
        recon_reduce_mean: true
        lr_scheduler: false
        lr_init: 4.0e-3
        lr_stop: 1.0e-5
        lr_decay: 0.95
        lr_patience: 6
        lr_adam_beta1: 0.9
        lr_adam_beta2: 0.999
        lr_adam_epsilon: 1.0e-8
        weight_decay: 0.0
        l2_start_epoch: 0
        l2_increase_epoch: 80
        l2_ic_enc_scale: 0.0
        l2_ci_enc_scale: 0.0
        l2_gen_scale: 0.1
        l2_con_scale: 0.1
        kl_start_epoch: 0
        kl_increase_epoch: 80
        kl_ic_scale: 1.0e-6
        kl_co_scale: 1.0e-6
    """,
    "configs/callbacks/lr_monitor.yaml": """
        my_lr_monitor:
          _target_: pytorch_lightning.callbacks.LearningRateMonitor
          logging_interval: step
    """,
}


def write_texts(folder, texts):
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        path.write_text("\n".join(line[indent:] for line in lines) + "\n")
