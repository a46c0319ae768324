"""Hostile callers of the HTTP face: each does the act itself, against a real host."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import re
import select
import socket
import struct
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridgehold.faces.http.routes import ROUTES
from http_face.http_support import (
    TOKENS,
    Caller,
    HttpStage,
    all_of,
    digest,
    events,
    face_process,
    head,
    raw,
    status,
    using,
)
from waiting import eventually, until

pytestmark = pytest.mark.hostile
LONG = "import time\nfor _ in range(3000): time.sleep(0.02)"


ACME = f"Authorization: Bearer {TOKENS['acme']}"


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (("Expect: nonsense",), 417, "Leave the field out."),
        ((f"X-Long: {'x' * 9_000}",), 400, "4096"),
    ],
)
def test_what_the_library_refuses_is_told_as_everything_else(
    face: HttpStage, asked: tuple[str, ...], code: int, said: str
) -> None:
    answer = raw(face, head(face, ACME, *asked))
    error = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (status(answer), error["code"], said in error["hint"]) == (code, "usage", True), answer


def test_no_path_at_all_is_served_without_a_token(face: HttpStage) -> None:
    paths = [(route.method, re.sub(r"\{\w+\}", "x", route.path)) for route in ROUTES]
    paths += [
        ("GET", "/"),
        ("GET", "/v1/none"),
        ("DELETE", "/v1/run"),
        ("OPTIONS", "/v1/run"),
        ("TRACE", "/"),
    ]

    async def act(nobody: Caller, stranger: Caller) -> None:
        for method, path in paths:
            for caller in (nobody, stranger):
                said = await caller.ask(method, path)
                assert (said.status, said.code) == (401, "denied"), (method, path)
                assert said.headers["WWW-Authenticate"].startswith("Bearer")

    using(face, act, "", "a-wrong-token")


@pytest.mark.parametrize(
    "fields",
    [
        ["Authorization: Bearer "],
        ["Authorization: Bearer"],
        [f"Authorization: {TOKENS['acme']}"],
        [f"Authorization: Basic {TOKENS['acme']}"],
        [f"Authorization: Bearer {TOKENS['acme']} "[:-2]],
        [f"Authorization: Bearer {TOKENS['acme'].upper()}"],
        [f"Authorization: Bearer {'x' * 2000}"],
        [f"Authorization: Bearer {TOKENS['acme']} {TOKENS['boss']}"],
        [ACME, f"Authorization: Bearer {TOKENS['boss']}"],
        ["X-Forwarded-User: boss", "X-Principal: owner", "Cookie: token=" + TOKENS["acme"]],
        [f"Authorization: Bearer sha256:{'0' * 64}"],
    ],
)
def test_what_is_no_token_is_nobody(face: HttpStage, fields: list[str]) -> None:
    assert status(raw(face, head(face, *fields))) == 401


def test_a_token_in_the_address_is_none(face: HttpStage) -> None:
    line = f"GET /v1/bridges?token={TOKENS['acme']}&access_token={TOKENS['acme']} HTTP/1.1"
    assert status(raw(face, head(face, line=line))) == 401
    assert status(raw(face, head(face, ACME))) == 200


def ask_socket(path: Path, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """The host's own protocol, spoken by hand, up to where the host ends the connection."""
    said: list[dict[str, Any]] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(5)
        link.connect(str(path))
        for number, request in enumerate(requests, 1):
            body = json.dumps({"id": number, "params": {}, **request}).encode()
            try:
                link.sendall(struct.pack(">I", len(body)) + body)
                head = link.recv(4)
            except ConnectionError:
                break
            if not head:
                break
            said.append(json.loads(link.recv(struct.unpack(">I", head)[0])))
    return said


