"""Two hosts for the whole suite: one started by root, one by an ordinary user with a subuid range.

Both serve real sandboxes from this checkout. The ordinary user's cgroups are a sub-tree delegated
to it (v1 here), made and removed by the fixture.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bridgehold import BridgeholdError, SyncClient
from bridgehold.audit.read import read_all, read_kind
from bridgehold.client.sync import SyncSession
from bridgehold.config.layout import Layout, find_layout
from waiting import until

USER = f"bh-test-{os.getpid()}"
"""Of this run alone: two runs beside each other must not remove each other's account."""
KINDS_OF_HOSTS = ["root", "user"] if os.getuid() == 0 else ["self"]
PAIRED = [("root", "fork"), ("user", "cold")] if os.getuid() == 0 else [("self", "fork"), ("self", "cold")]
"""Each kind of host and each start once: for what has nothing to do with how they meet."""
V1 = ("memory", "pids", "cpu", "cpuacct", "freezer")
ROOT = Path(__file__).parents[2]

POLICY = """
extends = "baseline"
[limits]
memory = "256MiB"
cpu = 1.0
processes = 64
open_files = 512
file_size = "64MiB"
scratch = "64MiB"
shm = "32MiB"
log_rate = "4MiB/s"
log = "256KiB"
response = "1MiB"
startup = "20s"
command = "60s"
grace = "500ms"
[operations]
allow = ["*"]
[rate]
concurrency = 32
"""

MANIFEST = """
name = "{name}"
version = "1.0.0"
summary = "A hostile bridge"
entry = "hostile:Hostile"
[operations.act]
summary = "Run code and give what it left in result"
effect = "run"
[operations.act.arguments]
required = ["code"]
[operations.act.arguments.properties]
code = {{ type = "string" }}
[operations.report]
summary = "What the import left in result"
effect = "read"
"""

BRIDGE = """
from bridgehold_sdk import Bridge, operation

result = {{}}
{at_import}

class Hostile(Bridge):
    @operation()
    def act(self, code):
        names = {{"result": {{}}}}
        exec(compile(code, "act", "exec"), names)
        return names["result"]

    @operation()
    def report(self):
        return result
"""


@dataclass
class Stage:
    """One running host and what tests do with it."""

    kind: str
    layout: Layout
    client: SyncClient
    supervisor: int
    start: str = "cold"
    made: int = 0
    log: Path = field(default_factory=Path)

    def bridge(self, at_import: str = "", manifest: str = MANIFEST, **limits: str) -> str:
        """Write a bridge whose module runs `at_import` when it is imported, under other `limits`; its name."""
        self.made += 1
        name = f"hostile{self.made}"
        folder = self.layout.bridges / name
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        (folder / "bridge.toml").write_text(manifest.format(name=name))
        (folder / "hostile.py").write_text(BRIDGE.format(at_import=textwrap.dedent(at_import)))
        policy = POLICY
        for key, value in limits.items():
            policy, changed = re.subn(rf"(?m)^{key} = .*$", f'{key} = "{value}"', policy)
            assert changed == 1, key
        (self.layout.policies / f"{name}.toml").write_text(policy + f'[sandbox]\nstart = "{self.start}"\n')
        return name

    @contextlib.contextmanager
    def session(self, bridge: str = "", tenant: str = "local") -> Iterator[SyncSession]:
        with self.client.session(bridge or self.plain, tenant=tenant) as session:
            yield session

    @property
    def plain(self) -> str:
        """A bridge that does nothing at import, for acts in a command."""
        if not hasattr(self, "_plain"):
            self._plain = self.bridge()
        return str(self._plain)

    def act(self, code: str, *, where: str = "command") -> dict[str, object]:
        """Run `code` in a fresh sandbox, in a command or at import; what it left in `result`."""
        bridge = self.plain if where == "command" else self.bridge(code)
        with self.session(bridge) as session:
            value = session.run("act", {"code": code}) if where == "command" else session.run("report")
        assert isinstance(value, dict)
        return value

    def act_in(self, bridge: str, code: str) -> object:
        """Run `code` in a session of `bridge`'s, with a client of its own: for another thread."""
        with SyncClient.connect(self.layout.socket) as client, client.session(bridge) as session:
            return session.run("act", {"code": code})

    def fails(
        self, code: str, *, where: str = "command", deadline_ms: int = 0, **limits: str
    ) -> BridgeholdError:
        """Run `code`, which must fail; the typed error. `limits`: where it runs at import."""
        bridge = self.plain if where == "command" else self.bridge(code, **limits)
        with pytest.raises(BridgeholdError) as caught, self.session(bridge) as session:
            session.call(
                "act" if where == "command" else "report",
                {"code": code} if where == "command" else {},
                deadline_ms=deadline_ms,
            )
        return caught.value

    def busy(self, session: str) -> bool:
        """Whether `session` has a command that runs."""
        return any(one.id == session and one.state == "busy" for one in self.client.sessions())

    def events(self, kind: str = "") -> list[dict[str, object]]:
        return [
            {
                "kind": entry.kind,
                "session": entry.session,
                "tenant": entry.tenant,
                "principal": entry.principal,
                "command": entry.command,
                "ref": entry.ref,
                **entry.fields,
            }
            for entry in (
                read_kind(self.layout.audit, kind.rstrip(".")) if kind else read_all(self.layout.audit)
            )
        ]

    def sandboxes(self) -> list[int]:
        """Pids of every bubblewrap below this host."""
        listing = subprocess.run(["ps", "-eo", "pid,ppid,comm"], capture_output=True, text=True, check=True)
        rows = [line.split(None, 2) for line in listing.stdout.splitlines()[1:]]
        children: dict[int, list[tuple[int, str]]] = {}
        for pid, parent, name in rows:
            children.setdefault(int(parent), []).append((int(pid), name))
        found, queue = [], [self.supervisor]
        while queue:
            for pid, name in children.get(queue.pop(), []):
                queue.append(pid)
                if name == "bwrap":
                    found.append(pid)
        return found


