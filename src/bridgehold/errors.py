"""The one error root: every failure that leaves a room is a `BridgeholdError`.

An error carries a stable `code`, an exit status for the command line, a hint that names the
remedy, where the fault is, and whether the same call may be tried again. The table in
``docs/reference/errors.md`` is generated from the classes below and checked by a test. They are one table,
and stand in one file: no two may share a code or a status.
"""

from __future__ import annotations

from typing import ClassVar, Self

import msgspec

from bridgehold.error_info import ErrorInfo, Output, Retry


class BridgeholdError(Exception):
    """The root. Subclasses fix `code`, `exit_status`, `default_retry` and `default_hint`."""

    code: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 70
    default_retry: ClassVar[Retry] = "no"
    default_hint: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        where: str = "",
        retry: Retry | None = None,
        event: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.where = where
        self.retry: Retry = self.default_retry if retry is None else retry
        self.event = event
        self.output = Output()
        """What the command that failed had written."""
        self.traceback = ""

    def info(self) -> ErrorInfo:
        """The error as a value that can cross a process border."""
        return ErrorInfo(
            code=self.code,
            message=self.message,
            hint=self.hint,
            where=self.where,
            retry=self.retry,
            event=self.event,
            traceback=self.traceback,
            output=self.output or msgspec.UNSET,
        )

    def bare(self) -> Self:
        """The same without its frames, their data, and what led to it: to be kept, or raised once."""
        made = self.with_traceback(None)
        made.__cause__ = made.__context__ = None
        return made

    def again(self) -> BridgeholdError:
        """Another one of the same, for another who raises it."""
        return from_info(self.info())

    def fact(self) -> ErrorInfo:
        """What may be kept of it, to be raised anew (`from_info`) for each who meets it.

        Nothing in it was one caller's alone; an error that was raised holds its frames, and their data.
        """
        return msgspec.structs.replace(self.info(), event="", output=msgspec.UNSET, traceback="")

    def tell_traceback(self, text: str) -> None:
        """Keep the guest's traceback, and have Python show it wherever it shows the error."""
        self.traceback = text
        if text:
            self.add_note(f"In the sandbox:\n{text.rstrip()}")


class InternalError(BridgeholdError):
    """A defect of Bridgehold itself."""

    default_hint = "This is a defect in Bridgehold; please report it with the audit event."


class UsageError(BridgeholdError):
    """An argument of a command or of the Python interface is wrong."""

    code = "usage"
    exit_status = 2


class ConfigError(BridgeholdError):
    """The configuration is wrong; every fault is named at once."""

    code = "config"
    exit_status = 3


class ManifestError(BridgeholdError):
    """A ``bridge.toml`` is wrong, or the bridge's `ready` contradicts it."""

    code = "manifest"
    exit_status = 4


class PolicyError(BridgeholdError):
    """A policy file is wrong: unknown key, wrong type, a tenant that widens."""

    code = "policy"
    exit_status = 5


class NotFoundError(BridgeholdError):
    """No such bridge, session, resource, secret or event (or not yours: the two look alike)."""

    code = "not_found"
    exit_status = 6


class DeniedError(BridgeholdError):
    """The policy refused the command, the request or the caller."""

    code = "denied"
    exit_status = 13
    default_hint = "Run the `bridgehold why` command of this refusal to see the rule."


class SuspendedError(DeniedError):
    """An operator has suspended or revoked the tenant: nothing begins for it."""

    code = "suspended"
    exit_status = 23
    default_hint = (
        "An operator lets a suspended one go on with `bridgehold tenant resume NAME`; a revoked one stays so."
    )


class UnsupportedError(BridgeholdError):
    """A barrier that the grant demands can't be given by this machine."""

    code = "unsupported"
    exit_status = 14
    default_hint = "Run `bridgehold doctor` to see what is missing and how to get it."


class EnvironmentBuildError(BridgeholdError):
    """An environment could not be locked, fetched, scanned or built."""

    code = "environment"
    exit_status = 15


class DependencyError(BridgeholdError):
    """A dependency was refused before any of its code ran; the file is named."""

    code = "dependency"
    exit_status = 16


class EnvironmentChangedError(BridgeholdError):
    """A built environment is not what it was when it was sealed; nothing is started in it."""

    code = "environment_changed"
    exit_status = 18
    default_hint = "Look who changed it; then build it again: `bridgehold bridge build NAME --anew`."


class SecretError(BridgeholdError):
    """A secret is missing, or its back-end is not usable. Never carries a value."""

    code = "secret"
    exit_status = 17


class BusyError(BridgeholdError):
    """Admission refused: the machine, the tenant or the pool is full."""

    code = "busy"
    exit_status = 20
    default_retry = "later"


class TenantFullError(BusyError):
    """Admission refused: the tenant has its part, and what is left is kept for others."""

    code = "tenant_full"
    exit_status = 24
    default_hint = "End sessions of this tenant, or lower what each may have (`[limits]` in the policy)."


