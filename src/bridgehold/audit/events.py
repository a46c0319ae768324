"""The events: one frozen value for each thing that can happen. Integers only, never a float.

The journal adds the envelope (`v, instance, seq, time, mono_ns, boot, kind … prev, hash`) and
writes one JSON line. `kind` is the stable name that queries and exporters use. They are one table, and
stand in one file however long it is: ``docs/reference/events.md`` is generated from it.
"""

from __future__ import annotations

import msgspec

from bridgehold.records.sendings import EgressEnded, EgressSent, EgressStopped
from bridgehold.records.workers import (
    Event,
    WorkerAttested,
    WorkerExited,
    WorkerRefused,
    WorkerStarted,
    ZygoteAttested,
    kind_of,
)

__all__ = [
    "EgressEnded",
    "EgressSent",
    "EgressStopped",
    "Event",
    "WorkerAttested",
    "WorkerExited",
    "WorkerRefused",
    "WorkerStarted",
    "ZygoteAttested",
    "kind_of",
]


class HostStarted(Event, frozen=True, kw_only=True, tag="host.started"):
    """A host has begun. `machine` is what the doctor sees of it; `weakenings` hold for the whole host."""

    version: str
    uid: int
    machine: dict[str, str | int | bool]
    weakenings: tuple[str, ...] = ()
    host: str = ""


class HostStopped(Event, frozen=True, kw_only=True, tag="host.stopped"):
    """A host ends in order; without it, it was killed."""

    reason: str


class HostDegraded(Event, frozen=True, kw_only=True, tag="host.degraded"):
    """The host can't do all of its work any more (the audit's disk, the keeper): `reason` says what."""

    reason: str


class GrantResolved(Event, frozen=True, kw_only=True, tag="grant.resolved"):
    """Written once per grant digest; other events refer to `digest`."""

    digest: str
    grant: dict[str, object]


class EnvironmentBuilt(Event, frozen=True, kw_only=True, tag="environment.built"):
    """A bridge's environment was made from `lock` in `ms`; its tree hashes to `digest`."""

    bridge: str
    lock: str
    digest: str
    files: int
    bytes: int
    ms: int


class EnvironmentRefused(Event, frozen=True, kw_only=True, tag="environment.refused"):
    """An environment was not built or not used; `code` is the error's."""

    bridge: str
    code: str
    reason: str
    where: str


class EnvironmentsRemoved(Event, frozen=True, kw_only=True, tag="environment.removed"):
    """`names`: of folders below the environments' and wheels' folders, the first 64 of `count`.

    `stuck`: of those that nobody needs and that could not be removed, the first 64.
    """

    names: tuple[str, ...]
    count: int
    stuck: tuple[str, ...] = ()


class ConfigReloaded(Event, frozen=True, kw_only=True, tag="config.reloaded"):
    """Keys, never values, and rules and bridges that are gone. `digest`: of what holds from here on."""

    digest: str
    applied: tuple[str, ...]
    waiting: tuple[str, ...]
    """Changed too, and left for a restart."""


class SessionOpened(Event, frozen=True, kw_only=True, tag="session.opened"):
    """A session is ready for its first command. `start`: ``cold``, ``fork`` or ``parked`` (warm pool)."""

    bridge: str
    grant: str
    start: str
    name: str = ""
    recovers: str = ""
    """The session that lost its worker, and whose resources are made again in this one."""
    kept_back: tuple[str, ...] = ()
    """Names of variables of a foreign worker's starter that stay outside, the first 64: keys first."""


class SessionClosed(Event, frozen=True, kw_only=True, tag="session.closed"):
    """A session is over. Its worker's usage is the kernel's count; `emptied_ms` from kill to empty cgroup."""

    reason: str
    code: str = ""
    commands: int = 0
    cpu_us: int = 0
    memory_peak_bytes: int = 0
    emptied_ms: int = 0


class ZygoteStarted(Event, frozen=True, kw_only=True, tag="zygote.started"):
    """A warm process stands, attested; sessions of this tenant and bridge are forked from it."""

    bridge: str
    zygote: str
    spec: str
    environment: str
    modules: tuple[str, ...]
    ms: int
    memory_bytes: int


class ZygoteEnded(Event, frozen=True, kw_only=True, tag="zygote.ended"):
    """A zygote is gone, and its sessions with it; `forks` counts those that it had made."""

    bridge: str
    zygote: str
    cause: str
    """``exited``, ``signal``, ``memory``, ``killed`` (replaced, evicted, drained), ``zygote`` (changed)."""
    reason: str
    forks: int


class StartFellBack(Event, frozen=True, kw_only=True, tag="start.fell_back"):
    """Sessions that may be forked start cold, and why. Once for each reason."""

    bridge: str
    reason: str


