"""The unified interface through a whole host: routing by id, what may be seen, adapters."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold import BridgeholdError, Client, SyncClient
from hostile.stage import POLICY, Stage, stage

KIND = "root" if os.getuid() == 0 else "self"
TOKEN = "of-acme-only"
CONFIG = """
default_bridge = "hostile1"
[principals.acme]
tokens = ["sha256:4cf5bc59bee9e1c44c6254b5f84e7f066bd8e5fe2d4a0d5d6f2f7a8b3c9d1e0f"]
tenants = ["acme"]
"""
MANIFEST = """
name = "{name}"
version = "1.0.0"
summary = "Counters"
entry = "hostile:Hostile"
[resources.counter]
summary = "A number that grows"
[operations.set_step]
summary = "By how much they grow"
effect = "configure"
arguments = {{ required = ["step"], properties = {{ step = {{ type = "integer" }} }} }}
[operations.create_counter]
summary = "Begin one"
effect = "create"
resource = "counter"
id_field = "id"
arguments = {{ properties = {{ id = {{ type = "string" }}, start = {{ enum = [0, 10] }} }} }}
result = {{ type = "object" }}
[operations.run_counter]
summary = "Count"
effect = "run"
resource = "counter"
id_field = "counter_id"
arguments = {{ required = ["counter_id"], properties = {{ counter_id = {{ type = "string" }}, times = {{ type = "integer" }} }} }}
[operations.show_counter]
summary = "Look"
effect = "read"
resource = "counter"
id_field = "counter_id"
arguments = {{ required = ["counter_id"], properties = {{ counter_id = {{ type = "string" }} }} }}
[operations.delete_counter]
summary = "Forget"
effect = "delete"
resource = "counter"
id_field = "counter_id"
arguments = {{ required = ["counter_id"], properties = {{ counter_id = {{ type = "string" }} }} }}
"""
BRIDGE = """
from bridgehold_sdk import Bridge, Store, operation

class Hostile(Bridge):
    def open(self, session):
        self.counters = Store("counter")
        self.step = 1

    @operation(effect="configure")
    def set_step(self, step):
        self.step = step
        return {"step": step}

    @operation(effect="create", resource="counter", id_field="id")
    def create_counter(self, id=None, start=0):
        made = self.counters.add([start], id)
        return {"counter_id": made if made != "liar" else ["x"] * 10}

    @operation(effect="run", resource="counter", id_field="counter_id")
    def run_counter(self, counter_id, times=1):
        self.counters.get(counter_id)[0] += times * self.step
        return self.counters.get(counter_id)[0]

    @operation(effect="read", resource="counter", id_field="counter_id")
    def show_counter(self, counter_id):
        return self.counters.get(counter_id)[0]

    @operation(effect="delete", resource="counter", id_field="counter_id")
    def delete_counter(self, counter_id):
        self.counters.delete(counter_id)
