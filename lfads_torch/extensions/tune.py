"""The published names of population-based training.

The classes that derive from Ray's are imported when they are first asked for.
"""

from typing import TYPE_CHECKING, Any

from lfads_torch.running.callbacks import EarlyStoppingWithBurnInPeriod
from lfads_torch.sweeps.history import read_pbt_fitlog
from lfads_torch.sweeps.space import HyperParam

if TYPE_CHECKING:
    from lfads_torch.sweeps.ray_tune.scheduler import BinaryTournamentPBT
    from lfads_torch.sweeps.ray_tune.stopper import ImprovementRatioStopper

__all__ = [
    "BinaryTournamentPBT",
    "EarlyStoppingWithBurnInPeriod",
    "HyperParam",
    "ImprovementRatioStopper",
    "read_pbt_fitlog",
]


def __getattr__(name: str) -> Any:
    """Import a class that derives from one of Ray's."""
    if name == "BinaryTournamentPBT":
        from lfads_torch.sweeps.ray_tune.scheduler import BinaryTournamentPBT

        return BinaryTournamentPBT
    if name == "ImprovementRatioStopper":
        from lfads_torch.sweeps.ray_tune.stopper import ImprovementRatioStopper

        return ImprovementRatioStopper
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
