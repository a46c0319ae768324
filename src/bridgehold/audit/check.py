"""The chain of one instance, checked line by line over raw bytes. Pure: lines in, findings out.

The fast path compares the start of the line, its links and its hash as bytes and parses nothing.
Only a line that fails there is taken apart, to say what was done to it; the check then goes on
behind it, so that one fault doesn't hide the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from bridgehold.audit import chain
from bridgehold.audit.events import INTENT_KINDS, OUTCOME_KINDS, PAIRS
from bridgehold.audit.joining import JOINED, Joining
from bridgehold.audit.seals import Seal, is_stub
from bridgehold.audit.verdicts import Finding, FindingKind

_MOST_FINDINGS = 100
_MOST_MISSING = 10_000
_MOST_RECORDS = 10_000
_INTENTS = frozenset(kind.encode("ascii") for kind in INTENT_KINDS)
_OUTCOMES = frozenset(kind.encode("ascii") for kind in OUTCOME_KINDS)
_PAIRS = {first.encode("ascii"): last.encode("ascii") for first, last in PAIRS.items()}
_RECORDS = frozenset({b"anchor.key_rotated", b"segment.sealed"})
_OWN = _RECORDS | {b"journal.opened", b"journal.closed", b"anchor.signed", b"channel.ended"}
_SPECIAL = _INTENTS | _OUTCOMES | JOINED | _OWN


class Opened(msgspec.Struct, frozen=True):
    """What an instance's first line says of the one before it."""

    previous: str = ""
    previous_count: int = 0
    previous_head: str = ""
    recorders: tuple[str, ...] = ()
    recovered_from: str = ""
    unfinished: tuple[str, ...] = ()
    unfinished_count: int = 0
    quarantined: dict[str, str] = {}


class Closed(msgspec.Struct, frozen=True):
    """What an instance's last line says of itself."""

    unfinished: tuple[str, ...] = ()
    unfinished_count: int = 0


class Left(msgspec.Struct, frozen=True):
    """What a recorder has left open whose channel has ended."""

    unfinished: tuple[str, ...] = ()


class Signed(msgspec.Struct, frozen=True):
    """That an anchor was stored beside the audit."""

    count: int
    head: str
    time: str = ""


class Told(NamedTuple):
    """The text of something signed, and which line tells of it."""

    record: str
    place: str
    seq: int


class Recorded(msgspec.Struct, frozen=True):
    """That something signed was stored beside the audit: its text."""

    record: str


_OPENED = msgspec.json.Decoder(Opened)
_CLOSED = msgspec.json.Decoder(Closed)
_LEFT = msgspec.json.Decoder(Left)
_SIGNED = msgspec.json.Decoder(Signed)
_RECORDED = msgspec.json.Decoder(Recorded)


