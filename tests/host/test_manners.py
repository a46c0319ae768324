"""Whatever is typed, closed, planted or said wrongly: an error of ours with its remedy, never a traceback."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridgehold import SyncClient
from bridgehold.bridges.manifest_file import load_manifest
from bridgehold.config.layout import default_layout
from bridgehold.config.load import load_config, parse_config
from bridgehold.errors import BridgeholdError, ConfigError, UsageError, error_classes
from bridgehold.faces import cli
from bridgehold.faces.cli.border import guarded
from bridgehold.faces.cli.commands import app
from bridgehold.faces.cli.run import read_arguments
from bridgehold.faces.legacy.folder import write_shim
from bridgehold.faces.legacy.python import read_shim_file
from bridgehold.faces.legacy.values import ShimFile
from bridgehold.faces.testing.transcript import load
from bridgehold.policies.explain import check as check_policies
from bridgehold.sandbox.envs.lock import read_lock
from waiting import until
from ways import open_way

STATUSES = {kind.exit_status: kind.code for kind in error_classes()}
FORBIDDEN = ("Traceback", "internal:", '"internal"', "Exception ignored", "During handling")
WRONG = (
    "", "-", "../x", "\x01\x1b[31m", "9" * 5_000, "-1", "1e999", "NaN", "{", "[" * 3_000, "s-0", "é" * 300,
    "@/dev/zero", "/dev/null/x", "a=b", "a:b", "/dev/full", "/",
)  # fmt: skip
STARTS = {
    *(
        (name,)
        for name in (
            "attack",
            "demo",
            "bench",
            "chaos",
            "doctor",
            "serve",
            "shell",
            "stdio",
            "init",
            "review",
        )
    ),
    ("bridge", "provider"),
}
"""Where nothing is wrong with their arguments they start something, or take the streams."""
ON_A_HOST = {
    ("run",),
    ("python",),
    *(("bridge", name) for name in ("build", "verify", "scan", "gc", "check", "dev")),
}
"""They would start a host of their own each: they are tried last, and find one."""


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    command = command or app
    for name, one in getattr(command, "commands", {}).items():
        yield from commands(one, (*path, name))
    if not getattr(command, "commands", None):
        yield path, command


def tries() -> Iterator[tuple[str, ...]]:
    """Every command: unknown options, something wrong for each of its own and for each argument, too many."""
    chance = random.Random(12)
    yield from [("nothing",), ("--nothing",), ("audit", "nothing"), ("--version", "too", "many")]
    for path, command in commands():
        yield (*path, "--nothing")
        if path in STARTS:
            continue
        needed = [one for one in command.params if one.required and not one.opts[0].startswith("-")]
        yield path
        yield (*path, *(chance.choice(WRONG) for _ in needed), "too", "many", "of them")
        for _ in range(3):
            yield (*path, *(chance.choice(WRONG) for _ in needed))
        for one in command.params:
            if one.opts[0].startswith("--") and one.opts[0] != "--provider":
                given = f"{one.opts[0]}={chance.choice(WRONG)}"
                yield (*path, given, *(chance.choice(WRONG) for _ in needed))


def mannered(status: int, out: str, err: str) -> None:
    """It ended as one of ours does, and says what and where or how to go on."""
    told = (status, out[-600:], err[-1_500:])
    assert not any(word in out + err for word in FORBIDDEN), told
    assert status in {0, 1, 130, 141, *STATUSES}, told
    assert status != STATUSES.get(70), told
    if status in STATUSES and status != 1:
        assert f"{STATUSES[status]}: " in err or f'"code":"{STATUSES[status]}"' in out, told


def test_no_argument_makes_any_command_lose_its_manners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BRIDGEHOLD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.chdir(tmp_path)
    all_tries = list(tries())
    hosted = [one for one in all_tries if one[:1] in ON_A_HOST or one[:2] in ON_A_HOST]
    assert len(hosted) > 50

    def go_wrong(arguments: tuple[str, ...]) -> None:
        monkeypatch.setattr(sys, "argv", ["bridgehold", *arguments])
        status = guarded(lambda: app(prog_name="bridgehold", standalone_mode=False))
        captured = capfd.readouterr()
        try:
            mannered(status, captured.out, captured.err)
        except AssertionError as error:
            raise AssertionError(f"{[one[:60] for one in arguments]}: {error}") from None

    for arguments in all_tries:
        if arguments not in hosted:
            go_wrong(arguments)
    with SyncClient.open(default_layout()):
        for arguments in hosted:
            go_wrong(arguments)
    assert len(all_tries) > 250


def bridgehold(home: Path, *arguments: str | bytes, streams: str = "", **more: Any) -> tuple[int, str, str]:
    """The command line in a process of its own, behind the redirections `streams`."""
    argv: list[str | bytes] = [sys.executable, "-m", "bridgehold", *arguments]
    if streams:
        argv = ["sh", "-c", f'exec "$0" "$@" {streams}', *argv]
    environ = {**os.environ, "BRIDGEHOLD_HOME": str(home), **more.pop("environ", {})}
    user = {"user": more.pop("user")} if "user" in more else {}
    done = subprocess.run(
        argv, capture_output=True, env=environ, check=False, timeout=60, stdin=subprocess.DEVNULL, **user
    )
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


ODD: dict[str, tuple[tuple[str | bytes, ...], dict[str, Any], int]] = {
    "stdout closed": (("config", "--all"), {"streams": ">&-"}, 0),
    "stderr closed": (("nothing",), {"streams": "2>&-"}, 2),
    "all closed": (("config",), {"streams": "<&- >&- 2>&-"}, 0),
    "stdin closed": (("run", "python:execute", "--args", "-"), {"streams": "<&-"}, 2),
    "stdout full": (("config", "--all"), {"streams": ">/dev/full"}, 22),
    "stdout full, JSON": (("config", "--all", "--json"), {"streams": ">/dev/full"}, 22),
    "stdout full, unbuffered": (
        ("--version",),
        {"streams": ">/dev/full", "environ": {"PYTHONUNBUFFERED": "1"}},
        22,
    ),
    "stderr full": (("nothing",), {"streams": "2>/dev/full"}, 2),
    "stdout gone": (("config", "--all"), {"streams": "| true"}, 0),
    "stdout for reading": (("config", "--all"), {"streams": "1</dev/null"}, 2),
    "ascii": (("--help",), {"environ": {"PYTHONIOENCODING": "ascii"}}, 0),
    "latin-1": (("config", "--all"), {"environ": {"PYTHONIOENCODING": "latin-1"}}, 0),
    "utf-16": (("config", "--json"), {"environ": {"PYTHONIOENCODING": "utf-16"}}, 0),
    "POSIX": (
        ("nothing-é",),
        {"environ": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}},
        2,
    ),
    "no locale": (("config",), {"environ": {"LC_ALL": "xx_YY.nothing", "LANG": "\x01"}}, 0),
    "no width": (("config", "--all"), {"environ": {"COLUMNS": "0", "LINES": "-1", "TERM": ""}}, 0),
    "bytes": ((b"run", b"python:execute", b"--session", b"\xff\xfe"), {}, 2),
    "a name of bytes": ((b"policy", b"check", b"\xc3.toml"), {}, 2),
    "home is a file": (("init",), {"environ": {"BRIDGEHOLD_HOME": "/dev/null"}}, 3),
    "home can't be": (("init",), {"environ": {"BRIDGEHOLD_HOME": "/proc/nothing"}}, 3),
    "home too long": (("init",), {"environ": {"BRIDGEHOLD_HOME": "/tmp/" + "x" * 5_000}}, 3),
    "home of bytes": (("init",), {"environ": {"BRIDGEHOLD_HOME": "/proc/\udcff"}}, 3),
    "no host there": (("run", "python:execute"), {"environ": {"BRIDGEHOLD_HOME": "/dev/null"}}, 51),
    "a variable of digits": (("config",), {"environ": {"BRIDGEHOLD__HOST__UID_BASE": "9" * 5_000}}, 3),
    "a variable of depth": (("config",), {"environ": {"BRIDGEHOLD__HOST__READ_ROOTS": "[" * 5_000}}, 3),
    "a variable of tables": (("config",), {"environ": {"BRIDGEHOLD__" + "A__" * 5_000: "1"}}, 3),
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    home = tmp_path_factory.mktemp("odd")
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda one: bridgehold(home, *one[0], **one[1]), ODD.values())
        return dict(zip(ODD, found, strict=True))


@pytest.mark.parametrize("name", ODD)
def test_no_stream_locale_or_variable_does(odd: dict[str, tuple[int, str, str]], name: str) -> None:
    status, out, err = odd[name]
    assert not any(word in out + err for word in FORBIDDEN), (status, out, err)
    assert status == ODD[name][2], (status, out, err)
    if name.startswith("stdout full"):
        assert err.startswith("shortage: No space left on device\n  where  standard output\n"), err
    if name == "utf-16":
        json.loads(out)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody without a folder")
def test_a_home_that_is_somebody_elses_is_told_with_its_place(tmp_path: Path) -> None:
    home = tmp_path / "locked"
    home.mkdir(mode=0o755)
    open_way(tmp_path)
    for arguments in (
        ("init",),
        ("bridge", "new", "mine"),
        ("secrets", "set", "openai"),
        ("run", "python:execute"),
    ):
        status, out, err = bridgehold(
            home, *arguments, user=65_534, streams="</proc/sys/kernel/random/boot_id"
        )
        mannered(status, out, err)
        assert status != 0
        assert str(home) in err or "private host" in err


def test_an_interrupt_at_any_moment_of_the_start_is_no_traceback(tmp_path: Path) -> None:
    for delay in (0.02, 0.1, 0.2, 0.3, 0.45, 0.7):
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", f"import os; os.execv({sys.executable!r}, ['p', '-m', 'bridgehold', 'policy', 'check', '/dev/stdin'])"],
            env={**os.environ, "BRIDGEHOLD_HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert b"bridgehold/" not in err, err  # before our first line it is the interpreter's own
        assert process.returncode in (5, 130, 1, -signal.SIGINT), (delay, err)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_what_a_signal_ends_gives_its_terminal_back(tmp_path: Path, number: int, status: int) -> None:
    """Where a key is asked for nothing that is typed is shown; whoever ends it is left with a terminal that does."""
    ours, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-m", "bridgehold", "secrets", "set", "openai"],
        env={**os.environ, "BRIDGEHOLD_HOME": str(tmp_path)},
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    until(lambda: not termios.tcgetattr(theirs)[3] & termios.ECHO, 60)
    process.send_signal(number)
    assert process.wait(60) == status
    assert termios.tcgetattr(theirs) == before
    os.close(theirs)
    assert os.read(ours, 4096).endswith(b"stopped\r\n")
    os.close(ours)


@pytest.mark.parametrize("streams", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_an_interpreter_of_a_shims_has_its_streams_whoever_closed_them(tmp_path: Path, streams: str) -> None:
    given = ShimFile(
        profile="x", tenant="local", config=str(tmp_path), state="/dev/null/x", run="/dev/null/x"
    )
    program = write_shim(tmp_path / "shim", given)
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {streams}', str(program), str(tmp_path / "nothing.py")],
        capture_output=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    code = "from bridgehold.faces.legacy.pipes import take_standard as t; from bridgehold.hardening import open_standard as o; o(); t()"
    argv = ["sh", "-c", f'exec "$0" "$@" {streams}', sys.executable, "-c", code]
    assert subprocess.run(argv, capture_output=True, check=False, timeout=30).returncode == 0


def test_what_our_processes_begin_with_no_full_collection_looks_at() -> None:
    code = (
        "import gc, bridgehold.host.main as m; m.harden(parent=None, die_with_parent=False); "
        "print(gc.get_freeze_count(), len(gc.get_objects()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    frozen, left = map(int, done.stdout.split())
    assert frozen > 20 * left


@pytest.mark.parametrize("reader", ["gone", "asleep", "closed"])
def test_what_our_processes_say_costs_them_neither_an_error_nor_a_wait(reader: str) -> None:
    """A defect's traceback to a pipe that nobody reads: what comes after it comes at once."""
    code = (
        "import os, sys, time, traceback; from bridgehold.hardening import harden\n"
        "harden(parent=None, die_with_parent=False)\n"
        "for _ in range(200):\n"
        "    sys.stderr.write('x' * 4000); print('y' * 400, file=sys.stderr); traceback.print_stack()\n"
        "os.write(0, b'answered')\n"
    )
    read, write = os.pipe()
    ours, theirs = socket.socketpair()
    if reader == "gone":
        os.close(read)
    argv = ["sh", "-c", f'exec "$0" "$@" {"2>&-" if reader == "closed" else ""}', sys.executable, "-c", code]
    with subprocess.Popen(argv, stdin=theirs, stderr=write) as process:
        theirs.close()
        os.close(write)
        ours.settimeout(30)
        assert ours.recv(100) == b"answered"
        assert process.wait(30) == 0
    if reader == "asleep":
        assert os.read(read, 4000) == b"x" * 4000  # what there was room for
    ours.close()
    if reader != "gone":
        os.close(read)


