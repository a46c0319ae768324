"""Where code runs, and how much of its policy a session asks for, through a whole host."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold import BridgeholdError, Client, SyncClient
from bridgehold.client.sync import SyncSession
from bridgehold.client.tools import Tool
from bridgehold.errors import BusyError, DeniedError, SessionEndedError, UsageError
from bridgehold.protocol.values import QUEUE_BOUND
from hostile.stage import Stage, stage
from waiting import until

KINDS = (
    [("root", "cold", ""), ("user", "fork", ""), ("root", "fork", "cells = true")]
    if os.getuid() == 0
    else [("self", "fork", ""), ("self", "cold", "")]
)
PATIENCE = 60
OWN = """
extends = "python"
[limits]
memory = "256MiB"
cpu = 1.5
session = "1h"
idle = "10m"
[sandbox]
start = "{start}"
"""
NARROW = """
extends = "baseline"
[operations]
allow = ["python:execute"]
"""
FILL = "kept = bytearray(150 << 20)"


@pytest.fixture(
    scope="module",
    params=KINDS,
    ids=["-".join((kind, start, *cells.split()[:1])) for kind, start, cells in KINDS],
)
def host(request: pytest.FixtureRequest) -> Iterator[Stage]:
    kind, start, cells = request.param
    with stage(kind, start, host=cells) as ready:
        ready.layout.policies.joinpath("python.toml").write_text(OWN.format(start=start))
        yield ready
        assert ready.events("start.fell_back") == []


@pytest.fixture
def session(host: Stage) -> Iterator[SyncSession]:
    with host.client.session("python") as session:
        yield session


def value(session: SyncSession, code: str, **more: Any) -> Any:
    return session.execute(code, **more)["value"]


def typed(host: Stage, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bridgehold", *arguments],
        env={**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent), **more},
        capture_output=True,
        check=False,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        cwd="/",
        text=True,
    )


def quota(pid: int) -> float:
    """Cores that the kernel gives the cgroup of `pid`."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            most, period = Path(f"/sys/fs/cgroup{path}/cpu.max").read_text().split()
            return int(most) / int(period)
        if "cpu" in controllers.split(","):
            folder = next(
                one
                for one in (Path(f"/sys/fs/cgroup/{controllers}{path}"), Path(f"/sys/fs/cgroup/cpu{path}"))
                if one.is_dir()
            )
            return int((folder / "cpu.cfs_quota_us").read_text()) / int(
                (folder / "cpu.cfs_period_us").read_text()
            )
    raise AssertionError("no cgroup of processors")


def test_a_session_has_the_memory_and_processor_that_it_asked_for(host: Stage) -> None:
    with host.client.session("python") as large:
        assert value(large, f"{FILL}; len(kept)") == 150 << 20
        with host.client.session("python", limits={"memory": "96MiB", "cpu": 0.5}) as small:
            pids = {one.id: one.pid for one in host.client.sessions()}
            assert (quota(pids[large.id]), quota(pids[small.id])) == (1.5, 0.5)
            with pytest.raises(BridgeholdError) as ended:
                small.execute(FILL)
            assert (ended.value.code, "96 MiB" in ended.value.message) == ("memory", True)
        assert value(large, "len(kept)") == 150 << 20
        (opened,) = [one for one in host.events("session.opened") if one["session"] == small.id]
        assert opened["asked"] == {"memory_bytes": 96 << 20, "cpu_millis": 500}
        grants = {
            one["grant"] for one in host.events("session.opened") if one["session"] in (small.id, large.id)
        }
        assert len(grants) == 1


@pytest.mark.parametrize(
    ("key", "asked"),
    [("memory", "257MiB"), ("cpu", 1.6), ("session", "61m"), ("idle", "11m"), ("memory", "64TiB")],
)
def test_more_than_the_policy_gives_is_refused_with_the_key(host: Stage, key: str, asked: Any) -> None:
    with pytest.raises(DeniedError) as refused, host.client.session("python", limits={key: asked}):
        pass
    assert f"limits.{key}" in refused.value.message
    assert "python.toml" in refused.value.where
    assert "the policy gives at most" in refused.value.message


@pytest.mark.parametrize(
    "limits",
    [
        {"processes": 3},
        {"memory": "lots"},
        {"memory": 5},
        {"cpu": "nan"},
        {"cpu": 0},
        {"cpu": -1},
        {"idle": "1ms"},
        {"memory": "1B"},
        {"x" * 30 + str(n): 1 for n in range(9)},
        {"memory": "9" * 100},
    ],
)
def test_what_is_no_limit_is_refused(host: Stage, limits: dict[str, Any]) -> None:
    before = len(host.client.sessions())
    with pytest.raises(UsageError) as refused:
        host.client.request("session.open", {"bridge": "python", "limits": limits})
    assert "limits" in f"{refused.value.where} {refused.value.message}"
    assert len(host.client.sessions()) == before


