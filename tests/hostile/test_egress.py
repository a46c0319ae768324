"""ABUSE 19 and 22–30, 43, 45 from inside real sandboxes: the gateway, its keys, and what never gets out."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bridgehold import BridgeholdError, SyncClient
from bridgehold.bridges.kit.provider import Behaviour, Provider
from bridgehold.keeper.admin import SecretAdmin
from hostile.served import running_provider
from hostile.stage import POLICY, Stage, make_home, ordinary_user, start_host, stop_host
from waiting import until

pytestmark = pytest.mark.hostile

MANIFEST = """
name = "net"
version = "1.0.0"
summary = "A bridge that talks to a provider"
entry = "net:Net"
[[needs.endpoints]]
provider = "openai"
methods = ["POST"]
paths = ["/chat/completions", "/responses"]
[[needs.secrets]]
name = "openai"
provider = "openai"
[operations.act]
summary = "Run code"
effect = "run"
[operations.act.arguments]
required = ["code"]
[operations.act.arguments.properties]
code = { type = "string" }
"""

BRIDGE = '''
import json, socket
from bridgehold_sdk import Bridge, operation

def raw(data, port=8080, timeout=10):
    """Send bytes to the gateway; (status, body) of the first answer."""
    with socket.create_connection(("127.0.0.1", port), timeout) as s:
        s.sendall(data if isinstance(data, bytes) else data.encode())
        answer = b""
        try:
            while len(answer) < 200_000:
                part = s.recv(65536)
                if not part: break
                answer += part
                head, sep, body = answer.partition(b"\\r\\n\\r\\n")
                if sep and b"chunked" not in head.lower():
                    length = [l for l in head.lower().split(b"\\r\\n") if l.startswith(b"content-length:")]
                    if length and len(body) >= int(length[0].split(b":")[1]): break
                if body.endswith(b"0\\r\\n\\r\\n"): break
        except (TimeoutError, OSError):
            pass
    status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0
    return status, answer.decode("latin-1")

def post(path, body, key, extra=""):
    data = json.dumps(body).encode()
    return raw((f"POST {path} HTTP/1.1\\r\\nHost: 127.0.0.1:8080\\r\\nAuthorization: Bearer {key}\\r\\n"
                f"Content-Type: application/json\\r\\nContent-Length: {len(data)}\\r\\n{extra}\\r\\n").encode() + data)

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}

class Net(Bridge):
    @operation()
    def act(self, code):
        names = {"result": {}, "raw": raw, "post": post, "CHAT": CHAT, "key": self.provider("openai").placeholder}
        exec(compile(code, "act", "exec"), names)
        return names["result"]
'''


class Net:
    """A host with one provider behind its gateway."""

    def __init__(self, stage: Stage, provider: Provider, user: str, process: subprocess.Popen[bytes]) -> None:
        self.stage = stage
        self.provider = provider
        self._user = user
        self.process = process

    def act(self, code: str) -> dict[str, Any]:
        with self.stage.client.session("net") as session:
            value = session.run("act", {"code": code})
        assert isinstance(value, dict)
        return value

    def close(self) -> None:
        self.stage.client.close()
        stop_host(self.process)

    def kill(self) -> None:
        """The host's process, in the middle of whatever is under way; all others end with it."""
        children = psutil.Process(self.process.pid).children()
        next(one for one in children if "bridgehold.host.main" in one.cmdline()).kill()
        self.process.wait(60)

    def start(self) -> None:
        self.stage.client.close()
        self.process = start_host(self.stage.layout, user=self._user)
        self.stage.client = SyncClient.connect(self.stage.layout.socket)


KINDS = ["root", "user"] if os.getuid() == 0 else ["self"]


@pytest.fixture(scope="module", params=KINDS)
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with opened(request.param) as found:
        yield found


