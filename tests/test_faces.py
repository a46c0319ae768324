"""docs/reference/run-code.md: each name of its table is there, under every face, and nothing is left out."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from bridgehold.bridges.manifest_file import parse_manifest
from bridgehold.client.client import Client
from bridgehold.client.processes import Process
from bridgehold.client.session import ClientSession
from bridgehold.client.session_files import SessionFiles
from bridgehold.client.sync import SyncClient
from bridgehold.client.sync_session import SyncFiles, SyncProcess, SyncSession
from bridgehold.faces.http.openapi import document
from hostile.stage import ROOT

PAGE = (ROOT / "docs/reference/run-code.md").read_text()
COMMANDS = (ROOT / "docs/reference/cli.md").read_text()
PYTHON = ROOT / "src/bridgehold/bridges/shipped/python"
KINDS: dict[str, tuple[type[Any], type[Any]]] = {
    "client": (Client, SyncClient),
    "session": (ClientSession, SyncSession),
    "session.files": (SessionFiles, SyncFiles),
    "process": (Process, SyncProcess),
}
GENERAL = {"call", "run"}
"""Of a session, for any operation of any bridge."""


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def typed(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


def named_in_python() -> Iterator[tuple[str, str, list[str]]]:
    for row in rows():
        for text in typed(row[1]):
            if found := re.fullmatch(r"((?:client|session|process)(?:\.files)?)\.(\w+)\((.*)\)", text):
                yield found[1], found[2], re.findall(r"(\w+)=", found[3])


def test_each_name_of_pythons_is_there_awaited_and_waited_for_with_the_same_parameters() -> None:
    named = list(named_in_python())
    for place, name, parameters in named:
        awaited, waited = (inspect.signature(getattr(kind, name)) for kind in KINDS[place])
        assert set(parameters) <= awaited.parameters.keys(), (place, name)
        own = [list(one.parameters)[1:] for one in (awaited, waited)]
        assert own[0] == own[1], (place, name)
    for place in ("session", "session.files", "process"):
        public = {name for name, one in vars(KINDS[place][0]).items() if callable(one) and name[0] != "_"}
        told = {name for found, name, _ in named if found == place}
        assert public - GENERAL <= told, place


def test_each_path_is_in_the_openapi_document_and_each_operation_in_the_table() -> None:
    operations = parse_manifest((PYTHON / "bridge.toml").read_text(), PYTHON).operations
    described = [
        {
            "name": name,
            "summary": one.summary,
            "arguments": one.arguments,
            "result": one.result,
            "stream": one.stream,
            "granted": True,
        }
        for name, one in operations.items()
    ]
    paths = msgspec.to_builtins(document([{"name": "python", "operations": described}])["paths"])
    told = [text.split(" ") for row in rows() for text in typed(row[2])]
    for method, path in told:
        assert method.lower() in paths[path], path
    run = {path.removeprefix("/v1/run/python/") for _, path in told if path.startswith("/v1/run/python/")}
    assert run == set(operations)


def test_each_command_is_there_with_its_options() -> None:
    operations = parse_manifest((PYTHON / "bridge.toml").read_text(), PYTHON).operations
    for row in rows():
        commands = [text for text in typed(row[3]) if text.startswith("bridgehold ")]
        assert commands or "`[tools]`" in row[3], row
        for text in commands:
            words = text.split(" ")
            options = [word for word in words if word.startswith("--")]
            names = [word for word in words if not word.startswith("--")]
            if names[1] == "run":
                assert all(one.removeprefix("python:") in operations for one in names[2:]), text
                names = names[:2]
            acts = [names.pop()] if names[1] == "files" else []
            heading = f"## {' '.join(names)}\n"
            assert COMMANDS.count(heading) == 1, text
            said = COMMANDS.split(heading)[1].split("\n## ")[0]
            assert all(f"`{one}`" in said for one in options), text
            assert all(re.search(rf"\b{act}\b", said) for act in acts), text
