"""`bridgehold bridge scan`: what environments consist of, and what is known against it."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from bridgehold import writes
from bridgehold.client.client import Client
from bridgehold.errors import DependencyError, EnvironmentChangedError, UsageError
from bridgehold.faces.cli.asking import using
from bridgehold.faces.cli.known import typed_bridge, typed_tenant
from bridgehold.faces.cli.options import Json
from bridgehold.faces.layout import Column, Row, dim
from bridgehold.faces.progress import waiting
from bridgehold.faces.render import print_json, table
from bridgehold.faces.screen import err, out
from bridgehold.protocol.values import SessionInfo
from bridgehold.sandbox.supply.bom import bill_of
from bridgehold.sandbox.supply.scan import Basis, Report, Scanned

FailOn = Literal["critical", "high", "medium", "low", "never"]
_COLOURS = {"critical": "bold red", "high": "red", "unknown": "red", "medium": "yellow", "accepted": "dim"}
_MENDED = 3


def scan(
    bridge: Annotated[
        str, typer.Argument(help="The bridge; every environment, if left out.", callback=typed_bridge)
    ] = "",
    tenant: Annotated[str, typer.Option(help="Whose own bridge it is.", callback=typed_tenant)] = "",
    fail_on: Annotated[
        FailOn,
        typer.Option(help="Exit 16 at an advisory this grave, or graver, or one that can't be read."),
    ] = "high",
    sbom: Annotated[
        Path | None,
        typer.Option("--sbom", help="Write a CycloneDX file of each environment into this folder."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Hashes, wheels, licences and advisories of built environments; exit 18 where one is not as sealed.

    Advisories are OSV files in the folder that `[supply] advisories` of config.toml names; nothing is
    fetched. Sessions that run on what it finds fault with are named: what is blocked ends none of them.
    """
    params = {"bridge": bridge, "tenant": tenant or None, "fail_on": fail_on}

    async def scanned(client: Client) -> tuple[Report, list[SessionInfo]]:
        report = msgspec.convert(await client.request("bridge.scan", params), Report)
        return report, await client.sessions()

    with waiting("reading every byte"):
        report, sessions = using(scanned, host=True)
    if sbom is not None:
        _write(report, sbom)
    if json_output:
        told = msgspec.to_builtins(report)
        for one in told["environments"]:
            one["sessions"] = [
                _named(session) for session in sessions if session.environment == one["digest"]
            ]
        print_json(told)
    else:
        for one in report.environments:
            _show(one)
            if one.blocked or not one.ok or any(not hit.accepted for hit in one.hits):
                _show_users([session for session in sessions if session.environment == one.digest])
        _tell(report.advisories, len(report.environments))
    if any(one.contents.changed for one in report.environments):
        raise typer.Exit(EnvironmentChangedError.exit_status)
    if not all(one.ok for one in report.environments):
        raise typer.Exit(DependencyError.exit_status)


def _show(one: Scanned) -> None:
    contents = one.contents
    licences = Counter(str(part.licence) for part in contents.parts)
    again = sum(part.reread for part in contents.parts)
    out.say(
        (", ".join(one.bridges) or "no bridge here", "bold"),
        f"  {one.digest[7:19]}, Python {one.python}, {len(contents.parts)} packages, ",
        (f"CHANGED: {contents.changed}", "bold red") if contents.changed else "as sealed",
        f", {again} wheels read again",
    )
    if licences:
        told = ", ".join(f"{name} {count}" for name, count in licences.most_common())
        out.say(f"  licences: {told}", under="  ")
    if one.blocked:
        out.say(("  blocked: ", "bold red"), one.blocked, under="  ")
    rows: list[Row] = [
        (
            "accepted" if hit.accepted else hit.severity,
            hit.package,
            hit.version,
            hit.id,
            ", ".join(hit.fixed[:_MENDED]) or "-",
            hit.summary,
        )
        for hit in one.hits
    ]
    rows += [
        ("wheel", found.wheel, "", found.finding.rule, "-", str(found.finding)) for found in contents.findings
    ]
    columns = (Column("", styles=_COLOURS), "package", "version", "advisory", "mended in", dim("what"))
    if rows:
        table(columns, rows)


def _named(session: SessionInfo) -> dict[str, str]:
    return {"session": session.id, "name": session.name, "tenant": session.tenant, "bridge": session.bridge}


def _show_users(sessions: list[SessionInfo]) -> None:
    """Who runs on it."""
    if sessions:
        rows: list[Row] = [tuple(_named(one).values()) for one in sessions]
        table(("runs on it", "name", "tenant", "bridge"), rows)
        err.say("`bridgehold sessions --end SESSION` ends one; what it is opened with next is judged anew")


def _tell(basis: Basis, count: int) -> None:
    """What the verdicts rest on, beside the output."""
    if not count:
        err.say("no environment is built")
    if not basis.folder:
        err.say(
            ("no advisories: ", "yellow"), "`[supply] advisories` in config.toml names a folder of OSV files"
        )
        return
    age = "none says when it is of" if basis.age_days is None else f"the newest {basis.age_days} days old"
    err.say(f"{basis.files} advisories, {age}", ("; too old", "yellow") if basis.stale else "")
    for one in basis.unread:
        err.say(("not read: ", "red"), f"{one.file}: {one.why}")
    if basis.unread_count > len(basis.unread):
        err.say(f"and {basis.unread_count - len(basis.unread)} more that can't be read")


def _write(report: Report, folder: Path) -> None:
    now = datetime.now(UTC)
    try:
        writes.make_folder(folder)
        for one in report.environments:
            document = msgspec.json.format(
                msgspec.json.encode(bill_of(one, now, version("bridgehold"))), indent=2
            )
            writes.replace(folder / f"{one.digest.removeprefix('sha256:')[:12]}.cdx.json", document)
    except OSError as error:
        raise UsageError(f"can't be written: {error.strerror or error}", where=str(folder)) from error
