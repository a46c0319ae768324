"""`bridgehold shim DIR --script-root …`: one command, no file written by hand, on a host that runs."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold.bridges.kit.provider import Provider
from bridgehold.config.sections import ProviderSection
from bridgehold.errors import ConfigError, UsageError
from bridgehold.faces.legacy import checks, trial
from bridgehold.faces.legacy import profile as texts
from bridgehold.faces.legacy.families import FAMILIES, served
from bridgehold.faces.legacy.workers import adapter_in, wires_in, workers_in
from bridgehold.policies.model import GIB, MIB
from hostile.served import running_provider
from hostile.stage import KINDS_OF_HOSTS, USER, Stage, make_home, stage
from legacy.conftest import SCRIPTS
from legacy.peer import Peer

NEEDY = "import sys\nimport no_such_package\nsys.stdin.buffer.read()\n"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running_provider() as ready:
        yield ready


@pytest.fixture(scope="module", params=KINDS_OF_HOSTS)
def running(provider: Provider, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A host that runs and has never heard of any script; `log` is a folder that its user may write in."""
    config = f'[providers.openai]\nbase_url = "{provider.base_url}"\nprivate = true\n'
    with stage(request.param, config=config, zygote="512MiB") as ready:
        ready.log = ready.layout.config.parent / "app"
        for root, name in (("python", "bridge.py"), ("lib", "beside.py")):
            (ready.log / root).mkdir(parents=True)
            (ready.log / root / name).write_text("")
        script = (
            (SCRIPTS / "chat_like.py").read_text().replace("import json\n", "import json\nimport beside\n", 1)
        )
        (ready.log / "python/bridge.py").write_text(script.replace('"ok"', "beside.STATUS"))
        (ready.log / "lib/beside.py").write_text('STATUS = "ok"\n')
        (ready.log / "rpc").mkdir()
        for name in ("grpc_server.py", "rpcwire.py"):
            shutil.copy(SCRIPTS / name, ready.log / "rpc" / name)
        for name in ("h2", "hpack", "hyperframe"):  # for the worker: what it is set up with has no packages
            found = importlib.util.find_spec(name)
            assert found is not None
            shutil.copytree(Path(str(found.origin)).parent, ready.log / "rpc" / name)
        if request.param == "user":
            subprocess.run(["chown", "-R", USER, str(ready.log)], check=True)
        yield ready


def shim(host: Stage, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "bridgehold", "shim", *arguments]
    if host.kind == "user":
        argv = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", *argv]
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent), "HOME": str(host.log)}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, cwd="/")


def as_user(host: Stage, argv: list[str]) -> list[str]:
    if host.kind != "user":
        return argv
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", *argv]


@pytest.mark.parametrize("start", ["fork", "cold"])
def test_one_command_sets_a_worker_up_on_a_host_that_runs(
    running: Stage, provider: Provider, tmp_path: Path, start: str
) -> None:
    folder = running.log / f"sandbox-{start}"
    roots = [f"--script-root={running.log / name}" for name in ("python", "lib")]
    arguments = (str(folder), *roots, "--provider=openai", "--workers=3", f"--start={start}")
    made = shim(running, *arguments)
    assert made.returncode == 0, made.stderr
    assert "told, and goes on" in made.stdout
    assert f"private_network: openai is at {provider.base_url.split('/')[2]}" in made.stdout
    named = lines_of(made.stdout, folder)
    assert named == {family.name for family in served(["stdio"])}

    before, environment = provider.requests_with_key(), {"PYTHONPATH": f"{running.log}/lib:/etc"}
    argv = as_user(running, [str(folder / "bin/python3"), str(running.log / "python/bridge.py")])
    peer = Peer(argv, tmp_path, tmp_path, environment)
    try:
        peer.handshake()
        answer = peer.ask(1, "chat", {"text": "hello", "api_key": provider.key})  # as any DSPex user sends it
        assert answer["result"]["status"] == 200, answer
        assert provider.requests_with_key() == before + 1
        peer.to.close()
        assert peer.end()[0] == 0
    finally:
        peer.kill()
    captured = [one for one in running.events("secret.") if one["action"] == "captured"]
    assert captured
    audit = b"".join(path.read_bytes() for path in running.layout.audit.rglob("*") if path.is_file())
    assert provider.key.encode() not in audit

    checked = shim(running, "check", str(folder), "--json")
    seen = {one["name"]: one for one in json.loads(checked.stdout)}
    assert checked.returncode == 0, checked.stdout
    assert {name: one["status"] for name, one in seen.items()} == {
        "interpreter": "PASS",
        "imports": "PASS",
        "handshake": "PASS",
        "keys": "CAUTION",
    }
    assert "bridgehold secrets set openai" in seen["keys"]["remedy"]
    again = shim(running, *arguments)
    assert again.returncode == 0, again.stderr
    assert made.stdout == again.stdout


