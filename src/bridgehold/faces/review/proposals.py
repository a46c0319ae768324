"""Proposals on the page: those of the running host, with their risk; decided with a code of the terminal."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from bridgehold.errors import HostUnavailableError, UsageError
from bridgehold.faces.approvals import approval, read_shown
from bridgehold.faces.review.confirm import VALID_S, Act, Confirmations, Decision
from bridgehold.policies.approved import written
from bridgehold.protocol.proposals import Proposal, ShownProposal

Ask = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""One request of the host, as who runs the page: a method, its parameters, the answer."""
Tell = Callable[[ShownProposal, Act, str], None]
"""Show at the terminal what is asked for, all of it, and its code."""
Show = Callable[..., web.Response]
PLACE = "/proposal/"
_LONGEST_REASON = 300


class ProposalPages:
    """Handlers. `ask` None: beside a copied audit no host runs. `tell` None: nothing can be decided."""

    def __init__(self, show: Show, ask: Ask | None, tell: Tell | None) -> None:
        """`show`: (request, template, values) as a page."""
        self._show = show
        self._ask = ask
        self._tell = tell if ask is not None else None
        self.codes = Confirmations(time.monotonic)

    @property
    def decides(self) -> bool:
        """Whether anything can be changed here at all."""
        return self._tell is not None

    def add_to(self, router: web.UrlDispatcher) -> None:
        """The routes: what changes something only where it may."""
        router.add_get("/proposals", self.listed)
        router.add_get(f"{PLACE}{{id}}", self.one)
        if self.decides:
            router.add_post(f"{PLACE}{{id}}/ask", self.asked)
            router.add_post(f"{PLACE}{{id}}/confirm", self.confirmed)

    async def listed(self, request: web.Request) -> web.StreamResponse:
        """All that the host has, the newest first."""
        found, running = list[Proposal](), self._ask is not None
        if self._ask is not None:
            try:
                found = msgspec.convert(await self._ask("proposal.list", {}), type=list[Proposal])
            except HostUnavailableError:  # the page stays, whether the host does or not
                running = False
        copied = self._ask is None
        return self._show(request, "proposals.html", found=found[::-1], running=running, copied=copied)

    async def one(self, request: web.Request) -> web.StreamResponse:
        """One of them, as it would change what is granted now."""
        shown = await self._look(request)
        rule = written(shown.id, {}, shown.grants).splitlines()[1:]
        return self._show(
            request, "proposal.html", it=shown, rule=[_short(line, shown.id) for line in rule if line],
            decides=self.decides, waits=self.codes.waiting(shown.id), valid_s=round(VALID_S),
        )  # fmt: skip

    async def asked(self, request: web.Request) -> web.StreamResponse:
        """What was looked at is to be decided: the terminal shows what, and a code."""
        shown, form = await self._look(request), await request.post()
        decision: Decision = "approve" if form.get("decision") == "approve" else "reject"
        if str(form.get("seen", "")) != _seen(shown):
            raise UsageError(f"{shown.id} is not as it was seen", hint="Look at it again.")
        if decision == "approve" and shown.why_not:
            raise UsageError(f"{shown.id} can't be approved: {shown.why_not}")
        reason = str(form.get("reason", ""))
        if len(reason) > _LONGEST_REASON or not reason.isprintable():
            raise UsageError(f"a reason is a line of at most {_LONGEST_REASON} characters")
        act = Act(proposal=shown.id, decision=decision, seen=_seen(shown), reason=reason)
        code = self.codes.ask(act)
        assert self._tell is not None  # noqa: S101 - else there is no such route
        self._tell(shown, act, code)
        return _back(shown.id)

    async def confirmed(self, request: web.Request) -> web.StreamResponse:
        """The code, as it was typed: what it is for is done, if that is still what was seen."""
        form = await request.post()
        act = self.codes.confirm(request.match_info["id"], str(form.get("code", "")))
        shown = await self._look(request)
        if _seen(shown) != act.seen:
            raise UsageError(f"{shown.id} has changed since it was seen", hint="Look at it again.")
        assert self._ask is not None  # noqa: S101 - else there is no such route
        if act.decision == "approve":
            await self._ask("proposal.approve", approval(shown))
        else:
            await self._ask("proposal.reject", {"proposal": shown.id, "reason": act.reason})
        return _back(shown.id)

    async def _look(self, request: web.Request) -> ShownProposal:
        if self._ask is None:
            raise web.HTTPNotFound
        name = request.match_info["id"][:80]
        return read_shown(await self._ask("proposal.show", {"proposal": name}))


def _seen(shown: ShownProposal) -> str:
    return shown.seen or f"{shown.state} {shown.decided_at}".strip()


def _short(line: str, name: str) -> str:
    return line.replace(f"rules.{name}.grants.", "").replace(f"[rules.{name}.grants]", "")


def _back(name: str) -> web.Response:
    return web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": f"{PLACE}{name}"})
