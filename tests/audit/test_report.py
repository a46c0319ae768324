"""The report of an audit: each question's answer, of a copied folder, whoever wrote what stands in it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from audit_support import Filler, intent, outcome, segment_files

from bridgehold.audit.events import (
    CommandRefused,
    ConfigReloaded,
    EgressIntent,
    EgressOutcome,
    EgressRefused,
    GrantResolved,
    HostStarted,
    PolicyLoaded,
    SecretChanged,
    SessionOpened,
)
from bridgehold.audit.reading.desk import Desk
from bridgehold.audit.verify import verify_audit
from bridgehold.faces.cli.border import guarded
from bridgehold.faces.cli.commands import app
from bridgehold.faces.report.gather import Gathering, Scope, wanted
from bridgehold.faces.report.sections import Document, Section, markdown, page
from bridgehold.policies.model import Endpoint, Grant, SecretGrant
from doubles.house import grant_of

HOSTILE = [
    "<script>alert(1)</script>",
    "</td></tr></table><img src=x onerror=alert(1)>",
    "| a | b |\n## heading\n- [x](https://evil.example)",
    "`code` **bold** ![i](https://evil.example/x.png) https://evil.example @root",
    "\x1b[2J\x1b]8;;https://evil.example\x07\u202e",
    "'\"><a href=javascript:alert(1)> www.evil.example WWW.evil.example",
]
TIES = {"tenant": "acme", "principal": "app", "session": "s-0123456789abcdef"}


def grant_event(grant: Grant) -> GrantResolved:
    """As the host writes it."""
    facts = msgspec.to_builtins(grant)
    facts["sources"] = {key: str(source) for key, source in grant.sources.items()}
    return GrantResolved(tenant=grant.tenant, digest=grant.digest, grant=facts)


def filled(filler: Callable[..., Filler], words: str) -> None:
    """A day of an audit in which a guest and a provider have said `words`."""
    writer = filler()
    before = grant_of("acme", "dspy", start="fork", concurrency=2, generation=1)
    provider = Endpoint(provider="openai", methods=("POST",), paths=("/chat/completions",))
    secret = SecretGrant(name="openai", how="gateway", provider="openai")
    after = msgspec.structs.replace(
        before, endpoints=(provider,), secrets=(secret,), digest="sha256:" + "e" * 64
    )
    writer.put(HostStarted(version="0.1", uid=0, machine={}, weakenings=("no_cgroup",)), grant_event(before))
    writer.put(SessionOpened(**TIES, bridge="dspy", grant=before.digest, start="fork"))
    ref = writer.put(intent(**TIES, bridge="dspy"))[0].ref
    writer.put(outcome(ref, code="memory", reason=words))
    sent = {"provider": "openai", "host": "api.openai.com", "method": "POST", "path": f"/{words}"}
    ref = writer.put(EgressIntent(**TIES, **sent, rule="network.endpoints.openai"))[0].ref
    spent = {"status": 200, "request_bytes": 9, "response_bytes": 9, "ms": 3, "charged": 42}
    writer.put(EgressOutcome(**TIES, **sent, **spent, intent=ref, model=words))  # type: ignore[arg-type]  # by name
    writer.put(
        EgressRefused(
            **TIES,
            host="evil.example",
            method="GET",
            path="/",
            rule="default-deny",
            reason=words,
            source="p:1",
        ),
        CommandRefused(
            **TIES, bridge="dspy", operation=words, rule="operations.deny[0]", reason="no", source="p.toml:3"
        ),
        SecretChanged(**TIES, name="openai", action="revealed"),
        PolicyLoaded(
            tenant="acme",
            name="policy-1",
            digest="d",
            files=(f"{words} sha256:0",),
            bridge="dspy",
            gained=("network.connect a:443",),
            lost=(f"tools {words}",),
        ),
        grant_event(after),
        ConfigReloaded(digest="d", applied=(words,), waiting=()),
    )
    writer.close()


def made(audit: Path, cache: Path, scope: Scope = Scope()) -> dict[str, Section]:  # noqa: B008 - a frozen value
    with Desk.open(audit, cache) as desk:
        sections = Gathering(scope).gather(desk.every(wanted(scope)), verify_audit(audit))
    return {one.name: one for one in sections}


def test_each_question_has_its_answer_with_an_event_to_look_at(
    audit: Path, filler: Callable[..., Filler], tmp_path: Path
) -> None:
    filled(filler, "words")
    found = made(audit, tmp_path / "cache")
    assert [row[:2] for row in found["trust"].rows] == [
        ("integrity", "sound"), ("completeness", "whole"), ("anchoring", "unanchored"),
    ]  # fmt: skip
    assert found["reach"].rows[0][:5] == ("acme", "dspy", "policy-1", "openai", "openai (put in)")
    assert found["reached"].rows[0][:5] == ("acme", "dspy", "POST api.openai.com/words", "200", "1")
    assert {row[3:6] for row in found["refused"].rows} == {
        ("GET evil.example/", "default-deny", "p:1"), ("words", "operations.deny[0]", "p.toml:3"),
    }  # fmt: skip
    assert found["keys"].rows == (("acme", "openai", "dspy", "openai", "put in at the gateway"),)
    assert found["key-events"].rows[0][:4] == ("acme", "openai", "revealed", "app")
    assert ("acme", "dspy", "openai", "words", "0", "0", "1", "0", "42") in {
        row[:9] for row in found["spent"].rows
    }
    assert found["limits"].rows[0][:4] == ("acme", "dspy", "memory", "1")
    assert found["weakenings"].rows[0][2:4] == ("no_cgroup", "the whole host")
    changes = {row[2:4] for row in found["changes"].rows}
    assert ("configuration", "applied: words; waiting: ") in changes
    assert ("grant of dspy, policy policy-1", "first seen") in changes
    loaded = "+ network.connect a:443; - tools words; words sha256:0"
    assert ("policy policy-1", loaded) in changes
    gained = "+ network.endpoints.openai POST /chat/completions; + secrets.openai put in at openai"
    assert ("grant of dspy, policy policy-1", gained) in changes
    with Desk.open(audit, tmp_path / "cache") as desk:
        refs = {hit.entry.ref for hit in desk.every(wanted(Scope()))}
    assert {
        row[-1] for name in ("refused", "reached", "limits", "changes") for row in found[name].rows
    } <= refs
    assert made(audit, tmp_path / "cache", Scope(tenant="beta"))["refused"].rows == ()
    assert made(audit, tmp_path / "cache", Scope(framework="python"))["refused"].rows == ()
    late = made(audit, tmp_path / "cache", Scope(since="2999"))
    assert late["refused"].rows == late["changes"].rows == late["spent"].rows == ()
    assert len(late["reach"].rows) == 1  # as it was granted before


class _Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))


def test_no_text_of_a_guest_becomes_a_part_of_the_document(
    audit: Path, filler: Callable[..., Filler], tmp_path: Path
) -> None:
    plain = Document(title="t", scope=(), sections=())
    shapes = []
    for number, words in enumerate(["words", *HOSTILE]):
        folder = tmp_path / str(number)
        folder.mkdir()
        filled(lambda folder=folder: Filler(folder), words)  # type: ignore[misc]  # bound at once
        document = msgspec.structs.replace(
            plain, scope=(("tenant", words),), sections=tuple(made(folder, tmp_path / "cache").values())
        )
        seen = _Seen()
        seen.feed(page(document))
        assert {tag for tag, _ in seen.tags}.isdisjoint({"script", "img", "iframe", "link", "form", "object"})
        assert not [
            attrs for _, attrs in seen.tags for name, _ in attrs if name.startswith("on") or name == "src"
        ]
        assert all(
            (value or "").startswith("#") for _, attrs in seen.tags for name, value in attrs if name == "href"
        )
        text = markdown(document)
        assert not re.search(
            r"(?<!\\)[<>`*\[\]]|://|(?i:www\.)|[\x00-\x08\x1b\u202e]", re.sub(r"<br>", "", text)
        ), text
        lines = text.split("\n")
        shapes.append(
            ([tag for tag, _ in seen.tags], [re.sub(r"\\.", "", line).count("|") for line in lines])
        )
    assert all(shape == shapes[0] for shape in shapes), "a cell has made a tag, a row or a column"
    assert "default-src 'none'" in page(plain)


def test_the_command_reports_of_a_copy_and_ends_with_50_where_it_was_changed(
    audit: Path,
    filler: Callable[..., Filler],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Without a host, a home or a key; and what is written is one file."""
    monkeypatch.setenv("BRIDGEHOLD_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    filled(filler, HOSTILE[0])
    copy = tmp_path / "copy"
    shutil.copytree(audit, copy)

    def report(*more: str) -> int:
        monkeypatch.setattr("sys.argv", ["bridgehold", "audit", "report", "--audit", str(copy), *more])
        return guarded(lambda: app(prog_name="bridgehold", standalone_mode=False))

    assert report("-o", str(tmp_path / "report.html")) == 0
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert report("--json") == 0
    assert json.loads(capfd.readouterr().out)["ok"] is True
    assert report("--since", "yesterday", "--framework", "dspy") == 0
    assert "## What was it refused, and why?" in capfd.readouterr().out
    [file] = segment_files(copy)
    file.chmod(0o600)
    file.write_bytes(file.read_bytes().replace(b"evil.example", b"good.example"))
    assert report() == 50
    assert "BROKEN in 1 places" in capfd.readouterr().out
