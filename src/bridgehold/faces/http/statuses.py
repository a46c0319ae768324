"""Which HTTP status each error has, and a refusal that has one of its own."""

from __future__ import annotations

from bridgehold.errors import BridgeholdError, LimitError, UsageError

STATUSES: dict[str, int] = {
    "internal": 500,
    "usage": 400,
    "config": 500,
    "manifest": 500,
    "policy": 500,
    "not_found": 404,
    "denied": 403,
    "suspended": 403,
    "unsupported": 501,
    "environment": 500,
    "environment_changed": 500,
    "dependency": 500,
    "secret": 424,
    "busy": 503,
    "tenant_full": 503,
    "budget": 429,
    "timeout": 504,
    "memory": 507,
    "limit": 422,
    "crash": 502,
    "protocol": 502,
    "attestation": 500,
    "zygote": 503,
    "replaced": 503,
    "shortage": 503,
    "cancelled": 409,
    "session_ended": 410,
    "application": 422,
    "provider": 502,
    "provider_auth": 424,
    "rate_limit": 429,
    "context_length": 422,
    "audit": 503,
    "host_unavailable": 503,
    "host_leaving": 503,
    "cell_ended": 503,
    "transcript": 500,
}
"""By code. What may be tried again later says so by ``retry`` in the body and a ``Retry-After``."""


def status_of(code: str) -> int:
    """The HTTP status of an error's code; 500 for an unknown one."""
    return STATUSES.get(code, 500)


class Refused(Exception):  # noqa: N818 - it carries an error, and is none of the table
    """A refusal of HTTP itself, with its own status; `error` is what its body says."""

    def __init__(self, status: int, error: BridgeholdError, headers: dict[str, str] | None = None) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error
        self.headers = headers or {}


def too_large(limit: int) -> Refused:
    """A 413: the body has more than `limit` bytes."""
    return Refused(413, LimitError(f"a body of more than {limit} bytes", where="body"))


def too_slow(seconds: float) -> Refused:
    """A 408: the body did not come within `seconds`."""
    return Refused(408, UsageError(f"the body did not come within {seconds:g} s", where="body", retry="same"))