def zygote_process(zygote: str) -> int:
    """The zygote's own pid, from its cgroup: the last of bubblewrap's two and itself."""
    for procs in Path("/sys/fs/cgroup").glob(f"*/**/{zygote}/cgroup.procs"):
        pids = [int(line) for line in procs.read_text().split()]
        if len(pids) == 3:
            return max(pids)
    raise AssertionError(f"no cgroup of {zygote} with three processes")


def make_home(owner: int, *, environments: bool = False) -> Layout:
    """`environments`: with those of the shipped locks, which set-up has built; for hosts of this process's user."""
    home = Path(tempfile.mkdtemp(prefix="bh-hostile-"))
    home.chmod(0o755)
    layout = find_layout({"BRIDGEHOLD_HOME": str(home)}, os.getuid())
    for folder in (layout.config, layout.policies, layout.bridges, layout.tenants):
        folder.mkdir(parents=True, exist_ok=True)
    for folder in (home, layout.config, layout.policies, layout.bridges, layout.tenants):
        os.chown(folder, owner, owner)
    if environments:
        assert owner == os.getuid()
        layout.state.mkdir()
        layout.environments.symlink_to(built_environments())
    return layout


def built_environments() -> Path:
    """The folder of environments that `make environments` fills: no test waits for a package index."""
    folder = find_layout({"BRIDGEHOLD_HOME": str(ROOT / ".environments")}, os.getuid()).environments
    if not folder.is_dir():
        pytest.fail("the environments of the shipped bridges are missing; run: make environments")
    return folder


def copy_environment(package: str, folder: Path, user: str = "") -> None:
    """A built environment, as a restored backup is one: whoever finds it there reads every byte."""
    built = built_environments()
    found = [file for file in built.glob("*.json") if f'"name": "{package}"' in file.read_text()]
    facts = max(found, key=lambda file: file.stat().st_mtime)  # beside it may lie one of an older format
    key = json.loads(facts.read_text())["key"]
    way = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
    for place, names in (
        (folder / "keys", [f"keys/{key}.json"]),
        (folder, [facts.stem, facts.name, f"{facts.stem}.facts"]),
    ):
        subprocess.run([*way, "mkdir", "-p", str(place)], check=True)
        cp = [*way, "cp", "-R", "--preserve=mode,links,timestamps"]
        subprocess.run([*cp, *(str(built / name) for name in names), str(place)], check=True)
        if not user:  # whose the folder is builds in it
            whose = (built / place.relative_to(folder)).stat()
            os.chown(place, whose.st_uid, whose.st_gid)


