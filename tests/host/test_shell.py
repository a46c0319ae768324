"""`bridgehold shell python` at a terminal: what is typed, and what is shown."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from bridgehold.faces.cli.shell import whole
from hostile.stage import KINDS_OF_HOSTS, Stage, stage
from waiting import until

PATIENCE = 60.0
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
                self._seen += _STYLE.sub("", os.read(self._ours, 4096).decode(errors="replace"))
            except OSError as error:
                raise AssertionError(f"it ended: {self._seen!r}") from error
        before, _, self._seen = self._seen.partition(text)
        return before

    def close(self) -> int:
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
