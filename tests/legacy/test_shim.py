"""A shim's python3 as DSPex and Snakepit start it, with scripts that were written for no sandbox."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bridgehold import SyncClient
from bridgehold.faces.legacy.folder import write_shim
from bridgehold.faces.legacy.values import ShimFile
from hostile.at_home import PRINTED, REASONS, Difference, outside, unexplained
from hostile.stage import Stage, make_home
from legacy.conftest import FRAMES_ONLY, MANIFEST, POLICY, PROFILES, SCRIPTS, make_shim
from legacy.peer import Peer
from waiting import until

POOL = ("--mode", "pool-worker", "--worker-id", "worker_1_5")
Start = Callable[..., Peer]
SCRIPTS_DIFFER = {
    name: reason for name, reason in REASONS.items() if name not in ("argv", "main is this")
} | {
    "linecache": Difference(reason="the code of -c, for tracebacks", only_inside=("<string>",)),
    "descriptors": Difference(
        reason="standard input is the caller's; the protocol of a script, where no child inherits it",
        only_inside=("0=pipe", *(f"{number}=pipe" for number in range(16, 40))),
        only_outside=("0=/dev/null",),
    ),
    "environment": Difference(
        reason="a provider's address, and a key that is worth nothing, besides what each worker has",
        only_inside=(*REASONS["environment"].only_inside, "OPENAI_"),
    ),
}


EITHER = pytest.mark.parametrize("start", ["fork"], indirect=True)
"""For what is between the caller and the relay, however the script began."""


@pytest.fixture(params=list(PROFILES))
def start(
    host: Stage, tmp_path: Path, started: list[Peer], request: pytest.FixtureRequest
) -> Callable[..., Peer]:
    program = make_shim(host, tmp_path / "venv", PROFILES[request.param])

    def begin(*arguments: str, script: str = "dspex_like.py", **more: object) -> Peer:
        argv = [str(program), str(host.log / script), *(arguments or POOL)]
        peer = Peer(argv, tmp_path, tmp_path, cwd=tmp_path, **more)
        started.append(peer)
        return peer

    return begin


@pytest.fixture
def python(
    host: Stage, tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """A shim of a profile that starts cold, or of the one that a test names."""
    program = make_shim(host, tmp_path / "venv", getattr(request, "param", PROFILES["cold"]))

    def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(program), *arguments], input=stdin, capture_output=True, timeout=60, check=False
        )

    return run


def commands(host: Stage, session: str) -> dict[str, list[dict[str, object]]]:
    """The session's events about commands, by kind, once the last outcome is there."""

    def whole() -> dict[str, list[dict[str, object]]] | None:
        events = [event for event in host.events("command.") if event["session"] == session]
        found = {
            kind: [e for e in events if e["kind"] == f"command.{kind}"]
            for kind in ("intent", "outcome", "refused")
        }
        return found if len(found["intent"]) == len(found["outcome"]) else None

    return until(whole) or {}


def session_of(host: Stage) -> str:
    """The youngest session of a foreign profile."""
    infos = [info for info in host.client.sessions() if info.bridge in PROFILES.values()]
    return min(infos, key=lambda info: info.age_ms).id


def wait_gone(host: Stage, session: str, seconds: float = 10) -> None:
    until(lambda: not any(info.id == session for info in host.client.sessions()))


def test_an_unmodified_script_answers_and_its_prints_go_to_the_log(host: Stage, start: Start) -> None:
    peer = start()
    ping = peer.handshake()["result"]
    assert (ping["mode"], ping["worker_id"], ping["argv"]) == ("pool-worker", "worker_1_5", list(POOL))
    assert peer.ask(1, "create_program", {"id": "qa"})["result"]["status"] == "created"
    assert peer.ask(2, "noise")["result"] == {"done": True}
    log = host.client.logs(session_of(host))
    for text in ("bridge starting, mode pool-worker", "hi from a shell", "hi from a child", "created qa"):
        assert text in log
    for text in ("raw bytes", "from the original", "noise"):
        assert text in log
    peer.to.close()
    assert peer.end() == (0, b"")


@EITHER
def test_bytes_pass_as_they_are(start: Start) -> None:
    """NaN, text that is no ASCII, spaces, the order of keys, and a float's own spelling."""
    peer = start()
    peer.handshake()
    peer.send(1, "nan")
    body = peer.receive_body()
    assert b'"value": NaN, "infinite": -Infinity' in body
    assert "grüße 🎈".encode() in body
    text = b'{"timestamp":1.50,"args" : {"z": 1e2, "a":"\\u00fc\\ud83d\\ude00", "n": NaN},"command":"echo", "id":2}'
    peer.send_body(text)
    answer = peer.receive()
    assert (answer["id"], answer["result"]["a"], answer["result"]["z"]) == (2, "ü😀", 100.0)


