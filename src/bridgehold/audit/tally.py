"""What the writer counts per group of events: bytes per tenant, and intents without an outcome."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

from bridgehold.audit.events import INTENT_KINDS, OUTCOME_KINDS, Event, kind_of

_MOST_UNFINISHED = 100_000
"""Intents without an outcome, of one owner."""
_MOST_OF_ONE = 10_000
"""Of one owner and tenant."""
_MOST_TENANTS = 100_000
_EVENT_BYTES = 64
_OTHERS = "*"


Whose = tuple[str, str]
"""Who began an intent (`Recorder.owner`), and for which tenant."""


class Tally:
    """Counts that only change when a group has been written."""

    def __init__(self, quota: int) -> None:
        self.quota = quota
        self.own: dict[str, int] = {}
        """Of tenants that have less."""
        self.bytes: dict[str, int] = {}
        self.open: dict[str, Whose] = {}
        """Intents without an outcome, oldest first, by reference."""
        self.counts: dict[Whose, int] = {}
        """How many are open: of each, and of its owner's together (tenant ``*``)."""

    def bucket(self, tenant: str) -> str:
        """Whose bytes `tenant`'s are: names past the bound (a refused caller chose them) share one."""
        return tenant if tenant in self.bytes or len(self.bytes) < _MOST_TENANTS else _OTHERS

    def bound(self, tenant: str, most: int) -> None:
        """From now on `tenant` has `most` bytes, and never more than each has; 0: as many as each."""
        self.own.pop(tenant, None)
        if 0 < most < self.quota and len(self.own) < _MOST_TENANTS:
            self.own[tenant] = most

    def unfinished(self) -> tuple[str, ...]:
        """References of intents that have no outcome yet, as `in_turns`."""
        return in_turns(self.open)

    def left_by(self, owner: str) -> tuple[str, ...]:
        """References of what `owner` has begun and not ended."""
        return tuple(reference for reference, whose in self.open.items() if whose[0] == owner)

    def forget(self, references: Iterable[str]) -> None:
        """They are open no longer: each has its outcome, or it is written that nobody knows that."""
        for reference in references:
            if (ended := self.open.pop(reference, None)) is not None:
                for whose in (ended, (ended[0], _OTHERS)):
                    self.counts[whose] -= 1
                    if not self.counts[whose]:
                        del self.counts[whose]

    def begin(self) -> Changes:
        """Counts for a group that is about to be written."""
        return Changes(self)


def in_turns(began: Mapping[str, Hashable]) -> tuple[str, ...]:
    """References of intents: each one's oldest, then each one's next. So a list that is cut has some of all.

    `began`: whose each is, oldest first.
    """
    seen: dict[Hashable, int] = {}
    ranked: list[tuple[int, str]] = []
    for reference, whose in began.items():
        rank = seen[whose] = seen.get(whose, 0) + 1
        ranked.append((rank, reference))
    return tuple(reference for _, reference in sorted(ranked, key=lambda one: one[0]))


class Changes:
    """One group's changes, kept or forgotten together."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._bytes: dict[str, int] = {}
        self._opened: dict[str, Whose] = {}
        self._begun: dict[Whose, int] = {}
        self._ended: list[str] = []

    def has_room(self, event: Event, owner: str, *, closing: bool) -> bool:
        """Whether its tenant has bytes left, and its owner room for an intent, if it is one.

        Events without a tenant are the host's own. An intent that nobody keeps in mind could be ended by
        anyone: so one too many is refused, and none is forgotten for another's.
        """
        if kind_of(event) in INTENT_KINDS:
            counts, begun = self._tally.counts, self._begun
            one, every = (owner, event.tenant), (owner, _OTHERS)
            if (
                counts.get(one, 0) + begun.get(one, 0) >= _MOST_OF_ONE
                or counts.get(every, 0) + begun.get(every, 0) >= _MOST_UNFINISHED
            ):
                return False
        if not event.tenant or self._ends(event):
            return True
        bucket = self._tally.bucket(event.tenant)
        quota = self._tally.own.get(event.tenant, self._tally.quota)
        used = self._tally.bytes.get(bucket, 0) + self._bytes.get(bucket, 0)
        return used + _EVENT_BYTES <= quota + (max(quota // 16, 16_384) if closing else 0)

    def _ends(self, event: Event) -> bool:
        """Whether it is the outcome of an intent that was written: its room was taken with the intent's."""
        intent = str(getattr(event, "intent", "")) if kind_of(event) in OUTCOME_KINDS else ""
        return intent not in self._ended and (intent in self._opened or intent in self._tally.open)

    def add(self, event: Event, reference: str, size: int, owner: str) -> None:
        """Count `event`, written as `size` bytes: to its tenant's quota, and as an open or closed intent.

        `owner`: whose an intent is from now on.
        """
        if event.tenant:
            bucket = self._tally.bucket(event.tenant)
            self._bytes[bucket] = self._bytes.get(bucket, 0) + size
        kind = kind_of(event)
        if kind in INTENT_KINDS:
            self._opened[reference] = one = (owner, event.tenant)
            for whose in (one, (owner, _OTHERS)):
                self._begun[whose] = self._begun.get(whose, 0) + 1
        elif kind in OUTCOME_KINDS:
            self._ended.append(str(getattr(event, "intent", "")))

    def keep(self) -> None:
        """The group is written: its counts become the tally's."""
        tally = self._tally
        for bucket, size in self._bytes.items():
            tally.bytes[bucket] = tally.bytes.get(bucket, 0) + size
        tally.open |= self._opened
        for whose, count in self._begun.items():
            tally.counts[whose] = tally.counts.get(whose, 0) + count
        tally.forget(self._ended)
