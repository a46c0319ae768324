"""DSPy programs. The key never comes here: DSPy gets the gateway's address and a placeholder.

Both go to `dspy.LM` as keywords, not as environment variables: with variables set, DSPy takes
LiteLLM (seconds slower at the first call); with keywords it takes its native client where it can.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else LiteLLM asks the network at import

import dspy
import dspy_saved
from dspy_models import Models
from dspy_optimise import compile_program, examples, make_metric
from dspy_programs import Program, make_program, serialise
from dspy_running import each, streamed
from dspy_signatures import check_inputs, describe_signature, make_signature
from dspy_tools import offered_tools

from bridgehold_sdk import Bridge, InvalidInput, Provider, Session, Store, operation

_DATA_BYTES = 256 * 1024


class DSPyBridge(Bridge):
    """DSPy's programs; each operation is described in bridge.toml."""

    name = "dspy"
    version = "0.2.0"

    def open(self, session: Session) -> None:
        """The session begins: its stores are empty."""
        self.programs: Store[Program] = Store("program")
        self.models = Models()
        self.data: dict[str, Any] = {}

    def framework(self) -> dict[str, Any]:
        """The name and version of what it wraps, and what it can do."""
        return {
            "name": "dspy",
            "version": dspy.__version__,
            "capabilities": ["signatures", "programs", "language_models", "streaming", "optimisers"],
        }

    def stats(self) -> dict[str, Any]:
        """Numbers of its own for `common:get_stats`."""
        return {"programs_count": len(self.programs), "lm": self.models.default()}

    # Language models.

    @operation(effect="configure")
    def configure_lm(
        self,
        *,
        model: str,
        provider: str = "",
        name: str = "default",
        temperature: float | None = None,
        max_tokens: int | None = None,
        cache: bool = True,
        num_retries: int = 1,
        engine: str = "auto",
        api_key: str = "",
    ) -> dict[str, Any]:
        """Choose the language model; the gateway puts the key in."""
        found, binding = self._binding(model, provider)
        facts = self.models.add(
            name,
            found,
            binding,
            model,
            temperature=temperature,
            max_tokens=max_tokens,
            cache=cache,
            num_retries=num_retries,
            engine=engine,
            api_key=api_key,
        )
        return {"status": "configured", **facts}

    @operation(effect="read")
    def list_lms(self) -> dict[str, Any]:
        """The configured language models."""
        return {"lms": self.models.describe()}

    @operation(effect="read")
    def get_history(self, lm: str = "", limit: int = 20) -> dict[str, Any]:
        """The latest calls of language models: messages, outputs, tokens."""
        return {"calls": self.models.history(lm, limit)}

    # Programs.

    @operation(effect="read")
    def validate_signature(self, signature: str | dict[str, Any], instructions: str = "") -> dict[str, Any]:
        """Read a signature without making a program."""
        return {"valid": True, "signature": describe_signature(make_signature(signature, instructions))}

    @operation(effect="create", resource="program", id_field="id")
    def create_program(
        self,
        *,
        signature: str | dict[str, Any],
        id: str | None = None,
        program_type: str = "predict",
        modules: list[str] | None = None,
        instructions: str = "",
        options: dict[str, Any] | None = None,
        tools: list[str] | None = None,
        lm: str = "",
        session_id: str = "",
    ) -> dict[str, Any]:
        """Make a program from a signature."""
        program = self._make(signature, program_type, modules, instructions, options, lm, tools)
        return self._created(program, self.programs.add(program, id))

    @operation(effect="run", resource="program", id_field="program_id")
    def execute_program(
        self, program_id: str, inputs: dict[str, Any], lm: str = "", session_id: str = ""
    ) -> dict[str, Any]:
        """Run a program on inputs."""
        program = self.programs.get(program_id)
        check_inputs(program.signature, inputs, program_id)
        return {"program_id": program_id, **self._execute(program, inputs, lm)}

    @operation(effect="run", resource="program", id_field="program_id", stream=True)
    def stream_program(
        self, program_id: str, inputs: dict[str, Any], lm: str = ""
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        """Run a program; the text of its outputs comes in chunks {module, field, text}."""
        program = self.programs.get(program_id)
        check_inputs(program.signature, inputs, program_id)
        started = time.perf_counter()
        with self._model(program, lm):
            prediction = yield from streamed(program.module, inputs)
        return self._ran(program, prediction, started)

    @operation(effect="run", resource="program", id_field="program_id")
    def execute_batch(
        self, program_id: str, inputs: list[dict[str, Any]], threads: int = 4, lm: str = ""
    ) -> dict[str, Any]:
        """Run a program on many inputs; one that fails stops no other."""
        program = self.programs.get(program_id)
        for number, item in enumerate(inputs):
            check_inputs(program.signature, item, f"{program_id}, item {number}")
        results = self._each(inputs, threads, lambda item: self._execute(program, item, lm))
        return {
            "program_id": program_id,
            "results": results,
            "failed": sum(1 for result in results if "error" in result),
        }

    @operation(effect="run")
    def execute_module(
        self,
        *,
        signature: str | dict[str, Any],
        inputs: dict[str, Any],
        module: str = "predict",
        instructions: str = "",
        options: dict[str, Any] | None = None,
        tools: list[str] | None = None,
        lm: str = "",
    ) -> dict[str, Any]:
        """Run a module once, without keeping a program."""
        program = self._make(signature, module, None, instructions, options, lm, tools)
        check_inputs(program.signature, inputs, program.kind)
        return {"module": program.kind, **self._execute(program, inputs, lm)}

    @operation(effect="run")
    def generate(
        self,
        *,
        prompt: str,
        module: str = "",
        signature: str | dict[str, Any] = "",
        options: dict[str, Any] | None = None,
        lm: str = "",
    ) -> dict[str, Any]:
        """Text for a prompt: from the model itself, or through a module of one input."""
        if not module and not signature:
            started = time.perf_counter()
            texts = self.models.get(lm)(prompt, **(options or {}))
            return {"text": _text(texts[0]), "execution_time": time.perf_counter() - started}
        program = self._make(signature or "input -> output", module or "predict", None, "", options, lm)
        if len(program.signature.input_fields) != 1:
            raise InvalidInput("a prompt goes to one input; dspy:execute_module takes several")
        (name,) = program.signature.input_fields
        result = self._execute(program, {name: prompt}, lm)
        return {"text": str(next(reversed(result["outputs"].values()))), **result}

    @operation(effect="read", resource="program")
    def list_programs(self) -> dict[str, Any]:
        """The session's programs."""
        listed = [program.describe(program_id) for program_id, program in self.programs.items()]
        return {"programs": listed, "total_count": len(listed)}

    @operation(effect="read", resource="program", id_field="program_id")
    def get_program_info(self, program_id: str) -> dict[str, Any]:
        """One program's signature and how often it ran."""
        return self.programs.get(program_id).describe(program_id)

    @operation(effect="delete", resource="program", id_field="program_id")
    def delete_program(self, program_id: str) -> dict[str, Any]:
        """Forget a program."""
        self.programs.delete(program_id)
        return {"program_id": program_id, "status": "deleted"}

    # Optimised programs.

    @operation(effect="create", resource="program", id_field="id")
    def compile_program(
        self,
        *,
        program_id: str,
        trainset: list[dict[str, Any]],
        optimizer: str = "bootstrap_few_shot",
        metric: str = "exact",
        field: str = "",
        max_demos: int = 4,
        max_labeled: int = 16,
        rounds: int = 1,
        id: str | None = None,
        lm: str = "",
    ) -> dict[str, Any]:
        """A program with demonstrations that a metric chose; the first one stays as it is."""
        program = self.programs.get(program_id)
        chosen = make_metric(metric, field, program.signature)
        items = examples(trainset, program.signature)
        seen = 0

        def tell() -> None:
            nonlocal seen
            seen += 1
            self.progress(min(seen, len(items) * rounds), len(items) * rounds, "examples tried")

        limits = {"demos": max_demos, "labeled": max_labeled, "rounds": rounds}
        with self._model(program, lm):
            module = compile_program(program, items, chosen, optimizer, limits, tell)
        made = Program(program.kind, module, program.signature, program.recipe, program.lm, compiled=True)
        return self._created(made, self.programs.add(made, id))

    @operation(effect="run", resource="program", id_field="program_id")
    def evaluate_program(
        self,
        *,
        program_id: str,
        devset: list[dict[str, Any]],
        metric: str = "exact",
        field: str = "",
        threads: int = 4,
        lm: str = "",
    ) -> dict[str, Any]:
        """The mean of a metric over examples."""
        program = self.programs.get(program_id)
        score = make_metric(metric, field, program.signature)
        items = examples(devset, program.signature)

        def one(item: Any) -> dict[str, Any]:
            result = self._execute(program, dict(item.inputs().items()), lm)
            return {"outputs": result["outputs"], "score": score(item, result["outputs"])}

        results = self._each(items, threads, one)
        total = sum(float(result.get("score", 0.0)) for result in results)
        return {"program_id": program_id, "score": total / len(results), "results": results}

    @operation(effect="read", resource="program", id_field="program_id")
    def save_program(self, program_id: str, keep: bool = False) -> dict[str, Any]:
        """A program as data: how it was made, and its state; no code is in it. `keep`: as an artifact."""
        saved = dspy_saved.pack(self.programs.get(program_id))
        if not keep:
            return {"program_id": program_id, "saved": saved}
        made = self.artifacts.put(
            dspy_saved.write(saved), name=f"{program_id}.dspy.json", media_type=dspy_saved.MEDIA_TYPE
        )
        return {"program_id": program_id, "artifact": made["digest"], "size_bytes": made["size_bytes"]}

    @operation(effect="create", resource="program", id_field="id")
    def load_program(
        self, saved: dict[str, Any] | None = None, artifact: str = "", id: str | None = None
    ) -> dict[str, Any]:
        """A program from what save_program gave, or kept."""
        if (saved is None) == (not artifact):
            raise InvalidInput("either saved or artifact is expected")
        data = dspy_saved.read(self.artifacts.get(artifact)) if saved is None else saved
        program = dspy_saved.unpack(data, partial(offered_tools, self))
        return self._created(program, self.programs.add(program, id))

    # The session's own drawer.

    @operation(effect="read")
    def get_session_data(self) -> dict[str, Any]:
        """What the session keeps for its caller."""
        return {"data": self.data}

    @operation(effect="configure")
    def update_session_data(self, data: dict[str, Any]) -> dict[str, Any]:
        """Merge into what the session keeps: 256 KiB at most."""
        merged = {**self.data, **data}
        if len(repr(merged)) > _DATA_BYTES:
            raise InvalidInput(f"a session keeps {_DATA_BYTES // 1024} KiB of data at most")
        self.data = merged
        return {"status": "updated", "keys": sorted(merged)}

    @operation(effect="configure")
    def reset_state(self) -> dict[str, Any]:
        """Forget every program and the session's data."""
        count = self.programs.clear()
        self.data = {}
        return {"status": "reset", "programs_removed": count}

    # What they have in common.

    def _make(
        self,
        signature: str | dict[str, Any],
        program_type: str,
        modules: list[str] | None,
        instructions: str,
        options: dict[str, Any] | None,
        lm: str,
        tools: list[str] | None = None,
    ) -> Program:
        if lm:
            self.models.get(lm)
        recipe = {
            "signature": signature,
            "program_type": program_type,
            "modules": modules,
            "instructions": instructions,
            "options": options or {},
            "tools": tools or [],
            "lm": lm,
        }
        program = make_program(recipe, offered_tools(self, tools))
        program.lm = lm
        return program

    def _created(self, program: Program, program_id: str) -> dict[str, Any]:
        said = program.describe(program_id)
        kept = ("program_id", "program_type", "modules", "signature", "compiled", "demos", "lm")
        return {"status": "created", **{key: said[key] for key in kept}}

    @contextlib.contextmanager
    def _model(self, program: Program, lm: str) -> Iterator[None]:
        with dspy.context(lm=self.models.get(lm or program.lm), track_usage=True):
            yield

    def _execute(self, program: Program, inputs: dict[str, Any], lm: str) -> dict[str, Any]:
        started = time.perf_counter()
        with self._model(program, lm):
            prediction = program.module(**inputs)
        return self._ran(program, prediction, started)

    def _ran(self, program: Program, prediction: Any, started: float) -> dict[str, Any]:
        program.executions += 1
        program.last_executed = time.time()
        return {**serialise(prediction), "execution_time": time.perf_counter() - started}

    def _each(
        self, items: list[Any], threads: int, one: Callable[[Any], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        return each(items, threads, one, lambda done, total: self.progress(done, total, "done"))

    def _binding(self, model: str, provider: str) -> tuple[str, Provider]:
        """The provider by name, by the model's prefix, or the only one that is granted."""
        name = provider or (model.partition("/")[0] if "/" in model else "")
        granted = self.providers
        if not provider and name not in granted and len(granted) == 1:
            name = granted[0]
        name = name or "openai"
        return name, self.provider(name)


def _text(said: Any) -> str:
    """A model's answer is text, or a table with it."""
    return said if isinstance(said, str) else str(said.get("text", said))
