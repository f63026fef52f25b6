"""Folders in which tests of configurations work."""

import pytest

from tests.conftest import tiny_arrays, write_file
from tests.running.configurations import PUBLISHED, write_texts


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Work in a folder that holds the tiny file."""
    monkeypatch.chdir(tmp_path)
    return write_file(tmp_path / "tiny.h5", tiny_arrays())


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make a user's project with data and a folder of configurations, and work in it."""
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path, PUBLISHED)
    (tmp_path / "mydata").mkdir()
    write_file(tmp_path / "mydata" / "one.h5", tiny_arrays())
    return tmp_path