@contextlib.contextmanager
def opened(kind: str, more: str = "", *, first: str = "", host: str = "") -> Iterator[Net]:
    """`more`: of the bridge's policy; `first`: the top of config.toml; `host`: more of its [host]."""
    with contextlib.ExitStack() as stack:
        user, cgroup = stack.enter_context(ordinary_user()) if kind == "user" else ("", "auto")
        import pwd

        owner = pwd.getpwnam(user).pw_uid if user else os.getuid()
        layout = make_home(owner)
        stack.callback(shutil.rmtree, layout.config.parent, ignore_errors=True)
        provider = stack.enter_context(running_provider())
        layout.config_file.write_text(
            f'{first}[host]\ncgroup = "{cgroup}"\n{host}\n[providers.openai]\nbase_url = "{provider.base_url}"\nprivate = true\n'
        )
        _write_bridge(layout.bridges / "net")
        network = (
            '[network.endpoints.openai]\nmethods = ["POST"]\npaths = ["/chat/completions", "/responses"]\n'
            '[secrets.openai]\nhow = "gateway"\nprovider = "openai"\n[sandbox]\nenforcement = "weakened"\n'
        )
        policy = 'weakenings = ["private_network"]\n' + POLICY.strip() + f"\n{more}\n" + network
        (layout.policies / "net.toml").write_text(policy)
        layout.secrets.mkdir(parents=True, exist_ok=True)
        for folder in (layout.state, layout.secrets):
            os.chown(folder, owner, owner)
        layout.secrets.chmod(0o700)
        SecretAdmin.open_file(layout.secrets).set("local", "openai", provider.key.encode())
        process = start_host(layout, user=user)
        client = SyncClient.connect(layout.socket)
        stage = Stage(kind=kind, layout=layout, client=client, supervisor=process.pid)
        made = Net(stage, provider, user, process)
        stack.callback(made.close)
        yield made


def _write_bridge(folder: Path) -> None:
    folder.mkdir()
    (folder / "bridge.toml").write_text(MANIFEST)
    (folder / "net.py").write_text(BRIDGE)


def test_19_work_is_done_with_a_key_that_is_nowhere_inside(net: Net) -> None:
    found = net.act(
        "import os\nstatus, text = post('/openai/chat/completions', CHAT, key)\n"
        "inside = str(dict(os.environ)) + open('/proc/self/environ').read() + open('/proc/self/cmdline').read()\n"
        "result = {'status': status, 'text': text, 'inside': inside, 'key': key}"
    )
    assert found["status"] == 200, found
    assert net.provider.requests_with_key() >= 1
    real = net.provider.key
    assert real not in str(found)
    for path in net.stage.layout.audit.rglob("*.jsonl"):
        assert real.encode() not in path.read_bytes()
        assert str(found["key"]).encode() not in path.read_bytes()


@pytest.mark.parametrize(
    "target",
    [
        "example.com",
        "93.184.216.34",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "10.0.0.1",
        "localhost",
        "metadata.google.internal",
        "evilopenai.com",
        "api.openai.com.evil.example",
        "API.OPENAI.COM.",
    ],
)
def test_23_to_25_no_other_host_in_any_spelling(net: Net, target: str) -> None:
    before = len(net.stage.events("egress.refused"))
    found = net.act(
        f"t = {target!r}\n"
        "plain = raw(f'GET http://{t}/x HTTP/1.1\\r\\nHost: {t}\\r\\n\\r\\n')[0]\n"
        "tunnel = raw(f'CONNECT {t}:443 HTTP/1.1\\r\\nHost: {t}:443\\r\\n\\r\\n')[0]\n"
        "result = {'plain': plain, 'tunnel': tunnel}"
    )
    assert set(found.values()) <= {403, 400}, found
    assert len(net.stage.events("egress.refused")) > before


@pytest.mark.parametrize(
    "path",
    [
        "/openai/../openai/chat/completions",
        "/openai/%2e%2e/chat/completions",
        "/openai/chat%2fcompletions",
        "/openai//chat/completions",
        "/openai/files",
        "/openai/chat/completions/../../files",
        "/other/chat/completions",
        "/openai/chat/completions\\x00",
    ],
)
def test_25_only_granted_paths_however_they_are_spelled(net: Net, path: str) -> None:
    found = net.act(f"result = {{'status': post({path!r}, CHAT, key)[0]}}")
    assert found["status"] in (400, 403, 404)


