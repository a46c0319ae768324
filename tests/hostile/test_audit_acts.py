"""What an operator does to the audit of a host that runs: its key changes and its segments are sealed
without a restart, for root and a user.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bridgehold import SyncClient
from bridgehold.audit import anchors
from bridgehold.audit.read import read_all
from bridgehold.audit.rotations import load
from bridgehold.audit.verify import verify_audit
from bridgehold.config.load import load_config
from bridgehold.supervisor import plans
from hostile.conftest import KINDS
from hostile.stage import USER, Stage, stage, start_host, stop_host
from waiting import until


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory() as away:
        Path(away).chmod(0o777)
        config = f'[push.copy]\nkind = "folder"\nto = "{away}/copy"\n'
        with stage(request.param, host="anchor_every_s = 1\n", config=config) as ready:
            yield ready


def test_events_and_anchors_leave_by_themselves_and_the_copy_verifies(served: Stage) -> None:
    """By a process with a uid of its own as root's, which writes nothing of the host's."""
    layout = served.layout
    served.act("result['x'] = 1")
    copy = Path(re.findall(r'to = "(.*)"', layout.config_file.read_text())[0])
    ends = {str(event["ref"]) for event in served.events("command.outcome")}
    gone = copy / "audit"  # made by what sends it, which begins beside the host
    until(lambda: gone.is_dir() and ends <= {entry.ref for entry in read_all(gone)}, 60)
    until(lambda: bool(signed_by(copy / "anchors")), 60)
    report = verify_audit(copy / "audit", outside=anchors.load_folder(copy / "anchors"))
    assert report.integrity.ok, report.first_bad
    assert report.anchoring.status == "anchored"
    found = bridgehold(served, "audit", "sinks")
    assert [(one["name"], one["fault"]) for one in found] == [("copy", "")]
    pusher = next(
        one
        for one in psutil.Process(served.supervisor).children(recursive=True)
        if "bridgehold.supervisor.pushing" in one.cmdline()
    )
    if served.kind == "root":
        roles = plans.roles(load_config(layout.config_file))
        assert set(pusher.uids()) == {roles.push}
        assert set(pusher.gids()) == {roles.host}
        assert Path(f"/proc/{pusher.pid}/status").read_text().count("CapEff:\t0000000000000000") == 1
    pusher.kill()  # it is begun anew, and goes on where it stood
    served.act("result['x'] = 2")
    ends = {str(event["ref"]) for event in served.events("command.outcome")}
    until(lambda: ends <= {entry.ref for entry in read_all(copy / "audit")}, 60)
    for file in (copy / "audit").glob("0*/*.jsonl"):
        assert (layout.audit / file.relative_to(copy / "audit")).read_bytes().startswith(file.read_bytes())


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
    assert report.anchoring.rotations[0].by == by(served)
    assert bridgehold(served, "audit", "verify")["ok"]


def test_a_key_that_went_is_said_by_the_host_itself(served: Stage) -> None:
    """Somebody removes it: the host goes on with another, and says that the old one is lost."""
    layout = served.layout
    (published,) = anchors.read_key(layout.anchors / anchors.PUBLIC_KEY)
    (layout.secrets / "anchor.key").unlink()
    until(lambda: any(event["old_lost"] for event in served.events("anchor.key_rotated")), 60)
    (event,) = [one for one in served.events("anchor.key_rotated") if one["old_lost"]]
    assert (event["old"], event["by"]) == (published, "host")
    until(lambda: event["new"] in signed_by(layout.anchors), 60)
    report = verify_audit(
        layout.audit, beside=layout.anchors, keys=anchors.read_key(layout.anchors / anchors.PUBLIC_KEY)
    )
    assert report.ok, report.first_bad


def test_old_segments_are_sealed_without_their_bodies_under_a_running_host(served: Stage) -> None:
    """A segment of an instance before is needed, so the host starts once more, on the same home."""
    layout = served.layout
    code = "result['said'] = 'what nobody may keep for ever'"
    served.act(code)
    shown = [
        event for event in served.events("command.intent") if "for ever" in str(event["arguments_preview"])
    ]
    assert shown
    os.kill(served.supervisor, signal.SIGTERM)
    psutil.Process(served.supervisor).wait(60)
    assert bridgehold(served, "audit", "rotate-key")["lost"] is False  # while no host runs
    assert bridgehold(served, "audit", "verify")["ok"]
    with again(served):
        with SyncClient.connect(layout.socket) as client:
            assert client.request("audit.query", {"question": '"for ever"'})["events"]
            told = {"code": "result['said'] = 'what goes by itself'"}
            assert client.run(f"{served.plain}:act", told) == {"said": "what goes by itself"}
        assert any(b"for ever" in path.read_bytes() for path in layout.audit_index.iterdir())
        said = bridgehold(served, "audit", "seal", "--keep", "1", "--drop")
        assert not any(b"for ever" in path.read_bytes() for path in layout.audit_index.iterdir())
        assert said["sealed"][0]["seal"]["dropped"] > 0
        until(lambda: bool(served.events("segment.sealed")), 60)
        assert not any("for ever" in str(event) for event in served.events("command"))
        seals = served.events("segment.sealed")
        assert (seals[0]["bodies"], seals[0]["by"]) == (said["sealed"][0]["seal"]["dropped"], by(served))
        found = bridgehold(served, "audit", "verify")
        assert (found["ok"], found["sealing"]["signature"]) == (True, "verified")
        assert bridgehold(served, "audit", "seal", "--keep", "1", "--drop") == {"sealed": []}
        # who owns the machine and not the key changes one line: it is found
        (path,) = [layout.audit / said["sealed"][0]["place"]]
        path.chmod(0o600)
        sound = path.read_bytes()
        path.write_bytes(sound.replace(b'"code":""', b'"code":"x"', 1))
        assert bridgehold(served, "audit", "verify", status=50)["ok"] is False
        path.write_bytes(sound)
        path.chmod(0o440)


def test_what_is_too_much_loses_its_bodies_by_itself_and_what_is_not_whole_keeps_them(served: Stage) -> None:
    """The host before this one said so; beyond a tiny size it is dropped, unless somebody tampered with the audit."""
    layout = served.layout
    kept = {path: path.read_bytes() for path in sorted(layout.audit.glob("0*/*.jsonl"))}
    (path,) = [one for one, data in kept.items() if b"what goes by itself" in data]
    first = next(iter(kept))
    first.write_bytes(kept[first].replace(b'"code":""', b'"code":"x"', 1))
    text = layout.config_file.read_text()
    layout.config_file.write_text(f'{text}[retention]\nsize = "1KiB"\nleast_days = 0\nevery_s = 1\n')
    log = layout.config.parent / "host.log"
    with again(served):
        until(lambda: "this audit is not whole: nothing of it is sealed" in log.read_text(), 60)
        assert b"what goes by itself" in path.read_bytes()
        first.write_bytes(kept[first])
        until(lambda: b"what goes by itself" not in path.read_bytes(), 60)
        until(lambda: len(served.events("segment.sealed")) == 2, 60)
        last = served.events("segment.sealed")[-1]
        assert (last["by"], int(str(last["bodies"])) > 0) == (f"retention of {by(served)}", True)
        found = bridgehold(served, "audit", "verify")
        assert (found["ok"], found["sealing"]["signature"]) == (True, "verified")
        assert found["sealing"]["seals"][-1]["by"] == f"retention of {by(served)}"


@contextlib.contextmanager
def again(of: Stage) -> Iterator[None]:
    """Another host on the same home."""
    process = start_host(of.layout, user=USER if of.kind == "user" else "")
    try:
        yield
    finally:
        stop_host(process)


def by(of: Stage) -> str:
    return f"uid {pwd.getpwnam(USER).pw_uid if of.kind == 'user' else os.getuid()}"