def lines_of(printed: str, folder: Path) -> set[str]:
    """Names of the families whose line was printed."""
    lines = printed.splitlines()
    return {one.name for one in FAMILIES if f"# {one.name}" in lines and one.shown(folder) in lines}


def test_one_command_sets_a_grpc_worker_up_and_check_starts_it(running: Stage) -> None:
    start = "cold" if running.kind == "root" else "fork"
    folder = running.log / f"rpc-{start}"
    root = f"--script-root={running.log / 'rpc'}"
    made = shim(
        running, str(folder), root, "--tool=calc", "--workers=2", "--provider=openai", f"--start={start}"
    )
    assert made.returncode == 0, made.stderr
    assert lines_of(made.stdout, folder) == {family.name for family in served(["grpc"])}
    assert re.search(r"frames +up to 100 MiB each way", made.stdout), made.stdout
    assert re.search(r"its starter's tools +calc\n", made.stdout), made.stdout
    policy = (running.layout.policies / f"rpc-{start}.toml").read_text()
    for line in ('request = "100MiB"', "processes = 128", 'grace = "5s"', '[tools]\nallow = ["calc"]'):
        assert line in policy

    checked = shim(running, "check", str(folder), "--json")
    seen = {one["name"]: one for one in json.loads(checked.stdout)}
    assert checked.returncode == 0, checked.stdout
    passed = {name for name, one in seen.items() if one["status"] == "PASS"}
    assert passed == {"interpreter", "imports", "start", "calls", "callbacks", "end"}, checked.stdout
    assert {"InitializeSession", "Heartbeat", "Ping"} <= set(re.findall(r"\w+", seen["callbacks"]["detail"]))


def test_check_says_what_is_missing(running: Stage) -> None:
    folder, needy = running.log / "wanting", running.log / "needy"
    needy.mkdir(exist_ok=True)
    (needy / "worker.py").write_text(NEEDY)
    (needy / "grpc_server.py").write_text(NEEDY)
    made = shim(
        running, str(folder), f"--script-root={needy}", "--start=cold", "--provider=openai", "--workers=1"
    )
    assert made.returncode == 0, made.stderr

    def seen(*more: str) -> dict[str, Any]:
        checked = shim(running, "check", str(folder), "--json", *more)
        assert checked.returncode == 1, checked.stderr
        return {one["name"]: one for one in json.loads(checked.stdout)}

    found = seen(f"--script={needy / 'worker.py'}")
    assert (found["imports"]["status"], found["handshake"]["status"]) == ("FAIL", "FAIL")
    for name in ("imports", "handshake"):
        assert "no_such_package" in found[name]["detail"] + found[name]["remedy"]
    spoken = seen(f"--script={needy / 'grpc_server.py'}")
    for name in ("imports", "start"):
        assert "no_such_package" in spoken[name]["detail"] + spoken[name]["remedy"]
    assert "not below" in seen("--script=/etc/passwd")["script"]["detail"]
    assert shim(running, "check", str(running.log)).returncode == ConfigError.exit_status


def test_what_a_script_writes_or_imports_without_end_is_bounded() -> None:
    async def act() -> tuple[bytes, Any]:
        source = asyncio.StreamReader()
        for number in range(40):
            source.feed_data(b"%d" % (number % 10) * 65_536)
        source.feed_data(b"the last words")
        source.feed_eof()
        names = ", ".join(f"module_{number}" for number in range(9_000))
        return await checks.end_of(source), await trial._imports(Path(), Path("w.py"), f"import {names}", ())

    kept, imports = asyncio.run(act())
    assert kept.endswith(b"9the last words")
    assert len(kept) == 256 * 1024
    assert (imports.status, "too many" in imports.detail) == ("FAIL", True)


def test_nothing_that_somebody_wrote_is_replaced(tmp_path: Path) -> None:
    running = Stage(kind="self", layout=make_home(os.getuid()), client=None, supervisor=0)  # type: ignore[arg-type]  # no host is asked
    running.log = tmp_path
    (tmp_path / "python").mkdir()
    (tmp_path / "python/worker.py").write_text("")
    root = f"--script-root={tmp_path / 'python'}"
    policy = running.layout.policies / "by-hand.toml"
    policy.write_text('extends = "baseline"\n')
    refused = shim(running, str(running.log / "by-hand"), root)
    assert refused.returncode == UsageError.exit_status
    assert "was written by hand" in refused.stderr
    assert policy.read_text() == 'extends = "baseline"\n'
    assert not (running.layout.bridges / "by-hand").exists()
    for arguments, said in (
        ((str(running.log / "python"), root), "is no shim"),
        ((str(running.log / "x"), root, "--name=dspy"), "is shipped"),
        ((str(running.log / "x"), "--script-root=/etc"), "holds more than scripts"),
        ((str(running.log / "x"), root, "--workers=1000"), "don't fit"),
        ((str(running.log / "x"), root, "--provider=nobody"), "there is no provider"),
        ((str(running.log / "x"),), "--script-root"),
    ):
        refused = shim(running, *arguments)
        assert refused.returncode == UsageError.exit_status, arguments
        assert said in refused.stderr, arguments
        assert not (running.log / "x").exists()


