"""Checkpoints that rebuild a model, and that can be read without executing what is in them.

A checkpoint holds tensors and plain values only. What the model was constructed from — read-ins,
priors, augmentations and so on — is described as configuration files describe it: by a
``_target_`` and its arguments. Checkpoints of the published implementation pickle such objects
instead; they are read as inert records, from which the arguments are taken.
"""

import importlib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lfads_torch.errors import MissingFileError, UserError

_TRUSTED = ("lfads_torch", "torch.nn")


def describe(value: Any) -> Any:
    """Describe an object by plain values from which :func:`build` makes one like it.

    An object is described by its class and the arguments of its constructor, which are looked up
    as attributes of the same names. Where one is missing, the description says so, and building
    fails with an explanation.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | nn.ModuleList):
        return [describe(item) for item in value]
    cls = type(value)
    recipe: dict[str, Any] = {"_target_": f"{cls.__module__}.{cls.__qualname__}"}
    if isinstance(value, nn.Sequential):
        return recipe | {"_args_": [describe(module) for module in value]}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in ("device", "dtype"):
            continue
        if not hasattr(value, name):
            return {"_target_": recipe["_target_"], "_lacks_": name}
        # The layers of torch.nn have a tensor or None where their argument is a flag.
        flag = name == "bias" and isinstance(value, nn.Module)
        recipe[name] = value.bias is not None if flag else describe(getattr(value, name))
    if isinstance(value, nn.Module):
        parameters = list(value.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            recipe["_frozen_"] = True
    return recipe


def build(recipe: Any, name: str, trusted: Sequence[str] = ()) -> Any:
    """Make what :func:`describe` described.

    Parameters
    ----------
    recipe
        The description.
    name
        The constructor's argument that it is for, to be named in messages.
    trusted
        Packages whose classes may be made besides those of lfads_torch and torch.nn.

    Raises
    ------
    ValueError
        If the class is of another package, or was not described completely.
    """
    if isinstance(recipe, list):
        return [build(item, name, trusted) for item in recipe]
    if not isinstance(recipe, Mapping) or "_target_" not in recipe:
        return recipe
    target = recipe["_target_"]
    remedy = f"pass {name}=… to load_from_checkpoint"
    if "_lacks_" in recipe:
        raise UserError(
            f"The checkpoint cannot rebuild {target} (its attribute {recipe['_lacks_']!r}, named "
            f"like the argument of its constructor, did not exist): {remedy}."
        )
    packages = (*_TRUSTED, *trusted)
    module_name = target.rpartition(".")[0]
    if not _within(module_name, packages):
        raise UserError(
            f"The checkpoint names {target} for {name}, which is not rebuilt from a file by "
            f"itself: if you trust that package, pass trusted=[{module_name.split('.')[0]!r}], or "
            f"{remedy}."
        )
    cls = _find_class(target)
    if cls is None or not _within(cls.__module__, packages):
        raise UserError(f"The checkpoint names {target} for {name}, but there is no such class.")
    arguments = {
        key: build(value, name, trusted)
        for key, value in recipe.items()
        if key not in ("_target_", "_args_", "_frozen_")
    }
    made = cls(*build(recipe.get("_args_", []), name, trusted), **arguments)
    return made.requires_grad_(False) if recipe.get("_frozen_") else made


def _find_class(target: str) -> type | None:
    module_name, _, class_name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) else None


def _within(module_name: str, packages: Sequence[str]) -> bool:
    return any(f"{module_name}.".startswith(f"{package}.") for package in packages)


class _Inert(dict):  # type: ignore[type-arg]
    """Stands for a pickled object of a class that is not loaded; holds its state."""

    target = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


def load_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Tensors and plain values are read as they are. Objects of any other class become inert records
    of their state.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no checkpoint of an LFADS model.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"There is no checkpoint {path} (looked from {Path.cwd()}).")
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        stand_ins: Any = [(type("_Inert", (_Inert,), {"target": name}), name) for name in foreign]
        with torch.serialization.safe_globals(stand_ins):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        raise UserError(f"{path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is no checkpoint of a model: it has no 'state_dict'.")
    return checkpoint


def constructor_arguments(
    cls: type,
    checkpoint: Mapping[str, Any],
    parts: Sequence[str],
    overrides: Mapping[str, Any],
    trusted: Sequence[str],
) -> dict[str, Any]:
    """Return what to construct the model of a checkpoint with.

    Parameters
    ----------
    cls
        The model's class.
    checkpoint
        As :func:`load_checkpoint` returned it.
    parts
        Names of the arguments that are objects.
    overrides
        Arguments that replace those in the checkpoint.
    trusted
        See :func:`build`.

    Raises
    ------
    ValueError
        If an argument is in neither, or cannot be rebuilt.
    """
    saved = dict(checkpoint.get("hyper_parameters", {}))
    recipes = checkpoint.get("lfads_parts")
    if recipes is None:
        recipes = _published_recipes(saved, checkpoint["state_dict"], overrides)
    names = inspect.signature(cls).parameters
    arguments = {name: saved[name] for name in names if name in saved and name not in parts}
    arguments |= {
        name: build(recipes[name], name, trusted) for name in parts if name not in overrides
    }
    arguments |= overrides
    lacking = [
        name
        for name, parameter in names.items()
        if name not in arguments and parameter.default is parameter.empty
    ]
    if lacking:
        raise UserError(
            f"The checkpoint holds no {', '.join(lacking)}: pass them to load_from_checkpoint."
        )
    return arguments


# ------------------------------------------------------------ the published implementation


def _published_recipes(
    saved: Mapping[str, Any], state_dict: Mapping[str, Tensor], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe the parts of a published model from its pickled objects or its weights."""
    sessions = sorted({key.split(".")[1] for key in state_dict if key.startswith("readout.")})
    recipes = {
        "readin": [_linear_recipe(state_dict, f"readin.{s}") for s in sessions],
        "readout": [_linear_recipe(state_dict, f"readout.{s}") for s in sessions],
        "ic_prior": _prior_recipe(state_dict, "ic_prior"),
        "co_prior": _prior_recipe(state_dict, "co_prior"),
    }
    defaults = {
        "reconstruction": [{"_target_": "lfads_torch.modules.recons.Poisson"}] * len(sessions),
        "train_aug_stack": {"_target_": "lfads_torch.modules.augmentations.AugmentationStack"},
        "infer_aug_stack": {"_target_": "lfads_torch.modules.augmentations.AugmentationStack"},
    }
    for name, default in defaults.items():
        recipe = _inert_recipe(saved.get(name))
        if not recipe and name not in overrides:
            warnings.warn(
                f"The checkpoint does not say what {name} was: {default} is assumed. Pass "
                f"{name}=… to load_from_checkpoint if it was something else.",
                stacklevel=4,
            )
        recipes[name] = recipe or default
    for name in ("ic_prior", "co_prior"):
        recipes[name] = _inert_recipe(saved.get(name)) or recipes[name]
    return recipes


