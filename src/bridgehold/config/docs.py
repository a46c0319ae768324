"""``docs/reference/configuration.md`` from the models themselves: keys, types, defaults, meaning."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import msgspec

from bridgehold.config import sections as config
from bridgehold.config.effective import default_of
from bridgehold.config.kinds import Strict
from bridgehold.config.retention import RetentionSection

_SECTIONS = (
    ("[host]", config.HostSection),
    ("[secrets]", config.SecretsSection),
    ("[review]", config.ReviewSection),
    ("[fleet.NAME]", config.FleetSection),
    ("[supply]", config.SupplySection),
    ("[providers.NAME]", config.ProviderSection),
    ("[principals.NAME]", config.PrincipalSection),
    ("[bridges.NAME]", config.BridgeSection),
    ("[tools.NAME]", config.ToolSection),
    ("[http]", config.HttpSection),
    ("[zygotes]", config.ZygotesSection),
    ("[features]", config.FeaturesSection),
    ("[push.NAME]", config.PushSection),
    ("[retention]", RetentionSection),
)


def reference() -> str:
    """The page, generated."""
    lines = [
        "# Configuration",
        "",
        "`config.toml` in the layout's configuration folder (files.md). Unknown keys are refused, and every",
        "fault is named at once. All of it is optional. `default_bridge` (top level, `dspy`) is where",
        "`common:*` goes.",
        "",
        "A variable of the environment may say a single key: `BRIDGEHOLD__HOST__MAX_SESSIONS=50` is",
        "`max_sessions = 50` in `[host]`, with two underscores before each part. It wins over the file. Its",
        "value is read as TOML, and as a string where it is none. `bridgehold config` shows what holds, and",
        "who said it.",
        "",
        "`bridgehold reload` has a running host read the file again, without dropping a session: it takes",
        "over `[providers]`, `[bridges]`, `[tools]`, `[principals]`, `[zygotes]`, `[features]`,",
        "`default_bridge`, and of `[host]` `max_sessions`, `artifacts` and `read_roots`. What else has",
        "changed waits for a restart, and is named. A file with a fault changes nothing. Sessions that are",
        "open keep the sandbox that they were started with.",
    ]
    for title, model in _SECTIONS:
        notes = _notes(model)
        lines += ["", f"## {title}", "", _sentence(model), ""]
        lines += ["| key | default | meaning |", "| --- | --- | --- |"]
        for field in msgspec.structs.fields(model):
            default = "required" if field.required else f"`{default_of(field)!r}`"
            lines.append(f"| `{field.name}` | {default} | {notes.get(field.name, '')} |")
    return "\n".join(lines) + "\n"


def _sentence(model: type[Strict]) -> str:
    text = str(inspect.getdoc(model)).partition(": ")[2]
    return text[:1].upper() + text[1:]


def _notes(model: type[Strict]) -> dict[str, str]:
    """The string below each field, which Python itself throws away."""
    tree = ast.parse(Path(str(inspect.getsourcefile(model))).read_text(encoding="utf-8"))
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == model.__name__)
    found: dict[str, str] = {}
    name = ""
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found[name] = " ".join(str(node.value.value).split())
    return found
