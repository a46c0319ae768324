"""The page's cores, without a server: the gate, the question, what is visible, the matrix, the plots."""

from __future__ import annotations

import shlex
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgehold.audit.entries import Entry
from bridgehold.audit.reading.fields import KINDS
from bridgehold.audit.reading.linear import Hit
from bridgehold.audit.telling import sentence
from bridgehold.audit.why import remedy
from bridgehold.errors import BusyError, DeniedError, UsageError
from bridgehold.faces.review import plots, reach
from bridgehold.faces.review.confirm import MOST_ASKED, MOST_TRIES, VALID_S, Act, Confirmations
from bridgehold.faces.review.gate import COOKIE, Gate, Visit
from bridgehold.faces.review.question import REFUSED, VIEWS, Question, read_question
from bridgehold.faces.review.rows import tone_of
from bridgehold.faces.review.stories import policy_lines
from bridgehold.faces.review.visible import attribute, visible
from review import showcase

HERE = "127.9.8.7:4711"


def visit(path: str = "/", **changes: str) -> Visit:
    return Visit(**{"method": "GET", "path": path, "host": HERE, **changes})


def test_the_token_is_worth_one_cookie_and_nothing_else() -> None:
    gate = Gate(HERE)
    assert not gate.enter("")
    assert not gate.enter(gate.token[:-1])
    assert not gate.enter("\ud800é")
    assert not gate.spent
    assert gate.enter(gate.token)
    assert not gate.enter(gate.token)  # twice
    assert gate.judge(visit(cookie=gate.cookie)) is None
    for cookie in ("", gate.token, gate.cookie[:-1], f"{gate.cookie} ", "é"):
        refused = gate.judge(visit(cookie=cookie))
        assert refused is not None
        assert refused.status is HTTPStatus.UNAUTHORIZED
    assert gate.set_cookie() == f"{COOKIE}={gate.cookie}; HttpOnly; SameSite=Strict; Path=/"
    assert Gate(HERE).token != gate.token != gate.cookie


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:4711", "127.9.8.7", "127.9.8.7:80", "localhost:4711", "127.0.0.1:4711", f"{HERE}.", f"x@{HERE}"]
)  # fmt: skip
def test_a_name_that_is_not_its_own_is_refused_before_all_else(host: str) -> None:
    gate = Gate(HERE)
    for path in ("/", "/enter", "/static/review.css"):
        refused = gate.judge(visit(path, host=host, cookie=gate.cookie))
        assert refused is not None
        assert refused.status is HTTPStatus.MISDIRECTED_REQUEST
    assert Gate("127.0.0.1:1").judge(visit(host="localhost:1", cookie="x")).status is HTTPStatus.UNAUTHORIZED  # type: ignore[union-attr]  # refused


def test_each_kind_has_a_sentence_and_a_tone_that_its_words_bear_out() -> None:
    """No reader meets a bare kind; what ended as somebody wished is no fault, and no end of a host a refusal."""

    def of(kind: str, **fields: object) -> Entry:
        where = {"ref": "i-0123456789ab.1", "instance": "i-0123456789ab", "time": "2026-11-20T09:30:00.000Z"}
        return Entry(**where, seq=1, place="", kind=kind, fields=fields)

    for kind in KINDS:
        assert not sentence(of(kind)).startswith(kind), kind
        assert (tone_of(of(kind)) == "refused") is (kind in REFUSED), kind
    closed = [tone_of(of("session.closed", code=code)) for code in ("", "session_ended", "memory")]
    assert closed == ["plain", "plain", "failed"]
    refused = of("environment.refused", code="dependency", reason="x")
    assert "bridge build" in remedy(refused, "", "dependency", "")
    assert remedy(of("cell.refused"), "", "", "") == "", "no rule is named that there isn't"


