"""Fixtures of the audit's tests; `audit_support` holds what they are made of."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `audit_support`, under every import mode

from audit_support import Filler, LiveJournal

from bridgehold.audit.beginning import JournalConfig


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    folder = tmp_path / "audit"
    folder.mkdir()
    return folder


@pytest.fixture
def live(audit: Path) -> Iterator[Callable[..., LiveJournal]]:
    """Start a journal's process over `audit`, with `JournalConfig` fields; all end with the test."""
    started: list[LiveJournal] = []

    def start(clients: int = 1, others: tuple[str, ...] = (), **changes: object) -> LiveJournal:
        fields = {"folder": str(audit), "reserve_bytes": 65_536, **changes}
        config = JournalConfig(**fields)  # type: ignore[arg-type]  # values by name
        started.append(LiveJournal(config, clients, others=others))
        return started[-1]

    yield start
    for journal in started:
        for ours in journal.sockets:
            ours.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            journal.process.wait(30)
        journal.process.kill()
        journal.process.wait()
        if journal.process.stderr is not None:
            journal.process.stderr.close()


@pytest.fixture
def filler(audit: Path) -> Callable[..., Filler]:
    return lambda **changes: Filler(audit, **changes)