def profile(**more: Any) -> texts.Profile:
    given = {
        "name": "app",
        "roots": ("/srv/app/python", '/srv/a "b"'),
        "requirements": "dspy\n",
        "modules": ("dspy",),
        "providers": (),
        "workers": 4,
        "memory_bytes": GIB,
        "start": "fork",
    }
    return texts.Profile(**(given | more))


SCRIPTS_LINE = 'scripts = ["/srv/app/python", "/srv/a \\"b\\""]'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"[bridges.app]\n{SCRIPTS_LINE}\n"),
        (
            "[host]\nmax_sessions = 5  # few\n",
            f"[host]\nmax_sessions = 5  # few\n\n[bridges.app]\n{SCRIPTS_LINE}\n",
        ),
        (f"[bridges.app]\n{SCRIPTS_LINE}\n", f"[bridges.app]\n{SCRIPTS_LINE}\n"),
        (
            '[bridges.app]  # ours\nscripts = "/old"\npool_size = 2\n',
            f"[bridges.app]  # ours\n{SCRIPTS_LINE}\npool_size = 2\n",
        ),
        ("[bridges.app]\npool_size = 2\n[host]\n", f"[bridges.app]\n{SCRIPTS_LINE}\npool_size = 2\n[host]\n"),
    ],
)
def test_the_configuration_gets_one_line_and_nothing_else_of_it_changes(before: str, after: str) -> None:
    assert texts.with_scripts(before, profile(), "config.toml") == after


@pytest.mark.parametrize(
    "before",
    [
        'bridges = { app = { scripts = "/old" } }\n',
        '[bridges.app]\nscripts = [\n  "/old",\n]\n',
        '[bridges]\napp.pool_size = 2\napp.scripts = "/old"\n',
    ],
)
def test_what_cant_be_changed_by_a_line_is_left_and_the_line_is_named(before: str) -> None:
    with pytest.raises(ConfigError) as caught:
        texts.with_scripts(before, profile(), "config.toml")
    assert SCRIPTS_LINE in caught.value.hint


def test_memory_is_what_so_many_workers_have_here() -> None:
    assert texts.memory_of(4, 100 * GIB) == GIB
    assert texts.memory_of(100, 22 * GIB) == 128 * MIB
    with pytest.raises(UsageError, match="1000 workers don't fit") as caught:
        texts.memory_of(1000, 22 * GIB)
    fitting = int(re.findall(r"At most (\d+)", caught.value.hint)[0])
    assert texts.memory_of(fitting, 22 * GIB) >= 128 * MIB


def test_what_is_warm_is_what_scripts_import_of_what_is_asked_for() -> None:
    sources = ["import dspy.teleprompt, os\n", "from sklearn import svm\nimport litellm\n", "no python ("]
    asked = ("dspy-ai>=3", "scikit-learn", "numpy")
    assert texts.used_modules(asked, sources) == ("dspy", "sklearn")
    assert texts.used_modules(asked, ["import os\n"], by_name=True) == ("dspy",)
    assert texts.used_modules(["numpy"], ["import os\n"], by_name=True) == ()


def test_a_provider_of_a_shape_of_its_own_is_granted_by_hand() -> None:
    section = ProviderSection(base_url="https://x.example/v1", shape="custom", auth="header:x-key")
    with pytest.raises(UsageError, match="a shape of its own"):
        texts.provider_of("x", section)


@pytest.mark.parametrize(("folder", "name"), [("/srv/My App.2", "my-app-2"), ("/srv/2024", "scripts")])
def test_a_folder_gives_its_name(folder: str, name: str) -> None:
    assert texts.name_for(Path(folder)) == name


def test_workers_are_found_by_what_they_read(tmp_path: Path) -> None:
    shutil.copytree(SCRIPTS, tmp_path / "deep/python")
    (tmp_path / "worker.py").write_text("import sys; sys.stdin.buffer")
    (tmp_path / "deep/python/grpc_server_threaded.py").write_text("")
    assert (wires_in(()), wires_in((str(tmp_path),))) == ((), ("grpc", "stdio"))
    assert adapter_in((str(tmp_path),)).startswith("snakepit_bridge.")
    (tmp_path / "snakebridge_adapter.py").write_text("")
    assert adapter_in((str(tmp_path),)) == "snakebridge_adapter.SnakeBridgeAdapter"
    found = [path.name for path in workers_in((str(tmp_path),))]
    assert found[0] == "worker.py"
    assert {"dspex_like.py", "grpc_server_threaded.py"} <= set(found)
    assert "pack_like.py" not in found
