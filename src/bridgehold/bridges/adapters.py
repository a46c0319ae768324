"""A typed adapter class, as Python source, from a manifest (pure).

A manifest may be hostile: names are checked by its reader, and texts go in as literals only.
"""

from __future__ import annotations

import keyword

from bridgehold.bridges.manifest import Manifest, Operation

_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list[Any]",
    "object": "dict[str, Any]",
    "null": "None",
}
_HEAD = '''"""{name} {version}, typed. Written by `bridgehold bridge adapter {name}`; don't edit."""

from __future__ import annotations

from typing import Any, Literal

from bridgehold import Client
from bridgehold.ids import ANONYMOUS_SESSION, LOCAL_TENANT


class {title}:
    def __init__(
        self, client: Client, *, session: str = ANONYMOUS_SESSION, tenant: str = LOCAL_TENANT
    ) -> None:
        self._client = client
        self._session = session
        self._tenant = tenant

    async def _run(self, operation: str, arguments: dict[str, Any]) -> Any:
        given = {{name: value for name, value in arguments.items() if value is not None}}
        return await self._client.run(
            f"{name}:{{operation}}", given, session=self._session, tenant=self._tenant
        )
'''


def adapter_source(manifest: Manifest) -> str:
    """A module with one class, one method for each operation."""
    title = "".join(part.title() for part in manifest.name.replace("-", "_").split("_")) + "Adapter"
    version = "".join(
        character for character in manifest.version if character.isalnum() or character in ".-+"
    )
    head = _HEAD.format(name=manifest.name, version=version, title=title)
    return head + "".join(_method(operation) for operation in manifest.operations.values())


def _method(operation: Operation) -> str:
    properties = operation.arguments.get("properties")
    required = operation.arguments.get("required")
    schemas = properties if isinstance(properties, dict) else {}
    names = [name for name in schemas if name.isidentifier() and not _taken(name)]
    needed = [name for name in names if isinstance(required, list) and name in required]
    rest = [name for name in names if name not in needed]
    parameters = [f"{name}: {_type(schemas[name])}" for name in needed]
    parameters += [f"{name}: {_optional(_type(schemas[name]))} = None" for name in rest]
    listed = "".join(f",\n        {parameter}" for parameter in parameters)
    name = f"{operation.name}_" if keyword.iskeyword(operation.name) else operation.name
    star = ",\n        *" if parameters else ""
    given = "".join(f"{one!r}: {one}, " for one in names)
    return (
        f"\n    async def {name}(\n        self{star}{listed},\n    ) -> {_result(operation)}:\n"
        f"        {operation.summary!r}\n"
        f"        result: {_result(operation)} = await self._run({operation.name!r}, {{{given}}})\n"
        "        return result\n"
    )


def _taken(name: str) -> bool:
    """Whether a parameter can't be called so; such an argument goes by `Client.run`."""
    return keyword.iskeyword(name) or name == "self"


def _type(schema: object) -> str:
    if not isinstance(schema, dict):
        return "Any"
    choices = schema.get("enum")
    if isinstance(choices, list) and choices and all(isinstance(one, (str, int, bool)) for one in choices):
        return f"Literal[{', '.join(repr(one) for one in choices)}]"
    several = schema.get("anyOf")
    if isinstance(several, list) and several:
        return " | ".join(dict.fromkeys(_type(one) for one in several))
    kind = schema.get("type")
    if kind == "array" and isinstance(schema.get("items"), dict):
        return f"list[{_type(schema['items'])}]"
    return _TYPES.get(kind, "Any") if isinstance(kind, str) else "Any"


def _optional(kind: str) -> str:
    return kind if kind in ("Any", "None") else f"{kind} | None"


def _result(operation: Operation) -> str:
    return "dict[str, Any]" if operation.result.get("type") == "object" else "Any"
