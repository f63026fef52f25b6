"""Sweeps: training many models, by random search or population-based training.

- :mod:`~lfads_torch.sweeps.search`: a sweep from beginning to end;
- :mod:`~lfads_torch.sweeps.best_model`: the best model as a run folder;
- :mod:`~lfads_torch.sweeps.checks`: the checks before a sweep starts;
- :mod:`~lfads_torch.sweeps.ray_tune`: the search on Ray, the only place that imports it;
- :mod:`~lfads_torch.sweeps.figures`: the figure of scores and hyperparameters;
- :mod:`~lfads_torch.sweeps.report`: the printed progress and result;
- :mod:`~lfads_torch.sweeps.results`: the results of trials, and the choice of the best trial;
- :mod:`~lfads_torch.sweeps.state`: a backup of Ray's saved state;
- :mod:`~lfads_torch.sweeps.history`: the history as a file and as tables;
- :mod:`~lfads_torch.sweeps.compose`: the configurations of a sweep and its trials;
- :mod:`~lfads_torch.sweeps.options`: the options of a sweep;
- :mod:`~lfads_torch.sweeps.tournament`: the rules of population-based training, as pure functions;
- :mod:`~lfads_torch.sweeps.space`: the search space.

A module imports only modules that are listed below it (``pyproject.toml`` has the layers).
"""
