"""Sweeps on Ray Tune: the trial, the scheduler, the stopping rule and the search itself.

The modules of this package are the only ones that import Ray. Ray runs one process for each trial
that trains at a time; a trial (:class:`~lfads_torch.sweeps.ray_tune.trial.LFADSTrial`) trains for a
generation, leaves a checkpoint and its metrics, and may then be continued in the same process, in
another one, or with the checkpoint of another trial: always from a checkpoint, so that all of these
are the same thing.
"""

from lfads_torch.errors import MissingPackageError

try:
    from ray import tune as _tune  # noqa: F401
except ImportError as error:
    raise MissingPackageError(
        'Sweeps need Ray Tune: install it with pip install "lfads_torch[tune]", or, in a checkout, '
        'pip install -e ".[tune]".'
    ) from error
