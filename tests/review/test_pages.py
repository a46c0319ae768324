"""The pages as a server gives them: what each question's answer is, who gets in, and what hostile words become."""

from __future__ import annotations

import asyncio
import re
import shutil
import stat
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from markupsafe import escape

from audit.audit_support import Filler, intent, outcome, segment_files
from bridgehold.audit.events import (
    CommandRefused,
    ConfigReloaded,
    EgressIntent,
    EgressOutcome,
    EgressRefused,
    GrantResolved,
    SessionOpened,
    ToolRefused,
)
from bridgehold.audit.reading import watch as watch_module
from bridgehold.audit.reading.language import parse
from bridgehold.audit.reading.linear import every_hit, matches
from bridgehold.client.client import Host
from bridgehold.faces.review import app as app_module
from bridgehold.faces.review.gate import ENTER, HEADERS
from bridgehold.policies.model import Connect, Endpoint, Rules, SecretGrant
from doubles.house import grant_of
from review.conftest import Shown
from review.review_support import Reader, reading

PAGES = (
    "/",
    "/timeline",
    "/refusals",
    "/sessions",
    "/keys",
    "/changes",
    "/proposals",
    "/trust",
    "/report",
    "/timeline?view=refusals",
)
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><svg onload=alert(1)>",
    "'\" onmouseover=alert(1) x='",
    "{{ 7*7 }}{% raw %}",
    "\x1b[2J\x1b]8;;https://evil.example\x07",
    "\u202egnp.exe\u2066\u200b",
    "javascript:alert(1)",
    "<" * 1_048_576,
]  # fmt: skip


UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")


