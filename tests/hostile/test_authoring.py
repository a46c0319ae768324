"""From nothing, or from a script, to a bridge that runs, is checked and is tested: each command as a stranger."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ways import open_way

SCRIPT = '''
import sys, json, requests_like_package
from os import path

class Bridge:
    def __init__(self):
        self.handlers = {"ping": self.handle_ping, "create_program": self.handle_create_program}

    def handle_ping(self, args):
        return {"status": "ok"}

    def handle_create_program(self, args):
        """Make a program."""
        return {"id": args["id"], "kind": args.get("kind", "x"), "lm": args.get("class")}

    def run(self, command, args):
        if command == "list_programs":
            return []
        if command in ("a", "b"):
            return []

open("/tmp/bridgehold-must-not-run", "w")
'''


@pytest.fixture
def home(tmp_path: Path) -> Path:
    open_way(tmp_path)
    return tmp_path / "home"


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(home)}
    command = [sys.executable, "-m", "bridgehold", *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd="/", timeout=120
    )


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which `bridge new` has made a bridge, with its policy."""
    home = tmp_path_factory.mktemp("made") / "home"
    made = run(home, "bridge", "new", "toy")
    assert made.returncode == 0, made.stderr
    return home


@pytest.fixture
def toy(home: Path, made_once: Path) -> Path:
    """The folder of a new bridge, "toy", of this home's."""
    shutil.copytree(made_once, home)
    return home / "config/bridges/toy"


def test_a_new_bridge_runs_is_checked_and_its_own_tests_pass(home: Path) -> None:
    made = run(home, "bridge", "new", "my-greeter")
    assert made.returncode == 0, made.stderr
    folder = home / "config/bridges/my-greeter"
    assert str(folder / "bridge.toml") in made.stdout
    said = run(home, "run", "my-greeter:create_greeting", "--args", '{"words": "Hi {name}", "id": "hi"}')
    assert json.loads(said.stdout) == {"greeting_id": "hi"}
    checked = run(home, "bridge", "check", "my-greeter", "--json")
    assert checked.returncode == 0
    assert {one["status"] for one in json.loads(checked.stdout)} == {"PASS"}
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(home)}
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert "2 passed" in tested.stdout, tested.stdout
    again = run(home, "bridge", "new", "my-greeter")
    assert (again.returncode != 0, "there already" in again.stderr) == (True, True)
    assert "Traceback" not in run(home, "bridge", "new", "../evil").stderr
    assert not (home / "config/evil").exists()


def test_a_bridge_that_breaks_its_word_fails_its_check(home: Path) -> None:
    run(home, "bridge", "new", "liar")
    code = home / "config/bridges/liar/liar_bridge.py"
    text = code.read_text()
    code.write_text(text.replace("    def greet(", "    def greeting("))
    checked = run(home, "bridge", "check", "liar", "--json")
    assert checked.returncode == 1
    failed = [one for one in json.loads(checked.stdout) if one["status"] == "FAIL"]
    assert [one["name"] for one in failed] == ["starts"]
    assert "greet" in failed[0]["detail"]
    asked = home / "config/bridges/liar/bridge.toml"
    before = asked.read_text()
    asked.write_text(before.replace("[resources", 'requirements = "r.in"\nlock = "r.lock"\n[resources', 1))
    unlocked = json.loads(run(home, "bridge", "check", "liar", "--json").stdout)[-1]
    assert "r.lock" in unlocked["detail"]
    assert "`bridgehold bridge lock liar` writes it" in unlocked["detail"]
    asked.write_text(before)
    code.write_text(f"{text}\nraise RuntimeError('at import')\n")
    checked = run(home, "bridge", "check", "liar")
    assert checked.returncode == 1
    assert f'liar_bridge.py", line {text.count(chr(10)) + 2}' in checked.stdout  # its author sees where
    code.write_text(
        text.replace(
            "def greet(self, greeting_id, name):",
            "def greet(self, **anything):\n        import os; os._exit(3)",
        )
    )
    manifest = home / "config/bridges/liar/bridge.toml"
    manifest.write_text(
        manifest.read_text().replace('required = ["greeting_id", "name"]\n', "additionalProperties = true\n")
    )
    checked = run(home, "bridge", "check", "liar", "--json")
    assert checked.returncode == 1, checked.stdout
    assert "outlives refusals" in {
        one["name"] for one in json.loads(checked.stdout) if one["status"] == "FAIL"
    }


