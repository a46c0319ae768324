"""What `stdio` does beside passing commands on, with a host that is played: programs put back, sessions cleaned."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from bridgehold.bridges.legacy.frames import Splitter
from bridgehold.errors import BridgeholdError, NotFoundError
from bridgehold.faces.legacy.stdio import Worker


class PlayedHost:
    """Keeps programs as the dspy bridge does, one dictionary for each session."""

    def __init__(self) -> None:
        self.sessions: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.ended: list[str] = []
        self.data: dict[str, Any] = {}

    async def request(self, method: str, params: dict[str, Any], on_event: Any = None, *_: object) -> Any:
        assert method == "session.hold"
        session = f"s-{len(self.sessions) + 1}"
        self.sessions[session] = {}
        on_event({"type": "open", "session": session})
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append(session)

    async def run(
        self, operation: str, args: dict[str, Any], *, session: str, tenant: str, tools: tuple[Any, ...]
    ) -> Any:
        self.calls.append(operation)
        programs = self.sessions[session]
        name = operation.partition(":")[2]
        if name == "create_program":
            programs[args["id"]] = args
            return {"program_id": args["id"], "status": "created"}
        if name == "list_programs":
            return {"programs": [{"id": one} for one in programs], "total_count": len(programs)}
        if name == "get_session_data":
            return {"data": dict(self.data)}
        if name == "update_session_data":
            await asyncio.sleep(0)  # another command's turn
            self.data |= args["data"]
            return {"status": "updated"}
        if args.get("program_id") not in programs:
            raise NotFoundError("no such program")
        if name == "delete_program":
            del programs[args["program_id"]]
        return {"program_id": args["program_id"], "seen": sorted(args)}


class Sink:
    def __init__(self) -> None:
        self.splitter = Splitter(1 << 20)
        self.answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def put(self, data: bytes) -> None:
        for body in self.splitter.feed(data):
            self.answers.put_nowait(json.loads(body))


class Talk:
    def __init__(self) -> None:
        self.host = PlayedHost()
        self.sink = Sink()
        self.worker = Worker(self.host, self.sink, bridge="dspy", tenant="local")  # type: ignore[arg-type]
        self.next_id = 0

    async def ask(self, command: str, **args: object) -> dict[str, Any]:
        self.next_id += 1
        await self.worker.take(json.dumps({"id": self.next_id, "command": command, "args": args}).encode())
        answer = await asyncio.wait_for(self.sink.answers.get(), 30)
        assert answer["id"] == self.next_id
        return answer


def test_a_program_that_comes_along_is_made_where_it_is_not_and_not_made_twice() -> None:
    async def talk() -> None:
        t = Talk()
        data = {"signature": "q -> a", "program_type": "predict", "created_at": 5}
        for _ in range(2):
            answer = await t.ask("execute_program", program_id="qa", inputs={"q": "?"}, program_data=data)
            assert answer["result"]["seen"] == ["inputs", "program_id"]
        assert t.host.calls == [
            "dspy:execute_program",
            "dspy:create_program",
            "dspy:execute_program",
            "dspy:execute_program",
        ]
        missing = await t.ask("execute_program", program_id="other", inputs={})
        assert missing["error"].startswith("not_found: ")
        await t.worker.finish(0)

    asyncio.run(talk())


def test_cleaning_a_callers_session_deletes_its_programs_and_no_others() -> None:
    async def talk() -> None:
        t = Talk()
        for name, session in (("a", "one"), ("b", "one"), ("c", "two")):
            await t.ask("create_program", id=name, signature="q -> a", session_id=session)
        assert (await t.ask("cleanup_session", session_id="one"))["result"]["programs_removed"] == 2
        assert set(t.host.sessions["s-1"]) == {"c"}
        again = (await t.ask("cleanup_session", session_id="one"))["result"]
        assert again == {"status": "not_found", "session_id": "one"}
        assert (await t.ask("cleanup_session"))["error"].startswith("usage: session_id is missing")
        await t.worker.finish(0)

    asyncio.run(talk())


def test_a_list_for_one_of_the_callers_sessions_shows_that_sessions_programs() -> None:
    async def talk() -> None:
        t = Talk()
        for name, session in (("a", "one"), ("b", "one"), ("c", "two")):
            await t.ask("create_program", id=name, signature="q -> a", session_id=session)
        await t.ask("delete_program", program_id="b", session_id="one")
        for session, ids in (("one", ["a"]), ("two", ["c"]), ("three", ["a", "c"])):
            result = (await t.ask("list_programs", session_id=session))["result"]
            assert ([one["id"] for one in result["programs"]], result["total_count"]) == (ids, len(ids))
        await t.worker.finish(0)

    asyncio.run(talk())


def test_updates_of_data_at_the_same_time_lose_nothing() -> None:
    async def talk() -> None:
        t = Talk()
        for number in range(20):
            args = {"session_id": "one", "operation": "set", "key": f"k{number}", "value": number}
            body = {"id": number, "command": "update_session_data", "args": args}
            await t.worker.take(json.dumps(body).encode())
        for _ in range(20):
            assert (await asyncio.wait_for(t.sink.answers.get(), 30))["success"]
        kept = (await t.ask("get_session_data", session_id="one"))["result"]["data"]
        assert kept == {f"k{number}": number for number in range(20)}
        assert (await t.ask("cleanup_session", session_id="one"))["result"]["programs_removed"] == 0
        assert t.host.data == {"one": {}}
        await t.worker.finish(0)

    asyncio.run(talk())


def test_a_cleanup_is_a_new_session_and_the_old_one_ends() -> None:
    async def talk() -> None:
        t = Talk()
        await t.ask("create_program", id="a", signature="q -> a")
        assert (await t.ask("cleanup"))["result"] == {"status": "cleaned", "programs_removed": 1}
        assert t.host.ended == ["s-1"]
        assert (await t.ask("get_program", program_id="a"))["error"].startswith("not_found: ")
        assert not t.worker.ended.done(), "the end that it asked for is not its own end"
        await t.worker.finish(0)
        assert t.host.ended == ["s-1", "s-2"]

    asyncio.run(talk())


def test_a_host_that_refuses_the_session_answers_every_request_and_ends_the_worker() -> None:
    class Refusing(PlayedHost):
        async def request(self, method: str, params: dict[str, Any], on_event: Any = None, *_: object) -> Any:
            raise error

    async def talk() -> None:
        t = Talk()
        t.worker = Worker(Refusing(), t.sink, bridge="dspy", tenant="local")  # type: ignore[arg-type]
        for command in ("ping", "list_programs"):
            assert (await t.ask(command))["error"].startswith("not_found: no bridge")
        assert (await t.worker.ended).status == error.exit_status

    error: BridgeholdError = NotFoundError("no bridge")
    asyncio.run(talk())
