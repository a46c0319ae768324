"""Tool calls through a whole host: granted, bounded, audited, and what hostile askers and tools do."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.server
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bridgehold import BridgeholdError, Client, SyncClient
from bridgehold.client.tools import Tool
from bridgehold.config.load import load_config
from bridgehold.keeper.admin import SecretAdmin
from bridgehold.protocol.frames import MAX_FRAME
from bridgehold.strict import MAX_VALUES
from hostile.stage import MANIFEST, POLICY, Stage, stage
from typed import ROOT
from waiting import until

KINDS = [("root", "fork"), ("user", "cold")] if os.getuid() == 0 else [("self", "fork"), ("self", "cold")]
TOKEN = "another-principal-of-the-same-tenant"
FAR = "somebody-of-another-tenant"
BRIDGE = """
import json, threading
from bridgehold_sdk import Bridge, ToolError, operation

class Asker(Bridge):
    @operation()
    def act(self, code):
        names = {"bridge": self, "tools": self.tools, "result": {}, "ToolError": ToolError,
                 "threading": threading, "json": json}
        exec(compile(code, "act", "exec"), names)
        return names["result"]
"""
CONFIG = """
[providers.crm]
base_url = "http://127.0.0.1:{port}/api"
private = true
[principals.other]
tokens = ["sha256:{digest}"]
tenants = ["local"]
[principals.far]
tokens = ["sha256:{far}"]
tenants = ["far"]
[tools.area]
entry = "geometry:area"
parameters = {{ type = "object", required = ["width"], additionalProperties = false, properties = {{ width = {{ type = "number" }}, height = {{ type = "number" }} }} }}
result = {{ type = "number" }}
[tools.whose]
entry = "geometry:whose"
[tools.anyone]
entry = "geometry:anyone"
parameters = {{ type = "object", additionalProperties = true }}
[tools.homonym]
entry = "geometry:homonym"
parameters = {{ type = "object", properties = {{ context = {{ type = "string" }} }} }}
[tools.careless]
entry = "geometry:careless"
parameters = {{ type = "object", additionalProperties = true }}
[tools.hang]
entry = "geometry:hang"
timeout_s = 0.5
[tools.tarry]
entry = "geometry:tarry"
timeout_s = 4
parameters = {{ type = "object", properties = {{ s = {{ type = "number" }} }} }}
[tools.crash]
entry = "geometry:crash"
[tools.noise]
entry = "geometry:noise"
[tools.liar]
entry = "geometry:liar"
result = {{ type = "integer" }}
[tools.lookup]
provider = "crm"
path = "/lookup"
parameters = {{ type = "object", properties = {{ name = {{ type = "string" }} }} }}
[tools.broken]
provider = "crm"
path = "/broken"
[tools.elsewhere]
entry = "geometry:area"
tenants = ["acme"]
[tools.finish]
entry = "ending:finish"
parameters = {{ type = "object", properties = {{ how = {{ type = "string" }} }} }}
[tools.linger]
entry = "ending:finish"
timeout_s = 1
parameters = {{ type = "object", properties = {{ how = {{ type = "string" }} }} }}
[tools.told]
entry = "ending:told"
parameters = {{ type = "object", additionalProperties = true }}
[tools.imports_nothing]
entry = "leaving:anything"
[tools.paged]
entry = "paged:area"
parameters = {{ type = "object", additionalProperties = true }}
[tools.late]
entry = "ending:late"
[tools.replies]
provider = "crm"
path = "/replies"
parameters = {{ type = "object", properties = {{ body = {{ type = "string" }} }} }}
"""
FUNCTIONS = """
import os, time
def area(width, height=2): return width * height
def whose(context, /): return [context["tenant"], context["principal"], "KEY" in str(dict(os.environ)), os.getppid()]
def anyone(context, /, **more): return [context["tenant"], more]
def homonym(host, /, context="nobody"): return [host["tenant"], context]
def careless(context=None, tenant=None): return [context, tenant]
def hang(): time.sleep(60)
def tarry(s):
    time.sleep(s)
    return "done"
def crash(): os._exit(3)
def noise():
    print("to the log")
    os.system("echo to the log too")
    return "quiet"
def liar(): return "not a number"
"""
ENDING = """
import _thread, asyncio, ctypes, math, multiprocessing, os, signal, sys, threading, time

