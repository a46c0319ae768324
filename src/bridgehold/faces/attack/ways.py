"""How an act gets into a session of a bridge: by the bridge's own `execute`, or by a probe with its grant.

The probe is a bridge of the report's own, on a private host beside the machine's: configuration, policies,
ceilings and what the bridge asks for are copies, so that sandboxes are made as the bridge's own are; its
packages are not there, and its keys neither.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bridgehold import reads, writes
from bridgehold.client.sync import SyncClient, SyncSession
from bridgehold.config.layout import Layout, find_layout
from bridgehold.errors import ConfigError, ManifestError
from bridgehold.policies.model import Grant

PROBE = "attack-probe"
_COPIED = ("host", "providers", "zygotes", "bridges", "features")
"""Tables of config.toml that say how a sandbox is made: nothing of the copy is sent away or served."""
_HEAD = re.compile(r"\s*\[+\s*([A-Za-z0-9_-]+)")
_MANIFEST = f"""\
name = "{PROBE}"
version = "1.0.0"
summary = "Runs hostile acts under another bridge's grant"
entry = "attack_probe:AttackProbe"

[operations.execute]
summary = "Run code; gives its last expression"
effect = "run"
[operations.execute.arguments]
required = ["code"]
[operations.execute.arguments.properties]
code = {{ type = "string" }}

"""
_PROBE = """\
import ast

from bridgehold_sdk import Bridge, operation


class AttackProbe(Bridge):
    @operation()
    def execute(self, code):
        tree = ast.parse(code)
        last = ast.Expression(tree.body.pop().value)
        names = {"__name__": "attack"}
        exec(compile(tree, "act", "exec"), names)
        return {"value": eval(compile(last, "act", "eval"), names)}
"""


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """Where sessions are opened, and what the report says of it."""

    client: SyncClient
    layout: Layout
    bridge: str
    grant: Grant
    """Under which its sessions are made."""
    policy: str
    """Its name, as the operator knows it."""
    text: str
    lasting: bool
    """Whether its audit outlives the run."""

    def run(self, session: SyncSession, code: str, deadline_ms: int) -> Any:
        """`code`'s last expression, and what it wrote: the reply of one command."""
        return session.call("execute", {"code": code}, deadline_ms=deadline_ms)


@contextlib.contextmanager
def open_way(client: SyncClient, layout: Layout, grant: Grant, policy: str = "") -> Iterator[Way]:
    """The way into `grant.bridge`, by the host that `client` reaches or by a private one.

    `policy`: another than its own, to try.
    """
    described = client.describe(grant.bridge, tenant=grant.tenant)
    operations = {one["name"].rpartition(":")[2]: one for one in described["operations"]}
    own = operations.get("execute", {})
    if not policy and own.get("granted") and "code" in str(own.get("arguments", "")):
        text = f"{grant.bridge}:execute, in sessions of its own"
        yield Way(
            client=client,
            layout=layout,
            bridge=grant.bridge,
            grant=grant,
            policy=grant.policy,
            text=text,
            lasting=True,
        )
        return
    with tempfile.TemporaryDirectory(prefix="bh-attack-home-") as folder:
        named = policy or grant.policy
        stage = _stage(Path(folder), layout, grant, named)
        with SyncClient.open(stage) as private:
            asked = {"bridge": PROBE, "tenant": grant.tenant}
            made = msgspec.convert(private.request("grant", asked), type=Grant)
            text = (
                f"a probe under {named}, with what {grant.bridge} needs, on a private host, without packages"
            )
            yield Way(
                client=private, layout=stage, bridge=PROBE, grant=made, policy=named, text=text, lasting=False
            )


def _stage(home: Path, layout: Layout, grant: Grant, policy: str) -> Layout:
    home.chmod(0o755)
    stage = find_layout({"BRIDGEHOLD_HOME": str(home)}, os.getuid())
    writes.make_folder(stage.bridges / PROBE)
    for mine, theirs in ((layout.policies, stage.policies), (layout.tenants, stage.tenants)):
        if mine.is_dir():
            shutil.copytree(mine, theirs, ignore=shutil.ignore_patterns("bridges"))
    writes.make_folder(stage.policies)
    if layout.config_file.exists():
        config = reads.read_text(layout.config_file, ConfigError)
        writes.replace(stage.config_file, tables_of(config, _COPIED))
    text = f'extends = "{policy}"\n\n[operations]\nallow = ["{PROBE}:*"]\n'
    writes.replace(stage.policies / f"{PROBE}.toml", text)
    writes.replace(
        stage.bridges / PROBE / "bridge.toml", _MANIFEST + tables_of(_manifest(layout, grant), ("needs",))
    )
    writes.replace(stage.bridges / PROBE / "attack_probe.py", _PROBE)
    return stage


def _manifest(layout: Layout, grant: Grant) -> str:
    from bridgehold.bridges.catalogue import shipped_folder

    for folder in (layout.own_bridges(grant.tenant), layout.bridges, shipped_folder()):
        if (path := folder / grant.bridge / "bridge.toml").exists():
            return reads.read_text(path, ManifestError)
    hint = "A submitted release has no folder of its own: name a bridge of this layout's."
    raise ManifestError(
        f"the manifest of {grant.bridge} can't be found", where=str(layout.bridges), hint=hint
    )


def tables_of(text: str, names: Collection[str]) -> str:
    """The tables of a TOML text of these names, as text. Raises `ManifestError` where it can't be told."""
    kept, inside = [], False
    for line in text.splitlines():
        if (head := _HEAD.match(line)) is not None:
            inside = head[1] in names
        if inside:
            kept.append(line)
    found = "".join(f"{line}\n" for line in kept)
    whole = reads.parse_toml(text, ManifestError, "the file to copy from")
    if reads.parse_toml(found, ManifestError, "the copy") != {
        name: whole[name] for name in whole if name in names
    }:
        hint = f"Write {', '.join(names)} as tables: [[needs.endpoints]], [host]."
        raise ManifestError("its tables can't be told apart", where=", ".join(names), hint=hint)
    return found
