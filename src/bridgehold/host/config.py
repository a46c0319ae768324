"""The operator's ``config.toml``: read strictly, every fault named at once, every default stated.

`docs/reference/configuration.md` is generated from the models below.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bridgehold.errors import ConfigError
from bridgehold.ids import is_name
from bridgehold.policies.model import GIB
from bridgehold.policies.units import parse_size
from bridgehold.policies.values import DEVICE

DEFAULT_UID_BASE = 0x78000000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Size = Annotated[str, Field(pattern=r"^\d+(\.\d+)?\s*(B|KiB|MiB|GiB|TiB)$")]


class HostSection(_Strict):
    """``[host]``: the machine's share."""

    cgroup: str = "auto"
    """``auto``, ``v2``, ``v1``, ``none`` (weakening ``no_cgroup``), or a delegated cgroup's path."""
    memory_reserve: Size = "1GiB"
    """Memory that sessions never get together: what the host's own processes and the system keep."""
    overcommit: bool = False
    """Named weakening ``overcommit``: admission may promise sessions more memory than there is."""
    shared_uid: bool = False
    """Named weakening ``shared_uid``: without a uid range, every session runs under this user's uid."""
    uid_base: int = DEFAULT_UID_BASE
    """First of the reserved kernel uids (root only): three roles, then the sessions."""
    uid_count: Annotated[int, Field(ge=16, le=200_000)] = 60_000
    """How many uids are reserved: the bound of sessions at once."""
    read_roots: tuple[str, ...] = ()
    """Host folders below which a policy's ``filesystem.read`` may name folders."""
    devices: tuple[Annotated[str, Field(pattern=DEVICE.pattern + "$")], ...] = ()
    """Device files that a policy's ``filesystem.devices`` may name, such as ``/dev/nvidia0``."""
    max_sessions: Annotated[int, Field(ge=1)] = 2_000
    """Sessions at once on this host; one more is refused as busy."""
    buffered_bytes: Size = "256MiB"
    """Host-wide budget for buffered bytes that came from inside sandboxes."""
    anchor_every_s: Annotated[int, Field(ge=1)] = 300
    """How often the audit's head is signed."""
    artifacts: Size = "4GiB"
    """Bytes of artifacts that each tenant may keep."""
    audit_tenant_quota: Size = "4GiB"
    """Journal bytes per tenant and instance; past it the tenant's sessions end, never the host."""
    index: str = ""
    """The one package index environments are fetched from; empty: the installer's own default."""


class ProviderSection(_Strict):
    """``[providers.NAME]``: an upstream that the keeper may talk to, and how its key is sent."""

    base_url: str
    """Where it is, version prefix included. HTTPS, unless `private`."""
    shape: Literal["openai", "anthropic", "gemini", "custom", "hub"] = "openai"
    """How its bodies, denials and usage look; ``hub``: models are downloaded from it."""
    auth: str = "bearer"
    """``bearer``, ``header:NAME``, ``query:NAME``, or of a hub ``none``: it is asked without a key."""
    secret: str = ""
    """Name of the tenant's secret that is put in; the provider's own name if empty."""
    private: bool = False
    """Named weakening ``private_network``: it may live at a loopback or private address."""
    hosts: tuple[str, ...] = ()
    """Of a hub: ``host``, ``*.host`` or ``host:port`` that its redirects may lead to, without the key."""