def test_a_name_keeps_the_limits_that_it_began_with(host: Stage) -> None:
    asked = {"bridge": "python", "name": "kept", "limits": {"memory": "128MiB"}}
    first = host.client.request("session.open", asked)
    assert host.client.request("session.open", asked)["id"] == first["id"]
    assert host.client.request("session.open", {"bridge": "python", "name": "kept"})["id"] == first["id"]
    with pytest.raises(UsageError, match="other limits"):
        host.client.request("session.open", {**asked, "limits": {"memory": "129MiB"}})
    host.client.request("session.close", {"session": first["id"]})


def test_a_session_ends_at_its_own_time_and_one_that_is_extended_lives(host: Stage) -> None:
    with (
        host.client.session("python", limits={"session": "4s", "idle": "3s"}) as short,
        host.client.session("python", limits={"session": "4s", "idle": "3s"}) as long,
    ):
        said = long.extend(session="30m", idle="5m")
        assert (said["idle_ms"], 1_700_000 < said["left_ms"] <= 1_800_000) == (300_000, True)
        assert long.extend(session="1m", idle="1m")["left_ms"] > 1_700_000  # what it has, it keeps
        for key, asked in (("session", "1h"), ("idle", "11m")):  # from its beginning on that is more
            with pytest.raises(DeniedError, match=f"limits.{key}"):
                long.extend(**{key: asked})
        with pytest.raises(UsageError):
            host.client.request("session.extend", {"session": long.id, "limits": {"memory": "1MiB"}})
        until(lambda: short.id not in {one.id for one in host.client.sessions()}, PATIENCE)
        ended = [one["reason"] for one in host.events("session.closed") if one["session"] == short.id]
        assert ended in (["idle time"], ["session time"])
        assert value(long, "6 * 7") == 42
    extended = [one for one in host.events("session.extended") if one["session"] == long.id]
    assert [one["idle_ms"] for one in extended] == [300_000, 300_000]
    assert all(one["session_ms"] <= 3_600_000 and one["principal"] for one in extended)


def test_a_session_that_is_ending_is_extended_no_more_and_the_audit_says_so(host: Stage) -> None:
    """Its guest's `close()` takes all of the grace: until then it is there, and over."""
    with host.client.session("python") as session:
        session.execute(
            "import gc, time, bridgehold_sdk\n"
            "for one in gc.get_objects():\n"
            "    if isinstance(one, bridgehold_sdk.Bridge): type(one).close = lambda self: time.sleep(600)"
        )

        def close() -> None:
            with SyncClient.connect(host.layout.socket) as other:
                other.request("session.close", {"session": session.id})

        closing = threading.Thread(target=close)
        closing.start()
        until(lambda: any(one.id == session.id and one.state == "ending" for one in host.client.sessions()))
        with pytest.raises(SessionEndedError):
            session.extend(session="30m", idle="5m")
        closing.join(PATIENCE)
    assert [one for one in host.events("session.extended") if one["session"] == session.id] == []


def test_nobody_extends_anothers_session(host: Stage, session: SyncSession) -> None:
    with (
        SyncClient.connect(host.layout.socket, tenant="other") as other,
        pytest.raises(BridgeholdError) as refused,
    ):
        other.request("session.extend", {"session": session.id, "limits": {"idle": "1m"}})
    assert refused.value.code == "not_found"


def test_variables_arguments_and_folder_of_a_session_and_of_a_command(host: Stage) -> None:
    files = {"work/here.txt": "1"}
    with host.client.session(
        "python", files=files, env={"MODE": "test"}, args=["-v", "x"], cwd="work"
    ) as session:
        seen = "import os, sys\nos.environ['MODE'], sys.argv[1:], os.path.exists('here.txt')"
        assert value(session, seen) == ["test", ["-v", "x"], True]
        one = "import os, sys, subprocess\nsubprocess.run(['sh', '-c', 'echo $MODE $MORE'], capture_output=True, text=True).stdout, sys.argv[1:], os.getcwd()"
        assert value(session, one, env={"MODE": "once", "MORE": "m"}, args=["a"], cwd="/tmp") == [
            "once m\n",
            ["a"],
            "/tmp",
        ]
        assert value(session, "os.environ['MODE'], 'MORE' in os.environ, sys.argv[1:], os.getcwd()") == [
            *("test", False, ["-v", "x"], "/scratch/work")
        ]
        with pytest.raises(BridgeholdError):
            session.execute("1 / 0", env={"MORE": "m"}, cwd="/tmp")
        assert value(session, "'MORE' in os.environ, os.getcwd()") == [False, "/scratch/work"]
        assert session.command(["sh", "-c", "echo $MODE; pwd"])["stdout"] == "test\n/scratch/work\n"
        assert session.place(env={"MODE": "two"}, cwd="/tmp") == {
            "env": ["MODE"],
            "args": ["-v", "x"],
            "cwd": "/tmp",
        }
        assert value(session, "os.environ['MODE'], os.getcwd()") == ["two", "/tmp"]


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "github_token", "DB_PASSWORD", "aws_secret_access_key"])
def test_a_variable_with_a_keys_name_is_refused_with_it(host: Stage, session: SyncSession, name: str) -> None:
    given = {name: "not-worth-anything"}
    for act in (
        lambda: session.place(env=given),
        lambda: session.execute("1", env=given),
        lambda: session.command(["true"], env=given),
    ):
        with pytest.raises(BridgeholdError) as refused:
            act()
        assert name in f"{refused.value.message} {refused.value.where}"
    assert value(session, f"import os\n{name!r} in os.environ") is False
    assert "not-worth-anything" not in json.dumps(host.events(), default=str)
    for wrong in ({"A=B": "1"}, {"": "1"}, {"A": "x\0y"}, {f"V{n}": "" for n in range(257)}):
        with pytest.raises(BridgeholdError):
            session.place(env=wrong)
    with pytest.raises(BridgeholdError, match="there is no folder"):
        session.execute("1", cwd="/nowhere")
    assert value(session, "1") == 1


