"""The page that leads into the code names what is there, and all that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/explanation/architecture.md"
SOURCE = ROOT / "src/bridgehold"
LINKS = re.findall(r"\[`([^`]+)`\]\(\.\./\.\./(src/[^)]+)\)", PAGE.read_text(encoding="utf-8"))


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
