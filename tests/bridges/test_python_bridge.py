"""`python:execute` in a sandbox."""

from __future__ import annotations

from pathlib import Path
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
        "count": 1,
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


def test_a_cancel_that_a_callback_swallows_comes_again(python: Any) -> None:
    """As the callback of an import's lock does: nothing that is raised in it is passed on."""
    code = """
import sys, time, weakref
class Held: pass
def gone(_):
    print('in the callback', flush=True)
    while True: time.sleep(0.01)
kept, held, hook = 1, Held(), sys.unraisablehook
watch = weakref.ref(held, gone)
del held
while True: time.sleep(0.01)
"""
    call = python.start("python:execute", {"code": code})
    python.settle_log(b"in the callback")
    python.send(CancelFrame(id=call))
    assert python.reply(call).code == "cancelled"
    assert run(python, "kept, sys.unraisablehook is hook")["value"] == [1, True]


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


def given(guest: Any, code: str, **more: Any) -> Any:
    MANIFEST.check_arguments("execute", {"code": code, **more})
    return guest.completed("python:execute", {"code": code, **more})


def test_code_as_a_notebook_takes_it(python: Any) -> None:
    assert (
        run(
            python,
            "import asyncio\nasync def f(): return 7\nt = asyncio.ensure_future(f()) if 0 else None\nawait f()",
        )["value"]
        == 7
    )
    assert run(python, "background = asyncio.create_task(f())\nawait asyncio.sleep(0)")["repr"] is None
    assert run(python, "await background")["value"] == 7  # one loop for the session
    assert run(python, "asyncio.run(f())")["value"] == 7  # which doesn't run between commands
    assert run(python, "    x = 1\n    if x:\n        x = 2\n    x")["value"] == 2
    assert python.fault("python:execute", {"code": "x = 1\n    y = 2"}).type == "IndentationError"
    fault = python.fault("python:execute", {"code": "async def g(): 1 / 0\nawait g()"})
    assert (fault.type, fault.traceback.splitlines()[1][:14]) == ("ZeroDivisionError", '  File "<execu')
    assert (run(python, "In[-1], Out[1]")["value"]) == ["In[-1], Out[1]", 7]
    assert run(python, "len(In)")["value"] == run(python, "1")["count"]
    run(python, "for n in range(3): Out[-n] = n")
    for number in range(120):
        last = run(python, str(number))
    assert len(run(python, "Out")["repr"]) < 2_000
    assert last["count"] > 120
    call = python.start("python:execute", {"code": "print('on', flush=True)\nawait asyncio.sleep(600)"})
    python.settle_log(b"on")
    python.send(CancelFrame(id=call))
    assert python.reply(call).code == "cancelled"
    assert run(python, "await f()")["value"] == 7
    assert run(python, "final({'a': 1})\nprint('not reached')")["value"] == {"a": 1}
    assert run(python, "try:\n    final(2)\nexcept Exception:\n    pass\n3")["value"] == 2
    assert run(python, "final()")["repr"] is None


def test_variables_go_in_and_come_back(python: Any) -> None:
    tagged = {
        "i": {"$float": "-inf"},
        "b": {"$bytes": "AP8="},
        "n": {"$integer": str(2**80)},
        "d": {"$date": "2020-01-02"},
    }
    code = "import datetime, math\nassert i == -math.inf and b == b'\\0\\xff' and n == 2**80 and d == datetime.date(2020, 1, 2)\nz = [math.nan, i, (b, n), d]\nq = object()"
    said = given(
        python,
        code,
        variables={**tagged, "m": "x" * 3_000_000, "t": {"k": [1, None, True]}},
        returns=["z", "t", "m", "q", "none"],
    )
    back = said["variables"]
    assert back["z"] == {
        "value": [{"$float": "nan"}, {"$float": "-inf"}, [tagged["b"], tagged["n"]], tagged["d"]]
    }
    assert back["t"] == {"value": {"k": [1, None, True]}}
    assert len(back["m"]["value"]) == 3_000_000
    assert back["q"]["repr"].startswith("<object object")
    assert "none" not in back
    for wrong in (
        {"a b": 1},
        {"__builtins__": 1},
        {"class": 1},
        {"x": {"$bytes": "no base64"}},
        {"x": {"$date": 3}},
    ):
        fault = python.fault("python:execute", {"code": "1", "variables": wrong})
        assert fault.code == "invalid_input", wrong
    run(
        python,
        "class Liar(dict):\n    def items(self): raise ValueError\nliar = Liar(a=1)\nloop = []; loop.append(loop)",
    )
    assert set(given(python, "1", returns=["liar", "loop"])["variables"]) == {"liar", "loop"}


