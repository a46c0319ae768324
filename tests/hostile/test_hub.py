"""ABUSE 22–29 and 33 at a hub of models: from inside a real sandbox, through a real host, at a hostile hub."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold import SyncClient
from bridgehold.bridges.kit.hub import Hub, HubBehaviour
from bridgehold.keeper.admin import SecretAdmin
from hostile.served import running_hub
from hostile.stage import POLICY, Stage, make_home, ordinary_user, start_host, stop_host

pytestmark = pytest.mark.hostile

MANIFEST = """
name = "models"
version = "1.0.0"
summary = "A bridge that downloads"
entry = "models:Models"
[[needs.endpoints]]
provider = "hub"
[[needs.secrets]]
name = "hub"
provider = "hub"
[operations.act]
summary = "Run code"
effect = "run"
[operations.act.arguments]
required = ["code"]
[operations.act.arguments.properties]
code = { type = "string" }
"""

BRIDGE = '''
import hashlib, os, socket
from bridgehold_sdk import Bridge, operation
from bridgehold_sdk.hub import Hub

def raw(method, path, key, extra="", version="HTTP/1.1"):
    """(status, rule, body) of one request to the gateway, byte by byte as given."""
    head = (f"{method} {path} {version}\\r\\nHost: 127.0.0.1:8080\\r\\nAuthorization: Bearer {key}\\r\\n"
            f"Connection: close\\r\\n{extra}\\r\\n")
    with socket.create_connection(("127.0.0.1", 8080), 20) as s:
        s.sendall(head.encode())
        answer = b""
        while part := s.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\\r\\n\\r\\n")
    lines = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\\r\\n")[1:])
    return int(head.split(b" ")[1]), lines.get("x-bridgehold-rule", ""), body.decode("latin-1")

class Models(Bridge):
    @operation()
    def act(self, code):
        provider = self.provider("hub")
        names = {"result": {}, "raw": raw, "hub": Hub(provider), "key": provider.placeholder, "self": self,
                 "os": os, "hashlib": hashlib}
        exec(compile(code, "act", "exec"), names)
        return names["result"]
'''

FETCH = """
known = hub.describe("acme/tiny")
commit = hub.fetch("acme/tiny", "model.safetensors", "/scratch/m")
data = open("/scratch/m", "rb").read()
result = {"files": known["files"], "same": commit == known["commit"], "sha256": hashlib.sha256(data).hexdigest(),
          "left": os.listdir("/scratch"), "key": key}
"""

TRY = """
def tried(path, method="GET", extra=""):
    return list(raw(method, "/hub" + path, key, extra))[:2]
