"""Real DSPy in a sandbox without a network, with a provider of the test's own on its loopback."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bridgehold.bridges.catalogue import Catalogue
from bridgehold.bridges.frames import (
    CancelFrame,
    ProviderBinding,
    ReadyFrame,
    ToolCallFrame,
    ToolFact,
    ToolFault,
    ToolReplyFrame,
)
from bridgehold.host.cell.gateway.replies import Refusal
from bridgehold.keeper.shapes import Denial, denial_body
from bridges.inference_support import check_inference

pytestmark = pytest.mark.network
MANIFEST = Catalogue.load().get("dspy")

# Plays the gateway and the provider behind it, inside the same network namespace.
PROVIDER = """
import json, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import dspy
from bridgehold_sdk import operation
from dspy_bridge import DSPyBridge

SEEN, WHOLE = [], []
FIELDS = {"reasoning": "It is.", "answer": "Paris", "score": "7", "rationale": "The best.",
          "generated_code": "SUBMIT({'answer': 6 * 7})", "code_output": "42",
          "next_thought": "Enough.", "next_tool_name": "finish", "next_tool_args": "{}", "completed": ""}
TEXT = "\\n\\n".join(f"[[ ## {name} ## ]]\\n{value}" for name, value in FIELDS.items())

FAILURES = {
    "unauthorised": (401, "invalid_api_key", "Incorrect API key provided"),
    "limited": (429, "rate_limit_exceeded", "Rate limit reached"),
    "long": (400, "context_length_exceeded", "This model's maximum context length is 10 tokens"),
    "broken": (500, "server_error", "The server had an error"),
}

DENIAL = json.loads(@DENIAL@)

def sse(*events):
    return "".join(f"data: {json.dumps(event)}\\n\\n" for event in events).encode() + b"data: [DONE]\\n\\n"