def test_every_command_has_an_intent_before_and_an_outcome_after(host: Stage, start: Start) -> None:
    peer = start()
    peer.handshake()
    session = session_of(host)
    shapes = ["echo", "error_inside", "error_status", "fail", "no_such_command"]
    for identity, command in enumerate(shapes, 1):
        peer.ask(identity, command, {"text": "grüße"})
    found = commands(host, session)
    assert [str(e["operation"]).partition(":")[2] for e in found["intent"]] == ["ping", *shapes]
    flags = {
        str(e["intent"]): (e["transport_ok"], e["application_ok"], e["reason"]) for e in found["outcome"]
    }
    assert [flags[str(intent["ref"])] for intent in found["intent"]] == [
        (True, True, ""),
        (True, True, ""),
        (True, False, "inside the result"),
        (True, False, "with a status"),
        (True, False, "boom {'text': 'grüße'}"),
        (True, False, "Unknown command: no_such_command"),
    ]
    order = [event["ref"] for event in host.events("command.") if event["session"] == session]
    for outcome in found["outcome"]:
        assert order.index(outcome["intent"]) < order.index(outcome["ref"])


@pytest.mark.parametrize("how", ["capture", "refuse"])
def test_a_key_in_a_frame_is_captured_or_refused_and_is_nowhere_inside_or_in_the_audit(
    host: Stage, start: Start, request: pytest.FixtureRequest, how: str
) -> None:
    policy = host.layout.policies / f"{PROFILES[request.node.callspec.params['start']]}.toml"
    before = policy.read_text()
    policy.write_text(f'inline_keys = "{how}"\n' + before)
    try:
        peer = start()
        peer.handshake()
        session = session_of(host)
        key = "AIzaSyNotReal0123456789abcdefghijklmnop"
        answers = [
            peer.ask(1, "configure_lm", {"model": "m", "api_key": key, "n": 1.50}),
            peer.ask(2, "echo", {"lm": {"Authorization": f"Bearer {key}"}, "text": f"grüße {key}"}),
            peer.ask(3, "configure_lm", {"model": "m", "api_key": "sk-bh-foreign"}),
        ]
        two = peer.ask(4, "echo", {"api_key": key, "openai_api_key": key[::-1]})
        assert two["error"].startswith("denied: the argument ")
        short = peer.ask(5, "echo", {"api_key": "echo", "text": "echo"})
        assert short["error"].startswith("denied: the argument api_key holds a key")
    finally:
        policy.write_text(before)
    configured = {"status": "configured", "key": "sk-bh-foreign", "env": "sk-bh-foreign"}
    assert answers[2]["result"] == configured
    captured = [one for one in host.events("secret.") if one["session"] == session]
    found = commands(host, session)
    if how == "capture":
        assert answers[0]["result"] == configured
        assert answers[1]["result"] == {
            "lm": {"Authorization": "Bearer sk-bh-foreign"},
            "text": "grüße sk-bh-foreign",
        }
        assert {(one["action"], one["name"], one["store"]) for one in captured} == {
            ("captured", "openai", "session")
        }
        intents = [one["command"] for one in found["intent"]]
        assert [one["command"] for one in captured] == intents[1:3]
    else:
        assert all(one["error"].startswith("denied: the argument ") for one in answers[:2])
        assert "sk-bh-foreign" in answers[0]["error"]
        assert not captured
    assert len(found["refused"]) == (2 if how == "capture" else 4)
    audit = b"".join(path.read_bytes() for path in host.layout.audit.rglob("*") if path.is_file())
    assert key.encode() not in audit


def test_a_command_that_the_policy_denies_never_reaches_the_script(host: Stage, start: Start) -> None:
    peer = start()
    peer.handshake()
    refused = peer.ask(1, "forbidden")
    assert refused["error"].startswith("denied: ")
    assert "bridgehold why i-" in refused["error"]
    assert peer.ask(2, "Not-A-Name")["error"].startswith("denied: ")
    peer.ask(3, "fail")
    log = host.client.logs(session_of(host))
    assert "RuntimeError: boom" in log
    assert "forbidden" not in log


