"""A wheel, read without running or importing any of it: its findings, and every file it would install."""

from __future__ import annotations

import base64
import configparser
import csv
import errno
import hashlib
import io
import os
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from email.parser import HeaderParser
from pathlib import Path
from typing import BinaryIO

import msgspec
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from bridgehold.errors import DependencyError
from bridgehold.sandbox.envs.archive import (
    Archive,
    ArchiveFaultError,
    Member,
    ScanLimits,
    name_faults,
    size_faults,
)
from bridgehold.sandbox.envs.commands import MAX_SCRIPT, command, with_interpreter
from bridgehold.sandbox.envs.index import parse_wheel_name, tags, wheel_tags
from bridgehold.sandbox.envs.landing import HARMLESS_PTH, Landing, WheelLayout, land, script_faults
from bridgehold.sandbox.envs.values import Finding, Interpreter, ScanReport, Wheel, WheelFile

_HASHES = ("sha256", "sha384", "sha512")
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    zlib.error,
    csv.Error,
    struct.error,
)
"""What zlib, csv and the parsers of metadata raise at hostile bytes."""
_MAX_FINDINGS = 50
_MORE_ROWS = 16
"""Lines of RECORD beyond one for each file and one for each folder that some tools list."""
_MAX_ENTRY_POINTS = 256 * 1024
_MAX_TAGS = 500
_GAP = re.compile(r"(?<=\S)[^\S\n]+")
"""Within a line: a long one takes the parser of entry points, which no other thread interrupts, minutes."""


def scan_wheel(
    path: Path,
    wheel: Wheel,
    interpreter: Interpreter,
    *,
    allow_pth: bool = False,
    own: bool = False,
    limits: ScanLimits | None = None,
) -> ScanReport:
    """Read `path`, which must have `wheel`'s bytes. A file that can't be read as a wheel is a finding too.

    `own`: a bridge brings it, and says by its name alone what it fits: the file must say the same.
    """
    scan = _Scan(wheel, interpreter, limits or ScanLimits(), allow_pth=allow_pth, own=own)
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != wheel.sha256:
                scan.add("hash", "", "its bytes are not those of the lock")
            else:
                scan.read(file)
    except ArchiveFaultError as fault:
        scan.add(fault.finding.rule, fault.finding.file, fault.finding.detail)
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the machine's, not the wheel's: bytes can make a seek invalid, and nothing else
        scan.add("archive", "", f"can't be read: {str(error)[:200] or type(error).__name__}")
    return scan.report()


def refuse_findings(reports: Sequence[ScanReport]) -> None:
    """Raise `DependencyError` with every finding of `reports`, or return."""
    bad = [report for report in reports if report.findings]
    if not bad:
        return
    lines = [f"{report.wheel}: {finding}" for report in bad for finding in report.findings]
    pth = any(finding.rule == "pth" for report in bad for finding in report.findings)
    raise DependencyError(
        "; ".join(lines[:8]) + (f"; and {len(lines) - 8} more" if len(lines) > 8 else ""),
        where=bad[0].wheel,
        hint="Nothing of it ran. Pin another version, and tell its authors"
        + (
            ", or, if you have read the file, put `pth` among the `weakenings` of the bridge's policy: the "
            "wheel is installed without it then."
            if pth
            else "."
        ),
    )


