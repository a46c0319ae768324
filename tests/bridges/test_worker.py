"""A worker from the first byte to the last: boot, ready, commands, cancel, end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridgehold.bridges.frames import CancelFrame, FaultFrame, ReadyFrame

SAMPLE = """
from __future__ import annotations
import ctypes, os, socket, sys, threading, time
from bridgehold_sdk import Bridge, InvalidInput, ResourceNotFound, Store, operation

print("print at import")
os.system("echo system at import")
ctypes.CDLL(None).puts(b"puts at import")
ctypes.CDLL(None).fflush(None)
sys.__stdout__.write("dunder at import\\n")
os.write(1, b"write at import\\n")

class Sample(Bridge):
    name = "sample"
    def open(self, session):
        self.things = Store("thing")
        self.closed = False
    def close(self):
        print("closing", self.session.id)
    def stats(self):
        return {"things_count": len(self.things)}

    @operation(effect="run")
    def add(self, a: int, b: int = 1):
        return {"sum": a + b}

    @operation(effect="create", resource="thing", id_field="id")
    def make(self, id=None):
        return {"thing_id": self.things.add(object(), id)}

    @operation(effect="read", resource="thing", id_field="id")
    def look(self, id):
        return repr(self.things.get(id))

    @operation()
    def noise(self):
        print("print in command")
        os.system("echo system in command")
        ctypes.CDLL(None).puts(b"puts in command"); ctypes.CDLL(None).fflush(None)
        sys.__stdout__.write("dunder in command\\n")
        os.write(1, b"write in command\\n")
        return sys.stdin.read()

    @operation()
    def fail(self, how):
        if how == "value": raise ValueError("not that value")
        if how == "deep": int("x")
        if how == "json":
            import json
            json.loads("{")
        if how == "missing": import no_such_module_anywhere
        if how == "exit": sys.exit(7)
        if how == "interrupt": raise KeyboardInterrupt
        if how == "nan": return {"a": [1, float("nan")]}
        if how == "bytes": return b"x"
        if how == "big": return "x" * 3000
        if how == "recursion":
            def f(): return f()
            f()
        if how == "hostile":
            class E(Exception):
                def __str__(self): raise RuntimeError("no text for you")
            raise E
        if how == "generator": return (i for i in range(3))
        if how == "memory": raise MemoryError
        if how == "long": raise RuntimeError("y" * 100000)

    @operation(stream=True)
    def count(self, to, pause=0.0):
        for i in range(to):
            time.sleep(pause)
            yield {"i": i}
        return "counted"

    @operation()
    def wait(self, how, seconds=60):
        if how == "stubborn":
            end, told = time.monotonic() + seconds, False
            while time.monotonic() < end:
                try:
                    if not told: told = True; self.progress(0, 1, "waiting")
                    time.sleep(0.05)
                except BaseException: print("swallowed")
            return "slept"
        self.progress(0, 1, "waiting")
        if how == "sleep": time.sleep(seconds)
        if how == "spin":
            end = time.monotonic() + seconds
            while time.monotonic() < end: pass
        if how == "lock": threading.Event().wait(seconds)
        if how == "read":
            r, w = os.pipe(); os.read(r, 1)
        if how == "asyncio":
            import asyncio
            asyncio.run(asyncio.sleep(seconds))
        return "slept"

    @operation()
    def fork(self):
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        return {"in_child": pid == 0}

    @operation()
    def where(self):
        provider = self.provider("openai")
        return {"provider": list(provider), "path": sys.path, "executable": sys.executable,
                "environ": dict(os.environ), "tenant": self.session.tenant, "hooks": getattr(sys, "ran", "")}

    @operation()
    def ungranted(self):
        return self.provider("nobody")