def _linear_recipe(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    weight = state_dict.get(f"{prefix}.weight")
    if weight is None:
        return {"_target_": "torch.nn.Identity"}
    return {
        "_target_": "lfads_torch.modules.readin_readout.FanInLinear",
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": f"{prefix}.bias" in state_dict,
    }


def _prior_recipe(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Describe a prior by the weights that it has."""
    keys = {key.removeprefix(f"{prefix}.") for key in state_dict if key.startswith(f"{prefix}.")}
    package = "lfads_torch.modules.priors"
    if not keys:
        return {"_target_": f"{package}.Null"}
    if keys == {"mean", "logvar"}:
        shape = list(state_dict[f"{prefix}.mean"].shape)
        return {
            "_target_": f"{package}.MultivariateNormal",
            "mean": 0.0,
            "variance": state_dict[f"{prefix}.logvar"].exp().tolist(),
            "shape": shape,
        }
    if keys == {"logtaus", "lognvars"}:
        return {
            "_target_": f"{package}.AutoregressiveMultivariateNormal",
            "tau": state_dict[f"{prefix}.logtaus"].exp().tolist(),
            "nvar": state_dict[f"{prefix}.lognvars"].exp().tolist(),
            "shape": len(state_dict[f"{prefix}.logtaus"]),
        }
    return {"_target_": f"{package}.{prefix}", "_lacks_": "df"}


def _inert_recipe(value: Any) -> Any:
    """Describe a pickled object of the published implementation; None where it is unknown."""
    if isinstance(value, list | tuple):
        items = [_inert_recipe(item) for item in value]
        return None if None in items else items
    if not isinstance(value, _Inert):
        return value
    state = {**value.state, **value.state.get("_parameters", {})}
    class_name = value.target.rpartition(".")[2]
    if class_name == "ModuleList":
        return _inert_recipe(list(state["_modules"].values()))
    if class_name == "AugmentationStack" and "transforms" not in state:
        on_batch, on_loss = state.get("batch_transforms", []), state.get("loss_transforms", [])
        transforms = list(dict.fromkeys([*on_batch, *on_loss]))
        state["transforms"] = transforms
        state["batch_order"] = [transforms.index(transform) for transform in on_batch]
        state["loss_order"] = [transforms.index(transform) for transform in on_loss]
    if class_name == "CoordinatedDropout" and "cd_pass_rate" not in state:
        passing = state.get("cd_pass_dist")
        state["cd_pass_rate"] = float(passing.state["probs"]) if passing is not None else 0.0
    if "logvar" in state:
        state["variance"] = state["logvar"].exp()
        state["shape"] = list(state["logvar"].shape)
    if "logtaus" in state:
        state["tau"], state["nvar"] = state["logtaus"].exp(), state["lognvars"].exp()
        state["shape"] = len(state["logtaus"])
    if "logscale" in state:
        state["scale"], state["shape"] = state["logscale"].exp(), list(state["logscale"].shape)
    if not _within(value.target, ("lfads_torch",)):
        return {"_target_": value.target, "_lacks_": "__init__"}
    cls = _find_class(value.target)
    if cls is None:
        return None
    recipe: dict[str, Any] = {"_target_": value.target}
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in state:
            item = state[name]
            recipe[name] = (
                _inert_recipe(item) if isinstance(item, _Inert | list) else describe(item)
            )
        elif parameter.default is parameter.empty:
            return {"_target_": value.target, "_lacks_": name}
    return recipe
