"""A running host is replaced by a new version while callers call: what each of them sees, and what is left of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from bridgehold import BridgeholdError, SyncClient
from bridgehold.audit.read import read_all
from bridgehold.audit.verify import verify_audit
from bridgehold.config.layout import Layout
from bridgehold.errors import SessionEndedError
from bridgehold.supervisor import handover
from hostile.stage import KINDS_OF_HOSTS, ordinary_user
from http_face.http_support import BRIDGE, MANIFEST, POLICY, TOKENS, principals
from waiting import until

NEW = "9.9.9"
PROGRAM = """#!{python}
import os
{before}
from bridgehold.faces.cli.main import main
main()
"""
PAUSE = 0.2
"""Seconds between two calls of a caller's: six that never pause leave the hosts they call no processor to change places."""
SLOW = "result['said'] = tools['lookup'](of='old'); time.sleep(0.5)"


class Installed:
    """A home, and the program that serves it: replaced as an installation replaces it."""

    def __init__(self, home: Path, user: str, cgroup: str, more: str = "") -> None:
        self.home, self.user = home, user
        self.layout = Layout(config=home / "config", state=home / "state", run=home / "run")
        self.program = home / "bridgehold"
        for name in ("served", "other"):
            folder = self.layout.bridges / name
            folder.mkdir(parents=True)
            (folder / "bridge.toml").write_text(MANIFEST.format(name=name))
            (folder / "served.py").write_text(BRIDGE)
            self.layout.policies.mkdir(exist_ok=True)
            tools = '[tools]\nallow = ["lookup"]\n'
            (self.layout.policies / f"{name}.toml").write_text(POLICY + tools)
        self.layout.config_file.write_text(
            f'[host]\ncgroup = "{cgroup}"\ndrain_s = 20\n{principals()}[http]\nlisten = "127.0.0.1:0"\n{more}'
        )
        self.install()
        if user:
            entry = pwd.getpwnam(user)
            for path in (home, *home.rglob("*")):
                os.chown(path, entry.pw_uid, entry.pw_gid)

    def install(self, version: str = "", before: str = "") -> None:
        """Put another version in the program's place: with `version` as its name, and `before` run first."""
        if version:
            folder = self.home / f"site-{version}" / f"bridgehold-{version}.dist-info"
            folder.mkdir(parents=True)
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bridgehold\nVersion: {version}\n")
            before += f"\nimport sys\nos.environ['PYTHONPATH'] = {str(folder.parent)!r}\nsys.path.insert(0, {str(folder.parent)!r})"
        new = self.program.with_suffix(".new")
        new.write_text(PROGRAM.format(python=sys.executable, before=before))
        new.chmod(0o755)
        new.rename(self.program)

    def argv(self, *words: str) -> list[str]:
        argv = [str(self.program), *words]
        if self.user:
            argv = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--init-groups", *argv]
        return argv

    @property
    def environment(self) -> dict[str, str]:
        more = {"HOME": pwd.getpwnam(self.user).pw_dir} if self.user else {}
        return {**os.environ, "BRIDGEHOLD_HOME": str(self.home), **more}

    def say(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words),
            env=self.environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def log(self) -> str:
        return (self.home / "host.log").read_text()

    @contextlib.contextmanager
    def served(self, *, listener: socket.socket | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """`listener`: somebody else's, given as systemd gives it."""
        argv, given = self.argv("serve"), ()
        if listener is not None:  # only the process itself can say its own id
            argv = [
                "bash",
                "-c",
                'exec 3<&"$0"; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=x exec "$@"',
                *argv,
            ]
            argv.insert(3, str(listener.fileno()))
            given = (listener.fileno(),)
        with (self.home / "host.log").open("ab") as log:
            process = subprocess.Popen(
                argv,
                env=self.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd="/",
                pass_fds=given,
            )
        try:
            until(lambda: process.poll() is not None or "listening on /" in self.log)
            assert process.poll() is None, self.log
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(40)

    def events(self, kind: str) -> list[Any]:
        return [entry for entry in read_all(self.layout.audit) if entry.kind == kind]


@contextlib.contextmanager
def install(kind: str) -> Iterator[Installed]:
    with contextlib.ExitStack() as stack:
        user, cgroup = stack.enter_context(ordinary_user()) if kind == "user" else ("", "auto")
        home = Path(tempfile.mkdtemp(prefix="bh-handover-"))
        home.chmod(0o755)
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        (home / "config").mkdir()
        yield Installed(home, user, cgroup)


@pytest.fixture(scope="module", params=KINDS_OF_HOSTS)
def running(request: pytest.FixtureRequest) -> Iterator[tuple[Installed, subprocess.Popen[bytes]]]:
    """One host for the tests of this module, however often it is replaced."""
    with install(request.param) as installed, installed.served() as process:
        yield installed, process


class Callers:
    """Callers of every kind, in threads, until `over` is set; what each of them met."""

    def __init__(self, installed: Installed) -> None:
        self.layout = installed.layout
        self.port = int(re.findall(r"listening on http://127.0.0.1:(\d+)", installed.log)[0])
        self.over = threading.Event()
        self.done: Counter[str] = Counter()
        self.errors: list[tuple[str, str, str]] = []

    def loop(self, kind: str, once: Callable[[int], None]) -> None:
        number = 0
        while not self.over.is_set():
            number += 1
            try:
                once(number)
                self.done[kind] += 1
            except BridgeholdError as error:
                self.errors.append((kind, error.code, error.message))
            self.over.wait(PAUSE)

    def stateless(self) -> None:
        """One client, commands without a session of their own; each says a number that nobody else says."""
        with SyncClient.connect(self.layout.socket) as client:
            self.loop("stateless", lambda n: client.run("served:act", {"code": f"result['n'] = 'n-{n}-'"}))

    def newcomers(self) -> None:
        """Each call with a client of its own."""

        def once(_: int) -> None:
            with SyncClient.connect(self.layout.socket) as client:
                client.run("other:act", {"code": "result['n'] = 1"})

        self.loop("newcomers", once)

    def told(self) -> None:
        """A client that doesn't look for the next host: it is told that there is one, and what was not begun."""

        def once(_: int) -> None:
            with SyncClient.connect(self.layout.socket, reconnect_s=0) as client:
                while not self.over.is_set():
                    client.run("other:act", {"code": "result['n'] = 1"})
                    self.done["told"] += 1
                    self.over.wait(PAUSE)

        self.loop("no reconnect", once)

    def sessions(self) -> None:
        """A session as long as it lasts, then another."""

        def once(_: int) -> None:
            with SyncClient.connect(self.layout.socket) as client, client.session("served") as session:
                while not self.over.is_set():
                    session.run("act", {"code": "result['n'] = 1"})
                    self.done["in sessions"] += 1
                    self.over.wait(PAUSE)

        self.loop("sessions", once)

    def tool(self) -> Any:
        """What runs when the host leaves: it still calls a tool, that runs a command, and all answers come."""

        others: list[Future[Any]] = []

        def lookup(of: str) -> str:
            until(lambda: any(code == "host_leaving" for _, code, _ in self.errors))
            others.append(pool.submit(client.run, "served:act", {"code": "result['n'] = 'new'"}))
            until(lambda: client._awaited._host._left)  # what else it asks waits for the next host already
            nested = client.run("served:act", {"code": f"result['n'] = 'the {of} host'"}, session="nested")
            return str(nested["n"])

        with SyncClient.connect(self.layout.socket) as client, ThreadPoolExecutor(1) as pool:
            found = client.run("other:act", {"code": SLOW}, session="slow", tools=[lookup])
            self.done["tool"] += 1
            assert others[0].result(60) == {"n": "new"}
            return found

    def over_http(self, keep: bool) -> None:
        """HTTP, over one connection as long as it lasts, or one for each request."""
        body = json.dumps(
            {"operation": "served:act", "arguments": {"code": "result['n'] = 1"}, "tenant": "local"}
        )
        headers = {"Authorization": f"Bearer {TOKENS['boss']}", "Content-Type": "application/json"}
        kind = "kept http" if keep else "http"
        link: http.client.HTTPConnection | None = None
        while not self.over.is_set():
            link = link or http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                link.request("POST", "/v1/run", body, headers)
                answer = link.getresponse()
                said = json.loads(answer.read())
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                assert keep, "a new connection is never refused nor cut"
                self.done["closed between two requests"] += 1
                link = None
                continue
            if answer.status == 200:
                self.done[kind] += 1
            else:
                assert answer.status == 503, said
                assert answer.headers["Retry-After"], said
                self.errors.append((kind, said["error"]["code"], said["error"]["message"]))
            if not keep or answer.headers.get("Connection") == "close":
                link.close()
                link = None
            self.over.wait(PAUSE)


def test_a_version_that_could_not_start_changes_nothing(
    running: tuple[Installed, subprocess.Popen[bytes]],
) -> None:
    installed, _ = running
    started = len(installed.events("host.started"))
    config = installed.layout.config_file
    kept = config.read_text()
    with SyncClient.connect(installed.layout.socket) as client, client.session("served") as session:
        session.run("act", {"code": "result['n'] = 1"})
        installed.install(before="raise SystemExit('no such module: frobnicate')")
        with pytest.raises(BridgeholdError) as caught:
            client.request("stop", {"again": True})
        assert caught.value.code == "unsupported"
        assert "no such module: frobnicate" in caught.value.message
        installed.install()
        try:
            config.write_text(kept + '[nonsense]\na = "b"\n')
            with pytest.raises(BridgeholdError, match="nonsense"):
                client.request("stop", {"again": True})
        finally:
            config.write_text(kept)
        assert session.run("act", {"code": "result['n'] = 2"}) == {"n": 2}
    assert len(installed.events("host.started")) == started


def test_callers_call_through_an_upgrade(running: tuple[Installed, subprocess.Popen[bytes]]) -> None:
    installed, process = running
    with ThreadPoolExecutor(8) as pool:
        callers = Callers(installed)
        try:
            works = (callers.stateless, callers.newcomers, callers.told, callers.sessions)
            loops = [pool.submit(work) for work in works]
            loops += [pool.submit(callers.over_http, keep) for keep in (True, False)]
            kinds = ("stateless", "newcomers", "told", "in sessions", "http", "kept http")
            until(lambda: all(callers.done[kind] for kind in kinds))
            slow = pool.submit(callers.tool)
            with SyncClient.connect(installed.layout.socket) as client:
                until(lambda: any(one.name == "slow" and one.state == "busy" for one in client.sessions()))
            installed.install(NEW)
            said = installed.say("restart")
            assert (said.returncode, said.stdout.split()[-1]) == (0, NEW), said.stderr + installed.log
            assert slow.result(30)["said"] == "the old host"
            before = Counter(callers.done)

            def further() -> bool:
                for loop in loops:
                    if loop.done():
                        loop.result()  # what ended it
                return all(callers.done[kind] > before[kind] + 1 for kind in kinds)

            until(
                further,
                60,
                lambda: (before, callers.done, callers.errors[-5:]),
            )
        finally:
            callers.over.set()
        for loop in loops:
            loop.result(60)
    assert process.poll() is None, "the process that the service manager knows is the same"

    met = Counter((kind, code) for kind, code, _ in callers.errors)
    assert met.pop(("sessions", "session_ended"), 0) == 1, callers.errors
    (why,) = (text for kind, _, text in callers.errors if kind == "sessions")
    assert re.search("replaced by a new (host|one)", why)
    assert met[("no reconnect", "host_leaving")] >= 1, met
    assert {kind for kind, _ in met} <= {"no reconnect", "http", "kept http"}, callers.errors
    assert {code for _, code in met} <= {"host_leaving", "host_unavailable"}, callers.errors

    started = [entry.fields["version"] for entry in installed.events("host.started")]
    assert (len(started), started[-1], started[0] == NEW) == (2, NEW, False)
    assert [one.fields["reason"] for one in installed.events("host.stopped")] == ["replaced by a new host"]
    intents = Counter(
        found
        for entry in installed.events("command.intent")
        for found in re.findall(r"n-\d+-", entry.fields["arguments_preview"])
    )
    assert set(intents.values()) == {1}, "nothing ran twice"
    assert len(intents) == callers.done["stateless"]


def test_what_runs_too_long_is_told_why_it_ends(running: tuple[Installed, subprocess.Popen[bytes]]) -> None:
    installed, _ = running
    with (
        SyncClient.connect(installed.layout.socket) as client,
        ThreadPoolExecutor(2) as pool,
        client.session("served") as session,
    ):
        futures = [
            pool.submit(session.run, "act", {"code": "time.sleep(50)"}),
            pool.submit(client.run, "other:act", {"code": "time.sleep(50)"}),
        ]
        until(lambda: sum(one.state == "busy" for one in client.sessions()) == 2)
        said = installed.say("restart", "--now", "--json")
        assert json.loads(said.stdout).keys() == {"before", "after"}, said.stderr
        for future in futures:
            with pytest.raises(SessionEndedError, match="replaced by a new host"):
                future.result(30)
        with pytest.raises(SessionEndedError):
            session.run("act", {"code": "result['n'] = 1"})
        assert client.run("served:act", {"code": "result['n'] = 1"}) == {"n": 1}
    assert "replaced by a new host" in {one.fields["reason"] for one in installed.events("session.closed")}


def test_an_end_after_all_of_that_is_an_end(running: tuple[Installed, subprocess.Popen[bytes]]) -> None:
    installed, process = running
    said = installed.say("stop")
    assert (said.returncode, said.stdout) == (0, "stopped\n"), said.stderr
    assert process.wait(30) == 0, installed.log
    report = verify_audit(installed.layout.audit)
    assert report.ok, report
    assert not installed.layout.socket.exists()


def test_a_socket_of_somebody_else_outlives_the_host() -> None:
    """As systemd's socket unit has it: `systemctl restart` loses no request either."""
    with install("self") as installed, socket.socket(socket.AF_UNIX) as listener:
        installed.layout.run.mkdir(mode=0o711)
        listener.bind(str(installed.layout.socket))
        installed.layout.socket.chmod(0o666)
        listener.listen(64)
        with SyncClient.connect(installed.layout.socket) as client, ThreadPoolExecutor(1) as pool:
            with installed.served(listener=listener) as process:
                assert client.run("served:act", {"code": "result['n'] = 1"}) == {"n": 1}
                process.send_signal(signal.SIGTERM)
                assert process.wait(40) == 0, installed.log
            waiting = pool.submit(client.run, "served:act", {"code": "result['n'] = 'waited'"})
            with installed.served(listener=listener):
                assert waiting.result(30) == {"n": "waited"}
        with installed.served(listener=listener) as process:
            environment = {**os.environ, "BRIDGEHOLD_HOME": str(installed.layout.config.parent)}
            subprocess.run(
                [sys.executable, "-m", "bridgehold", "stop"], env=environment, check=True, timeout=60
            )
            assert process.wait(40) == 0, installed.log
        assert installed.layout.socket.exists()
        assert select.select([listener], [], [], 0)[0] == [], "who connects now has the unit started again"


def test_a_host_that_agreed_and_does_not_leave_is_ended_and_replaced() -> None:
    with install("self") as installed:
        config = installed.layout.config_file
        config.write_text(config.read_text().replace("drain_s = 20", "drain_s = 1"))
        installed.install(before="import bridgehold.supervisor.supervise as s; s._END_SECONDS = 2.0")
        with installed.served() as process, SyncClient.connect(installed.layout.socket) as client:
            found = psutil.Process(process.pid).children()
            host = next(one for one in found if "bridgehold.host.main" in one.cmdline())
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(client.run, "served:act", {"code": "time.sleep(50)"})
                until(lambda: installed.events("command.intent"))
                with SyncClient.connect(installed.layout.socket) as other:
                    other.request("stop", {"again": True})
                host.suspend()
                until(lambda: not host.is_running() or host.status() == psutil.STATUS_ZOMBIE)
                with pytest.raises(BridgeholdError):
                    running.result(30)
            with SyncClient.connect(installed.layout.socket) as after:
                assert after.run("served:act", {"code": "result['n'] = 1"}) == {"n": 1}
            assert "the host did not leave in its time" in installed.log
            assert process.poll() is None


def test_a_socket_of_somebody_else_outlives_a_next_version_that_cannot_be_run() -> None:
    with install("self") as installed, socket.socket(socket.AF_UNIX) as listener:
        installed.layout.run.mkdir(mode=0o711)
        listener.bind(str(installed.layout.socket))
        installed.layout.socket.chmod(0o666)
        listener.listen(64)
        gone = f"import os, sys; '--check' in sys.argv and os.unlink({str(installed.program)!r})"
        installed.install(before=gone)
        with installed.served(listener=listener) as process:
            with SyncClient.connect(installed.layout.socket) as client:
                client.request("stop", {"again": True})
            assert process.wait(40) not in (0, None)
        assert not installed.program.exists()
        assert installed.layout.socket.exists()


ASKED = """
import os, signal, sys
from bridgehold.supervisor import supervise
signals = []
with supervise._signals(signals):
    pass
if sys.argv[1] == "before":
    os.kill(os.getpid(), signal.SIGTERM)
    sys.exit(7 if supervise._end_requested(signals) else 8)
assert not supervise._end_requested(signals)
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(("moment", "status"), [("before", 7), ("after", -signal.SIGTERM)])
def test_a_signal_in_the_last_step_before_the_next_version_is_heard(moment: str, status: int) -> None:
    done = subprocess.run([sys.executable, "-c", ASKED, moment], timeout=60, check=False)
    assert done.returncode == status


def test_what_is_handed_over_is_read_once_and_by_whom_it_is_meant_for() -> None:
    said = {"LISTEN_PID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "HOME": "/"}
    assert handover.take(said, 8) == handover.Inherited()
    assert said == {"HOME": "/"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        number = os.dup(other.fileno())
        with pytest.raises(BridgeholdError, match="no listening stream socket"):
            handover.take({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7, number)


def test_a_private_host_is_no_host_to_be_replaced() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asked = handover.Replacing(
        ours, (), handover.OriginalMounts(), ready=None, leave=lambda: None, write=lambda said: said
    )
    poller = select.poll()
    with theirs:
        theirs.send(handover.ANOTHER + b" 1 ")
        assert asked.takes(ours.fileno(), poller)
        assert theirs.recv(200).startswith(b"1 it is a private host")
        asked.close()
    assert not asked.agreed


def test_a_program_is_started_as_it_was_started() -> None:
    here = Path(__file__)
    assert handover.command_line(["-m", "serve"], ["py", "-m", "bridgehold", "serve"], "/v/py") == [
        "/v/py",
        "-m",
        "bridgehold",
        "serve",
    ]
    script = shutil.which("env") or ""
    assert handover.command_line([script, "serve"], ["/old/py", script, "serve"], "/old/py") == [
        script,
        "serve",
    ]
    plain = str(here)
    assert handover.command_line([plain, "a"], ["/v/py", plain, "a"], "/v/py") == ["/v/py", plain, "a"]
