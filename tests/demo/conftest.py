"""Fixtures for the demo's tests: git without anyone's configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from demo_support import Repo


@pytest.fixture(autouse=True)
def plain_git(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps this machine's git configuration out; gives the home folder where a test may put its own."""
    folder = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("GIT_")]:  # of a hook that runs the tests, say
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return folder


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """An empty repository."""
    return Repo(tmp_path / "repo")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The demo's folder, which does not exist yet."""
    return tmp_path / "demo"