def test_several_namespaces_over_the_files_of_one_session(session: SyncSession) -> None:
    value(session, "x = 1; open('shared', 'w').write('s')\n_kept = 5\n10")
    session.create_context("two", cwd="/tmp")
    session.execute("x = 2\n20", context="two")
    assert value(session, "x, _, len(In)") == [1, 10, 3]
    assert value(session, "x, _, len(In), Out", context="two")[:3] == [2, 20, 3]
    assert value(session, "import os\nos.getcwd(), open('/scratch/shared').read()", context="two") == [
        "/tmp",
        "s",
    ]
    assert value(session, "import os\nos.getcwd()") == "/scratch"
    code = "import asyncio\nloop = asyncio.get_running_loop()\nawait asyncio.sleep(0)\nid(loop)"
    assert value(session, code) != value(session, code, context="two")
    code = "import pickle\nclass Own: pass\npickle.loads(pickle.dumps(Own())).__class__ is Own"
    assert value(session, code, context="two") is True
    with pytest.raises(BridgeholdError) as failed:
        session.execute("1 / 0", context="two")
    assert 'File "<execute two ' in failed.value.traceback
    assert session.complete("xy", context="two")["matches"] == []
    assert session.inspect("x", context="two")["repr"] == "2"
    assert {one["context"]: one["count"] for one in session.contexts()} == {"main": 4, "two": 6}
    assert session.run("reset", {"context": "two"})["names"] > 0
    assert value(session, "x") == 1
    with pytest.raises(BridgeholdError, match="NameError"):
        session.execute("x", context="two")
    session.drop_context("two")
    for refused in (
        lambda: session.execute("1", context="two"),
        lambda: session.drop_context("main"),
        lambda: session.drop_context("two"),
        lambda: session.create_context("main"),
        lambda: session.create_context("../x"),
        lambda: session.create_context("y", cwd="/nowhere"),
    ):
        with pytest.raises(BridgeholdError) as error:
            refused()
        assert error.value.code in ("invalid_input", "usage"), error.value
    for number in range(15):
        session.create_context(f"c{number}")
    with pytest.raises(BridgeholdError, match="at most 16"):
        session.create_context("more")


def test_an_interrupt_ends_what_runs_in_one_namespace_alone(host: Stage, session: SyncSession) -> None:
    session.create_context("two")
    session.execute("n = 7", context="two")
    session.execute("m = 8")
    with pytest.raises(BridgeholdError) as late:
        session.execute("n = 9\nwhile True: pass", context="two", deadline_ms=300)
    assert late.value.code == "timeout"
    assert (value(session, "m"), value(session, "n", context="two")) == (8, 9)


def test_commands_wait_in_the_order_in_which_they_came_and_no_more_than_a_bound(host: Stage) -> None:
    async def act() -> None:
        asked, go = asyncio.Event(), asyncio.Event()

        async def stdin(prompt: str = "") -> dict[str, Any]:
            asked.set()
            await go.wait()
            return {"text": "on\n"}

        async with Client.connect(host.layout.socket) as client, client.session("python") as session:
            await session.execute("seen = []")
            first = asyncio.ensure_future(
                session.call("execute", {"code": "input()"}, tools=(Tool.of(stdin),))
            )
            await asked.wait()
            params = {"operation": "python:execute", "session": session.id}
            waiting = [
                asyncio.ensure_future(
                    client.request("run", {**params, "arguments": {"code": f"seen.append({number})"}})
                )
                for number in range(QUEUE_BOUND)
            ]
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert done == {waiting[-1]}
            with pytest.raises(BusyError, match=str(QUEUE_BOUND)):
                await waiting[-1]
            go.set()
            await asyncio.gather(first, *waiting[:-1])
            assert (await session.execute("seen"))["value"] == list(range(QUEUE_BOUND - 1))

    asyncio.run(act())


