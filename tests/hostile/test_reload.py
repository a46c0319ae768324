"""`reload` on a running host: taken over without dropping a session, all or nothing, and at once for rights."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold import BridgeholdError, Client
from bridgehold.config.load import load_config
from bridgehold.keeper.admin import SecretAdmin
from hostile import told_anew
from hostile.stage import MANIFEST, POLICY, Stage, stage
from waiting import eventually

KIND = "root" if os.getuid() == 0 else "self"
TOKEN = "somebody-of-acme"
BRIDGE = """
import os
SEEN_AT_IMPORT = dict(os.environ)
from bridgehold_sdk import Bridge, ToolError, operation

class Hostile(Bridge):
    @operation()
    def act(self, code):
        names = {"bridge": self, "tools": self.tools, "os": os, "seen": SEEN_AT_IMPORT,
                 "ToolError": ToolError, "result": {}}
        exec(compile(code, "act", "exec"), names)
        return names["result"]
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Stage]:
    with stage(KIND, "fork") as ready:
        folder = ready.layout.config / "tools"
        folder.mkdir(mode=0o755)
        (folder / "said.py").write_text("def word(): return 'first'\n")
        name = ready.bridge(manifest=MANIFEST.split("[operations.report]")[0])
        (ready.layout.bridges / name / "hostile.py").write_text(BRIDGE)
        (ready.layout.policies / f"{name}.toml").write_text(
            POLICY + '[tools]\nallow = ["*"]\n[sandbox]\nstart = "fork"\n'
        )
        ready.__dict__["_plain"] = name
        ready.__dict__["first"] = ready.layout.config_file.read_text()
        yield ready


def write(host: Stage, more: str, top: str = "") -> None:
    host.layout.config_file.write_text(top + str(host.__dict__["first"]) + more)


def reload(host: Stage, more: str, top: str = "") -> Any:
    write(host, more, top)
    return host.client.request("reload", {})


def act(host: Stage, code: str) -> Any:
    with host.session() as session:
        return session.run("act", {"code": code})


def refused(host: Stage, code: str = "result['x'] = 1", **more: Any) -> BridgeholdError:
    with pytest.raises(BridgeholdError) as caught, host.client.session(host.plain, **more) as session:
        session.run("act", {"code": code})
    return caught.value


def test_tools_come_change_and_go_while_a_session_lives(host: Stage) -> None:
    word = "result['word'] = tools['word']() if 'word' in tools else None"
    with host.session() as session:
        assert session.run("act", {"code": word})["word"] is None
        found = reload(host, '[tools.word]\nentry = "said:word"\n')
        assert found["applied"]
        assert found["waiting"] == []
        assert session.run("act", {"code": word})["word"] == "first"
        (host.layout.config / "tools" / "said.py").write_text("def word(): return 'second'\n")
        assert session.run("act", {"code": word})["word"] == "second"
        assert reload(host, '[tools.word]\nentry = "said:word"\n')["applied"] == []
        assert session.run("act", {"code": word})["word"] == "second"
        reload(host, "")
        assert session.run("act", {"code": word})["word"] is None
    assert host.events("config.reloaded")[-1]["applied"]


def test_a_fault_changes_nothing_and_names_everything(host: Stage) -> None:
    reload(host, "[features]\nartifacts = false\n")
    write(host, '[features]\nartifacts = true\nnothing = 1\n[tools.x]\nentry = "no"\n')
    with pytest.raises(BridgeholdError) as caught:
        host.client.request("reload", {})
    assert caught.value.code == "config"
    assert "features.nothing" in caught.value.message
    assert "tools.x" in caught.value.message
    with pytest.raises(BridgeholdError, match="artifacts is switched off"):
        host.client.put(b"x")
    write(host, '[features]\nartifacts = true\n[tools.artifact_put]\nentry = "a:b"\n')
    with pytest.raises(BridgeholdError):
        host.client.request("reload", {})
    with pytest.raises(BridgeholdError, match="artifacts is switched off"):
        host.client.put(b"x")
    reload(host, "")
    host.client.remove(host.client.put(b"x").digest)


