"""What an operator does to the audit of a host that runs: its key changes without a restart, for root and a user."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold.audit import anchors
from bridgehold.audit.rotations import load
from bridgehold.audit.verify import verify_audit
from hostile.conftest import KINDS
from hostile.stage import USER, Stage, stage
from waiting import until


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with stage(request.param, host="anchor_every_s = 1\n") as ready:
        yield ready


def bridgehold(of: Stage, *arguments: str, status: int = 0) -> Any:
    """The command line of the host's own user; its JSON."""
    argv = [sys.executable, "-P", "-m", "bridgehold", *arguments, "--json"]
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(of.layout.config.parent)}
    if of.kind == "user":
        argv = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", *argv]
        environment |= {"HOME": pwd.getpwnam(USER).pw_dir, "USER": USER}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout) if done.stdout else None


def signed_by(folder: Path) -> set[str]:
    return {one.anchor.key for _, one in anchors.load_folder(folder) if one is not None}


def test_the_key_changes_under_a_running_host(served: Stage) -> None:
    layout = served.layout
    first = anchors.read_key(layout.anchors / anchors.PUBLIC_KEY)
    until(lambda: bool(signed_by(layout.anchors)), 60)
    said = bridgehold(served, "audit", "rotate-key")
    assert (said["old"], said["lost"]) == (next(iter(first)), False)
    until(lambda: any(event["new"] == said["new"] for event in served.events("anchor.key_rotated")), 60)
    assert served.act("result['still'] = 1") == {"still": 1}
    until(lambda: said["new"] in signed_by(layout.anchors), 60)
    assert set(anchors.read_key(layout.anchors / anchors.PUBLIC_KEY)) == {said["new"]}
    assert [one.ids for _, one in load(layout.anchors) if one is not None] == [(said["old"], said["new"])]
    kept = anchors.load_folder(layout.anchors)
    report = verify_audit(layout.audit, outside=kept, beside=layout.anchors, keys=first)
    assert report.ok, report.first_bad
    assert report.anchoring.signature == "verified"
    by = pwd.getpwnam(USER).pw_uid if served.kind == "user" else os.getuid()
    assert report.anchoring.rotations[0].by == f"uid {by}"
    assert bridgehold(served, "audit", "verify")["ok"]


def test_a_key_that_went_is_said_by_the_host_itself(served: Stage) -> None:
    """Somebody removes it: the host goes on with another, and says that the old one is lost."""
    layout = served.layout
    (published,) = anchors.read_key(layout.anchors / anchors.PUBLIC_KEY)
    (layout.secrets / "anchor.key").unlink()
    until(lambda: any(event["lost"] for event in served.events("anchor.key_rotated")), 60)
    (event,) = [one for one in served.events("anchor.key_rotated") if one["lost"]]
    assert (event["old"], event["by"]) == (published, "host")
    until(lambda: event["new"] in signed_by(layout.anchors), 60)
    report = verify_audit(
        layout.audit, beside=layout.anchors, keys=anchors.read_key(layout.anchors / anchors.PUBLIC_KEY)
    )
    assert report.ok, report.first_bad
