"""What differs between providers: how a refusal looks, and where usage and model stand (pure).

A shape is a row of this table; the rest of the gateway knows none by name.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import msgspec

from bridgehold.config.providers import Shape
from bridgehold.policies.content import NO_BODY, BodyFacts, fold
from bridgehold.policies.uses import Use

UNBOUND = 8_192
"""What a request that names no bound of its own is taken to want."""
_LONGEST = 1_000_000
_BESIDE = 1_000
_MAKING = re.compile(r"image|tts|audio|speech|video", re.IGNORECASE)
_ANSWERS = 128
"""No provider makes an answer of more tokens, or more answers of one prompt."""


class Denial(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal, for people and for SDKs."""

    status: int
    rule: str
    message: str
    event: str = ""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one request, cached and thinking ones included."""

    input_tokens: int = 0
    output_tokens: int = 0

    def most(self, other: Usage) -> Usage:
        """The larger of each: streams say usage more than once, and grow."""
        return Usage(
            input_tokens=max(self.input_tokens, other.input_tokens),
            output_tokens=max(self.output_tokens, other.output_tokens),
        )


class ShapeRules(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between providers: where usage stands, how an error looks, which fields bound the cost."""

    denial: Callable[[Denial], object]
    """The JSON body that the provider's own SDK shows as its error."""
    usage: Callable[[dict[str, object]], Usage | None]
    """Usage in one decoded JSON document or stream event, if it stands there."""
    last: Callable[[dict[str, object]], bool]
    """Whether a stream's event is the one whose usage is final."""
    most: tuple[str, ...] = ("max_tokens", "max_completion_tokens", "max_output_tokens")
    """Where a request says how many tokens it wants at most."""
    times: tuple[str, ...] = ("n", "best_of")
    """Where it says how many answers it wants."""
    inside: str = ""
    """The table of the body that holds these; empty: the body itself."""
    thinking: tuple[str, str] = ("", "")
    """A table in the same place, and where it says how many tokens of thought it wants: a bound below that
    may not hold for them."""
    kinds: str = ""
    """Where it says what kinds of answer it wants: a bound of few tokens may not hold for what is no text."""
    beside: tuple[str, ...] = ()
    """Fields on which the provider says something of its own to the model, which is billed as input."""


def _own(denial: Denial) -> dict[str, object]:
    """What tells a refusal of ours from a provider's, in the part of a body that every SDK keeps."""
    return {"bridgehold": {"rule": denial.rule, "event": denial.event}}


def _openai_denial(denial: Denial) -> object:
    kind = {401: "invalid_request_error", 429: "rate_limit_error"}.get(denial.status, "permission_error")
    error = {"message": denial.message, "type": kind, "param": None, "code": denial.rule}
    return {"error": {**error, **_own(denial)}}


def _anthropic_denial(denial: Denial) -> object:
    kind = {401: "authentication_error", 429: "rate_limit_error", 400: "invalid_request_error"}
    error = {"type": kind.get(denial.status, "permission_error"), "message": denial.message}
    return {"type": "error", "error": {**error, **_own(denial)}}


