"""What is checked of a request before anything of it is believed (pure)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bridgehold.errors import DeniedError, UsageError
from bridgehold.faces.http.statuses import Refused
from bridgehold.ids import decimal_number

_BEARER = re.compile(r"Bearer ([\x21-\x7e]{1,512})", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]{1,253})(?::[0-9]{1,5})?")


def check_host(values: Sequence[str], names: frozenset[str]) -> None:
    """Raises `Refused`: a page of another origin, whose name was made to point here, gets no further."""
    found = _HOST.fullmatch(values[0]) if len(values) == 1 else None
    if found is None or found[1].strip("[]").casefold().rstrip(".") not in names:
        error = DeniedError(
            "this server does not go by the name that the request gives it",
            where="Host",
            hint="Use its address, or add the name to `[http] names` in config.toml.",
        )
        raise Refused(421, error)


def bearer(values: Sequence[str]) -> str:
    """The token of ``Authorization: Bearer``. Raises `Refused` where there is none, or more than one."""
    found = _BEARER.fullmatch(values[0].strip()) if len(values) == 1 else None
    if found is None:
        raise unauthorised("no token was given" if not values else "the token can't be read")
    return found[1]


def unauthorised(reason: str) -> Refused:
    """A 401 with `reason`, and what to send instead."""
    error = DeniedError(
        reason,
        where="Authorization",
        hint="Send `Authorization: Bearer TOKEN`; an operator makes one: `bridgehold token create`.",
    )
    return Refused(401, error, {"WWW-Authenticate": 'Bearer realm="bridgehold"'})


def prefers(values: Sequence[str], kind: str, other: str) -> bool:
    """Whether ``Accept`` names `kind` itself, and wants it no less than `other`."""
    own = _quality(values, kind, exact=True)
    return own > 0 and own >= _quality(values, other)


def check_accept(values: Sequence[str], kinds: Sequence[str]) -> None:
    """Raises `Refused` where ``Accept`` takes none of `kinds`."""
    if values and not any(_quality(values, kind) > 0 for kind in kinds):
        hint = f"This path gives {' or '.join(kinds)}."
        raise Refused(406, UsageError("nothing that is given here is accepted", where="Accept", hint=hint))


def _quality(values: Sequence[str], kind: str, *, exact: bool = False) -> float:
    """The weight that ``Accept`` gives `kind`, by the most precise range; `exact`: by its name alone."""
    ranges = [kind] if exact else [kind, f"{kind.partition('/')[0]}/*", "*/*"]
    found: dict[str, float] = {}
    for part in ",".join(values).split(","):
        name, *parameters = (one.strip().casefold() for one in part.split(";"))
        weights = [one[2:] for one in parameters if one.startswith("q=")]
        try:
            weight = decimal_number(weights[0]) if weights else 1.0
        except ValueError:
            weight = 0.0
        if name:
            found[name] = max(found.get(name, 0.0), weight if 0 <= weight <= 1 else 0.0)
    return next((found[name] for name in ranges if name in found), 0.0)


def check_json(content_type: str, encoding: str) -> None:
    """Raises `Refused`: a form or plain text, which any page may send, is no request."""
    if encoding and encoding.casefold() != "identity":
        raise Refused(415, UsageError("a compressed body is not taken", where="Content-Encoding"))
    kind, *parameters = (part.strip().casefold() for part in content_type.split(";"))
    charsets = [one.partition("=")[2].strip('"') for one in parameters if one.startswith("charset=")]
    if kind != "application/json" or any(
        charset not in {"utf-8", "utf8", "us-ascii"} for charset in charsets
    ):
        hint = "Send JSON, with `Content-Type: application/json`."
        raise Refused(415, UsageError("the body is not JSON", where="Content-Type", hint=hint))
