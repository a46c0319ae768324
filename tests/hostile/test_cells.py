"""A process for each tenant: what ends one cell, or takes it over, is nobody else's.

Each host here has `[host] cells = true`; root's and an ordinary user's, cold and forked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridgehold import BridgeholdError, Host, SyncClient
from bridgehold.audit.read import read_kind
from bridgehold.bridges.kit.provider import Provider
from bridgehold.config.layout import Layout
from bridgehold.host.front.forwarding import FORWARDED
from bridgehold.keeper.admin import SecretAdmin
from bridgehold.sandbox import procfs
from hostile import told_anew
from hostile.served import running
from hostile.stage import KINDS_OF_HOSTS, PAIRED, Stage, make_home, stage
from hostile.taken_over import act_in_cell, doors
from hostile.test_probes import probes
from waiting import until

pytestmark = pytest.mark.hostile
SLOW = {"code": "import time\ntime.sleep(100)"}


@pytest.fixture(scope="module", params=PAIRED, ids="-".join)
def host(request: pytest.FixtureRequest) -> Iterator[Stage]:
    kind, start = request.param
    with doors(), stage(kind, start, host="cells = true") as ready:
        policy = ready.layout.policies / f"{ready.plain}.toml"
        policy.write_text(policy.read_text().replace('command = "60s"', 'command = "120s"'))
        yield ready
        assert "Traceback" not in ready.layout.config.parent.joinpath("host.log").read_text()


def processes(host: Stage) -> dict[str, int]:
    """Our processes by module's name; of the host's forks, the template."""
    found = {}
    for pid in procfs.children(host.supervisor):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        found[words[words.index(b"-m") + 1].decode()] = pid
    return found


def cells(host: Stage) -> set[int]:
    """Pids of the cells that run now."""
    (template,) = procfs.children(processes(host)["bridgehold.host.main"])
    return {pid for pid in procfs.children(template) if b"\tZ" not in status(pid)}


def status(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return b"State:\tZ"


def cell_of(host: Stage, tenant: str) -> int:
    """The pid of the tenant's cell, which begins here."""
    before = cells(host)
    with host.session(tenant=tenant) as session:
        session.run("act", {"code": "result = 1"})
    (begun,) = cells(host) - before
    return begun


def code_of(thread: threading.Thread, found: list[str]) -> str:
    thread.join(30)
    assert not thread.is_alive()
    return found[0]


def test_the_end_of_a_cell_is_typed_for_its_callers_and_nothing_for_others(host: Stage) -> None:
    victim = cell_of(host, "victim")
    hostile = cell_of(host, "hostile")
    with host.session(tenant="victim") as theirs, host.session(tenant="hostile") as own:
        theirs.run("act", {"code": "import builtins; builtins.kept = 41"})
        found: list[str] = []

        def run() -> None:
            try:
                own.run("act", SLOW)
            except BridgeholdError as error:
                found.append(error.code)

        thread = threading.Thread(target=run)
        thread.start()
        until(lambda: busy(host, own.id))
        worker = pid_of(host, own.id)
        os.kill(hostile, signal.SIGKILL)
        assert code_of(thread, found) == "cell_ended"
        until(lambda: not Path(f"/proc/{worker}").exists())
        assert theirs.run("act", {"code": "import builtins; result['x'] = builtins.kept + 1"}) == {"x": 42}
        with pytest.raises(BridgeholdError) as error:
            own.run("act", {"code": "result['x'] = 1"})
        assert error.value.code in ("not_found", "session_ended", "cell_ended")
    assert victim in cells(host)
    assert hostile not in cells(host)
    with host.session(tenant="hostile") as again:
        assert again.run("act", {"code": "result['x'] = 1"}) == {"x": 1}


def test_how_sessions_ended_and_what_they_wrote_is_there_when_their_cell_is_not(host: Stage) -> None:
    cell = cell_of(host, "teller")
    with host.session(tenant="teller") as first:
        first.run("act", {"code": "print('of the first'); result['x'] = 1"})
        until(lambda: "of the first" in first.logs())
    until(lambda: all(one["id"] != first.id for one in listed(host)))
    with host.session(tenant="teller") as second, host.session(tenant="neighbour") as other:
        second.run("act", {"code": "print('of the second'); result['x'] = 1"})
        os.kill(cell, signal.SIGKILL)
        until(lambda: code_for(host, "session.find", second.id) == "session_ended")
        for method in ("session.find", "session.kill"):
            with pytest.raises(BridgeholdError, match="cell_ended") as told:
                host.client.request(method, {"session": second.id})
            assert told.value.code == "session_ended"
        assert "of the first" in host.client.logs(first.id)  # the next cell has it from the front
        with pytest.raises(BridgeholdError, match="cell_ended") as told:
            host.client.logs(second.id)  # which only the cell had
        assert told.value.code == "session_ended"
        assert other.run("act", {"code": "result['x'] = 1"}) == {"x": 1}
    with pytest.raises(BridgeholdError) as told:
        host.client.logs("s-0123456789abcdef")
    assert told.value.code == "not_found"


