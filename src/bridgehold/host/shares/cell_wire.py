"""What a front and a cell say to each other over their link, by method.

front → cell: `call`, `left`, `config`, `retire`, `recall`, `metrics`, `unpack`, `try`, `end`, `stop`.
cell → front: `order`, `granted`, `opened`, `ended`, `over`, `used`, `relay`, `shut`, `lend`, `returned`.
Connections come by a entrance of their own.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from bridgehold.host.shares.session_ends import SessionEnd
from bridgehold.host.startup import HostConfig
from bridgehold.keeper.spending import Period, Used
from bridgehold.policies.limits_request import NOTHING, LimitsRequest
from bridgehold.policies.model import Grant, Machine
from bridgehold.protocol.values import Principal
from bridgehold.sandbox.values import SandboxSpec


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant has used so far, as a fold of the audit."""

    providers: dict[str, tuple[int, int]] = {}
    """Requests and tokens of each, over the audit's life."""
    periods: dict[str, Period] = {}
    """By day and month."""


class CellConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a cell is started with."""

    tenant: str
    host: HostConfig
    machine: Machine
    config: str
    """The configuration that holds, as JSON."""
    spent: Spent
    approvals: bytes = b""
    """See `Ground.approvals`."""
    ended: tuple[SessionEnd, ...] = ()
    """Sessions of the tenant's cells before it."""
    lent: int = 0
    """Of the bytes that all cells may hold for their guests, beside what each has."""
    lent_callers: int = 0
    """The same for callers."""
    uid: int = -1
    """Its own, in the namespace that it is handed; -1: it stays the host's."""
    time: str = ""
    """As `clock.Clock.told`: what it is forked from may know of none that was later."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A caller's request; who it is was proven to the front."""

    principal: Principal
    method: str
    params: msgspec.Raw
    caller: int
    """Its connection."""


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """A connection is gone."""

    caller: int


class HandedIn(msgspec.Struct, frozen=True, kw_only=True):
    """A connection that is the cell's from now on; its descriptor and what was read ahead come beside it."""

    connection: int
    principal: Principal
    """Proven to the front; of the cell's tenant alone, and no operator."""
    shown: str
    """A digest of the `hello` that says so: another one is somebody else."""


class Relayed(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller of such a connection asks, and only the front answers."""

    connection: int
    method: str
    params: msgspec.Raw


class NewConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration that holds from now on."""

    config: str
    gone: tuple[str, ...]
    """Paths of rules and bridges that nobody is to miss any more."""


class Retire(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing begins in the environment of this digest any more."""

    environment: str
    reason: str


class End(msgspec.Struct, frozen=True, kw_only=True):
    """All that runs is to end now. Answered by how many `Ended`."""

    reason: str


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How many of each have ended."""

    sessions: int = 0
    zygotes: int = 0
    warm_pool: int = 0


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """The cell is to end: what runs gets so many seconds. Answered once nothing runs any more."""

    reason: str
    seconds: float
    leaving: bool = False
    """Another host takes over."""


class AskOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for of a tenant's bridge, by whoever wants to start it."""

    bridge: str
    session: str = ""
    """Empty where none is opened, as the next two are."""
    session_name: str = ""
    principal: str = ""
    """Who opens it."""
    asked: LimitsRequest = NOTHING


class Ordered(msgspec.Struct, frozen=True, kw_only=True):
    """What the front makes of it: of a `StartOrder` all but the manifest, which the cell reads itself."""

    manifest: str
    """Its digest: another one is another bridge."""
    grant: Grant
    spec: SandboxSpec
    environment: str
    folder: str
    weights: tuple[str, ...]
    shapes: dict[str, str]
    env_secrets: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return f"Ordered({self.spec.tenant}/{self.spec.bridge})"


class Unpack(msgspec.Struct, frozen=True, kw_only=True):
    """A submitted bridge, in an artifact of the tenant's, which goes. Answered by its bundle's bytes."""

    principal: Principal
    archive: str


class TryOut(msgspec.Struct, frozen=True, kw_only=True):
    """A submitted bridge is to be tried. Answered by what came of it, `Tried` each."""

    ordered: Ordered
    session: str
    toml: str
    """The text of its bridge.toml, which no catalogue has."""
    principal: str


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """What the tenant's grant for a bridge rests on has changed: it is to be written down."""

    bridge: str


class SessionOpened(msgspec.Struct, frozen=True, kw_only=True):
    """A session is open: whoever names it means this tenant's."""

    session: Annotated[str, msgspec.Meta(max_length=64)]
    name: Annotated[str, msgspec.Meta(max_length=128)]
    bridge: Annotated[str, msgspec.Meta(max_length=128)] = ""


class SessionOver(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was ordered has ended, or did not begin."""

    session: str


class Bytes(msgspec.Struct, frozen=True, kw_only=True):
    """So many of those that all cells may hold are to be lent, or given back: for guests, or for callers."""

    amount: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
    callers: bool = False


class UsedNow(msgspec.Struct, frozen=True, kw_only=True):
    """What the tenant has used of its ceilings by now."""

    used: Used
