"""What DSPex's and Snakepit's commands get on the wire, kept in tests/vectors/legacy, one file for each.

A transcript is replayed against a real `bridgehold stdio` in front of a real sandbox, with the simulator
as the provider. What changes from run to run stands as its type: ``<number>``, ``<text>``, ``<text: how
it begins>``, ``<object>``, ``<list>``; ``"...": "<more>"`` lets an object have further keys.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold import BridgeholdError, SyncClient
from bridgehold.keeper.admin import SecretAdmin
from hostile.served import running_provider
from hostile.stage import make_home, start_host, stop_host
from legacy.peer import Peer, stdio_command

pytestmark = pytest.mark.network
FOLDER = Path(__file__).parents[1] / "vectors/legacy"
FILES = sorted(FOLDER.glob("*/*.json"))
BRIDGES = ("dspy", "enhanced", "python")
SHAPES = ("openai", "gemini")
COMMANDS = {
    "dspy": "ping configure_lm create_program execute_program list_programs get_program_info delete_program "
    "get_stats cleanup reset_state cleanup_session get_session_data update_session_data shutdown",
    "enhanced": "ping configure_lm create_program execute_program get_program list_programs delete_program "
    "clear_session call store retrieve list_stored delete_stored pipeline inspect",
    "python": "ping protocol_negotiation unknown_command get_stats get_capabilities health shutdown",
}
"""Those of DSPex's bridge, of Snakepit's enhanced one, and what any bridge answers."""
TYPES: dict[str, Any] = {"number": (int, float), "text": str, "object": dict, "list": list}


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        layout = make_home(os.getuid(), environments=True)
        stack.callback(shutil.rmtree, layout.config.parent, ignore_errors=True)
        provider = stack.enter_context(running_provider())
        bases = {"openai": provider.base_url, "gemini": provider.base_url + "beta"}
        sections = [
            f'[providers.{name}]\nbase_url = "{bases[name]}"\nshape = "{name}"\nprivate = true\n'
            for name in SHAPES
        ]
        sections += [f'[bridges.{name}]\npolicy = "own-{name}"\n' for name in ("dspy", "enhanced")]
        layout.config_file.write_text("".join(sections))
        private = 'weakenings = ["private_network"]\n'
        (layout.policies / "own-dspy.toml").write_text(f'extends = "dspy"\n{private}')
        allow = '[operations]\nallow = ["enhanced:*"]\n'
        (layout.policies / "own-enhanced.toml").write_text(f'extends = "enhanced"\n{private}{allow}')
        layout.secrets.mkdir(parents=True)
        layout.secrets.chmod(0o700)
        for name in SHAPES:
            SecretAdmin.open_file(layout.secrets).set("local", name, provider.key.encode())
        process = start_host(layout)
        stack.callback(stop_host, process)
        client = stack.enter_context(SyncClient.connect(layout.socket))
        for bridge in BRIDGES:  # its first session warms it
            with client.session(bridge):
                pass
        yield layout.config.parent


@pytest.fixture(scope="module")
def worker(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Peer]]:
    """One worker for a bridge's transcripts, as good as new for each."""
    running: dict[str, Peer] = {}
    folder = tmp_path_factory.mktemp("transcripts")

    def get(bridge: str) -> Peer:
        found = running.get(bridge)
        if found is None or found.process.poll() is not None:
            found = running[bridge] = Peer(stdio_command("--bridge", bridge), home, folder)
            found.handshake()
        else:
            assert found.ask(900, "reset_state")["success"]
        return found

    yield get
    for peer in running.values():
        peer.kill()


def differs(answer: Any, expected: Any, where: str = "") -> str:
    """Where an answer is not as it is expected, and how; empty where it is."""
    kind, _, beginning = expected[1:-1].partition(": ") if isinstance(expected, str) else ("", "", "")
    if kind in TYPES and expected == f"<{expected[1:-1]}>":
        good = isinstance(answer, TYPES[kind]) and not isinstance(answer, bool)
        good = good and (not beginning or str(answer).startswith(beginning))
        return "" if good else f"{where}: {expected} was expected, {answer!r:.300} came"
    if isinstance(expected, dict) and isinstance(answer, dict):
        more = "..." in expected
        keys = set(expected) - {"..."}
        if not (keys <= set(answer) if more else keys == set(answer)):
            return f"{where}: the keys {sorted(keys)} were expected, {sorted(answer)} came"
        return next(filter(None, (differs(answer[key], expected[key], f"{where}.{key}") for key in keys)), "")
    if isinstance(expected, list) and isinstance(answer, list) and len(answer) == len(expected):
        pairs = enumerate(zip(answer, expected, strict=True))
        return next(filter(None, (differs(one, other, f"{where}[{n}]") for n, (one, other) in pairs)), "")
    return "" if answer == expected else f"{where}: {expected!r:.300} was expected, {answer!r:.300} came"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_transcript_is_what_comes(path: Path, worker: Callable[[str], Peer]) -> None:
    peer = worker(path.parent.name)
    for exchange in json.loads(path.read_text()):
        peer.send_body(json.dumps(exchange["request"]).encode())
        assert not (wrong := differs(peer.receive(60), exchange["answer"])), wrong
    if path.stem == "shutdown":
        assert peer.end() == (0, b"")


