"""The host's own values: what a caller asks, and what it gets."""

from __future__ import annotations

from typing import Annotated

import msgspec

from bridgehold.errors import DeniedError, Output
from bridgehold.ids import ANONYMOUS_SESSION, LOCAL_TENANT
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

    def may_use(self, bridge: str) -> bool:
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

    @property
    def account(self) -> str:
        """Whose share of the audit its refusals take: its one tenant; the host's own where it has several."""
        return self.tenants[0] if len(self.tenants) == 1 and "*" not in self.tenants else ""


class CommandRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One command as a caller sent it; nothing of it has been believed yet."""

    operation: str
    """``bridge:operation``."""
    arguments: dict[str, object] = {}
    tenant: str = LOCAL_TENANT
    session: str = ANONYMOUS_SESSION
    """A session's name, or its id."""
    deadline_ms: int = 0
    """A caller may only shorten what the policy and the manifest give; 0: theirs."""
    parent: str = ""
    """The command whose tool runs this one, if one does."""


class CommandUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The kernel's account of one command."""

    cpu_us: int = 0
    memory_peak_bytes: int = 0
    ms: int = 0


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a command gives back. `receipt` is the audit reference of its outcome."""

    value: object
    session: str
    usage: CommandUsage = CommandUsage()
    receipt: str = ""
    truncated: bool = False
    degraded: bool = False
    """The outcome could not be written to the audit although the command ran."""
    cold_start: str = ""
    """Of a session's first command: why the session started cold, though its policy says fork."""
    output: Output = Output()
    """What the command wrote to its standard output and error, where its value doesn't hold it."""
    anew: str = ""
    """The session is not the one that its name had before: which that was, and why it ended. Told once."""


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


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `bridgehold sessions`."""

    id: str
    name: str
    tenant: str
    bridge: str
    state: str
    start: str
    cold_start: str = ""
    """Why it started cold, though its policy says fork."""
    commands: int
    age_ms: int
    idle_ms: int
    pid: int
    uid: int
    memory_bytes: int
    grant: str


class ResourceRef(msgspec.Struct, frozen=True, kw_only=True):
    """One resource of one session."""

    id: str
    kind: str
    bridge: str
    session: str
    session_name: str
    tenant: str


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact, for people and programs."""

    digest: str
    """``sha256:`` and 64 hexadecimal digits."""
    size_bytes: int
    name: str = ""
    media_type: str = ""
    created: float = 0.0
    """Seconds since the epoch."""
