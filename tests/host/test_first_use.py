"""The first use of things: a build that is waited for is shown, and the demo takes nothing that it wasn't given."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import pytest

from bridgehold import Host, SyncClient
from bridgehold.client import private
from bridgehold.client.facade import Loop
from bridgehold.config.layout import Layout
from bridgehold.config.load import load_config
from bridgehold.errors import HostUnavailableError
from bridgehold.faces.demo.home import own_host_section, prepare
from bridgehold.faces.demo.stage import Stage
from bridgehold.faces.demo.story import Story
from bridgehold.keeper.admin import SecretAdmin
from hostile.stage import BRIDGE, MANIFEST, make_home
from legacy.peer import Peer, stdio_command
from waiting import until


@pytest.fixture
def fresh() -> Iterator[Layout]:
    layout = make_home(os.getuid())
    yield layout
    shutil.rmtree(layout.config.parent, ignore_errors=True)


def bridgehold(layout: Layout, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bridgehold", *arguments],
        env={
            **{name: value for name, value in os.environ.items() if name != "COLUMNS"},
            "BRIDGEHOLD_HOME": str(layout.config.parent),
            "HOME": str(layout.config.parent),
        },
        input=given,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_run_says_what_is_built_once(fresh: Layout) -> None:
    first = bridgehold(fresh, "run", "python:execute", "--args", '{"code": "6*7"}')
    assert first.returncode == 0, first.stderr
    assert "building the environment of python" in first.stderr
    assert "building" not in first.stdout
    second = bridgehold(fresh, "run", "python:execute", "--args", '{"code": "6*7"}')
    assert "building" not in second.stderr


OWNER = """
import pathlib, sys, time
from bridgehold.client.private import PrivateHost
from bridgehold.config.layout import Layout
home = pathlib.Path(sys.argv[1])
PrivateHost.start(Layout(config=home / "config", state=home / "state", run=home / "run"))
print("ready", flush=True)
time.sleep(1_000)
"""


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_private_host_is_everybodys_who_is_connected_to_it(fresh: Layout, end: str) -> None:
    """It ends with the last of them, however whoever started it has ended, and what it writes meanwhile
    keeps nobody waiting."""
    home = fresh.config.parent
    environ = {**os.environ, "BRIDGEHOLD_HOME": str(home), "BRIDGEHOLD__HOST__DRAIN_S": "0"}
    make_noise(fresh)
    owner = [sys.executable, "-c", OWNER, str(home)]
    with contextlib.ExitStack() as stack:
        if end == "stopped":
            first = private.PrivateHost.start(fresh, environ)
        else:
            process = stack.enter_context(subprocess.Popen(owner, env=environ, stdout=PIPE, text=True))
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        with SyncClient.connect(fresh.socket) as client, client.session("python") as session:
            session.run("execute", {"code": "kept = 41"})
            if end == "stopped":
                first.stop()  # at once: nobody waits for others
            else:
                process.kill()
            assert session.run("execute", {"code": "shout(n=300_000) + shout(n=1)"})["value"] == 300_001
            late = bridgehold(fresh, "run", "python:execute", "--args", '{"code": "6 * 7"}')
            assert (late.returncode, json.loads(late.stdout)["value"]) == (0, 42), late.stderr
            assert session.run("execute", {"code": "kept + 1"})["value"] == 42
            assert fresh.socket.exists()
        until(lambda: not fresh.socket.exists())
        again = bridgehold(fresh, "run", "python:execute", "--args", '{"code": "6 * 7"}')
        assert (again.returncode, json.loads(again.stdout)["value"]) == (0, 42), again.stderr


def processes_of(fresh: Layout) -> list[int]:
    """Those of a host of its own."""
    found = []
    for one in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if str(fresh.state).encode() in Path(f"/proc/{one}/cmdline").read_bytes():
                found.append(int(one))
    return found


@pytest.mark.parametrize("moment", ["begun", "connected"])
def test_whoever_stops_waiting_for_a_private_host_leaves_none(fresh: Layout, moment: str) -> None:
    """In a process that goes on: a notebook's, an application's."""

    async def opened() -> None:
        async with Host.open(fresh) as host:
            await host.request("sessions", {})
            await asyncio.Event().wait()

    async def act() -> None:
        opening = asyncio.ensure_future(opened())
        there = (lambda: processes_of(fresh)) if moment == "begun" else fresh.socket.exists
        await asyncio.to_thread(until, there, 60)
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await opening
        await asyncio.to_thread(until, lambda: not processes_of(fresh), 60)

    asyncio.run(act())


def test_what_is_under_way_when_a_loop_is_closed_lets_go_of_what_it_holds() -> None:
    """As where Ctrl-C ends the wait of a synchronous client that is just being opened."""
    loop, held = Loop(), threading.Event()
    let_go = threading.Event()

    async def hold() -> None:
        try:
            held.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            let_go.set()

    def waits() -> None:
        with contextlib.suppress(CancelledError):
            loop.run(hold())

    threading.Thread(target=waits, daemon=True).start()
    assert held.wait(60)
    loop.close()
    assert let_go.is_set()


NOISY = """
[tools.shout]
entry = "noisy:shout"
description = "Prints n letters."
parameters = { type = "object", properties = { n = { type = "integer" } } }
timeout_s = 20
"""


def make_noise(fresh: Layout) -> None:
    """A tool of the operator's that prints."""
    fresh.tools.mkdir(mode=0o755)
    (fresh.tools / "noisy.py").write_text("def shout(n):\n    print('x' * n, flush=True)\n    return n\n")
    with fresh.config_file.open("a") as file:
        file.write(NOISY)
    fresh.policies.mkdir(mode=0o755, exist_ok=True)
    (fresh.policies / "python.toml").write_text('extends = "python"\n[tools]\nallow = ["shout"]\n')