def test_the_socket_of_the_face_gives_nobody_a_right_without_a_token(face: HttpStage) -> None:
    """Not even to the owner, whose uid is an operator on the host's own socket."""
    layout = face.stage.layout
    assert "result" in ask_socket(layout.socket, {"method": "ping"})[0]
    for requests in (
        [{"method": "ping"}],
        [{"method": "stop"}],
        [{"method": "hello", "params": {"token": ""}}, {"method": "sessions"}],
        [{"method": "hello", "params": {"token": "wrong"}}, {"method": "metrics"}],
        [
            {"method": "hello", "params": {"token": TOKENS["acme"]}},
            {"method": "hello"},
            {"method": "sessions"},
        ],
    ):
        assert ask_socket(layout.tokens_socket, *requests)[-1]["error"]["code"] == "denied", requests


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives the face a kernel uid of its own")
def test_the_faces_own_uid_is_nobody_on_either_socket_and_reads_no_state(face: HttpStage) -> None:
    layout = face.stage.layout
    uid = face_process(face).uids().real
    assert uid not in {0, os.getuid()}
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        found: dict[str, Any] = {}
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            for name, path in (("own", layout.tokens_socket), ("host", layout.socket)):
                found[name] = (
                    ask_socket(path, {"method": "sessions"})[0].get("error", {}).get("code", "served")
                )
            for folder in (layout.audit, layout.secrets, layout.artifacts, layout.uids):
                try:
                    found[folder.name] = os.listdir(folder)
                except PermissionError:
                    found[folder.name] = "refused"
        finally:
            os.write(write, json.dumps(found).encode())
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        found = json.loads(pipe.read())
    assert found == {
        "own": "denied",
        "host": "denied",
        "audit": "refused",
        "secrets": "refused",
        "artifacts": "refused",
        "uids": "refused",
    }


def test_a_guessed_session_is_as_one_that_never_was(face: HttpStage) -> None:
    async def act(acme: Caller, rival: Caller) -> None:
        session = await acme.open(face.bridge, "secretly")
        run = {"operation": "act", "arguments": {"code": "bridge.kept = 'of acme'"}}
        assert (await acme.ask("POST", f"/v1/sessions/{session}/commands", run)).status == 200
        never = "s-0000000000000000"
        for method, path, body in (
            ("POST", "/v1/sessions/{}/commands", {"operation": "act", "arguments": {"code": "1"}}),
            (
                "POST",
                "/v1/sessions/{}/commands",
                {"operation": f"{face.bridge}:act", "arguments": {"code": "1"}},
            ),
            ("GET", "/v1/sessions/{}/logs", None),
            ("DELETE", "/v1/sessions/{}", None),
        ):
            mine = await rival.ask(method, path.format(session), body)
            none = await rival.ask(method, path.format(never), body)
            assert (mine.status, mine.code) == (404, "not_found"), (method, path)
            assert str(mine.body).replace(session, never) == str(none.body)
        for path in ("/v1/sessions/secretly/logs", "/v1/sessions/anonymous/logs"):
            assert (await rival.ask("GET", path)).status == 404
        code = {"code": "result = getattr(bridge, 'kept', 'nothing')"}
        for place in (
            {"session": session},
            {"session": "secretly"},
            {"session": "secretly", "tenant": "acme"},
        ):
            said = await rival.ask(
                "POST", "/v1/run", {"operation": f"{face.bridge}:act", "arguments": code, **place}
            )
            assert "of acme" not in str(said.body)
            if "tenant" in place:
                assert (said.status, said.code) == (403, "denied")
        assert session not in str((await rival.ask("GET", "/v1/sessions")).body)
        assert (await rival.ask("GET", "/v1/sessions?tenant=acme")).status == 403
        opened = await rival.ask(
            "POST", "/v1/sessions", {"bridge": face.bridge, "name": "x", "tenant": "acme"}
        )
        assert opened.status == 403
        kept = {"operation": "act", "arguments": code}
        assert (await acme.ask("POST", f"/v1/sessions/{session}/commands", kept)).body["value"] == "of acme"

    using(face, act, "acme", "rival")


