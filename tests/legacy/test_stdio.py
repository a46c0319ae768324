"""`bridgehold stdio` as DSPex and Snakepit run it, in front of real sandboxes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hostile.stage import MANIFEST, POLICY, Stage
from legacy.peer import Peer, stdio_command
from waiting import until

CODES = {"crash": 33, "protocol": 34, "session_ended": 37}


@pytest.fixture
def started(host: Stage, tmp_path: Path) -> Iterator[list[Peer]]:
    peers: list[Peer] = []
    yield peers
    for peer in peers:
        peer.kill()


@pytest.fixture
def peer(host: Stage, tmp_path: Path, started: list[Peer]) -> Peer:
    return start(host, tmp_path, started)


def start(host: Stage, tmp: Path, started: list[Peer], *more: str, bridge: str = "python") -> Peer:
    found = Peer(stdio_command("--bridge", bridge, *more), host.layout.config.parent, tmp)
    started.append(found)
    return found


def wait_gone(host: Stage, session: str, seconds: float = 10) -> None:
    until(lambda: not any(info.id == session for info in host.client.sessions()))


def test_the_handshake_and_commands_by_their_plain_names(peer: Peer) -> None:
    result = peer.handshake()["result"]
    assert (result["worker_id"], result["mode"]) == ("worker_1_5", "pool-worker")
    assert peer.ask(1, "execute", {"code": "x = 'grüße'\nx"})["result"]["value"] == "grüße"
    assert peer.ask(2, "python:execute", {"code": "x"})["result"]["value"] == "grüße"
    assert peer.ask(3, "get_stats")["result"]["command_count"] == 2
    assert peer.ask(4, "common:get_capabilities")["result"]["framework"]["name"] == "python"


def test_errors_are_one_string_with_code_and_hint(peer: Peer) -> None:
    peer.handshake()
    refused = peer.ask(1, "no_such_command")
    assert refused["success"] is False
    assert refused["error"].startswith("denied: ")
    assert "bridgehold why i-" in refused["error"]
    assert peer.ask(2, "execute", {"code": "1/0"})["error"].startswith("application: ZeroDivisionError")
    assert peer.ask(3, "execute", {"cod": ""})["error"].startswith("usage: ")
    assert peer.ask(4, "execute", {"code": "40 + 2"})["result"]["value"] == 42


def test_what_the_bridge_prints_is_never_on_stdout(peer: Peer) -> None:
    peer.handshake()
    code = "import os, sys\nos.system('echo hi')\nos.write(1, b'raw')\nsys.__stdout__.write('x' * 20000)\n7"
    assert peer.ask(1, "execute", {"code": code})["result"]["value"] == 7
    peer.to.close()
    assert peer.end() == (0, b"")


def test_a_ping_does_not_wait_behind_a_command(peer: Peer) -> None:
    peer.handshake()
    peer.send(1, "execute", {"code": "import time; time.sleep(3)"})
    began = time.monotonic()
    peer.send(2, "ping")
    assert peer.receive()["id"] == 2
    assert time.monotonic() - began < 2
    assert peer.receive()["id"] == 1


def test_reset_state_leaves_nothing_behind(host: Stage, peer: Peer) -> None:
    first = peer.handshake()["result"]["session"]
    peer.ask(1, "execute", {"code": "x = 1\nopen('/tmp/left', 'w').close()"})
    forgotten = {"programs_cleared": 0, "commands_reset": 2, "errors_reset": 0}
    assert peer.ask(2, "reset_state")["result"] == {"status": "reset", **forgotten}
    assert peer.ask(3, "execute", {"code": "'x' in globals()"})["result"]["value"] is False
    assert (
        peer.ask(4, "execute", {"code": "import os; os.path.exists('/tmp/left')"})["result"]["value"] is False
    )
    assert peer.ask(5, "ping")["result"]["session"] != first
    wait_gone(host, first)


def test_ids_in_flight_are_answered_when_the_worker_dies_and_then_we_end(peer: Peer) -> None:
    peer.handshake()
    peer.send(1, "execute", {"code": "import os, time\ntime.sleep(0.5)\nos._exit(3)"})
    peer.send(2, "execute", {"code": "1"})
    answers = {answer["id"]: answer for answer in (peer.receive(), peer.receive())}
    assert answers[1]["error"].startswith("crash: ")
    assert answers[2]["success"] is False
    status, rest = peer.end()
    assert (status, rest) == (CODES["crash"], b"")
    assert "session ended" in peer.stderr
    assert "Traceback" not in peer.stderr


def test_the_end_of_the_input_lets_commands_finish(host: Stage, peer: Peer) -> None:
    session = peer.handshake()["result"]["session"]
    peer.send(1, "execute", {"code": "import time; time.sleep(0.5); 5"})
    peer.to.close()
    assert peer.receive()["result"]["value"] == 5
    assert peer.end() == (0, b"")
    wait_gone(host, session)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_what_runs_and_ends_the_session(host: Stage, peer: Peer, number: int) -> None:
    session = peer.handshake()["result"]["session"]
    peer.send(1, "execute", {"code": "import time; time.sleep(60)"})
    until(lambda: host.busy(session))
    peer.process.send_signal(number)
    answer = peer.receive()
    assert answer["id"] == 1
    assert answer["error"].startswith("cancelled: ")
    assert peer.end() == (0, b"")
    assert "Traceback" not in peer.stderr
    wait_gone(host, session)


def test_a_killed_worker_leaves_no_session(host: Stage, peer: Peer) -> None:
    session = peer.handshake()["result"]["session"]
    peer.send(1, "execute", {"code": "import time; time.sleep(60)"})
    until(lambda: host.busy(session))
    peer.process.kill()
    wait_gone(host, session)


def test_shutdown_is_answered_and_ends_with_status_0(peer: Peer) -> None:
    peer.handshake()
    assert peer.ask(1, "shutdown")["success"] is True
    assert peer.end() == (0, b"")


@pytest.mark.parametrize(
    "garbage",
    [b"Hello, worker!\n", b"\xff\xff\xff\xff", b"\x00\x00\x00\x10half"],
    ids=["text", "length", "half"],
)
def test_garbage_ends_the_stream_with_one_line_and_no_traceback(peer: Peer, garbage: bytes) -> None:
    peer.handshake()
    peer.send_raw(garbage)
    peer.to.close()
    status, rest = peer.end()
    assert (status, rest) == (CODES["protocol"], b"")
    assert peer.stderr.startswith("bridgehold: ")
    assert peer.stderr.count("\n") == 1


def test_a_frame_that_is_no_request_is_answered_and_the_next_one_runs(peer: Peer) -> None:
    peer.handshake()
    for body, identity in ((b"{]", None), (b'{"id": 9}', 9), (b'{"id": 8, "command": "x", "args": 3}', 8)):
        peer.send_body(body)
        answer = peer.receive()
        assert (answer["id"], answer["success"]) == (identity, False)
        assert answer["error"].startswith("protocol: ")
    assert peer.ask(1, "execute", {"code": "1"})["success"]


def test_a_bridge_that_does_not_exist_is_answered_and_ends(
    host: Stage, tmp_path: Path, started: list[Peer]
) -> None:
    peer = start(host, tmp_path, started, bridge="nothing")
    answer = peer.ask(0, "ping", {"initialization": True})
    assert answer["success"] is False
    assert answer["error"].startswith("not_found: ")
    assert peer.end() == (6, b"")


@pytest.mark.parametrize(
    ("bridge", "tenant", "status", "said"),
    [
        ("nothing", "local", 6, "not_found: there is no bridge 'nothing'"),
        ("python", "../x", 2, "usage: tenant '../x' is not a name"),
    ],
)
def test_what_can_never_answer_says_so_before_it_reads(
    host: Stage, bridge: str, tenant: str, status: int, said: str
) -> None:
    done = subprocess.run(
        stdio_command("--bridge", bridge, "--tenant", tenant),
        env={**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent)},
        input=b"",
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (status, b"")
    assert said in done.stderr.decode()
    assert done.stderr.count(b"\n") < 4


def test_msgpack_is_negotiated_in_json_and_spoken_then(peer: Peer) -> None:
    peer.send_body(
        msgspec.json.encode(
            {"type": "protocol_negotiation", "supported": ["msgpack", "json"], "preferred": "msgpack"}
        )
    )
    chosen = peer.receive()
    assert (chosen["type"], chosen["protocol"]) == ("protocol_selected", "msgpack")
    peer.send_body(msgspec.msgpack.encode({"id": 0, "command": "ping", "args": {"initialization": True}}))
    body = peer.receive_body()
    assert body[0] >= 0x80
    assert msgspec.msgpack.decode(body)["result"]["status"] == "ok"
    args = {"code": "'é' * 2", "extra": b"\xff\xfe"}
    peer.send_body(msgspec.msgpack.encode({"id": 1, "command": "execute", "args": args}))
    assert peer.receive()["error"].startswith("usage: the argument 'extra' is binary")
    peer.send_body(msgspec.msgpack.encode({"id": 2, "command": "execute", "args": {"code": "'é' * 2"}}))
    assert peer.receive()["result"]["value"] == "éé"


def test_a_worker_that_takes_json_only_says_so(host: Stage, tmp_path: Path, started: list[Peer]) -> None:
    peer = start(host, tmp_path, started, "--format", "json")
    peer.send_body(b'{"type": "protocol_negotiation", "supported": ["msgpack"], "preferred": "msgpack"}')
    assert peer.receive()["protocol"] == "json"
    peer.send_body(msgspec.msgpack.encode({"id": 1, "command": "ping", "args": {}}))
    assert "takes no msgpack" in peer.receive()["error"]


def test_a_caller_that_reads_nothing_does_not_hold_a_signal_up(peer: Peer) -> None:
    peer.handshake()
    for identity in range(1, 30):
        peer.send(identity, "execute", {"code": "'x' * 60000"})
    time.sleep(2)
    began = time.monotonic()
    peer.process.terminate()
    assert peer.process.wait(30) == 0
    assert time.monotonic() - began < 10


def test_two_workers_share_one_host(host: Stage, tmp_path: Path, started: list[Peer]) -> None:
    peers = [start(host, tmp_path, started) for _ in range(3)]
    sessions = {peer.handshake()["result"]["session"] for peer in peers}
    assert len(sessions) == 3
    assert sessions <= {info.id for info in host.client.sessions()}
    assert all(os.getpgid(peer.process.pid) for peer in peers)


ASKER = """
from bridgehold_sdk import Bridge, ToolError, operation