def start_host(layout: Layout, *, user: str = "") -> subprocess.Popen[bytes]:
    """`bridgehold serve` on `layout`, as root or as `user`; returns once it listens."""
    argv = [sys.executable, "-m", "bridgehold", "serve"]
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(layout.config.parent)}
    written = layout.config_file.read_text() if layout.config_file.exists() else ""
    if re.search("(?m)^cells = ", written):  # whatever the suite is run with
        environment.pop("BRIDGEHOLD__HOST__CELLS", None)
    if user:
        entry = pwd.getpwnam(user)
        argv = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *argv]
        environment |= {"HOME": entry.pw_dir, "USER": user}
    log = (layout.config.parent / "host.log").open("wb")
    process = subprocess.Popen(
        argv, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/"
    )

    def answers() -> bool:
        if process.poll() is not None:
            pytest.fail(f"the host did not start: {Path(log.name).read_text()[-2000:]}")
        with contextlib.suppress(BridgeholdError), SyncClient.connect(layout.socket) as client:
            return bool(client.request("ping"))
        return False

    try:
        until(answers, 60)
    except BaseException:
        process.kill()
        raise
    return process


def stop_host(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    try:
        return process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@contextlib.contextmanager
def ordinary_user() -> Iterator[tuple[str, str]]:
    """(user, cgroup choice): an account with a subordinate range and cgroups of its own."""
    created = False
    try:
        pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--create-home", "--user-group", USER], check=True)
        created = True
    entry = pwd.getpwnam(USER)
    Path(entry.pw_dir).chmod(0o700)
    for file in ("/etc/subuid", "/etc/subgid"):
        if f"{USER}:" not in Path(file).read_text():
            with Path(file).open("a") as table:
                table.write(f"{USER}:300000:65536\n")
    made = []
    for controller in V1:
        mount = Path("/sys/fs/cgroup", controller)
        if (mount / "cgroup.procs").exists():
            folder = mount / USER
            folder.mkdir(exist_ok=True)
            for path in (folder, *folder.iterdir()):
                os.chown(path, entry.pw_uid, entry.pw_gid)
            made.append(folder)
    try:
        yield USER, f"v1:/{USER}"
    finally:
        for folder in made:
            for inner in [*folder.glob("*/*/"), *folder.glob("*/")]:
                with contextlib.suppress(OSError):
                    inner.rmdir()
            with contextlib.suppress(OSError):
                folder.rmdir()
        if created:
            subprocess.run(["userdel", "--remove", USER], check=False, capture_output=True)


@contextlib.contextmanager
def stage(
    kind: str,
    start: str = "cold",
    config: str = "",
    *,
    first: str = "",
    host: str = "",
    zygote: str = "256MiB",
    environments: bool = False,
    cgroups: str = "",
) -> Iterator[Stage]:
    """A running host. `first`: the top of its config.toml; `host` and `config`: more of [host], of [zygotes].

    `zygote`: the memory of each. `cgroups`: another choice than the kind's own.
    """
    with contextlib.ExitStack() as stack:
        user, cgroup = stack.enter_context(ordinary_user()) if kind == "user" else ("", "auto")
        owner = pwd.getpwnam(user).pw_uid if user else os.getuid()
        layout = make_home(owner, environments=environments)
        stack.callback(shutil.rmtree, layout.config.parent, ignore_errors=True)
        layout.config_file.write_text(
            f'{first}[host]\ncgroup = "{cgroups or cgroup}"\n{host}\n[zygotes]\nmemory = "{zygote}"\n{config}'
        )
        process = start_host(layout, user=user)
        stack.callback(stop_host, process)
        client = stack.enter_context(SyncClient.connect(layout.socket))
        yield Stage(kind=kind, layout=layout, client=client, supervisor=process.pid, start=start)
