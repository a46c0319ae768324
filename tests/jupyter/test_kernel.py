"""The kernel as front ends use it: upstream's own suite, a notebook by nbclient, and what a hostile cell sends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import jupyter_kernel_test
import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_client.session import Session
from nbclient import NotebookClient

from waiting import until

SECONDS = 60
PICTURE = "class Picture:\n    def _repr_png_(self): return b'\\x89PNG\\r\\n'\n"
NASTY = """\
class Page:
    def _repr_html_(self): return '<script>alert(1)</script><b>bold</b>'
    def _repr_svg_(self): return '<svg onload="alert(1)"/>'
    def _repr_markdown_(self): return '<script>alert(1)</script>'
    def _repr_latex_(self): return '$\\\\href{javascript:alert(1)}{x}$'
forms = {'application/javascript': 'alert(1)', 'application/vnd.vega.v5+json': {}, 'text/plain': '\\x1b]0;title\\x07!',
         'TEXT/HTML': '<script>', 'image/svg+xml': '<svg onload="alert(1)"/>', 'image/png': '"><script>'}
display(Page())
display(forms, raw=True)
print('\\x1b]52;c;AAAA\\x07\\x1b[31mred\\x1b[0m\\x9b2J')
"""


def sockets() -> dict[str, Any]:
    """Sockets in a folder of their own: a free port is chosen by one process, and taken by another."""
    return {
        "kernel_name": "sandbox",
        "transport": "ipc",
        "ip": f"{tempfile.mkdtemp(dir=os.environ['BRIDGEHOLD_HOME'])}/k",
    }


def start() -> tuple[KernelManager, BlockingKernelClient]:
    """A kernel with its session."""
    manager = KernelManager(**sockets())
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=SECONDS)
    client.execute_interactive("pass", timeout=SECONDS)
    return manager, client


@pytest.fixture(scope="module")
def started(home: Path) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    manager, client = start()
    try:
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


Run = Callable[..., tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]]


@pytest.fixture
def run(started: tuple[KernelManager, BlockingKernelClient]) -> Run:
    """A cell: its reply, and what was published of it, but its states."""

    def run_cell(code: str, **more: Any) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
        said: list[tuple[str, dict[str, Any]]] = []
        hook = more.pop("hook", lambda _: None)

        def keep(message: dict[str, Any]) -> None:
            if message["msg_type"] not in ("status", "execute_input"):
                said.append((message["msg_type"], message["content"]))
                hook(message)

        reply = started[1].execute_interactive(code, timeout=SECONDS, output_hook=keep, **more)
        return reply["content"], said

    return run_cell


def streams(said: list[tuple[str, dict[str, Any]]], name: str = "stdout") -> str:
    return "".join(one["text"] for kind, one in said if kind == "stream" and one["name"] == name)


@pytest.mark.usefixtures("home")
class TestUpstream(jupyter_kernel_test.KernelTests):
    kernel_name = "sandbox"
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('oh', file=sys.stderr)"
    completion_samples: ClassVar = [{"text": "zi", "matches": ["zip"]}, {"text": "import sys; sys.maxs"}]
    complete_code_samples: ClassVar = [
        "1",
        "x = 1",
        "await f()",
        "def f(x):\n  return x\n",
        "  1 + 1",
        "# only this",
    ]
    incomplete_code_samples: ClassVar = ["for x in y:", "print(", "def f(x):\n  return x", '"""open']
    invalid_code_samples: ClassVar = ["import = 7q", "1 +* 2"]
    code_generate_error = "1 / 0"
    code_execute_result: ClassVar = [{"code": "6 * 7", "result": "42"}]
    code_display_data: ClassVar = [{"code": f"{PICTURE}display(Picture())", "mime": "image/png"}]
    code_history_pattern = "6 [*]*"
    supported_history_operations = ("tail", "range", "search")
    code_inspect_sample = "print"
    code_clear_output = "clear_output()"
    test_pager = None  # there is no pager: docs say so

    @classmethod
    def setUpClass(cls) -> None:
        cls.km, cls.kc = start()


