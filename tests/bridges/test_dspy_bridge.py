"""Real DSPy in a sandbox without a network, with a provider of the test's own on its loopback."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridgehold.bridges.catalogue import Catalogue
from bridgehold.bridges.frames import CancelFrame, ProviderBinding, ReadyFrame

pytestmark = pytest.mark.network
MANIFEST = Catalogue.load().get("dspy")
BINDING = ProviderBinding(base_url="http://127.0.0.1:8080/openai", placeholder="sk-bh-placeholder")

# Plays the gateway and the provider behind it, inside the same network namespace.
PROVIDER = """
import json, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from bridgehold_sdk import operation
from dspy_bridge import DSPyBridge

SEEN = []
FIELDS = {"reasoning": "It is.", "answer": "Paris", "score": "7", "completed": ""}
TEXT = "\\n\\n".join(f"[[ ## {name} ## ]]\\n{value}" for name, value in FIELDS.items())

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers.get("authorization")
        SEEN.append([self.path, key, body.get("model"), body.get("temperature")])
        if body["model"] == "slow":
            time.sleep(30)
        if body["model"] == "denied":
            status, answer = 403, {"error": {"message": "not granted [rule endpoints[0]]", "type": "policy"}}
        else:
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT}}
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
        return {"requests": SEEN, "litellm": "litellm" in sys.modules}
"""


@pytest.fixture
def dspy(launch: Any, environment: Callable[[str], Path], bridge_folder: Callable[[str], Path]) -> Any:
    folder = bridge_folder(PROVIDER)
    shutil.copy(MANIFEST.folder / "dspy_bridge.py", folder)
    guest = launch(folder, site_packages=environment("dspy"))
    ready = guest.boot(
        bridge="dspy",
        version=MANIFEST.version,
        entry="sample:Probe",
        preload=MANIFEST.preload,
        providers={"openai": BINDING},
    )
    assert isinstance(ready, ReadyFrame), ready
    assert set(ready.operations) == {*MANIFEST.operations, "seen"}
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
    seen = dspy.value("dspy:seen")
    assert seen["requests"][0] == ["/openai/chat/completions", "Bearer sk-bh-placeholder", "gpt-4o-mini", 0.3]
    assert seen["litellm"] is False


def test_litellm_when_it_is_asked_for(dspy: Any) -> None:
    run(dspy, "configure_lm", model="gpt-4o-mini", engine="litellm")
    run(dspy, "create_program", id="qa", signature="question -> answer")
    done = run(dspy, "execute_program", program_id="qa", inputs={"question": "?"})
    assert done["outputs"] == {"answer": "Paris"}
    seen = dspy.value("dspy:seen")
    assert seen["requests"][0][:2] == ["/openai/chat/completions", "Bearer sk-bh-placeholder"]
    assert seen["litellm"] is True


def test_a_refusal_of_the_gateway_reaches_the_caller_with_its_rule(dspy: Any) -> None:
    run(dspy, "configure_lm", model="denied")
    run(dspy, "create_program", id="qa", signature="question -> answer")
    fault = dspy.fault("dspy:execute_program", {"program_id": "qa", "inputs": {"question": "?"}})
    assert fault.code == "application"
    assert "not granted [rule endpoints[0]]" in fault.message
    assert len(dspy.value("dspy:seen")["requests"]) == 1


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
    assert (fault.type, "granted: openai" in fault.message) == ("ProviderNotGranted", True)
