"""The sections of ``config.toml``: every key with its type, its default and what it means.

`docs/reference/configuration.md` is generated from these models.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from msgspec import Meta, field

from bridgehold.config.guest_environment import check_variable
from bridgehold.config.kinds import Folder, Name, NameOrAll, NameOrNone, Size, Strict, Uid
from bridgehold.errors import UnsupportedError
from bridgehold.policies.values import DEVICE

DEFAULT_UID_BASE = 0x78000000


class HostSection(Strict, frozen=True):
    """``[host]``: the machine's share."""

    cgroup: Annotated[str, Meta(pattern=r"^(auto|v[12]|none|(v[12]:)?/.*)\Z")] = "auto"
    """``auto``, ``v2``, ``v1``, ``none`` (weakening ``no_cgroup``), or a delegated cgroup's path."""
    memory_reserve: Size = "1GiB"
    """Memory that sessions never get together: what the host's own processes and the system keep."""
    overcommit: bool = False
    """Whether a policy's weakening ``overcommit`` is taken: more memory is promised than there is."""
    shared_uid: bool = False
    """Named weakening ``shared_uid``: without a uid range, every session runs under this user's uid."""
    uid_base: Uid = DEFAULT_UID_BASE
    """First of the reserved kernel uids (root only): four roles, the sessions, the audit's push."""
    uid_count: Annotated[int, Meta(ge=16, le=200_000)] = 60_000
    """How many uids are reserved: the bound of sessions at once."""
    pythons: tuple[Annotated[str, Meta(pattern=r"^/.*/python3(\.[0-9]{1,2})?\Z")], ...] = ()
    """Executables of further Pythons, 3.10 or newer, for bridges whose ``python`` the host's own isn't."""
    read_roots: tuple[Folder, ...] = ()
    """Host folders below which a policy's ``filesystem.read`` may name folders."""
    devices: tuple[Annotated[str, Meta(pattern=rf"^{DEVICE.pattern}\Z")], ...] = ()
    """Device files that a policy's ``filesystem.devices`` may name, such as ``/dev/nvidia0``."""
    max_sessions: Annotated[int, Meta(ge=1)] = 2_000
    """Sessions at once on this host; one more is refused as busy."""
    buffered_bytes: Size = "256MiB"
    """Host-wide budget for buffered bytes that came from inside sandboxes."""
    cells: Literal["auto"] | bool = False
    """Whether each tenant is served by a process of its own, its cell; ``auto``: by a service, yes."""
    cell_idle_s: Annotated[float, Meta(ge=1, le=86_400)] = 600.0
    """Seconds after which a cell without sessions and requests ends; the next request begins another."""
    drain_s: Annotated[float, Meta(ge=0, le=3_600)] = 10.0
    """How long commands that run may still take when the host is asked to stop; a second signal ends them."""
    connections: Annotated[int, Meta(ge=16, le=100_000)] = 4_096
    """Callers' connections to the socket at once; a principal's are at most a quarter of those left free."""
    caller_bytes: Size = "512MiB"
    """Requests, answers and what callers leave unread, together; a principal's: at most what is left free."""
    anchor_every_s: Annotated[int, Meta(ge=1)] = 300
    """How often the audit's head is signed."""
    artifacts: Size = "4GiB"
    """Bytes of artifacts that each tenant may keep."""
    audit_tenant_quota: Size = "4GiB"
    """Journal bytes per tenant and instance; past it the tenant's sessions end, never the host."""
    index: Annotated[str, Meta(pattern=r"^(https?://[^\s/?#]+.*|file:///.*)?\Z")] = ""
    """The one package index environments are fetched from; empty: what pip's or uv's settings name."""

    def __post_init__(self) -> None:
        if self.uid_base + self.uid_count >= 2**32 - 1:
            raise ValueError("`uid_base` and `uid_count` lead past the last uid")