def test_standard_input_of_a_command(python: Any) -> None:
    assert given(python, "[input('? '), input()]", stdin="a\nb")["value"] == ["a", "b"]
    assert given(python, "import sys\nsys.stdin.read()", stdin="ü\n" * 100_000)["value"] == "ü\n" * 100_000
    assert given(python, "sys.stdin.buffer.read(2)", stdin="xyz")["repr"] == "b'xy'"
    fault = python.fault("python:execute", {"code": "input()\ninput()", "stdin": "one"})
    assert fault.type == "EOFError"
    fault = python.fault("python:execute", {"code": "input()"})
    assert "`stdin` gives it some" in fault.message
    assert run(python, "sys.stdin is sys.__stdin__")["value"] is True


def test_forms_and_displays(python: Any) -> None:
    run(
        python,
        "class Shows:\n    def __init__(self, **forms): self.forms = forms\n    def __repr__(self): return 'shown'\n    def _repr_html_(self): return self.forms.get('html')\n    def _repr_png_(self): return self.forms.get('png')",
    )
    assert "forms" not in run(python, "Shows()")
    assert run(python, "Shows(html='<b>', png=b'\\x89PNG')")["forms"] == {
        "text/plain": "shown",
        "text/html": "<b>",
        "image/png": "iVBORw==",
    }
    said = run(
        python,
        "display(1, Shows(html='x')); print('between'); display({'text/plain': 't', 'application/json': {'a': [1]}}, raw=True)",
    )
    assert said["displays"] == [
        {"text/plain": "1"},
        {"text/plain": "shown", "text/html": "x"},
        {"text/plain": "t", "application/json": {"a": [1]}},
    ]
    call = python.start("python:execute", {"code": "print('a'); display(2); print('b')"})
    python.reply(call)
    assert [chunk.data for chunk in python.chunks(call)] == [{"display": {"text/plain": "2"}}]
    bundle = "class B:\n    def _repr_mimebundle_(self, include=None, exclude=None): return {forms}\nB()"
    assert (
        run(python, bundle.replace("{forms}", "{'text/html': 'h', 'a/b': 'c'}, {'a/b': {}}"))["forms"]["a/b"]
        == "c"
    )
    for lie in (
        "[1]",
        "{1: 2, 'x' * 500: 'y', 'no-slash': 1}",
        "None",
        "object()",
        "{'text/html': object()}",
    ):
        assert run(python, bundle.replace("{forms}", lie)).get("forms", {}).keys() <= {
            "text/plain",
            "left_out",
        }


def test_a_display_has_a_place_of_its_own_and_output_is_cleared(python: Any) -> None:
    said = run(
        python,
        "h = display(1, display_id=True)\nh.update(2)\ndisplay(3, display_id='x')\nupdate_display(4, display_id='x')",
    )
    assert said["displays"] == [{"text/plain": "2"}, {"text/plain": "4"}]
    call = python.start(
        "python:execute",
        {
            "code": "display(5)\nclear_output(wait=True)\nupdate_display(1, display_id='gone')\ndisplay(6, display_id='y')"
        },
    )
    assert python.reply(call).result["displays"] == [{"text/plain": "6"}]
    assert [chunk.data for chunk in python.chunks(call)] == [
        {"display": {"text/plain": "5"}},
        {"clear": True},
        {"display": {"text/plain": "1"}, "id": "gone", "update": True},
        {"display": {"text/plain": "6"}, "id": "y"},
    ]
    for wrong in ("''", "5", "'x' * 101", "[]"):
        assert python.fault("python:execute", {"code": f"display(1, display_id={wrong})"}).code
    said = run(
        python, "big = 'x' * 1000\nh = display(0, display_id=True)\nfor n in range(20_000): h.update(big)"
    )
    assert said["displays_left_out"] > 0
    assert len(said["displays"]) == 1
    run(python, "for n in range(2_000): clear_output()")