def code_for(host: Stage, method: str, session: str) -> str:
    try:
        host.client.request(method, {"session": session})
    except BridgeholdError as error:
        return error.code
    return ""


def busy(host: Stage, session: str) -> bool:
    return any(one["id"] == session and one["state"] == "busy" for one in listed(host))


def pid_of(host: Stage, session: str) -> int:
    return next(int(one["pid"]) for one in listed(host) if one["id"] == session)


def listed(host: Stage) -> list[dict[str, Any]]:
    found = host.client.request("sessions", {})
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("when", ["at its start", "in an opening", "in a command"])
def test_a_cell_that_is_killed_leaves_nothing_of_it(host: Stage, when: str) -> None:
    for number in range(3):
        tenant = f"killed-{when.replace(' ', '-')}-{number}"
        stop, killed = threading.Event(), list[int]()
        wanted = "" if when == "at its start" else tenant
        thread = threading.Thread(target=_kill, args=(host, cells(host), wanted, stop, killed))
        thread.start()
        try:
            with host.session(tenant=tenant) as session:
                worker = pid_of(host, session.id)
                session.run("act", SLOW if when == "in a command" else {"code": "result = 1"})
                until(killed.copy)
                until(lambda worker=worker: not Path(f"/proc/{worker}").exists())
        except BridgeholdError as error:
            assert error.code in ("cell_ended", "session_ended", "not_found")
        except StopIteration:
            pass  # it was over before it was listed
        stop.set()
        thread.join(30)
        until(partial(_nothing_of, host, tenant, killed))
    until(lambda: host.client.request("ping", {})["sessions"] == len(listed(host)))


def _kill(host: Stage, before: set[int], tenant: str, stop: threading.Event, killed: list[int]) -> None:
    """Kill the cell that comes; one of `tenant`'s once that has a session."""
    while not stop.is_set():
        for pid in cells(host) - before:
            if not tenant or any(one["tenant"] == tenant for one in listed(host)):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                return


def _nothing_of(host: Stage, tenant: str, killed: list[int]) -> bool:
    return not cells(host) & set(killed) and not any(one["tenant"] == tenant for one in listed(host))


def test_a_cell_holds_nothing_of_another_tenant_and_no_privilege(host: Stage) -> None:
    with host.session(tenant="first") as session:
        session.run("act", {"code": "result = 'the-first-ones-own-words'"})
    second = cell_of(host, "second")
    words = b"the-first-ones-" + b"own-words"
    for line in Path(f"/proc/{second}/maps").read_text().splitlines():
        span, rights, *_ = line.split()
        if "r" not in rights or line.endswith(("[vvar]", "[vsyscall]")):
            continue
        begin, end = (int(one, 16) for one in span.split("-"))
        with open(f"/proc/{second}/mem", "rb") as memory:
            memory.seek(begin)
            try:
                assert words not in memory.read(end - begin)
            except OSError:
                continue
    facts = dict(line.split(b":", 1) for line in status(second).splitlines())
    assert int(facts[b"CapEff"], 16) == int(facts[b"CapPrm"], 16) == 0
    links = {os.readlink(f"/proc/{second}/fd/{name}") for name in os.listdir(f"/proc/{second}/fd")}
    assert not [one for one in links if "host.sock" in one or "secrets" in one]


def test_each_event_of_a_cells_is_its_tenants_and_the_log_is_whole(host: Stage) -> None:
    with host.session(tenant="audited") as session:
        session.run("act", {"code": "result = 1"})
        kinds = [event["kind"] for event in host.events() if event["tenant"] == "audited"]
    assert {"grant.resolved", "session.opened", "command.intent", "command.outcome"} <= set(kinds)


