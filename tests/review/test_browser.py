"""The page as a person sees it: in Debian's Chromium, at three widths, light and dark, with hostile words in it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from audit.audit_support import Filler
from bridgehold.audit.events import CommandRefused
from bridgehold.audit.reading.linear import every_hit
from bridgehold.faces.review.question import REFUSED
from review.conftest import Shown
from review.test_pages import HOSTILE, hostile

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"), reason="no chromium: apt-get install chromium"
    ),
    pytest.mark.timeout(300),  # seconds of the processor, on a machine that may be busy with much else
]
PATIENCE_MS = 30_000
TUTORIAL = Path(__file__).parents[2] / "docs/tutorial/review.md"
AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
WIDTHS = (1600, 900, 400)
TURNED = ("/", "/timeline")
"""What is laid out otherwise in a narrow window."""
PAGES = (
    "/",
    "/timeline",
    "/timeline?q=hots+%3D+x",
    "/refusals",
    "/sessions",
    "/keys",
    "/changes",
    "/proposals",
    "/trust",
)


class Command(NamedTuple):
    """`bridgehold review`, and the link that it printed."""

    process: subprocess.Popen[str]
    link: str

    @property
    def base(self) -> str:
        return self.link.partition("/enter?token=")[0]


IN_PIECES = """
import runpy, sys
from bridgehold.audit.reading import watch
from bridgehold.faces.review import app
app._ANSWER_S, app._PIECE_S, watch._FIRST = -1.0, -1.0, 3
runpy.run_module("bridgehold", run_name="__main__", alter_sys=True)
"""
"""As if no question had the time for more than three events."""


def begin(audit: Path, cache: Path, config: Path, *, in_pieces: bool = False) -> Command:
    run = ["-c", IN_PIECES] if in_pieces else ["-m", "bridgehold"]
    argv = [sys.executable, "-I", *run, "review", str(audit), "--config", str(config)]
    env = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
    assert process.stdout is not None
    return Command(process, process.stdout.readline().strip())


def end(command: Command) -> None:
    command.process.send_signal(signal.SIGINT)
    try:
        assert command.process.wait(30) == 0
    finally:
        command.process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def served(shown: Shown) -> Iterator[Command]:
    command = begin(shown.audit, shown.cache, shown.config)
    yield command
    end(command)


@pytest.fixture(scope="module")
def let_in(browser: Browser, served: Command) -> Any:
    """What a browser keeps that the link has let in; another that opens the same link is refused."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(served.link)
    assert page.url == f"{served.base}/"  # no token in the bar, or in the history
    [cookie] = context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["expires"]) == (True, "Strict", -1)
    kept = context.storage_state()
    other = browser.new_context().new_page()
    answer = other.goto(served.link)
    assert answer is not None
    assert answer.status == 401
    expect(other.get_by_role("heading")).to_have_text("This token has been used.")
    return kept


def faults(page: Page, rules: str = "") -> list[str]:
    """What axe finds, by all of its rules or by these alone."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    only = f", runOnly: {{type: 'rule', values: ['{rules}']}}" if rules else ""
    found = page.evaluate(f"axe.run(document, {{resultTypes: ['violations']{only}}})")
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found["violations"]]


def watch(page: Page, base: str) -> list[str]:
    """What must not happen: a request elsewhere, a dialog, a complaint of the browser's."""
    seen: list[str] = []
    page.on("request", lambda one: one.url.startswith(base) or seen.append(f"request {one.url}"))
    page.on("dialog", lambda one: (seen.append(f"dialog {one.message}"), one.dismiss()))
    page.on("console", lambda one: one.type == "error" and seen.append(f"console {one.text}"))
    page.on("pageerror", lambda one: seen.append(f"error {one}"))
    return seen


def test_every_page_fits_and_has_no_finding(browser: Browser, served: Command, let_in: Any) -> None:
    context = browser.new_context(storage_state=let_in)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    seen = watch(page, served.base)
    found: dict[str, list[str]] = {}
    page.goto(f"{served.base}/timeline?view=refusals&framework=dspy")
    event = page.locator("ol.events a").first.get_attribute("href")
    page.goto(f"{served.base}/sessions")
    session = page.locator("tbody th a").last.get_attribute("href")
    for path in (*PAGES, str(event), str(session)):
        wrong = found.setdefault(path, [])
        page.emulate_media(color_scheme="light")
        page.goto(f"{served.base}{path}")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            if not page.evaluate("document.documentElement.scrollWidth <= innerWidth"):
                wrong.append(f"it is wider than {width}")
            if width == WIDTHS[0] or (path in TURNED and width == WIDTHS[-1]):
                wrong += faults(page)
        page.emulate_media(color_scheme="dark")
        wrong += faults(page, "color-contrast")
    context.close()
    assert not any(found.values()), found
    assert not seen


