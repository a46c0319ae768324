"""The values of a policy: what an operator grants, what a bridge asks, what a machine can give.

Everything here is frozen and already normalised: sizes are bytes, times are milliseconds, cpu is
thousandths of a core, hosts have passed `policies.names`. Reading TOML is `policies.load`'s part.

Three things are never one value: nothing said (no source; the default holds), nothing allowed (an
empty tuple, 0), anything allowed (None where a field takes it, a pattern ``*`` otherwise).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

HUB_FILES = ("/*.json", "/*.model", "/*.safetensors", "/*.txt")
"""What of a repo may be downloaded unless the policy says less: weights, configuration, words."""

Weakening = Literal[
    "env_secret",  # a key is put into the sandbox's environment
    "connect",  # raw tunnels or plain proxying to granted endpoints
    "private_network",  # an endpoint may resolve to loopback or private addresses
    "inline_keys_pass",  # keys in arguments are passed through
    "devices",  # a device file of the machine's, and so its driver, is open to the bridge
    "no_cgroup",  # rlimits and a watchdog instead of a cgroup
    "shared_uid",  # no uid of its own per session
    "overcommit",  # admission may promise more memory than there is
    "no_seccomp",  # reserved: never granted by a shipped policy
    "pth",  # wheels with .pth files may be installed, without those files
]


class Source(msgspec.Struct, frozen=True):
    """Where a value comes from, for `policy explain` and refusals."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Overruled(msgspec.Struct, frozen=True):
    """A value that another one replaced, for `policy explain`."""

    value: str
    source: Source


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a session may use. `docs/reference/limits.md` says what the guest experiences at each."""

    memory_bytes: int = 512 * MIB
    cpu_millis: int = 1000
    processes: int = 64
    """Processes and threads together, as the pids controller counts them."""
    open_files: int = 512
    file_size_bytes: int = 256 * MIB
    scratch_bytes: int = 256 * MIB
    """Size of /tmp, and again of the scratch folder (tmpfs: their pages count against memory)."""
    shm_bytes: int = 64 * MIB
    response_bytes: int = 8 * MIB
    request_bytes: int = 8 * MIB
    log_bytes_per_second: int = 64 * KIB
    log_bytes: int = 1 * MIB
    """How much of the log is kept; the oldest is cut, and the cut is marked."""
    startup_ms: int = 30_000
    command_ms: int = 60_000
    idle_ms: int = 3_600_000
    session_ms: int = 8 * 3_600_000
    grace_ms: int = 2_000
    """Between asking a command to end (or a worker to close) and killing its namespace."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A provider that the gateway serves under ``http://127.0.0.1:PORT/NAME/``."""

    provider: str
    methods: tuple[str, ...] = ("POST",)
    paths: tuple[str, ...] | None = None
    """Allowed paths below the provider's base, after one normalisation; ``*`` matches one segment. None
    is for a manifest, which takes what the policy grants then; a grant has none of it."""
    remote_content: bool = False
    """Whether requests are judged as little as paths say: they may have the provider fetch URLs, run tools of
    its own, keep and look up, and hold any field."""
    fields: tuple[str, ...] = ()
    """What requests may hold beside inference: places, as ``messages[].content[].video_url``, or places with
    a value, as ``tools[].type=web_search``; ``?NAME`` in a query, ``HEADER=VALUE``; ``*`` is all."""
    repos: tuple[str, ...] | None = None
    """Of a hub: ``/OWNER/NAME@REVISION`` patterns of what may be downloaded. None: it is no hub."""
    files: tuple[str, ...] = HUB_FILES
    """Of a hub: patterns of files, as ``/config.json``; never of a kind that `policies.downloads` refuses."""
    digests: tuple[str, ...] | None = None
    """Of a hub: the only SHA-256 that a file may have. None: any."""
    file_bytes: int = GIB
    """Of a hub: the largest file."""
    total_bytes: int = 4 * GIB
    """Of a hub: what one session may download."""


class Connect(msgspec.Struct, frozen=True, kw_only=True):
    """A host that the bridge may reach by CONNECT or plain proxying (weakening ``connect``)."""

    host: str
    port: int = 443
    private: bool = False
    """Whether it may resolve to loopback or private addresses (weakening ``private_network``)."""


class SecretGrant(msgspec.Struct, frozen=True, kw_only=True):
    """A secret the bridge may work with. ``gateway``: never inside. ``env``: named weakening."""

    name: str
    how: Literal["gateway", "env"] = "gateway"
    provider: str = ""
    """The provider that the secret is bound to (``gateway``)."""
    variable: str = ""
    """The environment variable (``env``)."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Allow and deny patterns on whole names, case kept; only ``*`` is special (`policies.globs`).
    Deny wins; nothing matches: denied."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """How much a tenant may ask for: commands, sessions, provider requests and tokens."""

    commands_per_minute: int = 6_000
    concurrency: int = 8
    """Sessions of one tenant and bridge at once."""
    provider_requests_per_minute: int = 600
    provider_requests_total: int | None = None
    """Per tenant and provider, over the audit's life. None: no bound."""
    provider_tokens_total: int | None = None
    connections_per_second: int = 200
    frames_per_second: int = 2_000
    audit_events_per_second: int = 50