def _gemini_denial(denial: Denial) -> object:
    status = {401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED", 400: "INVALID_ARGUMENT"}
    error = {"code": denial.status, "message": denial.message}
    error |= {"status": status.get(denial.status, "PERMISSION_DENIED")}
    return {"error": {**error, **_own(denial)}}


def _custom_denial(denial: Denial) -> object:
    return {"error": {"message": denial.message, "code": denial.rule, **_own(denial)}}


def _hub_denial(denial: Denial) -> object:
    return {"error": denial.message, "code": denial.rule, **_own(denial)}


def _no_usage(_value: dict[str, object]) -> Usage | None:
    return None


def _openai_usage(value: dict[str, object]) -> Usage | None:
    """Chat completions and embeddings (prompt_/completion_tokens), responses (input_/output_tokens).

    A total that is larger than both has tokens that neither counts, as some servers' thinking.
    """
    usage = value.get("usage")
    response = value.get("response")
    if usage is None and isinstance(response, dict):
        usage = response.get("usage")
    if not isinstance(usage, dict):
        return None
    given = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    made = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    return _usage_of(given, max(made, _count(usage.get("total_tokens")) - given))


def _anthropic_usage(value: dict[str, object]) -> Usage | None:
    """Each kind of input (fresh, written to a cache, read from one) has a count of its own."""
    message = value.get("message")
    usage = message.get("usage") if isinstance(message, dict) else value.get("usage")
    if not isinstance(usage, dict):
        return None
    rounds = usage.get("iterations")
    tables = [one for one in rounds if isinstance(one, dict)] if isinstance(rounds, list) else []
    counted = [usage, *(one for one in tables if one.get("type") == "compaction")]  # it has the others itself
    return _usage_of(
        sum(_ending(table, "input_tokens") for table in counted),
        sum(_ending(table, "output_tokens") for table in counted),
    )


def _gemini_usage(value: dict[str, object]) -> Usage | None:
    """Prompt (cached content is part of it) and what tools put into it; candidates and thoughts."""
    usage = value.get("usageMetadata")
    if not isinstance(usage, dict):
        return None
    given = _count(usage.get("promptTokenCount")) + _count(usage.get("toolUsePromptTokenCount"))
    parts = _ending(usage, "TokenCount") - _count(usage.get("cachedContentTokenCount"))
    total = _count(usage.get("totalTokenCount"))
    return _usage_of(given, max(parts - total, total) - given)


_MOST_TOKENS = 10**12
"""Of a sum of a provider's numbers, which the audit has to hold: each alone may be that large."""


def _usage_of(given: int, made: int) -> Usage | None:
    """Nothing at all was said where no number is one, or all are nought: no request is for nothing."""
    if given + made <= 0:
        return None
    return Usage(input_tokens=min(given, _MOST_TOKENS), output_tokens=min(max(0, made), _MOST_TOKENS))


def _ending(usage: dict[str, object], end: str) -> int:
    """All counts whose name ends so: kinds of tokens that come to be later are counted too."""
    return sum(_count(value) for name, value in usage.items() if name.endswith(end))


def _count(value: object) -> int:
    """A provider's number, if it is one that the audit can hold."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12 else 0


def _any_usage(value: dict[str, object]) -> Usage | None:
    """Of a provider that may speak any shape, as its requests may."""
    found = [one for usage in (_openai_usage, _anthropic_usage, _gemini_usage) if (one := usage(value))]
    return functools.reduce(Usage.most, found) if found else None


def _any_last(value: dict[str, object]) -> bool:
    return _openai_last(value) or _anthropic_last(value)


def _never(_value: dict[str, object]) -> bool:
    return False


def _openai_last(value: dict[str, object]) -> bool:
    """Of responses; a stream of chat completions ends with ``[DONE]``."""
    return value.get("type") in ("response.completed", "response.incomplete", "response.failed")


def _anthropic_last(value: dict[str, object]) -> bool:
    return value.get("type") == "message_delta"


_SHAPES: dict[str, ShapeRules] = {
    "openai": ShapeRules(
        denial=_openai_denial,
        usage=_openai_usage,
        last=_openai_last,
    ),
    "anthropic": ShapeRules(
        denial=_anthropic_denial,
        usage=_anthropic_usage,
        last=_anthropic_last,
        thinking=("thinking", "budget_tokens"),
        beside=("tools", "output_config", "output_format"),
    ),
    "gemini": ShapeRules(
        denial=_gemini_denial,
        usage=_gemini_usage,
        last=_never,
        most=("maxoutputtokens",),
        times=("candidatecount",),
        inside="generationConfig",
        thinking=("thinkingConfig", "thinkingBudget"),
        kinds="responseModalities",
    ),
    "hub": ShapeRules(
        denial=_hub_denial,
        usage=_no_usage,
        last=_never,
    ),
    "custom": ShapeRules(
        denial=_custom_denial,
        usage=_any_usage,
        last=_any_last,
    ),
}


def rules_of(shape: Shape | str) -> ShapeRules:
    """The rules of `shape`; those of ``custom`` for a name that isn't known."""
    return _SHAPES.get(shape, _SHAPES["custom"])


def denial_body(shape: Shape | str, denial: Denial) -> bytes:
    """A refusal as a JSON body that the provider's SDK understands."""
    return msgspec.json.encode(rules_of(shape).denial(denial))


def most_tokens(shape: Shape | str, body: object, body_bytes: int, facts: BodyFacts = NO_BODY) -> int:
    """The most tokens that a request may use: one for each byte of it, what its media may cost, and its own
    bound for each answer.

    A request without a bound, or one that can't be read, is taken to want `UNBOUND` tokens; one without a
    body has nothing generated. What no provider gives is not taken at its word, so that one request that
    was left can't use up a tenant's budget for good.
    """
    if not isinstance(body, dict):
        return body_bytes + UNBOUND if body_bytes else 0
    if not facts.generates:
        return body_bytes + facts.media
    if rules_of(shape) is _SHAPES["custom"]:  # its requests may have any shape
        return max(most_tokens(one, body, body_bytes, facts) for one in ("openai", "anthropic", "gemini"))
    rules = rules_of(shape)
    named = _folded(_folded(body).get(fold(rules.inside)) if rules.inside else body)
    bound = max(_bounded(named.get(fold(name)), _LONGEST) for name in rules.most)
    bound = bound or max(UNBOUND, facts.each * body_bytes)
    table, field = rules.thinking
    thoughts = _bounded(_folded(named.get(fold(table))).get(fold(field)), _LONGEST)
    bound += thoughts if thoughts >= bound else 0
    if _makes_more_than_text(named.get(fold(rules.kinds)), facts.model):
        bound = max(bound, UNBOUND)
    answers = _answers(rules, named)
    given = body_bytes + facts.media + (_BESIDE if any(named.get(fold(name)) for name in rules.beside) else 0)
    return given + bound * answers * _prompts(body.get("prompt"))


def each_answer(shape: Shape | str, body: object, uses: tuple[Use, ...]) -> tuple[Use, ...]:
    """What is billed by use, as often as a request wants answers."""
    if not uses or not isinstance(body, dict):
        return uses
    rules = rules_of(shape)
    tables = _SHAPES.values() if rules is _SHAPES["custom"] else (rules,)
    folded = _folded(body)
    answers = max(
        _answers(one, _folded(folded.get(fold(one.inside))) if one.inside else folded) for one in tables
    )
    return tuple(Use(use.names, use.times * answers) for use in uses)


def _answers(rules: ShapeRules, named: dict[str, object]) -> int:
    return max(1, *(_bounded(named.get(fold(name)), _ANSWERS) for name in rules.times))


def names_bound(shape: Shape | str, body: object) -> bool:
    """Whether a request says itself how many tokens it wants at most; for ``custom`` nobody knows where."""
    rules = rules_of(shape)
    held = _folded(body).get(fold(rules.inside)) if rules.inside else body
    named = _folded(held) if rules is not _SHAPES["custom"] else {}
    return any(_bounded(named.get(fold(name)), _LONGEST) for name in rules.most)


def _bounded(value: object, most: int) -> int:
    return max(0, min(value, most)) if isinstance(value, int) and not isinstance(value, bool) else 0


def _prompts(prompt: object) -> int:
    """How many prompts one request for completions has: each gets answers of its own."""
    if not isinstance(prompt, list) or all(isinstance(token, int) for token in prompt):
        return 1
    return len(prompt)


def _makes_more_than_text(kinds: object, model: str) -> bool:
    """Whether it asks for pictures or sound, or a model whose name says that it makes them."""
    wanted = [kind for kind in kinds if isinstance(kind, str)] if isinstance(kinds, list) else []
    return any(kind.lower() != "text" for kind in wanted) or _MAKING.search(model) is not None


def _folded(table: object) -> dict[str, object]:
    """Empty for what is no table."""
    return {fold(name): value for name, value in table.items()} if isinstance(table, dict) else {}
