"""What the host and the keeper say to each other: frames, and the values inside of them.

A frame is a 9-byte header (payload length, kind, stream: big-endian 4, 1, 4) and its payload.
The host opens streams; each carries one request and its answer::

    host     OPEN(Ask)   DATA*  END            request, body
    keeper   HEAD(UpstreamHead)  DATA*  END(Done)    or   END(reply)   or   ERROR(ErrorInfo)
    both     WINDOW(n): n more bytes of DATA may come;  host  CANCEL

Either side may send `WINDOW_BYTES` of DATA on a stream before the other grants more, so that a
slow reader stalls its own stream and no other. Whoever breaks a stream's bound loses that stream; what
is no frame at all ends the connection. The bounds stand here and in `places`, for both ends.
"""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

from bridgehold.errors import ProtocolError
from bridgehold.keeper.spending import Period
from bridgehold.policies.model import Grant
from bridgehold.policies.tenants import Tenant

OPEN, HEAD, DATA, END, ERROR, CANCEL, WINDOW = range(1, 8)
KINDS = frozenset({OPEN, HEAD, DATA, END, ERROR, CANCEL, WINDOW})

HEADER = struct.Struct(">IBI")
CHUNK_BYTES = 32 * 1024
"""Largest DATA payload."""
CONTROL_BYTES = 128 * 1024
"""Largest payload of any other kind."""
WINDOW_BYTES = 128 * 1024
UNREACHED = "unreached"
"""Where an error happened before a byte of the request was sent: nothing can have been spent."""
REDIRECT = "redirect"
"""Where a request was answered, and led to where nobody may follow."""


class UpstreamRequest(msgspec.Struct, frozen=True, kw_only=True, tag="request"):
    """A decided request for a provider. The body follows as DATA."""

    tenant: str
    session: str
    provider: str
    method: str
    path: str
    """Below the provider's base URL; already normalised, checked again by the keeper."""
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body_bytes: int = 0
    secret: str = ""
    """The secret to put in; the one that the keeper's own table names if empty."""
    how: Literal["gateway", "pass", "tool"] = "gateway"
    """``pass``: put in `credential`, which the guest brought itself (weakening ``inline_keys_pass``).
    ``tool``: an operator's endpoint is called."""
    credential: str = ""
    intent: str = ""
    """Reference of the egress event that allowed it."""
    deadline_ms: int = 600_000
    tokens: int = 0
    """The most that it may use, as who asks reckons."""
    fees: int = 0
    """Likewise, in millionths of money, of what is billed by use."""
    command: str = ""
    principal: str = ""

    def __repr__(self) -> str:
        return f"UpstreamRequest({self.tenant}/{self.session} {self.method} {self.provider}{self.path})"


class Prefetch(msgspec.Struct, frozen=True, kw_only=True, tag="prefetch"):
    """Fetch the secret for `provider` now, so that the first request doesn't wait for it."""

    tenant: str
    provider: str
    secret: str = ""


class PutSessionSecret(msgspec.Struct, frozen=True, kw_only=True, tag="put_session_secret"):
    """A key from a caller's arguments, for this session and provider only."""

    session: str
    provider: str
    value: str
    tenant: str = ""

    def __repr__(self) -> str:
        return f"PutSessionSecret({self.session} {self.provider})"


class DropSession(msgspec.Struct, frozen=True, kw_only=True, tag="drop_session"):
    """Wipe the secrets that belong to one session of the tenant's alone."""

    session: str
    tenant: str


class Forget(msgspec.Struct, frozen=True, kw_only=True, tag="forget"):
    """Let go of every secret of a tenant, its sessions' own ones too, for good; how many there were."""

    tenant: str


class AllowSession(msgspec.Struct, frozen=True, kw_only=True, tag="allow_session"):
    """A cell's session may ask for what `grant` says, until `EndSession`: the front's word."""

    tenant: str
    session: str
    grant: Grant
    """What of it the keeper decides by (`accounts.allowed_part`)."""
    tools: dict[str, bool] = {}
    """Endpoints of the operator's tools that it may call (`accounts.tools_of`)."""


class EndSession(msgspec.Struct, frozen=True, kw_only=True, tag="end_session"):
    """Nothing more goes out for the session; an empty name means all of the tenant's."""

    tenant: str
    session: str


class AllowTenant(msgspec.Struct, frozen=True, kw_only=True, tag="allow_tenant"):
    """State and ceilings of a tenant that has a cell, as its file says them now."""

    tenant: str
    rules: Tenant
    requests: dict[str, tuple[int, int]] = {}
    """What it has spent before, of each provider: requests and tokens. Counts where it wasn't known."""
    periods: dict[str, Period] = {}
    """The same by day and month."""


class AskStatus(msgspec.Struct, frozen=True, kw_only=True, tag="status"):
    """Answered by `KeeperStatus`."""


class AskSign(msgspec.Struct, frozen=True, kw_only=True, tag="sign"):
    """Sign an anchor. Nobody who asks has an approval signed: who owns the configuration does, by hand."""

    text: str
    """An anchor's text, and nothing else."""


