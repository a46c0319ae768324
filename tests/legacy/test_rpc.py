"""Workers that speak gRPC, as today's Snakepit starts them: from the ready file to the end, and hostile ones."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from hostile.stage import Stage
from legacy.conftest import PROFILES, SCRIPTS, foreign_stage, make_shim
from waiting import until

sys.path.append(str(SCRIPTS))
import rpcwire
from rpcwire import field, pair

BUNDLE = 33
"""Sockets that are made in a worker's network before it runs: where it calls back, and those that lead to it."""
TOOLS = '[tools]\nallow = ["*"]\ndeny = ["forbidden"]\n'


@pytest.fixture(scope="module")
def host() -> Iterator[Stage]:
    """With HTTP/2 for the worker beside it: its environment has nothing."""
    with foreign_stage() as ready:
        for name in ("h2", "hpack", "hyperframe"):
            found = importlib.util.find_spec(name)
            assert found is not None
            assert found.origin is not None
            shutil.copytree(Path(found.origin).parent, ready.log / name)
        for name in PROFILES.values():
            policy = ready.layout.policies / f"{name}.toml"
            text = policy.read_text().replace("[sandbox]", TOOLS + "[sandbox]", 1)
            policy.write_text(text.replace(':forbidden"]', f':forbidden", "{name}:*:os.*"]'))
        yield ready


class Beam:
    """What a BEAM does with one worker: serves it, starts it, waits for its file, dials it."""

    def __init__(
        self, host: Stage, program: Path, folder: Path, port: int = 0, held: threading.Event | None = None
    ) -> None:
        """`port`: another's, that the worker is told to call back at. `held`: no ping is answered before it."""
        self.asked: list[tuple[str, bytes]] = []
        self.held = held
        self.deaf = False
        self.port, self.connections = rpcwire.listen(self.serve)
        self.port = port or self.port
        self.ready = folder / "ready"
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "SNAKEPIT_READY_FILE": str(self.ready),
            "SNAKEPIT_LOG_LEVEL": "debug",
            "OPENAI_API_KEY": "sk-of-the-beam-0123456789abcdef",
            "SNAKEPIT_API_TOKEN": "also-a-secret-0123456789",
            "DATABASE_URL": "postgres://secret",
            "SNAKEPIT_STORE": "postgres://beam:secret@127.0.0.1/a",
        }
        script = str(host.log / "grpc_server.py")
        run = ("--port", "0", "--elixir-address", f"127.0.0.1:{self.port}", "--snakepit-run-id", "run1")
        self.argv = [str(program), script, "--adapter", "a.B", *run]
        self.stderr = (folder / "stderr").open("w+b")
        self.process = subprocess.Popen(
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            env=self.environment,
        )

    def serve(self, name: str, message: bytes) -> Iterator[bytes]:
        self.asked.append((name, message))
        if name == "Ping" and self.held is not None:
            self.held.wait(60)
        if name == "Heartbeat" and self.deaf:
            raise TimeoutError
        yield field(1, 1) + (field(2, field(2, b"42")) if name == "ExecuteElixirTool" else b"")

    def dial(self) -> rpcwire.Connection:
        until(lambda: self.ready.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said()
        return rpcwire.dial(int(self.ready.read_text()))

    def said(self) -> str:
        self.stderr.seek(0)
        return self.stderr.read().decode()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.stderr.close()


@pytest.fixture
def beams(host: Stage, tmp_path: Path) -> Iterator[Callable[..., Beam]]:
    made: list[Beam] = []

    def start(profile: str, port: int = 0, held: threading.Event | None = None) -> Beam:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Beam(host, make_shim(host, folder / "venv", profile), folder, port, held))
        return made[-1]

    yield start
    for beam in made:
        beam.end()


def run(connection: rpcwire.Connection, tool: str, session: str = "s1", /, **given: object) -> Any:
    """The result of a tool, or the reply where it gave none."""
    reply = ask(connection, tool, session, **given)
    if reply.status:
        return reply
    found = dict(rpcwire.parse(reply.messages[0]))
    return json.loads(dict(rpcwire.parse(found[2]))[2]) if found[1] else found[3].decode()


def ask(connection: rpcwire.Connection, tool: str, session: str, /, **given: object) -> rpcwire.Reply:
    message = field(1, session) + field(2, tool)
    for name, value in given.items():
        message += pair(3, name, field(1, "json") + field(2, json.dumps(value)))
    return connection.call("ExecuteTool", message)


def told(host: Stage, kind: str, **facts: object) -> list[dict[str, object]]:
    """The events of `kind` with these facts, once there is one."""
    return until(
        lambda: [
            one for one in host.events(kind) if all(one.get(name) == value for name, value in facts.items())
        ]
    )