def test_a_scripts_commands_become_a_draft_and_the_script_never_runs(home: Path) -> None:
    marker = Path("/tmp/bridgehold-must-not-run")
    script = home.parent / "old.py"
    script.write_text(SCRIPT)
    made = run(home, "bridge", "new", "old", "--from", str(script))
    assert made.returncode == 0, made.stderr
    assert not marker.exists()
    folder = home / "config/bridges/old"
    assert (folder / "requirements.in").read_text() == "requests_like_package\n"
    shown = json.loads(run(home, "bridge", "show", "old", "--json").stdout)
    assert set(shown) == {"create_program", "list_programs"}
    assert shown["create_program"]["summary"] == "Make a program."
    assert shown["create_program"]["arguments"]["required"] == ["id"]
    assert set(shown["create_program"]["arguments"]["properties"]) == {"id", "kind", "class"}
    assert shown["list_programs"]["effect"] == "read"
    compile((folder / "old_bridge.py").read_text(), "old_bridge.py", "exec")
    (home.parent / "none.py").write_text("x = 1")
    for wrong in ("none.py", "absent.py"):
        said = run(home, "bridge", "new", "other", "--from", str(home.parent / wrong))
        assert (said.returncode != 0, "Traceback" in said.stderr) == (True, False)


def test_dev_runs_again_after_each_save_and_shows_what_went_wrong(home: Path, toy: Path) -> None:
    code = toy / "toy_bridge.py"
    nothing = run(home, "bridge", "dev", "toy")
    assert (nothing.returncode, "bridgehold bridge dev toy:create_greeting" in nothing.stderr) == (2, True)
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(home)}
    arguments = ["bridge", "dev", "toy:create_greeting", "--args", '{"words": "{name}"}', "--runs", "3"]
    with (
        subprocess.Popen(
            [sys.executable, "-m", "bridgehold", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
        ) as process,
        contextlib.ExitStack() as after,
    ):
        after.callback(process.kill)  # whoever fails here waits for no save
        assert process.stdout is not None
        heard: list[str] = []

        def until(text: str) -> None:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not any(text in line for line in heard):
                heard.append(process.stdout.readline())  # type: ignore[union-attr]  # asserted above
            assert any(text in line for line in heard), heard
            heard.clear()

        until("waiting for a save")
        code.write_text(code.read_text().replace("return {", "print('seen'); 1 / 0; return {", 1))
        until("in create_greeting")
        until("ZeroDivisionError")
        until("waiting for a save")
        code.write_text(code.read_text().replace("1 / 0; ", ""))
        until("seen")
        assert process.wait(60) == 0


@pytest.mark.network
def test_a_lock_is_resolved_with_hashes_and_names_no_index(home: Path, toy: Path) -> None:
    folder = toy
    assert "asks for no packages" in run(home, "bridge", "lock", "toy").stderr
    manifest = folder / "bridge.toml"
    manifest.write_text(
        manifest.read_text().replace(
            "[resources", 'requirements = "requirements.in"\nlock = "requirements.lock"\n[resources', 1
        )
    )
    (folder / "requirements.in").write_text("six\n")
    (folder / "requirements.lock").write_text("")
    said = run(home, "bridge", "lock", "toy")
    assert said.returncode == 0, said.stderr
    text = (folder / "requirements.lock").read_text()
    assert text.startswith("six==")
    assert "--hash=sha256:" in text
    assert "://" not in text
    (folder / "requirements.in").write_text("no-such-package-of-bridgehold\n")
    said = run(home, "bridge", "lock", "toy")
    assert (said.returncode != 0, "Traceback" in said.stderr) == (True, False)
    assert (folder / "requirements.lock").read_text() == text


@pytest.mark.parametrize(
    "line",
    [
        "-e ./evil",
        "./evil",
        "evil @ file://{evil}",
        "evil @ git+file://{evil}",
        "--index-url http://127.0.0.1:9/simple",
        "-r other.in",
        "--no-binary :all:",
        "six --config-settings=x=y",
        "six \\\n-e ./evil",
    ],
)
def test_a_lock_never_runs_what_a_bridge_asks_for(home: Path, toy: Path, line: str) -> None:
    """A resolver asks a source tree what it needs by running its code."""
    folder = toy
    manifest = folder / "bridge.toml"
    manifest.write_text(
        manifest.read_text().replace(
            "[resources", 'requirements = "requirements.in"\nlock = "requirements.lock"\n[resources', 1
        )
    )
    evil, mark = folder / "evil", home / "mark"
    evil.mkdir()
    (evil / "setup.py").write_text(
        f"open({str(mark)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='evil', version='1')\n"
    )
    (folder / "other.in").write_text("-e ./evil\n")
    (folder / "uv.toml").write_text('index-url = "http://127.0.0.1:9/simple"\n')
    (folder / "requirements.in").write_text(line.format(evil=evil) + "\n")
    (folder / "requirements.lock").write_text("")
    said = run(home, "bridge", "lock", "toy")
    assert said.returncode != 0
    assert "requirements.in:1" in said.stderr
    assert "by name" in said.stderr
    assert not mark.exists()
    assert (folder / "requirements.lock").read_text() == ""