def test_features_hold_at_once_and_by_tenant(host: Stage) -> None:
    reload(host, '[features]\ntools = ["acme"]\nfork = false\n')

    def word() -> str:
        return "mine"

    assert "tools is switched off" in refused(host, tools=[word]).message
    with host.session() as session:
        info = next(one for one in host.client.request("sessions", {}) if one["id"] == session.id)
        assert info["start"] == "cold"
    reload(host, "")
    with host.session() as session:
        info = next(one for one in host.client.request("sessions", {}) if one["id"] == session.id)
        assert info["start"] == "fork"


@pytest.mark.parametrize("start", ["fork", "cold"])
def test_a_bridges_environment_is_there_from_its_first_import_on(host: Stage, start: str) -> None:
    fork = "true" if start == "fork" else "false"
    reload(
        host,
        f'[features]\nfork = {fork}\n[bridges.{host.plain}.environment]\nTOKENIZERS_PARALLELISM = "false"\n',
    )
    code = "result.update(now=os.environ.get('TOKENIZERS_PARALLELISM'), first=seen.get('TOKENIZERS_PARALLELISM'))"
    assert act(host, code) == {"now": "false", "first": "false"}
    reload(host, "")
    assert act(host, code) == {"now": None, "first": None}


def test_what_is_required_is_named_as_a_whole_before_anything_starts(host: Stage) -> None:
    before = len(host.events("session.opened"))
    reload(
        host,
        f'[bridges.{host.plain}]\nrequired_packages = ["numpy>=2"]\nrequired_secrets = ["crm", "mail"]\n'
        'min_python = "9.9"\n',
    )
    error = refused(host)
    assert error.code == "dependency"
    for part in ("numpy is not in its lock", "secret 'crm'", "secret 'mail'", "Python 9.9"):
        assert part in error.message
    assert len(host.events("session.opened")) == before
    reload(host, f'[bridges.{host.plain}]\nrequired_secrets = ["crm"]\n')
    SecretAdmin.for_layout(host.layout, load_config(host.layout.config_file)).set(
        "local", "crm", b"crm-key-0123456789"
    )
    assert act(host, "result['x'] = 1") == {"x": 1}
    reload(host, "")


def test_what_a_reload_gains_and_loses_is_told_both_ways(host: Stage) -> None:
    """Another policy by a reload, and the one before by the next: each against what was in force."""
    other = host.layout.policies / "reviewed.toml"
    other.write_text(
        f'extends = "{host.plain}"\n[rate]\nframes_per_second = 1000\n[tools]\nallow = ["word*"]\n'
    )
    reload(host, "")
    assert act(host, "result['x'] = 1") == {"x": 1}
    told = []
    for policy in ("reviewed", host.plain):
        reload(host, f'[bridges.{host.plain}]\npolicy = "{policy}"\n')
        assert act(host, "result['x'] = 1") == {"x": 1}
        told.append(host.events("policy.loaded")[-1])
        assert host.events("grant.resolved")[-1]["grant"]["policy"] == policy  # type: ignore[index]  # a whole grant
    assert told[0]["gained"] == ["tools word*"]
    assert told[0]["lost"] == ["tools *", "rate.frames_per_second 2000 → 1000"]
    assert told[1]["gained"] == ["tools *", "rate.frames_per_second 1000 → 2000"]
    assert told[1]["lost"] == ["tools word*"]
    assert [(one["tenant"], one["bridge"], one["name"]) for one in told] == [
        ("local", host.plain, "reviewed"), ("local", host.plain, host.plain),
    ]  # fmt: skip
    sentence = " ".join(command(host, "why", str(told[0]["ref"])).stdout.split())
    assert "gained: tools word*; lost: tools *, rate.frames_per_second" in sentence
    other.unlink()
    reload(host, "")


