"""Row 56: whoever asks for another tenant's by any face is refused, audited, and pays for it itself."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold import BridgeholdError, SyncClient
from bridgehold.host.front import stash
from hostile.stage import Stage, stage
from http_face.http_support import url_of
from waiting import until

ROOT = Path(__file__).parents[2]
TOKENS, UID = {"socket": "by-the-socket", "web": "by-http", "flood": "by-the-hundred"}, 65532
FIRST = f"""
[principals.plug]
uids = [{UID}]
tenants = ["acme"]
[principals.tester]
uids = [{os.getuid()}]
tenants = ["*"]
operator = true
[http]
listen = "127.0.0.1:0"
""" + "".join(
    f'[principals.{name}]\ntokens = ["sha256:{hashlib.sha256(token.encode()).hexdigest()}"]\ntenants = ["acme"]\n'
    for name, token in TOKENS.items()
)
FOREIGN = "sha256:" + "0" * 64
NOBODYS = {"hello", "ping", "cancel", "bridges", "sessions", "zygotes"} | set(stash.METHODS)
"""Methods that name no tenant's thing, or only filter what the caller may see."""


@pytest.fixture(scope="module")
def probed() -> Iterator[Stage]:
    with stage("root" if os.getuid() == 0 else "self", "cold", first=FIRST) as ready:
        yield ready


def probes(bridge: str, session: str) -> dict[str, dict[str, Any]]:
    """By method: what asks for `local`'s."""
    where: dict[str, Any] = {"tenant": "local", "bridge": bridge}
    of_session = {"session": session}
    return {
        "run": {"operation": f"{bridge}:act", "tenant": "local", "session": session},
        "tool.reply": {"command": "c-0123456789abcdef", "call": 1, "result": 1},
        "session.open": where,
        "session.hold": where,
        "foreign.open": {**where, "kind": "code", "text": "print(1)"},
        "foreign.send": {**of_session, "data": ""},
        "foreign.wire": {**of_session, "conn": 1, "data": "", "end": False},
        "foreign.eof": of_session,
        "session.extend": {**of_session, "limits": {"idle": "1m"}},
        "session.close": of_session,
        "session.kill": of_session,
        "session.profile": of_session,
        "session.find": of_session,
        "logs": of_session,
        "describe": where,
        "resource.create": {**where, "kind": "box"},
        "resource.configure": {**where, "kind": "box"},
        "resource.execute": {**where, "id": "box"},
        "resource.delete": {**where, "id": "box"},
        "resource.list": where,
        "artifact.put": {"tenant": "local", "data": ""},
        "artifact.drop": {"tenant": "local", "upload": "up"},
        "artifact.get": {"tenant": "local", "digest": FOREIGN},
        "artifact.list": {"tenant": "local"},
        "artifact.remove": {"tenant": "local", "digest": FOREIGN},
        "grant": where,
        "drain": {"tenant": "local"},
        "resume": {"tenant": "local"},
        "metrics": {},
        "figures": {},
        "bridge.build": {"bridge": bridge},
        "bridge.verify": {"bridge": bridge},
        "bridge.scan": {"bridge": bridge},
        "bridge.gc": {},
        "bridge.submit": {"tenant": "local", "archive": FOREIGN},
        "bridge.submissions": {"tenant": "local"},
        "bridge.submission": {"submission": "sub-0123456789abcdef"},
        "bridge.approve": {"submission": "sub-0123456789abcdef", "seen": FOREIGN},
        "bridge.reject": {"submission": "sub-0123456789abcdef"},
        "bridge.rollback": where,
        "policy.review": {"policy": bridge},
        "audit.query": {"before": "i-0123456789ab.1"},
        "attack.told": {"phase": "begins", "bridge": bridge, "tenant": "local", "grant": "x", "counts": {}},
        "policy.approve": {"policy": bridge, "seen": FOREIGN, "at": "x", "signature": "x"},
        "proposal.make": {"event": "i-0123456789ab.1"},
        "proposal.list": {"tenant": "local"},
        "proposal.show": {"proposal": "p-0123456789ab"},
        "proposal.approve": {
            "proposal": "p-0123456789ab",
            "seen": FOREIGN,
            "approved": "x",
            "expires": "x",
            "signature": "x",
        },
        "proposal.reject": {"proposal": "p-0123456789ab"},
        "tenant.create": {"name": "local", "limits": {}},
        "tenant.limit": {"name": "local", "limits": {}},
        "tenant.list": {},
        "tenant.remove": {"name": "local"},
        "tenant.resume": {"name": "local"},
        "tenant.revoke": {"name": "local"},
        "tenant.show": {"name": "local"},
        "tenant.suspend": {"name": "local"},
        "token.create": {"name": "mine", "tenants": ["local"]},
        "token.list": {},
        "token.revoke": {"name": "local"},
        "token.rotate": {"name": "local"},
        "reload": {},
        "stop": {},
    }


def refusals(stage: Stage) -> list[dict[str, object]]:
    return [event for event in stage.events() if str(event["kind"]).endswith(".refused")]


