"""Code as people run it, through a whole host: one program, files in and out; and what hostile sides do with it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold import BridgeholdError, Client
from bridgehold.client.sync import SyncSession
from bridgehold.errors import LimitError, NotFoundError, PolicyError, ProtocolError, UsageError
from bridgehold.faces.cli import attached
from bridgehold.faces.cli import python as cli
from bridgehold.faces.cli.border import guarded
from bridgehold.faces.cli.commands import app
from hostile.stage import Stage, stage
from waiting import until

KINDS = [("root", "fork"), ("user", "cold")] if os.getuid() == 0 else [("self", "fork"), ("self", "cold")]
PATIENCE = 60
OWN = """
extends = "python"
[limits]
memory = "256MiB"
scratch = "64MiB"
file_size = "48MiB"
[tools]
allow = ["add", "artifact_*"]
[sandbox]
start = "{start}"
"""
NARROW = """
extends = "baseline"
[operations]
allow = ["python:execute"]
"""


@pytest.fixture(scope="module", params=KINDS, ids=[f"{kind}-{start}" for kind, start in KINDS])
def host(request: pytest.FixtureRequest) -> Iterator[Stage]:
    kind, start = request.param
    with stage(kind, start) as ready:
        ready.layout.policies.joinpath("python.toml").write_text(OWN.format(start=start))
        yield ready
        assert ready.events("start.fell_back") == []


@pytest.fixture
def session(host: Stage) -> Iterator[SyncSession]:
    with host.client.session("python") as session:
        yield session


def typed(
    host: Stage, *arguments: str, cwd: Path | None = None, **more: Any
) -> subprocess.CompletedProcess[bytes]:
    """`bridgehold ARGUMENTS`, of that host."""
    return subprocess.run(
        [sys.executable, "-m", "bridgehold", *arguments],
        env={**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent)},
        capture_output=True,
        check=False,
        timeout=PATIENCE,
        cwd=cwd or "/",
        **({"stdin": subprocess.DEVNULL} if "input" not in more else {}),
        **more,
    )


def test_a_program_runs_as_python_would_run_it(host: Stage, tmp_path: Path) -> None:
    tmp_path.joinpath("script.py").write_text(
        "import sys\nprint(__file__, sys.argv, file=sys.stderr)\n"
        "sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])\nopen('out', 'w').write('kept')\nsys.exit(7)\n"
    )
    given = bytes(range(256)) * 3000  # more than one pipe, and no text
    done = typed(host, "python", "--read", "out:copy", "script.py", "--x", "-c", cwd=tmp_path, input=given)
    assert (done.returncode, done.stdout) == (7, given[::-1]), done.stderr
    assert done.stderr.endswith(  # after what is said of a build, at a host's first use
        b"/scratch/script.py ['script.py', '--x', '-c']\n"
    )
    assert tmp_path.joinpath("copy").read_text() == "kept"
    done = typed(host, "python", "--file", f"{tmp_path}/script.py:d/m.py", "--env", "A=b", "-c",
                 "import os; print(os.environ['A'], os.listdir('d')); def_ = 1/0")  # fmt: skip
    assert (done.returncode, done.stdout) == (1, b"b ['m.py']\n")
    assert done.stderr.decode().splitlines()[:2] == [
        "Traceback (most recent call last):",
        '  File "<string>", line 1, in <module>',
    ]
    assert b"bridgehold" not in done.stderr
    done = typed(host, "python", "-", "a", input=b"import sys; print(sys.argv, repr(sys.stdin.read()))")
    assert done.stdout == b"['-', 'a'] ''\n", done.stderr
    opened = len(host.events("session.opened"))
    done = typed(host, "python", "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == 128 + signal.SIGKILL
    assert len(host.events("session.opened")) == opened + 1  # what was asked for ahead is what is used
    done = typed(host, "python", "--limit", "time=300ms", "-c", "while True: pass")
    assert done.returncode == 30  # `timeout`
    argv = ["sh", "-c", 'exec "$@" > /dev/full', "sh", sys.executable, "-m", "bridgehold", "python", "-c"]
    environ = {**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent)}
    lost = subprocess.run(
        [*argv, "print(1)"], env=environ, capture_output=True, check=False, timeout=PATIENCE
    )
    assert (lost.returncode, b"standard output" in lost.stderr) == (22, True), lost.stderr
    for wrong in (["--limit", "memory"], ["--env", "NOT_HERE"], ["--file", ":x"], ["no-such-file.py"]):
        done = typed(host, "python", *wrong, "-c", "pass")
        assert done.returncode == UsageError.exit_status, done
    until(lambda: not host.client.sessions(), 30)


def test_a_programs_output_comes_as_it_is_written_and_an_interrupt_reaches_it(host: Stage) -> None:
    code = (
        "import time\nprint('first')\nprint(input('? '))\n"
        "try:\n  while True: time.sleep(1)\nexcept KeyboardInterrupt: print('asked to stop'); raise SystemExit(5)"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "bridgehold", "python", "-c", code],
        env={**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"first\n"  # while it waits for its input
        process.stdin.write(b"typed later\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"? typed later\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"asked to stop\n"
        assert process.wait(PATIENCE) == 5
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_program_by_the_interface(session: SyncSession) -> None:
    def run(code: str, **more: Any) -> Any:
        return session.run("program", {"kind": "code", "text": code, **more})

    session.run("execute", {"code": "kept = 1"})
    assert run("import sys; print(sys.stdin.read(), len(sys.argv)); print('e', file=sys.stderr)",
               stdin="given", args=["a"]) == {
        "status": 0, "signal": 0, "stdout": "given 2\n", "stderr": "e\n", "truncated": False,
    }  # fmt: skip
    assert "EOFError" in run("input()")["stderr"]
    assert "NameError" in run("display")["stderr"]
    assert "NameError" in run("kept")["stderr"]  # a `__main__` of its own
    flood = run("print('x' * 10_000_000)")
    assert flood["truncated"]
    assert len(flood["stdout"]) < 200_000
    assert run("import os; os._exit(9)")["status"] == 9
    assert (
        run("import os, time\nif not os.fork(): time.sleep(600)")["status"] == 0
    )  # its child is not waited for
    for env in ({"MY_TOKEN": "x"}, {"DB_PASSWORD": "x"}, {"A=B": "x"}, {"": "x"}):
        with pytest.raises(BridgeholdError) as refused:
            run("pass", env=env)
        assert refused.value.code in ("usage", "denied")
    with pytest.raises(BridgeholdError) as late:
        session.call("program", {"kind": "code", "text": "while True: pass"}, deadline_ms=300)
    assert (late.value.code, late.value.traceback) == ("timeout", "") or "pump" not in late.value.traceback
    assert session.run("execute", {"code": "kept"})["value"] == 1
    assert session.run("execute", {"code": "import os; os.listdir('/proc/self/fd')"})["value"] is not None


def test_a_command_is_a_program_by_its_name(session: SyncSession) -> None:
    with pytest.raises(UsageError, match="argv is a list") as refused:
        session.command("ls -l")  # a text is a sequence too: of letters
    assert refused.value.hint == "Give ['ls', '-l']."
    with pytest.raises(UsageError, match="a file is bytes or text"):
        session.files.write("x", 3)  # type: ignore[arg-type]  # what a caller may do all the same

    def run(*argv: str, **more: Any) -> Any:
        return session.run("command", {"argv": list(argv), **more})

    assert run("sort", "-r", stdin="a\nb\n") == {
        "status": 0, "signal": 0, "stdout": "b\na\n", "stderr": "", "truncated": False,
    }  # fmt: skip
    assert run("sh", "-c", "pwd; echo $WORD >&2; exit 3", cwd="/tmp", env={"WORD": "in"}) == {
        "status": 3, "signal": 0, "stdout": "/tmp\n", "stderr": "in\n", "truncated": False,
    }  # fmt: skip
    assert run("cat")["stdout"] == ""  # nobody gives it input
    assert [run("sh", "-c", "kill -9 $$")[name] for name in ("status", "signal")] == [137, 9]
    assert run("sh", "-c", "ls /proc/self/fd | wc -l; ulimit -c")["stdout"].split() == ["4", "0"]
    for argv in ([], ["no-such-program"], ["/etc/passwd"], ["sh\0"]):
        with pytest.raises(BridgeholdError) as refused:
            session.run("command", {"argv": argv})
        assert refused.value.code == "usage"
    pieces = list(session.stream("command", {"argv": ["sh", "-c", "echo 1; sleep 0.2; echo 2"]}))
    assert [one["data"] for one in pieces if one["type"] == "chunk"] == [
        {"stream": "stdout", "text": "1\n"},
        {"stream": "stdout", "text": "2\n"},
    ]
    with pytest.raises(BridgeholdError) as late:
        session.run("command", {"argv": ["sleep", "600"]}, deadline_ms=300)
    assert late.value.code == "timeout"
    assert "sleep" not in run("sh", "-c", "cat /proc/[0-9]*/comm 2>/dev/null")["stdout"].split()


def test_a_stream_keeps_the_pace_of_who_reads_it_and_loses_nothing(host: Stage, session: SyncSession) -> None:
    code = (
        "import hashlib, sys\nd = b'0123456789abcdef' * 4096\nfor _ in range(320): sys.stdout.buffer.write(d)"
    )
    found = hashlib.sha256()
    read = 0
    for event in session.stream("program", {"kind": "code", "text": code}):
        if event["type"] == "chunk":
            found.update(event["data"]["text"].encode())
            read += len(event["data"]["text"])
    assert read == 320 * 65536
    assert found.hexdigest() == hashlib.sha256(b"0123456789abcdef" * 4096 * 320).hexdigest()
    assert host.client.alive


def test_files_go_in_and_out(host: Stage, session: SyncSession, tmp_path: Path) -> None:
    files = session.files
    fact = files.write("in/a.txt", "hällo")
    assert (fact.kind, fact.size_bytes, fact.mode) == ("file", 6, 0o644)
    big = os.urandom(5_000_000)
    files.write("in/deep/er/big", big, mode=0o600)
    assert files.read("in/deep/er/big") == big
    assert files.read("in/deep/er/big", offset=4_999_990, length=100) == big[-10:]
    assert sum(map(len, files.parts("in/deep/er/big"))) == len(big)
    assert [one.path for one in files.list(depth=4)] == [
        "in", "in/a.txt", "in/deep", "in/deep/er", "in/deep/er/big"
    ]  # fmt: skip
    assert [one.path for one in files.list("in")] == ["in/a.txt", "in/deep"]
    assert dict(files.folder("in")) == {"a.txt": "hällo".encode(), "deep/er/big": big}
    assert session.run("execute", {"code": "open('in/a.txt').read()"})["value"] == "hällo"
    assert files.get("in", tmp_path / "out") == 2
    assert tmp_path.joinpath("out/deep/er/big").read_bytes() == big
    assert files.put(tmp_path / "out", "again") == 2
    assert files.rename("again/a.txt", "moved").size_bytes == 6
    assert files.mkdir("x/y").kind == "folder"
    files.remove("x/y")
    files.remove("again", recursive=True)
    with pytest.raises(NotFoundError):
        files.stat("again")
    with pytest.raises(BridgeholdError):
        files.remove("in")  # it isn't empty
    with host.client.session("python", files={"data/x.csv": "1,2\n", "y": tmp_path / "out/a.txt"}) as given:
        said = given.run("execute", {"code": "open('data/x.csv').read(), open('y').read()"})
        assert said["value"] == ["1,2\n", "hällo"]


def test_a_file_is_whole_or_not_there_though_the_policy_changes_under_way(host: Stage) -> None:
    policy = host.layout.policies / "python.toml"
    before, data, pace = policy.read_text(), os.urandom(24 << 20), threading.Event()

    def change() -> None:
        for count in range(4):  # half as often as a grant is looked for again
            pace.wait(0.01)  # at any place of the transfer: none is meant
            anew = policy.with_suffix(".new")
            anew.write_text(f"{before}# {count}\n")
            anew.replace(policy)

    changing = threading.Thread(target=change)
    with host.client.session("python") as session:
        changing.start()
        try:
            session.files.write("big", data)
            refused = False
        except PolicyError:  # it changed while it was read
            refused = True
        finally:
            changing.join()
            policy.write_text(before)
        if refused:
            with pytest.raises(NotFoundError):
                session.files.stat("big")
            session.files.write("big", data)
        code = "import hashlib\nhashlib.sha256(open('big', 'rb').read()).hexdigest()"
        assert session.execute(code)["value"] == hashlib.sha256(data).hexdigest()


def test_a_part_out_of_its_order_is_refused_and_the_digest_is_of_all_parts(session: SyncSession) -> None:
    part = os.urandom(3 << 20)
    first = {"path": "two", "base64": base64.b64encode(part).decode(), "last": False}
    second = {"path": "two", "base64": "AAAA", "offset": len(part)}
    session.run("files_write", first)
    with pytest.raises(UsageError, match="not where the next part begins"):
        session.run("files_write", {**second, "offset": 1})
    with pytest.raises(NotFoundError):
        session.run("files_write", second)  # nothing of it is kept
    session.run("files_write", first)
    said = session.run("files_write", second)
    assert said["digest"] == f"sha256:{hashlib.sha256(part + bytes(3)).hexdigest()}"
    assert said["size_bytes"] == session.files.stat("two").size_bytes == len(part) + 3


def test_files_by_the_asynchronous_interface(host: Stage) -> None:
    async def act() -> None:
        async with (
            Client.connect(host.layout.socket) as client,
            client.session("python", files={"a": b"1"}) as session,
        ):
            assert await session.files.read("a") == b"1"
            assert [data async for data in session.files.parts("a")] == [b"1"]
            assert [one async for one in session.files.folder()] == [("a", b"1")]
            assert await session.files() == await session.artifacts() == []

    asyncio.run(act())


def test_files_by_the_command_line(
    host: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRIDGEHOLD_HOME", str(host.layout.config.parent))

    def run(words: str) -> list[str] | None:
        """The paths that it shows; None where it fails."""
        monkeypatch.setattr(sys, "argv", ["bridgehold", "files", "shown", *words.split()])
        failed = guarded(lambda: app(prog_name="bridgehold", standalone_mode=False))
        out = capfd.readouterr().out
        return None if failed else [one["path"] for one in json.loads(out or "[]")]

    with host.client.session("python", name="shown", files={"a": b"1", "f/b": b"22"}):
        assert run("ls --depth 2 --json") == ["a", "f", "f/b"]
        for words in ("get f/b", "get f copy", "put copy/b c", "rm a", "mv c d", "mkdir g"):
            assert run(words) == [], words
        assert run("ls --json") == ["d", "f", "g"]
        assert [run(words) for words in ("rm f", "rm --recursive f", "get nothing", "frob", "get")] == [
            None, [], None, None, None
        ]  # fmt: skip
        assert tmp_path.joinpath("copy/b").read_bytes() == tmp_path.joinpath("b").read_bytes() == b"22"


def test_the_audit_has_size_and_digest_of_what_passed_and_nothing_of_it(
    host: Stage, session: SyncSession
) -> None:
    secret = b"the merger closes on friday " * 40 + b"sk-proj-" + os.urandom(24).hex().encode()
    session.files.write("memo", secret)
    assert session.files.read("memo") == secret  # nor is anything in it taken for a key of the caller's
    with pytest.raises(BridgeholdError):
        session.run("files_write", {"path": "memo", "base64": "c2VjcmV0IG1lbW8=", "offset": -1})
    digest = hashlib.sha256(secret).hexdigest()
    intents = [event for event in host.events("command.") if event["session"] == session.id]
    written = next(event for event in intents if "files_write" in str(event.get("operation")))
    assert f"{len(secret)} bytes, sha256:{digest}" in str(written["arguments_preview"])
    text = b"".join(file.read_bytes() for file in host.layout.audit.rglob("*") if file.is_file())
    for part in (b"merger", b"c2VjcmV0IG1lbW8", b"bWVyZ2Vy"):
        assert part not in text


def add(a: int, b: int = 2) -> int:
    """Adds two numbers."""
    if a < 0:
        raise ValueError("negative")
    if a > 99:
        raise type("Odd", (Exception,), {})("too large")
    return a + b


def test_tools_are_names_in_the_code(host: Stage) -> None:
    def hidden() -> int:
        return 1

    with host.client.session("python", tools=[add, hidden]) as session:

        def value(code: str) -> object:
            return session.execute(code)["value"]

        assert value("add(1), add(1, b=5), add(b=1, a=1)") == [3, 6, 2]
        assert value("import inspect\n[str(inspect.signature(add)), add.__doc__, add.__name__]") == [
            "(a, b=2)", "Adds two numbers.", "add"
        ]  # fmt: skip
        assert value("import asyncio\nsum(await asyncio.gather(*(add(n) for n in range(5))))") == 20
        threads = "from concurrent.futures import ThreadPoolExecutor\nlist(ThreadPoolExecutor(4).map(add, range(3)))"
        assert value(threads) == [2, 3, 4]
        assert value("try: add(-1)\nexcept ValueError as e: caught = str(e)\ncaught") == "negative"
        assert value("try: add(100)\nexcept Exception as e: caught = type(e).__name__, str(e)\ncaught") == [
            "Odd", "too large"
        ]  # fmt: skip
        for wrong in ("add()", "add(1, 2, 3)", "add(1, a=1)", "add('x')", "add(1, c=2)"):
            assert value(f"try: {wrong}\nexcept Exception as e: caught = type(e).__name__\ncaught") in (
                "TypeError", "ToolError"
            ), wrong  # fmt: skip
        with pytest.raises(BridgeholdError) as refused:  # the policy grants no `hidden`
            session.execute("hidden()")
        assert refused.value.message.startswith("NameError")
        kept = value(
            "kept = artifacts.put(b'bytes', name='b')['digest']\n[artifacts.get(kept).decode(), len(artifacts.list())]"
        )
        assert kept == ["bytes", 1]
        assert value("add = 5\nadd") == 5
        assert value("add") == 5  # what the code has bound stays


def test_input_and_variables_by_the_interface(host: Stage, session: SyncSession) -> None:
    lines = iter(["ada", "lovelace", None])
    prompts: list[str] = []

    def ask(prompt: str) -> str | None:
        prompts.append(prompt)
        return next(lines)

    said = session.execute("import sys\n[input('first? '), input('last? '), sys.stdin.read()]", stdin=ask)
    assert said["value"] == ["ada", "lovelace", ""]
    assert said["stdout"] == "first? last? "
    assert prompts[:2] == ["first? ", "last? "]
    with pytest.raises(BridgeholdError) as ended:
        session.execute("input()", stdin=lambda _: None)
    assert ended.value.message.startswith("EOFError")
    with pytest.raises(BridgeholdError, match="asked of the caller, and comes from no descriptor"):
        session.execute("import subprocess\nsubprocess.run(['cat'], stdin=sys.stdin)", stdin=lambda _: None)
    child = "subprocess.check_output(['cat'], text=True)"
    facts = "[sys.stdin.fileno(), sys.stdin.name, sys.stdin.errors, os.read(0, 1) == b'']"
    found = session.execute(
        f"import os\n[{child}, os.lseek(0, 0, 0), input('? '), *sys.stdin, {facts}]", stdin="é\nb\n"
    )
    assert (found["value"], found["stdout"]) == (
        ["é\nb\n", 0, "é", "b\n", [0, "<stdin>", "surrogateescape", True]],
        "? ",
    ), found
    assert session.execute(f"[{child}, sys.stdin.name]")["value"] == ["", "<stdin>"]
    now = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    odd = {"$bytes": "eA=="}  # what something else is sent as
    back = session.execute("seen = type(odd).__name__", variables={"odd": odd}, returns=("odd", "seen"))
    assert back["variables"] == {"odd": odd, "seen": "dict"}
    given = {"nan": math.nan, "raw": b"\0\xff", "now": now, "far": 2**70, "deep": [{"x": -math.inf}]}
    back = session.execute(
        "kept = [nan != nan, raw, now, far, deep]", variables=given, returns=("kept", "sys")
    )
    assert back["variables"]["kept"] == [True, b"\0\xff", now, 2**70, [{"x": -math.inf}]]
    assert "repr" in back["variables"]["sys"]

    async def act() -> object:
        async with Client.connect(host.layout.socket) as client, client.session("python") as own:
            return (await own.execute("input('n? ') * 2", stdin=lambda _: "3"))["value"]

    assert asyncio.run(act()) == "33"
    shown = [
        event["data"]["display"]["text/plain"] if event["type"] == "chunk" else event.get("text")
        for event in session.stream("execute", {"code": "print('a')\ndisplay(1)\nprint('b')\ndisplay(2)"})
        if event["type"] in ("chunk", "output")
    ]
    text = "".join(map(str, shown))  # what was written before a picture comes before it
    assert text.index("a") < text.index("1") < text.index("2")
    assert text.index("b") < text.index("2")


def test_a_process_goes_on_behind_the_commands_that_follow(host: Stage) -> None:
    with host.client.session("python") as session:
        lines = session.command(
            ["sh", "-c", "while read x; do echo got $x; echo also >&2; done; exit 4"],
            background=True,
            env={"A": "b"},
        )
        assert session.execute("6 * 7")["value"] == 42  # while it runs
        lines.write("one\n")
        assert next(iter(lines.output())) == b"got one\n"
        lines.write(b"two\n", eof=True)
        assert b"".join(lines.output()) == b"got one\ngot two\n"
        assert b"".join(lines.output(stream="stderr")) == b"also\n" * 2
        ended = lines.wait()
        assert (ended.status, ended.signal, ended.written) == (4, 0, {"stdout": 16, "stderr": 10})
        with pytest.raises(BridgeholdError):
            lines.write("more")
        loud = session.command(["sh", "-c", "head -c 1000000 /dev/zero; kill -9 $$"], background=True)
        assert (loud.wait().status, loud.wait().signal) == (137, 9)
        part = loud.read(10)
        assert (part.lost, part.offset + len(part.data)) == (1000000 - 262144 - 10, 1000000)
        assert part.end
        with pytest.raises(LimitError):
            list(loud.output())
        deaf = session.command(["sleep", "31536001"], background=True)
        asked = {"process": deaf.number, "text": "x" * (1 << 20)}
        assert session.run("process_write", asked)["written"] < 1 << 20  # and nobody waits for it
        fed = session.command(["cat"], background=True, stdin="all")
        assert b"".join(fed.output()) == b"all"
        assert [one.number for one in session.processes()] == [1, 2, 3, 4]
        deaf.send_signal("INT")
        assert deaf.wait().signal == signal.SIGINT
        # A copy of the interpreter holds nobody's input open.
        held = session.command(["cat"], background=True)
        copy = session.command([sys.executable.rpartition("/")[2], "-c", "pass"], background=True)
        assert copy.wait().running is False
        session.execute("import os\nif os.fork() == 0:\n    import time; time.sleep(600)")
        held.write("", eof=True)
        events = session.stream("process_attach", {"process": held.number, "wait_ms": 20_000})
        assert list(events)[-1]["value"]["running"] is False
        for wrong in (
            {"process": 99}, {"process": held.number, "offset": 5}, {"process": held.number, "stream": "x"}
        ):  # fmt: skip
            with pytest.raises(BridgeholdError) as refused:
                session.run("process_read", wrong)
            assert refused.value.code in ("not_found", "usage", "invalid_input"), refused.value
        for arguments in ({"argv": ["no-such"]}, {"argv": ["true"], "env": {"API_KEY": "x"}}, {"argv": []}):
            with pytest.raises(BridgeholdError) as refused:
                session.run("process_start", arguments)
            assert refused.value.code in ("usage", "invalid_input", "denied"), refused.value
        with contextlib.suppress(UsageError):
            for _ in range(17):
                session.command(["sleep", "31536001"], background=True)
            pytest.fail("there is no bound")
        assert len(session.processes()) == 16
        assert session.execute("1")["value"] == 1
        text = b"31536001"
        assert running(text)
    until(lambda: not running(text), 30)  # they end with their session


def running(text: bytes) -> bool:
    """Whether the command line of any process has `text`."""
    found = False
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found = found or text in place.read_bytes().split(b"\0")
    return found


def test_a_terminal_in_the_place_of_streams(session: SyncSession) -> None:
    said = session.command(
        ["sh", "-c", "stty size; test -t 0 && test -t 2 && echo yes >&2; read x; echo $x $TERM"],
        stdin="typed\n",
        terminal=(11, 22),
    )
    assert said["status"] == 0
    for shown in ("11 22", "yes", "typed xterm-256color"):
        assert shown in said["stdout"]
    shell = session.command(["sh", "-i"], terminal=(24, 80), background=True)
    shell.resize(30, 100)
    shell.write("stty size; trap 'echo caught' INT; sh -c 'echo read\"\"y; exec sleep 600'\n")
    seen = b""
    for data in shell.output():
        seen += data
        if b"ready" in seen:
            break
    assert b"30 100" in seen
    shell.write("\x03")
    shell.write("\x04")
    assert b"caught" in b"".join(shell.output())
    assert shell.wait().running is False
    with pytest.raises(BridgeholdError):
        session.command(["cat"], background=True).resize(1, 1)
    for size in ((0, 80), (24, 70000)):
        with pytest.raises(BridgeholdError):
            session.command(["true"], terminal=size)
    held = [session.command(["sleep", "600"], terminal=(9, 9), background=True) for _ in range(12)]
    assert len(held) == 12
    with pytest.raises(BridgeholdError) as none:
        session.execute("import os\nheld = [os.openpty() for _ in range(16)]")
    assert none.value.message.startswith("OSError")  # sixteen are all that a sandbox has


def test_processes_and_a_notebooks_questions_by_the_asynchronous_interface(host: Stage) -> None:
    async def act() -> None:
        async with Client.connect(host.layout.socket) as client, client.session("python") as session:
            process = await session.command(["cat"], background=True)
            await process.write(b"\0\xff", eof=True)
            assert [data async for data in process.output()] == [b"\0\xff"]
            assert (await process.wait()).status == 0
            assert [one.argv for one in await session.processes()] == [["cat"]]
            heard: list[Any] = []
            lines = iter(["a", None])
            said = await session.command(["cat"], stdin=lambda _: next(lines), on_event=heard.append)
            assert (said["status"], said["stdout"]) == (0, "a\n")
            assert any(event["type"] == "chunk" for event in heard)
            await session.execute("import math\nvalue = 1")
            assert "math.sqrt" in (await session.complete("math.sq"))["matches"]
            assert (await session.inspect("math.sqrt"))["found"]

    asyncio.run(act())


def test_what_a_policy_does_not_grant_is_refused(host: Stage) -> None:
    file = host.layout.policies / "python@narrow.toml"
    file.write_text(NARROW)
    with host.client.session("python", tenant="narrow") as session:
        assert session.run("execute", {"code": "1"})["value"] == 1
        for operation, arguments in (
            ("files_list", {}),
            ("files_read", {"path": "x"}),
            ("files_write", {"path": "x", "base64": ""}),
            ("program", {"kind": "code", "text": "pass"}),
            ("command", {"argv": ["true"]}),
            ("process_start", {"argv": ["true"]}),
            ("process_attach", {"process": 1}),
        ):
            with pytest.raises(BridgeholdError) as refused:
                session.run(operation, arguments)
            assert (refused.value.code, "default-deny" in refused.value.message) == ("denied", True)


@pytest.mark.parametrize(
    "form",
    [
        "_repr_html_(self): return 'x' * (1 << 30)",
        "_repr_mimebundle_(self, **_): return {'a/b': bytearray(1 << 30)}",
    ],
)
def test_a_form_of_a_gibibyte_ends_no_session_but_its_own(
    host: Stage, session: SyncSession, form: str
) -> None:
    session.execute("kept = 5")
    with host.client.session("python") as hostile:
        try:
            said = hostile.execute(f"class Huge:\n    def {form}\nHuge()")
        except BridgeholdError as error:
            assert error.code == "memory", error  # the kernel counts it, before anybody here does
        else:
            assert said["forms"]["left_out"], said
            assert hostile.execute("1")["value"] == 1
    assert session.execute("kept")["value"] == 5


def test_hostile_files_reach_nobody_outside(session: SyncSession, tmp_path: Path) -> None:
    session.run(
        "execute",
        {
            "code": "import os, socket\n"
            "os.makedirs('d/e'); os.symlink('/etc/passwd', 'd/link'); os.symlink('.', 'd/loop'); os.mkfifo('d/pipe')\n"
            "socket.socket(socket.AF_UNIX).bind('d/sock')\n"
            "os.makedirs(b'd/\\xff\\xfe'); open(b'd/\\xff\\xfe/in', 'w').close(); open('d/new\\nline', 'w').write('n')\n"
            "os.truncate(os.open('d/sparse', os.O_CREAT | os.O_RDWR), 40 << 20)\n"
            "os.utime('d/e', (2**40, 2**40))"
        },
    )
    files = session.files
    kinds = {one.path: one.kind for one in files.list("d", depth=32)}
    assert kinds["d/link"] == kinds["d/loop"] == "link"
    assert kinds["d/pipe"] == kinds["d/sock"] == "other"
    assert not any(path.startswith("d/loop/") for path in kinds)  # no link is followed
    [odd] = [one for one in files.list("d") if one.raw]
    assert odd.path == "d/\\xff\\xfe"
    inside = session.run("files_list", {"path": odd.raw, "raw": True})["entries"]
    assert session.run("files_read", {"path": inside[0]["raw"], "raw": True})["base64"] == ""
    for path in ("d/pipe", "d/sock", "/dev/zero", "/dev/stdin", "d"):
        with pytest.raises(BridgeholdError) as refused:
            files.read(path)
        assert refused.value.code == "usage"
    assert files.get("d", tmp_path / "out") == 2  # no link, no pipe, no odd name
    assert sorted(one.name for one in tmp_path.joinpath("out").rglob("*")) == ["e", "new\nline", "sparse"]
    assert len(files.read("d/sparse", length=1000)) == 1000
    with pytest.raises(LimitError):
        list(files.folder("d", most_bytes=1 << 20))
    with pytest.raises(BridgeholdError):
        files.write("/etc/x", b"1")
    with pytest.raises(BridgeholdError):
        files.write("a\0b", b"1")
    before = [one.path for one in files.list("d")]
    for path in ("d/new/", "d/..", ".", ""):
        with pytest.raises(UsageError):
            files.write(path, b"1")
    with pytest.raises(UsageError):
        files.read("d/sparse", offset=2**63)
    assert [one.path for one in files.list("d")] == before  # no part of a file stays
    files.write("d/link", b"own")  # in the link's place, not through it
    assert files.stat("d/link").kind == "file"
    floods = (
        "import errno\nfound = []\nos.makedirs('many'); open('many/0', 'w').close()\n"
        "try: os.truncate('many/0', 1 << 40)\n"
        "except OSError as error: found.append(error.errno == errno.EFBIG)\n"
        "try:\n    for n in range(1, 1_000_000): os.link('many/0', f'many/{n}')\n"
        "except OSError as error: found += [error.errno == errno.ENOSPC, n > 10_000]\n"
        "found"
    )  # neither a terabyte nor a million entries is to be had
    assert session.run("execute", {"code": floods})["value"] == [True, True, True]
    with pytest.raises(LimitError):
        files.list("many")
    assert session.run("files_list", {"path": "many", "most": 5})["truncated"]


def test_a_listing_that_lies_writes_nothing_elsewhere(session: SyncSession, tmp_path: Path) -> None:
    """The guest's own code may answer in the place of ours: what it says is believed by nobody outside."""
    lie = (
        "import bridgehold_sdk.files as f\n"
        "def fact(path, kind='file', **more): return dict(path=path, kind=kind, size_bytes=1, **more)\n"
        "f._fact = lambda place: fact('d', 'folder')\n"
        "import python_bridge\n"
        "python_bridge.PythonBridge.files_list = lambda self, **_: dict(entries=[fact({path!r}, {kind!r})], truncated=False)\n"
        "python_bridge.PythonBridge.files_read = lambda self, **_: dict(base64='eA==', offset=0, size_bytes=1, end=True)\n"
    )
    for number, (path, kind) in enumerate(
        [
            ("d/../../evil", "file"),
            ("/etc/evil", "file"),
            ("d/..", "folder"),
            ("d//x", "file"),
            ("e", "file"),
            ("d", "no"),
        ]
    ):
        session.run("execute", {"code": lie.replace("{path!r}", repr(path)).replace("{kind!r}", repr(kind))})
        with pytest.raises(BridgeholdError) as refused:
            session.files.get("d", tmp_path / f"out{number}")
        assert refused.value.code == "protocol", refused.value
        with pytest.raises(BridgeholdError) as refused:  # nor is a path that leads elsewhere given to anybody
            list(session.files.folder("d"))
        assert refused.value.code == "protocol", refused.value
    for facts in ("{}", "dict(process='x')", "[]"):
        session.run(
            "execute", {"code": f"python_bridge.PythonBridge.process_start = lambda self, **_: {facts}"}
        )
        session.run(
            "execute", {"code": f"python_bridge.PythonBridge.process_list = lambda self, **_: {facts}"}
        )
        for ask in (lambda: session.command(["cat"], background=True), session.processes):
            with pytest.raises(BridgeholdError) as refused:
                ask()
            assert refused.value.code == "protocol", refused.value
    growing = "python_bridge.PythonBridge.files_read = lambda self, **a: dict(base64='eHh4eA==', offset=0, size_bytes=1, end=False)"
    session.run("execute", {"code": growing})
    assert session.files.read("grows", length=10) == b"xxxxxxxxxx"
    several = "python_bridge.PythonBridge.files_list = lambda self, **_: dict(entries=[fact(one) for one in {}], truncated=False)"
    session.run("execute", {"code": several.format(["d/x", "d/y"])})
    with pytest.raises(LimitError):  # in all, and not for each
        session.files.get("d", tmp_path / "large", most_bytes=100)
    assert (tmp_path / "large/x").stat().st_size == 100
    for names in (["d/x/y"], ["d/x", "d/x"], ["d/" + 300 * "x"]):
        session.run("execute", {"code": growing.replace("False", "True") + "\n" + several.format(names)})
        with pytest.raises(ProtocolError):
            session.files.get("d", tmp_path / f"odd{len(names[0])}{len(names)}")
    session.run("execute", {"code": growing.replace("eHh4eA==", "")})
    with pytest.raises(ProtocolError):  # the end is no guess
        session.files.read("x")
    session.run("execute", {"code": growing.replace("eHh4eA==", "no base64")})
    with pytest.raises(BridgeholdError):
        session.files.read("x")
    made = sorted(one.name for one in tmp_path.rglob("*") if "odd" not in str(one))
    assert made == ["large", *(f"out{number}" for number in range(6)), "x"]


