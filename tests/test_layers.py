"""The layers between the rooms, what the guest side may import, and the generated pages."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
GUEST = (ROOT / "src/bridgehold_sdk", ROOT / "src/bridgehold/sandbox/inner")


def test_the_contracts_of_the_layers_hold() -> None:
    command = [
        str(Path(sys.executable).with_name("lint-imports")),
        "--config",
        "pyproject.toml",
        "--no-cache",
    ]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert " 0 broken" in found.stdout


def foreign_imports(source: str, own: str) -> set[str]:
    """Top-level names that `source` imports, at any depth, beyond the standard library and `own`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names - set(sys.stdlib_module_names) - {own, "__future__"}


@pytest.mark.parametrize("folder", GUEST, ids=lambda folder: folder.name)
def test_the_guest_side_imports_the_standard_library_only(folder: Path) -> None:
    files = sorted(folder.rglob("*.py"))
    assert files
    found = {str(file): foreign_imports(file.read_text(encoding="utf-8"), "bridgehold_sdk") for file in files}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize("folder", GUEST, ids=lambda folder: folder.name)
def test_the_guest_side_is_python_3_10(folder: Path) -> None:
    for file in folder.rglob("*.py"):
        ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 10))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import os, json.decoder\nfrom bridgehold_sdk.wire import x\nfrom . import y", set()),
        ("def f():\n    import msgspec.json", {"msgspec"}),
        ("try:\n    from bridgehold.ids import x\nexcept ImportError: pass", {"bridgehold"}),
    ],
)
def test_the_import_check_sees_foreign_imports(source: str, expected: set[str]) -> None:
    assert foreign_imports(source, "bridgehold_sdk") == expected


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "scripts/generate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date(generator: ModuleType) -> None:
    assert generator.stale() == []


def test_generating_is_stable(generator: ModuleType) -> None:
    assert [page.text() for page in generator.DOCUMENTS] == [page.text() for page in generator.DOCUMENTS]


def test_a_page_that_was_edited_or_lost_is_found(generator: ModuleType, tmp_path: Path) -> None:
    pages = generator.DOCUMENTS
    for page in pages[:2]:
        path = tmp_path / page.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page.text(), encoding="utf-8")
    (tmp_path / pages[1].path).write_text(pages[1].text() + " ", encoding="utf-8")
    assert generator.stale(pages, tmp_path) == [page.path for page in pages[1:]]


def test_every_error_and_event_has_its_row(generator: ModuleType) -> None:
    from bridgehold.audit.events import event_types, kind_of
    from bridgehold.errors import error_classes

    errors, events = generator.make_errors(), generator.make_events()
    assert all(f"| `{kind.code}` | {kind.exit_status} |" in errors for kind in error_classes())
    assert all(f"## `{kind_of(kind)}`" in events for kind in event_types())


def test_error_codes_and_exit_statuses_are_unique() -> None:
    from bridgehold.errors import error_classes

    kinds = error_classes()
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert len({kind.exit_status for kind in kinds}) == len(kinds)


def _said_to(tree: ast.AST, calls: dict[str, set[str]], through: dict[str, set[str]]) -> None:
    """By function: the keywords that calls of it say, and the functions whose own keywords it hands on."""
    aliases: dict[str, set[str]] = {}
    literal: dict[str, set[str]] = {}
    handed: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            name = getattr(target, "id", "")
            aliases.setdefault(name, set()).update(
                one.id for one in ast.walk(node.value) if isinstance(one, ast.Name)
            )
            if isinstance(node.value, ast.Dict):
                keys = (getattr(key, "value", "") for key in node.value.keys)
                literal.setdefault(name, set()).update(key for key in keys if isinstance(key, str))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.kwarg is not None:
            handed[node.args.kwarg.arg] = node.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            made = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for name in {made, *aliases.get(made, ())}:
                for keyword in node.keywords:
                    spread = getattr(keyword.value, "id", "")
                    said = {keyword.arg} if keyword.arg else literal.get(spread, set())
                    calls.setdefault(name, set()).update(said)
                    if keyword.arg is None and spread in handed:
                        through.setdefault(name, set()).add(handed[spread])


def test_every_field_of_every_event_is_filled_somewhere() -> None:
    """What the reference promises of an event, some place that writes one says."""
    from bridgehold.audit.events import event_types

    calls: dict[str, set[str]] = {}
    through: dict[str, set[str]] = {}
    for path in (ROOT / "src/bridgehold").rglob("*.py"):
        _said_to(ast.parse(path.read_text(encoding="utf-8")), calls, through)
    ties = {"tenant", "principal", "session", "command"}
    missing = set[str]()
    for kind in event_types():
        name = kind.__name__
        filled = ties.union(calls.get(name, ()), *(calls.get(one, ()) for one in through.get(name, ())))
        missing |= {f"{name}.{field}" for field in kind.__struct_fields__ if field not in filled}
    assert not missing
