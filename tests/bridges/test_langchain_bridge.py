"""The langchain bridge: models, prompts and chains."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridgehold.bridges.frames import CancelFrame, ReadyFrame
from bridges.langchain_support import KIT, MANIFEST, PROBE, PROVIDERS, refused, run, seen

pytestmark = pytest.mark.network
CITY = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["name", "people"],
}


@pytest.fixture
def langchain(launch: Any, environment: Callable[[str], Path], bridge_folder: Callable[[str], Path]) -> Any:
    folder = bridge_folder(PROBE)
    for file in MANIFEST.folder.glob("*.py"):
        shutil.copy(file, folder)
    binds = {"/tmp/kit/bridgehold/bridges/kit": KIT}
    guest = launch(folder, site_packages=environment("langchain"), binds=binds)
    ready = guest.boot(
        bridge="langchain",
        version=MANIFEST.version,
        entry="sample:Probe",
        preload=MANIFEST.preload,
        providers=PROVIDERS,
    )
    assert isinstance(ready, ReadyFrame), ready
    assert set(ready.operations) == {*MANIFEST.operations, "seen", "script"}
    guest.open()
    return guest


def test_a_chain_from_creation_to_deletion(langchain: Any) -> None:
    configured = run(langchain, "configure_llm", model="openai/gpt-4o-mini", temperature=0.3, seed=7)
    assert configured == {
        "status": "configured",
        "llm_id": "default",
        "model": "gpt-4o-mini",
        "provider": "openai",
        "shape": "openai",
        "temperature": 0.3,
        "seed": 7,
        "max_retries": 1,
    }
    messages = [
        {"role": "system", "content": "You are a {kind} cook."},
        {"role": "user", "content": "What goes with {dish}?"},
    ]
    made = run(langchain, "create_chain", id="cook", messages=messages, values={"kind": "good"})
    assert (made["chain_id"], made["variables"], made["structured"]) == ("cook", ["dish"], False)
    done = run(langchain, "run_chain", chain_id="cook", inputs={"dish": "soup"})
    assert (done["output"], done["finish_reason"]) == ("You said: What goes with soup?", "stop")
    assert done["usage"] == {"calls": 1, "input_tokens": 11, "output_tokens": 8, "total_tokens": 19}
    assert done["execution_time"] > 0
    (request,) = seen(langchain)
    assert (request["path"], request["keys"]) == ("/openai/chat/completions", ["Bearer sk-bh-openai"])
    assert request["body"]["messages"] == [
        {"role": "system", "content": "You are a good cook."},
        {"role": "user", "content": "What goes with soup?"},
    ]
    sent = request["body"]
    assert (sent["model"], sent["temperature"], sent["seed"]) == ("gpt-4o-mini", 0.3, 7)
    run(langchain, "create_chain", template="{a} and {b}")
    listed = run(langchain, "list_chains")["chains"]
    assert [(chain["chain_id"], chain["execution_count"]) for chain in listed] == [
        ("cook", 1),
        ("chain_1", 0),
    ]
    run(langchain, "delete_chain", chain_id="cook")
    assert refused(langchain, "run_chain", chain_id="cook", inputs={"dish": "x"}).code == "not_found"
    assert langchain.value("common:get_stats")["chains_count"] == 1


def test_an_answer_by_schema(langchain: Any) -> None:
    run(langchain, "configure_llm", model="gpt-4o-mini")
    run(langchain, "create_chain", id="city", template="The largest city of {land}", output_schema=CITY)
    done = run(langchain, "run_chain", chain_id="city", inputs={"land": "France"})
    assert done["output"]["name"] == "The simulated name to: The largest city of France"
    assert isinstance(done["output"]["people"], int)
    assert done["usage"]["calls"] == 1
    form = seen(langchain)[0]["body"]["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["schema"]["properties"] == CITY["properties"]
    for said, text in (
        ('{"name": "Paris"}', "output.people: missing"),
        ('{"name": "Paris", "people": "many"}', "output.people: integer is expected"),
        ("Paris, I think", "not in the form"),
    ):
        langchain.value("langchain:script", {"texts": [said]})
        fault = refused(langchain, "run_chain", chain_id="city", inputs={"land": "France"})
        assert (fault.code, fault.type) == ("application", "OutputMismatch")
        assert text in fault.message


def test_a_batch_keeps_its_order_and_goes_on_after_a_failure(langchain: Any) -> None:
    run(langchain, "configure_llm", model="pause", max_retries=0)
    run(langchain, "create_chain", id="c", template="Say {word}")
    words = ["one", "FORBIDDEN", "three", "four"]
    inputs = [{"word": word} for word in words]
    for _ in range(2):  # the connections of the first batch are still good for the second
        done = run(langchain, "batch_chain", chain_id="c", inputs=inputs, max_concurrency=2)
        outputs = [result.get("output") for result in done["results"]]
        assert outputs == ["You said: Say one", None, "You said: Say three", "You said: Say four"]
        assert "not granted [rule endpoints[0]]" in done["results"][1]["error"]["message"]
        assert (done["failed"], done["usage"]["calls"]) == (1, 3)
    assert langchain.value("langchain:seen")["busiest"] == 2


def test_a_stream_comes_in_pieces_and_ends_with_the_whole(langchain: Any) -> None:
    run(langchain, "configure_llm", model="gpt-4o-mini")
    run(langchain, "create_chain", id="c", template="Count to {n}")
    call = langchain.start("langchain:stream_chain", {"chain_id": "c", "inputs": {"n": 3}})
    result = langchain.reply(call).result
    pieces = [chunk.data["text"] for chunk in langchain.chunks(call)]
    assert len(pieces) == 5
    assert "".join(pieces) == result["output"] == "You said: Count to 3"
    assert result["usage"]["input_tokens"] == 3
    assert result["usage"]["output_tokens"] > 0
    run(langchain, "create_chain", id="city", template="The largest city of {land}", output_schema=CITY)
    call = langchain.start("langchain:stream_chain", {"chain_id": "city", "inputs": {"land": "France"}})
    result = langchain.reply(call).result
    parts = [chunk.data["partial"] for chunk in langchain.chunks(call)]
    assert parts[-1] == result["output"]
    assert set(result["output"]) == {"name", "people"}
    assert result["usage"]["calls"] == 1


@pytest.mark.parametrize("operation", ["run_chain", "batch_chain", "stream_chain"])
def test_a_call_that_hangs_is_cancelled_and_the_session_lives(langchain: Any, operation: str) -> None:
    run(langchain, "configure_llm", model="slow", max_retries=0)
    run(langchain, "create_chain", id="c", template="Say {word}")
    inputs: Any = [{"word": str(n)} for n in range(6)] if operation == "batch_chain" else {"word": "x"}
    call = langchain.start(f"langchain:{operation}", {"chain_id": "c", "inputs": inputs})
    langchain.pump(0.7)
    langchain.send(CancelFrame(id=call))
    assert langchain.reply(call, 5).code == "cancelled"
    run(langchain, "configure_llm", model="gpt-4o-mini")
    assert run(langchain, "run_chain", chain_id="c", inputs={"word": "x"})["output"] == "You said: Say x"
    done = run(langchain, "batch_chain", chain_id="c", inputs=[{"word": "y"}])
    assert done["results"][0]["output"] == "You said: Say y"
