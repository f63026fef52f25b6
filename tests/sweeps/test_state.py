"""The backup of Ray's saved state, and its repair after a kill."""

from lfads_torch.sweeps.state import back_up_state, repair_state


def test_a_state_that_a_kill_has_cut_short_is_repaired(tmp_path, caplog):
    """The backup is the last readable state; an unreadable one never replaces it."""
    state = tmp_path / "experiment_state-2026-01-01.json"
    state.write_text('{"trials": 1}')
    (tmp_path / "searcher-state.pkl").write_bytes(b"one")
    (tmp_path / "trial_00000").mkdir()
    back_up_state(tmp_path)
    state.write_text('{"trials": 2}')
    (tmp_path / "searcher-state.pkl").write_bytes(b"two")
    back_up_state(tmp_path)
    state.write_text('{"trials": 3')
    (tmp_path / "searcher-state.pkl").write_bytes(b"thr")
    back_up_state(tmp_path)
    repair_state(tmp_path)
    assert state.read_text() == '{"trials": 2}'
    assert (tmp_path / "searcher-state.pkl").read_bytes() == b"two"
    assert "cannot be read" in caplog.text
    # A readable state does not change.
    state.write_text('{"trials": 4}')
    repair_state(tmp_path)
    assert state.read_text() == '{"trials": 4}'


def test_a_newer_state_that_cannot_be_read_is_renamed(tmp_path):
    """Ray reads the newest state; each resumption begins a new one."""
    older = tmp_path / "experiment_state-2026-01-01.json"
    newer = tmp_path / "experiment_state-2026-01-02.json"
    older.write_text('{"trials": 1}')
    back_up_state(tmp_path)
    newer.write_text("")
    repair_state(tmp_path)
    assert max(tmp_path.glob("experiment_state-*.json")) == older
    assert older.read_text() == '{"trials": 1}'


def test_without_a_state_nothing_happens(tmp_path):
    (tmp_path / "trials").mkdir()
    back_up_state(tmp_path / "trials")
    repair_state(tmp_path / "trials")
    assert list((tmp_path / "trials").iterdir()) == []
