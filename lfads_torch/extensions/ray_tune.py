"""Names that the saved state of older sweeps refers to.

Ray saves the state of a search with references to functions by their module and name. A sweep that
an older version of this library started refers to functions in this module, and can therefore be
resumed.
"""

from lfads_torch.sweeps.ray_tune.recorder import trial_name as _trial_name

__all__ = ["_trial_name"]
