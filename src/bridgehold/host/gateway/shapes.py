"""What differs between providers: how a refusal looks, and where usage and model stand (pure).

A shape is a row of this table; the rest of the gateway knows none by name.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bridgehold.host.keeper.values import Shape


class Denial(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal, for people and for SDKs."""

    status: int
    rule: str
    message: str


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    input_tokens: int = 0
    output_tokens: int = 0


class ShapeRules(msgspec.Struct, frozen=True, kw_only=True):
    denial: Callable[[Denial], object]
    """The JSON body that the provider's own SDK shows as its error."""
    usage: Callable[[object], Usage | None]
    """Usage in one decoded JSON document or stream event, if it stands there."""
    queries: frozenset[str] | None
    """Names of query parameters that may go on; None: any but the auth slots."""
    estimate: tuple[str, ...] = ("max_tokens", "max_completion_tokens", "max_output_tokens")
    """Where a request says how many tokens it wants at most."""


def _openai_denial(denial: Denial) -> object:
    kind = {401: "invalid_request_error", 429: "rate_limit_error"}.get(denial.status, "permission_error")
    error = {"message": denial.message, "type": kind, "param": None, "code": denial.rule}
    return {"error": error}


def _anthropic_denial(denial: Denial) -> object:
    kind = {401: "authentication_error", 429: "rate_limit_error", 400: "invalid_request_error"}
    error = {"type": kind.get(denial.status, "permission_error"), "message": denial.message}
    return {"type": "error", "error": error}


def _gemini_denial(denial: Denial) -> object:
    status = {401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED", 400: "INVALID_ARGUMENT"}
    error = {"code": denial.status, "message": denial.message}
    return {"error": error | {"status": status.get(denial.status, "PERMISSION_DENIED")}}


def _custom_denial(denial: Denial) -> object:
    return {"error": {"message": denial.message, "code": denial.rule}}


def _hub_denial(denial: Denial) -> object:
    return {"error": denial.message, "code": denial.rule}


def _no_usage(_value: object) -> Usage | None:
    return None


def _openai_usage(value: object) -> Usage | None:
    """Chat completions and embeddings (prompt_/completion_tokens), responses (input_/output_tokens)."""
    if not isinstance(value, dict):
        return None
    usage = value.get("usage")
    if usage is None and isinstance(value.get("response"), dict):
        usage = value["response"].get("usage")
    if not isinstance(usage, dict):
        return None
    return Usage(
        input_tokens=_count(usage.get("prompt_tokens", usage.get("input_tokens"))),
        output_tokens=_count(usage.get("completion_tokens", usage.get("output_tokens"))),
    )


def _anthropic_usage(value: object) -> Usage | None:
    if not isinstance(value, dict):
        return None
    message = value.get("message")
    usage = message.get("usage") if isinstance(message, dict) else value.get("usage")
    if not isinstance(usage, dict):
        return None
    return Usage(
        input_tokens=_count(usage.get("input_tokens")), output_tokens=_count(usage.get("output_tokens"))
    )


def _gemini_usage(value: object) -> Usage | None:
    usage = value.get("usageMetadata") if isinstance(value, dict) else None
    if not isinstance(usage, dict):
        return None
    return Usage(
        input_tokens=_count(usage.get("promptTokenCount")),
        output_tokens=_count(usage.get("candidatesTokenCount")),
    )


def _count(value: object) -> int:
    """A provider's number, if it is one that the audit can hold."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12 else 0


_SHAPES: dict[str, ShapeRules] = {
    "openai": ShapeRules(
        denial=_openai_denial, usage=_openai_usage, queries=frozenset({"limit", "order", "api-version"})
    ),
    "anthropic": ShapeRules(denial=_anthropic_denial, usage=_anthropic_usage, queries=frozenset({"beta"})),
    "gemini": ShapeRules(denial=_gemini_denial, usage=_gemini_usage, queries=frozenset({"alt"})),
    "hub": ShapeRules(denial=_hub_denial, usage=_no_usage, queries=frozenset()),
    "custom": ShapeRules(denial=_custom_denial, usage=_openai_usage, queries=None),
}


def rules_of(shape: Shape | str) -> ShapeRules:
    """The rules of `shape`; those of ``custom`` for a name that isn't known."""
    return _SHAPES.get(shape, _SHAPES["custom"])


def denial_body(shape: Shape | str, denial: Denial) -> bytes:
    return msgspec.json.encode(rules_of(shape).denial(denial))


def wanted_tokens(shape: Shape | str, body: object, body_bytes: int) -> int:
    """A request's likely tokens, to reserve: its own bound, or 1,024, and a quarter of its bytes."""
    bound = 1_024
    if isinstance(body, dict):
        named = [_count(body.get(name)) for name in rules_of(shape).estimate]
        bound = max(named) or bound
    return bound + body_bytes // 4
