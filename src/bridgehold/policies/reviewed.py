"""Which text of a policy or a ceiling a person has looked at: its digest, by whom, until when, signed (pure).

``policies/NAME.review.toml`` says it of ``policies/NAME.toml``. Where ``[review] required`` holds, a policy
that was edited since, was never looked at, or is gone though it was, refuses what rests on it. What comes
with the package is reviewed with the package.

``tenants/NAME.review.toml`` says it of ``tenants/NAME.toml``, which is ``@NAME`` where both have names. That
file may be edited as long as it allows no more than was signed: lowering is daily work.
"""

from __future__ import annotations

import base64
import binascii
from typing import Literal

import msgspec

from bridgehold.errors import PolicyError
from bridgehold.ids import digest_bytes
from bridgehold.policies.approved import Verified
from bridgehold.policies.changes import Changes
from bridgehold.policies.files import Readings, Text, is_file_of
from bridgehold.policies.load import read_toml
from bridgehold.policies.problems import Faulty, policy_error
from bridgehold.policies.tables import parse_time, rendered
from bridgehold.policies.tenants import beside, compare_limits
from bridgehold.policies.tenants import parse as parse_tenant

PREFIX = b"bridgehold-review-v1\n"
"""Of every text that is signed here, and of none elsewhere."""
SUFFIX = ".review"
OF_TENANT = "@"
"""Before a tenant's name: its ceiling, which no policy is called."""

ReviewState = Literal["reviewed", "narrowed", "edited", "never", "ended", "unsound"]