@pytest.mark.parametrize("start", PROFILES)
def test_a_worker_starts_answers_calls_back_and_ends(
    host: Stage, beams: Callable[[str], Beam], start: str
) -> None:
    name = PROFILES[start]
    beam = beams(name)
    worker = beam.dial()
    assert dict(rpcwire.parse(worker.call("Ping").messages[0]))[1] == b"Pong from Python"
    assert beam.asked[0][0] == "Ping"
    assert run(worker, "echo", text="grüße") == {"text": "grüße"}
    assert ("InitializeSession", field(1, "s1")) in beam.asked
    (intent,) = told(host, "command.intent", operation=f"{name}:echo")
    assert "grüße" in str(intent["arguments_preview"])
    assert told(host, "command.outcome", intent=intent["ref"])[0]["application_ok"] is True

    called = run(worker, "call_back", tool="calc")
    assert called["status"] == 0
    tool = told(host, "tool.intent", tool="calc")[-1]
    assert tool["command"]
    assert told(host, "tool.outcome", intent=tool["ref"])[0]["ok"] is True

    facts = run(worker, "facts")
    assert facts["argv"][0].endswith("/grpc_server.py")
    assert facts["environment"]["SNAKEPIT_LOG_LEVEL"] == "debug"
    assert not any("secret" in value or "beam" in value for value in facts["environment"].values())
    assert not any(path.startswith("socket:") for path in facts["descriptors"][:3])

    opened = told(host, "session.opened", session=intent["session"])[0]
    secrets = ["DATABASE_URL", "OPENAI_API_KEY", "SNAKEPIT_API_TOKEN", "SNAKEPIT_STORE"]
    assert opened["kept_back"][: len(secrets)] == secrets
    assert "secret" not in str(opened)

    _, stream = worker.begin(
        "ExecuteStreamingTool",
        field(1, "s1")
        + field(2, "many")
        + b"".join(pair(3, n, field(2, str(v))) for n, v in (("count", 40), ("size", 30_000))),
    )
    assert stream.done.wait(30)
    assert (stream.status, [len(dict(rpcwire.parse(m))[2]) for m in stream.messages]) == (0, [30_000] * 40)
    assert run(worker, "fail") == "no such thing"
    until(lambda: told(host, "command.outcome", reason="no such thing"))

    beam.process.send_signal(signal.SIGTERM)
    assert beam.process.wait(30) == 0


@pytest.mark.parametrize("start", ["fork"])
def test_what_is_refused_says_by_which_rule_and_event(
    host: Stage, beams: Callable[[str], Beam], start: str
) -> None:
    name = PROFILES[start]
    worker = beams(name).dial()
    reply = ask(worker, "forbidden", "s1")
    assert (reply.status, reply.headers["bridgehold-rule"]) == (7, "operations.deny%5B0%5D")
    assert told(host, "command.refused", ref=reply.headers["bridgehold-event"])
    key = ask(worker, "echo", "s1", api_key="sk-proj-0123456789abcdefghijklmnopqrstuvwxyz")
    assert (key.status, key.headers["bridgehold-rule"]) == (7, "inline_keys")
    for odd in (  # what nobody has looked through may hold one
        json.dumps([[]] * 60_000).encode(),
        b"\x08\x05",
        b"\x0a\x03\xff\xfe\xfd",
    ):
        message = field(1, "s1") + field(2, "echo") + pair(3, "big", field(1, "json") + field(2, odd))
        unseen = worker.call("ExecuteTool", message)
        assert (unseen.status, unseen.headers["bridgehold-rule"]) == (7, "inline_keys")
        assert "'big'" in unquote(unseen.headers["grpc-message"])
    hidden = field(2, field(1, "key sk-proj-0123456789abcdefghijklmnopqrstuvwxyz"))
    plain = worker.call("ExecuteTool", field(1, "s1") + field(2, "echo") + pair(3, "api_key", hidden))
    assert (plain.status, plain.headers["bridgehold-rule"]) == (7, "inline_keys")
    assert len(run(worker, "echo", text="word " * 80_000)["text"]) == 400_000
    unknown = worker.call("RegisterTools", field(1, "s1"))
    assert (unknown.status, unknown.headers["bridgehold-rule"]) == (7, "rpc")
    twice = worker.call("ExecuteTool", field(1, "s1") + field(2, "echo") + field(2, "forbidden"))
    assert (twice.status, "stands twice" in twice.headers["grpc-message"]) == (3, True)
    large = worker.call("ExecuteTool", field(1, "s1") + field(2, "echo") + field(9, b"x" * (1 << 20)))
    assert large.status == 8
    assert run(worker, "echo", n=1) == {"n": 1}