"""


@pytest.fixture(scope="module")
def counting() -> Iterator[Stage]:
    import hashlib

    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    config = CONFIG.replace(CONFIG.split("sha256:")[1][:64], digest)
    host_wide, sections = config.split("[principals", 1)
    with stage(KIND, "fork", f"[principals{sections}", first=host_wide) as ready:
        name = ready.bridge(manifest=MANIFEST)
        (ready.layout.bridges / name / "hostile.py").write_text(BRIDGE)
        (ready.layout.policies / f"{name}.toml").write_text(
            POLICY + '[resources]\nallow = ["*"]\n[sandbox]\nstart = "fork"\n'
        )
        ready.__dict__["_plain"] = name
        yield ready


def refused(act: Any, *args: Any, **more: Any) -> str:
    with pytest.raises(BridgeholdError) as caught:
        act(*args, **more)
    return caught.value.code


def test_a_resource_is_made_run_listed_and_deleted_by_its_id_alone(counting: Stage) -> None:
    client = counting.client
    assert client.create_resource("counter", {"id": "a", "start": 10}) == {"counter_id": "a"}
    assert client.create_resource("counter", session="second") == {"counter_id": "counter_1"}
    assert client.execute_resource("a", {"times": 2}) == 12
    assert client.execute_resource("counter_1") == 1
    assert client.execute_resource("a", operation="show_counter") == 12
    listed = [(one.id, one.kind, one.session_name) for one in client.list_resources()]
    assert listed == [("a", "counter", "anonymous"), ("counter_1", "counter", "second")]
    assert [one.id for one in client.list_resources(session="second")] == ["counter_1"]
    client.delete_resource("a")
    assert refused(client.execute_resource, "a") == "not_found"
    assert [one.id for one in client.list_resources()] == ["counter_1"]


def test_what_commands_made_is_routed_too_and_goes_with_its_session(counting: Stage) -> None:
    with counting.client.session(counting.plain) as session:
        session.run("create_counter", {"id": "mine"})
        session.run("create_counter", {"id": "liar"})
        assert counting.client.execute_resource("mine") == 1
        assert {one.id for one in counting.client.list_resources(session=session.id)} == {"mine", "liar"}
        session.run("delete_counter", {"counter_id": "mine"})
        assert {one.id for one in counting.client.list_resources(session=session.id)} == {"liar"}
    assert refused(counting.client.execute_resource, "liar") == "session_ended"


def test_alike_ids_are_told_apart_by_session(counting: Stage) -> None:
    for name in ("x", "y"):
        counting.client.create_resource("counter", {"id": "twin"}, session=name)
    assert refused(counting.client.execute_resource, "twin") == "usage"
    assert counting.client.execute_resource("twin", {"times": 5}, session="x") == 5
    assert counting.client.execute_resource("twin", session="y") == 1


def test_another_tenants_resources_are_not_found(counting: Stage) -> None:
    counting.client.create_resource("counter", {"id": "secret"}, session="hidden")
    with SyncClient.connect(counting.layout.socket, token=TOKEN) as acme:
        assert acme.list_resources(tenant="acme") == []
        for act in (acme.execute_resource, acme.delete_resource):
            assert refused(act, "secret", tenant="acme") == "not_found"
            assert refused(act, "secret", tenant="local") == "denied"
        assert refused(acme.list_resources, tenant="local") == "denied"
        assert refused(acme.describe, tenant="local") == "denied"
        assert refused(acme.create_resource, "counter", tenant="local") == "denied"
        assert acme.create_resource("counter", {"id": "own"}, tenant="acme") == {"counter_id": "own"}
    assert [one.id for one in counting.client.list_resources(session="hidden")] == ["secret"]


def test_a_bridge_is_described_configured_and_adapted(counting: Stage) -> None:
    described = counting.client.describe()
    assert described["name"] == counting.plain
    assert {one["name"]: one["granted"] for one in described["operations"]}["run_counter"] is True
    assert counting.client.configure({"step": 7}, session="steps") == {"step": 7}
    counting.client.create_resource("counter", {"id": "big"}, session="steps")
    assert counting.client.execute_resource("big", session="steps") == 7

    async def adapted() -> list[Any]:
        async with await Client.connect(counting.layout.socket) as client:
            adapter = await client.get_adapter(session="steps")
            assert "create_counter" in dir(adapter)
            with pytest.raises(BridgeholdError, match="no argument begin"):
                await adapter.create_counter(begin=1)
            with pytest.raises(AttributeError):
                adapter.nothing  # noqa: B018 - what is tested is that it isn't there
            return [
                await adapter.create_counter(id="third"),
                await adapter.run_counter(counter_id="third", times=3),
            ]

    assert asyncio.run(adapted()) == [{"counter_id": "third"}, 21]


def test_the_typed_adapter_type_checks_and_works(counting: Stage, tmp_path: Path) -> None:
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(counting.layout.config.parent)}
    command = [sys.executable, "-m", "bridgehold", "bridge", "adapter", counting.plain]
    source = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    (tmp_path / "counters.py").write_text(source)
    use = (
        "import asyncio, sys\nfrom bridgehold import Client\nfrom counters import Hostile1Adapter\n"
        "async def main() -> None:\n"
        "    async with await Client.connect(sys.argv[1]) as client:\n"
        "        adapter = Hostile1Adapter(client, session='typed')\n"
        "        made = await adapter.create_counter(id='t', start=10)\n"
        "        print(made['counter_id'], await adapter.run_counter(counter_id='t'))\n"
        "asyncio.run(main())\n"
    )
    (tmp_path / "use.py").write_text(use)
    (tmp_path / "wrong.py").write_text(use.replace("start=10", "start='ten'"))
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull]
    assert subprocess.run([*mypy, "use.py"], cwd=tmp_path, check=False).returncode == 0
    wrong = subprocess.run([*mypy, "wrong.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Literal[0, 10]" in wrong.stdout
    socket = str(counting.layout.socket)
    said = subprocess.run(
        [sys.executable, "use.py", socket], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert said.stdout == "t 11\n"
    listed = [sys.executable, "-m", "bridgehold", "resources", "--json"]
    assert (
        '"typed"'
        in subprocess.run(listed, env=environment, capture_output=True, text=True, check=True).stdout
    )