class ModelSection(Strict, frozen=True):
    """``[providers.NAME.models."MODEL"]``: what one model of the provider costs."""

    price: Annotated[float, Meta(ge=0, le=1_000_000)]
    """Of a million tokens, of the dearest kind (what comes out, as a rule)."""


class ProviderSection(Strict, frozen=True):
    """``[providers.NAME]``: an upstream that the keeper may talk to, and how its key is sent."""

    base_url: str
    """Where it is, version prefix included. HTTPS, unless `private`."""
    shape: Literal["openai", "anthropic", "gemini", "custom", "hub"] = "openai"
    """How its bodies, denials and usage look; ``hub``: models are downloaded from it. `anthropic` and
    `gemini` have shape and `auth` of their own, which a table of these names keeps unless it says another."""
    auth: str = "bearer"
    """``bearer``, ``header:NAME``, ``query:NAME``, or of a hub ``none``: it is asked without a key."""
    secret: str = ""
    """Name of the tenant's secret that is put in; the provider's own name if empty."""
    private: bool = False
    """Named weakening ``private_network``: it may live at a loopback or private address."""
    price: Annotated[float, Meta(ge=0, le=1_000_000)] = 0
    """Of a million tokens, of models not in `models`; where the dearest of those costs more, that: it may be
    its other name. A tenant's ``money_per_day`` counts by it.
    """
    models: dict[Annotated[str, Meta(min_length=1, max_length=99)], ModelSection] = field(
        default_factory=dict
    )
    """``[providers.NAME.models."MODEL"] price``: of a million tokens of this model, as requests name it."""
    fees: dict[
        Annotated[str, Meta(min_length=1, max_length=200)], Annotated[float, Meta(ge=0, le=1_000_000)]
    ] = field(default_factory=dict)
    """``[providers.NAME.fees] "KEY"``: what one use costs beside its tokens, of what an endpoint's `fields`
    let in, in the same words, or of ``/images/generations`` and ``/audio/speech``; ``*``: of any other. A
    tenant whose money is bounded is refused what has none; 0 is one."""
    hosts: tuple[str, ...] = ()
    """Of a hub: ``host``, ``*.host`` or ``host:port`` that its redirects may lead to, without the key."""