def test_a_notebook_is_run_by_nbclient(home: Path) -> None:
    cells = [
        f"{PICTURE}prices = [3, 1, 4]\nprint('seen', len(prices))\nPicture()",
        "def half(x): return x / 0\nhalf(3)",
        "import asyncio\nawait asyncio.sleep(0, sum(prices))",
        "input()",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one) for one in cells])
    file = home / "book.ipynb"
    nbformat.write(book, file)
    book = nbformat.read(file, as_version=4)
    manager = AsyncKernelManager(**sockets())
    client = NotebookClient(book, km=manager, timeout=SECONDS, allow_errors=True)
    with client.setup_kernel():
        for number, cell in enumerate(book.cells):
            client.execute_cell(cell, number)
        matches = asyncio.run(_completed(client, "prices.inde"))
    nbformat.validate(book)
    first, second, third, fourth = [cell.outputs for cell in book.cells]
    assert first[0].text == "seen 3\n"
    assert first[1].output_type == "execute_result"
    assert first[1].data["image/png"].strip() == "iVBORw0K"
    assert "Picture object" in first[1].data["text/plain"]
    assert (second[0].ename, second[0].evalue) == ("ZeroDivisionError", "division by zero")
    assert any("half(3)" in line for line in second[0].traceback)
    assert third[0].data["text/plain"] == "8"
    assert fourth[0].ename == "EOFError", "nobody is there to be asked"
    assert matches == ["index"]
    assert [cell.execution_count for cell in book.cells] == [1, 2, 3, 4]


async def _completed(client: NotebookClient, code: str) -> list[str]:
    assert client.kc is not None
    reply = client.kc.complete(code, reply=True, timeout=SECONDS)
    found: list[str] = (await reply)["content"]["matches"]
    return [one.rpartition(".")[2] for one in found]


def test_an_interrupt_ends_the_cell_and_keeps_what_it_had_made(
    run: Run, started: tuple[KernelManager, BlockingKernelClient]
) -> None:
    manager = started[0]
    pid = int(manager.provisioner.pid)  # type: ignore[union-attr]
    for number, interrupt in enumerate((manager.interrupt_kernel, lambda: os.kill(pid, signal.SIGINT))):
        code = f"kept = {number}\nprint('begun', flush=True)\nimport time\nwhile True: time.sleep(0.1)"
        reply, said = run(
            code, hook=lambda one, act=interrupt: act() if one["msg_type"] == "stream" else None
        )
        assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
        assert streams(said) == "begun\n", "live, before its end"
        assert run("kept")[1] == [
            (
                "execute_result",
                {
                    "execution_count": reply["execution_count"] + 1,
                    "data": {"text/plain": str(number)},
                    "metadata": {},
                },
            )
        ]


def test_input_is_asked_and_its_prompt_shown_once(
    run: Run, started: tuple[KernelManager, BlockingKernelClient]
) -> None:
    asked = []

    def answer(message: dict[str, Any]) -> None:
        asked.append(message["content"]["prompt"])
        started[1].input("Ada")

    reply, said = run("print('hello'); input('name? ') + '!'", allow_stdin=True, stdin_hook=answer)
    assert reply["status"] == "ok"
    assert said[-1][1]["data"] == {"text/plain": "'Ada!'"}
    assert (asked, streams(said)) in ((["name? "], "hello\n"), ([""], "hello\nname? "))


def test_cells_behind_one_that_failed_are_not_run(
    started: tuple[KernelManager, BlockingKernelClient],
) -> None:
    client = started[1]
    code = "input()\nimport time\ntime.sleep(0.2)\n1 / 0"
    sent = [
        client.execute(code, allow_stdin=True),
        client.execute("ran = 1"),
        client.complete("pri"),
        client.execute("globals().get('ran')"),
    ]
    assert client.get_stdin_msg(timeout=SECONDS)["msg_type"] == "input_request"
    client.input("")  # all of them have come before it fails
    statuses = {}
    while set(statuses) != set(sent):
        reply = client.get_shell_msg(timeout=SECONDS)
        statuses[reply["parent_header"]["msg_id"]] = reply["content"]["status"]
    assert [statuses[one] for one in sent] == ["error", "aborted", "ok", "aborted"]
    assert (
        client.execute_interactive("'ran' in globals()", timeout=SECONDS, output_hook=lambda _: None)[
            "content"
        ]["status"]
        == "ok"
    )