READERS = {
    "config.toml": load_config,
    "bridge.toml": lambda path: load_manifest(path.parent),
    "lock": read_lock,
    "policy": lambda path: check_policies(
        {"x": (__import__("bridgehold.reads").reads.read_text(path, UsageError), "x")}
    ),
    "arguments": lambda path: read_arguments(f"@{path}"),
    "bridgehold.json": read_shim_file,
    "transcript": load,
}
TEXTS = {
    "digits": b"a = " + b"1" * 5_000,
    "JSON digits": b'{"a": ' + b"1" * 5_000 + b"}",
    "depth": b"a = " + b"[" * 5_000,
    "JSON depth": b'{"a": ' + b"[" * 100_000,
    "closed depth": b"a = " + b"[" * 500 + b"]" * 500,
    "closed JSON depth": b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}",
    "dotted depth": b".".join([b"a"] * 3_000) + b" = 1",
    "latin-1": "name = 'é'".encode("latin-1"),
    "utf-16": "name = 'x'".encode("utf-16"),
    "byte order": b"\xef\xbb\xbfname = 'x'",
    "NUL": b'name = "a\\u0000b"',
    "raw NUL": b"name = 'a\0b'",
    "not finite": b"a = nan\nb = inf",
    "JSON not finite": b'{"a": NaN, "b": 1e999}',
    "half a pair": b'{"a": "\\ud800"}',
    "a date": b"name = 1979-05-27\n[host]\nmemory_reserve = 07:32:00\n",
    "large": b"#" * (17 << 20),
    "twice": b"a = 1\na = 2",
}