def test_hostile_forms_cost_their_own_command_alone(python: Any) -> None:
    shows = "class H:\n    def _repr_html_(self):\n        {body}\nH()"

    def html(body: str) -> Any:
        return run(python, shows.replace("{body}", body))

    assert html("raise SystemExit(3)")["forms"]["left_out"] == {"text/html": "it raised SystemExit"}
    assert html("raise type('E', (BaseException,), {})")["forms"]["left_out"] == {"text/html": "it raised E"}
    assert html("return 'x' * (1 << 27)")["forms"]["left_out"] == {"text/html": f"{1 << 27} bytes"}
    assert html("return '\\ud800'")["forms"]["text/html"] == "\\ud800"
    assert html("self.__class__ = type('Z', (), {}); return 5")["forms"]["left_out"] == {
        "text/html": "it raised TypeError"
    }
    call = python.start(
        "python:execute",
        {"code": shows.replace("{body}", "print('in', flush=True)\n        while True: pass")},
    )
    python.settle_log(b"in")
    python.send(CancelFrame(id=call))
    assert python.reply(call).code == "cancelled"
    said = run(python, "for n in range(1_000_000): display(n)")
    assert (len(said["displays"]), said["displays_left_out"]) == (1_000, 999_000)
    said = run(
        python,
        "class Big:\n    def _repr_html_(self): return 'h' * 900_000\nfor n in range(100): display(Big())",
    )
    assert 1 <= len(said["displays"]) < 10
    assert said["displays_left_out"] > 90
    run(
        python,
        "import threading\nthread = threading.Thread(target=lambda: [display(n) for n in range(50)]); thread.start(); thread.join()",
    )
    run(python, "display = 5\ndel display\nimport builtins\nbuiltins.display('still')")
    assert run(python, "1")["value"] == 1


def test_completion_and_inspection(python: Any) -> None:
    run(
        python,
        "import os\ndef area(r, *, unit='m'):\n    'The area.'\nclass Evil:\n    @property\n    def x(self): raise SystemExit\nevil = Evil()",
    )
    assert python.value("python:complete", {"code": "are"})["matches"] == ["area"]
    said = python.value("python:complete", {"code": "x = os.path.joi + 1", "cursor": 15})
    assert (said["matches"], said["start"], said["end"]) == (["os.path.join"], 4, 15)
    assert python.value("python:complete", {"code": ""})["matches"] == []
    said = python.value("python:inspect", {"code": "area(3)", "cursor": 2})
    assert (said["signature"], said["documentation"]) == ("(r, *, unit='m')", "The area.")
    assert python.value("python:inspect", {"code": "nothing_here"}) == {"found": False}
    assert python.value("python:inspect", {"code": "os.no.thing"}) == {"found": False}
    assert python.fault("python:inspect", {"code": "evil.x"}).code == "application"
    assert run(python, "1")["value"] == 1


def test_each_python_runs_code_programs_and_files(launch: Any, pythons: dict[str, Path]) -> None:
    for version, python in pythons.items():
        guest = launch(MANIFEST.folder, python=python)
        ready = guest.boot(bridge="python", version=MANIFEST.version, entry=MANIFEST.entry)
        assert isinstance(ready, ReadyFrame), (version, ready)
        guest.open()
        said = given(
            guest,
            "import asyncio\nawait asyncio.sleep(0, x)",
            variables={"x": {"$bytes": "AA=="}},
            returns=["x"],
        )
        assert (said["repr"], said["variables"]["x"]["value"]) == ("b'\\x00'", {"$bytes": "AA=="}), version
        assert (
            guest.value(
                "python:program", {"kind": "code", "text": "raise SystemExit(len(input()))", "stdin": "abc"}
            )["status"]
            == 3
        )
        assert guest.value("python:program", {"kind": "module", "text": "platform"})["stdout"]
        written = guest.value("python:files_write", {"path": "a/b", "base64": "AAE="})
        assert guest.value("python:files_read", {"path": "a/b"})["base64"] == "AAE=", version
        assert written["size_bytes"] == 2
        assert guest.value("common:shutdown")["status"] == "shutting_down"
