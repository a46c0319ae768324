"""A file of expectations: what bridges must be allowed, and must be refused, as CI asks it (pure).

[[expect]]
bridge = "dspy"
tenant = "acme"                                   # the local one, if left out
allows = ["dspy:predict", "openai POST /chat/completions", "tool search"]
refuses = ["openai POST /files", "connect example.com:443"]
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from bridgehold import reads
from bridgehold.errors import UsageError
from bridgehold.ids import LOCAL_TENANT
from bridgehold.policies.explain import Known, unknown_name
from bridgehold.policies.locate import locate
from bridgehold.policies.simulate import Act, What

_FORMS: tuple[tuple[What, str], ...] = (
    ("tool", r"tool (\S+)"),
    ("resource", r"resource (\S+)"),
    ("connect", r"connect (\S+:[0-9]{1,5})"),
    ("egress", r"([a-z0-9_-]+ [A-Z]+ /\S*)"),
    ("operation", r"([a-z0-9_-]+:\S+)"),
)
_HINT = "Write bridge:operation, PROVIDER METHOD /path, tool NAME, resource KIND, or connect HOST:PORT."


class _Expect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    bridge: str
    tenant: str = LOCAL_TENANT
    allows: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    expect: tuple[_Expect, ...]


def read_expectations(text: str, file: str) -> Iterator[Act]:
    """Each expectation; its `event` is ``file:line``. Raises `UsageError`."""
    data = reads.parse_toml(text, UsageError, file)
    try:
        found = msgspec.convert(data, _File)
    except msgspec.ValidationError as error:
        hint = "docs/how-to/review-policies.md shows one."
        raise UsageError(f"this is no file of expectations: {error}", where=file, hint=hint) from error
    if not any(one.allows or one.refuses for one in found.expect):
        raise UsageError("nothing is expected in it", where=file, hint=_HINT)
    lines = locate(text)
    for number, one in enumerate(found.expect):
        for key, several in (("allows", one.allows), ("refuses", one.refuses)):
            for index, said in enumerate(several):
                where = f"{file}:{lines.get(f'expect[{number}].{key}[{index}]', 0)}"
                what, name = _read(said, where)
                yield Act(
                    what=what,
                    name=name,
                    allowed=key == "allows",
                    event=where,
                    tenant=one.tenant,
                    bridge=one.bridge,
                )


def unknown(act: Act, known: Known) -> str:
    """Why no policy can meet what is expected, or any does, by its names alone; empty: one may (pure)."""
    match act.what:
        case "operation":
            bridge = act.name.partition(":")[0]
            if bridge not in (act.bridge, "common"):
                return f"{act.name!r} is no operation of {act.bridge}"
            return unknown_name("operations.allow", act.name, known, table=False)
        case "resource":
            return unknown_name("resources.allow", act.name, known, table=False)
        case "egress":
            return unknown_name(f"network.endpoints.{act.name.partition(' ')[0]}", "", known, table=True)
    return ""


def _read(said: str, where: str) -> tuple[What, str]:
    for what, form in _FORMS:
        if found := re.fullmatch(form, said):
            return what, found[1]
    raise UsageError(f"{said[:120]!r} can't be asked for", where=where, hint=_HINT)
