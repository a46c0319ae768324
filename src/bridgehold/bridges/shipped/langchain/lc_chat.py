"""Conversations: messages that are kept, and how many of them the model is shown."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, trim_messages
from langchain_core.messages.utils import count_tokens_approximately
from lc_base import Base
from lc_chains import stream_text
from lc_messages import add_usage, describe, finish_reason, to_messages, usage_of

from bridgehold_sdk import InvalidInput, Session, Store, operation


@dataclass(eq=False, repr=False)
class Conversation:
    """Messages, and how many of them the model is shown."""

    llm: str
    system: str
    keep_messages: int
    """The newest that the model is shown; 0: all."""
    keep_tokens: int
    messages: list[BaseMessage] = field(default_factory=list)
    usage: dict[str, int] = field(default_factory=lambda: usage_of(()))
    created: float = field(default_factory=time.time)

    def describe(self, conversation_id: str) -> dict[str, Any]:
        """What callers are told of it."""
        return {
            "conversation_id": conversation_id,
            "llm": self.llm,
            "system": self.system,
            "keep_messages": self.keep_messages,
            "keep_tokens": self.keep_tokens,
            "message_count": len(self.messages),
            "usage": self.usage,
            "created_at": self.created,
        }

    def shown(self, text: str) -> list[BaseMessage]:
        """What the model gets with the new message `text`; it begins with a message of the user's."""
        window: list[BaseMessage] = [*self.messages, HumanMessage(text)]
        if self.keep_messages:
            window = _newest(window, self.keep_messages, len)
        if self.keep_tokens:
            window = _newest(window, self.keep_tokens, count_tokens_approximately)
        if not window:
            raise InvalidInput(f"this message alone is more than the {self.keep_tokens} tokens that are kept")
        return [SystemMessage(self.system), *window] if self.system else window

    def keep(self, text: str, reply: BaseMessage, usage: dict[str, int]) -> None:
        """Both messages, or none: a call that failed leaves no question without an answer."""
        self.messages += [HumanMessage(text), AIMessage(str(reply.text))]
        self.usage = add_usage([self.usage, usage])

    def answered(self, conversation_id: str, reply: BaseMessage, shown: int) -> dict[str, Any]:
        """The result of a turn: the reply, what it used, and how it ended."""
        return {
            "conversation_id": conversation_id,
            "reply": str(reply.text),
            "usage": usage_of([reply]),
            "finish_reason": finish_reason(reply),
            "messages_shown": shown,
            "message_count": len(self.messages),
        }


class Conversations(Base):
    """The part of the bridge that keeps conversations."""

    def open(self, session: Session) -> None:
        """The session begins: its stores are empty."""
        super().open(session)
        self.conversations: Store[Conversation] = Store("conversation", capacity=1_000)

    @operation(effect="create", resource="conversation", id_field="id")
    def create_conversation(
        self,
        *,
        id: str | None = None,
        llm: str = "",
        system: str = "",
        keep_messages: int = 0,
        keep_tokens: int = 0,
        messages: list[dict[str, str]] | None = None,
    ) -> dict[str, Any]:
        """Begin a conversation, empty or with messages."""
        made = Conversation(self._known_llm(llm), system, keep_messages, keep_tokens)
        made.messages = to_messages(messages or [], "messages")
        return {"status": "created", **made.describe(self.conversations.add(made, id))}

    @operation(effect="run", resource="conversation", id_field="conversation_id")
    def send(self, conversation_id: str, message: str) -> dict[str, Any]:
        """Say something in a conversation; the model answers."""
        talk = self.conversations.get(conversation_id)
        shown = talk.shown(message)
        reply = self._llm(talk.llm).client.invoke(shown)
        talk.keep(message, reply, usage_of([reply]))
        return talk.answered(conversation_id, reply, len(shown))

    @operation(effect="run", resource="conversation", id_field="conversation_id", stream=True)
    def stream_send(
        self, conversation_id: str, message: str
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        """The same; the answer comes in pieces."""
        talk = self.conversations.get(conversation_id)
        shown = talk.shown(message)
        reply = yield from stream_text(self._llm(talk.llm).client, shown)
        talk.keep(message, reply, usage_of([reply]))
        return talk.answered(conversation_id, reply, len(shown))

    @operation(effect="read", resource="conversation", id_field="conversation_id")
    def history(self, conversation_id: str, offset: int = 0, limit: int = 100) -> dict[str, Any]:
        """A conversation's messages, oldest first."""
        talk = self.conversations.get(conversation_id)
        return {
            **talk.describe(conversation_id),
            "offset": offset,
            "messages": [describe(message) for message in talk.messages[offset : offset + limit]],
        }

    @operation(effect="read", resource="conversation")
    def list_conversations(self) -> dict[str, Any]:
        """The session's conversations."""
        listed = [talk.describe(name) for name, talk in self.conversations.items()]
        return {"conversations": listed, "total_count": len(listed)}

    @operation(effect="run", resource="conversation", id_field="conversation_id")
    def clear_conversation(self, conversation_id: str) -> dict[str, Any]:
        """Forget a conversation's messages; it goes on empty."""
        talk = self.conversations.get(conversation_id)
        count = len(talk.messages)
        talk.messages.clear()
        return {"conversation_id": conversation_id, "status": "cleared", "messages_cleared": count}

    @operation(effect="delete", resource="conversation", id_field="conversation_id")
    def delete_conversation(self, conversation_id: str) -> dict[str, Any]:
        """Forget a conversation."""
        self.conversations.delete(conversation_id)
        return {"conversation_id": conversation_id, "status": "deleted"}


def _newest(messages: list[BaseMessage], most: int, count: Any) -> list[BaseMessage]:
    return list(
        trim_messages(messages, max_tokens=most, token_counter=count, strategy="last", start_on="human")
    )
