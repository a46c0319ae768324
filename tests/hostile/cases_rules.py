"""Each key of what may be done, how often, and how a worker is started, at work."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from bridgehold import BridgeholdError
from bridgehold.errors import DeniedError
from hostile.keyed import DEVICE, ENV_SECRET, Case, Keyed, sha256
from waiting import until

RULES: dict[str, Case] = {}
CHAT = "result['all'] = [chat(keys['openai']) for _ in range({times})]"


def case(*keys: str) -> Any:
    """This function shows these keys at work."""

    def named(act: Case) -> Case:
        RULES.update(dict.fromkeys(keys, act))
        return act

    return named


@case("extends")
def extends(keyed: Keyed) -> None:
    (keyed.stage.layout.policies / "beneath.toml").write_text(
        'extends = "baseline"\n[limits]\ncommand = "7s"\ngrace = "1s"\n'
    )
    found = keyed.grant({"extends": "beneath", "limits.grace": "3s"})["limits"]
    assert (found["command_ms"], found["grace_ms"], found["response_bytes"]) == (7_000, 3_000, 8 << 20)


@case("inline_keys")
def inline_keys(keyed: Keyed) -> None:
    code = "result['key'] = api_key"
    given = "sk-inline-0123456789abcdef0123456789"
    assert keyed.fails({"inline_keys": "refuse"}, code, api_key=given) == "denied"
    assert keyed.act(code, {"inline_keys": "capture"}, api_key=given)["key"] != given
    assert keyed.act(code, {"inline_keys": "pass"}, api_key=given)["key"] == given


@case("weakenings")
def weakenings(keyed: Keyed) -> None:
    """What needs one that isn't named is no policy; what is named and needed is in the grant and in the audit."""
    rules: dict[str, dict[str, Any]] = {
        "env_secret": {"secrets.token": {"how": "env", "variable": "HUB_TOKEN"}},
        "connect": {"network.connect": [{"host": "127.0.0.1", "port": keyed.port}]},
        "private_network": {},
        "inline_keys_pass": {"inline_keys": "pass"},
    }
    for name, rule in rules.items():
        others = [
            one for one in ("env_secret", "connect", "private_network", "inline_keys_pass") if one != name
        ]
        assert keyed.fails({**rule, "weakenings": others}) == "policy", name
        assert name in keyed.grant({**rule, "weakenings": [*others, name]})["weakenings"]
    with keyed.session() as session:
        session.run("act", {"code": "pass"})
    assert keyed.stage.events("worker.attested")[-1]["weakenings"] == ["private_network"]


@case("filesystem.read")
def read(keyed: Keyed) -> None:
    look = "import os\nresult['data'] = open('/data/0/word').read() if os.path.exists('/data/0') else ''"
    assert keyed.act(look, {"filesystem.read": [f"{keyed.data}/given"]}) == {"data": "read"}
    assert keyed.act(look) == {"data": ""}
    assert keyed.fails({"filesystem.read": [f"{keyed.data}/repos"]}) != "ok"


@case("filesystem.devices")
def devices(keyed: Keyed) -> None:
    if os.getuid() != 0:
        assert keyed.fails({"filesystem.devices": ["/dev/nvidia239"]}) == "unsupported"
        return
    look = f"import os\nresult['there'] = os.path.exists('{DEVICE}')"
    assert keyed.act(look, {"filesystem.devices": [DEVICE]}) == {"there": True}
    assert keyed.act(look) == {"there": False}


@case("network.endpoints.*.methods", "network.endpoints.*.paths")
def endpoints(keyed: Keyed) -> None:
    code = (
        "auth = [f'Authorization: Bearer {keys[\"openai\"]}']\n"
        "result['post'] = chat(keys['openai'])\n"
        "result['get'] = ask('/openai/chat/completions', 'GET', headers=auth)[:2]\n"
        "result['other'] = chat(keys['openai'], '/openai/v1/chat/completions')"
    )
    found = keyed.act(code, {"network.endpoints.openai.methods": ["POST"]})
    assert found["post"][0] == 200
    assert found["get"] == [403, "network.endpoints.openai.methods"]
    assert found["other"] == [403, "default-deny"]
    wider: dict[str, Any] = {"network.endpoints.openai.paths": ["/chat/completions", "/v1/chat/completions"]}
    wider["network.endpoints.openai.fields"] = [
        "(no body)",
        "(method)=GET",
    ]  # it would list what the account keeps
    found = keyed.act(code, wider)
    assert (found["get"][0] != 403, found["other"][0] != 403) == (True, True)
    nothing = keyed.act(
        "result['reached'] = self.providers", {"network.endpoints.openai.paths": [], "secrets.openai": None}
    )
    assert nothing == {"reached": []}


