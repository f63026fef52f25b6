"""The conditions of trials are found in both forms in which files give them."""

import numpy as np
import pytest

from lfads_torch.data.conditions import trial_conditions


def test_trial_conditions():
    assert trial_conditions(None, 3) is None
    np.testing.assert_array_equal(trial_conditions(np.array([[3], [1]]), 2), [3, 1])
    assert trial_conditions([b"left", b"right"], 2).tolist() == ["left", "right"]
    by_condition = np.array([np.array([0, 3]), np.array([2]), np.array([], int)], dtype=object)
    labels = trial_conditions(by_condition, 5)
    np.testing.assert_array_equal(labels, [0, np.nan, 1, 0, np.nan])
    with pytest.raises(ValueError, match=r"each of the 3 trials.*it has 2 labels"):
        trial_conditions([0, 1], 3)
    with pytest.raises(ValueError, match="condition 0 has trial 7"):
        trial_conditions([[0, 7]], 3)
    with pytest.raises(ValueError, match=r"condition 1 has trial -1, but the 3 trials .* 0 to 2"):
        trial_conditions([[0, 2], [1, -1]], 3)
