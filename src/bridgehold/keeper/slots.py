"""Where keys travel in requests: every slot that is emptied, and the one that is filled."""

from __future__ import annotations

from collections.abc import Iterable

from bridgehold.config.providers import ProviderEntry

AUTH_HEADERS = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "x-goog-user-project",
        "x-auth-token",
        "x-amz-security-token",
        "cookie",
        "openai-organization",
        "openai-project",
    }
)
"""Keys, and what chooses among the accounts of a key."""

AUTH_QUERY = frozenset(
    {"key", "api_key", "apikey", "api-key", "access_token", "token", "auth", "signature", "sig"}
)

REQUEST_HEADERS = frozenset(
    {
        "accept",
        "accept-language",
        "content-type",
        "user-agent",
        "anthropic-version",
        "anthropic-beta",
        "openai-beta",
        "idempotency-key",
    }
)
"""What of the guest's headers goes on. Length, host, encoding and connection are our own."""

HOP_HEADERS = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "set-cookie",
        "set-cookie2",
        "alt-svc",
        "strict-transport-security",
        "public-key-pins",
        "nel",
        "report-to",
    }
)
"""What of a provider's headers stays here."""


def forwarded_headers(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Those of `headers` that go to a provider, in lower case (pure). No auth slot is among them."""
    return tuple((name.lower(), value) for name, value in headers if name.lower() in REQUEST_HEADERS)


def inject(
    entry: ProviderEntry, key: str, headers: dict[str, str], query: list[tuple[str, str]]
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Headers and query with every auth slot emptied and the provider's one filled (pure)."""
    kept = {name: value for name, value in headers.items() if name.lower() not in AUTH_HEADERS}
    plain = [(name, value) for name, value in query if name.lower() not in AUTH_QUERY]
    kind, _, slot = entry.auth.partition(":")
    if kind == "none":
        return kept, plain
    if kind == "header":
        kept[slot] = key
    elif kind == "query":
        plain.append((slot, key))
    else:
        kept["Authorization"] = f"Bearer {key}"
    return kept, plain
