"""ABUSE 63: a built environment that changed on disk is not started, cold or forked; audit and operator see it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bridgehold import BridgeholdError
from bridgehold.audit.read import read_all
from bridgehold.sandbox.doctor import Context
from bridgehold.supervisor.checks import environments_probe
from hostile.stage import PAIRED, Stage, make_home, start_host, stop_host
from waiting import until

pytestmark = pytest.mark.hostile
WAYS = PAIRED


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
        said = bridgehold(host, "bridge", "verify", "--json")
        (found,) = json.loads(said.stdout)
        assert (said.returncode, found["ok"], found["where"]) == (18, False, str(tree / "pyvenv.cfg"))
        assert host.plain in found["bridges"]
        shown = bridgehold(host, "bridge", "verify", host.plain)
        assert (shown.returncode, "CHANGED" in shown.stdout) == (18, True)
        inside = session.run("act", {"code": "result = 2"})
        assert inside == 2  # it was started as sealed
    assert bridgehold(host, "bridge", "build", host.plain, "--anew").returncode == 0
    with host.session() as session:
        seen = session.run("act", {"code": "result = open('/env/pyvenv.cfg').read()"})
        assert "false" in str(seen)  # and no zygote of the changed tree had a part in it
        assert host.client.request("bridge.gc") == {"removed": [], "stuck": []}  # the host uses it
    (found,) = host.client.request("bridge.verify", {"bridge": host.plain})
    assert found["ok"], found


def deep(folder: Path, depth: int) -> None:
    """Folders in folders, more than are removed."""
    folder.mkdir()
    place = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("x", dir_fd=place)
        place, above = os.open("x", os.O_RDONLY, dir_fd=place), place
        os.close(above)
    os.close(place)


def test_what_a_crash_left_is_gone_after_the_next_start() -> None:
    layout = make_home(os.getuid())
    build, nameless = f".build-{'a' * 64}-{'b' * 16}", "c" * 64
    for name in (build, nameless):
        (layout.environments / name / "lib").mkdir(parents=True)
        (layout.environments / name / "lib" / "x.py").write_text("")
    stays = layout.environments / f".build-{'d' * 64}-{'e' * 16}"
    deep(stays, 510)
    try:
        process = start_host(layout)
        try:
            until(lambda: not any((layout.environments / n).exists() for n in (build, nameless)))
            environment = {**os.environ, "BRIDGEHOLD_HOME": str(layout.config.parent)}
            argv = [sys.executable, "-m", "bridgehold", "bridge", "gc"]
            said = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
            assert (said.returncode, stays.name in said.stderr, "500 deep" in said.stderr) == (
                15,
                True,
                True,
            ), said
        finally:
            assert stop_host(process) == 0
        assert not any((layout.environments / name).exists() for name in (build, nameless))
        told, again = (
            entry.fields for entry in read_all(layout.audit) if entry.kind == "environment.removed"
        )
        assert set(told["names"]) == {build, nameless}
        assert told["stuck"] == again["stuck"] == [stays.name]
    finally:
        shutil.rmtree(layout.config.parent)
