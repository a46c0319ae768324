"""The review page over a million events, as a browser sees it, beside what its process spends."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import psutil
from bench_audit import a_million
from common import Row, median, row, show
from playwright.sync_api import Page, sync_playwright

NOWHERE, IN_ONE_FIELD = '"nowhere at all"', 'arguments_preview ~ "print(2)"'
FILTERS = {
    "everything": "",
    "refusals": "view=refusals",
    "a tenant": "tenant=tenant7",
    "a tenant that isn't there": "tenant=nobody",
    "a command by its id": "command=c-0000000000250007",
    "a session": "session=s-0000000000002500",
    "a number": f"q={quote('ms > 1h or memory_peak_bytes > 1GiB')}",
    "a time before all": "until=2020-01-01",
    "a text that is nowhere": f"q={quote(NOWHERE)}",
    "a text in one field": f"q={quote(IN_ONE_FIELD)}",
}
RANDOM = 40
LEAVES = (
    "arguments_preview ~ print", 'arguments_preview ~ "rm -rf"', '"print(1)"', '"nowhere at all"', '"a"',
    "transport_ok = true", "transport_ok = false", "ms > 1h", "arguments_bytes >= 20", "pid > 5",
    "kind = command", "kind = command.outcome", "kind = egress.refused", "tenant = tenant7",
    "framework = python", "rule ~ allow", "rule = default-deny", 'reason = ""', 'grant ~ "bbb"', "files ~ a",
    "command ~ 0007", "session = s-0000000000002500", "time >= yesterday", "time < 2020-01-01",
    "tenant ~ nobody",
)  # fmt: skip
"""Of fields with a column and without, of words that are nowhere, rare and in each event."""
SHOWN = (
    "(() => { const one = performance.getEntriesByType('navigation')[0];"
    " return one.domContentLoadedEventEnd - one.startTime; })()"
)


def some_filters() -> list[str]:
    """Any combinations of the language, the same each time."""
    chance = random.Random(19)

    def one(depth: int) -> str:
        if depth == 0 or chance.random() < 0.3:
            return chance.choice(LEAVES)
        if chance.random() < 0.35:
            return f"not ({one(depth - 1)})"
        parts = [one(depth - 1) for _ in range(chance.randint(2, 4))]
        return f"({chance.choice((' and ', ' or ')).join(parts)})"

    return [one(3) for _ in range(RANDOM)]


def worst_of(page: Page, base: str, server: psutil.Process) -> list[Row]:
    """Of random filters; one that takes long is answered in pieces, of which the page shows the first."""
    found, pieces = [], 0
    for question in some_filters():
        seen, cpu = looked(page, f"{base}/timeline?q={quote(question)}", server)
        pieces += page.locator("#further[data-back]").count()
        found.append((seen, cpu, question))
    slowest, dearest = max(found), max(found, key=lambda one: one[1])
    print(f"# the slowest: {slowest[2]}\n# of the processor: {dearest[2]}", file=sys.stderr)
    return [
        row(f"review: the worst of {RANDOM} random filters", slowest[0], "ms", most=500),
        row(f"review: the worst of {RANDOM} random filters, of the processor", dearest[1], "ms"),
        row("review: of these, answered in pieces", pieces, ""),
    ]


def begin(audit: Path, cache: Path) -> tuple[subprocess.Popen[str], str]:
    env = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    argv = [sys.executable, "-I", "-m", "bridgehold", "review", str(audit)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    process.wait(60)


def looked(page: Page, url: str, process: psutil.Process) -> tuple[float, float]:
    """Milliseconds until it stands in the browser, and of the process's processor meanwhile."""
    before = process.cpu_times()
    page.goto(url)
    after = process.cpu_times()
    spent = after.user + after.system - before.user - before.system
    return float(page.evaluate(SHOWN)), spent * 1000


def measure(audit: Path, cache: Path, chromium: str) -> list[Row]:
    end(begin(audit, cache)[0])  # the index is there from here on
    began = time.perf_counter()
    process, link = begin(audit, cache)
    rows = [row("review of a million events: until its link", (time.perf_counter() - began) * 1000, "ms")]
    base, server = link.partition("/enter")[0], psutil.Process(process.pid)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(link)
            rows.append(row("review: the first page of all", float(page.evaluate(SHOWN)), "ms", most=300))
            page.locator("body[data-reading]").wait_for(state="detached", timeout=300_000)
            page.goto(f"{base}/trust")
            while page.get_by_text("Look again").count():
                time.sleep(1)
                page.reload()
            asked = {"the overview": "/", **{name: f"/timeline?{text}" for name, text in FILTERS.items()}}
            for name, path in asked.items():
                found = [looked(page, base + path, server) for _ in range(5)]
                most = 300 if path == "/" else 500
                rows.append(row(f"review: {name}", median([seen for seen, _ in found]), "ms", most=most))
                spent = median([cpu for _, cpu in found])
                rows.append(row(f"review: {name}, of the processor", spent, "ms"))
            rows += worst_of(page, base, server)
            rows.append(row("review: memory of the process", server.memory_info().rss / 2**20, "MiB"))
            browser.close()
    finally:
        end(process)
    return rows


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("no chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="bh-bench-", dir=Path.cwd()) as home:
        audit = Path(home) / "audit"
        audit.mkdir()
        a_million(audit)
        show(measure(audit, Path(home) / "cache", chromium))


if __name__ == "__main__":
    main()
