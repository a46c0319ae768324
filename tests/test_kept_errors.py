"""An error that was raised holds its frames, and their data: none is kept, or raised where others wait, as it is."""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import bridgehold
from bridgehold.errors import BridgeholdError, LimitError

ROOT = Path(bridgehold.__file__).parent
OTHERS = {
    "client/connection.py": "what the caller's own function raised, raised where that caller waits",
    "faces/http/statuses.py": "the error that a refusal is made of, before either is raised",
    "faces/legacy/pipes.py": "a text",
    "faces/cli/attached.py": "an OSError of a program that is about to end by it",
    "sandbox/launcher/service.py": "of one worker, until that has ended it: its frames are the launcher's own",
}


def kept(tree: ast.AST) -> Iterator[int]:
    """Lines where a name that `except` has bound becomes an attribute, or any name an awaiter's error."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.name:
            for one in ast.walk(node):
                value = one.value if isinstance(one, (ast.Assign, ast.AnnAssign)) else None
                places = one.targets if isinstance(one, ast.Assign) else [getattr(one, "target", None)]
                if isinstance(value, ast.Name) and value.id == node.name:
                    yield from (one.lineno for place in places if isinstance(place, ast.Attribute))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "set_exception":
            if not isinstance(node.args[0], (ast.Call, ast.IfExp)):
                yield node.lineno
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            raised = node.value.id in ("error", "failure", "fault", "defect")
            if raised and any(isinstance(place, ast.Attribute) for place in node.targets):
                yield node.lineno


def test_nobody_keeps_an_error_with_its_frames() -> None:
    found = {}
    for path in ROOT.rglob("*.py"):
        name = str(path.relative_to(ROOT))
        if (
            "shipped" not in name
            and "assets" not in name
            and (lines := sorted(set(kept(ast.parse(path.read_text())))))
        ):
            found[name] = lines
    assert found.keys() <= OTHERS.keys(), f"`error.bare()`, or `error.fact()` and `from_info`: {found}"


def test_what_is_bare_holds_no_frame() -> None:
    class Data:
        pass

    def read(data: Data) -> None:
        raise ValueError(data)

    def fail() -> None:
        try:
            read(Data())
        except ValueError as error:
            raise LimitError("too much") from error

    caught: BridgeholdError | None = None
    try:
        fail()
    except LimitError as error:
        caught = error.bare()
    assert caught is not None
    assert (caught.code, caught.message, sys.exception()) == ("limit", "too much", None)
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Data)]
