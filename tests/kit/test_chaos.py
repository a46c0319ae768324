"""Chaos: its plan, what it tries, how it judges, and the whole through the command line."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bridgehold.audit.verify import verify_audit
from bridgehold.bridges.catalogue import Catalogue
from bridgehold.bridges.kit.faults import FAULTS
from bridgehold.config.load import parse_config
from bridgehold.errors import CommandTimeoutError, InternalError, UsageError
from bridgehold.faces.testing.chaos import NAMES, plan
from bridgehold.faces.testing.exercise import SAMPLE_ID, commands_of, sample
from bridgehold.faces.testing.outcomes import TYPED, Tally
from bridgehold.faces.testing.playground import toml
from bridgehold.faces.testing.remains import Remains, cgroups_of, freeze, squeeze
from bridgehold.testing import Command
from bridgehold.testing import chaos as chaos_of

BAD = """
from bridgehold_sdk import Bridge, operation

class Bad(Bridge):
    name = "bad"
    version = "0.1.0"

    @operation(effect="run")
    def swallow(self):
        import time
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass

    @operation(effect="run")
    def grow(self):
        held = [bytearray(1 << 20) for _ in range(32)]
        return {"held": len(held)}
"""
MANIFEST = """
name = "bad"
version = "0.1.0"
summary = "Bad manners"
entry = "bad_bridge:Bad"
[operations.grow]
summary = "Take 32 MiB"
effect = "run"
[operations.swallow]
summary = "Take no cancel for an answer"
effect = "run"
"""


@pytest.fixture
def home() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="bh-chaos-"))
    made.chmod(0o755)
    (made / "t").mkdir()  # of its own: other tests have such playgrounds, too
    folder = made / "config/bridges/bad"
    folder.mkdir(parents=True)
    (folder / "bridge.toml").write_text(MANIFEST)
    (folder / "bad_bridge.py").write_text(BAD)
    (made / "config/policies").mkdir()
    (made / "config/policies/bad.toml").write_text(
        'extends = "baseline"\n[operations]\nallow = ["bad:*"]\n[limits]\ngrace = "200ms"\n'
    )
    yield made
    shutil.rmtree(made, ignore_errors=True)


def chaos(home: Path, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    command = [sys.executable, "-m", "bridgehold", "chaos", "bad", "--json", "--deadline", "1s", *arguments]
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(home), "TMPDIR": str(home / "t")}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)
    return said.returncode, json.loads(said.stdout) if said.stdout.startswith("[") else [], said.stderr


def test_a_bridge_that_takes_no_cancel_and_one_that_grows_end_typed_and_leave_nothing(home: Path) -> None:
    wanted = ("little memory", "caller gone", "sandbox killed", "session drained", "deadline")
    status, found, said = chaos(home, "--seed", "4", *(part for name in wanted for part in ("--only", name)))
    rows = {one["fault"]: one for one in found}
    assert status == 0, (found, said)
    assert rows["none"]["ended"] == {"ok": 1, "timeout": 1}
    assert rows["none"]["detail"] == "1 of 2 commands succeed"
    assert rows["little memory"]["detail"] == "ended by its cap"
    assert rows["little memory"]["ended"]["memory"] == 1
    assert rows["sandbox killed"]["ended"] == rows["session drained"]["ended"] == {"session_ended": 1}
    assert {one["status"] for one in found} == {"PASS"}
    assert {"sessions left", "processes left", "cgroups left", "audit", "every command's outcome"} <= set(
        rows
    )
    assert rows["cgroups left"]["detail"] not in ("none of 0", "none of 1")
    assert set(rows) & {"worker frozen", "provider reset"} == set()
    assert list((home / "t").glob("bridgehold-play-*")) == []
    assert not (home / "run").exists()  # the user's own layout has had no host


def test_a_bridge_that_serves_nobody_fails(home: Path) -> None:
    (home / "config/bridges/bad/bad_bridge.py").write_text("raise SystemExit(3)\n")
    kept = home / "kept"
    status, found, _ = chaos(home, "--only", "worker frozen", "--keep", str(kept))
    assert status == 1
    report = verify_audit(kept / "state/audit")
    assert (report.integrity.ok, report.events > 5) == (True, True)
    assert not (kept / "run/host.sock").exists()
    status, _, said = chaos(home, "--only", "worker frozen", "--keep", str(kept))
    assert (status, "Traceback" in said) == (UsageError.exit_status, False)
    assert [one["fault"] for one in found if one["status"] == "FAIL"] == ["worker frozen"]
    assert "afterwards a new session ends as" in found[1]["detail"]
    assert found[0]["status"] == "CAUTION"


def test_a_host_that_dies_in_the_middle_fails_what_is_left(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGEHOLD_HOME", str(home))

    async def run() -> dict[str, str]:
        found = {}
        async for outcome in chaos_of("bad", commands=[Command("grow", {})], only=["worker frozen"]):
            found[outcome.fault] = outcome.status
            if outcome.fault == "none":
                (host,) = [
                    child
                    for child in psutil.Process().children()
                    if "supervisor.main" in str(child.cmdline())
                ]
                host.kill()
        return found

    found = asyncio.run(run())
    assert found["none"] == found["processes left"] == found["cgroups left"] == found["audit"] == "PASS"
    assert found["worker frozen"] == found["sessions left"] == "FAIL"


def test_what_is_asked_wrongly_is_said(home: Path) -> None:
    status, found, said = chaos(home, "--only", "earthquake")
    assert (status, found) == (UsageError.exit_status, [])
    assert "Traceback" not in said


def test_a_plan_is_the_same_for_a_seed_and_has_every_fault_once() -> None:
    made = plan(3, 1_000, provider=True)
    assert made == plan(3, 1_000, provider=True)
    assert made != plan(4, 1_000, provider=True)
    names = [name for name, _ in (*made.provider, *made.host)]
    assert sorted(names) == sorted(NAMES)
    assert all(faults.kinds == (name,) for name, faults in made.provider if name != "mixed")
    assert plan(3, 1_000, provider=False).provider == ()
    assert [name for name, _ in plan(3, 1_000, provider=True, only=["drip"]).provider] == ["drip"]
    with pytest.raises(UsageError, match="earthquake"):
        plan(3, 1_000, provider=True, only=["earthquake"])
    assert set(FAULTS) < set(NAMES)


@pytest.mark.parametrize("name", [one.name for one in Catalogue.load().list()])
def test_commands_of_a_manifest_fit_its_own_schemas(name: str) -> None:
    manifest = Catalogue.load().get(name)
    commands = commands_of(manifest)
    assert {one.operation for one in commands} == set(manifest.operations)
    for one in commands:
        manifest.check_arguments(one.operation, one.arguments)
    effects = [manifest.operation(one.operation).effect for one in commands]
    assert effects == sorted(effects, key=["configure", "create", "run", "read", "delete"].index)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "minLength": 12, "maxLength": 12}, "sample x...."),
        ({"type": "string", "maxLength": 3}, "sam"),
        ({"enum": ["a", "b"]}, "a"),
        ({"examples": [7], "type": "integer"}, 7),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "exclusiveMinimum": 5}, 6),
        ({"type": "number", "maximum": -2}, -2),
        ({"type": ["boolean", "null"]}, True),
        ({"type": "array", "items": {"type": "null"}, "minItems": 2}, [None, None]),
        ({"type": "array"}, []),
        ({"anyOf": [{"const": 3}, {"type": "string"}]}, 3),
        ({"type": "object", "required": ["y"], "properties": {"y": {"type": "boolean"}}}, {"y": True}),
    ],
)
def test_samples(schema: dict[str, Any], value: object) -> None:
    assert sample(schema, "x") == value
    assert SAMPLE_ID


def test_what_is_untyped_stuck_or_other_than_it_may_be_fails() -> None:
    async def ended(error: Exception | None, seconds: float = 0) -> None:
        await asyncio.sleep(seconds)
        if error is not None:
            raise error

    async def judged(*works: Any, may: frozenset[str] = TYPED) -> tuple[str, dict[str, int]]:
        tally = Tally()
        for work in works:
            await tally.of(work, 0.05)
        outcome = tally.outcome("x", may=may)
        return outcome.status, outcome.ended

    run = asyncio.run
    assert run(judged(ended(None), ended(CommandTimeoutError("x")))) == ("PASS", {"ok": 1, "timeout": 1})
    assert run(judged(ended(InternalError("")))) == ("FAIL", {"internal": 1})
    assert run(judged(ended(None, 1))) == ("FAIL", {"stuck": 1})
    only = frozenset({"session_ended"})
    assert run(judged(ended(CommandTimeoutError("x")), may=only)) == ("FAIL", {"timeout": 1})


def test_a_process_that_outlives_its_host_is_named() -> None:
    command = "import subprocess,sys,time; p=subprocess.Popen(['sleep','30']); print(p.pid,flush=True); time.sleep(30)"
    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        remains = Remains(parent.pid)
        remains.look()
        assert remains.seen[0] == 2
        parent.kill()
        parent.wait()
        assert remains.left(0.2) == ([str(child)], [])
        os.kill(child, 9)
        assert remains.left(5) == ([], [])


def test_only_workers_are_frozen_or_squeezed() -> None:
    from bridgehold.errors import UnsupportedError

    assert cgroups_of(os.getpid()) == frozenset()
    for act in (freeze, squeeze):
        with pytest.raises(UnsupportedError):
            act(os.getpid())


def test_the_playgrounds_configuration_is_toml() -> None:
    import tomllib

    value = {"a b": [1, True, 'x"\\é\n'], "deep": {"k": {"z": 0.5}}, "none": {}}
    assert tomllib.loads(f"v = {toml(value)}\n")["v"] == value
    parse_config(f"providers = {toml({'x': {'base_url': 'http://127.0.0.1:1', 'private': True}})}\n", "f")