result = {path: tried(path, *more) for path, *more in PATHS}
"""

PATHS = [
    ("/acme/other/resolve/main/model.safetensors",),
    ("/umbra/secret/resolve/main/model.safetensors",),
    ("/acme/tiny/resolve/main/pytorch_model.bin",),
    ("/acme/tiny/resolve/main/modeling.py",),
    ("/acme/tiny/resolve/../../api/tokens",),
    ("/acme/tiny/resolve/main/..%2f..%2f..%2fapi%2ftokens.json",),
    ("/acme/tiny/resolve/main/%2e%2e/%2e%2e/config.json",),
    ("/acme%2ftiny/resolve/main/config.json",),
    ("//acme/tiny/resolve/main/config.json",),
    ("/acme/tiny/resolve/main/config.json%00.bin",),
    ("/api/whoami-v2",),
    ("/api/models/acme/tiny/settings",),
    ("/acme/tiny/resolve/main/model.safetensors", "POST", "Content-Length: 0\r\n"),
    ("/api/models/acme/tiny/commit/main", "POST", "Content-Length: 0\r\n"),
    ("/acme/tiny/resolve/main/config.json", "PUT", "Content-Length: 0\r\n"),
    ("/acme/tiny", "DELETE"),
]


class Models:
    """A host, a hub behind its gateway, and two tenants."""

    def __init__(self, stage: Stage, hub: Hub) -> None:
        self.stage = stage
        self.hub = hub

    def act(self, code: str, tenant: str = "local") -> dict[str, Any]:
        with self.stage.client.session("models", tenant=tenant) as session:
            value = session.run("act", {"code": code})
        assert isinstance(value, dict)
        return value

    def digest(self, file: str, repo: str = "acme/tiny") -> str:
        return hashlib.sha256((self.hub.folder / repo / file).read_bytes()).hexdigest()

    def kept(self, tenant: str = "local") -> set[str]:
        return {one.digest for one in self.stage.client.files(tenant=tenant)}


def write_repos(folder: Path) -> None:
    for number, repo in enumerate(("acme/tiny", "acme/other", "umbra/secret")):
        (folder / repo).mkdir(parents=True)
        (folder / repo / "config.json").write_text('{"model_type": "gpt2"}')
        (folder / repo / "model.safetensors").write_bytes(bytes([number]) * 3_000_000)
        (folder / repo / "pytorch_model.bin").write_bytes(b"\x80\x02cposix\nsystem\n")
        (folder / repo / "modeling.py").write_text("import os")


@pytest.fixture(scope="module", params=["user"] if os.getuid() == 0 else ["self"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    with contextlib.ExitStack() as stack:
        user, cgroup = stack.enter_context(ordinary_user()) if request.param == "user" else ("", "auto")
        owner = pwd.getpwnam(user).pw_uid if user else os.getuid()
        layout = make_home(owner)
        stack.callback(shutil.rmtree, layout.config.parent, ignore_errors=True)
        folder = tmp_path_factory.mktemp("repos")
        write_repos(folder)
        hub = stack.enter_context(running_hub(folder))
        layout.config_file.write_text(
            f'[host]\ncgroup = "{cgroup}"\n[providers.hub]\nshape = "hub"\nbase_url = "{hub.base_url}"\n'
            f'private = true\nhosts = ["{hub.files_host}"]\n'
        )
        bridge = layout.bridges / "models"
        bridge.mkdir()
        (bridge / "bridge.toml").write_text(MANIFEST)
        (bridge / "models.py").write_text(BRIDGE)
        granted = (
            '[tools]\nallow = ["artifact_*"]\n[network.endpoints.hub]\nrepos = ["acme/tiny"]\nfile_size = "4MiB"\n'
            '[secrets.hub]\n[sandbox]\nenforcement = "weakened"\n'
        )
        policy = 'weakenings = ["private_network"]\n' + POLICY.strip() + "\n" + granted
        (layout.policies / "models.toml").write_text(policy)
        layout.secrets.mkdir(parents=True, exist_ok=True)
        for place in (layout.state, layout.secrets):
            os.chown(place, owner, owner)
        layout.secrets.chmod(0o700)
        secrets = SecretAdmin.open_file(layout.secrets)
        secrets.set("local", "hub", hub.token.encode())
        secrets.set("umbra", "hub", b"hf_umbra_has_a_token_of_its_own")
        process = start_host(layout, user=user)
        stack.callback(stop_host, process)
        client = stack.enter_context(SyncClient.connect(layout.socket))
        yield Models(Stage(kind=request.param, layout=layout, client=client, supervisor=process.pid), hub)


@pytest.fixture(autouse=True)
def honest(models: Models) -> None:
    models.hub.behave(HubBehaviour())


def test_nothing_that_lies_or_leads_away_comes_in(models: Models) -> None:
    lies = {
        HubBehaviour(body="changed"): "hub.digest",
        HubBehaviour(body="endless"): "hub.size",
        HubBehaviour(body="short"): "hub.size",
        HubBehaviour(commit="0" * 40): "hub.commit",
        HubBehaviour(redirect_to="http://169.254.169.254/latest"): "keeper.redirect",
        HubBehaviour(redirect_to=f"http://127.0.0.1:{models.hub.port + 1}/x"): "keeper.redirect",
        HubBehaviour(redirect_to="http://localhost/x"): "keeper.redirect",
    }
    ask = "result = dict(zip(('status', 'rule', 'body'), raw('GET', '/hub/acme/tiny/resolve/main/model.safetensors', key)))"
    for behaviour, rule in lies.items():
        models.hub.behave(behaviour)
        found = models.act(ask)
        assert found["rule"] == rule, found
        assert len(found["body"]) < 2_000
        outcome = models.stage.events("egress.outcome")[-1]
        assert outcome["code"] == rule
        assert str(outcome["path"]).startswith("/acme/tiny/resolve/")
        assert models.kept() == set()
    assert all(one.at == "hub" or one.key == "none" for one in models.hub.log)


def test_a_model_comes_in_with_a_token_that_is_nowhere_inside(models: Models) -> None:
    inside = (
        FETCH
        + "result['inside'] = str(dict(os.environ)) + open('/proc/self/environ').read() + str(vars(self))\n"
    )
    found = models.act(inside)
    assert found["sha256"] == models.digest("model.safetensors")
    assert found["files"] == {"config.json": 22, "model.safetensors": 3_000_000}
    assert (found["same"], found["left"]) == (True, ["m"])
    assert models.hub.token not in str(found)
    for path in models.stage.layout.audit.rglob("*.jsonl"):
        assert models.hub.token.encode() not in path.read_bytes()
        assert str(found["key"]).encode() not in path.read_bytes()
    assert {one.key for one in models.hub.log if one.at == "files"} == {"none"}
    assert models.kept() == {f"sha256:{found['sha256']}"}
    outcome = models.stage.events("egress.outcome")[-1]
    assert (outcome["digest"], outcome["response_bytes"]) == (f"sha256:{found['sha256']}", 3_000_000)
    asked = len(models.hub.log)
    models.hub.behave(HubBehaviour(status=503))
    assert models.act(FETCH)["sha256"] == found["sha256"]  # another session; there is no hub now
    assert len(models.hub.log) == asked


def test_nothing_else_can_be_asked(models: Models) -> None:
    asked = len(models.hub.log)
    found = models.act(f"PATHS = {PATHS!r}\n" + TRY)
    assert {path: status for path, (status, _) in found.items() if status != 403} == {}
    assert len(models.hub.log) == asked
    refused = [event["rule"] for event in models.stage.events("egress.refused")][-len(PATHS) :]
    assert set(refused) <= {"default-deny", "names.path", "hub.kind", "hub.path", "hub.method"}
    tunnel = f"result['tunnel'] = raw('CONNECT', '127.0.0.1:{models.hub.port}', key)[:2]"
    assert models.act(tunnel)["tunnel"][0] in (400, 403)
    assert len(models.hub.log) == asked


def test_another_tenant_gets_neither_the_bytes_nor_the_key(models: Models) -> None:
    models.act(FETCH)
    digest = f"sha256:{models.digest('model.safetensors')}"
    assert digest in models.kept()
    code = (
        f"try:\n    result['bytes'] = len(self.artifacts.get({digest!r}))\n"
        "except Exception as error:\n    result['error'] = str(error)\n"
        "result['asked'] = raw('GET', '/hub/acme/tiny/resolve/main/model.safetensors', key)[:2]\n"
        "result['listed'] = self.artifacts.list()"
    )
    found = models.act(code, tenant="umbra")
    assert "no artifact" in found["error"]
    assert found["listed"] == []
    assert found["asked"] == [403, "hub.denied"]  # their own token, which the hub does not know
    assert models.hub.log[-1].key == "wrong"
    assert models.kept("umbra") == set()
