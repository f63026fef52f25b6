"""A figure is either written completely or not at all."""

import pytest

from lfads_torch.analysis.figures import save_figure, trajectories
from tests.analysis.figures.drawn import RATES


def test_save_figure_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "new" / "figure.png"
    figure = trajectories(RATES[:1])
    save_figure(figure, path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")

    def fail(unfinished, **_):
        unfinished.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, path)
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]
