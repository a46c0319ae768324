"""What a start needs, what its guest is told, and what the audit is told of it (pure but for chance)."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import msgspec

from bridgehold.bridges.frames import BootFrame, ProviderBinding
from bridgehold.bridges.manifest import Manifest
from bridgehold.host.shares.cell_wire import AskOrder
from bridgehold.policies.limits_request import NOTHING, LimitsRequest
from bridgehold.policies.model import Grant
from bridgehold.sandbox.spec import resources
from bridgehold.sandbox.values import SandboxSpec, StartNote

GATEWAY_PORT = 8080
"""Where the gateway listens on each sandbox's own loopback."""
GUEST_LIMITS = (
    *("memory_bytes", "cpu_millis", "processes", "open_files", "file_size_bytes"),
    *("scratch_bytes", "shm_bytes", "response_bytes", "request_bytes", "command_ms"),
)
"""What a guest is told of its limits: `bridgehold_sdk.Limits`."""

SCRIPT_PLACEHOLDER = "sk-bh-foreign"
"""The key that callers of foreign scripts may pass in their arguments. It is worth nothing anywhere: a
gateway serves one session, and puts that session's tenant's key in its place."""


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """A script of the tenant's own, as the inner runner is told of it. Paths are the sandbox's."""

    kind: Literal["script", "code", "module", "stdin"]
    text: str = ""
    """The file, the code or the module."""
    args: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    """Further folders to import from."""
    protocol: bool = True
    """Whether it speaks in frames; otherwise its standard output is anybody's text."""
    callback: int = 0
    """Of a worker that speaks gRPC: the port that it calls back at. Its standard output is its log."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables of its starter's that pass."""


class StartOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a start needs. `spec` decides what may be touched, `boot` is what the guest is told."""

    session: str
    session_name: str
    manifest: Manifest
    grant: Grant
    spec: SandboxSpec
    environment_digest: str
    bridge_folder: Path
    weights: tuple[str, ...] = ()
    """Paths inside, of what the operator has loaded once for all sessions."""
    shapes: dict[str, str] = {}
    """How each configured provider's interface looks; ``openai`` for one that isn't configured."""
    script: Script | None = None
    """Of a `foreign` bridge: what the session runs."""
    kept_back: tuple[str, ...] = ()
    """Names of its starter's variables that stay outside."""
    env_secrets: tuple[tuple[str, str], ...] = ()
    """Weakening ``env_secret`` only: variables that travel in the boot frame, never in argv."""
    asked: LimitsRequest = NOTHING
    """Limits that its caller asked for: `grant` has them. `spec` is what the policy gives, which zygotes and
    pools are made for."""

    @property
    def own_spec(self) -> SandboxSpec:
        """The sandbox of this session, with its own limits."""
        return msgspec.structs.replace(self.spec, resources=resources(self.grant))


OrderMaker = Callable[[str, AskOrder], Awaitable[StartOrder]]
"""Says what to start for a tenant; see `Orders.make`."""


def new_placeholder() -> str:
    """A string that SDKs accept as a key, and that is worth nothing outside this session."""
    return "sk-bh-" + secrets.token_urlsafe(24)


def boot_frame(order: StartOrder, placeholders: dict[str, str]) -> BootFrame:
    """What to import and where the providers are. No tenant data, no key (pure)."""
    grant, manifest = order.grant, order.manifest
    base = f"http://127.0.0.1:{GATEWAY_PORT}"
    providers = {
        name: ProviderBinding(
            base_url=f"{base}/{name}", placeholder=placeholder, shape=order.shapes.get(name, "openai")
        )
        for name, placeholder in placeholders.items()
    }
    return BootFrame(
        bridge=manifest.name,
        version=manifest.version,
        entry=manifest.entry,
        foreign=bool(manifest.foreign),
        preload=manifest.preload,
        gateway=base if (placeholders or grant.connects) else "",
        providers=providers,
        environment=dict(order.env_secrets),
        worker_id=order.session,
        response_bytes=grant.limits.response_bytes,
        request_bytes=grant.limits.request_bytes,
        limits={name: getattr(grant.limits, name) for name in GUEST_LIMITS},
        parts=True,
    )


def note_of(order: StartOrder) -> StartNote:
    """What the audit is told that the start is for (pure)."""
    return StartNote(session=order.session, environment=order.environment_digest)
