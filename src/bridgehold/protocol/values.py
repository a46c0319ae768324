"""The host's own values: what a caller asks, and what it gets."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import msgspec

from bridgehold.error_info import Output
from bridgehold.errors import DeniedError, ProtocolError
from bridgehold.policies.globs import matches

QUEUE_BOUND = 64
"""Commands that the host holds for one session, with the one that runs; more are refused as busy."""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. `tenants` is what it may act for (``*``: every tenant)."""

    name: str
    tenants: tuple[str, ...]
    operator: bool = False
    logs: bool = True
    """Whether it may read what its tenants' sessions write: logs, output, and tracebacks of their code."""
    bridges: tuple[str, ...] = ()
    """Of a token that has a scope: the only bridges it may use; empty: all."""
    operations: tuple[str, ...] = ()
    """Likewise: patterns of ``bridge:operation``."""
    read_only: bool = False
    """It may look, and neither run, open, end nor keep anything."""

    @property
    def may_read(self) -> bool:
        """Whether it may read what guests print, and the tracebacks in their errors."""
        return self.logs or self.operator

    def may_act_for(self, tenant: str) -> bool:
        """Whether `tenant` is among its tenants, or it may act for all (``*``)."""
        return "*" in self.tenants or tenant in self.tenants

    def narrowed(self, tenant: str) -> Principal:
        """It, for `tenant` alone, and no operator; as it is, without one. Raises `DeniedError`."""
        if not tenant:
            return self
        if not self.may_act_for(tenant):
            raise DeniedError(
                f"{self.name} may not act for tenant {tenant[:64]!r}",
                hint="An operator can add the tenant to your principal in config.toml.",
            )
        return msgspec.structs.replace(self, tenants=(tenant,), operator=False)

    def may_use(self, bridge: str) -> bool:
        """Whether `bridge` is among its bridges; without a list, each is."""
        return not self.bridges or bridge in self.bridges

    def demand_bridge(self, bridge: str) -> None:
        """Raise `DeniedError` where `bridge` is out of its scope; empty: none is meant."""
        if bridge and not self.may_use(bridge):
            raise DeniedError(
                f"{self.name} may not use the bridge {bridge[:64]!r}",
                hint=f"It is for {', '.join(self.bridges)}: an operator makes a token for another.",
            )

    def may_run(self, bridge: str, operation: str) -> bool:
        """`operation` is ``bridge:name``, or ``common:name`` of a session of `bridge`'s."""
        allowed = not self.operations or any(matches(one, operation) for one in self.operations)
        return self.may_use(bridge) and (allowed or operation.startswith("common:"))

    def may_run_all(self, bridge: str) -> bool:
        """Whether its operations leave out none of `bridge`'s: code could do what any of them does."""
        every = ("*", "*:*", f"{bridge}:*")
        return self.may_use(bridge) and (not self.operations or any(one in every for one in self.operations))

    @property
    def account(self) -> str:
        """Whose share of the audit its refusals take: its one tenant; the host's own where it has several."""
        return self.tenants[0] if len(self.tenants) == 1 and "*" not in self.tenants else ""


class CommandUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The kernel's account of one command."""

    cpu_us: int = 0
    memory_peak_bytes: int = 0
    ms: int = 0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a command gives back. `receipt` is the audit's reference of its outcome."""

    value: object
    session: str
    usage: CommandUsage = CommandUsage()
    receipt: str = ""
    truncated: bool = False
    degraded: bool = False
    """The outcome could not be written to the audit although the command ran."""
    anew: str = ""
    """The session is not the one that its name had before: which that was, and why it ended. Told once."""


class Reply(Answer, frozen=True, kw_only=True):
    """What a command gives back, and what else it wrote. `receipt` is the reference of its outcome."""

    cold_start: str = ""
    """Of a session's first command: why the session started cold, though its policy says fork."""
    output: Output = Output()
    """What the command wrote to its standard output and error, where its value doesn't hold it."""


class StackShare(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One stack of a profile, outermost call first, and its `share` (0 to 1) of all samples."""

    stack: Annotated[str, msgspec.Meta(max_length=20_000)]
    samples: Annotated[int, msgspec.Meta(ge=0)]
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]


class LineShare(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of code (``file:line``) that was running, and its `share` (0 to 1) of all samples."""

    line: Annotated[str, msgspec.Meta(max_length=1_000)]
    samples: Annotated[int, msgspec.Meta(ge=0)]
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker says of its own stacks: its own word, of a known form."""

    seconds: Annotated[float, msgspec.Meta(ge=0)]
    samples: Annotated[int, msgspec.Meta(ge=0)]
    stacks: Annotated[list[StackShare], msgspec.Meta(max_length=1_000)]
    lines: Annotated[list[LineShare], msgspec.Meta(max_length=1_000)]


class OpenedSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was opened."""

    id: str
    name: str
    bridge: str
    tenant: str


class SessionFacts(OpenedSession, frozen=True, kw_only=True):
    """A session and what it has used; times in milliseconds, memory in bytes."""

    state: str
    start: str
    commands: int
    age_ms: int
    idle_ms: int
    memory_bytes: int


class SessionInfo(SessionFacts, frozen=True, kw_only=True):
    """One line of `bridgehold sessions`: also what only the machine's own people are shown."""

    cold_start: str = ""
    """Why it started cold, though its policy says fork."""
    pid: int
    uid: int
    grant: str
    environment: str = ""
    """The digest of what it runs on, as `bridge scan` names it; empty: on the host's Python alone."""


class ResourceRef(msgspec.Struct, frozen=True, kw_only=True):
    """One resource of one session."""

    id: str
    kind: str
    bridge: str
    session: str
    session_name: str
    tenant: str


class FileFact(msgspec.Struct, frozen=True, kw_only=True):
    """What lies at a path inside a session: the sandbox's own word."""

    path: str
    kind: Literal["file", "folder", "link", "other"]
    size_bytes: int
    mode: int = 0
    modified: float = 0.0
    """Seconds since the epoch."""
    target: str = ""
    """Of a link."""
    raw: str = ""
    """The path in base64, where it is no text."""


class ProcessFact(msgspec.Struct, frozen=True, kw_only=True):
    """A program that was started in the background of a session: the sandbox's own word."""

    process: int
    """What the session calls it."""
    argv: list[str]
    running: bool
    status: int | None
    """As a shell tells it; None while it runs, or where nobody knows."""
    signal: int
    """The one that ended it; 0: none."""
    written: dict[str, int]
    """Bytes of each stream so far."""
    terminal: bool = False


class ProcessPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of what a process wrote: the sandbox's own word."""

    data: bytes
    offset: int
    """Where it begins."""
    lost: int
    """Bytes between what was asked for and this, which are kept no more."""
    end: bool
    """The process has ended, and wrote nothing after this."""


class FilePart(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a file inside a session: the sandbox's own word."""

    base64: bytes
    end: bool
    """The file has no more."""
    size_bytes: int = 0
    """What it has now."""

    @classmethod
    def of(cls, said: object) -> Self:
        """Raises `ProtocolError` for what is none; of bytes that are none and not the last, too."""
        try:
            part = msgspec.convert(said, type=cls)
        except msgspec.ValidationError as error:
            raise ProtocolError(f"the session's part of a file is none: {error}") from None
        if not part.base64 and not part.end:
            raise ProtocolError("the session gives no more of a file, and doesn't say that it ends")
        return part


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact, for people and programs."""

    digest: str
    """``sha256:`` and 64 hexadecimal digits."""
    size_bytes: int
    name: str = ""
    media_type: str = ""
    created: float = 0.0
    """Seconds since the epoch."""
