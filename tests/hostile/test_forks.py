"""The fork start through a whole host: parked sandboxes, ends of zygotes, what tenants share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bridgehold.config.load import load_config
from bridgehold.errors import BridgeholdError
from bridgehold.keeper.admin import SecretAdmin
from bridgehold.sandbox.doctor import Context
from bridgehold.supervisor.checks import cold_starts_probe
from hostile.stage import Stage, stage, zygote_process
from waiting import until

KINDS = ["root", "user"] if os.getuid() == 0 else ["self"]
POOL = """
[bridges.hostile1]
pool_size = 2
checkout_timeout_s = 5
[bridges.python]
prestart = ["local"]
[principals.tester]
uids = [{uid}]
tenants = ["*"]
operator = true
"""


@pytest.fixture(scope="module", params=KINDS)
def forks(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Its first bridge has a pool."""
    with stage(request.param, "fork", POOL.format(uid=os.getuid())) as ready:
        yield ready


def parked(stage: Stage) -> list[dict[str, object]]:
    """Workers that were attested for a session that nobody has opened."""
    opened = {event["session"] for event in stage.events("session.opened")}
    gone = {event["worker"] for event in stage.events("worker.exited")}
    return [
        event
        for event in stage.events("worker.attested")
        if event["session"] not in opened and event["worker"] not in gone
    ]


def wait_for_parked(stage: Stage, count: int) -> list[dict[str, object]]:
    return (
        until(lambda: found if len(found := parked(stage)) == count else None, seen=lambda: parked(stage))
        or []
    )


def test_a_zygote_is_warm_with_the_host_where_that_is_asked_for(forks: Stage) -> None:
    def listed() -> list[dict[str, object]]:
        return [one for one in forks.client.request("zygotes")["zygotes"] if one["bridge"] == "python"]

    found = until(lambda: [one for one in listed() if one["state"] == "warm"], seen=listed)
    assert [(one["tenant"], one["sessions"]) for one in found] == [("local", 0)]
    with forks.session("python") as session:
        session.run("common:ping")
        assert [(one["name"], one["forks"]) for one in listed()] == [(found[0]["name"], 1)]


def test_parked_sandboxes_are_used_once_and_replaced(forks: Stage) -> None:
    assert forks.plain == "hostile1"
    with forks.session() as session:
        assert session.run("act", {"code": "result['x'] = 1"}) == {"x": 1}
    ready = {str(event["session"]) for event in wait_for_parked(forks, 2)}
    taken = []
    for _ in range(3):
        with forks.session() as session:
            assert session.run("act", {"code": "result['seen'] = 'left' in dir()\nleft = 1"}) == {
                "seen": False
            }
        taken.append(str(forks.events("session.opened")[-1]["session"]))
        wait_for_parked(forks, 2)
    assert ready <= set(taken)  # what stood ready was used, each for one session
    assert len(set(taken)) == 3
    assert forks.events("start.fell_back") == []


def test_a_changed_policy_drains_what_was_parked(forks: Stage) -> None:
    with forks.session() as session:
        session.run("common:ping")
    before = {event["worker"] for event in wait_for_parked(forks, 2)}
    policy = forks.layout.policies / f"{forks.plain}.toml"
    policy.write_text(policy.read_text().replace('command = "60s"', 'command = "59s"'))
    until(lambda: not before & {event["worker"] for event in parked(forks)})
    assert not before & {event["worker"] for event in parked(forks)}
    policy.write_text(policy.read_text().replace('command = "59s"', 'command = "60s"'))


def test_a_changed_secret_drains_what_was_parked_for_its_tenant_and_others_are_parked(forks: Stage) -> None:
    admin = SecretAdmin.for_layout(forks.layout, load_config(forks.layout.config_file))
    with forks.session() as session:
        session.run("common:ping")
    time.sleep(4.5)  # it has been looked at since, and the versions are known
    first = {event["worker"] for event in wait_for_parked(forks, 2)}
    for tenant, drained in (("other", False), ("local", True)):
        admin.set(tenant, "openai", b"not-a-key-" + b"x" * 30)
        set_at = time.monotonic()
        until(
            lambda: time.monotonic() > set_at + 5 or not first & {event["worker"] for event in parked(forks)}  # noqa: B023
        )
        assert bool(first & {event["worker"] for event in parked(forks)}) is not drained
    assert not first & {event["worker"] for event in wait_for_parked(forks, 2)}


