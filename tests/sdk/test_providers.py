"""What a provider's client raised, by names and a status, whatever the exception is made of."""

from __future__ import annotations

import pytest

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
        (error("PermissionDeniedError", "not granted (bridgehold why a-1)", status_code=403), ""),
        (error("ValueError", "rate limit"), ""),
        (error("Odd", status_code=True), ""),
        (error("Odd", code=7), ""),
        (KeyError("x"), ""),
    ],
)
def test_an_error_is_known_by_its_class_or_its_status(raised: BaseException, code: str) -> None:
    assert provider_code(raised) == code


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