class Seen(HTMLParser):
    """Tags with their attributes, and links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(sorted(name for name, _ in attrs))))
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]


def run(work: object) -> None:
    asyncio.run(work)  # type: ignore[arg-type]  # a coroutine


def test_each_question_has_its_page(shown: Shown) -> None:
    async def act() -> None:
        async with reading(shown.audit, shown.cache, config=shown.config) as reader:
            await reader.app.books.judged()
            found = {}
            for path in PAGES:
                status, found[path] = await reader.get(path)
                assert status == 200, path
                seen = Seen(found[path])
                assert all(link.startswith(("/", "#")) for link in seen.links), path
                assert not any(
                    set(attributes) & {"style", "onclick", "onload"} for _, attributes in seen.tags
                )
                assert "Log sound and whole, unanchored" in found[path]
            for words in (
                "langchain:create_chain",
                "docs.example.org:443",
                "never used",
                "no longer granted",
                "tokens",
            ):
                assert words in found["/"], words
            assert ">Sound<" in found["/trust"]
            assert "this is a copy of an audit" in found["/proposals"]
            assert (await reader.get("/proposal/p-0123456789ab"))[0] == 404
            for path in ("/proposal/p-0123456789ab/ask", "/proposal/p-0123456789ab/confirm"):
                own = {"Origin": reader.base}
                async with reader.session.post(reader.base + path, headers=own) as answer:
                    assert answer.status == 405, "it only shows, unless somebody said otherwise"
            assert "ANTHROPIC" not in found["/keys"]
            assert "inside the sandbox" in found["/keys"]
            assert "+ network.connect docs.example.org:443" in found["/changes"]
            assert "maria" in found["/changes"]
            later = (await reader.get("/changes?since=2999-01-01"))[1]
            assert "Nothing since then" in later
            assert "is no time" in (await reader.get("/changes?since=whenever"))[1]
            session = re.findall(r'href="(/session/[^"]+)"', found["/sessions"])[-1]
            drawn = (await reader.get(session))[1]
            assert drawn.count('class="memory"') == drawn.count('class="processor"') > 0
            assert 'class="limit"' in drawn

    run(act())


def test_a_page_beside_a_host_that_ended_says_so(shown: Shown, tmp_path: Path) -> None:
    async def ask(method: str, params: dict[str, object]) -> object:
        async with await Host.connect(tmp_path / "host.sock") as host:
            return await host.request(method, params)

    async def act() -> None:
        async with reading(shown.audit, tmp_path / "cache", ask=ask) as reader:
            status, text = await reader.get("/proposals")
            assert (status, "none answers now" in text, "copy of an audit" in text) == (200, True, False)

    run(act())


def test_an_event_is_explained_to_its_line(shown: Shown) -> None:
    async def act() -> None:
        async with reading(shown.audit, shown.cache, config=shown.config) as reader:
            refusals = (await reader.get("/timeline?view=refusals&framework=dspy"))[1]
            link = re.findall(r'href="(/event/[^"]+)"', refusals)[0]
            event = (await reader.get(link))[1]
            for words in (
                "denied by", "operations.deny[0]", f"{shown.config}/policies/dspy.toml:6", "what denies wins",
                "deny = [", "Remove the pattern from operations.deny", "made over these bytes", "was opened, by a",
                "bridgehold why i-",
            ):  # fmt: skip
                assert words in event.replace("&#34;", '"'), words
            assert "The file has changed" not in event
            place = re.search(r"<code><bdi>(\S+\.jsonl):(\d+)</bdi></code>, byte", event)
            assert place is not None
            line = (shown.audit / place[1]).read_bytes().split(b"\n")[int(place[2]) - 1]
            assert link.rpartition(".")[2].encode() in line[:80]
            request = (await reader.get("/timeline?q=kind+%3D+egress.outcome&framework=langchain"))[1]
            outgoing = (await reader.get(re.findall(r'href="(/event/[^"]+)"', request)[0]))[1]
            assert "the request is for openai" in outgoing  # anthropic's endpoint lost
            for wrong in (
                "/event/i-000000000000.1",
                "/event/nothing",
                "/nothing",
                "/session/nobody",
                "/static/../gate.py",
            ):
                assert (await reader.get(wrong))[0] == 404

    run(act())


def test_a_timeline_pages_through_everything_once(shown: Shown) -> None:
    async def act() -> None:
        async with reading(shown.audit, shown.cache) as reader:
            path, found, back = "/timeline?framework=dspy", [], ""
            while path:
                text = (await reader.get(path))[1]
                found += re.findall(r'<p><span class="hidden">[^<]*</span><a href="/event/([^"]+)"', text)
                older = re.search(r'rel="next" href="([^"]+)"', text)
                back = (re.search(r'rel="prev" href="([^"]+)"', text) or ["", ""])[1]
                path = older[1].replace("&amp;", "&") if older else ""
            assert len(found) == len(set(found)) > 100
            before = re.findall(
                r'</span><a href="/event/([^"]+)"', (await reader.get(back.replace("&amp;", "&")))[1]
            )
            at = found.index(before[0])
            assert found[at : at + len(before)] == before
            status, wrong = await reader.get("/timeline?q=hots+%3D+x")
            assert status == 200
            assert "there is no field" in wrong
            assert 'value="hots = x"' in wrong
            _, asked = await reader.get("/timeline?q=code+%3D+application&tenant=globex")
            assert "bridgehold audit query &#39;code = application&#39; --tenant=globex" in asked

    run(act())


def test_nobody_gets_in_without_the_token_or_by_another_name(shown: Shown) -> None:
    async def act() -> None:
        async with reading(shown.audit, shown.cache, let_in=False) as reader:
            for path in PAGES:
                status, text = await reader.get(path)
                assert status == 401
                assert "acme" not in text
                assert reader.app.gate.token not in text
            assert (await reader.get(f"{ENTER}?token=wrong"))[0] == 401
            assert (await reader.get(ENTER))[0] == 200
            token = reader.app.gate.token
            async with reader.session.get(
                f"{reader.base}{ENTER}?token={token}", allow_redirects=False
            ) as answer:
                assert answer.status == 303
                assert answer.headers["Location"] == "/"
                assert {"HttpOnly", "SameSite=Strict"} <= set(answer.headers["Set-Cookie"].split("; "))
                assert token not in str(answer.headers)
                assert HEADERS.items() <= dict(answer.headers).items()
            assert (await reader.get("/"))[0] == 200
            status, text = await reader.get(f"{ENTER}?token={token}")  # twice
            assert (status, "has been used" in text) == (401, True)
            for headers, expected in (
                ({"Host": "evil.example"}, 421), ({"Host": "localhost"}, 421), ({"Sec-Fetch-Site": "cross-site"}, 403),
                ({"Sec-Fetch-Site": "same-site"}, 403), ({"Origin": "http://evil.example"}, 403), ({"Sec-Fetch-Site": "same-origin"}, 200),
            ):  # fmt: skip
                for path in ("/", "/rows", "/live"):
                    if expected != 200 or path != "/live":
                        assert (await reader.get(path, **headers))[0] == expected, (path, headers)
            async with reader.session.post(reader.base + "/", data={"x": "y"}) as answer:
                assert answer.status == 405

    run(act())


def hostile(filler: Filler, words: str) -> None:
    """A guest, a caller and a copied grant that say `words` wherever they can."""
    ties = {"tenant": "acme", "principal": words[:200], "session": "s-0123456789abcdef"}
    rules, name = Rules(allow=(words[:9_000],), deny=(words[:90],)), words[:900]
    grant = msgspec.structs.replace(
        grant_of("acme", words[:4_000], start="cold", concurrency=1, generation=1),
        policy=name, operations=rules, tools=rules, read=(name,), devices=(name,), digest="sha256:" + "a" * 64,
        endpoints=(Endpoint(provider=name, methods=(name,), paths=(name,)),), connects=(Connect(host=name),),
        secrets=(SecretGrant(name=name, provider=name), SecretGrant(name=name, how="env", variable=name)),
    )  # fmt: skip
    facts = msgspec.to_builtins(grant)
    facts |= {
        "sources": {"operations.deny[0]": f"{name}:1"},
        "overruled": {"operations.x": [{"value": name}]},
    }
    filler.put(GrantResolved(tenant="acme", digest="sha256:" + "a" * 64, grant=facts))
    sent = {"provider": name, "host": words[:9_000], "method": words[:90], "path": words[:9_000]}
    ref = filler.put(EgressIntent(**ties, **sent, rule=name, model=name))[0].ref
    filler.put(
        EgressOutcome(
            **ties, **sent, intent=ref, status=200, request_bytes=1, response_bytes=1, ms=1, model=name
        )
    )  # type: ignore[arg-type]  # by name
    filler.put(ToolRefused(**ties, tool=name, rule="tools.deny[0]", reason=words[:9_000], source=name))
    filler.put(ConfigReloaded(digest="d", applied=(words[:9_000],), waiting=()))
    filler.put(
        SessionOpened(
            **ties, bridge=words[:4_000], grant="sha256:" + "a" * 64, start="cold", name=words[:4_000]
        )
    )
    ref = filler.put(
        intent(**ties, bridge=words[:4_000], operation=words[:4_000], arguments_preview=words[:9_000])
    )[0].ref
    filler.put(outcome(ref, **ties, code="application", reason=words[:9_000], traceback=words[:9_000]))
    filler.put(
        CommandRefused(
            **ties,
            bridge=words[:900],
            operation=words[:9_000],
            rule=words[:900],
            reason=words[:200_000],
            source=words[:900],
        )
    )
    filler.put(
        EgressRefused(
            **ties,
            host=words[:9_000],
            method=words[:90],
            path=words[:9_000],
            rule=words[:90],
            reason=words[:9_000],
            source="/etc/passwd:1",
        )
    )


def test_no_word_from_inside_becomes_a_part_of_a_page(tmp_path: Path) -> None:
    async def shapes(reader: Reader, said: list[str]) -> set[tuple[str, tuple[str, ...]]]:
        found: set[tuple[str, tuple[str, ...]]] = set()
        everything = ""
        events = re.findall(r'href="(/event/[^"]+)"', (await reader.get("/timeline"))[1])
        for path in (*PAGES, *dict.fromkeys(events), "/session/s-0123456789abcdef"):
            status, text = await reader.get(path)
            assert status == 200, path
            assert len(text) < 600_000
            seen = Seen(text)
            assert all(link.startswith(("/", "#")) for link in seen.links), path
            assert not UNSEEN.search(text), path
            assert "root:" not in text
            found |= {one for one in seen.tags if one[0] not in ("span", "details", "summary", "pre", "code")}
            everything += text
        for words in said:
            assert not words.isprintable() or str(escape(words[:40])) in everything
        assert all(words.isprintable() for words in said) or 'class="mark">' in everything
        return found

    async def act() -> None:
        kinds = []
        for name, said in (("plain", ["words"]), ("hostile", HOSTILE)):
            folder = tmp_path / name
            folder.mkdir()
            filler = Filler(folder, sync=lambda _: None)
            for words in said:
                hostile(filler, words)
            filler.close()
            async with reading(folder, tmp_path / "cache") as reader:
                await reader.app.books.judged()  # its page has other parts before
                kinds.append(await shapes(reader, said))
        assert kinds[1] <= kinds[0] | {("a", ("href", "rel")), ("p", ("class", "id"))}  # more pages of it

    run(act())


def test_an_answer_in_pieces_is_the_whole_answer(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no time each page says how far it looked, and its link goes on from there."""
    monkeypatch.setattr(app_module, "_PIECE_S", -1.0)
    monkeypatch.setattr(watch_module, "_FIRST", 40)
    asked = {q: parse(q) for q in ("not reason ~ denied and kind = command.refused", '"nowhere at all"')}

    async def act() -> None:
        async with reading(shown.audit, shown.cache) as reader:
            for q, question in asked.items():
                expected = [hit.entry.ref for hit in every_hit(shown.audit) if matches(question, hit)]
                found, path, pages_seen = list[str](), f"/rows?q={quote(q)}", 0
                while path:
                    text = (await reader.get(path))[1]
                    found += re.findall(r'class="row [^>]+>.*?href="/event/([^"]+)"', text, re.DOTALL)
                    further = re.search(r'href="/timeline([^"]+)">Look further back', text)
                    path = f"/rows{unescape(further[1])}" if further else ""
                    assert bool(path) == ("so far" in text)
                    pages_seen += 1
                assert found == expected[::-1]
                assert pages_seen > 2

    run(act())


