"""The stories of one session, joined: what the host says of it, and launcher and keeper. Pure.

The host is not believed about what ran: a command that ran has a start by the launcher before its outcome,
and an intent from before the end of its session; what the keeper sent for a cell has a decision of that
cell's. Where the launcher had no channel (`journal.opened` says so) there is nothing to join.
"""

from __future__ import annotations

import re

from bridgehold.audit import chain
from bridgehold.audit.verdicts import Finding, FindingKind

_MOST_FINDINGS = 100
_TEXT = rb'((?:[^"\\]|\\.)*)'
_TIES = re.compile(
    rb'[a-z._]+","tenant":"' + _TEXT + rb'","principal":"' + _TEXT + rb'","session":"' + _TEXT + rb'"'
)
_RAN = b'"transport_ok":true'
_KEPT = b'"kept":true'
"""In the decision on a request of a cell's, which the keeper sends."""
_DECIDED = re.compile(rb',"decided":"([^"]*)"')
_CALLS = frozenset({b"tool.intent", b"egress.intent", b"egress.sent"})
"""What comes from inside a sandbox, so from one that was started."""
JOINED = frozenset({b"session.closed", b"host.degraded", b"worker.started", b"worker.exited"})
"""Kinds that are read for this alone, or for this too."""

_Key = tuple[bytes, bytes]


class _Session:
    """What is known of one session up to here."""

    __slots__ = ("begun", "closed", "running")

    def __init__(self) -> None:
        self.begun = False
        self.closed = False
        """By the host's word."""
        self.running: set[int] = set()
        """Starts without an end."""

    @property
    def over(self) -> bool:
        return self.closed or (self.begun and not self.running)


class Joining:
    """Feed it the lines of an instance that are joined, in order; then read `findings` and `unended`."""

    def __init__(self, instance: str) -> None:
        self.findings: list[Finding] = []
        self._instance = instance
        self._degraded = False
        self._sessions: dict[_Key, _Session] = {}
        self._starts: dict[int, tuple[_Key, str]] = {}
        """Without an end: whose each is, and where it stands."""
        self._decided: dict[int, _Key] = {}
        """Decisions on requests that the keeper is to send, and has not sent."""
        self._late: set[int] = set()
        """Intents of commands from after the end of their session."""
        self._intents: dict[int, _Key] = {}
        """Of commands in sessions, without an outcome."""

    def begin(self, kind: bytes, line: bytes, at: int, seq: int, place: str) -> None:
        """An intent, or anything that has none. `at`: where `kind` stands in `line`."""
        if kind == b"host.degraded":
            self._degraded = True
            return
        ties = _TIES.match(line, at)
        if ties is None or not ties[3]:
            if kind == b"worker.started":
                self._starts[seq] = ((b"", b""), place)
            return
        key = (ties[1], ties[3])
        session = self._sessions.setdefault(key, _Session())
        if kind == b"worker.started":
            session.begun = True
            session.running.add(seq)
            self._starts[seq] = (key, place)
        elif kind == b"session.closed":
            session.closed = True
        elif kind == b"command.intent":
            self._intents[seq] = key
            if session.over:
                self._late.add(seq)
        elif kind in _CALLS:
            self._call(kind, line, key, seq, place)
            if not session.begun:
                self._find("start_missing", place, seq, f"{_text(key[1])} calls out and was not started")

    def _call(self, kind: bytes, line: bytes, key: _Key, seq: int, place: str) -> None:
        """Each decision is good for one request."""
        if kind == b"egress.intent" and _KEPT in line:
            self._decided[seq] = key
        elif kind == b"egress.sent":
            found = _DECIDED.search(line)
            named = chain.parse_reference(found[1].decode("ascii", "replace")) if found else None
            here = named is not None and named[0] == self._instance
            if named is None or not here or self._decided.get(named[1]) != key:
                reason = f"a request left for {_text(key[1])}, and its cell tells of no decision"
                self._find("decision_missing", place, seq, reason)
            else:
                del self._decided[named[1]]

    def end(self, kind: bytes, line: bytes, intent: int, seq: int, place: str) -> None:
        """The outcome of `intent`, which is there and was open."""
        if kind == b"worker.exited":
            key, _ = self._starts.pop(intent, ((b"", b""), ""))
            if key in self._sessions:
                self._sessions[key].running.discard(intent)
        elif kind == b"command.outcome" and (key := self._intents.pop(intent, (b"", b"")))[1]:
            late = intent in self._late
            self._late.discard(intent)
            if _RAN not in line:
                return
            name = _text(key[1])
            if not self._sessions[key].begun:
                self._find("start_missing", place, seq, f"a command ran in {name}, which was not started")
            elif late:
                self._find("after_end", place, seq, f"a command ran in {name}, which had ended before it")

    def left(self, seq: int) -> None:
        """Who began it is gone, and nobody knows how it ended."""
        self._intents.pop(seq, None)
        self._late.discard(seq)
        key, _ = self._starts.pop(seq, ((b"", b""), ""))
        if key in self._sessions:
            self._sessions[key].running.discard(seq)

    def unended(self, *, closed: bool) -> list[Finding]:
        """Starts without an end, in a journal that was `closed` in order and tells of no crash."""
        if not closed or self._degraded:
            return []
        return [
            Finding(
                kind="start_unended",
                place=place,
                reason="a sandbox was started here, and its end is not told",
                instance=self._instance,
                seq=seq,
            )
            for seq, (_, place) in list(self._starts.items())[:_MOST_FINDINGS]
        ]

    def _find(self, kind: FindingKind, place: str, seq: int, reason: str) -> None:
        if len(self.findings) < _MOST_FINDINGS:
            found = Finding(kind=kind, place=place, reason=reason, instance=self._instance, seq=seq)
            self.findings.append(found)


def _text(session: bytes) -> str:
    return session[:40].decode("ascii", "replace")
