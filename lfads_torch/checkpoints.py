"""Checkpoints that rebuild a model, and that can be read without executing code from them.

A checkpoint holds only tensors and plain values. Recipes describe the objects from which the model
was constructed (read-ins, priors, augmentations and so on), see :mod:`lfads_torch.recipes`. The
class of every module is recorded too. Therefore a module that was put in by hand is rebuilt or
reported, and its weights are never loaded into another class. Checkpoints of the published
implementation pickle objects instead, see :mod:`lfads_torch.published_checkpoints`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lfads_torch.errors import MissingFileError, UserError
from lfads_torch.modules.parts import constructor_parameters
from lfads_torch.published_checkpoints import InertObject, published_recipes
from lfads_torch.recipes import TRUSTED, build, describe, find_class, is_within

__all__ = [
    "check_modules",
    "constructor_arguments",
    "describe_arguments",
    "describe_modules",
    "load_checkpoint",
    "load_model",
    "load_weights",
    "model_class",
    "restore_modules",
]


def load_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Tensors and plain values are read normally. Objects of any other class become inert records
    of their state.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a checkpoint of an LFADS model.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"There is no checkpoint {path} (looked from {Path.cwd()}).")
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        record_classes: Any = [(InertObject.standing_for(name), name) for name in foreign]
        with torch.serialization.safe_globals(record_classes):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        raise UserError(f"{path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of a model: it has no 'state_dict'.")
    return checkpoint


def load_model(
    cls: type,
    parts: Sequence[str],
    path: str | Path,
    map_location: Any,
    strict: bool,
    trusted: Sequence[str],
    modules: Mapping[str, nn.Module],
    overrides: Mapping[str, Any],
) -> Any:
    """Rebuild the model of a checkpoint, with its weights.

    The parameters are those of :meth:`lfads_torch.model.LFADS.load_from_checkpoint`, and in
    addition the class of the model (``cls``) and the names of the constructor's arguments that are
    objects (``parts``).
    """
    checkpoint = load_checkpoint(path, map_location)
    cls = model_class(cls, checkpoint, trusted)
    model = cls(**constructor_arguments(cls, checkpoint, parts, overrides, trusted))
    given = ["recon" if name == "reconstruction" else name for name in overrides]
    restore_modules(model, checkpoint, modules, given, trusted)
    model.load_state_dict(checkpoint["state_dict"], strict=strict)
    # Modules that were given on purpose may differ from those that were saved.
    model.on_load_checkpoint({k: v for k, v in checkpoint.items() if k != "lfads_modules"})
    return model.to(map_location)


def constructor_arguments(
    cls: type,
    checkpoint: Mapping[str, Any],
    parts: Sequence[str],
    overrides: Mapping[str, Any],
    trusted: Sequence[str],
) -> dict[str, Any]:
    """Return the arguments with which to construct the model of a checkpoint.

    Parameters
    ----------
    cls
        The model's class.
    checkpoint
        The checkpoint, as :func:`load_checkpoint` returned it.
    parts
        Names of the arguments that are objects.
    overrides
        Arguments that replace those in the checkpoint.
    trusted
        See :func:`build`.

    Raises
    ------
    ValueError
        If an argument is neither in the checkpoint nor in ``overrides``, or cannot be rebuilt.
    """
    saved = dict(checkpoint.get("hyper_parameters", {}))
    recipes = checkpoint.get("lfads_parts")
    if recipes is None:
        recipes = published_recipes(saved, checkpoint["state_dict"], overrides)
    names, _ = constructor_parameters(cls)
    arguments = {
        name: saved[name]
        for name in names
        if name in saved and name not in parts and not isinstance(saved[name], InertObject)
    }
    arguments |= {
        name: build(recipe, name, trusted)
        for name, recipe in recipes.items()
        if name in names and name not in overrides
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


def model_class(cls: type, checkpoint: Mapping[str, Any], trusted: Sequence[str]) -> type:
    """Return the class of the model to build: ``cls``, or the derived class that was saved.

    Raises
    ------
    UserError
        If a derived class was saved whose package is not trusted.
    """
    saved = checkpoint.get("lfads_modules", {}).get("", {}).get("class", _name(cls))
    if saved in {_name(base) for base in cls.__mro__}:
        return cls
    package = saved.split(".")[0]
    remedy = (
        f"call load_from_checkpoint of {saved.rpartition('.')[2]}, or pass trusted=[{package!r}] "
        f"(--trusted {package} of a command)"
    )
    if not is_within(saved.rpartition(".")[0], (*TRUSTED, *trusted)):
        raise UserError(
            f"The checkpoint holds a model of the class {saved}, not {_name(cls)}: {remedy}."
        )
    found = find_class(saved)
    if found is None or not issubclass(found, cls):
        raise UserError(
            f"The checkpoint holds a model of the class {saved}, which is not to be found as a "
            f"class derived from {_name(cls)}: {remedy}."
        )
    return found


# ------------------------------------------------------------------ modules


def describe_arguments(checkpoint: dict[str, Any]) -> None:
    """Put recipes in the place of arguments that are not plain values, in place.

    A class derived from the model may have such arguments, which would be pickled otherwise.
    """
    saved = checkpoint.get("hyper_parameters", {})
    plain = {name: v.item() if isinstance(v, np.generic) else v for name, v in saved.items()}
    objects = {name: value for name, value in plain.items() if not _is_plain(value)}
    checkpoint["lfads_parts"] |= {name: describe(value) for name, value in objects.items()}
    checkpoint["hyper_parameters"] = {n: v for n, v in plain.items() if n not in objects}


def _is_plain(value: Any) -> bool:
    """Return whether a value can be read from a file without executing anything in it."""
    if type(value) is dict:
        return all(_is_plain(item) for item in (*value, *value.values()))
    if type(value) in (list, tuple):
        return all(_is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str, Tensor)


def describe_modules(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the class and the recipe of every module by its path; parents come first."""
    return {
        path: {"class": _name(_class(module)), "recipe": describe(module) if path else None}
        for path, module in model.named_modules()
    }