def test_rules_that_change_hold_for_the_next_frame_of_a_script_that_runs(
    host: Stage, start: Start, request: pytest.FixtureRequest
) -> None:
    """Narrowed, widened, slowed down, gone and broken under one session: each frame meets what stands then."""
    name = PROFILES[request.node.callspec.params["start"]]
    policy, ceiling = host.layout.policies / f"{name}.toml", host.layout.tenants / "local.toml"
    before, config = policy.read_text(), host.layout.config_file
    settings = config.read_text()
    peer = start()
    peer.handshake()
    session = session_of(host)

    ids = itertools.count(1)

    def error(command: str, args: object = None) -> str:
        answer = peer.ask(next(ids), command, args)
        return "" if answer["success"] else str(answer["error"]).partition(" ")[0]

    try:
        assert error("echo") == ""
        policy.write_text(before.replace(f'"{name}:forbidden"', f'"{name}:forbidden", "{name}:echo"'))
        assert (error("echo"), error("ping")) == ("denied:", "")
        policy.write_text(before)
        assert error("echo") == ""
        ceiling.write_text(f'[bridges.{name}.operations]\ndeny = ["{name}:echo"]\n')
        assert (error("echo"), error("ping")) == ("denied:", "")
        ceiling.unlink()
        assert error("echo") == "policy:", "what was here and is gone is no word for nothing"
        host.client.request("reload", {})
        assert error("echo") == ""
        policy.write_text('inline_keys = "pass"\nweakenings = ["inline_keys_pass"]\n' + before)
        assert error("configure_lm", {"api_key": "sk-not-a-real-key-but-of-its-shape-0123"}) == ""
        policy.write_text(before.replace('request = "1MiB"', 'request = "2KiB"'))
        assert (error("echo", {"text": "x" * 4096}), error("echo")) == ("limit:", "")
        policy.write_text(before.replace("60000", "1"))
        assert [error("echo") for _ in range(2)][-1] == "budget:"
        for broken in (
            "",
            "[operations\n",
            before.replace("baseline", "nowhere"),
            "[operations]\nalow = []\n",
        ):
            policy.write_text(broken)
            assert error("echo") == "policy:"
        policy.unlink()
        policy.symlink_to("nowhere")
        assert error("echo") == "policy:"
        policy.unlink()
        policy.write_text(before)
        config.write_text(f"{settings}\n[features]\nforeign = false\n")
        host.client.request("reload", {})
        assert error("echo") == "unsupported:"
        config.write_text(settings)
        host.client.request("reload", {})
        host.layout.tenants.chmod(0)
        assert error("echo") == "policy:"
    finally:
        host.layout.tenants.chmod(0o755)
        config.write_text(settings)
        host.client.request("reload", {})
        ceiling.unlink(missing_ok=True)
        policy.unlink(missing_ok=True)
        policy.write_text(before)
    error("ping")  # from here on the bucket fills at the rate of before
    time.sleep(0.01)
    assert error("echo") == ""
    assert session_of(host) == session
    found = commands(host, session)
    assert len({one["grant"] for one in found["intent"]}) > 2, "each intent names the grant it was decided by"
    refused = [str(one["rule"]) for one in found["refused"]]
    assert refused.count("policy") == 7
    assert {"operations.deny[1]", "rate.commands_per_minute"} <= set(refused), refused


def test_the_script_sees_a_sandbox_and_no_key(host: Stage, start: Start) -> None:
    peer = start(environment={"OPENAI_API_KEY": "sk-of-the-caller", "MIX_ENV": "prod"})
    peer.handshake()
    paths = [
        "/etc/shadow",
        str(host.log / "dspex_like.py"),
        "/bridge/dspex_like.py",
        str(host.layout.config_file),
    ]
    result = peer.ask(1, "look", {"paths": paths})["result"]
    assert result["file"] == "/bridge/dspex_like.py"
    assert result["seen"] == dict(
        zip(paths, ["FileNotFoundError", "FileNotFoundError", 100, "FileNotFoundError"], strict=True)
    )
    environment = result["environment"]
    assert "MIX_ENV" not in environment
    assert environment["OPENAI_API_KEY"] == "sk-bh-foreign"
    assert environment["OPENAI_API_BASE"] == "http://127.0.0.1:8080/openai"


def test_the_folder_of_scripts_is_read_only_and_the_only_one(
    host: Stage, start: Start, tmp_path: Path
) -> None:
    peer = start("-x", script="../elsewhere.py")
    assert peer.end()[0] == 2
    other = tmp_path / "other.py"
    other.write_text("print('never')")
    link = host.log / "link.py"
    link.unlink(missing_ok=True)
    link.symlink_to(other)
    peer = start(script="link.py")
    answer = peer.ask(0, "ping", {"initialization": True})
    assert answer["error"].startswith("denied: the script is not below")
    assert peer.end() == (13, b"")


def test_what_a_worker_died_of_is_told_to_who_writes_to_it(host: Stage, start: Start) -> None:
    """Its frames are taken no more: each that waits, and the one that is being written, has the reason."""
    peer = start()
    peer.handshake()
    peer.send(1, "eat", {"seconds": 0.3})
    for identity in (2, 3, 4):  # more than the script's own pipe holds
        peer.send(identity, "echo", {"t": "x" * 50_000})
    answers = [peer.receive() for _ in range(4)]
    assert {answer["id"] for answer in answers} == {1, 2, 3, 4}
    assert all(answer["error"].startswith("memory: ") for answer in answers), answers
    status, _ = peer.end()
    assert (status, "memory: " in peer.stderr) == (31, True)


