"""`deploy/`: what an operator installs says what the pages say, and what each platform's own schema takes."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
SET_BY_THE_MACHINE = {"MemoryMax", "LoadCredentialEncrypted", "Description"}
"""What the page's unit has for its reader to change."""
ONLY_INSTALLED = {"Documentation", "Wants", "RestartPreventExitStatus", "AppArmorProfile"}


def directives(text: str) -> set[tuple[str, str]]:
    return {
        (name, value.strip())
        for name, _, value in (line.partition("=") for line in text.splitlines() if "=" in line)
        if not name.startswith("#")
    }


def test_the_installed_unit_is_the_pages_unit() -> None:
    page = (ROOT / "docs/how-to/service.md").read_text()
    shown = directives(
        page.partition("```ini\n# /etc/systemd/system/bridgehold.service\n")[2].partition("```")[0]
    )
    installed = directives((DEPLOY / "systemd/bridgehold.service").read_text())
    assert len(shown) > 20
    assert {name for name, _ in shown - installed} <= SET_BY_THE_MACHINE
    assert {name for name, _ in installed - shown} <= SET_BY_THE_MACHINE | ONLY_INSTALLED


@pytest.mark.parametrize(
    ("shell", "first"),
    [
        ("bash", "_bridgehold_completion() {"),
        ("zsh", "#compdef bridgehold"),
        ("fish", "complete --command bridgehold"),
    ],
)
def test_each_shell_gets_its_own_completion(shell: str, first: str) -> None:
    loader = SourceFileLoader("package_script", str(ROOT / "scripts/package"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    package = importlib.util.module_from_spec(spec)
    loader.exec_module(package)
    text = package.completion(Path(sys.executable).parent / "bridgehold", shell)
    assert text.startswith(first)
    assert f"complete_{shell}" in text


def test_as_a_user_nothing_is_on_that_implies_no_new_privileges() -> None:
    dropped = directives((DEPLOY / "systemd/as-user.conf").read_text())
    page = (ROOT / "docs/how-to/service.md").read_text()
    root_only = directives(
        page.partition("# These are safe as root only")[2].partition("\n")[2].partition("[Install]")[0]
    )
    assert {name for name, _ in root_only} == {name for name, _ in dropped} - {"User", "Environment"}
    assert ("User", "bridgehold") in dropped


@pytest.mark.parametrize("version", ["1.31", "1.34", "1.37"])
def test_kubernetes_takes_every_manifest(version: str) -> None:
    tool = ROOT / ".environments/deploy/bin/kubernetes-validate"
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    done = subprocess.run(
        [tool, "--strict", "-k", version, *files], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count(" passed for resource ") >= 6


def test_every_script_is_one_that_a_plain_shell_reads() -> None:
    scripts = [DEPLOY / "entrypoint", *(DEPLOY / "debian").iterdir()]
    assert len(scripts) == 4
    for script in scripts:
        assert script.read_text().startswith("#!/bin/sh\n"), script
        assert script.stat().st_mode & 0o111, script
        assert subprocess.run(["sh", "-n", script], check=False).returncode == 0, script


def test_nothing_secret_can_come_into_an_image() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    assert set(re.findall(r"^(?:COPY|ADD) +(\S+)", text, re.MULTILINE)) == {"dist/*.deb", "deploy/entrypoint"}
    assert not re.search(r"(?i)^(ARG|ENV) .*(key|token|secret|password)", text, re.MULTILINE)