def test_a_guessed_resource_or_artifact_is_as_one_that_never_was(face: HttpStage) -> None:
    async def act(acme: Caller, rival: Caller) -> None:
        body = {"kind": "box", "bridge": face.bridge, "arguments": {"id": "hidden", "value": "of acme"}}
        assert (await acme.ask("POST", "/v1/resources", body)).status == 201
        digest = (await acme.ask("PUT", "/v1/artifacts", data=b"of acme")).body["digest"]
        assert (await rival.ask("POST", "/v1/resources/hidden/execute", {})).status == 404
        assert (await rival.ask("POST", "/v1/resources/hidden/execute", {"tenant": "acme"})).status in {
            403,
            404,
        }
        assert (await rival.ask("DELETE", "/v1/resources/hidden?tenant=acme")).status in {403, 404}
        assert (await rival.ask("GET", "/v1/resources?tenant=acme")).status == 403
        for suffix, refused in (("", 404), ("?tenant=acme", 403)):
            assert (await rival.ask("GET", f"/v1/artifacts/{digest}{suffix}")).status == refused
            assert (await rival.ask("DELETE", f"/v1/artifacts/{digest}{suffix}")).status == refused
        assert (await rival.ask("GET", "/v1/artifacts/..%2F..%2Facme%2F" + digest)).status == 404
        assert (await acme.ask("GET", f"/v1/artifacts/{digest}")).body == b"of acme"
        assert (await acme.ask("POST", "/v1/resources/hidden/execute", {})).body["value"] == "of acme"

    using(face, act, "acme", "rival")


def test_only_its_own_principal_cancels_a_command_or_answers_its_tools(face: HttpStage) -> None:
    """`helper` acts for the same tenant, and is somebody else all the same."""

    async def act(acme: Caller, rival: Caller, helper: Caller, boss: Caller) -> None:
        body = {
            "operation": f"{face.bridge}:act",
            "arguments": {"code": "result = tools['ask']()"},
            "tools": [{"name": "ask"}],
            "id": "guessable",
            "session": "asked",
        }
        async for name, data in acme.stream("/v1/run", body):
            if name != "tool_call":
                continue
            path = f"/v1/commands/guessable/tools/{data['call']}"
            for other in (rival, helper, boss):
                assert (await other.ask("POST", path, {"result": "forged"})).status == 404
                assert (await other.ask("DELETE", "/v1/commands/guessable")).status == 404
            for wrong in ("0", "99999", "-1", "x", "1e3", "٣", "9" * 400):
                forged = await acme.ask("POST", f"/v1/commands/guessable/tools/{wrong}", {"result": "forged"})
                assert forged.status == 404, wrong
            assert (await acme.ask("POST", path, {"result": "true", "forged": 1})).status == 400
            assert (await acme.ask("POST", path, {"result": "true"})).status == 200
            assert (await acme.ask("POST", path, {"result": "twice"})).status == 404
        assert data["value"] == "true"

    using(face, act, "acme", "rival", "helper", "boss")


async def known(caller: Caller, command: str) -> bool:
    return (await caller.ask("GET", f"/v1/commands/{command}")).status == 200