class Hostile(Bridge):
    @operation()
    def act(self, code):
        names = {"tools": self.tools, "ToolError": ToolError, "result": {}}
        exec(compile(code, "act", "exec"), names)
        return names["result"]
"""


@pytest.fixture
def asker(host: Stage, tmp_path: Path, started: list[Peer]) -> Peer:
    name = host.bridge(manifest=MANIFEST.split("[operations.report]")[0])
    (host.layout.bridges / name / "hostile.py").write_text(ASKER)
    (host.layout.policies / f"{name}.toml").write_text(POLICY + '[tools]\nallow = ["*"]\n')
    found = start(host, tmp_path, started, bridge=name)
    found.handshake()
    return found


def declare(peer: Peer) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tools = [{"tool_id": "double", "description": "Twice", "parameters": schema}, {"name": "other"}]
    assert peer.ask(1, "register_tools", {"tools": tools})["result"]["tools"] == ["double", "other"]


def respond(peer: Peer, call: dict[str, object], **said: object) -> None:
    body = {"type": "rpc_response", "rpc_id": call["rpc_id"], **said}
    peer.send_body(msgspec.json.encode(body))


def test_a_callers_tools_are_called_back_on_the_same_pipe(asker: Peer) -> None:
    declare(asker)
    asker.send(2, "act", {"code": "result['x'] = tools['double'](n=21)"})
    call = asker.receive()
    assert (call["type"], call["tool_id"], call["args"], call["kwargs"]) == (
        "rpc_call",
        "double",
        [],
        {"n": 21},
    )
    respond(asker, {"rpc_id": 999}, status="ok", result=0)  # nobody waits for it
    respond(asker, call, status="ok", result=42)
    assert asker.receive()["result"] == {"x": 42}


def test_a_callers_error_and_a_refused_argument_reach_the_bridge(asker: Peer) -> None:
    declare(asker)
    code = "try: tools['double'](n=%s)\nexcept ToolError as error: result.update(code=error.code, text=str(error))"
    asker.send(2, "act", {"code": code % 1})
    call = asker.receive()
    respond(asker, call, status="error", error={"type": "KeyError", "message": "no such", "stacktrace": "…"})
    said = asker.receive()["result"]
    assert (said["code"], "KeyError: no such" in said["text"]) == ("application", True)
    assert asker.ask(3, "act", {"code": code % "'x'"})["result"]["code"] == "usage"


def test_many_commands_that_all_wait_for_tools_do_not_block_their_answers(asker: Peer) -> None:
    declare(asker)
    for number in range(2, 70):
        asker.send(number, "act", {"code": f"result['x'] = tools['double'](n={number})"})
    answers = {}
    while len(answers) < 68:
        frame = asker.receive()
        if frame.get("type") == "rpc_call":
            respond(asker, frame, status="ok", result=2 * frame["kwargs"]["n"])
        else:
            answers[frame["id"]] = frame
    good = {number: one["result"]["x"] for number, one in answers.items() if one["success"]}
    assert len(good) >= 60
    assert all(value == 2 * number for number, value in good.items())
    refused = [one["error"] for one in answers.values() if not one["success"]]
    assert all(error.startswith("busy: ") for error in refused)


@pytest.mark.parametrize(
    "tools", [None, "x", [{"name": "A B"}], [{"name": "x", "parameters": {"$ref": "y"}}], [{}] * 65]
)
def test_tools_that_can_not_be_are_refused(asker: Peer, tools: object) -> None:
    said = asker.ask(1, "register_tools", {"tools": tools})
    if said["success"]:  # their form is fine, and the first command says what is not
        said = asker.ask(2, "act", {"code": ""})
    assert said["error"].startswith("usage: ")
