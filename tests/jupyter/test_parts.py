"""The kernel's parts without a kernel: forms, bounds, the connection file, and where kernels are installed."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zmq.asyncio
from jupyter_client.session import Session

from bridgehold.errors import BridgeholdError, LimitError, NotFoundError, UsageError
from bridgehold.faces.cli.commands import app
from bridgehold.faces.jupyter import cell as cells
from bridgehold.faces.jupyter import forms, installed, wire
from bridgehold.faces.jupyter.kernel import MOST_MEMORY
from waiting import until

PORTS = {
    name: 1000 + number
    for number, name in enumerate(("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port"))
}
FILE = {
    "ip": "127.0.0.1",
    "transport": "tcp",
    "key": "0123456789abcdef",
    "signature_scheme": "hmac-sha256",
    **PORTS,
}
ODD: list[Any] = [
    None,
    1,
    [],
    "text",
    {1: 2},
    {"text/html": 1},
    {"text/html": None},
    {"../x": "y"},
    {"a/b\n": "c"},
]


@pytest.mark.parametrize("trusted", [False, True])
def test_what_is_no_form_is_none(trusted: bool) -> None:
    for one in ODD:
        assert forms.bundle(one, trusted=trusted) == {}
    many = {f"application/x{n}+json": n for n in range(1_000)} | {"text/plain": "x"}
    assert len(forms.bundle(many, trusted=trusted)) <= forms.MOST_FORMS
    deep: Any = 1
    for _ in range(2_000):
        deep = [deep]
    assert forms.bundle({"application/json": deep, "application/json ": 1}, trusted=trusted) == {}
    large = {"text/html": "x" * (forms.MOST_FORM + 1), "application/json": ["x" * forms.MOST_FORM]}
    assert forms.bundle(large, trusted=trusted) == {}
    assert forms.bundle({"text/javascript": "x", "application/ecmascript": "x"}, trusted=trusted) == {}


def test_html_stays_in_its_frame() -> None:
    page = '\'"></iframe><script>alert(1)</script><iframe sandbox=allow-scripts srcdoc="&lt;'
    framed = forms.bundle({"text/html": page}, trusted=False)["text/html"]
    assert framed.count("<") == 2
    assert framed.count(">") == 2
    assert framed.count('"') == 8
    assert forms.bundle({"text/html": page}, trusted=True) == {"text/html": page}


class Told(list[tuple[str, dict[str, Any]]]):
    def publish(self, kind: str, content: dict[str, Any]) -> None:
        self.append((kind, content))

    def text(self) -> str:
        return "".join(one["text"] for kind, one in self if kind == "stream")


def test_a_cell_that_never_ends_to_speak_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "MOST_TEXT", 1_000)
    told = Told()
    one = cells.Cell(told.publish, trusted=False)
    for _ in range(100):
        one.event({"type": "output", "stream": "stdout", "text": "x" * 300})
    for odd in (
        {},
        {"type": "output", "stream": "other", "text": "y"},
        {"type": "output", "stream": [], "text": 1},
        {"type": "chunk", "data": 1},
    ):
        one.event(odd)
    assert told.text().count("x") == 1_000
    assert told.text().count("left out") == 1
    for _ in range(cells.MOST_SHOWN + 50):
        one.event({"type": "chunk", "data": {"display": {"text/plain": "d"}}})
    assert sum(kind == "display_data" for kind, _ in told) == cells.MOST_SHOWN
    assert told.text().count("left out") == 2
    for data in ({"clear": True}, {"display": {"text/plain": "d"}, "id": "a", "update": True}):
        changes = len(told)
        for _ in range(cells.MOST_CHANGED):
            one.event({"type": "chunk", "data": data})
        assert len(told) - changes <= cells.MOST_CHANGED
    changes = len(told)
    for odd in (None, "", "x" * 300, 5, []):
        one.event({"type": "chunk", "data": {"display": {"text/plain": "d"}, "id": odd, "update": True}})
    assert len(told) == changes
    one.event({"type": "output", "stream": "stdout", "text": "", "cut": 7})
    assert "7 bytes" not in told.text(), "what is said of cuts is bounded with the rest"
    assert one.result({"repr": "1", "displays_left_out": 5}) == {"text/plain": "1"}
    assert "5 more" in told.text()
    assert one.result({"repr": 1}) == one.result(None) == {}


@pytest.mark.parametrize("update", [False, True])
def test_a_page_gets_no_more_of_a_cells_pictures_than_it_can_hold(
    monkeypatch: pytest.MonkeyPatch, update: bool
) -> None:
    """A page of `<` is four times as long in its frame."""
    monkeypatch.setattr(cells, "ROOM", dict.fromkeys(cells.ROOM, 1_000_000))
    told = Told()
    one = cells.Cell(told.publish, trusted=False)
    for _ in range(30):
        chunk = {"display": {"text/html": "<" * 50_000}, "id": "a", "update": update}
        one.event({"type": "chunk", "data": chunk})
    shown = [content for kind, content in told if kind.endswith("display_data")]
    assert 0 < sum(len(json.dumps(content)) for content in shown) <= 1_000_000
    assert told.text().count("left out") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"key": ""},
        {"key": None},
        {"signature_scheme": "hmac-md5"},
        {"transport": "pgm"},
        {"shell_port": 0},
        {"ip": 1},
    ],
)
def test_a_connection_file_without_what_keeps_others_out_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    file = tmp_path / "connection.json"
    file.write_text(json.dumps(FILE))
    assert wire.read_ports(file).key == FILE["key"]
    file.write_text(json.dumps(FILE | change))
    with pytest.raises(UsageError) as caught:
        wire.read_ports(file)
    assert FILE["key"] not in str(caught.value.info())


def test_a_message_that_is_larger_than_any_cell_is_not_read_whoever_signs_it(tmp_path: Path) -> None:
    """Its signature is looked at when all of it is here: a stranger's would have taken the memory by then."""
    file = tmp_path / "connection.json"
    file.write_text(json.dumps(FILE | {"transport": "ipc", "ip": str(tmp_path / "k")}))
    ports = wire.read_ports(file)

    async def act() -> str:
        served = wire.Wire(ports)
        signed = Session(key=ports.key.encode())
        front = zmq.asyncio.Context().socket(zmq.DEALER)
        front.connect(ports.address(ports.shell_port))
        coming = asyncio.ensure_future(served.receive("shell"))
        try:
            signed.send(front, "large_request", {"code": "x" * wire.MOST_MESSAGE})
            while not coming.done():
                signed.send(front, "small_request", {})
                await asyncio.wait({coming}, timeout=0.1)
            return coming.result().kind
        finally:
            front.context.destroy(linger=0)
            served.close()

    assert asyncio.run(act()) == "small_request"


