"""The page on what is counted: complete for the kernel that it names, and true to the filter and the limits."""

from __future__ import annotations

import re
import resource
from pathlib import Path

from bridgehold.sandbox.launch import seccomp
from bridgehold.sandbox.launch.network import SETTINGS
from bridgehold.sandbox.launch.seccomp_uncounted import UNCOUNTED
from bridgehold.sandbox.launch.staging import TERMINALS
from bridgehold.sandbox.launcher.uncounted import MOST_CONNECTIONS, MOST_LOCKS
from bridgehold.sandbox.limits.rlimits import rlimits
from sandbox.launcher_support import resources

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs/explanation/what-is-counted.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| what", "| ---"))
]
DECISIONS = {"counted", "refused", "bounded", "own", "watched", "shared"}


def quoted(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def decided() -> set[str]:
    return {name for row in ROWS for cell in row for name in quoted(cell)}


def test_every_row_is_decided() -> None:
    for what, _, decision, how in ROWS:
        assert what
        assert how
        assert set(re.split(r",? and |,? or |, ", decision)) <= DECISIONS, decision


def test_every_setting_of_the_kernel_is_decided_or_counts_nothing() -> None:
    settings = (HERE / "golden/settings-6.18.txt").read_text().split()
    known = decided()
    patterns = quoted(PAGE.split("## Settings that count nothing")[1])
    left = [
        name for name in settings if name not in known and not any(name.startswith(one) for one in patterns)
    ]
    assert left == []
    assert [one for one in patterns if not any(name.startswith(one) for name in settings)] == []
    shown = {name for name in known if re.fullmatch(r"(fs|kernel|net|user|vm)\.[a-z0-9_.-]+", name)}
    assert shown - set(settings) == set()


def test_every_resource_limit_is_decided_and_set_as_it_says() -> None:
    ours = {name for name in dir(resource) if name.startswith("RLIMIT_")} - {"RLIMIT_OFILE"}
    assert ours | {"RLIMIT_LOCKS", "RLIMIT_RTTIME"} <= decided()
    limits = rlimits(resources(), as_limit=False)
    assert (limits[resource.RLIMIT_CORE], limits[resource.RLIMIT_MSGQUEUE]) == (1, 0)
    assert (limits[resource.RLIMIT_SIGPENDING], limits[resource.RLIMIT_MEMLOCK]) == (1024, 64 << 10)


def test_what_is_refused_is_refused_by_the_filter_and_what_the_filter_refuses_is_on_the_page() -> None:
    named = {call for rule in seccomp.RULES for call in rule.calls}
    refused = {name for row in ROWS if "refused" in row[2] for name in quoted(row[3])}
    calls = {name for name in refused if re.fullmatch(r"[a-z0-9_]+", name)}
    assert calls - named == {"execve", "fsync", "sendmsg"}  # of which the page says what is left
    families = {"io_setup", "setxattr", "inotify_init", "mbind"}  # "and kin", of which one is on the page
    missing = [
        rule
        for rule in UNCOUNTED
        if not (set(rule.calls) & (decided() | families)) and rule.calls != ("seccomp",)
    ]
    assert missing == []


def test_the_numbers_are_the_codes() -> None:
    text = " ".join(" ".join(row) for row in ROWS)
    assert f"{MOST_LOCKS:,} for each session" in text
    assert f"{MOST_CONNECTIONS:,} sockets for each session" in text
    assert dict(SETTINGS)["net/ipv4/tcp_max_tw_buckets"] == "1024"
    assert dict(SETTINGS)["net/ipv4/tcp_rmem"].split()[1] == str(32 << 10)
    assert TERMINALS.endswith("max=16")


def test_each_call_that_the_page_says_is_refused_is_refused_with_that_error() -> None:
    table = (HERE.parents[1] / "docs/reference/seccomp.md").read_text()
    refused: dict[str, set[str]] = {}
    for line in table.splitlines():
        cells = line.split(" | ")
        if len(cells) >= 4:
            for name in quoted(cells[0]):
                refused.setdefault(name, set()).add(cells[2])
    said = [
        (name, error)
        for *_, how in ROWS
        for names, error in re.findall(r"((?:`\w+`,? ?)+)[^`.;]*?: (E[A-Z]+)", how)
        for name in quoted(names)
    ]
    assert len(said) > 20
    assert not [(name, error) for name, error in said if error not in refused[name]]
