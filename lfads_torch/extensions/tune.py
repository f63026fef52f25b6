"""The published names of what population-based training is made of.

Those that are classes of Ray are imported when they are asked for.
"""

from typing import TYPE_CHECKING, Any

from lfads_torch.running.callbacks import EarlyStoppingWithBurnInPeriod
from lfads_torch.sweeps.history import read_pbt_fitlog
from lfads_torch.sweeps.tournament import HyperParam

if TYPE_CHECKING:
    from lfads_torch.sweeps.ray_tune import BinaryTournamentPBT, ImprovementRatioStopper

__all__ = [
    "BinaryTournamentPBT",
    "EarlyStoppingWithBurnInPeriod",
    "HyperParam",
    "ImprovementRatioStopper",
    "read_pbt_fitlog",
]


def __getattr__(name: str) -> Any:
    if name in ("BinaryTournamentPBT", "ImprovementRatioStopper"):
        from lfads_torch.sweeps import ray_tune

        return getattr(ray_tune, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
