"""`bridgehold shell python` at a terminal: what is typed, and what is shown."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgehold.errors import UsageError
from bridgehold.faces.cli.ahead import whose
from bridgehold.faces.cli.shell import whole
from bridgehold.faces.cli.terminal import Drawn
from hostile.stage import KINDS_OF_HOSTS, Stage, stage
from waiting import until

PATIENCE = 60.0
SEQUENCES = [
    *(
        b"\x1b[1;31m",
        b"\x1b[6n",
        b"\x1b]52;c;eA==\x07",
        b"\x1b]0;",
        b"\x1b\\",
        b"\x1bP",
        b"\x1b[?1049h",
        b"\x1b[",
        b"\x1b",
    ),
    *("ä€".encode(), b"\xc3", b"\x9b", b"\x1b(", b"\x1bc", b"text"),
]
_STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


def _take_terminal() -> None:
    """In the child: the terminal is its own, and Ctrl-C is not ignored, as it is of what runs in a background."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """The shell on a terminal of its own, which it controls: Ctrl-C is a signal to it."""

    def __init__(self, host: Stage, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self._seen = ""
        self.raw = ""
        environment = {**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent), "TERM": "xterm"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bridgehold", "shell", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - one thread is here
        )
        os.close(theirs)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def until(self, text: str) -> str:
        """What was shown up to `text`, which is taken away."""
        end = time.monotonic() + PATIENCE
        while text not in self._seen:
            ready, _, _ = select.select([self._ours], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {text!r} in {self._seen!r}"
            try:
                text_read = os.read(self._ours, 4096).decode(errors="replace")
            except OSError as error:
                raise AssertionError(f"it ended: {self._seen!r}") from error
            self.raw += text_read
            self._seen += _STYLE.sub("", text_read)
        before, _, self._seen = self._seen.partition(text)
        return before

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def asked(self, keys: str, answer: str) -> bool:
        """Whether `keys` are answered by a line that is `answer`."""
        self.type(keys)
        self.until("\n")
        return answer in self.until("$ ")

    def close(self) -> int:
        with contextlib.suppress(OSError):
            self.type("\x04")
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            os.close(self._ours)


@pytest.fixture(
    scope="module",
    params=[(KINDS_OF_HOSTS[0], "cold"), (KINDS_OF_HOSTS[-1], "fork")],
    ids=["cold", "fork"],
)
def host(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Root's and an ordinary user's."""
    kind, start = request.param
    with stage(kind, start) as ready:
        policy = 'extends = "baseline"\n[operations]\nallow = ["python:*"]\n[sandbox]\nstart = "{}"\n'
        (ready.layout.policies / "python.toml").write_text(policy.format(start))
        yield ready


def test_blocks_history_completion_and_interrupts(host: Stage) -> None:
    terminal = Terminal(host, "python")
    terminal.until("python> ")
    terminal.type("def twice(x):\r")
    terminal.until("......> ")
    terminal.type("    return 2 * x\r")
    terminal.until("......> ")
    terminal.type("\r")
    terminal.until("python> ")
    terminal.type("twice(21)\r")
    terminal.until("\n42\n")
    terminal.until("python> ")
    terminal.type("a_long_name = 17\r")
    terminal.until("python> ")
    terminal.type("a_long\t + 1\r")  # by the session's own names
    terminal.until("\n18\n")
    terminal.until("python> ")
    terminal.type("_ + 1\r")  # a completion is no value
    terminal.until("\n19\n")
    terminal.until("python> ")
    terminal.type("x = (1,\r2,\r3)\r")
    terminal.until("python> ")
    terminal.type("\x1b[A\x1b[A\x1b[A\x1b[A\r")  # four lines up: `_ + 1`
    terminal.until("\n20\n")
    terminal.until("python> ")
    terminal.type("import time\r")
    terminal.until("python> ")
    terminal.type("print('waits', flush=True) or time.sleep(100)\r")
    terminal.until("\n")
    until(lambda: any(session.state == "busy" for session in host.client.sessions()))
    terminal.type("\x03")
    terminal.until("KeyboardInterrupt")
    terminal.until("python> ")
    terminal.type("len(x\x03")
    terminal.until("KeyboardInterrupt")
    terminal.until("python> ")
    terminal.type("a_long_name, len(x)\r")  # the session lives, with its names
    terminal.until("\n(17, 3)\n")
    terminal.until("python> ")
    terminal.type("1 +\r")
    terminal.until("SyntaxError")
    terminal.until("python> ")
    assert terminal.close() == 0
    if host.kind == KINDS_OF_HOSTS[0]:  # the caller's own, and no other user's host's
        history = host.layout.state / "shell-history"
        assert history.stat().st_mode & 0o077 == 0
        assert "a_long_name = 17" in history.read_text()