class InstanceCheck:
    """Feed every line of `instance` in order; read the public fields afterwards.

    `wanted` are the counts whose heads are to be remembered in `heads` (for anchors and links).
    """

    def __init__(self, instance: str, wanted: Sequence[int] = ()) -> None:
        self.instance = instance
        self.count = 0
        """The last sequence number that was believed."""
        self.lines = 0
        self.prev = chain.GENESIS
        self.findings: list[Finding] = []
        self.fault_count = 0
        self.heads: dict[int, str] = {}
        self.places: dict[int, str] = {}
        """Where the lines of `heads` stand."""
        self.last_place = ""
        """Of the last line of all."""
        self.signed: dict[int, tuple[Signed, str]] = {}
        """Anchors that the instance says were stored, by their count, and where it says so."""
        self.records: dict[bytes, list[Told]] = {kind: [] for kind in _RECORDS}
        """What the instance tells of that was signed and stored beside it, by kind."""
        self.seals: list[tuple[str, Seal]] = []
        """Of its segments, each with the place of its file."""
        self.stubs = False
        """Whether lines may be without their body: of a segment whose seal says so."""
        self.dropped = 0
        self.times: dict[int, str] = {}
        self.opened: Opened | None = None
        self.closed: Closed | None = None
        self.open: dict[int, bytes] = {}
        """Intents without an outcome: number → kind."""
        self.left = 0
        """Intents whose recorder has gone before their outcome, as the journal says."""
        self.joining: Joining | None = None
        """Of an instance whose launcher writes its own story."""
        self.orphans: list[Finding] = []
        self.clock_steps = 0
        self.first_clock_step = ""
        self.first_time = ""
        self.last_time = ""
        self.newest_time = ""
        """The latest of all: a clock that steps back makes nothing younger."""
        self._wanted = sorted(set(wanted), reverse=True)
        self._start = chain.start(instance)
        self._prefix = chain.hash_prefix(instance)
        self._also = ""
        """The other hash that a changed line before may have had."""
        self._missing: dict[int, int] = {}
        """Sequence number to index in `findings`, for lines that turn up later."""

    def feed(self, lines: Sequence[bytes], file: str, number: int) -> None:
        """Check `lines` (without newlines), the first of which is line `number` of `file`."""
        sha256, start, prefix, tail = hashlib.sha256, self._start, self._prefix, chain.TAIL
        for line in lines:
            seq = self.count + 1
            head = b'%b%d,"time":"' % (start, seq)
            prev = self.prev.encode("ascii")
            body = line[:-tail]
            digest = sha256(b"%b%b\n%b" % (prefix, prev, body)).hexdigest()
            if (
                line.startswith(head)
                and line[-tail:] == b',"hash":"%b"}' % digest.encode("ascii")
                and body.endswith(b',"prev":"%b"' % prev)
                and len(line) <= chain.MAX_LINE
            ):
                self.count, self.prev = seq, digest
                self._also = ""
            elif not self._explain(line, f"{file}:{number}"):
                number += 1
                self.lines += 1
                continue
            else:
                head = b'%b%d,"time":"' % (start, self.count)
            time = line[len(head) : len(head) + 24].decode("ascii", "replace")
            if time < self.last_time:
                self.clock_steps += 1
                self.first_clock_step = self.first_clock_step or f"{file}:{number}"
            elif not self.first_time:
                self.first_time = time
            self.last_time = time
            self.newest_time = max(self.newest_time, time)
            at = line.find(b',"kind":"', len(head)) + 9
            kind = line[at : line.find(b'"', at)]
            if kind in _SPECIAL:
                self._note(kind, line, at, f"{file}:{number}")
            if self._wanted and self._wanted[-1] <= self.count:
                self._remember(f"{file}:{number}")
            number += 1
            self.lines += 1
        if lines:
            self.last_place = f"{file}:{number - 1}"

    def torn(self, size: int, place: str) -> None:
        """The last segment ends with `size` bytes of a line that has no end."""
        self._fault("torn", place, f"the last {size} bytes are a line without its end", self.count + 1)

    def fault(self, kind: FindingKind, place: str, reason: str) -> None:
        """A fault that the reader saw: a segment is missing or can't be read."""
        self._fault(kind, place, reason, self.count + 1)

    def _remember(self, place: str) -> None:
        while self._wanted and self._wanted[-1] <= self.count:
            count = self._wanted.pop()
            if count == self.count:
                self.heads[count] = self.prev
                self.times[count] = self.last_time
                self.places[count] = place

    def _note(self, kind: bytes, line: bytes, at: int, place: str) -> None:
        """Keep what completeness needs of a line that is not just one more event."""
        if kind in _INTENTS:
            self.open[self.count] = kind
        elif kind in _OUTCOMES:
            # Within a JSON string a quote is escaped, so these bytes are the field itself.
            begin = line.find(b',"intent":"', at) + 11
            self._outcome(kind, line, line[begin : line.find(b'"', begin)], place)
        if self.joining is not None and kind not in _OUTCOMES:
            self.joining.begin(kind, line, at, self.count, place)
        if kind == b"anchor.signed":
            signed = chain.decode(_SIGNED, line)
            if signed is not None:
                self.signed[signed.count] = (signed, place)
        elif kind in _RECORDS:
            told = chain.decode(_RECORDED, line)
            if len(self.records[kind]) < _MOST_RECORDS:
                self.records[kind].append(Told(told.record if told is not None else "", place, self.count))
        elif kind == b"channel.ended":
            self._left_open(chain.decode(_LEFT, line) or Left(), place)
        elif kind == b"journal.closed":
            self.closed = chain.decode(_CLOSED, line) or Closed(unfinished_count=-1)
        elif self.count == 1 and kind == b"journal.opened":
            self.opened = chain.decode(_OPENED, line)
            if self.opened is not None and "launcher" in self.opened.recorders:
                self.joining = Joining(self.instance)

    def _outcome(self, kind: bytes, line: bytes, intent: bytes, place: str) -> None:
        named = chain.parse_reference(intent.decode("ascii", "replace"))
        here = named is not None and named[0] == self.instance
        if named is not None and here and _PAIRS.get(self.open.get(named[1], b"")) == kind:
            del self.open[named[1]]
            if self.joining is not None:
                self.joining.end(kind, line, named[1], self.count, place)
        else:
            self._orphan(chain.reference(*named) if named is not None else "nothing that could be one", place)

    def _left_open(self, left: Left, place: str) -> None:
        for reference in left.unfinished:
            named = chain.parse_reference(reference)
            if named is None or named[0] != self.instance or self.open.pop(named[1], None) is None:
                self._orphan(reference[:80], place)
                continue
            self.left += 1
            if self.joining is not None:
                self.joining.left(named[1])

    def _orphan(self, what: str, place: str) -> None:
        if len(self.orphans) < _MOST_FINDINGS:
            self.orphans.append(
                Finding(
                    kind="orphan_outcome",
                    place=place,
                    reason=f"an outcome of {what}, which is not there as an open intent",
                    instance=self.instance,
                    seq=self.count,
                )
            )

    def _explain(self, line: bytes, place: str) -> bool:
        """Say what is wrong with `line` and where to go on. True: it is believed as an event."""
        expected = self.count + 1
        facts = chain.read_line(line)
        if facts is None:
            kind: FindingKind = "oversize" if len(line) > chain.MAX_LINE else "malformed"
            self._fault(kind, place, f"not a line of an audit, where seq {expected} belongs", expected)
            self.count, self._also, self.prev = expected, "", ""
            return False
        if self._is_dropped(line, facts, expected):
            self.count, self.prev, self._also = expected, facts.hash, ""
            self.dropped += 1
            return True
        if not chain.is_intact(line, facts):
            self._fault(
                "changed", place, f"the bytes of seq {facts.seq} are not those that were written", expected
            )
            self.count, self.prev = expected, facts.hash
            self._also = chain.line_hash(self._prefix, facts.prev, line[: -chain.TAIL])
            return False
        if facts.instance != self.instance:
            self._fault(
                "foreign", place, f"a line of instance {facts.instance}, not of {self.instance}", expected
            )
            return False
        if facts.seq != expected and not self._displaced(facts, expected, place):
            return False
        linked = facts.prev in (self.prev, self._also) or not self.prev
        if facts.seq == expected and not linked:
            self._fault(
                "unlinked",
                place,
                f"seq {facts.seq} was not written after the line that stands before it",
                facts.seq,
            )
        self.count, self.prev, self._also = facts.seq, facts.hash, ""
        return True

    def _is_dropped(self, line: bytes, facts: chain.LineFacts, expected: int) -> bool:
        """Whether it stands here without its body, as the seal of its segment lets it, and is linked."""
        here = (facts.instance, facts.seq) == (self.instance, expected)
        linked = facts.prev in (self.prev, self._also) or not self.prev
        return self.stubs and here and linked and is_stub(line)

    def _displaced(self, facts: chain.LineFacts, expected: int, place: str) -> bool:
        """A sound line with another number than its place's. True: go on behind it."""
        if facts.seq > expected:
            last = facts.seq - 1
            text = f"seq {expected}" if last == expected else f"seq {expected} to {last}"
            index = self._fault("missing", place, f"{text} left out: here stands seq {facts.seq}", expected)
            if index >= 0:
                for seq in range(expected, min(facts.seq, expected + _MOST_MISSING)):
                    self._missing[seq] = index
            return True
        if facts.seq in self._missing:
            index = self._missing.pop(facts.seq)
            first = self.findings[index]
            self.findings[index] = msgspec.structs.replace(
                first,
                kind="moved",
                reason=f"out of order: seq {first.seq} belongs here and stands at {place}",
            )
            self._fault("moved", place, f"seq {facts.seq} stands behind seq {self.count}", facts.seq)
            return False
        self._fault("duplicate", place, f"seq {facts.seq} stands here once more", facts.seq)
        return False

    def _fault(self, kind: FindingKind, place: str, reason: str, seq: int) -> int:
        """Index of the finding, or -1 past the most that are kept."""
        self.fault_count += 1
        if len(self.findings) >= _MOST_FINDINGS:
            return -1
        self.findings.append(Finding(kind=kind, place=place, reason=reason, instance=self.instance, seq=seq))
        return len(self.findings) - 1
