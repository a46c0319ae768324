"""A tenant's submitted bridge, written into the configuration for the host: a release, and which is in use.

The host asks for it once an operator has approved. What comes is read by the same strict parsers as in the
host, from sealed memory and by no name; what is written is new, through no link, and replaces no release.
A host that was taken over could have code installed so, for the tenant and under the name that it says:
it runs in sandboxes alone, under the policy that the operator wrote for that name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
from pathlib import Path

import msgspec

from bridgehold import reads, writes
from bridgehold.bridges import bundle, laid, releases
from bridgehold.bridges.bundle import Bundle
from bridgehold.bridges.manifest_file import parse_manifest
from bridgehold.bridges.releases import CURRENT, RELEASES, Releases
from bridgehold.config.layout import Layout
from bridgehold.error_texts import from_os
from bridgehold.errors import (
    BridgeholdError,
    BusyError,
    ManifestError,
    NotFoundError,
    PolicyError,
    UsageError,
)
from bridgehold.host.startup import GO, LONGEST_FILE, SEALS, ReleaseChange
from bridgehold.ids import digest_bytes, parse_name

_MOST = bundle.MOST_PACKED + (1 << 20)
"""Of the encoded form: what is said beside the bytes of its files."""


def answer(layout: Layout, said: bytes, descriptor: int) -> bytes:
    """What the host is answered, as `files.answer`. `descriptor`: the bundle's; negative: none was given."""
    try:
        change(layout, said, descriptor)
    except OSError as error:
        return msgspec.json.encode(from_os(error).info())
    except BridgeholdError as error:
        return msgspec.json.encode(error.info())
    return GO


def change(layout: Layout, said: bytes, descriptor: int) -> None:
    """Lay down what came, then say in `current.toml` which is in use. Raises the typed refusal, `OSError`."""
    try:
        wanted = msgspec.json.decode(said, type=ReleaseChange)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UsageError("this is no change of a bridge's releases") from error
    home = layout.own_bridges(parse_name(wanted.tenant, "tenant")) / parse_name(wanted.bridge, "bridge")
    file = home / CURRENT
    new = releases.parse(wanted.text, str(file))
    if len(wanted.text.encode()) > LONGEST_FILE:
        raise PolicyError(f"more than {LONGEST_FILE} bytes", where=str(file))
    writes.make_folder(layout.tenants)
    with writes.our_folder(layout.tenants):
        _demand_no_links(layout.tenants, home)
    if (home / "bridge.toml").exists():
        raise UsageError(f"{wanted.bridge} of {wanted.tenant} is kept by hand", where=str(home))
    before = reads.read_text(file, PolicyError, most=LONGEST_FILE, or_none=True)
    if (digest_bytes(before.encode()) if before else "") != wanted.was:
        raise BusyError("the file was changed by somebody else meanwhile", where=str(file), retry="same")
    if descriptor >= 0:
        _lay(home, wanted.bridge, new.digest, _read(descriptor))
    elif new.digest and not releases.folder_of(home, new.digest).is_dir():
        raise NotFoundError("there is no such release", where=str(home))
    writes.replace(file, wanted.text, beneath=layout.tenants)
    _prune(home, new)


def _demand_no_links(top: Path, path: Path) -> None:
    """Raise `OSError` where a link stands for a folder on the way."""
    for folder in (path, *path.parents):
        if folder == top:
            return
        if folder.is_symlink():
            raise OSError(errno.ELOOP, "a link stands for a folder", str(folder))


def _read(descriptor: int) -> Bundle:
    """The bundle in sealed memory: nothing there changes while it is read, and nobody is waited for."""
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        raise UsageError("the bundle is not in sealed memory") from None
    facts = os.fstat(descriptor)
    if seals & SEALS != SEALS or not stat.S_ISREG(facts.st_mode) or facts.st_size > _MOST:
        raise UsageError("the bundle is not in sealed memory, or too large")
    data = bytearray()
    while block := os.pread(descriptor, _MOST, len(data)):
        data += block
    return bundle.decode(bytes(data))


def _lay(home: Path, name: str, digest: str, found: Bundle) -> None:
    """The release's folder, whole under its name or not there at all."""
    if bundle.digest(found) != digest:
        raise UsageError("the bundle is not what was approved", where=str(home))
    text = reads.decode(found.get("bridge.toml") or b"", ManifestError, "bridge.toml")
    manifest = parse_manifest(text, home)
    if manifest.name != name:
        raise ManifestError(f"the bridge calls itself {manifest.name!r}, not {name!r}", where="bridge.toml")
    target = releases.folder_of(home, digest)
    if target.is_dir():
        if bundle.digest(laid.read_folder(target)) != digest:
            raise UsageError("a release of this digest was changed on disk", where=str(target))
        return
    partial = target.with_name(f"new-{secrets.token_hex(8)}")
    try:
        laid.lay_down(partial, found)
        partial.rename(target)
        writes.sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _prune(home: Path, new: Releases) -> None:
    """What `current.toml` names no more, and what was begun and not finished, goes."""
    kept = {one.removeprefix("sha256:") for one in new.kept}
    for path in (home / RELEASES).iterdir() if (home / RELEASES).is_dir() else ():
        if path.name not in kept and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