def test_what_a_tool_prints_keeps_nobody_waiting_in_a_private_host(fresh: Layout) -> None:
    """More than a pipe holds: nobody but the client could read it."""
    make_noise(fresh)
    host = private.PrivateHost.start(fresh, {**os.environ, "BRIDGEHOLD_HOME": str(fresh.config.parent)})
    try:
        with SyncClient.connect(fresh.socket) as client, client.session("python") as session:
            assert session.run("execute", {"code": "shout(n=300_000) + shout(n=1)"})["value"] == 300_001
            with Path(os.devnull).open() as nobody:  # as for one whose client is gone, from its next word on
                os.dup2(nobody.fileno(), host._stderr._stream.fileno())
            assert session.run("execute", {"code": "shout(n=1) + shout(n=300_000)"})["value"] == 300_001
    finally:
        host.stop()


def test_shell_says_what_is_built(fresh: Layout) -> None:
    said = bridgehold(fresh, "shell", "python", given="6*7\n")
    assert (said.returncode, "building the environment of python" in said.stderr) == (0, True), said.stderr
    assert "42" in said.stdout


def test_run_shows_what_is_written_while_it_runs_and_an_error_has_it(fresh: Layout) -> None:
    code = "import time\nprint('first \\x1b[31m'); time.sleep(1)\nprint('last', end='')\n7"
    argv = [sys.executable, "-m", "bridgehold", "run", "python:execute", "--args", json.dumps({"code": code})]
    home = {**os.environ, "BRIDGEHOLD_HOME": str(fresh.config.parent)}
    with SyncClient.open(fresh):  # one host for all three
        with subprocess.Popen(argv, env=home, stdout=PIPE, stderr=PIPE, text=True) as running:
            assert running.stderr is not None
            assert running.stdout is not None
            lines = iter(running.stderr.readline, "")
            assert "  | first \\x1b[31m\n" in lines  # as text: no terminal does what a guest says
            shown = time.monotonic()
            assert next(lines) == "  | last\n"
            assert time.monotonic() - shown > 0.5
            assert json.loads(running.stdout.read())["stdout"] == "first \x1b[31m\nlast"
        failing = json.dumps({"code": "print('partial')\nraise ValueError('x')"})
        said = bridgehold(fresh, "run", "python:execute", "--args", failing, "--json")
        assert (said.returncode, json.loads(said.stdout)["output"]) == (1, {"stdout": "partial\n"})
        assert "partial" not in said.stderr
        talk = bridgehold(fresh, "shell", "python", given="print('hello')\n6*7\n")
        assert talk.stdout.replace("python> ", "").splitlines() == ["hello", "42"]