@pytest.mark.parametrize(
    "head",
    [
        "POST /openai/chat/completions HTTP/1.1\\r\\nHost: a\\r\\nHost: b\\r\\nContent-Length: 0\\r\\n\\r\\n",
        (
            "POST /openai/chat/completions HTTP/1.1\\r\\nHost: 127.0.0.1:8080\\r\\nContent-Length: 5\\r\\n"
            "Transfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n"
        ),
        "GET http://one.example/ HTTP/1.1\\r\\nHost: two.example\\r\\n\\r\\n",
        "GET /openai/x HTTP/1.1\\r\\nHost: 127.0.0.1:8080\\r\\nX: a\\x0bb\\r\\n\\r\\n",
        "GET /openai/x HTTP/1.1\\r\\nHost: 127.0.0.1:8080\\r\\n folded\\r\\n\\r\\n",
        "HELLO\\r\\n\\r\\n",
    ],
)
def test_26_what_two_parsers_read_in_two_ways_is_refused(net: Net, head: str) -> None:
    found = net.act(f"result = {{'status': raw('{head}')[0]}}")
    assert found["status"] in (400, 403), found


def test_23_28_and_45_are_refused_at_import_as_well(net: Net) -> None:
    folder = net.stage.layout.bridges / "netimport"
    _write_bridge(folder)
    (folder / "bridge.toml").write_text(MANIFEST.replace('name = "net"', 'name = "netimport"', 1))
    at_import = """
IMPORTED = {
    "plain": raw("GET http://169.254.169.254/x HTTP/1.1\\r\\nHost: 169.254.169.254\\r\\n\\r\\n")[0],
    "tunnel": raw("CONNECT example.com:443 HTTP/1.1\\r\\nHost: example.com:443\\r\\n\\r\\n")[0],
    "guess": post("/openai/chat/completions", CHAT, "sk-bh-guess")[0],
    "two hosts": raw("GET /openai/x HTTP/1.1\\r\\nHost: a\\r\\nHost: b\\r\\n\\r\\n")[0],
}
"""
    code = BRIDGE.replace("class Net(Bridge):", at_import + "\nclass Net(Bridge):")
    (folder / "net.py").write_text(code.replace('"CHAT": CHAT,', '"CHAT": CHAT, "imported": IMPORTED,'))
    policy = net.stage.layout.policies / "net.toml"
    (net.stage.layout.policies / "netimport.toml").write_text(policy.read_text())
    with net.stage.client.session("netimport") as session:
        found = session.run("act", {"code": "result = imported"})
    assert found["plain"] == found["tunnel"] == 403
    assert found["guess"] in (401, 403)
    assert found["two hosts"] == 400
    refused = [e for e in net.stage.events("egress.refused") if e["session"] == session.id]
    assert len(refused) >= 3
    assert all(e["background"] for e in refused)


def test_28_other_placeholders_are_refused_with_high_severity(net: Net) -> None:
    with net.stage.client.session("net") as one, net.stage.client.session("net") as two:
        foreign = one.run("act", {"code": "result = {'key': key}"})["key"]
        code = f"result = {{'foreign': post('/openai/chat/completions', CHAT, {foreign!r})[0], 'guess': post('/openai/chat/completions', CHAT, 'sk-bh-guess')[0], 'none': post('/openai/chat/completions', CHAT, '')[0]}}"
        found = two.run("act", {"code": code})
        assert set(found.values()) <= {401, 403}, found
        severe = [e for e in net.stage.events("egress.refused") if e.get("severity") == "high"]
        assert any(e["session"] == two.id for e in severe)
    with net.stage.client.session("net") as three:
        late = three.run(
            "act", {"code": f"result = {{'s': post('/openai/chat/completions', CHAT, {foreign!r})[0]}}"}
        )
        assert late["s"] in (401, 403)


def test_a_key_in_the_arguments_is_captured_for_its_session_alone(net: Net) -> None:
    code = "result = {'s': post('/openai/chat/completions', CHAT, key)[0]}"
    inline = "sk-inline-" + "v" * 24
    with net.stage.client.session("net") as one, net.stage.client.session("net") as two:
        assert one.run("act", {"code": code, "api_key": inline}) == {
            "s": 401
        }  # the caller's key, which is wrong
        assert two.run("act", {"code": code}) == {"s": 200}
    for path in net.stage.layout.audit.rglob("*.jsonl"):
        assert inline.encode() not in path.read_bytes()