def test_two_principals_may_use_one_name_of_a_command(face: HttpStage) -> None:
    async def act(acme: Caller, rival: Caller) -> None:
        body = {"operation": f"{face.bridge}:act", "arguments": {"code": LONG}, "id": "same"}
        both = [asyncio.create_task(one.ask("POST", "/v1/run", body)) for one in (acme, rival)]
        for one in (acme, rival):
            await eventually(partial(known, one, "same"))
        assert (await rival.ask("DELETE", "/v1/commands/same")).status == 202
        assert (await asyncio.wait_for(both[1], 30)).code == "cancelled"
        assert not both[0].done()
        assert (await acme.ask("DELETE", "/v1/commands/same")).status == 202
        assert (await asyncio.wait_for(both[0], 30)).code == "cancelled"

    using(face, act, "acme", "rival")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["Host: evil.example"], 421),
        (["Host: 127.0.0.1.evil.example"], 421),
        (["Host: evil.example:80@127.0.0.1"], 421),
        (["Host: "], 421),
        ([], 400),
        (["Host: 127.0.0.1", "Host: evil.example"], 400),
        (["Host: 0.0.0.0"], 421),
        (["Host: LOCALHOST:1"], 200),
        (["Host: [::1]:8765"], 200),
        (["Host: bridge.example"], 200),
    ],
)
def test_another_sites_name_for_us_is_refused(face: HttpStage, fields: list[str], expected: int) -> None:
    """Whose page was made to resolve to this machine speaks under its own name."""
    found = raw(face, head(face, *fields, ACME, host=False))
    assert status(found) == expected
    assert b"access-control" not in found.lower()


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'"' + b"\xff\xfe" + b'"', "application/json", 400),
        (
            b'{"operation": "python:execute", "arguments": '
            + b'{"a":' * 50_000
            + b"1"
            + b"}" * 50_000
            + b"}",
            "application/json",
            400,
        ),
        (
            b'{"operation": "python:execute", "arguments": {"a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}}",
            "application/json",
            400,
        ),
        (b'{"operation": "python:execute", "unknown": 1}', "application/json", 400),
        (b'{"operation": 1}', "application/json", 400),
        (b'{"operation": "python:execute", "deadline_ms": -1}', "application/json", 400),
        (b'{"operation": "python:execute", "id": "a\\r\\nX-Injected: 1"}', "application/json", 400),
        (b'{"operation": "python:execute", "tenant": "../../etc"}', "application/json", 403),
        (b'{"operation": "' + b"x" * 5_000 + b'"}', "application/json", 400),
        (b'{"operation": "python:execute"}', "text/plain", 415),
        (b'{"operation": "python:execute"}', "application/x-www-form-urlencoded", 415),
        (b'{"operation": "python:execute"}', "", 415),
    ],
)
def test_a_body_that_is_no_request_is_refused_typed(
    face: HttpStage, body: bytes, kind: str, expected: int
) -> None:
    fields = [ACME, f"Content-Length: {len(body)}", *([f"Content-Type: {kind}"] if kind else [])]
    found = raw(face, head(face, *fields, line="POST /v1/run HTTP/1.1") + body)
    assert status(found) == expected, found[:500]
    told = json.loads(found.partition(b"\r\n\r\n")[2])
    assert set(told) == {"code", "message", "hint", "where", "retry", "event", "traceback"}
    assert "Traceback" not in told["message"]
    assert b"X-Injected" not in found.partition(b"\r\n\r\n")[0]


def test_a_huge_body_is_not_read_and_a_compressed_one_not_unpacked(face: HttpStage) -> None:
    post = "POST /v1/run HTTP/1.1"
    kind = "Content-Type: application/json"
    told = raw(face, head(face, ACME, kind, f"Content-Length: {1 << 40}", line=post))
    assert status(told) == 413
    chunked = head(face, ACME, kind, "Transfer-Encoding: chunked", line=post)
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    assert status(raw(face, chunked + piece * 17)) == 413
    bomb = gzip.compress(b" " * (200 << 20))
    before = face_process(face).memory_info().rss
    packed = head(face, ACME, kind, "Content-Encoding: gzip", f"Content-Length: {len(bomb)}", line=post)
    assert status(raw(face, packed + bomb)) == 415
    assert face_process(face).memory_info().rss < before + (32 << 20)


def test_bodies_that_wait_are_bounded_together(face: HttpStage) -> None:
    """Each is within its own bound, and their callers within theirs."""
    size = 1 << 20
    waiting = []
    for token in [TOKENS[name] for name in ("acme", "helper", "rival", "boss") for _ in range(5)]:
        fields = [
            f"Authorization: Bearer {token}",
            "Content-Type: application/json",
            f"Content-Length: {size}",
        ]
        one = socket.create_connection(("127.0.0.1", face.port), timeout=5)
        waiting.append(one)
        one.sendall(head(face, *fields, line="POST /v1/run HTTP/1.1") + b" " * (size - 1))
    found = sorted(status(one.recv(65_536)) for one in waiting)
    for one in waiting:
        one.close()
    assert set(found) == {408, 503}, found
    assert found.count(503) <= 8
    body = b" " * (size - 100) + b"{}"
    fields = [ACME, "Content-Type: application/json", f"Content-Length: {len(body)}"]
    assert status(raw(face, head(face, *fields, line="POST /v1/sessions HTTP/1.1") + body)) == 400, (
        "room again"
    )


