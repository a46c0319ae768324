"""A worker's account, read where the kernel keeps it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridgehold.sandbox.limits.account import AccountReader

EVENTS = "low 0\nhigh 0\nmax 7\noom 1\noom_kill {}\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 1\noom_kill {}\n"


def reader(folder: Path, cpu: str, peak: str = "4096\n", killed: str = EVENTS.format(0)) -> AccountReader:
    (folder / "cpu").write_text(cpu)
    (folder / "peak").write_text(peak)
    (folder / "killed").write_text(killed)
    found = AccountReader()
    found.open([os.open(folder / name, os.O_RDONLY) for name in ("cpu", "peak", "killed")])
    return found


@pytest.mark.parametrize("cpu", ["1234567\n", "usage_usec 1234\nuser_usec 5\nsystem_usec 6\n"])
def test_both_versions_say_the_same_each_time_anew(tmp_path: Path, cpu: str) -> None:
    account = reader(tmp_path, cpu)
    assert account.cpu_and_peak() == (1234, 4096)
    (tmp_path / "peak").write_text("8192\n")
    assert account.cpu_and_peak() == (1234, 8192)
    before = len(os.listdir("/proc/self/fd"))
    account.close()
    assert len(os.listdir("/proc/self/fd")) == before - 3
    assert account.cpu_and_peak() is None


@pytest.mark.parametrize(("cpu", "peak"), [("", "1"), ("x", "1"), ("nr_periods 5\n", "1"), ("1", "max\n")])
def test_what_can_t_be_read_is_nothing_and_no_error(tmp_path: Path, cpu: str, peak: str) -> None:
    account = reader(tmp_path, cpu, peak)
    assert account.cpu_and_peak() is None
    account.close()


@pytest.mark.parametrize("table", [EVENTS, CONTROL])
def test_both_versions_say_what_was_killed_for_memory(tmp_path: Path, table: str) -> None:
    account = reader(tmp_path, "1", killed=table.format(0))
    assert not account.killed()
    (tmp_path / "killed").write_text(table.format(2))
    assert account.killed()
    account.open([os.open(tmp_path / "killed", os.O_RDONLY)])  # a kernel without memory.peak
    assert (account.killed(), account.cpu_and_peak()) == (True, None)
    (tmp_path / "killed").write_text("oom_kill many")
    assert not account.killed()
    account.close()
    assert not account.killed()


def test_without_descriptors_there_is_nothing() -> None:
    assert AccountReader().cpu_and_peak() is None
