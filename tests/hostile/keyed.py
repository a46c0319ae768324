"""A host on which every key of a policy can be seen at work, and the bridge that each case is tried with."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import pwd
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold import BridgeholdError, SyncClient
from bridgehold.bridges.kit.hub import Hub
from bridgehold.bridges.kit.provider import Provider
from bridgehold.client.sync import SyncSession
from bridgehold.keeper.admin import SecretAdmin
from envs.envs_kit import make_index, make_wheel
from hostile.served import running_hub, running_provider
from hostile.stage import Stage, make_home, ordinary_user, start_host, stop_host
from waiting import until

DEVICE = "/dev/nvidia239"
ENV_SECRET = "hf_token_for_the_inside"

MANIFEST = """
name = "{name}"
version = "1.0.0"
summary = "Whatever a key is about"
entry = "keyed:Keyed"
[[needs.endpoints]]
provider = "openai"
methods = ["POST", "GET"]
remote_content = true
[[needs.endpoints]]
provider = "hub"
[[needs.connects]]
host = "127.0.0.1"
port = {port}
private = true
[[needs.secrets]]
name = "openai"
provider = "openai"
[[needs.secrets]]
name = "hub"
provider = "hub"
[[needs.secrets]]
name = "another"
provider = "openai"
[[needs.secrets]]
name = "token"
how = "env"
variable = "HUB_TOKEN"
[resources.thing]
recovery = "replay"
[resources.part]
[operations.act]
summary = "Run code"
effect = "run"
arguments = {{ required = ["code"], properties = {{ code = {{ type = "string" }}, api_key = {{ type = "string" }}, more = {{ type = "string" }} }} }}
[operations.count]
summary = "Count in a stream"
effect = "run"
stream = true
arguments = {{ required = ["to"], properties = {{ to = {{ type = "integer" }} }} }}
[operations.make]
summary = "Make a thing"
effect = "create"
resource = "thing"
id_field = "id"
arguments = {{ properties = {{ id = {{ type = "string" }}, inside = {{ type = "object" }} }} }}
[operations.use]
summary = "Use a thing"
effect = "run"
resource = "thing"
id_field = "thing_id"
arguments = {{ required = ["thing_id"], properties = {{ thing_id = {{ type = "string" }} }} }}
[operations.drop]
summary = "Drop a thing"
effect = "delete"
resource = "thing"
id_field = "thing_id"
arguments = {{ required = ["thing_id"], properties = {{ thing_id = {{ type = "string" }} }} }}
[operations.fit]
summary = "Make a part"
effect = "create"
resource = "part"
id_field = "id"
arguments = {{ properties = {{ id = {{ type = "string" }}, thing_id = {{ type = "string" }}, of = {{ type = "object" }} }} }}
"""

BRIDGE = '''
import time
{at_import}
from bridgehold_sdk import Bridge, ToolError, operation

def ask(path, method="POST", body=b"", headers=(), host="127.0.0.1:8080"):
    """(status, rule, body) of one request to the gateway."""
    import socket
    head = [f"{{method}} {{path}} HTTP/1.1", f"Host: {{host}}", "Connection: close",
            f"Content-Length: {{len(body)}}", *headers]
    with socket.create_connection(("127.0.0.1", 8080), 20) as s:
        s.sendall("\\r\\n".join([*head, "", ""]).encode() + body)
        answer = b""
        while part := s.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\\r\\n\\r\\n")
    lines = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\\r\\n")[1:])
    return int(head.split(b" ")[1]), lines.get("x-bridgehold-rule", ""), body.decode("latin-1")

def chat(key, path="/openai/chat/completions", **more):
    """One request for a completion."""
    import json
    message = more.pop("message", "hello")
    body = json.dumps({{"model": "m", "messages": [{{"role": "user", "content": message}}], **more}}).encode()
    headers = [f"Authorization: Bearer {{key}}", "Content-Type: application/json"]
    return ask(path, body=body, headers=headers)[:2]

class Keyed(Bridge):
    def open(self, session):
        self.things = {{}}

    def close(self):
        time.sleep({close_seconds})

    @operation()
    def act(self, code, api_key="", more=""):
        names = {{"result": {{}}, "self": self, "ask": ask, "chat": chat, "tools": self.tools, "ToolError": ToolError,
                 "api_key": api_key, "keys": {{name: self.provider(name).placeholder for name in self.providers}}}}
        exec(compile(code, "act", "exec"), names)
        return names["result"]

    @operation(stream=True)
    def count(self, to):
        for number in range(to):
            yield number
        return to

    @operation(effect="create", resource="thing", id_field="id")
    def make(self, id="one", inside=None):
        self.things[id] = 1
        return {{"thing_id": id}}

    @operation(resource="thing", id_field="thing_id")
    def use(self, thing_id):
        return self.things[thing_id]

    @operation(effect="delete", resource="thing", id_field="thing_id")
    def drop(self, thing_id):
        del self.things[thing_id]

    @operation(effect="create", resource="part", id_field="id")
    def fit(self, id="one", thing_id="", of=None):
        return {{"part_id": id}}
'''

BASE: dict[str, Any] = {
    "weakenings": ["private_network", "connect", "env_secret", "devices", "inline_keys_pass"],
    "extends": "baseline",
    "limits.startup": "20s",
    "limits.memory": "256MiB",
    "network.endpoints.openai.methods": ["POST", "GET"],
    "network.endpoints.openai.paths": ["/chat/completions"],
    "secrets.openai": {},
    "operations.allow": ["*"],
    "tools.allow": ["*"],
}
"""What a case has unless it says something else; None takes a key away."""


def toml(value: Any) -> str:
    """`value` in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {toml(item)}' for name, item in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(toml(item) for item in value)}]"
    return f"'{value}'" if isinstance(value, str) else str(value)


