"""The fixtures that replay, without any host: what passes, and what a failing test is told.

That they record, and meet a simulated provider, is what the guide does (test_guide.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEADER = {"type": "transcript", "version": 1}
SESSION = {"id": "s-1", "name": "s-1", "bridge": "toy", "tenant": "local"}
TEST = """
import asyncio, pytest

@pytest.mark.bridge("toy")
@pytest.mark.transcript("talk.jsonl")
def test_same(recorded_bridge):
    assert recorded_bridge.run("greet", {"name": "Ada"}) == "Hello, Ada"

@pytest.mark.bridge("toy")
@pytest.mark.transcript("talk.jsonl")
def test_other(recorded_bridge):
    recorded_bridge.run("greet", {"name": "Alan"})

@pytest.mark.bridge("toy")
@pytest.mark.transcript("talk.jsonl")
def test_less(recorded_bridge):
    pass

@pytest.mark.bridge("toy")
@pytest.mark.transcript("talk.jsonl")
def test_own_failure(recorded_bridge):
    assert 1 == 2

@pytest.mark.bridge("toy")
def test_nothing[recorded](recorded_bridge):
    pass

def test_unmarked(recorded_bridge):
    pass

@pytest.mark.bridge("toy")
def test_no_provider(simulated_provider):
    pass

@pytest.mark.transcript("host.jsonl")
def test_client(recorded_client):
    async def run():
        async with recorded_client() as host:
            return [await host.run("toy:a"), await host.run("toy:b")]
    assert asyncio.run(run()) == [1, 2]

@pytest.mark.transcript("host.jsonl", order="any")
def test_host(recorded_host):
    assert recorded_host.run("toy:b") == 2
    assert recorded_host.run("toy:a") == 1
"""


def run_params(operation: str, session: str = "anonymous", **arguments: object) -> dict[str, object]:
    return {
        "operation": operation,
        "arguments": arguments,
        "session": session,
        "tenant": "local",
        "deadline_ms": 0,
        "stream": False,
        "tools": [],
        "parent": "",
    }


def write(file: Path, *calls: tuple[str, dict[str, object], object]) -> None:
    lines: list[object] = [HEADER]
    for number, (method, params, value) in enumerate(calls, 1):
        lines.append({"type": "call", "call": number, "method": method, "params": params})
        lines.append({"type": "result", "call": number, "value": value})
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "test_app.py").write_text(TEST.replace("[recorded]", ""))
    opened = {"bridge": "toy", "tenant": "local", "name": ""}
    write(
        folder / "transcripts/talk.jsonl",
        ("session.open", opened, SESSION),
        ("run", run_params("toy:greet", "s-1", name="Ada"), {"value": "Hello, Ada", "session": "s-1"}),
        ("session.close", {"session": "s-1"}, {"id": "s-1"}),
    )
    write(
        folder / "transcripts/host.jsonl",
        ("run", run_params("toy:a"), {"value": 1, "session": "s-2"}),
        ("run", run_params("toy:b"), {"value": 2, "session": "s-2"}),
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-rA",
        "--tb=short",
        str(folder),
    ]
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(folder / "no-host")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)
    assert not (folder / "no-host").exists()  # nothing was started
    return done.stdout


@pytest.mark.parametrize("name", ["test_same", "test_host", "test_client"])
def test_what_was_recorded_passes_without_a_host(said: str, name: str) -> None:
    assert f"PASSED test_app.py::{name}" in said
    assert f"ERROR test_app.py::{name}" not in said


def test_another_call_fails_with_its_difference(said: str) -> None:
    assert "FAILED test_app.py::test_other" in said
    assert '-    "name": "Ada"' in said
    assert '+    "name": "Alan"' in said
    assert "talk.jsonl:4" in said or "call 2, toy:greet, has other parameters" in said


def test_a_call_that_is_not_made_is_an_error_of_the_test(said: str) -> None:
    assert "ERROR test_app.py::test_less" in said
    assert "call 2 should have been toy:greet, and was session.close" in said


def test_a_test_that_fails_by_itself_is_told_nothing_more(said: str) -> None:
    assert "FAILED test_app.py::test_own_failure" in said
    assert "ERROR test_app.py::test_own_failure" not in said


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("test_nothing", "run pytest with --bridgehold-record"),
        ("test_unmarked", "test_unmarked.jsonl"),
        ("test_no_provider", "provider=True"),
    ],
)
def test_what_is_missing_is_said(said: str, name: str, text: str) -> None:
    assert f"ERROR test_app.py::{name}" in said
    assert text in said
