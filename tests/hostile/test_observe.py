"""What an operator sees and does while a host runs: figures, profiles, `top`, kill and drain."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, get_args

import pytest

from bridgehold import BridgeholdError
from bridgehold.faces.cli.commands import _function
from bridgehold.faces.cli.known import typed_tenant
from bridgehold.faces.cli.tree import TREE, Command, Group
from hostile.stage import Stage, stage
from waiting import until

KIND = "root" if os.getuid() == 0 else "self"
OPERATOR = '[principals.tester]\nuids = [{uid}]\ntenants = ["*"]\noperator = true\n'


@pytest.fixture(scope="module")
def watched() -> Iterator[Stage]:
    with stage(KIND, "fork", first=OPERATOR.format(uid=os.getuid())) as ready:
        yield ready


def run(stage: Stage, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(stage.layout.config.parent)}
    command = [sys.executable, "-m", "bridgehold", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def figure(text: str, start: str) -> float:
    return next((float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(start)), 0.0)


def test_commands_starts_and_failures_are_counted_and_no_callers_text_is_a_label(watched: Stage) -> None:
    name = watched.plain
    with watched.session() as session:
        for _ in range(3):
            session.run("act", {"code": "sum(range(100_000))"})
        with pytest.raises(BridgeholdError):
            session.run("act", {"code": "1 / 0"})
    for strange in (f"{name}:no_such_thing", "nobody:anything"):
        with pytest.raises(BridgeholdError):
            watched.client.run(strange, {})
    text = run(watched, "metrics").stdout
    label = f'{{bridge="{name}",code="ok",operation="act"}}'
    assert figure(text, f"bridgehold_commands_total{label}") == 3
    assert figure(text, f'bridgehold_commands_total{{bridge="{name}",code="application"') == 1
    assert figure(text, f'bridgehold_command_seconds_count{{bridge="{name}",operation="act"}}') == 4
    assert figure(text, f'bridgehold_command_cpu_seconds_total{{bridge="{name}",operation="act"}}') > 0
    assert figure(text, f'bridgehold_start_seconds_count{{bridge="{name}",start="fork"}}') == 1
    assert figure(text, "bridgehold_refused_total") == 2
    assert "no_such_thing" not in text
    assert "nobody" not in text
    (row,) = [one for one in watched.client.request("figures") if one["operation"] == f"{name}:act"]
    assert (row["commands"], row["failed"]) == (4, 1)
    assert 0 < row["p50_ms"] <= row["p99_ms"]


MISSPELT = {
    "logs session": ("logs", "mien"),
    "files session": ("files", "mien", "ls"),
    "profile session": ("profile", "mien", "--seconds", "0.1"),
    "sessions kill session": ("sessions", "kill", "mien"),
    "sessions end": ("sessions", "--end", "mien"),
    "sessions extend": ("sessions", "--extend", "mien", "--limit", "session=10m"),
    "resources kind": ("resources", "--kind", "progam"),
}
ELSEWHERE = {
    "run session": "is opened",
    "audit query session": "test_words",
    "policy learn session": "of an audit",
}
TENANTS = {"audit query tenant", "audit report tenant", "usage tenant"}
"""Of a folder that may be another host's: what is in it is what there is."""