@case("network.endpoints.*.remote_content")
def remote_content(keyed: Keyed) -> None:
    code = (
        "part = {'type': 'image_url', 'image_url': {'url': 'https://example.com/x.png'}}\n"
        "result['said'] = chat(keys['openai'], message=[part])"
    )
    key = "network.endpoints.openai.remote_content"
    assert keyed.act(code)["said"] == [403, key]
    assert keyed.act(code, {key: True})["said"][0] == 200


@case("network.endpoints.*.fields")
def fields(keyed: Keyed) -> None:
    code = "result['said'] = chat(keys['openai'], invented={'by': 'nobody'})"
    key = "network.endpoints.openai.fields"
    assert keyed.act(code)["said"] == [403, key]
    assert keyed.act(code, {key: ["other"]})["said"] == [403, key]
    assert keyed.act(code, {key: ["invented"]})["said"][0] == 200


def _hub(keyed: Keyed, **changes: Any) -> dict[str, Any]:
    """What of a hub comes in: (status, rule) by path."""
    said = {"repos": ["acme/tiny"], **changes}
    policy = {f"network.endpoints.hub.{name}": value for name, value in said.items()} | {"secrets.hub": {}}
    code = (
        "paths = ['acme/tiny/resolve/main/config.json', 'acme/tiny/resolve/main/words.txt',\n"
        "         'acme/other/resolve/main/config.json']\n"
        "auth = [f'Authorization: Bearer {keys[\"hub\"]}']\n"
        "for path in paths: result[path.replace('resolve/main/', '')] = ask('/hub/' + path, 'GET', headers=auth)[:2]"
    )
    return keyed.act(code, policy)


@case(
    "network.endpoints.*.repos",
    "network.endpoints.*.files",
    "network.endpoints.*.digests",
    "network.endpoints.*.file_size",
    "network.endpoints.*.total_size",
)
def hub(keyed: Keyed) -> None:
    """Sizes first: what is kept already comes in whatever a total says."""
    key, tiny = "network.endpoints.hub", "acme/tiny"
    pin = sha256(keyed.data / "repos" / tiny / "words.txt")
    assert _hub(keyed, total_size="1KiB")[f"{tiny}/words.txt"] == [403, f"{key}.total_size"]
    assert _hub(keyed, file_size="1KiB")[f"{tiny}/words.txt"] == [403, f"{key}.file_size"]
    plain = _hub(keyed)
    assert [plain[f"{tiny}/{file}"][0] for file in ("config.json", "words.txt")] == [200, 200]
    assert plain["acme/other/config.json"] == [403, "default-deny"]
    assert _hub(keyed, repos=["acme/*"])["acme/other/config.json"][0] == 200
    assert _hub(keyed, files=["*.json"])[f"{tiny}/words.txt"] == [403, "default-deny"]
    pinned = _hub(keyed, digests=[pin])
    assert (pinned[f"{tiny}/words.txt"][0], pinned[f"{tiny}/config.json"]) == (200, [403, f"{key}.digests"])
    assert _hub(keyed, digests=[])[f"{tiny}/words.txt"] == [403, f"{key}.digests"]


@case("network.connect", "network.connect[].host", "network.connect[].port", "network.connect[].private")
def connect(keyed: Keyed) -> None:
    place = f"127.0.0.1:{keyed.port}"
    code = f"result['said'] = ask('http://{place}/', 'GET', host='{place}')[:2]"
    rule = {"host": "127.0.0.1", "port": keyed.port, "private": True}

    def said(*rules: dict[str, Any]) -> list[Any]:
        found = keyed.act(code, {"network.connect": list(rules)})
        return list(found["said"])

    assert said(rule)[0] == 200
    assert said()[0] == 403
    assert said({**rule, "port": keyed.port + 1})[0] == 403
    assert said({**rule, "host": "127.0.0.2"})[0] == 403
    assert said({**rule, "private": False}) == [403, "names.public"]


@case("secrets.*.how", "secrets.*.provider", "secrets.*.variable")
def secrets(keyed: Keyed) -> None:
    look = "import os\nresult['env'] = os.environ.get('HUB_TOKEN', '')\nresult['said'] = chat(keys['openai'])"
    env = {"secrets.token": {"how": "env", "variable": "HUB_TOKEN"}}
    assert keyed.act(look, env) == {"env": ENV_SECRET, "said": [200, ""]}
    bound = keyed.act(look, {"secrets.openai": None, "secrets.another": {"provider": "openai"}})
    assert bound == {"env": "", "said": [200, ""]}
    assert keyed.act(look, {"secrets.openai": None})["said"] == [403, "secrets"]
    other = {"secrets.token": {"how": "env", "variable": "OTHER"}}
    assert keyed.act(look, other)["env"] == ""
    assert any("secret token" in one for one in keyed.grant(other)["withheld"])


