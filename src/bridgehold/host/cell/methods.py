"""The methods that clients may call, by name: what `docs/reference/host-protocol.md` lists."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.metadata import version

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.bridges.frames import ChunkFrame, FaultFrame, ProgressFrame
from bridgehold.errors import (
    BridgeholdError,
    CommandTimeoutError,
    DeniedError,
    NotFoundError,
    ProtocolError,
    SessionEndedError,
    UnsupportedError,
    UsageError,
)
from bridgehold.host.cell.commands.dispatch import Dispatch
from bridgehold.host.cell.scripts.user_scripts import UserScripts
from bridgehold.host.cell.sessions.bound import UnnamedSessions, bound_session
from bridgehold.host.cell.sessions.session import Session, SessionKey
from bridgehold.host.cell.sessions.sessions import Sessions
from bridgehold.host.cell.tools.caller import CallerTools, ToolReplyParams
from bridgehold.host.cell.tools.offers import CallersOffer
from bridgehold.host.cell.tools.values import ToolSpec
from bridgehold.host.cell.workers.translate import fault_error
from bridgehold.host.cell.workers.zygote import ZygoteInfo
from bridgehold.host.front.boots import OrderMaker
from bridgehold.host.front.environments import LISTENER
from bridgehold.host.front.method import Method
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.front.registry import Registry
from bridgehold.host.front.server import stream_event
from bridgehold.host.shares.callers import CALLER
from bridgehold.host.shares.logs import OutputPiece
from bridgehold.host.shares.observe import Metrics
from bridgehold.ids import parse_name, random_id
from bridgehold.policies.limits_request import NOTHING, TIMES, LimitsRequest, read_asked
from bridgehold.protocol.frames import (
    CommandRequest,
    DrainParams,
    ExtendParams,
    FindParams,
    NoParams,
    OpenParams,
    OpenScriptParams,
    ProfileParams,
    ResumeParams,
    ScriptEofParams,
    ScriptSendParams,
    ScriptWireParams,
    SessionParams,
    SessionsParams,
)
from bridgehold.protocol.values import Principal, Profile, Reply, SessionInfo
from bridgehold.sandbox.launcher.control import LauncherClient

_LONGEST_PROFILE, _PROFILE_GRACE = 60.0, 5.0
"""Seconds."""
_BEHIND = 1 << 20
"""Bytes that wait for a caller before the frames of the command that it watches do."""


def _end_reason(principal: Principal, reason: str) -> str:
    """Why a session ends that somebody ends: by whom, and never in the host's own words."""
    return f"by {principal.name}: {reason[:200]}"


def _require_reader(principal: Principal) -> None:
    """Raise `DeniedError` where what sessions write is not for `principal`."""
    if not principal.may_read:
        raise DeniedError(
            f"{principal.name} may not read what its sessions write",
            hint="An operator can set `logs = true` for your principal in config.toml.",
        )


def _tell_builds(bridge: str, emit: Emit) -> None:
    """Events of the build that this request waits for, if there is one."""
    LISTENER.set(lambda step: emit({"type": "building", "bridge": bridge, **msgspec.to_builtins(step)}))


