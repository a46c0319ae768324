"""One Python interface: both clients say the same, find a restarted host, and tell the end of a session each time."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from bridgehold import BridgeholdError, Client, Host, SyncClient, connect
from bridgehold.client.session import ClientSession
from bridgehold.client.sync import SyncSession
from bridgehold.config.layout import Layout
from bridgehold.errors import DeniedError, UsageError
from bridgehold.host.cell.sessions.bound import LEFT_SECONDS
from hostile.stage import BRIDGE, MANIFEST, POLICY, make_home, start_host, stop_host
from waiting import until

OWN = {"aclose"}
"""A coroutine's way to close; the synchronous one's is `close`."""


def methods(kind: type) -> dict[str, Any]:
    return {
        name: member
        for name, member in inspect.getmembers(kind, callable)
        if not name.startswith("_") and name not in OWN
    }


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(
    ("asynchronous", "synchronous"), [(Client, SyncClient), (ClientSession, SyncSession)]
)
def test_both_interfaces_have_the_same_methods(asynchronous: type, synchronous: type) -> None:
    other = methods(synchronous)
    for name, member in methods(asynchronous).items():
        assert name in other, name
        mine, theirs = parameters(member), parameters(other[name])
        if name == "request":  # without parameters, the synchronous one sends none
            mine, theirs = [one[:2] for one in mine], [one[:2] for one in theirs]
        assert mine == theirs, name
    for name, member in other.items():
        assert inspect.getdoc(member), name


PARTS = """
    @operation(stream=True)
    def parts(self):
        import time
        for part in range(70):
            yield part
            time.sleep(0.1)
