"""`bridgehold propose` and `proposals`: a refusal becomes a rule that is asked for, and a person decides."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from bridgehold.errors import UsageError
from bridgehold.faces.approvals import approval, read_shown
from bridgehold.faces.cli.asking import ask, confirmed
from bridgehold.faces.cli.options import Json, OfTenant
from bridgehold.faces.layout import Column, dim
from bridgehold.faces.render import print_json, table
from bridgehold.faces.screen import err, out
from bridgehold.policies.approved import written
from bridgehold.policies.units import format_ms, parse_days
from bridgehold.protocol.proposals import LONGEST, SHORTEST, Proposal, ShownProposal

Name = Annotated[str, typer.Argument(help="The proposal, as `proposals list` has it.")]
_STYLES = {"high": "red", "medium": "yellow", "info": "dim", "gains": "yellow"}


def propose(
    event: Annotated[
        str, typer.Argument(help="The refusal: the event that an error names, or the command's id.")
    ],
    reason: Annotated[str, typer.Option(help="Why it should be allowed, for who decides.")] = "",
    lasts: Annotated[str, typer.Option("--for", help="How long it holds once approved: 1h, 7d.")] = "7d",
    weakening: Annotated[
        list[str] | None,
        typer.Option("--weakening", help="It may bring this one too: connect, or private_network."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Ask for the smallest rule that would have allowed what was refused; somebody else approves it.

    There is none for what a policy denies, what a ceiling or the bridge's own manifest leaves out, a secret,
    a device, a metadata service; nor where it would open something else too.
    """
    params = {
        "event": event,
        "reason": reason,
        "weakenings": weakening or [],
        "seconds": seconds_of(lasts),
    }
    made = msgspec.convert(ask("proposal.make", params), type=Proposal)
    if json_output:
        print_json(made)
        return
    say(made, err)
    err.say(
        f"waits until {made.until}; another principal approves it: `bridgehold proposals approve {made.id}`"
    )
    out.say(made.id)


def proposals(
    context: typer.Context,
    tenant: OfTenant = "",
    json_output: Json = False,
) -> None:
    """Rules that were asked for after a refusal: see, approve, reject."""
    if context.invoked_subcommand is None:
        list_proposals(tenant, json_output)


def list_proposals(
    tenant: OfTenant = "",
    json_output: Json = False,
) -> None:
    """Rules that were asked for, the newest last."""
    found = msgspec.convert(ask("proposal.list", {"tenant": tenant or None}), type=list[Proposal])
    if json_output:
        print_json(found)
        return
    rows = [
        (one.id, one.state, one.tenant, one.bridge, one.what, one.by, one.expires or one.at) for one in found
    ]
    columns = ("proposal", "state", "tenant", "bridge", "what", dim("by"), dim("since, or until"))
    table(columns, rows, empty="nothing was asked for")


def show(proposal: Name, json_output: Json = False) -> None:
    """One of them: the rule, what it gains, its risk, and whether it can be approved as things stand."""
    shown = _shown(proposal)
    if json_output:
        print_json(shown)
        return
    say(shown, out)
    if shown.why_not:
        out.say(("it can't be approved: ", "bold"), shown.why_not)


def approve(
    proposal: Name,
    seen: Annotated[str, typer.Option(help="As `show --json` said it; what it is now, if left out.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Show it, and don't ask.")] = False,
    json_output: Json = False,
) -> None:
    """Sign the rule, after it was looked at: it holds from the next command on, also in open sessions.

    It ends by itself. Whoever asked for it can't approve it, and only the user who owns the configuration, or
    root, can sign.
    """
    shown = _shown(proposal)
    if shown.why_not:
        raise UsageError(f"{proposal} can't be approved: {shown.why_not}", where="proposals approve")
    if seen and seen != shown.seen:
        raise UsageError(
            f"{proposal} is not as it was seen",
            where="--seen",
            hint=f"`bridgehold proposals show {proposal}` shows it as it is now.",
        )
    if not json_output:
        say(shown, out)
    if not (yes or seen or confirmed("Sign it?")):
        raise typer.Exit(1)
    done = msgspec.convert(ask("proposal.approve", approval(shown)), type=Proposal)
    if json_output:
        print_json(done)
    else:
        out.say(f"{done.id} holds for {done.bridge} of {done.tenant} until {done.expires}")


def reject(
    proposal: Name,
    reason: Annotated[str, typer.Option(help="Why; whoever asked can read it.")] = "",
    json_output: Json = False,
) -> None:
    """Refuse it; a rule that was approved before holds no more from the next command on."""
    done = msgspec.convert(ask("proposal.reject", {"proposal": proposal, "reason": reason}), type=Proposal)
    if json_output:
        print_json(done)
    else:
        out.say(f"rejected {done.id}")


def seconds_of(text: str) -> int:
    """Of ``1h`` or ``7d``. Raises `UsageError`."""
    try:
        seconds = parse_days(text) // 1000
    except ValueError as error:
        raise UsageError(str(error), where="--for") from None
    if not SHORTEST <= seconds <= LONGEST:
        raise UsageError(
            f"{text[:40]} is outside of {format_ms(SHORTEST * 1000)} … {LONGEST // 86_400}d", where="--for"
        )
    return seconds


def say(one: Proposal, to: Any) -> None:
    """All of it, for who decides."""
    facts = {
        "bridge": one.bridge,
        "tenant": one.tenant,
        "state": f"{one.state}, by {one.decided_by} at {one.decided_at}" if one.decided_by else one.state,
        "asked by": f"{one.by} at {one.at}",
        "because": one.reason,
        "refused": f"{one.what}  ({one.refused})",
        "event": one.event,
        "reason": one.decided_reason,
        "holds": f"until {one.expires}" if one.expires else f"{format_ms(one.seconds * 1000)} once approved",
    }
    for key, value in facts.items():
        if value:
            to.say((f"{key:<9} ", "dim"), value, under=" " * 10)
    text = (
        written(one.id, {}, one.grants)
        .replace(f"rules.{one.id}.grants.", "")
        .replace(f"[rules.{one.id}.grants]\n", "")
    )
    for line in text.splitlines()[1:]:
        if line:
            to.say(("  | ", "dim"), line)
    rows = [("gains", each.key, each.value) for each in one.gained]
    rows += [(each.severity, f"{each.rule}: {each.key}", f"{each.value}: {each.means}") for each in one.risk]
    table((Column("", styles=_STYLES), "what", "value"), rows, empty="it gains nothing", to=to)


def _shown(proposal: str) -> ShownProposal:
    return read_shown(ask("proposal.show", {"proposal": proposal}))
