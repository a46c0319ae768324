"""Decides on a provider request by its head and body: it may go out, or is refused (pure)."""

from __future__ import annotations

import h11
import msgspec

from bridgehold.errors import DeniedError
from bridgehold.host.cell.gateway.credentials import presented
from bridgehold.host.cell.gateway.parse import Target, parse_query
from bridgehold.host.cell.gateway.replies import Refusal
from bridgehold.host.cell.gateway.values import ProviderFacts, SessionFacts
from bridgehold.keeper.shapes import each_answer, most_tokens, names_bound
from bridgehold.keeper.slots import AUTH_QUERY, forwarded_headers
from bridgehold.policies import fields
from bridgehold.policies.content import UNREADABLE, BodyFacts, ParsedRequest, body_facts, head_facts
from bridgehold.policies.decide import decide_egress, secret_of
from bridgehold.policies.model import Grant
from bridgehold.policies.names import normalise_path
from bridgehold.policies.uses import UNJUDGED, Use

Pairs = list[tuple[str, str]]

_PARTS = 250_000
"""A JSON body with more brackets and separators is not judged: each costs the host a microsecond or two."""
_REFUSALS = {
    "missing": Refusal(
        status=401,
        rule="placeholder.missing",
        reason="no placeholder came with the request",
        hint="Use the api_key that the bridge was given for this provider.",
    ),
    "own_key": Refusal(
        status=401,
        rule="placeholder.own-key",
        reason="a key came that is not this session's placeholder",
        severity="high",
        hint="Keys are put in by the gateway: `bridgehold secrets set`.",
    ),
    "foreign": Refusal(
        status=403,
        rule="placeholder.provider",
        reason="this placeholder belongs to another provider",
        severity="high",
    ),
    "unknown": Refusal(
        status=403,
        rule="placeholder.session",
        reason="this placeholder belongs to another session, or to one that has ended",
        severity="high",
    ),
    "mixed": Refusal(
        status=403,
        rule="placeholder.mixed",
        reason="more than one key came with the request",
        severity="high",
    ),
}
"""By what `credentials.presented` found."""


class Refused(Exception):  # noqa: N818 - a decision, not a fault
    """Carries a refusal out of the checks of one request."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.rule)
        self.refusal = refusal


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """A request that may go out, but for its budget."""

    provider: ProviderFacts
    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]
    body: bytes
    rule: str
    secret: str
    credential: str
    model: str
    tokens: int
    """The most that it may use."""
    uses: tuple[Use, ...] = ()
    """What of it is billed by use."""
    unasked: bool = False
    """Whether its answer names usage that the guest didn't ask for: that event is left out."""
    open_ended: bool
    """Whether it names no bound of its own, so that `tokens` is a guess."""

    def __repr__(self) -> str:
        return f"Admitted({self.method} {self.provider.name}{self.path})"


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a request's head has decided: nothing of its body can make that another."""

    provider: ProviderFacts
    method: str
    path: str
    """Normalised, below the provider's base."""
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]
    """Those that would go on."""
    granted: tuple[str, ...]
    """As of `body_facts`."""
    secret: str
    credential: str

    def __repr__(self) -> str:
        return f"Head({self.method} {self.provider.name}{self.path})"


def judge_head(
    grant: Grant,
    session: SessionFacts,
    request: h11.Request,
    target: Target,
    named: tuple[str, ProviderFacts | None],
) -> Head:
    """All that a head decides before its body is read: key, provider, method, path, query, headers.

    `named`: the provider's name in the path, and what is configured under it. Raises `Refused`, and
    `BadRequest` for a query that can be read in two ways.
    """
    name, known = named
    endpoint = next((item for item in grant.endpoints if item.provider == name), None)
    headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in request.headers]
    query = parse_query(target.query)
    credential = check_credential(grant, session, name, headers, query)
    if known is None and endpoint is not None:  # nothing else that is wrong with it matters before that
        hint = "Add `[providers.NAME]` to config.toml, and `bridgehold reload`."
        raise _refused("providers", f"the host knows no provider {name[:63]!r}", hint)
    path = _path(target)
    asked = ParsedRequest(
        path=path,
        method=target.method,
        query=tuple((key, text) for key, text in query if key.lower() not in AUTH_QUERY),
        headers=forwarded_headers(headers),
        host=known.host if known else "",
    )
    granted = () if endpoint is None else ("*",) if endpoint.remote_content else endpoint.fields
    facts = head_facts(known.shape if known else "openai", asked, granted)
    _decide(grant, name, target.method, path, facts, known.version if known else "")
    if known is None:
        raise _refused("providers", f"the host has no provider {name[:63]!r}", "Grant one that it has.")
    secret = secret_of(grant, name)
    if secret is None and not credential:
        hint = f"Name it in the policy: [secrets.{name}] provider = {name!r}."
        raise _refused("secrets", f"no secret is granted for {name}", hint)
    return Head(
        provider=known,
        method=target.method,
        path=path,
        query=asked.query,
        headers=asked.headers,
        granted=granted,
        secret=secret.name if secret else "",
        credential=credential,
    )


