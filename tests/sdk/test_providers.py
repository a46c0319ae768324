"""What a provider's client raised, by names and a status, whatever the exception is made of."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from bridgehold.host.cell.gateway.replies import Refusal
from bridgehold.keeper.shapes import Denial, denial_body
from bridgehold_sdk.providers import provider_code


def error(name: str, text: str = "", **facts: object) -> BaseException:
    made = type(name, (Exception,), facts)(text)
    assert isinstance(made, BaseException)
    return made


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (error("RateLimitError"), "rate_limit"),
        (error("Anything", status_code=429), "rate_limit"),
        (error("AuthenticationError", status_code=401), "provider_auth"),
        (error("BadRequestError", "maximum context length is 10", status_code=400), "context_length"),
        (error("BadRequestError", "no such model", status_code=400), ""),
        (error("InternalServerError", status_code=503), "provider"),
        (error("APITimeoutError"), "provider"),
        (error("ValueError", "rate limit"), ""),
        (error("Odd", status_code=True), ""),
        (error("Odd", code=7), ""),
        (KeyError("x"), ""),
    ],
)
def test_an_error_is_known_by_its_class_or_its_status(raised: BaseException, code: str) -> None:
    assert provider_code(raised) == code


@pytest.mark.parametrize("shape", ["openai", "anthropic", "gemini", "custom", "hub"])
@pytest.mark.parametrize(
    ("status", "rule", "code"),
    [
        (403, "network.endpoints.openai.paths", "refused"),
        (400, "content.image_url", "refused"),
        (429, "rate.tokens_per_minute", "budget"),
        (403, "secrets", "provider_auth"),
        (502, "keeper.provider", "provider"),
    ],
)
def test_the_gateways_own_refusal_is_told_by_whatever_a_client_keeps_of_it(
    shape: str, status: int, rule: str, code: str
) -> None:
    refusal = Refusal(status=status, rule=rule, reason="no", hint="Ask an operator.")
    message = refusal.message("i-1.2")
    body = msgspec.json.decode(
        denial_body(shape, Denial(status=status, rule=rule, message=message, event="i-1.2"))
    )
    named = {"name": "PermissionDeniedError", "status_code": status}
    response = SimpleNamespace(headers={"x-bridgehold-rule": rule})
    kept: list[dict[str, object]] = [{"body": body}, {"details": body}, {"response": response}]
    if isinstance(body["error"], dict):
        kept.append({"body": body["error"]})  # as OpenAI's keeps it
    for facts in kept:
        raised = error(**{**named, **facts})  # type: ignore[arg-type]
        assert provider_code(raised) == code, facts
    text_alone = error("Anything", f"Error code: {status} - {message}", status_code=status)
    assert provider_code(text_alone) == code
    outer = RuntimeError("the framework's own")
    outer.__cause__ = text_alone
    assert provider_code(outer) == code


@pytest.mark.parametrize(
    ("kept", "code"),
    [
        ({"body": {"type": "requests", "code": "rate_limit_exceeded"}}, "rate_limit"),
        ({"body": {"type": "error", "error": {"type": "overloaded_error"}}}, "provider"),
        ({"body": {"error": {"type": "rate_limit_error"}}, "status_code": 200}, "rate_limit"),
        ({"details": {"error": {"code": 503, "status": "UNAVAILABLE"}}}, "provider"),
        ({"details": [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}]}, "rate_limit"),
        ({"body": {"code": "context_length_exceeded"}}, "context_length"),
        ({"body": {"code": "invalid_api_key"}}, "provider_auth"),
        ({"body": {"type": "invalid_request_error"}}, ""),
        ({"body": "rate_limit_error"}, ""),
        ({"body": {"type": ["rate_limit_error"], "code": None, 7: {}}}, ""),
    ],
)
def test_an_error_without_a_status_is_known_by_what_it_says(kept: dict[str, object], code: str) -> None:
    assert provider_code(error("APIError", **kept)) == code


def test_the_chain_of_causes_is_followed_and_bounded() -> None:
    outer = RuntimeError("the framework's own")
    outer.__cause__ = error("RateLimitError")
    assert provider_code(outer) == "rate_limit"
    circle = RuntimeError("round")
    circle.__context__ = circle
    assert provider_code(circle) == ""


def test_an_exception_that_can_not_be_shown_is_no_trouble() -> None:
    class HostileError(Exception):
        status_code = 500

        def __str__(self) -> str:
            raise OSError

    assert provider_code(HostileError()) == "provider"


def test_a_wrapper_that_takes_all_for_the_provider_gives_way_to_what_it_quotes() -> None:
    """As litellm's `MidStreamFallbackError` does around what the provider said inside a stream."""
    for kind, code in (
        ("rate_limit_error", "rate_limit"),
        ("authentication_error", "provider_auth"),
        ("server_error", "provider"),
        ("invalid_request_error", ""),
    ):
        outer = error("ServiceUnavailableError", "OpenAIException - Slow down", status_code=503)
        outer.__context__ = error("APIError", "Slow down", body={"type": kind})
        assert provider_code(outer) == code
        outer.__context__ = error("APIError", "of an attempt before it", body={"type": kind})
        assert provider_code(outer) == "provider"