def test_another_site_is_refused_whatever_it_holds() -> None:
    gate = Gate(HERE)
    for changes in (
        {"site": "cross-site"},
        {"site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
    ):
        for path, method in (("/", "GET"), ("/timeline", "GET"), ("/live", "GET"), ("/enter", "POST")):
            refused = gate.judge(visit(path, method=method, cookie=gate.cookie, **changes))
            assert refused is not None
            assert refused.status is HTTPStatus.FORBIDDEN
    assert gate.judge(visit("/enter", site="cross-site")) is None  # a link in a chat: its token is the proof
    assert gate.judge(visit(cookie=gate.cookie, site="same-origin", origin=f"http://{HERE}")) is None
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        refused = gate.judge(visit(method=method, cookie=gate.cookie))
        assert refused is not None
        assert refused.status is HTTPStatus.METHOD_NOT_ALLOWED


@given(st.text(max_size=80))
def test_what_is_shown_holds_no_markup_and_nothing_unseen(text: str) -> None:
    shown = str(visible(text)).removeprefix("<bdi>").removesuffix("</bdi>")
    plain = shown.replace('<span class="mark">', "").replace("</span>", "")
    assert "<" not in plain
    assert ">" not in plain
    assert '"' not in plain
    assert "'" not in plain
    assert all(character.isprintable() for character in plain)
    assert all(character.isprintable() for character in attribute(text))


def test_a_text_looks_like_what_it_holds() -> None:
    assert str(visible("a\u202eb\x1b[31m\u200b")) == (
        '<bdi>a<span class="mark">U+202E</span>b<span class="mark">ESC</span>[31m<span class="mark">U+200B</span></bdi>'
    )
    assert len(str(visible("<" * 1_048_576))) < 4_000
    assert "1,048,576 characters" in str(visible("<" * 1_048_576))


def test_a_question_is_a_link_and_a_command() -> None:
    asked = Question(
        q='host ~ "a b" or tool = x', view="refusals", tenant="acme'; rm -rf /", before="i-0123456789ab.7"
    )
    assert read_question(dict(parse_qsl(urlsplit(asked.url(before=asked.before)).query))) == asked
    assert "before" not in asked.url(framework="dspy")
    words = shlex.split(asked.command_line())
    assert words[:3] == ["bridgehold", "audit", "query"]
    assert words[4:] == ["--tenant=acme'; rm -rf /"]
    assert words[3].startswith('(host ~ "a b" or tool = x) and (kind in (')
    for name in VIEWS:
        Question(view=name).expression()
    assert read_question({"view": "nonsense", "q": "x" * 9_999}).view == ""
    with pytest.raises(UsageError, match="no field"):
        Question(q="hots = x").expression()
    assert Question(q="a = ", since="yesterday").narrows() == (("since", "yesterday"),)


def hit(kind: str, framework: str, **fields: object) -> Hit:
    entry = Entry(
        ref="i.1",
        instance="i",
        seq=1,
        time="2026-11-20T08:00:00",
        kind=kind,
        place="f:1",
        tenant="acme",
        fields=fields,
    )
    return Hit(entry, framework, 0, b"")


def test_the_matrix_shades_what_was_used_over_what_is_granted() -> None:
    uses = reach.Uses()
    for _ in range(12):
        uses.add(hit("egress.outcome", "langchain", provider="openai", host="api.openai.com"))
    uses.add(hit("egress.outcome", "langchain", provider="anthropic", unsent=True))
    uses.add(hit("egress.outcome", "langchain", host="old.example:443"))
    uses.add(hit("egress.outcome", "langchain", host="docs.example.org:443"))
    uses.add(hit("egress.outcome", "langchain", host="docs.example.org:8443"))
    uses.add(hit("worker.started", "langchain", weakenings=["connect"]))
    uses.add(hit("egress.refused", "langchain", host="evil.example"))
    counts = {("acme", "langchain", "langchain:run"): 7, ("acme", "langchain", "langchain:gone"): 9}
    [_, row, *_] = reach.matrix(showcase.grants(), uses, counts)

    def cell(power: str) -> list[tuple[str, int | None, bool, int]]:
        return [(one.label, one.used, one.granted, one.shade) for one in row.cells[power]]

    assert cell("providers") == [("openai", 12, True, 2), ("anthropic", 0, True, 0)]
    assert cell("keys") == [("openai (put in)", 12, True, 2), ("anthropic (inside)", None, True, 0)]
    assert cell("tunnels") == [
        ("docs.example.org:443", 1, True, 1),
        ("old.example:443", 1, False, 1),
        ("docs.example.org:8443", 1, False, 1),
    ]
    assert cell("weakenings") == [("connect", 1, True, 1), ("env_secret", 0, True, 0)]
    assert cell("operations") == [("langchain:run", 7, True, 1), ("langchain:create_chain", 0, True, 0)]
    assert row.refused == 1
    assert row.gravest == "high"


def test_plots_stay_within_their_frame() -> None:
    hours = {
        f"2026-11-{day:02d}T{hour:02d}": (day * hour + 1, day % 2)
        for day in range(1, 30)
        for hour in range(24)
    }
    for some in (hours, dict([*hours.items()][:5]), {"2026-11-01T00": (10**15, 1)}, {"no time": (1, 1)}, {}):
        drawn = plots.activity(some)
        assert sum(bar.total for bar in drawn.bars) == sum(
            n for hour, (n, _) in some.items() if hour != "no time"
        )
        for bar in drawn.bars:
            assert bar.x >= 0
            assert bar.x + bar.width <= plots.WIDTH
            assert bar.since < bar.until
            assert 0 <= bar.y <= plots.HEIGHT
            assert bar.height >= bar.bad_height
    assert plots.activity(hours).each == "day"
    assert len(plots.activity({"0001-01-01T00": (1, 0), "9999-12-31T23": (1, 0)}).bars) <= 121
    limited = plots.track([("t", "i.1", 50), ("t", "i.2", 0)], limit=100)
    assert (limited.limit_y, limited.points[0].height, limited.points[1].height) == (
        0.0,
        plots.HEIGHT / 2,
        0.0,
    )
    assert (plots.share(1, None), plots.share(3, 2), plots.share(1, 3)) == (None, 100.0, 33.3)


def test_an_audit_is_no_reason_to_open_a_file(tmp_path: object) -> None:
    from pathlib import Path

    home = Path(str(tmp_path))
    config = home / "config"
    (config / "policies").mkdir(parents=True)
    (config / "policies/dspy.toml").write_text("a\nb\nc\n")
    (home / "outside.toml").write_text("secret\n")
    (config / "policies/link.toml").symlink_to(home / "outside.toml")
    (config / "config.txt").write_text("secret\n")
    known = policy_lines(str(config / "policies/dspy.toml:2"), config, {})
    assert known is not None
    assert [line.text for line in known.lines if line.decided] == ["b"]
    assert known.note  # nobody knows that it is the one
    elsewhere = policy_lines("/etc/bridgehold/policies/dspy.toml:2", config, {})
    assert elsewhere is not None
    assert elsewhere.lines
    for source in (
        "/etc/passwd:1", f"{home}/outside.toml:1", "../outside.toml:1", "policies/link.toml:1", "config.txt:1",
        "policies/../../outside.toml:1", f"{config}/policies/../../outside.toml:1", "\0.toml:1", "shipped:../x.toml:1",
    ):  # fmt: skip
        found = policy_lines(source, config, {})
        assert found is not None
        assert not found.lines, source
    assert policy_lines("no line", config, {}) is None
    assert policy_lines("shipped:dspy.toml:1", None, {}).lines  # type: ignore[union-attr]  # it is there


def test_what_changes_something_is_asked_for_by_the_page_itself_and_where_it_may_be() -> None:
    cookie, path = "x" * 43, "/proposal/p-1/ask"
    gate = Gate(HERE, changes="/proposal/")
    gate.cookie = cookie

    def judged(path: str = path, method: str = "POST", cookie: str = cookie, **said: str) -> int:
        refused = gate.judge(visit(path, method=method, cookie=cookie, **said))
        return refused.status if refused is not None else 200

    own = {"origin": f"http://{HERE}"}
    assert judged(**own) == judged(site="same-origin", origin="null") == judged(site="same-origin") == 200
    for said in (
        {},
        {"origin": "null"},
        {"site": "none"},
        {"site": "none", "origin": "null"},
        {"site": "cross-site"},
    ):
        assert judged(**said) == 403, said
    assert judged(**own, site="cross-site") == judged(origin="http://127.9.8.7:1") == 403
    assert judged(**own, cookie="") == 401
    for elsewhere in (
        "/",
        "/timeline",
        "/proposals",
        "/proposal",
        "/static/review.css",
        "//proposal/p-1/ask",
    ):
        assert judged(elsewhere, **own) == 405, elsewhere
    assert {judged(method=method, **own) for method in ("PUT", "DELETE", "PATCH", "OPTIONS")} == {405}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def wanted(proposal: str = "p-1") -> Act:
    return Act(proposal=proposal, decision="approve", seen="sha256:0")


def is_refused(codes: Confirmations, proposal: str, code: str) -> bool:
    try:
        codes.confirm(proposal, code)
    except DeniedError:
        return True
    return False


def test_a_code_is_of_one_act_once_and_for_a_while() -> None:
    clock = Clock()
    codes = Confirmations(clock)
    assert is_refused(codes, "p-1", "")
    assert is_refused(codes, "p-1", "-")
    code = codes.ask(wanted())
    assert codes.waiting("p-1") == wanted()
    assert codes.waiting("p-2") is None
    assert is_refused(codes, "p-2", code)
    assert codes.confirm("p-1", f" {code.upper()}\n") == wanted()
    assert is_refused(codes, "p-1", code), "it is worth nothing the second time"
    late = codes.ask(wanted())
    clock.now += VALID_S
    assert codes.waiting("p-1") is None
    assert is_refused(codes, "p-1", late)
    guessed = codes.ask(wanted())
    for _ in range(MOST_TRIES):
        assert is_refused(codes, "p-1", "aaaa-aaaa" if guessed != "aaaa-aaaa" else "bbbb-bbbb")
    assert is_refused(codes, "p-1", guessed), "so many guesses, and it is asked for again"
    first, second = codes.ask(wanted()), codes.ask(wanted("p-2"))
    assert is_refused(codes, "p-1", first), "another one has taken its place"
    assert codes.confirm("p-2", second) == wanted("p-2")
    clock.now += 60
    for _ in range(MOST_ASKED):
        codes.ask(wanted())
    with pytest.raises(BusyError):
        codes.ask(wanted())
    clock.now += 60
    codes.ask(wanted())


@given(st.text(max_size=200))
def test_no_text_is_a_code_but_the_code(text: str) -> None:
    codes = Confirmations(Clock())
    code = codes.ask(wanted())
    assert is_refused(codes, "p-1", text) or text.strip().lower().replace("-", "") == code.replace("-", "")