class SandboxRules(msgspec.Struct, frozen=True, kw_only=True):
    """How sandboxes of this policy start, and which barriers they must have."""

    start: Literal["cold", "fork"] = "cold"
    isolation: Literal["namespaces"] = "namespaces"
    seccomp: Literal["default"] = "default"
    enforcement: Literal["strict", "weakened"] = "strict"
    """``weakened`` lets the grant use the weakenings that `weakenings` names, where it must."""


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a manifest asks for, in the policy's own words."""

    endpoints: tuple[Endpoint, ...] = ()
    connects: tuple[Connect, ...] = ()
    secrets: tuple[SecretGrant, ...] = ()
    operations: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    limits: dict[str, int] = {}
    """Minimum limits, by field name of `Limits`: the grant is refused where the policy gives less."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """One policy after `extends` is resolved, or one tenant's ceiling."""

    name: str
    limits: Limits = Limits()
    endpoints: tuple[Endpoint, ...] = ()
    connects: tuple[Connect, ...] = ()
    secrets: tuple[SecretGrant, ...] = ()
    operations: Rules = Rules()
    tools: Rules = Rules()
    resources: Rules = Rules()
    read: tuple[str, ...] = ()
    """Host folders that are mounted read-only, from the operator's allowed roots."""
    devices: tuple[str, ...] = ()
    """Device files that are bound (weakening ``devices``), from those that the operator named."""
    rate: Rate = Rate()
    inline_keys: Literal["capture", "refuse", "pass"] = "capture"
    sandbox: SandboxRules = SandboxRules()
    weakenings: tuple[Weakening, ...] = ()
    sources: dict[str, Source] = {}
    """Dotted key (``limits.memory``, ``operations.allow[0]``) to the file and line that set it. In a
    tenant's ceiling also what it bounds at all: a key without a source leaves the policy as it is."""
    overruled: dict[str, tuple[Overruled, ...]] = {}
    """Dotted key to the values that lost, the nearest first."""
    particular: frozenset[str] = frozenset()
    """Of a tenant's ceiling: the keys that its table of this one bridge says."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine can enforce, as the launcher found it by doing."""

    cgroup: Literal["v2", "v1", "none"]
    uids: Literal["range", "subuid", "shared"]
    """A reserved range (root), a subordinate range (newuidmap), or one uid for all sessions."""
    seccomp: bool = True
    memory_bytes: int = 0
    cpus: int = 1
    devices: tuple[str, ...] = ()
    """Device files that the operator named and that are there."""
    core_handler: str = ""
    """What a crash inside starts or reaches outside every limit of its session; empty: nothing."""


class Ceilings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a tenant may have at the most, over all its bridges (`policies.tenants`); None: no ceiling of its
    own. Sizes are bytes."""

    sessions: int | None = None
    bridge_sessions: int | None = None
    memory: int | None = None
    cpu_share: int | None = None
    commands_per_second: int | None = None
    bytes_per_second: int | None = None
    artifacts: int | None = None
    environments: int | None = None
    submissions: int | None = None
    submitted: int | None = None
    journal: int | None = None
    requests_per_day: int | None = None
    requests_per_month: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    money_per_day: int | None = None
    """In millionths."""
    money_per_month: int | None = None


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Manifest ∩ policy ∩ ceiling ∩ machine: resolved, frozen, hashed. Rooms pass this around."""

    tenant: str
    bridge: str
    bridge_version: str
    policy: str
    limits: Limits
    endpoints: tuple[Endpoint, ...]
    connects: tuple[Connect, ...]
    secrets: tuple[SecretGrant, ...]
    operations: Rules
    tools: Rules
    resources: Rules
    read: tuple[str, ...]
    rate: Rate
    inline_keys: Literal["capture", "refuse", "pass"]
    sandbox: SandboxRules
    weakenings: tuple[Weakening, ...]
    machine: Machine
    sources: dict[str, Source]
    devices: tuple[str, ...] = ()
    tool_secrets: tuple[SecretGrant, ...] = ()
    """Those that the operator's tools may have put in: the policy's, whatever the bridge itself asks for."""
    withheld: tuple[str, ...] = ()
    """What the manifest asks for and the grant leaves out, each with the reason."""
    overruled: dict[str, tuple[Overruled, ...]] = {}
    ceilings: Ceilings = Ceilings()
    """The tenant's, as its file says them now: they bound it as a whole, and no sandbox differs by them."""
    until: int = 0
    """When the first approved rule of it ends, in seconds of the epoch; 0: none does."""
    then: Grant | None = None
    """What holds from `until` on."""
    digest: str = ""
    """``sha256:`` of the canonical JSON of all that is granted now, and not of why or for how long."""

    def at(self, now: float) -> Grant:
        """What of it holds at `now`, in seconds of the epoch: what was approved for a while ends itself."""
        grant = self
        while grant.then is not None and now >= grant.until:
            grant = grant.then
        return grant

    def end_of(self, allowed: Callable[[Grant], bool]) -> int:
        """When what is allowed now ends, in seconds of the epoch; 0: with none of the approved rules."""
        grant = self
        while grant.then is not None:
            until, grant = grant.until, grant.then
            if not allowed(grant):
                return until
        return 0


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One answer for the error, the audit, the command line and the page."""

    allowed: bool
    rule: str
    """Dotted key of the rule that decided, such as ``operations.allow[0]`` or ``default-deny``."""
    reason: str
    source: str = ""
    """``file:line`` of the rule."""
