"""Bridges of several Pythons beside each other: each environment names its own, whole and alone inside."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold import BridgeholdError
from bridgehold.config.layout import Layout
from bridgehold.config.load import parse_config
from bridgehold.sandbox.doctor import Context
from bridgehold.sandbox.envs.compile import CompileExit, CompileOrder, Talk
from bridgehold.sandbox.envs.interpreter import minor_fitting, seen_inside
from bridgehold.sandbox.spec import python_inside
from bridgehold.supervisor.checks import pythons_probe
from bridges.conftest import interpreters
from envs.envs_kit import make_index, make_wheel, sha256
from hostile.stage import POLICY, stage

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"
BRIDGE = """
import ctypes, importlib.util, lzma, sqlite3, ssl, subprocess, sys
import demo_pkg
from bridgehold_sdk import Bridge, operation


class Which(Bridge):
    @operation(effect="read")
    def who(self):
        argv = [sys.executable, "-I", "-c", "import ssl, sys; print(sys.version.split()[0])"]
        maps = {line.split()[-1] for line in open("/proc/self/maps") if "libpython" in line}
        return {
            "version": sys.version.split()[0],
            "libraries": sorted(maps),
            "bytecode": open(demo_pkg.__cached__, "rb").read(4) == importlib.util.MAGIC_NUMBER,
            "child": subprocess.run(argv, env={}, capture_output=True, text=True, check=True).stdout.strip(),
        }
"""
MANIFEST = """
name = "{name}"
version = "1.0.0"
summary = "Says which Python it has"
entry = "which:Which"
python = "{python}"
requirements = "requirements.in"
lock = "requirements.lock"
[operations.who]
summary = "Which Python this is"
effect = "read"
"""


def lay(layout: Layout, wheel: Path, python: str, start: str) -> str:
    """A bridge that asks for `python`, and a package; its name."""
    name = f"{start}{''.join(filter(str.isdigit, python))}"
    folder = layout.bridges / name
    folder.mkdir(parents=True)
    (folder / "which.py").write_text(BRIDGE)
    (folder / "requirements.in").write_text("demo_pkg\n")
    (folder / "requirements.lock").write_text(f"demo_pkg==1.0 --hash=sha256:{sha256(wheel)}\n")
    (folder / "bridge.toml").write_text(MANIFEST.format(name=name, python=python))
    (layout.policies / f"{name}.toml").write_text(POLICY + f'[sandbox]\nstart = "{start}"\n')
    return name


@pytest.fixture
def dist() -> Iterator[Path]:
    """Open to all: whoever builds has another uid, and pytest's own folders are closed."""
    made = Path(tempfile.mkdtemp(prefix="bh-dist-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_each_bridge_has_the_python_that_it_asks_for(dist: Path) -> None:
    """Of this machine: those of pyenv have a libpython of their own, which no other of the machine's replaces."""
    wheel = make_wheel(dist)
    index = make_index(dist, [wheel])
    others = {minor: path for minor, path in interpreters().items() if minor != OWN}
    named = [*map(str, others.values()), "/nowhere/bin/python3.12"]
    told = f"index = {json.dumps(index)}\npythons = {json.dumps(named)}"
    with stage("root" if os.getuid() == 0 else "self", host=told) as ready:
        for (minor, path), start in zip(sorted(others.items()), itertools.cycle(("cold", "fork"))):
            assert minor_fitting(f"=={minor}.*", named, where="bridge.toml") == minor
            found = ready.client.run(f"{lay(ready.layout, wheel, f'=={minor}.*', start)}:who")
            assert found["version"].startswith(f"{minor}.")
            assert found["child"] == found["version"]
            assert found["bytecode"] is True
            assert all(one.startswith((str(path.parent.parent), "/usr/")) for one in found["libraries"])
        own = ready.client.run(f"{lay(ready.layout, wheel, '>=3.10', 'fork')}:who")
        assert own["version"].startswith(OWN)
        with pytest.raises(BridgeholdError) as refused:
            ready.client.run(f"{lay(ready.layout, wheel, '==3.9.*', 'cold')}:who")
    assert refused.value.message.startswith(f"Python ==3.9.* is needed; this host has {OWN}.")
    assert ", and can't use /nowhere/bin/python3.12 (" in refused.value.message
    assert "[host] pythons" in refused.value.hint


def test_doctor_names_a_python_that_no_bridge_can_have() -> None:
    config = parse_config('[host]\npythons = ["/nowhere/bin/python3.12"]\n', "config.toml")
    row = pythons_probe(config).run(Context())
    assert (row.status, row.name) == ("FAIL", "pythons")
    assert row.detail.startswith("can't be had by a bridge: /nowhere/bin/python3.12 (")
    assert OWN not in row.detail


@pytest.mark.parametrize("said", ["3.13.0\n\x1b[31m", "", "three", "3.9.1", "3.13.0+local"])
def test_a_python_that_calls_itself_something_else_is_named_and_stops_nothing(said: str) -> None:
    class Runner:
        async def run(self, order: CompileOrder, talk: Talk, _log: object) -> CompileExit:
            prefix = python_inside(order.interpreter_prefix)
            facts = {"version": said, "implementation": "cpython", "prefix": prefix, "gil": True}
            answer = json.dumps({**facts, "platform": "linux-x86_64", "magic": "AAAA"}).encode()
            await asyncio.to_thread(talk, io.BytesIO(), io.BytesIO(answer))
            return CompileExit(cause="exited", status=0)

    runner: Any = Runner()
    found = asyncio.run(seen_inside(["/opt/odd/bin/python3.13"], runner))
    assert [one.version for one in found.known] == (["3.13.0+local"] if said.startswith("3.13.0+") else [])
    assert len(found.known) + len(found.lost) == 1
    assert not any("\x1b" in one for one in found.lost)