def test_a_running_hosts_torn_tail_and_new_lines(tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    audit.mkdir()
    filler = Filler(audit, sync=lambda _: None)
    filler.pairs(3)

    async def act() -> None:
        async with reading(audit, tmp_path / "cache") as reader:
            newest = re.findall(r'href="/event/([^"]+)"', (await reader.get("/timeline"))[1])[0]
            live = await reader.session.get(f"{reader.base}/live?after={newest}&view=refusals")
            assert live.headers["Content-Type"] == "text/event-stream"
            file = segment_files(audit)[-1]
            filler.pairs(1)
            filler.put(
                CommandRefused(
                    tenant="acme", bridge="b", operation="b:rm", rule="default-deny", reason="no", source=""
                )
            )
            while True:
                line = await asyncio.wait_for(live.content.readline(), 30)
                if line.startswith(b"data:"):
                    break
            assert line == b"data: 1\n"
            live.close()
            rows = (await reader.get(f"/rows?after={newest}&view=refusals"))[1]
            assert rows.count('class="row refused"') == 1
            assert "<html" not in rows
            mode = stat.S_IMODE(file.stat().st_mode)
            file.chmod(0o600)
            with file.open("ab") as torn:
                torn.write(b'{"v":1,"instance":"')
            file.chmod(mode)
            status, text = await reader.get("/timeline?view=refusals")
            assert status == 200
            assert text.count('class="row refused"') == 1

    run(act())


def test_what_was_changed_is_located(shown: Shown, tmp_path: Path) -> None:
    audit = Path(shutil.copytree(shown.audit, tmp_path / "copy"))
    [file] = segment_files(audit)
    lines = file.read_bytes().split(b"\n")
    lines[99] = (
        lines[99]
        .replace(b'"tenant":"acme"', b'"tenant":"evil"')
        .replace(b'"tenant":"globex"', b'"tenant":"goblin"')
    )
    file.chmod(0o600)
    file.write_bytes(b"\n".join(lines))

    async def act() -> None:
        async with reading(audit, tmp_path / "cache") as reader:
            await reader.app.books.judged()
            trust = (await reader.get("/trust"))[1]
            assert "Log is NOT sound" in trust
            assert f"{file.parent.name}/{file.name}:100" in trust
            name = lines[99].split(b'"')[5].decode()
            event = (await reader.get(f"/event/{name}.100"))[1]
            assert "NOT made over these bytes" in event

    run(act())