class Own(BaseException):
    def __str__(self): raise SystemExit(4)

class Half:
    def __iter__(self): raise KeyboardInterrupt
    dtype = property(lambda self: sys.exit(5))

def deeper(): return deeper()
def deep(count):
    made = []
    for _ in range(count): made = [made]
    return made
LOOP = []; LOOP.append(LOOP)

def raises(error):
    raise error

def forked():
    if os.fork() == 0:
        return "the child's"
    return "the parent's"

def keeps_children():
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)).start()
    time.sleep(600)

def finish(how):
    print("said", how, flush=True)
    os.system("echo said by a child")
    return HOW[how]()

HOW = {
    "fine": lambda: "fine",
    "SystemExit": lambda: sys.exit(2), "KeyboardInterrupt": lambda: raises(KeyboardInterrupt()),
    "Own": lambda: raises(Own()), "StopIteration": lambda: next(iter(())), "GeneratorExit": lambda: raises(GeneratorExit()),
    "CancelledError": lambda: raises(asyncio.CancelledError()), "RecursionError": deeper,
    "ValueError": lambda: raises(ValueError("lone \\ud800" + "x" * 9_000)),
    "thread": lambda: _thread.exit(),
    "input": lambda: input(),
    "nan": lambda: {"rows": [1.0, {"x": math.nan}]}, "bytes": lambda: [b"x"], "self": lambda: LOOP,
    "deep": lambda: deep(900), "key": lambda: {None: 1}, "twins": lambda: {1: 1, "1": 2}, "wide": lambda: 2**64,
    "surrogate": lambda: ["\\udfff"], "big": lambda: "x" * (5 << 20), "many": lambda: [0] * 1_500_000,
    "object": lambda: Half(), "coroutine": lambda: asyncio.sleep(0), "generator": lambda: (n for n in ()),
    "interrupt": lambda: (_thread.interrupt_main(), time.sleep(0.2), "went on")[-1],
    "forked": forked,
    "_exit": lambda: os._exit(3), "segv": lambda: ctypes.string_at(1), "kill": lambda: os.kill(os.getpid(), 9),
    "descriptors": lambda: os.closerange(0, 4096),
    "writes": lambda: [_write(n) for n in range(3, 64)],
    "stop": lambda: (os.kill(os.getpid(), signal.SIGSTOP), time.sleep(60)), "children": keeps_children,
}

def _write(number):
    try: os.write(number, b"x\\n")
    except OSError: pass