class Review(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was looked at. Times as of a policy's tables."""

    digest: str
    """Of `text`."""
    by: str
    at: str
    expires: str = ""
    """From then on it counts for nothing; empty: it has no end."""
    signature: str = ""
    text: str = ""

    def signed(self, name: str) -> bytes:
        """What is signed."""
        said = {"name": name, "digest": self.digest, "by": self.by, "at": self.at, "expires": self.expires}
        return PREFIX + msgspec.json.encode(said, order="deterministic")

    def is_sound(self, name: str, verified: Verified) -> bool:
        """Whether it says what was signed, of the text that it keeps."""
        try:
            signature = base64.b64decode(self.signature, validate=True)
        except (binascii.Error, ValueError):
            return False
        return digest_bytes(self.text.encode()) == self.digest and verified(signature, self.signed(name))

    def over(self, now: float) -> bool:
        """Whether it has ended."""
        return bool(self.expires) and parse_time(self.expires) <= now


def read_review(name: str, text: str, file: str, verified: Verified | None) -> Review:
    """`verified` None: nobody here knows the key. Raises `PolicyError`."""
    hint = f"`bridgehold policy approve {name}` writes it anew."
    try:
        found = msgspec.convert(read_toml(text, file).get("review"), Review)
        for time in (found.at, *filter(None, (found.expires,))):
            parse_time(time)
    except Faulty as faulty:
        raise policy_error(faulty.problems, hint=hint) from None
    except (msgspec.ValidationError, ValueError) as error:
        raise PolicyError(f"this is no review: {error}", where=file, hint=hint) from None
    if verified is not None and not found.is_sound(name, verified):
        raise PolicyError("is not soundly signed by this host's key for approvals", where=file, hint=hint)
    return found


def state_of(
    name: str, found: Text, review: Text | None, verified: Verified | None, now: float
) -> tuple[Review | None, ReviewState]:
    """How the text stands beside what was looked at. `verified` None: nobody here knows the key."""
    if review is None:
        return None, "never"
    try:
        known = read_review(name, review.text, review.file, verified)
    except PolicyError:
        return None, "unsound"
    if known.digest != found.digest:
        return known, "edited"
    return known, "ended" if known.over(now) else "reviewed"


def render(review: Review) -> str:
    """The file."""
    head = "# Written by `bridgehold policy approve`, and signed: what is changed by hand is refused.\n"
    return head + rendered("review", msgspec.structs.asdict(review))


def is_policy(name: str, readings: Readings, *, or_reviewed: bool) -> bool:
    """Whether there is one. `or_reviewed`: or was, when somebody reviewed it: nothing takes its place."""
    return readings.read("policy", name) is not None or (
        or_reviewed and is_file_of("policy", name) and readings.read("review", name) is not None
    )


class ReviewedOnly:
    """Policies as `compose` reads them: none that differs from what was looked at."""

    def __init__(self, readings: Readings, verified: Verified | None, now: float) -> None:
        self._readings = readings
        self._verified = verified
        self._now = now

    def __call__(self, name: str) -> tuple[str, str] | None:
        """As `Readings.policy`. Raises `PolicyError`."""
        found = self._readings.read("policy", name)
        if is_file_of("policy", name):
            review = self._readings.read("review", name)
            if end := demand_reviewed(name, found, review, self._verified, self._now):
                self._readings.until = min(self._readings.until or end, end)
        return None if found is None else (found.text, found.file)


def demand_reviewed(
    name: str, found: Text | None, review: Text | None, verified: Verified | None, now: float
) -> int:
    """When the review ends, 0 for never. Raises `PolicyError` unless `found` comes with the package, or is
    what was looked at."""
    own = found is not None and not found.file.startswith("shipped:")
    if not own and review is None:
        return 0
    hint = _sign(name)
    where = found.file if found is not None else name
    if review is None:
        raise PolicyError(
            "nobody has reviewed this policy, as `[review] required` demands", where=where, hint=hint
        )
    known = read_review(name, review.text, review.file, verified)
    if not own:
        raise PolicyError(
            f"the policy that {known.by} reviewed at {known.at} is gone", where=review.file, hint=hint
        )
    if found is None or found.digest != known.digest:
        raise PolicyError(f"it was edited since {known.by} reviewed it at {known.at}", where=where, hint=hint)
    if known.over(now):
        raise PolicyError(f"its review by {known.by} ended at {known.expires}", where=where, hint=hint)
    return int(parse_time(known.expires)) if known.expires else 0


def demand_ceiling(
    tenant: str, found: Text | None, review: Text | None, verified: Verified | None, now: float
) -> tuple[Text | None, int]:
    """What was signed of the tenant's file, where that says other rules than `found` does; whoever resolves a
    grant holds it to both. And when the review ends, 0 for never.

    Ceilings of the table ``[tenant]`` that nobody signed are what the host writes for operators, and narrow
    what policies allow; rules beside it are written by hand. Raises `PolicyError` where such are not signed,
    the ceilings are wider than they were signed, or what was signed is gone.
    """
    name = f"{OF_TENANT}{tenant}"
    if review is None:
        if found is not None and beside(found.text):
            raise PolicyError(
                f"nobody has reviewed the ceiling of {tenant}, as `[review] required` demands",
                where=found.file,
                hint=_sign(name),
            )
        return None, 0
    known = read_review(name, review.text, review.file, verified)
    if found is None:
        raise PolicyError(
            f"the ceiling that {known.by} reviewed at {known.at} is gone", where=review.file, hint=_sign(name)
        )
    if known.over(now):
        raise PolicyError(
            f"its review by {known.by} ended at {known.expires}", where=found.file, hint=_sign(name)
        )
    before, after = (parse_tenant(tenant, one, found.file).limits for one in (known.text, found.text))
    demand_no_more(compare_limits(before, after), name, found.file)
    same = known.text == found.text or beside(known.text) == beside(found.text)
    return None if same else Text(known.text, review.file), (
        int(parse_time(known.expires)) if known.expires else 0
    )


def demand_no_more(changes: Changes, name: str, file: str) -> None:
    """Raise `PolicyError` where anything is gained against what was signed."""
    if changes.gained:
        first, more = changes.gained[0], len(changes.gained) - 1
        shown = f"{first.key} {first.value[:200]}{f' (and {more} more)' if more else ''}"
        raise PolicyError(f"it allows more than was reviewed: {shown}", where=file, hint=_sign(name))


def _sign(name: str) -> str:
    return f"`bridgehold policy review {name}` shows what it changes, and `policy approve {name}` signs it."