def test_a_slow_body_and_a_slow_head_end(face: HttpStage) -> None:
    def begun(data: bytes) -> socket.socket:
        one = socket.create_connection(("127.0.0.1", face.port), timeout=30)
        one.sendall(data)
        return one

    started = time.monotonic()
    kind = "Content-Type: application/json"
    body = begun(head(face, ACME, kind, "Content-Length: 100", line="POST /v1/run HTTP/1.1") + b"{")
    upload = begun(head(face, ACME, "Content-Length: 100", line="PUT /v1/artifacts HTTP/1.1") + b"x")
    # which byte finds the end is the kernel's
    with begun(b"GET / HTTP/1.1\r\nX: ") as slow, pytest.raises(OSError):  # noqa: PT012
        while time.monotonic() - started < 30:
            slow.sendall(b"x")
            time.sleep(0.1)
    for one in (body, upload):
        with one:
            assert status(one.recv(65_536)) == 408


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X%d: 1\r\n" % n for n in range(500)) + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=["tls", "short", "long-field", "many-fields", "two-lengths", "negative", "long-line"],
)
def test_what_is_no_http_is_answered_in_json_and_ended(face: HttpStage, data: bytes) -> None:
    found = raw(face, data)
    assert status(found) == 400
    assert json.loads(found.partition(b"\r\n\r\n")[2])["code"] == "usage"
    assert b"Traceback" not in (face.stage.layout.config.parent / "host.log").read_bytes()


def test_connections_that_ask_nothing_keep_nobody_out(face: HttpStage) -> None:
    idle = [socket.create_connection(("127.0.0.1", face.port)) for _ in range(120)]
    try:
        for one in idle[::7]:
            one.sendall(b"GET / HTTP/1.1\r\nHost: local")
        assert status(raw(face, head(face, ACME))) == 200
        assert len(face_process(face).net_connections("tcp")) <= 42
    finally:
        for one in idle:
            one.close()


def test_one_principals_requests_are_bounded_and_anothers_go_on(face: HttpStage) -> None:
    async def act(acme: Caller, rival: Caller) -> None:
        sessions = [await acme.open(face.bridge) for _ in range(6)]
        body = {"operation": "act", "arguments": {"code": LONG}}
        work = [
            asyncio.create_task(
                acme.ask("POST", f"/v1/sessions/{one}/commands", {**body, "id": f"n{number}"})
            )
            for number, one in enumerate(sessions)
        ]
        told = face.stage.client.sessions
        await eventually(lambda: sum(one.state == "busy" and one.id in sessions for one in told()) == 6)
        refused = await acme.ask("GET", "/v1/sessions")
        assert (refused.status, refused.code) == (429, "busy")
        assert refused.headers["Retry-After"]
        assert (await rival.ask("GET", "/v1/sessions")).status == 200
        for number in range(6):
            assert (await acme.ask("DELETE", f"/v1/commands/n{number}")).status == 202
        assert {said.code for said in await asyncio.gather(*work)} == {"cancelled"}
        assert (await acme.ask("GET", "/v1/sessions")).status == 200
        for one in sessions:
            await acme.ask("DELETE", f"/v1/sessions/{one}")

    using(face, act, "acme", "rival")


