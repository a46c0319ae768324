"""A request to a hub that may be served, and what makes it so (pure)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import h11
import msgspec

from bridgehold.errors import DeniedError
from bridgehold.host.cell.gateway.admit import Refused, check_credential
from bridgehold.host.cell.gateway.parse import Target, declared, parse_query
from bridgehold.host.cell.gateway.replies import Refusal
from bridgehold.host.cell.gateway.values import ProviderFacts
from bridgehold.policies.decide import secret_of
from bridgehold.policies.downloads import (
    HubItem,
    decide_download,
    hub_of,
    parse_hub_item,
)

if TYPE_CHECKING:
    from bridgehold.host.cell.gateway.values import SessionFacts
    from bridgehold.policies.model import Decision, Endpoint, Grant

_RANGE = re.compile(rb"bytes=([0-9]{1,15})-([0-9]{0,15})")


class DownloadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that may be served."""

    wanted: HubItem
    hub: ProviderFacts
    endpoint: Endpoint
    method: str
    rule: str
    secret: str
    fresh: bool
    """``Cache-Control: no-cache``: the hub is asked what the revision is now."""
    first: int = 0
    last: int | None = None
    """Of a range: the first byte, and the last one if it is named."""
    ranged: bool = False
    sizes: bool = False
    """``blobs=true``: of a revision's files, their sizes too."""


def admit_download(
    grant: Grant,
    facts: SessionFacts,
    request: h11.Request,
    target: Target,
    hub: ProviderFacts,
) -> DownloadRequest:
    """Raises `Refused`, and `BadRequest` for a query that can be read in two ways."""
    headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in request.headers]
    query = parse_query(target.query)
    if check_credential(grant, facts, hub.name, headers, query):
        raise Refused(
            Refusal(status=401, rule="placeholder.own-key", reason="a hub takes no key of a guest's")
        )
    if target.method not in ("GET", "HEAD") or declared(request, 1):
        raise Refused(Refusal(status=403, rule="hub.method", reason="a hub is only read: GET and HEAD"))
    if [pair for pair in query if pair != ("blobs", "true")]:
        raise Refused(Refusal(status=403, rule="gateway.query", reason="a hub takes no query but blobs=true"))
    try:
        wanted = parse_hub_item("/" + target.path.removeprefix("/").partition("/")[2])
    except DeniedError as error:
        rule = error.where if error.where.startswith("hub.") else "names.path"
        raise Refused(Refusal(status=403, rule=rule, reason=error.message, hint=error.hint)) from None
    decision = decide_download(grant, hub.name, wanted)
    endpoint = hub_of(grant, hub.name)
    if not decision.allowed or endpoint is None:
        raise refused(decision)
    secret = secret_of(grant, hub.name)
    if secret is None and hub.keyed:
        hint = f'Name it in the policy: [secrets.{hub.name}]; or auth = "none" for [providers.{hub.name}].'
        raise Refused(
            Refusal(status=403, rule="secrets", reason=f"no secret is granted for {hub.name}", hint=hint)
        )
    first, last, ranged = _range(request)
    return DownloadRequest(
        wanted=wanted,
        hub=hub,
        endpoint=endpoint,
        method=target.method,
        rule=decision.rule,
        secret=secret.name if secret else "",
        fresh=("cache-control", "no-cache") in headers,
        first=first,
        last=last,
        ranged=ranged,
        sizes=bool(query),
    )


def _range(request: h11.Request) -> tuple[int, int | None, bool]:
    """One range of bytes from a named place on; anything else is answered with the whole, as may be."""
    found = [_RANGE.fullmatch(value) for name, value in request.headers if name == b"range"]
    if len(found) != 1 or found[0] is None:
        return 0, None, False
    return int(found[0][1]), int(found[0][2]) if found[0][2] else None, True


def refused(decision: Decision, *, severity: str = "normal") -> Refused:
    """A decision against a download, in the hub's own words."""
    return Refused(
        Refusal(
            status=403,
            rule=decision.rule,
            reason=decision.reason,
            source=decision.source,
            severity=severity,
        )
    )