class _Scan:
    """The findings and files of one wheel while it is read."""

    def __init__(
        self, wheel: Wheel, interpreter: Interpreter, limits: ScanLimits, *, allow_pth: bool, own: bool
    ) -> None:
        self._wheel = wheel
        self._interpreter = interpreter
        self._limits = limits
        self._allow_pth = allow_pth
        self._own = own
        self._findings: list[Finding] = []
        self._files: list[WheelFile] = []

    def add(self, rule: str, file: str, detail: str) -> None:
        if len(self._findings) < _MAX_FINDINGS:
            self._findings.append(Finding(rule=rule, file=file, detail=detail))

    def report(self) -> ScanReport:
        return ScanReport(
            wheel=self._wheel.filename,
            name=self._wheel.name,
            version=self._wheel.version,
            findings=tuple(self._findings[:_MAX_FINDINGS]),
            files=tuple(self._files),
        )

    def read(self, file: BinaryIO) -> None:
        archive = Archive(file, self._limits)
        self._findings += size_faults(archive.members, self._limits)
        if not self._findings:
            self._findings += name_faults(archive.members)
        if self._findings:
            return  # nothing else that it says is worth reading
        members = {member.name: member for member in archive.members if not member.is_folder}
        dist_info = self._dist_info(members)
        if dist_info is None:
            return
        layout = WheelLayout.of(dist_info, self._interpreter)
        landings = self._land(archive, members, layout)
        self._metadata(archive, members, dist_info)
        self._entry_points(archive, members, dist_info)
        record = self._record(archive, members, dist_info)
        if record is not None:
            self._contents(archive, members, landings, record, dist_info)
            self._own_record(layout)

    def _dist_info(self, members: Mapping[str, Member]) -> str | None:
        """The one folder with metadata, which must be named as the file is."""
        folders = {name.split("/", 1)[0] for name in members if name.split("/", 1)[0].endswith(".dist-info")}
        if len(folders) != 1:
            self.add("metadata", "", f"{len(folders)} .dist-info folders; a wheel has one")
            return None
        folder = folders.pop()
        name, _, version = folder.removesuffix(".dist-info").rpartition("-")
        if not self._is_named(name, version):
            self.add("metadata", folder, "its name is not the file's")
        return folder

    def _is_named(self, name: str, version: str) -> bool:
        try:
            asked = (self._wheel.name, Version(self._wheel.version))
            return (
                parse_wheel_name(self._wheel.filename) == asked == (canonicalize_name(name), Version(version))
            )
        except InvalidVersion:
            return False

    def _land(
        self, archive: Archive, members: Mapping[str, Member], layout: WheelLayout
    ) -> dict[str, Landing]:
        landings: dict[str, Landing] = {}
        taken: dict[str, str] = {}
        for name in members:
            landing = land(name, layout, allow_pth=self._allow_pth)
            if isinstance(landing, Finding) and landing.rule == "pth":
                sha256, _ = _hash_member(archive, members[name], "sha256")
                if sha256 in HARMLESS_PTH:
                    landing = Landing(path="")
                else:
                    landing = msgspec.structs.replace(landing, detail=f"{landing.detail}; sha256 {sha256}")
            if isinstance(landing, Finding):
                self._findings.append(landing)
                continue
            other = taken.setdefault(landing.path.casefold() or name, name)
            if other != name:
                self.add("duplicate", name, f"lands where {other} lands")
            landings[name] = landing
        return landings

    def _metadata(self, archive: Archive, members: Mapping[str, Member], folder: str) -> None:
        text = self._small(archive, members, f"{folder}/METADATA", self._limits.metadata_bytes)
        if text is None:
            return
        headers = HeaderParser().parsestr(text)
        if not self._is_named(str(headers.get("Name", "")), str(headers.get("Version", ""))):
            self.add("metadata", f"{folder}/METADATA", "its name or version is not the file's")
        wheel = self._small(archive, members, f"{folder}/WHEEL", self._limits.metadata_bytes)
        if wheel is None:
            return
        headers = HeaderParser().parsestr(wheel)
        version = str(headers.get("Wheel-Version", ""))
        if not version.startswith("1."):
            self.add("metadata", f"{folder}/WHEEL", f"wheel version {version[:20]!r} is unknown")
        if self._own and not self._is_tagged([str(one) for one in headers.get_all("Tag", [])]):
            self.add("metadata", f"{folder}/WHEEL", "its tags are not those of the file's name")

    def _is_tagged(self, said: Sequence[str]) -> bool:
        """Whether the file is named by what it says that it fits."""
        if len(said) > _MAX_TAGS:
            return False
        words = [one.strip() for one in said]
        return set(wheel_tags(self._wheel.filename)) == {
            tag for one in words if one.count("-") == 2 for tag in tags(one)
        }

    def _entry_points(self, archive: Archive, members: Mapping[str, Member], folder: str) -> None:
        where = f"{folder}/entry_points.txt"
        if where not in members:
            return
        text = self._small(archive, members, where, _MAX_ENTRY_POINTS)
        parser = configparser.RawConfigParser(delimiters=("=",), strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]  # documented: names keep their case
        try:
            parser.read_string(_GAP.sub(" ", text or ""))
        except configparser.Error:
            self.add("metadata", where, "can't be read")
            return
        for section in ("console_scripts", "gui_scripts"):
            if parser.has_section(section):
                commands = dict(parser.items(section))
                self._findings += script_faults(commands, where)
                for name, asked in commands.items():
                    self._make(f"bin/{name}", command(asked), where, executable=True)

    def _make(self, path: str, content: bytes | None, where: str, *, executable: bool = False) -> None:
        """A file that is made of what the wheel says in `where`."""
        if content is None:
            self.add("script", where, f"{path} is asked for in a way that is no object of a module")
            return
        sha256 = hashlib.sha256(content).hexdigest()
        self._files.append(
            WheelFile(path=path, sha256=sha256, size=len(content), executable=executable, content=content)
        )

    def _own_record(self, layout: WheelLayout) -> None:
        """RECORD as it is installed: what is laid down, and compiled files by no hash."""
        rows = io.StringIO()
        writer = csv.writer(rows, lineterminator="\n")
        for file in sorted(self._files, key=lambda one: one.path):
            digest = _encode(bytes.fromhex(file.sha256))
            writer.writerow((os.path.relpath(file.path, layout.site), f"sha256={digest}", file.size))
        record = f"{layout.site}/{layout.dist_info}/RECORD"
        writer.writerow((os.path.relpath(record, layout.site), "", ""))
        self._make(record, rows.getvalue().encode(), record)

    def _record(self, archive: Archive, members: Mapping[str, Member], folder: str) -> dict[str, str] | None:
        """RECORD's hashes by member, as written there."""
        where = f"{folder}/RECORD"
        text = self._small(archive, members, where, self._limits.record_bytes)
        if text is None:
            return None
        rows: dict[str, str] = {}
        most = 2 * len(members) + _MORE_ROWS
        for row in csv.reader(io.StringIO(text)):
            if len(rows) == most:
                self.add("record", where, f"more than {most} lines for {len(members)} files")
                return None
            if len(row) != 3:
                self.add("record", where, f"a line with {len(row)} fields")
                return None
            if row[0] in rows:
                self.add("record", row[0], "listed twice in RECORD")
            rows[row[0]] = row[1]
        for name in rows:
            if name not in members and not name.endswith("/"):
                self.add("record", name, "listed in RECORD and not there")
        return rows

    def _contents(
        self,
        archive: Archive,
        members: Mapping[str, Member],
        landings: Mapping[str, Landing],
        record: Mapping[str, str],
        folder: str,
    ) -> None:
        unhashed = {f"{folder}/{name}" for name in ("RECORD", "RECORD.jws", "RECORD.p7s")}
        for name, info in members.items():
            listed = record.get(name)
            if listed is None and name not in unhashed:
                self.add("record", name, "not listed in RECORD")
                continue
            algorithm, _, value = (listed or "").partition("=")
            if name not in unhashed and algorithm not in _HASHES:
                self.add("record", name, "no sound hash in RECORD")
                continue
            sha256, other = _hash_member(archive, info, algorithm if algorithm in _HASHES else "sha256")
            if name not in unhashed and _encode(other) != value.rstrip("="):
                self.add("record", name, "its bytes are not those that RECORD says")
            landing = landings.get(name)
            if landing is None or not landing.path:
                continue
            content = None
            if landing.script and info.size <= MAX_SCRIPT:
                content = with_interpreter(archive.read(info))
            if content is not None:
                self._make(landing.path, content, name, executable=True)
                continue
            executable = landing.script or bool(info.mode & 0o111)
            self._files.append(
                WheelFile(
                    path=landing.path, sha256=sha256, size=info.size, executable=executable, member=name
                )
            )

    def _small(self, archive: Archive, members: Mapping[str, Member], name: str, cap: int) -> str | None:
        """A metadata file's text, or None with a finding."""
        info = members.get(name)
        if info is None:
            self.add("record" if name.endswith("RECORD") else "metadata", name, "missing")
            return None
        if info.size > cap:
            self.add("metadata", name, f"{info.size} bytes, at most {cap}")
            return None
        try:
            return archive.read(info).decode()
        except UnicodeDecodeError:
            self.add("metadata", name, "not UTF-8")
            return None


def _hash_member(archive: Archive, info: Member, algorithm: str) -> tuple[str, bytes]:
    """(sha256 in hexadecimal, digest by `algorithm`) of a member's bytes."""
    own, other = hashlib.sha256(), hashlib.new(algorithm)
    for block in archive.blocks(info):
        own.update(block)
        if algorithm != "sha256":
            other.update(block)
    return own.hexdigest(), own.digest() if algorithm == "sha256" else other.digest()


def _encode(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
