"""``docs/reference/cli.md`` from the commands themselves: arguments, options, help, exit statuses."""

from __future__ import annotations

from typing import Any

from bridgehold.errors import BridgeholdError, error_classes
from bridgehold.faces.cli.commands import app


def reference() -> str:
    """The page, generated."""
    lines = [
        "# Command line",
        "",
        "`--json` prints one document (or JSON lines) on stdout and nothing else; an error is then",
        "`{code, message, hint, where, retry, event, traceback}`, with `output` of a command.",
        "Tables leave out columns where a terminal is narrow (`--json` has all); `NO_COLOR` and",
        "`FORCE_COLOR` are heeded.",
        "Exit statuses: 0 done, 130 interrupted, 143 and 129 ended by SIGTERM and with the terminal, and",
        ", ".join(f"{kind.exit_status} `{kind.code}`" for kind in sorted(error_classes(), key=_status)) + ".",
    ]
    lines += _commands(app, "bridgehold")
    return "\n".join(lines) + "\n"


def _status(kind: type[BridgeholdError]) -> int:
    return kind.exit_status


def _commands(command: Any, path: str) -> list[str]:
    children: dict[str, Any] = getattr(command, "commands", {})
    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    lines = []
    if not children or (rows and command.invoke_without_command and " " in path):
        lines += ["", f"## {path}", "", str(command.help or "").strip().split("\n\n")[0], ""]
        lines += ["| argument | default | meaning |", "| --- | --- | --- |", *rows] if rows else []
    return lines + [line for name in sorted(children) for line in _commands(children[name], f"{path} {name}")]


def _row(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    if not parameter.opts[0].startswith("-"):
        names = f"`{str(parameter.name).upper()}`"
    default = "required" if parameter.required else f"`{parameter.default}`" if parameter.default else ""
    return f"| {names} | {default} | {getattr(parameter, 'help', '') or ''} |".replace("\n", " ")