def test_a_reload_reaches_every_cell(host: Stage) -> None:
    with host.session(tenant="reloaded") as session:
        session.run("act", {"code": "result = 1"})
        text = host.layout.config_file.read_text()
        try:
            host.layout.config_file.write_text(f"{text}\n[bridges.{host.plain}]\nenabled = false\n")
            host.client.request("reload", {})
            with pytest.raises(BridgeholdError) as error:
                session.run("act", {"code": "result = 1"})
            assert error.value.code == "denied"
        finally:
            host.layout.config_file.write_text(text)
            host.client.request("reload", {})
        assert session.run("act", {"code": "result['x'] = 1"}) == {"x": 1}


def test_a_connection_of_one_tenant_is_its_cells_and_the_front_takes_no_part(host: Stage) -> None:
    front, before = processes(host)["bridgehold.host.main"], cells(host)
    with SyncClient.connect(host.layout.socket, tenant="handed") as own:
        with own.session(host.plain, tenant="handed") as session:
            session.run("act", {"code": "result = 1"})
            os.kill(front, signal.SIGSTOP)
            try:
                for number in range(3):
                    code = f"result['x'] = ['{number}' * 100] * 10_000"
                    assert session.run("act", {"code": code})["x"][0] == str(number) * 100
            finally:
                os.kill(front, signal.SIGCONT)
            assert own.request("ping")["sessions"] == host.client.request("ping")["sessions"]
            assert {one.tenant for one in own.sessions()} == {"handed"}
            for method, params in (
                ("reload", {}),
                ("tenant.revoke", {"name": "victim"}),
                ("session.open", {"bridge": host.plain, "tenant": "victim"}),
                ("run", {"operation": f"{host.plain}:act", "tenant": "victim"}),
            ):
                with pytest.raises(BridgeholdError) as denied:
                    own.request(method, params)
                assert denied.value.code == "denied"
            worker = pid_of(host, session.id)
            (cell,) = cells(host) - before
            os.kill(cell, signal.SIGKILL)
            with pytest.raises(BridgeholdError) as ended:
                session.run("act", SLOW)
            # Its connection was the cell's, and ended with it: before the request was sent, or after.
            assert ended.value.code in ("cell_ended", "session_ended", "not_found", "host_unavailable")
            until(lambda: not Path(f"/proc/{worker}").exists())
        with own.session(host.plain, tenant="handed") as again:  # over another connection, in another cell
            assert again.run("act", {"code": "result['x'] = 1"}) == {"x": 1}
        with pytest.raises(BridgeholdError) as error:
            own.request("hello", {"tenant": "victim"})
        assert error.value.code == "usage"


def test_a_cell_has_its_tenants_part_of_the_processors_and_comes_first_in_it(host: Stage) -> None:
    with host.session(tenant="weighed") as session:
        session.run("act", {"code": "result = 1"})
        worker, cell = (cpu_folder(pid) for pid in (pid_of(host, session.id), cell_in(host, "weighed")))
        assert worker.parent == cell.parent
        assert cell.parent.name == "tenant-weighed"
        assert (
            own_bytes(cell_in(host, "weighed")) < 14 << 20
        )  # 12 MiB: what all cells do alike is done before
        assert (
            weight(cell) == 16 * weight(worker) == 16 * weight(cell.parent) == 16 * weight(cell.parent.parent)
        )


def own_bytes(pid: int) -> int:
    """Memory that the process shares with no other."""
    facts = procfs.lines(procfs.read(f"/proc/{pid}/smaps_rollup"))
    return sum(1024 * int(line.split()[1]) for line in facts if line.startswith("Private_"))


def cpu_folder(pid: int) -> Path:
    """Its cgroup, of the controller of processors."""
    for line in procfs.lines(procfs.read(f"/proc/{pid}/cgroup")):
        _, controllers, path = line.split(":", 2)
        mount = Path("/sys/fs/cgroup", controllers) if controllers else Path("/sys/fs/cgroup")
        if "cpu" in controllers.split(",") or (not controllers and (mount / "cgroup.controllers").exists()):
            return mount / path.lstrip("/")
    raise AssertionError(pid)


def weight(folder: Path) -> int:
    shares = folder / "cpu.shares"
    return int((shares if shares.exists() else folder / "cpu.weight").read_text())