@pytest.mark.parametrize("reader", READERS)
def test_no_file_does_whatever_is_in_it_or_it_is(reader: str, tmp_path: Path) -> None:
    path = tmp_path / ("bridge.toml" if reader == "bridge.toml" else reader)
    for name, text in TEXTS.items():
        path.write_bytes(text)
        try:
            READERS[reader](path)
        except BridgeholdError as error:
            assert error.code != "internal", name
            assert error.where or str(path) in error.message, name
        path.unlink()
    os.mkfifo(path)
    _refused(reader, path)
    path.unlink()
    path.symlink_to("/dev/zero")
    _refused(reader, path)
    path.unlink()
    path.mkdir()
    _refused(reader, path)


def _refused(reader: str, path: Path) -> None:
    with pytest.raises(BridgeholdError) as caught:
        READERS[reader](path)
    assert caught.value.code != "internal"
    assert str(path) in caught.value.where


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(str.encode),
        st.sampled_from(list(TEXTS.values())[:-2]),
    )
)
def test_random_bytes_in_any_file_are_refused_as_ours(tmp_path: Path, data: bytes) -> None:
    for reader, read in READERS.items():
        path = tmp_path / reader
        path.write_bytes(data)
        try:
            read(path)
        except BridgeholdError as error:
            assert error.code != "internal"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[providers.x]\nbase_url = "ftp://example.com"', "providers.x: base_url"),
        ('[providers.x]\nbase_url = "https://u:p@example.com"', "providers.x: base_url"),
        ('[providers.x]\nbase_url = "http://example.com"', "providers.x: base_url"),
        ('[providers.x]\nbase_url = "https://example.com"\nauth = "cookie"', "providers.x: auth"),
        ("[principals.x]\nuids = [-1]", "principals.x.uids.0"),
        ("[principals.x]\nuids = [4294967295]", "principals.x.uids.0"),
        ('[principals.x]\ntenants = ["../x"]', "principals.x.tenants.0"),
        ('[principals.x]\ntenants = ["acme", "A*"]', "principals.x.tenants.1"),
        ('[bridges.x]\nprestart = ["../x"]', "bridges.x.prestart.0"),
        ('[bridges.x]\npolicy = "../../etc/x"', "bridges.x.policy"),
        ('[bridges.x]\nscripts = "relative"', "bridges.x.scripts"),
        ('[host]\nread_roots = ["relative"]', "host.read_roots.0"),
        ('[host]\ncgroup = "v3"', "host.cgroup"),
        ('[host]\nindex = "ftp://example.com/simple"', "host.index"),
        ('[host]\nmemory_reserve = "' + "9" * 400 + 'GiB"', "host.memory_reserve"),
        ("[host]\nuid_base = -1", "host.uid_base"),
        ("[host]\nuid_base = 4294967000", "host"),
        ("[features]\ntools = ['../x']", "features.tools"),
        ("[zygotes]\nmax_age_s = inf", "zygotes.max_age_s"),
    ],
)
def test_a_configuration_that_can_not_hold_is_refused_and_its_key_named(text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "config.toml")
    assert named in caught.value.message


