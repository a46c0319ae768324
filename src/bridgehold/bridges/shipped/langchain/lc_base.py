"""What all operations share: the session's models, and which one is meant."""

from __future__ import annotations

from typing import Any

from lc_loop import Loop
from lc_messages import make_prompt
from lc_models import Llm, build

from bridgehold_sdk import Bridge, InvalidInput, Provider, Session, Store, operation

DEFAULT = "default"
PREFIXES = ("openai", "anthropic", "gemini")


class Base(Bridge):
    """The part of the bridge that keeps models."""

    def open(self, session: Session) -> None:
        """The session begins: its stores are empty."""
        self.llms: Store[Llm] = Store("llm", capacity=50)
        self.prompts: Store[Any] = Store("prompt", capacity=1_000)
        self.loop = Loop()

    def close(self) -> None:
        """The session ends, and the loop of asynchronous calls with it."""
        self.loop.close()

    @operation(effect="configure", resource="llm", id_field="id")
    def configure_llm(
        self,
        *,
        model: str,
        id: str = DEFAULT,
        provider: str = "",
        temperature: float | None = None,
        max_tokens: int | None = None,
        top_p: float | None = None,
        stop: list[str] | None = None,
        seed: int | None = None,
        timeout: float | None = None,
        max_retries: int = 1,
        api_key: str = "",
    ) -> dict[str, Any]:
        """Choose a language model, under a name of its own; the gateway puts the key in."""
        settings = {
            "temperature": temperature,
            "max_tokens": max_tokens,
            "top_p": top_p,
            "stop": stop,
            "seed": seed,
            "timeout": timeout,
            "max_retries": max_retries,
        }
        name, binding = self._binding(model, provider)
        made = build(model, name, binding, api_key, settings)
        if id in self.llms:
            self.llms.delete(id)
        return {"status": "configured", **made.describe(self.llms.add(made, id))}

    @operation(effect="read", resource="llm")
    def list_llms(self) -> dict[str, Any]:
        """The session's models, and the providers it may use."""
        listed = [llm.describe(llm_id) for llm_id, llm in self.llms.items()]
        return {"llms": listed, "total_count": len(listed), "providers": self.providers}

    @operation(effect="delete", resource="llm", id_field="llm_id")
    def delete_llm(self, llm_id: str) -> dict[str, Any]:
        """Forget a model."""
        self.llms.delete(llm_id)
        return {"llm_id": llm_id, "status": "deleted"}

    def _binding(self, model: str, provider: str) -> tuple[str, Provider]:
        """The provider by name, by the model's prefix, or the only one that is granted."""
        prefix = model.partition("/")[0] if "/" in model else ""
        name = provider or (prefix if prefix in (*PREFIXES, *self.providers) else "")
        if not name:
            name = self.providers[0] if len(self.providers) == 1 else "openai"
        return name, self.provider(name)

    def _known_llm(self, llm: str) -> str:
        """`llm` as it is kept with what uses it: empty (the session's), or one that there is."""
        if llm:
            self.llms.get(llm)
        return llm

    def _llm(self, llm: str) -> Llm:
        """The model `llm`; without a name the only one, or the one configured without a name."""
        if llm:
            return self.llms.get(llm)
        if not len(self.llms):
            raise InvalidInput("no language model yet: langchain:configure_llm comes first")
        if len(self.llms) > 1 and DEFAULT not in self.llms:
            raise InvalidInput(f"which model? `llm` names one of {', '.join(self.llms.ids())[:500]}")
        return self.llms.get(DEFAULT if DEFAULT in self.llms else self.llms.ids()[0])

    def _prompt(
        self,
        prompt_id: str,
        template: str | None,
        messages: list[dict[str, str]] | None,
        template_format: str,
        values: dict[str, Any] | None,
    ) -> Any:
        """A kept prompt, or one made of what is given."""
        if not prompt_id:
            return make_prompt(template, messages, template_format, values)
        if template is not None or messages is not None or values:
            raise InvalidInput("`prompt_id` names a whole prompt; give that or a prompt's parts")
        return self.prompts.get(prompt_id)
