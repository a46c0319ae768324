"""Chat models of the three shapes that the gateway serves, from an address and a placeholder."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any, Callable

import openai
from langchain_anthropic import ChatAnthropic
from langchain_google_genai import ChatGoogleGenerativeAI
from langchain_openai import ChatOpenAI

from bridgehold_sdk import InvalidInput, Provider


@dataclass(frozen=True, eq=False, repr=False)
class Llm:
    """A configured model, and what it was configured with."""

    client: Any
    model: str
    provider: str
    shape: str
    settings: dict[str, Any]

    def describe(self, llm_id: str) -> dict[str, Any]:
        """What callers are told of it; never a key."""
        return {
            "llm_id": llm_id,
            "model": self.model,
            "provider": self.provider,
            "shape": self.shape,
            **self.settings,
        }

    def structured(self, schema: dict[str, Any]) -> Any:
        """A runnable that gives ``{raw, parsed, parsing_error}``."""
        how = {} if self.shape == "anthropic" else {"method": "json_schema"}
        return self.client.with_structured_output(schema, include_raw=True, **how)


def build(model: str, name: str, binding: Provider, key: str, settings: dict[str, Any]) -> Llm:
    """The model `model` of provider `name`; `settings` without a value are left to the provider."""
    given = {setting: value for setting, value in settings.items() if value is not None}
    shape = binding.shape if binding.shape in _MAKERS else "openai"
    make, spelled = _MAKERS[shape]
    if unknown := sorted(set(given) - set(spelled)):
        raise InvalidInput(f"a provider of the {shape} shape takes no {', '.join(unknown)}")
    plain = model.partition("/")[2] if model.startswith((f"{shape}/", f"{name}/")) else model
    if not plain.strip():
        raise InvalidInput("the model's name is empty")
    keywords = {spelled[setting]: value for setting, value in given.items()}
    client = make(plain, binding.base_url, key or binding.placeholder, keywords)
    return Llm(client, plain, name, shape, given)


def _openai(model: str, base_url: str, key: str, keywords: dict[str, Any]) -> ChatOpenAI:
    # Usage in streams is off where the address isn't the provider's own; the other interface
    # (responses) keeps what it is sent unless told otherwise, which the gateway refuses.
    # The gateway is plain HTTP on loopback: a context that trusts nobody spares each client the
    # reading of all certificates (30 ms).
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return ChatOpenAI(
        model=model,
        base_url=base_url,
        api_key=key,
        stream_usage=True,
        use_responses_api=False,
        http_client=openai.DefaultHttpxClient(verify=nobody),
        http_async_client=openai.DefaultAsyncHttpxClient(verify=nobody),
        **keywords,
    )


def _anthropic(model: str, base_url: str, key: str, keywords: dict[str, Any]) -> ChatAnthropic:
    return ChatAnthropic(model=model, base_url=base_url, api_key=key, **keywords)


def _gemini(model: str, base_url: str, key: str, keywords: dict[str, Any]) -> ChatGoogleGenerativeAI:
    return ChatGoogleGenerativeAI(
        model=model, base_url=base_url, google_api_key=key, vertexai=False, **keywords
    )


_SPELLED = {name: name for name in ("temperature", "max_tokens", "top_p", "stop", "timeout", "max_retries")}
_MAKERS: dict[str, tuple[Callable[..., Any], dict[str, str]]] = {
    "openai": (_openai, {**_SPELLED, "seed": "seed"}),
    "anthropic": (_anthropic, {**_SPELLED, "stop": "stop_sequences"}),
    "gemini": (_gemini, {**_SPELLED, "max_tokens": "max_output_tokens", "seed": "seed"}),
}
"""By shape: what makes the client, and how it spells a setting."""