def send_for_ever(to: socket.socket, data: bytes) -> None:
    """Four times as much as a kernel may keep."""
    for _ in range(4 * MOST_MEMORY // len(data)):
        to.sendall(data)


def test_a_message_without_an_end_ends_its_kernel_and_not_the_machine(tmp_path: Path) -> None:
    file, part = tmp_path / "connection.json", bytes(8 << 20)
    file.write_text(json.dumps(FILE | {"transport": "ipc", "ip": str(tmp_path / "k")}))
    argv = [sys.executable, "-P", "-m", "bridgehold.faces.jupyter", "-f", str(file)]
    place = tmp_path / f"k-{PORTS['shell_port']}"
    kernel = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(place.exists)
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(place))
            stranger.sendall(b"\xff" + bytes(8) + b"\x7f\3\0NULL" + bytes(16 + 32))
            ready = b"\5READY\x0bSocket-Type\0\0\0\6DEALER\x08Identity\0\0\0\0"
            stranger.sendall(b"\4" + bytes([len(ready)]) + ready)
            with pytest.raises(ConnectionError):
                send_for_ever(stranger, b"\3" + len(part).to_bytes(8, "big") + part)
        assert until(kernel.poll) == LimitError.exit_status
    finally:
        kernel.kill()
        kernel.wait()


def bridgehold(*arguments: str) -> None:
    app(["jupyter", *arguments], prog_name="bridgehold", standalone_mode=False)


def test_kernels_are_installed_listed_and_removed_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "venv/share/jupyter"))
    bridgehold("install", "--name", "mine", "--tenant", "local", "--bridge", "python")
    bridgehold("install", "--prefix", str(tmp_path / "venv"), "--name", "theirs", "--trust-forms")
    spec = json.loads((tmp_path / "data/kernels/mine/kernel.json").read_text())
    assert spec["argv"][1:] == [
        "-P",
        "-m",
        "bridgehold.faces.jupyter",
        "-f",
        "{connection_file}",
        "--bridge",
        "python",
        "--tenant",
        "local",
    ]
    assert spec["interrupt_mode"] == "message"
    foreign = tmp_path / "data/kernels/foreign"
    foreign.mkdir()
    (foreign / "kernel.json").write_text(json.dumps(spec | {"metadata": {}}))
    for _ in range(2):
        bridgehold("install", "--name", "mine")  # ours is replaced
        with pytest.raises(UsageError, match="somebody else"):
            bridgehold("install", "--name", "foreign")
    assert [(one.name, one.trust_forms) for one in installed.find()] == [("mine", False), ("theirs", True)]
    bridgehold("uninstall", "mine")
    with pytest.raises(NotFoundError):
        installed.uninstall("foreign")
    for name in ("..", "../x", "a/b", "", "A\n", "x" * 200):
        with pytest.raises(BridgeholdError):
            bridgehold("install", "--name", name)
    capsys.readouterr()
    bridgehold("list", "--json")
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["theirs"]
    assert sorted(one.name for one in (tmp_path / "data/kernels").iterdir()) == ["foreign"]
