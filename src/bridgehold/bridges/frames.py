"""The frames of the wire: what the host believes of a guest's bytes, and no more.

`docs/reference/wire.md` describes them for bridge authors. A frame on the wire is a 4-byte
big-endian length and UTF-8 JSON. A guest's frame is read into its own type, whose bounds stand here.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

MAX_ID = 2**53 - 1
"""Ids stay exact where a client reads numbers as doubles."""
Id = Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]
Short = Annotated[str, msgspec.Meta(max_length=200)]
Message = Annotated[str, msgspec.Meta(max_length=4096)]
FaultCode = Literal[
    "application",
    "invalid_input",
    "missing_module",
    "cancelled",
    "not_found",
    "unknown_command",
    "limit",
    "memory",
    "provider",
    "provider_auth",
    "rate_limit",
    "context_length",
    "refused",
    "budget",
]
"""``limit``: the result is too large for the wire; ``refused`` and ``budget``: by the gateway."""


class ProviderBinding(msgspec.Struct, frozen=True, kw_only=True):
    """What a bridge is told of one provider: where the gateway serves it, and the worthless key."""

    base_url: str
    """``http://127.0.0.1:PORT/PROVIDER``, without a version prefix."""
    placeholder: str
    """Random for the session, with the prefix that SDKs expect; the gateway swaps it for the key."""
    shape: str = "openai"


class BootFrame(msgspec.Struct, frozen=True, kw_only=True):
    """Host to guest, the first frame: what to import. Carries no tenant data."""

    bridge: str
    version: str = ""
    entry: str
    """``module:Class``, importable from the bridge's folder; empty where `foreign`."""
    foreign: bool = False
    """A script of the tenant's own is run instead of a class; `common:open` names it."""
    preload: tuple[str, ...] = ()
    gateway: str = ""
    providers: dict[str, ProviderBinding] = {}
    environment: dict[str, str] = {}
    worker_id: str = ""
    response_bytes: int = 8 * 1024 * 1024
    """Bound of a frame to the host; the guest refuses a larger result itself, and lives on."""
    request_bytes: int = 8 * 1024 * 1024
    limits: dict[str, int] = {}
    """What the session has, by the names of `bridgehold_sdk.Limits`."""
    parts: bool = False
    """The host takes frames with parts; whether it may send them, `ready` says."""


class WarmFrame(msgspec.Struct, frozen=True, kw_only=True):
    """Host to zygote, the first frame: what to load before sessions are forked. Carries no tenant data."""

    modules: tuple[str, ...]
    calls: tuple[str, ...] = ()
    """Frameworks whose provider client is called once, against a simulator at `gateway`."""
    weights: tuple[str, ...] = ()
    """Read-only paths inside, of operator-given weights to be loaded once."""
    gateway: str = ""
    """``http://127.0.0.1:PORT`` of the simulator; empty where there is none."""


class WarmedFrame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Zygote to host, once, as `ready` is a worker's."""

    modules: Annotated[tuple[Short, ...], msgspec.Meta(max_length=1000)]
    threads: Count
    threaded: Annotated[tuple[Message, ...], msgspec.Meta(max_length=1000)] = ()
    """Modules (or calls) that left threads behind: none of these can be forked."""
    reason: Message = ""
    """Why nothing can be forked from it; empty where it can."""
    ms: Count = 0


class ToolFact(msgspec.Struct, frozen=True, kw_only=True):
    """A function of the host's side that a bridge may call while a command runs."""

    name: str
    description: str = ""
    parameters: dict[str, object] = {}
    """JSON Schema of the arguments, an object's."""


class CallFrame(msgspec.Struct, frozen=True, kw_only=True):
    """Host to guest: run `command` (``bridge:operation`` or ``common:ping``)."""

    id: int
    command: str
    args: dict[str, object]
    """Those of `base64` may be bytes: a guest that takes no parts gets them as text."""
    deadline_ms: int = 0
    """Time left, for the guest's information; the host enforces it."""
    tools: tuple[ToolFact, ...] = ()
    """What this command may call back."""


class CancelFrame(msgspec.Struct, frozen=True, kw_only=True):
    """Host to guest: interrupt call `id`."""

    id: int


class ToolCallFrame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Guest to host, while call `id` runs: run `tool` with `arguments`."""

    id: Id
    call: Count
    """The guest's own number, for the reply."""
    tool: Short
    arguments: dict[str, object]


class ToolFault(msgspec.Struct, frozen=True, kw_only=True):
    """Why a tool's call failed, as the guest gets it."""

    code: str
    """One of the error codes: ``denied``, ``usage``, ``timeout``, ``application``, …"""
    message: str


class ToolReplyFrame(msgspec.Struct, frozen=True, kw_only=True):
    """Host to guest: what tool call `call` of call `id` came to."""

    id: int
    call: int
    result: object = None
    error: ToolFault | None = None


class ReadyFrame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Guest to host, once: preload done. Must agree with the manifest."""

    bridge: Short
    version: Short
    operations: Annotated[tuple[Short, ...], msgspec.Meta(max_length=1000)]
    python: Short = ""
    sdk: Short = ""
    parts: bool = False
    """It takes frames with parts."""


class ResultFrame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Guest to host: its answer to the command `id`."""

    id: Id
    result: object
    """The member `base64` of an object is bytes where it came as a part."""


class FaultFrame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bridge's code raised, or was interrupted (`type` ``Cancelled``). Bounded texts."""

    id: Id
    type: Short
    message: Message
    traceback: Annotated[str, msgspec.Meta(max_length=16_384)] = ""
    code: FaultCode = "application"
    alive: bool = True


class ProgressFrame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Guest to host: how far the command `id` is: `done` of `total`, in the bridge's own units."""

    id: Id
    done: Count
    total: Count
    note: Annotated[str, msgspec.Meta(max_length=500)] = ""


class ChunkFrame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Guest to host: one piece of the stream of the command `id`; `seq` counts from 0 without a gap."""

    id: Id
    seq: Count
    data: object


class StrayFrame(msgspec.Struct, frozen=True, kw_only=True):
    """A well-formed frame of a call that nobody waits for. To be dropped and audited, never routed."""

    id: int
    kind: str
    """``result``, ``fault``, ``progress``, ``chunk`` or ``tool_call``."""
    reason: str
    """``late`` (answered already, or given up) or ``unknown`` (no such call was ever sent)."""


HostFrame = BootFrame | WarmFrame | CallFrame | CancelFrame | ToolReplyFrame
GuestFrame = ReadyFrame | WarmedFrame | ResultFrame | FaultFrame | ProgressFrame | ChunkFrame | ToolCallFrame
