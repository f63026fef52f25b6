"""The Neural Latents Benchmark: its phases and bin widths, and ``nlb_tools``, which defines it.

The benchmark is described by Pei et al. 2021 (NeurIPS Datasets and Benchmarks).
"""

import importlib
from typing import Any

from lfads_torch.errors import MissingPackageError

PHASES = ("val", "test")
"""The phases of the benchmark: ``val`` can be scored by anyone, ``test`` by its server only."""

BIN_WIDTHS = (5, 20)
"""The bin widths, in ms, for which the benchmark has targets."""


def file_name(dataset: str, bin_width_ms: int, phase: str) -> str:
    """Return the name that configurations and submissions expect of a data file.

    Parameters
    ----------
    dataset
        The name of the recording, such as ``mc_maze``.
    bin_width_ms
        5 or 20.
    phase
        ``"val"`` or ``"test"``.
    """
    return f"{dataset}-{bin_width_ms:02d}ms-{phase}.h5"


def import_nlb_tools(module: str) -> Any:
    """Import a module of ``nlb_tools``, or raise an error that says how to install it.

    Raises
    ------
    MissingPackageError
        If ``nlb_tools`` or a package that it needs is missing.
    """
    try:
        return importlib.import_module(f"nlb_tools.{module}")
    except ImportError as error:
        raise MissingPackageError(
            f"The Neural Latents Benchmark needs nlb_tools and the packages it builds on ({error})."
            f" nlb_tools demands a pandas that no supported Python can install, so it is installed "
            f"without its dependencies:\n"
            f"    pip install 'lfads_torch[nlb]' && pip install --no-deps nlb_tools==0.0.4"
        ) from error
