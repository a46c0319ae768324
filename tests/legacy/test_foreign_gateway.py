"""A foreign script's provider calls: with the placeholder it is given, through its own session's gateway."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridgehold import SyncClient
from bridgehold.bridges.kit.provider import Provider
from bridgehold.keeper.admin import SecretAdmin
from hostile.served import running_provider
from hostile.stage import Stage, make_home, start_host, stop_host
from legacy.conftest import MANIFEST, POLICY, SCRIPTS, make_shim
from legacy.peer import Peer


@pytest.fixture(scope="module")
def net() -> Iterator[tuple[Stage, Provider]]:
    with contextlib.ExitStack() as stack:
        layout = make_home(os.getuid())
        home = layout.config.parent
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        provider = stack.enter_context(running_provider())
        shutil.copytree(SCRIPTS, home / "scripts")
        layout.config_file.write_text(
            f'[bridges.mine]\nscripts = "{home}/scripts"\n'
            f'[providers.openai]\nbase_url = "{provider.base_url}"\nprivate = true\n'
        )
        (layout.bridges / "mine").mkdir()
        (layout.bridges / "mine/bridge.toml").write_text(MANIFEST.format(name="mine"))
        policy = POLICY.format(name="mine", start="cold").replace(
            "[sandbox]", '[sandbox]\nenforcement = "weakened"'
        )
        (layout.policies / "mine.toml").write_text('weakenings = ["private_network"]\n' + policy)
        layout.secrets.mkdir(parents=True)
        layout.secrets.chmod(0o700)
        SecretAdmin.open_file(layout.secrets).set("local", "openai", provider.key.encode())
        process = start_host(layout)
        stack.callback(stop_host, process)
        client = stack.enter_context(SyncClient.connect(layout.socket))
        yield Stage(kind="root", layout=layout, client=client, supervisor=process.pid), provider


@pytest.fixture
def peer(net: tuple[Stage, Provider], tmp_path: Path) -> Iterator[Peer]:
    host, _ = net
    program = make_shim(host, tmp_path / "venv", "mine")
    found = Peer([str(program), str(host.layout.config.parent / "scripts/chat_like.py")], tmp_path, tmp_path)
    found.handshake()
    yield found
    found.kill()


def test_a_placeholder_from_either_place_becomes_the_tenants_key_on_the_way_out(
    net: tuple[Stage, Provider], peer: Peer
) -> None:
    host, provider = net
    before = provider.requests_with_key()
    for identity, args in ((1, {}), (2, {"api_key": "sk-bh-foreign"})):
        result = peer.ask(identity, "chat", {"text": "hello", **args})["result"]
        assert result["status"] == 200, result
    assert provider.requests_with_key() == before + 2
    for path in host.layout.audit.rglob("*.jsonl"):
        assert provider.key.encode() not in path.read_bytes()


def test_a_provider_call_belongs_to_the_command_in_flight(net: tuple[Stage, Provider], peer: Peer) -> None:
    host, _ = net
    peer.ask(1, "chat", {"text": "hello"})
    intent = [event for event in host.events("command.intent") if event["operation"] == "mine:chat"][-1]
    calls = [entry for entry in read_events(host) if entry[0] == "egress.outcome"]
    assert calls[-1][1] == command_of(host, str(intent["ref"]))


def read_events(host: Stage) -> list[tuple[str, str]]:
    from bridgehold.audit.read import read_all

    return [(entry.kind, entry.text("command")) for entry in read_all(host.layout.audit)]


def command_of(host: Stage, reference: str) -> str:
    from bridgehold.audit.read import read_all

    return next(entry.text("command") for entry in read_all(host.layout.audit) if entry.ref == reference)