def test_a_walk_by_keyboard_from_the_question_to_the_line(
    browser: Browser, served: Command, let_in: Any
) -> None:
    context = browser.new_context(storage_state=let_in)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(served.base)
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to what is shown")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Timeline").press("Enter")
    page.get_by_label("Question").fill("kind = command.refused and framework = dspy")
    page.keyboard.press("Enter")
    page.locator("ol.events a").first.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("dspy:evaluate_program was refused")
    expect(page.get_by_text("what denies wins")).to_be_visible()
    expect(page.get_by_text("(this line decided)")).to_have_count(1)
    page.get_by_text("The line as it is stored").press("Enter")
    expect(page.locator("pre.wrap")).to_contain_text('"kind":"command.refused"')
    assert page.evaluate("getComputedStyle(document.querySelector('summary')).outlineStyle") is not None
    page.goto(f"{served.base}/report")
    assert page.pdf().startswith(b"%PDF")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 1030, "height": 700})  # of A4, laid down
    for path in ("/", "/report"):
        page.goto(f"{served.base}{path}")
        wide = "[...document.querySelectorAll('.scroll table')].filter((one) => one.scrollWidth > innerWidth).length"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert page.evaluate(wide) == 0, path
    context.close()


Nine = tuple[tuple[str, tuple[str | re.Pattern[str], ...], str | re.Pattern[str]], ...]
NINE: Nine = (
    ("Trust", (), "Each stored byte is the one that was written, in its place."),
    ("Overview", (), "docs.example.org:443"),
    ("Overview", (re.compile(r"^openai \d+×"),), "api.openai.com answered 200"),
    ("Refusals", (), "the operation 'dspy:evaluate_program' is denied by 'dspy:evaluate_*'"),
    ("Timeline", ("Refusals", "asked for dspy:evaluate_program"), "Remove the pattern from operations.deny"),
    ("Keys and budgets", (), "put in at the gateway"),
    ("Keys and budgets", (), "of 400\N{NARROW NO-BREAK SPACE}000 tokens"),
    ("Changes", (), "+ network.connect docs.example.org:443"),
    ("Changes", (), "by maria"),
)
"""Where the tutorial sends a reader for each question: a page, links on it, and words of the answer."""


def answer(page: Page, nine: Nine) -> None:
    """Go where the tutorial sends a reader, by what can be clicked."""
    for number, (name, links, words) in enumerate(nine, 1):
        page.get_by_role("navigation", name="Pages").get_by_role("link", name=name, exact=True).click()
        for link in links:
            page.get_by_role("main").get_by_role("link", name=link).first.click()
        expect(page.get_by_role("main"), f"question {number}").to_contain_text(words)


def test_the_nine_questions_by_the_page_alone(browser: Browser, served: Command, let_in: Any) -> None:
    told = TUTORIAL.read_text(encoding="utf-8").partition("## By the page alone")[2]
    rows = re.findall(r"^\| (\d)\. [^|]+\| ([^|]+) \|$", told, re.MULTILINE)
    assert [int(number) for number, _ in rows] == [*range(1, 10)]
    context = browser.new_context(storage_state=let_in)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(served.base)
    answer(page, NINE)
    for page_name in ("Trust", "Overview", "Refusals", "Keys and budgets", "Changes"):
        assert f"*{page_name}*" in told
    context.close()


def test_what_is_hostile_is_text_and_what_is_new_comes_by_itself(browser: Browser, tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    audit.mkdir()
    filler = Filler(audit, sync=lambda _: None)
    for words in HOSTILE:
        hostile(filler, words)
    command = begin(audit, tmp_path / "cache", tmp_path, in_pieces=True)
    try:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        seen = watch(page, command.base)
        page.goto(command.link)
        for path in (*PAGES, "/session/s-0123456789abcdef"):
            page.goto(command.base + path)
            assert not page.evaluate(
                "document.querySelectorAll('main script, main img, [onload], [style]').length"
            )
        page.goto(f"{command.base}/timeline?view=refusals")
        expect(page.locator("#further[data-back]")).to_have_count(0)  # it went on by itself, to the beginning
        assert not faults(page)
        assert page.locator("li.row").count() == sum(hit.entry.kind in REFUSED for hit in every_hit(audit))
        before = page.locator("li.row").count()
        page.get_by_role("button", name="Live").click()
        expect(page.get_by_role("status")).to_have_text("Waiting for new events")
        late = {"tenant": "acme", "bridge": "b", "rule": "default-deny", "source": ""}
        filler.put(*(CommandRefused(**late, operation=f"<b>late{n}</b>", reason="no") for n in range(3)))
        expect(page.get_by_role("status")).to_contain_text("3 new")
        expect(page.locator("li.row")).to_have_count(before + 3)
        expect(page.locator("li.row").first).to_contain_text("<b>late2</b>")
        assert not page.locator("main b").count()
        assert not [one for one in seen if not re.match(r"console .*(400|404)", one)]
    finally:
        end(command)
        filler.close()
