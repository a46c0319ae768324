"""The demo, whole and for real: every scene must come to what it says (it exits 1 otherwise)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from bridgehold.audit.read import read_all
from bridgehold.audit.verify import verify_audit
from hostile.stage import copy_environment
from review.test_browser import CHROMIUM, Nine, answer, begin, end
from typed import ROOT, Shell, blocks

NINE: Nine = (
    ("Trust", (), "Each stored byte is the one that was written, in its place."),
    ("Overview", (), "anthropic (put in)"),
    ("Overview", (re.compile(r"^openai \d+×"),), "answered 200"),
    ("Refusals", (), "no tunnel to 127.0.0.1"),
    ("Timeline", ("Refusals", re.compile("asked for POST 127.0.0.1")), "What would change it"),
    ("Keys and budgets", (), "put in at the gateway"),
    ("Keys and budgets", (), re.compile(r"\d+ tokens")),
    ("Changes", (), "policy demo-dspy"),
    ("Changes", (), "by owner"),
)
"""As of `review.test_browser`, of what the demo plays."""


@pytest.fixture
def home() -> Iterator[Path]:
    """Open to all, as a cache folder is: what builds in it has another uid. (pytest's own are closed.)"""
    made = Path(tempfile.mkdtemp(prefix="bh-demo-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.network
@pytest.mark.timeout(420)
def test_the_demo_plays_to_its_end(home: Path) -> None:
    """As its second run after a first that was cut off: dspy's environment is there, custom's is built."""
    copy_environment("dspy", home / "state/envs")
    done = subprocess.run(
        [sys.executable, "-m", "bridgehold", "demo", "--home", str(home)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "NOT AS IT MUST BE" not in done.stdout
    report = verify_audit(home / "state" / "audit")
    assert report.integrity.ok
    assert report.completeness.ok
    for bridge in ("dspy", "stealer"):  # what is in force refuses nothing that ran
        review = [sys.executable, "-m", "bridgehold", "policy", "simulate", bridge, "--json"]
        seen = subprocess.run(
            review, env={**os.environ, "BRIDGEHOLD_HOME": str(home)}, capture_output=True, check=True
        )
        said = json.loads(seen.stdout)
        assert said["asked"] > 1
        assert said["different"] == []
    kinds = {entry.kind for entry in read_all(home / "state" / "audit")}
    assert {
        "command.intent",
        "command.outcome",
        "egress.outcome",
        "egress.refused",
        "worker.attested",
    } <= kinds
    stranger = home / "stranger"
    stranger.mkdir()
    shell = Shell(stranger, BRIDGEHOLD_HOME=str(home))
    try:
        for block in blocks(ROOT / "docs/tutorial/review.md"):  # the nine questions, on what was just played
            if block.runs:
                shell.type(block, socket_path=stranger)
    finally:
        shell.close()
    assert shell.ran > 10
    if CHROMIUM is not None or os.environ.get("CI"):
        look(stranger / "reviewed", home)


def look(audit: Path, home: Path) -> None:
    """The same nine by the page alone, on the same copy."""
    command = begin(audit, home / "cache", home / "nothing-here")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page()
            page.set_default_timeout(60_000)
            page.goto(command.link)
            page.locator("body[data-reading]").wait_for(state="detached")
            page.goto(f"{command.base}/trust")
            while page.get_by_role("link", name="Look again").count():
                page.get_by_role("link", name="Look again").click()
            answer(page, NINE)
            browser.close()
    finally:
        end(command)