def told(**given): return given
async def late(): return 1
"""


class Crm(http.server.BaseHTTPRequestHandler):
    seen: list[tuple[str, str, Any]] = []  # noqa: RUF012 - shared with the test

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append((self.path, self.headers["authorization"], body))
        status, said = (500, b"no") if self.path.endswith("broken") else (200, json.dumps(body).encode())
        if self.path.endswith("replies"):
            said = body["body"].encode("latin-1")
        self.send_response(status)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def asker(request: pytest.FixtureRequest) -> Iterator[Stage]:
    kind, start = request.param

    crm = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Crm)
    threading.Thread(target=crm.serve_forever, daemon=True).start()
    digest, far = (hashlib.sha256(token.encode()).hexdigest() for token in (TOKEN, FAR))
    with stage(kind, start, CONFIG.format(port=crm.server_port, digest=digest, far=far)) as ready:
        folder = ready.layout.config / "tools"
        folder.mkdir(mode=0o755)
        (folder / "geometry.py").write_text(FUNCTIONS)
        (folder / "ending.py").write_text(ENDING)
        (folder / "leaving.py").write_text("raise SystemExit(7)")
        name = ready.bridge(manifest=MANIFEST.split("[operations.report]")[0])
        (ready.layout.bridges / name / "hostile.py").write_text(BRIDGE.replace("Asker", "Hostile"))
        (ready.layout.policies / f"{name}.toml").write_text(
            POLICY
            + f'[secrets.crm]\n[tools]\nallow = ["*"]\ndeny = ["forbidden"]\n[sandbox]\nstart = "{start}"\n'
        )
        ready.__dict__["_plain"] = name
        SecretAdmin.for_layout(ready.layout, load_config(ready.layout.config_file)).set(
            "local", "crm", b"crm-key-0123456789"
        )
        yield ready
    crm.shutdown()


def act(asker: Stage, code: str, *tools: Any, deadline_ms: int = 0) -> dict[str, Any]:
    with asker.client.session(asker.plain, tools=tools) as session:
        found = session.run("act", {"code": code}, deadline_ms=deadline_ms)
    assert isinstance(found, dict)
    return found


def error_of(asker: Stage, call: str, *tools: Any) -> tuple[str, str]:
    found = act(
        asker,
        f"try:\n    {call}\n    result['code'] = ''\n"
        "except ToolError as error:\n    result.update(code=error.code, text=str(error))",
        *tools,
    )
    return found["code"], found.get("text", "")


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


def forbidden() -> str:
    return "must not run"


def test_a_bridge_calls_its_callers_functions(asker: Stage) -> None:
    async def later(text: str) -> dict[str, str]:
        await asyncio.sleep(0.01)
        return {"text": text * 2}

    found = act(
        asker,
        "result['sum'] = tools['add'](a=2, b=3)\n"
        "result['one'] = tools['add'](a=2)\n"
        "result['later'] = tools['later'](text='é\\u0000')\n"
        "result['facts'] = [tools['add'].description, tools['add'].parameters]\n"
        "result['offered'] = sorted(tools)\n",
        add,
        later,
        forbidden,
    )
    assert (found["sum"], found["one"], found["later"]) == (5, 3, {"text": "é\u0000é\u0000"})
    assert found["facts"][0] == "Add two numbers."
    assert found["facts"][1]["required"] == ["a"]
    assert "forbidden" not in found["offered"]
    assert "elsewhere" not in found["offered"]
    assert {"add", "later", "area", "lookup"} <= set(found["offered"])


def test_every_call_is_audited_before_and_after(asker: Stage) -> None:
    act(asker, "tools['add'](a=41)", add)
    intent = asker.events("tool.intent")[-1]
    outcome = asker.events("tool.outcome")[-1]
    assert (intent["tool"], intent["how"], intent["rule"]) == ("add", "caller", "tools.allow[0]")
    assert intent["arguments_preview"] == '{"a":41}'
    assert outcome["intent"] == intent["ref"]
    assert outcome["ok"] is True
    command = asker.events("command.intent")[-1]
    assert intent["parent"]
    assert outcome["session"] == command["session"]


@pytest.mark.parametrize(
    ("call", "code", "text"),
    [
        ("tools['add'](a='x')", "usage", "integer"),
        ("tools['add'](a=1, c=1)", "usage", "c"),
        ("tools['add'].call('nothing', {})", "denied", "not offered"),
        ("tools['add'].call('forbidden', {})", "denied", "denied by 'forbidden'"),
        ("tools['add'].call('elsewhere', {'width': 1})", "denied", "not offered"),
        ("tools['add'].call('../../etc', {})", "denied", "not offered"),
        ("tools['failing']()", "application", "ValueError: nothing works"),
        ("tools['odd']()", "application", "odd"),
        ("tools['hang']()", "timeout", "500 ms"),
        ("tools['crash']()", "crash", "process ended"),
        ("tools['liar']()", "application", "schema"),
        ("tools['broken']()", "application", "status 500"),
    ],
)
def test_what_goes_wrong_is_a_typed_error_inside(asker: Stage, call: str, code: str, text: str) -> None:
    def failing() -> None:
        raise ValueError("nothing works")

    def odd() -> object:
        return {1: object()}

    found = error_of(asker, call, add, failing, odd, forbidden)
    assert found[0] == code
    assert text in found[1]
    if code == "denied":
        assert asker.events("tool.refused")


def test_an_operators_function_runs_in_a_process_of_its_own(asker: Stage) -> None:
    found = act(
        asker,
        "result['area'] = tools['area'](width=3.5)\n"
        "result['whose'] = tools['whose']()\n"
        "result['noise'] = tools['noise']()\n"
        "result['again'] = tools['area'](width=1)\n",
    )
    assert (found["area"], found["noise"], found["again"]) == (7.0, "quiet", 2)
    tenant, principal, has_key, _ = found["whose"]
    assert (tenant, has_key) == ("local", False)
    assert principal not in ("", "host")


def test_the_pages_function_works_as_written_and_its_changed_file_is_what_the_next_call_runs(
    asker: Stage,
) -> None:
    page = (ROOT / "docs/how-to/tools.md").read_text()
    [written] = re.findall(r"```python\n(def area\(.*?)```", page, re.DOTALL)
    file = asker.layout.config / "tools" / "paged.py"
    call = "tools['paged'](width=3, height=4)"
    for text, said in (
        (written, 12),
        (written.replace("width * height", "width + height"), 7),
        ("def area(:", "SyntaxError"),
        (written.replace("width * height", "helper.twice(width)"), "name 'helper'"),
        (
            f"import helper\n{written.replace('width * height', 'helper.twice(width)')}",
            "No module named 'helper'",
        ),
    ):
        file.write_text(text)
        code, found = error_of(asker, f"result['said'] = {call}") if isinstance(said, str) else ("", "")
        assert said == act(asker, f"result['said'] = {call}")["said"] if not code else str(said) in found
    file.with_name("helper.py").write_text("def twice(x): return 2 * x")  # what it imports is its code, too
    assert act(asker, f"result['said'] = {call}") == {"said": 6}
    before = act(asker, "result['said'] = tools['whose']()")["said"]
    assert (
        before == act(asker, "result['said'] = tools['whose']()")["said"]
    )  # nothing has changed: the same process


HOMONYMS = {
    "context": {"tenant": "acme", "principal": "root", "session": "s", "command": "c"},
    "principal": "root",
    "tenant": "acme",
    "session": {"tenant": "acme"},
    "self": 1,
    "_context": 1,
}


def test_no_argument_of_a_guest_is_taken_for_what_the_host_supplies(asker: Stage) -> None:  # ABUSE 55
    """Its names are refused where nobody declared them, and where they are let in they are the guest's own."""
    for name, value in HOMONYMS.items():
        given = f"{{{name!r}: {value!r}}}"
        for tool in ("whose", "area", "lookup", "broken", "hang", "artifact_list", "hidden"):
            code, text = error_of(asker, f"tools[{tool!r}].call({tool!r}, {given})", Tool.of(hidden))
            assert code == "usage", (tool, name, text)
            assert f"arguments.{name}: unknown" in text
        found = act(asker, f"result['x'] = tools['anyone'].call('anyone', {given})")
        assert found["x"] == ["local", {name: value}]
        code, text = error_of(asker, f"tools['careless'].call('careless', {given})")
        assert code == "application"
        assert "positional-only" in text
    assert act(asker, "result['x'] = [tools['homonym'](), tools['homonym'](context='mine')]") == {
        "x": [["local", "nobody"], ["local", "mine"]]
    }


