"""ABUSE 36 and 47: each process killed, idle and in mid-command; nothing is left, the chain goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bridgehold import BridgeholdError, SyncClient
from bridgehold.audit.read import read_all
from bridgehold.audit.verify import verify_audit
from bridgehold.config.layout import Layout
from hostile.stage import Stage, make_home, start_host, stop_host
from waiting import until

pytestmark = pytest.mark.hostile
NAMES = {
    "launcher": "bridgehold.sandbox.launcher.main",
    "host": "bridgehold.host.main",
    "keeper": "bridgehold.keeper.main",
    "journal": "bridgehold.audit.journal",
}


@pytest.fixture
def layout() -> Iterator[Layout]:
    """A home; whatever host a test leaves running on it, because it failed, is ended."""
    made = make_home(os.getuid())
    made.config_file.write_text("")
    yield made
    with contextlib.suppress(BridgeholdError), SyncClient.connect(made.socket) as client:
        client.request("stop", {})
    shutil.rmtree(made.config.parent, ignore_errors=True)


def tree(supervisor: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(supervisor).children(recursive=True)
    return []


def process(supervisor: int, name: str) -> psutil.Process:
    for candidate in tree(supervisor):
        if NAMES[name] in " ".join(candidate.cmdline()):
            return candidate
    pytest.fail(f"no {name} process")


def wait_gone(processes: list[psutil.Process], seconds: float = 30) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def cgroups(launcher: int) -> list[str]:
    """Sessions' cgroups of the host with this launcher, dead or alive (others' run beside it)."""
    return [str(p) for p in Path("/sys/fs/cgroup").glob(f"*/bridgehold-{launcher}-*/**/w-*")]


class Lives:
    """Hosts one after the other on one layout: whoever ends one finds the next that runs."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.begun = 0
        self._running: subprocess.Popen[bytes] | None = None

    def running(self) -> subprocess.Popen[bytes]:
        if self._running is None or self._running.poll() is not None:
            self._running = start_host(self.layout)
            self.begun += 1
        return self._running


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    made = Lives(make_home(os.getuid()))
    made.layout.config_file.write_text("")
    yield made
    assert stop_host(made.running()) == 0
    report = verify_audit(made.layout.audit)
    assert report.ok, report.first_bad
    shutil.rmtree(made.layout.config.parent)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in-mid-command"])
@pytest.mark.parametrize("victim", [*NAMES, "supervisor"])
def test_the_end_of_one_process_ends_everything(lives: Lives, victim: str, busy: bool) -> None:
    layout, host = lives.layout, lives.running()
    launcher = process(host.pid, "launcher").pid
    errors: list[BridgeholdError] = []
    with SyncClient.connect(layout.socket) as client:
        client.run("python:execute", {"code": "1"})

        def run() -> None:
            try:
                client.run("python:execute", {"code": "import time; time.sleep(50)"})
            except BridgeholdError as error:
                errors.append(error)

        if busy:
            thread = threading.Thread(target=run)
            thread.start()
            until(lambda: any(one.state == "busy" for one in client.sessions()))
        assert cgroups(launcher)
        below = tree(host.pid)
        pid = host.pid if victim == "supervisor" else process(host.pid, victim).pid
        os.kill(pid, signal.SIGKILL)
        status = host.wait(30)
        assert wait_gone(below) == []
        if busy:
            thread.join(30)
            assert not thread.is_alive(), "the caller hangs"
            assert errors, "the caller got no typed error"
    assert status != 0
    assert cgroups(launcher) == [] or victim in ("launcher", "supervisor")
    begun = lives.begun
    lives.running()
    with SyncClient.connect(layout.socket) as client:
        assert client.run("python:execute", {"code": "2+2"})["value"] == 4
    assert cgroups(launcher) == [], "a dead host's cgroup is left"
    report = verify_audit(layout.audit)
    assert report.integrity.ok, report.first_bad
    assert report.completeness.ok, report.completeness
    kinds = [entry.kind for entry in read_all(layout.audit)]
    assert kinds.count("journal.opened") == lives.begun == begun + 1


