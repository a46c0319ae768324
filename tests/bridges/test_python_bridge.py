"""`python:execute` in a sandbox."""

from __future__ import annotations

import time
from typing import Any

import pytest

from bridgehold.bridges.catalogue import Catalogue, check_ready
from bridgehold.bridges.frames import CancelFrame, ReadyFrame

MANIFEST = Catalogue.load().get("python")


@pytest.fixture
def python(launch: Any) -> Any:
    guest = launch(MANIFEST.folder)
    ready = guest.boot(bridge="python", version=MANIFEST.version, entry=MANIFEST.entry)
    assert isinstance(ready, ReadyFrame), ready
    check_ready(MANIFEST, ready)
    guest.open()
    return guest


def run(guest: Any, code: str) -> Any:
    MANIFEST.check_arguments("execute", {"code": code})
    return guest.completed("python:execute", {"code": code})


def test_the_value_of_the_last_expression(python: Any) -> None:
    assert run(python, "1 + 1") == {
        "stdout": "",
        "stderr": "",
        "value": 2,
        "repr": "2",
        "type": "int",
        "truncated": False,
    }
    for code in ("x = 1", "None", "", "def f(): return 3", "# nothing"):
        assert run(python, code)["repr"] is None
    assert run(python, "y = [1, 2]\ny.append(3)\ny")["value"] == [1, 2, 3]
    assert run(python, "_")["value"] == [1, 2, 3]
    assert run(python, "{'a': {1, 2}}")["value"] == {"a": [1, 2]}


def test_a_value_that_json_has_not_is_shown(python: Any) -> None:
    for code, kind in (("float('nan')", "float"), ("object", "type"), ("b'x'", "bytes"), ("2**100", "int")):
        value = run(python, code)
        assert (value["value"], value["type"]) == (None, kind)
        assert value["repr"]


def test_state_lasts_the_session_until_reset(python: Any) -> None:
    run(python, "import math\ndef area(r): return math.pi * r * r")
    assert run(python, "round(area(2), 3)")["value"] == 12.566
    run(python, "import pickle\nclass Point: pass\np = pickle.loads(pickle.dumps(Point()))")
    assert run(python, "type(p).__module__")["value"] == "__main__"
    assert python.value("python:reset")["status"] == "reset"
    assert python.fault("python:execute", {"code": "area(2)"}).type == "NameError"


def test_output_is_captured_and_bounded(python: Any) -> None:
    value = run(python, "import sys\nprint('out', 'é', '\\ud800')\nprint('err', file=sys.stderr)")
    assert (value["stdout"], value["stderr"]) == ("out é \\ud800\n", "err\n")
    value = run(python, "for i in range(200000): print('line', i)")
    assert value["truncated"] is True
    assert value["stdout"].startswith("line 0\n")
    assert value["stdout"].endswith("line 199999\n")
    assert "bytes cut" in value["stdout"]
    assert len(value["stdout"]) < 300_000
    value = run(python, "'x' * 1_000_000")
    assert value["truncated"] is True
    assert len(value["repr"]) < 20_000
    assert run(python, "import os\nos.system('echo by a child')")["stdout"] == "by a child\n"
    assert run(python, "sys.stdout.buffer.write(b'raw\\n')")["stdout"] == "raw\n"


def test_an_exception_is_a_fault_with_the_codes_own_traceback(python: Any) -> None:
    fault = python.fault("python:execute", {"code": "print('before')\ndef f(x):\n    return 1 / x\nf(0)"})
    assert (fault.type, fault.code, fault.alive) == ("ZeroDivisionError", "application", True)
    assert fault.traceback.splitlines()[1] == '  File "<execute 1>", line 4, in <module>'
    assert "    return 1 / x" in fault.traceback
    assert "python_bridge.py" not in fault.traceback
    python.settle_log(b"before")
    for code, kind, fault_code in (
        ("raise ValueError('x')", "ValueError", "application"),
        ("import not_here", "ModuleNotFoundError", "missing_module"),
        ("def (", "SyntaxError", "application"),
        ("exit(3)", "SystemExit", "application"),
        ("import sys; sys.exit()", "SystemExit", "application"),
        ("raise SystemExit", "SystemExit", "application"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", "application"),
        ("input()", "EOFError", "application"),
    ):
        fault = python.fault("python:execute", {"code": code})
        assert (fault.type, fault.code, fault.alive) == (kind, fault_code, True), fault
    assert run(python, "1")["value"] == 1


def test_an_endless_loop_is_cancelled_and_its_names_stay(python: Any) -> None:
    call = python.start("python:execute", {"code": "n = 0\nprint('going', flush=True)\nwhile True: n += 1"})
    assert python.value("common:ping")["status"] == "ok"
    time.sleep(1)  # ping is answered beside the handler; the loop must have begun before it is cancelled
    python.send(CancelFrame(id=call))
    assert python.reply(call).code == "cancelled"
    python.settle_log(b"going")
    assert run(python, "n > 0")["value"] is True


def test_nothing_of_the_wire_is_in_reach_of_honest_code(python: Any) -> None:
    run(python, "import os, sys\nos.write(1, b'to the log\\n')\nsys.__stdout__.write('also\\n')")
    python.settle_log(b"to the log")
    python.settle_log(b"also")
    listing = "subprocess.run(['ls', '/proc/self/fd'], capture_output=True, text=True).stdout.split()"
    value = run(python, f"import subprocess\n{listing}")
    assert all(int(number) < 10 for number in value["value"])


def test_hostile_bytes_on_the_wire_break_only_this_session(python: Any) -> None:
    from bridgehold.bridges.wire import WireError

    attack = "for fd in range(3, 100):\n    try: os.write(fd, b'\\xff' * 8)\n    except OSError: pass"
    python.start("python:execute", {"code": f"import os\n{attack}"})
    with pytest.raises(WireError) as caught:
        python.take(lambda frame: False, 10)
    assert caught.value.reason == "length"