@case("operations.allow", "operations.deny")
def operations(keyed: Keyed) -> None:
    assert keyed.fails({"operations.allow": ["*:make"]}) == "denied"
    assert keyed.fails({"operations.allow": []}) == "denied"
    assert keyed.fails({"operations.deny": ["*:act"]}) == "denied"
    assert keyed.act("result['is'] = 1", {"operations.allow": ["*:act"]}) == {"is": 1}


def told(a: int = 0) -> int:
    """A tool."""
    return a


@case("tools.allow", "tools.deny")
def tools(keyed: Keyed) -> None:
    code = (
        "result['offered'] = sorted(tools)\n"
        "try: result['said'] = tools['told'](a=3) if 'told' in tools else tools['x']\n"
        "except Exception as error: result['said'] = type(error).__name__"
    )

    def found(changes: dict[str, Any]) -> Any:
        with keyed.client.session(keyed.bridge(changes), tools=[told]) as session:
            return session.run("act", {"code": code})

    assert (found({})["said"], "told" in found({})["offered"]) == (3, True)
    for changes in ({"tools.allow": []}, {"tools.allow": None}, {"tools.deny": ["to*"]}):
        assert "told" not in found(changes)["offered"]


@case("resources.allow", "resources.deny")
def resources(keyed: Keyed) -> None:
    """By command and by the unified verbs; by its own kind and by an id among the arguments; after a crash."""
    for denied in ({"resources.deny": ["thing"]}, {"resources.allow": ["part"]}, {"resources.allow": []}):
        name = keyed.bridge()
        with keyed.client.session(name, name="mine") as session:
            session.run("make", {"id": "one"})
            keyed.policy(name, denied)
            acts = [("make", {"id": "two"}), ("use", {"thing_id": "one"}), ("drop", {"thing_id": "one"})]
            acts += [("fit", {"thing_id": "one"}), ("fit", {"of": {"some": [{"thing_id": "one"}]}})]
            for operation, arguments in acts:
                with pytest.raises(DeniedError) as caught:
                    session.run(operation, arguments)
                assert "kind of resource" in str(caught.value)
            with pytest.raises(DeniedError):
                keyed.client.create_resource("thing", {"id": "two"}, bridge=name, session="mine")
            with pytest.raises(DeniedError):
                keyed.client.execute_resource("one", bridge=name)
            with pytest.raises(DeniedError):
                keyed.client.delete_resource("one", bridge=name)
            assert [*keyed.client.list_resources(bridge=name)] == []
            (kind,) = [one for one in keyed.client.describe(name)["resources"] if one["name"] == "thing"]
            assert kind["granted"] is False
            keyed.policy(name)
            assert [one.id for one in keyed.client.list_resources(bridge=name)] == ["one"]
            assert session.run("use", {"thing_id": "one"}) == 1
            with pytest.raises(BridgeholdError):
                session.run("act", {"code": "import os\nos._exit(1)"})
            keyed.policy(name, denied)
            with pytest.raises(BridgeholdError) as lost:
                keyed.client.run(f"{name}:act", {"code": "result['things'] = self.things"}, session="mine")
            assert "could not be made again" in str(lost.value)
    found = keyed.act("result['part'] = self.fit(id='p')", {"resources.deny": ["thing"]})
    assert found == {"part": {"part_id": "p"}}
    with keyed.session({"resources.deny": ["thing"]}) as session:
        assert session.run("fit", {"id": "p"}) == {"part_id": "p"}


def _commands(keyed: Keyed, name: str, most: int) -> int:
    """How many of `most` commands at once are let through."""
    done = 0
    for _ in range(most):
        try:
            keyed.client.run(f"{name}:act", {"code": "pass"})
        except BridgeholdError as error:
            assert error.code == "budget"
            return done
        done += 1
    return done


@case("rate.commands_per_minute")
def commands_per_minute(keyed: Keyed) -> None:
    """As few as one, and another number as soon as the policy says it."""
    name = keyed.bridge({"rate.commands_per_minute": 1})
    assert _commands(keyed, name, 4) == 1
    keyed.policy(name, {"rate.commands_per_minute": 60_000})
    until(lambda: _commands(keyed, name, 1) != 0)
    assert _commands(keyed, name, 8) == 8
    keyed.policy(name, {"rate.commands_per_minute": 1})
    assert _commands(keyed, name, 4) <= 1