@pytest.mark.parametrize("since", ["banana", "yesterdy", "2026-13-01", "2026-11-20T25:00", "1", "20:00"])
@pytest.mark.parametrize("command", [("audit", "query"), ("usage",)])
def test_a_time_that_is_none_is_no_search_without_a_find(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    since: str,
    command: tuple[str, ...],
) -> None:
    for option in ("--since", "--until"):
        monkeypatch.setattr(sys, "argv", ["bridgehold", *command, "--audit", str(tmp_path), option, since])
        assert guarded(lambda: app(prog_name="bridgehold", standalone_mode=False)) == 2
        assert "is no time" in capfd.readouterr().err


def test_all_that_the_command_line_shows_goes_through_one_place() -> None:
    """`render` spells out what a terminal could act on; each write beside it is safe by itself."""
    folder = Path(cli.__file__).parent
    beside = Counter(
        path.name
        for path in folder.glob("*.py")
        for line in path.read_text().splitlines()
        if not line.lstrip().startswith('"')
        and re.search(r"typer\.echo|std(out|err)\.(buffer\.)?write|(?<![.\w])print\(|Console\(", line)
    )
    del beside["render.py"]
    assert beside == {
        "asking.py": 1,  # the end of a line that a question left open
        "audit.py": 1,
        "audit_report.py": 1,  # a document, in which whatever is another's is escaped
        "border.py": 2,  # the help that a group shows without a command, and `stopped`
        "bridges.py": 1,
        "commands.py": 1,  # the version
        "main.py": 1,
        "observe.py": 2,
        "policy_learn.py": 1,  # TOML, of names and paths that fit their patterns
    }


