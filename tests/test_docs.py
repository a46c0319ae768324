"""Docs are tests: what SPEC.md names exists, links lead somewhere, generated pages are current."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_test_and_benchmark_that_spec_names_exists() -> None:
    named = re.findall(r"`((?:tests|bench|scripts)/[^`]+)`", (ROOT / "docs/SPEC.md").read_text())
    assert len(named) > 15
    for name in named:
        file, _, function = name.partition("::")
        assert (ROOT / file).exists(), name
        if function:
            assert f"def {function}(" in (ROOT / file).read_text(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_method_of_the_socket_is_documented() -> None:
    from bridgehold.host.cell.artifact_methods import Artifacts
    from bridgehold.host.cell.methods import Methods
    from bridgehold.host.cell.unified import Unified
    from bridgehold.host.front.bridge_methods import BridgeMethods
    from bridgehold.host.tenancy import Tenancy
    from bridgehold.host.token_admin import TokenAdmin

    page = (ROOT / "docs/reference/host-protocol.md").read_text()
    kinds = (Methods, Unified, Artifacts, BridgeMethods, Tenancy, TokenAdmin)
    tables = [kind.table(kind.__new__(kind)) for kind in kinds]
    for name in (*(name for table in tables for name in table), "hello", "cancel"):
        assert f"| `{name}` |" in page, name


def test_every_folder_of_the_layout_is_documented() -> None:
    from bridgehold.config.layout import Layout

    page = (ROOT / "docs/reference/files.md").read_text()
    layout = Layout(config=Path("config"), state=Path("state"), run=Path("run"))
    for name, value in vars(Layout).items():
        if isinstance(value, property):
            assert f"`{getattr(layout, name)}" in page, name


def test_nothing_names_a_machine_a_registry_or_a_session() -> None:
    pattern = re.compile(r"(?<![\w.])/(?:work|farm|root)/|IN_FLIGHT")
    for folder in ("src", "docs", "scripts", "bench"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".md", ".toml", ".sh", ""} and path.is_file():
                assert not pattern.search(path.read_text(errors="replace")), path


def test_all_that_callers_use_is_described() -> None:
    page = (ROOT / "docs/reference/python.md").read_text()
    assert page.count("\n- **") > 70
    bare = re.findall(r"^- \*\*(\w+)\*\*.*\n\s*\n(?:- |\n)", page, re.MULTILINE)
    bare += re.findall(r"^### (\w+)\n\n+(?:Fields|#|- )", page, re.MULTILINE)
    assert not bare


def test_every_command_that_shows_a_control_is_there() -> None:
    from bridgehold.audit.reading.language import parse
    from bridgehold.faces.cli.tree import TREE, Group

    known = {entry.name: entry for entries in TREE.values() for entry in entries}
    shown = 0
    for row in (ROOT / "docs/reference/controls.md").read_text().splitlines():
        for span in re.findall(r"`([^`]+)`", row.split(" | ")[1] if row.startswith("| ") else ""):
            words = span.removeprefix("bridgehold ").split()
            if words[0] not in known:
                assert words[0].startswith("["), span
                continue
            entry, shown = known[words[0]], shown + 1
            if isinstance(entry, Group) and words[1:]:
                assert words[1] in {one.name for one in entry.commands}, span
            for question in re.findall(r"'([^']+)'", span):
                parse(question)
    assert shown > 25