"""

BOOT: dict[str, Any] = {"bridge": "sample", "version": "1.2.3", "entry": "sample:Sample"}
Make = Callable[[str], Path]


def test_ready_says_what_the_class_offers(launch: Any, bridge_folder: Make) -> None:
    guest = launch(bridge_folder(SAMPLE))
    ready = guest.boot(**BOOT)
    assert isinstance(ready, ReadyFrame)
    assert (ready.bridge, ready.version) == ("sample", "1.2.3")
    assert ready.operations == (
        *("add", "count", "fail", "fork", "look", "make"),
        *("noise", "ungranted", "wait", "where"),
    )


def test_what_is_printed_at_import_and_in_commands_goes_to_the_log(launch: Any, bridge_folder: Make) -> None:
    guest = launch(bridge_folder(SAMPLE))
    guest.boot(**BOOT)
    guest.open()
    assert guest.value("sample:noise") == ""
    for when in ("at import", "in command"):
        for how in ("print", "system", "puts", "dunder", "write"):
            guest.settle_log(f"{how} {when}".encode())
    assert guest.value("sample:add", {"a": 2}) == {"sum": 3}
    assert guest.seen == []


def test_commands_and_their_faults(launch: Any, bridge_folder: Make) -> None:
    guest = launch(bridge_folder(SAMPLE), max_frame=1024)
    guest.boot(**BOOT, response_bytes=1024)
    assert guest.fault("sample:add", {"a": 1}).code == "invalid_input"  # not open yet
    guest.open()
    assert guest.value("sample:add", {"a": 1, "b": 2}) == {"sum": 3}
    assert guest.value("sample:make", {}) == {"thing_id": "thing_1"}
    assert guest.value("sample:make", {"id": "mine"}) == {"thing_id": "mine"}
    expected = {
        "value": ("ValueError", "invalid_input"),
        "deep": ("ValueError", "invalid_input"),
        "json": ("JSONDecodeError", "application"),
        "missing": ("ModuleNotFoundError", "missing_module"),
        "exit": ("SystemExit", "application"),
        "interrupt": ("KeyboardInterrupt", "application"),
        "nan": ("NotPlain", "application"),
        "bytes": ("NotPlain", "application"),
        "big": ("ResultTooLarge", "limit"),
        "recursion": ("RecursionError", "application"),
        "hostile": ("E", "application"),
        "memory": ("MemoryError", "memory"),
        "long": ("RuntimeError", "application"),
    }
    for how, (kind, code) in expected.items():
        fault = guest.fault("sample:fail", {"how": how})
        assert (fault.type, fault.code, fault.alive) == (kind, code, True), fault
        assert len(fault.message) <= 2000
        assert len(fault.traceback) <= 8100
        assert "bridgehold_sdk/runtime.py" not in fault.traceback
    assert "sample.py" in guest.fault("sample:fail", {"how": "value"}).traceback
    assert guest.fault("sample:fail", {"how": "long"}).traceback == ""  # more than 1 KiB: cut to fit
    assert "result.a[1]" in guest.fault("sample:fail", {"how": "nan"}).message
    assert "no_such_module_anywhere" in guest.fault("sample:fail", {"how": "missing"}).message
    assert "stream=True" in guest.fault("sample:fail", {"how": "generator"}).message
    for args in ({}, {"a": 1, "c": 2}):
        assert guest.fault("sample:add", args).code == "invalid_input"
    assert guest.fault("sample:look", {"id": "nobody"}).code == "not_found"
    for command in ("sample:nothing", "other:add", "add", "common:nothing", "sample:open"):
        assert guest.fault(command).code == "unknown_command"


def test_common_commands_have_the_shapes_that_dspex_knows(launch: Any, bridge_folder: Make) -> None:
    guest = launch(bridge_folder(SAMPLE))
    guest.boot(**BOOT)
    ping = guest.value("common:ping", {"initialization": True, "worker_id": "worker_1"})
    assert (ping["status"], ping["worker_id"], ping["mode"]) == ("ok", "worker_1", "worker")
    assert ping["framework"] == {"name": "sample", "version": "0", "capabilities": []}
    assert ping["bridge"] == {"name": "sample", "version": "1.2.3"}
    assert isinstance(ping["timestamp"], float)
    assert ping["uptime"] >= 0
    guest.open()
    guest.value("sample:add", {"a": 1})
    guest.fault("sample:add", {})
    stats = guest.value("common:get_stats")
    assert (stats["command_count"], stats["error_count"], stats["things_count"]) == (2, 1, 0)
    assert stats["memory_usage"]["rss"] > 1 << 20
    capabilities = guest.value("common:get_capabilities")
    assert "sample:add" in capabilities["supported_operations"]
    assert "common:shutdown" in capabilities["supported_operations"]
    assert capabilities["resources"] == ["thing"]
    assert capabilities["streaming"] == ["count"]
    assert guest.value("common:health")["status"] == "ok"
    assert guest.value("common:shutdown") == {
        "status": "shutting_down",
        "worker_id": "worker_1",
        "mode": "worker",
    }
    assert guest.process.wait(30) == 0
    guest.settle_log(b"closing s-1")


def test_a_stream_sends_chunks_and_then_its_result(launch: Any, bridge_folder: Make) -> None:
    guest = launch(bridge_folder(SAMPLE))
    guest.boot(**BOOT)
    guest.open()
    call = guest.start("sample:count", {"to": 300})
    assert guest.reply(call).result == "counted"
    assert [chunk.data for chunk in guest.chunks(call)] == [{"i": i} for i in range(300)]


def test_cancel_interrupts_and_the_session_lives(launch: Any, bridge_folder: Make) -> None:
    guest = launch(bridge_folder(SAMPLE))
    guest.boot(**BOOT)
    guest.open()
    for how in ("sleep", "spin", "lock", "read", "asyncio"):
        call = guest.start("sample:wait", {"how": how})
        guest.take(lambda frame, call=call: getattr(frame, "note", "") == "waiting" and frame.id == call)
        guest.send(CancelFrame(id=call))
        reply = guest.reply(call, 10)
        assert isinstance(reply, FaultFrame), how
        assert (reply.type, reply.code, reply.alive) == ("Cancelled", "cancelled", True)
        assert guest.value("sample:add", {"a": 1}) == {"sum": 2}


def test_cancel_of_a_stream_leaves_whole_frames(launch: Any, bridge_folder: Make) -> None:
    guest = launch(bridge_folder(SAMPLE))
    guest.boot(**BOOT)
    guest.open()
    for _ in range(20):
        call = guest.start("sample:count", {"to": 10**9})
        guest.take(lambda frame, call=call: getattr(frame, "seq", -1) == 50 and frame.id == call)
        guest.send(CancelFrame(id=call))
        assert guest.reply(call, 10).code == "cancelled"
        guest.seen.clear()
    assert guest.value("sample:add", {"a": 1}) == {"sum": 2}


def test_cancel_of_a_waiting_command_and_of_none(launch: Any, bridge_folder: Make) -> None:
    guest = launch(bridge_folder(SAMPLE))
    guest.boot(**BOOT)
    guest.open()
    guest.send(CancelFrame(id=12345))
    first = guest.start("sample:wait", {"how": "sleep", "seconds": 0.4})
    second = guest.start("sample:add", {"a": 1})
    third = guest.start("sample:add", {"a": 5})
    guest.send(CancelFrame(id=second))
    assert guest.reply(first).result == "slept"
    assert guest.reply(second).code == "cancelled"
    guest.send(CancelFrame(id=first))
    assert guest.reply(third).result == {"sum": 6}


def test_ping_and_health_answer_while_a_command_runs(launch: Any, bridge_folder: Make) -> None:
    guest = launch(bridge_folder(SAMPLE))
    guest.boot(**BOOT)
    guest.open()
    call = guest.start("sample:wait", {"how": "spin", "seconds": 30})
    guest.take(lambda frame: getattr(frame, "note", "") == "waiting")
    assert guest.value("common:ping")["status"] == "ok"
    health = guest.value("common:health")
    assert (health["status"], health["running"], health["checked"]) == ("busy", call, False)
    guest.send(CancelFrame(id=call))
    guest.reply(call)


def test_code_that_swallows_a_cancel_goes_on(launch: Any, bridge_folder: Make) -> None:
    guest = launch(bridge_folder(SAMPLE))
    guest.boot(**BOOT)
    guest.open()
    call = guest.start("sample:wait", {"how": "stubborn", "seconds": 1})
    guest.take(lambda frame: getattr(frame, "note", "") == "waiting")
    guest.send(CancelFrame(id=call))
    assert guest.reply(call).result == "slept"
    guest.settle_log(b"swallowed")


def test_the_child_of_a_fork_has_no_voice_on_the_wire(launch: Any, bridge_folder: Make) -> None:
    guest = launch(bridge_folder(SAMPLE))
    guest.boot(**BOOT)
    guest.open()
    assert guest.value("sample:fork") == {"in_child": False}
    assert guest.value("sample:add", {"a": 1}) == {"sum": 2}
    assert guest.seen == []


def test_the_inside_view(launch: Any, bridge_folder: Make, tmp_path: Path) -> None:
    from bridgehold.bridges.frames import ProviderBinding

    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "hook.pth").write_text("import sys; sys.ran = 'a .pth'\n")
    guest = launch(bridge_folder(SAMPLE), site_packages=tmp_path / "site")
    binding = ProviderBinding(base_url="http://127.0.0.1:8080/openai", placeholder="sk-x")
    guest.boot(**BOOT, providers={"openai": binding}, environment={"COLOUR": "blue"})
    guest.open()
    view = guest.value("sample:where")
    assert view["provider"] == ["http://127.0.0.1:8080/openai", "sk-x", "openai"]
    assert view["environ"]["COLOUR"] == "blue"
    assert view["tenant"] == "acme"
    assert view["path"][-3:-1] == ["/opt/bridgehold/sdk", "/bridge"]
    assert view["path"][-1].startswith("/env/lib/python3.")
    assert view["hooks"] == ""
    fault = guest.fault("sample:ungranted")
    assert fault.type == "ProviderNotGranted"
    assert "granted: openai" in fault.message


def test_faults_before_ready(launch: Any, bridge_folder: Make) -> None:
    cases = {
        "import not_installed_here": ("sample:Sample", (), "missing_module", "not_installed_here"),
        "raise RuntimeError('broken at import')": ("sample:Sample", (), "application", "broken at import"),
        "import sys; sys.exit(3)": ("sample:Sample", (), "application", "status 3"),
        "x = 1": ("sample:Nothing", (), "application", "names no class"),
        "y = 1": ("elsewhere:Nothing", (), "missing_module", "elsewhere"),
        "z = 1": ("sample:Sample", ("absent_framework",), "missing_module", "absent_framework"),
        "class Sample: pass": ("sample:Sample", (), "application", "extends bridgehold_sdk.Bridge"),
    }
    for source, (entry, preload, code, text) in cases.items():
        guest = launch(bridge_folder(source))
        fault = guest.boot(bridge="sample", version="1", entry=entry, preload=preload)
        assert isinstance(fault, FaultFrame), source
        assert (fault.id, fault.code, fault.alive) == (0, code, False), source
        assert text in fault.message
        assert guest.process.wait(30) == 3


def test_the_end_of_the_hosts_stream_ends_the_worker(launch: Any, bridge_folder: Make) -> None:
    guest = launch(bridge_folder(SAMPLE))
    guest.boot(**BOOT)
    guest.open()
    assert guest.end_of_input() == 0
    guest.settle_log(b"closing s-1")
    busy = launch(bridge_folder(SAMPLE))
    busy.boot(**BOOT)
    busy.open()
    busy.start("sample:wait", {"how": "stubborn"})
    busy.take(lambda frame: getattr(frame, "note", "") == "waiting")
    busy.end_of_input()


def test_a_host_frame_that_is_none_ends_the_worker(launch: Any, bridge_folder: Make) -> None:
    guest = launch(bridge_folder(SAMPLE))
    guest.boot(**BOOT)
    guest.open()
    guest.send_bytes((10).to_bytes(4, "big") + b'{"id":NaN}')
    assert guest.process.wait(30) == 1
    guest.settle_log(b"NaN is no JSON")


def test_every_interpreter_of_this_machine(
    launch: Any, bridge_folder: Make, pythons: dict[str, Path]
) -> None:
    folder = bridge_folder(SAMPLE)
    for version, python in pythons.items():
        guest = launch(folder, python=python)
        ready = guest.boot(**BOOT)
        assert isinstance(ready, ReadyFrame), (version, ready)
        assert ready.python.startswith(version + ".")
        guest.open()
        assert guest.value("sample:add", {"a": 1}) == {"sum": 2}
        assert guest.fault("sample:fail", {"how": "recursion"}).type == "RecursionError"
        call = guest.start("sample:wait", {"how": "sleep"})
        guest.take(lambda frame: getattr(frame, "note", "") == "waiting")
        guest.send(CancelFrame(id=call))
        assert guest.reply(call, 10).code == "cancelled"
        assert guest.value("common:shutdown")["status"] == "shutting_down"
        assert guest.process.wait(30) == 0, version
