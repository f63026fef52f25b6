"""Parts of a configuration that make an object: nodes with a ``_target_``, and their arguments."""

import inspect
from collections.abc import Iterator
from typing import Any

import hydra
from omegaconf import DictConfig, ListConfig

from lfads_torch.errors import UserError

HYDRA_KEYS = ("_target_", "_convert_", "_recursive_", "_partial_", "_args_")
"""Keys of such a node that Hydra uses itself, so that they are not arguments of the target."""


def find_targets(node: Any, key: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Yield every node with a ``_target_`` in a configuration, with its dotted key."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield key, node
        for name in node:
            yield from find_targets(node[name], f"{key}.{name!s}".lstrip("."))
    elif isinstance(node, ListConfig):
        for i, item in enumerate(node):
            yield from find_targets(item, f"{key}.{i}")


def import_target(target: str, key: str) -> Any:
    """Return the class or function that a ``_target_`` names.

    Raises
    ------
    UserError
        If it cannot be imported; the message names ``key``.
    """
    try:
        return hydra.utils.get_object(target)
    except Exception as error:
        raise UserError(f"{key} = {target!r} cannot be imported: {error}") from error


def parameters_of(target: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters that a class or function takes, by name."""
    # A torch module without a constructor inherits one whose signature accepts any argument, but
    # which raises an error for any argument.
    if getattr(getattr(target, "__init__", None), "__qualname__", "") == "Module.__init__":
        return {}
    return dict(inspect.signature(target).parameters)


def takes_any_keyword(parameters: dict[str, inspect.Parameter]) -> bool:
    """Return whether parameters end in ``**kwargs``."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def takes(node: Any, argument: str) -> bool:
    """Return whether the object that a node makes has a parameter of this name."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return False
    return argument in parameters_of(import_target(node._target_, "model"))