def test_an_operators_tool_ends_with_the_host_whatever_it_does(layout: Layout) -> None:
    """A thread that hangs, and signals that it ignores, keep no process alive behind a host that was killed."""
    layout.config_file.write_text('[tools.hang]\nentry = "endless:hang"\ntimeout_s = 60\n')
    folder = layout.config / "tools"
    folder.mkdir(mode=0o755)
    writable = layout.config.parent / "marks"
    writable.mkdir()
    writable.chmod(0o777)  # the tool has the host's own kernel uid
    mark = writable / "pid"
    (folder / "endless.py").write_text(
        "import os, pathlib, time\n"
        "def hang():\n"
        f"    pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\n"
        "    while True: time.sleep(60)\n"
    )
    host = start_host(layout)
    with SyncClient.connect(layout.socket) as client:
        bridge = Stage(kind="root", layout=layout, client=client, supervisor=host.pid).bridge()
        with (layout.policies / f"{bridge}.toml").open("a") as policy:
            policy.write('[tools]\nallow = ["hang"]\n')
        code = layout.bridges / bridge / "hostile.py"
        code.write_text(code.read_text().replace('"result": {}', '"result": {}, "bridge": self'))

        def run() -> None:
            with contextlib.suppress(BridgeholdError):
                client.run(f"{bridge}:act", {"code": "bridge.tools['hang']()"})

        with pytest.raises(BridgeholdError):
            client.call(f"{bridge}:act", {"code": "bridge.tools['hang']()"}, deadline_ms=2_000)
        mark.unlink()
        thread = threading.Thread(target=run)
        thread.start()
        until(mark.exists)
        tool = psutil.Process(int(mark.read_text()))
        below = tree(host.pid)
        assert tool in below
        os.kill(process(host.pid, "host").pid, signal.SIGKILL)
        host.wait(30)
        assert wait_gone([tool, *below]) == []
        thread.join(30)
        assert not thread.is_alive()
    assert stop_host(start_host(layout)) == 0
    report = verify_audit(layout.audit, beside=layout.anchors)
    assert report.ok, report.first_bad
    assert report.completeness.interrupted_count == 2  # the command and its tool call; the first has ended
    ended = [entry.text("code") for entry in read_all(layout.audit) if entry.kind == "tool.outcome"]
    assert ended == ["timeout"]


def test_36_a_torn_tail_is_quarantined_and_the_chain_goes_on(layout: Layout) -> None:
    host = start_host(layout)
    with SyncClient.connect(layout.socket) as client:
        client.run("python:execute", {"code": "1"})
        os.kill(process(host.pid, "journal").pid, signal.SIGKILL)
    host.wait(30)
    newest = max(layout.audit.rglob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    with newest.open("ab") as file:
        file.write(b'{"v":1,"instance":"torn')
    again = start_host(layout)
    assert stop_host(again) == 0
    report = verify_audit(layout.audit)
    assert report.integrity.ok
    assert report.completeness.quarantined


def test_a_second_host_on_one_layout_is_refused(layout: Layout) -> None:
    host = start_host(layout)
    try:
        environment = {**os.environ, "BRIDGEHOLD_HOME": str(layout.config.parent)}
        import sys

        second = subprocess.run(
            [sys.executable, "-m", "bridgehold", "serve"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd="/",
        )
        assert second.returncode == 51
        assert "already running" in second.stderr
    finally:
        stop_host(host)


def test_an_orderly_stop_writes_why(layout: Layout) -> None:
    host = start_host(layout)
    with SyncClient.connect(layout.socket) as client:
        client.run("python:execute", {"code": "1"})
    assert stop_host(host) == 0
    kinds = [entry.kind for entry in read_all(layout.audit)]
    assert "host.stopped" in kinds
    assert "session.closed" in kinds
