"""``bridge.toml`` to `Manifest`: strict, every fault at once, each with its line and the nearest key."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from bridgehold import reads
from bridgehold.bridges import schema_form
from bridgehold.bridges.manifest import (
    EFFECTS,
    PRELOAD_CALLS,
    Effect,
    Foreign,
    Manifest,
    Operation,
    Recovery,
    Resource,
)
from bridgehold.bridges.needs import read_needs
from bridgehold.bridges.tables import Faults, Table
from bridgehold.errors import ManifestError
from bridgehold.ids import digest_bytes, is_name, is_operation
from bridgehold.policies.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_FILE_BYTES = 512 * 1024
MAX_OPERATIONS = 200
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_ENTRY = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
FOREIGN = ("", "auto", "json", "msgpack")
_HINT = "docs/how-to/write-a-bridge.md shows every key of bridge.toml with an example."


def load_manifest(folder: Path, known: Manifest | None = None) -> Manifest:
    """The manifest in `folder`; `known`, where the same text said that. Raises `ManifestError`."""
    path = folder / "bridge.toml"
    if path.is_symlink():
        raise ManifestError("there is no regular file bridge.toml", where=str(path), hint=_HINT)
    text = reads.read_text(path, ManifestError, most=MAX_FILE_BYTES, hint=_HINT)
    if known is not None and (known.folder, known.digest) == (folder, digest_bytes(text.encode())):
        return known
    return parse_manifest(text, folder)


def parse_manifest(text: str, folder: Path) -> Manifest:
    """Pure but for the folder's name, which is kept. Raises one `ManifestError` with every fault.

    A text of the longest may take a second: call it from a thread where it comes from a tenant.
    """
    file = str(folder / "bridge.toml")
    if len(text) > MAX_FILE_BYTES or len(text.encode()) > MAX_FILE_BYTES:
        raise ManifestError(f"more than {MAX_FILE_BYTES} bytes", where=file, hint=_HINT)
    data = reads.parse_toml(text, ManifestError, file, hint=_HINT)
    faults = Faults(file, text)
    manifest = _manifest(Table(data, "", faults), folder, digest_bytes(text.encode()))
    if faults.found:
        raise ManifestError(
            f"{len(faults.found)}{' or more' if faults.full else ''} fault(s):\n  "
            + "\n  ".join(faults.found),
            where=file,
            hint=_HINT,
        )
    return manifest


def _manifest(top: Table, folder: Path, digest: str) -> Manifest:
    name = top.text("name", longest=63)
    if name and not is_name(name):
        top.fault("name", "lower-case letters, digits, '-' and '_', starting with a letter; at most 63")
    if name in {"common", "host"}:
        top.fault("name", f"{name!r} is Bridgehold's own")
    resources = {key: _resource(key, table) for key, table in top.named("resources").items()}
    operations = {key: _operation(key, table, resources) for key, table in top.named("operations").items()}
    foreign = top.choice("foreign", FOREIGN, default="")
    if foreign and (operations or top.raw("entry") is not None):
        top.fault("foreign", "a script of one's own has no entry and no operations that are declared")
    if not foreign and not 1 <= len(operations) <= MAX_OPERATIONS:
        top.fault("operations", f"a bridge has 1 to {MAX_OPERATIONS} operations")
    needs = read_needs(top.table("needs"), name, ["*"] if foreign else operations, resources)
    modules, calls = _preload(top.table("preload"))
    manifest = Manifest(
        name=name,
        version=_version(top),
        summary=top.text("summary", default=""),
        entry="" if foreign else _matching(top, "entry", _ENTRY, "MODULE:CLASS"),
        foreign=cast("Foreign", foreign),
        python=_python(top),
        requirements=_file(top, "requirements"),
        lock=_file(top, "lock"),
        preload=modules,
        preload_calls=calls,
        resources=resources,
        operations=operations,
        needs=needs,
        folder=folder,
        digest=digest,
    )
    if manifest.requirements and not manifest.lock:
        top.fault(
            "lock",
            "missing: what `requirements` asks for is installed from a lock with hashes only; "
            'write `lock = "requirements.lock"`, and `bridgehold bridge lock` makes that file',
        )
    top.finish()
    return manifest


def _version(top: Table) -> str:
    text = top.text("version", longest=60)
    try:
        Version(text or "0")
    except InvalidVersion:
        top.fault("version", "a version such as 1.0.0 is expected")
    return text


def _python(top: Table) -> str:
    text = top.text("python", default=">=3.10", longest=100)
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        top.fault("python", 'a specifier such as ">=3.10" is expected')
    return text


def _matching(top: Table, key: str, pattern: re.Pattern[str], form: str) -> str:
    text = top.text(key, longest=200)
    if text and not pattern.fullmatch(text):
        top.fault(key, f"{form} is expected")
    return text


def _file(top: Table, key: str) -> str:
    text = top.text(key, default="", longest=200)
    if text and not _FILE.fullmatch(text):
        top.fault(key, "a file below the bridge's folder is expected, such as requirements.lock")
    return text


def _preload(table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``[preload]``: modules, and the clients that a zygote calls once."""
    modules, calls = table.texts("modules"), table.texts("calls")
    for module in modules:
        if not _MODULE.fullmatch(module):
            table.fault("modules", f"{module[:80]!r} is no module")
    for call in calls:
        if call not in PRELOAD_CALLS:
            table.fault("calls", f"{call[:80]!r} is none of {', '.join(PRELOAD_CALLS)}")
    table.finish()
    return modules, calls


