"""Bridges of several Pythons beside each other: each environment names its own, whole and alone inside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bridgehold.config.layout import Layout
from bridgehold.sandbox.envs.interpreter import minor_fitting
from bridges.conftest import interpreters
from hostile.stage import POLICY, make_home

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"
BRIDGE = """
import ctypes, lzma, sqlite3, ssl, subprocess, sys
from bridgehold_sdk import Bridge, operation


class Which(Bridge):
    @operation(effect="read")
    def who(self):
        argv = [sys.executable, "-I", "-c", "import ssl, sys; print(sys.version.split()[0])"]
        maps = {line.split()[-1] for line in open("/proc/self/maps") if "libpython" in line}
        return {
            "version": sys.version.split()[0],
            "libraries": sorted(maps),
            "child": subprocess.run(argv, env={}, capture_output=True, text=True, check=True).stdout.strip(),
        }
"""
MANIFEST = """
name = "{name}"
version = "1.0.0"
summary = "Says which Python it has"
entry = "which:Which"
python = "{python}"
[operations.who]
summary = "Which Python this is"
effect = "read"
"""


@pytest.fixture
def home() -> Iterator[Layout]:
    layout = make_home(os.getuid())
    yield layout
    shutil.rmtree(layout.config.parent, ignore_errors=True)


def run(layout: Layout, bridge: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bridgehold", "run", f"{bridge}:who"],
        env={**os.environ, "BRIDGEHOLD_HOME": str(layout.config.parent)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def lay(layout: Layout, name: str, python: str, start: str) -> None:
    folder = layout.bridges / name
    folder.mkdir(parents=True)
    (folder / "which.py").write_text(BRIDGE)
    (folder / "bridge.toml").write_text(MANIFEST.format(name=name, python=python))
    policy = layout.policies / f"{name}.toml"
    policy.write_text(POLICY + f'[sandbox]\nstart = "{start}"\n')


def test_each_bridge_has_the_python_that_it_asks_for(home: Layout) -> None:
    """Of this machine: those of pyenv have a libpython of their own, which no other of the machine's replaces."""
    others = {minor: path for minor, path in interpreters().items() if minor != OWN}
    config = home.config / "config.toml"
    named = [*map(str, others.values()), "/nowhere/bin/python3.12"]
    config.write_text(f"[host]\npythons = {json.dumps(named)}\n")
    lay(home, "old", "==3.9.*", "cold")
    lay(home, "own", ">=3.10", "fork")
    assert json.loads(run(home, "own").stdout)["version"].startswith(OWN)
    for minor, path in others.items():
        assert minor_fitting(f"=={minor}.*", named, where="bridge.toml") == minor
        for start in ("cold", "fork"):
            name = f"{start}{minor.replace('.', '')}"
            lay(home, name, f"=={minor}.*", start)
            done = run(home, name)
            assert done.returncode == 0, done.stderr
            found = json.loads(done.stdout)
            assert found["version"].startswith(f"{minor}.")
            assert found["child"] == found["version"]
            prefix = str(path.parent.parent)
            assert all(library.startswith((prefix, "/usr/")) for library in found["libraries"])
    refused = run(home, "old")
    assert refused.returncode != 0
    assert "Python ==3.9.* is needed; this host has " + OWN in refused.stderr
    assert "can't use /nowhere/bin/python3.12 (" in refused.stderr
    assert "[host] pythons" in refused.stderr
