"""Latent factor analysis via dynamical systems (LFADS) in PyTorch."""

__version__ = "0.1.0"