@EITHER
@pytest.mark.parametrize(
    ("longer", "which"), [("request", "limits.response"), ("response", "limits.request")]
)
def test_a_frame_that_is_too_long_says_which_of_the_two_limits(
    host: Stage, start: Start, request: pytest.FixtureRequest, longer: str, which: str
) -> None:
    policy = host.layout.policies / f"{PROFILES[request.node.callspec.params['start']]}.toml"
    before = policy.read_text()
    policy.write_text(before.replace(f'{longer} = "1MiB"', f'{longer} = "4MiB"'))
    try:
        peer = start()
        peer.handshake()
        error = peer.ask(1, "echo", {"t": "x" * 2_000_000})["error"]
        assert "20000" in error
        assert which in error
        assert error.startswith("protocol: " if longer == "request" else "limit: ")
    finally:
        policy.write_text(before)


@pytest.mark.parametrize(
    ("how", "status"), [({"status": 9}, 9), ({"signal": signal.SIGSEGV}, 128 + signal.SIGSEGV)]
)
def test_ids_in_flight_are_answered_when_the_script_dies_and_its_status_is_known(
    host: Stage, start: Start, how: dict[str, int], status: int
) -> None:
    peer = start()
    peer.handshake()
    session = session_of(host)
    peer.send(1, "sleep", {"seconds": 0.3})
    peer.send(2, "die", how)
    peer.send(3, "echo")
    answers = {answer["id"]: answer for answer in (peer.receive(), peer.receive(), peer.receive())}
    assert answers[1]["success"] is True
    assert answers[2]["error"].startswith("crash: ")
    assert answers[3]["success"] is False
    assert peer.end() == (status, b"")
    outcomes = commands(host, session)["outcome"]
    assert [outcome["code"] for outcome in outcomes if not outcome["transport_ok"]] == ["crash", "crash"]


def test_a_command_past_its_deadline_ends_the_session_and_a_slow_import_does_not(
    host: Stage, start: Start, request: pytest.FixtureRequest
) -> None:
    policy = host.layout.policies / f"{PROFILES[request.node.callspec.params['start']]}.toml"
    before = policy.read_text()
    policy.write_text(before.replace('command = "6s"', 'command = "600ms"'))
    try:
        peer = start(*POOL, "--start-seconds", "1.2")
        peer.handshake()  # against `startup`
        peer.send(1, "sleep", {"seconds": 60})
        answer = peer.receive(15)
    finally:
        policy.write_text(before)
    assert answer["error"].startswith("timeout: ")
    assert peer.end() == (30, b"")


@EITHER
@pytest.mark.parametrize("status", [0, 5])
def test_the_end_of_the_input_is_the_scripts_own_and_its_status_ours(
    host: Stage, start: Start, status: int
) -> None:
    peer = start(*POOL, "--exit", str(status))
    peer.handshake()
    session = session_of(host)
    peer.send(1, "sleep", {"seconds": 0.5})
    peer.to.close()
    assert peer.receive()["result"] == {"slept": 0.5}
    assert peer.end() == (status, b"")
    wait_gone(host, session)


def test_the_end_of_the_input_at_the_start_lets_the_script_start(start: Start) -> None:
    """As ``python SCRIPT --help </dev/null`` does, however long its imports take: the grace is 0.5 s here."""
    peer = start("--start-seconds", "2", "--exit", "5")
    peer.to.close()
    assert peer.end() == (5, b"")
    assert "bridge starting" in peer.stderr


@EITHER
def test_a_script_that_closes_its_streams_at_its_exit_has_its_status_all_the_same(start: Start) -> None:
    for status in (0, 5):
        peer = start(*POOL, "--close-at-exit", "--exit", str(status))
        peer.handshake()
        peer.to.close()
        assert peer.end() == (status, b"")
        assert peer.stderr == ""


@EITHER
@pytest.mark.parametrize(
    ("option", "status", "said"),
    [
        ("--help", 0, "--worker-id WORKER_ID"),
        ("--bogus", 2, "error: unrecognized arguments: --bogus"),
        ("--fail-at-start", 1, "RuntimeError: not today \\x1b[2J"),
    ],
)
def test_what_a_script_says_that_ends_without_a_frame_is_on_stderr(
    start: Start, option: str, status: int, said: str
) -> None:
    peer = start(option)
    assert peer.end() == (status, b"")
    assert said in peer.stderr


def test_a_script_that_ignores_the_end_of_its_input_is_ended_by_force(host: Stage, start: Start) -> None:
    peer = start(*POOL, "--ignore-eof")
    peer.handshake()
    session = session_of(host)
    began = time.monotonic()
    peer.to.close()
    assert peer.end() == (137, b"")
    assert time.monotonic() - began < 8
    assert "by force" in peer.stderr
    wait_gone(host, session)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_what_runs_and_leaves_nothing(host: Stage, start: Start, number: int) -> None:
    peer = start(*POOL, "--ignore-eof")
    peer.handshake()
    session = session_of(host)
    peer.send(1, "sleep", {"seconds": 60})
    until(lambda: host.busy(session))
    peer.process.send_signal(number)
    answer = peer.receive()
    assert (answer["id"], answer["success"]) == (1, False)
    assert peer.end() == (128 + number, b"")
    assert "Traceback" not in peer.stderr
    wait_gone(host, session)


