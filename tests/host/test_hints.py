"""Each command that a message names is one, with the options that the message gives it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from bridgehold.errors import DeniedError
from bridgehold.faces.cli.commands import app
from bridgehold.faces.render import print_error

SOURCE = Path(__file__).parents[2] / "src"
DOCS = Path(__file__).parents[2]
_NAMED = re.compile(r"`(bridgehold(?: [^`\n]*)?)`")
_PLAIN = re.compile(r"(?<![`\w./-])(bridgehold(?: [a-z-]+)+)")
"""Outside of backquotes, in what a message gives as its remedy."""
_RUN = re.compile(r"^\s*(?:\$ )?(bridgehold .*)$", re.MULTILINE)
OPEN = "{"
"""What a message fills in stands there in braces, or in capitals."""


def texts(file: Path) -> list[tuple[str, str]]:
    """(place, text) of every string in a module; what is filled in is ``{}``."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
            found.append((f"{file.name}:{node.lineno}", text))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append((f"{file.name}:{node.lineno}", node.value))
    return found


def named() -> list[tuple[str, str]]:
    return [
        (place, match[1])
        for file in sorted((SOURCE / "bridgehold").rglob("*.py"))
        for place, text in texts(file)
        for match in _NAMED.finditer(text)
    ]


def remedies() -> list[tuple[str, str]]:
    """(place, text) of what is given as a hint or a remedy."""
    found = []
    for file in sorted((SOURCE / "bridgehold").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            given = {}
            if isinstance(node, ast.keyword):
                given = {node.arg or "": node.value}
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                given = {node.targets[0].id: node.value}
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                given = {node.target.id: node.value}
            for name, value in given.items():
                if re.search("hint|remedy", name, re.IGNORECASE):
                    found += [(f"{file.name}:{value.lineno}", text) for text in _strings(value)]
    return found


def _strings(value: ast.expr) -> list[str]:
    parts = [p.value for p in ast.walk(value) if isinstance(p, ast.Constant) and isinstance(p.value, str)]
    return [" ".join(parts)]


def fault(line: str) -> str:
    """What is wrong with a command line that a person is told to write; empty if nothing.

    Of ``bridgehold audit tail | verify`` each is looked at.
    """
    first, *others = re.split(r"\s*\|\s*", line.partition("…")[0])
    lines = [first, *(f"{first.rpartition(' ')[0]} {other}" for other in others if other)]
    return next(filter(None, map(_fault, lines)), "")


def _fault(line: str) -> str:
    command: Any = app
    for part in line.split()[1:]:
        if command.context_settings.get("ignore_unknown_options") and part.startswith("'"):
            break  # a program's own text and arguments
        if part == "--":
            break  # after it come a program and its arguments
        word = part.strip(".,;:()'\"")
        children = getattr(command, "commands", None)
        if children is not None and re.fullmatch(r"[a-z-]+", word) and not word.startswith("-"):
            if word not in children:
                return f"there is no {word!r}"
            command = children[word]
        elif word.startswith("--"):
            options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            if word.partition("=")[0] not in {*options, "--help", "--version"}:
                return f"{word!r} is no option of it"
    return ""


def test_every_command_that_a_message_names_exists() -> None:
    plain = [(place, found) for place, text in remedies() for found in _PLAIN.findall(text)]
    lines = named() + plain
    assert len(lines) > 60, "the messages are not found any more"
    assert plain
    wrong = {f"{place}: {line}": fault(line) for place, line in lines}
    assert {line: why for line, why in wrong.items() if why} == {}


def test_every_command_of_the_documents_exists() -> None:
    wrong = {}
    for file in [DOCS / "README.md", *sorted((DOCS / "docs").rglob("*.md"))]:
        text = file.read_text(encoding="utf-8")
        for line in [*_NAMED.findall(text), *_RUN.findall(text)]:
            if why := fault(line):
                wrong[f"{file.name}: {line}"] = why
    assert wrong == {}


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("bridgehold audit verify --key FILE", True),
        ("bridgehold audit verify --nothing", False),
        ("bridgehold nothing", False),
        ("bridgehold bridge nothing {}", False),
        ("bridgehold run {}:execute --args '{}'", True),
        ("bridgehold audit tail | verify", True),
        ("bridgehold audit tail | nothing | verify", False),
    ],
)
def test_the_check_sees_what_is_wrong(line: str, right: bool) -> None:
    assert (fault(line) == "") is right


@pytest.mark.parametrize(
    ("hint", "remedy"), [("", []), ("No bridge has it. ", ["  remedy No bridge has it."])]
)
def test_the_way_to_the_story_is_shown_once(
    capsys: pytest.CaptureFixture[str], hint: str, remedy: list[str]
) -> None:
    print_error(DeniedError("no", hint=f"{hint}bridgehold why i-1.2", event="i-1.2"), as_json=False)
    assert capsys.readouterr().err.splitlines() == ["denied: no", *remedy, "  more   bridgehold why i-1.2"]
