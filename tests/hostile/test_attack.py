"""`bridgehold attack`: every barrier holds in real sessions, and each act says so where its barrier isn't there."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bridgehold.audit import anchors, vouched
from bridgehold.errors import AuditError, BridgeholdError
from bridgehold.faces.attack import report as reports
from bridgehold.faces.attack.acts import ACTS, ALL, BY_NAME, DOMAIN, Act, program
from bridgehold.faces.attack.judging import Ended, Seen, judge, judge_check
from bridgehold.faces.attack.outside import CANARY_VARIABLE, Outside
from bridgehold.faces.attack.running import Looks, facts_for
from bridgehold.faces.attack.ways import tables_of
from bridgehold.host.front.boots import new_placeholder
from bridgehold.ids import digest_bytes
from bridgehold.policies.model import MIB, Grant
from bridgehold.sandbox.doctor.model import Check
from hostile.stage import KINDS_OF_HOSTS, POLICY, USER, Stage, stage

pytestmark = pytest.mark.hostile
PYTHON = POLICY.replace('allow = ["*"]', 'allow = ["python:*"]')
TOO_BUSY = {"processors"}
"""What a busy machine can't tell."""


def command(host: Stage, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, the JSON that was printed, standard error; as the host's own user."""
    become, home = [], ""
    if host.kind == "user":
        become = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups"]
        home = pwd.getpwnam(USER).pw_dir
    done = subprocess.run(
        [*become, sys.executable, "-P", "-m", "bridgehold", "attack", *arguments, "--json"],
        env={**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent), **({"HOME": home} if home else {})},
        capture_output=True, text=True, timeout=500, check=False, cwd="/",
    )  # fmt: skip
    try:
        return done.returncode, json.loads(done.stdout), done.stderr
    except ValueError:
        pytest.fail(done.stdout[-1000:] + done.stderr[-3000:])


@pytest.fixture(
    scope="module", params=list(zip(KINDS_OF_HOSTS, ("fork", "cold"), strict=False)), ids="-".join
)
def host(request: pytest.FixtureRequest) -> Iterator[Stage]:
    kind, start = request.param
    cells = str(kind != "root").lower()  # each tenant has one of its own at the ordinary user's host
    with stage(kind, start, host=f"cells = {cells}\n") as ready:
        (ready.layout.policies / "python.toml").write_text(f'{PYTHON}[sandbox]\nstart = "{start}"\n')
        yield ready


@pytest.mark.timeout(600)
def test_every_barrier_holds_and_the_report_is_signed(host: Stage) -> None:
    out = host.layout.state / "attack" if host.kind == "user" else host.layout.config.parent / "attack"
    status, report, said = command(host, "python", "--out", str(out))
    came = {one["name"]: (one["came"], one["inside"], one["outside"]) for one in report["acts"]}
    assert list(came) == [act.name for act in ALL]
    assert {name for name, (what, *_) in came.items() if what != "held"} <= TOO_BUSY, came
    assert status == 0, said
    starts = {one["start"] for one in host.events("session.opened")}
    assert starts <= ({"fork", "parked"} if host.start == "fork" else {"cold", "parked"})
    assert report["machine"]["cgroups"] in ("v1", "v2")
    assert report["grant"].startswith("sha256:")
    assert "python:execute" in report["way"]
    text = out.with_suffix(".md").read_text()
    assert "NOT HELD" not in text
    assert all(name.replace("-", r"\-") in text or name in text for name in came)
    begins, ends = [one for one in host.events("admin.intent") if str(one["action"]).startswith("attack.")]
    assert (begins["action"], ends["action"]) == ("attack.begins", "attack.ends")
    counts: Any = ends["details"]
    assert int(counts["held"]) == report["counts"]["held"]
    # the signature: sound, and of these bytes alone
    public = str(host.layout.anchors / "anchor.pub")
    for suffix in (".md", ".json", ".sig"):
        status, made, said = command(host, "--verify", str(out.with_suffix(suffix)), "--key", public)
        assert (status, made["key"][:2]) == (0, "k-"), said
    changed = out.with_suffix(".json")
    changed.write_text(changed.read_text().replace('"held"', '"HELD"', 1))
    status, made, _ = command(host, "--verify", str(changed), "--key", public)
    assert status == 50, made


