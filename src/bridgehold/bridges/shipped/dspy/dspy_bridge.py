"""DSPy programs. The key never comes here: DSPy gets the gateway's address and a placeholder.

Both go to `dspy.LM` as keywords, not as environment variables: with variables set, DSPy takes
LiteLLM (seconds slower at the first call); with keywords it takes its native client where it can.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else LiteLLM asks the network at import

import dspy

from bridgehold_sdk import Bridge, InvalidInput, Provider, Session, Store, operation

TYPES: dict[str, Any] = {
    "": str,
    "str": str,
    "string": str,
    "text": str,
    "int": int,
    "integer": int,
    "float": float,
    "number": float,
    "bool": bool,
    "boolean": bool,
    "list": list[Any],
    "list[str]": list[str],
    "list[int]": list[int],
    "list[float]": list[float],
    "dict": dict[str, Any],
    "object": dict[str, Any],
}
PREFIXES = {"openai": "openai", "anthropic": "anthropic", "gemini": "gemini"}
MODULES = {"predict": dspy.Predict, "chain_of_thought": dspy.ChainOfThought}


@dataclass
class Program:
    kind: str
    module: Any
    signature: Any
    created: float = field(default_factory=time.time)
    executions: int = 0
    last_executed: float | None = None

    def describe(self, program_id: str) -> dict[str, Any]:
        return {
            "id": program_id,
            "program_id": program_id,
            "program_type": self.kind,
            "signature": describe_signature(self.signature),
            "created_at": self.created,
            "execution_count": self.executions,
            "last_executed": self.last_executed,
        }


class DSPyBridge(Bridge):
    name = "dspy"
    version = "0.1.0"

    def open(self, session: Session) -> None:
        self.programs: Store[Program] = Store("program")
        self.configured: dict[str, Any] | None = None

    def framework(self) -> dict[str, Any]:
        return {
            "name": "dspy",
            "version": dspy.__version__,
            "capabilities": ["signatures", "programs", "language_models"],
        }

    def stats(self) -> dict[str, Any]:
        return {"programs_count": len(self.programs), "lm": self.configured}

    @operation(effect="configure")
    def configure_lm(
        self,
        *,
        model: str,
        provider: str = "",
        temperature: float | None = None,
        max_tokens: int | None = None,
        cache: bool = True,
        num_retries: int = 1,
        engine: str = "auto",
        api_key: str = "",
    ) -> dict[str, Any]:
        name, binding = self._binding(model, provider)
        shape = PREFIXES.get(binding.shape, "openai")
        plain = model.partition("/")[2] if model.startswith((f"{shape}/", f"{name}/")) else model
        lm = dspy.LM(
            f"{shape}/{plain}",
            api_base=binding.base_url,
            api_key=api_key or binding.placeholder,
            temperature=temperature,
            max_tokens=max_tokens,
            cache=cache,
            num_retries=num_retries,
            engine=engine,
        )
        dspy.configure(lm=lm)
        self.configured = {"model": f"{shape}/{plain}", "provider": name, "engine": engine}
        return {
            "status": "configured",
            **self.configured,
            "temperature": temperature,
            "max_tokens": max_tokens,
        }

    @operation(effect="create", resource="program", id_field="id")
    def create_program(
        self,
        signature: str | dict[str, Any],
        id: str | None = None,
        program_type: str = "predict",
        instructions: str = "",
        session_id: str = "",
    ) -> dict[str, Any]:
        made = make_signature(signature, instructions)
        program = Program(program_type, MODULES[program_type](made), made)
        return {
            "program_id": self.programs.add(program, id),
            "status": "created",
            "program_type": program_type,
            "signature": describe_signature(made),
        }

    @operation(effect="run", resource="program", id_field="program_id")
    def execute_program(
        self, program_id: str, inputs: dict[str, Any], session_id: str = ""
    ) -> dict[str, Any]:
        program = self.programs.get(program_id)
        if self.configured is None:
            raise InvalidInput("no language model yet: dspy:configure_lm comes first")
        wanted = set(program.signature.input_fields)
        if missing := sorted(wanted - set(inputs)):
            raise InvalidInput(f"inputs lack {', '.join(missing)}")
        if extra := sorted(set(inputs) - wanted):
            raise InvalidInput(f"{program_id} has no input {', '.join(extra)[:300]}")
        started = time.perf_counter()
        prediction = program.module(**inputs)
        program.executions += 1
        program.last_executed = time.time()
        return {
            "program_id": program_id,
            "outputs": dict(prediction.items()),
            "execution_time": time.perf_counter() - started,
        }

    @operation(effect="read", resource="program")
    def list_programs(self) -> dict[str, Any]:
        listed = [program.describe(program_id) for program_id, program in self.programs.items()]
        return {"programs": listed, "total_count": len(listed)}

    @operation(effect="read", resource="program", id_field="program_id")
    def get_program_info(self, program_id: str) -> dict[str, Any]:
        return self.programs.get(program_id).describe(program_id)

    @operation(effect="delete", resource="program", id_field="program_id")
    def delete_program(self, program_id: str) -> dict[str, Any]:
        self.programs.delete(program_id)
        return {"program_id": program_id, "status": "deleted"}

    def _binding(self, model: str, provider: str) -> tuple[str, Provider]:
        """The provider by name, by the model's prefix, or the only one that is granted."""
        name = provider or (model.partition("/")[0] if "/" in model else "")
        granted = self.providers
        if not provider and name not in granted and len(granted) == 1:
            name = granted[0]
        name = name or "openai"
        return name, self.provider(name)


def make_signature(signature: str | dict[str, Any], instructions: str) -> Any:
    """A signature class of ``question -> answer`` or of ``{name, inputs, outputs}``."""
    try:
        if isinstance(signature, str):
            return dspy.Signature(signature, instructions or None)
        fields: dict[str, tuple[Any, Any]] = {}
        for kind, make in (("inputs", dspy.InputField), ("outputs", dspy.OutputField)):
            for item in signature[kind]:
                if item["name"] in fields:
                    raise InvalidInput(f"two fields are named {item['name']!r}")
                fields[item["name"]] = (field_type(item), make(desc=item.get("description") or None))
        text = instructions or signature.get("description") or None
        return dspy.make_signature(fields, text, signature.get("name") or "StringSignature")
    except (ValueError, TypeError, SyntaxError) as error:
        raise InvalidInput(f"the signature can't be read: {error}") from error


def field_type(item: dict[str, Any]) -> Any:
    spelled = str(item.get("type") or "").replace(" ", "").lower()
    if spelled not in TYPES:
        known = ", ".join(name for name in TYPES if name)
        raise InvalidInput(f"field {item['name']!r}: type {spelled!r} is none of {known}")
    return TYPES[spelled]


def describe_signature(signature: Any) -> dict[str, Any]:
    return {
        "name": signature.__name__,
        "instructions": signature.instructions,
        "inputs": list(_fields(signature.input_fields)),
        "outputs": list(_fields(signature.output_fields)),
    }


def _fields(fields: dict[str, Any]) -> Iterable[dict[str, str]]:
    for name, info in fields.items():
        annotation = info.annotation
        yield {
            "name": name,
            "type": annotation.__name__ if isinstance(annotation, type) else str(annotation),
            "description": str((info.json_schema_extra or {}).get("desc") or ""),
        }
