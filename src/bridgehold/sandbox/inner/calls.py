"""Calls a provider's client once, at the host's simulator, so that no fork pays for its first call.

A first call loads tens of megabytes of a client's modules and tables. Whatever it opened is closed
again: a zygote may hold no descriptor that it was not given.
"""

from __future__ import annotations

import gc
import importlib
from typing import Any, Callable, Dict

_MODEL, _KEY = "warm-up", "warm-up"
_MESSAGES = [{"role": "user", "content": "warm up"}]
_SECONDS = 20


def call_openai(gateway: str) -> None:
    """One chat completion through the client `openai`, so that its lazy imports are done before a fork."""
    openai: Any = importlib.import_module("openai")

    with openai.OpenAI(base_url=f"{gateway}/v1", api_key=_KEY, max_retries=0, timeout=_SECONDS) as client:
        client.chat.completions.create(model=_MODEL, messages=_MESSAGES)


def call_litellm(gateway: str) -> None:
    """One chat completion through `litellm`, so that its lazy imports are done before a fork."""
    litellm: Any = importlib.import_module("litellm")

    litellm.completion(
        model=f"openai/{_MODEL}",
        api_base=f"{gateway}/v1",
        api_key=_KEY,
        messages=_MESSAGES,
        num_retries=0,
        timeout=_SECONDS,
    )
    _let_go_of_litellm()


def _let_go_of_litellm() -> None:
    """Its clients close their connections as they go."""
    cache: Any = getattr(importlib.import_module("litellm"), "in_memory_llm_clients_cache", None)
    if cache is not None:
        cache.flush_cache()
    gc.collect()


def call_dspy(gateway: str) -> None:
    """A whole prediction: adapters, signatures and the client below them."""
    dspy: Any = importlib.import_module("dspy")
    lm = dspy.LM(
        f"openai/{_MODEL}",
        api_base=f"{gateway}/v1",
        api_key=_KEY,
        cache=False,
        num_retries=0,
        timeout=_SECONDS,
    )
    with dspy.context(lm=lm):
        for module in (dspy.Predict, dspy.ChainOfThought):
            module("question -> answer")(question="warm up")
    history: Any = getattr(importlib.import_module("dspy.clients.base_lm"), "GLOBAL_HISTORY", None)
    if history is not None:
        history.clear()
    settings: Any = importlib.import_module("dspy.dsp.utils.settings")
    trace = getattr(settings, "main_thread_config", {}).get("trace")
    if isinstance(trace, list):
        trace.clear()
    _let_go_of_litellm()


def call_langchain_openai(gateway: str) -> None:
    """Through an HTTP client of our own: LangChain keeps the one that it makes, with its connection."""
    openai: Any = importlib.import_module("openai")
    kind: Any = importlib.import_module("langchain_openai").ChatOpenAI

    with openai.DefaultHttpxClient() as client:
        model = kind(
            model=_MODEL,
            base_url=f"{gateway}/v1",
            api_key=_KEY,
            max_retries=0,
            timeout=_SECONDS,
            http_client=client,
        )
        model.invoke("warm up")
    del model
    gc.collect()


CALLS: Dict[str, Callable[[str], None]] = {
    "openai": call_openai,
    "litellm": call_litellm,
    "dspy": call_dspy,
    "langchain_openai": call_langchain_openai,
}
"""What `[preload] calls` of a manifest may name."""