def test_the_command_line_believes_no_session_that_lies(tmp_path: Path) -> None:
    class Lies:
        """What comes over the socket, of a bridge that is hostile."""

        def __init__(self, said: object) -> None:
            self.said = said

        def request(self, *_: object) -> object:
            return {"value": self.said}

    program = cli._Program("python", "local", 0, {}, [], [], {})
    odd: list[object] = [{"base64": "", "end": False}, {"base64": "%", "end": True}, {}, [], 1]
    for number, said in enumerate(odd):
        with pytest.raises(ProtocolError):
            cli._get(Lies(said), "s", program, "x", tmp_path / str(number))  # type: ignore[arg-type]  # no socket
    written = attached.Written()
    for piece in ({"display": {}}, {"stream": "x"}, {"stream": []}, {"stream": "stdout", "text": 1}, "x", 1):
        with pytest.raises(ProtocolError):
            written({"type": "chunk", "data": piece})


def test_a_program_that_reads_no_input_takes_none_from_its_caller(host: Stage) -> None:
    bash = f'{sys.executable} -m bridgehold python -c "print(6 * 7)"; cat'
    done = subprocess.run(
        ["bash", "-c", bash],
        input=b"the next one's\n",
        capture_output=True,
        env={**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent)},
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout == b"42\nthe next one's\n"
    code = "import os, subprocess\nprint(os.read(0, 3)); subprocess.run(['cat'])"
    assert typed(host, "python", "-c", code, input=b"12345").stdout == b"b'123'\n45"


def test_a_program_ends_with_its_caller(host: Stage) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bridgehold", "python", "-c", "print('up'); import time; time.sleep(600)"],
        env={**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.kill()
    process.wait()
    process.stdout.close()
    until(lambda: not host.client.sessions(), 30)