def test_29_redirects_come_back_and_an_echoed_key_is_masked(net: Net) -> None:
    try:
        net.provider.behave(Behaviour(redirect_to="http://169.254.169.254/"))
        found = net.act("s, t = post('/openai/chat/completions', CHAT, key); result = {'s': s, 't': t}")
        assert 300 <= found["s"] < 400 or found["s"] in (403, 502), found["s"]
        for place in ("body", "header"):
            net.provider.behave(Behaviour(echo_key=place))  # type: ignore[arg-type]
            found = net.act("s, t = post('/openai/chat/completions', CHAT, key); result = {'s': s, 't': t}")
            assert net.provider.key not in found["t"]
    finally:
        net.provider.behave(Behaviour())


@pytest.mark.parametrize(
    "body",
    [
        {
            "model": "m",
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/x"}}],
                }
            ],
        },
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [{"type": "web_search"}]},
        {"model": "m", "input": "x", "previous_response_id": "resp_1"},
        {"model": "m", "input": "x", "tools": [{"type": "file_search", "vector_store_ids": ["v"]}]},
    ],
    ids=["remote-image", "web-search", "stored-response", "file-search"],
)
def test_45_a_provider_is_no_exit_and_no_shared_drawer(net: Net, body: dict[str, Any]) -> None:
    path = "/openai/responses" if "input" in body else "/openai/chat/completions"
    before = len(net.provider.log)
    found = net.act(f"s, t = post({path!r}, {body!r}, key); result = {{'s': s, 't': t}}")
    assert found["s"] == 403, found
    assert "bridgehold why" in found["t"]
    assert len(net.provider.log) == before


def test_60_a_field_that_no_shape_has_is_refused_with_its_remedy(net: Net) -> None:
    """By body, query and header, in either spelling of a key, and what is sent is what was decided on."""
    before = len(net.provider.log)
    found = net.act(
        "ask = lambda path, more, extra='': post(path, {**CHAT, **more}, key, extra)\n"
        "chat = '/openai/chat/completions'\n"
        "result = {name: list(answer) for name, answer in {\n"
        "  'new': ask(chat, {'frobnicate': {'url': 'https://evil.example'}}),\n"
        "  'nested': ask(chat, {'messages': [{'role': 'user', 'content': 'x', 'Webhook': 'https://evil.example'}]}),\n"
        "  'callback': ask(chat, {'webhook_url': 'https://evil.example'}),\n"
        "  'fallback': ask(chat, {'models': ['a', 'b:online']}),\n"
        "  'type': ask(chat, {'store': 'true'}),\n"
        "  'query': ask(chat + '?callback=x', {}),\n"
        "  'header': ask(chat, {}, 'OpenAI-Beta: assistants=v2\\r\\n'),\n"
        "}.items()}"
    )
    remedies = {
        "new": "frobnicate",
        "nested": "messages[].Webhook",
        "callback": "webhook_url",
        "fallback": "models",
        "type": "store=true",
        "query": "?callback",
        "header": "openai-beta=assistants=v2",
    }
    for name, remedy in remedies.items():
        status, text = found[name]
        assert status == 403, (name, text)
        assert f'`[network.endpoints.openai] fields = [\\"{remedy}\\"]` grants it' in text, text
        assert "bridgehold why" in text
    assert len(net.provider.log) == before
    body = {"model": "m", "input": "x"}
    assert net.act(f"result = {{'s': post('/openai/responses', {body!r}, key)[0]}}") == {"s": 200}
    assert b'"store":false' in net.provider.log[-1].body