def test_a_program_is_made_again_of_what_was_answered_when_it_was_made(
    worker: Callable[[str], Peer],
) -> None:
    """DSPex keeps the answer to ``create_program``, and puts it back on whichever worker is free."""
    types = ("string", "integer", "boolean", "list", "list[str]", "dict")
    inputs = [{"name": f"in_{n}", "type": name} for n, name in enumerate(types)]
    signature = {
        "description": "Answer.",
        "inputs": inputs,
        "outputs": [{"name": "answer", "description": "A"}],
    }
    made = worker("dspy").ask(1, "create_program", {"id": "qa", "signature": signature})["result"]
    peer = worker("dspy")  # it has forgotten everything
    assert peer.ask(1, "configure_lm", {"model": "gemini-2.0-flash"})["success"]
    given = dict(zip((field["name"] for field in inputs), ("x", 1, True, [1], ["x"], {"a": 1}), strict=True))
    args = {"program_id": "qa", "inputs": given, "session_id": "s1"}
    assert peer.ask(2, "execute_program", args)["error"].startswith("not_found: ")
    ran = peer.ask(3, "execute_program", {**args, "program_data": made})
    assert ran["success"], ran
    again = peer.ask(4, "get_program_info", {"program_id": "qa"})["result"]
    assert again["signature"] == made["signature"]


def test_a_program_is_kept_as_an_artifact_and_made_again_in_another_session(home: Path) -> None:
    """Here, because a host with dspy runs here already."""
    with SyncClient.connect(home / "run/host.sock") as client:
        with client.session("dspy") as first:
            first.run("configure_lm", {"model": "gpt-4o-mini"})
            first.run("create_program", {"id": "qa", "signature": "question -> answer"})
            kept = first.run("save_program", {"program_id": "qa", "keep": True})
        assert set(kept) == {"program_id", "artifact", "size_bytes"}
        assert len(client.get(kept["artifact"])) == kept["size_bytes"]
        other = client.put(b'{"v": 1, "recipe": [], "state": {}}').digest
        with client.session("dspy") as second:
            second.run("configure_lm", {"model": "gpt-4o-mini"})
            made = second.run("load_program", {"artifact": kept["artifact"], "id": "again"})
            assert made["signature"]["inputs"][0]["name"] == "question"
            done = second.run("execute_program", {"program_id": "again", "inputs": {"question": "?"}})
            assert "answer" in done["outputs"]
            for arguments, code in (
                ({"artifact": other}, "usage"),
                ({"artifact": "sha256:" + "0" * 64}, "application"),
                ({}, "usage"),
            ):
                with pytest.raises(BridgeholdError) as caught:
                    second.run("load_program", arguments)
                assert caught.value.code == code
        for digest in (kept["artifact"], other):
            client.remove(digest)


def test_every_command_has_a_transcript() -> None:
    kept = {(path.parent.name, path.stem) for path in FILES}
    assert {(bridge, name) for bridge, names in COMMANDS.items() for name in names.split()} <= kept
    for path in FILES:
        sent = [exchange["request"].get("command") for exchange in json.loads(path.read_text())]
        assert path.stem in sent or path.stem in ("protocol_negotiation", "unknown_command")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1, "b": 1}, {"a": 1}),
        ({}, {"a": 1, "...": "<more>"}),
        ({"a": True}, {"a": "<number>"}),
        ({"a": "other"}, {"a": "<text: how>"}),
        ([1, 2], [1]),
        (None, "<object>"),
    ],
)
def test_an_answer_that_is_another_is_seen(answer: Any, expected: Any) -> None:
    assert differs(answer, expected)
