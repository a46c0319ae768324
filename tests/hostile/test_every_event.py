"""Each event that the reference promises is made to happen on a real host, and says whose it is.

An event kind without a case here fails. Two lives of one host: in the first everything happens, by its
callers, its guests, its operator; in the second the keeper is killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from bridgehold import BridgeholdError, SyncClient
from bridgehold.audit import rotations
from bridgehold.audit.beginning import JournalConfig
from bridgehold.audit.client import encode
from bridgehold.audit.entries import Entry
from bridgehold.audit.events import HostStopped, event_types, kind_of
from bridgehold.audit.journal import Journal
from bridgehold.audit.read import read_all
from bridgehold.audit.recorders import Recorder
from bridgehold.audit.scan import durable_head
from bridgehold.audit.sealing import Wanted, seal_audit
from bridgehold.audit.verify import verify_audit
from bridgehold.audit.writer import Limits
from bridgehold.keeper.admin import SecretAdmin
from bridgehold.keeper.signer import Signer
from bridgehold.records import wire
from hostile.served import running_provider
from hostile.stage import POLICY, Stage, make_home, start_host, stop_host
from hostile.taken_over import act_in_cell, doors
from waiting import until

TOKEN = "of-acme-only"
NOW = "2999-01-01T00:00:00.000Z"
CONFIG = """
[principals.acme]
tokens = ["sha256:{digest}"]
tenants = ["acme"]
[principals.tester]
uids = [{uid}]
tenants = ["*"]
operator = true
[host]
anchor_every_s = 1
[zygotes]
memory = "256MiB"
[providers.openai]
base_url = "{url}"
private = true
"""
MANIFEST = """
name = "all"
version = "1.0.0"
summary = "Does everything that is told"
entry = "all:All"
[[needs.endpoints]]
provider = "openai"
methods = ["POST"]
paths = ["/chat/completions"]
[[needs.secrets]]
name = "openai"
provider = "openai"
[operations.act]
summary = "Run code"
effect = "run"
[operations.act.arguments]
required = ["code"]
[operations.act.arguments.properties]
code = { type = "string" }
api_key = { type = "string" }
"""
BRIDGE = """
import json, urllib.request
from bridgehold_sdk import Bridge, operation

