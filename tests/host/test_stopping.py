"""How a host ends: what runs may finish, a second word ends it at once, and an asked-for end is no failure."""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from bridgehold import BridgeholdError, SyncClient
from bridgehold.audit.read import read_all
from bridgehold.config.layout import Layout
from hostile.stage import BRIDGE, MANIFEST, POLICY, make_home, start_host
from waiting import until

SLEEP = "import time; time.sleep({}); result['done'] = 1"


@pytest.fixture
def layout() -> Iterator[Layout]:
    made = make_home(os.getuid())
    for name in ("plain", "other"):
        folder = made.bridges / name
        folder.mkdir()
        (folder / "bridge.toml").write_text(MANIFEST.format(name=name))
        (folder / "hostile.py").write_text(BRIDGE.format(at_import=""))
        (made.policies / f"{name}.toml").write_text(POLICY)
    made.config_file.write_text("[host]\ndrain_s = 300\n")
    yield made
    shutil.rmtree(made.config.parent, ignore_errors=True)


@pytest.fixture
def host(layout: Layout) -> Iterator[subprocess.Popen[bytes]]:
    process = start_host(layout)
    yield process
    process.kill()
    process.wait()


def bridgehold(layout: Layout, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bridgehold", *arguments],
        env={**os.environ, "BRIDGEHOLD_HOME": str(layout.config.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def busy(client: SyncClient) -> bool:
    return any(session.state == "busy" for session in client.sessions())


def refused(client: SyncClient) -> str:
    """The code of a refusal, once commands are refused."""
    try:
        client.call("other:act", {"code": "1"}, session="another")
    except BridgeholdError as error:
        return error.code
    return ""


@pytest.mark.parametrize("how", ["signal", "command"])
def test_what_runs_may_finish_and_what_is_new_is_refused(
    layout: Layout, host: subprocess.Popen[bytes], how: str
) -> None:
    with (
        SyncClient.connect(layout.socket) as client,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
        client.session("plain") as session,
    ):
        running = pool.submit(session.run, "act", {"code": SLEEP.format(3)})
        until(lambda: busy(client))
        if how == "signal":
            host.send_signal(signal.SIGTERM)
        else:
            stopping = pool.submit(bridgehold, layout, "stop")
        until(lambda: refused(client) == "session_ended")
        assert running.result(30) == {"done": 1}
    assert host.wait(30) == 0
    if how == "command":
        assert stopping.result(30).returncode == 0
    reasons = [entry.fields["reason"] for entry in read_all(layout.audit) if entry.kind == "host.stopped"]
    assert reasons == ["asked by a signal" if how == "signal" else "asked by an operator"]


@pytest.mark.parametrize("how", ["signal", "command"])
def test_a_second_word_ends_what_runs(layout: Layout, host: subprocess.Popen[bytes], how: str) -> None:
    with (
        SyncClient.connect(layout.socket) as client,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        client.session("plain") as session,
    ):
        running = pool.submit(session.run, "act", {"code": SLEEP.format(50)})
        until(lambda: busy(client))
        if how == "signal":
            host.send_signal(signal.SIGTERM)
            until(lambda: refused(client) == "session_ended")
            host.send_signal(signal.SIGTERM)
        else:
            assert bridgehold(layout, "stop", "--now").returncode == 0
        with pytest.raises(BridgeholdError) as caught:
            running.result(30)
        assert caught.value.code in (
            "session_ended",
            "host_unavailable",
        )  # it would have ended well by itself
    assert host.wait(30) == 0


def test_a_host_that_can_t_write_its_audit_while_it_drains_waits_for_nothing(
    layout: Layout, host: subprocess.Popen[bytes]
) -> None:
    """The audit's disk hangs: the first command that ends can't be logged, so that none runs on."""
    journal = next(
        one
        for one in psutil.Process(host.pid).children(recursive=True)
        if "bridgehold.audit.journal" in one.cmdline()
    )
    with (
        SyncClient.connect(layout.socket) as client,
        concurrent.futures.ThreadPoolExecutor(3) as pool,
        client.session("plain") as long,
        client.session("other") as short,
    ):
        running = pool.submit(long.run, "act", {"code": SLEEP.format(50)})
        pool.submit(short.run, "act", {"code": SLEEP.format(50)})
        until(lambda: [session.state for session in client.sessions()].count("busy") == 2)
        host.send_signal(signal.SIGTERM)
        until(lambda: refused(client) == "session_ended")
        began = time.monotonic()
        journal.suspend()
        try:
            pool.submit(client.request, "session.kill", {"session": short.id})
            with pytest.raises(BridgeholdError):  # it would have ended well by itself
                running.result(40)
        finally:
            journal.resume()
        assert time.monotonic() - began < 30, "it waited for what ran, unlogged"
    assert host.wait(30) == 0  # it was asked for
    assert "degraded: " in (layout.config.parent / "host.log").read_text()


def test_an_end_that_was_asked_for_is_no_failure(layout: Layout) -> None:
    process = start_host(layout)
    said = bridgehold(layout, "stop", "--json")
    assert (said.returncode, json.loads(said.stdout)) == (0, {"stopped": str(layout.socket)})
    assert process.wait(30) == 0, (layout.config.parent / "host.log").read_text()


def test_a_drained_bridge_stays_closed_until_it_is_resumed(
    layout: Layout, host: subprocess.Popen[bytes]
) -> None:
    def opens(bridge: str, tenant: str = "local") -> Any:
        try:
            with client.session(bridge, tenant=tenant):
                return "open"
        except BridgeholdError as error:
            return error.code, error.hint

    with SyncClient.connect(layout.socket) as client:
        with client.session("plain"):
            assert bridgehold(layout, "sessions", "drain", "--bridge", "plain").stdout == "1 sessions ended\n"
        code, hint = opens("plain")
        assert code == "busy"
        assert "bridgehold sessions resume" in hint
        assert opens("other") == "open"
        assert opens("plain", "acme")[0] == "busy"
        assert "1 drained" in bridgehold(layout, "sessions", "resume", "--bridge", "plain").stdout
        assert opens("plain") == "open"
        bridgehold(layout, "sessions", "drain", "--tenant", "acme")
        assert opens("plain") == "open"
        assert opens("plain", "acme")[0] == "busy"
        assert "0 drained" in bridgehold(layout, "sessions", "resume", "--bridge", "plain").stdout
        assert "1 drained" in bridgehold(layout, "sessions", "resume").stdout
        assert opens("plain", "acme") == "open"