def test_a_call_of_snakebridges_is_decided_on_by_what_it_reaches(
    host: Stage, beams: Callable[[str], Beam]
) -> None:
    name = PROFILES["fork"]
    worker = beams(name).dial()
    allowed = {"python_module": "math", "function": "sqrt"}
    assert run(worker, "snakebridge.call", "s1", **allowed) == allowed
    assert told(host, "command.intent", operation=f"{name}:snakebridge_call:math.sqrt")
    for given, rule in (
        ({"python_module": "os", "function": "system"}, "operations.deny%5B1%5D"),
        ({"call_type": "dynamic", "module_path": "os", "function": "system"}, "operations.deny%5B1%5D"),
        ({"python_module": "math", "module": "os", "function": "system"}, "target"),
    ):
        for tool in ("call", "stream"):
            reply = ask(worker, f"snakebridge.{tool}", "s1", **given)
            assert (reply.status, reply.headers["bridgehold-rule"]) == (7, rule)
            (refused,) = told(host, "command.refused", ref=reply.headers["bridgehold-event"])
            assert ("os.system" in str(refused["operation"])) == (rule != "target")


@pytest.mark.parametrize("start", ["fork"])
def test_a_hostile_worker_reaches_no_other_session_and_stops_nobody(
    host: Stage, beams: Callable[[str], Beam], start: str
) -> None:
    beam, other = beams(PROFILES[start]), beams(PROFILES[start])
    worker, neighbour = beam.dial(), other.dial()
    assert run(neighbour, "echo", "theirs", n=1) == {"n": 1}
    for name in ("CleanupSession", "GetSession", "Heartbeat", "GetExposedElixirTools"):
        found = run(worker, "ask", name=name, message=field(1, "theirs").hex())
        assert (found["status"], found["rule"]) == (7, "session"), name
        assert told(host, "tool.refused", ref=found["event"])
    registers = field(1, "s1") + field(3, "worker_1_of_the_pool")
    assert run(worker, "ask", name="RegisterTools", message=registers.hex())["status"] == 3
    own = field(1, "s1") + field(3, "python-140001")
    assert run(worker, "ask", name="RegisterTools", message=own.hex())["status"] == 0
    assert run(worker, "ask", name="ExecuteTool", message=field(1, "s1").hex())["rule"] == "rpc"
    assert run(worker, "ask", name="", path="/other.Service/Do", message="")["rule"] == "rpc"
    assert run(worker, "call_back", tool="forbidden")["rule"] == "tools.deny%5B0%5D"
    twice = field(1, "s1") + field(1, "theirs")
    assert run(worker, "ask", name="CleanupSession", message=twice.hex())["status"] == 3
    asked = [
        one for one in beam.asked if b"theirs" in one[1] or b"forbidden" in one[1] or b"worker_1" in one[1]
    ]
    assert asked == []
    assert run(worker, "broken", data=(b"GET / HTTP/1.1\r\n\r\n" * 100).hex())["status"] == 0
    assert told(host, "protocol.violation")
    assert run(worker, "flood", streams=300)["status"] == 0
    assert run(neighbour, "echo", "theirs", n=2) == {"n": 2}
    assert worker.call("Ping").status == 0


def test_telemetry_streams_both_ways_within_bounds_and_apart_from_calls(
    host: Stage, beams: Callable[[str], Beam]
) -> None:
    beam = beams(PROFILES["fork"])
    worker = beam.dial()
    stream, told_back = worker.begin("StreamTelemetry", end=False)
    seen = [field(1, "python.started")]
    until(lambda: told_back.messages == seen)  # it speaks first, while the other side's stream is open
    for number in range(200):
        seen.append(field(1, f"control-{number}"))
        worker.send(stream, rpcwire.framed(seen[-1]))
    until(lambda: told_back.messages == seen)
    assert run(worker, "echo", n=1) == {"n": 1}
    worker.send(stream, rpcwire.framed(field(1, "last")), end=True)
    assert told_back.done.wait(30)
    assert (told_back.status, told_back.messages) == (0, [*seen, field(1, "last")])

    _, large = worker.begin("StreamTelemetry", field(1, b"x" * 65_536), end=False)
    stream, flood = worker.begin("StreamTelemetry", field(2, 65_536), end=False)
    for reply in (large, flood):
        assert reply.done.wait(30)
        assert (reply.status, "are allowed" in reply.headers["grpc-message"]) == (8, True)
    back = run(worker, "ask", name="StreamTelemetry", message=field(1, "s1").hex())
    assert (back["status"], back["rule"]) == (7, "rpc")
    assert run(worker, "echo", n=2) == {"n": 2}
    events = [one for one in host.events("command.intent") if "elemetry" in str(one["operation"])]
    assert events == []


