"""Tenants and tokens against whoever has one: over the socket and over HTTP, while the host runs.

One host for all of these; each test has tenants and tokens of its own names.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold import BridgeholdError, SyncClient
from bridgehold.host.assembly import ended_before
from bridgehold.keeper.admin import SecretAdmin
from hostile.stage import Stage, stage
from waiting import until

pytestmark = pytest.mark.hostile
KIND = "root" if os.getuid() == 0 else "self"
BOSS = "the-operators-own-token"
CONFIG = f"""
[principals.boss]
tokens = ["sha256:{hashlib.sha256(BOSS.encode()).hexdigest()}"]
tenants = ["*"]
operator = true
[http]
listen = "127.0.0.1:0"
"""
OPERATOR = {
    "tenant.create": {"name": "mine"},
    "tenant.list": {},
    "tenant.show": {"name": "NAME"},
    "tenant.limit": {"name": "NAME", "limits": {"sessions": 100}},
    "tenant.suspend": {"name": "other"},
    "tenant.resume": {"name": "NAME"},
    "tenant.revoke": {"name": "other"},
    "tenant.remove": {"name": "other"},
    "bridge.approve": {"submission": "sub-0123456789abcdef", "seen": "x"},
    "bridge.reject": {"submission": "sub-0123456789abcdef"},
    "bridge.rollback": {"bridge": "plans", "tenant": "NAME"},
    "policy.review": {"policy": "plans"},
    "attack.told": {"phase": "begins", "bridge": "plans", "tenant": "NAME", "grant": "x", "counts": {}},
    "policy.approve": {"policy": "plans", "seen": "x", "at": "x", "signature": "x"},
    "proposal.approve": {
        "proposal": "p-0123456789ab",
        "seen": "x",
        "approved": "x",
        "expires": "x",
        "signature": "x",
    },
    "proposal.reject": {"proposal": "p-0123456789ab"},
    "token.create": {"name": "wide", "tenants": ["other"]},
    "token.list": {},
    "token.rotate": {"name": "NAME"},
    "token.revoke": {"name": "NAME"},
    "drain": {},
    "reload": {},
    "stop": {},
}
SLOW = {"code": "import time\ntime.sleep(100)"}


@pytest.fixture(scope="module")
def host() -> Iterator[Stage]:
    with stage(KIND, "fork", CONFIG) as ready:
        policy = ready.layout.policies / f"{ready.plain}.toml"
        policy.write_text(policy.read_text().replace('command = "8s"', 'command = "120s"'))
        yield ready
        assert "Traceback" not in ready.layout.config.parent.joinpath("host.log").read_text()


def made(host: Stage, name: str, **limits: object) -> str:
    """A tenant, and a token of its name for all that it has."""
    host.client.request("tenant.create", {"name": name, "limits": limits})
    return token(host, name, tenants=[name])


def token(host: Stage, name: str, **scope: object) -> str:
    return str(host.client.request("token.create", {"name": name, **scope})["token"])


def client(host: Stage, secret: str) -> contextlib.AbstractContextManager[SyncClient]:
    return contextlib.closing(SyncClient.connect(host.layout.socket, token=secret, reconnect_s=0))


def code_of(act: Callable[[], object]) -> str:
    try:
        act()
    except BridgeholdError as error:
        return error.code
    return ""


def address(host: Stage) -> tuple[str, int]:
    log = host.layout.config.parent / "host.log"
    until(lambda: "http://" in log.read_text())
    place, port = log.read_text().partition("http://")[2].split()[0].split(":")
    return place, int(port)


def asked(host: Stage, secret: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """(status, what the body says)."""
    link = http.client.HTTPConnection(*address(host), timeout=60)
    with contextlib.closing(link):
        headers = {"Authorization": f"Bearer {secret}"}
        sent = None if body is None else json.dumps(body)
        headers |= {} if body is None else {"Content-Type": "application/json"}
        link.request(method, path, body=sent, headers=headers)
        answer = link.getresponse()
        return answer.status, json.loads(answer.read() or b"null")


@contextlib.contextmanager
def stream(
    host: Stage, secret: str, body: object, path: str = "/v1/run"
) -> Iterator[http.client.HTTPResponse]:
    """A command's events, of which the first has come."""
    link = http.client.HTTPConnection(*address(host), timeout=60)
    with contextlib.closing(link):
        headers = {"Authorization": f"Bearer {secret}", "Accept": "text/event-stream"}
        link.request("POST", path, json.dumps(body), {**headers, "Content-Type": "application/json"})
        answer = link.getresponse()
        assert answer.status == 200
        while b"event: open" not in answer.readline():
            pass
        yield answer


