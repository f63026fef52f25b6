"""Checkpoints of the published implementation, which pickle the parts of a model.

They are read as inert records of their state, from which recipes of the parts are made.
"""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lfads_torch.recipes import describe, find_class, is_within


class InertObject(dict):  # type: ignore[type-arg]
    """A record of the state of a pickled object, whose class is not imported."""

    target = ""

    @classmethod
    def standing_for(cls, target: str) -> type["InertObject"]:
        """Return a class whose instances are records of objects of the class ``target``."""
        return type("InertObject", (cls,), {"target": target})

    def __new__(cls, *args: Any, **kwargs: Any) -> "InertObject":
        """Make an empty record; the arguments of the pickled object's class are ignored."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


def published_recipes(
    saved: Mapping[str, Any], state_dict: Mapping[str, Tensor], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe the parts of a published model from its pickled objects or its weights.

    Parameters
    ----------
    saved
        The constructor's arguments in the checkpoint, with inert records in place of objects.
    state_dict
        The weights.
    overrides
        Arguments that replace those in the checkpoint. There is no warning about these.

    Returns
    -------
    dict
        The recipe of each part, by the name of the constructor's argument.
    """
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
    """Describe a linear map by its weights, or the identity if there are none."""
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
    """Describe a pickled object of the published implementation; None if its class is unknown."""
    if isinstance(value, list | tuple):
        items = [_inert_recipe(item) for item in value]
        return None if None in items else items
    if not isinstance(value, InertObject):
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
    if not is_within(value.target, ("lfads_torch",)):
        return {"_target_": value.target, "_lacks_": "__init__"}
    cls = find_class(value.target)
    if cls is None:
        return None
    recipe: dict[str, Any] = {"_target_": value.target}
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in state:
            item = state[name]
            recipe[name] = (
                _inert_recipe(item) if isinstance(item, InertObject | list) else describe(item)
            )
        elif parameter.default is parameter.empty:
            return {"_target_": value.target, "_lacks_": name}
    return recipe