def cell_in(host: Stage, tenant: str) -> int:
    """The pid of a cell by the cgroup that it is in."""
    found = []
    for pid in cells(host):
        with contextlib.suppress(OSError):  # another one's, that has ended
            found += [pid] if cpu_folder(pid).parent.name == f"tenant-{tenant}" else []
    (only,) = found
    return only


def test_a_revoked_tenant_has_no_cell(host: Stage) -> None:
    host.client.request("tenant.create", {"name": "leaver", "limits": {}})
    pid = cell_of(host, "leaver")
    with (
        SyncClient.connect(host.layout.socket, tenant="leaver", reconnect_s=0) as own,
        host.session(tenant="leaver") as session,
    ):
        session.run("act", {"code": "result = 1"})
        assert len(own.sessions()) == 1  # its cell has the connection
        done = host.client.request("tenant.revoke", {"name": "leaver"})
        assert done["parts"]["sessions"]["ended"] == 1
        assert done["ms"] < 5_000
        until(lambda: pid not in cells(host))
        with pytest.raises(BridgeholdError):
            session.run("act", {"code": "result = 1"})
        with pytest.raises(BridgeholdError):
            own.request("sessions")
    with pytest.raises(BridgeholdError) as error, host.session(tenant="leaver"):
        pass
    assert error.value.code in ("suspended", "denied", "not_found")
    before = cells(host)
    with (
        SyncClient.connect(host.layout.socket, tenant="leaver") as own,
        pytest.raises(BridgeholdError) as error,
    ):
        own.request("session.open", {"bridge": host.plain, "tenant": "leaver"})
    assert error.value.code in ("suspended", "denied", "not_found")
    assert not cells(host) - before  # nothing begins for it


NEIGHBOURS = """
import ctypes, errno, os, signal
libc = ctypes.CDLL(None, use_errno=True)

def tried(act):
    ctypes.set_errno(0)
    try:
        said = act()
    except OSError as error:
        return errno.errorcode[error.errno]
    if said == -1:
        return errno.errorcode[ctypes.get_errno()]
    return "done"

for name, pid in {pids}.items():
    for number in (0, signal.SIGKILL):
        result[f"{{name}} kill {{number}}"] = tried(lambda: os.kill(pid, number))
    result[f"{{name}} ptrace"] = tried(lambda: libc.ptrace(16, pid, 0, 0))
    room = ctypes.create_string_buffer(64)
    part = (ctypes.c_void_p * 2)(ctypes.addressof(room), 64)
    result[f"{{name}} process_vm_readv"] = tried(lambda: libc.process_vm_readv(pid, part, 1, part, 1, 0))
    for file in ("mem", "maps", "environ", "fd", "root", "ns/user"):
        path = f"/proc/{{pid}}/{{file}}"
        look = os.readlink if file in ("root", "ns/user")  else None
        result[f"{{name}} {{file}}"] = tried(lambda: look(path) if look else os.close(os.open(path, os.O_RDONLY)))
for name, act in {{
    "setuid": lambda: os.setresuid(0, 0, 0),
    "setgid": lambda: os.setresgid(0, 0, 0),
    "groups": lambda: os.setgroups([0]),
    "unshare": lambda: libc.unshare(0x10000000),
    "setns": lambda: libc.setns(os.open("/proc/self/ns/user", os.O_RDONLY), 0),
    "mount": lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
}}.items():
    result[name] = tried(act)
"""


def test_a_cell_that_is_taken_over_reaches_no_process_of_ours(host: Stage) -> None:
    """As a uid of its own it signals, traces and reads nobody, and has no way to be somebody else."""
    victim, hostile = cell_of(host, "near"), cell_of(host, "taken")
    own = processes(host)
    pids = {
        "victim": victim,
        "template": procfs.children(own["bridgehold.host.main"])[0],
        **{name.removeprefix("bridgehold."): pid for name, pid in own.items()},
        "supervisor": host.supervisor,
    }
    found = act_in_cell(host, "taken", NEIGHBOURS.format(pids=pids))
    assert len(found) == len(pids) * 10 + 6
    assert {name: said for name, said in found.items() if said not in ("EPERM", "EACCES", "ENOSYS")} == {}
    assert {victim, hostile} <= cells(host)
    uids = {pid: status(pid).split(b"Uid:")[1].split(b"\n")[0].split() for pid in pids.values()}
    theirs = status(hostile).split(b"Uid:")[1].split(b"\n")[0].split()
    assert not [pid for pid, uid in uids.items() if set(uid[:3]) & set(theirs[:3])]
    facts = dict(line.split(b":", 1) for line in status(hostile).splitlines())
    assert facts[b"NoNewPrivs"].split() == [b"1"]
    assert facts[b"Seccomp"].split() == [b"2"]
    assert int(facts[b"CapBnd"], 16) == 0
    (event,) = [one for one in host.events("cell.started") if one["tenant"] == "taken"]
    assert event["uid"] > 0  # type: ignore[operator]  # a number


