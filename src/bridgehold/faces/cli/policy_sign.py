"""`bridgehold policy review | approve`: what a policy changes since somebody looked at it; the signature."""

from __future__ import annotations

import base64
from typing import Annotated

import msgspec
import typer

from bridgehold.config.layout import default_layout
from bridgehold.config.load import load_config
from bridgehold.config.settings import Settings
from bridgehold.errors import DeniedError, UsageError
from bridgehold.faces.approvals import signing_time
from bridgehold.faces.cli.asking import ask, confirmed
from bridgehold.faces.cli.options import Json
from bridgehold.faces.cli.policy_check import layout_registry
from bridgehold.faces.cli.proposals import seconds_of
from bridgehold.faces.layout import Column
from bridgehold.faces.render import print_json, short, table
from bridgehold.faces.screen import err, out
from bridgehold.host.reviews import PolicyLook
from bridgehold.keeper.approver import Approver
from bridgehold.policies.reviewed import Review
from bridgehold.policies.tables import format_time
from bridgehold.protocol.reviews import PolicyReview

Name = Annotated[
    str, typer.Argument(help="The policy, as its file in policies/ is named; @TENANT: that tenant's ceiling.")
]
STATES = {
    "reviewed": "as it was reviewed",
    "narrowed": "edited since it was reviewed, and allows no more",
    "edited": "edited since it was reviewed",
    "never": "never reviewed",
    "ended": "its review has ended",
    "unsound": "its review is not soundly signed",
    "shipped": "comes with the package, and is reviewed with it",
}
_STYLES = {"gains": "yellow", "loses": "green", "refused": "red"}


def review(policy: Name, json_output: Json = False) -> None:
    """What a policy changes, by bridge and tenant, since somebody reviewed it; the running host tells."""
    shown = _shown(policy)
    if json_output:
        print_json(shown)
    else:
        _say(shown)


def approve(
    policy: Name,
    lasts: Annotated[
        str, typer.Option("--for", help="How long the review counts: 90d. Without an end, if left out.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Show it, and don't ask.")] = False,
    json_output: Json = False,
) -> None:
    """Sign a policy, or a tenant's ceiling, as it is now, after what it changes was looked at.

    With `[review] required = true` in config.toml a policy counts as it was signed, and refuses once it is
    edited; a tenant's file refuses once it allows more than was signed. Only the user who owns the
    configuration, or root, can sign.
    """
    shown = _shown(policy)
    own = _by_files(shown)
    if not json_output:
        _say(own)
        if own.changes != shown.changes:
            err.say(
                "the host tells other changes: by its machine, or by a configuration that it hasn't reread"
            )
    if not (yes or confirmed("Sign it?")):
        raise typer.Exit(1)
    now = signing_time(default_layout())
    expires = format_time(int(now) + seconds_of(lasts)) if lasts else ""
    made = Review(digest=own.digest, by=shown.you, at=format_time(now), expires=expires)
    signature = Approver(default_layout().secrets).sign(made.signed(policy))
    params = {
        "policy": policy,
        "seen": shown.seen,
        "at": made.at,
        "expires": expires,
        "signature": base64.b64encode(signature).decode("ascii"),
    }
    done = msgspec.convert(ask("policy.approve", params), type=PolicyReview)
    if json_output:
        print_json(done)
    else:
        out.say(f"{policy} is signed by {done.by}{f', until {done.expires}' if done.expires else ''}")


def _say(shown: PolicyReview) -> None:
    state = STATES[shown.state] + (f" by {shown.by} at {shown.at}" if shown.by else "")
    out.say((shown.policy, "bold"), f"  {state}  ", (short(shown.file), "dim"), under="  ")
    rows = [
        (sign, f"{change.bridge.replace('*', 'all')} of {change.tenant}", one.key, one.value)
        for change in shown.changes
        for sign, several in (("gains", change.gained), ("loses", change.lost))
        for one in several
    ]
    rows += [
        ("refused", f"{one.bridge} of {one.tenant}", "", one.fault) for one in shown.changes if one.fault
    ]
    table((Column("", styles=_STYLES), "whose", "what", "value"), rows, empty="it changes no grant")
    if shown.state not in {"reviewed", "narrowed"} and not shown.required:
        err.say("`[review] required` is not set: it counts as it is")


def _shown(policy: str) -> PolicyReview:
    if not policy:
        raise UsageError("which policy?", where="policy review")
    return msgspec.convert(ask("policy.review", {"policy": policy}), type=PolicyReview)


def _by_files(shown: PolicyReview) -> PolicyReview:
    """The same, worked out here: a host that was taken over has nothing signed that wasn't looked at."""
    layout = default_layout()
    registry = layout_registry(layout)
    look = PolicyLook(
        layout, Settings(load_config(layout.config_file)), registry.machine, registry, registry.verified
    )
    own, _, _ = look.at(shown.policy, shown.you)
    if own.digest != shown.digest:
        raise DeniedError(
            f"the host shows the policy {shown.policy} with the digest of something else",
            hint="Was it edited this moment? Try again. Otherwise sign nothing: who is on that machine?",
        )
    return own
