"""Optimised programs: demonstrations chosen by examples and a metric that is named, never code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import dspy
from dspy_programs import Program

from bridgehold_sdk import InvalidInput

Metric = Callable[..., float]


def examples(items: list[dict[str, Any]], signature: Any) -> list[Any]:
    """``{inputs, outputs}`` each, with every input; or `InvalidInput` that says which one lacks what."""
    found = []
    for number, item in enumerate(items):
        if missing := sorted(set(signature.input_fields) - set(item["inputs"])):
            raise InvalidInput(f"example {number} lacks {', '.join(missing)}")
        fields = {**item["inputs"], **item.get("outputs", {})}
        found.append(dspy.Example(**fields).with_inputs(*signature.input_fields))
    return found


def make_metric(kind: str, field: str, signature: Any) -> Metric:
    """``exact``, ``contains`` or ``f1`` of one output field; the first where none is named."""
    name = field or next(iter(signature.output_fields))
    if name not in signature.output_fields:
        raise InvalidInput(f"the metric's field {name[:80]!r} is no output of the signature")

    def metric(example: Any, prediction: Any, trace: Any = None) -> float:
        return _SCORES[kind](str(example.get(name, "")), str(prediction.get(name, "")))

    return metric


def _exact(wanted: str, said: str) -> float:
    return float(wanted.strip().lower() == said.strip().lower())


def _contains(wanted: str, said: str) -> float:
    return float(wanted.strip().lower() in said.lower())


def _f1(wanted: str, said: str) -> float:
    first, second = wanted.lower().split(), said.lower().split()
    shared = sum(min(first.count(word), second.count(word)) for word in set(first))
    return 2 * shared / (len(first) + len(second)) if shared else 0.0


_SCORES: dict[str, Callable[[str, str], float]] = {"exact": _exact, "contains": _contains, "f1": _f1}


@contextlib.contextmanager
def _counted(metric: Metric, tell: Callable[[], None]) -> Iterator[Metric]:
    def counted(*given: Any) -> float:
        tell()
        return metric(*given)

    yield counted


def compile_program(
    program: Program,
    trainset: list[Any],
    metric: Metric,
    optimizer: str,
    limits: dict[str, int],
    tell: Callable[[], None],
) -> Any:
    """A module like the program's with demonstrations; the program itself stays as it is."""
    if optimizer == "labeled_few_shot":
        return dspy.LabeledFewShot(k=limits["demos"]).compile(program.module, trainset=trainset)
    with _counted(metric, tell) as counted:
        maker = dspy.BootstrapFewShot(
            metric=counted,
            max_bootstrapped_demos=limits["demos"],
            max_labeled_demos=limits["labeled"],
            max_rounds=limits["rounds"],
            max_errors=len(trainset),
        )
        return maker.compile(program.module, trainset=trainset)
