"""`why` tells the whole story of a refusal, a failure and a request; OCSF says it to a SIEM."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_support import Filler, intent, outcome

from bridgehold.audit.entries import Entry
from bridgehold.audit.events import (
    CommandRefused,
    EgressIntent,
    EgressOutcome,
    EgressRefused,
    Event,
    GrantResolved,
    PolicyLoaded,
    SessionClosed,
    SessionOpened,
    WorkerExited,
    event_types,
    kind_of,
)
from bridgehold.audit.export import export_ocsf, to_ocsf
from bridgehold.audit.read import read_all
from bridgehold.audit.why import remedy, story
from bridgehold.errors import NotFoundError

GRANT = "sha256:" + "a" * 64
TIES = {"tenant": "acme", "session": "s-0123456789abcdef", "command": "c-0123456789abcdef"}


@pytest.fixture
def told(audit: Path, filler: Callable[..., Filler]) -> dict[str, str]:
    """An audit with a session, a command that made two requests and failed, and a refusal."""
    writer = filler()
    sources = {"operations.allow[0]": {"file": "python.toml", "line": 7}}
    references: dict[str, str] = {}

    def put(name: str, event: Event) -> str:
        references[name] = writer.put(event)[0].ref
        return references[name]

    put("grant", GrantResolved(digest=GRANT, grant={"tenant": "acme", "sources": sources}))
    session = {"tenant": "acme", "session": TIES["session"]}
    put("opened", SessionOpened(bridge="python", grant=GRANT, start="cold", **session))
    began = put("intent", intent())
    request = put(
        "egress",
        EgressIntent(
            provider="openai",
            host="api.openai.com",
            method="POST",
            path="/v1/x",
            rule="network.openai",
            **TIES,
        ),
    )
    put(
        "answered",
        EgressOutcome(
            intent=request,
            provider="openai",
            host="api.openai.com",
            method="POST",
            path="/v1/x",
            status=200,
            request_bytes=10,
            response_bytes=20,
            ms=5,
            model="gpt-x",
            **TIES,
        ),
    )
    put(
        "denied",
        EgressRefused(
            host="evil.example",
            method="GET",
            path="/",
            rule="default-deny",
            reason="evil.example is not granted",
            source="python.toml:12",
            severity="high",
            **TIES,
        ),
    )
    put(
        "ended",
        outcome(
            began, application_ok=False, transport_ok=False, code="memory", reason="over 512 MiB", ms=900
        ),
    )
    put(
        "exited",
        WorkerExited(
            worker="w",
            cause="memory",
            status=9,
            cpu_us=1,
            memory_peak_bytes=2,
            oom_kills=1,
            emptied_ms=3,
            **session,
        ),
    )
    put("closed", SessionClosed(reason="memory", **session))
    put(
        "refused",
        CommandRefused(
            bridge="python",
            operation="python:rm",
            rule="operations.deny[1]",
            reason="denied by pattern",
            source="python.toml:9",
            tenant="acme",
            command="c-refused",
        ),
    )
    writer.close()
    return references


def test_a_refusal_names_rule_source_and_remedy(audit: Path, told: dict[str, str]) -> None:
    found = story(audit, told["refused"])
    assert (found.rule, found.source) == ("operations.deny[1]", "python.toml:9")
    assert found.reason == "denied by pattern"
    assert "operations.deny" in found.remedy
    assert "python.toml:9" in found.remedy
    assert "python:rm was refused" in found.sentence


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("tenant.limits.requests_per_day", "`bridgehold tenant limit TENANT KEY=…`"),
        ("tenant.state", "`bridgehold tenant show TENANT`"),
        ("providers.openai.price", "[providers.NAME] price"),
    ],
)
def test_what_an_operator_bounded_has_a_remedy_and_no_see_rule(rule: str, words: str) -> None:
    event = Entry(ref="i.1", instance="i", seq=1, time="", kind="egress.refused", place="")
    assert words in remedy(event, rule, "", "")


def test_a_field_that_is_not_known_has_a_remedy_of_its_own() -> None:
    event = Entry(ref="i.1", instance="i", seq=1, time="", kind="egress.refused", place="")
    told = remedy(event, "network.endpoints.openai.fields", "", "p.toml:3")
    assert told == "Leave the field out, or take the line that the reason names into the policy (p.toml:3)."


@pytest.mark.parametrize(
    ("path", "reason", "words"),
    [
        (
            "/anthropic/v1/messages",
            "POST /v1/messages is none of the granted paths",
            ("'/v1/messages'", "[network.endpoints.anthropic]", "manifest"),
        ),
        (
            "/gemini/v1/models/m:generateContent",
            "POST /v1/models/m:generateContent is none of the granted paths; the provider's address ends in /v1beta: …",
            ("Have the client ask for that version",),
        ),
        ("/hub/api", "no endpoint 'hub' is granted", ("[network.endpoints.hub]", "manifest")),
        ("", "nothing is granted", ("'api.example'",)),
    ],
)
def test_a_request_that_is_not_granted_has_the_remedy_of_what_is_missing(
    path: str, reason: str, words: tuple[str, ...]
) -> None:
    event = Entry(ref="i.1", instance="i", seq=1, time="", kind="egress.refused", place="")
    event.fields.update(path=path, reason=reason, host="api.example")
    told = remedy(event, "default-deny", "", "p.toml:3")
    assert "p.toml:3" in told
    assert [word for word in words if word not in told] == []


def test_a_failure_tells_intent_outcome_egress_session_and_grant(audit: Path, told: dict[str, str]) -> None:
    by_intent = story(audit, told["intent"])
    by_outcome = story(audit, told["ended"])
    by_command = story(audit, "c-0123456789abcdef")
    related = {entry.ref for entry in by_outcome.related}
    names = {name for name, ref in told.items() if ref in related}
    assert names == {"opened", "intent", "egress", "answered", "denied", "exited", "closed"}
    assert by_command.event.ref == told["ended"]
    assert by_intent.source == by_outcome.source == "python.toml:7"
    assert by_intent.reason == "over 512 MiB"
    assert "limits.memory" in by_intent.remedy
    assert "ended with memory after 900 ms" in by_intent.sentence
    assert by_outcome.grant is not None
    assert by_outcome.grant.ref == told["grant"]


def test_a_refused_request_belongs_to_its_command(audit: Path, told: dict[str, str]) -> None:
    found = story(audit, told["denied"])
    assert found.rule == "default-deny"
    assert "evil.example" in found.remedy
    assert told["intent"] in {entry.ref for entry in found.related}


@pytest.mark.parametrize(
    "name", ["", "i-0123456789ab.1", "c-unknown", "' OR 1=1", "i-0123456789ab.99999999999999999999"]
)
def test_what_is_not_there_is_not_found(audit: Path, told: dict[str, str], name: str) -> None:
    with pytest.raises(NotFoundError):
        story(audit, name)


def test_ocsf_classes(audit: Path, told: dict[str, str]) -> None:
    lines = {json.loads(line)["metadata"]["uid"]: json.loads(line) for line in export_ocsf(read_all(audit))}
    types = {name: lines[ref]["type_uid"] for name, ref in told.items()}
    assert types == {
        "grant": 501901,
        "opened": 600203,
        "intent": 100701,
        "egress": 400206,
        "answered": 600301,
        "denied": 400203,
        "ended": 100702,
        "exited": 600204,
        "closed": 600204,
        "refused": 100701,
    }
    refused = lines[told["refused"]]
    assert (refused["action_id"], refused["severity_id"], refused["status_id"]) == (2, 3, 2)
    assert lines[told["denied"]]["severity_id"] == 4
    assert lines[told["ended"]]["status_id"] == 2
    assert lines[told["answered"]]["http_response"] == {"code": 200, "length": 20}
    assert all(isinstance(line["time"], int) and line["time"] > 1_600_000_000_000 for line in lines.values())


def test_every_kind_has_an_ocsf_type() -> None:
    for kind in event_types():
        entry = Entry(
            ref="i-0123456789ab.1",
            instance="i-0123456789ab",
            seq=1,
            time="2026-11-20T09:30:00.123Z",
            kind=kind_of(kind),
            place="x:1",
        )
        event = to_ocsf(entry)
        assert event["type_uid"] == int(str(event["class_uid"])) * 100 + int(str(event["activity_id"]))
    assert kind_of(PolicyLoaded) == "policy.loaded"


def test_every_kind_and_field_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/audit.md").read_text(encoding="utf-8")
    common = {"tenant", "principal", "session", "command"}
    for kind in event_types():
        row = next((line for line in page.splitlines() if line.startswith(f"| `{kind_of(kind)}` |")), "")
        assert row, f"{kind_of(kind)} is not documented"
        for field in kind.__struct_fields__:
            assert field in common or f"`{field}`" in row, f"{kind_of(kind)}.{field} is not documented"
    from typing import get_args

    from bridgehold.audit.verdicts import FindingKind

    words = {"anchor_contradicted", "anchor_signature", "anchor_unknown"}  # told in prose, under Anchoring
    for finding in set(get_args(FindingKind)) - words:
        assert f"`{finding}`" in page, f"finding {finding} is not documented"
