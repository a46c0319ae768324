"""A token as a value: whose it is, what it may, until when; never the token itself (pure).

A token is ``bh_NAME_SECRET``: the name finds ``tokens/NAME.toml``, which holds the whole token's SHA-256.
The secret has 256 random bits, so that the digest can't be turned back and needs no salt. No file of this
kind makes an operator: operators are named in ``config.toml``.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

import msgspec

from bridgehold.ids import is_digest, is_name
from bridgehold.policies.problems import Faulty, policy_error
from bridgehold.policies.tables import Table, format_time, rendered

PREFIX = "bh_"
_TOKEN = re.compile(r"bh_([a-z][a-z0-9_-]{0,62})_[0-9a-f]{64}")
_PATTERN = re.compile(r"[A-Za-z0-9_.:*-]{1,200}")
_NOBODYS = "sha256:" + "0" * 64


class Scope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What whoever shows the token may do, within what each tenant's policy grants anyway."""

    tenants: tuple[str, ...]
    bridges: tuple[str, ...] = ()
    """Names; empty: every bridge."""
    operations: tuple[str, ...] = ()
    """Patterns of ``bridge:operation``; empty: every operation."""
    read_only: bool = False
    """It looks, and neither runs, opens, ends nor keeps anything."""
    logs: bool = True


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """One token as its file says it now."""

    name: str
    digest: str
    scope: Scope
    expires: float = 0.0
    """Seconds since the epoch; 0: never."""
    by: str = ""
    at: str = ""
    previous: str = ""
    """The digest before the last rotation, which is taken until `previous_until`."""
    previous_until: float = 0.0

    def takes(self, token: str, now: float) -> bool:
        """Whether `token` is this one, and still is. In constant time, but for the clock."""
        shown = digest_of(token)
        current = hmac.compare_digest(self.digest, shown)
        older = hmac.compare_digest(self.previous or _NOBODYS, shown) and now < self.previous_until
        return (current or older) and not (self.expires and now >= self.expires)

    def ends(self) -> tuple[float, ...]:
        """When it, or the one before it, is worth nothing any more."""
        return tuple(when for when in (self.expires, self.previous_until) if when)


def digest_of(token: str) -> str:
    """The SHA-256 by which a token is kept."""
    return "sha256:" + hashlib.sha256(token.encode(errors="replace")).hexdigest()


def new_token(name: str) -> str:
    """A token of that name: shown once, to whoever asked for it."""
    return f"{PREFIX}{name}_{secrets.token_hex(32)}"


def name_in(token: str) -> str:
    """The name that `token` gives itself; empty where it is none of ours."""
    found = _TOKEN.fullmatch(token)
    return found[1] if found else ""


def parse(name: str, text: str, file: str) -> Token:
    """The token as `text` says it. Raises `PolicyError` with every fault and its line."""
    try:
        table = Table(text, file)
        digest, previous = table.text("digest"), table.text("previous")
        scope = Scope(
            tenants=table.names("tenants"),
            bridges=table.names("bridges"),
            operations=table.names("operations"),
            read_only=table.flag("read_only", default=False),
            logs=table.flag("logs", default=True),
        )
        for key, value in (("digest", digest), ("previous", previous)):
            if not is_digest(value) and (value or key == "digest"):
                table.fault(key, "sha256: and 64 hexadecimal digits are expected, never a token")
        for key, message in faults(scope):
            table.fault(key, message)
        token = Token(
            name=name,
            digest=digest,
            scope=scope,
            expires=table.time("expires"),
            by=table.text("by"),
            at=table.text("at"),
            previous=previous,
            previous_until=table.time("previous_until"),
        )
        table.done()
    except Faulty as faulty:
        raise policy_error(faulty.problems, hint="`bridgehold token create` writes such a file.") from None
    return token


def faults(scope: Scope) -> list[tuple[str, str]]:
    """(key, what is wrong) of a scope that says nothing, or what can't be."""
    found = []
    if not scope.tenants:
        found.append(("tenants", "at least one tenant is expected"))
    found += [
        (key, f"{one[:80]!r} is not a name")
        for key, names in (("tenants", scope.tenants), ("bridges", scope.bridges))
        for one in names
        if not is_name(one)
    ]
    found += [
        ("operations", f"{one[:80]!r} is no pattern of bridge:operation")
        for one in scope.operations
        if not _PATTERN.fullmatch(one)
    ]
    return found


def render(token: Token) -> str:
    """The file's text."""
    return "# Written by `bridgehold token`. The token itself is kept nowhere.\n" + rendered(
        "",
        {
            "digest": token.digest,
            "tenants": token.scope.tenants,
            "bridges": token.scope.bridges,
            "operations": token.scope.operations,
            "read_only": token.scope.read_only,
            "logs": token.scope.logs,
            "expires": format_time(token.expires),
            "by": token.by,
            "at": token.at,
            "previous": token.previous,
            "previous_until": format_time(token.previous_until),
        },
    )
