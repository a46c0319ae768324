"""Agents: a model that may call tools until it has an answer."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import ModelCallLimitMiddleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from lc_chat import Conversation, Conversations
from lc_host_tools import chosen
from lc_messages import usage_of
from lc_models import Llm
from lc_output import OutputMismatch, check_output, read_schema
from lc_tools import TOOLS

from bridgehold_sdk import InvalidInput, Session, Store, Tool, operation


@dataclass(eq=False, repr=False)
class Agent:
    """What an agent is made from, each time it runs."""

    llm: str
    tools: list[str]
    system: str
    schema: dict[str, Any] | None
    max_calls: int
    created: float = field(default_factory=time.time)
    executions: int = 0
    last_executed: float | None = None

    def describe(self, agent_id: str) -> dict[str, Any]:
        """What callers are told of it."""
        return {
            "agent_id": agent_id,
            "llm": self.llm,
            "tools": self.tools,
            "system": self.system,
            "structured": self.schema is not None,
            "max_calls": self.max_calls,
            "created_at": self.created,
            "execution_count": self.executions,
            "last_executed": self.last_executed,
        }

    def graph(self, llm: Llm, offered: Mapping[str, Tool]) -> Any:
        """The agent as LangGraph runs it. Raises `InvalidInput` for a tool that is not offered now."""
        if missing := [name for name in self.tools if name not in TOOLS and name not in offered]:
            raise InvalidInput(f"the host offers no tool {', '.join(missing)[:300]} to this command")
        form: Any = None
        if self.schema is not None:
            form = (ProviderStrategy if llm.shape == "openai" else ToolStrategy)(self.schema)
        return create_agent(
            llm.client,
            chosen(self.tools, TOOLS, offered),
            system_prompt=self.system or None,
            response_format=form,
            middleware=[ModelCallLimitMiddleware(run_limit=self.max_calls, exit_behavior="error")],
        )

    def config(self) -> dict[str, Any]:
        """The graph's own bound lies well above ours, whose error says what was passed."""
        return {"recursion_limit": 10 * self.max_calls + 10}

    def outcome(self, agent_id: str, state: dict[str, Any], asked: int, started: float) -> dict[str, Any]:
        """What came after the `asked` messages that went in."""
        new = state["messages"][asked:]
        said = [message for message in new if isinstance(message, AIMessage)]
        if not said:
            raise RuntimeError("the agent ended without an answer")
        output: Any = str(said[-1].text)
        if self.schema is not None:
            if state.get("structured_response") is None:
                raise OutputMismatch("the agent ended without an answer in the form that was asked for")
            output = check_output(self.schema, state["structured_response"])
        self.executions += 1
        self.last_executed = time.time()
        return {
            "agent_id": agent_id,
            "output": output,
            "steps": list(steps_of(new)),
            "usage": usage_of(new),
            "execution_time": time.perf_counter() - started,
        }