def test_place_by_the_command_line(host: Stage) -> None:
    code = "import os, sys; print(os.environ.get('MODE'), os.environ.get('FROM_HERE'), os.getcwd())"
    said = typed(
        host,
        "python",
        "--env",
        "MODE=x",
        "--env",
        "FROM_HERE",
        "--cwd",
        "/tmp",
        "--limit",
        "memory=96MiB",
        "-c",
        code,
        FROM_HERE="outside",
    )
    assert (said.stdout, said.returncode) == ("x outside /tmp\n", 0), said.stderr
    filled = typed(host, "python", "--limit", "memory=96MiB", "-c", FILL)
    assert (filled.returncode, "96 MiB" in filled.stderr) == (31, True), filled
    over = typed(host, "python", "--limit", "memory=1GiB", "-c", "pass")
    assert (over.returncode, "limits.memory" in over.stderr) == (13, True)
    key = typed(host, "python", "--env", "MY_API_KEY=x", "-c", "pass")
    assert (key.returncode != 0, "MY_API_KEY" in key.stderr) == (True, True)
    run = (
        "run",
        "python:execute",
        "--args",
        json.dumps({"code": code + "\nx = 5"}),
        "--session",
        "placed",
        "--json",
    )
    said = typed(
        host, *run, "--env", "MODE=y", "--cwd", "/tmp", "--limit", "memory=96MiB", "--limit", "time=30s"
    )
    assert json.loads(said.stdout)["value"]["stdout"] == "y None /tmp\n", said.stderr
    made = typed(host, "run", "python:context_create", "--args", '{"context": "two"}', "--session", "placed")
    assert made.returncode == 0, made.stderr
    said = typed(
        host, "run", "python:execute", "--args", '{"code": "x"}', "--session", "placed", "--context", "two"
    )
    assert "NameError" in said.stderr
    more = typed(host, "sessions", "--extend", "placed", "--limit", "session=30m", "--json")
    assert more.returncode == 0, more.stderr
    (named,) = [one for one in json.loads(more.stdout) if one["name"] == "placed"]
    assert [one["idle_ms"] for one in host.events("session.extended") if one["session"] == named["id"]] == [
        600_000
    ]
    once = typed(
        host, "run", "python:execute", "--args", json.dumps({"code": FILL}), "--limit", "memory=96MiB"
    )
    assert (once.returncode != 0, "96 MiB" in once.stderr) == (True, True), once.stderr
    wrong = typed(host, "sessions", "--extend", "placed")
    assert wrong.returncode == 2
    typed(host, "sessions", "--end", "placed")


def test_what_a_policy_does_not_grant_is_refused(host: Stage) -> None:
    (host.layout.policies / "python@narrow.toml").write_text(NARROW)
    with host.client.session("python", tenant="narrow", limits={"memory": "128MiB"}) as session:
        assert value(session, "1") == 1
        for act in (session.contexts, lambda: session.create_context("x"), lambda: session.place(cwd="/tmp")):
            with pytest.raises(BridgeholdError) as refused:
                act()
            assert (refused.value.code, "default-deny" in refused.value.message) == ("denied", True)
    with (
        pytest.raises(BridgeholdError) as refused,
        host.client.session("python", tenant="narrow", limits={"memory": "513MiB"}),
    ):
        pass
    assert refused.value.code == "denied"


def test_hostile_code_leaves_another_namespace_usable(session: SyncSession) -> None:
    session.create_context("two")
    session.execute(
        "import builtins, sys, os\nbuiltins.In = builtins.Out = None\ndel builtins.In\n"
        "sys.modules.pop('__main__')\nos.makedirs('/tmp/gone'); os.chdir('/tmp/gone'); os.rmdir('/tmp/gone')\nsys.argv = []"
    )
    assert value(session, "y = 3\ny + len(In)", context="two") == 5
    assert value(session, "1 + 1") == 2
    assert value(session, "y", context="two") == 3


def test_two_sizes_beside_each_other_start_from_one_zygote(host: Stage) -> None:
    """Many at once, of several sizes: each has its own limit."""
    found: dict[str, float] = {}

    def act(size: int) -> None:
        with (
            SyncClient.connect(host.layout.socket) as client,
            client.session("python", limits={"cpu": size / 10}) as session,
        ):
            session.execute("1")
            found[str(size)] = next(quota(one.pid) for one in client.sessions() if one.id == session.id)

    threads = [threading.Thread(target=act, args=(size,)) for size in range(1, 7)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert found == {str(size): size / 10 for size in range(1, 7)}
