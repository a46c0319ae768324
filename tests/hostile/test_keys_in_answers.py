"""ABUSE 61 and 19: a key in every plain spelling, in what a provider answers and in what the host writes down."""

from __future__ import annotations

import gzip
import http.server
import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bridgehold import BridgeholdError
from bridgehold.audit.encodings import Encodings
from bridgehold.config.load import load_config
from bridgehold.keeper.admin import SecretAdmin
from hostile.stage import POLICY, Stage, stage
from spelt import spellings
from waiting import until

pytestmark = pytest.mark.hostile

KINDS = [("root", "fork"), ("user", "cold")] if os.getuid() == 0 else [("self", "fork"), ("self", "cold")]
KEY = "sk-proj-aB3/dE5+gH7%41jK9_mN1pQ2rS4tU6"
SPELT = Encodings(KEY.encode())
MANIFEST = """
name = "leaky"
version = "1.0.0"
summary = "A bridge that knows what it shouldn't"
entry = "leaky:Leaky"
[[needs.endpoints]]
provider = "echo"
methods = ["POST"]
paths = ["/chat/completions"]
[[needs.secrets]]
name = "echo"
provider = "echo"
[operations.act]
summary = "Run code"
effect = "run"
[operations.act.arguments]
required = ["code"]
[operations.act.arguments.properties]
code = { type = "string" }
told = {}
"""
BRIDGE = """
import http.client, json
from bridgehold_sdk import Bridge, ToolError, operation

class Leaky(Bridge):
    def post(self, body, path="/chat/completions", method="POST"):
        place = self.provider("echo")
        host, _, base = place.base_url.removeprefix("http://").partition("/")
        connection = http.client.HTTPConnection(host, timeout=20)
        data = json.dumps(body)
        headers = {"Authorization": "Bearer " + place.placeholder, "Content-Type": "application/json"}
        connection.request(method, "/" + base + path, data, headers)
        answer = connection.getresponse()
        try:
            text = answer.read()
        except http.client.HTTPException as error:
            text = b"broken off"
        return answer.status, str(answer.headers) + text.decode("latin-1")

    @operation()
    def act(self, code, told=None):
        names = {"self": self, "told": told, "result": {}, "ToolError": ToolError}
        exec(compile(code, "act", "exec"), names)
        return names["result"]
"""
SAY = (
    "def say(text, how='body'):\n"
    "    return self.post({'model': 'm', 'messages': [{'role': 'user', 'content': how + '|' + text}]})\n"
)


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with its caller's key, as it is asked to; the spelling travels under its name."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        how, _, name = asked["messages"][0]["content"].partition("|")
        key = self.headers["authorization"].removeprefix("Bearer ")
        said = json.dumps({"said": "@", "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
        said = said.replace("@", spellings(key)[name].replace("\n", "\\n").replace("\0", "\\u0000"))
        plain = said.encode()
        self.close_connection = True
        self.send_response(401 if how == "error" else 200)
        self.send_header("connection", "close")  # unsaid, the next request would meet the end of this one
        if how == "header":
            self.send_header("x-said", key)
        for coding in CODINGS.get(how, ()):
            self.send_header(*coding)
        if how in CODINGS:
            plain = gzip.compress(plain) if "gzip" in str(CODINGS[how]) else said.encode("utf-16")
        if how == "split":
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for at in range(0, len(plain), 17):
                piece = plain[at : at + 17]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
            return
        self.send_header("content-length", str(len(plain)))
        self.end_headers()
        self.wfile.write(plain)


CODINGS = {
    "coded": [("content-encoding", "gzip")],
    "coded twice": [("content-encoding", "identity"), ("content-encoding", "gzip")],
    "coded in a list": [("content-encoding", "identity, gzip")],
    "coded on the way": [("transfer-encoding", "gzip")],
    "of another character set": [("content-type", "application/json; charset=utf-16")],
    "of another, quoted": [("content-type", 'application/json; charset="UTF-7"')],
}


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def leaky(request: pytest.FixtureRequest) -> Iterator[Stage]:
    kind, start = request.param
    echo = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=echo.serve_forever, daemon=True).start()
    config = f'[providers.echo]\nbase_url = "http://127.0.0.1:{echo.server_port}"\nprivate = true\nshape = "openai"\n'
    with stage(kind, start, config) as ready:
        folder = ready.layout.bridges / "leaky"
        folder.mkdir()
        folder.chmod(0o755)
        (folder / "bridge.toml").write_text(MANIFEST)
        (folder / "leaky.py").write_text(BRIDGE)
        (ready.layout.policies / "leaky.toml").write_text(
            'weakenings = ["private_network"]\n'
            + POLICY
            + '[tools]\nallow = ["*"]\n[network.endpoints.echo]\nmethods = ["POST"]\npaths = ["/chat/completions"]\n'
            '[secrets.echo]\nhow = "gateway"\nprovider = "echo"\n'
            f'[sandbox]\nstart = "{start}"\nenforcement = "weakened"\n'
        )
        SecretAdmin.for_layout(ready.layout, load_config(ready.layout.config_file)).set(
            "local", "echo", KEY.encode()
        )
        yield ready
    echo.shutdown()


def shows(text: str) -> list[str]:
    """In which spellings `text` holds the key: by looking for each, and by undoing none."""
    return [
        name
        for name, written in spellings(KEY).items()
        if written in text or json.dumps(written)[1:-1] in text
    ]


def test_no_spelling_of_the_key_comes_back_in_an_answer(leaky: Stage) -> None:
    asked = [[name, "split"] for name in spellings(KEY)]
    asked += [["as it is", how] for how in ("body", "error", "header")]
    code = SAY + "result['said'] = [[f'{name}, {how}', *say(name, how)] for name, how in told]"
    said: list[Any] = []
    with leaky.client.session("leaky") as session:
        for at in range(0, len(asked), 5):
            said += session.run("act", {"code": code, "told": asked[at : at + 5]})["said"]
    assert len(said) == 3 + len(spellings(KEY))
    for how, status, text in said:
        assert status in (200, 401), (how, text)
        assert "***" in text, how
        assert shows(text) == [], how
        assert SPELT.find(text.encode("latin-1"))[0] == [], how


def test_what_a_coding_hides_does_not_pass(leaky: Stage) -> None:
    code = SAY + "result['said'] = {how: say('as it is', how) for how in told}"
    with leaky.client.session("leaky") as session:
        said: Any = session.run("act", {"code": code, "told": list(CODINGS)})
    for how, (status, text) in said["said"].items():
        assert status in (502, 503), (how, text)
        assert "can't be scrubbed" in text or "broke off" in text, how
        assert shows(text) == [], how


def test_no_spelling_of_the_key_is_written_down(leaky: Stage) -> None:
    """Arguments, reasons, paths, models, tools, logs: whoever brings the key, the host has none to compare with."""
    everything = spellings(KEY)
    inside = (
        "from urllib.parse import quote\n"
        "for name, text in told:\n"
        "    print('log', name, text)\n"
        "    self.post({'model': text, 'messages': [{'role': 'user', 'content': 'body|as it is'}]})\n"
        "    self.post({}, '/files/' + quote(text))\n"
        "    for tool in self.tools.values():\n"
        "        try: tool.call(tool.name, {'text': text})\n"
        "        except ToolError: pass\n"
        "        try: tool.call(tool.name, {'text': text, text[:90]: 1})\n"
        "        except ToolError: pass\n"
        "        try: tool.call(text[:190], {})\n"
        "        except ToolError: pass\n"
    )

    def note(text: str) -> int:
        """Takes a text."""
        return len(text)

    with leaky.client.session("leaky", tools=[note]) as session:
        written = [[name, text] for name, text in everything.items()]
        for at in range(0, len(written), 2):  # a preview shows 2,000 bytes
            session.run("act", {"code": inside, "told": written[at : at + 2]})
        for text in everything.values():
            for arguments in ({"code": "raise ValueError(told)", "told": "x" * 450 + text},
                              {"code": "raise ValueError(told)", "told": text},
                              {"code": "", text[:70]: 1}):  # fmt: skip
                with pytest.raises(BridgeholdError):
                    session.run("act", arguments)
        log = leaky.client.request("logs", {"session": session.id})["text"]
    assert log.count("log ") >= len(everything)
    assert shows(log) == []
    assert SPELT.find(log.encode(), cut=True)[0] == []
    files = [path for path in leaky.layout.audit.rglob("*") if path.is_file()]
    assert files
    for path in files:
        for line in path.read_text(errors="replace").splitlines():
            assert shows(line) == [], line[:3_000]
            assert SPELT.find(line.encode())[0] == [], line[:3_000]
    events = leaky.events()
    for kind, field in (
        ("command.intent", "arguments_preview"),
        ("command.refused", "reason"),
        ("command.outcome", "reason"),
        ("egress.refused", "path"),
        ("tool.intent", "arguments_preview"),
        ("tool.refused", "tool"),
    ):
        assert any("[redacted" in str(event[field]) for event in events if event["kind"] == kind), kind


def test_a_key_that_is_set_is_looked_for_from_then_on(leaky: Stage) -> None:
    newer = "an-entirely-other-Key-0123456789"
    admin = SecretAdmin.for_layout(leaky.layout, load_config(leaky.layout.config_file))
    with leaky.client.session("leaky") as session:
        session.run("act", {"code": "", "told": "before"})
        admin.set("local", "other", newer.encode())

        def shown() -> str:
            session.run("act", {"code": "", "told": f"see {newer}"})
            return str(leaky.events("command.intent")[-1]["arguments_preview"])

        until(lambda: shown() == '{"code":"","told":"see [redacted]"}', 60)