def ask(path, key):
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
    request = urllib.request.Request("http://127.0.0.1:8080" + path, data=body, headers={
        "Authorization": "Bearer " + key, "Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code

class All(Bridge):
    @operation()
    def act(self, code, api_key=""):
        names = {"result": {}, "ask": ask, "key": self.provider("openai").placeholder, "tools": self.tools}
        exec(compile(code, "act", "exec"), names)
        return names["result"]
"""
POLICY_OF_ALL = (
    'weakenings = ["private_network"]\n'
    + POLICY.strip().replace("[operations]", '[tools]\nallow = ["double"]\n[operations]')
    + """
[network.endpoints.openai]
methods = ["POST"]
paths = ["/chat/completions"]
[secrets.openai]
how = "gateway"
provider = "openai"
[sandbox]
enforcement = "weakened"
start = "fork"
"""
)
POLICY_OF_BARE = (
    POLICY_OF_ALL.replace('"private_network"', '"private_network", "env_secret"')
    .replace("[secrets.openai]", "[secrets.extra]")
    .replace('how = "gateway"\nprovider = "openai"', 'how = "env"\nvariable = "EXTRA"')
)
BABBLER = """
import fcntl, os, stat, struct
for fd in range(3, 1024):
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & 3 == os.O_WRONLY:
            os.write(fd, struct.pack(">I", 9) + b"no frame!")
    except OSError:
        pass
"""
UNALLOWED = """
from bridgehold.errors import BridgeholdError
from bridgehold.keeper.protocol import UpstreamRequest
ask = UpstreamRequest(
    tenant="acme", principal="acme", session="s-0", provider="openai", method="GET", path="/models"
)
try:
    await cell._parts.http_tools._keeper.request(ask, b"")
except BridgeholdError as error:
    result["code"] = error.code
"""
WITHOUT_MODULE = """
name = "{name}"
version = "1.0.0"
summary = "Asks for a module that is not there"
entry = "hostile:Hostile"
[preload]
modules = ["no_such_framework"]
[operations.act]
summary = "Run code"
effect = "run"
"""
WITH_LOCK = WITHOUT_MODULE.replace('[preload]\nmodules = ["no_such_framework"]', 'lock = "lock.txt"')
WAITING = """
import os, time
os.makedirs("/tmp/more")
end = time.monotonic() + 5
while not os.path.ismount("/tmp/more") and time.monotonic() < end:
    time.sleep(0.01)
"""


@contextlib.contextmanager
def opened() -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        layout = make_home(os.getuid())
        stack.callback(shutil.rmtree, layout.config.parent, ignore_errors=True)
        provider = stack.enter_context(running_provider())
        digest = hashlib.sha256(TOKEN.encode()).hexdigest()
        layout.config_file.write_text(CONFIG.format(digest=digest, uid=os.getuid(), url=provider.base_url))
        bare = MANIFEST.replace('name = "all"', 'name = "bare"').replace(
            'name = "openai"\nprovider = "openai"', 'name = "extra"\nhow = "env"\nvariable = "EXTRA"'
        )
        for name, manifest, policy in (("all", MANIFEST, POLICY_OF_ALL), ("bare", bare, POLICY_OF_BARE)):
            folder = layout.bridges / name
            folder.mkdir()
            (folder / "bridge.toml").write_text(manifest)
            (folder / "all.py").write_text(BRIDGE)
            (layout.policies / f"{name}.toml").write_text(policy)
        layout.secrets.mkdir(parents=True)
        layout.secrets.chmod(0o700)
        admin = SecretAdmin.open_file(layout.secrets)
        admin.set("local", "openai", provider.key.encode())
        admin.set("local", "extra", b"worth-nothing-at-all", allow_env=True)
        admin.set("acme", "gone", b"worth-nothing-either")
        process = start_host(layout)
        stack.callback(lambda: stop_host(process) if process.poll() is None else None)
        client = stack.enter_context(SyncClient.connect(layout.socket))
        yield Stage(kind="root", layout=layout, client=client, supervisor=process.pid, start="fork")


def refused(act: Callable[[], object]) -> None:
    with contextlib.suppress(BridgeholdError):
        act()
        pytest.fail("it was not refused")


def live(stage: Stage) -> None:
    """Everything that a host's callers, guests and operator can make happen."""
    client = stage.client

    def double(n: int) -> int:
        return 2 * n

    with client.session("all", tools=(double,)) as session:
        code = (
            "result['ok'] = ask('/openai/chat/completions', key)\n"
            "result['no'] = ask('/openai/files', key)\n"
            "result['four'] = tools['double'](n=2)\n"
            "try: tools['double'](n='x')\n"
            "except Exception as error: result['refused'] = type(error).__name__\n"
        )
        said = session.run("act", {"code": code})
        assert (said["ok"], said["no"], said["four"]) == (200, 403, 4), said
        session.run("act", {"code": "1", "api_key": "sk-of-a-caller-0123456789"})
        session.extend(idle="1h")
    shown = client.run("bare:act", {"code": "import os\nresult['extra'] = os.environ['EXTRA']"})
    assert shown == {"extra": "worth-nothing-at-all"}
    refused(lambda: client.run("all:nothing", {}))
    kept = client.put(b"some bytes", name="blob")
    assert client.get(kept.digest) == b"some bytes"
    babbler = stage.plain
    with contextlib.suppress(BridgeholdError), client.session(babbler) as session:
        session.run("act", {"code": BABBLER})
    wait_for(stage, "protocol.violation", lambda _: True)
    refused(lambda: client.run(f"{stage.bridge(manifest=WITHOUT_MODULE)}:act", {}))
    broken = stage.bridge(manifest=WITH_LOCK)
    (stage.layout.bridges / broken / "lock.txt").write_text("demo-pkg==1.0\n")
    refused(lambda: client.run(f"{broken}:act", {}))
    client.request("reload")
    client.request("bridge.scan")
    for name in ("umbra", "plain"):
        client.request("tenant.create", {"name": name, "limits": {"sessions": 2, "memory": "1GiB"}})
    (stage.layout.environments / f".build-{'0' * 64}-{'1' * 16}").mkdir()  # as a crash leaves one
    assert client.request("bridge.gc")["removed"]
    with SyncClient.connect(stage.layout.socket, token=TOKEN) as acme:
        refused(lambda: acme.request("logs", {"session": "s-0123456789abcdef"}))
        assert acme.request("audit.query", {"question": 'kind = request "logs"'})["events"]
    asked = 0

    def counted() -> bool:
        """Whether some refusals were no event each; the slower they come, the more are written."""
        nonlocal asked
        for _ in range(60):
            refused(lambda: SyncClient.connect(stage.layout.socket, token="of-nobody"))
        asked += 60
        return len(stage.events("principal.refused")) < asked

    until(counted)
    tampered(stage)
    SecretAdmin.open_file(stage.layout.secrets).remove("acme", "gone")
    wait_for(stage, "secret.changed", lambda entry: entry.text("action") == "remove")
    wait_for(stage, "anchor.signed", lambda _: True)
    Signer(stage.layout.secrets).rotate(
        lambda: durable_head(stage.layout.audit) or rotations.NOWHERE, "uid 0", datetime.now(UTC)
    )
    wait_for(stage, "anchor.key_rotated", lambda _: True)


def tampered(stage: Stage) -> None:
    """Somebody with rights on the machine mounts something into a sandbox before it is proven."""
    bridge = stage.bridge(WAITING)
    policy = stage.layout.policies / f"{bridge}.toml"
    policy.write_text(policy.read_text().replace('start = "fork"', 'start = "cold"'))
    before = set(stage.sandboxes())
    done: list[str] = []

    def run() -> None:
        try:
            stage.client.run(f"{bridge}:report", {})
        except BridgeholdError as error:
            done.append(error.code)

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        for pid in set(stage.sandboxes()) - before:
            with contextlib.suppress(psutil.Error):
                for one in psutil.Process(pid).children(recursive=True):
                    if one.name() != "bwrap":
                        mount = ["mount", "-t", "tmpfs", "none", "/tmp/more"]
                        join = ["-m"] if os.getuid() == 0 else ["-U", "--preserve-credentials", "-m"]
                        command = ["nsenter", "-t", str(one.pid), *join, *mount]
                        subprocess.run(command, check=False, capture_output=True)
        time.sleep(0.02)
    assert done == ["attestation"]


def wait_for(stage: Stage, kind: str, fits: Callable[[Entry], bool]) -> None:
    until(lambda: any(entry.kind == kind and fits(entry) for entry in read_all(stage.layout.audit)))


@pytest.fixture(scope="module")
def told() -> Iterator[list[Entry]]:
    """Every event of both lives, and of a journal whose segments are small."""
    with opened() as stage:
        live(stage)
        os.kill(stage.supervisor, signal.SIGTERM)
        psutil.Process(stage.supervisor).wait(30)
        SecretAdmin.open_file(stage.layout.secrets).set("local", "later", b"while-no-host-ran")
        ceilings = stage.layout.tenants / "umbra.toml"
        ceilings.write_text(ceilings.read_text().replace("sessions = 2\n", "sessions = 5\n"))
        text = stage.layout.config_file.read_text()
        stage.layout.config_file.write_text(text.replace("[host]", "[host]\ncells = true", 1))
        with doors():
            again = start_host(stage.layout)
        with contextlib.closing(SyncClient.connect(stage.layout.socket)) as client:
            said = client.run("all:act", {"code": "result['ok'] = ask('/openai/chat/completions', key)"})
            assert said == {"ok": 200}
            wait_for(
                stage,
                "policy.loaded",
                lambda entry: entry.text("name") == "@umbra" and bool(entry.fields["gained"]),
            )
            assert client.request("tenant.show", {"name": "umbra"})["raised"] == [RAISED]
            client.request("tenant.limit", {"name": "umbra", "limits": {"sessions": 3}})
            assert client.request("tenant.show", {"name": "umbra"})["raised"] == []
            assert act_in_cell(stage, "acme", UNALLOWED, client) == {"code": "denied"}
        wait_for(stage, "egress.ended", lambda _: True)
        wait_for(stage, "egress.stopped", lambda _: True)
        wait_for(stage, "secret.changed", lambda entry: entry.text("name") == "later")
        signer = Signer(stage.layout.secrets)
        assert list(seal_audit(stage.layout.audit, Wanted(), signer.seal, by="uid 0", time=NOW))
        wait_for(stage, "segment.sealed", lambda _: True)
        keeper = next(
            one
            for one in psutil.Process(again.pid).children(recursive=True)
            if "bridgehold.keeper.main" in one.cmdline()
        )
        keeper.kill()
        assert again.wait(30) != 0
        rotated(stage.layout.audit, stage.layout.anchors)
        assert verify_audit(stage.layout.audit, beside=stage.layout.anchors).ok
        yield list(read_all(stage.layout.audit))


def rotated(audit: Path, anchors: Path) -> None:
    limits = Limits(segment_bytes=1)
    journal = Journal(JournalConfig(folder=str(audit), anchors=str(anchors), limits=limits))
    journal.writer.write([])
    forger = Recorder("launcher")
    journal.answer([wire.Request(wire.APPEND, 1, encode(HostStopped(reason="forged")))], [forger])
    journal.note_breach(forger)
    journal.close("test")


def test_a_ceiling_that_was_raised_by_hand_while_no_host_ran_is_told_by_the_next(told: list[Entry]) -> None:
    loaded = [one for one in told if one.kind == "policy.loaded" and one.text("name").startswith("@")]
    seen = [(one.tenant, one.fields["gained"], one.fields["lost"], one.fields["limits"]) for one in loaded]
    memory = {"memory": 1 << 30}
    assert seen == [
        ("umbra", [], [], {"sessions": 2, **memory}),
        ("plain", [], [], {"sessions": 2, **memory}),
        ("umbra", [RAISED], [], {"sessions": 5, **memory}),
        ("umbra", [], [], {"sessions": 3, **memory}),
    ]


RAISED = "tenant.limits.sessions 2 → 5"
OWN: dict[str, Any] = {}
"""Nobody's in particular: the host's own events, for no tenant."""
LOCAL = {"tenant": "local"}
BY = {"tenant": "local", "principal": "tester"}
CASES: dict[str, dict[str, Any]] = {
    "host.started": OWN,
    "host.stopped": OWN,
    "host.degraded": {"reason": "the keeper process is gone"},
    "grant.resolved": LOCAL,
    "environment.built": OWN,
    "environment.refused": {"code": "dependency"},
    "environment.scanned": {"principal": "tester", "ok": True},
    "environment.removed": OWN,
    "config.reloaded": {"principal": "tester"},
    "session.opened": BY,
    "session.extended": {**BY, "idle_ms": 3_600_000},
    "session.closed": BY,
    "worker.started": LOCAL,
    "worker.attested": LOCAL,
    "worker.refused": LOCAL,
    "worker.exited": LOCAL,
    "zygote.attested": LOCAL,
    "zygote.started": LOCAL,
    "zygote.ended": LOCAL,
    "start.fell_back": LOCAL,
    "command.intent": BY,
    "command.outcome": BY,
    "command.refused": {**BY, "operation": "all:nothing"},
    "admin.intent": {"tenant": "", "principal": "tester", "action": "tenant.create", "subject": "umbra"},
    "admin.outcome": {"tenant": "", "principal": "tester", "subject": "umbra", "ok": True},
    "tool.intent": {**BY, "tool": "double"},
    "tool.outcome": {**BY, "tool": "double", "ok": True},
    "tool.refused": {**BY, "tool": "double", "rule": "arguments"},
    "artifact.changed": {**BY, "action": "kept", "name": "blob"},
    "artifact.read": BY,
    "audit.queried": {"tenant": "acme", "principal": "acme", "question": 'kind = request "…"', "count": 1},
    "egress.intent": {**BY, "provider": "openai"},
    "egress.outcome": {**BY, "provider": "openai", "status": 200},
    "egress.refused": BY,
    "egress.sent": {**BY, "provider": "openai"},
    "egress.ended": {**BY, "provider": "openai", "status": 200, "unsent": False},
    "egress.stopped": {"tenant": "acme", "rule": "session"},
    "protocol.violation": BY,
    "principal.refused": {"tenant": "", "uid": os.getuid()},
    "request.refused": {"tenant": "acme", "principal": "acme", "method": "logs"},
    "secret.changed": {"tenant": "acme", "name": "gone", "action": "remove"},
    "policy.loaded": LOCAL,
    "events.folded": {"tenant": ""},
    "journal.opened": OWN,
    "journal.closed": OWN,
    "cell.started": {"tenant": "acme"},
    "cell.ended": {"tenant": "acme", "sessions": 0},
    "channel.ended": {"tenant": "", "recorder": "launcher"},
    "segment.rotated": OWN,
    "anchor.signed": OWN,
    "segment.sealed": {"by": "uid 0", "segment": 1, "bodies": 0},
    "anchor.key_rotated": {"by": "uid 0", "old_lost": False},
}


def test_every_kind_has_its_case() -> None:
    assert set(CASES) == {kind_of(kind) for kind in event_types()}


@pytest.mark.parametrize("kind", CASES)
def test_it_happens_and_says_whose_it_is(told: list[Entry], kind: str) -> None:
    found = [json.loads(json.dumps({**ties(entry), **entry.fields})) for entry in told if entry.kind == kind]
    assert found, f"{kind} never came"
    wanted = CASES[kind]
    assert [one for one in found if wanted.items() <= one.items()], (wanted, found[:5])


def ties(entry: Entry) -> dict[str, str]:
    return {name: getattr(entry, name) for name in ("tenant", "principal", "session", "command")}


@pytest.mark.parametrize(
    ("action", "name"),
    [("set", "openai"), ("set", "later"), ("captured", "openai"), ("revealed", "extra"), ("remove", "gone")],
)
def test_every_change_of_a_secret_is_told(told: list[Entry], action: str, name: str) -> None:
    found = [
        e for e in told if e.kind == "secret.changed" and (e.text("action"), e.text("name")) == (action, name)
    ]
    assert len(found) == 1, [e for e in told if e.kind == "secret.changed"]
    if action == "captured":
        assert (found[0].principal, bool(found[0].command)) == ("tester", True)
    if action == "revealed":
        assert found[0].principal == "tester"


def test_every_request_at_the_gateway_is_somebodys(told: list[Entry]) -> None:
    found = [entry for entry in told if entry.kind.startswith(("egress.", "tool.", "command."))]
    assert [entry.kind for entry in found if not entry.principal] == []