OPENED = """
import os, socket
from pathlib import Path

def tried(act):
    try:
        act()
    except OSError as error:
        return error.errno
    return 0

for place in {places}:
    result[place] = tried(lambda: os.close(os.open(place, os.O_RDONLY)))
    result[f"in {{place}}"] = tried(lambda: Path(place, "new").write_text("x"))
    result[f"away with {{place}}"] = tried(lambda: os.rename(place, f"{{place}}.gone"))
for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
    result[str(family)] = tried(lambda: socket.socket(family))
pair, _ = socket.socketpair()
result["connect"] = tried(lambda: pair.connect({socket!r}))
result["bind"] = tried(lambda: pair.bind("\\0bridgehold"))
result["fork"] = tried(os.fork)
result["exec"] = tried(lambda: os.execv("/usr/bin/true", ["true"]))
"""


def test_a_cell_that_is_taken_over_opens_nothing_but_its_tenants_own(host: Stage) -> None:
    layout = host.layout
    (layout.tenants / "opened" / "bridges").mkdir(parents=True, exist_ok=True)
    (layout.tenants / "opened.toml").write_text("# nothing of its own\n")
    cell_of(host, "opened")
    kept = layout.artifacts / "opened"
    places = (
        *(
            layout.artifacts,
            kept,
            layout.audit,
            layout.anchors,
            layout.secrets,
            layout.quarantine,
            layout.run,
        ),
        *(layout.tenants, layout.tenants / "opened", layout.tenants / "opened.toml", layout.config_file),
        *map(Path, ("/", "/etc/passwd", "/proc", "/proc/self/mem", "/tmp", "/root", "/dev/ptmx")),
    )
    wanted = {"places": [str(place) for place in places], "socket": str(layout.socket)}
    found = act_in_cell(host, "keyhole", OPENED.format(**wanted))
    assert len(found) == 3 * len(places) + 8
    assert {name: said for name, said in found.items() if not said} == {}
    code = """
store = cell._parts.store
made = store.put("keyhole", b"its own words")
result["back"] = store.read("keyhole", made.digest).decode()
"""
    assert act_in_cell(host, "keyhole", code) == {"back": "its own words"}


ASKED = """
import gc, msgspec
from bridgehold.errors import BridgeholdError
from bridgehold.host.shares import cell_wire, openings

async def tried(asking):
    try:
        await asking
    except BridgeholdError as error:
        return error.code
    return "done"

launcher, link = cell._parts.services.launcher, cell._link
for worker in {workers}:
    for name in ("kill", "attest", "usage", "account", "current"):
        result[f"{{name}} {{worker}}"] = await tried(getattr(launcher, name)(worker))
for number in range(64):
    ask = cell_wire.Relayed(connection=number, method="tenants", params=msgspec.Raw(b"{{}}"))
    result[f"relay {{number}}"] = await tried(link.ask("relay", ask))
for method in ("call", "stop", "config", "end", "tenant.create", "reload"):
    result[method] = await tried(link.ask(method, {{"tenant": "near", "name": "near"}}))
order = cell_wire.AskOrder(bridge={bridge!r}, session="", session_name="", principal="")
ordered = msgspec.json.decode(await link.ask("order", order), type=cell_wire.Ordered)
spec = ordered.spec
for name, wider in {{
    "another tenant": msgspec.structs.replace(spec, tenant="near"),
    "another mount": msgspec.structs.replace(spec, environment=(("X", "1"),)),
}}.items():
    result[name] = await tried(launcher.launch(wider))
opens = next(one for one in gc.get_objects() if isinstance(one, openings.Openings))
for host, address in (("169.254.169.254", "169.254.169.254"), ("localhost", "127.0.0.1"), ("example.org", "1.1.1.1")):
    result[f"lookup {{host}}"] = await tried(opens.lookup({bridge!r}, host, 80))
    result[f"dial {{host}}"] = await tried(opens.dial({bridge!r}, host, address, 80))
result["tool"] = await tried(opens.tool("area"))
"""


