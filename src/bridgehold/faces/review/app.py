"""The page's server: routes, the gate before each of them, and what they show."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web

from bridgehold.audit.query import parse_time
from bridgehold.audit.reading.desk import Desk
from bridgehold.audit.reading.linear import Hit
from bridgehold.audit.reading.syntax import EVERYTHING, Expression
from bridgehold.audit.reading.watch import Watch
from bridgehold.errors import AuditError, BridgeholdError, BusyError, DeniedError, NotFoundError, UsageError
from bridgehold.faces.http.guard import BoundedServer
from bridgehold.faces.report.gather import trust
from bridgehold.faces.review import pages, plots
from bridgehold.faces.review.books import Books
from bridgehold.faces.review.gate import COOKIE, ENTER, HEADERS, Gate, Refused, Visit
from bridgehold.faces.review.proposals import Ask, ProposalPages, Tell
from bridgehold.faces.review.question import VIEWS, Question, read_question
from bridgehold.faces.review.reach import COLUMNS
from bridgehold.faces.review.rows import row_of_hit
from bridgehold.faces.review.stories import explain, policy_lines

PAGE = 50
_SESSIONS = 40
_COMMANDS = 240
_RECENT = 6
_SHOWN_CHANGES_DAYS = 7
_ANSWER_S, _PIECE_S = 0.28, 0.1
"""A page says what was found until then, and leads on; and what follows by itself, as others wait for it."""
_MOST_LIVE = 8
_LIVE_S = 1.0
_ALIVE_S = 15.0
_MOST_BODY = 4_096
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class App:
    """The pages of one review."""

    def __init__(self, books: Books, gate: Gate, ask: Ask | None = None, tell: Tell | None = None) -> None:
        """`ask`: the host beside the audit; `tell`: proposals are decided, with a code that it is given."""
        self.books, self.gate = books, gate
        self.proposals = ProposalPages(self._page, ask, tell)
        self.server: BoundedServer | None = None
        """Set by who serves; a request under way keeps its connection."""
        self._live = 0
        self._ending = asyncio.Event()

    def application(self) -> web.Application:
        """What a server serves."""
        made = web.Application(middlewares=[self._guarded], client_max_size=_MOST_BODY)
        made.on_shutdown.append(self._end)
        shown: dict[str, Handler] = {
            "/": self.overview, "/timeline": self.timeline, "/rows": self.rows, "/live": self.live,
            "/event/{ref}": self.event, "/sessions": self.sessions, "/session/{id}": self.session,
            "/keys": self.keys, "/changes": self.changes, "/refusals": self.refusals, "/trust": self.trust,
            "/report": self.report, "/static/{name}": self.file, ENTER: self.entering,
        }  # fmt: skip
        for path, handler in shown.items():
            made.router.add_get(path, handler)
        made.router.add_post(ENTER, self.enter)
        self.proposals.add_to(made.router)
        return made

    async def _end(self, _: web.Application) -> None:
        self._ending.set()

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            refused = self.gate.judge(_visit(request))
            # Only who was let in: any user of the machine may connect, and send half a form.
            let_in = refused is None and request.path != ENTER
            if let_in and self.server is not None and request.protocol is not None:
                self.server.busy.add(request.protocol)
            answer = await handler(request) if refused is None else self._refusal(refused)
        except web.HTTPException as error:
            answer = self._refusal(Refused(HTTPStatus(error.status), "There is no such page.", ""))
        except BridgeholdError as error:
            answer = self._refusal(_refused(error))
        finally:
            if self.server is not None and request.protocol is not None:
                self.server.busy.discard(request.protocol)
        if not answer.prepared:
            answer.headers.update(HEADERS)
        return answer

    def _refusal(self, refused: Refused) -> web.Response:
        text = pages.render("refused.html", refused=refused)
        return web.Response(status=refused.status, text=text, content_type="text/html")

    # How a browser is let in.

    async def entering(self, request: web.Request) -> web.StreamResponse:
        """The link that was printed: its token for a cookie, and on to a place that doesn't name it."""
        token = request.query.get("token", "")
        if not token:
            return web.Response(text=pages.render("enter.html"), content_type="text/html")
        return self._let_in(token)

    async def enter(self, request: web.Request) -> web.StreamResponse:
        """The token as it was typed."""
        return self._let_in(str((await request.post()).get("token", "")).strip())

    def _let_in(self, token: str) -> web.Response:
        if not self.gate.enter(token):
            reason = "This token has been used." if self.gate.spent else "This is not the token."
            remedy = "Run `bridgehold review` again for another link." if self.gate.spent else ""
            return self._refusal(Refused(HTTPStatus.UNAUTHORIZED, reason, remedy))
        headers = {"Location": "/", "Set-Cookie": self.gate.set_cookie()}
        return web.Response(status=HTTPStatus.SEE_OTHER, headers=headers)

    # What is shown.

    def _page(self, request: web.Request, template: str, **values: Any) -> web.Response:
        sources = {
            "audit": self.books.sources.audit.name,
            "verdict": self.books.verdict,
            "changes_something": self.proposals.decides,
            "reading": not self.books.snapshot.complete,
        }
        text = pages.render(template, **pages.frame(values, request.path, sources))
        return web.Response(text=text, content_type="text/html")

    async def overview(self, request: web.Request) -> web.StreamResponse:
        """What may each framework reach, what did it reach, and what is there to look at?"""
        sums = await self.books.sums()
        since = _since(request, plots.days_before(sums.last, _SHOWN_CHANGES_DAYS))
        changes = sums.sections.get("changes")
        recent = [row for row in changes.rows if row[0] >= since.value] if changes is not None else []
        refused = sums.sections.get("refused")
        return self._page(
            request, "overview.html", sums=sums, columns=COLUMNS, since=since,
            changes=recent[:_RECENT], more_changes=max(0, len(recent) - _RECENT),
            refused=refused.rows[:_RECENT] if refused is not None else (),
            more_refused=max(0, len(refused.rows) - _RECENT) if refused is not None else 0,
            share=plots.share, plot=plots,
        )  # fmt: skip

    async def timeline(self, request: web.Request) -> web.StreamResponse:
        """Events that fit a question, the newest first."""
        question = read_question(request.query)
        values = await self._found(question, _ANSWER_S)
        sums = self.books.snapshot
        return self._page(request, "timeline.html", views=VIEWS, sums=sums, **values)

    async def rows(self, request: web.Request) -> web.StreamResponse:
        """The same rows without the page around them, for what is live."""
        values = await self._found(read_question(request.query), _PIECE_S)
        return web.Response(text=pages.render("rows.html", **values), content_type="text/html")

    async def _found(self, question: Question, seconds: float) -> dict[str, Any]:
        fault: UsageError | None = None
        hits, newest, looked = list[Hit](), list[Hit](), None
        try:
            asked = question.expression()
        except UsageError as error:
            fault = error
        else:
            newest, hits, looked = await self.books.ask(functools.partial(_answer, asked, question, seconds))
        more = len(hits) > PAGE
        hits = (hits[:PAGE] if question.after else hits[-PAGE:])[::-1]
        found = [row_of_hit(hit) for hit in hits]
        older = question.url(before=found[-1].ref) if found and (more or question.after) else ""
        newer = bool(found) and (bool(question.before) or (bool(question.after) and more))
        further = ""
        if looked is not None and not more:
            place = "after" if question.after else "before"
            further = question.url(**{place: looked.entry.ref})
        return {
            "question": question,
            "fault": fault,
            "found": found,
            "newest": newest[0].entry.ref if newest else "",
            "older": older,
            "newer": question.url(after=found[0].ref) if newer else "",
            "further": further,
            "looked": looked.entry if looked is not None else None,
        }

    async def live(self, request: web.Request) -> web.StreamResponse:
        """Server-sent: that there are events younger than `after` which fit; the rows are fetched then."""
        question = read_question(request.query)
        asked = question.expression()
        if self._live >= _MOST_LIVE:
            raise UsageError(f"{_MOST_LIVE} pages are live already", hint="Close one of them.")
        answer = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        self._live += 1
        try:
            await answer.prepare(request)
            await self._tell(answer, asked, question.after)
        except ConnectionError:
            pass
        finally:
            self._live -= 1
        return answer

    async def _tell(self, answer: web.StreamResponse, asked: Expression, after: str) -> None:
        quiet = 0.0
        while not self._ending.is_set():
            newest, hits, looked = await self.books.ask(
                functools.partial(_answer, asked, Question(after=after), _PIECE_S)
            )
            beside = newest if not after else [looked] if looked is not None else hits[-1:]
            after = beside[0].entry.ref if beside else after
            if hits:
                quiet = 0.0
                await answer.write(f"id: {after}\ndata: {len(hits)}\n\n".encode("ascii"))
            elif quiet >= _ALIVE_S:
                quiet = 0.0
                await answer.write(b": still here\n\n")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), _LIVE_S)
            quiet += _LIVE_S

    async def event(self, request: web.Request) -> web.StreamResponse:
        """One event: its story, the rule, the rules that lost, its policy's lines, its place in the chain."""
        name = request.match_info["ref"]

        def ask(desk: Any) -> Any:
            found = desk.story(name)
            return found, desk.find(found.event.ref)

        found, hit = await self.books.ask(ask)
        loaded = dict((await self.books.sums()).loaded)
        policy = policy_lines(found.source, self.books.sources.config, loaded) if found.source else None
        return self._page(request, "event.html", it=explain(hit, found, policy))

    async def sessions(self, request: web.Request) -> web.StreamResponse:
        """Sessions, the newest first, with what they used."""
        sums = await self.books.sums()
        tenant, framework = request.query.get("tenant", ""), request.query.get("framework", "")
        fitting = [
            one for one in sums.sessions if tenant in ("", one.tenant) and framework in ("", one.framework)
        ]
        before = request.query.get("before", "")
        at = next((n for n, one in enumerate(fitting) if one.id == before), -1) + 1
        shown = fitting[at : at + _SESSIONS]
        older = shown[-1].id if at + _SESSIONS < len(fitting) else ""
        return self._page(
            request, "sessions.html", sums=sums, shown=shown, total=len(fitting), tenant=tenant,
            framework=framework, older=older, first=not before,
        )  # fmt: skip

    async def session(self, request: web.Request) -> web.StreamResponse:
        """One session: memory and processor time of each command, and everything that it did."""
        name = request.match_info["id"]
        sums = await self.books.sums()
        session = next((one for one in sums.sessions if one.id == name), None)
        question = Question(session=name)
        ended = Question(session=name, q="kind = command.outcome").expression()
        hits = await self.books.ask(lambda desk: desk.select(ended, limit=_COMMANDS))
        found = await self._found(question, _ANSWER_S)
        if session is None and not found["found"]:
            raise NotFoundError(f"no event of a session {name[:80]!r} in this audit")
        memory, processor = (
            plots.track(
                [
                    (pages.moment(hit.entry.time), hit.entry.ref, max(0, hit.entry.number(field)))
                    for hit in hits
                ],
                limit,
            )
            for field, limit in (
                ("memory_peak_bytes", session.memory_limit if session is not None else None),
                ("cpu_us", None),
            )
        )
        return self._page(
            request, "session.html", name=name, session=session, memory=memory, processor=processor,
            commands=len(hits), plot=plots, **found,
        )  # fmt: skip

    async def keys(self, request: web.Request) -> web.StreamResponse:
        """Who holds which key, when it was used last, and what was spent of which budget."""
        sums = await self.books.sums()
        return self._page(request, "keys.html", sums=sums, share=plots.share)

    async def changes(self, request: web.Request) -> web.StreamResponse:
        """What changed since a date, by whom."""
        sums = await self.books.sums()
        since = _since(request, "")
        section = sums.sections.get("changes")
        rows = [row for row in section.rows if row[0] >= since.value] if section is not None else []
        return self._page(request, "changes.html", sums=sums, since=since, rows=rows, section=section)

    async def refusals(self, request: web.Request) -> web.StreamResponse:
        """What was refused, by rule; limits that were hit; barriers that were given up."""
        sums = await self.books.sums()
        names = ("refused", "limits", "weakenings")
        shown = [sums.sections[name] for name in names if name in sums.sections]
        return self._page(request, "sections.html", title="Refusals", shown=shown, lead=_REFUSALS)

    async def trust(self, request: web.Request) -> web.StreamResponse:
        """Whether the log can be trusted: three verdicts, and each finding with its line."""
        sums = await self.books.sums()
        return self._page(request, "trust.html", sums=sums, host=sums.sections.get("host"))

    async def report(self, request: web.Request) -> web.StreamResponse:
        """Everything on one page, to be printed."""
        sums = await self.books.sums()
        report = self.books.verdict.report
        shown = [*([trust(report)] if report is not None else []), *sums.sections.values()]
        return self._page(request, "sections.html", title="Review of an audit", shown=shown, lead="")

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Our style, script and icon."""
        name = request.match_info["name"]
        if name not in pages.STATIC:
            raise web.HTTPNotFound
        return web.Response(body=pages.static(name), content_type=pages.STATIC[name], charset="utf-8")


def _answer(
    asked: Expression, question: Question, seconds: float, desk: Desk
) -> tuple[list[Hit], list[Hit], Hit | None]:
    """The newest event of all; those that fit, one more than a page has; where there was no time for more."""
    watch = Watch(seconds)
    hits = desk.select(asked, limit=PAGE + 1, before=question.before, after=question.after, watch=watch)
    return desk.select(EVERYTHING, limit=1), hits, watch.at


_REFUSALS = "By rule, the most frequent first. Each row leads to the newest event of its kind."


class Since:
    """A date that a page is of: as it was typed, and as the audit writes it."""

    def __init__(self, text: str, fallback: str) -> None:
        self.text, self.fault = text or fallback, ""
        try:
            self.value = parse_time(self.text)
        except UsageError as error:
            self.value, self.fault = "", f"{error.message}. {error.hint}"


def _since(request: web.Request, fallback: str) -> Since:
    return Since(request.query.get("since", "")[:80], fallback)


def _visit(request: web.Request) -> Visit:
    headers = request.headers
    return Visit(
        method=request.method,
        path=request.path,
        host=headers.get("Host", ""),
        cookie=request.cookies.get(COOKIE, ""),
        site=headers.get("Sec-Fetch-Site", ""),
        origin=headers.get("Origin", ""),
    )


def _refused(error: BridgeholdError) -> Refused:
    missing = isinstance(error, NotFoundError) or (
        isinstance(error, AuditError) and "no event" in error.message
    )
    status = HTTPStatus.NOT_FOUND if missing else HTTPStatus.INTERNAL_SERVER_ERROR
    status = next((one for kind, one in _STATUSES.items() if isinstance(error, kind)), status)
    return Refused(status, error.message, error.hint)


_STATUSES: dict[type[BridgeholdError], HTTPStatus] = {
    UsageError: HTTPStatus.BAD_REQUEST,
    DeniedError: HTTPStatus.FORBIDDEN,
    BusyError: HTTPStatus.TOO_MANY_REQUESTS,
}
