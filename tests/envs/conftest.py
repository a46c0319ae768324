from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parent.parent / "sandbox"))

from envs_kit import DirectRunner, Progress

from bridgehold.sandbox.envs.build import EnvironmentBuilder
from bridgehold.sandbox.envs.interpreter import host_interpreter
from bridgehold.sandbox.envs.store import EnvironmentStore, remove_tree
from bridgehold.sandbox.envs.values import Sources


@pytest.fixture(scope="session")
def interpreter():
    return host_interpreter()


@pytest.fixture
def progress():
    return Progress()


@pytest.fixture
def runner():
    return DirectRunner()


@pytest.fixture
def dist(tmp_path):
    """Where a test's wheels are made."""
    folder = tmp_path / "dist"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path):
    store = EnvironmentStore(tmp_path / "envs")
    yield store
    remove_tree(tmp_path / "envs")


@pytest.fixture
def builder(tmp_path, store, runner, interpreter):
    """Makes a builder over given index URLs; no public index is ever asked."""

    def make(*indexes: str, folders: tuple[str, ...] = (), **options):
        return EnvironmentBuilder(
            store=store,
            wheels=tmp_path / "wheels",
            runner=options.pop("runner", runner),
            sources=lambda: Sources(indexes=indexes, folders=folders),
            interpreter=options.pop("interpreter", interpreter),
            **options,
        )

    return make