def hidden(*, width: int = 1) -> int:
    """Takes one name."""
    return width


def test_no_argument_of_a_caller_is_taken_for_what_the_host_supplies(asker: Stage) -> None:  # ABUSE 55
    with asker.client.session(asker.plain) as session:
        for name, value in HOMONYMS.items():
            for operation in ("act", "common:ping", "common:health"):
                given = {name: value} if ":" in operation else {"code": "", name: value}
                with pytest.raises(BridgeholdError, match=f"{name}: unknown") as caught:
                    session.run(operation, given)
                assert caught.value.code == "usage"
        with pytest.raises(BridgeholdError) as caught:
            session.run("common:open", {"session": {"id": "s", "name": "n", "tenant": "acme"}})
        assert caught.value.code == "denied"
        told = session.run("act", {"code": "result['x'] = [bridge.session.tenant, bridge.session.id]"})
        assert told == {"x": ["local", session.id]}


def test_an_endpoint_gets_the_arguments_and_the_key_that_no_bridge_has(asker: Stage) -> None:
    found = act(asker, "result['said'] = tools['lookup'](name='Ada')")
    assert found["said"] == {"name": "Ada"}
    assert Crm.seen[-1] == ("/api/lookup", "Bearer crm-key-0123456789", {"name": "Ada"})
    assert "crm-key" not in str(asker.events("tool."))


