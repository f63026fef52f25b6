"""Trials: reading and checking HDF5 files, aligning sessions, cutting recordings into windows."""