def parameters(entries: Iterable[Command | Group], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for entry in entries:
        if entry.place:
            for name, one in inspect.signature(_function(entry.place), eval_str=True).parameters.items():
                yield " ".join((*path, entry.name, name)), one.annotation
        if isinstance(entry, Group):
            yield from parameters(entry.commands, (*path, entry.name))


def test_a_misspelt_name_is_told_with_the_nearest_wherever_one_is_typed(watched: Stage) -> None:
    every = dict(parameters(entry for entries in TREE.values() for entry in entries))
    named = {name for name in every if name.rpartition(" ")[2] in ("session", "kind", "end", "extend")}
    assert named - {"audit query kind"} == MISSPELT.keys() | ELSEWHERE.keys()
    loose = {
        name for name, kind in every.items()
        if name.endswith(" tenant") and typed_tenant not in [getattr(one, "callback", None) for one in get_args(kind)]
    }  # fmt: skip
    assert loose <= TENANTS
    with watched.client.session(watched.plain, name="mine"):
        for words in MISSPELT.values():
            done = run(watched, *words)
            near = "program" if "--kind" in words else "mine"
            assert done.returncode == 6, done.stderr
            assert f"(nearest: {near!r})" in done.stderr, words


def test_a_profile_names_the_line_that_takes_the_time_while_it_runs(watched: Stage) -> None:
    code = "import time\ndef busy():\n    end = time.monotonic() + 5\n    while time.monotonic() < end: pass\nbusy()"
    with watched.session() as session:
        thread = threading.Thread(target=session.run, args=("act", {"code": code}))
        thread.start()
        until(lambda: any(one["state"] == "busy" for one in watched.client.request("sessions", {})))
        found = watched.client.request("session.profile", {"session": session.id, "seconds": 2})
        thread.join()
        shown = run(watched, "profile", session.id, "--seconds", "0.2")
    assert "samples in" in shown.stdout
    assert found["samples"] > 1
    assert found["lines"][0]["line"].startswith("busy (")
    assert found["lines"][0]["share"] > 0.5


def test_top_shows_sessions_and_operations(watched: Stage) -> None:
    with watched.session() as session:
        session.run("act", {"code": "1"})
        lines = run(watched, "top", "--looks", "2", "--every", "0.2", "--json").stdout.splitlines()
        assert len(lines) == 2
        look = json.loads(lines[1])
        assert look["sessions"][0]["bridge"] == watched.plain
        assert f"{watched.plain}:act" in {one["operation"] for one in look["operations"]}
        shown = run(watched, "top", "--looks", "1").stdout
        assert "operations, by time spent" in shown
        assert watched.plain in shown


def test_kill_ends_what_runs_and_the_caller_learns_it(watched: Stage) -> None:
    errors: list[str] = []

    def forever() -> None:
        try:
            session.run("act", {"code": "while True: pass"})
        except BridgeholdError as error:
            errors.append(error.code)

    with watched.session() as other:
        other.run("act", {"code": "1"})
        watched.client.request("session.close", {"session": other.id, "reason": "idle time"})
    with watched.session() as session:
        thread = threading.Thread(target=forever)
        thread.start()
        until(lambda: any(one["state"] == "busy" for one in watched.client.request("sessions", {})))
        assert run(watched, "sessions", "kill", session.id).returncode == 0
        thread.join(30)
    assert errors == ["session_ended"]
    said = {event["session"]: event["reason"] for event in watched.events("session.closed")}
    assert said[other.id] == "by tester: idle time"
    assert said[session.id].startswith("by tester: ")
    missing = run(watched, "sessions", "kill", "nobody")
    assert (missing.returncode != 0, "Traceback" in missing.stderr) == (True, False)


def test_drain_lets_what_runs_finish_and_refuses_what_is_new(watched: Stage) -> None:
    results: list[object] = []
    other = watched.bridge()
    with watched.session(other) as bystander, watched.session() as session:
        thread = threading.Thread(
            target=lambda: results.append(
                session.run("act", {"code": "import time; time.sleep(1.5); result['done'] = 1"})
            )
        )
        thread.start()
        until(lambda: any(one["state"] == "busy" for one in watched.client.request("sessions", {})))
        draining = threading.Thread(
            target=run, args=(watched, "sessions", "drain", "--bridge", watched.plain)
        )
        draining.start()

        def refused() -> str:
            try:
                session.call("act", {"code": "1"})
            except BridgeholdError as error:
                return error.code
            return ""

        code = until(refused)
        thread.join(60)
        draining.join(60)
        assert "1 drained" in run(watched, "sessions", "resume", "--bridge", watched.plain).stdout
        assert results == [{"done": 1}]
        assert code == "session_ended"
        assert bystander.run("act", {"code": "result['x'] = 1"}) == {"x": 1}
    closed = [event for event in watched.events("session.closed") if event["reason"] == "by tester: drained"]
    assert len(closed) == 1


WORDS = "boom\n  remedy curl evil\n  more   bridgehold why e-1\x1b[2J\x9b2J\u202egnp\u2028\x07\U000e0041"


def shown(stage: Stage, *arguments: str) -> str:
    """What a terminal gets of a command, both streams."""
    near, far = os.openpty()
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(stage.layout.config.parent)}
    environment |= {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "bridgehold", *arguments]
    process = subprocess.Popen(command, env=environment, stdin=far, stdout=far, stderr=far)
    os.close(far)
    data = b""
    try:
        while piece := os.read(near, 65536):
            data += piece
    except OSError:  # the terminal's other side is closed
        os.close(near)
    process.wait(60)
    return data.decode()


def test_no_word_of_a_guest_acts_on_a_terminal_or_looks_like_a_line_of_ours(watched: Stage) -> None:
    command = f"{watched.plain}:act"
    raises = json.dumps({"code": f"raise ValueError({WORDS!r})"})
    gives = json.dumps({"code": f"result['x'] = {WORDS!r}; print({WORDS!r})"})
    with watched.session() as session:
        texts = [
            shown(watched, "run", command, "--args", raises, "--session", session.id),
            shown(watched, "run", command, "--args", gives, "--session", session.id),
            shown(watched, "run", command, "--args", raises, "--session", session.id, "--json"),
            shown(watched, "logs", session.id),
            shown(watched, "audit", "export"),
            shown(watched, "audit", "tail"),
        ]
    for text in texts:
        assert "boom" in text
        assert [c for c in text if c not in "\r\n\t" and not c.isprintable()] == []
    lines = texts[0].splitlines()
    assert [line for line in lines if line.startswith(("  remedy", "  where", "  more"))] == lines[-2:]
    assert json.loads(texts[2])["code"] == "application"
    forged = shown(watched, "run", command, "--args", json.dumps({"code": "0", "x rule=operations": 1}))
    assert "x rule=operations" in forged
    refused = next(
        line for line in shown(watched, "audit", "tail", "-n", "3").splitlines() if "unknown" in line
    )
    assert refused.count(" rule=") - refused.count("x rule=") == 1
