"""The host's story and the launcher's, joined: what one of them tells alone is named at its line."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audit_support import Filler, intent, outcome

from bridgehold.audit.events import (
    EgressIntent,
    EgressOutcome,
    EgressSent,
    Event,
    HostDegraded,
    SessionClosed,
    SessionOpened,
    ToolIntent,
)
from bridgehold.audit.verdicts import Completeness
from bridgehold.audit.verify import verify_audit
from bridgehold.records.workers import WorkerExited, WorkerStarted

Act = tuple[str, str]
"""What happens, and of which session."""
BOTH = ("host", "launcher")


class Story:
    """Writes acts in order; an act's line is its index, and two more."""

    def __init__(self, filler: Filler) -> None:
        self.filler = filler
        self.starts: dict[str, str] = {}
        self.intents: dict[str, str] = {}
        self.decided: dict[str, str] = {}

    def tell(self, acts: list[Act]) -> None:
        for kind, session in acts:
            reference = self.filler.put(self.event(kind, session))[0].ref
            if kind == "start":
                self.starts[session] = reference
            elif kind == "intent":
                self.intents[session] = reference
            elif kind == "decided":
                self.decided[session] = reference

    def event(self, kind: str, session: str) -> Event:
        own: dict[str, Any] = {"tenant": "acme", "session": f"s-{session}"}
        of = self.intents.get(session, "")
        events: dict[str, Callable[[], Event]] = {
            "opened": lambda: SessionOpened(bridge="b", grant="g", start="cold", **own),
            "start": lambda: WorkerStarted(
                worker=f"w-{session}", purpose="worker", bridge="b", start="cold", spec="", environment="",
                uid=1, cgroup="", **own,
            ),
            "end": lambda: WorkerExited(
                worker=f"w-{session}", intent=self.starts.get(session, ""), cause="killed", status=9, cpu_us=0,
                memory_peak_bytes=0, oom_kills=0, emptied_ms=0, **own,
            ),
            "intent": lambda: intent(**own),
            "ran": lambda: outcome(of, **own),
            "failed": lambda: outcome(of, transport_ok=False, **own),
            "closed": lambda: SessionClosed(reason="asked", **own),
            "egress": lambda: EgressIntent(provider="p", host="h", method="POST", path="/", rule="r", **own),
            "decided": lambda: EgressIntent(
                provider="p", host="h", method="POST", path="/", rule="r", kept=True, **own,
            ),
            "sent": lambda: EgressSent(
                provider="p", host="h", method="POST", path="/", rule="r", decided=self.decided.get(session, ""), **own,
            ),
            "answered": lambda: EgressOutcome(
                intent=self.decided.get(session, ""), provider="p", host="h", method="POST", path="/", status=200,
                request_bytes=0, response_bytes=0, ms=1, kept=True, **own,
            ),
            "tool": lambda: ToolIntent(
                parent="c", tool="t", how="host", rule="r", arguments_digest="", arguments_bytes=0,
                arguments_preview="", **own,
            ),
            "degraded": lambda: HostDegraded(reason="the launcher process is gone"),
        }  # fmt: skip
        return events[kind]()


def told(filler: Filler, acts: list[Act]) -> None:
    Story(filler).tell(acts)


def found(audit: Path, filler: Filler) -> tuple[Completeness, list[tuple[str, int]]]:
    report = verify_audit(audit)
    assert report.integrity.ok, report.first_bad
    for finding in report.completeness.findings:
        assert finding.place.endswith(f"00000001.jsonl:{finding.seq}"), finding
        assert filler.journal.writer.instance in finding.place
    return report.completeness, sorted((one.kind, one.seq) for one in report.completeness.findings)