@pytest.mark.parametrize("kind", KINDS)
def test_59_an_answer_that_is_left_is_paid_and_a_killed_host_forgets_none(kind: str) -> None:
    """Left within a stream; cut by the host's own death before there is a head; both count to the end."""
    asked = "{**CHAT, 'max_tokens': 1000, 'stream': True}"
    leave = (
        f"body = json.dumps({asked}).encode()\n"
        "s = socket.create_connection(('127.0.0.1', 8080), 30)\n"
        "s.sendall(b'POST /openai/chat/completions HTTP/1.1\\r\\nHost: 127.0.0.1:8080\\r\\n'"
        " b'Authorization: Bearer ' + key.encode() + b'\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(body) + body)\n"
        "answer = b''\n"
        "while not answer.endswith(b'}') and b'data:' not in answer: answer += s.recv(65536) or b'}'\n"
        "s.close()\n"
        "result = {'answer': answer.decode()}\n"
    )
    leave = "import json, socket\n" + leave

    def charged(net: Net) -> list[object]:
        return [event["charged"] for event in net.stage.events("egress.outcome")]

    with opened(kind, "provider_tokens_total = 2500") as net:
        net.provider.behave(Behaviour(chunk_ms=20_000))
        assert "HTTP/1.1 200" in net.act(leave)["answer"]
        until(lambda: charged(net))
        (intent,) = net.stage.events("egress.intent")
        assert charged(net) == [intent["reserved"]]
        assert 1_000 < int(str(intent["reserved"])) < 1_250
        net.provider.behave(Behaviour(latency_ms=60_000))
        with concurrent.futures.ThreadPoolExecutor() as pool:
            running = pool.submit(net.act, leave)
            until(lambda: len(net.provider.log) >= 2)
            net.kill()
            assert running.exception(60) is not None
        net.start()
        net.provider.behave(Behaviour(chunk_ms=20_000))
        assert "HTTP/1.1 200" in net.act(leave)["answer"], "two of a thousand leave room for one request more"
        refused = net.act(leave)["answer"]
        assert "429" in refused
        assert "rule rate.provider_tokens_total" in refused
        assert len(net.provider.log) == 3


def test_one_tenants_full_share_of_the_audit_stops_nobody_else() -> None:
    """Its guest makes refused requests past the share, while another is under way."""
    everybody = f'[principals.tester]\nuids = [{os.getuid()}]\ntenants = ["*"]\n'
    flood = (
        "import threading\n"
        "slow = threading.Thread(target=post, args=('/openai/chat/completions', {**CHAT}, key))\n"
        "slow.start()\n"
        "refused = 'GET http://evil.example/ HTTP/1.1\\r\\nHost: evil.example\\r\\n\\r\\n'\n"
        "result = {'statuses': sorted({raw(refused)[0] for _ in range(150)})}\n"
        "slow.join()\n"
    )
    with opened(
        KINDS[0],
        "audit_events_per_second = 1000",
        first=everybody,
        host='audit_tenant_quota = "32KiB"',
    ) as net:
        net.provider.behave(Behaviour(latency_ms=3_000))
        with net.stage.client.session("net") as session:
            assert session.run("act", {"code": flood}) == {"statuses": [403]}
            with pytest.raises(BridgeholdError, match="share of the audit") as caught:
                session.run("act", {"code": "1"})
            assert caught.value.code == "budget"
        with net.stage.session(net.stage.bridge(), tenant="modest") as session:
            assert session.run("act", {"code": "result['still'] = 1"}) == {"still": 1}
        assert net.process.poll() is None
        written = net.stage.events("egress.refused")
        assert 20 < len(written) < 150
        told = " ".join(str(event["folded"]) for event in net.stage.events("events.folded"))
        assert sum(int(number) for number in re.findall(r": (\d+)", told)) == 150 - len(written)
        (intent,), (outcome,) = net.stage.events("egress.intent"), net.stage.events("egress.outcome")
        assert outcome["intent"] == intent["ref"]


def test_43_pipelined_refusals_and_slow_heads_leave_another_session_working(net: Net) -> None:
    flood = (
        "import socket, time\n"
        "socks = []\n"
        "for _ in range(8):\n"
        "    s = socket.create_connection(('127.0.0.1', 8080)); s.settimeout(0.2); socks.append(s)\n"
        "request = b'GET http://example.com/ HTTP/1.1\\r\\nHost: example.com\\r\\n\\r\\n' * 50\n"
        "end = time.monotonic() + 4\n"
        "while time.monotonic() < end:\n"
        "    for s in socks:\n"
        "        try: s.sendall(request)\n"
        "        except OSError: pass\n"
        "for _ in range(20):\n"
        "    s = socket.create_connection(('127.0.0.1', 8080)); s.sendall(b'POST /openai'); socks.append(s)\n"
        "result = {'done': True}\n"
    )
    with net.stage.client.session("net") as hostile, net.stage.client.session("net") as honest:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            running = pool.submit(hostile.run, "act", {"code": flood})
            for _ in range(5):
                found = honest.run(
                    "act", {"code": "result = {'s': post('/openai/chat/completions', CHAT, key)[0]}"}
                )
                assert found == {"s": 200}
            assert running.result(60) == {"done": True}
        refused = [e for e in net.stage.events("egress.refused") if e["session"] == hostile.id]
        assert len(refused) < 1500