def test_an_endpoint_is_paid_for_and_its_key_granted_as_any_providers(asker: Stage) -> None:
    act(asker, "tools['lookup'](name='Ada')")
    tool, intent, outcome = (
        asker.events(kind)[-1] for kind in ("tool.intent", "egress.intent", "egress.outcome")
    )
    assert (intent["provider"], intent["how"], intent["path"]) == ("crm", "tool", "/lookup")
    assert (intent["rule"], intent["command"]) == ("tools.allow[0]", tool["command"])
    assert (outcome["intent"], outcome["status"], outcome["code"]) == (intent["ref"], 200, "")
    for secret, rate, code, said in (
        ("[secrets.crm]\n", "provider_requests_total = 1\n", "budget", "budget of 1 requests is used up"),
        ("", "", "denied", "no secret is granted for crm"),
    ):
        name = asker.bridge(manifest=MANIFEST.split("[operations.report]")[0])
        (asker.layout.bridges / name / "hostile.py").write_text(BRIDGE.replace("Asker", "Hostile"))
        (asker.layout.policies / f"{name}.toml").write_text(
            f'{POLICY}{rate}{secret}[tools]\nallow = ["*"]\n[sandbox]\nstart = "{asker.start}"\n'
        )
        before = len(Crm.seen)
        with asker.client.session(name) as session:
            told = session.run(
                "act",
                {
                    "code": "try: tools['lookup'](name='Eve')\nexcept ToolError as e: result.update(c=e.code, t=str(e))"
                },
            )
        assert told["c"] == code
        assert said in told["t"]
        assert len(Crm.seen) == before
        assert asker.events("tool.outcome")[-1]["code"] == code


def test_a_late_call_ends_its_own_tenants_process_and_no_others(asker: Stage) -> None:
    """One process for each tool and tenant: what one of them does to a tool reaches nobody else's calls."""
    found: dict[str, Any] = {}

    def slowly() -> None:
        with SyncClient.connect(asker.layout.socket) as client, client.session(asker.plain) as session:
            code = (
                "result['x'] = [tools['tarry'](s=1) for _ in range(5)]"  # until after the other's has ended
            )
            found["ours"] = session.run("act", {"code": code})

    thread = threading.Thread(target=slowly)
    before = len(asker.events("tool.intent"))
    thread.start()
    until(lambda: len(asker.events("tool.intent")) > before)
    with asker.session(tenant="other") as session:
        code = "try: tools['tarry'](s=30)\nexcept ToolError as error: result['code'] = error.code"
        assert session.run("act", {"code": code}) == {"code": "timeout"}
    thread.join(30)
    assert found == {"ours": {"x": ["done"] * 5}}


def test_calls_from_many_threads_are_bounded_and_each_gets_its_own_answer(asker: Stage) -> None:
    release = threading.Event()

    def slow(number: int) -> int:
        release.wait(60)
        return number

    code = (
        "said = {}\n"
        "def ask(n):\n"
        "    try: said[n] = tools['slow'](number=n)\n"
        "    except ToolError as error: said[n] = error.code; print('too many', flush=True)\n"
        "threads = [threading.Thread(target=ask, args=(n,)) for n in range(30)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "result['said'] = [said[n] for n in range(30)]\n"
    )
    with asker.client.session(asker.plain, tools=[slow]) as session, ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.run, "act", {"code": code})
        try:
            until(lambda: running.done() or session.logs().count("too many") == 14)
        finally:
            release.set()
        found = running.result(60)
    served = [said for number, said in enumerate(found["said"]) if said == number]
    assert len(served) == 16
    assert all(said in (number, "busy") for number, said in enumerate(found["said"]))


def test_a_flood_of_raw_frames_is_bounded_and_the_host_goes_on(asker: Stage) -> None:  # ABUSE 34
    before = len(asker.events("tool.intent"))
    code = (
        "runtime = bridge._context\n"
        "for n in range(6000):\n"
        "    frame = {'type': 'tool_call', 'id': runtime._current, 'call': n, 'tool': 'add', 'arguments': {'a': n}}\n"
        "    runtime._writer.write(frame)\n"
        "for other in (0, 1, 999999):\n"
        "    runtime._writer.write({'type': 'tool_call', 'id': other, 'call': 1, 'tool': 'add', 'arguments': {}})\n"
    )
    with asker.client.session(asker.plain, tools=[add]) as session:
        session.run("act", {"code": code}, deadline_ms=60_000)
    assert len(asker.events("tool.intent")) - before <= 1_000
    assert asker.events("protocol.violation")
    assert act(asker, "result['x'] = tools['add'](a=1)", add) == {"x": 2}


