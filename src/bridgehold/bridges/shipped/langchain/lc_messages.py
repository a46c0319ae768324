"""Messages to and from plain values, prompts, and what a call used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

from bridgehold_sdk import InvalidInput

_KINDS = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
_ROLES = {"human": "user", "ai": "assistant"}


def to_messages(items: object, where: str) -> list[BaseMessage]:
    """``[{"role", "content"}]`` as messages; `InvalidInput` for anything else."""
    if not isinstance(items, list):
        raise InvalidInput(f"{where}: a list of messages is expected")
    found: list[BaseMessage] = []
    for index, item in enumerate(items):
        role = item.get("role") if isinstance(item, dict) else None
        content = item.get("content") if isinstance(item, dict) else None
        if role not in _KINDS or not isinstance(content, str):
            raise InvalidInput(
                f"{where}[{index}]: a role (system, user, assistant) and a text as content are expected"
            )
        found.append(_KINDS[role](content))
    return found


def describe(message: BaseMessage) -> dict[str, str]:
    """A message as callers are told: its role and its text."""
    return {"role": _ROLES.get(message.type, message.type), "content": str(message.text)}


def usage_of(messages: Iterable[object]) -> dict[str, int]:
    """Tokens of every call among `messages`, as the provider counted them; calls without a count too."""
    total = {"calls": 0, "input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    for message in messages:
        if not isinstance(message, AIMessage):
            continue
        total["calls"] += 1
        for name, count in (message.usage_metadata or {}).items():
            if name in total and isinstance(count, int):
                total[name] += count
    return total


def add_usage(usages: Iterable[dict[str, int]]) -> dict[str, int]:
    """The sum of what several answers have used."""
    total = usage_of(())
    for usage in usages:
        for name in total:
            total[name] += usage[name]
    return total


def finish_reason(message: BaseMessage) -> str:
    """Why the model stopped, in the provider's own word."""
    facts = message.response_metadata
    return str(facts.get("finish_reason") or facts.get("stop_reason") or "")


def make_prompt(
    template: str | None,
    messages: list[dict[str, str]] | None,
    form: str,
    values: dict[str, Any] | None,
) -> ChatPromptTemplate:
    """A template from one text or from messages, with `values` filled in already."""
    if (template is None) == (messages is None):
        raise InvalidInput("a prompt is `template` or `messages`, one of the two")
    parts: list[Any] = [("user", template)] if messages is None else [_part(item) for item in messages]
    try:
        prompt = ChatPromptTemplate(parts, template_format=form)
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(f"the prompt can't be read: {error}") from error
    if unknown := sorted(set(values or {}) - set(prompt.input_variables)):
        raise InvalidInput(f"the prompt has no variable {', '.join(unknown)[:300]}")
    return prompt.partial(**values) if values else prompt


def _part(item: dict[str, str]) -> Any:
    if item["role"] != "history":
        return (item["role"], item["content"])
    if not item["content"].isidentifier():
        raise InvalidInput("the content of a `history` message is the name of a variable")
    return MessagesPlaceholder(item["content"])


def fill(prompt: ChatPromptTemplate, inputs: dict[str, Any], where: str = "inputs") -> list[BaseMessage]:
    """The messages of `prompt` with `inputs`, which must be all its variables and no others."""
    wanted = set(prompt.input_variables)
    if missing := sorted(wanted - set(inputs)):
        raise InvalidInput(f"{where} lack {', '.join(missing)[:300]}")
    if extra := sorted(set(inputs) - wanted):
        raise InvalidInput(f"{where}: the prompt has no variable {', '.join(extra)[:300]}")
    ready = dict(inputs)
    for part in prompt.messages:
        if isinstance(part, MessagesPlaceholder):
            name = part.variable_name
            ready[name] = to_messages(inputs[name], f"{where}.{name}")
    try:
        return prompt.format_messages(**ready)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise InvalidInput(f"{where} don't fit the prompt: {error}") from error


def describe_prompt(prompt: ChatPromptTemplate) -> dict[str, Any]:
    """A prompt's variables, and how many messages it has."""
    return {"variables": sorted(prompt.input_variables), "messages": len(prompt.messages)}
