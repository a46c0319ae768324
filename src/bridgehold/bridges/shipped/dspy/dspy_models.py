"""Named language models: a provider's address and a placeholder, never a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dspy

from bridgehold_sdk import InvalidInput, Provider

SHAPES = ("openai", "anthropic", "gemini")
_DEFAULT = "default"
_HISTORY_TEXT = 20_000


@dataclass(eq=False, repr=False)
class Model:
    """One language model, and what is told of it."""

    lm: Any
    facts: dict[str, Any]


class Models:
    """By name; ``default`` is what a program without one of its own runs with."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}

    def add(self, name: str, provider: str, binding: Provider, model: str, **options: Any) -> dict[str, Any]:
        """Make a model of `provider` under `name`; what is told of it."""
        shape = binding.shape if binding.shape in SHAPES else "openai"
        plain = model.partition("/")[2] if model.startswith((f"{shape}/", f"{provider}/")) else model
        key = options.pop("api_key", "") or binding.placeholder
        lm = dspy.LM(f"{shape}/{plain}", api_base=binding.base_url, api_key=key, **options)
        facts = {
            "name": name,
            "model": f"{shape}/{plain}",
            "provider": provider,
            "engine": options.get("engine", "auto"),
            "temperature": options.get("temperature"),
            "max_tokens": options.get("max_tokens"),
        }
        self._models[name] = Model(lm, facts)
        if name == _DEFAULT or len(self._models) == 1:
            dspy.configure(lm=lm, track_usage=True)
        return facts

    def get(self, name: str) -> Any:
        """The model of that name, the default one where none is named; or `InvalidInput`."""
        if not self._models:
            raise InvalidInput("no language model yet: dspy:configure_lm comes first")
        chosen = name or (_DEFAULT if _DEFAULT in self._models else next(iter(self._models)))
        if chosen not in self._models:
            raise InvalidInput(f"no language model {chosen[:80]!r}; there are {', '.join(self._models)}")
        return self._models[chosen].lm

    def clear(self) -> None:
        """Forget every model."""
        self._models.clear()

    def describe(self) -> list[dict[str, Any]]:
        """All models, with how many calls each has made."""
        return [{**model.facts, "calls": len(model.lm.history)} for model in self._models.values()]

    def default(self) -> dict[str, Any] | None:
        """Facts of the default model, where there is one."""
        found = self._models.get(_DEFAULT) or next(iter(self._models.values()), None)
        return found.facts if found else None

    def history(self, name: str, limit: int) -> list[dict[str, Any]]:
        """The latest calls, newest last. Long texts are cut, and say so."""
        names = [name] if name else list(self._models)
        entries = [
            (str(entry.get("timestamp", "")), one, entry)
            for one in names
            for entry in self.get(one).history[-limit:]
        ]
        entries.sort(key=lambda entry: entry[0])
        return [_entry(one, entry) for _, one, entry in entries[-limit:]]


def _entry(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    messages = entry.get("messages") or [{"role": "user", "content": entry.get("prompt") or ""}]
    return {
        "lm": name,
        "model": str(entry.get("model", "")),
        "timestamp": str(entry.get("timestamp", "")),
        "messages": [
            {"role": str(one.get("role", "")), "content": _short(one.get("content"))} for one in messages
        ],
        "outputs": [_short(output) for output in entry.get("outputs") or []],
        "usage": dict(entry.get("usage") or {}),
        "cost": entry.get("cost"),
    }


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    cut = len(text) - _HISTORY_TEXT
    return text if cut <= 0 else f"{text[:_HISTORY_TEXT]}… ({cut} characters more)"