def test_stdio_says_on_standard_error_what_is_built(fresh: Layout) -> None:
    peer = Peer(stdio_command("--bridge", "python"), fresh.config.parent, fresh.config.parent)
    try:
        peer.handshake()
        assert peer.ask(1, "ping")["success"]
    finally:
        peer.kill()
    assert "bridgehold: building the environment of python: " in peer.stderr


def test_the_demo_lives_on_the_machine_as_its_user_has_set_it_up(fresh: Layout) -> None:
    assert own_host_section(fresh) == ""
    own = '[host]\ncgroup = "v1:/somebody"\nshared_uid = true\nmax_sessions = 7\nuid_count = 99\n'
    fresh.config_file.write_text(own)
    demo = prepare(
        fresh.config.parent / "demo",
        provider="http://127.0.0.1:9/v1",
        private=True,
        store="file",
        sink_port=9,
        host=own_host_section(fresh),
    )
    host = load_config(demo.config_file).host
    assert (host.cgroup, host.shared_uid, host.uid_count) == ("v1:/somebody", True, 99)
    assert host.max_sessions == 2_000  # what is no fact of the machine is the demo's own


def test_a_stored_key_is_left_alone_unless_the_demo_is_told(
    fresh: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BRIDGEHOLD_HOME", str(fresh.config.parent))
    monkeypatch.setenv("UV_FIND_LINKS", "")
    fresh.config_file.write_text('[providers.openai]\nbase_url = "https://paid.example/v1"\n')
    fresh.secrets.mkdir(parents=True)
    fresh.secrets.chmod(0o700)
    SecretAdmin.open_file(fresh.secrets).set("local", "openai", b"sk-real-0123456789abcdef")
    provider = SimpleNamespace(base_url="http://127.0.0.1:9/v1", key="sk-played-0123456789")
    sink = SimpleNamespace(port=9, decoy="sk-decoy-0123456789")
    bases = {}
    for real in (False, True):
        home = fresh.config.parent / f"demo-{real}"
        layout = Story(home, Stage(), real_key=real)._prepare(provider, sink)  # type: ignore[arg-type]
        bases[real] = load_config(layout.config_file).providers["openai"].base_url
    assert bases == {False: "http://127.0.0.1:9/v1", True: "https://paid.example/v1"}
    assert "is left alone; --real-key" in capsys.readouterr().out


def test_the_demo_spends_a_real_key_only_where_it_is_told_to(fresh: Layout) -> None:
    said = bridgehold(fresh, "demo", "--real-key", "--home", str(fresh.config.parent / "demo"))
    assert said.returncode != 0
    assert "there is no key of yours" in said.stderr
    assert "bridgehold secrets set openai" in said.stderr


def test_tables_in_a_pipe_fold_no_id(fresh: Layout) -> None:
    long = "bridge-with-a-name-that-is-longer-than-any-column-of-a-terminal-would-be"[:63]
    for number in range(3):
        folder = fresh.bridges / f"{long[:-1]}{number}"
        folder.mkdir()
        (folder / "bridge.toml").write_text(MANIFEST.format(name=folder.name))
        (folder / "hostile.py").write_text(BRIDGE.format(at_import=""))
    said = bridgehold(fresh, "bridge", "list")
    assert said.returncode == 0, said.stderr
    for number in range(3):
        assert f"{long[:-1]}{number}" in said.stdout
    narrow = {**os.environ, "COLUMNS": "60", "BRIDGEHOLD_HOME": str(fresh.config.parent)}
    argv = [sys.executable, "-m", "bridgehold", "bridge", "list"]
    folded = subprocess.run(argv, env=narrow, capture_output=True, text=True, check=True, timeout=60).stdout
    assert all(len(line) <= 60 or line.startswith(long[:-1]) for line in folded.splitlines())


def test_a_private_host_that_is_not_ready_in_time_is_said_to_be_late(
    fresh: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "_READY_SECONDS", 0.01)
    with pytest.raises(HostUnavailableError) as caught:
        private.PrivateHost.start(fresh)
    assert "was not ready within 0 s" in caught.value.message
    assert caught.value.retry == "later"
    assert "bridgehold serve" in caught.value.hint
