"""`python:execute` in a sandbox."""

from __future__ import annotations

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
        ("import not_here", "ModuleNotFoundError", "application"),
        ("def (", "SyntaxError", "application"),
        ("exit(3)", "SystemExit", "application"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", "application"),
        ("input()", "EOFError", "application"),
    ):
        fault = python.fault("python:execute", {"code": code})
        assert (fault.type, fault.code, fault.alive) == (kind, fault_code, True), fault
    assert run(python, "1")["value"] == 1


def test_an_endless_loop_is_cancelled_and_its_names_stay(python: Any) -> None:
    code = "n = 0\nwhile True:\n    n += 1\n    if n == 1: print('going', flush=True)"
    call = python.start("python:execute", {"code": code})
    assert python.value("common:ping")["status"] == "ok"
    python.settle_log(b"going")  # ping is answered beside the handler; the loop must have begun
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


def fails(guest: Any, code: str) -> Any:
    return guest.fault("python:execute", {"code": code})


def test_a_traceback_shows_the_codes_lines_causes_notes_and_groups(python: Any) -> None:
    run(python, "def deep(x):\n    return 1 / x  # of an earlier command")
    fault = fails(
        python,
        "try:\n    deep(0)\nexcept ZeroDivisionError as error:\n"
        "    wrong = KeyError('key')\n    wrong.add_note('a note')\n    raise wrong from error",
    )
    for part in (
        '  File "<execute 1>", line 2, in deep\n    return 1 / x  # of an earlier command\n',
        "ZeroDivisionError: division by zero\n\nThe above exception was the direct cause",
        '  File "<execute 2>", line 6, in <module>\n    raise wrong from error\n',
        "KeyError: 'key'\na note\n",
    ):
        assert part in fault.traceback, fault.traceback
    assert run(python, "import sys, traceback\n(sys.last_type.__name__, sys.last_exc is sys.last_value)")[
        "value"
    ] == ["KeyError", True]
    assert run(python, "traceback.extract_tb(sys.last_traceback)[0].filename")["value"] == "<execute 2>"
    group = fails(python, "raise ExceptionGroup('both', [ValueError('one'), deep and TypeError('two')])")
    assert "ValueError: one" in group.traceback
    assert "TypeError: two" in group.traceback
    wrong = fails(python, "x = 1\ny = = 2")
    assert wrong.traceback == (
        '  File "<execute 6>", line 2\n    y = = 2\n        ^\nSyntaxError: invalid syntax\n'
    )
    endless = fails(python, "def f(n): return f(n + 1)\nf(0)")
    assert "return f(n + 1)" in endless.traceback
    assert len(endless.traceback) < 8_100


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        ("class M(type):\n    __name__ = property(lambda s: 1 / 0)\nclass E(Exception, metaclass=M): pass\nraise E('m')", "E", "m"),
        ("class E(Exception):\n    def __str__(self): raise SystemExit(0)\nraise E", "E", "<unprintable>"),
        ("class E(Exception):\n    __class__ = property(lambda s: 1 / 0)\nraise E('c')", "E", "c"),
        ("class E(Exception):\n    __notes__ = property(lambda s: exit(2))\nraise E('n')", "E", "n"),
        ("class E(SystemExit):\n    code = property(lambda s: 1 / 0)\nraise E('p')", "ZeroDivisionError", "division by zero"),
        (("class L:\n    def get_source(self, name): raise KeyboardInterrupt\n"
         "exec(compile('1 / 0', 'made', 'exec'), {'__loader__': L(), '__name__': 'made'})"), "ZeroDivisionError", "division by zero"),
        ("import bridgehold_sdk\nraise bridgehold_sdk.Cancelled('me')", "Cancelled", "me"),
        ("class E(Exception): pass\ne = E('many')\nfor i in range(3000):\n    n = E(i); n.__cause__ = e; e = n\nraise e", "E", "2999"),
    ],
)  # fmt: skip
def test_an_exception_made_to_hurt_is_told_all_the_same(python: Any, code: str, kind: str, text: str) -> None:
    fault = fails(python, code)
    assert (fault.type, fault.message, fault.code, fault.alive) == (kind, text, "application", True)
    assert "<execute 1>" in fault.traceback
    assert len(fault.traceback) < 8_100
    assert run(python, "1")["value"] == 1


