"""The HTTP face's pure parts: addresses, names, tokens, statuses, and the document."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator

from bridgehold.config.http import listen_address, names_of
from bridgehold.config.layout import find_layout
from bridgehold.config.load import parse_config
from bridgehold.config.settings import merge
from bridgehold.errors import ConfigError, HostLeavingError, NotFoundError, UsageError, error_classes
from bridgehold.faces.http import sse
from bridgehold.faces.http.bodies import Command, Run, ToolAnswer, read_body
from bridgehold.faces.http.checks import bearer, check_host, check_json
from bridgehold.faces.http.guard import BoundedServer, Runner
from bridgehold.faces.http.links import Links
from bridgehold.faces.http.openapi import document
from bridgehold.faces.http.routes import ROUTES
from bridgehold.faces.http.running import Commands
from bridgehold.faces.http.statuses import STATUSES, Refused
from bridgehold.faces.http.values import Caller
from bridgehold.host.shares.fair import Shares
from bridgehold.sandbox.doctor import Context
from bridgehold.supervisor.checks import http_probe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8765", ("127.0.0.1", 8765)),
        ("127.9.9.9:0", ("127.9.9.9", 0)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_loopback_needs_no_weakening(text: str, expected: tuple[str, int]) -> None:
    assert listen_address(text, public=False) == expected


@pytest.mark.parametrize(
    "text", ["0.0.0.0:80", "[::]:80", "192.0.2.1:80", "[2001:db8::1]:80", "[::ffff:192.0.2.1]:1"]
)
def test_any_other_address_needs_one(text: str) -> None:
    with pytest.raises(ConfigError, match="without TLS"):
        listen_address(text, public=False)
    assert listen_address(text, public=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8765",
        ":8765",
        "localhost:8765",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "::1:80",
        "1.2:80",
        "127.0.0.1:80\n",
    ],
)
def test_what_is_no_address_is_said(text: str) -> None:
    for public in (False, True):
        with pytest.raises(ConfigError, match="no address"):
            listen_address(text, public=public)


def test_a_wildcard_goes_by_no_name_of_its_own() -> None:
    names = names_of("0.0.0.0", ["Bridge.Example."])
    assert names == {"bridge.example", "localhost", "127.0.0.1", "::1"}
    assert names_of("192.0.2.1", []) == {"192.0.2.1"}
    check_host(["bridge.example:443"], names)
    for values in (
        ["0.0.0.0"],
        ["evil.example"],
        [],
        ["localhost", "localhost"],
        ["localhost:80:80"],
        ["a b"],
    ):
        with pytest.raises(Refused) as caught:
            check_host(values, names)
        assert caught.value.status == 421


@pytest.mark.parametrize(
    "values", [[], [""], ["Bearer"], ["Bearer a b"], ["Basic a"], ["Bearer a", "Bearer a"], ["Bearer é"]]
)
def test_what_is_no_token(values: list[str]) -> None:
    with pytest.raises(Refused) as caught:
        bearer(values)
    assert caught.value.status == 401
    assert bearer(["bearer token"]) == "token"


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [("", ""), ("text/plain", ""), ("application/json", "gzip"), ("application/jsonx", "")],
)
def test_what_is_no_json(kind: str, encoding: str) -> None:
    with pytest.raises(Refused):
        check_json(kind, encoding)
    check_json("Application/JSON; charset=utf-8", "identity")


def test_every_error_has_a_status() -> None:
    assert set(STATUSES) == {kind.code for kind in error_classes()}
    assert all(400 <= status < 600 for status in STATUSES.values())


def test_the_tenant_that_is_meant() -> None:
    assert Caller(principal="a", tenants=("acme",)).tenant("") == "acme"
    assert Caller(principal="a", tenants=("acme",)).tenant("other") == "other", "the host refuses it"
    assert Caller(principal="a", tenants=("acme", "other")).tenant("") == "local"
    assert Caller(principal="a", tenants=("*",)).tenant("") == "local"


def test_a_commands_name_is_its_principals() -> None:
    async def act() -> None:
        commands = Commands()
        with commands.enter("a", "one"):
            with pytest.raises(UsageError), commands.enter("a", "one"):
                pass
            with commands.enter("b", "one") as other:
                assert commands.find("b", "one") is other
            for principal, name in (("b", "one"), ("a", "two"), ("", "one")):
                with pytest.raises(NotFoundError):
                    commands.find(principal, name)
        assert len(commands) == 0
        for name in ("A", "a\r\nb", "x" * 64, "..", "a/b"):
            with pytest.raises(UsageError), commands.enter("a", name):
                pass

    asyncio.run(act())


def test_an_event_is_one_line_of_data_whatever_is_in_it() -> None:
    made = sse.event("chunk", {"data": "a\n\nevent: result\ndata: forged\r\u2028"})
    assert made.count(b"\n") == 3
    assert made.endswith(b"\n\n")
    assert b"\r" not in made


def test_events_that_wait_are_bounded_and_no_more_is_read_meanwhile() -> None:
    async def act() -> None:
        piece = b"x" * (1 << 20)
        for most, kept in ((1 << 30, sse.MOST_WAITING), (3 << 20, 3 << 20)):
            full: list[int] = []
            buffered, at_ease = Shares(2 * most), asyncio.Event()
            at_ease.set()
            outbox = sse.Outbox(buffered.of("acme"), 1.0, lambda full=full: full.append(1), at_ease)  # type: ignore[misc]
            outbox.put(b"x")
            assert at_ease.is_set()
            assert await outbox.take() == b"x"
            for _ in range(20):
                outbox.put(piece)
                assert not at_ease.is_set()
            assert full == [1]
            assert outbox.full
            assert buffered.taken == kept
            outbox.forget()
            assert buffered.taken == 0
            assert at_ease.is_set()

    asyncio.run(act())


BRIDGE = {
    "name": "dspy",
    "operations": [
        {
            "name": "make",
            "summary": "Make one",
            "arguments": {"required": ["id"], "properties": {"id": {"type": "string"}}},
            "result": {"type": "object"},
            "stream": True,
            "granted": True,
        },
        {"name": "unmade", "summary": "", "arguments": {}, "result": {}, "stream": False, "granted": False},
    ],
}


def test_the_document_is_openapi() -> None:
    found = json.loads(msgspec.json.encode(document([BRIDGE])))
    OpenAPIV31SpecValidator(found).validate()
    served = {(path, method.upper()) for path, item in found["paths"].items() for method in item}
    assert {(route.path, route.method) for route in ROUTES} < served
    made = found["paths"]["/v1/run/dspy/make"]["post"]
    body = made["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["arguments"]["required"] == ["id"]
    assert body["additionalProperties"] is False
    assert "text/event-stream" in made["responses"]["200"]["content"]
    assert "/v1/run/dspy/unmade" not in found["paths"]


def test_every_route_has_a_name_of_its_own() -> None:
    names = [route.name for route in ROUTES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("", "PASS", "not served"),
        ('[http]\nlisten = "127.0.0.1:80"', "CAUTION", "0 token"),
        (
            f'[http]\nlisten = "127.0.0.1:80"\n[principals.a]\ntokens = ["sha256:{"0" * 64}"]',
            "PASS",
            "1 token",
        ),
        ('[http]\nlisten = "0.0.0.0:80"\npublic = true', "CAUTION", "public_http"),
    ],
)
def test_the_doctors_row(text: str, status: str, said: str, tmp_path: Path) -> None:
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, os.getuid())
    config = parse_config(text, "config.toml")
    found = http_probe(layout, config).run(Context())
    assert (found.status, found.name) == (status, "http")
    assert said in found.detail
    layout.tokens.mkdir(parents=True)
    (layout.tokens / "app.toml").touch()
    assert (http_probe(layout, config).run(Context()).status == "PASS") == ("public" not in text)


def test_the_doctor_refuses_what_the_host_would(tmp_path: Path) -> None:
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, os.getuid())
    with pytest.raises(ConfigError, match="without TLS"):
        http_probe(layout, parse_config('[http]\nlisten = "0.0.0.0:80"', "config.toml")).run(Context())


def test_a_reload_leaves_http_as_it_is() -> None:
    old, new = (parse_config(f'[http]\nlisten = "127.0.0.1:{port}"', "config.toml") for port in (80, 81))
    merged, found = merge(old, new)
    assert merged.http == old.http
    assert (found.applied, found.waiting) == ((), ("http.listen",))


LARGE = json.dumps({"x": list(range(40_000))})


def test_of_a_large_body_no_value_is_made_but_of_what_the_face_needs() -> None:
    weighed: list[bytes] = []
    found = read_body(f'{{"operation":"a:b","id":"mine","arguments":{LARGE}}}'.encode(), Run, weighed.append)
    assert weighed == [b'{"operation":"a:b","id":"mine","arguments":0}']
    assert (found.operation, found.id) == ("a:b", "mine")
    assert isinstance(found.arguments, msgspec.Raw)
    assert bytes(found.arguments).decode() == LARGE
    said = read_body(f'{{"result" : {LARGE} }}'.encode(), ToolAnswer, weighed.append)
    assert isinstance(said.result, msgspec.Raw)
    assert bytes(said.result).decode() == LARGE
    small = b'{"operation":"a:b","arguments":{"x":1}}'
    assert read_body(small, Run, weighed.append).arguments == {"x": 1}
    assert weighed[-1] == small


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"operation":"a","operation":"b","arguments":LARGE}', "two keys are both spelled 'operation'"),
        ('{"operation":"a","arguments":LARGE,"arguments":{}}', "two keys are both spelled 'arguments'"),
        ('{"operation":"a","arguments":[LARGE]}', "Expected `object`"),
        ('{"operation":"a","arguments":LARGE,"more":1}', "unknown field `more`"),
        ('{"arguments":LARGE}', "missing required field `operation`"),
        ('{"operation":7,"arguments":LARGE}', "Expected `str`, got `int`"),
        ('{"operation":"a","arguments":LARGE', "truncated"),
        ('{"operation":"a","deadline_ms":1e99,"arguments":LARGE}', "deadline_ms"),
        ('{"operation":"a","tools":[' + '{"name":"t","description":"' + "y" * 1_100_000 + '"}]}', "beside"),
    ],
)
def test_a_large_body_is_refused_as_a_small_one_is(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_body(text.replace("LARGE", LARGE).encode(), Command, lambda _: None)


def test_who_waits_for_a_host_that_is_gone_is_told_that_another_one_comes(tmp_path: Path) -> None:
    async def act() -> None:
        links = Links(str(tmp_path / "socket"))

        async def wanted() -> None:
            async with links.of("a-token-0123456789"):
                pass

        with socket.socket(socket.AF_UNIX) as nobody:
            nobody.bind(str(tmp_path / "socket"))
            nobody.listen(4)
            waiting = asyncio.create_task(wanted())
            await asyncio.to_thread(nobody.accept)
            assert not waiting.done()
            links.give_up()
            for each in (waiting, asyncio.create_task(wanted())):
                with pytest.raises(HostLeavingError):
                    await each

    asyncio.run(act())


def test_a_server_that_leaves_waits_for_first_requests_and_not_for_ever() -> None:
    async def act() -> None:
        async def hello(_: web.Request) -> web.Response:
            return web.Response(text="hello")

        app = web.Application()
        app.router.add_get("/", hello)
        runner = Runner(app, places=4, idle_s=30)
        await runner.setup()
        server = runner.server
        assert isinstance(server, BoundedServer)
        await server.emptied(30)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await web.SockSite(runner, listener).start()
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            while not server.open_connections:
                await asyncio.sleep(0)
            server.leave()
            await server.emptied(0.01)
            assert server.open_connections == 1, "it has asked for nothing yet"
            gone = asyncio.create_task(server.emptied(30))
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).endswith(b"hello")
            writer.close()
            await gone
            assert server.open_connections == 0
            await runner.cleanup()

    asyncio.run(act())