def test_a_tool_that_never_answers_ends_with_its_command(asker: Stage) -> None:  # ABUSE 34
    release = threading.Event()

    def never() -> None:
        release.wait(30)

    begun = time.monotonic()
    with (
        pytest.raises(BridgeholdError) as caught,
        asker.client.session(asker.plain, tools=[never]) as session,
    ):
        session.run("act", {"code": "tools['never']()"}, deadline_ms=1_000)
    release.set()
    assert caught.value.code == "timeout"
    assert time.monotonic() - begun < 10
    until(lambda: asker.events("tool.outcome")[-1]["code"] == "timeout")
    assert asker.events("tool.outcome")[-1]["reason"] == "its command ended first"


@pytest.mark.parametrize("kind", ["long", "many"])
def test_a_result_that_can_not_be_sent_is_its_bridge_s_error_at_once(asker: Stage, kind: str) -> None:
    """And ends neither the caller's connection nor what runs on it."""

    def unsendable() -> Any:
        return "x" * (MAX_FRAME + 1) if kind == "long" else [0] * (MAX_VALUES + 1)

    begun = time.monotonic()
    code = "try: tools['unsendable']()\nexcept ToolError as error: result['said'] = [error.code, str(error)[:40]]"
    said = act(asker, code, unsendable)["said"]
    assert said[0] == "application"
    assert "result" in said[1]
    assert time.monotonic() - begun < 20, "a tool has 30 s"


def test_a_tool_may_use_another_session_but_never_the_one_that_waits_for_it(asker: Stage) -> None:
    with asker.client.session(asker.plain) as other:

        def ask_other() -> Any:
            return other.run("act", {"code": "result['from'] = 'other'"})

        assert act(asker, "result['x'] = tools['ask_other']()", ask_other) == {"x": {"from": "other"}}

    held: list[Any] = []

    def ask_self() -> Any:
        return held[0].run("act", {"code": "result['x'] = 1"})

    with asker.client.session(asker.plain, tools=[ask_self]) as session:
        held.append(session)
        code = "try: tools['ask_self']()\nexcept ToolError as error: result['text'] = str(error)"
        assert "waits for the very tool" in session.run("act", {"code": code})["text"]


def test_recursion_over_sessions_is_bounded(asker: Stage) -> None:  # ABUSE 34
    depth = 0

    def deeper() -> Any:
        nonlocal depth
        depth += 1
        with asker.client.session(asker.plain, tools=[deeper]) as session:
            return session.run("act", {"code": "tools['deeper']()"})

    with pytest.raises(BridgeholdError) as caught:
        act(asker, "tools['deeper']()", deeper, deadline_ms=60_000)
    assert "deep" in caught.value.message
    assert depth == 8


def test_what_runs_for_a_tool_names_its_command_and_nothing_that_is_only_said(asker: Stage) -> None:
    run = {"operation": f"{asker.plain}:act", "arguments": {"code": ""}}
    commands: list[str] = []

    async def other(command: str) -> None:
        async with await Client.connect(asker.layout.socket, token=FAR) as client:
            await client.request("run", {**run, "tenant": "far", "session": "theirs", "parent": command})

    def nested() -> int:
        commands.append(str(asker.events("tool.intent")[-1]["parent"]))
        with SyncClient.connect(asker.layout.socket) as client:
            for session, parent in (
                ("own", commands[0]),
                ("said", "c-0123456789abcdef"),
                ("text", "a key\n"),
            ):
                client.request("run", {**run, "session": session, "parent": parent})
        asyncio.run(other(commands[0]))
        return 1

    before = len(asker.events("command.intent"))
    assert act(asker, "result['x'] = tools['nested']()", nested) == {"x": 1}
    asker.client.request("run", {**run, "session": "late", "parent": commands[0]})
    told = [one["parent"] for one in asker.events("command.intent")[before:]]
    assert told == ["", commands[0], "", "", "", ""]


