"""Where a provider's ``Location`` leads, as its guest can follow it: below ``/PROVIDER/``, or nowhere (pure).

A guest knows the provider by the gateway's address alone. A place of the provider's own would be looked
for at the gateway's root, or on a network that isn't there; and what lies beyond the provider's base is
not what was granted, wherever the provider would like to send its callers.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from bridgehold.errors import DeniedError
from bridgehold.host.cell.gateway.admit import Admitted
from bridgehold.keeper.slots import AUTH_QUERY
from bridgehold.policies.content import BodyFacts
from bridgehold.policies.decide import decide_egress
from bridgehold.policies.model import Grant
from bridgehold.policies.names import normalise_host, normalise_path

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LONGEST = 4_096
_PORTS = {"https": 443, "http": 80}
_LOCATION = "location"

Pairs = Iterable[tuple[str, str]]


def led_within(
    grant: Grant, admitted: Admitted, placeholder: str, status: int, headers: Pairs
) -> tuple[tuple[str, str], ...]:
    """An answer's headers, with a place within the provider's base as the guest has to ask for it.

    Raises `DeniedError` for a redirect to any other place. An answer that is none loses such a place: it is
    told where something lies, and not sent there.
    """
    headers = tuple(headers)
    places = [value for name, value in headers if name == _LOCATION]
    if not places:
        return headers
    rest = tuple(pair for pair in headers if pair[0] != _LOCATION)
    try:
        if len(set(places)) > 1:
            raise _refused(admitted, "two places at once")
        place = _place(grant, admitted, placeholder, status, places[0])
    except DeniedError:
        if status in _REDIRECTS:
            raise
        return rest
    return (*rest, (_LOCATION, place))


def _place(grant: Grant, admitted: Admitted, placeholder: str, status: int, location: str) -> str:
    provider = admitted.provider
    base = urlsplit(provider.base_url)
    own = f"{base.scheme}://{base.netloc}{base.path.rstrip('/')}"
    shown = location.partition("?")[0][:200]  # a query may hold a key
    if len(location) > _LONGEST or not location.isascii() or not location.isprintable():
        raise _refused(admitted, "what is no URL")
    try:
        parts = urlsplit(urljoin(own + admitted.path, location))
        port = parts.port or _PORTS.get(parts.scheme, 0)
        host = normalise_host(parts.hostname or "").name
    except (ValueError, DeniedError):
        raise _refused(admitted, "what is no URL") from None
    if parts.username is not None or parts.password is not None or "\\" in location or " " in location:
        raise _refused(admitted, "a URL that two parsers read in two ways")
    if (parts.scheme, host, port) != (base.scheme, provider.host, provider.port):
        raise _refused(admitted, f"{parts.scheme}://{host}:{port}, which is not where it is configured")
    below = base.path.rstrip("/")
    if not parts.path.startswith(below + "/"):
        raise _refused(admitted, f"{shown}, beyond its base {below or '/'}")
    path = _granted(grant, admitted, status, parts.path[len(below) :])
    again = _followed_by(status, admitted.method) == admitted.method and path == admitted.path
    if again and status in _REDIRECTS and _asked(parts.query) == _asked(urlencode(admitted.query)):
        raise _refused(admitted, f"{shown}, which is where it was asked, but for a slash")
    query = "&".join(_own_key(pair, placeholder) for pair in parts.query.split("&")) if parts.query else ""
    return f"/{provider.name}{path}" + (f"?{query}" if query else "")


def _granted(grant: Grant, admitted: Admitted, status: int, path: str) -> str:
    """`path`, with or without the base's version, as the policy grants it to a client that follows."""
    name, version = admitted.provider.name, admitted.provider.version
    method = _followed_by(status, admitted.method)
    try:
        plain = normalise_path(path)
    except DeniedError as error:
        raise _refused(admitted, error.message) from None
    wanted = [plain, f"/{version}{plain}"] if version else [plain]
    decisions = [decide_egress(grant, name, method, one, BodyFacts()) for one in wanted]
    for one, decision in zip(wanted, decisions, strict=True):
        if decision.allowed:
            return one
    raise _refused(admitted, f"{plain[:200]}: {decisions[0].reason}")


def _followed_by(status: int, method: str) -> str:
    """The method with which a client goes on."""
    get = status == 303 or (status in (301, 302) and method == "POST")
    return "GET" if get and method != "HEAD" else method


def _asked(query: str) -> list[tuple[str, str]]:
    """What a query asks for; whose key is in it is another matter."""
    pairs = parse_qsl(query, keep_blank_values=True)
    return sorted(pair for pair in pairs if pair[0].lower() not in AUTH_QUERY)


def _own_key(pair: str, placeholder: str) -> str:
    """A parameter of the query; where it is one for keys, with the only key that the guest has."""
    name, equals, _ = pair.partition("=")
    return f"{name}={placeholder}" if equals and name.lower() in AUTH_QUERY and placeholder else pair


def _refused(admitted: Admitted, what: str) -> DeniedError:
    name = admitted.provider.name
    return DeniedError(
        f"{name} redirects to {what[:400]}",
        where="gateway.redirect",
        hint=f"If that is where it is: name it in `[providers.{name}] base_url`, and grant the path.",
    )