class Keyed:
    """The host, the servers behind its gateway, and bridges with policies made for one case."""

    def __init__(self, stage: Stage, start: str, provider: Provider, hub: Hub, port: int, data: Path) -> None:
        self.stage = stage
        self.start = start
        self.provider = provider
        self.hub = hub
        self.port = port
        self.data = data
        self.client = stage.client

    def bridge(
        self, changes: dict[str, Any] | None = None, *, at_import: str = "", close_seconds: float = 0
    ) -> str:
        """A new bridge under `BASE` with `changes`."""
        self.stage.made += 1
        name = f"keyed{self.stage.made}"
        folder = self.stage.layout.bridges / name
        folder.mkdir()
        folder.chmod(0o755)
        (folder / "bridge.toml").write_text(MANIFEST.format(name=name, port=self.port))
        (folder / "keyed.py").write_text(BRIDGE.format(at_import=at_import, close_seconds=close_seconds))
        self.policy(name, changes)
        return name

    def policy(self, name: str, changes: dict[str, Any] | None = None) -> None:
        said = {**BASE, "sandbox.start": self.start, **(changes or {})}
        lines = [f"{key} = {toml(value)}" for key, value in said.items() if value is not None]
        (self.stage.layout.policies / f"{name}.toml").write_text("\n".join(lines) + "\n")

    @contextlib.contextmanager
    def session(self, changes: dict[str, Any] | None = None, **more: Any) -> Iterator[SyncSession]:
        with self.client.session(self.bridge(changes, **more)) as session:
            yield session

    def act(self, code: str, changes: dict[str, Any] | None = None, **arguments: str) -> dict[str, Any]:
        """What `code` leaves in `result`, in a session of its own."""
        with self.session(changes) as session:
            found = session.run("act", {"code": code, **arguments})
        assert isinstance(found, dict)
        return found

    def fails(self, changes: dict[str, Any], code: str = "pass", **arguments: str) -> str:
        """The code of the error that a session with this policy, or `code` in it, ends with."""
        with pytest.raises(BridgeholdError) as caught:
            self.act(code, changes, **arguments)
        return caught.value.code

    def grant(self, changes: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.client.request("grant", {"bridge": self.bridge(changes)})
        return found

    def secret(self, tenant: str) -> None:
        """`tenant` gets the provider's key."""
        owner = self.stage.layout.secrets.stat()
        SecretAdmin.open_file(self.stage.layout.secrets).set(tenant, "openai", self.provider.key.encode())
        for path in self.stage.layout.secrets.iterdir():
            os.chown(path, owner.st_uid, owner.st_gid)

    def closed(self, session: str) -> str:
        """Why the session was closed, once it is."""
        closed = until(
            lambda: [one for one in self.stage.events("session.closed") if one["session"] == session]
        )
        return str(closed[0]["reason"])


class _Plain(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"plain")


@contextlib.contextmanager
def keyed_host(kind: str, start: str, *, keys: bool = True) -> Iterator[Keyed]:
    """A host of root's, or of an ordinary user, whose sessions start `start`. `keys`: its tenant has some."""
    with contextlib.ExitStack() as stack:
        user, cgroup = stack.enter_context(ordinary_user()) if kind == "user" else ("", "auto")
        owner = pwd.getpwnam(user).pw_uid if user else os.getuid()
        layout = make_home(owner)
        stack.callback(shutil.rmtree, layout.config.parent, ignore_errors=True)
        data = Path(tempfile.mkdtemp(prefix="bh-keyed-"))
        stack.callback(shutil.rmtree, data, ignore_errors=True)
        data.chmod(0o755)
        (data / "given").mkdir(mode=0o755)
        (data / "given/word").write_text("read")
        for repo in ("acme/tiny", "acme/other"):
            (data / "repos" / repo).mkdir(parents=True)
            (data / "repos" / repo / "config.json").write_text("{}")
            (data / "repos" / repo / "words.txt").write_text("w" * 3_000)
        (data / "wheels").mkdir(mode=0o755)
        wheel = make_wheel(
            data / "wheels", files={"demo_pkg/__init__.py": "", "demo.pth": "import demo_pkg\n"}
        )
        provider = stack.enter_context(running_provider())
        hub = stack.enter_context(running_hub(data / "repos"))
        plain = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Plain)
        threading.Thread(target=plain.serve_forever, daemon=True).start()
        stack.callback(plain.shutdown)
        if os.getuid() == 0 and not Path(DEVICE).exists():
            os.mknod(DEVICE, stat.S_IFCHR | 0o666, os.makedev(1, 5))
            stack.callback(os.unlink, DEVICE)
            Path(DEVICE).chmod(0o666)
        layout.config_file.write_text(
            f'[host]\ncgroup = "{cgroup}"\nread_roots = ["{data}/given"]\ndevices = ["{DEVICE}"]\n'
            f'index = "{make_index(data, [wheel])}"\n'
            '[zygotes]\nmemory = "256MiB"\n'
            f'[providers.openai]\nbase_url = "{provider.base_url}"\nprivate = true\n'
            f'[providers.hub]\nshape = "hub"\nbase_url = "{hub.base_url}"\nprivate = true\n'
            f'hosts = ["{hub.files_host}"]\n'
        )
        layout.secrets.mkdir(parents=True, exist_ok=True)
        for folder in (layout.state, layout.secrets):
            os.chown(folder, owner, owner)
        layout.secrets.chmod(0o700)
        if keys:
            secrets = SecretAdmin.open_file(layout.secrets)
            secrets.set("local", "openai", provider.key.encode())
            secrets.set("local", "another", provider.key.encode(), provider="openai")
            secrets.set("local", "hub", hub.token.encode())
            secrets.set("local", "token", ENV_SECRET.encode(), allow_env=True)
        process = start_host(layout, user=user)
        stack.callback(stop_host, process)
        client = stack.enter_context(SyncClient.connect(layout.socket))
        stage = Stage(kind=kind, layout=layout, client=client, supervisor=process.pid, start=start)
        yield Keyed(stage, start, provider, hub, plain.server_port, data)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


Case = Callable[[Keyed], None]