class AskPublicKey(msgspec.Struct, frozen=True, kw_only=True, tag="public_key"):
    """Answered by `AnchorKey`."""


class AskReveal(msgspec.Struct, frozen=True, kw_only=True, tag="reveal"):
    """The value of a secret that was stored with `allow_env`, and of no other."""

    tenant: str
    name: str


class AskVersions(msgspec.Struct, frozen=True, kw_only=True, tag="versions"):
    """Which secrets a tenant has, and in which version: another answer means that one has changed."""

    tenant: str


class AskReferences(msgspec.Struct, frozen=True, kw_only=True, tag="references"):
    """All tenants' references from number `first` on, as many as one answer holds. Names only."""

    first: int = 0


class AskMissing(msgspec.Struct, frozen=True, kw_only=True, tag="missing"):
    """Which of `names` a tenant has no secret of."""

    tenant: str
    names: tuple[str, ...]


class AskMarks(msgspec.Struct, frozen=True, kw_only=True, tag="marks"):
    """How the values of a tenant's secrets begin, its sessions' own ones included."""

    tenant: str


class AskRedact(msgspec.Struct, frozen=True, kw_only=True, tag="redact"):
    """Texts (a JSON list, as DATA) without the values of a tenant's secrets; they come back as DATA."""

    tenant: str
    body_bytes: int


Ask = (
    UpstreamRequest
    | Prefetch
    | PutSessionSecret
    | DropSession
    | Forget
    | AllowSession
    | EndSession
    | AllowTenant
    | AskStatus
    | AskSign
    | AskPublicKey
    | AskReveal
    | AskVersions
    | AskMissing
    | AskReferences
    | AskMarks
    | AskRedact
)

OF_CELL = UpstreamRequest | Prefetch | PutSessionSecret | DropSession | AskVersions | AskMarks | AskRedact
"""What a cell may ask, for its own tenant. All else on its channel ends that."""


def tenant_of(ask: Ask) -> str:
    """Whose part of what is shared `ask` takes (pure): its tenant's, or the host's own."""
    of_host = isinstance(ask, Forget | AllowSession | EndSession | AllowTenant)
    return "" if of_host else getattr(ask, "tenant", "")


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """What the host may know of secrets' values, so that it asks about few texts."""

    begins: tuple[str, ...]
    """The first four characters of each value that has sixteen or more: most are a provider's prefix."""
    always: bool
    """There is a shorter value, too: every text is to be asked about."""


class AnchorKey(msgspec.Struct, frozen=True):
    """The Ed25519 key that signs anchors: the raw 32 bytes of its public half."""

    public: bytes
    records: tuple[str, ...] = ()
    """Of its changes, the newest last (`audit.rotations`)."""
    approvals: bytes = b""
    """Likewise of the key that approved rules are signed with, by who owns the configuration."""


class UpstreamHead(msgspec.Struct, frozen=True, kw_only=True):
    """The status and the headers of a provider's answer, without the headers that end at the keeper."""

    status: int
    headers: tuple[tuple[str, str], ...]


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """How an upstream answer ended."""

    scrubbed: int = 0
    """How often the key's own value was masked in headers and body."""
    response_bytes: int = 0


class KeeperStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the keeper works with, counted; never a name of a secret."""

    store: str
    providers: tuple[str, ...]
    secrets: int
    """References in the index, of all tenants."""
    held: int
    """Values in memory now."""
    session_secrets: int
    streams: int
    generation: int
    problem: str = ""
    """Why the store can't be used, if it can't."""


class Frame(msgspec.Struct, frozen=True):
    """One frame of the channel, either way."""

    kind: int
    stream: int
    payload: bytes


def encode(kind: int, stream: int, payload: bytes = b"") -> bytes:
    """The bytes of a frame: length, kind, stream, payload."""
    return HEADER.pack(len(payload), kind, stream) + payload


def decode_header(header: bytes) -> tuple[int, int, int]:
    """(length, kind, stream) of a frame. Raises `ProtocolError` before anything is allocated."""
    length, kind, stream = HEADER.unpack(header)
    if kind not in KINDS or length > (CHUNK_BYTES if kind == DATA else CONTROL_BYTES) or stream == 0:
        raise ProtocolError("a frame between host and keeper is out of bounds")
    return length, kind, stream


def decode_ask(payload: bytes) -> Ask:
    """The request in `payload`. Raises `ProtocolError` for any other bytes."""
    try:
        ask: Ask = msgspec.json.decode(payload, type=Ask)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"not a request for the keeper: {type(error).__name__}") from None
    return ask


def decode_texts(body: bytes) -> list[str]:
    """The texts of a request to redact. Raises `ProtocolError` for any other bytes."""
    try:
        return msgspec.json.decode(body, type=list[str])
    except (msgspec.DecodeError, ValueError) as error:
        raise ProtocolError(f"not texts to redact: {type(error).__name__}") from None