"""
PARTS_DECLARED = """
[operations.parts]
summary = "Seven seconds of parts"
effect = "read"
stream = true
"""


@contextlib.contextmanager
def home() -> Iterator[Layout]:
    made = make_home(os.getuid())
    made.config_file.write_text("[host]\ndrain_s = 0\n")  # what runs is cut off, so that its caller is told
    folder = made.bridges / "plain"
    folder.mkdir()
    (folder / "bridge.toml").write_text(MANIFEST.format(name="plain") + PARTS_DECLARED)
    (folder / "hostile.py").write_text(BRIDGE.format(at_import="") + PARTS)
    (made.policies / "plain.toml").write_text(POLICY + '[sandbox]\nstart = "fork"\n')
    yield made
    shutil.rmtree(made.config.parent, ignore_errors=True)


@pytest.fixture
def layout() -> Iterator[Layout]:
    with home() as made:
        yield made


@pytest.fixture(scope="module")
def served() -> Iterator[Layout]:
    """One host for all that neither end one nor start one."""
    with home() as made:
        process = start_host(made)
        try:
            yield made
        finally:
            stop_host(process)


def failure(work: Any, *arguments: Any) -> BridgeholdError:
    with pytest.raises(BridgeholdError) as caught:
        work(*arguments)
    return caught.value


def test_a_client_finds_its_restarted_host_and_its_sessions_end_typed(layout: Layout) -> None:
    first = start_host(layout)
    client = SyncClient.connect(layout.socket)
    with client:
        with client.session("plain") as session:
            assert session.run("act", {"code": "result['x'] = 1"}) == {"x": 1}
            named = client.call("plain:act", {"code": "1"}, session="mine")
            assert named.anew == ""
            under_way: list[BridgeholdError] = []
            thread = threading.Thread(
                target=lambda: under_way.append(
                    failure(session.run, "act", {"code": "import time; time.sleep(7)"})
                )
            )
            thread.start()
            until_busy(client)
            stop_host(first)
            thread.join(30)
            assert [error.code for error in under_way] in (["host_unavailable"], ["session_ended"])
            starting = threading.Thread(target=lambda: hosts.append(start_host(layout)))
            hosts: list[Any] = []
            starting.start()  # the request waits for it
            assert client.request("ping")["status"] == "ok"
            starting.join()
            for _ in range(3):
                error = failure(session.run, "act", {"code": "1"})
                assert (error.code, error.where) == ("session_ended", session.id)
                assert re.search("asked by a signal|host that had this session is gone", error.message)
            assert failure(session.logs).code == "session_ended"
        with SyncClient.connect(layout.socket) as stranger:  # who never heard of the host before
            gone = failure(lambda: stranger.call("plain:act", {"code": "1"}, session=named.session))
            assert (gone.code, gone.where) == ("session_ended", named.session)
            again = stranger.call("plain:act", {"code": "1"}, session="mine")
            assert again.anew.startswith(f"session {named.session} of this name has ended: ")
            assert again.anew.endswith("; what it held is gone")
            assert stranger.call("plain:act", {"code": "1"}, session="mine").anew == ""
        with client.session("plain") as session:
            assert session.run("act", {"code": "result['x'] = 2"}) == {"x": 2}
        stop_host(hosts[0])
    hosts.append(start_host(layout))
    with SyncClient.connect(layout.socket, reconnect_s=0.2) as short:
        stop_host(hosts[1])
        began = time.monotonic()
        assert failure(short.request, "ping").code == "host_unavailable"
        assert time.monotonic() - began < 5


def until_busy(client: SyncClient) -> None:
    until(lambda: any(session.state == "busy" for session in client.sessions()))


def test_the_end_of_a_session_is_told_each_time_and_to_its_tenant_alone(served: Layout) -> None:
    with SyncClient.connect(served.socket) as client, client.session("plain") as session:
        crash = failure(session.run, "act", {"code": "import os; os._exit(3)"})
        assert crash.code == "crash"
        for _ in range(2):
            again = failure(session.run, "act", {"code": "1"})
            assert again.code == "session_ended"
            assert session.id in again.message
            assert "crash" in again.message
        stranger = failure(lambda: client.call("plain:report", {}, session=session.id, tenant="acme"))
        guessed = failure(
            lambda: client.call("plain:report", {}, session="s-0000000000000000", tenant="acme")
        )
        assert stranger.code == guessed.code
        assert stranger.message.replace(session.id, "s-0000000000000000") == guessed.message


def test_a_client_is_awaited_or_entered(layout: Layout) -> None:
    process = start_host(layout)

    async def all_ways() -> None:
        client = await Client.connect(layout.socket)
        async with client:
            assert client.alive
        async with Client.connect(layout.socket) as entered, connect(layout.socket) as other:
            assert (await entered.request("ping", {}))["status"] == "ok"
            assert (await other.request("ping", {}))["status"] == "ok"
        async with Host.connect(layout.socket) as host:
            assert isinstance(host, Host)
            for wrong in ("text", None, Path("/nowhere/at/all"), Path("/")):
                with pytest.raises(UsageError) as refused:
                    await host.put(wrong)  # type: ignore[arg-type]  # what a caller may do all the same
                assert refused.value.hint
            for asked, meant in (("python:exceute", "python:execute"), ("pyhton:execute", "python:execute")):
                with pytest.raises(DeniedError) as denied:
                    await host.run(asked, {"code": "1"})
                near = f"No bridge has such an operation (nearest: {meant!r}). bridgehold why i-"
                assert denied.value.hint.startswith(near)
            with pytest.raises(DeniedError) as denied:
                await host.run("zzz:qqq")
            assert denied.value.hint.startswith("bridgehold why ")
            with pytest.raises(DeniedError, match="it is no name"):
                await host.run("python:execute", {"code": "1"}, tenant="Acme")
            with pytest.raises(UsageError, match="no number of retries"):
                await host.run("python:execute", {"code": "1"}, retries=-1)
            with pytest.raises(UsageError, match="deadline_ms"):
                await host.call("python:execute", {"code": "1"}, deadline_ms=-5)

    try:
        asyncio.run(all_ways())
    finally:
        stop_host(process)
    with pytest.raises(BridgeholdError) as caught:
        asyncio.run(all_ways())
    assert caught.value.code == "host_unavailable"
    assert str(Path(caught.value.where)) == str(layout.socket)


def test_nothing_that_goes_wrong_while_answers_are_read_leaves_anybody_waiting(
    served: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(event: dict[str, Any]) -> None:
        raise LookupError(event["type"])

    def defect(info: object) -> BridgeholdError:
        raise RuntimeError("of the client's own")

    with SyncClient.connect(served.socket) as client, client.session("plain") as session:
        began = time.monotonic()
        with pytest.raises(LookupError, match="chunk"):  # the caller's own, where the caller waits
            session.call("parts", on_event=broken)
        assert session.run("act", {"code": "result['x'] = 3"}) == {"x": 3}
        assert time.monotonic() - began < 6  # the stream was cancelled at the host
        with client.session("plain") as other:
            waiting: list[BridgeholdError] = []
            work = threading.Thread(
                target=lambda: waiting.append(
                    failure(other.run, "act", {"code": "import time; time.sleep(7)"})
                )
            )
            work.start()
            until_busy(client)
            with monkeypatch.context() as patched:
                patched.setattr("bridgehold.client.connection.from_info", defect)
                error = failure(session.run, "act", {"code": "1 / 0"})
            assert (error.code, str(error.__cause__)) == ("internal", "of the client's own")
            work.join(30)
            assert [one.code for one in waiting] == ["internal"]
        assert session.run("act", {"code": "result['x'] = 4"}) == {"x": 4}  # by another connection


def test_a_signal_that_ends_the_waiting_ends_the_command(served: Layout) -> None:
    """As a test runner's alarm does: what the handler raises leaves nothing running."""

    class Alarm(BaseException):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGUSR2, ring)
    try:
        with SyncClient.connect(served.socket) as client, client.session("plain") as session:
            timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR2))
            timer.start()
            began = time.monotonic()
            with pytest.raises(Alarm):
                session.run("act", {"code": "import time; time.sleep(7)"})
            assert session.run("act", {"code": "result['x'] = 5"}) == {"x": 5}
            assert time.monotonic() - began < 6
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_client_that_is_killed_leaves_no_session_that_nobody_can_name(served: Layout) -> None:
    with SyncClient.connect(served.socket) as client:
        until(lambda: not client.sessions())
    shutil.copytree(served.bridges / "plain", served.bridges / "cold")
    (served.bridges / "cold" / "bridge.toml").write_text(MANIFEST.format(name="cold") + PARTS_DECLARED)
    (served.policies / "cold.toml").write_text(POLICY + '[sandbox]\nstart = "cold"\n')
    code = (
        "import sys, time\nfrom bridgehold import SyncClient\nclient = SyncClient.connect(sys.argv[1])\n"
        "for bridge, name in (('plain', ''), ('cold', ''), ('plain', ''), ('plain', 'named')):\n"
        "    print(client.request('session.open', {'bridge': bridge, 'name': name})['id'], flush=True)\n"
        "time.sleep(300)"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", code, str(served.socket)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert killed.stdout is not None
        alone, cold, shared, named = (killed.stdout.readline().strip() for _ in range(4))
        with SyncClient.connect(served.socket) as client:
            client.call("plain:act", {"code": "result['x'] = 1"}, session=shared)
            starts = {one.id: one.start for one in client.sessions()}
            assert starts == {alone: "fork", cold: "cold", shared: "fork", named: "fork"}
            killed.kill()
            killed.wait()
            until(lambda: {one.id for one in client.sessions()} == {shared, named}, seconds=LEFT_SECONDS + 20)
            for bridge, gone in (("plain", alone), ("cold", cold)):
                said = failure(partial(client.call, session=gone), f"{bridge}:report", {})
                assert (said.code, "its caller went away" in said.message) == ("session_ended", True)
            for one in (shared, named):
                client.request("session.close", {"session": one})
    finally:
        killed.kill()
        killed.stdout.close()  # type: ignore[union-attr]  # a pipe, as asked


def test_who_leaves_while_a_nameless_session_opens_leaves_none(served: Layout) -> None:
    body = json.dumps({"id": 1, "method": "session.open", "params": {"bridge": "plain"}}).encode()
    with SyncClient.connect(served.socket) as client:
        until(lambda: not client.request("ping")["sessions"])
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as raw:
                raw.connect(str(served.socket))
                raw.sendall(len(body).to_bytes(4, "big") + body)
                deadline = time.monotonic() + 20
                while client.request("ping")["sessions"] == 0:  # it has begun
                    assert time.monotonic() < deadline
        until(lambda: not client.request("ping")["sessions"], seconds=LEFT_SECONDS + 20)


@pytest.mark.parametrize(
    "raised",
    [SystemExit(3), KeyboardInterrupt(), StopIteration(), GeneratorExit(), LookupError("no")],
    ids=repr,
)
def test_what_the_callers_own_code_raises_is_told_at_once_and_the_client_goes_on(
    served: Layout, raised: BaseException
) -> None:
    """In a value's own method, and in what is told of events: both run on the client's loop."""

    class Value(dict[str, int]):
        def items(self) -> NoReturn:
            raise raised

    def told(event: dict[str, Any]) -> None:
        raise raised

    with SyncClient.connect(served.socket) as client, client.session("plain") as session:
        for work in (
            lambda: session.run("act", {"code": Value(a=1)}),
            lambda: session.call("parts", on_event=told),
        ):
            ended: list[BaseException] = []

            def call(work: Callable[[], object] = work, ended: list[BaseException] = ended) -> None:
                try:
                    work()
                except BaseException as error:
                    ended.append(error)

            thread = threading.Thread(target=call, daemon=True)
            thread.start()
            thread.join(30)
            assert ended, "nobody was told"
            assert isinstance(ended[0], type(raised) | UsageError | RuntimeError), ended
            assert session.run("act", {"code": "result['x'] = 3"}) == {"x": 3}