def test_a_cell_that_is_taken_over_asks_its_channels_for_nothing_of_anothers(host: Stage) -> None:
    with host.session(tenant="near") as theirs:
        theirs.run("act", {"code": "import builtins; builtins.kept = 41"})
        workers = [one["worker"] for one in host.events("worker.started") if one["tenant"] == "near"]
        code = ASKED.format(workers=workers, bridge=host.plain)
        found = act_in_cell(host, "asker", code)
        assert len(found) == 5 * len(workers) + 64 + 6 + 2 + 6 + 1, found
        assert {name: said for name, said in found.items() if said == "done"} == {}
        assert theirs.run("act", {"code": "import builtins; result['x'] = builtins.kept + 1"}) == {"x": 42}


BROKEN = {
    "marks": "await keeper.marks('near')",
    "a key": "await keeper.prefetch('near', 'openai')",
    "a signature": "await keeper.sign(b'an anchor of mine')",
    "another's event": "await journal.append(RecordOf(tenant='near', principal='p', session='s', name='k', action='set'))",
    "the launcher's event": "await journal.append(Started(tenant='own', cell='c-1', pid=1, ms=1))",
    "a seal": "await launcher.seal('/tmp')",
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_breaks_a_channels_rules_ends_the_cell_that_is_taken_over_and_no_other(
    host: Stage, what: str
) -> None:
    tenant = f"breaks-{list(BROKEN).index(what)}"
    with host.session(tenant="near") as theirs:
        theirs.run("act", {"code": "import builtins; builtins.kept = 41"})
        before = len(host.events())
        code = f"""
from bridgehold.audit.events import CellStarted as Started, SecretChanged as RecordOf
keeper = cell._parts.http_tools._keeper
launcher, journal = cell._parts.services.launcher, cell._parts.services.journal
{BROKEN[what]}
"""
        try:
            found = act_in_cell(host, tenant, code)
            assert "error" in found, found
        except BridgeholdError as error:
            assert error.code in ("cell_ended", "host_unavailable")
        until(lambda: any(one["tenant"] == tenant for one in host.events("cell.ended")))
        assert theirs.run("act", {"code": "import builtins; result['x'] = builtins.kept + 1"}) == {"x": 42}
        new = [one for one in host.events()[before:] if one["kind"] == "secret.changed"]
        assert new == []


def test_cells_hear_of_providers_and_scripts_as_a_host_without_them(host: Stage) -> None:
    told_anew.a_provider_comes_moves_and_goes(host, "moving")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        told_anew.a_folder_of_scripts_comes_and_goes(host, "moving", Path(folder) / "python")


def test_no_caller_makes_its_cell_ask_the_front_what_ends_it(host: Stage) -> None:
    """What only the front answers goes on to it, as much and as often as a caller likes."""
    with host.session(tenant="handed") as session, contextlib.ExitStack() as left:
        session.run("act", {"code": "result = 1"})
        for method in ("proposal.make", "no.such"):
            with SyncClient.connect(host.layout.socket, tenant="handed") as own:
                own.request("describe", {"bridge": host.plain, "tenant": "handed"})  # it is the cell's by now
                with pytest.raises(BridgeholdError) as refused:
                    own.request(method, {"event": "x" * 100_000})
                assert refused.value.code == "limit"
        for _ in range(6):
            sock = left.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(host.layout.socket))
            sock.settimeout(30)
            hello = {"id": 1, "method": "hello", "params": {"tenant": "handed"}}
            mine = {"id": 2, "method": "describe", "params": {"bridge": host.plain, "tenant": "handed"}}
            for asked in (hello, mine):
                sock.sendall(framed(asked))
                assert sock.recv(65_536)
            looks = (
                {"id": number, "method": "proposal.make", "params": {"event": f"c-{number:016}"}}
                for number in range(3, 240)
            )
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.sendall(b"".join(map(framed, looks)))
        assert session.run("act", {"code": "result['x'] = 1"}) == {"x": 1}
    with host.session(tenant="handed") as session:
        assert session.run("act", {"code": "result['x'] = 1"}) == {"x": 1}


