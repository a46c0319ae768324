"""The langchain bridge: models, prompts and chains."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bridgehold.bridges.frames import CancelFrame
from bridges.langchain_support import anew, kept, refused, run, seen

pytestmark = pytest.mark.network
CITY = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["name", "people"],
}


@pytest.fixture(scope="module")
def workers(
    launch_once: Any, environment: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[bool], Any]:
    return cache(lambda _hanging: kept(launch_once, environment("langchain"), tmp_path_factory))


@pytest.fixture
def langchain(request: pytest.FixtureRequest, workers: Callable[[bool], Any]) -> Any:
    """One that is shared; those in which something hangs share another."""
    return anew(workers("cancelled" in request.node.name))


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
        args = {"chain_id": "c", "inputs": inputs, "max_concurrency": 2}
        call = langchain.start("langchain:batch_chain", args)
        done = langchain.reply(call).result
        assert [note.total for note in langchain.progress(call)][:1] == [4]
        outputs = [result.get("output") for result in done["results"]]
        assert outputs == ["You said: Say one", None, "You said: Say three", "You said: Say four"]
        assert "not granted (rule endpoints[0])" in done["results"][1]["error"]["message"]
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


def test_models_of_three_shapes_get_their_address_and_placeholder_as_keywords(langchain: Any) -> None:
    for model, shape in (("anthropic/claude-x", "anthropic"), ("gemini-x", "gemini"), ("gpt-x", "openai")):
        made = run(langchain, "configure_llm", id=shape, provider=shape, model=model, max_retries=0)
        assert (made["llm_id"], made["shape"], made["provider"]) == (shape, shape, shape)
    run(langchain, "configure_llm", id="by_prefix", model="gemini/gemini-x", timeout=1)
    listed = run(langchain, "list_llms")
    assert [llm["llm_id"] for llm in listed["llms"]] == ["anthropic", "gemini", "openai", "by_prefix"]
    assert listed["llms"][3]["provider"] == "gemini"
    for shape in ("anthropic", "gemini"):  # the probe answers neither shape; what they asked is what counts
        run(langchain, "create_chain", id=shape, llm=shape, template="Hello")
        assert refused(langchain, "run_chain", chain_id=shape).code == "application"
    run(langchain, "create_chain", id="which", template="Hello")
    assert "which model?" in refused(langchain, "run_chain", chain_id="which").message
    anthropic, gemini = seen(langchain)[:2]
    assert (anthropic["path"], anthropic["keys"]) == ("/anthropic/v1/messages", ["Bearer sk-bh-anthropic"])
    assert anthropic["body"]["model"] == "claude-x"
    assert gemini["path"] == "/gemini/v1beta/models/gemini-x:generateContent"
    assert gemini["keys"] == ["sk-bh-gemini"]
    run(langchain, "delete_llm", llm_id="anthropic")
    assert refused(langchain, "run_chain", chain_id="anthropic").code == "not_found"


def test_prompts_are_kept_and_rendered_without_a_model(langchain: Any) -> None:
    messages = [
        {"role": "system", "content": "Answer in {language}."},
        {"role": "history", "content": "before"},
        {"role": "user", "content": "{question}"},
    ]
    made = run(langchain, "create_prompt", id="p", messages=messages, values={"language": "French"})
    assert made["variables"] == ["before", "question"]
    before = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Salut"}]
    inputs = {"before": before, "question": "{not a variable}"}
    rendered = run(langchain, "render_prompt", prompt_id="p", inputs=inputs)["messages"]
    assert rendered == [
        {"role": "system", "content": "Answer in French."},
        *before,
        {"role": "user", "content": "{not a variable}"},
    ]
    run(langchain, "create_prompt", id="m", template="{{#names}}{{.}} {{/names}}", template_format="mustache")
    rendered = run(langchain, "render_prompt", prompt_id="m", inputs={"names": ["Ann", "Bob"]})["messages"]
    assert rendered[0]["content"] == "Ann Bob "
    run(langchain, "create_chain", id="c", prompt_id="p")
    run(langchain, "delete_prompt", prompt_id="p")
    assert [entry["prompt_id"] for entry in run(langchain, "list_prompts")["prompts"]] == ["m"]
    run(langchain, "configure_llm", model="gpt-4o-mini")
    asked = {"before": before, "question": "Why?"}
    assert run(langchain, "run_chain", chain_id="c", inputs=asked)["output"] == "You said: Why?"
    assert seen(langchain) != []


def test_a_refusal_of_the_gateway_reaches_the_caller_with_its_rule(langchain: Any) -> None:
    run(langchain, "configure_llm", model="denied")
    run(langchain, "create_chain", id="c", template="Hello")
    fault = refused(langchain, "run_chain", chain_id="c")
    assert fault.code == "refused"
    assert "not granted (rule endpoints[0])" in fault.message
    assert len(seen(langchain)) == 1


def test_what_makes_no_sense_is_invalid_input(langchain: Any) -> None:
    run(langchain, "create_chain", id="c", template="Say {word}")
    run(langchain, "create_prompt", id="p", template="Say {word:d}")
    user = {"role": "user", "content": "x"}
    nested: dict[str, Any] = {"type": "object", "properties": {}}
    for _ in range(25):
        nested = {"type": "object", "properties": {"inner": nested}}
    for name, args, text in (
        ("run_chain", {"chain_id": "c", "inputs": {"word": "x"}}, "configure_llm comes first"),
        ("run_chain", {"chain_id": "c", "inputs": {}}, "inputs lack word"),
        ("run_chain", {"chain_id": "c", "inputs": {"word": "x", "more": 1}}, "no variable more"),
        ("batch_chain", {"chain_id": "c", "inputs": [{"word": "x"}, {}]}, "inputs[1] lack word"),
        ("render_prompt", {"prompt_id": "p", "inputs": {"word": "x"}}, "don't fit the prompt"),
        ("create_chain", {}, "one of the two"),
        ("create_chain", {"template": "x", "messages": [user]}, "one of the two"),
        ("create_chain", {"template": "x", "prompt_id": "p"}, "a whole prompt"),
        ("create_chain", {"id": "c", "template": "x"}, "already"),
        ("create_chain", {"template": "{a.__class__}"}, "can't be read"),
        ("create_chain", {"template": "{a"}, "can't be read"),
        ("create_chain", {"template": "{a}", "values": {"b": 1}}, "no variable b"),
        ("create_chain", {"messages": [{"role": "history", "content": "a b"}]}, "name of a variable"),
        ("create_chain", {"template": "x", "output_schema": {"type": "array"}}, "is expected"),
        ("create_chain", {"template": "x", "output_schema": nested}, "deep"),
        (
            "create_chain",
            {"template": "x", "output_schema": {"type": "object", "properties": {"a": {"type": "text"}}}},
            "output_schema.a: type 'text' is none of",
        ),
        (
            "create_chain",
            {"template": "x", "output_schema": {"type": "object", "properties": {"a": {"$ref": "#"}}}},
            "$ref is not supported",
        ),
        ("create_agent", {"tools": ["calculator", "shell"]}, "no tool shell"),
        ("configure_llm", {"model": "claude-x", "provider": "anthropic", "seed": 1}, "takes no seed"),
        ("configure_llm", {"model": "openai/"}, "name is empty"),
    ):
        fault = refused(langchain, name, **args)
        assert (fault.code, text in fault.message) == ("invalid_input", True), (name, args, fault)
    for name, args in (
        ("create_chain", {"template": "x", "llm": "nobody"}),
        ("create_agent", {"llm": "nobody"}),
        ("create_chain", {"prompt_id": "nothing"}),
    ):
        assert refused(langchain, name, **args).code == "not_found"
    fault = refused(langchain, "configure_llm", model="m", provider="nobody")
    assert (fault.type, "granted: openai, " in fault.message) == ("ProviderNotGranted", False), fault.message
