"""A provider's errors, each shape's in its own words (pure)."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple, get_args

Shape = Literal["openai", "anthropic", "gemini"]
ErrorKind = Literal[
    "auth", "rate_limit", "context_length", "server", "overloaded", "bad_request", "not_found"
]
ERRORS: tuple[ErrorKind, ...] = get_args(ErrorKind)


class Refusal(NamedTuple):
    """A provider's error in its own shape: status, JSON body, headers."""

    status: int
    document: dict[str, Any]
    headers: dict[str, str]


class _Words(NamedTuple):
    status: int
    kind: str
    code: str | None
    """OpenAI's `code`; unused by the others."""
    message: str


_OPENAI: dict[ErrorKind, _Words] = {
    "auth": _Words(401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided"),
    "rate_limit": _Words(429, "requests", "rate_limit_exceeded", "Rate limit reached for requests"),
    "context_length": _Words(
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is {most} tokens. Your messages resulted in {came} tokens.",
    ),
    "server": _Words(500, "server_error", None, "The server had an error while processing your request"),
    "overloaded": _Words(503, "service_unavailable_error", None, "The engine is currently overloaded"),
    "bad_request": _Words(400, "invalid_request_error", None, "The body is no JSON object"),
    "not_found": _Words(404, "invalid_request_error", None, "Unknown request URL"),
}
_ANTHROPIC: dict[ErrorKind, _Words] = {
    "auth": _Words(401, "authentication_error", None, "invalid x-api-key"),
    "rate_limit": _Words(429, "rate_limit_error", None, "This request would exceed your rate limit"),
    "context_length": _Words(
        400, "invalid_request_error", None, "prompt is too long: {came} tokens > {most} maximum"
    ),
    "server": _Words(500, "api_error", None, "Internal server error"),
    "overloaded": _Words(529, "overloaded_error", None, "Overloaded"),
    "bad_request": _Words(400, "invalid_request_error", None, "The body is no JSON object"),
    "not_found": _Words(404, "not_found_error", None, "Not found"),
}
_GEMINI: dict[ErrorKind, _Words] = {
    "auth": _Words(401, "UNAUTHENTICATED", None, "Request had invalid authentication credentials."),
    "rate_limit": _Words(429, "RESOURCE_EXHAUSTED", None, "You exceeded your current quota."),
    "context_length": _Words(
        400,
        "INVALID_ARGUMENT",
        None,
        "The input token count ({came}) exceeds the maximum number of tokens allowed ({most}).",
    ),
    "server": _Words(500, "INTERNAL", None, "An internal error has occurred."),
    "overloaded": _Words(503, "UNAVAILABLE", None, "The model is overloaded. Please try again later."),
    "bad_request": _Words(400, "INVALID_ARGUMENT", None, "The body is no JSON object"),
    "not_found": _Words(404, "NOT_FOUND", None, "Not found"),
}
_SHAPES: dict[Shape, dict[ErrorKind, _Words]] = {
    "openai": _OPENAI,
    "anthropic": _ANTHROPIC,
    "gemini": _GEMINI,
}


def shape_of(path: str) -> Shape:
    """The shape that a request's path asks in."""
    if path.endswith("/messages"):
        return "anthropic"
    return "gemini" if ":" in path.rpartition("/")[2] else "openai"


def refusal(
    kind: ErrorKind, shape: Shape, *, status: int = 0, retry_after_s: int = 0, most: int = 0, came: int = 0
) -> Refusal:
    """The answer that says `kind` in that shape. `most` and `came`: tokens; `status`: another than usual."""
    words = _SHAPES[shape][kind]
    message = words.message.format(most=most, came=came)
    status = status or words.status
    if shape == "openai":
        error: dict[str, Any] = {"message": message, "type": words.kind, "param": None, "code": words.code}
        document: dict[str, Any] = {"error": error}
    elif shape == "anthropic":
        error = {"type": words.kind, "message": message}
        document = {"type": "error", "error": error, "request_id": "req_sim"}
    else:
        document = {"error": {"code": status, "message": message, "status": words.kind}}
    headers = {"Retry-After": str(retry_after_s)} if kind in ("rate_limit", "overloaded") else {}
    return Refusal(status, document, headers)


def kind_of(status: int) -> ErrorKind:
    """The kind that an HTTP status most often is."""
    by_status: dict[int, ErrorKind] = {
        401: "auth",
        403: "auth",
        429: "rate_limit",
        400: "bad_request",
        404: "not_found",
        503: "overloaded",
        529: "overloaded",
    }
    return by_status.get(status, "server")


def error_event(kind: ErrorKind, shape: Shape, *, most: int = 1, came: int = 2) -> bytes:
    """The same in the middle of a stream, where no status can say it any more."""
    document = refusal(kind, shape, most=most, came=came).document
    name = b"event: error\n" if shape == "anthropic" else b""
    return name + b"data: " + json.dumps(document).encode() + b"\n\n"
