"""Base classes of cells, generators and encoders, and how the model makes and queries parts.

A part of your own derives from :class:`Cell`, :class:`Generator` or :class:`BaseEncoder`, or is any
module with the same methods. Methods that it lacks are taken from these classes: no weight of it is
penalised, and it is run step by step. ``docs/parts.md`` has worked examples.

Shapes: B trials, T bins, D inputs, H units.
"""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from lfads_torch.errors import UserError, did_you_mean
from lfads_torch.recurrence import GRUWeights
from lfads_torch.tuples import EncoderOutput

Spec = nn.Module | Callable[..., nn.Module] | Mapping[str, Any] | None
"""The ways in which a part may be specified, see :func:`make_part`."""


class Cell(nn.Module, ABC):
    """One step of a recurrence, from one bin to the next. The controller is a cell.

    Must be overridden: :meth:`forward`. May be overridden: :meth:`recurrent_weights`, and
    :meth:`fused_weights` by a cell that is a clipped GRU in other words. The constructor is given
    those of ``input_size``, ``hidden_size`` and ``clip_value`` that it names; in the decoder also
    ``dropout_rate`` and ``cell_clip`` (the same as ``clip_value``), in the encoder also
    ``is_encoder=True``.
    """

    input_size: int
    """D."""
    hidden_size: int
    """H."""

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, input: Tensor, hidden: Tensor) -> Tensor:
        """Return the next state.

        Parameters
        ----------
        input
            (B, D) input of the bin. D may be 0.
        hidden
            (B, H) state after the bin before.

        Returns
        -------
        Tensor
            (B, H) state after the bin.
        """

    def recurrent_weights(self) -> list[Tensor]:
        """Return the weights that the L2 penalty of this cell counts; none by default."""
        return []

    def fused_weights(self) -> GRUWeights | None:
        """Return the weights with which a fused GRU computes exactly what this cell computes.

        None, the default, has the cell run step by step. A class that overrides :meth:`forward`
        has to answer for itself, so a class of this library answers only for instances of exactly
        this class without hooks.
        """
        return None


class Generator(Cell):
    """The dynamics: a cell whose output the factors are read from.

    Its state starts at ``ic_to_g0`` of the initial condition, and its inputs are the inferred and
    then the measured ones. Must be overridden: :meth:`forward`. May be overridden:
    :meth:`output` and ``output_size``, and what :class:`Cell` allows.
    """

    @property
    def output_size(self) -> int:
        """Features that :meth:`output` has, H by default."""
        return self.hidden_size

    def output(self, state: Tensor) -> Tensor:
        """Return what the factors are read from, (B, output_size), given the state (B, H).

        By default it is the state itself. A rate network whose state is a voltage returns its
        firing rates here.
        """
        return state


class BaseEncoder(nn.Module, ABC):
    """From the data to the posterior of the initial condition and the controller's inputs.

    Must be overridden: :meth:`forward`. May be overridden: :meth:`recurrent_weights` and
    :meth:`l2_scales`. The constructor is given those of the model's own arguments
    (``encod_data_dim``, ``encod_seq_len``, ``recon_seq_len``, ``ic_enc_seq_len``, ``ic_dim``,
    ``ci_enc_dim``, ``dropout_rate``, …) that it names, and ``use_con``: whether there is a
    controller.
    """

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, data: Tensor) -> EncoderOutput:
        """Encode data (B, T_enc, N_enc), after the augmentations and the read-in.

        The initial condition must not depend on bins from ``ic_enc_seq_len`` on, and the
        controller's inputs must not depend on bins before, where that is above 0.
        """

    def recurrent_weights(self) -> dict[str, list[Tensor]]:
        """Return the weights that L2 penalties count, by the name of the penalty.

        ``ic_enc`` and ``ci_enc`` are scaled by the model's ``l2_ic_enc_scale`` and
        ``l2_ci_enc_scale``, any other group by :meth:`l2_scales`. Empty by default.
        """
        return {}

    def l2_scales(self) -> dict[str, float]:
        """Return the scales of groups in :meth:`recurrent_weights` that the model does not know."""
        return {}


# ------------------------------------------------------------------ making parts