def test_a_program_of_the_sandboxs_at_this_terminal(host: Stage) -> None:
    terminal = Terminal(host, "--terminal", "python", "--", "sh", "-i")
    terminal.until("$ ")
    terminal.type("echo $((6 * 7)); tty\r")
    terminal.until("42\n/dev/pts/0\n")
    terminal.resize(33, 99)
    until(lambda: terminal.asked("stty size\r", "33 99"))
    terminal.type("sleep 600\r")
    terminal.until("sleep 600\n")
    terminal.type("\x03")
    terminal.until("$ ")
    terminal.type(
        "printf '\\033]52;c;ZXZpbA==\\007\\033[6n\\033[31mred\\n'\r"
    )  # the clipboard, the cursor's place
    terminal.until("red\n")
    assert "ZXZpbA==\x07" not in terminal.raw
    assert "\x1b[6n" not in terminal.raw
    assert "\x1b[31m" in terminal.raw
    terminal.type("exit 7\r")
    assert terminal.process.wait(PATIENCE) == 7
    terminal.close()
    until(lambda: not host.client.sessions())


@settings(deadline=None)
@given(st.lists(st.binary(max_size=12) | st.sampled_from(SEQUENCES), max_size=12), st.integers(1, 7))
def test_what_is_drawn_is_the_same_in_whatever_parts_it_comes(parts: list[bytes], size: int) -> None:
    data = b"".join(parts)
    drawn = Drawn()
    whole = Drawn()(data)
    pieces = b"".join(drawn(data[n : n + size]) for n in range(0, len(data), size))
    assert pieces == whole
    whole.decode()
    assert not re.search(
        rb"\x1b[P\]X^_cZH]|\x1b\[[0-9;?<=>]*[cntpxyi$]|\x1b\[[?<=>][0-9;]*u|[\x00-\x06\x10-\x1a\x1c-\x1f\x7f]",
        whole,
    )


def test_what_draws_is_drawn_and_what_asks_is_not() -> None:
    drawn = b"\x1b[1;31mred\x1b[0m\x1b[2J\x1b[10;5H\x1b[?1049h\x1b[?25l\x1b(0lqk\x1b(B\x1b7\x1b8\r\n\t\x07h\xc3\xa4\xe2\x82\xac"
    assert Drawn()(drawn) == drawn
    for evil in (
        *(
            b"\x1b]0;title\x07",
            b"\x1b]52;c;eA==\x1b\\",
            b"\x1bP$qm\x1b\\",
            b"\x1b_a\x1b\\",
            b"\x1b[c",
            b"\x1b[>c",
        ),
        *(b"\x1b[5n", b"\x1b[?6n", b"\x1b[21t", b"\x1b[x", b"\x1b[?2026$p", b"\x1bc", b"\x1bZ", b"\x1b[?3h"),
        *(b"\x1b[2h", b"\x1b[12l", b"\x1b[4;2h", b"\x1b[h", b"\x1b[=1u"),
        *("\x9b5n".encode()[:2], b"\x05", b"\x1b[4i", b"\x1b[>4;2m", b"\x1b[!p"),
    ):
        assert Drawn()(b"a" + evil + b"b") == b"ab", evil
    assert Drawn()(b"\x9b\xff") == b"\\x9b\\xff"


@pytest.mark.parametrize("unit", [b"\x1b", b"\x1b[m", b"\x1b]x\x07", b"\x1b\xff"])
def test_what_a_program_writes_takes_no_more_than_reading_it(unit: bytes) -> None:
    """A frame of them, at once, kept the terminal of whoever looked for an hour."""

    def cost(size: int) -> float:
        data, drawn, begun = unit * (size // len(unit)), Drawn(), time.process_time()
        drawn(data)
        return time.process_time() - begun

    assert cost(512 * 1024) < 30 * max(cost(32 * 1024), 0.005), "sixteen times as much"


def test_a_terminal_needs_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bridgehold", "shell", "--terminal"],
        input=b"",
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == UsageError.exit_status
    assert b"no terminal" in done.stderr


def test_another_bridges_operations_are_completed(host: Stage) -> None:
    bridge = host.bridge()
    terminal = Terminal(host, bridge)
    terminal.until(f"{bridge}> ")
    terminal.type('ac\t{"code": "result = 6 * 7"}\r')
    terminal.until("\n42\n")
    terminal.until(f"{bridge}> ")
    terminal.type("nothing {}\r")
    terminal.until("denied")
    terminal.until(f"{bridge}> ")
    assert terminal.close() == 0


def test_a_statement_is_whole_as_at_a_prompt() -> None:
    for text in (
        "1",
        "x = 1",
        "def f(): pass\n",
        "for i in []:\n    pass\n",
        "1 +",
        "(]",
        "\0",
        "if x:\n  y\n",
        "'\ud800'",
    ):
        assert whole(text), text
    for text in ("(", "def f():", "def f():\n    pass", "@x", "'''", "x = [\n1,", "if x:", "a \\"):
        assert not whole(text), text


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("-c pass", ("python", "local")),
        ("-m this a", ("python", "local")),
        ("file.py --tenant x", ("python", "local")),
        ("--bridge b --tenant=t --file a:b --env A=b --limit time=5s -c pass", ("b", "t")),
        ("", None),  # a shell, or a program that is typed: it may take its time
        ("-", None),
        ("--help", None),
        ("--bridge", None),
        ("--bridge -c pass", None),
        ("--bridge NO! -c pass", None),
        ("--unknown x -c pass", None),
        ("--files x -c pass", None),
        ("-cpass", None),
    ],
)
def test_a_sandbox_is_asked_for_ahead_by_a_plain_line_alone(line: str, asked: tuple[str, str] | None) -> None:
    assert whose(line.split()) == asked
