"""The events: one frozen value for each thing that can happen. Integers only, never a float.

The journal adds the envelope (`v, instance, seq, time, mono_ns, boot, kind … prev, hash`) and
writes one JSON line. `kind` is the stable name that queries and exporters use. All of them are to be had
here, whatever they are of (`bridgehold.records`): ``docs/reference/events.md`` is generated from this table.
"""

from __future__ import annotations

from bridgehold.records.commands import (
    AuditQueried,
    CommandIntent,
    CommandOutcome,
    CommandRefused,
    ToolIntent,
    ToolOutcome,
    ToolRefused,
)
from bridgehold.records.journals import (
    JOURNAL_KINDS,
    AnchorKeyRotated,
    AnchorSigned,
    ChannelEnded,
    JournalClosed,
    JournalOpened,
    Receipt,
    SegmentRotated,
    SegmentSealed,
)
from bridgehold.records.sendings import (
    EgressEnded,
    EgressIntent,
    EgressOutcome,
    EgressRefused,
    EgressSent,
    EgressStopped,
)
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
    "JOURNAL_KINDS",
    "AnchorKeyRotated",
    "AnchorSigned",
    "AuditQueried",
    "ChannelEnded",
    "CommandIntent",
    "CommandOutcome",
    "CommandRefused",
    "EgressEnded",
    "EgressIntent",
    "EgressOutcome",
    "EgressRefused",
    "EgressSent",
    "EgressStopped",
    "Event",
    "JournalClosed",
    "JournalOpened",
    "Receipt",
    "SegmentRotated",
    "SegmentSealed",
    "ToolIntent",
    "ToolOutcome",
    "ToolRefused",
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
    """Written whenever another grant comes to be in force; other events refer to `digest`."""

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


class EnvironmentScanned(Event, frozen=True, kw_only=True, tag="environment.scanned"):
    """An operator had a built environment looked at; not `ok`: something of it is as grave as was asked."""

    bridge: str
    """Those that it was built for."""
    digest: str
    ok: bool
    fail_on: str
    """What was asked: `critical`, `high`, `medium`, `low` or `never`."""
    blocked: str
    """Why the configuration has it not be used; empty where it may be."""
    packages: int
    findings: int
    """Of wheels that were read again."""
    advisories: tuple[str, ...]
    """``PACKAGE VERSION ID SEVERITY`` of those that hit, the gravest 64 of `count`."""
    count: int
    newest: str
    """When the newest advisory that was read was last changed, as it says."""
    unread: int
    """Files of advisories that could not be read."""


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
    asked: dict[str, int] = {}
    """Limits of its own that its caller asked for, within the policy's: bytes, milliseconds, thousandths."""


class SessionExtended(Event, frozen=True, kw_only=True, tag="session.extended"):
    """A caller gave a session more time, within its policy's: from its beginning on, and while it is idle."""

    session_ms: int
    idle_ms: int


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
    """What a grant rests on: the policy, all that it extends, and the tenant's ceiling.

    Written whenever that, or the grant, differs from what was in force; ``@TENANT`` where a host finds other
    ceilings. `gained`, `lost`: capabilities, as `bridgehold policy diff` names them, the first 40 of each."""

    name: str
    digest: str
    """Of `files` together."""
    files: tuple[str, ...]
    """``FILE sha256:…`` of each that was read."""
    bridge: str = ""
    previous_grant: str = ""
    """Digest of the grant that was in force; empty where this host has had none of this bridge before."""
    gained: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    limits: dict[str, int] = {}  # ceilings of the tenant; money in millionths


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


def event_types() -> tuple[type[Event], ...]:
    """Every event, in the order of this table."""
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
# Once, at import: a module's names may grow under whoever walks them, in another thread.
_TYPES = tuple(
    value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, Event) and value is not Event
)
