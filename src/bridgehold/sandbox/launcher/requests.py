"""The fixed set of requests between host and launcher: one datagram each, JSON, bounded.

The host's own channel may ask for everything. A cell's channel is its tenant's: it starts what the host has
allowed it, and asks about what it has started.
"""

from __future__ import annotations

import msgspec

from bridgehold.error_info import ErrorInfo
from bridgehold.policies.model import Machine
from bridgehold.sandbox.spec import spec_digest
from bridgehold.sandbox.values import (
    Attestation,
    ExitReport,
    Launched,
    SandboxSpec,
    SealReport,
    StartNote,
    TenantShare,
    Usage,
)

MAX_DATAGRAM = 160 * 1024


class MachineRequest(msgspec.Struct, frozen=True, tag="machine"):
    """Answered by what the machine offers."""

    id: int


class LaunchRequest(msgspec.Struct, frozen=True, tag="launch"):
    """Start a sandbox cold."""

    id: int
    spec: SandboxSpec
    share: TenantShare | None = None
    """Of the spec's tenant, from now on; None: as before."""
    note: StartNote = StartNote()


class ForkRequest(msgspec.Struct, frozen=True, tag="fork"):
    """A worker of `spec` from the zygote of that name, which was attested before."""

    id: int
    zygote: str
    spec: SandboxSpec
    share: TenantShare | None = None
    """As `LaunchRequest`'s."""
    note: StartNote = StartNote()


class AttestRequest(msgspec.Struct, frozen=True, tag="attest"):
    """Compare a worker with its spec."""

    id: int
    worker: str


class UsageRequest(msgspec.Struct, frozen=True, tag="usage"):
    """What a worker has used so far."""

    id: int
    worker: str


class AccountRequest(msgspec.Struct, frozen=True, tag="account"):
    """As `UsageRequest`, with descriptors beside the answer to read the most asked part of it by."""

    id: int
    worker: str


class CurrentRequest(msgspec.Struct, frozen=True, tag="current"):
    """`ReplacedError` where a sandbox that began now would show something else under the same names."""

    id: int
    worker: str


class KillRequest(msgspec.Struct, frozen=True, tag="kill"):
    """End a worker; answered when nothing of it is left."""

    id: int
    worker: str


class SealRequest(msgspec.Struct, frozen=True, tag="seal"):
    """Make the tree at `path` unchangeable."""

    id: int
    path: str
    empty: bool = False
    """Remove what is in the folder instead: the host can't, where the launcher owns it."""


class OpenRequest(msgspec.Struct, frozen=True, tag="open"):
    """With one descriptor: a stream of datagrams that is to be the channel of a cell of `tenant`."""

    id: int
    cell: str
    """Names the channel; new in this launcher's life."""
    tenant: str
    share: TenantShare | None = None
    """As `LaunchRequest`'s."""


class Way(msgspec.Struct, frozen=True):
    """A sandbox that a cell may start, with so much memory and processor, or less."""

    digest: str
    """Of its spec without those two."""
    memory_bytes: int
    cpu_millis: int


def way_of(spec: SandboxSpec) -> Way:
    """What lets a cell start `spec`."""
    own = spec.resources
    unsized = msgspec.structs.replace(own, memory_bytes=0, cpu_millis=0)
    digest = spec_digest(msgspec.structs.replace(spec, resources=unsized))
    return Way(digest, own.memory_bytes, own.cpu_millis)


class AllowRequest(msgspec.Struct, frozen=True, tag="allow"):
    """The cell may start these sandboxes for `bridge`, and no others any more."""

    id: int
    cell: str
    bridge: str
    ways: tuple[Way, ...]
    share: TenantShare | None = None
    """As `LaunchRequest`'s: what a cell says of it counts for nothing."""


class CloseRequest(msgspec.Struct, frozen=True, tag="close"):
    """End a cell's channel, and all that is in its cgroup; nothing where there is none any more."""

    id: int
    cell: str


class AdoptRequest(msgspec.Struct, frozen=True, tag="adopt"):
    """Put a child of the host's, which works for the cell's tenant, into the cell's cgroup."""

    id: int
    cell: str
    pid: int


class EnterRequest(msgspec.Struct, frozen=True, tag="enter"):
    """Put the process that says this, as the kernel says who it is, into its tenant's cgroup."""

    id: int


OfCell = (
    MachineRequest
    | LaunchRequest
    | ForkRequest
    | AttestRequest
    | UsageRequest
    | AccountRequest
    | CurrentRequest
    | KillRequest
    | EnterRequest
)
"""What a cell may ask. All else on its channel ends that."""
Request = OfCell | SealRequest | OpenRequest | AllowRequest | AdoptRequest | CloseRequest


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Answer to request `id`; or with `id` 0 the report of a worker's end."""

    id: int
    machine: Machine | None = None
    launched: Launched | None = None
    attestation: Attestation | None = None
    usage: Usage | None = None
    sealed: SealReport | None = None
    exited: ExitReport | None = None
    cell_uid: int = -1
    """To an `OpenRequest`: the cell's own, which it gives itself in the namespace behind the one descriptor
    that comes with this; -1: it shares the host's."""
    recorded: str = ""
    """With `id` 0: the worker whose proof is in the audit now, or with `error` can't be."""
    unrecorded: str = ""
    """With `id` 0: an end that could not be written, and why."""
    error: ErrorInfo | None = None