class PrincipalSection(Strict, frozen=True):
    """``[principals.NAME]``: who may ask. A local uid or a token selects the principal."""

    uids: tuple[Uid, ...] = ()
    """Local users that are this principal."""
    tokens: tuple[Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")], ...] = ()
    """Digests of tokens, never tokens."""
    tenants: tuple[NameOrAll, ...] = ()
    """Tenants it may act for; ``*`` is every tenant."""
    operator: bool = False
    """May list and end other tenants' sessions, build environments and stop the host."""
    logs: bool = True
    """May read the logs of its tenants' sessions, what their commands write, and the tracebacks of the code
    in them. Without it, and without `operator`, an error tells type and message alone, and of output there
    is what an operation declares as its result: of a foreign script its frames, or its standard output where
    it speaks no protocol, and its exit status, never its standard error."""


def _listed(said: object) -> object:
    return ((said,) if said else ()) if isinstance(said, str) else said


def _check_environment(value: dict[str, str]) -> None:
    for name, text in value.items():
        check_variable(name, text)


def _check_packages(value: tuple[str, ...]) -> None:
    for one in value:
        from packaging.requirements import InvalidRequirement, Requirement  # few hosts name any

        try:
            plain = Requirement(one).url is None
        except InvalidRequirement:
            plain = False
        if not plain:
            raise ValueError(f"{one[:80]!r} is no package by name, such as dspy-ai>=3")


def _check_python(value: str) -> None:
    if not value:
        return
    from packaging.version import InvalidVersion, Version

    try:
        Version(value)
    except InvalidVersion as error:
        raise ValueError(f"{value[:20]!r} is no version, such as 3.11") from error


class BridgeSection(Strict, frozen=True):
    """``[bridges.NAME]``: which policy a bridge runs under; the bridge's own name if empty."""

    policy: NameOrNone = ""
    """The policy's name; the bridge's own if there is one of that name, else ``baseline``."""
    enabled: bool = True
    """Whether it may be used at all."""
    prestart: tuple[Name, ...] = ()
    """Tenants for whom its zygote is warm from the host's start on."""
    pool_size: Annotated[int, Meta(ge=0, le=1_000)] = 0
    """The warm pool of each tenant that has used it: attested sandboxes that stand ready, used once."""
    overflow: Annotated[int, Meta(ge=1, le=1_000)] = 4
    """With a pool: starts beyond the pooled ones that may be under way at once."""
    checkout_timeout_s: Annotated[float, Meta(gt=0)] = 10
    """With a pool: the longest wait for a sandbox before the session is refused as busy."""
    scripts: Annotated[tuple[Folder, ...], Meta(max_length=16)] = ()
    """Of a `foreign` bridge: the folder that holds the scripts it may run, or a list of such folders; mounted
    read-only. One is ``/bridge`` inside, the others are ``/scripts/1`` and so on."""
    weights: tuple[str, ...] = ()
    """Files or model folders that a zygote loads once, below folders of ``filesystem.read``."""
    recovery: bool = True
    """Whether sessions that lost their worker are made again, as far as the bridge lets them be."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables inside, from the first import on: never a key, none that the sandbox itself sets."""
    required_packages: tuple[str, ...] = ()
    """What its lock has to hold, such as ``dspy-ai>=3``; without it no session starts."""
    required_secrets: tuple[Name, ...] = ()
    """Secrets that a tenant has to have before a session starts; otherwise it is refused and says which."""
    min_python: str = ""
    """The oldest Python that may run it, such as ``3.11``; the bridge's own word if empty."""

    forms: ClassVar = {"scripts": _listed}
    checks: ClassVar = {
        "environment": _check_environment,
        "required_packages": _check_packages,
        "min_python": _check_python,
    }


class ToolSection(Strict, frozen=True):
    """``[tools.NAME]``: a function of the operator's that bridges may call, where their policy allows it."""

    description: str = ""
    """What it does, for the bridge and its model."""
    parameters: dict[str, Any] = field(
        default_factory=lambda: {"type": "object", "additionalProperties": False}
    )
    """JSON Schema of its arguments."""
    result: dict[str, Any] = field(default_factory=dict)
    """JSON Schema of what it gives; anything if empty."""
    entry: str = ""
    """``module:function`` in the folder ``tools`` beside this file; it runs in a process of its own."""
    provider: str = ""
    """Or an endpoint: the arguments are sent as JSON by POST to `path` of this ``[providers.NAME]``."""
    path: str = ""
    """Below the provider's base URL, with a slash first."""
    names_model: bool = False
    """Whether the argument `model` says which model answers, and so has its price; else the address does."""
    timeout_s: Annotated[float, Meta(gt=0, le=600)] = 30
    """The longest time for one call."""
    tenants: tuple[NameOrAll, ...] = ("*",)
    """Whose commands may call it."""
    bridges: tuple[NameOrAll, ...] = ("*",)
    """Which bridges may call it."""

    def __post_init__(self) -> None:
        if bool(self.entry) == bool(self.provider):
            raise ValueError("either `entry` or `provider` is expected")
        if self.provider and not self.path.startswith("/"):
            raise ValueError("`path` begins with a slash")
        if self.entry and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.entry):
            raise ValueError("`entry` is module:function")