class _Watching:
    """A `Watcher` that is a request's caller."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.full = emit.full

    def behind(self) -> bool:
        """As of a `Stream`."""
        return self._emit.full(_BEHIND)

    def __call__(self, item: ChunkFrame | ProgressFrame | OutputPiece, /) -> None:
        self._emit(stream_event(item))


class Methods:
    """Handlers of the socket's methods; each takes (principal, params, emit)."""

    def __init__(
        self,
        *,
        dispatch: Dispatch,
        sessions: Sessions,
        registry: Registry,
        launcher: LauncherClient,
        make_order: OrderMaker,
        metrics: Metrics,
        zygotes: Callable[[], list[ZygoteInfo]],
        pool_counts: Callable[[], dict[tuple[str, str], int]],
        scripts: UserScripts,
        redact: Callable[[str, str], Awaitable[str]],
        journal: JournalClient,
    ) -> None:
        """`redact`: (tenant, text) without the values of the tenant's secrets."""
        self._redact = redact
        self._journal = journal
        self._unnamed = UnnamedSessions()
        self._tools = CallerTools()
        self._metrics = metrics
        self._scripts = scripts
        self._zygotes = zygotes
        self._pool_counts = pool_counts
        self._dispatch = dispatch
        self._sessions = sessions
        self._registry = registry
        self._launcher = launcher
        self._make_order = make_order

    def left(self, caller: object) -> None:
        """A connection is gone: see `UnnamedSessions`."""
        self._unnamed.left(caller)

    def table(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "ping": Method(NoParams, self.ping, reads=True),
            "run": Method(CommandRequest, self.run, decides=True),
            "tool.reply": Method(ToolReplyParams, self.tool_reply),
            "session.open": Method(OpenParams, self.session_open),
            "session.hold": Method(OpenParams, self.session_hold),
            "session.extend": Method(ExtendParams, self.session_extend),
            "session.close": Method(SessionParams, self.session_close),
            "foreign.open": Method(OpenScriptParams, self.script_open),
            "foreign.send": Method(ScriptSendParams, self.script_send),
            "foreign.wire": Method(ScriptWireParams, self.script_wire),
            "foreign.eof": Method(ScriptEofParams, self.script_eof),
            "sessions": Method(SessionsParams, self.list_sessions, reads=True),
            "session.find": Method(FindParams, self.session_find, reads=True),
            "zygotes": Method(NoParams, self.list_zygotes, reads=True),
            "session.kill": Method(SessionParams, self.session_kill),
            "session.profile": Method(ProfileParams, self.session_profile),
            "drain": Method(DrainParams, self.drain, operator=True, decides=True),
            "resume": Method(ResumeParams, self.resume, operator=True, decides=True),
            "metrics": Method(NoParams, self.metrics, operator=True),
            "figures": Method(NoParams, self.figures, operator=True),
            "logs": Method(SessionParams, self.logs, gives=1 << 20, reads=True),
        }

    async def ping(self, _principal: Principal, _params: NoParams, _emit: Emit) -> object:
        """That the host answers, with its version, how many sessions it has, and that it takes parts."""
        return {
            "status": "ok",
            "sessions": len(self._sessions),
            "version": version("bridgehold"),
            "parts": True,
        }

    async def run(self, principal: Principal, request: CommandRequest, emit: Emit) -> Reply:
        """Run a command."""
        if request.progress:
            _tell_builds(request.operation.partition(":")[0], emit)
        watcher = _Watching(emit) if request.stream else None
        callers: CallersOffer | None = None
        if request.tools:
            specs = tuple(ToolSpec(**msgspec.structs.asdict(tool)) for tool in request.tools)
            callers = CallersOffer(specs, self._tools.source(emit))
        _, holders = self._unnamed.holders.get(request.session, (None, None))
        if holders is not None and CALLER.get() not in holders:
            self._unnamed.use(request.session, principal.may_act_for)
        return await self._dispatch.run(principal, request, watcher, callers)

    async def tool_reply(self, principal: Principal, params: ToolReplyParams, _emit: Emit) -> object:
        """The answer of a caller's tool."""
        self._tools.settle(principal.name, params)
        return {"status": "taken"}

    async def session_open(self, principal: Principal, params: OpenParams, emit: Emit) -> object:
        """Open a session, or find the one of that name."""
        key = self._key(params)
        if params.progress:
            _tell_builds(params.bridge, emit)
        opening = self._open(key, principal, read_asked(params.limits))
        if not params.name and not params.stays:
            opening = self._unnamed.opened(asyncio.ensure_future(opening))
        session = await opening
        opened = {
            "id": session.id,
            "name": key.name,
            "bridge": key.bridge,
            "tenant": key.tenant,
            "cold_start": session.worker.cold_reason,
        }
        return opened | ({"anew": told} if (told := session.tell_anew()) else {})

    async def session_hold(self, principal: Principal, params: OpenParams, emit: Emit) -> object:
        """A session as long as this request: who cancels it, or goes away, ends the session."""
        key = self._key(params)
        if params.progress:
            _tell_builds(params.bridge, emit)
        opening = self._open(key, principal, read_asked(params.limits))
        return await bound_session(asyncio.ensure_future(opening), emit)

    async def script_open(self, principal: Principal, params: OpenScriptParams, emit: Emit) -> object:
        """Open a session whose worker is a user script; answered when it ends."""
        return await self._scripts.open(principal, params, emit)

    async def script_send(self, principal: Principal, params: ScriptSendParams, _emit: Emit) -> object:
        """Bytes for a user script's standard input."""
        return await self._scripts.send(principal, params)

    async def script_wire(self, principal: Principal, params: ScriptWireParams, _emit: Emit) -> object:
        """Bytes of a gRPC worker's caller."""
        return await self._scripts.wire(principal, params)

    async def script_eof(self, principal: Principal, params: ScriptEofParams, _emit: Emit) -> object:
        """The end of a user script's standard input."""
        return await self._scripts.end_input(principal, params)

    def _key(self, params: OpenParams) -> SessionKey:
        tenant = parse_name(params.tenant, "tenant")
        bridge = parse_name(params.bridge, "bridge")
        name = parse_name(params.name, "session") if params.name else random_id("n", 10)
        if self._registry.manifest(bridge, tenant).foreign:
            raise UsageError(
                f"the sessions of {bridge} run scripts of the operator's own",
                hint="`bridgehold shim` makes the interpreter that opens them.",
            )
        return SessionKey(tenant, bridge, name)

    async def _open(self, key: SessionKey, principal: Principal, asked: LimitsRequest) -> Session:
        try:
            session = await self._sessions.get_or_open(
                key,
                lambda session_id: self._make_order(key.tenant, key.asks(session_id, principal.name, asked)),
                principal.name,
            )
        except BridgeholdError as error:
            if error.traceback:
                error.traceback = await self._redact(key.tenant, error.traceback)
            raise
        if asked not in (NOTHING, session.order.asked):
            raise UsageError(
                f"session {session.id} of that name has begun with other limits",
                where="limits",
                hint="Give another name, end it first, or prolong its times: `session.extend`.",
            )
        return session

    async def session_extend(self, principal: Principal, params: ExtendParams, _emit: Emit) -> object:
        """Give a session more time, up to what its policy gives now from its beginning on."""
        session = self._find(principal, params.session)
        asked = read_asked(params.limits, TIMES)
        grant = await self._registry.grant(session.key.tenant, session.key.bridge)
        if not session.alive:  # it is on its way out, and nothing prolongs it any more
            raise session.why
        return await session.extend(grant, asked, principal.name, self._journal)

    async def session_close(self, principal: Principal, params: SessionParams, _emit: Emit) -> object:
        """Close a session, and wait until its processes are gone."""
        try:
            session = self._find(principal, params.session)
        except (NotFoundError, SessionEndedError):
            if not self._sessions.give_up(principal.may_act_for, principal.may_use, params.session):
                raise
            return {"id": params.session, "emptied_ms": 0}
        await session.close(_end_reason(principal, params.reason))
        report = session.worker.report
        return {"id": session.id, "emptied_ms": report.emptied_ms if report else 0}

    async def session_kill(self, principal: Principal, params: SessionParams, _emit: Emit) -> object:
        """At once: nothing in flight is waited for, and the bridge's `close` isn't called."""
        session = self._find(principal, params.session)
        await session.end(_end_reason(principal, params.reason))
        return {"id": session.id}

    async def session_profile(self, principal: Principal, params: ProfileParams, _emit: Emit) -> object:
        """Where the worker spends its time, by samples of its stacks; its own word, not the kernel's."""
        _require_reader(principal)
        session = self._find(principal, params.session)
        if session.worker.relaying:
            raise UnsupportedError("a script of one's own can't be asked for a profile")
        seconds = min(max(params.seconds, 0.1), _LONGEST_PROFILE)
        arguments: dict[str, object] = {"seconds": seconds}
        deadline = seconds + _PROFILE_GRACE
        try:
            async with asyncio.timeout(deadline):
                frame = await session.worker.call(
                    "common:profile", arguments, deadline_ms=int(deadline * 1000), aside=True
                )
        except TimeoutError:
            raise CommandTimeoutError("the worker gave no profile of itself") from None
        if isinstance(frame, FaultFrame):
            raise fault_error(frame, where="profile")
        try:
            return msgspec.convert(frame.result, type=Profile)
        except msgspec.ValidationError as error:
            raise ProtocolError(f"the worker's profile is none: {error}", where="profile") from None

    async def drain(self, principal: Principal, params: DrainParams, _emit: Emit) -> object:
        """End every session of a bridge or tenant (or all) politely; those that are busy first finish.

        With `cordon` no new one is opened, until `resume`.
        """
        if params.cordon:
            self._sessions.cordons.add(params.tenant, params.bridge)
        chosen = [
            session
            for session in self._sessions
            if params.bridge in ("", session.key.bridge) and params.tenant in ("", session.key.tenant)
        ]
        reason = _end_reason(principal, "drained")
        await asyncio.gather(*(session.drain(reason, params.seconds) for session in chosen))
        return {"ended": [session.id for session in chosen]}

    async def resume(self, _principal: Principal, params: ResumeParams, _emit: Emit) -> object:
        """Sessions are opened again where a drain had closed the way."""
        return {"resumed": self._sessions.cordons.take_back(params.tenant, params.bridge)}

    async def metrics(self, _principal: Principal, _params: NoParams, _emit: Emit) -> object:
        """All metrics in Prometheus' text format."""
        return {"text": self._metrics.text()}

    async def figures(self, _principal: Principal, _params: NoParams, _emit: Emit) -> object:
        """Figures by bridge and operation, as `bridgehold top` shows them."""
        return self._metrics.figures()

    async def session_find(self, principal: Principal, params: FindParams, _emit: Emit) -> object:
        """The id of a session, by id or name."""
        session = self._find(principal, params.session)
        self._unnamed.use(session.id, principal.may_act_for)
        key = session.key
        return {"id": session.id, "name": key.name, "bridge": key.bridge, "tenant": key.tenant}

    async def list_sessions(
        self, principal: Principal, params: SessionsParams, _emit: Emit
    ) -> list[SessionInfo]:
        """The sessions that the caller may see, with the memory that each uses now."""
        return [
            session.info(await self._memory(session))
            for session in self._sessions
            if not session.over
            and principal.may_act_for(session.key.tenant)
            and principal.may_use(session.key.bridge)
            and params.tenant in (None, session.key.tenant)
        ]

    async def list_zygotes(self, principal: Principal, _params: NoParams, _emit: Emit) -> object:
        """Of what the caller may act for and use: zygotes, and how many sandboxes their pools hold."""
        return {
            "zygotes": [
                info
                for info in self._zygotes()
                if principal.may_act_for(info.tenant) and principal.may_use(info.bridge)
            ],
            "parked": [
                {"tenant": tenant, "bridge": bridge, "count": count}
                for (tenant, bridge), count in self._pool_counts().items()
                if principal.may_act_for(tenant) and principal.may_use(bridge)
            ],
        }

    async def _memory(self, session: Session) -> int:
        try:
            return (await self._launcher.usage(session.worker.name)).memory_bytes
        except BridgeholdError:
            return 0

    async def logs(self, principal: Principal, params: SessionParams, _emit: Emit) -> object:
        """The end of what a session's guest wrote. Raises `DeniedError` for who may not read it."""
        _require_reader(principal)
        key, session, text = self._sessions.log(principal.may_act_for, params.session)
        principal.demand_bridge(key.bridge)
        return {"session": session, "text": await self._redact(key.tenant, text)}

    def _find(self, principal: Principal, reference: str) -> Session:
        found = self._sessions.find(principal.may_act_for, reference)
        principal.demand_bridge(found.key.bridge)
        return found
