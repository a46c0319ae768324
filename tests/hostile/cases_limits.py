"""Each key of ``[limits]`` at work: what the guest experiences where it is hit, and not before."""

from __future__ import annotations

import contextlib
import time

import pytest

from bridgehold import BridgeholdError
from hostile.keyed import Case, Keyed
from waiting import until

LIMITS: dict[str, Case] = {}


def memory(keyed: Keyed) -> None:
    held = "held = bytearray(100 << 20)\nresult['held'] = len(held)"
    assert keyed.act(held, {"limits.memory": "192MiB"})["held"] == 100 << 20
    assert keyed.fails({"limits.memory": "64MiB"}, held) == "memory"


def cpu(keyed: Keyed) -> None:
    burn = (
        "import time\nbegan = time.monotonic()\nwhile time.process_time() < start + 0.3: pass\n"
        "result['s'] = time.monotonic() - began"
    )
    found = keyed.act("import time\nstart = time.process_time()\n" + burn, {"limits.cpu": 0.2})
    assert found["s"] >= 0.8


def processes(keyed: Keyed) -> None:
    code = (
        "import os, signal\nmade = []\ntry:\n    while len(made) < 40:\n        pid = os.fork()\n"
        "        if pid == 0:\n            signal.pause()\n        made.append(pid)\n"
        "except OSError as error:\n    result['why'] = error.errno\nresult['made'] = len(made)\n"
        "for pid in made: os.kill(pid, 9)"
    )
    found = keyed.act(code, {"limits.processes": 12})
    assert (found["why"], 4 <= found["made"] <= 12) == (11, True), found


def open_files(keyed: Keyed) -> None:
    code = (
        "held = []\ntry:\n    while len(held) < 500: held.append(open('/dev/null'))\n"
        "except OSError as error:\n    result['why'] = error.errno\nresult['held'] = len(held)"
    )
    found = keyed.act(code, {"limits.open_files": 48})
    assert (found["why"], 20 <= found["held"] <= 48) == (24, True), found


def _write(path: str) -> str:
    return (
        f"import os\nfd = os.open('{path}', os.O_CREAT | os.O_WRONLY)\nresult['wrote'] = 0\ntry:\n"
        "    for _ in range(48): result['wrote'] += os.write(fd, bytes(65536))\n"
        "except OSError as error:\n    result['why'] = error.errno"
    )


def file_size(keyed: Keyed) -> None:
    found = keyed.act(_write("/scratch/x"), {"limits.file_size": "1MiB"})
    assert found == {"wrote": 1 << 20, "why": 27}


def scratch(keyed: Keyed) -> None:
    for path in ("/scratch/x", "/tmp/x"):
        found = keyed.act(_write(path), {"limits.scratch": "1MiB"})
        assert (found["why"], found["wrote"] <= 1 << 20) == (28, True)


def shm(keyed: Keyed) -> None:
    found = keyed.act(_write("/dev/shm/x"), {"limits.shm": "1MiB"})
    assert (found["why"], found["wrote"] <= 1 << 20) == (28, True)


def response(keyed: Keyed) -> None:
    code = "result['text'] = 'x' * 20_000"
    assert len(keyed.act(code, {"limits.response": "64KiB"})["text"]) == 20_000
    assert keyed.fails({"limits.response": "16KiB"}, code) == "limit"


def request(keyed: Keyed) -> None:
    more = "x" * 20_000
    assert keyed.act("result['is'] = 1", {"limits.request": "64KiB"}, more=more) == {"is": 1}
    assert keyed.fails({"limits.request": "16KiB"}, more=more) == "limit"


def log_rate(keyed: Keyed) -> None:
    """Four seconds' worth may come at once; the rest is read, counted and left out: nobody waits."""
    code = "print('x' * 39_999, flush=True)"
    for rate, cut in (("4KiB/s", 40_000 - 4 * 4096), ("1MiB/s", 0)):
        with keyed.session({"limits.log_rate": rate}) as session:
            assert len(session.call("act", {"code": code}).output.stdout) == 40_000
            text = session.logs()
            assert ("bytes cut" in text) == bool(cut)
            assert abs(40_000 - text.count("x") - cut) < 4096


def log(keyed: Keyed) -> None:
    with keyed.session({"limits.log": "2KiB"}) as session:
        session.run("act", {"code": "print('x' * 100_000, flush=True)"})
        until(lambda: "bytes cut" in session.logs())
        assert len(session.logs()) < 2_200


def startup(keyed: Keyed) -> None:
    with (
        pytest.raises(BridgeholdError) as caught,
        keyed.session({"limits.startup": "2s"}, at_import="import time; time.sleep(8)"),
    ):
        pass
    assert caught.value.code == "timeout"


def command(keyed: Keyed) -> None:
    assert keyed.fails({"limits.command": "300ms"}, "import time\ntime.sleep(20)") == "timeout"


def idle(keyed: Keyed) -> None:
    with contextlib.suppress(BridgeholdError), keyed.session({"limits.idle": "1s"}) as session:
        assert keyed.closed(session.id) == "idle time"


def session(keyed: Keyed) -> None:
    """A command in flight doesn't keep it."""
    with pytest.raises(BridgeholdError) as caught:
        keyed.act("import time\ntime.sleep(20)", {"limits.session": "1500ms"})
    assert caught.value.code == "timeout"


def grace(keyed: Keyed) -> None:
    took = []
    for given in ("2500ms", "100ms"):
        with keyed.session({"limits.grace": given}, close_seconds=30) as one:
            began = time.monotonic()
            keyed.client.request("session.close", {"session": one.id})
            took.append(time.monotonic() - began)
    assert took[1] < 2.5 <= took[0] < 20


for one in (
    memory, cpu, processes, open_files, file_size, scratch, shm, response, request, log_rate, log, startup, command,
    idle, session, grace,
):  # fmt: skip
    LIMITS[f"limits.{one.__name__}"] = one