def test_a_zygote_that_dies_takes_its_sessions_and_no_other_tenants(forks: Stage) -> None:  # ABUSE 41
    bridge = forks.bridge()
    with forks.session(bridge, tenant="acme") as one, forks.session(bridge, tenant="other") as two:
        one.run("common:ping")
        two.run("common:ping")
        zygote = next(
            event
            for event in forks.events("zygote.started")
            if event["bridge"] == bridge and event["tenant"] == "acme"
        )
        os.kill(zygote_process(str(zygote["zygote"])), signal.SIGKILL)

        def ended() -> str:
            try:
                one.run("common:ping")
            except BridgeholdError as error:  # of the command in flight, or of the session that is over
                return f"{error.code}: {error.message}"
            return ""

        said = until(ended)
        assert said.startswith(("zygote: ", f"session_ended: session {one.id} has ended: zygote: ")), said
        assert two.run("act", {"code": "result['alive'] = 1"}) == {"alive": 1}
    ended = [event for event in forks.events("zygote.ended") if event["zygote"] == zygote["zygote"]]
    assert len(ended) == 1
    with forks.session(bridge, tenant="acme") as again:  # cold, or from a new one: either way it works
        assert again.run("act", {"code": "result['alive'] = 2"}) == {"alive": 2}


def launcher_of(stage: Stage) -> int:
    """Its pid, below the supervisor."""
    waiting = [stage.supervisor]
    while waiting:
        pid = waiting.pop()
        if "bridgehold.sandbox.launcher.main" in Path(f"/proc/{pid}/cmdline").read_text():
            return pid
        waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    raise AssertionError("no launcher below the supervisor")


def zygote_of(stage: Stage, bridge: str) -> str:
    return next(str(e["zygote"]) for e in reversed(stage.events("zygote.started")) if e["bridge"] == bridge)


def test_an_open_that_meets_a_zygote_which_is_gone_starts_all_the_same(forks: Stage) -> None:  # ABUSE 50
    """It asks for a fork while the launcher sleeps; when that wakes up, the zygote is dead."""
    assert forks.plain  # the first one has a pool
    bridge = forks.bridge()
    with forks.session(bridge) as session:
        session.run("common:ping")
    launcher = launcher_of(forks)
    with ThreadPoolExecutor(1) as pool:
        os.kill(launcher, signal.SIGSTOP)
        try:
            opening = pool.submit(forks.act_in, bridge, "result['x'] = 1")
            time.sleep(0.3)  # the request lies before the launcher
            os.kill(zygote_process(zygote_of(forks, bridge)), signal.SIGKILL)
        finally:
            os.kill(launcher, signal.SIGCONT)
        assert opening.result(30) == {"x": 1}
    fell = forks.events("start.fell_back")[-1]
    assert (fell["bridge"], fell["reason"]) == (bridge, "the zygote has ended")


def test_a_shortage_of_the_machine_is_waited_out_and_ends_nothing(forks: Stage) -> None:  # ABUSE 50
    """The launcher has no descriptor left for half a second, in which sessions are opened."""
    assert forks.plain  # the first one has a pool
    bridge = forks.bridge()
    launcher = launcher_of(forks)
    with forks.session(bridge) as living, ThreadPoolExecutor(2) as pool:
        living.run("common:ping")
        ended = forks.events("zygote.ended")
        hard = limit_files(launcher, "1:")
        try:
            opening = [pool.submit(forks.act_in, bridge, f"result['x'] = {n}") for n in range(2)]
            time.sleep(0.5)
            assert not any(one.done() for one in opening)
        finally:
            limit_files(launcher, f"{hard}:")
        assert [one.result(30) for one in opening] == [{"x": 0}, {"x": 1}]
        assert living.run("act", {"code": "result['alive'] = 1"}) == {"alive": 1}
        assert forks.events("zygote.ended") == ended


@pytest.mark.parametrize(("start", "code", "tries"), [("fork", "crash", 1), ("cold", "shortage", 7)])
def test_a_guest_that_says_what_bubblewrap_says_gains_some_starts_of_its_own(
    forks: Stage, start: str, code: str, tries: int
) -> None:
    """A filter that can't be loaded is told by bubblewrap alone, in the log, before the guest is there."""
    assert forks.plain
    said = "bwrap: prctl(PR_SET_SECCOMP): Unknown error 524"
    bridge = forks.bridge(f"import os; os.write(2, b{said!r} + b'\\n'); os._exit(1)")
    policy = forks.layout.policies / f"{bridge}.toml"
    policy.write_text(policy.read_text().replace('start = "fork"', f'start = "{start}"'))
    before = len(forks.events("worker.exited"))

    def ends() -> list[dict[str, object]]:
        """Of those that never came as far as a proof; other bridges' sandboxes end meanwhile, too."""
        proved = {event["worker"] for event in forks.events("worker.attested")}
        ended = forks.events("worker.exited")[before:]
        return [one for one in ended if one["session"] and one["worker"] not in proved]

    with pytest.raises(BridgeholdError) as caught, forks.session(bridge):
        pass
    assert caught.value.code == code
    until(lambda: len(ends()) >= tries)
    assert [event["cause"] for event in ends()] == ["exited"] * tries  # the audit has the kernel's word


