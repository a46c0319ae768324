"""Their commands in our words, without I/O."""

from __future__ import annotations

import pytest

from bridgehold.errors import DeniedError
from bridgehold.host.faces.legacy.commands import error_text, recreation, translate


@pytest.mark.parametrize(
    ("command", "operation"),
    [
        ("configure_lm", "dspy:configure_lm"),
        ("create_program", "dspy:create_program"),
        ("get_program", "dspy:get_program_info"),
        ("dspy:execute_program", "dspy:execute_program"),
        ("python:execute", "python:execute"),
        ("get_stats", "common:get_stats"),
        ("common:get_stats", "common:get_stats"),
        ("common:get_capabilities", "common:get_capabilities"),
        ("health", "common:health"),
        ("common:open", "common:open"),
        ("common:ping", "common:ping"),
    ],
)
def test_a_command_becomes_an_operation(command: str, operation: str) -> None:
    assert translate("dspy", command, {}).operation == operation


@pytest.mark.parametrize(
    ("command", "own"),
    [
        ("ping", "ping"),
        ("cleanup", "fresh"),
        ("reset_state", "fresh"),
        ("cleanup_session", "clean_session"),
        ("shutdown", "shutdown"),
        ("common:shutdown", "shutdown"),
    ],
)
def test_what_the_face_does_itself(command: str, own: str) -> None:
    assert translate("dspy", command, {}).own == own


def test_a_program_that_is_put_back_is_made_again_and_not_sent_along() -> None:
    args = {
        "program_id": "qa",
        "inputs": {},
        "program_data": {"signature": "q -> a", "program_type": "predict", "created": 5},
    }
    assert "program_data" not in translate("dspy", "execute_program", args).arguments
    again = recreation("dspy", args)
    assert again is not None
    assert again.operation == "dspy:create_program"
    assert again.arguments == {"id": "qa", "signature": "q -> a", "program_type": "predict"}
    assert recreation("dspy", {"program_id": "qa"}) is None
    assert recreation("dspy", {"program_id": "qa", "program_data": "x"}) is None


def test_an_error_is_one_string_with_code_hint_and_event() -> None:
    error = DeniedError("no", hint="ask", event="i-1.2")
    assert error_text(error) == "denied: no (ask) [event i-1.2]"
    assert error_text(DeniedError("no", hint="bridgehold why i-1.2", event="i-1.2")).count("i-1.2") == 1
