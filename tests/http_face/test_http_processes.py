"""The HTTP face as a process: it ends with the others and they with it, and what it may not do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bridgehold import SyncClient
from bridgehold.audit.read import read_all
from bridgehold.config.layout import Layout
from bridgehold.host.startup import LEAVE
from hostile.stage import make_home, stage, start_host, stop_host
from http_face.http_support import TOKENS, principals, raw_to, url_of
from waiting import until

pytestmark = pytest.mark.hostile
FACE, HOST = "bridgehold.faces.http.main", "bridgehold.host.main"


@pytest.fixture
def layout() -> Iterator[Layout]:
    made = make_home(os.getuid())
    made.config_file.write_text(f'{principals()}[http]\nlisten = "127.0.0.1:0"\n')
    yield made
    shutil.rmtree(made.config.parent, ignore_errors=True)


@pytest.fixture
def start(layout: Layout) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a host on `layout`, which ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        started.append(start_host(layout))
        return started[-1]

    yield begin
    for host in started:
        if host.poll() is None:
            stop_host(host)


def tree(supervisor: int) -> dict[str, psutil.Process]:
    """By module, where one of ours runs, the one that began all others of it; by pid otherwise."""
    found: dict[str, psutil.Process] = {}
    for one in psutil.Process(supervisor).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # what ends meanwhile is no process of ours
            command = one.cmdline()
            found.setdefault(command[3] if len(command) > 3 else str(one.pid), one)
    return found


def port_of(layout: Layout) -> int:
    return int(url_of(layout).rpartition(":")[2])


def waiting(layout: Layout) -> tuple[list[bytes], threading.Thread]:
    """A caller of a long command, once that runs: the thread it waits on, and what it is answered."""
    answers: list[bytes] = []
    body = b'{"operation": "python:execute", "arguments": {"code": "import time; time.sleep(50)"}}'
    request = (
        f"POST /v1/run HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKENS['acme']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body
    port = port_of(layout)
    thread = threading.Thread(target=lambda: answers.append(raw_to(port, request, 20)))
    thread.start()
    with SyncClient.connect(layout.socket) as client:
        until(lambda: not (thread.is_alive() and (not any(one.state == "busy" for one in client.sessions()))))
    return answers, thread


@pytest.mark.parametrize("victim", [FACE, HOST])
def test_the_end_of_the_face_or_of_the_host_ends_everything(
    layout: Layout, start: Callable[[], subprocess.Popen[bytes]], victim: str
) -> None:
    host = start()
    answers, thread = waiting(layout)
    below = tree(host.pid)
    assert set(below) > {FACE, HOST}
    os.kill(below[victim].pid, signal.SIGKILL)
    assert host.wait(30) != 0
    _, alive = psutil.wait_procs(list(below.values()), timeout=15)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
    thread.join(30)
    assert answers
    if victim == HOST:
        assert b" 503 " in answers[0].splitlines()[0], "its caller is told, in JSON"
        assert b'"host_unavailable"' in answers[0]
    else:
        assert answers == [b""]
        assert "http process ended" in (layout.config.parent / "host.log").read_text()
    outcomes = [entry for entry in read_all(layout.audit) if entry.kind == "command.outcome"]
    assert victim == HOST or {entry.text("code") for entry in outcomes} <= {"cancelled", "session_ended"}
    with pytest.raises(ConnectionRefusedError):
        raw_to(port_of(layout), b"", 2)


def test_what_the_face_may_do_and_how_it_stops(
    layout: Layout, start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    """Its stop is orderly: who waits for a command is told how that ended."""
    with layout.config_file.open("a") as file:
        file.write("public = true\n")
    host = start()
    url_of(layout)
    below = tree(host.pid)
    face = below[FACE]
    status = Path(f"/proc/{face.pid}/status").read_text()
    limits = Path(f"/proc/{face.pid}/limits").read_text()
    if os.getuid() == 0:
        assert face.uids().effective not in {0, below[HOST].uids().effective}
        assert "CapEff:\t0000000000000000" in status
        assert "CapPrm:\t0000000000000000" in status
        assert "Groups:\t \n" in status
    assert next(line for line in limits.splitlines() if "Max processes" in line).split()[2:4] == ["0", "0"]
    assert "NoNewPrivs:\t1" in status
    assert layout.tokens_socket.stat().st_mode & 0o777 == 0o600
    answers, thread = waiting(layout)
    assert stop_host(host) == 0
    thread.join(30)
    told = json.loads(answers[0].partition(b"\r\n\r\n")[2])
    assert told["code"] == "session_ended", answers
    assert not layout.tokens_socket.exists()
    (started,) = [entry for entry in read_all(layout.audit) if entry.kind == "host.started"]
    assert "public_http" in started.fields["weakenings"]  # type: ignore[operator]


def test_whoever_came_before_the_host_leaves_is_answered(
    layout: Layout, start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    """Nothing tells a caller that its first request, or the rest of one, would come too late."""
    host = start()
    port = int(url_of(layout).rpartition(":")[2])
    body = b'{"operation": "nonesuch:act", "arguments": {}}'
    head = (
        f"POST /v1/run HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKENS['acme']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    whoami = f"GET /v1/sessions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKENS['acme']}\r\n\r\n"
    begun = (b"", head[:40], head, head + body[:10])
    with contextlib.ExitStack() as stack:
        kept, *callers = (
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(5)
        )
        kept.sendall(whoami.encode())
        until(lambda: b"\r\n\r\n" in kept.recv(65_536, socket.MSG_PEEK))
        for caller, part in zip(callers, begun, strict=True):
            caller.sendall(part)
        # What is sent before a caller connects is heard before it is accepted: so all of that was.
        assert b" 200 " in raw_to(
            port, whoami.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").encode(), 30
        )
        os.kill(tree(host.pid)[FACE].pid, LEAVE)
        answered = b"".join(iter(lambda: kept.recv(65_536), b""))
        assert answered.startswith(b"HTTP/1.1 200 "), "and it ends by itself, between two requests"
        for caller, part in zip(callers, begun, strict=True):
            caller.sendall((head + body)[len(part) :])
            answer = b"".join(iter(lambda: caller.recv(65_536), b""))  # noqa: B023 - called at once
            assert re.match(rb"HTTP/1.1 403 ", answer), (part, answer)
            assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize(
    ("config", "option", "said"),
    [
        ('listen = "0.0.0.0:0"', "", "without TLS"),
        ("public = true", "192.0.2.1:0", "can't listen"),
    ],
)
def test_an_address_that_others_reach_needs_its_named_weakening(
    layout: Layout, config: str, option: str, said: str
) -> None:
    layout.config_file.write_text(f"[http]\n{config}\n")
    argv = [sys.executable, "-m", "bridgehold", "serve", *(["--http", option] if option else [])]
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(layout.config.parent)}
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=30, check=False, cwd="/"
    )
    assert done.returncode == 3
    assert said in " ".join(done.stderr.split())
    assert not layout.audit.exists(), "nothing was started"


def test_a_private_host_serves_no_http(layout: Layout) -> None:
    from bridgehold.client.private import PrivateHost

    private = PrivateHost.start(layout)
    try:
        assert not layout.tokens_socket.exists()
    finally:
        private.stop()


@pytest.mark.skipif(os.getuid() != 0, reason="root's part is to start it as somebody else")
def test_an_ordinary_users_face_confers_nothing_of_its_owner() -> None:
    """Face, host and owner have one uid here: what asks without a token is nobody all the same."""
    with stage("user", "cold", f'{principals()}[http]\nlisten = "127.0.0.1:0"\n') as ready:
        body = b'{"operation": "python:execute", "arguments": {"code": "6 * 7"}}'
        lines = [
            "POST /v1/run HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {TOKENS['acme']}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        request = "\r\n".join([*lines, "", ""]).encode() + body
        assert b'"value":42' in raw_to(port_of(ready.layout), request, 20)
        owner = tree(ready.supervisor)[FACE].uids().real
        script = (
            "import asyncio, sys\nfrom bridgehold import Client\n"
            "async def ask(path):\n"
            "    async with await Client.connect(path) as client:\n"
            "        try:\n            await client.request('sessions', {})\n            print('served')\n"
            "        except Exception as error:\n            print(error.code)\n"
            "for path in sys.argv[1:]: asyncio.run(ask(path))\n"
        )
        sockets = [str(ready.layout.socket), str(ready.layout.tokens_socket)]
        done = subprocess.run(
            [
                "setpriv",
                f"--reuid={owner}",
                f"--regid={owner}",
                "--clear-groups",
                sys.executable,
                "-c",
                script,
                *sockets,
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            cwd="/",
        )
        assert done.stdout.split() == ["served", "denied"]
