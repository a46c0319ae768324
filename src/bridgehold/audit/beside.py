"""What the journal lays beside the audit at the host's word: anchors, their key, its changes; and seals."""

from __future__ import annotations

import re
from pathlib import Path

from bridgehold import writes
from bridgehold.audit import anchors, rotations, seals
from bridgehold.audit.chain import Head
from bridgehold.audit.events import AnchorKeyRotated, AnchorSigned, Event, SegmentSealed
from bridgehold.errors import AuditError

_KEY = re.compile(r"ed25519:[A-Za-z0-9+/]{43}=\n")


def take(text: str, folder: Path, head: Head) -> Event | None:
    """Store it durably. What is to be written of it, if anything. Raises `AuditError`.

    `head`: where the journal's own chain stands.
    """
    if text.startswith(rotations.PREFIX):
        changed = rotations.parse(text)
        rotations.store(folder, changed)
        old, new = changed.ids
        return AnchorKeyRotated(
            old=old, new=new, old_lost=changed.lost, by=changed.rotation.by, record=rotations.render(changed)
        )
    if text.startswith(seals.PREFIX):
        seal = seals.parse(text)
        return SegmentSealed(
            of=seal.instance, segment=seal.segment, bodies=seal.dropped, by=seal.by, record=text
        )
    if text.startswith("ed25519:"):
        if not _KEY.fullmatch(text):
            raise AuditError("not a public key")
        try:
            writes.replace(folder / anchors.PUBLIC_KEY, text)
        except OSError as error:
            raise AuditError(
                f"can't publish the anchors' key: {error.strerror}", where=str(folder)
            ) from error
        return None
    signed = anchors.parse(text)
    anchor = signed.anchor
    if anchor.instance != head.instance or anchor.count > head.count:
        raise AuditError("an anchor of another audit, or of what is not written yet")
    anchors.store(folder, signed)
    return AnchorSigned(count=anchor.count, head=anchor.head, key=anchor.key, signature=signed.signature)
