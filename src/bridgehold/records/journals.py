"""The journal's own events, which nobody else writes, and what it acknowledges with."""

from __future__ import annotations

import msgspec

from bridgehold.records.workers import (
    Event,
)


class ChannelEnded(Event, frozen=True, kw_only=True, tag="channel.ended"):
    """A recorder broke its channel's rules, and the journal takes nothing more from it; or it is gone, and
    what it has begun has no outcome: a cell, a launcher that was killed.
    """

    recorder: str
    """``host``, ``launcher``, ``keeper`` or ``tenant``; `tenant` says which tenant's."""
    reason: str
    unfinished: tuple[str, ...] = ()
    """References of its intents whose outcome nobody knows; of many, several events name some each."""


class JournalOpened(Event, frozen=True, kw_only=True, tag="journal.opened"):
    """First line of an instance: it carries the head of the instance before it, so that the
    instances of a folder form one chain, and what recovery found there.
    """

    version: int = 1
    quarantined_bytes: int = 0
    """Bytes of torn tails that recovery moved aside, to the files of `quarantined`."""
    recovered_from: str = ""
    """The previous instance, where it did not end with `journal.closed`."""
    quarantined: dict[str, str] = {}
    """File below the audit's folder → digest of its bytes."""
    previous: str = ""
    previous_count: int = 0
    previous_head: str = ""
    recorders: tuple[str, ...] = ()
    """Who writes in this instance over a channel of its own. With ``launcher`` every start is in it."""
    unfinished: tuple[str, ...] = ()
    """References of intents without an outcome, of each tenant some, at most 256 of `unfinished_count`."""
    unfinished_count: int = 0


class JournalClosed(Event, frozen=True, kw_only=True, tag="journal.closed"):
    """Last line of an instance that ended in order."""

    reason: str
    unfinished: tuple[str, ...] = ()
    unfinished_count: int = 0
    earliest: str = ""
    latest: str = ""
    """Of the times in the last segment, this line's apart: a clock may have been set back."""


class SegmentRotated(Event, frozen=True, kw_only=True, tag="segment.rotated"):
    """First line of every further segment; the chain goes on through it."""

    previous_segment: str
    previous_count: int
    unfinished: tuple[str, ...] = ()
    """In flight, of each tenant some, at most 4096 of `unfinished_count`: recovery need not read all."""
    unfinished_count: int = 0
    earliest: str = ""
    latest: str = ""
    """Of the times in the segment before, so that who looks for a time can pass it over."""


class AnchorSigned(Event, frozen=True, kw_only=True, tag="anchor.signed"):
    """The keeper signed the chain's state: `count` events, the last of which hashes to `head`."""

    count: int
    head: str
    key: str
    signature: str


class AnchorKeyRotated(Event, frozen=True, kw_only=True, tag="anchor.key_rotated"):
    """Another key signs anchors from here on; the record is stored beside them."""

    old: str
    new: str
    old_lost: bool
    """The old key could not sign: who trusts it alone can't tell that this is its successor."""
    by: str
    """Who did it: ``uid 0``; ``host`` where it found another key than the one that was published."""
    record: str
    """The whole record, with both signatures."""


class SegmentSealed(Event, frozen=True, kw_only=True, tag="segment.sealed"):
    """A segment was closed and signed, and may have lost bodies: who did it, and the whole seal."""

    of: str
    """The instance that the segment is of."""
    segment: int
    bodies: int
    """How many of its lines lost theirs."""
    by: str
    record: str
    """The seal's text without its marks, with its signature."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The journal's acknowledgement of one event."""

    ref: str
    """``INSTANCE.SEQ``: what `bridgehold why` takes."""
    seq: int
    hash: str


JOURNAL_KINDS = frozenset(
    {
        *("journal.opened", "journal.closed", "segment.rotated", "channel.ended"),
        *("anchor.signed", "anchor.key_rotated", "segment.sealed"),
    }
)
"""Written by the journal itself and never taken from a channel."""
