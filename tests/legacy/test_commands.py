"""Their commands in our words, without I/O."""

from __future__ import annotations

import pytest

from bridgehold.errors import DeniedError
from bridgehold.faces.legacy.commands import error_text, fresh_answer, recreation, translate


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


@pytest.mark.parametrize(
    ("args", "provider"),
    [
        ({"model": "gemini-2.0-flash", "provider": "google"}, "gemini"),
        ({"model": "gemini-2.0-flash"}, "gemini"),
        ({"model": "gemini-2.0-flash", "provider": "own"}, "own"),
        ({"model": "gpt-4o-mini"}, None),
        ({"model": "openai/gemini-like"}, None),
    ],
)
def test_dspexs_provider_is_found_by_its_own_name(args: dict[str, object], provider: str | None) -> None:
    assert translate("dspy", "configure_lm", args).arguments.get("provider") == provider
    assert translate("other", "configure_lm", args).arguments == args


def test_what_only_callers_know_is_not_sent_along() -> None:
    args = {"program_id": "qa", "session_id": "s1"}
    for command in ("list_programs", "get_program_info", "delete_program"):
        assert "session_id" not in translate("dspy", command, args).arguments
    assert translate("dspy", "dspy:delete_program", args).arguments == args
    key = {"model": "m", "api_key": "sk-bh-foreign"}
    assert translate("dspy", "configure_lm", key).arguments == {"model": "m"}
    assert translate("dspy", "configure_lm", {"model": "m", "api_key": "x"}).arguments["api_key"] == "x"


def test_session_data_of_a_callers_own_session_is_the_faces() -> None:
    for command in ("get_session_data", "update_session_data"):
        assert translate("dspy", command, {"session_id": "s1"}).own == "session_data"
        assert translate("dspy", command, {"data": {}}).operation == f"dspy:{command}"


def test_a_signature_with_fields_is_a_text_to_the_enhanced_bridge() -> None:
    fields = {"inputs": [{"name": "a"}, "b"], "outputs": [{"name": "c"}]}
    step = translate("enhanced", "create_program", {"id": "x", "signature": fields})
    assert step.arguments == {"id": "x", "signature": "a, b -> c"}
    assert translate("enhanced", "create_program", {"signature": "a -> b"}).arguments["signature"] == "a -> b"
    assert translate("enhanced", "get_program", {"program_id": "x"}).operation == "enhanced:get_program"


def test_what_dspex_sends_for_its_own_bridges_sake_is_left_out() -> None:
    field = {"name": "q", "type": "string", "description": None, "constraints": {"max_length": 5}}
    signature = {
        "name": "QA",
        "description": "",
        "module": "App.QA",
        "inputs": [field],
        "outputs": [{"name": "a"}],
    }
    args = {"id": "qa", "signature": signature, "use_dynamic_signature": True, "variable_bindings": {}}
    step = translate("dspy", "create_program", args)
    sides = {"inputs": [{"name": "q", "type": "string"}], "outputs": [{"name": "a"}]}
    assert step.arguments == {"id": "qa", "signature": {"name": "QA", **sides}}
    assert translate("dspy", "create_program", {"variable_aware": True}).arguments == {"variable_aware": True}
    assert translate("dspy", "dspy:create_program", args).arguments == args
    for key in ("signature", "signature_def"):
        again = recreation(
            "dspy", {"program_id": "qa", "program_data": {key: signature, "field_mapping": {}}}
        )
        assert again is not None
        assert again.arguments == step.arguments


def test_each_way_to_forget_is_answered_in_its_own_words() -> None:
    told = {command: fresh_answer(command, programs=2, commands=5, errors=1) for command in FORGETTING}
    assert told["cleanup"] == {"status": "cleaned", "programs_removed": 2}
    assert told["reset_state"]["errors_reset"] == 1
    assert told["clear_session"]["message"] == "Session cleared"


FORGETTING = ("cleanup", "reset_state", "clear_session")


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