def test_a_caller_that_reads_nothing_ends_its_command_and_fills_no_memory(face: HttpStage) -> None:
    process = face_process(face)
    before = process.memory_info().rss
    body = json.dumps(
        {
            "operation": f"{face.bridge}:count",
            "arguments": {"count": 40_000, "size": 20_000},
            "session": "flood",
        }
    ).encode()
    fields = [
        ACME,
        "Content-Type: application/json",
        "Accept: text/event-stream",
        f"Content-Length: {len(body)}",
    ]
    with socket.create_connection(("127.0.0.1", face.port)) as unread:
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        unread.sendall(head(face, *fields, line="POST /v1/run HTTP/1.1") + body)
        sizes = [before]

        def over() -> bool:
            sizes.append(process.memory_info().rss)
            cancelled = [
                one["intent"] for one in face.stage.events("command.outcome") if one["code"] == "cancelled"
            ]
            intents = [one for one in face.stage.events("command.intent") if one["ref"] in cancelled[-1:]]
            return "count" in str(intents)

        until(over)
        assert max(sizes) < before + (80 << 20)
    assert status(raw(face, head(face, ACME))) == 200


def test_an_upload_that_is_given_up_leaves_nothing(face: HttpStage) -> None:
    """A tenant has places for 64 uploads; what its callers break off must not fill them."""
    folder = face.stage.layout.artifacts / "acme"
    fields = [ACME, f"Content-Length: {12 << 20}"]

    def begun() -> bool:
        """Whether it came so far; where the machine has no time for it, the face ends it first as too slow."""
        with (
            socket.create_connection(("127.0.0.1", face.port), timeout=5) as one,
            contextlib.suppress(OSError),
        ):
            one.sendall(head(face, *fields, line="PUT /v1/artifacts HTTP/1.1") + bytes(9 << 20))
            until(lambda: list(folder.glob("*.part")) or select.select([one], [], [], 0)[0])
            return bool(list(folder.glob("*.part")))
        return False

    for _ in range(3):
        until(begun)
        until(lambda: not list(folder.glob("*.part")))


