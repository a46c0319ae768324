"""What a provider's client raised, in the few words that every caller understands.

By what the provider's answer says of itself (its error's type, code and status, in a body or in an event
of a stream), by the names of classes and by a status, along the chain of causes: no framework is imported
for it, and LiteLLM's, OpenAI's, Anthropic's, Google's and DSPy's own errors are named alike. A refusal of
the gateway's own is told from all of these by a field that it alone sends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

_NAMES = {
    "context_length": {"ContextWindowExceededError", "ContextLengthExceededError", "ContextOverflowError"},
    "rate_limit": {"RateLimitError", "LMRateLimitError", "ResourceExhausted", "TooManyRequests"},
    "provider_auth": {
        "AuthenticationError",
        "PermissionDeniedError",
        "LMAuthError",
        "LMBillingError",
        "Unauthorized",
        "Unauthenticated",
        "PermissionDenied",
    },
    "provider": {
        "APIConnectionError",
        "APITimeoutError",
        "BadGatewayError",
        "InternalServerError",
        "LMServerError",
        "LMTimeoutError",
        "LMTransportError",
        "ServiceUnavailableError",
        "ServiceUnavailable",
    },
}
_SAID = {
    "context_length": {"context_length_exceeded"},
    "rate_limit": {"rate_limit_error", "rate_limit_exceeded", "resource_exhausted", "insufficient_quota"},
    "provider_auth": {
        "authentication_error",
        "billing_error",
        "invalid_api_key",
        "permission_denied",
        "permission_error",
        "unauthenticated",
    },
    "provider": {
        "api_error",
        "deadline_exceeded",
        "internal",
        "internal_server_error",
        "overloaded_error",
        "server_error",
        "service_unavailable_error",
        "timeout_error",
        "unavailable",
    },
}
"""By what an error's `type`, `code` or `status` says; an error in the middle of a stream has nothing else."""
_OVERFLOWS = (
    "context_length_exceeded",
    "maximum context length",
    "context window",
    "prompt is too long",
    "maximum number of tokens allowed",
)
OWN_FIELD = "bridgehold"
"""Of an error's body: the gateway's own refusal. No provider's answer has it."""
_OWN_TEXT = "bridgehold refused this request"
"""How its message begins: a framework may keep nothing else."""
_OWN_HEADER = "x-bridgehold-rule"
_CAUSES = 6
_TOO_MANY, _DENIED, _SERVER = 429, (401, 402, 403), 500


def provider_code(error: BaseException) -> str:
    """``refused`` or ``budget`` by the gateway; ``provider_auth``, ``rate_limit``, ``context_length`` or
    ``provider``; empty for any other error."""
    found = list(causes(error))
    for place, one in enumerate(found):
        code = _code(one)
        if code == "provider":  # a wrapper's catch-all: what it quotes may know better
            return next((_code(known) for known in found[place + 1 :] if _quoted(known, one)), code)
        if code:
            return code
    return ""


def causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it came of, as far back as it is looked at."""
    one: Optional[BaseException] = error
    for _ in range(_CAUSES):
        if one is None:
            return
        yield one
        one = one.__cause__ or one.__context__


def _code(error: BaseException) -> str:
    names = {kind.__name__ for kind in type(error).__mro__}
    tables = _tables(error)
    status = _status(error, tables)
    text = _text(error)
    rule = _own_rule(error, tables, text)
    if rule:
        return _refused(rule, status)
    named = next((code for code, known in _NAMES.items() if names & known), "")
    said = {
        value.lower()
        for table in tables
        for key in ("type", "code", "status")
        if isinstance(value := table.get(key), str)
    }
    told = next((code for code, known in _SAID.items() if said & known), "")
    if not named and not tables and status is None:
        return ""
    return _judged(named, told, status, text)


def _quoted(known: BaseException, by: BaseException) -> bool:
    """Whether `known` holds the provider's own words, and `by`, which has none of its own, quotes it."""
    return not _tables(by) and bool(_tables(known)) and len(_text(known)) > 0 and _text(known) in _text(by)


def _refused(rule: str, status: Optional[int]) -> str:
    if rule.startswith("secrets"):
        return "provider_auth"
    if status is not None and status >= _SERVER:
        return "provider"
    return "budget" if status == _TOO_MANY or rule.startswith(("rate.", "budget")) else "refused"


def _own_rule(error: BaseException, tables: list[dict[Any, Any]], text: str) -> str:
    """The rule of the gateway's own refusal, by what is left of it; empty for a provider's answer."""
    for table in tables:
        own = table.get(OWN_FIELD)
        if isinstance(own, dict):
            return str(own.get("rule")) or "unknown"
    rule = _header(error)
    if rule or _OWN_TEXT not in text:
        return rule
    return text.partition(_OWN_TEXT)[2].partition("(rule ")[2].partition(")")[0] or "unknown"


def _judged(named: str, told: str, status: Optional[int], text: str) -> str:
    if "context_length" in (named, told) or any(mark in text for mark in _OVERFLOWS):
        return "context_length"
    if status == _TOO_MANY:
        return "rate_limit"
    if status in _DENIED:
        return "provider_auth"
    if status is not None and status >= _SERVER:
        return "provider"
    return told or named


def _tables(error: BaseException) -> list[dict[Any, Any]]:
    """The provider's error as clients keep it (`body`, `details`), and the table ``error`` in it."""
    found: list[dict[Any, Any]] = []
    for name in ("body", "details"):
        value = _attribute(error, name)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, dict):
            found.append(value)
            inner = value.get("error")
            if isinstance(inner, dict):
                found.append(inner)
    return found


def _status(error: BaseException, tables: list[dict[Any, Any]]) -> Optional[int]:
    values = [_attribute(error, name) for name in ("status_code", "http_status", "status", "code")]
    for value in (*values, *(table.get("code") for table in tables)):
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
            return value
    return None


def _header(error: BaseException) -> str:
    headers = _attribute(_attribute(error, "response"), "headers")
    try:
        return str(headers.get(_OWN_HEADER) or "") if headers is not None else ""
    except Exception:  # noqa: BLE001 - a response of whatever kind
        return ""


def _attribute(value: object, name: str) -> Any:
    try:
        return getattr(value, name, None)
    except Exception:  # noqa: BLE001 - a property of foreign code
        return None


def _text(error: BaseException) -> str:
    try:
        return str(error)[:4000].lower()
    except Exception:  # noqa: BLE001 - the exception's own __str__ is foreign code
        return ""