def test_a_killed_relay_leaves_no_session(host: Stage, start: Start) -> None:
    peer = start(*POOL, "--ignore-eof")
    peer.handshake()
    session = session_of(host)
    peer.process.kill()
    wait_gone(host, session)


@EITHER
def test_the_relay_is_found_by_its_name_and_its_script_and_leads_its_group(host: Stage, start: Start) -> None:
    peer = start()
    peer.handshake()
    pid = peer.process.pid
    assert os.getpgid(pid) == pid != os.getpgrp()
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    assert str(host.log / "dspex_like.py").encode() in words
    assert b"python" in words[0]
    assert "python" in Path(f"/proc/{pid}/comm").read_text()


def test_forged_and_late_answers_reach_nobody(host: Stage, start: Start) -> None:
    peer = start()
    peer.handshake()
    session = session_of(host)
    assert peer.ask(1, "forge")["result"] == {"mine": True}
    assert peer.ask(2, "background", {"id": 2})["result"] == {"first": True}

    def violations() -> int:
        return sum(event["session"] == session for event in host.events("protocol.violation"))

    until(lambda: violations() == 3)
    assert peer.ask(3, "echo", {"x": 1})["result"] == {"x": 1}
    assert violations() == 3


def test_text_where_a_frame_belongs_ends_the_session_typed(host: Stage, start: Start) -> None:
    peer = start()
    peer.handshake()
    peer.send(1, "garbage")
    answer = peer.receive()
    assert answer["id"] == 1
    assert answer["error"].startswith("protocol: ")
    assert "'Hell'" in answer["error"]
    assert peer.end() == (34, b"")


@EITHER
@pytest.mark.parametrize("garbage", [b"Hello, worker!\n", b"\xff\xff\xff\xff"], ids=["text", "length"])
def test_garbage_from_the_caller_ends_with_one_line(host: Stage, start: Start, garbage: bytes) -> None:
    peer = start()
    peer.handshake()
    peer.send_raw(garbage)
    assert peer.end() == (34, b"")
    assert peer.stderr.startswith("bridgehold: ")
    assert peer.stderr.count("\n") == 1


@EITHER
def test_a_frame_that_is_no_request_is_answered_and_never_forwarded(start: Start) -> None:
    peer = start()
    peer.handshake()
    for body, identity in ((b"{]", None), (b'{"id": 9}', 9), (b'{"id": 8, "command": "x", "args": 3}', 8)):
        peer.send_body(body)
        answer = peer.receive()
        assert (answer["id"], answer["success"]) == (identity, False)
    assert peer.ask(1, "ping")["success"]


@EITHER
def test_an_id_in_flight_is_not_taken_twice(start: Start) -> None:
    peer = start()
    peer.handshake()
    peer.send(1, "sleep", {"seconds": 0.5})
    peer.send(1, "echo")
    answers = [peer.receive(), peer.receive()]
    assert sorted(answer["success"] for answer in answers) == [False, True]
    refusal = next(answer for answer in answers if not answer["success"])
    assert "in flight already" in refusal["error"]


@EITHER
@pytest.mark.parametrize("supported", [["msgpack", "json"], ["json"]])
def test_a_script_that_negotiates_gets_its_format(host: Stage, start: Start, supported: list[str]) -> None:
    peer = start("--mode", "pool-worker", script="snakepit_like.py")
    offer = {
        "type": "protocol_negotiation",
        "supported": supported,
        "preferred": supported[0],
        "timestamp": "x",
    }
    peer.send_body(json.dumps(offer).encode())
    assert peer.receive()["protocol"] == supported[0]
    pack = msgspec.msgpack.encode if supported[0] == "msgpack" else msgspec.json.encode
    session = session_of(host)
    peer.send_body(pack({"id": 0, "command": "ping", "args": {"worker_id": "w", "initialization": True}}))
    assert peer.receive()["result"]["status"] == "ok"
    peer.send_body(
        pack({"id": 1, "command": "echo", "args": {"text": "grüße", "n": [1, -5, 2.5, None, True]}})
    )
    assert peer.receive()["result"]["echoed"] == {"text": "grüße", "n": [1, -5, 2.5, None, True]}
    if supported[0] == "msgpack":
        peer.send_body(pack({"id": 2, "command": "binary", "args": {"count": 5000}}))
        assert peer.receive()["result"]["data"] == b"\x00\xff\xfe" + bytes(5000)
        peer.send_body(pack({"id": 3, "command": "echo", "args": {"raw": b"\xff\x00"}}))
        assert peer.receive()["result"]["echoed"] == {"raw": b"\xff\x00"}
    peer.send_body(pack({"id": 4, "command": "nothing", "args": {"api_key": ""}}))
    assert peer.receive()["result"]["status"] == "error"
    peer.send_body(pack({"id": 5, "command": "echo", "args": {"api_key": "a-real-key"}}))
    assert peer.receive()["result"]["echoed"] == {"api_key": "sk-bh-foreign"}
    outcomes = commands(host, session)["outcome"]
    assert [outcome["application_ok"] for outcome in outcomes][-2:] == [False, True]
    peer.to.close()
    assert peer.end() == (0, b"")


