"""The page that leads into the code names what is there, and all that is there."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from bridgehold.audit.events import event_types

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/explanation/architecture.md"
SOURCE = ROOT / "src/bridgehold"
GLOSSARY = ROOT / "docs/explanation/glossary.md"
LINKS = [
    found
    for page in (PAGE, GLOSSARY)
    for found in re.findall(r"\[`([^`]+)`\]\(\.\./\.\./(src/[^)]+)\)", page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("name", "file"), LINKS, ids=[name for name, _ in LINKS])
def test_each_name_is_in_the_file_that_it_leads_to(name: str, file: str) -> None:
    path = ROOT / file
    assert path.is_file(), file
    if name.endswith(".py"):
        assert file.endswith(name)
        return
    defined = {
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert name in defined or path.stem == name, (name, file)


def test_every_package_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    named = set(re.findall(r"^\| `bridgehold\.(\w+)` \|", text, re.MULTILINE))
    assert named == packages


def test_what_a_newcomer_looks_for_is_said_in_bold() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    for phrase in (
        "A refused command is written",
        "A deadline kills the worker",
        "The key is put in",
        "A fork is attested",
    ):
        assert f"**{phrase}**" in text, phrase


def test_the_index_leads_to_every_page() -> None:
    linked = set(
        re.findall(r"\]\(([a-z-]+/[\w-]+\.md)\)", (ROOT / "docs/README.md").read_text(encoding="utf-8"))
    )
    pages = {
        f"{path.parent.name}/{path.name}"
        for path in (ROOT / "docs").glob("*/*.md")
        if path.parent.name != "adr"
    }
    assert linked == pages


def words_of(identifier: str) -> set[str]:
    """`identifier` itself without leading underscores, and the words that it is made of, in lower case."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)
    return {identifier.lstrip("_"), *(part.lower() for part in parts)}


def test_words_that_the_glossary_has_replaced_are_in_no_identifier() -> None:
    _, _, table = GLOSSARY.read_text(encoding="utf-8").partition("## Words that the code no longer has")
    old = {
        word
        for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
        for word in re.findall(r"`(\w+)`", row)
    }
    assert {"Said", "strangers", "foreigners", "parked", "leash"} <= old
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        names = {path.stem}
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
            if token.type == tokenize.NAME:
                names.add(token.string)
        found |= {f"{path.relative_to(ROOT)}: {name}" for name in names if words_of(name) & old}
    assert not found


def _set_by(function: ast.AST) -> dict[str, int]:
    """Attributes of `self` that a function sets, and where."""
    return {
        node.attr: node.lineno
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def _declared(kind: ast.ClassDef) -> set[str]:
    """What it has from its making on."""
    declared = {
        target.id
        for node in kind.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    makers = (node for node in kind.body if isinstance(node, ast.FunctionDef))
    return declared.union(*(_set_by(one) for one in makers if one.name in ("__init__", "__new__")))


def late_attributes(source: str) -> list[str]:
    """``Class.attribute:line`` of each attribute that appears after its object was made."""
    kinds = {node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)}
    found = []
    for kind in kinds.values():
        bases = [kinds[base.id] for base in kind.bases if isinstance(base, ast.Name) and base.id in kinds]
        declared = set().union(*map(_declared, (kind, *bases)))
        found += [
            f"{kind.name}.{name}:{line}"
            for function in kind.body
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for name, line in _set_by(function).items()
            if name not in declared
        ]
    return found


def test_no_attribute_appears_after_its_object_was_made() -> None:
    late = {
        str(path.relative_to(SOURCE)): late_attributes(path.read_text(encoding="utf-8"))
        for path in SOURCE.rglob("*.py")
        if path.relative_to(SOURCE).parts[:2] != ("bridges", "shipped")  # theirs begin with `open`
    }
    assert {name: found for name, found in late.items() if found} == {}
    assert late_attributes(
        "class A:\n def __init__(self):\n  self.a = 1\n def b(self):\n  self.b = self.a = 2\n"
    ) == ["A.b:5"]
    assert late_attributes("class A:\n a = 1\nclass B(A):\n def b(self):\n  self.a = self.b = 2\n") == [
        "B.b:5"
    ]


def test_each_intent_outcome_and_refusal_is_made_by_one_recorder() -> None:
    """`undone` aside: the journal's client says of an intent that nobody waits for that it was not begun."""
    names = {kind.__name__ for kind in event_types()}
    decided = {name for name in names if name.endswith(("Intent", "Outcome", "Refused"))}
    makers: dict[str, set[str]] = {name: set() for name in decided}
    for path in SOURCE.rglob("*.py"):
        module = str(path.relative_to(SOURCE))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in decided:
                makers[node.func.id].add(module)
    assert {name: sorted(made - {"audit/client.py"}) for name, made in makers.items() if len(made) != 1} == {
        "CommandOutcome": ["host/cell/commands/command_log.py"],
        "EgressOutcome": ["host/cell/gateway/records.py"],
        "ToolOutcome": ["host/cell/tools/records.py"],
    }


LONGEST = 400
"""Lines of a module: one above has more than one subject."""
LONGER: dict[str, str] = {}
"""Modules above that, each with its reason."""


def test_no_module_is_longer_than_its_subject() -> None:
    lines = {
        str(path.relative_to(ROOT / "src")): path.read_bytes().count(b"\n")
        for path in (ROOT / "src").rglob("*.py")
    }
    assert {name: count for name, count in lines.items() if count > LONGEST and name not in LONGER} == {}
    assert [name for name in LONGER if lines.get(name, 0) <= LONGEST] == []
