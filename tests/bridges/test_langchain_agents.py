"""The langchain bridge: conversations, and agents with tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bridgehold.bridges.frames import CancelFrame, ToolCallFrame, ToolFact, ToolFault, ToolReplyFrame
from bridges.langchain_support import anew, kept, refused, run, seen

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def workers(
    launch_once: Any, environment: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[bool], Any]:
    return cache(lambda _hanging: kept(launch_once, environment("langchain"), tmp_path_factory))


@pytest.fixture
def langchain(request: pytest.FixtureRequest, workers: Callable[[bool], Any]) -> Any:
    """One that is shared; those in which something hangs share another."""
    guest = anew(workers("cancelled" in request.node.name))
    run(guest, "configure_llm", model="gpt-4o-mini", max_retries=0)
    return guest


def contents(request: dict[str, Any]) -> list[str]:
    return [message["content"] for message in request["body"]["messages"]]


def test_a_conversation_remembers_what_was_said(langchain: Any) -> None:
    made = run(langchain, "create_conversation", id="talk", system="Be brief.")
    assert (made["conversation_id"], made["message_count"]) == ("talk", 0)
    first = run(langchain, "send", conversation_id="talk", message="Hello")
    assert (first["reply"], first["message_count"]) == ("You said: Hello", 2)
    assert first["usage"]["calls"] == 1
    call = langchain.start("langchain:stream_send", {"conversation_id": "talk", "message": "Again"})
    second = langchain.reply(call).result
    assert "".join(chunk.data["text"] for chunk in langchain.chunks(call)) == "You said: Again"
    assert contents(seen(langchain)[1]) == ["Be brief.", "Hello", "You said: Hello", "Again"]
    history = run(langchain, "history", conversation_id="talk")
    assert [message["role"] for message in history["messages"]] == ["user", "assistant"] * 2
    assert history["usage"]["calls"] == 2
    assert history["usage"]["total_tokens"] == sum(
        reply["usage"]["total_tokens"] for reply in (first, second)
    )
    page = run(langchain, "history", conversation_id="talk", offset=2, limit=1)["messages"]
    assert page == [{"role": "user", "content": "Again"}]
    assert run(langchain, "clear_conversation", conversation_id="talk")["messages_cleared"] == 4
    run(langchain, "send", conversation_id="talk", message="Anew")
    assert contents(seen(langchain)[2]) == ["Be brief.", "Anew"]
    run(langchain, "delete_conversation", conversation_id="talk")
    assert run(langchain, "list_conversations")["total_count"] == 0
    assert refused(langchain, "send", conversation_id="talk", message="x").code == "not_found"


def test_the_model_is_shown_the_newest_only(langchain: Any) -> None:
    before = [{"role": role, "content": f"{role} {n}"} for n in range(3) for role in ("user", "assistant")]
    run(langchain, "create_conversation", id="short", keep_messages=4, messages=before, system="Be brief.")
    done = run(langchain, "send", conversation_id="short", message="now")
    assert contents(seen(langchain)[0]) == ["Be brief.", "user 2", "assistant 2", "now"]
    assert (done["messages_shown"], done["message_count"]) == (4, 8)
    run(langchain, "create_conversation", id="few", keep_tokens=20)
    fault = refused(langchain, "send", conversation_id="few", message="word " * 100)
    assert (fault.code, "20 tokens" in fault.message) == ("invalid_input", True)


def test_a_message_that_failed_is_not_kept(langchain: Any) -> None:
    run(langchain, "create_conversation", id="talk")
    assert "not granted" in refused(langchain, "send", conversation_id="talk", message="FORBIDDEN").message
    assert run(langchain, "history", conversation_id="talk")["messages"] == []
    assert run(langchain, "send", conversation_id="talk", message="Hello")["message_count"] == 2


def test_an_agent_calls_its_tools_and_says_what_they_did(langchain: Any) -> None:
    names = [tool["name"] for tool in run(langchain, "list_tools")["tools"]]
    assert names == ["calculator", "count_text", "days_between", "convert_unit"]
    made = run(langchain, "create_agent", id="a", tools=names, system="Use tools.")
    assert (made["agent_id"], made["tools"]) == ("a", names)
    asked = 'calculator {"expression": "2**10 + sqrt(16)"} and count_text {"text": "a b"}'
    done = run(langchain, "run_agent", agent_id="a", input=asked)
    assert done["steps"] == [
        {
            "tool": "calculator",
            "arguments": {"expression": "2**10 + sqrt(16)"},
            "result": "1028.0",
            "status": "success",
        },
        {
            "tool": "count_text",
            "arguments": {"text": "a b"},
            "result": '{"characters": 3, "words": 2, "lines": 1}',
            "status": "success",
        },
    ]
    assert done["output"].startswith("You said: ")
    assert done["usage"]["calls"] == 2
    assert len(seen(langchain)) == 2
    tools = [tool["function"]["name"] for tool in seen(langchain)[0]["body"]["tools"]]
    assert tools == names
    assert run(langchain, "list_agents")["agents"][0]["execution_count"] == 1
    run(langchain, "delete_agent", agent_id="a")
    assert refused(langchain, "run_agent", agent_id="a", input="x").code == "not_found"


CALCULATIONS: list[tuple[str, dict[str, Any], str]] = [
    ("calculator", {"expression": "-(7 // 2) * round(pi, 2)"}, "-9.42"),
    ("calculator", {"expression": "9**9**9"}, "more than 10000 bits"),
    ("calculator", {"expression": "(" * 400 + "1" + ")" * 400}, "can't be calculated"),
    ("calculator", {"expression": "__import__('os').getpid()"}, "is no arithmetic"),
    ("calculator", {"expression": "().__class__"}, "is no arithmetic"),
    ("calculator", {"expression": "'a' * 1000000000"}, "is no arithmetic"),
    ("calculator", {"expression": "1/0"}, "division by zero"),
    ("calculator", {"expression": "(-1) ** 0.5"}, "no finite real number"),
    ("days_between", {"start": "2026-02-27", "end": "2026-03-01"}, "2"),
    ("days_between", {"start": "soon", "end": "2026-03-01"}, "is written as"),
    ("convert_unit", {"value": 2, "source": "km", "target": "m"}, "2000.0"),
    ("convert_unit", {"value": 2, "source": "km", "target": "kg"}, "a unit of length, kg of mass"),
    ("convert_unit", {"value": "two", "source": "km", "target": "m"}, "value"),
]


def test_a_tool_calculates_or_tells_the_model_why_not(langchain: Any) -> None:
    run(langchain, "create_agent", id="a", tools=["calculator", "days_between", "convert_unit"])
    for tool, arguments, result in CALCULATIONS:
        done = run(langchain, "run_agent", agent_id="a", input=f"{tool} {json.dumps(arguments)}")
        (step,) = done["steps"]
        assert result in step["result"]
        assert (step["status"] == "success") == (step["result"] == result), step


def test_an_agent_streams_its_steps_and_goes_on_with_a_conversation(langchain: Any) -> None:
    run(langchain, "create_conversation", id="talk", messages=[{"role": "user", "content": "Hi"}])
    run(langchain, "create_agent", id="a", tools=["calculator"])
    args = {"agent_id": "a", "conversation_id": "talk", "input": 'calculator {"expression": "6*7"}'}
    call = langchain.start("langchain:stream_agent", args)
    done = langchain.reply(call).result
    chunks = [chunk.data for chunk in langchain.chunks(call)]
    assert chunks == [
        {"tool": "calculator", "arguments": {"expression": "6*7"}},
        {"tool": "calculator", "result": "42", "status": "success"},
        {"text": "You said: 42"},
    ]
    assert done["output"] == "You said: 42"
    history = run(langchain, "history", conversation_id="talk")
    assert [message["content"] for message in history["messages"]] == ["Hi", args["input"], "You said: 42"]
    assert history["usage"]["calls"] == 2


def test_an_agent_answers_by_schema(langchain: Any) -> None:
    schema = {"type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"]}
    run(langchain, "create_agent", id="a", tools=["calculator"], output_schema=schema)
    done = run(langchain, "run_agent", agent_id="a", input='calculator {"expression": "6*7"}')
    assert isinstance(done["output"]["total"], int)
    assert done["steps"][0]["result"] == "42"
    langchain.value("langchain:script", {"texts": ['{"total": "much"}']})
    fault = refused(langchain, "run_agent", agent_id="a", input="How much?")
    assert (fault.type, "output.total: integer" in fault.message) == ("OutputMismatch", True)


def test_an_agent_that_goes_round_in_circles_is_stopped(langchain: Any) -> None:
    run(langchain, "create_agent", id="a", tools=["calculator"], max_calls=1)
    fault = refused(langchain, "run_agent", agent_id="a", input='calculator {"expression": "1"}')
    assert fault.code == "application"
    assert "limit" in fault.message
    assert len(seen(langchain)) == 1


@pytest.mark.parametrize("operation", ["run_agent", "stream_agent"])
def test_an_agent_that_hangs_is_cancelled_and_the_session_lives(langchain: Any, operation: str) -> None:
    run(langchain, "configure_llm", id="slow", model="slow", max_retries=0)
    run(langchain, "create_agent", id="a", tools=["calculator"], llm="slow")
    run(langchain, "create_agent", id="b", llm="default")
    run(
        langchain, "run_agent", agent_id="b", input="x"
    )  # what an agent imports is there: what hangs is the call
    call = langchain.start(f"langchain:{operation}", {"agent_id": "a", "input": "x"})
    langchain.pump(0.7)
    langchain.send(CancelFrame(id=call))
    assert langchain.reply(call, 5).code == "cancelled"
    assert run(langchain, "run_agent", agent_id="b", input="x")["output"] == "You said: x"


CRM = ToolFact(
    name="lookup",
    description="A customer by name",
    parameters={"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
)


@pytest.mark.parametrize("failing", [False, True])
def test_an_agent_calls_a_tool_of_the_hosts_side(langchain: Any, failing: bool) -> None:
    made = langchain.start("langchain:create_agent", {"id": "a", "tools": ["calculator", "lookup"]}, (CRM,))
    assert langchain.reply(made).result["tools"] == ["calculator", "lookup"]
    asked = 'lookup {"name": "Ada"} and calculator {"expression": "6 * 7"}'
    call = langchain.start("langchain:run_agent", {"agent_id": "a", "input": asked}, (CRM,))
    frame = langchain.take(lambda frame: isinstance(frame, ToolCallFrame))
    assert (frame.tool, frame.arguments) == ("lookup", {"name": "Ada"})
    error = ToolFault(code="denied", message="not today") if failing else None
    langchain.send(ToolReplyFrame(id=call, call=frame.call, result={"since": 2019}, error=error))
    steps = {step["tool"]: step["result"] for step in langchain.reply(call).result["steps"]}
    assert steps["calculator"] == "42"
    assert ("not today" in steps["lookup"]) if failing else (steps["lookup"] == '{"since": 2019}')


def test_an_agent_whose_tool_never_answers_is_cancelled_and_the_session_lives(langchain: Any) -> None:
    langchain.reply(langchain.start("langchain:create_agent", {"id": "a", "tools": ["lookup"]}, (CRM,)))
    args = {"agent_id": "a", "input": 'lookup {"name": "Ada"}'}
    call = langchain.start("langchain:run_agent", args, (CRM,))
    langchain.take(lambda frame: isinstance(frame, ToolCallFrame))
    langchain.send(CancelFrame(id=call))
    assert langchain.reply(call, 10).code == "cancelled"
    assert "offers no tool lookup" in refused(langchain, "run_agent", agent_id="a", input="x").message
    assert run(langchain, "list_agents")["total_count"] == 1
