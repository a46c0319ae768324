"""Tenants and tokens, as operators ask for them and as they are told."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from bridgehold.policies.tenants import State

Text = Annotated[str, msgspec.Meta(max_length=300)]
Ceiling = str | int | float | None
"""As the file has it; None takes it away."""


class _Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unknown fields are refused."""


class NameParams(_Params, frozen=True, kw_only=True):
    """Of methods that act on one tenant or token."""

    name: Text


class CreateTenantParams(NameParams, frozen=True, kw_only=True):
    """Of `tenant.create`."""

    limits: dict[str, Ceiling] = {}


class LimitParams(NameParams, frozen=True, kw_only=True):
    """Of `tenant.limit`: the ceilings that change."""

    limits: dict[str, Ceiling]


class StateParams(NameParams, frozen=True, kw_only=True):
    """Of `tenant.suspend`, `resume` and `revoke`."""

    reason: Text = ""
    """For the tenant's callers, who are told, and for the audit."""


class RemoveParams(NameParams, frozen=True, kw_only=True):
    """Of `tenant.remove`."""

    artifacts: bool = False
    """Its artifacts go with it; otherwise they stay, and the answer says how much they are."""


class CreateTokenParams(NameParams, frozen=True, kw_only=True):
    """Of `token.create`: what the new token may do."""

    tenants: tuple[str, ...]
    bridges: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    read_only: bool = False
    logs: bool = True
    expires_s: Annotated[float, msgspec.Meta(ge=0, le=10 * 366 * 86_400)] = 0.0
    """From now on; 0: it stays until it is revoked."""


class RotateParams(NameParams, frozen=True, kw_only=True):
    """Of `token.rotate`."""

    grace_s: Annotated[float, msgspec.Meta(ge=0, le=31 * 86_400)] = 0.0
    """How long the secret before is taken as well."""


class TenantInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant, for operators."""

    name: str
    state: State | Literal["broken"]
    """``broken``: its file can't be read as it is; everything of it is refused. The reason says too whether
    it is suspended or revoked beside that: mending the file alone lets it not go on then."""
    reason: str = ""
    by: str = ""
    at: str = ""
    declared: bool = False
    """Whether its file has a table ``[tenant]``."""
    limits: dict[str, str | int | float] = {}
    raised: tuple[str, ...] = ()
    """Ceilings that this host found higher in the file than the audit tells of: raised by hand, perhaps while
    no host ran."""
    used: dict[str, int | float] = {}
    """Requests, tokens and money at providers, today and this month, by their ceiling's key."""
    sessions: int = 0
    tokens: tuple[str, ...] = ()


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant that was removed, and what lies on the disk of it."""

    name: str
    artifacts: int
    """How many there were."""
    artifact_bytes: int
    artifacts_removed: bool
    """False: they stay, and who is created anew under that name has them."""
    bridges: tuple[str, ...] = ()
    """Of its own: they stay in the configuration, likewise."""


class TokenInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One token, for operators; never the token."""

    name: str
    state: Literal["valid", "expired", "broken"]
    reason: str = ""
    tenants: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    read_only: bool = False
    logs: bool = True
    expires: str = ""
    by: str = ""
    at: str = ""


class NewToken(TokenInfo, frozen=True, kw_only=True):
    """What `token create` and `rotate` give, once."""

    token: str


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What of a tenant has ended: how many, and how long that took."""

    ended: int
    ms: int


class Revoked(msgspec.Struct, frozen=True, kw_only=True):
    """What a revocation ended, part by part."""

    name: str
    ms: int
    parts: dict[str, Part]
