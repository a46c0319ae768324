"""Callers without the Python client: what they write arrives as it was sent, or is refused in the same words."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridgehold.errors import BridgeholdError, UsageError
from bridgehold.faces.cli.run import read_arguments
from hostile.stage import Stage, stage
from http_face.http_support import TOKENS, principals, url_of
from legacy.peer import Peer, stdio_command

HTTP = f'{principals()}[http]\nlisten = "127.0.0.1:0"\n'
MANIFEST = """
name = "{name}"
version = "1.0.0"
summary = "Says what it was given"
entry = "hostile:Hostile"
[operations.show]
summary = "As Python spells it"
effect = "read"
arguments = {{ additionalProperties = true }}
[operations.ask]
summary = "What a tool gave, as Python spells it"
effect = "run"
"""
BRIDGE = """
from bridgehold_sdk import Bridge, ToolError, operation

class Hostile(Bridge):
    @operation()
    def show(self, **given):
        return ascii(given)

    @operation()
    def ask(self):
        try: return ascii(self.tools["told"]())
        except ToolError as error: return f"{error.code}: {error}"
"""
POLICY = (
    'extends = "baseline"\n[operations]\nallow = ["*"]\n[tools]\nallow = ["*"]\n[sandbox]\nstart = "fork"\n'
)

ARRIVE = {
    "18446744073709551615": 2**64 - 1,
    "-9223372036854775808": -(2**63),
    "1.7976931348623157e308": 1.7976931348623157e308,
    "5e-324": 5e-324,
    "1.0": 1.0,
    '"18446744073709551616"': "18446744073709551616",
    '"\\ud83d\\ude00 \\u0000 NaN \\\\ud800"': "\U0001f600 \0 NaN \\ud800",
    '{"": {"a\\u0000": [], "NaN": null}}': {"": {"a\0": [], "NaN": None}},
    "[" * 58 + "]" * 58: None,  # with the arguments and `data`: sixty
}
REFUSED = {
    "18446744073709551616": "an integer beyond 64 bits",
    "-9223372036854775809": "an integer beyond 64 bits",
    "9" * 5_000: "an integer beyond 64 bits",
    "NaN": "nan, which JSON has not",
    "-Infinity": "-inf, which JSON has not",
    "1e400": "inf, which JSON has not",
    '"\\ud800"': "text with a lone surrogate at character 0",
    '"ab\\udfffc"': "text with a lone surrogate at character 2",
    '{"a": 1, "b": {}, "a": 1}': "two keys are both spelled 'a'",
    '{"x": 1, "\\u0078": 2}': "two keys are both spelled 'x'",
}
"""By what stands at `data[1].x`: what is said of that place."""
PLACE = "data[1].x: "
BROKEN = {
    "[" * 99 + "]" * 99: "nested deeper than 60",
    "[" * 50_000 + "]" * 50_000: "nested deeper",
    "{1: 2}": "not JSON",
    "01": "not JSON",
    "[1,]": "not JSON",
    '"\t"': "not JSON",
    '"\xff"': "UTF-8",
}
"""Elsewhere: what is said, wherever it says that it was."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage("root" if os.getuid() == 0 else "self", "fork", HTTP) as ready:
        name = ready.bridge(manifest=MANIFEST)
        (ready.layout.bridges / name / "hostile.py").write_text(BRIDGE)
        (ready.layout.policies / f"{name}.toml").write_text(POLICY)
        ready.__dict__["_plain"] = name
        yield ready
        log = (ready.layout.config.parent / "host.log").read_text()
        assert "Traceback" not in log, log


class Wire:
    """The host's socket, as somebody else's client would speak it."""

    def __init__(self, stage: Stage) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(stage.layout.socket))
        self._socket.settimeout(30)
        self._file = self._socket.makefile("rb")

    def send(self, body: bytes) -> None:
        self._socket.sendall(len(body).to_bytes(4, "big") + body)

    def receive(self) -> dict[str, Any]:
        found = json.loads(self._file.read(int.from_bytes(self._file.read(4), "big")))
        assert isinstance(found, dict)
        return found

    def close(self) -> None:
        self._file.close()
        self._socket.close()


Face = Callable[[Stage, bytes], tuple[str, str, str]]
"""(host, the JSON of the arguments) → (value; or code, and message with hint)."""