def descendants(pid: int) -> list[int]:
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
    return children + [below for child in children for below in descendants(child)]


def sockets_inside(host: Stage) -> set[str]:
    """Those that processes of the host hold and that are in no table of this network: a sandbox's."""
    held: set[str] = set()
    for pid in (host.supervisor, *descendants(host.supervisor)):
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    held.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6", "unix", "udp", "netlink")]
    known = {word for table in tables for word in table.split()}
    return {one for one in held if one.startswith("socket:") and one[8:-1] not in known}


@pytest.mark.parametrize("start", PROFILES)
def test_nothing_stays_of_a_worker_however_it_or_its_starter_ends(
    host: Stage, beams: Callable[[str], Beam], start: str
) -> None:
    """Its group is killed; its heartbeats are lost; its starter is gone."""
    until(lambda: not host.client.sessions())
    killed, deaf, left = (beams(PROFILES[start]) for _ in range(3))
    sessions = []
    for beam in (killed, deaf, left):
        worker = beam.dial()
        assert run(worker, "beat", "s1", interval=0.05, most=3) == {}
        until(lambda beam=beam: ("Heartbeat", field(1, "s1")) in beam.asked)
        intent = host.events("command.intent")[-1]
        assert intent["operation"] == f"{PROFILES[start]}:beat"
        sessions.append((beam, worker, intent["session"], beam.ready.read_text()))
    held = sockets_inside(host)
    assert len(held) >= 3 * BUNDLE
    assert os.getpgid(killed.process.pid) == killed.process.pid
    assert worker.call("Ping").status == 0

    os.killpg(killed.process.pid, signal.SIGKILL)
    deaf.deaf = True
    rpcwire.leave(left.port, left.connections)
    assert [one.process.wait(60) for one in (killed, deaf, left)] == [-signal.SIGKILL, 71, 71]
    for beam, dialled, session, port in sessions:
        told(host, "session.closed", session=session)
        assert session not in [one.session for one in host.client.sessions()]
        until(lambda dialled=dialled: dialled.closed)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(port)), 10)
        assert beam.ready.exists() == (beam is killed)  # who is killed takes nothing back
        with pytest.raises(ProcessLookupError):
            os.killpg(beam.process.pid, 0)
    until(
        lambda: len(held - sockets_inside(host)) >= 3 * BUNDLE
    )  # one that waits for the next worker may stay


def test_workers_of_a_tenant_that_start_together_begin_in_turns_and_say_so(
    host: Stage, beams: Callable[..., Beam]
) -> None:
    """What they import takes all processors: many at once would all be late for their pool."""
    until(lambda: not host.client.sessions())  # one that has just been killed may still have its turn
    held = threading.Event()
    at_once = max(2, len(os.sched_getaffinity(0)))
    first = [beams(PROFILES["fork"], held=held) for _ in range(at_once)]
    until(lambda: all(one.asked for one in first))
    late = beams(PROFILES["fork"], held=held)
    until(lambda: "waits for its turn" in late.said())
    assert not late.asked
    held.set()
    assert run(late.dial(), "echo", n=1) == {"n": 1}
    assert not any("turn" in one.said() for one in first)


_OTHER: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": [], "text": True}
_DIALS = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 30) as sock:
    sock.settimeout(30)
    try:
        sock.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes(3) + b"\\x04" + bytes(5))
        print(len(sock.recv(100)))
    except ConnectionError:
        print(0)
"""
_LISTENS = """
import socket
with socket.create_server(("127.0.0.1", 0)) as sock:
    print(sock.getsockname()[1], flush=True)
    sock.accept()
    print("called", flush=True)
"""


def test_another_user_of_the_machine_is_at_neither_of_a_workers_ports(
    host: Stage, beams: Callable[..., Beam]
) -> None:
    """To the host all that comes by a shim is its own user's word: nobody else may say it."""
    program = ["/usr/bin/python3", "-I", "-c"]
    beam = beams(PROFILES["fork"])
    assert run(beam.dial(), "echo", n=1) == {"n": 1}
    dialled = [*program, _DIALS, beam.ready.read_text()]
    assert subprocess.run(dialled, stdout=subprocess.PIPE, check=True, timeout=60, **_OTHER).stdout == "0\n"
    until(lambda: "not this user's" in beam.said())
    assert run(beam.dial(), "echo", n=2) == {"n": 2}

    with subprocess.Popen([*program, _LISTENS], stdout=subprocess.PIPE, **_OTHER) as listens:
        assert listens.stdout is not None
        away = beams(PROFILES["fork"], int(listens.stdout.readline()))
        until(lambda: "does not listen" in away.said())
        listens.kill()
        assert listens.stdout.read() == ""