def limit_files(pid: int, limits: str) -> int:
    """Another limit of open files for `pid`, as its own user may set it; what the hard one is."""
    facts = Path(f"/proc/{pid}").stat()
    who = ["setpriv", f"--reuid={facts.st_uid}", f"--regid={facts.st_gid}", "--clear-groups"]
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    hard = int(next(line for line in lines if "open files" in line).split()[4])
    command = ["prlimit", f"--pid={pid}", f"--nofile={limits}"]
    subprocess.run(command if os.getuid() else [*who, *command], check=True)
    return hard


def test_tenants_never_share_a_zygote(forks: Stage) -> None:
    bridge = forks.bridge()
    for tenant in ("acme", "other"):
        with forks.session(bridge, tenant=tenant) as session:
            session.run("common:ping")
    started = [event for event in forks.events("zygote.started") if event["bridge"] == bridge]
    assert {event["tenant"] for event in started} == {"acme", "other"}
    assert len({event["zygote"] for event in started}) == 2


def test_what_a_zygote_can_not_load_starts_cold_with_a_word(forks: Stage) -> None:
    manifest = """
name = "{name}"
version = "1.0.0"
summary = "Asks for a module that is not there"
entry = "hostile:Hostile"
[preload]
modules = ["no_such_framework"]
[operations.act]
summary = "Run code"
effect = "run"
[operations.act.arguments]
required = ["code"]
[operations.act.arguments.properties]
code = {{ type = "string" }}
[operations.report]
summary = "What the import left in result"
effect = "read"
"""
    bridge = forks.bridge(manifest=manifest)
    with pytest.raises(BridgeholdError, match="no_such_framework"), forks.session(bridge):
        pass
    fell = [event for event in forks.events("start.fell_back") if event["bridge"] == bridge]
    assert len(fell) == 1
    assert "no_such_framework" in str(fell[0]["reason"])
    row = cold_starts_probe(forks.layout).run(Context())
    assert row.status == "CAUTION"
    assert bridge in row.detail
    assert "no_such_framework" in row.detail


def test_a_bridge_that_is_deployed_anew_ends_no_session_and_the_next_has_it(forks: Stage) -> None:
    """What a sandbox shows is replaced by its owner: sessions and zygote stand, and a new zygote begins."""
    pool = forks.plain
    for bridge in (forks.bridge(), pool):
        folder = forks.layout.bridges / bridge
        report = {"code": "result['x'] = int(open('/bridge/release').read())"}
        (folder / "release").write_text("1")
        with forks.session(bridge) as first:
            held = [event["zygote"] for event in forks.events("zygote.started") if event["bridge"] == bridge]
            new = shutil.copytree(folder, folder.with_name(f".{bridge}"))
            (new / "release").write_text("2")
            folder.rename(folder.with_name(f".{bridge}.old"))
            new.rename(folder)
            with forks.session(bridge) as second, forks.session(bridge) as third:
                for session, release in ((first, 1), (second, 2), (third, 2)):
                    assert session.run("act", report) == {"x": release}
            ended = {event["zygote"] for event in forks.events("zygote.ended")}
            assert held[-1] not in ended
            listed = {one["name"]: one for one in forks.client.request("zygotes")["zygotes"]}
            assert f"{folder} was replaced" in listed[held[-1]]["reason"]
            assert first.run("act", report) == {"x": 1}
        until(
            lambda last=held[-1]: last in {event["zygote"] for event in forks.events("zygote.ended")}
        )  # it leaves with its last session
        last = next(one for one in forks.events("zygote.ended") if one["zygote"] == held[-1])
        assert "was replaced" in str(last["reason"])
        started = [event for event in forks.events("zygote.started") if event["bridge"] == bridge]
        assert len(started) == len(held) + 1
        assert not [event for event in forks.events("start.fell_back") if event["bridge"] == bridge]