def framed(asked: dict[str, object]) -> bytes:
    body = json.dumps(asked).encode()
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize("tenant", ["", "../x", None])
def test_a_tenant_without_a_name_ends_no_cell(host: Stage, tenant: str | None) -> None:
    with host.session() as session:
        before = cells(host)
        for method, asked in probes(host.plain, session.id).items():
            if method in FORWARDED and "tenant" in asked and method != "session.hold":
                with contextlib.suppress(BridgeholdError):
                    host.client.request(method, {**asked, "tenant": tenant})
        assert session.run("act", {"code": "result['x'] = 1"}) == {"x": 1}
        assert before <= cells(host)
        if tenant is not None:
            with pytest.raises(BridgeholdError, match="it is no name") as refused:
                host.client.request("run", {"operation": f"{host.plain}:act", "tenant": tenant})
            assert refused.value.code == "denied"
            assert refused.value.event in [one["ref"] for one in host.events("command.refused")]


def test_a_slip_of_a_program_begins_no_cell(host: Stage) -> None:
    told_anew.a_slip_of_a_program_opens_nothing(host)
    assert not {one["tenant"] for one in host.events("cell.started")} & {"sliping", "slippping", "slippign"}


ASKED_OF_KEEPER = """
from bridgehold.errors import BridgeholdError
from bridgehold.keeper.protocol import PutSessionSecret, UpstreamRequest
keeper = cell._parts.http_tools._keeper
body = b'{{"model": "m", "max_tokens": 5, "messages": [{{"role": "user", "content": "hello"}}]}}'
remote = b'{{"model": "m", "messages": [], "tools": [{{"type": "web_search"}}]}}'
sound = dict(tenant={tenant!r}, session={session!r}, provider="fresh", method="POST", path="/chat/completions",
             headers=(("content-type", "application/json"),), secret="fresh")

async def sent(body=body, **changes):
    try:
        ask = UpstreamRequest(**{{**sound, "body_bytes": len(body), **changes}})
        async with await keeper.request(ask, body) as answer:
            async for _ in answer.body():
                pass
            return answer.status
    except BridgeholdError as error:
        return f"{{error.code}} {{error.where}}"

async def put(session, provider):
    try:
        await keeper.put_session_secret(session, provider, "sk-planted-0123456789", tenant={tenant!r})
        return "done"
    except BridgeholdError as error:
        return error.code
"""

STOPPED = """
result["a session of another's"] = await sent(session={near!r})
result["another path"] = await sent(path="/files")
result["a path twice"] = await sent(path="/chat/completions/../files")
result["another method"] = await sent(method="DELETE")
result["another provider"] = await sent(provider="other", secret="other")
result["another key"] = await sent(secret="other")
result["no key"] = await sent(secret="")
result["a key of its own"] = await sent(how="pass", credential="sk-own-0123456789")
result["as a tool"] = await sent(how="tool")
result["no session"] = await sent(session="")
result["a session that nobody ordered"] = await sent(session="s-0000")
result["a tool of the provider's"] = await sent(remote)
result["a query"] = await sent(query=(("store", "true"),))
result["a key for a session that nobody ordered"] = await put("s-0000", "fresh")
result["a key for another provider"] = await put({session!r}, "other")
"""


