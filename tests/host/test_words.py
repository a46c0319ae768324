"""What the command line says to who writes as people write: a remedy, the nearest right word, what is used."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bridgehold.host.faces.cli.border import guarded
from bridgehold.host.faces.cli.main import app
from bridgehold.host.layout import Layout, find_layout

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("BRIDGEHOLD_HOME", str(tmp_path / "home"))
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path / "home")}, 0)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent, layout.config.parent):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    for folder in (layout.policies, layout.tenants, layout.bridges):
        folder.mkdir(parents=True)
    return layout


@pytest.fixture
def say(home: Layout, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Say:
    """The command line in this process: (status, out, err)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bridgehold", *arguments])
        status = guarded(lambda: app(prog_name="bridgehold", standalone_mode=False))
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def test_policy_check_names_what_nothing_here_bears_in_files_and_layouts(home: Layout, say: Say) -> None:
    (home.config_file).write_text('[providers.mistral]\nbase_url = "https://api.mistral.ai/v1"\n')
    policy = home.policies / "dspy.toml"
    policy.write_text(
        'extends = "dspy"\n[operations]\ndeny = ["dspy:delete_progam"]\n'
        '[network.endpoints.mistal]\npaths = ["/chat/completions"]\n'
    )
    (home.tenants / "acme.toml").write_text('[bridges.dspy.operations]\ndeny = ["dspy:exeute_program"]\n')
    status, out, _ = say("policy", "check")
    assert status == 5
    assert f"{policy}:3: operations.deny: 'dspy:delete_progam': no bridge has such an operation" in out
    assert "(nearest: 'dspy:delete_program')" in out
    assert f"{policy}:4: network.endpoints.mistal: there is no [providers.mistal]" in out
    assert "(nearest: 'mistral')" in out
    assert "acme.toml:2: operations.deny: 'dspy:exeute_program'" in out
    status, out, _ = say("policy", "check", str(policy))
    assert status == 5
    assert out.count("nearest") == 2
    policy.write_text('extends = "dspy"\n[operations]\ndeny = ["dspy:delete_program"]\n')
    (home.tenants / "acme.toml").unlink()
    assert say("policy", "check")[0] == 0
    status, out, _ = say("policy", "explain", "dspy", "--json")
    assert "dspy:delete_program" not in json.loads(out)["operations"]["allow"]
    assert "dspy:create_program" in json.loads(out)["operations"]["allow"]


def test_a_bridge_for_one_tenant_is_written_listed_and_shown_for_it(home: Layout, say: Say) -> None:
    assert say("bridge", "new", "poet", "--tenant", "acme")[0] == 0
    assert (home.own_bridges("acme") / "poet" / "bridge.toml").is_file()
    assert say("bridge", "show", "poet", "--tenant", "acme")[0] == 0
    status, _, err = say("bridge", "show", "poet")
    assert status == 6
    assert "there is no bridge 'poet'" in err
    assert "poet" not in err.partition("There are")[2]
    _, out, _ = say("bridge", "list", "--json")
    assert [one["tenant"] for one in json.loads(out) if one["name"] == "poet"] == ["acme"]
    assert say("policy", "check")[0] == 0
    status, _, err = say("bridge", "show", "pyton")
    assert "(nearest: 'python')" in err
