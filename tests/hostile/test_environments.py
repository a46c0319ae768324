"""ABUSE 63: a built environment that changed on disk is not started, cold or forked; audit and operator see it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bridgehold import BridgeholdError
from bridgehold.host.checks import environments_probe
from bridgehold.sandbox.doctor import Context
from hostile.stage import Stage

pytestmark = pytest.mark.hostile


def spoil(tree: Path) -> None:
    """In place, with the old times and modes: as somebody with the tree's owner's rights would."""
    config = tree / "pyvenv.cfg"
    facts = config.stat()
    config.chmod(0o644)
    config.write_bytes(config.read_bytes().replace(b"false", b"true "))
    config.chmod(facts.st_mode & 0o777)
    os.utime(config, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def refusals(host: Stage) -> list[dict[str, object]]:
    return [one for one in host.events("environment.refused") if one["code"] == "environment_changed"]


def bridgehold(host: Stage, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bridgehold", *arguments]
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_63_a_changed_environment_is_not_started(host: Stage) -> None:
    with host.session() as session:
        assert session.run("act", {"code": "result = 1"}) == 1
        (tree,) = (path for path in host.layout.environments.iterdir() if len(path.name) == 64)
        spoil(tree)
        before = len(refusals(host))
        for _ in range(2):
            with pytest.raises(BridgeholdError) as caught, host.session():
                pass
            assert caught.value.code == "environment_changed"
            assert "pyvenv.cfg" in caught.value.message
            assert "--anew" in caught.value.hint
        assert [one["ref"] for one in refusals(host)][before + 1] == caught.value.event
        row = environments_probe(host.layout).run(Context())
        assert (row.status, "pyvenv.cfg" in row.detail) == ("FAIL", True)
        inside = session.run("act", {"code": "result = 2"})
        assert inside == 2  # it was started as sealed
    (found,) = host.client.request("bridge.verify", {"bridge": host.plain})
    assert (found["ok"], found["where"]) == (False, str(tree / "pyvenv.cfg"))
    host.client.request("bridge.build", {"bridge": host.plain, "anew": True})
    (found,) = host.client.request("bridge.verify", {"bridge": host.plain})
    assert found["ok"], found
    with host.session() as session:
        seen = session.run("act", {"code": "result = open('/env/pyvenv.cfg').read()"})
    assert "false" in str(seen)  # and no zygote of the changed tree had a part in it


def test_63_verify_and_gc_from_the_command_line(host: Stage) -> None:
    with host.session():
        said = bridgehold(host, "bridge", "verify")
        assert said.returncode == 0, said.stderr
        (tree,) = (path for path in host.layout.environments.iterdir() if len(path.name) == 64)
        spoil(tree)
        said = bridgehold(host, "bridge", "verify", "--json")
        assert said.returncode == 18
        assert [(one["ok"], host.plain in one["bridges"]) for one in json.loads(said.stdout)] == [
            (False, True)
        ]
        shown = bridgehold(host, "bridge", "verify")
        assert "CHANGED" in shown.stdout
        assert "pyvenv.cfg" in shown.stdout.replace("\n", "")
        assert bridgehold(host, "bridge", "build", host.plain, "--anew").returncode == 0
        assert json.loads(bridgehold(host, "bridge", "gc", "--json").stdout) == []  # the host uses it
