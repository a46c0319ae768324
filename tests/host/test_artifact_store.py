"""Artifacts on the disk: bounds that hold without a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridgehold.errors import BudgetError, LimitError, NotFoundError, UsageError
from bridgehold.host.cell.store import artifacts
from bridgehold.host.cell.store.artifacts import ArtifactStore


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


def test_whatever_is_asked_for_is_found_or_refused(tmp_path: Path) -> None:
    """A caller's text is a file's name only where it has the form of one of ours; an offset has no bound."""
    store = ArtifactStore(tmp_path, 1 << 20)
    digest = keep(store, b"kept")
    other = store.begin("local")
    for upload in ("", "x", "a" * 300, "../" + other, other.upper(), "\x00", "é" * 24, "１" * 24):
        with pytest.raises(NotFoundError):
            store.drop("local", upload)
        with pytest.raises(NotFoundError):
            store.append("local", upload, b"x")
    for wrong in ("", "sha256:", "sha256:" + "a" * 300, "sha256:../" + digest[7:], digest + "\n", "\x00"):
        with pytest.raises(NotFoundError):
            store.read("local", wrong)
    assert [store.read("local", digest, offset) for offset in (0, 3, 4, 2**63, 2**70)] == [
        *(b"kept", b"t"),
        *(b"", b"", b""),
    ]
