"""Segments are trials, or the bins between gaps."""

import numpy as np
import pytest

from lfads_torch.data.windows.segments import find_segments


def test_segments_of_trials_and_gaps():
    ids = np.array([7, 7, 7, np.nan, 5, 5, -1, 5, 7, 7])
    segments, of = find_segments(10, trial_ids=ids)
    np.testing.assert_array_equal(segments, [[0, 3], [4, 6], [7, 8], [8, 10]])
    np.testing.assert_array_equal(of, [7, 5, 5, 7])
    missing = np.isin(np.arange(10), [1, 9])
    segments, of = find_segments(10, missing, ids)
    np.testing.assert_array_equal(segments, [[0, 1], [2, 3], [4, 6], [7, 8], [8, 9]])
    np.testing.assert_array_equal(of, [7, 7, 5, 5, 7])
    segments, of = find_segments(10, missing)
    np.testing.assert_array_equal(segments, [[0, 1], [2, 9]])
    np.testing.assert_array_equal(of, [0, 1])
    segments, _ = find_segments(5, trial_ids=[True, True, False, True, False])
    np.testing.assert_array_equal(segments, [[0, 2], [3, 4]])
    # Segments that touch remain two, in the order of time.
    segments, of = find_segments(10, segments=[[5.0, 9.0], [0.0, 5.0]])
    np.testing.assert_array_equal(segments, [[0, 5], [5, 9]])
    np.testing.assert_array_equal(of, [1, 0])


SEGMENTS = {
    "both": ({"trial_ids": np.zeros(9), "segments": [[0, 9]]}, "trial_ids or segments, not both"),
    "ids": ({"trial_ids": np.zeros(8)}, r"each of the 9 bins.*\(8,\)"),
    "names": ({"trial_ids": np.array(["a"] * 9)}, "number for each of the 9 bins.*<U1"),
    "gaps": ({"missing": np.zeros(8)}, r"9 bins, but its shape is \(8,\)"),
    "shape": ({"segments": [0, 9]}, r"\(segments, 2\).*\(2,\)"),
    "times": ({"segments": [[0.0, 1.5]]}, "whole bins"),
    "end": ({"segments": [[0, 4], [4, 10]]}, r"Segment 1 is \[4, 10\].*at most 9"),
    "start": ({"segments": [[-1, 4]]}, r"Segment 0 is \[-1, 4\].*at least 0"),
    "turned": ({"segments": [[4, 4]]}, r"Segment 0 is \[4, 4\].*less than its end"),
    "overlap": ({"segments": [[0, 4], [3, 6]]}, "Segment 1, bins 3 to 6, overlaps"),
    "nothing": ({"trial_ids": np.full(9, -1)}, "None of the 9 bins lies in a trial"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), SEGMENTS.values(), ids=SEGMENTS)
def test_segments_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        find_segments(9, **arguments)