def test_silent_cells_and_expressions(run: Run) -> None:
    before = run("1")[0]["execution_count"]
    reply, said = run("quiet = 2; print('x'); quiet", silent=True)
    assert (reply["status"], said) == ("ok", [])
    reply, _ = run("", user_expressions={"good": "quiet + 1", "bad": "nobody"})
    assert reply["user_expressions"]["good"]["data"] == {"text/plain": "3"}
    assert reply["user_expressions"]["bad"]["ename"] == "NameError"
    assert run("1")[0]["execution_count"] == before + 1


def test_a_display_is_updated_in_its_place_and_output_is_cleared(run: Run) -> None:
    code = "shown = display('one', display_id='place')\nshown.update('two')\nupdate_display('three', display_id='place')"
    _, said = run(code)
    assert [(kind, one["data"]["text/plain"], one["transient"]) for kind, one in said] == [
        ("display_data", "'one'", {"display_id": "place"}),
        ("update_display_data", "'two'", {"display_id": "place"}),
        ("update_display_data", "'three'", {"display_id": "place"}),
    ]
    _, said = run("display(1)\nclear_output(wait=True)\ndisplay(2)")
    assert [kind for kind, _ in said] == ["display_data", "clear_output", "display_data"]


def test_a_widgets_channel_is_closed_at_once_and_cells_go_on(
    started: tuple[KernelManager, BlockingKernelClient], run: Run
) -> None:
    client = started[1]
    for content in (
        {"comm_id": "c1", "target_name": "jupyter.widget", "data": {}},
        {"comm_id": 5},
        {"comm_id": "x" * 10_000},
        {},
    ):
        message = client.session.msg("comm_open", content)
        client.shell_channel.send(message)
        client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": "c1", "data": {}}))
    closed = []
    with contextlib.suppress(queue.Empty):
        while True:
            said = client.get_iopub_msg(timeout=3)
            closed += [said["content"]] if said["msg_type"] == "comm_close" else []
    assert closed == [{"comm_id": "c1", "data": {}}]
    assert run("6 * 7")[1][0][1]["data"]["text/plain"] == "42"


def test_what_a_hostile_cell_shows_acts_nowhere(run: Run) -> None:
    reply, said = run(NASTY)
    assert reply["status"] == "ok"
    shown = [one["data"] for kind, one in said if kind == "display_data"]
    assert set(shown[0]) == {"text/plain", "text/html"}
    assert shown[0]["text/html"].startswith('<iframe sandbox="" ')
    assert set(shown[1]) == {"text/plain", "text/html"}, "the form that is a picture is none"
    assert shown[1]["text/html"].startswith('<img alt="" src="data:image/svg+xml;base64,')
    assert "<script" not in str(shown)
    assert shown[1]["text/plain"] == "]0;title!"
    assert "]52;c;AAAA\x1b[31mred\x1b[0m2J\n" in streams(said)


def test_a_sandbox_that_ends_is_replaced_by_an_empty_one(run: Run) -> None:
    run("mine = 1")
    reply, said = run("import os; os._exit(3)")
    assert (reply["status"], reply["ename"]) == ("error", "CrashError")
    assert "the sandbox is gone" in streams(said, "stderr")
    assert run("mine")[0]["ename"] == "NameError"


def test_a_message_that_is_not_signed_runs_nothing(
    run: Run, started: tuple[KernelManager, BlockingKernelClient]
) -> None:
    client = started[1]
    for key in (b"", b"another key of sixteen or more"):
        forged = Session(key=key)
        forged.send(client.shell_channel.socket, "execute_request", {"code": "stolen = 1"})
    assert run("'stolen' in globals()")[1][-1][1]["data"] == {"text/plain": "False"}


def test_a_cell_sees_nothing_of_the_front_end_and_a_restart_is_a_new_sandbox(
    run: Run, started: tuple[KernelManager, BlockingKernelClient], home: Path
) -> None:
    manager, client = started
    code = (
        f"import os\nkept = 1\n[os.path.exists(one) for one in ({manager.connection_file!r}, {str(home)!r})]"
    )
    assert run(code)[1][-1][1]["data"] == {"text/plain": "[False, False]"}
    pid = int(manager.provisioner.pid)  # type: ignore[union-attr]
    manager.restart_kernel()
    client.wait_for_ready(timeout=SECONDS)
    assert run("kept")[0]["ename"] == "NameError"

    def gone() -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            return False
        return True

    until(gone)