class CommandIntent(Event, frozen=True, kw_only=True, tag="command.intent"):
    """Durable before the command runs."""

    bridge: str
    operation: str
    grant: str
    rule: str
    arguments_digest: str
    arguments_bytes: int
    arguments_preview: str
    deadline_ms: int
    resource: str = ""
    """The kind of resource that the operation works on."""
    parent: str = ""
    replays: str = ""
    """The command of a lost session that this one repeats."""


class CommandOutcome(Event, frozen=True, kw_only=True, tag="command.outcome"):
    """`intent` is the event reference of the intent. Three flags: transport, application, decision."""

    intent: str
    transport_ok: bool
    application_ok: bool
    code: str = ""
    reason: str = ""
    cpu_us: int = 0
    memory_peak_bytes: int = 0
    ms: int = 0
    result_digest: str = ""
    """Of its JSON, in which a file's bytes that came beside it stand as their number and digest."""
    result_bytes: int = 0
    traceback: str = ""
    """Of the guest's code, where that failed: its own words, bounded."""


class CommandRefused(Event, frozen=True, kw_only=True, tag="command.refused"):
    """A command was not let through. `arguments_preview` is short and holds no key.

    Of more than 5,000 values nothing is shown, and the digest is of what is said instead.
    """

    bridge: str
    operation: str
    rule: str
    reason: str
    source: str
    arguments_digest: str = ""
    arguments_preview: str = ""


class ToolIntent(Event, frozen=True, kw_only=True, tag="tool.intent"):
    """Durable before the tool runs. `parent` is the command that called it."""

    parent: str
    tool: str
    how: str
    """``caller``, ``http``, ``process`` or ``host``: where it runs."""
    rule: str
    arguments_digest: str
    arguments_bytes: int
    arguments_preview: str


class ToolOutcome(Event, frozen=True, kw_only=True, tag="tool.outcome"):
    """`intent` is the event reference of the intent."""

    intent: str
    tool: str
    ok: bool
    code: str = ""
    reason: str = ""
    ms: int = 0
    result_digest: str = ""
    result_bytes: int = 0


class ToolRefused(Event, frozen=True, kw_only=True, tag="tool.refused"):
    """The bridge asked for a tool that it may not call, that isn't there, or with other arguments."""

    tool: str
    rule: str
    reason: str
    source: str
    arguments_digest: str = ""


class ArtifactChanged(Event, frozen=True, kw_only=True, tag="artifact.changed"):
    """Bytes of a tenant's were kept or removed."""

    action: str
    """``kept`` or ``removed``."""
    digest: str
    size_bytes: int
    name: str = ""


class ArtifactRead(Event, frozen=True, kw_only=True, tag="artifact.read"):
    """A part of a tenant's bytes was handed out, or a hub's listing that is kept among them."""

    digest: str
    size_bytes: int
    """Of the whole."""
    offset: int
    length: int
    name: str = ""
    """Of what it is; a listing's is ``hub:REPO@REVISION``."""


class EgressOutcome(Event, frozen=True, kw_only=True, tag="egress.outcome"):
    """One allowed request through the gateway, when it ended."""

    intent: str
    provider: str
    host: str
    method: str
    path: str
    status: int
    request_bytes: int
    response_bytes: int
    ms: int
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    background: bool = False
    code: str = ""
    scrubbed: int = 0
    """How many times the key's own value was removed from what the provider sent back."""
    estimated: bool = False
    """The tokens are counted from bytes and stream events, because the provider named none."""
    charged: int = 0
    """Tokens that the budget was charged with: never fewer than were said or seen."""
    unsent: bool = False
    """Nothing of it has reached the provider: no budget counts it, neither its tokens nor the request."""
    kept: bool = False
    """As its intent's."""
    digest: str = ""
    """Of a download: ``sha256:`` of what came, whether it was kept or not."""
    followed: str = ""
    """Of a download: the last host that the hub's redirects led to."""


class EgressIntent(Event, frozen=True, kw_only=True, tag="egress.intent"):
    """A request is about to leave for `provider`; written before it does. `background`: for no command."""

    provider: str
    host: str
    method: str
    path: str
    rule: str
    how: str = "gateway"
    kept: bool = False
    """A cell's: the keeper writes down what goes out of it and keeps its account (`egress.sent`)."""
    background: bool = False
    reserved: int = 0
    """Tokens that the budget is charged with until the outcome says better."""
    model: str = ""
    """What the request is for, in its own words: by its price money is counted."""


class EgressRefused(Event, frozen=True, kw_only=True, tag="egress.refused"):
    """A guest's request was not let out. `severity` is ``high`` where a key or another tenant is involved."""

    host: str
    method: str
    path: str
    rule: str
    reason: str
    source: str
    severity: str = "normal"
    """``high`` where a placeholder went to the wrong place or a tunnel lied about its name."""
    background: bool = False