def _groups(found: dict[str, list[dict[str, Any]]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What stands ready by tenant and bridge, and the warm processes."""
    ready = [one for group in found.values() for one in group if "count" in one]
    return ready, found["zygotes"]


def running(host: Stage, tenant: str) -> bool:
    begun = [one["command"] for one in host.events("command.intent") if one["tenant"] == tenant]
    over = [one["command"] for one in host.events("command.outcome")]
    return any(one not in over for one in begun)


def test_a_tenants_token_operates_nothing_over_either_face(host: Stage) -> None:
    secret = made(host, "plain")
    made(host, "other")
    with client(host, secret) as caller:
        for method, params in OPERATOR.items():
            given = {key: "plain" if value == "NAME" else value for key, value in params.items()}
            assert code_of(lambda m=method, p=given: caller.request(m, p)) == "denied", method
    for method, path, body in (
        ("GET", "/v1/tenants", None),
        ("POST", "/v1/tenants", {"name": "mine"}),
        ("GET", "/v1/tenants/plain", None),
        ("PATCH", "/v1/tenants/plain", {"limits": {"sessions": 9}}),
        ("POST", "/v1/tenants/other/suspend", {}),
        ("POST", "/v1/tenants/plain/resume", {}),
        ("POST", "/v1/tenants/other/revoke", {}),
        ("DELETE", "/v1/tenants/other", None),
        ("GET", "/v1/tokens", None),
        ("POST", "/v1/tokens", {"name": "wide", "tenants": ["other"]}),
        ("POST", "/v1/tokens/plain/rotate", {}),
        ("DELETE", "/v1/tokens/other", None),
    ):
        assert asked(host, secret, method, path, body)[0] == 403, path
    states = {one["name"]: one["state"] for one in host.client.request("tenant.list", {})}
    assert (states["plain"], states["other"]) == ("active", "active")
    assert "mine" not in states
    refused = [one for one in host.events("request.refused") if one["principal"] == "token:plain"]
    assert refused, "and the audit has it"


def test_a_token_that_only_reads_runs_opens_ends_and_keeps_nothing(host: Stage) -> None:
    secret = made(host, "looked")
    reader = token(host, "looked-reader", tenants=["looked"], read_only=True)
    with client(host, secret) as owner, owner.session(host.plain, tenant="looked") as session:
        digest = owner.put(b"kept", tenant="looked").digest
        operation = f"{host.plain}:act"
        with client(host, reader) as caller:
            for method, params in (
                ("run", {"operation": operation, "arguments": {"code": "1"}, "tenant": "looked"}),
                ("session.open", {"bridge": host.plain, "tenant": "looked"}),
                ("session.hold", {"bridge": host.plain, "tenant": "looked"}),
                ("session.close", {"session": session.id}),
                ("session.kill", {"session": session.id}),
                ("session.profile", {"session": session.id}),
                ("artifact.put", {"tenant": "looked", "data": ""}),
                ("artifact.remove", {"tenant": "looked", "digest": digest}),
                ("resource.create", {"tenant": "looked", "bridge": host.plain}),
                ("foreign.open", {"bridge": "dspex", "kind": "code", "tenant": "looked"}),
            ):
                assert code_of(lambda m=method, p=params: caller.request(m, p)) == "denied", method
            assert caller.get(digest, tenant="looked") == b"kept"
            assert [one.id for one in caller.sessions()] == [session.id]
            assert code_of(lambda: caller.get(digest, tenant="plain")) == "denied"
        run = {"operation": operation, "arguments": {"code": "1"}, "tenant": "looked"}
        assert asked(host, reader, "POST", "/v1/run", run)[0] == 403
        assert asked(host, reader, "POST", "/v1/sessions", {"bridge": host.plain})[0] == 403
        assert asked(host, reader, "DELETE", f"/v1/sessions/{session.id}")[0] == 403
        assert asked(host, reader, "DELETE", f"/v1/artifacts/{digest}")[0] == 403
        assert asked(host, reader, "GET", f"/v1/sessions/{session.id}")[0] == 200
        assert session.run("act", {"code": "result = {'x': 1}"}) == {"x": 1}


def test_a_token_for_one_bridge_reaches_no_other_and_runs_only_what_it_names(host: Stage) -> None:
    secret = made(host, "scoped")
    second = host.bridge()
    narrow = token(host, "scoped-narrow", tenants=["scoped"], bridges=[second], operations=[f"{second}:rep*"])
    with client(host, secret) as owner, owner.session(host.plain, tenant="scoped") as other:
        with client(host, narrow) as caller, caller.session(second, tenant="scoped") as own:
            assert own.run("report") == {}
            assert code_of(lambda: own.run("act", {"code": "1"})) == "denied"
            assert code_of(lambda: caller.run(f"{host.plain}:report", tenant="scoped")) == "denied"
            for method, params in (
                ("session.open", {"bridge": host.plain, "tenant": "scoped"}),
                ("session.find", {"session": other.id}),
                ("session.close", {"session": other.id}),
                ("session.kill", {"session": other.id}),
                ("logs", {"session": other.id}),
                ("grant", {"bridge": host.plain, "tenant": "scoped"}),
                ("describe", {"bridge": host.plain, "tenant": "scoped"}),
                ("resource.create", {"bridge": host.plain, "tenant": "scoped"}),
                ("run", {"operation": "common:ping", "session": other.id, "tenant": "scoped"}),
            ):
                assert code_of(lambda m=method, p=params: caller.request(m, p)) == "denied", method
            assert [one.id for one in caller.sessions()] == [own.id]
            assert [one["name"] for one in caller.request("bridges")] == [second]
        run = {"operation": f"{host.plain}:report", "tenant": "scoped"}
        assert asked(host, narrow, "POST", "/v1/run", run)[0] == 403
        assert asked(host, narrow, "POST", f"/v1/run/{second}/act", {"arguments": {"code": "1"}})[0] == 403
        assert asked(host, narrow, "POST", "/v1/sessions", {"bridge": host.plain})[0] == 403
        assert asked(host, narrow, "GET", f"/v1/sessions/{other.id}/logs")[0] == 403
        assert asked(host, narrow, "DELETE", f"/v1/sessions/{other.id}")[0] == 403
        assert asked(host, narrow, "POST", f"/v1/run/{second}/report", {})[0] == 200
    rules = {one["rule"] for one in host.events("command.refused") if one["tenant"] == "scoped"}
    assert rules == {"token:scoped-narrow.scope"}


def test_a_suspended_tenant_begins_nothing_and_nobody_else_notices(host: Stage) -> None:
    secret, beside = made(host, "late"), made(host, "prompt")
    with contextlib.ExitStack() as stack:
        caller, neighbour = (stack.enter_context(client(host, one)) for one in (secret, beside))
        with caller.session(host.plain, tenant="late") as session:
            told: list[object] = []
            code = "import time\ntime.sleep(3)\nresult = {'x': 1}"
            thread = threading.Thread(target=lambda: told.append(session.run("act", {"code": code})))
            thread.start()
            until(lambda: running(host, "late"))
            said = asked(host, BOSS, "POST", "/v1/tenants/late/suspend", {"reason": "unpaid"})
            assert (said[0], said[1]["state"], said[1]["by"]) == (200, "suspended", "boss")
            for act in (
                lambda: session.run("act", {"code": "1"}),
                lambda: caller.session(host.plain, tenant="late").__enter__(),
                lambda: caller.put(b"x", tenant="late"),
                lambda: caller.request("describe", {"bridge": host.plain, "tenant": "late"}),
            ):
                with pytest.raises(BridgeholdError, match=r"late is suspended since .*: unpaid") as caught:
                    act()
                assert caught.value.code == "suspended"
                assert caught.value.event
            run = {"operation": f"{host.plain}:act", "arguments": {"code": "1"}}
            status, body = asked(host, secret, "POST", "/v1/run", run)
            assert (status, body["code"]) == (403, "suspended")
            assert neighbour.run(f"{host.plain}:report", tenant="prompt") == {}
            thread.join(30)
            assert told == [{"x": 1}], "what runs ends as it ends"
            host.client.request("tenant.resume", {"name": "late"})
            assert session.run("act", {"code": "result = {'x': 2}"}) == {"x": 2}


def test_a_revoked_tenant_ends_within_five_seconds_part_by_part(host: Stage) -> None:
    (host.layout.config / "config.toml").write_text(
        (host.layout.config / "config.toml").read_text() + f"[bridges.{host.plain}]\npool_size = 2\n"
    )
    host.client.request("reload")
    secret, beside = made(host, "gone"), made(host, "staying")
    both = token(host, "gone-and-staying", tenants=["gone", "staying"])
    admin = SecretAdmin.open_file(host.layout.secrets)
    for tenant in ("gone", "staying"):
        admin.set(tenant, "openai", b"sk-of-nobody-0123456789")
    with contextlib.ExitStack() as stack:
        caller, neighbour = (stack.enter_context(client(host, one)) for one in (secret, beside))
        opened = caller.session(host.plain, tenant="gone")  # held here: it ends with the tenant, not before
        session = opened.__enter__()
        stack.callback(lambda: code_of(lambda: opened.__exit__(None, None, None)))
        stays = stack.enter_context(neighbour.session(host.plain, tenant="staying"))
        caller.put(b"12345", tenant="gone")
        told: list[str] = []
        thread = threading.Thread(target=lambda: told.append(code_of(lambda: session.run("act", SLOW))))
        thread.start()
        until(lambda: running(host, "gone") or told)
        assert not told, told

        def standing() -> tuple[int, int]:
            found = host.client.request("zygotes")
            ready, warm = ([one for one in group if one["tenant"] == "gone"] for group in _groups(found))
            return len(warm), sum(one["count"] for one in ready)

        until(lambda: standing() == (1, 2))
        opened_beside: list[str] = []

        def keep_opening() -> None:
            params = {"bridge": host.plain, "tenant": "gone", "stays": True}
            with SyncClient.connect(host.layout.socket) as operator:
                while "suspended" not in opened_beside:
                    opened_beside.append(code_of(lambda: operator.request("session.open", params)))

        opener = threading.Thread(target=keep_opening)
        opener.start()
        until(lambda: opened_beside)
        begun = time.monotonic()
        done = host.client.request("tenant.revoke", {"name": "gone", "reason": "left"})
        assert time.monotonic() - begun < 5
        assert done["ms"] < 5_000
        ended = {part: one["ended"] for part, one in done["parts"].items()}
        assert ended["sessions"] >= 1
        assert ended["zygotes"] == 1
        assert ended["warm_pool"] >= 1
        assert ended["tokens"] == 2
        assert ended["keys"] == 1
        thread.join(30)
        opener.join(30)
        assert set(opened_beside) <= {"", "session_ended", "suspended"}, opened_beside
        assert told[0] in {"session_ended", "host_unavailable"}, told
        assert "gone" not in {one["tenant"] for one in host.client.request("sessions")}
        assert standing() == (0, 0)
        assert [(one.tenant, one.name) for one in admin.list()] == [("staying", "openai")]
        assert code_of(lambda: stack.enter_context(client(host, secret))) == "denied"
        assert stays.run("act", {"code": "result = {'x': 1}"}) == {"x": 1}
        with client(host, both) as narrowed:
            assert narrowed.run(f"{host.plain}:report", tenant="staying") == {}
            assert code_of(lambda: narrowed.run(f"{host.plain}:report", tenant="gone")) == "denied"
        run = {"operation": f"{host.plain}:report", "tenant": "gone"}
        assert code_of(lambda: host.client.request("run", run)) == "suspended", "an operator as well"
        assert code_of(lambda: host.client.request("tenant.resume", {"name": "gone"})) == "usage"
        assert "gone" in ended_before(host.layout)
        left = host.client.request("tenant.remove", {"name": "gone"})
        assert (left["artifacts"], left["artifact_bytes"], left["artifacts_removed"]) == (1, 5, False)
        assert not (host.layout.tenants / "gone.toml").exists()
        assert (host.layout.artifacts / "gone").is_dir()
        host.client.request("tenant.create", {"name": "gone"})
        # What the next host reads at its start: whoever has the name now hears of no session of who had it.
        assert "gone" not in ended_before(host.layout)
        assert "staying" in ended_before(host.layout)
        host.client.request("tenant.revoke", {"name": "gone"})
        left = host.client.request("tenant.remove", {"name": "gone", "artifacts": True})
        assert (left["artifacts"], left["artifacts_removed"], left["bridges"]) == (1, True, [])
        assert not (host.layout.artifacts / "gone").exists()
    outcome = [one for one in host.events("admin.outcome") if one["action"] == "tenant.revoke"][-1]
    assert set(outcome["parts_ms"]) == {
        *("sessions", "zygotes", "warm_pool", "submissions", "tokens", "keys")
    }  # type: ignore[call-overload]


def test_a_tokens_name_that_is_given_anew_brings_no_command_of_who_had_it(host: Stage) -> None:
    made(host, "once")
    made(host, "later")
    before = token(host, "handed-on", tenants=["once"])
    what = {
        "operation": f"{host.plain}:act",
        "arguments": {"code": "result['x'] = 'of the first'"},
        "id": "job",
    }
    assert asked(host, before, "POST", "/v1/run", what)[0] == 200
    assert "of the first" in str(asked(host, before, "GET", "/v1/commands/job"))
    rotated = str(host.client.request("token.rotate", {"name": "handed-on", "grace_s": 60})["token"])
    assert asked(host, rotated, "GET", "/v1/commands/job")[0] == 404
    assert asked(host, before, "GET", "/v1/commands/job")[0] == 200
    host.client.request("token.revoke", {"name": "handed-on"})
    after = token(host, "handed-on", tenants=["later"])
    for path in ("/v1/commands/job", "/v1/commands/job/events"):
        assert asked(host, after, "GET", path)[0] == 404, path
    assert asked(host, after, "DELETE", "/v1/commands/job")[0] == 404


@pytest.mark.parametrize("how", ["revoked", "expired", "removed", "rotated", "broken"])
def test_an_open_stream_ends_with_its_token(host: Stage, how: str) -> None:
    name = f"streams-{how}"
    made(host, name)
    secret = token(host, f"{name}-one", tenants=[name], expires_s=3 if how == "expired" else 0)
    file = host.layout.tokens / f"{name}-one.toml"
    body = {"operation": f"{host.plain}:act", "arguments": SLOW, "deadline_ms": 100_000}
    with stream(host, secret, body) as events:
        begun = time.monotonic()
        if how == "revoked":
            assert asked(host, BOSS, "DELETE", f"/v1/tokens/{name}-one")[0] == 200
        elif how == "rotated":
            fresh = host.client.request("token.rotate", {"name": f"{name}-one"})["token"]
        elif how == "removed":
            file.unlink()
        elif how == "broken":
            file.write_text(file.read_text() + "operator = true\n")
        rest = events.read()
        assert b"event: result" not in rest
        assert time.monotonic() - begun < 30, "long before the command's own end"
    assert asked(host, secret, "GET", "/v1/bridges")[0] == 401
    assert code_of(lambda: client(host, secret)) == "denied"
    until(lambda: not running(host, name))
    if how == "rotated":
        assert asked(host, fresh, "GET", "/v1/bridges")[0] == 200


def test_a_broken_file_refuses_its_own_tenant_and_nobody_else(host: Stage) -> None:
    secret, beside = made(host, "torn"), made(host, "whole")
    file = host.layout.tenants / "torn.toml"
    kept = file.read_text()
    with client(host, secret) as caller, client(host, beside) as neighbour:
        for broken in (
            kept[:-4],
            kept + "[tenant.limits]\nsesions = 3\n",
            kept.replace("active", "actve"),
            "",
        ):
            file.write_text(broken)
            refused = "policy"
            for asked_for in ("limit", "resume", "suspend"):
                given = {"limits": {"sessions": 9}} if asked_for == "limit" else {"reason": "looked at"}
                assert code_of(lambda: caller.run(f"{host.plain}:report", tenant="torn")) == refused
                assert code_of(lambda: caller.put(b"x", tenant="torn")) == refused
                asking = (f"tenant.{asked_for}", {"name": "torn", **given})
                assert code_of(lambda ask=asking: host.client.request(*ask)) == "policy"
                refused = "suspended" if asked_for == "suspend" else "policy"
                assert code_of(lambda: caller.run(f"{host.plain}:report", tenant="torn")) == refused
                states = {one["name"]: one for one in host.client.request("tenant.list", {})}
                assert states["torn"]["state"] == "broken"
                assert ("looked at" in states["torn"]["reason"]) == (asked_for == "suspend")
                assert states["whole"]["state"] == "active"
                assert file.read_text() == broken, "nobody mends it by overwriting"
            assert neighbour.run(f"{host.plain}:report", tenant="whole") == {}
            file.write_text(kept)
            assert code_of(lambda: caller.run(f"{host.plain}:report", tenant="torn")) == "suspended"
            assert host.client.request("tenant.resume", {"name": "torn"})["state"] == "active"
            assert caller.run(f"{host.plain}:report", tenant="torn") == {}
            kept = file.read_text()
        file.write_text(kept.replace('"active"', '"suspended"'))
        assert code_of(lambda: caller.run(f"{host.plain}:report", tenant="torn")) == "suspended"
        file.write_text(kept)
        assert caller.run(f"{host.plain}:report", tenant="torn") == {}
        file.unlink()
        assert code_of(lambda: caller.run(f"{host.plain}:report", tenant="torn")) == "policy"
        file.write_text(kept)


def test_operators_who_write_at_once_lose_nothing_of_each_other(host: Stage) -> None:
    made(host, "busy")
    ceilings = ["sessions", "bridge_sessions", "commands_per_second", "requests_per_day", "tokens_per_month"]
    codes: list[str] = []

    def set_one(key: str) -> None:
        with SyncClient.connect(host.layout.socket) as operator:
            params = {"name": "busy", "limits": {key: 1_000}}
            codes.append(code_of(lambda: operator.request("tenant.limit", params)))

    threads = [threading.Thread(target=set_one, args=(key,)) for key in ceilings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert codes == [""] * len(ceilings)
    found = host.client.request("tenant.show", {"name": "busy"})
    assert found["limits"] == dict.fromkeys(ceilings, 1_000)


@pytest.mark.parametrize("name", ["../x", "..", "a/b", "A", "", "*", "x" * 64, "a\nb"])
def test_a_name_that_is_none_is_refused_everywhere(host: Stage, name: str) -> None:
    before = sorted(host.layout.config.rglob("*"))
    for method, more in (
        ("tenant.create", {}),
        ("tenant.suspend", {}),
        ("tenant.revoke", {}),
        ("tenant.remove", {}),
        ("token.create", {"tenants": ["local"]}),
        ("token.rotate", {}),
        ("token.revoke", {}),
    ):
        assert code_of(lambda m=method, p=more: host.client.request(m, {"name": name, **p})) == "usage", (
            method
        )
    for tenants in ([name], [], ["nobody-knows-it"]):
        params = {"name": "a-token", "tenants": tenants}
        assert code_of(lambda p=params: host.client.request("token.create", p)) in {"usage", "not_found"}
    assert sorted(host.layout.config.rglob("*")) == before


def test_a_token_is_in_no_file_no_log_no_event_and_no_argument(host: Stage) -> None:
    secret = made(host, "silent")
    fresh = host.client.request("token.rotate", {"name": "silent", "grace_s": 60})["token"]
    for one in (secret, fresh):
        with client(host, one) as caller:
            caller.run(f"{host.plain}:report", tenant="silent")
        assert asked(host, one, "GET", "/v1/bridges")[0] == 200
        assert asked(host, one + "0", "GET", "/v1/bridges")[0] == 401
    needles = [one.rpartition("_")[2].encode() for one in (secret, fresh)]
    home = host.layout.config.parent
    for path in home.rglob("*"):
        if path.is_file() and not path.is_symlink() and "envs" not in path.parts:
            data = path.read_bytes()
            assert not any(needle in data for needle in needles), path
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            data = place.read_bytes()
            assert not any(needle in data for needle in needles)
    for digit in range(16):
        guess = f"{secret[:-1]}{digit:x}"
        assert guess == secret or asked(host, guess, "GET", "/v1/bridges")[0] == 401


def test_every_act_is_in_the_audit_before_and_after_with_who_asked(host: Stage) -> None:
    made(host, "told")
    code_of(lambda: host.client.request("tenant.limit", {"name": "told", "limits": {"sesions": 3}}))
    intents = {one["ref"]: one for one in host.events("admin.intent") if one["subject"] == "told"}
    outcomes = [one for one in host.events("admin.outcome") if one["subject"] == "told"]
    assert [one["action"] for one in intents.values()] == ["tenant.create", "token.create", "tenant.limit"]
    assert [one["intent"] for one in outcomes] == list(intents)
    assert [(one["ok"], one["code"]) for one in outcomes] == [(True, ""), (True, ""), (False, "usage")]
    assert {one["principal"] for one in outcomes} == {"owner"}
    assert {one["tenant"] for one in outcomes} == {""}, "no quota of a tenant's keeps an operator from it"


def test_ceilings_of_sessions_and_memory_are_the_tenants_and_hold_at_once(host: Stage) -> None:
    secret = made(host, "full", sessions=2, memory="512MiB")
    beside = made(host, "roomy")
    second = host.bridge()
    with client(host, secret) as caller, client(host, beside) as neighbour, contextlib.ExitStack() as stack:
        stack.enter_context(caller.session(host.plain, tenant="full"))
        stack.enter_context(caller.session(second, tenant="full"))
        for limits, said in (
            ({}, "2 of 2 sessions"),
            ({"sessions": 9}, "512 MiB of 512 MiB for sessions"),
            ({"memory": "1GiB", "bridge_sessions": 1}, f"1 of 1 sessions with {host.plain}"),
        ):
            host.client.request("tenant.limit", {"name": "full", "limits": limits})
            with pytest.raises(BridgeholdError, match=said) as caught:
                caller.session(host.plain, tenant="full").__enter__()
            assert caught.value.code == "busy"
            assert "tenant limit full" in caught.value.hint
        assert neighbour.run(f"{host.plain}:report", tenant="roomy") == {}
        host.client.request("tenant.limit", {"name": "full", "limits": {"bridge_sessions": None}})
        third = stack.enter_context(caller.session(host.plain, tenant="full"))
        file = host.layout.tenants / "full.toml"
        file.write_text(file.read_text().replace("sessions = 9\n", "sessions = 90\n"))  # by hand
        assert third.run("report") == {}
        loaded = [one for one in host.events("policy.loaded") if one["tenant"] == "full"]
        told = [one["gained"] for one in loaded if one["bridge"] == host.plain]
        assert told[-1] == [
            "tenant.limits.sessions 9 → 90"
        ]  # who raised it nobody knows: that it was, the audit does


def test_a_tenants_commands_and_bytes_a_second_are_counted_over_all_its_bridges(host: Stage) -> None:
    secret, second = made(host, "fast", commands_per_second=3), host.bridge()
    with client(host, secret) as caller, contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(caller.session(one, tenant="fast")) for one in (host.plain, second)]
        for session in sessions:
            session.run("report")
        codes = [code_of(lambda s=session: s.run("report")) for _ in range(8) for session in sessions]
        assert set(codes) == {"", "budget"}
        limits = {"commands_per_second": None, "bytes_per_second": "1KiB"}
        host.client.request("tenant.limit", {"name": "fast", "limits": limits})
        until(lambda: code_of(lambda: sessions[0].run("act", {"code": "result = {'x': 'y' * 20_000}"})) == "")
        assert code_of(lambda: sessions[1].run("report")) == "budget"
        host.client.request("tenant.limit", {"name": "fast", "limits": {"bytes_per_second": None}})
        assert sessions[1].run("report") == {}
    rules = {one["rule"] for one in host.events("command.refused") if one["tenant"] == "fast"}
    assert rules == {"tenant.limits.commands_per_second", "tenant.limits.bytes_per_second"}


def test_what_is_kept_for_a_tenant_is_within_its_own_ceiling(host: Stage) -> None:
    secret, beside = made(host, "small", artifacts="64KiB"), made(host, "large")
    with client(host, secret) as caller, client(host, beside) as neighbour:
        caller.put(b"x" * 60_000, tenant="small")
        with pytest.raises(BridgeholdError, match="more than 64 KiB") as caught:
            caller.put(b"y" * 60_000, tenant="small")
        assert caught.value.code == "budget"
        neighbour.put(b"y" * 600_000, tenant="large")


def test_a_tenants_share_of_the_processors_is_its_weight_in_the_kernel(host: Stage) -> None:
    """One folder for all that it has, in every hierarchy; a share that changed is there with the next start."""
    name = f"heavy{os.getpid()}"
    secret = made(host, name, cpu_share=300)

    def weight() -> list[int]:
        top = Path("/sys/fs/cgroup")
        folders = [Path(one) for one, _, _ in os.walk(top) if one.endswith(f"/tenant-{name}")]
        files = [one / f"cpu.{kind}" for one in folders for kind in ("shares", "weight")]
        found = [path for path in files if path.exists()]
        return [int(path.read_text()) * (1 if path.name == "cpu.weight" else 100) for path in found]

    with client(host, secret) as caller:
        caller.run(f"{host.plain}:report", tenant=name)
        assert weight() in ([300 * 1024], [300])
        host.client.request("tenant.limit", {"name": name, "limits": {"cpu_share": 50}})
        with caller.session(host.plain, name="second", tenant=name):
            until(
                lambda: weight() in ([50 * 1024], [50])
            )  # a pooled sandbox began before; the next one sets it
    host.client.request("tenant.revoke", {"name": name})
    until(lambda: not weight())  # the folders go with the last of it