def held_open(local: str, remote: str) -> bool:
    """Whether a process holds the connection between these ends."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(local) and row[2].endswith(remote) and row[3] == "01" for row in rows)


def test_an_answer_that_nobody_reads_is_cut_off(face: HttpStage) -> None:
    async def keep(acme: Caller) -> str:
        kept = await acme.ask("PUT", "/v1/artifacts", data=os.urandom(12 << 20))
        return str(kept.body["digest"])

    path = f"/v1/artifacts/{using(face, keep)}"
    with socket.socket() as unread:
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        unread.connect(("127.0.0.1", face.port))
        unread.sendall(head(face, ACME, line=f"GET {path} HTTP/1.1"))
        ends = [f":{port:04X}" for port in (face.port, unread.getsockname()[1])]
        until(lambda: not held_open(*ends), 60)  # what the kernel has taken by then comes still, and no more
        unread.settimeout(5)
        found = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := unread.recv(1 << 20):
                found += len(piece)
        assert found < 12 << 20


def test_answers_that_are_not_read_and_bodies_that_never_end_take_a_share_and_no_more(
    face: HttpStage,
) -> None:
    policy = face.stage.layout.policies / f"{face.bridge}.toml"
    policy.write_text(policy.read_text().replace('response = "1MiB"', 'response = "8MiB"'))
    call = {"operation": f"{face.bridge}:act", "arguments": {"code": "result = 'x' * 4_000_000"}}

    def asked(session: str, auth: str) -> socket.socket:
        body = json.dumps({**call, "session": session}).encode()
        fields = [auth, "Content-Type: application/json", f"Content-Length: {len(body)}"]
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.settimeout(20)
        one.connect(("127.0.0.1", face.port))
        one.sendall(head(face, *fields, line="POST /v1/run HTTP/1.1") + body)
        return one

    process = face_process(face)
    before = process.memory_info().rss
    with contextlib.ExitStack() as unread:
        for _ in range(5):  # more than all that may wait in the face: each is where it was made
            one = unread.enter_context(asked("unread", ACME))
            assert status(one.recv(1_024)) == 200
        assert process.memory_info().rss < before + (6 << 20)

        async def act(rival: Caller) -> None:
            said = await rival.ask("POST", "/v1/run", {**call, "session": "unread"})
            assert said.status == 200
            assert len(said.body["value"]) == 4_000_000
            assert (await rival.ask("PUT", "/v1/artifacts", data=b"x" * (5 << 20))).status == 201

        using(face, act, "rival")
        ends = [f":{port:04X}" for port in (face.port, one.getsockname()[1])]
        until(lambda: not held_open(*ends), 60)
        assert len(all_of(one)) < 4_000_000, "cut off"
    with asked("unread", ACME) as another:
        assert status(another.recv(4_096)) == 200, "room again"


def test_a_flood_of_wrong_tokens_is_folded_in_the_audit(face: HttpStage) -> None:
    async def act(*strangers: Caller) -> None:
        for _ in range(40):
            found = await asyncio.gather(*(one.ask("GET", "/v1/bridges") for one in strangers))
            assert {said.status for said in found} == {401}

    before = len(face.stage.events("principal.refused"))
    using(face, act, *(f"wrong-{number}" for number in range(10)))
    assert len(face.stage.events("principal.refused")) - before < 80

    def folded() -> bool:
        told: list[Any] = [event["folded"] for event in face.stage.events("events.folded")]
        return sum(one.get("principal.refused", 0) for one in told) > 250

    until(folded)


def test_no_token_is_in_the_audit_or_in_the_log(face: HttpStage) -> None:
    raw(face, head(face, f"Authorization: Bearer {'never-to-be-seen'}", line="GET /v1/sessions/x HTTP/1.1"))
    texts = [path.read_bytes() for path in face.stage.layout.audit.rglob("*") if path.is_file()]
    texts.append((face.stage.layout.config.parent / "host.log").read_bytes())
    texts.append("\n".join(face_process(face).cmdline()).encode())
    texts.append(json.dumps(face_process(face).environ()).encode())
    for secret in (*TOKENS.values(), "never-to-be-seen"):
        assert not any(secret.encode() in text for text in texts)


def test_a_stream_that_is_cut_off_in_its_head_hurts_nobody(face: HttpStage) -> None:
    async def act(acme: Caller) -> None:
        body = {"operation": f"{face.bridge}:count", "arguments": {"count": 2000}}
        headers = {**acme.auth, "Accept": "text/event-stream"}
        for _ in range(20):
            async with acme.http.post(acme.url + "/v1/run", json=body, headers=headers) as response:
                async for _event in events(response.content):
                    break
                response.close()
        assert [event async for event in acme.stream("/v1/run", body)][-1][1]["value"] == 2000

    using(face, act)


def test_a_token_that_is_taken_away_is_worth_nothing_at_once(face: HttpStage) -> None:
    """Its streams end too, and what they run; another token of the same tenant goes on."""
    file = face.stage.layout.config_file
    before = file.read_text()

    async def act(helper: Caller, acme: Caller) -> None:
        body = {"operation": f"{face.bridge}:act", "arguments": {"code": LONG}, "session": "revoked"}
        stream = helper.stream("/v1/run", body)
        assert (await anext(stream))[0] == "open"
        for _ in range(3):
            assert (await helper.ask("GET", "/v1/bridges")).status == 200
        await eventually(lambda: any(one.state == "busy" for one in face.stage.client.sessions()))
        file.write_text(before.replace(digest(TOKENS["helper"]), digest("a-new-token")))
        started = time.monotonic()
        await asyncio.to_thread(face.stage.client.request, "reload")
        seen = [event async for event in stream if event[0]]
        assert seen[-1][0] == "error"
        assert seen[-1][1]["code"] == "host_unavailable"
        assert time.monotonic() - started < 5
        assert (await helper.ask("GET", "/v1/bridges")).status == 401
        assert (await acme.ask("GET", "/v1/bridges")).status == 200

    try:
        using(face, act, "helper", "acme")
    finally:
        file.write_text(before)
        face.stage.client.request("reload")