def over_socket(stage: Stage, arguments: bytes) -> tuple[str, str, str]:
    wire = Wire(stage)
    try:
        operation = f"{stage.plain}:show".encode()
        wire.send(
            b'{"id": 7, "method": "run", "params": {"operation": "%b", "arguments": %b}}'
            % (operation, arguments)
        )
        said = wire.receive()
        if said["id"]:  # its own request's alone: the connection serves the next
            assert said["id"] == 7, said
            wire.send(b'{"id": 8, "method": "ping"}')
            assert wire.receive()["result"]["status"] == "ok"
    finally:
        wire.close()
    return _answer(said.get("result"), said.get("error"))


def over_http(stage: Stage, arguments: bytes) -> tuple[str, str, str]:
    host = url_of(stage.layout).removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    body = b'{"operation": "%b:show", "tenant": "acme", "arguments": %b}' % (stage.plain.encode(), arguments)
    headers = {"Authorization": f"Bearer {TOKENS['acme']}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/run", body, headers)
    response = connection.getresponse()
    said = json.loads(response.read())
    connection.close()
    assert response.status in (200, 400), said
    return _answer(said if response.status == 200 else None, said if response.status == 400 else None)


def over_command_line(stage: Stage, arguments: bytes) -> tuple[str, str, str]:
    try:
        given = read_arguments(arguments.decode("latin-1"))
        return str(stage.client.run(f"{stage.plain}:show", given)), "", ""
    except BridgeholdError as error:
        return "", error.code, f"{error.where} {error.message} {error.hint}"


FACES: dict[str, Face] = {"socket": over_socket, "http": over_http, "command line": over_command_line}


def _answer(result: Any, error: Any) -> tuple[str, str, str]:
    if error is None:
        return str(result["value"]), "", ""
    return "", error["code"], f"{error['where']} {error['message']} {error['hint']}"


@pytest.mark.parametrize("face", FACES)
def test_what_is_sent_arrives_as_it_is_or_is_refused_with_its_place(shown: Stage, face: str) -> None:
    ask = FACES[face]
    for text, value in ARRIVE.items():
        said = ask(shown, b'{"data": %b}' % text.encode())
        expected = ascii({"data": value if value is not None else json.loads(text)})
        assert said == (expected, "", ""), (text[:40], said)
    for text, why in REFUSED.items():
        said = ask(shown, b'{"data": [0, {"x": %b}]}' % text.encode())
        assert said[:2] == ("", "usage"), (text[:40], said)
        assert f"arguments.{PLACE}{why}" in said[2], (text[:40], said)
        assert said[2].endswith((".", "text instead.")), said
    for text, why in BROKEN.items():
        said = ask(shown, b'{"data": %b}' % text.encode("latin-1"))
        if face == "command line" and "\xff" in text:
            continue  # it takes text: bytes that are none were refused before
        code = "protocol" if (face, why) in {("socket", "not JSON"), ("socket", "nested deeper")} else "usage"
        assert said[:2] == ("", code), (text[:40], said)
        assert why in said[2], (text[:40], said)
    for given in (b'{"data": 1, "data": 2}', b'{"data": [1e400]}'):
        assert ask(shown, given)[1] == "usage"
    head = b'{"data": ["' + b"x" * 100_000 + b'", {"x": '
    for text, why in REFUSED.items():
        said = ask(shown, head + text.encode() + b"}]}")
        assert said[1] == "usage"
        assert f"arguments.{PLACE}{why}" in said[2], (text[:40], said)
    many = b'{"data": [' + b"0.5, [], " * 50_000 + b'"\\ud800"]}'
    assert "arguments.data[100000]: text with a lone surrogate" in ask(shown, many)[2]


def test_a_request_itself_is_read_by_the_same_rules(shown: Stage) -> None:
    wire = Wire(shown)
    wire.send(b'{"id": 1, "method": "ping", "method": "stop"}')
    error = wire.receive()["error"]
    assert (error["code"], "two keys are both spelled 'method'" in error["message"]) == ("usage", True)
    wire.send(b'{"id": 2, "method": "sessions", "params": {"tenant": "local", "tenant": "other"}}')
    assert wire.receive()["error"]["code"] == "usage"
    wire.send(b'{"id": 2, "method": "run", "params": {"operation": "python:execute", "argumnts": {}}}')
    assert "unknown field `argumnts` (nearest: 'arguments')" in wire.receive()["error"]["message"]
    wire.send(b'{"id": 3, "method": "ping"}')
    assert wire.receive()["result"]["status"] == "ok"
    wire.close()