@case("rate.concurrency")
def concurrency(keyed: Keyed) -> None:
    name = keyed.bridge({"rate.concurrency": 1})
    with keyed.client.session(name), pytest.raises(BridgeholdError) as caught, keyed.client.session(name):
        pass
    assert caught.value.code == "busy"


@case("rate.provider_requests_per_minute", "rate.provider_requests_total", "rate.provider_tokens_total")
def provider_rates(keyed: Keyed) -> None:
    """Totals last over the audit's life: of a tenant that nobody else is."""
    rate = "rate.provider_requests_per_minute"
    assert [one[1] for one in keyed.act(CHAT.format(times=2), {rate: 1})["all"]] == ["", rate]
    for number, key in enumerate(("rate.provider_requests_total", "rate.provider_tokens_total")):
        tenant = f"spender{number}"
        keyed.secret(tenant)
        for most, statuses in ((0, [429]), (1, [200, 429]), ("any", [200])):
            name = keyed.bridge({key: most})
            with keyed.client.session(name, tenant=tenant) as session:
                found = session.run("act", {"code": CHAT.format(times=len(statuses))})["all"]
            assert [one[0] for one in found] == statuses, (key, most, found)
            assert all(one[1] == key for one in found if one[0] == 429)


@case("rate.connections_per_second")
def connections_per_second(keyed: Keyed) -> None:
    code = (
        "import time\nbegan = time.monotonic()\nfor _ in range(8): ask('/openai/x', 'GET')\n"
        "result['s'] = time.monotonic() - began"
    )
    assert keyed.act(code, {"rate.connections_per_second": 3})["s"] >= 1.2


@case("rate.frames_per_second")
def frames_per_second(keyed: Keyed) -> None:
    took = []
    for rate in (20, 2_000):
        with keyed.session({"rate.frames_per_second": rate}) as session:
            began = time.monotonic()
            for _ in range(2):  # what one reading takes beyond the rate, the next one waits for
                assert session.run("count", {"to": 80}) == 80
            took.append(time.monotonic() - began)
    assert took[0] >= 1.5 > took[1] or took[0] > 4 * took[1], took


@case("rate.audit_events_per_second")
def audit_events_per_second(keyed: Keyed) -> None:
    """One bucket for all that the session causes: refusals are folded, calls that must be written wait."""
    changes = {"rate.audit_events_per_second": 2, "tools.deny": ["bad"]}
    code = (
        "import time\n"
        "for _ in range(30):\n"
        "    try: tools['told'].call('bad', {})\n    except ToolError: pass\n"
        "for _ in range(10): ask('/openai/secret', 'POST')\n"
        "began = time.monotonic()\nfor _ in range(3): tools['told'](a=1)\n"
        "result['s'] = time.monotonic() - began"
    )
    with keyed.client.session(keyed.bridge(changes), tools=[told]) as session:
        found = session.run("act", {"code": code})
        mine = [event for event in keyed.stage.events() if event["session"] == session.id]
    assert found["s"] >= 2
    assert sum(event["kind"] in ("tool.refused", "egress.refused") for event in mine) < 20

    def folded() -> bool:
        told: list[Any] = [
            event["folded"] for event in keyed.stage.events("events.folded") if event["session"] == session.id
        ]
        return sum(sum(one.values()) for one in told) >= 20

    until(folded)


@case("sandbox.start", "sandbox.isolation", "sandbox.seccomp")
def sandbox(keyed: Keyed) -> None:
    for start in ("cold", "fork"):
        changes = {"sandbox.start": start, "sandbox.isolation": "namespaces", "sandbox.seccomp": "default"}
        look = (
            "import os\nresult['mode'] = [l for l in open('/proc/self/status') if l.startswith('Seccomp:')][0][-2]\n"
            "result['spaces'] = {n: os.readlink(f'/proc/self/ns/{n}') for n in ('user', 'mnt', 'pid', 'net', 'ipc', 'uts')}"
        )
        with keyed.session(changes) as session:
            found = session.run("act", {"code": look})
            (info,) = [one for one in keyed.client.sessions() if one.id == session.id]
        assert info.start == start
        assert found["mode"] == "2"
        for name, space in found["spaces"].items():
            assert space != os.readlink(f"/proc/self/ns/{name}")
    for key in ("isolation", "seccomp"):
        assert keyed.fails({f"sandbox.{key}": "none"}) == "policy"