def chat_stream(model):
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model}
    words = [TEXT[at:at + 6] for at in range(0, len(TEXT), 6)]
    deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in words)]
    chunks = [{**base, "choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    end = {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return sse(*chunks, end, {**base, "choices": [], "usage": usage})

def other_shapes(path, body):
    if path.endswith("/messages"):
        return {"id": "m", "type": "message", "role": "assistant", "model": body["model"], "stop_reason":
                "end_turn", "content": [{"type": "text", "text": TEXT}],
                "usage": {"input_tokens": 3, "output_tokens": 4}}
    if ":generateContent" in path:
        part = {"content": {"role": "model", "parts": [{"text": TEXT}]}, "finishReason": "STOP", "index": 0}
        return {"candidates": [part], "modelVersion": "g", "usageMetadata":
                {"promptTokenCount": 5, "candidatesTokenCount": 6, "totalTokenCount": 11}}
    return None

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers.get("authorization") or self.headers.get("x-api-key")
        key = key or self.headers.get("x-goog-api-key")
        SEEN.append([self.path, key, body.get("model"), body.get("temperature")])
        WHOLE.append({"path": self.path, "headers": dict(self.headers.items()), "body": body})
        model = body.get("model", "")
        said = dict(FIELDS)
        if model == "asks" and "Observation" not in str(body["messages"]) and "observation_0" not in str(
            body["messages"][-1]
        ):
            said |= {"next_tool_name": "capital", "next_tool_args": '{"country": "France"}'}
        text = "\\n\\n".join(f"[[ ## {name} ## ]]\\n{value}" for name, value in said.items())
        if model == "slow":
            time.sleep(30)
        if other_shapes(self.path, body):
            status, answer = 200, other_shapes(self.path, body)
        elif body.get("stream"):
            data = chat_stream(model)
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            return self.wfile.write(data)
        elif model in FAILURES:
            status, kind, text = FAILURES[model]
            answer = {"error": {"message": text, "type": kind, "code": kind, "param": None}}
        elif model == "denied":
            status, answer = 403, DENIAL
        else:
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            status, answer = 200, {"id": "c", "object": "chat.completion", "created": 1,
                                   "model": body["model"], "choices": [choice], "usage": usage}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

class Probe(DSPyBridge):
    def open(self, session):
        super().open(session)
        server = ThreadingHTTPServer(("127.0.0.1", 8080), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    @operation(effect="read")
    def seen(self):
        return {"requests": SEEN, "whole": WHOLE, "litellm": "litellm" in sys.modules}
    @operation(effect="configure")
    def anew(self):
        super().open(None)
        dspy.cache.reset_memory_cache()
        dspy.cache.disk_cache.clear()
        del SEEN[:], WHOLE[:]
"""


def seen(dspy: Any) -> dict[str, Any]:
    """What reached the provider; each request is one that the gateway lets through."""
    value: dict[str, Any] = dspy.value("dspy:seen")
    check_inference(value["whole"])
    return value


@pytest.fixture
def dspy(request: pytest.FixtureRequest) -> Any:
    """A worker as it is when it has just been opened. Several tests share it: what it imports takes its seconds once.

    Those of litellm have another, and where something hangs the test has one of its own.
    """
    name = request.node.name
    if "cancelled" in name:
        needed = (request.getfixturevalue(one) for one in ("launch", "environment", "bridge_folder"))
        launch, environment, bridge_folder = needed
        return begin(launch, environment("dspy"), bridge_folder(source()))
    guest = request.getfixturevalue("kept")("litellm" if "litellm" in name else "plain")
    guest.drain()
    guest.seen.clear()
    guest.value("dspy:anew")
    return guest


@pytest.fixture(scope="module")
def kept(
    launch_once: Any, environment: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Any]:
    """`kept(name)`: a worker of several tests'."""

    @cache
    def one(name: str) -> Any:
        folder = tmp_path_factory.mktemp(name)
        (folder / "sample.py").write_text(source())
        return begin(launch_once, environment("dspy"), folder)

    return one


def source() -> str:
    refusal = Refusal(status=403, rule="network.endpoints.openai.paths", reason="the path is not granted")
    said = Denial(status=403, rule=refusal.rule, message=refusal.message("i-1.2"), event="i-1.2")
    return PROVIDER.replace("@DENIAL@", repr(denial_body("openai", said).decode()))


def begin(launch: Any, site_packages: Path, folder: Path) -> Any:
    """The bridge, open, with the provider on its loopback."""
    for module in MANIFEST.folder.glob("dspy_*.py"):
        shutil.copy(module, folder)
    guest = launch(folder, site_packages=site_packages)
    ready = guest.boot(
        bridge="dspy",
        version=MANIFEST.version,
        entry="sample:Probe",
        preload=MANIFEST.preload,
        providers={
            name: ProviderBinding(
                base_url=f"http://127.0.0.1:8080/{name}", placeholder="sk-bh-placeholder", shape=name
            )
            for name in ("openai", "anthropic", "gemini")
        },
    )
    assert isinstance(ready, ReadyFrame), ready
    assert set(ready.operations) == {*MANIFEST.operations, "seen", "anew"}
    guest.open()
    return guest


def run(guest: Any, name: str, /, **args: Any) -> Any:
    MANIFEST.check_arguments(name, args)
    return guest.value(f"dspy:{name}", args)


def test_programs_from_creation_to_deletion(dspy: Any) -> None:
    configured = run(dspy, "configure_lm", model="openai/gpt-4o-mini", provider="openai", temperature=0.3)
    assert configured["status"] == "configured"
    made = run(dspy, "create_program", id="qa", signature="question -> answer", program_type="predict")
    assert (made["program_id"], made["status"]) == ("qa", "created")
    done = run(dspy, "execute_program", program_id="qa", inputs={"question": "The capital of France?"})
    assert done["outputs"] == {"answer": "Paris"}
    assert done["execution_time"] > 0
    signature = {
        "name": "Judge",
        "inputs": [{"name": "question", "type": "string", "description": "what is asked"}],
        "outputs": [{"name": "answer"}, {"name": "score", "type": "int"}],
    }
    made = run(dspy, "create_program", signature=signature, program_type="chain_of_thought")
    assert made["program_id"] == "program_1"
    assert made["signature"]["inputs"][0]["description"] == "what is asked"
    done = run(dspy, "execute_program", program_id="program_1", inputs={"question": "And of Paris?"})
    assert done["outputs"] == {"reasoning": "It is.", "answer": "Paris", "score": 7}
    listed = run(dspy, "list_programs")
    assert [(p["id"], p["execution_count"]) for p in listed["programs"]] == [("qa", 1), ("program_1", 1)]
    assert run(dspy, "get_program_info", program_id="qa")["program_type"] == "predict"
    assert run(dspy, "delete_program", program_id="qa")["status"] == "deleted"
    assert dspy.fault("dspy:get_program_info", {"program_id": "qa"}).code == "not_found"
    assert dspy.value("common:get_stats")["programs_count"] == 1
    found = seen(dspy)
    assert found["requests"][0] == [
        "/openai/chat/completions",
        "Bearer sk-bh-placeholder",
        "gpt-4o-mini",
        0.3,
    ]
    assert found["litellm"] is False


def test_litellm_when_it_is_asked_for(dspy: Any) -> None:
    run(dspy, "configure_lm", model="gpt-4o-mini", engine="litellm")
    run(dspy, "create_program", id="qa", signature="question -> answer")
    done = run(dspy, "execute_program", program_id="qa", inputs={"question": "?"})
    assert done["outputs"] == {"answer": "Paris"}
    found = seen(dspy)
    assert found["requests"][0][:2] == ["/openai/chat/completions", "Bearer sk-bh-placeholder"]
    assert found["litellm"] is True


def test_a_refusal_of_the_gateway_reaches_the_caller_with_its_rule(dspy: Any) -> None:
    run(dspy, "configure_lm", model="denied")
    run(dspy, "create_program", id="qa", signature="question -> answer")
    fault = dspy.fault("dspy:execute_program", {"program_id": "qa", "inputs": {"question": "?"}})
    assert fault.code == "refused"
    assert "the path is not granted (rule network.endpoints.openai.paths)" in fault.message
    assert len(seen(dspy)["requests"]) == 1


def test_a_call_that_hangs_is_cancelled_and_the_session_lives(dspy: Any) -> None:
    run(dspy, "configure_lm", model="slow", num_retries=0)
    run(dspy, "create_program", id="qa", signature="question -> answer")
    call = dspy.start("dspy:execute_program", {"program_id": "qa", "inputs": {"question": "?"}})
    dspy.pump(0.5)
    dspy.send(CancelFrame(id=call))
    assert dspy.reply(call, 10).code == "cancelled"
    run(dspy, "configure_lm", model="gpt-4o-mini")
    done = run(dspy, "execute_program", program_id="qa", inputs={"question": "?"})
    assert done["outputs"] == {"answer": "Paris"}


def test_what_makes_no_sense_is_invalid_input(dspy: Any) -> None:
    run(dspy, "create_program", id="qa", signature="question -> answer")
    for name, args, text in (
        ("execute_program", {"program_id": "qa", "inputs": {"question": "?"}}, "configure_lm comes first"),
        ("create_program", {"signature": "no arrow here"}, "->"),
        ("create_program", {"signature": "a -> a"}, ""),
        ("create_program", {"id": "qa", "signature": "a -> b"}, "already"),
        (
            "create_program",
            {"signature": {"inputs": [{"name": "a", "type": "os.system"}], "outputs": [{"name": "b"}]}},
            "os.system",
        ),
    ):
        MANIFEST.check_arguments(name, args)
        fault = dspy.fault(f"dspy:{name}", args)
        assert (fault.code, text in fault.message) == ("invalid_input", True), fault
    run(dspy, "configure_lm", model="m")
    for inputs in ({"query": "?"}, {"question": "?", "more": 1}):
        fault = dspy.fault("dspy:execute_program", {"program_id": "qa", "inputs": inputs})
        assert fault.code == "invalid_input"
    fault = dspy.fault("dspy:configure_lm", {"model": "m", "provider": "nobody"})
    assert (fault.type, "granted: anthropic, gemini, openai" in fault.message) == ("ProviderNotGranted", True)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("anthropic/claude-x", "/anthropic/messages"),
        ("gemini/gemini-x", "/gemini/models/gemini-x:generateContent"),
    ],
)
def test_the_other_shapes_of_provider_are_called_with_the_placeholder(
    dspy: Any, model: str, path: str
) -> None:
    assert run(dspy, "configure_lm", model=model)["model"] == model
    done = run(dspy, "execute_module", signature="question -> answer", inputs={"question": "?"})
    assert done["outputs"] == {"answer": "Paris"}
    assert seen(dspy)["requests"][0][:2] == [path, "sk-bh-placeholder"]
    assert sum(used["total_tokens"] for used in done["usage"].values()) in (7, 11)


@pytest.mark.parametrize(
    ("kind", "options", "calls", "outputs"),
    [
        ("dspy.Predict", {"temperature": 0.5}, 1, {"answer": "Paris"}),
        ("ChainOfThought", {"max_hops": 3}, 1, {"answer": "Paris", "reasoning": "It is."}),
        ("ReAct", {"max_hops": 2}, 2, {"answer": "Paris", "reasoning": "It is."}),
        ("program_of_thought", {"max_iters": 1}, 2, {"answer": "Paris"}),
        ("MultiChainComparison", {"m": 2}, 3, {"answer": "Paris", "rationale": "The best."}),
    ],
)
def test_every_module_runs_without_a_stored_program(
    dspy: Any, kind: str, options: dict[str, Any], calls: int, outputs: dict[str, str]
) -> None:
    run(dspy, "configure_lm", model="gpt-4o-mini")
    done = run(
        dspy,
        "execute_module",
        module=kind,
        signature="question -> answer",
        inputs={"question": "?"},
        options=options,
    )
    assert done["outputs"].items() >= outputs.items()
    assert len(seen(dspy)["requests"]) == calls


def test_generated_code_runs_in_a_process_of_the_sandbox(dspy: Any) -> None:
    run(dspy, "configure_lm", model="gpt-4o-mini")
    run(
        dspy,
        "execute_module",
        module="program_of_thought",
        signature="question -> answer",
        inputs={"question": "?"},
    )
    (call,) = run(dspy, "get_history", limit=1)["calls"]
    assert '"answer": 42' in call["messages"][-1]["content"]


def test_modules_in_a_row_see_what_was_said_before(dspy: Any) -> None:
    run(dspy, "configure_lm", model="gpt-4o-mini")
    made = run(
        dspy,
        "create_program",
        id="two",
        signature="context, question -> answer",
        modules=["dspy.ChainOfThought", "dspy.Predict"],
    )
    assert (made["program_type"], made["modules"]) == ("chain", ["dspy.ChainOfThought", "dspy.Predict"])
    done = run(dspy, "execute_program", program_id="two", inputs={"context": "c", "question": "q"})
    assert done["outputs"] == {"answer": "Paris"}
    first, second = run(dspy, "get_history")["calls"]
    assert "draft_answer" not in first["messages"][-1]["content"]
    assert "[[ ## draft_answer ## ]]\nParis" in second["messages"][-1]["content"]


def test_several_models_are_chosen_by_program_and_by_call(dspy: Any) -> None:
    run(dspy, "configure_lm", model="small")
    run(dspy, "configure_lm", name="big", model="large", cache=False)
    assert [lm["name"] for lm in run(dspy, "list_lms")["lms"]] == ["default", "big"]
    run(dspy, "create_program", id="a", signature="question -> answer")
    run(dspy, "create_program", id="b", signature="question -> answer", lm="big")
    for program, lm in (("a", ""), ("b", ""), ("a", "big")):
        run(dspy, "execute_program", program_id=program, inputs={"question": "?"}, lm=lm)
    assert [request[2] for request in seen(dspy)["requests"]] == ["small", "large", "large"]
    fault = dspy.fault("dspy:create_program", {"signature": "a -> b", "lm": "none"})
    assert "there are default, big" in fault.message


def test_a_batch_keeps_its_order_and_one_failure_stops_no_other(dspy: Any) -> None:
    run(dspy, "configure_lm", model="gpt-4o-mini")
    run(dspy, "create_program", id="qa", signature="question -> answer")
    items = [{"question": f"number {number}"} for number in range(6)]
    done = run(dspy, "execute_batch", program_id="qa", inputs=items, threads=3)
    assert [result["outputs"]["answer"] for result in done["results"]] == ["Paris"] * 6
    assert done["failed"] == 0
    run(dspy, "configure_lm", name="denied", model="denied", num_retries=0)
    done = run(dspy, "execute_batch", program_id="qa", inputs=items[:2], lm="denied")
    assert done["failed"] == 2
    assert "not granted" in done["results"][1]["error"]["message"]


def test_a_stream_brings_the_text_of_each_field_and_then_the_whole(dspy: Any) -> None:
    run(dspy, "configure_lm", model="gpt-4o-mini", cache=False)
    run(dspy, "create_program", id="qa", signature="question -> answer", program_type="chain_of_thought")
    call = dspy.start("dspy:stream_program", {"program_id": "qa", "inputs": {"question": "?"}})
    final = dspy.reply(call)
    said: dict[str, str] = {}
    for chunk in dspy.chunks(call):
        field, text = chunk.data["field"], chunk.data["text"]
        said[field] = said.get(field, "") + text
    assert said == {"reasoning": "It is.", "answer": "Paris"}
    assert final.result["outputs"] == {"reasoning": "It is.", "answer": "Paris"}


def test_a_program_is_optimised_evaluated_saved_and_loaded(dspy: Any) -> None:
    run(dspy, "configure_lm", model="gpt-4o-mini")
    run(dspy, "create_program", id="qa", signature="question -> answer")
    right = {"inputs": {"question": "Capital of France?"}, "outputs": {"answer": "paris"}}
    wrong = {"inputs": {"question": "Capital of Spain?"}, "outputs": {"answer": "Madrid"}}
    scored = run(dspy, "evaluate_program", program_id="qa", devset=[right, wrong])
    assert (scored["score"], [result["score"] for result in scored["results"]]) == (0.5, [1.0, 0.0])
    made = run(dspy, "compile_program", program_id="qa", id="better", trainset=[right, wrong], max_labeled=0)
    assert (made["compiled"], made["demos"]) == (True, 1)
    assert run(dspy, "get_program_info", program_id="qa")["demos"] == 0
    saved = run(dspy, "save_program", program_id="better")["saved"]
    assert "sk-bh" not in str(saved)
    loaded = run(dspy, "load_program", saved=saved, id="again")
    assert (loaded["demos"], loaded["compiled"]) == (1, True)
    done = run(dspy, "execute_program", program_id="again", inputs={"question": "And now?"})
    assert done["outputs"] == {"answer": "Paris"}
    (call,) = run(dspy, "get_history", limit=1)["calls"]
    assert "Capital of France?" in str(call["messages"])
    broken = {**saved, "state": {"nothing": {}}}
    assert dspy.fault("dspy:load_program", {"saved": broken}).code == "invalid_input"


def test_text_for_a_prompt_and_the_sessions_own_data(dspy: Any) -> None:
    run(dspy, "configure_lm", model="gpt-4o-mini")
    assert run(dspy, "generate", prompt="Hello")["text"].startswith("[[ ## reasoning")
    said = run(dspy, "generate", prompt="?", module="dspy.ChainOfThought", signature="question -> answer")
    assert said["text"] == "Paris"
    assert run(dspy, "validate_signature", signature="a: int -> b")["signature"]["inputs"][0]["type"] == "int"
    assert run(dspy, "update_session_data", data={"x": 1})["keys"] == ["x"]
    assert run(dspy, "get_session_data")["data"] == {"x": 1}
    run(dspy, "create_program", signature="a -> b")
    assert run(dspy, "reset_state")["programs_removed"] == 1
    assert run(dspy, "get_session_data")["data"] == {}


@pytest.mark.parametrize(
    ("name", "args", "text"),
    [
        ("create_program", {"signature": "a -> b", "program_type": "Avatar"}, "is none of predict"),
        ("create_program", {"signature": "a -> b", "options": {"api_key": "x"}}, "no option api_key"),
        ("create_program", {"signature": "a -> b", "modules": ["Predict", "os.system"]}, "os.system"),
        ("execute_module", {"signature": "a, b -> c", "inputs": {"a": 1}}, "lack b"),
        ("generate", {"prompt": "x", "signature": "a, b -> c"}, "one input"),
    ],
)
def test_a_program_that_makes_no_sense_is_refused_before_any_call(
    dspy: Any, name: str, args: dict[str, Any], text: str
) -> None:
    run(dspy, "configure_lm", model="gpt-4o-mini")
    fault = dspy.fault(f"dspy:{name}", args)
    assert (fault.code, text in fault.message) == ("invalid_input", True), fault
    assert seen(dspy)["requests"] == []


CAPITAL = ToolFact(
    name="capital",
    description="The capital of a country",
    parameters={"type": "object", "properties": {"country": {"type": "string"}}, "required": ["country"]},
)


@pytest.mark.parametrize("failing", [False, True])
def test_react_calls_a_tool_of_the_hosts_side_and_the_model_reads_what_it_said(
    dspy: Any, failing: bool
) -> None:
    run(dspy, "configure_lm", model="asks")
    args = {
        "module": "ReAct",
        "signature": "question -> answer",
        "inputs": {"question": "?"},
        "tools": ["capital"],
    }
    call = dspy.start("dspy:execute_module", args, (CAPITAL,))
    asked = dspy.take(lambda frame: isinstance(frame, ToolCallFrame))
    assert (asked.id, asked.tool, asked.arguments) == (call, "capital", {"country": "France"})
    error = ToolFault(code="timeout", message="too late") if failing else None
    dspy.send(ToolReplyFrame(id=call, call=asked.call, result="Paris, the host says", error=error))
    outputs = dspy.reply(call).result["outputs"]
    assert outputs["answer"] == "Paris"
    observed = outputs["trajectory"]["observation_0"]
    assert ("too late" in observed) if failing else (observed == "Paris, the host says")
    assert outputs["trajectory"]["tool_name_1"] == "finish"


def test_a_tool_that_is_not_offered_makes_no_program(dspy: Any) -> None:
    fault = dspy.fault(
        "dspy:create_program", {"signature": "a -> b", "program_type": "react", "tools": ["x"]}
    )
    assert (fault.code, "not offered" in fault.message) == ("invalid_input", True)
    call = dspy.start("dspy:create_program", {"signature": "a -> b", "tools": ["capital"]}, (CAPITAL,))
    assert "predict takes no tools" in dspy.reply(call).message


@pytest.mark.parametrize("engine", ["auto", "litellm"])
@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("unauthorised", "provider_auth"),
        ("limited", "rate_limit"),
        ("long", "context_length"),
        ("broken", "provider"),
        ("denied", "refused"),
    ],
)
def test_what_a_provider_refuses_has_a_code_of_its_own(dspy: Any, model: str, code: str, engine: str) -> None:
    run(dspy, "configure_lm", model=model, num_retries=0, engine=engine)
    fault = dspy.fault(
        "dspy:execute_module", {"signature": "question -> answer", "inputs": {"question": "?"}}
    )
    assert fault.code == code, (fault.type, fault.message)
