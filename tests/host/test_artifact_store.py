"""Artifacts on the disk: bounds that hold without a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridgehold.errors import BudgetError, LimitError, UsageError
from bridgehold.host import artifacts
from bridgehold.host.artifacts import ArtifactStore


def keep(store: ArtifactStore, data: bytes, name: str = "") -> str:
    upload = store.begin("local")
    store.append("local", upload, data)
    return store.finish("local", upload, name=name, media_type="").digest


def test_there_are_so_many_of_a_tenant_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "MOST_ARTIFACTS", 3)
    store = ArtifactStore(tmp_path, 1 << 20)
    for number in range(3):
        keep(store, bytes([number]))
    with pytest.raises(BudgetError, match="3 artifacts already"):
        store.begin("local")
    store.begin("acme")


def test_what_fails_leaves_no_part_behind(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path, 100)
    upload = store.begin("local")
    with pytest.raises(LimitError):
        store.append("local", upload, b"x" * (artifacts.PART_BYTES + 1))
    upload = store.begin("local")
    with pytest.raises(BudgetError):
        store.append("local", upload, b"x" * 101)
    upload = store.begin("local")
    store.append("local", upload, b"x")
    with pytest.raises(UsageError):
        store.finish("local", upload, name="two\nlines", media_type="")
    assert not list(tmp_path.rglob("*.part"))