def test_a_signature_beside_other_files_vouches_for_none_of_them(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    named = {"a.md": b"held", "a.json": b"{}"}
    made = vouched.Vouched(
        files=tuple((name, digest_bytes(data)) for name, data in named.items()),
        time="2026-11-20T09:30:00.000Z", by="uid 0", key=anchors.key_id(public),
    )  # fmt: skip
    signature, keys = vouched.render(vouched.sign(made, key.sign)), {anchors.key_id(public): public}
    for name in ("a.sig", "b.sig"):
        (tmp_path / name).write_text(signature)
    for name, data in named.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name.replace("a.", "b.")).write_bytes(b"forged")
    for name in ("a", "a.md", "a.json", "a.sig"):
        assert reports.verify(tmp_path / name, keys).key == made.key
    (tmp_path / "a").write_bytes(b"forged")
    for name in ("b", "b.md", "b.json", "b.sig", "a"):
        with pytest.raises(AuditError, match="of other files"):
            reports.verify(tmp_path / name, keys)
    for name in named:
        (tmp_path / name).unlink()
    with pytest.raises(AuditError, match="no report"):
        reports.verify(tmp_path / "a.sig", keys)


@pytest.mark.timeout(300)
def test_a_bridge_that_runs_no_code_is_attacked_by_a_probe_under_its_policy(host: Stage) -> None:
    names = ("new-namespaces", "descriptors", "way-round", "write-system")
    only = [word for name in names for word in ("--only", name)]
    status, report, said = command(host, host.plain, *only)
    assert status == 0, (report, said)
    assert {one["came"] for one in report["acts"]} == {"held"}
    assert f"a probe under {host.plain}, with what {host.plain} needs" in report["way"]
    # and another policy than its own, before it is in force
    (host.layout.policies / "narrow.toml").write_text(PYTHON.replace("open_files = 512", "open_files = 128"))
    status, report, said = command(host, "python", "--policy", "narrow", "--only", "descriptors")
    assert (status, report["policy"]) == (0, "narrow"), (report, said)
    assert "of 128" in report["acts"][0]["inside"]


@pytest.mark.timeout(300)
@pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user's host without cgroups refuses more")
def test_a_weakened_grant_is_told_as_not_held() -> None:
    with stage("root", "cold", cgroups="none") as weak:
        policy = PYTHON.replace("cpu = 1.0", "cpu = 0.05").replace(
            'extends = "baseline"', 'extends = "baseline"\nweakenings = ["no_cgroup"]'
        )
        text = policy + '[sandbox]\nenforcement = "weakened"\n'
        (weak.layout.policies / "python.toml").write_text(text)
        status, report, said = command(weak, "--only", "processors", "--only", "descriptors")
        came = {one["name"]: one["came"] for one in report["acts"]}
        assert came == {"processors": "NOT HELD", "descriptors": "held"}, (report, said)
        assert report["weakenings"] == ["no_cgroup"]
        assert status == 1


def test_who_is_no_operator_and_what_is_no_act_are_refused(host: Stage) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bridgehold", "attack", "--only", "fork-bom"],
        env={**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent)},
        capture_output=True, text=True, timeout=60, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode not in (0, 1)
    assert "fork-bomb" in done.stderr
    if host.kind == "root":
        nobody = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-P", "-m", "bridgehold",
             "attack", "--only", "descriptors"],
            env={"PATH": os.environ["PATH"], "BRIDGEHOLD_HOME": str(host.layout.config.parent)},
            capture_output=True, text=True, timeout=60, check=False, cwd="/",
        )  # fmt: skip
        told = "denied: local user 65534 is nobody here"
        assert (nobody.returncode, nobody.stderr.splitlines()[0]) == (13, told), nobody.stderr


# --- without its barrier, each act says so: in a sandbox that lacks it, and is one all the same

SMALL = {
    "memory_bytes": 16 * MIB,
    "cpu_millis": 10,
    "processes": 8,
    "open_files": 32,
    "file_size_bytes": MIB,
    "scratch_bytes": MIB,
    "shm_bytes": MIB,
    "deadline_s": 0.2,
}


@pytest.fixture(scope="module")
def grant(host: Stage) -> Grant:
    found = host.client.request("grant", {"bridge": "python", "tenant": "local"})
    made = msgspec.convert(found, type=Grant)
    limits = msgspec.structs.replace(
        made.limits, **{key: value for key, value in SMALL.items() if key != "deadline_s"}
    )
    return msgspec.structs.replace(made, limits=limits)


def drain(read: int) -> None:
    with open(read, "rb") as pipe:
        while pipe.read1(65536):
            pass


