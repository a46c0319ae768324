"""The author's guide and the references say what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

from bridgehold.bridges import needs, schema_form
from bridgehold.bridges.catalogue import Catalogue, check_ready
from bridgehold.bridges.frames import FaultCode, ReadyFrame
from bridgehold.bridges.manifest_file import parse_manifest
from bridgehold.bridges.wire import WIRE_REASONS
from bridgehold_sdk import common

DOCS = Path(__file__).parent.parent.parent / "docs"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_guides_example_runs(launch: Any, bridge_folder: Any) -> None:
    text = (DOCS / "how-to" / "write-a-bridge.md").read_text()
    (source,), (toml,) = blocks(text, "python"), blocks(text, "toml")
    folder = bridge_folder("")
    (folder / "toy_bridge.py").write_text(source)
    manifest = parse_manifest(toml, folder)
    guest = launch(folder)
    ready = guest.boot(bridge="toy", version="1.0.0", entry=manifest.entry, preload=manifest.preload)
    assert isinstance(ready, ReadyFrame), ready
    check_ready(manifest, ready)
    guest.open()
    assert guest.value("toy:add", {"text": "box"}) == {"word_id": "word_1"}
    assert guest.value("toy:spell", {"word_id": "word_1"}) == ["b", "o", "x"]
    assert guest.fault("toy:add", {"text": " "}).code == "invalid_input"
    assert guest.fault("toy:spell", {"word_id": "word_9"}).code == "not_found"
    call = guest.start("toy:count", {"to": 3})
    assert guest.reply(call).result == {"counted": 3}
    assert len(guest.chunks(call)) == 3


def test_every_keyword_and_limit_stands_in_the_guide() -> None:
    text = (DOCS / "how-to" / "write-a-bridge.md").read_text()
    for word in (*schema_form.KEYWORDS, *needs.LIMIT_KEYS):
        assert f"`{word}`" in text, word


def test_every_reason_code_and_common_command_stands_in_the_reference() -> None:
    text = (DOCS / "reference" / "wire.md").read_text()
    for word in (*WIRE_REASONS, *get_args(FaultCode)):
        assert f"`{word}`" in text, word
    for name in common.COMMANDS:
        assert f"`common:{name}`" in text, name


def test_every_operation_stands_in_its_bridges_page() -> None:
    for entry in Catalogue.load().list():
        assert entry.manifest is not None
        text = (entry.folder / "README.md").read_text()
        for name, operation in entry.manifest.operations.items():
            assert name in text
            properties = operation.arguments.get("properties", {})
            assert isinstance(properties, dict)
            for argument in properties:
                assert f"`{argument}`" in text or argument == "session_id", (entry.name, name, argument)
