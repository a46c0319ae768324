"""Prompts, and chains of a prompt, a model and, where it is asked for, a schema of the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from lc_base import Base
from lc_messages import add_usage, describe, describe_prompt, fill, finish_reason, make_prompt, usage_of
from lc_models import Llm
from lc_output import OutputMismatch, check_output, read_schema

from bridgehold_sdk import Session, Store, operation


@dataclass(eq=False, repr=False)
class Chain:
    """A prompt and the model that it goes to."""

    prompt: Any
    llm: str
    schema: dict[str, Any] | None
    created: float = field(default_factory=time.time)
    executions: int = 0
    last_executed: float | None = None

    def describe(self, chain_id: str) -> dict[str, Any]:
        """What callers are told of it."""
        return {
            "chain_id": chain_id,
            "llm": self.llm,
            "structured": self.schema is not None,
            **describe_prompt(self.prompt),
            "created_at": self.created,
            "execution_count": self.executions,
            "last_executed": self.last_executed,
        }

    def runnable(self, llm: Llm) -> Any:
        """Prompt, model and, with a schema, the parser, as one."""
        return llm.client if self.schema is None else llm.structured(self.schema)

    def outcome(self, reply: Any) -> dict[str, Any]:
        """Output, usage and why the model stopped. `OutputMismatch` where the schema isn't met."""
        if self.schema is None:
            return {"output": str(reply.text), **_facts(reply)}
        if reply["parsing_error"] is not None or reply["parsed"] is None:
            why = reply["parsing_error"] or f"no output: {str(reply['raw'].text)[:200]}"
            raise OutputMismatch(f"the model's answer is not in the form that was asked for: {why}")
        return {"output": check_output(self.schema, reply["parsed"]), **_facts(reply["raw"])}

    def ran(self, times: int = 1) -> None:
        """Count `times` runs."""
        self.executions += times
        self.last_executed = time.time()


