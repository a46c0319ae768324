"""``docs/reference/http.md`` from the routes, the bodies and the statuses themselves."""

from __future__ import annotations

import inspect
import types
from typing import Any, Literal, get_args, get_origin

import msgspec

from bridgehold.faces.http import bodies, running, sse
from bridgehold.faces.http.route import Route
from bridgehold.faces.http.routes import ROUTES
from bridgehold.faces.http.statuses import STATUSES
from bridgehold.protocol.frames import OfferedTool

_BODIES = tuple(
    dict.fromkeys(
        [*(route.body for route in ROUTES if route.body is not None), OfferedTool, bodies.CommandFacts]
    )
)
_EVENTS = (
    ("open", "`command`", "first, at once: what the command is called"),
    ("progress", "`done`, `total`, `note`", "what the bridge reports"),
    ("chunk", "`seq`, `data`", "a part of the result of an operation that streams"),
    (
        "output",
        "`stream`, `text`, `cut`",
        "what the command writes; `cut`: bytes before it that were not sent",
    ),
    ("tool_call", "`command`, `call`, `tool`, `arguments`", "answer it by `POST /v1/commands/…/tools/…`"),
    ("gap", "`first`, `last`", "events of a resumable command that are no longer kept"),
    ("result", "as the answer without a stream", "last"),
    ("error", "an error's fields, and `status`", "last"),
)
_OWN = (
    ("401", "`denied`", "no token, or one that is not known; `WWW-Authenticate: Bearer`"),
    ("404, 405", "`not_found`, `usage`", "no such path, or not by this method"),
    ("406", "`usage`", "the answer's media type is none that `Accept` takes"),
    ("408", "`usage`", "the body came too slowly"),
    ("413", "`limit`", "the body is too large"),
    ("415", "`usage`", "the body is not JSON in UTF-8 by its `Content-Type`, or compressed"),
    ("421", "`denied`", "the `Host` is no name of this server"),
    ("429", "`busy`", "the principal has as many requests under way as it may"),
)


def reference() -> str:
    """The page, generated."""
    lines = [
        "# HTTP",
        "",
        "Served by `bridgehold serve --http ADDRESS:PORT` or `[http] listen`",
        "([configuration](configuration.md)); how to use it: [HTTP](../how-to/http.md). JSON in and out.",
        "Every path but `/healthz` needs `Authorization: Bearer TOKEN`, and acts as that token's principal.",
        "Unknown fields are refused. Where `tenant` is left out, the token's only tenant is meant, else",
        "`local`.",
        "",
        "## Paths",
        "",
        *_table(("method", "path", "what it does", "body", "answer"), map(_route, ROUTES)),
        "| `GET` | `/healthz` | Whether the host takes commands; without a token | | `{status}` |",
        "",
        "A path's `{session}` is an id, never a name. `/openapi.json` has all of this with its schemas,",
        "and a path for each operation that the tenant is granted.",
    ]
    for kind in _BODIES:
        lines += ["", f"## {kind.__name__}", "", str(inspect.getdoc(kind)), ""]
        lines += _table(("field", "type", "default"), map(_field, msgspec.structs.fields(kind)))
    lines += [
        "",
        "## Events",
        "",
        "With `Accept: text/event-stream` a command answers 200 and then events; a failure is the last.",
        "A comment is sent every `beat_s`. A command that streams goes at its reader's pace; who reads less",
        "than 64 KiB a second for 30 s, or nothing for `read_s`, loses the stream, and the command is",
        "cancelled; so is that of a caller who goes away.",
        "",
        "With `resumable` events have ids, and a stream that is lost leaves the command running for",
        f"{running.RESUME_SECONDS:.0f} s: `GET /v1/commands/{{command}}/events` with `Last-Event-ID` goes on",
        f"with it. The last {sse.MOST_KEPT >> 20} MiB of events are kept; who reads slowly loses some",
        "(`gap`) and not the command. What a command came to is kept for",
        f"{running.KEPT_SECONDS / 60:.0f} minutes ({running.KEPT_EACH} of each principal, answers of",
        f"at most {running.KEPT_BYTES >> 10} KiB), for the token that began it: one that was rotated, or",
        "given anew under its name, is another.",
        "",
        *_table(("event", "data", "meaning"), ((f"`{name}`", data, text) for name, data, text in _EVENTS)),
        "",
        "## Statuses",
        "",
        "An error's body is `{code, message, hint, where, retry, event, traceback}` ([errors](errors.md)),",
        "with `output` where a command that failed had written something. `traceback` is empty where the",
        "principal may not read logs. Where `retry` is `later` there is a `Retry-After`.",
        "",
        *_table(("status", "code"), _statuses()),
        "",
        "HTTP's own:",
        "",
        *_table(("status", "code", "when"), _OWN),
        "",
        "What can't be parsed as HTTP is answered 400 with such a body, and the connection ends.",
    ]
    return "\n".join(lines) + "\n"


def _table(header: tuple[str, ...], rows: Any) -> list[str]:
    lines = [header, tuple("---" for _ in header), *rows]
    return ["| " + " | ".join(cell for cell in line) + " |" for line in lines]


def _route(route: Route) -> tuple[str, ...]:
    query = f" (`?{'=`, `?'.join(route.query)}=`)" if route.query else ""
    body = f"`{route.body.__name__}`" if route.body is not None else "bytes" if route.takes_bytes else ""
    gives = _shown(route.gives) if route.gives is not None else ""
    if not gives:
        gives = "JSON" if route.gives_kind == "application/json" else f"`{route.gives_kind}`"
    gives += ", or events" if route.streams else ""
    status = "" if route.status == 200 else f"{route.status}: "
    return (f"`{route.method}`", f"`{route.path}`", route.summary + query, body, status + gives)


def _field(field: msgspec.structs.FieldInfo) -> tuple[str, ...]:
    required = field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT
    default = field.default if field.default is not msgspec.NODEFAULT else None
    if default is None and not required and field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    text = "required" if required else f"`{msgspec.json.encode(default).decode()}`"
    return (f"`{field.name}`", _shown(field.type), text)


def _shown(kind: Any) -> str:
    """A type as JSON has it."""
    arguments = get_args(kind)
    if hasattr(kind, "__metadata__"):
        return _shown(arguments[0])
    if get_origin(kind) in {list, tuple}:
        return f"list of {_shown(arguments[0])}"
    if get_origin(kind) is dict:
        return "object"
    if isinstance(kind, types.UnionType):
        return " or ".join("null" if one is type(None) else _shown(one) for one in arguments)
    if get_origin(kind) is Literal:
        return " or ".join(f"`{one}`" for one in arguments)
    names = {str: "text", int: "integer", float: "number", bool: "true or false", object: "anything"}
    return names.get(kind, f"`{kind.__name__}`")


def _statuses() -> list[tuple[str, str]]:
    by_status: dict[int, list[str]] = {}
    for code, status in STATUSES.items():
        by_status.setdefault(status, []).append(f"`{code}`")
    return [(str(status), ", ".join(codes)) for status, codes in sorted(by_status.items())]
