"""The Neural Latents Benchmark: downloads its recordings, and makes data files of them.

========================  ==========================================================================
:mod:`~.registry`         phases, bin widths and file names of the benchmark
:mod:`~.download`         NWB files from the DANDI archive
:mod:`~.prepare`          from NWB files to data files
:mod:`~.compatibility`    ``nlb_tools`` with current versions of pandas
========================  ==========================================================================
"""