class HttpSection(Strict, frozen=True):
    """``[http]``: the HTTP face, which `bridgehold serve` starts where `listen` or ``--http`` says so."""

    listen: str = ""
    """``ADDRESS:PORT``; not served if empty. The address is a number, IPv6 in brackets."""
    public: bool = False
    """Named weakening ``public_http``: `listen` may be no loopback address, although this is no TLS."""
    names: tuple[str, ...] = ()
    """Names that a request's ``Host`` may have beside the address: a proxy's, without port."""
    connections: Annotated[int, Meta(ge=1, le=10_000)] = 512
    """At once. One more takes the place of the oldest that has no request, or is turned away."""
    requests: Annotated[int, Meta(ge=1, le=1_000)] = 64
    """Of one principal at once; answers of tools and cancellations are not counted."""
    body: Size = "16MiB"
    """Of one JSON body; an artifact's is bounded by the tenant's quota."""
    buffered: Size = "256MiB"
    """Of all bodies and events together that wait here; a request beyond it is refused as busy."""
    idle_s: Annotated[float, Meta(gt=0, le=3_600)] = 15
    """The longest that a connection may be without a whole request: unused, or sending its head slowly."""
    body_s: Annotated[float, Meta(gt=0, le=3_600)] = 30
    """The longest for a JSON body, and for each MiB of an artifact."""
    beat_s: Annotated[float, Meta(gt=0, le=3_600)] = 15
    """A stream with nothing to tell sends a comment so often."""
    read_s: Annotated[float, Meta(gt=0, le=3_600)] = 60
    """The longest that a caller may leave unread what it was sent: of a large answer, 128 KiB."""


class ZygotesSection(Strict, frozen=True):
    """``[zygotes]``: the warm processes that sessions are forked from."""

    budget: Size = "8GiB"
    """Memory of all zygotes together; one without sessions leaves for another."""
    memory: Size = "2GiB"
    """The cap of each."""
    max_age_s: Annotated[float, Meta(ge=1)] = 86_400
    """After this it is replaced, and ends with its last session."""
    growth: Annotated[float, Meta(gt=1)] = 1.5
    """Replaced as well once its memory is this many times what it was when it was warm."""
    warm_s: Annotated[float, Meta(ge=1)] = 120
    """The longest time to import, call and load."""
    check_s: Annotated[float, Meta(ge=0.1)] = 30
    """How often age and growth are looked at."""


class SecretsSection(Strict, frozen=True):
    """``[secrets]``: where keys are kept. Never auto-detected."""

    store: Literal["file", "keyring", "systemd"] = "file"
    """An encrypted file, a pinned keyring back-end, or systemd credentials."""
    keyring_backend: Literal["secretservice", "cryptfile"] = "secretservice"
    """Which back-end ``keyring`` means."""
    passphrase_credential: str = ""
    """Name of the systemd credential that unlocks the encrypted file; a 0600 key file if empty."""


class ReviewSection(Strict, frozen=True):
    """``[review]``: what a person has to have signed before it counts."""

    required: bool = False
    """A policy of yours counts as it was signed (``bridgehold policy approve``), not once it is edited; a
    tenant's file, not once it allows more than was signed of it."""


class FleetSection(Strict, frozen=True):
    """``[fleet.NAME]``: a machine that policies are for: `policy lint` says what none of them can hold."""

    memory: Size
    """Of the machine; `[host] memory_reserve` of it is no sandbox's."""
    cpus: Annotated[int, Meta(ge=1, le=65_536)]