def test_nobody_else_answers_a_call(asker: Stage) -> None:
    refused: list[str] = []

    async def thief() -> None:
        async with await Client.connect(asker.layout.socket, token=TOKEN) as other:
            for call in range(1, 60):
                answer = {"command": asker.events("tool.intent")[-1]["parent"], "call": call, "result": 666}
                try:
                    await other.request("tool.reply", answer)
                except BridgeholdError as error:
                    refused.append(error.code)

    async def slow() -> int:
        await asyncio.sleep(0.2)
        await asyncio.to_thread(lambda: asyncio.run(thief()))
        return 1

    assert act(asker, "result['x'] = tools['slow']()", slow) == {"x": 1}
    assert set(refused) == {"not_found"}
    assert len(refused) == 59


def test_tools_that_can_t_be_are_refused_before_anything_runs(asker: Stage) -> None:
    def anything(**more: int) -> None:
        """Not by name."""

    with pytest.raises(BridgeholdError, match="can't be given by name"):
        act(asker, "", anything)
    for tool in (
        Tool(function=add, name="Not A Name"),
        Tool(function=add, name="x", parameters={"$ref": "http://elsewhere"}),
        Tool(function=add, name="area"),
        *(),
    ):
        with pytest.raises(BridgeholdError) as caught:
            act(asker, "result['ran'] = 1", tool)
        assert caught.value.code == "usage"
    with pytest.raises(BridgeholdError, match="may be offered"):
        act(asker, "", *(Tool(function=add, name=f"t{number}") for number in range(65)))


class _Mute(Exception):  # noqa: N818 - what a caller's own may be called
    def __str__(self) -> str:
        raise SystemExit(3)


ENDS: dict[str, BaseException] = {
    "SystemExit": SystemExit(2),  # as argparse does
    "KeyboardInterrupt": KeyboardInterrupt(),
    "StopIteration": StopIteration(1),
    "CancelledError": asyncio.CancelledError(),
    "GeneratorExit": GeneratorExit(),
    "ValueError": ValueError("lone \ud800"),
    "_Mute": _Mute(),
}


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_however_a_callers_function_ends_there_is_one_answer_at_once(asker: Stage, kind: str) -> None:
    def ends(name: str) -> object:
        raise ENDS[name]

    async def ends_later(name: str) -> object:
        await asyncio.sleep(0)
        raise ENDS[name]

    function = ends if kind == "plain" else ends_later
    tool = Tool(function=function, name="ends", parameters={"properties": {"name": {}}})
    code = (
        f"for name in {list(ENDS)!r}:\n"
        "    try:\n        tools['ends'](name=name)\n"
        "    except ToolError as error:\n        result[name] = str(error)\n"
    )
    began = time.monotonic()
    said = act(asker, code, tool)
    expected = {name: name for name in ENDS}
    if kind == "async":
        expected["StopIteration"] = "RuntimeError"  # Python's own word: a coroutine can't raise it
    assert {name: text.split(": ")[1] for name, text in said.items()} == expected
    assert "lone \\ud800" in said["ValueError"]
    assert time.monotonic() - began < 40  # far from the command's own 60 s: nobody waited for it
    assert act(asker, "result['sum'] = tools['add'](a=1)", add) == {"sum": 2}  # the client lives


def test_a_result_that_cannot_be_sent_says_where(asker: Stage) -> None:
    def odd() -> object:
        return {"rows": [1.0, float("nan")]}

    code, text = error_of(asker, "tools['odd']()", odd)
    assert code == "application"
    assert "result.rows[1]: nan, which JSON has not" in text