class Prompts(Base):
    """The part of the bridge that keeps prompts."""

    @operation(effect="create", resource="prompt", id_field="id")
    def create_prompt(
        self,
        *,
        id: str | None = None,
        template: str | None = None,
        messages: list[dict[str, str]] | None = None,
        template_format: str = "f-string",
        values: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Keep a prompt with variables: a text, or messages."""
        prompt = make_prompt(template, messages, template_format, values)
        return {"prompt_id": self.prompts.add(prompt, id), "status": "created", **describe_prompt(prompt)}

    @operation(effect="read", resource="prompt", id_field="prompt_id")
    def render_prompt(self, prompt_id: str, inputs: dict[str, Any] | None = None) -> dict[str, Any]:
        """The messages of a prompt, filled in; no model is asked."""
        filled = fill(self.prompts.get(prompt_id), inputs or {})
        return {"prompt_id": prompt_id, "messages": [describe(message) for message in filled]}

    @operation(effect="read", resource="prompt")
    def list_prompts(self) -> dict[str, Any]:
        """The session's prompts."""
        listed = [{"prompt_id": name, **describe_prompt(prompt)} for name, prompt in self.prompts.items()]
        return {"prompts": listed, "total_count": len(listed)}

    @operation(effect="delete", resource="prompt", id_field="prompt_id")
    def delete_prompt(self, prompt_id: str) -> dict[str, Any]:
        """Forget a prompt; chains made of it keep it."""
        self.prompts.delete(prompt_id)
        return {"prompt_id": prompt_id, "status": "deleted"}


class Chains(Base):
    """The part of the bridge that makes and runs chains."""

    def open(self, session: Session) -> None:
        """The session begins: its stores are empty."""
        super().open(session)
        self.chains: Store[Chain] = Store("chain")

    @operation(effect="create", resource="chain", id_field="id")
    def create_chain(
        self,
        *,
        id: str | None = None,
        prompt_id: str = "",
        template: str | None = None,
        messages: list[dict[str, str]] | None = None,
        template_format: str = "f-string",
        values: dict[str, Any] | None = None,
        llm: str = "",
        output_schema: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make a chain of a prompt, a model, and a schema of the answer if there is to be one."""
        prompt = self._prompt(prompt_id, template, messages, template_format, values)
        schema = None if output_schema is None else read_schema(output_schema, "answer")
        chain = Chain(prompt, self._known_llm(llm), schema)
        chain_id = self.chains.add(chain, id)
        return {"status": "created", **chain.describe(chain_id)}

    @operation(effect="run", resource="chain", id_field="chain_id")
    def run_chain(self, chain_id: str, inputs: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run a chain on inputs."""
        chain = self.chains.get(chain_id)
        messages = fill(chain.prompt, inputs or {})
        runnable = chain.runnable(self._llm(chain.llm))
        started = time.perf_counter()
        reply = runnable.invoke(messages)
        seconds = time.perf_counter() - started
        chain.ran()
        return {"chain_id": chain_id, **chain.outcome(reply), "execution_time": seconds}

    @operation(effect="run", resource="chain", id_field="chain_id")
    def batch_chain(
        self, chain_id: str, inputs: list[dict[str, Any]], max_concurrency: int = 4
    ) -> dict[str, Any]:
        """One answer for each of `inputs`, in their order; one that fails does not stop the others."""
        chain = self.chains.get(chain_id)
        asked = [fill(chain.prompt, item, f"inputs[{index}]") for index, item in enumerate(inputs)]
        runnable = chain.runnable(self._llm(chain.llm))
        started = time.perf_counter()
        results = self.loop.run(self._batch(chain, runnable, asked, max_concurrency))
        chain.ran(len(results))
        return {
            "chain_id": chain_id,
            "results": results,
            "failed": sum("error" in result for result in results),
            "usage": add_usage(result["usage"] for result in results if "usage" in result),
            "execution_time": time.perf_counter() - started,
        }

    async def _batch(
        self, chain: Chain, runnable: Any, asked: list[Any], concurrency: int
    ) -> list[dict[str, Any]]:
        gate = asyncio.Semaphore(concurrency)
        done = 0

        async def one(messages: Any) -> dict[str, Any]:
            nonlocal done
            async with gate:
                try:
                    result = chain.outcome(await runnable.ainvoke(messages))
                except Exception as error:  # noqa: BLE001 - it is this input's result
                    result = {"error": {"type": type(error).__name__, "message": str(error)[:2_000]}}
            done += 1
            self.progress(done, len(asked))
            return result

        return list(await asyncio.gather(*(one(messages) for messages in asked)))

    @operation(effect="run", resource="chain", id_field="chain_id", stream=True)
    def stream_chain(
        self, chain_id: str, inputs: dict[str, Any] | None = None
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        """Chunks of text as they come; with a schema the object as far as it is known."""
        chain = self.chains.get(chain_id)
        messages = fill(chain.prompt, inputs or {})
        runnable = chain.runnable(self._llm(chain.llm))
        started = time.perf_counter()
        if chain.schema is None:
            reply = yield from stream_text(runnable, messages)
        else:
            reply = yield from _stream_object(runnable, messages)
        chain.ran()
        return {
            "chain_id": chain_id,
            **chain.outcome(reply),
            "execution_time": time.perf_counter() - started,
        }

    @operation(effect="read", resource="chain")
    def list_chains(self) -> dict[str, Any]:
        """The session's chains."""
        listed = [chain.describe(chain_id) for chain_id, chain in self.chains.items()]
        return {"chains": listed, "total_count": len(listed)}

    @operation(effect="delete", resource="chain", id_field="chain_id")
    def delete_chain(self, chain_id: str) -> dict[str, Any]:
        """Forget a chain."""
        self.chains.delete(chain_id)
        return {"chain_id": chain_id, "status": "deleted"}


def stream_text(runnable: Any, messages: Any) -> Generator[dict[str, Any], None, Any]:
    """Yields ``{"text"}``; returns the whole message, with its usage."""
    whole: Any = None
    for piece in runnable.stream(messages):
        whole = piece if whole is None else whole + piece
        if text := str(piece.text):
            yield {"text": text}
    if whole is None:
        raise RuntimeError("the provider's stream held nothing")
    return whole


def _stream_object(runnable: Any, messages: Any) -> Generator[dict[str, Any], None, dict[str, Any]]:
    reply: dict[str, Any] = {"raw": None, "parsed": None, "parsing_error": None}
    for piece in runnable.stream(messages):
        if "raw" in piece:
            reply["raw"] = piece["raw"] if reply["raw"] is None else reply["raw"] + piece["raw"]
        if piece.get("parsing_error") is not None:
            reply["parsing_error"] = piece["parsing_error"]
        if piece.get("parsed") is not None and piece["parsed"] != reply["parsed"]:
            reply["parsed"] = piece["parsed"]
            yield {"partial": reply["parsed"]}
    return reply


def _facts(message: Any) -> dict[str, Any]:
    return {"usage": usage_of([message]), "finish_reason": finish_reason(message)}