def make_part(name: str, spec: Spec, default: Callable[..., nn.Module], **known: Any) -> nn.Module:
    """Make a part of the model.

    Parameters
    ----------
    name
        Where it sits, ``model.decoder.generator``; for messages.
    spec
        None makes the default. A module is taken as it is. A class, or anything else that makes a
        module (``functools.partial(LowRankGenerator, rank=3)``), is called with those of the
        ``known`` arguments that it takes and that are not set in it; what a class takes as
        ``**kwargs`` is handed to its base class, whose arguments count, too. A mapping holds
        arguments of the default.
    default
        The class of this library.
    **known
        Sizes and options that the model knows.

    Raises
    ------
    UserError
        If the specification is none of these, lacks an argument or has an unknown one, or makes
        something that is no module.
    """
    if isinstance(spec, nn.Module):
        return spec
    if spec is None or isinstance(spec, Mapping):
        spec = functools.partial(default, **(spec or {}))
    if not callable(spec):
        raise UserError(
            f"{name} must be a configuration with a _target_, a class or a module, but is {spec!r}."
        )
    already = spec.keywords if isinstance(spec, functools.partial) else {}
    parameters, takes_all = constructor_parameters(spec)
    for key in already:
        if key not in parameters and not takes_all:
            raise UserError(
                f"{name}.{key} is no argument of {_name_of(spec)}.{did_you_mean(key, parameters)} "
                f"It takes: {', '.join(parameters)}."
            )
    handed = {
        key: value
        for key, value in known.items()
        if key not in already and (takes_all or key in parameters)
    }
    lacking = [
        key
        for key, p in parameters.items()
        if p.default is p.empty and key not in handed and key not in already
    ]
    if lacking:
        raise UserError(
            f"{name} lacks the arguments {', '.join(lacking)}, which the model does not know: set "
            f"them beside its _target_. The model knows {', '.join(known)}."
        )
    part = spec(**handed)
    if not isinstance(part, nn.Module):
        raise UserError(f"{name} must make a torch.nn.Module, but made {type(part).__name__}.")
    return part


def constructor_parameters(
    factory: Callable[..., Any],
) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the arguments that something takes by name, and whether it takes any others.

    A class that ends in ``**kwargs`` hands these to the constructor of its base class, so its
    arguments are those of both; it takes any others only if no base class names some.
    """
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    own = inspect.signature(_bound(factory)).parameters
    parameters = {name: p for name, p in own.items() if p.kind not in variadic}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in own.values())
    cls = factory.func if isinstance(factory, functools.partial) else factory
    if not (takes_all and isinstance(cls, type)):
        return parameters, takes_all
    constructors = [base for base in cls.__mro__ if "__init__" in vars(base)]
    for base in constructors[1:]:
        if base in (nn.Module, object):
            break
        theirs = inspect.signature(base).parameters
        inherited = {name: p for name, p in theirs.items() if p.kind not in variadic}
        parameters = inherited | parameters
        if not any(p.kind is p.VAR_KEYWORD for p in theirs.values()):
            return parameters, not inherited
    return parameters, True


def _bound(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Return a partial with its positional arguments alone; anything else as it is."""
    if isinstance(factory, functools.partial):
        return functools.partial(factory.func, *factory.args)
    return factory


def _name_of(factory: Callable[..., Any]) -> str:
    made = factory.func if isinstance(factory, functools.partial) else factory
    return str(getattr(made, "__name__", made))


# ------------------------------------------------------------------ asking parts


def declared(part: nn.Module, name: str, base: type[nn.Module]) -> Callable[..., Any]:
    """Return a method of a part; that of ``base`` if the part does not have it."""
    method: Callable[..., Any] | None = getattr(part, name, None)
    return functools.partial(getattr(base, name), part) if method is None else method


def runs_as_defined(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Return whether calling a module runs the ``forward`` of a class and nothing else.

    A part of this library asks this about itself before it declares that a fused implementation
    computes the same. Instances of derived classes, hooks and replaced methods do not
    qualify.
    """
    # A forward that was put into the class afterwards knows the names of another file.
    file = getattr(cls.forward, "__globals__", {}).get("__name__")
    return type(module) is cls and file == cls.__module__ and _is_unchanged(module)


def linear_weights(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Return weight and bias of a linear map that has both and does nothing else, otherwise None.

    A :class:`torch.nn.Linear` cannot say this about itself.
    """
    if (
        isinstance(module, nn.Linear)
        and type(module).forward is nn.Linear.forward
        and module.bias is not None
        and _is_unchanged(module)
    ):
        return module.weight, module.bias
    return None


def _is_unchanged(module: nn.Module) -> bool:
    """Return whether a module has no hooks, and no attributes in the place of its methods."""
    cls = type(module)
    return (
        not any(callable(getattr(cls, name, None)) for name in vars(module))
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not module._backward_hooks
        and not module._backward_pre_hooks
        and not _has_any_global_hook()
    )
