"""LangChain: chains, conversations and agents. The key never comes here.

Every client gets the gateway's address and a placeholder, as keywords. What runs concurrently runs
on one event loop, not in threads: a cancel ends it at once.
"""

from __future__ import annotations

from typing import Any

import langchain
from lc_agents import Agents
from lc_chains import Chains, Prompts


class LangChainBridge(Prompts, Chains, Agents):
    """LangChain's prompts, chains, conversations and agents; each operation is described in bridge.toml."""

    name = "langchain"
    version = "0.1.0"

    def framework(self) -> dict[str, Any]:
        """The name and version of what it wraps, and what it can do."""
        return {
            "name": "langchain",
            "version": langchain.__version__,
            "capabilities": [
                "language_models",
                "prompts",
                "chains",
                "streaming",
                "structured_output",
                "conversations",
                "agents",
            ],
        }

    def stats(self) -> dict[str, Any]:
        """Numbers of its own for `common:get_stats`."""
        return {
            "llms_count": len(self.llms),
            "prompts_count": len(self.prompts),
            "chains_count": len(self.chains),
            "conversations_count": len(self.conversations),
            "agents_count": len(self.agents),
        }
