"""Trials: from files on disk to tensors in memory.

========================  ==========================================================================
:mod:`~.schema`           names of arrays in a session file, and checks of their shapes
:mod:`~.hdf5`             opening, reading and writing HDF5 files
:mod:`~.sessions`         finding session files, reading their sizes, loading their arrays
:mod:`~.catalogue`        how to get a data file that is missing
:mod:`~.splits`           another random division into training and validation trials
:mod:`~.trials`           tensors, data sets and the order of trials in an epoch
:mod:`~.conditions`       the condition of each trial
:mod:`~.smoothing`        smoothing with a Gaussian
:mod:`~.alignment`        sessions with different neurons, mapped to components that they share
:mod:`~.recordings`       reading continuous recordings
:mod:`~.windows`          recordings cut into windows, and merged again after inference
========================  ==========================================================================
"""