def admit(grant: Grant, head: Head, body: bytes, parts: int) -> Admitted:
    """Decide on a body of so many `parts` (`parts_of`) behind `head`. Raises `Refused`."""
    known = head.provider
    value, unreadable = _parse(body, parts)
    asked = ParsedRequest(
        path=head.path,
        method=head.method,
        body=value,
        query=head.query,
        headers=head.headers,
        host=known.host,
    )
    facts = unreadable or body_facts(known.shape, asked, head.granted)
    rule = _decide(grant, known.name, head.method, head.path, facts, known.version)
    if value is not None:
        value |= dict(facts.forced)
    sent = body if value is None else msgspec.json.encode(value)
    return Admitted(
        provider=known,
        method=head.method,
        path=_without_version(head.path, known.version),
        query=head.query,
        headers=_typed(head.headers) if value is not None else head.headers,
        body=sent,
        rule=rule,
        secret=head.secret,
        credential=head.credential,
        model=facts.model[:100],
        tokens=most_tokens(known.shape, value, len(sent), facts),
        uses=each_answer(known.shape, value, facts.uses),
        unasked=facts.unasked,
        open_ended=facts.generates and not names_bound(known.shape, value),
    )


def _path(target: Target) -> str:
    """The normalised path below the provider's base. Raises `Refused`."""
    try:
        return normalise_path("/" + target.path.removeprefix("/").partition("/")[2])
    except DeniedError as error:
        raise _refused("names.path", error.message) from None


def _decide(grant: Grant, name: str, method: str, path: str, facts: BodyFacts, version: str) -> str:
    """The rule of an allowed request. Raises `Refused`."""
    decision = decide_egress(grant, name, method, path, facts)
    if decision.allowed:
        return decision.rule
    asked, reason = fields.version_of(path), decision.reason
    if version and asked not in ("", version):  # some clients ask for a version of their own choice
        reason += f"; the provider's address ends in /{version}: have the client ask for that, not {asked}"
    raise Refused(Refusal(status=403, rule=decision.rule, reason=reason, source=decision.source))


def check_credential(grant: Grant, session: SessionFacts, name: str, headers: Pairs, query: Pairs) -> str:
    """The guest's own key where the policy passes it on; otherwise empty. Raises `Refused`."""
    found = presented(name, session.placeholders, headers, query)
    if found.verdict == "ok":
        return ""
    if found.verdict == "own_key" and grant.inline_keys == "pass":
        return found.credential
    raise Refused(_REFUSALS[found.verdict])


def _refused(rule: str, reason: str, hint: str = "") -> Refused:
    return Refused(Refusal(status=403, rule=rule, reason=reason, hint=hint))


def _typed(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return (*(pair for pair in headers if pair[0] != "content-type"), ("content-type", "application/json"))


def parts_of(body: bytes) -> int:
    """What a body costs to judge: brackets and separators, those in its texts included."""
    return sum(body.count(mark) for mark in (b"[", b"{", b",", b":"))


def _parse(body: bytes, parts: int) -> tuple[dict[str, object] | None, BodyFacts | None]:
    """(the JSON object that is decided on and sent on, why there is none that can be) (pure).

    What goes out is encoded anew from what was decided on: a key that stands twice, or anything
    else that two parsers read in two ways, is gone by then.
    """
    if not body:
        return None, None
    if parts > _PARTS:
        return None, BodyFacts(unreadable="more values than are judged", uses=(UNJUDGED,))
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None, UNREADABLE
    return (value, None) if isinstance(value, dict) else (None, UNREADABLE)


def _without_version(path: str, version: str) -> str:
    """`path` without a leading version segment that the provider's base URL already has."""
    return path.removeprefix(f"/{version}") if version and path.startswith(f"/{version}/") else path