class ProtocolViolation(Event, frozen=True, kw_only=True, tag="protocol.violation"):
    """A guest broke the rules of the wire; its session ends."""

    worker: str
    reason: str


class PrincipalRefused(Event, frozen=True, kw_only=True, tag="principal.refused"):
    """A peer was rejected: its uid or token belongs to no principal."""

    uid: int
    reason: str


class RequestRefused(Event, frozen=True, kw_only=True, tag="request.refused"):
    """A caller asked, by any method but `run`, what it may not or what it is not shown.

    `tenant` is the caller's own; `named_tenant` and `named` are what it wrote.
    """

    method: str
    code: str
    """``denied`` or ``not_found``: what is another tenant's is not found, and looks the same here."""
    reason: str
    named_tenant: str = ""
    named: str = ""


class SecretChanged(Event, frozen=True, kw_only=True, tag="secret.changed"):
    """Names only. ``set`` and ``remove`` as the keeper's index tells, whoever did it and whenever."""

    name: str
    """The secret's; of a captured one its provider's."""
    action: str
    """``set``, ``remove``, ``captured`` (out of a caller's arguments) or ``revealed`` (to a sandbox)."""
    store: str = ""
    version: int = 0
    """Of one that was set: another after each time."""


class PolicyLoaded(Event, frozen=True, kw_only=True, tag="policy.loaded"):
    """What a grant rests on: the policy, all that it extends, and the tenant's ceiling."""

    name: str
    digest: str
    """Of `files` together."""
    files: tuple[str, ...]
    """``FILE sha256:…`` of each that was read."""


class AdminIntent(Event, frozen=True, kw_only=True, tag="admin.intent"):
    """Durable before an operator changes a tenant, a token or a tenant's bridge, and before a bridge that was
    handed in is looked at. Never a token, nor the value of a key."""

    action: str
    """``tenant.suspend``, ``token.create`` and so on: the method."""
    subject: str
    """The tenant's name, the token's, or ``TENANT/BRIDGE``."""
    details: dict[str, str] = {}


class AdminOutcome(Event, frozen=True, kw_only=True, tag="admin.outcome"):
    """`intent` is the event reference of the intent. Not `ok`: nothing was changed, or not all of it."""

    intent: str
    action: str
    subject: str
    ok: bool
    code: str = ""
    reason: str = ""
    ms: int = 0
    parts_ms: dict[str, int] = {}
    """Of a revocation: how long each part of the tenant took to end."""


class EventsFolded(Event, frozen=True, kw_only=True, tag="events.folded"):
    """Events past a token bucket, counted instead of written one by one."""

    folded: dict[str, int]


class CellStarted(Event, frozen=True, kw_only=True, tag="cell.started"):
    """A process of its own serves `tenant` from here on."""

    cell: str
    pid: int
    uid: int = -1
    """Its own, as the launcher counts them; -1: the host's, which all cells share then."""
    ms: int
    """From the request that needed it."""


class CellEnded(Event, frozen=True, kw_only=True, tag="cell.ended"):
    """A tenant's process has ended, and with it the `sessions` that had a place by then."""

    cell: str
    reason: str
    """What it was ended for; empty where nobody had asked for it."""
    sessions: int


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


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The journal's acknowledgement of one event."""

    ref: str
    """``INSTANCE.SEQ``: what `bridgehold why` takes."""
    seq: int
    hash: str


def event_types() -> tuple[type[Event], ...]:
    """Every event of this module, in its order."""
    return _TYPES


PAIRS = {
    "admin.intent": "admin.outcome",
    "command.intent": "command.outcome",
    "egress.intent": "egress.outcome",
    "egress.sent": "egress.ended",
    "tool.intent": "tool.outcome",
    "worker.started": "worker.exited",
}
"""What is written before an act, and what tells its end, which names it by its field `intent`."""
INTENT_KINDS = frozenset(PAIRS)
OUTCOME_KINDS = frozenset(PAIRS.values())
CLOSING_KINDS = OUTCOME_KINDS | {
    "session.closed",
    "host.degraded",
    "host.stopped",
    "events.folded",
    "cell.ended",
    "channel.ended",
    "segment.rotated",
    "journal.closed",
}
"""What may still use the reserve when the disk or the tenant's quota is full: ends of what began."""
JOURNAL_KINDS = frozenset(
    {"journal.opened", "journal.closed", "segment.rotated", "anchor.signed", "channel.ended"}
)
"""Written by the journal itself and never taken from a channel."""
# Once, at import: a module's names may grow under whoever walks them, in another thread.
_TYPES = tuple(
    value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, Event) and value is not Event
)
