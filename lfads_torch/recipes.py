"""Describes objects by plain values, as configuration files do, and builds them again.

A recipe is a dictionary with the name of the object's class under ``_target_`` and the arguments of
its constructor.
"""

import functools
import importlib
import inspect
from collections.abc import Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

from lfads_torch.errors import UserError
from lfads_torch.modules.parts import constructor_parameters

TRUSTED = ("lfads_torch", "torch.nn")
"""Packages whose classes are always trusted, so that recipes may build them."""


def describe(value: Any) -> Any:
    """Describe an object by plain values from which :func:`build` makes an equal one.

    An object is described by its class and the arguments of its constructor, which are looked up
    as attributes of the same names. If one is missing, the description contains this, and building
    fails with an explanation.
    """
    if isinstance(value, Tensor | np.ndarray | np.generic):  # np.float64 is a float, too
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | nn.ModuleList):
        return [describe(item) for item in value]
    if isinstance(
        value, type | functools.partial | FunctionType | BuiltinFunctionType | MethodType
    ):
        return _describe_factory(value)
    cls = type(value)
    recipe: dict[str, Any] = {"_target_": f"{cls.__module__}.{cls.__qualname__}"}
    if isinstance(value, nn.Sequential) and cls.__init__ is nn.Sequential.__init__:
        return recipe | {"_args_": [describe(module) for module in value]}
    names, others = _argument_names(cls)
    if others:
        found = getattr(value, others, None)
        if not isinstance(found, Mapping):
            return {"_target_": recipe["_target_"], "_lacks_": others}
        recipe |= describe(found)
    for name in names:
        if name in ("device", "dtype"):
            continue
        if not hasattr(value, name):
            return {"_target_": recipe["_target_"], "_lacks_": name}
        # Layers of torch.nn have a tensor or None as the attribute of a boolean argument (bias).
        flag = name == "bias" and isinstance(value, nn.Module)
        recipe[name] = value.bias is not None if flag else describe(getattr(value, name))
    if isinstance(value, nn.Module):
        parameters = list(value.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            recipe["_frozen_"] = True
    return recipe


def _argument_names(cls: Any) -> tuple[list[str], str]:
    """Return the names of a constructor's arguments, and of what takes others; "" if none does.

    Arguments that a constructor hands on to that of a base class have names. Those that
    constructors of PyTorch take without a name have no effect (:class:`torch.nn.Identity`).
    """
    try:
        own = inspect.signature(cls).parameters
        parameters, takes_others = constructor_parameters(cls)
    except ValueError:  # it is not written in Python
        return [], "__init__"
    variadic = [p.name for p in own.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    handed_on = not takes_others and not parameters.keys() <= own.keys()
    if handed_on or is_within(getattr(cls.__init__, "__module__", ""), TRUSTED):
        variadic = []
    return list(parameters), variadic[-1] if variadic else ""


def _describe_factory(factory: Any) -> dict[str, Any]:
    """Describe a class, a function or a partial of one as Hydra describes a partial.

    The description of a function only serves to name it in messages: :func:`build` calls none.
    """
    partial = factory if isinstance(factory, functools.partial) else functools.partial(factory)
    function: Any = partial.func
    recipe: dict[str, Any] = {"_target_": f"{function.__module__}.{function.__qualname__}"}
    recipe |= {"_partial_": True, **describe(partial.keywords)}
    return recipe | ({"_args_": describe(partial.args)} if partial.args else {})


def build(recipe: Any, name: str, trusted: Sequence[str] = ()) -> Any:
    """Build the object that a recipe describes.

    Parameters
    ----------
    recipe
        The recipe, as :func:`describe` returned it.
    name
        The constructor's argument that the object is for, which messages name.
    trusted
        Packages whose classes may be built, in addition to those of lfads_torch and torch.nn.

    Raises
    ------
    ValueError
        If the class belongs to another package, or if the recipe is incomplete.
    """
    if isinstance(recipe, list):
        return [build(item, name, trusted) for item in recipe]
    if isinstance(recipe, Mapping) and "_target_" not in recipe:
        return {key: build(value, name, trusted) for key, value in recipe.items()}
    if not isinstance(recipe, Mapping):
        return recipe
    target = recipe["_target_"]
    remedy = f"pass {name}=… to load_from_checkpoint"
    if "_lacks_" in recipe:
        raise UserError(
            f"The checkpoint cannot rebuild {target} (its attribute {recipe['_lacks_']!r}, named "
            f"like the argument of its constructor, did not exist): {remedy}."
        )
    packages = (*TRUSTED, *trusted)
    module_name = target.rpartition(".")[0]
    if not is_within(module_name, packages):
        package = module_name.split(".")[0]
        raise UserError(
            f"The checkpoint names {target} for {name}, which is not rebuilt from a file by "
            f"itself: if you trust that package, pass trusted=[{package!r}] (--trusted {package} "
            f"of a command), or {remedy}."
        )
    cls = find_class(target)
    if cls is None or not is_within(cls.__module__, packages):
        raise UserError(
            f"The checkpoint names {target} for {name}, but there is no such class: {remedy}."
        )
    arguments = {
        key: build(value, name, trusted)
        for key, value in recipe.items()
        if key not in ("_target_", "_args_", "_frozen_", "_partial_")
    }
    positional = build(recipe.get("_args_", []), name, trusted)
    if recipe.get("_partial_"):
        return functools.partial(cls, *positional, **arguments)
    try:
        made = cls(*positional, **arguments)
    except TypeError as error:
        raise UserError(f"The checkpoint cannot rebuild {target} ({error}): {remedy}.") from error
    return made.requires_grad_(False) if recipe.get("_frozen_") else made


def find_class(target: str) -> type | None:
    """Import a class by its full name; return None if there is no such class."""
    module_name, _, class_name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) else None


def is_within(module_name: str, packages: Sequence[str]) -> bool:
    """Return whether a module is one of several packages or inside of one."""
    return any(f"{module_name}.".startswith(f"{package}.") for package in packages)