OPERATORS = {
    "SystemExit": ("application", "SystemExit: 2"),
    "KeyboardInterrupt": ("application", "KeyboardInterrupt"),
    "Own": ("application", "Own: (its text can't be had)"),
    "StopIteration": ("application", "StopIteration"),
    "GeneratorExit": ("application", "GeneratorExit"),
    "CancelledError": ("application", "CancelledError"),
    "RecursionError": ("application", "RecursionError"),
    "ValueError": ("application", "ValueError: lone \\ud800xxx"),
    "thread": ("application", "SystemExit"),
    "input": ("application", "EOFError"),
    "nan": ("application", "result.rows[1].x: nan, which JSON has not"),
    "bytes": ("application", "result[0]: bytes"),
    "self": ("application", "refers to itself"),
    "deep": ("application", "nested deeper than 60"),
    "key": ("application", "a key of type NoneType"),
    "twins": ("application", "two keys are both spelled '1'"),
    "wide": ("application", "result: an integer beyond 64 bits (Send it as text.)"),
    "surrogate": ("application", "result[0]: text with a lone surrogate"),
    "big": ("application", "more than 4194304 bytes"),
    "many": ("application", "values"),
    "object": ("application", "SystemExit: 5"),
    "coroutine": ("application", "result: a builtins.coroutine can't be sent"),
    "generator": ("application", "result: a builtins.generator can't be sent"),
    "interrupt": ("", "went on"),
    "forked": ("", "the parent's"),
    "_exit": ("crash", "the tool's process ended (status 3)"),
    "segv": ("crash", "the tool's process ended (signal 11)"),
    "kill": ("crash", "the tool's process ended (signal 9)"),
    "descriptors": ("crash", "the tool's process"),
    "writes": ("crash", "wrote what is no answer"),
    "stop": ("timeout", "did not answer within 1 s"),
    "children": ("timeout", "did not answer within 1 s"),
}
"""By how an operator's function ends: what the bridge is told, at once but for the last two."""


def test_however_an_operators_function_ends_there_is_one_answer_and_the_next_call_works(asker: Stage) -> None:
    code = (
        "import time\n"
        "tool, how, began, result['said'] = tools[{tool!r}], {how!r}, time.monotonic(), ['', '']\n"
        "try: result['said'][1] = tool(how=how)\n"
        "except ToolError as error: result['said'] = [error.code, str(error)]\n"
        "result['s'] = time.monotonic() - began\n"
        "while 'after' not in result:\n"
        "    try: result['after'] = tool(how='fine')\n"
        "    except ToolError as error:\n"
        "        if error.code != 'timeout': raise\n"  # a new process, on a busy machine
    )
    with asker.session() as session:
        for how, (wanted, text) in OPERATORS.items():
            tool = "linger" if wanted == "timeout" else "finish"
            found = session.run("act", {"code": code.format(how=how, tool=tool)})
            said, message = found["said"]
            assert (said, found["after"]) == (wanted, "fine"), (how, message)
            assert text in message, (how, message)
            assert len(message) < 2_200
            assert found["s"] < 6, how  # far from the tool's own 30 s: nobody waited for it
    outcomes = {(one["tool"], one["ok"], one["code"]) for one in asker.events("tool.outcome")}
    assert {
        ("finish", False, "application"),
        ("finish", False, "crash"),
        ("linger", False, "timeout"),
    } <= outcomes
    assert len(workers_of(asker, "ending:finish")) == 2  # one of each tool: what they forked is gone


def workers_of(asker: Stage, entry: str) -> list[str]:
    """The processes that run, or were forked by, this function's worker, by pid."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (place / "cmdline").read_bytes().split(b"\0")
            if {str(asker.layout.config / "tools").encode(), entry.encode()} <= set(line):
                found.append(place.name)
    return found


@pytest.mark.parametrize(
    ("tool", "text"),
    [("imports_nothing", "can't be loaded: SystemExit: 7"), ("late", "is a coroutine function")],
)
def test_a_function_that_cannot_be_loaded_says_why(asker: Stage, tool: str, text: str) -> None:
    code, message = error_of(asker, f"tools[{tool!r}]()")
    assert code == "application"
    assert text in message
    assert error_of(asker, f"tools[{tool!r}]()")[1] == message


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"a": 1, "a": 2}', "the same key twice"),
        ("[1e400]", "out of range"),
        ("18446744073709551616", "beyond 64 bits"),
        ("NaN", "not JSON"),
        ('"\\ud800"', "not JSON"),
        ("[" * 99 + "]" * 99, "nested deeper"),
        ('"\xff"', "not UTF-8"),
    ],
)
def test_what_an_endpoint_answers_arrives_as_it_was_sent_or_is_refused(
    asker: Stage, body: str, text: str
) -> None:
    code, message = error_of(asker, f"tools['replies'](body={body!r})")
    assert code == "application"
    assert "the tool replies answered with what can't be sent" in message
    assert text in message
    assert act(asker, "result['x'] = tools['replies'](body='[18446744073709551615, 1.5]')") == {
        "x": [2**64 - 1, 1.5]
    }