def test_many_workers_share_one_host(host: Stage, start: Start) -> None:
    peers = [start() for _ in range(6)]
    pids = {peer.handshake()["result"]["pid"] for peer in peers}
    assert len(pids) <= 6
    sessions = {info.id for info in host.client.sessions() if info.bridge in PROFILES.values()}
    assert len(sessions) == 6
    for peer in peers:
        peer.to.close()
    assert [peer.end() for peer in peers] == [(0, b"")] * 6


def test_a_changed_module_is_seen_by_the_next_worker(host: Stage, start: Start) -> None:
    helper, script = host.log / "helper_like.py", host.log / "asks_helper.py"
    script.write_text("import sys, helper_like\nsys.exit(helper_like.STATUS)\n")
    for status in (11, 12):
        helper.write_text(f"STATUS = {status}\n")
        assert start(script="asks_helper.py").end()[0] == status


def test_nobody_else_can_talk_to_a_script(host: Stage, start: Start) -> None:
    peer = start()
    peer.handshake()
    session = session_of(host)
    bridge = next(info.bridge for info in host.client.sessions() if info.id == session)
    from bridgehold import BridgeholdError

    for operation in (f"{bridge}:echo", "common:ping", "common:get_stats"):
        with pytest.raises(BridgeholdError) as caught:
            host.client.call(operation, {}, session=session)
        assert caught.value.code == "denied"
    for method in ("session.open", "session.hold"):
        with pytest.raises(BridgeholdError) as caught:
            host.client.request(method, {"bridge": bridge})
        assert caught.value.code == "usage"
    assert peer.ask(1, "echo", {"x": 1})["result"] == {"x": 1}


def test_python_tells_its_version_and_leaves_standard_input_alone(
    host: Stage, tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    program = make_shim(host, tmp_path / "venv", "mine")
    typed = f"{program} --version\necho the next line\n".encode()
    shell = subprocess.run(["sh"], input=typed, capture_output=True, timeout=60, check=True)
    assert shell.stdout.splitlines()[1:] == [b"the next line"]
    for option in ("--version", "-V"):
        done = python(option)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.startswith(b"Python 3.")
        assert done.stdout.count(b"\n") == 1


def test_code_runs_as_python_runs_it_and_in_a_sandbox(
    host: Stage, python: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    code = "import os, sys; print(sys.argv, os.getpid() < 10, os.path.exists('/etc/shadow'))"
    done = python("-c", code, "a", "--b")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"['-c', 'a', '--b'] True False\n", b"")
    done = python("-c", "import os; os.write(1, b'a\\xff'); os.write(2, b'e'); os.system('echo hi')")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a\xffhi\n", b"e")
    run = [event for event in host.events("command.intent") if event["operation"] == "mine:python"]
    assert "/etc/shadow" in "".join(str(event["arguments_preview"]) for event in run)


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("import sys; sys.exit(7)", 7, b""),
        ("import sys; sys.exit()", 0, b""),
        ("import sys; sys.exit('words')", 1, b"words\n"),
        ("raise SystemExit(300)", 44, b""),
        ("exit(4)", 4, b""),
        ("import os; os._exit(9)", 9, b""),
        ("import os; os.kill(os.getpid(), 15)", 143, b""),
        ("import atexit; atexit.register(print, 'bye')", 0, b""),
    ],
)
def test_exit_statuses_are_the_codes_own(
    python: Callable[..., subprocess.CompletedProcess[bytes]], code: str, status: int, error: bytes
) -> None:
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (status, error)
    assert done.stdout == (b"bye\n" if "atexit" in code else b"")


def test_an_exception_is_shown_as_python_shows_it(
    python: Callable[..., subprocess.CompletedProcess[bytes]],
) -> None:
    done = python("-c", "def f():\n    1/0\nf()")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "Traceback (most recent call last):",
        '  File "<string>", line 3, in <module>',
        "    f()",
        '  File "<string>", line 2, in f',
        "    1/0",
        "    ~^~",
        "ZeroDivisionError: division by zero",
    ]


def test_code_from_the_input_and_input_for_the_code(
    python: Callable[..., subprocess.CompletedProcess[bytes]],
) -> None:
    assert python(stdin=b"print(1 + 1)").stdout == b"2\n"
    data = os.urandom(300_000)
    done = python("-c", "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())", stdin=data)
    assert done.stdout == data


