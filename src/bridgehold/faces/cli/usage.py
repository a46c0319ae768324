"""`bridgehold usage`: who used what, by the audit."""

from __future__ import annotations

from typing import Annotated

import typer

from bridgehold.audit.query import TIMES, parse_span
from bridgehold.audit.read import read_all
from bridgehold.audit.usage import Used, fold
from bridgehold.faces.cli.audit import Folder, audit_folder
from bridgehold.faces.cli.options import Json
from bridgehold.faces.layout import number
from bridgehold.faces.render import print_json, table
from bridgehold.faces.screen import out
from bridgehold.ids import nearest
from bridgehold.policies.units import format_size

_WORK = ("tenant", "bridge", number("sessions"), number("commands"), number("failed"), number("processor"))
_REQUESTS = (
    "tenant",
    "bridge",
    "provider",
    "model",
    number("requests"),
    number("failed"),
    number("tokens in"),
    number("out"),
    number("charged"),
    number("sent", extra=True),
    number("received", extra=True),
)


def usage(
    audit: Folder = None,
    tenant: Annotated[str, typer.Option(help="Only this tenant.")] = "",
    since: Annotated[str, typer.Option(help=f"From this time on: {TIMES}. UTC.")] = "",
    until: Annotated[str, typer.Option(help="Up to this time.")] = "",
    json_output: Json = False,
) -> None:
    """Who used what: sessions, commands, processor time, requests, tokens and bytes, as the audit has it."""
    (begin, end), folder = parse_span(since, until), audit_folder(audit)
    found = fold(read_all(folder), tenant=tenant, since=begin, until=end)
    if json_output:
        print_json(found)
        return
    if not found:
        named = {one.tenant for one in fold(read_all(folder))} if tenant else ()
        out.say(f"nothing was used{nearest(tenant, named) if tenant not in named else ''}")
        return
    work = [one for one in found if not one.provider]
    requests = [one for one in found if one.provider]
    if work:
        table(_WORK, [_work(one) for one in work], title="in sandboxes")
    if requests:
        table(_REQUESTS, [_request(one) for one in requests], title="at providers")
    if any(one.estimated for one in requests):
        out.say(("~ some tokens are estimates: the provider named none", "dim"))


def _work(one: Used) -> tuple[str, ...]:
    seconds = f"{one.cpu_us / 1_000_000:.2f} s"
    return (one.tenant, one.bridge, f"{one.sessions:,}", f"{one.commands:,}", f"{one.failed:,}", seconds)


def _request(one: Used) -> tuple[str, ...]:
    mark = "~" if one.estimated else ""
    return (
        one.tenant,
        one.bridge,
        one.provider,
        one.model,
        f"{one.requests:,}",
        f"{one.failed:,}",
        f"{mark}{one.input_tokens:,}",
        f"{mark}{one.output_tokens:,}",
        f"{one.charged:,}",
        format_size(one.sent_bytes),
        format_size(one.received_bytes),
    )
