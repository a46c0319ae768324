"""What differs between two runs of the same tests, and which barrier explains it (pure)."""

from __future__ import annotations

import fnmatch
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Outcomes = Mapping[str, str]
"""Test → ``passed``, ``skipped: why`` or ``failed: what``; under ``""`` is how the run ended (`DONE`?)."""
WAYS = ("cold", "fork", "execute")
"""A process of its own in a cold session, the same in a forked one, and within `python:execute`."""
DONE = "done"


@dataclass(frozen=True, order=True)
class Difference:
    """One test that does otherwise inside."""

    way: str
    test: str
    outside: str
    inside: str


@dataclass(frozen=True)
class Reason:
    """Why tests differ: `tests` and `ways` are patterns, `barrier` the name of what makes the difference."""

    barrier: str
    why: str
    tests: tuple[str, ...]
    ways: tuple[str, ...] = WAYS

    def explains(self, one: Difference) -> bool:
        return one.way in self.ways and any(fnmatch.fnmatchcase(one.test, pattern) for pattern in self.tests)


def read_reasons(text: str) -> tuple[Reason, ...]:
    """Of reasons.toml, in its order. Raises `ValueError` for one without a barrier, a text or a pattern."""
    found = []
    for entry in tomllib.loads(text)["reason"]:
        reason = Reason(
            entry["barrier"], entry["why"].strip(), tuple(entry["tests"]), tuple(entry.get("ways", WAYS))
        )
        if not (reason.barrier and reason.why and reason.tests) or not set(reason.ways) <= set(WAYS):
            raise ValueError(f"a reason that says too little: {entry}")
        found.append(reason)
    return tuple(found)


@dataclass(frozen=True)
class Beside:
    """What differs though none of those tests shows it: `test` is ours, ``file::name``, and meets it."""

    barrier: str
    why: str
    test: str


def read_beside(text: str) -> tuple[Beside, ...]:
    """Of reasons.toml, in its order. Raises `ValueError` for one without a barrier, a text or a test."""
    found = [
        Beside(entry["barrier"], entry["why"].strip(), entry["test"])
        for entry in tomllib.loads(text).get("beside", ())
    ]
    for one in found:
        if not (one.barrier and one.why and "::" in one.test):
            raise ValueError(f"a reason that says too little: {one}")
    return tuple(found)


def beside_table(found: Iterable[Beside]) -> str:
    """As Markdown."""
    lines = ["| barrier | what differs, and why | test |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {one.barrier} | {one.why} | `{one.test}` |" for one in found)]) + "\n"


def kind(outcome: str) -> str:
    return outcome.partition(":")[0]


def differences(way: str, outside: Outcomes, inside: Outcomes) -> list[Difference]:
    """Every test that passes in one of them only, or is skipped in one of them only.

    A run that was cut off lacks tests: it counts once, under what ended it.
    """
    found = []
    cut = inside.get("", DONE) != DONE
    for test in sorted(outside.keys() | inside.keys()):
        there, here = outside.get(test, "absent"), inside.get(test, "absent")
        if (cut and here == "absent") or (test == "" and here == there):
            continue
        if kind(there) != kind(here):
            found.append(Difference(way, test, there, here))
    return found


def confirmed(
    first: Iterable[Difference], second: Iterable[Difference]
) -> tuple[list[Difference], list[Difference]]:
    """(what two runs of a module in a way both show, what one of them only).

    Of a run that was cut off the other may show more: then all that it shows counts.
    """
    first, second = list(first), list(second)
    shown, again = {one.test for one in first}, {one.test for one in second}
    both = [one for one in second if one.test in shown or "" in shown]
    if "" in again:
        both += [one for one in first if one.test not in again]
    counted = {one.test for one in both}
    return both, [one for one in (*first, *second) if one.test not in counted]


def explained(
    found: Iterable[Difference], reasons: Iterable[Reason]
) -> tuple[dict[Reason, list[Difference]], list[Difference]]:
    """By the first reason that fits, and what has none."""
    known: dict[Reason, list[Difference]] = {reason: [] for reason in reasons}
    unknown = []
    for one in found:
        reason = next((reason for reason in known if reason.explains(one)), None)
        if reason is None:
            unknown.append(one)
        else:
            known[reason].append(one)
    return known, unknown


def table(known: Mapping[Reason, list[Difference]]) -> str:
    """As Markdown: a line for each reason that explained something."""
    lines = ["| barrier | tests | what differs, and why |", "| --- | ---: | --- |"]
    for reason, found in known.items():
        if found:
            named = ", ".join(f"`{name}`" for name in names(found))
            lines.append(
                f"| {reason.barrier} | {len({one.test for one in found})} | {reason.why} ({named}) |"
            )
    return "\n".join(lines) + "\n"


def names(found: Iterable[Difference], most: int = 4) -> list[str]:
    """The modules of the tests, those with the most tests first."""
    count = Counter(module_of(one.test) for one in found)
    listed = [name for name, _ in sorted(count.items(), key=lambda item: (-item[1], item[0]))]
    return [*listed[:most], *(["…"] if len(listed) > most else [])]


def module_of(test: str) -> str:
    """``test.test_os.FileTests.test_access`` → ``test_os``; of a package's own, its file."""
    if "/" in test:
        return test.partition("::")[0]
    return next((part for part in test.replace("(", ".").split(".") if part.startswith("test_")), test)
