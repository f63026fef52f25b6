"""The trials that are drawn are evenly spaced."""

from lfads_torch.analysis.figures import evenly_spaced_trials


def test_evenly_spaced_trials():
    assert evenly_spaced_trials(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert evenly_spaced_trials(9, 3).tolist() == [0, 4, 8]
    assert evenly_spaced_trials(3, None).tolist() == [0, 1, 2]