class ShortageError(BridgeholdError):
    """The machine is short of what a start needs (memory, processes, files, room); nobody's fault."""

    code = "shortage"
    exit_status = 22
    default_retry = "later"
    default_hint = "The host has tried again for seconds; `bridgehold doctor` shows what the machine lacks."


class BudgetError(BridgeholdError):
    """A rate or budget is used up."""

    code = "budget"
    exit_status = 21
    default_retry = "later"


class CommandTimeoutError(BridgeholdError):
    """A time limit of a start-up, command or session; the message says whether the session lives."""

    code = "timeout"
    exit_status = 30


class MemoryLimitError(BridgeholdError):
    """The session reached its memory cap and was ended."""

    code = "memory"
    exit_status = 31


class LimitError(BridgeholdError):
    """Another limit ended the command: response size, processes, scratch."""

    code = "limit"
    exit_status = 32


class CrashError(BridgeholdError):
    """The worker ended by itself or by a signal that was not ours."""

    code = "crash"
    exit_status = 33


class ProtocolError(BridgeholdError):
    """The guest broke the wire: length, depth, encoding, an unknown id."""

    code = "protocol"
    exit_status = 34


class AttestationError(BridgeholdError):
    """The worker is not what the spec says; it was killed before any tenant data went in."""

    code = "attestation"
    exit_status = 35


class ZygoteError(BridgeholdError):
    """A zygote can't be forked from: it is gone, was ended because it had changed, or is no zygote."""

    code = "zygote"
    exit_status = 38
    default_retry = "same"
    default_hint = "The next session starts cold, or from a new zygote; `bridgehold why` tells what was seen."


class ReplacedError(ZygoteError):
    """What a sandbox shows was replaced by its owner: what stands goes on, and nothing is forked from it."""

    code = "replaced"
    exit_status = 39


class CancelledError(BridgeholdError):
    """The caller cancelled the command."""

    code = "cancelled"
    exit_status = 36


class SessionEndedError(BridgeholdError):
    """The session ended while the command was in flight, or before it came."""

    code = "session_ended"
    exit_status = 37
    default_retry = "same"
    default_hint = "Open a new one: what it held is lost."


class ApplicationError(BridgeholdError):
    """The bridge's own code raised; the message is the guest's, bounded."""

    code = "application"
    exit_status = 1


class ProviderError(BridgeholdError):
    """The provider behind the gateway failed or could not be reached."""

    code = "provider"
    exit_status = 40
    default_retry = "later"


class ProviderAuthError(BridgeholdError):
    """The provider took no key, or not this one; the message is the framework's."""

    code = "provider_auth"
    exit_status = 41
    default_hint = "Store the tenant's key with `bridgehold secrets set`, or look at its account."


class RateLimitError(BridgeholdError):
    """The provider refused for the number of requests or tokens; the message is the framework's."""

    code = "rate_limit"
    exit_status = 42
    default_retry = "later"
    default_hint = "Try again later: callers' `retries` do so by themselves."


class ContextLengthError(BridgeholdError):
    """The request is longer than the model takes; the message is the framework's."""

    code = "context_length"
    exit_status = 43
    default_hint = "Send less at once, or choose a model with a longer context."


class AuditError(BridgeholdError):
    """The audit can't be written (the command did not run) or does not verify."""

    code = "audit"
    exit_status = 50


class HostUnavailableError(BridgeholdError):
    """No host answers on the socket, or it went away."""

    code = "host_unavailable"
    exit_status = 51
    default_retry = "later"


class CellEndedError(BridgeholdError):
    """The process that serves the tenant has ended, with its sessions and what ran in them."""

    code = "cell_ended"
    exit_status = 53
    default_retry = "later"
    default_hint = "The next request begins a new one. `bridgehold audit query` shows what had run."


class HostLeavingError(HostUnavailableError):
    """The host is being replaced by a new one; the request was not begun."""

    code = "host_leaving"
    exit_status = 52
    default_hint = "Send it again over a new connection: the new host answers there. Our clients do so."


class TranscriptError(BridgeholdError):
    """A transcript can't be read, or a caller of a `FakeHost` did something else than was recorded."""

    code = "transcript"
    exit_status = 60
    default_hint = "Where the change is meant, record it again: `pytest --bridgehold-record`, or `record()`."


def error_classes() -> tuple[type[BridgeholdError], ...]:
    """Every error of the table, in the order of this module."""
    return _CLASSES


def from_info(info: ErrorInfo) -> BridgeholdError:
    """The typed error that `info` describes; an unknown code becomes `InternalError`."""
    kind = _BY_CODE.get(info.code)
    if kind is None:
        error: BridgeholdError = InternalError(
            f"{info.code}: {info.message}", where=info.where, event=info.event
        )
    else:
        error = kind(info.message, hint=info.hint, where=info.where, retry=info.retry, event=info.event)
    error.tell_traceback(info.traceback)
    error.output = info.output or error.output
    return error


# Once, at import: a module's names may grow under whoever walks them, in another thread.
_CLASSES = tuple(
    value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, BridgeholdError) and value is not BridgeholdError
)
_BY_CODE = {kind.code: kind for kind in reversed(_CLASSES)}