def test_what_becomes_of_a_value_costs_neither_output_nor_command(python: Any) -> None:
    def value_of(expression: str) -> Any:
        return run(python, f"print('kept')\n{expression}")

    run(
        python,
        "class Odd:\n    def __init__(self, text): self.text = text\n"
        "    def __repr__(self):\n        if self.text is None: raise ValueError('no')\n        return self.text\n"
        "class Text(str):\n    def encode(self, *a): raise SystemExit(1)\n"
        "    def __len__(self): return -1\n    def __str__(self): raise KeyboardInterrupt\n"
        "class Leaves:\n    def __repr__(self): exit(0)\n    isoformat = property(lambda s: exit(3))\n"
        "class Meta(type):\n    __name__ = property(lambda s: 1 / 0)\n"
        "class Named(metaclass=Meta): pass",
    )
    for expression, kind, shown in (
        ("Odd(None)", "Odd", "<Odd: its repr raised ValueError>"),
        ("Odd(5)", "Odd", "<Odd: its repr raised TypeError>"),
        ("Odd('\\ud800')", "Odd", "\\ud800"),
        ("Odd(Text('t'))", "Odd", "t"),
        ("{Text('k'): Text('v')}", "dict", "{'k': 'v'}"),
        ("Leaves()", "Leaves", "<Leaves: its repr raised SystemExit>"),
        ("10 ** 5000", "int", "<int: its repr raised ValueError>"),
    ):
        said = value_of(expression)
        assert (said["stdout"], said["value"], said["type"], said["repr"]) == ("kept\n", None, kind, shown)
    assert value_of("Named()")["type"] == "Named"
    for expression, start in (
        ("'x' * 50_000_000", "'xxx"),
        ("[0] * 10_000_000", "[0, 0"),
        ("{1: 'y' * 9_000_000}", "{1: 'yy"),
    ):
        said = value_of(expression)
        assert (said["stdout"], said["value"], said["truncated"]) == ("kept\n", None, True)
        assert said["repr"].startswith(start)
        assert len(said["repr"]) < 17_000
    assert value_of("[1, 'x' * 1000]")["value"] == [1, "x" * 1000]


def test_codes_of_the_host_are_not_for_the_code_to_take(python: Any) -> None:
    for code in (
        "raise type('RateLimitError', (Exception,), {})('slow down')",
        "e = Exception('m'); e.status_code = 429\nraise RuntimeError('caused') from e",
        "raise MemoryError",
        "import not_there_at_all",
        "import bridgehold_sdk\nraise bridgehold_sdk.ResourceNotFound('program', 'x')",
        "import bridgehold_sdk\nraise bridgehold_sdk.InvalidInput('y')",
        "raise Exception('this model has a maximum context length of 5')",
        "e = Exception('m'); e.body = {'bridgehold': {'rule': 'budget'}}\nraise e",
    ):
        assert fails(python, code).code == "application"


def test_an_exit_is_an_end_with_its_status(python: Any) -> None:
    for code in ("exit(0)", "import sys; sys.exit()", "raise SystemExit", "exit(False)"):
        said = run(python, f"print('said')\n{code}")
        assert (said["stdout"], said["value"], said["repr"]) == ("said\n", None, None)
    for code, text in (("exit(3)", "status 3"), ("exit('bye')", "status 1: bye"), ("exit(-1)", "status -1")):
        fault = fails(python, code)
        assert (fault.type, fault.code, fault.message) == (
            "SystemExit",
            "application",
            f"the code ended with exit {text}",
        )
