"""Checks of a resolved configuration: completeness, names of keys, the model's arguments.

Each check raises a :class:`~lfads_torch.errors.UserError` that names the key and the remedy.
Arguments of older versions are translated here as well.
"""

import re
import warnings
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf, open_dict

from lfads_torch.errors import UserError, did_you_mean
from lfads_torch.running.targets import (
    HYDRA_KEYS,
    find_targets,
    import_target,
    parameters_of,
    takes_any_keyword,
)

_REMOVED_TRAINER_ARGUMENTS = (
    "gpus",
    "track_grad_norm",
    "weights_summary",
    "progress_bar_refresh_rate",
    "resume_from_checkpoint",
    "checkpoint_callback",
    "auto_select_gpus",
)


def check_complete(config: DictConfig) -> None:
    """Raise a UserError if values are missing (``???``)."""
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"The configuration leaves out {', '.join(missing)}: give their values.")


def check_keys(config: DictConfig) -> None:
    """Raise a UserError for arguments that the objects of the configuration do not take.

    Loggers are not checked, because a logger that cannot be made does not stop training, see
    :func:`lfads_torch.running.training.train`. The sweep is not checked either:
    :mod:`lfads_torch.sweeps` does this, and its search space has keys that users choose.
    """
    names = [str(name) for name in config if name not in ("logger", "sweep")]
    for key, node in find_targets(OmegaConf.masked_copy(config, names)):
        parameters = parameters_of(import_target(node._target_, f"{key}._target_"))
        if takes_any_keyword(parameters):
            continue
        for name in (str(name) for name in node if name not in HYDRA_KEYS):
            if name not in parameters:
                raise UserError(
                    f"{key}.{name} is not an argument of {node._target_}."
                    f"{did_you_mean(name, parameters)} It takes: {', '.join(parameters)}."
                )


def check_model(model: DictConfig) -> None:
    """Raise a UserError if the model lacks arguments that do not follow from the data."""
    if "_target_" not in model:
        raise UserError("The model's configuration leaves out _target_: lfads_torch.model.LFADS.")
    parameters = parameters_of(import_target(model._target_, "model._target_"))
    lacking = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is not parameter.VAR_KEYWORD
        and model.get(name) is None
    ]
    if lacking:
        raise UserError(
            f"The model's configuration leaves out {', '.join(lacking)}. Start from the packaged "
            f"model/base.yaml (defaults: [base, _self_]), which has them all."
        )


def drop_inherited_arguments(config: DictConfig, packaged: Sequence[DictConfig]) -> None:
    """Remove, in place, arguments that a part inherited from the part that it replaces.

    Hydra merges a part in the user's configuration with the part of the same name in the
    ``packaged`` models on which configurations are built. The arguments are merged too, even if the
    class of the part is a different one, which may not take them.
    """
    if not isinstance(config.get("model"), DictConfig):
        return
    for key, node in find_targets(config.model):
        replaced = [
            part
            for part in (model.get(key) for model in packaged)
            if isinstance(part, DictConfig) and part._target_ != node._target_
        ]
        if not replaced:
            continue
        parameters = parameters_of(import_target(node._target_, f"model.{key}._target_"))
        if takes_any_keyword(parameters):
            continue
        with open_dict(node):
            for name in {str(name) for part in replaced for name in part}:
                if name in node and name not in (*HYDRA_KEYS, *parameters):
                    del node[name]


def translate_trainer_arguments(config: DictConfig) -> None:
    """Remove, in place, trainer arguments of Lightning 1.6 that no longer exist, with a warning.

    ``gpus`` is translated to ``accelerator`` and ``devices``.
    """
    trainer = config.get("trainer")
    if not isinstance(trainer, DictConfig):
        return
    with open_dict(trainer):
        removed = {
            name: trainer.pop(name) for name in _REMOVED_TRAINER_ARGUMENTS if name in trainer
        }
        if not removed:
            return
        if "gpus" in removed:
            trainer.setdefault("accelerator", "gpu" if removed["gpus"] else "cpu")
            trainer.setdefault("devices", removed["gpus"] or 1)
    warnings.warn(
        f"Today's Lightning has no trainer.{', trainer.'.join(removed)}: they are ignored"
        f"{' except that gpus chooses the accelerator' if 'gpus' in removed else ''}.",
        stacklevel=3,
    )


def warn_if_unregularised(config: DictConfig) -> None:
    """Warn if all L2 and KL scales of a variational model are 0."""
    model = config.model
    scales = [name for name in model if re.fullmatch(r"(l2|kl)_\w+_scale", str(name))]
    if scales and model.get("variational") and not any(model[name] for name in scales):
        warnings.warn(
            "All L2 and KL scales of the model are 0: it trains without regularisation. This file "
            "is meant for sweeps; for a single run set, for example, model.kl_ic_scale=1e-5 "
            "model.kl_co_scale=1e-5, or use model=generic.",
            stacklevel=3,
        )
