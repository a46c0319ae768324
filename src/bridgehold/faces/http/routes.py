"""Every endpoint: the router, the OpenAPI document and docs/reference/http.md are made from these.

``GET /healthz`` beside them is the border's own: it alone needs no token.
"""

from __future__ import annotations

from bridgehold.faces.http import (
    artifacts,
    audits,
    commands,
    documents,
    proposals,
    resources,
    sessions,
    submissions,
    tenants,
)
from bridgehold.faces.http.route import Route

_MODULES = (documents, sessions, commands, resources, artifacts, tenants, submissions, proposals, audits)
ROUTES: tuple[Route, ...] = tuple(
    found for module in _MODULES for found in vars(module).values() if isinstance(found, Route)
)
