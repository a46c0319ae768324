"""The OpenAPI 3.1 document, from the routes, the typed bodies and the bridges' manifests (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import msgspec

from bridgehold.error_info import ErrorInfo
from bridgehold.faces.http.bodies import RunOperation
from bridgehold.faces.http.route import Route
from bridgehold.faces.http.routes import ROUTES
from bridgehold.faces.http.statuses import STATUSES

Json = dict[str, Any]
_TEMPLATE = "#/components/schemas/{name}"
_BYTES = "application/octet-stream"
_OCTETS: Json = {"type": "string", "format": "binary"}
_VALUES = ("const", "default", "enum", "examples")
"""Keys of a schema that hold values, not schemas."""
_TYPED = "/v1/run/{bridge}/{operation}"
_EVENTS = "Events `open`, `progress`, `chunk`, `tool_call`, then one `result` or `error`."


def document(bridges: Iterable[Mapping[str, Any]] = ()) -> Json:
    """`bridges`: what ``describe`` says of each. Their granted operations become paths of their own."""
    types = [kind for route in ROUTES for kind in (route.body, route.gives) if kind is not None]
    made, components = _schemas([*types, ErrorInfo])
    schemas = dict(zip([*map(_key, types), _key(ErrorInfo)], made, strict=True))
    paths: Json = {"/healthz": {"get": _health()}}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    for bridge in bridges:
        for operation in bridge["operations"]:
            if operation["granted"]:
                path, item = _granted(bridge["name"], operation, paths[_TYPED]["post"])
                paths[path] = item
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Bridgehold",
            "version": version("bridgehold"),
            "summary": "Sandboxed bridges to ML frameworks",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {"Error": _error()},
        },
    }


def _schemas(types: list[Any]) -> tuple[tuple[Json, ...], Json]:
    return msgspec.json.schema_components(types, schema_hook=_any, ref_template=_TEMPLATE)


def _any(kind: type) -> Json:
    """`object` is any JSON value."""
    if kind is object:
        return {"description": "Any JSON value."}
    raise NotImplementedError


def _key(kind: Any) -> str:
    return str(kind)


def _error() -> Json:
    codes = ", ".join(f"`{code}` {status}" for code, status in STATUSES.items())
    schema = {"$ref": _TEMPLATE.format(name="ErrorInfo")}
    return {
        "description": f"What was wrong, where, and the remedy. Statuses by code: {codes}.",
        "content": {"application/json": {"schema": schema}},
    }


def _health() -> Json:
    schema = {"type": "object", "properties": {"status": {"const": "ok"}}, "required": ["status"]}
    return {
        "operationId": "healthz",
        "summary": "Whether the host takes commands; needs no token",
        "security": [],
        "responses": {
            "200": {"description": "It does.", "content": {"application/json": {"schema": schema}}},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }


def _operation(route: Route, schemas: Mapping[str, Json]) -> Json:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    in_query = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in route.query]
    made: Json = {"operationId": route.name, "summary": route.summary, "parameters": in_path + in_query}
    if route.body is not None:
        content = {"application/json": {"schema": schemas[_key(route.body)]}}
        made["requestBody"] = {"required": True, "content": content}
    elif route.takes_bytes:
        made["requestBody"] = {"required": True, "content": {_BYTES: {"schema": _OCTETS}}}
    given = {route.gives_kind: {"schema": _given(route, schemas)}}
    if route.streams:
        given["text/event-stream"] = {"schema": {"type": "string", "description": _EVENTS}}
    made["responses"] = {
        str(route.status): {"description": route.summary, "content": given},
        "default": {"$ref": "#/components/responses/Error"},
    }
    return made


def _given(route: Route, schemas: Mapping[str, Json]) -> Json:
    if route.gives is not None:
        return schemas[_key(route.gives)]
    if route.gives_kind == _BYTES:
        return _OCTETS
    return {"type": "string"} if route.gives_kind.startswith("text/") else {"description": "Any JSON object."}


def _complete(schema: Any) -> Any:
    """A manifest's schema with what generators of clients ask for: each array says what it holds."""
    if isinstance(schema, list):
        return [_complete(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: value if key in _VALUES else _complete(value) for key, value in schema.items()}
    kinds = made.get("type")
    if (kinds == "array" or (isinstance(kinds, list) and "array" in kinds)) and "prefixItems" not in made:
        made.setdefault("items", {})
    return made


def _granted(bridge: str, operation: Mapping[str, Any], general: Json) -> tuple[str, Json]:
    """An operation's own path: the general one's body with the manifest's schemas in place."""
    _, components = _schemas([RunOperation])
    body = dict(components["RunOperation"])
    arguments = {"type": "object", **_complete(operation["arguments"])}
    body["properties"] = {**body["properties"], "arguments": arguments}
    body.pop("title", None)
    if operation["arguments"].get("required"):
        body["required"] = ["arguments"]
    answered: Json = {"allOf": [{"$ref": _TEMPLATE.format(name="Answer")}]}
    if operation["result"]:
        answered["properties"] = {"value": _complete(operation["result"])}
    given: Json = {"application/json": {"schema": answered}}
    if operation["stream"]:
        given["text/event-stream"] = {"schema": {"type": "string", "description": _EVENTS}}
    name = operation["name"]
    post = {
        "operationId": f"{bridge}_{name}",
        "summary": operation["summary"],
        "tags": [bridge],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {**general["responses"], "200": {"description": operation["summary"], "content": given}},
    }
    return f"/v1/run/{bridge}/{name}", {"post": post}
