"""Continuous recordings: cut into overlapping windows, and merged again after inference.

    recording → segments → blocks (train, valid) → windows → model → windows → recording

A *segment* is a stretch of bins that no window may leave: a trial, or the bins between two gaps
(:mod:`~lfads_torch.data.windows.segments`). Segments are cut into *blocks*, each of which is for
training or for validation as a whole, so that no bin is in both. Each block is covered by
overlapping *windows*, which are the trials of the model
(:mod:`~lfads_torch.data.windows.plan`, :mod:`~lfads_torch.data.windows.chop`). What the model
infers about them is averaged where they overlap, with weights that fade in and out
(:mod:`~lfads_torch.data.windows.merge`), as in the continuous analyses with AutoLFADS (Keshtkaran
et al. 2022, Nature Methods 19:1572). Further windows *bridge* the borders of blocks, so that the
merged rates do not jump there. These windows are in the ``test`` split, which is used neither for
training nor for selecting a model.

The file that is written holds all information for merging, and posterior sampling copies it to its
output (:class:`~lfads_torch.data.windows.layout.Chop`): ``{split}_chop_start`` (windows,), the
first bin of each window in the recording; ``{split}_chop_segment`` (windows,), the row of
``chop_segments`` that the window lies in; ``chop_segments`` (segments, 2), first bins and ends
(not included) of all segments; ``chop_segment_ids`` (segments,), the numbers of the trials; and the
scalars ``chop_n_bins``, ``chop_window`` and ``chop_overlap``.
"""