def test_a_tools_result_over_the_socket_is_refused_with_its_place_and_may_be_sent_again(shown: Stage) -> None:
    wire = Wire(shown)
    tools = '[{"name": "told", "parameters": {}}]'
    wire.send(
        b'{"id": 1, "method": "run", "params": {"operation": "%b:ask", "tools": %b}}'
        % (shown.plain.encode(), tools.encode())
    )
    event = wire.receive()["event"]
    for number, (text, why) in enumerate(REFUSED.items(), 2):
        result = f'"result": [0, {{"x": {text}}}]'
        head = f'"command": "{event["command"]}", "call": {event["call"]}'
        wire.send(f'{{"id": {number}, "method": "tool.reply", "params": {{{head}, {result}}}}}'.encode())
        error = wire.receive()["error"]
        assert error["code"] == "usage"
        assert f"result[1].x: {why}" in error["message"]
    wire.send(f'{{"id": 99, "method": "tool.reply", "params": {{{head}, "result": [1.5]}}}}'.encode())
    said = [wire.receive() for _ in range(2)]
    assert {one["id"]: one.get("result", {}).get("value") for one in said}[1] == "[1.5]"
    wire.close()


def test_over_standard_input_too(shown: Stage, tmp_path: Path) -> None:
    peer = Peer(stdio_command("--bridge", shown.plain), shown.layout.config.parent, tmp_path)
    try:
        peer.handshake()
        for text, value in ARRIVE.items():
            peer.send_body(b'{"id": 1, "command": "show", "args": {"data": %b}}' % text.encode())
            expected = ascii({"data": value if value is not None else json.loads(text)})
            assert peer.receive().get("result") == expected, text[:40]
        for text, why in REFUSED.items():
            peer.send_body(b'{"id": 1, "command": "show", "args": {"data": [0, {"x": %b}]}}' % text.encode())
            answer = peer.receive()
            assert answer["id"] == 1
            assert answer["error"].startswith(f"usage: args.{PLACE}{why}"), answer
        for wrong in (float("nan"), b"\xff", {None: 1}, {1.5: 1}):
            peer.send_body(msgspec.msgpack.encode({"id": 2, "command": "show", "args": {"data": [wrong]}}))
            error = peer.receive()["error"]
            assert error.startswith(
                ("usage: arguments.data[0]: ", "protocol: not msgpack that is taken: a key")
            ), error
        peer.ask(3, "register_tools", {"tools": [{"name": "told", "parameters": {}}]})
        for text, why in [*REFUSED.items(), ("[1.5]", "")]:
            peer.send(4, "ask")
            call = peer.receive()["rpc_id"]
            value = f'[0, {{"x": {text}}}]' if why else text
            peer.send_body(
                f'{{"type": "rpc_response", "rpc_id": {call}, "status": "ok", "result": {value}}}'.encode()
            )
            said = str(peer.receive()["result"])
            assert f"result[1].x: {why}" in said if why else said == "[1.5]", said
            assert said.startswith("application: ") or not why
    finally:
        peer.kill()


@pytest.mark.parametrize(
    "text", ['{"data": [0, {"x": 1e400}]}', '{"data": 1, "data": 2}', '{"data": "\\ud800"}']
)
def test_the_command_line_says_it_in_a_sentence(shown: Stage, text: str) -> None:
    argv = [sys.executable, "-m", "bridgehold", "run", f"{shown.plain}:show", "--args", text, "--json"]
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(shown.layout.config.parent)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    told = json.loads(done.stdout or done.stderr)
    assert told["code"] == "usage"
    assert told["where"].startswith("arguments")
    assert told["hint"]
    assert "Traceback" not in done.stderr


def test_the_python_client_says_the_same(shown: Stage) -> None:
    for text, why in REFUSED.items():
        if "spelled" in why or len(text) > 4_000:
            continue  # no dict has a key twice; no number of so many digits is read
        with pytest.raises(UsageError) as caught:
            shown.client.run(f"{shown.plain}:show", {"data": [0, {"x": json.loads(text)}]})
        assert f"arguments.{PLACE}{why}" in caught.value.message