def restore_modules(
    model: nn.Module,
    checkpoint: Mapping[str, Any],
    modules: Mapping[str, nn.Module],
    given: Sequence[str],
    trusted: Sequence[str],
) -> None:
    """Replace, in place, the modules that differ from those that were saved.

    Parameters
    ----------
    model
        The model, as its constructor made it.
    checkpoint
        The checkpoint, as :func:`load_checkpoint` returned it.
    modules
        Modules to use in place of the saved ones, by their paths in the model.
    given
        Names of the parts that were given to the constructor, which are not replaced.
    trusted
        Packages whose classes may be built, in addition to those of lfads_torch and torch.nn.

    Raises
    ------
    UserError
        If a module cannot be rebuilt, or if the model has no module at one of the given paths.
    """
    for path, module in modules.items():
        _set_module(model, path, module)
    for path, saved, built in _differences(model, checkpoint, [*given, *modules]):
        remedy = f"pass modules={{{path!r}: …}} to load_from_checkpoint"
        recipe = saved.get("recipe")
        package = saved["class"].split(".")[0]
        if is_within(saved["class"], (*TRUSTED, *trusted)):
            reason = "whose constructor's arguments it does not hold"
        else:
            reason = "which is not rebuilt from a file by itself"
            remedy = (
                f"pass trusted=[{package!r}] (--trusted {package} of a command) if you trust that "
                f"package, or {remedy}"
            )
        try:
            made = build(recipe, path, trusted)
        except UserError:
            made = None
        if not isinstance(made, nn.Module) or _name(type(made)) != saved["class"]:
            raise UserError(
                f"The checkpoint holds a {saved['class']} at {path}, {reason}, and the model has "
                f"{built} there: {remedy}."
            )
        _set_module(model, path, made)


def check_modules(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Raise a UserError if the modules of a model are not those of the saved model."""
    for path, saved, built in _differences(model, checkpoint, []):
        raise UserError(
            f"The checkpoint holds a {saved['class']} at {path}, but the model has {built} there: "
            f"its weights would mean something else. Make the model with the part that was saved."
        )


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load the weights of a checkpoint into a model with the same modules.

    Raises
    ------
    FileNotFoundError, UserError
        If there is no such checkpoint, or if its model has other modules.
    """
    checkpoint = load_checkpoint(path)
    check_modules(model, checkpoint)
    model.load_state_dict(checkpoint["state_dict"])


def _differences(
    model: nn.Module, checkpoint: Mapping[str, Any], given: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the path, the saved description and the present class of each module that differs.

    The parts in ``given`` and the modules inside them are left out. Parents come before their
    children, and a module is only looked up when the iteration reaches it: a caller may replace a
    parent that differs, and then sees how the children of the replacement differ.
    """
    for path, saved in checkpoint.get("lfads_modules", {}).items():
        if not path or any(f"{path}.".startswith(f"{place}.") for place in given):
            continue
        built = _module_at(model, path)
        if built is None:
            yield path, saved, "nothing"
        elif not _is_named(_class(built), saved["class"]):
            yield path, saved, f"a {_name(_class(built))}"


def _class(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module, and ModuleList for lists that do nothing but hold modules.

    The read-ins, read-outs and reconstructions of several sessions are made by classes that derive
    from ModuleList. Once they are made, nothing but the modules in them matters.
    """
    holds_only = isinstance(module, nn.ModuleList) and type(module).forward is nn.ModuleList.forward
    return nn.ModuleList if holds_only else type(module)


def _is_named(cls: type[nn.Module], name: str) -> bool:
    """Return whether a full name is that of a class, or another one by which it can be imported.

    Only packages are imported that the class may come from: a file must not choose others.
    """
    if _name(cls) == name:
        return True
    package = cls.__module__.split(".")[0]
    return is_within(name, (*TRUSTED, package)) and find_class(name) is cls


def _module_at(model: nn.Module, path: str) -> nn.Module | None:
    """Return the module at a path in the model, or None if there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _set_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Replace the module at a path in the model."""
    parent_path, _, name = path.rpartition(".")
    parent = _module_at(model, parent_path) if parent_path else model
    if parent is None:
        raise UserError(f"There is no place {path} in the model to put a module.")
    parent.register_module(name, module)


def _name(cls: type) -> str:
    """Return the full name of a class, with its module."""
    return f"{cls.__module__}.{cls.__qualname__}"