LIFE = ["opened", "start", "intent", "ran", "intent", "failed", "end", "closed"]
FORGED: dict[str, tuple[list[str], list[tuple[str, int]]]] = {
    "a command that ran in no sandbox": (
        ["opened", "intent", "ran", "closed"], [("start_missing", 4)]),
    "a call from no sandbox": (["opened", "egress", "tool", "closed"], [("start_missing", 3), ("start_missing", 4)]),
    "a request that was decided": (["opened", "start", "decided", "sent", "answered", "end", "closed"], []),
    "a request that is sent as its caller leaves": (["opened", "start", "decided", "answered", "sent", "end", "closed"], []),
    "a request that nobody decided": (["opened", "start", "sent", "end", "closed"], [("decision_missing", 4)]),
    "a decision that is used twice": (
        ["opened", "start", "decided", "sent", "sent", "answered", "end", "closed"], [("decision_missing", 6)]),
    "a command after its sandbox's end": (
        ["opened", "start", "end", "intent", "ran", "closed"], [("after_end", 6)]),
    "a command after its session's end": (
        ["opened", "start", "closed", "intent", "ran", "end"], [("after_end", 6)]),
    "an end of nothing": (["opened", "end", "closed"], [("orphan_outcome", 3)]),
    "two ends": (["opened", "start", "end", "end", "closed"], [("orphan_outcome", 5)]),
    "no end": (["opened", "start", "intent", "ran", "closed"], [("start_unended", 3)]),
    "no end, and a crash that says so": (["opened", "start", "intent", "ran", "closed", "degraded"], []),
    "a command that did not run any more": (["opened", "start", "end", "intent", "failed", "closed"], []),
    "a command of before the end": (["opened", "start", "intent", "end", "ran", "closed"], []),
    "a session that did not start": (["opened", "closed"], []),
    "a start that a host's opening follows": (["start", "opened", "intent", "ran", "closed", "end"], []),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_what_one_of_them_tells_alone_is_named_at_its_line(
    audit: Path, filler: Callable[..., Filler], what: str
) -> None:
    kinds, expected = FORGED[what]
    writer = filler(recorders=BOTH)
    told(writer, [(kind, "one") for kind in kinds])
    writer.close()
    assert found(audit, writer)[1] == expected


def test_an_audit_of_a_host_whose_launcher_had_no_channel_is_not_joined(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    writer = filler()
    told(writer, [("opened", "one"), ("intent", "one"), ("ran", "one")])
    writer.close()
    assert verify_audit(audit).ok


def test_after_a_crash_an_end_is_wanting_and_nothing_else_is(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    writer = filler(recorders=BOTH)
    told(writer, [("opened", "one"), ("start", "one"), ("intent", "one"), ("ran", "one")])
    os.close(writer.journal._lock)
    filler(recorders=BOTH).close()
    completeness, findings = found(audit, writer)
    assert findings == []
    assert completeness.interrupted_count == 1


def test_of_many_sessions_at_once_each_change_is_named_and_nothing_else(
    audit: Path, filler: Callable[..., Filler]
) -> None:
    """Lives of sessions, shuffled into each other; then one act of the launcher's left out, or done twice."""
    chosen = random.Random(3)
    for number in range(24):
        lives = {f"{number}-{name}": list(LIFE) for name in range(5)}
        acts: list[Act] = []
        while lives:
            session = chosen.choice(sorted(lives))
            acts.append((lives[session].pop(0), session))
            lives = {name: rest for name, rest in lives.items() if rest}
        kind = chosen.choice(["start", "end"])
        at = chosen.choice([n for n, act in enumerate(acts) if act[0] == kind])
        session = acts[at][1]
        changed, expected = list(acts), []
        if kind == "start":
            del changed[at]
            ran = next(n for n, act in enumerate(changed) if act == ("ran", session))
            end = next(n for n, act in enumerate(changed) if act == ("end", session))
            expected = [("orphan_outcome", end + 2), ("start_missing", ran + 2)]
        elif chosen.random() < 0.5:
            del changed[at]
            start = next(n for n, act in enumerate(changed) if act == ("start", session))
            expected = [("start_unended", start + 2)]
        else:
            changed.insert(chosen.randrange(at + 1, len(acts) + 1), ("end", session))
            second = [n for n, act in enumerate(changed) if act == ("end", session)][1]
            expected = [("orphan_outcome", second + 2)]
        folder = audit / str(number)
        for name, story, wanted in (("sound", acts, []), ("changed", changed, expected)):
            place = folder / name
            place.mkdir(parents=True)
            writer = Filler(place, recorders=BOTH, sync=lambda _: None)
            told(writer, story)
            writer.close()
            assert found(place, writer)[1] == sorted(wanted), (number, kind, session)
