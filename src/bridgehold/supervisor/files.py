"""Files of the configuration that an operator changes through the host: who owns them writes them, here.

The host has no right to the configuration, and as a service not even the uid. What it may ask for is this
alone: the table ``[tenant]`` of a tenant's file, whose other rules stay as they are, also when it goes; a
token's file, which makes no operator, and its end. Everything is read by its own strict parser before it is
written, so that a host that was taken over can write no other file. A rule that widens a policy is written
only where it is signed by a key that lies beside the keeper's: no host has it, and the keeper signs none.
Where ``[review] required`` holds, that goes for a tenant's ceilings too: the host may lower them alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bridgehold import clock, reads, writes
from bridgehold.config.layout import Layout
from bridgehold.config.load import load_config
from bridgehold.error_texts import from_os
from bridgehold.errors import BridgeholdError, BusyError, NotFoundError, PolicyError, UsageError
from bridgehold.host.startup import GO, LONGEST_FILE, FileChange
from bridgehold.ids import Digest, digest_bytes, parse_name
from bridgehold.keeper.approver import Approver
from bridgehold.policies import approved, reviewed, tenants, tokens
from bridgehold.policies.approved import SKEW_S, Approved, by_key, read_ended, read_rules
from bridgehold.policies.files import Kind, is_file_of
from bridgehold.policies.model import Ceilings
from bridgehold.policies.reviewed import OF_TENANT, read_review
from bridgehold.policies.tables import parse_time

_SIGNED: dict[str, tuple[Kind, str]] = {
    "approved": ("approved", approved.SUFFIX),
    "review": ("policy", reviewed.SUFFIX),
}
"""What lies beside policies: whose names it takes, and how its files end."""


class Once:
    """What was signed, and is written once alone: what its owner took away since comes back by no host."""

    def __init__(self, since: float) -> None:
        """`since`: when this supervisor began, in seconds of the epoch; nothing older than it is new."""
        self._since = int(since)  # what is signed says no part of a second
        self._used: dict[Digest, float] = {}

    def demand_new(self, signed: Mapping[Digest, str], now: float, where: str) -> None:
        """`signed`: the digest of each text that is signed, and when that was.

        Raises `PolicyError` for one that isn't new.
        """
        for text, at in signed.items():
            made = parse_time(at)
            if text in self._used or not max(self._since, now - SKEW_S) <= made <= now + SKEW_S:
                raise PolicyError(
                    f"what was signed at {at} is not new",
                    where=where,
                    hint="Are the clocks right? Sign it anew.",
                )

    def use(self, signed: Mapping[Digest, str], now: float) -> None:
        """These stand in a file, or did; those that are too old by now are refused for that."""
        self._used = {text: made for text, made in self._used.items() if made >= now - SKEW_S}
        self._used |= {text: made for text, at in signed.items() if (made := parse_time(at)) >= now - SKEW_S}


def answer(layout: Layout, said: bytes, once: Once) -> bytes:
    """What the host is answered: `GO`, or the error as JSON; then nothing has changed."""
    try:
        change(layout, said, once)
    except OSError as error:
        return msgspec.json.encode(_unwritable(error).info())
    except BridgeholdError as error:
        return msgspec.json.encode(error.info())
    return GO


def change(layout: Layout, said: bytes, once: Once) -> None:
    """Write, or remove, what `said` names. Raises the typed refusal, or `OSError`."""
    try:
        wanted = msgspec.json.decode(said, type=FileChange)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UsageError("this is no change of a file") from error
    path = _place(layout, wanted)
    before = reads.read_text(path, PolicyError, most=LONGEST_FILE, or_none=True)
    if (digest_bytes(before.encode()) if before else "") != wanted.was:
        raise BusyError("the file was changed by somebody else meanwhile", where=str(path), retry="same")
    if wanted.text is None:
        _remove(path, wanted, before)
        return
    if len(wanted.text.encode()) > LONGEST_FILE:  # what is longer could be changed, or ended, no more
        raise PolicyError(f"more than {LONGEST_FILE} bytes", where=str(path))
    signed, now = dict[Digest, str](), clock.now()
    if wanted.kind in _SIGNED:
        known, signed = _check_signed(layout, path, wanted, wanted.text, before)
        once.use(known, now)
        once.demand_new({name: at for name, at in signed.items() if name not in known}, now, str(path))
    else:
        _check(path, wanted.name, before, wanted.text, token=wanted.kind == "tokens")
        if wanted.kind == "tenants":
            _check_raised(layout, path, wanted.name, before, wanted.text)
    writes.make_folder(path.parent)
    writes.replace(path, wanted.text)
    once.use(signed, now)


def _place(layout: Layout, wanted: FileChange) -> Path:
    """The file."""
    if wanted.kind == "review" and wanted.text is not None and wanted.name.startswith(OF_TENANT):
        return _ceilings_review(layout, parse_name(wanted.name.removeprefix(OF_TENANT)))
    if wanted.kind in _SIGNED:
        kind, suffix = _SIGNED[wanted.kind]
        if wanted.text is None or not is_file_of(kind, wanted.name):
            raise UsageError("this is no change of what is signed")
        return layout.policies / f"{wanted.name}{suffix}.toml"
    folder = layout.tenants if wanted.kind == "tenants" else layout.tokens
    return folder / f"{parse_name(wanted.name)}.toml"


def _ceilings_review(layout: Layout, tenant: str) -> Path:
    return layout.tenants / f"{tenant}{reviewed.SUFFIX}.toml"


def _check_signed(
    layout: Layout, path: Path, wanted: FileChange, text: str, before: str
) -> tuple[dict[Digest, str], dict[Digest, str]]:
    """Digests of what is signed in the file and in what is to stand there, and when that was.

    All of it was signed by who owns the configuration, with a key that no host has. What ends before its time
    is named in the file until then, and is no rule any more, however new it is.
    """
    verified = by_key(Approver(layout.secrets).public_key())
    if wanted.kind == "review":
        review, known = read_review(wanted.name, text, str(path), verified), dict[Digest, str]()
        with contextlib.suppress(PolicyError):
            one = read_review(wanted.name, before, str(path), verified)
            known = {digest_bytes(one.signed(wanted.name)): one.at}
        return known, {digest_bytes(review.signed(wanted.name)): review.at}
    bridge, _, tenant = wanted.name.partition("@")
    now, stood, ended = clock.now(), tuple[Approved, ...](), dict[str, str]()
    with contextlib.suppress(PolicyError):
        stood = read_rules(bridge, tenant, before, str(path), verified)
        ended = read_ended(before, str(path), now)
    rules = read_rules(bridge, tenant, text, str(path), verified)
    stay = {one.id for one in rules}
    gone = {name: parse_time(until) for name, until in ended.items()}
    gone |= {one.id: one.until for one in stood if one.until > now and one.id not in stay}
    said = read_ended(text, str(path), now)
    lost = [name for name, until in gone.items() if name not in said or parse_time(said[name]) < until]
    if lost:
        raise PolicyError(
            f"what was ended is left out of [ended], or not until its time: {', '.join(sorted(lost))}",
            where=str(path),
        )
    of_stood, of_rules = (
        {digest_bytes(one.text(bridge, tenant)): one.approved for one in each} for each in (stood, rules)
    )
    return of_stood, of_rules


def _check(path: Path, name: str, before: str, text: str, *, token: bool) -> None:
    if token:
        tokens.parse(name, text, str(path))
        return
    tenants.parse(name, text, str(path))
    if tenants.beside(text) != tenants.beside(before):
        raise PolicyError("only the table [tenant] is changed this way", where=str(path))


def _check_raised(layout: Layout, path: Path, name: str, before: str, text: str) -> None:
    """Raise `PolicyError` where ceilings are raised beyond what somebody signed of them, or beyond what they
    were where nobody has, and the configuration demands that; also where it can't be told whether it does.
    """
    was, wanted = (
        tenants.parse(name, one, str(path)).limits if one else Ceilings() for one in (before, text)
    )
    raised = tenants.compare_limits(was, wanted).gained
    if not raised:
        return
    with contextlib.suppress(BridgeholdError):
        if not load_config(layout.config_file).review.required:
            return
    beside = _ceilings_review(layout, name)
    if review := reads.read_text(beside, PolicyError, most=LONGEST_FILE, or_none=True):
        verified = by_key(Approver(layout.secrets).public_key())
        signed = read_review(f"{OF_TENANT}{name}", review, str(beside), verified).text
        raised = tenants.compare_limits(tenants.parse(name, signed, str(beside)).limits, wanted).gained
    if raised:
        raise PolicyError(
            f"with `[review] required` a ceiling is raised by who signs: {raised[0].key} {raised[0].value}",
            where=str(path),
            hint=f"Write it into that file, and sign it: `bridgehold policy approve {OF_TENANT}{name}`.",
        )


def _remove(path: Path, wanted: FileChange, before: str) -> None:
    if not before:
        raise NotFoundError("there is no such file", where=str(path))
    if wanted.kind == "tenants":
        tenant = tenants.parse(wanted.name, before, str(path))
        if not tenant.declared:
            raise NotFoundError("there is no table [tenant] in it", where=str(path))
        if tenant.state != "revoked":
            raise UsageError(
                f"tenant {wanted.name} is not revoked", hint=f"`bridgehold tenant revoke {wanted.name}`."
            )
        if left := tenants.without(wanted.name, before, str(path)):  # a ceiling outlives whom it bounds
            writes.replace(path, left)
            return
    with writes.our_folder(path.parent) as folder:
        os.unlink(path.name, dir_fd=folder)
        os.fsync(folder)


def _unwritable(error: OSError) -> BridgeholdError:
    found = from_os(error)
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        found.hint = (
            "The host's owner writes tenants/ and tokens/ beside config.toml: as a service with "
            "`ProtectSystem=`, name both folders in `ReadWritePaths=`."
        )
    return found
