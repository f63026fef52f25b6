"""The configurations, installed as ``lfads_torch.configs`` (Hydra's ``pkg://`` needs a package)."""
