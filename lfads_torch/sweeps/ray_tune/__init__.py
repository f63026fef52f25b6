"""Sweeps on Ray Tune: the trial, the scheduler, the stopping rule and the search itself.

The modules of this package are the only ones that import Ray. Ray runs one process for each trial
that trains at a time; a trial (:class:`~lfads_torch.sweeps.ray_tune.trial.LFADSTrial`) trains for a
generation, saves a checkpoint and reports its metrics. It may then continue in the same process, in
another process, or with the checkpoint of another trial. All of these cases work in the same way,
because a trial always continues from a checkpoint.
"""

from lfads_torch.errors import MissingPackageError

try:
    from ray import tune as _tune  # noqa: F401
except ImportError as error:
    raise MissingPackageError(
        'Sweeps need Ray Tune: install it with pip install "lfads_torch[tune]", or, in a checkout, '
        'pip install -e ".[tune]".'
    ) from error