def _resource(name: str, table: Table) -> Resource:
    if not is_operation(name):
        table.faults.add(table.path, "a name is lower-case letters, digits and '_'")
    resource = Resource(
        name=name,
        summary=table.text("summary", default=""),
        recovery=cast("Recovery", table.choice("recovery", ("lost", "replay"), default="lost")),
    )
    table.finish()
    return resource


def _operation(name: str, table: Table, resources: Mapping[str, Resource]) -> Operation:
    if not is_operation(name):
        table.faults.add(table.path, "a name is lower-case letters, digits and '_'")
    operation = Operation(
        name=name,
        summary=table.text("summary"),
        effect=cast("Effect", table.choice("effect", EFFECTS)),
        resource=table.text("resource", default="", longest=63),
        id_field=table.text("id_field", default="", longest=63),
        arguments=_schema(table, "arguments"),
        result=_schema(table, "result"),
        stream=table.flag("stream"),
        output=table.flag("output"),
        input=table.flag("input"),
        contents=table.flag("contents"),
        timeout_ms=_timeout(table),
        idempotent=table.flag("idempotent"),
        replays_calls=table.flag("replays_calls"),
    )
    _check_resource(operation, table, resources)
    table.finish()
    return operation


def _schema(table: Table, key: str) -> dict[str, object]:
    value = table.raw(key)
    if value is None:
        return schema_form.closed(schema_form.named({})) if key == "arguments" else {}
    found = schema_form.schema_problems(value, table.place(key))
    for problem in found:
        place, _, message = problem.partition(": ")
        table.faults.add(place, message)
    if not isinstance(value, dict):
        return {}
    if key == "arguments":
        if value.get("type", "object") != "object":
            table.fault(key, "arguments are an object")
        value = schema_form.named(value)
    return value if found else schema_form.closed(value)


def _timeout(table: Table) -> int:
    text = table.text("timeout", default="", longest=30)
    if not text:
        return 0
    try:
        return parse_duration(text)
    except ValueError as error:
        table.fault("timeout", str(error))
        return 0


def _check_resource(operation: Operation, table: Table, resources: Mapping[str, Resource]) -> None:
    if operation.resource and operation.resource not in resources:
        table.fault("resource", f"[resources.{operation.resource}] is not declared")
    if operation.effect in {"create", "delete"} and not operation.resource:
        table.fault("resource", f"missing: {operation.effect!r} is an effect on a resource")
    if operation.effect in {"create", "delete"} and not operation.id_field:
        table.fault("id_field", "missing: the argument that holds the resource's id")
    properties = operation.arguments.get("properties", {})
    if operation.id_field and isinstance(properties, dict) and operation.id_field not in properties:
        table.fault("id_field", f"{operation.id_field!r} is no property of the arguments")
