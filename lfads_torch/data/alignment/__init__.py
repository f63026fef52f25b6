"""Alignment of sessions that record different neurons in the same task.

Principal components regression, as for the stitched models of Pandarinath et al. 2018 (Nature
Methods 15:805, online methods on several sessions):

    session files → average responses → shared components → regression weights → session files

The trials of each session are smoothed and averaged into the responses to each condition, called
PSTHs (:mod:`~lfads_torch.data.alignment.responses`). A principal component analysis of the channels
of all sessions together gives components that the sessions share, and a ridge regression maps the
channels of each session to these components (:mod:`~lfads_torch.data.alignment.regression`).
The regression weights and the channel means are written into the session files as
``readin_weight`` and ``readout_bias`` (:mod:`~lfads_torch.data.alignment.files`), which are the
initial values of :class:`~lfads_torch.modules.readin_readout.MultisessionReadin` and
:class:`~lfads_torch.modules.readin_readout.MultisessionReadout`.
"""
