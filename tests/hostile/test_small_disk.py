"""A whole host of an ordinary user's on a disk that is full, and on one that can't be written any more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.hostile
SCRIPT = """
import contextlib, itertools, json, os, subprocess, sys, tempfile
from pathlib import Path
from bridgehold import BridgeholdError
from bridgehold.audit.verify import verify_audit
from hostile.stage import stage
from waiting import until

disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "none", disk], check=True)
os.environ["TMPDIR"] = tempfile.tempdir = str(disk)
names = (f"n{number}" for number in itertools.count())

def code(act):
    try:
        act()
    except BridgeholdError as error:
        return error.code
    return ""

with stage("user") as host:
    client, plain = host.client, host.plain
    run = lambda: client.run(f"{plain}:report")
    asks = {
        "run": run,
        "put": lambda: client.put(os.urandom(100_000), name="x"),
        "tenant": lambda: client.request("tenant.create", {"name": next(names)}),
        "token": lambda: client.request("token.create", {"name": next(names), "tenants": ["local"]}),
        "ping": lambda: client.request("ping"),
    }
    codes = lambda: {name: code(act) for name, act in asks.items()}
    out = {"sound": codes()}
    ballast, size = disk / "ballast", 1 << 20
    with ballast.open("wb", buffering=0) as file:
        while size:
            try:
                size = size if file.write(b"x" * size) else 0
            except OSError:
                size //= 2
    until(lambda: code(run) == "audit")
    out["full"] = codes()
    ballast.unlink()
    until(lambda: code(run) == "")
    out["room"] = codes()
    folders = (host.layout.tenants, host.layout.tokens, host.layout.artifacts)
    for folder in folders:
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
    out["readonly"] = codes()
    for folder in folders:
        subprocess.run(["umount", "--lazy", folder], check=True)
    out["again"] = codes()
    out["verified"] = verify_audit(host.layout.audit).ok
print(json.dumps(out))
"""
SOUND = dict.fromkeys(("run", "put", "tenant", "token", "ping"), "")


@pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user's disk is mounted by root")
def test_a_disk_that_is_full_or_read_only_is_said_and_a_host_goes_on_by_itself_afterwards() -> None:
    """In a mount namespace of its own: of what this machine has mounted nothing changes."""
    disk = Path(tempfile.mkdtemp(prefix="bh-disk-"))
    disk.chmod(0o755)
    argv = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", SCRIPT, str(disk)]
    path = os.pathsep.join((str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")))
    try:
        done = subprocess.run(
            argv, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False, timeout=150
        )  # fmt: skip
    finally:
        shutil.rmtree(disk)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    refused = {"run": "audit", "tenant": "audit", "token": "audit", "ping": ""}
    assert found.pop("full") in ({**refused, "put": "shortage"}, {**refused, "put": "audit"})
    assert found == {
        "sound": SOUND,
        "room": SOUND,
        "readonly": {**SOUND, "put": "config", "tenant": "config", "token": "config"},
        "again": SOUND,
        "verified": True,
    }
