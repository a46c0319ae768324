"""Programs as data: how each was made, and its state. No code is in it, and reading it runs none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from dspy_programs import Program, make_program

from bridgehold_sdk import InvalidInput

_FORM = 1
_MOST_BYTES = 16 * 1024 * 1024
MEDIA_TYPE = "application/vnd.bridgehold.dspy-program+json"


def pack(program: Program) -> dict[str, Any]:
    """A program as JSON: how it was made, and what optimising has changed."""
    return {"v": _FORM, "recipe": program.recipe, "state": program.module.dump_state()}


def unpack(saved: dict[str, Any], tools: Callable[[Any], Any]) -> Program:
    """`tools` finds what a recipe names. Raises `InvalidInput` where state and recipe don't fit."""
    program = make_program(dict(saved["recipe"]), tools(saved["recipe"].get("tools")))
    try:
        program.module.load_state(saved["state"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"the saved state does not fit its recipe: {error!r}") from error
    program.compiled = any(predictor.demos for predictor in program.module.predictors())
    program.lm = str(saved["recipe"].get("lm") or "")
    return program


def write(saved: dict[str, Any]) -> bytes:
    """As an artifact keeps it."""
    return json.dumps(saved, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def read(data: bytes) -> dict[str, Any]:
    """What `write` wrote. Raises `InvalidInput` for anything else."""
    if len(data) > _MOST_BYTES:
        raise InvalidInput(f"a saved program has at most {_MOST_BYTES} bytes")
    try:
        saved = json.loads(data.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the artifact is no saved program: {error}") from error
    fits = isinstance(saved, dict) and set(saved) == {"v", "recipe", "state"} and saved["v"] == _FORM
    if not (fits and isinstance(saved["recipe"], dict) and isinstance(saved["state"], dict)):
        raise InvalidInput("the artifact is no saved program")
    found: dict[str, Any] = saved
    return found