def unguarded(act: Act, grant: Grant, outside: Outside, host: Stage) -> tuple[Ended, int]:
    """The act in a sandbox of bubblewrap's alone: what is written goes to tmpfs; nothing else is kept from it."""
    facts = facts_for(act, grant, outside, host.layout) | {
        "deadline_s": SMALL["deadline_s"],
        "gateway": outside.tcp.getsockname()[1],
        "audit": str(outside.marker.parent),
    }
    source, _, last = program(act, msgspec.json.encode(facts)).rpartition("\n")
    folder = str(outside.folder)
    argv = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    argv += ["--tmpfs", "/opt", "--tmpfs", "/dev/shm", "--bind", folder, folder, "--cap-add", "ALL"]
    argv += ["--setenv", CANARY_VARIABLE, outside.canary, "--chdir", "/tmp", "--"]
    read, write = os.pipe()
    threading.Thread(target=drain, args=(read,), daemon=True).start()  # it ends with the last of the act's
    try:
        with tempfile.TemporaryFile() as said:  # no pipe: what lives on holds its end open
            subprocess.run(
                [*argv, os.path.realpath(sys.executable), "-P", "-"],  # its environment may lie below /tmp
                input=f"{source}\nprint('\\nANSWER', json.dumps({last}))".encode(),  # argv is looked at, too
                pass_fds=(write,), stdout=said, timeout=90, check=False,
            )  # fmt: skip
            said.seek(0)
            output = said.read()
    finally:
        os.close(write)
    answer = output.decode("utf-8", "replace").rpartition("\nANSWER ")[2]
    return Ended(value=json.loads(answer)), len(output)


@pytest.mark.skipif(os.getuid() != 0, reason="as above")
def test_a_key_in_the_environment_is_found_and_a_placeholder_is_none(grant: Grant, host: Stage) -> None:
    for value, found in (("sk-real", True), (new_placeholder(), False)):
        with Outside() as outside:
            facts = facts_for(BY_NAME["environment"], grant, outside, host.layout)
            source, _, last = program(BY_NAME["environment"], msgspec.json.encode(facts)).rpartition("\n")
            argv = ["bwrap", "--unshare-pid", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--"]
            done = subprocess.run(
                [*argv, sys.executable, "-P", "-"],
                    input=f"{source}\nprint(json.dumps({last}))".encode(),
                env={"PATH": os.environ["PATH"], "OPENAI_API_KEY": value},
                capture_output=True, timeout=60, check=True,
            )  # fmt: skip
        broke, said = json.loads(done.stdout)
        assert (broke, "OPENAI_API_KEY in environ" in said) == (found, found), said


@pytest.mark.timeout(200)
@pytest.mark.skipif(os.getuid() != 0, reason="only root's sandboxes can lack that much")
@pytest.mark.parametrize("act", ACTS, ids=[act.name for act in ACTS])
def test_without_its_barrier_each_act_is_not_held(
    act: Act, grant: Grant, host: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    if host.kind != "root":
        return
    monkeypatch.setattr("bridgehold.faces.attack.outside._LEFT_SECONDS", 0.5)
    with Outside() as outside:
        try:
            ended, size = unguarded(act, grant, outside, host)
            look = Looks(
                outside=outside,
                limits=grant.limits,
                audit=host.layout.audit,
                events=[],
                arrived=outside.arrived,
                peak_bytes=0,
                output_bytes=size,
            )
            seen = tuple(look.at(name) for name in act.looks)
            outcome = judge(act, ended, seen)
            assert outcome.came == "NOT HELD", outcome
        finally:
            end_marked(outside)


def end_marked(outside: Outside) -> None:
    """Whoever has the name of the acts' processes, or what their environment alone has."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, given = (path / "comm").read_text().strip(), (path / "environ").read_bytes()
            if name == outside.mark or outside.canary.encode() in given:
                os.kill(int(path.name), signal.SIGKILL)


def test_what_can_not_be_told_is_not_held_to_be_held() -> None:
    act = BY_NAME["memory-bomb"]
    fine, broken, unknown = (Seen(what="x", broken=one) for one in (False, True, None))
    for ended, seen, came in (
        (Ended(code="memory"), (fine,), "held"),
        (Ended(code="crash"), (fine,), "not tried"),
        (Ended(code="memory"), (fine, broken), "NOT HELD"),
        (Ended(code="memory"), (unknown,), "not tried"),
        (Ended(value=[True, "held"]), (fine,), "NOT HELD"),
        (Ended(value=[False, "some"]), (fine,), "held"),
        (Ended(value=None), (fine,), "not tried"),
        (Ended(value=["False", "some"]), (fine,), "not tried"),
    ):
        assert judge(act, ended, seen).came == came


def test_the_doctors_word_is_taken_as_it_is() -> None:
    came = {
        status: judge_check(DOMAIN, Check(name="landlock", status=status, detail="x")).came
        for status in ("PASS", "FAIL", "CAUTION")
    }
    assert came == {"PASS": "held", "FAIL": "NOT HELD", "CAUTION": "not tried"}


def test_tables_are_taken_out_of_a_file_as_they_are_or_not_at_all() -> None:
    needs = '[needs]\nlimits = { memory = "1MiB" }\n[[needs.secrets]]\nname = "k"\n'
    text = f'name = "x"\n[push.siem]\nto = "y"\n{needs}[operations.x]\na = 1\n'
    assert tables_of(text, ("needs",)) == needs
    for hidden in ('needs.limits = { memory = "1MiB" }\n', '[a]\nx = """\n[needs]\n"""\n'):
        with pytest.raises(BridgeholdError):
            tables_of(hidden, ("needs",))