class Agents(Conversations):
    """The part of the bridge that makes and runs agents."""

    def open(self, session: Session) -> None:
        """The session begins: its stores are empty."""
        super().open(session)
        self.agents: Store[Agent] = Store("agent", capacity=1_000)

    @operation(effect="read")
    def list_tools(self) -> dict[str, Any]:
        """The tools that an agent may be given."""
        listed = [
            {"name": tool.name, "description": tool.description, "arguments": tool.args}
            for tool in TOOLS.values()
        ]
        listed += [
            {
                "name": tool.name,
                "description": tool.description,
                "arguments": dict(tool.parameters.get("properties") or {}),
            }
            for name, tool in self.tools.items()
            if name not in TOOLS
        ]
        return {"tools": listed, "total_count": len(listed)}

    @operation(effect="create", resource="agent", id_field="id")
    def create_agent(
        self,
        *,
        id: str | None = None,
        llm: str = "",
        tools: list[str] | None = None,
        system: str = "",
        output_schema: dict[str, Any] | None = None,
        max_calls: int = 10,
    ) -> dict[str, Any]:
        """Make an agent of a model and tools."""
        names = list(dict.fromkeys(tools or []))
        if unknown := sorted(set(names) - set(TOOLS) - set(self.tools)):
            there = ", ".join([*TOOLS, *self.tools])
            raise InvalidInput(f"no tool {', '.join(unknown)[:300]}; there are {there[:1000]}")
        schema = None if output_schema is None else read_schema(output_schema, "answer")
        agent = Agent(self._known_llm(llm), names, system, schema, max_calls)
        return {"status": "created", **agent.describe(self.agents.add(agent, id))}

    @operation(effect="run", resource="agent", id_field="agent_id")
    def run_agent(self, agent_id: str, input: str, conversation_id: str = "") -> dict[str, Any]:
        """Let an agent work until it has an answer."""
        agent, talk, messages = self._asked(agent_id, input, conversation_id)
        graph = agent.graph(self._llm(agent.llm), self.tools)
        started = time.perf_counter()
        state = self.loop.run(graph.ainvoke({"messages": messages}, agent.config()))
        return self._kept(talk, input, agent.outcome(agent_id, state, len(messages), started))

    @operation(effect="run", resource="agent", id_field="agent_id", stream=True)
    def stream_agent(
        self, agent_id: str, input: str, conversation_id: str = ""
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        """A chunk for each call of a tool, and for each tool's answer, as they happen."""
        agent, talk, messages = self._asked(agent_id, input, conversation_id)
        graph = agent.graph(self._llm(agent.llm), self.tools)
        started = time.perf_counter()
        state: dict[str, Any] = {"messages": messages}
        told = len(messages)
        for state in self.loop.iterate(
            graph.astream({"messages": messages}, agent.config(), stream_mode="values")
        ):
            for message in state["messages"][told:]:
                yield from _events(message)
            told = len(state["messages"])
        return self._kept(talk, input, agent.outcome(agent_id, state, len(messages), started))

    @operation(effect="read", resource="agent")
    def list_agents(self) -> dict[str, Any]:
        """The session's agents."""
        listed = [agent.describe(agent_id) for agent_id, agent in self.agents.items()]
        return {"agents": listed, "total_count": len(listed)}

    @operation(effect="delete", resource="agent", id_field="agent_id")
    def delete_agent(self, agent_id: str) -> dict[str, Any]:
        """Forget an agent."""
        self.agents.delete(agent_id)
        return {"agent_id": agent_id, "status": "deleted"}

    def _asked(
        self, agent_id: str, text: str, conversation_id: str
    ) -> tuple[Agent, Conversation | None, list[BaseMessage]]:
        """The agent, the conversation that it goes on with, and what it is shown."""
        agent = self.agents.get(agent_id)
        if not conversation_id:
            return agent, None, [HumanMessage(text)]
        talk = self.conversations.get(conversation_id)
        shown = talk.shown(text)
        if agent.system:  # the agent's own takes the place of the conversation's
            shown = [message for message in shown if not isinstance(message, SystemMessage)]
        return agent, talk, shown

    def _kept(self, talk: Conversation | None, text: str, done: dict[str, Any]) -> dict[str, Any]:
        if talk is not None:
            talk.keep(text, AIMessage(str(done["output"])), done["usage"])
        return done


def steps_of(messages: Iterable[BaseMessage]) -> Iterable[dict[str, Any]]:
    """Each tool call with what came of it."""
    listed = list(messages)
    results = {message.tool_call_id: message for message in listed if isinstance(message, ToolMessage)}
    for message in listed:
        for call in message.tool_calls if isinstance(message, AIMessage) else ():
            result = results.get(call["id"])
            yield {
                "tool": call["name"],
                "arguments": call["args"],
                "result": None if result is None else str(result.text),
                "status": "error" if result is None else result.status,
            }


def _events(message: BaseMessage) -> Iterable[dict[str, Any]]:
    if isinstance(message, ToolMessage):
        yield {"tool": message.name, "result": str(message.text), "status": message.status}
    elif isinstance(message, AIMessage):
        if text := str(message.text):
            yield {"text": text}
        for call in message.tool_calls:
            yield {"tool": call["name"], "arguments": call["args"]}
