"""From what the guest said, or how the kernel says it ended, to the one typed error (pure)."""

from __future__ import annotations

import signal

from bridgehold.bridges.frames import FaultFrame
from bridgehold.error_texts import harmless
from bridgehold.errors import (
    ApplicationError,
    BridgeholdError,
    BudgetError,
    CancelledError,
    ContextLengthError,
    CrashError,
    DeniedError,
    DependencyError,
    LimitError,
    MemoryLimitError,
    NotFoundError,
    ProviderAuthError,
    ProviderError,
    RateLimitError,
    SessionEndedError,
    UsageError,
    ZygoteError,
)
from bridgehold.policies.model import Limits
from bridgehold.policies.units import format_size
from bridgehold.sandbox.values import ExitReport

MOST_TRACEBACK = 8_000
"""Characters."""
_FAULTS: dict[str, tuple[type[BridgeholdError], str]] = {
    "invalid_input": (UsageError, "The bridge refused the arguments; its README lists them."),
    "missing_module": (DependencyError, "Add the package to the bridge's requirements and lock it again."),
    "cancelled": (CancelledError, ""),
    "not_found": (NotFoundError, ""),
    "limit": (LimitError, "Raise `[limits] response` in the policy, or ask for less at once."),
    "memory": (MemoryLimitError, "Raise `[limits] memory` in the policy, or send less data at once."),
    "provider": (ProviderError, ""),
    "provider_auth": (ProviderAuthError, ProviderAuthError.default_hint),
    "rate_limit": (RateLimitError, RateLimitError.default_hint),
    "context_length": (ContextLengthError, ContextLengthError.default_hint),
    "refused": (DeniedError, "The gateway refused what the framework asked for; its message names the rule."),
    "budget": (BudgetError, "The gateway counts requests, tokens and cost; its message names the rule."),
    "unknown_command": (UsageError, "`bridgehold bridge show NAME` lists the operations."),
}


def fault_error(fault: FaultFrame, *, where: str = "") -> BridgeholdError:
    """The error of a fault frame. Its texts are the guest's own, already bounded by the codec."""
    kind, hint = _FAULTS.get(fault.code, (ApplicationError, ""))
    text = f"{fault.type}: {fault.message}" if fault.type else fault.message
    error = kind(harmless(text), hint=hint, where=where)
    error.tell_traceback(middle(harmless(fault.traceback), MOST_TRACEBACK))
    return error


def middle(text: str, most: int) -> str:
    """`text` without its middle, where it is longer: a traceback's end says what went wrong."""
    cut = len(text) - most
    return text if cut <= 0 else f"{text[: most // 4]}\n… {cut} characters cut …\n{text[most // 4 + cut :]}"


def exit_error(report: ExitReport, limits: Limits) -> BridgeholdError:
    """The error of a worker that ended while somebody needed it. The cause is the kernel's word."""
    if report.cause == "memory" and report.reason:
        return MemoryLimitError(
            f"the session was ended: {report.reason}",
            hint="docs/explanation/what-is-counted.md says how much a session may hold of what.",
        )
    if report.cause == "memory":
        return MemoryLimitError(
            f"the session reached its memory cap of {format_size(limits.memory_bytes)} and was ended",
            hint="Raise `[limits] memory` in the policy, or send less data at once.",
        )
    if report.cause == "zygote":
        return ZygoteError(f"the session ended with its zygote: {report.reason or 'it is gone'}")
    if report.cause in ("killed", "launcher"):
        why = f": the launcher could not look at it ({report.reason})" if report.cause == "launcher" else ""
        return SessionEndedError(f"the session was ended{why}")
    if report.cause == "signal":
        return CrashError(f"the worker ended by {signal_name(report.status)}", retry="same")
    status = f" with status {report.status}" if report.status >= 0 else " (its status is not known)"
    return CrashError(
        f"the worker ended by itself{status}",
        hint="`bridgehold logs SESSION` shows what it wrote last.",
        retry="same",
    )


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; a number that has no name as it is."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