def test_nothing_is_imported_from_the_folder_that_one_stands_in(tmp_path: Path) -> None:
    """It may be a stranger's: a private host is started from there, outside of every sandbox."""
    folder, home = tmp_path / "strangers", tmp_path / "home"
    folder.mkdir()
    for name in ("bridgehold", "argparse", "json", "msgspec", "signal", "sitecustomize", "typer"):
        (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'a').write({name!r})\n")
    done = subprocess.run(
        [
            Path(sys.executable).with_name("bridgehold"),
            "run",
            "python:execute",
            "--args",
            '{"code": "6 * 7"}',
        ],
        cwd=folder,
        env={**os.environ, "BRIDGEHOLD_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert not (folder / "ran").exists(), (folder / "ran").read_text()
    assert "42" in done.stdout, done.stderr


def test_each_interpreter_that_we_start_leaves_that_folder_out() -> None:
    source = Path(cli.__file__).parents[3]
    starts = {
        str(path.relative_to(source)): line
        for path in source.rglob("*.py")
        for line in re.findall(r"sys\.executable,\s*([^,\]]+)", path.read_text())
        if path.name != "handover.py"  # as it was started itself
        and "bridgehold_sdk" not in path.parts  # the guest says there what it shows as, and starts nothing
    }
    assert len(starts) >= 4
    assert {line.strip() for line in starts.values()} == {'"-P"', "*plans.INTERPRETER_FLAGS"}
