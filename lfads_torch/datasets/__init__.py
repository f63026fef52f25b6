"""Data sets: synthetic ones with known truth, and those of the Neural Latents Benchmark.

========================  ==========================================================================
:mod:`~.lorenz`           spikes of a Lorenz system
:mod:`~.chaotic_rnn`      spikes of a chaotic recurrent network
:mod:`~.multisession`     several sessions of one such network, with different neurons
:mod:`~.simulation`       the parts that these generators share
:mod:`~.nlb`              the Neural Latents Benchmark
========================  ==========================================================================
"""