class SupplySection(Strict, frozen=True):
    """``[supply]``: what is known of packages, and what of it keeps an environment from being used."""

    advisories: Annotated[str, Meta(pattern=r"^(/.*)?\Z")] = ""
    """A folder of OSV files (``*.json``) about PyPI, as you bring it; nothing is fetched. Empty: none."""
    block: Literal["", "critical", "high", "medium", "low"] = ""
    """An environment that an advisory this grave hits, or a graver one, is not built and starts no session;
    nor is any where an advisory can't be read, or all are older than `max_age_days`. Empty: none is."""
    accepted: tuple[Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}\Z")], ...] = ()
    """Ids, or aliases, of advisories that you have looked at: they are shown, and block nothing."""
    licences: tuple[Annotated[str, Meta(pattern=r"^[A-Za-z0-9*?(][A-Za-z0-9 .,+*?()/-]{0,99}\Z")], ...] = ()
    """Licences that are not taken, as ``"AGPL-*"`` or ``"not stated"``: an environment with a package under
    one is not built and starts no session. What packages say of themselves counts; ``pkg:NAME`` in `accepted`
    takes one package."""
    max_age_days: Annotated[int, Meta(ge=0, le=3_650)] = 30
    """How old the newest advisory may be before a scan warns, and `block` blocks; 0: as old as may be."""

    def __post_init__(self) -> None:
        if self.block and not self.advisories:
            raise ValueError("`block` needs `advisories`: without them nothing is known")


class PushSection(Strict, frozen=True):
    """``[push.NAME]``: where the audit's events and anchors leave to by themselves; one for each place."""

    kind: Literal["folder", "syslog", "http", "otlp"]
    """A copy in a folder; syslog (RFC 5424) over TLS; lines of JSON by POST; OTLP logs (JSON) by POST."""
    to: str
    """The folder; ``HOST:PORT`` of syslog; the URL, which begins with ``https://``."""
    ca: Annotated[str, Meta(pattern=r"^(/.*)?\Z")] = ""
    """A file of certificates that are trusted in place of the system's."""
    secret: NameOrNone = ""
    """A key that `secrets set NAME --provider push` has kept: sent as a bearer's token."""
    only: Literal["", "anchors"] = ""
    """``anchors``: nothing leaves but anchors and what belongs to them."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(f"//{self.to}" if self.kind == "syslog" else self.to)
            port = None if self.kind == "folder" else parts.port
            (parts.hostname or "").encode("idna")
        except ValueError:
            raise ValueError("`to` is no address") from None
        match self.kind:
            case "folder" if not self.to.startswith("/"):
                raise ValueError("`to` is a folder, from the root on")
            case "syslog" if not re.fullmatch(
                r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?", self.to
            ) or (port == 0):
                raise ValueError("`to` is HOST:PORT")
            case "http" | "otlp" if (
                parts.scheme != "https"
                or not parts.hostname
                or parts.username
                or port == 0
                or not re.fullmatch(r"[!-~]+", self.to)
            ):
                raise ValueError("`to` is a URL that begins with https:// and holds no key")
        if self.secret and self.kind not in ("http", "otlp"):
            raise ValueError("only `http` and `otlp` send a `secret`")


Switch = bool | tuple[Name, ...]
"""On, off, or the tenants for whom it is on."""


class FeaturesSection(Strict, frozen=True):
    """``[features]``: what this host offers at all: ``true``, ``false``, or the tenants that have it."""

    fork: Switch = True
    """Sessions are forked from warm processes, where their policy says so; otherwise they start cold."""
    pools: Switch = True
    """Sandboxes stand ready in a warm pool, where ``pool_size`` says so."""
    recovery: Switch = True
    """Sessions that lost their worker are made again."""
    tools: Switch = True
    """Bridges may call tools, where their policy allows it."""
    artifacts: Switch = True
    """Bytes are kept for tenants."""
    foreign: Switch = True
    """Scripts of one's own run behind the shim."""

    def on(self, feature: str, tenant: str) -> bool:
        """Whether `feature` is switched on for `tenant`: for everybody, or for those that are listed."""
        switch = getattr(self, feature)
        return switch if isinstance(switch, bool) else tenant in switch

    def demand(self, feature: str, tenant: str) -> None:
        """Raises `UnsupportedError` where `feature` is off for `tenant`."""
        if not self.on(feature, tenant):
            raise UnsupportedError(
                f"{feature} is switched off here for {tenant}",
                where="config.toml",
                hint=f"An operator can switch it on: `[features] {feature}`, then `bridgehold reload`.",
            )
