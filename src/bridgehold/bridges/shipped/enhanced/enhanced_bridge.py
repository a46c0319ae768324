"""Dynamic calls on whatever its environment holds, and the older commands in their terms.

A framework plug-in says how a language model is configured; how results are shown is
`bridgehold_sdk.shown.serialisers`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

from bridgehold_sdk import Bridge, InvalidInput, Provider, Session, operation
from bridgehold_sdk.dynamic import DynamicCalls

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else LiteLLM asks the network at import

_PROGRAM = "program_"
_DEPRECATED = "deprecated: use {instead}"
Configure = Callable[[Provider, str, dict[str, Any]], Any]


def _configure_dspy(binding: Provider, model: str, options: dict[str, Any]) -> Any:
    dspy = importlib.import_module("dspy")
    name = model if "/" in model else f"{binding.shape}/{model}"
    lm = dspy.LM(name, api_base=binding.base_url, api_key=binding.placeholder, **options)
    dspy.configure(lm=lm)
    return lm


def _configure_langchain(binding: Provider, model: str, options: dict[str, Any]) -> Any:
    package, kind = {
        "anthropic": ("langchain_anthropic", "ChatAnthropic"),
        "gemini": ("langchain_google_genai", "ChatGoogleGenerativeAI"),
    }.get(binding.shape, ("langchain_openai", "ChatOpenAI"))
    made = getattr(importlib.import_module(package), kind)
    return made(
        model=model.partition("/")[2] or model,
        base_url=binding.base_url,
        api_key=binding.placeholder,
        **options,
    )


FRAMEWORKS: dict[str, Configure] = {"dspy": _configure_dspy, "langchain": _configure_langchain}


class EnhancedBridge(DynamicCalls, Bridge):
    """Any function of a library by its name; each operation is described in bridge.toml."""

    name = "enhanced"
    version = "0.1.0"

    def open(self, session: Session) -> None:
        """The session begins: its stores are empty."""
        self.begin_dynamic()

    def framework(self) -> dict[str, Any]:
        """The name and version of what it wraps, and what it can do."""
        return {
            "name": "enhanced",
            "version": self.version,
            "capabilities": ["dynamic_calls", "pipelines", "stored_values", *sorted(FRAMEWORKS)],
        }

    def stats(self) -> dict[str, Any]:
        """Numbers of its own for `common:get_stats`."""
        return {"stored_count": len(self.stored)}

    @operation(effect="configure")
    def configure(
        self, *, framework: str, model: str, provider: str = "", options: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """A language model for `framework`, stored as ``lm``: the gateway puts the key in."""
        name = provider or next(iter(self.providers), "openai")
        self._keep("lm", FRAMEWORKS[framework](self.provider(name), model, options or {}))
        return {"status": "ok", "framework": framework, "model": model, "provider": name, "stored_as": "lm"}

    # The older commands, each by the dynamic calls that do the same.

    @operation(effect="configure")
    def configure_lm(
        self, *, model: str, provider: str = "", temperature: float | None = None, api_key: str = ""
    ) -> dict[str, Any]:
        """Deprecated: configure."""
        options = {} if temperature is None else {"temperature": temperature}
        said = self.configure(framework="dspy", model=model, provider=provider, options=options)
        return self._old(said, "enhanced:configure")

    @operation(effect="configure")
    def create_program(
        self, *, signature: str, id: str = "", program_type: str = "predict", session_id: str = ""
    ) -> dict[str, Any]:
        """Deprecated: call with store_as."""
        kinds = {"predict": "dspy.Predict", "chain_of_thought": "dspy.ChainOfThought"}
        if program_type not in kinds:
            raise InvalidInput(f"program_type is one of {', '.join(kinds)}")
        name = id or f"{len(self.stored) + 1}"
        self.call(target=kinds[program_type], args=[signature], store_as=_PROGRAM + name)
        return self._old({"status": "ok", "program_id": name}, "enhanced:call with store_as")

    @operation(effect="run")
    def execute_program(
        self, *, program_id: str, inputs: dict[str, Any], session_id: str = ""
    ) -> dict[str, Any]:
        """Deprecated: call on stored.NAME."""
        said = self.call(target=f"stored.{_PROGRAM}{program_id}", kwargs=inputs)
        outputs = said["result"].get("value", said["result"])
        return self._old(
            {**said, "program_id": program_id, "outputs": outputs}, "enhanced:call on stored.NAME"
        )

    @operation(effect="read")
    def get_program(self, program_id: str) -> dict[str, Any]:
        """Deprecated: retrieve."""
        said = self.retrieve(_PROGRAM + program_id, limit=10)
        return self._old(
            {"status": "ok", "program_id": program_id, "result": said["result"]}, "enhanced:retrieve"
        )

    @operation(effect="read")
    def list_programs(self) -> dict[str, Any]:
        """Deprecated: list_stored."""
        names = [name.removeprefix(_PROGRAM) for name in self.stored.ids() if name.startswith(_PROGRAM)]
        return self._old({"status": "ok", "programs": names, "count": len(names)}, "enhanced:list_stored")

    @operation(effect="configure")
    def delete_program(self, program_id: str) -> dict[str, Any]:
        """Deprecated: delete_stored."""
        self.delete_stored(_PROGRAM + program_id)
        return self._old({"status": "ok", "program_id": program_id}, "enhanced:delete_stored")

    @operation(effect="configure")
    def clear_session(self, session_id: str = "") -> dict[str, Any]:
        """Deprecated: delete_stored."""
        return self._old({"status": "ok", "removed": self.stored.clear()}, "enhanced:delete_stored")

    def _old(self, said: dict[str, Any], instead: str) -> dict[str, Any]:
        return {**said, "warning": _DEPRECATED.format(instead=instead)}
