"""Base classes of cells, generators and encoders, and functions that make and query parts.

Your own part derives from :class:`Cell`, :class:`Generator` or :class:`BaseEncoder`, or is any
module with the same methods. The defaults of these classes replace optional methods that it lacks:
none of its weights is penalised, and it runs step by step. ``docs/parts.md`` has worked examples.

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
    :meth:`fused_weights` by a cell that computes the same as a clipped GRU. The constructor
    receives those of the arguments ``input_size``, ``hidden_size`` and ``clip_value`` that it has;
    in the decoder also ``dropout_rate`` and ``cell_clip`` (the same as ``clip_value``), in the
    encoder also ``is_encoder=True``.
    """

    input_size: int
    """D, the number of inputs."""
    hidden_size: int
    """H, the number of units."""

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
            (B, H) state after the previous bin.

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

        With None, the default, the cell runs step by step. The weights do not describe a derived
        class that overrides :meth:`forward`. The classes of this library therefore return weights
        only for instances of exactly the class itself, without hooks.
        """
        return None


class Generator(Cell):
    """The dynamics: a cell from whose output the factors are read.

    Its state starts at ``ic_to_g0`` of the initial condition, and its inputs are the inferred and
    then the measured ones. Must be overridden: :meth:`forward`. May be overridden:
    :meth:`output` and ``output_size``, and the methods that a :class:`Cell` may override.
    """

    @property
    def output_size(self) -> int:
        """Number of features that :meth:`output` returns, H by default."""
        return self.hidden_size

    def output(self, state: Tensor) -> Tensor:
        """Return the output (B, output_size), from which the factors are read, of a state (B, H).

        By default it is the state itself. A rate network whose state is a voltage returns its
        firing rates here.
        """
        return state


class BaseEncoder(nn.Module, ABC):
    """Base class of encoders, which infer the initial condition and the controller's inputs.

    Must be overridden: :meth:`forward`. May be overridden: :meth:`recurrent_weights` and
    :meth:`l2_scales`. The constructor receives those of the model's arguments
    (``encod_data_dim``, ``encod_seq_len``, ``recon_seq_len``, ``ic_enc_seq_len``, ``ic_dim``,
    ``ci_enc_dim``, ``dropout_rate``, …) that it has, and ``use_con`` (whether there is a
    controller).
    """

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, data: Tensor) -> EncoderOutput:
        """Encode data (B, T_enc, N_enc), after the augmentations and the read-in.

        If ``ic_enc_seq_len`` is above 0, the initial condition must not depend on bins from that
        one on, and the controller's inputs must not depend on bins before it.
        """

    def recurrent_weights(self) -> dict[str, list[Tensor]]:
        """Return the weights that L2 penalties count, by the name of the penalty.

        ``ic_enc`` and ``ci_enc`` are scaled by the model's ``l2_ic_enc_scale`` and
        ``l2_ci_enc_scale``, any other group by :meth:`l2_scales`. By default there are none.
        """
        return {}

    def l2_scales(self) -> dict[str, float]:
        """Return the scales of those groups of weights for which the model has no argument."""
        return {}


# ------------------------------------------------------------------ making parts


def make_part(name: str, spec: Spec, default: Callable[..., nn.Module], **known: Any) -> nn.Module:
    """Make a part of the model.

    Parameters
    ----------
    name
        Its key in the configuration, such as ``model.decoder.generator``, which messages name.
    spec
        None makes the default part. A module is used as it is. A class, or anything else that makes
        a module (``functools.partial(LowRankGenerator, rank=3)``), is called with those of the
        ``known`` arguments that it takes and that are not set in it. If a class takes ``**kwargs``,
        the arguments of its base class are included. A mapping holds arguments of the default part.
    default
        The default class, which belongs to this library.
    **known
        Sizes and options that the model knows.

    Raises
    ------
    UserError
        If the specification is none of these, if it lacks an argument or has an unknown one, or if
        it makes something other than a module.
    """
    if isinstance(spec, nn.Module):
        return spec
    if spec is None or isinstance(spec, Mapping):
        spec = functools.partial(default, **(spec or {}))
    if not callable(spec):
        raise UserError(
            f"{name} must be a configuration with a _target_, a class or a module, but is {spec!r}."
        )
    preset = spec.keywords if isinstance(spec, functools.partial) else {}
    parameters, takes_all = constructor_parameters(spec)
    for key in preset:
        if key not in parameters and not takes_all:
            raise UserError(
                f"{name}.{key} is not an argument of {_name_of(spec)}."
                f"{did_you_mean(key, parameters)} It takes: {', '.join(parameters)}."
            )
    arguments = {
        key: value
        for key, value in known.items()
        if key not in preset and (takes_all or key in parameters)
    }
    lacking = [
        key
        for key, p in parameters.items()
        if p.default is p.empty and key not in arguments and key not in preset
    ]
    if lacking:
        raise UserError(
            f"{name} lacks the arguments {', '.join(lacking)}, which the model does not know: set "
            f"them next to its _target_. The model knows {', '.join(known)}."
        )
    part = spec(**arguments)
    if not isinstance(part, nn.Module):
        raise UserError(f"{name} must make a torch.nn.Module, but made {type(part).__name__}.")
    return part


def constructor_parameters(
    factory: Callable[..., Any],
) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the arguments that a callable takes by name, and whether it takes any others.

    A class whose constructor ends in ``**kwargs`` passes these to the constructor of its base
    class, so its arguments are those of both. It takes any others only if the arguments of no base
    class are known.
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
        base_parameters = inspect.signature(base).parameters
        inherited = {name: p for name, p in base_parameters.items() if p.kind not in variadic}
        parameters = inherited | parameters
        if not any(p.kind is p.VAR_KEYWORD for p in base_parameters.values()):
            return parameters, not inherited
    return parameters, True


def _bound(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Return a partial without its keyword arguments, and anything else unchanged."""
    if isinstance(factory, functools.partial):
        return functools.partial(factory.func, *factory.args)
    return factory


def _name_of(factory: Callable[..., Any]) -> str:
    """Return the name of a class or a function, or of that in a partial."""
    made = factory.func if isinstance(factory, functools.partial) else factory
    return str(getattr(made, "__name__", made))


# ------------------------------------------------------------------ asking parts


def declared(part: nn.Module, name: str, base: type[nn.Module]) -> Callable[..., Any]:
    """Return a method of a part, or that of ``base`` if the part does not have it.

    Parameters
    ----------
    part
        The part.
    name
        The name of the method.
    base
        The base class, such as :class:`Cell`, whose method is the default.
    """
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
    """Return weight and bias of a module that is a plain linear map with a bias, otherwise None.

    This is a function, because :class:`torch.nn.Linear` has no such method.
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
