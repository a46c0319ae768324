"""What a provider's client raised, in the few words that every caller understands.

By the names of classes and by a status, along the chain of causes: no framework is imported for it, and
LiteLLM's, OpenAI's, Anthropic's, Google's and DSPy's own errors are named alike.
"""

from __future__ import annotations

from typing import Optional

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
_OVERFLOWS = ("context_length_exceeded", "maximum context length", "context window", "prompt is too long")
_OWN = ("(bridgehold why", "[rule ")
"""What the gateway's own refusals say: they are no provider's."""
_CAUSES = 6
_TOO_MANY, _DENIED, _SERVER = 429, (401, 402, 403), 500


def provider_code(error: BaseException) -> str:
    """``provider_auth``, ``rate_limit``, ``context_length`` or ``provider``; empty for any other error."""
    one: Optional[BaseException] = error
    for _ in range(_CAUSES):
        if one is None:
            return ""
        found = _code(one)
        if found:
            return found
        one = one.__cause__ or one.__context__
    return ""


def _code(error: BaseException) -> str:
    names = {kind.__name__ for kind in type(error).__mro__}
    status = _status(error)
    named = next((code for code, known in _NAMES.items() if names & known), "")
    if not named and status is None:
        return ""
    text = _text(error)
    if any(mark in text for mark in _OWN):
        return ""
    return _judged(named, status, text)


def _judged(named: str, status: Optional[int], text: str) -> str:
    if named == "context_length" or any(mark in text for mark in _OVERFLOWS):
        return "context_length"
    if status == _TOO_MANY:
        return "rate_limit"
    if status in _DENIED:
        return "provider_auth"
    if status is not None and status >= _SERVER:
        return "provider"
    return named


def _status(error: BaseException) -> Optional[int]:
    for name in ("status_code", "http_status", "status", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
            return value
    return None


def _text(error: BaseException) -> str:
    try:
        return str(error)[:4000].lower()
    except Exception:  # noqa: BLE001 - the exception's own __str__ is foreign code
        return ""