def test_files_do_as_standard_streams(host: Stage, tmp_path: Path) -> None:
    program = make_shim(host, tmp_path / "venv", "mine")
    data = os.urandom(200_000)
    (tmp_path / "in").write_bytes(data)
    code = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        subprocess.run([str(program), "-c", code], stdin=source, stdout=sink, check=True, timeout=60)
    assert (tmp_path / "out").read_bytes() == data


def test_a_module_is_run_as_plain_code(python: Callable[..., subprocess.CompletedProcess[bytes]]) -> None:
    done = python("-m", "json.tool", stdin=b'{"a":1}')
    assert (done.returncode, done.stdout, done.stderr) == (0, b'{\n    "a": 1\n}\n', b"")


def test_an_operator_can_deny_plain_code_and_keep_the_scripts(
    host: Stage, tmp_path: Path, started: list[Peer]
) -> None:
    program = make_shim(host, tmp_path / "venv", FRAMES_ONLY)
    for arguments in (["-c", "print(1)"], ["-m", "json.tool"], []):
        done = subprocess.run(
            [str(program), *arguments], capture_output=True, timeout=60, input=b"", check=False
        )
        assert (done.returncode, done.stdout) == (13, b"")
        assert b"denied: " in done.stderr
    peer = Peer([str(program), str(host.log / "dspex_like.py"), *POOL], tmp_path, tmp_path)
    started.append(peer)
    peer.handshake()