def test_a_cell_that_is_taken_over_has_the_keeper_ask_for_what_the_front_allows_and_no_more(
    host: Stage,
) -> None:
    """Without any event of its own: what goes out and what is refused is in the audit all the same."""
    before = host.layout.config_file.read_text()
    name, secrets = told_anew.asking_bridge(host), SecretAdmin.open_file(host.layout.secrets)
    secrets.set("asks", "fresh", told_anew.KEY.encode())
    with (
        running(Provider.open(key=told_anew.KEY)) as fresh,
        running(Provider.open(key=told_anew.KEY)) as other,
    ):
        try:
            sections = "".join(
                f'[providers.{name}]\nbase_url = "{one.base_url}"\nprivate = true\n'
                for name, one in (("fresh", fresh), ("other", other))
            )
            told_anew.reload(host, f"{before}{sections}")
            host.client.request("tenant.create", {"name": "asks", "limits": {"tokens_per_day": 100}})
            with host.session(name, "asks") as session, host.session(name, "near") as near:
                assert told_anew.ask(session)[0] == 200
                names = {"tenant": "asks", "session": session.id, "near": near.id}
                start = ASKED_OF_KEEPER.format(**names)
                found = act_in_cell(host, "asks", start + STOPPED.format(**names))
                assert len(fresh.log) == 1, fresh.log
                assert not other.log
                assert {key: said for key, said in found.items() if "denied" not in str(said)} == {}
                assert len(found) == 15
                stopped = [one for one in host.events("egress.stopped") if one["tenant"] == "asks"]
                assert sum(1 + one["folded"] for one in stopped) >= 10
                assert {one["session"] for one in stopped} >= {session.id, near.id}

                decided = [one["ref"] for one in host.events("egress.intent") if one["tenant"] == "asks"]
                assert act_in_cell(host, "asks", f"{start}\nresult['status'] = await sent()") == {
                    "status": 200
                }
                sent = [one for one in host.events("egress.sent") if one["tenant"] == "asks"]
                until(lambda: len(ended_of(host, "asks")) == 2)
                ended = ended_of(host, "asks")
                assert [one["decided"] for one in sent] == [*decided, ""]
                assert [ended[one["ref"]]["status"] for one in sent] == [200, 200]
                assert sent[1]["path"] == "/chat/completions"
                assert sent[1]["reserved"] > 0

                more = f"{start}\nresult['said'] = [await sent(tokens=0) for _ in range(25)]"
                said = act_in_cell(host, "asks", more)["said"]
                assert said[-1] == "budget tenant.limits.tokens_per_day"
                assert 0 < said.count(200) < 25
                assert len(fresh.log) == 2 + said.count(200)
                until(lambda: len(ended_of(host, "asks")) == 2 + said.count(200))
                used = sum(one["charged"] for one in ended_of(host, "asks").values())
                assert 100 <= used < 300
            with pytest.raises(BridgeholdError):
                told_anew.ask(session)
            gone = act_in_cell(host, "asks", f"{start}\nresult['gone'] = await sent()")
            assert gone["gone"] in ("denied session", "budget tenant.limits.tokens_per_day")
            assert len(fresh.log) == 2 + said.count(200)
            assert not other.log
        finally:
            host.layout.config_file.write_text(before)
            host.client.request("reload", {})


def ended_of(host: Stage, tenant: str) -> dict[object, dict[str, Any]]:
    """What became of the tenant's requests, by the keeper's own events."""
    found = [one for one in host.events("egress.ended") if one["tenant"] == tenant]
    return {one["intent"]: one for one in found}


HELD = """
import asyncio
from bridgehold.errors import BridgeholdError
tenants = cell._parts.shared.tenants
tenants.demand("held")
cell._parts.store.begin("held")  # the sign that it has begun
while "code" not in result:
    try:
        tenants.demand("held")
    except BridgeholdError as error:
        if error.code == "suspended":
            result["code"] = error.code
    await asyncio.sleep(0.01)
"""


def test_a_service_has_cells_unless_it_is_told_and_a_private_host_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("BRIDGEHOLD__HOST__CELLS", raising=False)
    for said, has in (('cells = "auto"', True), ("cells = false", False)):
        with stage(KINDS_OF_HOSTS[0], host=said) as service, service.session(tenant="acme") as session:
            assert session.run("act", {"code": "result['x'] = 1"}) == {"x": 1}
            assert bool(service.events("cell.started")) is has

    async def private(layout: Layout) -> object:
        async with Host.open(layout) as host:
            return await host.run("python:execute", {"code": "1 + 1"})

    layout = make_home(os.getuid())
    try:
        layout.config_file.write_text('[host]\ncells = "auto"\n')
        assert asyncio.run(private(layout))
        assert not list(read_kind(layout.audit, "cell"))
        assert list(read_kind(layout.audit, "worker"))
    finally:
        shutil.rmtree(layout.config.parent, ignore_errors=True)


def test_a_suspension_that_no_file_can_say_holds_in_its_cell(host: Stage) -> None:
    host.client.request("tenant.create", {"name": "held", "limits": {}})
    file = host.layout.tenants / "held.toml"
    found: list[dict[str, Any]] = []

    def ask() -> None:
        with SyncClient.connect(host.layout.socket) as client:
            found.append(act_in_cell(host, "held", HELD, client))

    cell_of(host, "held")
    thread = threading.Thread(target=ask, daemon=True)
    kept = file.read_text()
    try:
        thread.start()
        until(lambda: list((host.layout.artifacts / "held").glob("*.part")))
        file.unlink()
        file.mkdir()  # nobody writes this, and nobody reads it
        with contextlib.suppress(BridgeholdError):
            host.client.request("tenant.suspend", {"name": "held"})
        thread.join(60)
        assert found == [{"code": "suspended"}]
    finally:
        file.rmdir()
        file.write_text(kept)