class PrincipalSection(_Strict):
    """``[principals.NAME]``: who may ask. A local uid or a token selects the principal."""

    uids: tuple[int, ...] = ()
    """Local users that are this principal."""
    tokens: tuple[Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")], ...] = ()
    """Digests of tokens, never tokens."""
    tenants: tuple[str, ...] = ()
    """Tenants it may act for; ``*`` is every tenant."""
    operator: bool = False
    """May list and end other tenants' sessions, build environments and stop the host."""


class BridgeSection(_Strict):
    """``[bridges.NAME]``: which policy a bridge runs under; the bridge's own name if empty."""

    policy: str = ""
    """The policy's name; the bridge's own if there is one of that name, else ``baseline``."""
    enabled: bool = True
    """Whether it may be used at all."""
    prestart: tuple[str, ...] = ()
    """Tenants for whom its zygote is warm from the host's start on."""
    pool_size: Annotated[int, Field(ge=0, le=1_000)] = 0
    """Sandboxes that stand parked for each tenant that has used it: attested, and used once."""
    overflow: Annotated[int, Field(ge=1, le=1_000)] = 4
    """With a pool: starts beyond the parked ones that may be under way at once."""
    checkout_timeout_s: Annotated[float, Field(gt=0)] = 10
    """With a pool: the longest wait for a sandbox before the session is refused as busy."""
    scripts: str = ""
    """Of a `foreign` bridge: the folder that holds the scripts it may run; mounted read-only."""
    weights: tuple[str, ...] = ()
    """Files or model folders that a zygote loads once, below folders of ``filesystem.read``."""


class ToolSection(_Strict):
    """``[tools.NAME]``: a function of the operator's that bridges may call, where their policy allows it."""

    description: str = ""
    """What it does, for the bridge and its model."""
    parameters: dict[str, Any] = {"type": "object", "additionalProperties": False}
    """JSON Schema of its arguments."""
    result: dict[str, Any] = {}
    """JSON Schema of what it gives; anything if empty."""
    entry: str = ""
    """``module:function`` in the folder ``tools`` beside this file; it runs in a process of its own."""
    provider: str = ""
    """Or an endpoint: the arguments are sent as JSON by POST to `path` of this ``[providers.NAME]``."""
    path: str = ""
    """Below the provider's base URL, with a slash first."""
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 30
    """The longest time for one call."""
    tenants: tuple[str, ...] = ("*",)
    """Whose commands may call it."""
    bridges: tuple[str, ...] = ("*",)
    """Which bridges may call it."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if bool(self.entry) == bool(self.provider):
            raise ValueError("either `entry` or `provider` is expected")
        if self.provider and not self.path.startswith("/"):
            raise ValueError("`path` begins with a slash")
        if self.entry and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.entry):
            raise ValueError("`entry` is module:function")
        return self


class ZygotesSection(_Strict):
    """``[zygotes]``: the warm processes that sessions are forked from."""

    budget: Size = "8GiB"
    """Memory of all zygotes together; one without sessions leaves for another."""
    memory: Size = "2GiB"
    """The cap of each."""
    max_age_s: Annotated[float, Field(ge=1)] = 86_400
    """After this it is replaced, and ends with its last session."""
    growth: Annotated[float, Field(gt=1)] = 1.5
    """Replaced as well once its memory is this many times what it was when it was warm."""
    warm_s: Annotated[float, Field(ge=1)] = 120
    """The longest time to import, call and load."""
    check_s: Annotated[float, Field(ge=0.1)] = 30
    """How often age and growth are looked at."""


class SecretsSection(_Strict):
    """``[secrets]``: where keys are kept. Never auto-detected."""

    store: Literal["file", "keyring", "systemd"] = "file"
    """An encrypted file, a pinned keyring back-end, or systemd credentials."""
    keyring_backend: Literal["secretservice", "cryptfile"] = "secretservice"
    """Which back-end ``keyring`` means."""
    passphrase_credential: str = ""
    """Name of the systemd credential that unlocks the encrypted file; a 0600 key file if empty."""


class Config(_Strict):
    host: HostSection = HostSection()
    secrets: SecretsSection = SecretsSection()
    providers: dict[str, ProviderSection] = {}
    principals: dict[str, PrincipalSection] = {}
    bridges: dict[str, BridgeSection] = {}
    zygotes: ZygotesSection = ZygotesSection()
    tools: dict[str, ToolSection] = {}
    default_bridge: str = "dspy"

    def reserve_bytes(self) -> int:
        return parse_size(self.host.memory_reserve)


DEFAULT_PROVIDERS = {
    "openai": ProviderSection(base_url="https://api.openai.com/v1"),
    "anthropic": ProviderSection(
        base_url="https://api.anthropic.com/v1", shape="anthropic", auth="header:x-api-key"
    ),
    "gemini": ProviderSection(
        base_url="https://generativelanguage.googleapis.com/v1beta",
        shape="gemini",
        auth="header:x-goog-api-key",
    ),
}


def load_config(path: Path) -> Config:
    """The configuration at `path`; defaults where there is no file. Raises `ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read the configuration: {error}", where=str(path)) from error
    return parse_config(text, str(path))


def parse_config(text: str, where: str) -> Config:
    """Pure half of `load_config`: all faults of `text` in one `ConfigError`."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}", where=where) from error
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()
        ]
        raise ConfigError(
            f"{len(faults)} fault(s):\n  " + "\n  ".join(faults),
            where=where,
            hint="docs/reference/configuration.md lists every key with its type and default.",
        ) from error
    _check_names(config, where)
    providers = {**DEFAULT_PROVIDERS, **config.providers}
    return config.model_copy(update={"providers": providers})


def _check_names(config: Config, where: str) -> None:
    faults = [
        f"{section}.{name}: not a name (lower-case letters, digits, '-' and '_'; at most 63)"
        for section, names in (
            ("providers", config.providers),
            ("principals", config.principals),
            ("bridges", config.bridges),
        )
        for name in names
        if not is_name(name)
    ]
    faults += [
        f"tools.{name}.provider: there is no [providers.{section.provider}]"
        for name, section in config.tools.items()
        if section.provider and section.provider not in {**DEFAULT_PROVIDERS, **config.providers}
    ]
    if config.reserve_bytes() > 1024 * GIB:
        faults.append("host.memory_reserve: more than 1 TiB")
    if faults:
        raise ConfigError(f"{len(faults)} fault(s):\n  " + "\n  ".join(faults), where=where)