def test_every_method_of_the_socket_writes_a_probe_and_charges_who_asked(probed: Stage) -> None:
    documented = re.findall(
        r"^\| `([a-z.]+)` \|", (ROOT / "docs/reference/host-protocol.md").read_text(), re.MULTILINE
    )
    with (
        probed.session() as mine,
        SyncClient.connect(probed.layout.socket, token=TOKENS["socket"]) as one,
        SyncClient.connect(probed.layout.socket, token=TOKENS["web"]) as other,
    ):
        asked = probes(probed.plain, mine.id)
        assert set(documented) == set(asked) | NOBODYS, "each method needs its probe"
        for number, (method, params) in enumerate(asked.items()):
            acme = (one, other)[number % 2]  # what is past one's bucket is counted, and not written
            before = len(refusals(probed))
            with pytest.raises(BridgeholdError) as caught:
                acme.request(method, params)
            assert caught.value.code in ("denied", "not_found"), method
            (event,) = refusals(probed)[before:]
            assert caught.value.event == (event["ref"] if caught.value.code == "denied" else ""), method
            assert event["tenant"] == "acme", method
            if event["kind"] == "request.refused":
                assert (event["method"], event["code"]) == (method, caught.value.code)
                assert event["named_tenant"] == params.get("tenant", event["named_tenant"])
        # another's session and one that never was: alike to the caller, and alike in the audit
        said = []
        for session in (mine.id, "s-0123456789abcdef"):
            with pytest.raises(BridgeholdError) as caught:
                acme.request("logs", {"session": session})
            said.append((caught.value.code, caught.value.message.replace(session, "")))
        assert said[0] == said[1]
        assert [event["named"] for event in refusals(probed)[-2:]] == [mine.id, "s-0123456789abcdef"]


def as_acme(stage: Stage, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    home = str(stage.layout.config.parent)
    argv = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    return subprocess.run(
        [*argv, sys.executable, "-m", "bridgehold", *arguments],
        env={**os.environ, "BRIDGEHOLD_HOME": home, "HOME": "/nonexistent"},
        input=given, capture_output=True, check=False, timeout=60, cwd="/",
    )  # fmt: skip


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_the_command_line_and_the_plugs_do_too(probed: Stage) -> None:
    frame = json.dumps(
        {"id": 1, "command": "act", "args": {"code": "1"}, "timestamp": "2026-01-01T00:00:00Z"}
    )
    stdio = len(frame).to_bytes(4, "big") + frame.encode()
    with probed.session() as mine:
        for arguments, given in (
            (("run", f"{probed.plain}:act", "--tenant", "local"), b""),
            (("logs", mine.id), b""),
            (("sessions", "kill", mine.id), b""),
            (("stdio", "--bridge", probed.plain, "--tenant", "local"), stdio),
        ):
            before = len(refusals(probed))
            done = as_acme(probed, *arguments, given=given)
            assert b"Traceback" not in done.stderr, done.stderr
            found = refusals(probed)[before:]
            assert found, (arguments, done.stdout, done.stderr)
            assert {(event["tenant"], event["principal"]) for event in found} == {("acme", "plug")}, arguments
        assert mine.run("act", {"code": "result['alive'] = 1"}) == {"alive": 1}


def test_http_does_too(probed: Stage) -> None:
    url = url_of(probed.layout)
    with probed.session() as mine:
        for method, path, body in (
            ("GET", "/v1/sessions?tenant=local", None),
            ("GET", f"/v1/sessions/{mine.id}/logs", None),
            ("POST", f"/v1/sessions/{mine.id}/commands", {"operation": "act", "arguments": {}}),
            ("DELETE", f"/v1/sessions/{mine.id}", None),
            ("POST", "/v1/run", {"operation": f"{probed.plain}:act", "tenant": "local"}),
            ("GET", f"/v1/artifacts/{FOREIGN}?tenant=local", None),
            ("GET", "/v1/resources?tenant=local", None),
        ):
            before = len(refusals(probed))
            request = urllib.request.Request(
                url + path,
                method=method,
                data=json.dumps(body).encode() if body is not None else None,
                headers={"Authorization": f"Bearer {TOKENS['web']}", "Content-Type": "application/json"},
            )
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=20)
            assert caught.value.code in (403, 404), (path, caught.value.read())
            (event,) = refusals(probed)[before:]
            assert event["tenant"] == "acme", path


def test_who_may_act_for_anybody_fills_no_memory_with_names(probed: Stage) -> None:
    """Past the bucket, refusals for any number of tenants become few events."""
    before, begun = len(probed.events("events.folded")), time.monotonic()
    for number in range(500):
        with pytest.raises(BridgeholdError):
            probed.client.run("nobody:anything", {}, tenant=f"made-up-{number}")
    alone = 60 + 2 * (time.monotonic() - begun)  # so many are written one by one, in the time that it took

    def told() -> list[Any]:
        found = [event for event in probed.events("events.folded")[before:] if event["principal"] == "tester"]
        return [event["folded"].get("command.refused", 0) for event in found]  # type: ignore[attr-defined]

    until(lambda: sum(told()) >= 500 - alone)
    assert len(told()) <= 65 * ((time.monotonic() - begun) // 5 + 2)


def test_a_flood_is_folded_and_nobody_else_pays(probed: Stage) -> None:
    begun = time.monotonic()
    with SyncClient.connect(probed.layout.socket, token=TOKENS["flood"]) as acme:
        for number in range(300):
            with pytest.raises(BridgeholdError):
                acme.run(f"{probed.plain}:act", {"code": "1"}, tenant=f"victim{number}")
            with pytest.raises(BridgeholdError):
                acme.request("grant", {"bridge": probed.plain, "tenant": f"victim{number}"})
    alone = 60 + 2 * (time.monotonic() - begun)  # so many are written one by one, in the time that it took

    def told() -> int:
        folded: list[Any] = [
            one["folded"] for one in probed.events("events.folded") if one["tenant"] == "acme"
        ]
        return sum(sum(one.values()) for one in folded)

    until(lambda: told() >= 600 - alone)
    written = [event for event in refusals(probed) if event["principal"] != "tester"]
    assert len(written) < 140 + alone
    assert {event["tenant"] for event in written} == {"acme"}
