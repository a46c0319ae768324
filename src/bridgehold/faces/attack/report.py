"""The report: machine, grant, each act with what came of it; as Markdown and data, and its signature."""

from __future__ import annotations

import os
import platform
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path

import msgspec

from bridgehold import reads, writes
from bridgehold.audit import anchors, vouched
from bridgehold.config.layout import Layout
from bridgehold.errors import AuditError
from bridgehold.faces.attack.judging import Outcome
from bridgehold.faces.report.sections import Document, Section, markdown
from bridgehold.ids import digest_bytes
from bridgehold.keeper.signer import Signer
from bridgehold.policies.model import Grant
from bridgehold.sandbox.launch.bwrap import met_bwrap

_MOST = 16 * 1024 * 1024
SUFFIXES = (".md", ".json", ".sig")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is told."""

    version: str
    at: str
    machine: dict[str, str]
    bridge: str
    tenant: str
    policy: str
    grant: str
    """The digest of what is granted."""
    weakenings: tuple[str, ...]
    way: str
    counts: dict[str, int]
    acts: tuple[Outcome, ...]

    @property
    def held(self) -> bool:
        """Whether every barrier that was tried held, and one was."""
        return not self.counts.get("NOT HELD") and bool(self.counts.get("held"))


def make(grant: Grant, bridge: str, policy: str, way: str, outcomes: tuple[Outcome, ...]) -> Report:
    """The report of now and of this machine. `grant`: under which the acts ran; `policy`: of that name."""
    machine = grant.machine
    return Report(
        version=version_of("bridgehold"),
        at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        machine={
            "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
            "bubblewrap": met_bwrap().version,
            "cgroups": machine.cgroup,
            "uids": machine.uids,
            "system call filter": "yes" if machine.seccomp else "no",
            "processors": str(machine.cpus),
            "user": f"uid {os.getuid()}",
        },
        bridge=bridge,
        tenant=grant.tenant,
        policy=policy,
        grant=grant.digest,
        weakenings=tuple(grant.weakenings),
        way=way,
        counts=dict(Counter(one.came for one in outcomes)),
        acts=outcomes,
    )


def document(report: Report) -> Document:
    """The report in sections: one for each barrier (pure)."""
    columns = ("act", "came", "tried", "success would be", "seen inside", "seen outside", "rows", "event")
    barriers = dict.fromkeys(one.barrier for one in report.acts)
    return Document(
        title="Hostile acts on this machine",
        scope=(
            ("result", ", ".join(f"{count} {came}" for came, count in report.counts.items())),
            ("bridge", f"{report.bridge}, of tenant {report.tenant}"),
            ("way in", report.way),
            ("policy", f"{report.policy}, granted as {report.grant}"),
            ("weakenings", ", ".join(report.weakenings) or "none"),
            *report.machine.items(),
            ("made", f"{report.at} by bridgehold {report.version}"),
        ),
        sections=tuple(
            Section(
                name=barrier.replace(" ", "-"),
                title=f"{barrier}: {_came(report, barrier)}",
                columns=columns,
                rows=tuple(_row(one) for one in report.acts if one.barrier == barrier),
            )
            for barrier in barriers
        ),
    )


def _came(report: Report, barrier: str) -> str:
    came = {one.came for one in report.acts if one.barrier == barrier}
    return next(word for word in ("NOT HELD", "not tried", "held") if word in came)


def _row(one: Outcome) -> tuple[str, ...]:
    outside, rows = "; ".join(one.outside), ", ".join(map(str, one.rows))
    return one.name, one.came, one.tried, one.success, one.inside, outside, rows, one.event


def write(report: Report, out: Path, layout: Layout) -> tuple[Path, ...]:
    """Markdown, JSON, and the signature of both beside them. Raises `AuditError`, `SecretError`."""
    base = out.with_suffix("") if out.suffix in SUFFIXES else out
    texts = {
        ".md": markdown(document(report)).encode(),
        ".json": msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n",
    }
    paths = {suffix: base.with_name(base.name + suffix) for suffix in SUFFIXES}
    made = vouched.Vouched(
        files=tuple((paths[suffix].name, digest_bytes(text)) for suffix, text in texts.items()),
        time=report.at,
        by=f"uid {os.getuid()}",
    )
    signature = vouched.render(Signer(layout.secrets).vouch(made))
    vouched.parse(
        signature, str(paths[".sig"])
    )  # a name that can't be signed is told before anything is written
    for suffix, text in texts.items():
        writes.replace(paths[suffix], text)
    writes.replace(paths[".sig"], signature)
    return tuple(paths.values())


def verify(path: Path, keys: dict[str, bytes]) -> vouched.Vouched:
    """The signature over the report at `path` and what was written with it.

    Raises `AuditError` where it is not sound, is of files of other names, or a file is not as it was signed,
    and where there is no report beside it.
    """
    base = path.with_suffix("") if path.suffix in SUFFIXES else path
    signature = base.with_name(f"{base.name}.sig")
    made = vouched.parse(reads.read_text(signature, AuditError, most=4096), str(signature))
    match vouched.is_signed(made, keys):
        case None:
            hint = "Give the public key that it was signed by: --key anchor.pub."
            raise AuditError(
                f"signed by {made.key}, which is not trusted here", where=str(signature), hint=hint
            )
        case False:
            raise AuditError("the signature is not sound", where=str(signature), hint="Make the report anew.")
    signed = {base.with_name(name): digest for name, digest in made.files}
    own = {base.with_name(base.name + suffix) for suffix in SUFFIXES}
    if not own >= signed.keys() or (path not in own and os.path.lexists(path)):
        raise AuditError(
            "the signature is of other files", where=str(path), hint="Keep the three files' names."
        )
    there = [file for file in signed if file == path or os.path.lexists(file)]
    for file in there:
        if digest_bytes(reads.read_bytes(file, AuditError, most=_MOST)) != signed[file]:
            raise AuditError("not as it was signed", where=str(file), hint="Make the report anew.")
    if not there:
        raise AuditError(
            "no report that it signs is there", where=str(signature), hint="Keep the files together."
        )
    return made


def keys_of(given: list[Path], layout: Layout) -> dict[str, bytes]:
    """Keys that may have signed: those that were given, or this layout's own."""
    own = layout.anchors / anchors.PUBLIC_KEY
    found: dict[str, bytes] = {}
    for path in given or ([own] if own.exists() else []):
        found |= anchors.read_key(path)
    return found
