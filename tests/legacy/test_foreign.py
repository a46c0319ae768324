"""What is decided about foreign scripts, without a host: manifests, arguments of python, frames, folders."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bridgehold.bridges.legacy.bodies import Format
from bridgehold.bridges.manifest_file import parse_manifest
from bridgehold.errors import ConfigError, DeniedError, ManifestError, ProtocolError, UsageError
from bridgehold.faces.legacy.folder import first_line, write_shim
from bridgehold.faces.legacy.python_argv import VERSION_CODE, parse
from bridgehold.faces.legacy.values import ShimFile
from bridgehold.host.cell.scripts.rules import (
    DecidedCommand,
    decide_frame,
    decide_plain,
    formats_of,
    script_inside,
)
from bridgehold.host.front.boots import Script
from bridgehold.policies.buckets import MOST_RATES, CommandRates
from bridgehold.policies.compose import compose
from bridgehold.policies.grant import resolve
from bridgehold.policies.model import Grant, Machine

MANIFEST = 'name = "mine"\nversion = "1.0.0"\nforeign = "auto"\n'
POLICY = 'extends = "baseline"\n[operations]\nallow = ["mine:*"]\ndeny = ["mine:call"]\n'


def granted(policy: str = POLICY) -> Grant:
    from bridgehold.policies import shipped

    manifest = parse_manifest(MANIFEST, Path("/bridges/mine"))
    machine = Machine(cgroup="v2", uids="range", seccomp=True, memory_bytes=1 << 34, cpus=2)
    composed = compose("mine", lambda name: (policy, "mine.toml") if name == "mine" else shipped.read(name))
    return resolve(manifest.needs, composed, None, machine, tenant="local", bridge="mine", version="1.0.0")


def decided_frame(body: bytes, grant: Grant, formats: tuple[Format, ...]) -> DecidedCommand | None:
    return asyncio.run(decide_frame(body, grant, formats))


def body(command: str = "echo", **args: object) -> bytes:
    return json.dumps({"id": 1, "command": command, "args": args}).encode()


def test_the_policys_rate_holds_for_frames_however_small_and_when_it_is_made_smaller() -> None:
    def passed(rates: CommandRates, per_minute: int) -> int:
        grant = granted(f"{POLICY}[rate]\ncommands_per_minute = {per_minute}\n")
        return sum(rates.take(grant, 7.0) for _ in range(50))

    rates = CommandRates()
    assert [passed(rates, 1), passed(rates, 1)] == [1, 0]
    rates = CommandRates()
    assert rates.take(granted(f"{POLICY}[rate]\ncommands_per_minute = 6000\n"), 7.0)
    assert passed(rates, 1) == 1


def test_tenants_that_are_made_up_take_a_bounded_number_of_rates_and_reset_nobodys() -> None:
    grant, rates = granted(f"{POLICY}[rate]\ncommands_per_minute = 1\n"), CommandRates()
    assert rates.take(grant, 0.0)
    for number in range(2 * MOST_RATES):
        rates.take(msgspec.structs.replace(grant, tenant=f"t{number}"), 1.0)
        if number % 1_000 == 0:
            assert not rates.take(grant, 1.0), "who is still asking gets a full bucket"
    assert len(rates) == MOST_RATES


def test_a_foreign_bridge_has_no_class_and_asks_for_every_operation() -> None:
    manifest = parse_manifest(MANIFEST, Path("/bridges/mine"))
    assert (manifest.foreign, manifest.entry, manifest.operations) == ("auto", "", {})
    assert manifest.needs.operations == ("mine:*",)


@pytest.mark.parametrize(
    "more",
    [
        'entry = "a:B"\n',
        '[operations.x]\nsummary = "x"\neffect = "run"\n',
    ],
)
def test_a_foreign_bridge_with_a_class_or_operations_is_refused(more: str) -> None:
    with pytest.raises(ManifestError, match="foreign"):
        parse_manifest(MANIFEST + more, Path("/bridges/mine"))


def test_an_unknown_format_is_refused_with_what_there_is() -> None:
    with pytest.raises(ManifestError, match="auto, json, msgpack"):
        parse_manifest(MANIFEST.replace("auto", "jsn"), Path("/bridges/mine"))


def test_a_bridge_that_is_not_foreign_still_needs_operations() -> None:
    with pytest.raises(ManifestError, match="1 to 200 operations"):
        parse_manifest('name = "mine"\nversion = "1.0.0"\nentry = "a:B"\n', Path("/bridges/mine"))


@pytest.mark.parametrize(
    ("allow", "command", "allowed"),
    [
        ('["mine:*"]', "echo", True),
        ('["mine:*"]', "call", False),
        ('["mine:create_*", "mine:ping"]', "create_program", True),
        ('["mine:create_*", "mine:ping"]', "execute_program", False),
        ('["*"]', "echo", True),
        ('["other:*"]', "echo", False),
        ("[]", "echo", False),
        ('["mine:*"]', "__import__('os')", False),
        ('["mine:*"]', "x" * 100, False),
    ],
)
def test_the_policy_alone_decides_on_undeclared_commands(allow: str, command: str, allowed: bool) -> None:
    grant = granted(POLICY.replace('["mine:*"]', allow))
    decided = decided_frame(body(command), grant, ("json", "msgpack"))
    assert decided is not None
    assert decided.decision.allowed is allowed
    assert decided.decision.rule


@pytest.mark.parametrize(
    ("inline_keys", "args", "allowed"),
    [
        ("capture", {"api_key": "a-real-key"}, True),
        ("refuse", {"api_key": "a-real-key"}, False),
        ("refuse", {"lm": {"Authorization": "Bearer x"}}, False),
        ("refuse", {"api_key": ""}, True),
        ("refuse", {"api_key": None}, True),
        ("capture", {"api_key": "sk-bh-foreign"}, True),
    ],
)
def test_a_key_among_the_arguments_does_not_pass(
    inline_keys: str, args: dict[str, object], allowed: bool
) -> None:
    grant = granted(f'inline_keys = "{inline_keys}"\n' + POLICY)
    decided = decided_frame(body("configure_lm", model="m", **args), grant, ("json",))
    assert decided is not None
    assert decided.decision.allowed is allowed
    assert "a-real-key" not in repr(decided.arguments.kept) + repr(decided.decision)


def test_a_key_that_may_pass_is_still_not_among_what_is_written_down() -> None:
    grant = granted('inline_keys = "pass"\nweakenings = ["inline_keys_pass"]\n' + POLICY)
    decided = decided_frame(body("configure_lm", api_key="a-real-key"), grant, ("json",))
    assert decided is not None
    assert decided.decision.allowed
    assert decided.arguments.kept == {}


def test_a_format_that_the_profile_does_not_take_is_refused() -> None:
    frame = msgspec.msgpack.encode({"id": 1, "command": "echo", "args": {}})
    assert decided_frame(frame, granted(), formats_of("auto")) is not None
    assert decided_frame(frame, granted(), formats_of("msgpack")) is not None
    with pytest.raises(UsageError, match="msgpack"):
        decided_frame(frame, granted(), formats_of("json"))
    with pytest.raises(ProtocolError):
        decided_frame(b"[]", granted(), formats_of("auto"))


def test_a_negotiation_passes_without_a_decision() -> None:
    assert decided_frame(b'{"type": "protocol_negotiation", "supported": []}', granted(), ("json",)) is None


def test_plain_code_is_an_operation_of_its_own() -> None:
    script = Script(kind="code", text="print(1)", protocol=False)
    assert decide_plain(script, granted())[0].allowed
    assert not decide_plain(script, granted(POLICY.replace("mine:call", "mine:python")))[0].allowed


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("/srv/app/python/bridge.py", "/bridge/bridge.py"),
        ("/srv/app/python/deep/er.py", "/bridge/deep/er.py"),
        ("/srv/more/other.py", "/scripts/1/other.py"),
        ("/srv/more/../more/other.py", None),
        ("/srv/app/python/../secret.py", None),
        ("/srv/app/python2/bridge.py", None),
        ("/srv/app/bridge.py", None),
        ("bridge.py", None),
        ("/etc/passwd", None),
    ],
)
def test_a_script_lies_below_its_folder_or_is_refused(path: str, inside: str | None) -> None:
    def made() -> Script:
        return script_inside(
            "script",
            path,
            ["--x"],
            ["/srv/app/python/lib", "/etc"],
            scripts=("/srv/app/python", "/srv/more"),
            bridge="mine",
        )

    if inside is None:
        with pytest.raises(DeniedError, match="not below") as caught:
            made()
        assert "reloads" in caught.value.hint
    else:
        assert made() == Script(kind="script", text=inside, args=("--x",), path=("/bridge/lib",))


def test_without_a_folder_nothing_runs_and_the_key_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        script_inside("code", "1", [], [], scripts=(), bridge="mine")
    assert "[bridges.mine] scripts" in caught.value.hint
    assert "bridgehold reload" in caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "kind", "text", "args"),
    [
        (["x.py", "--mode", "pool-worker", "-c"], "script", "x.py", ("--mode", "pool-worker", "-c")),
        (["-u", "x.py"], "script", "x.py", ()),
        (["-uB", "-W", "ignore", "-Xdev", "x.py", "a"], "script", "x.py", ("a",)),
        (["-c", "code", "-V"], "code", "code", ("-V",)),
        (["-Bc", "code"], "code", "code", ()),
        (["-ccode"], "code", "code", ()),
        (["-m", "json.tool", "f"], "module", "json.tool", ("f",)),
        (["--version"], "code", VERSION_CODE, ()),
        (["-VV"], "code", VERSION_CODE, ()),
        (["--check-hash-based-pycs", "always", "x.py"], "script", "x.py", ()),
        (["-", "a"], "stdin", "", ("a",)),
        ([], "stdin", "", ()),
        (["-u"], "stdin", "", ()),
        (["--", "-x.py"], "script", "-x.py", ()),
    ],
)
def test_pythons_arguments_are_read_as_python_reads_them(
    arguments: list[str], kind: str, text: str, args: tuple[str, ...]
) -> None:
    found = parse(arguments)
    assert (found.kind, found.text, found.args) == (kind, text, args)


@pytest.mark.parametrize("arguments", [["-Z"], ["--foo"], ["-c"], ["-m"]])
def test_what_python_refuses_is_refused(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(arguments)


def test_the_command_makes_a_shim_or_says_what_is_missing(tmp_path: Path) -> None:
    config = tmp_path / "home/config"
    (config / "bridges/mine").mkdir(parents=True)
    (config / "bridges/mine/bridge.toml").write_text(MANIFEST)

    def run(profile: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bridgehold", "shim", str(tmp_path / "venv"), "--profile", profile],
            env={**os.environ, "BRIDGEHOLD_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=False,
        )

    assert (run("nothing").returncode, run("python").returncode) == (6, 2)
    without = run("mine")
    assert without.returncode == 3
    assert "[bridges.mine]" in without.stderr
    (config / "config.toml").write_text('[bridges.mine]\nscripts = "/srv/app"\n')
    made = run("mine")
    assert (made.returncode, made.stdout) == (0, f"{tmp_path}/venv/bin/python3\n")
    given = msgspec.json.decode((tmp_path / "venv/bridgehold.json").read_bytes(), type=ShimFile)
    assert (given.profile, given.tenant, given.run) == ("mine", "local", str(tmp_path / "home/run"))


GIVEN = ShimFile(profile="mine", tenant="local", config="/c", state="/s", run="/r")


def test_a_shim_is_a_folder_with_one_regular_program(tmp_path: Path) -> None:
    program = write_shim(tmp_path / "venv", GIVEN)
    assert program == tmp_path / "venv/bin/python3"
    assert program.is_file()
    assert not program.is_symlink()
    assert os.access(program, os.X_OK)
    assert (tmp_path / "venv/pyvenv.cfg").is_file()
    assert program.read_text().startswith("#!")
    assert write_shim(tmp_path / "venv", GIVEN) == program, "it can be made anew"
    assert sorted(path.name for path in program.parent.iterdir()) == ["python", "python3"]


def test_somebodys_own_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").write_text("theirs")
    with pytest.raises(UsageError, match="is no shim"):
        write_shim(tmp_path, GIVEN)
    assert (tmp_path / "bin/python3").read_text() == "theirs"


def test_an_interpreter_at_an_odd_place_is_found_too(tmp_path: Path) -> None:
    place = tmp_path / "a folder with $HOME and `spaces`" / ("x" * 150)
    place.mkdir(parents=True)
    (place / "python").symlink_to(sys.executable)
    script = tmp_path / "script"
    script.write_text(
        first_line(str(place / "python")) + "\nimport sys\nprint(sys.argv[1:], sys.flags.isolated)\n"
    )
    script.chmod(0o755)
    done = subprocess.run([str(script), "a b", "$HOME"], capture_output=True, text=True, check=True)
    assert done.stdout == "['a b', '$HOME'] 1\n"


def test_the_callers_pythonpath_never_reaches_the_relay_itself(tmp_path: Path) -> None:
    """What lies there is tenants' code, and runs in sandboxes only."""
    (tmp_path / "msgspec.py").write_text("raise SystemExit(99)")
    program = write_shim(tmp_path / "venv", GIVEN)
    done = subprocess.run(
        [str(program), "-Z"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