def test_threads_are_waited_for(python: Callable[..., subprocess.CompletedProcess[bytes]]) -> None:
    code = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.3), print('late'))).start()"
    done = python("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"late\n", b"")


def test_wrong_options_and_files_are_refused_as_python_refuses_them(
    python: Callable[..., subprocess.CompletedProcess[bytes]], tmp_path: Path
) -> None:
    for arguments in (["-Z"], ["--nothing"], ["-c"], [str(tmp_path / "missing.py")]):
        done = python(*arguments)
        assert done.returncode == 2
        assert done.stdout == b""
        assert b"Traceback" not in done.stderr


def test_without_a_host_a_private_one_serves_and_its_end_is_told(tmp_path: Path, started: list[Peer]) -> None:
    """The first of two workers starts it; when that is killed the other goes on, and hears why it ends."""
    home = make_home(os.getuid())
    try:
        scripts = home.config.parent / "scripts"
        shutil.copytree(SCRIPTS, scripts)
        folder = home.bridges / "mine"
        folder.mkdir()
        (folder / "bridge.toml").write_text(MANIFEST.format(name="mine"))
        (home.policies / "mine.toml").write_text(POLICY.format(name="mine", start="cold"))
        home.config_file.write_text(f'[host]\ndrain_s = 0.5\n[bridges.mine]\nscripts = "{scripts}"\n')
        given = ShimFile(
            profile="mine", tenant="local", config=str(home.config), state=str(home.state), run=str(home.run)
        )
        program = write_shim(tmp_path / "venv", given)
        for _ in range(2):
            started.append(Peer([str(program), str(scripts / "dspex_like.py"), *POOL], tmp_path, tmp_path))
            started[-1].handshake()
        owner, guest = started
        with SyncClient.connect(home.socket) as client:
            owner.process.kill()
            until(lambda: len(client.sessions()) == 1)
            assert guest.ask(1, "echo", {"still": "here"})["result"] == {"still": "here"}
            guest.send(2, "sleep", {"seconds": 60})
            until(lambda: any(one.state == "busy" for one in client.sessions()))
            client.request("stop", {"now": True})
        answer = guest.receive(30)
        assert (answer["id"], answer["success"]) == (2, False)
        assert answer["error"].partition(":")[0] in {"session_ended", "host_unavailable"}, answer
        status, rest = guest.end(30)
        assert (status in {37, 51}, rest) == (True, b"")
        assert "Traceback" not in guest.stderr
        until(
            lambda: (
                not subprocess.run(["pgrep", "-f", str(home.run)], capture_output=True, check=False).stdout
            )
        )
    finally:
        shutil.rmtree(home.config.parent, ignore_errors=True)


HOME = """
import os, sys
print([(one.name, one.mode, one.errors, one.fileno(), one.encoding) for one in (sys.stdin, sys.stdout)])
print(sys.stderr.name, sys.stderr.errors, sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__)
print(type(__loader__).__name__, __spec__, sorted(name for name in dir() if name.startswith('__')))
print(sys.stdin.read().encode('utf-8', 'surrogateescape'), '\\udce9')
files = [os.open('/dev/null', os.O_RDONLY) for _ in range(40)]
kept = os.open('/dev/zero', os.O_RDONLY)
sys.stdout.flush()
if os.fork() == 0:
    print([number for number in (*files, kept) if os.stat(number).st_rdev == os.stat('/dev/zero').st_rdev] == [kept])
    sys.stdout.flush()
    def fails(): raise ValueError('of the child')
    fails()
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.parametrize("python", PROFILES.values(), indirect=True)
def test_streams_names_and_children_of_plain_code_are_as_at_home(
    python: Callable[..., subprocess.CompletedProcess[bytes]],
) -> None:
    argv = [sys.executable, "-I", "-S", "-X", "utf8", "-c", HOME]
    said = b"caf\xe9\n"
    at_home = subprocess.run(argv, input=said, capture_output=True, check=True)
    done = python("-c", HOME, stdin=said)
    assert done.stdout.splitlines() == at_home.stdout.splitlines()
    assert done.stdout.splitlines()[-3:] == [b"b'caf\\xe9\\n' \xe9", b"True", b"1"]
    assert done.stderr.splitlines()[-1] == at_home.stderr.splitlines()[-1] == b"ValueError: of the child"
    assert b"    def fails(): raise ValueError('of the child')" in done.stderr  # a source that is in no file
    order = "import os, sys\nprint('a', end='')\nsys.stdout.buffer.write(b'b')\nprint('c', end='')\nsys.stdout.flush()\nos.write(1, b'd')"
    assert python("-c", order).stdout == b"abcd"
    for gone in (
        "sys.stdout = None",
        "sys.stdout = sys.stderr = None",
        "sys.stdout.close()",
        "del sys.stdout",
    ):
        assert (python("-c", f"import sys; {gone}; sys.exit(3)").returncode) == 3, gone


@pytest.mark.parametrize("profile", PROFILES.values())
def test_nothing_of_ours_leaks_into_a_script(host: Stage, tmp_path: Path, profile: str) -> None:
    """What it sees of its interpreter, as code and as a file; and where an exception is left for its exit hooks."""
    program = make_shim(host, tmp_path / "venv", profile)
    file = host.log / "dumps.py"

    def run(*arguments: str) -> tuple[int, list[str]]:
        done = subprocess.run([str(program), *arguments], capture_output=True, check=False, timeout=60)
        return done.returncode, (done.stdout + done.stderr).decode().splitlines()  # a file's text is its log

    file.write_text(PRINTED)
    for arguments in (("-c", PRINTED), (str(file),)):
        here = msgspec.json.encode(outside(*arguments)).replace(str(file).encode(), b"/bridge/dumps.py")
        status, (there,) = run(*arguments)
        assert (status, unexplained(json.loads(here), json.loads(there), SCRIPTS_DIFFER)) == (0, [])
    left = "import atexit, sys\natexit.register(lambda: print(repr(sys.last_exc), sys.last_value is sys.last_exc, sys.last_traceback.tb_frame.f_code.co_name))\n1 / 0"
    file.write_text(left)
    for arguments in (("-c", left), (str(file),)):
        status, lines = run(*arguments)
        assert status == 1
        assert "ZeroDivisionError('division by zero') True <module>" in lines


def test_what_is_printed_faster_than_the_log_takes_it_comes_whole(
    python: Callable[..., subprocess.CompletedProcess[bytes]],
) -> None:
    code = "import os\nfor _ in range(64): os.write(2, bytes(65536))\nprint('done')"
    began = time.monotonic()
    done = python("-c", code)
    assert (done.stdout, len(done.stderr)) == (b"done\n", 4 << 20)
    assert time.monotonic() - began < 20  # at 64 KiB/s it would be a minute


@pytest.mark.parametrize("profile", PROFILES.values())
def test_who_may_read_no_logs_gets_results_and_exits_and_nothing_of_standard_error(
    deaf: Stage, tmp_path: Path, profile: str
) -> None:
    """Of plain code, of a script that ends before its first frame, and of one that answers."""
    program = make_shim(deaf, tmp_path / "venv", profile)

    def run(*arguments: str) -> tuple[int, bytes, str]:
        done = subprocess.run(
            [str(program), *arguments], capture_output=True, timeout=60, check=False, input=b""
        )
        return done.returncode, done.stdout, done.stderr.decode()

    code = "import os, sys; print('result'); print('hidden', file=sys.stderr); os.write(2, b'hidden'); 1 / 0"
    status, out, err = run("-c", code)
    assert (status, out) == (1, b"result\n")
    assert err.startswith("bridgehold: the script's standard error is in")
    assert err.count("\n") == 1
    assert run("-c", "print('fine')") == (0, b"fine\n", "")
    (deaf.log / "falls.py").write_text(
        "import sys\nprint('hidden', file=sys.stderr)\nraise OSError('hidden')\n"
    )
    status, out, err = run(str(deaf.log / "falls.py"), *POOL)
    assert (status, out) == (1, b"")
    assert err.startswith("bridgehold: the script's standard error is in")
    assert "hidden" not in err
    peer = Peer([str(program), str(deaf.log / "dspex_like.py"), *POOL], tmp_path, tmp_path, cwd=tmp_path)
    try:
        peer.handshake()
        assert peer.ask(1, "noise")["result"] == {"done": True}
        peer.to.close()
        assert peer.end() == (0, b"")
        assert "noise" not in peer.stderr
    finally:
        peer.kill()
