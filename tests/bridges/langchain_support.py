"""Real LangChain in a sandbox without a network, with the test kit's answers on its loopback."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bridgehold
from bridgehold.bridges.catalogue import Catalogue
from bridgehold.bridges.frames import ProviderBinding, ReadyFrame
from bridges.inference_support import check_inference

MANIFEST = Catalogue.load().get("langchain")
KIT = Path(bridgehold.__file__).parent / "bridges" / "kit"
ROOT = "http://127.0.0.1:8080"
PROVIDERS = {
    "openai": ProviderBinding(base_url=f"{ROOT}/openai", placeholder="sk-bh-openai"),
    "anthropic": ProviderBinding(
        base_url=f"{ROOT}/anthropic", placeholder="sk-bh-anthropic", shape="anthropic"
    ),
    "gemini": ProviderBinding(base_url=f"{ROOT}/gemini", placeholder="sk-bh-gemini", shape="gemini"),
}

# Plays the gateway and the provider behind it, inside the same network namespace.
PROBE = """
import json, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
sys.path.append("/tmp/kit")
from bridgehold.bridges.kit import answers, replies, tool_calls
from bridgehold_sdk import operation
from langchain_bridge import LangChainBridge

SEEN, SCRIPT = [], []
LOCK, BUSY = threading.Lock(), [0, 0]

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        names = ("authorization", "x-api-key", "x-goog-api-key")
        keys = [self.headers[name] for name in names if self.headers[name]]
        with LOCK:
            SEEN.append({"path": self.path, "keys": keys, "body": body, "headers": dict(self.headers.items())})
            BUSY[0] += 1
            BUSY[1] = max(BUSY)
        try:
            self.answer(body)
        finally:
            with LOCK:
                BUSY[0] -= 1

    def answer(self, body):
        model = body.get("model", "")
        if not self.path.endswith("/chat/completions"):
            return self.give(404, "application/json", b'{"error": {"message": "another shape"}}')
        if model == "slow":
            time.sleep(30)
        if model == "pause":
            time.sleep(0.3)
        said = json.dumps(body.get("messages", ""))
        if model == "denied" or "FORBIDDEN" in said:
            error = {"message": "Bridgehold refused this request: not granted (rule endpoints[0]).",
                     "bridgehold": {"rule": "endpoints[0]", "event": "i-1.2"}}
            return self.give(403, "application/json", json.dumps({"error": error}).encode())
        calls = () if SCRIPT else tool_calls.tool_calls(body)
        if SCRIPT:
            text = SCRIPT.pop(0)
        else:
            text = "" if calls else answers.answer(body.get("messages", []), body.get("response_format"))
        tokens = sum(answers.tokens_of(answers.text_of(m.get("content"))) for m in body.get("messages", []))
        if body.get("stream"):
            usage = (body.get("stream_options") or {}).get("include_usage") is True
            events = replies.chat_events(model, text, tokens, usage=usage, calls=calls)
            return self.give(200, "text/event-stream", b"".join(events))
        document = replies.chat(model, text, tokens, calls=calls)
        self.give(200, "application/json", json.dumps(document).encode())

    def give(self, status, kind, data):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

class Probe(LangChainBridge):
    def open(self, session):
        super().open(session)
        server = ThreadingHTTPServer(("127.0.0.1", 8080), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    @operation(effect="read")
    def seen(self):
        return {"requests": SEEN, "busiest": BUSY[1]}
    @operation(effect="configure")
    def script(self, texts):
        SCRIPT[:] = texts
    @operation(effect="configure")
    def anew(self):
        super().close()
        super().open(None)
        del SEEN[:], SCRIPT[:]
        BUSY[:] = 0, 0
"""


def begin(launch: Any, site_packages: Path, bridge_folder: Callable[[str], Path]) -> Any:
    """The bridge, open, with the probe's provider on its loopback."""
    folder = bridge_folder(PROBE)
    for file in MANIFEST.folder.glob("*.py"):
        shutil.copy(file, folder)
    binds = {"/tmp/kit/bridgehold/bridges/kit": KIT}
    guest = launch(folder, site_packages=site_packages, binds=binds)
    ready = guest.boot(
        bridge="langchain",
        version=MANIFEST.version,
        entry="sample:Probe",
        preload=MANIFEST.preload,
        providers=PROVIDERS,
    )
    assert isinstance(ready, ReadyFrame), ready
    assert set(ready.operations) == {*MANIFEST.operations, "seen", "script", "anew"}
    guest.open()
    return guest


def kept(launch_once: Any, site_packages: Path, temporary: pytest.TempPathFactory) -> Any:
    """The same for several tests, each of which begins with `anew`: what it imports takes its seconds once."""

    def write(source: str) -> Path:
        folder = temporary.mktemp("langchain")
        (folder / "sample.py").write_text(source)
        return folder

    return begin(launch_once, site_packages, write)


def anew(guest: Any) -> Any:
    """`guest` as it is when it has just been opened."""
    guest.drain()
    guest.seen.clear()
    guest.value("langchain:anew")
    return guest


def run(guest: Any, name: str, /, **args: Any) -> Any:
    """The value of an operation whose arguments the manifest accepts."""
    MANIFEST.check_arguments(name, args)
    return guest.value(f"langchain:{name}", args)


def refused(guest: Any, name: str, /, **args: Any) -> Any:
    """The fault of an operation whose arguments the manifest accepts."""
    MANIFEST.check_arguments(name, args)
    return guest.fault(f"langchain:{name}", args)


def seen(guest: Any) -> list[dict[str, Any]]:
    """What reached the provider: path, keys and body of each request, which the gateway lets through."""
    requests: list[dict[str, Any]] = guest.value("langchain:seen")["requests"]
    check_inference(requests)
    return requests