def test_who_loses_a_tenant_loses_the_connection_at_once(host: Stage) -> None:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    principal = f'[principals.acme]\ntokens = ["sha256:{digest}"]\ntenants = ["{{}}"]\n'
    reload(host, principal.format("acme"))

    async def use() -> None:
        async with await Client.connect(host.layout.socket, token=TOKEN) as client:
            long = asyncio.ensure_future(
                client.call(
                    f"{host.plain}:act",
                    {"code": "import time; time.sleep(30)"},
                    tenant="acme",
                )
            )
            await eventually(lambda: any(one.state == "busy" for one in host.client.sessions()))
            with pytest.raises(BridgeholdError) as caught:
                await client.request("reload", {})  # no operator
            assert caught.value.code == "denied"
            await asyncio.to_thread(reload, host, principal.format("other"))
            with pytest.raises(BridgeholdError):
                await asyncio.wait_for(long, 30)
        async with await Client.connect(host.layout.socket, token=TOKEN) as client:
            with pytest.raises(BridgeholdError) as caught:
                await client.call(f"{host.plain}:act", {"code": ""}, tenant="acme")
            assert caught.value.code == "denied"

    asyncio.run(use())
    reload(host, "")


def command(host: Stage, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bridgehold", *arguments],
        env={**os.environ, "BRIDGEHOLD_HOME": str(host.layout.config.parent), **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_provider_comes_moves_and_goes(host: Stage) -> None:
    write(host, "")
    told_anew.a_provider_comes_moves_and_goes(host, "local")


def test_a_folder_of_scripts_comes_and_goes(host: Stage) -> None:
    """As root below one of the folders, of which the launcher's own stage covers one or another."""
    write(host, "")
    with tempfile.TemporaryDirectory(dir="/mnt" if KIND == "root" else None) as folder:
        os.chmod(folder, 0o755)
        told_anew.a_folder_of_scripts_comes_and_goes(host, "local", Path(folder) / "python")


def test_a_misspelt_name_is_refused_before_anything_is_done_with_it(host: Stage) -> None:
    for arguments, said in (
        (("sessions", "drain", "--tenant", "locl"), "there is no tenant 'locl' (nearest: 'local')"),
        (("sessions", "resume", "--tenant", "locl"), "there is no tenant 'locl' (nearest: 'local')"),
        (("sessions", "drain", "--bridge", "pyton"), "there is no bridge 'pyton' (nearest: 'python')"),
        (("token", "create", "x", "--tenant", "locl"), "there is no tenant 'locl' (nearest: 'local')"),
        (("token", "create", "x", "--tenant", "local", "--bridge", "pyton"), "there is no bridge 'pyton'"),
        (
            ("token", "create", "x", "--tenant", "local", "--operation", "python:exceute"),
            "no bridge has an operation 'python:exceute' (nearest: 'python:execute')",
        ),
    ):
        done = command(host, *arguments)
        assert (done.returncode, said in done.stderr) == (6, True), (arguments, done.stderr)
    assert json.loads(command(host, "token", "list", "--json").stdout) == []
    assert act(host, "result['x'] = 1") == {"x": 1}
    wrong = host.layout.policies / "wrong.toml"
    wrong.write_text("[limts]\n")
    done = command(host, "reload")
    assert "holds already  policies/wrong.toml (refused: " in done.stdout
    assert "nearest: 'limits'" in done.stdout
    wrong.unlink()
    reload(host, "")


def test_a_slip_of_a_program_opens_nothing(host: Stage) -> None:
    told_anew.a_slip_of_a_program_opens_nothing(host)


def test_the_command_line_says_what_was_taken_over_and_what_waits(host: Stage) -> None:
    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return command(host, *arguments, **more)

    write(host, '[bridges.python]\npool_size = 1\n[secrets]\nstore = "keyring"\n')
    said = run("reload").stdout
    assert "taken over" in said
    assert "bridges.python.pool_size" in said
    assert "waits for a restart  secrets.store" in said
    assert "nothing has changed" not in said
    shown = json.loads(run("config", "--json").stdout)
    assert {"key": "secrets.store", "value": "keyring", "by": "config.toml"} in shown
    shown = json.loads(run("config", "--json", BRIDGEHOLD__SECRETS__STORE="file").stdout)
    assert {"key": "secrets.store", "value": "file", "by": "BRIDGEHOLD__SECRETS__STORE"} in shown
    write(host, "[host]\n")
    wrong = run("config")
    assert wrong.returncode != 0
    assert "not TOML" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    reload(host, "")
