"""Programs: one module of DSPy's, or several in a row, made from plain values."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy_signatures import describe_signature, make_signature

from bridgehold_sdk import InvalidInput

KINDS = ("predict", "chain_of_thought", "react", "program_of_thought", "multi_chain_comparison")
_SPELLED = {kind.replace("_", ""): kind for kind in KINDS}
_OPTIONS: dict[str, frozenset[str]] = {
    "predict": frozenset({"n", "temperature", "max_tokens"}),
    "chain_of_thought": frozenset({"n", "temperature", "max_tokens"}),
    "react": frozenset({"max_iters"}),
    "program_of_thought": frozenset({"max_iters"}),
    "multi_chain_comparison": frozenset({"m", "temperature"}),
}
_EXECUTION_SECONDS = 30.0
Tools = Mapping[str, Any]
"""By name, `dspy.Tool`s."""


@dataclass(eq=False, repr=False)
class Program:
    """A module, and what it was made from."""

    kind: str
    module: Any
    signature: Any
    recipe: dict[str, Any]
    """The arguments that it was made from: with its state, all that a saved program is."""
    lm: str = ""
    compiled: bool = False
    created: float = field(default_factory=time.time)
    executions: int = 0
    last_executed: float | None = None

    def describe(self, program_id: str) -> dict[str, Any]:
        """What callers are told of it."""
        return {
            "id": program_id,
            "program_id": program_id,
            "program_type": self.kind,
            "modules": self.recipe.get("modules") or [self.kind],
            "options": self.recipe.get("options") or {},
            "tools": list(self.recipe.get("tools") or []),
            "lm": self.lm,
            "compiled": self.compiled,
            "demos": sum(len(predictor.demos) for predictor in self.module.predictors()),
            "signature": describe_signature(self.signature),
            "created_at": self.created,
            "execution_count": self.executions,
            "last_executed": self.last_executed,
        }


def kind_of(spelled: str) -> str:
    """``dspy.ChainOfThought``, ``ChainOfThought`` and ``chain_of_thought`` are one."""
    plain = spelled.removeprefix("dspy.").replace("_", "").lower()
    if plain not in _SPELLED:
        raise InvalidInput(f"module {spelled[:80]!r} is none of {', '.join(KINDS)}")
    return _SPELLED[plain]


def make_module(kind: str, signature: Any, options: Mapping[str, Any], tools: Tools) -> Any:
    """One module of DSPy's. ``max_hops`` is another name of ``max_iters``; a module without hops drops it."""
    given = dict(options)
    hops = given.pop("max_hops", None)
    known = _OPTIONS[kind]
    if hops is not None and "max_iters" in known:
        given.setdefault("max_iters", hops)
    if unknown := sorted(set(given) - known):
        raise InvalidInput(f"{kind} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    if tools and kind != "react":
        raise InvalidInput(f"{kind} takes no tools; react does")
    if kind == "react":
        return dspy.ReAct(signature, tools=list(tools.values()), **given)
    if kind == "program_of_thought":
        return dspy.ProgramOfThought(signature, interpreter_factory=_interpreter, **given)
    if kind == "multi_chain_comparison":
        return Comparison(signature, **given)
    return {"predict": dspy.Predict, "chain_of_thought": dspy.ChainOfThought}[kind](signature, **given)


def _interpreter() -> Any:
    """A process of this sandbox's own: the sandbox is what holds it, and it needs no further program."""
    from dspy.primitives.local_interpreter import LocalInterpreter  # few need it, and every start would pay

    return LocalInterpreter(execution_timeout=_EXECUTION_SECONDS)


class Comparison(dspy.Module):
    """Several attempts by ChainOfThought, and MultiChainComparison's choice among them."""

    def __init__(self, signature: Any, m: int = 3, temperature: float = 0.7) -> None:
        super().__init__()
        self.attempt = dspy.ChainOfThought(signature)
        self.compare = dspy.MultiChainComparison(signature, M=m, temperature=temperature)
        self.count, self.temperature = m, temperature

    def forward(self, **inputs: Any) -> Any:
        """Ask several times, and let the model compare the answers."""
        config = {"temperature": self.temperature}
        attempts = [
            self.attempt(**inputs, config={**config, "rollout_id": number}) for number in range(self.count)
        ]
        return self.compare(attempts, **inputs)


class Chain(dspy.Module):
    """Modules in a row: each sees the inputs, and what the ones before it said as ``draft_NAME``."""

    def __init__(self, kinds: list[str], signature: Any, options: Mapping[str, Any], tools: Tools) -> None:
        super().__init__()
        self.stages = []
        wanted = signature
        for kind in kinds:
            own = {key: value for key, value in options.items() if key in {*_OPTIONS[kind], "max_hops"}}
            self.stages.append(make_module(kind, wanted, own, tools if kind == "react" else {}))
            for name, info in signature.output_fields.items():
                if f"draft_{name}" not in wanted.input_fields:
                    draft = dspy.InputField(desc=f"an earlier {name}, to be improved on")
                    wanted = wanted.append(f"draft_{name}", draft, type_=info.annotation)
        self.outputs = list(signature.output_fields)

    def forward(self, **inputs: Any) -> Any:
        """Each module gets what those before it have given."""
        said = dict(inputs)
        prediction = None
        for stage in self.stages:
            prediction = stage(**said)
            said |= {f"draft_{name}": prediction[name] for name in self.outputs}
        return prediction


def make_program(recipe: dict[str, Any], tools: Tools) -> Program:
    """From ``{signature, program_type | modules, instructions, options, tools, lm}``; or `InvalidInput`."""
    signature = make_signature(recipe["signature"], recipe.get("instructions") or "")
    kinds = [kind_of(name) for name in recipe.get("modules") or [recipe.get("program_type") or "predict"]]
    options = recipe.get("options") or {}
    if len(kinds) == 1:
        return Program(kinds[0], make_module(kinds[0], signature, options, tools), signature, recipe)
    known = {"max_hops"}.union(*(_OPTIONS[kind] for kind in kinds))
    if unknown := sorted(set(options) - known):
        raise InvalidInput(f"none of {', '.join(kinds)} has an option {', '.join(unknown)}")
    return Program("chain", Chain(kinds, signature, options, tools), signature, recipe)


def serialise(prediction: Any) -> dict[str, Any]:
    """All that a Prediction holds: outputs, further completions, and what it used."""
    completions = getattr(prediction, "completions", None)
    many: list[dict[str, Any]] = []
    if completions is not None and len(completions) > 1:
        many = [dict(completions[number].items()) for number in range(len(completions))]
    return {
        "outputs": dict(prediction.items()),
        "completions": many,
        "usage": prediction.get_lm_usage() or {},
    }
