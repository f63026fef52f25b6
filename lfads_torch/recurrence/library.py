"""The compiled library as Python sees it: its structures, and calls of its functions.

Structures are declared here as ``kernels/*.h`` declare them, field by field; when the library is
opened, their sizes are compared with those that the compiler gave them.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lfads_torch.recurrence import build

SUFFIXES = {torch.float32: "float", torch.float64: "double"}
"""The suffix of the functions for each dtype."""

_INT, _POINTER, _DOUBLE = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double


def _structure(name: str, *groups: tuple[str, Any]) -> Any:
    """Declare a structure, given names of fields, separated by spaces, and their types."""
    fields = [(field, kind) for names, kind in groups for field in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


GRUSizes = _structure(
    "GRUSizes",
    ("trials bins inputs units input_trial input_bin grad_bin grad_trial", _INT),
    ("reverse clips threads", _INT),
    ("clip", _DOUBLE),
)
DecoderSizes = _structure(
    "DecoderSizes",
    ("trials repeats bins ci con co ext gen fac ci_trial ci_bin ext_trial ext_bin", _INT),
    ("clips_con clips_gen threads", _INT),
    ("clip scale", _DOUBLE),
)
DecoderArrays = _structure(
    "DecoderArrays",
    ("ci ext con_ih con_hh con_bias co_weight co_bias gen_ih gen_hh gen_bias", _POINTER),
    ("fac_weight noise keep_f keep_g", _POINTER),
    ("gen_states con_states factors co co_stds gen_inputs gen_gates con_gates", _POINTER),
)
DecoderGradients = _structure(
    "DecoderGradients",
    ("incoming", _POINTER * 6),
    ("bin trial", _INT * 6),
    ("gen_0 con_0 fac_0 ci ext", _POINTER),
    ("con_ih con_hh con_bias co_weight co_bias gen_ih gen_hh gen_bias fac_weight", _POINTER),
)
RatesSizes = _structure(
    "RatesSizes", ("trials samples bins factors channels row bin threads", _INT)
)
LinearSizes = _structure(
    "LinearSizes",
    ("trials bins inputs outputs x_trial x_bin grad_trial grad_bin threads", _INT),
)
PoissonSizes = _structure("PoissonSizes", ("trials size stirling threads", _INT))

STRUCTURES: Sequence[Any] = (
    GRUSizes,
    DecoderSizes,
    DecoderArrays,
    DecoderGradients,
    RatesSizes,
    LinearSizes,
    PoissonSizes,
)


class Library:
    """The compiled library, once it has been opened.

    Raises
    ------
    build.Unavailable
        If it cannot be built or loaded, or if the sizes of its structures differ from those here.
    """

    def __init__(self) -> None:
        self._functions = build.load()
        for structure in STRUCTURES:
            size = getattr(self._functions, f"lfads_sizeof_{structure.__name__}")
            size.restype = ctypes.c_int64
            if size() != ctypes.sizeof(structure):
                raise build.Unavailable(
                    f"{structure.__name__} has {size()} bytes in the library, but "
                    f"{ctypes.sizeof(structure)} in Python"
                )

    @property
    def threaded(self) -> bool:
        """Whether it was built with OpenMP."""
        return bool(self._functions.lfads_threaded())

    def call(self, name: str, dtype: torch.dtype, *arguments: Any) -> None:
        """Call a function for a dtype.

        Parameters
        ----------
        name
            The name of the function, without prefix and suffix.
        dtype
            float32 or float64.
        *arguments
            Structures, which are passed by reference, and tensors, which :func:`address` converts.
        """
        function = self._functions[f"lfads_{name}_{SUFFIXES[dtype]}"]
        function.restype = None
        function(*map(_argument, arguments))


def _argument(argument: Any) -> Any:
    """Return an argument as ctypes passes it."""
    if isinstance(argument, ctypes.Structure):
        return ctypes.byref(argument)
    return address(argument)


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Return the address of a tensor, or null if there is no tensor or it is empty."""
    return ctypes.c_void_p(tensor.data_ptr() if tensor is not None and tensor.numel() else None)
