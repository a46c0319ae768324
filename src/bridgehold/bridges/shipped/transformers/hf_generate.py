"""One token after another, on the main thread: a cancel comes between two of them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
import transformers
from hf_bounds import MAX_TOKENS, check_texts
from hf_models import Model, context_length
from hf_tokens import Words, require_fit, stop_tokens

from bridgehold_sdk import InvalidInput


def stream(
    model: Model, words: Words, prompt: str, options: dict[str, Any]
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Yields ``{"token_id", "text"}``; returns the whole. Texts are whole characters."""
    if model.head != "causal-lm":
        raise InvalidInput(f"a {model.head} model generates nothing; a causal-lm does")
    check_texts([prompt])
    require_fit(words, model.network)
    ids = prompt_ids(words, prompt)
    room = context_length(model.network, MAX_TOKENS) - len(ids)
    wanted = options.get("max_new_tokens", 50)
    if room < wanted:
        raise InvalidInput(
            f"the prompt has {len(ids)} tokens, and {wanted} more are asked for; the model takes "
            f"{len(ids) + room} together"
        )
    pick = _picker(options, ids)
    stop = stop_tokens(words, model.network)
    made: list[int] = []
    shown = ""
    reason = "length"
    past: Any = None
    step = torch.tensor([ids])
    with torch.inference_mode():
        for _ in range(wanted):
            out = model.network(input_ids=step.to(model.network.device), past_key_values=past, use_cache=True)
            past = out.past_key_values
            token = pick(out.logits[:, -1, :].float().cpu(), ids + made)
            made.append(token)
            if token in stop:
                reason = "stop"
                break
            text = words.tokenizer.decode(made, skip_special_tokens=True)
            if not text.endswith("\ufffd"):  # half a character: the rest comes with the next token
                yield {"token_id": token, "text": text[len(shown) :]}
                shown = text
            else:
                yield {"token_id": token, "text": ""}
            step = torch.tensor([[token]])
    whole = words.tokenizer.decode(made, skip_special_tokens=True)
    if len(whole) > len(shown):  # it ends in the middle of a character
        yield {"token_id": None, "text": whole[len(shown) :]}
    return {
        "text": whole,
        "token_ids": made,
        "prompt_tokens": len(ids),
        "generated_tokens": len(made),
        "finish": reason,
    }


def prompt_ids(words: Words, prompt: str) -> list[int]:
    """The prompt's tokens. Raises `InvalidInput` for a prompt without any."""
    ids = words.tokenizer(prompt)["input_ids"]
    if not ids:
        start = words.tokenizer.bos_token_id
        if start is None:
            raise InvalidInput("the prompt has no tokens, and this tokenizer no token to begin with")
        ids = [start]
    return list(ids)


def _picker(options: dict[str, Any], prompt: list[int]) -> Any:
    """The next token of logits: the most likely, or drawn from what the options leave."""
    if not options.get("do_sample", False):
        for name in ("temperature", "top_k", "top_p"):
            if name in options:
                raise InvalidInput(f"{name} only counts with do_sample")
    chain = transformers.LogitsProcessorList()
    if options.get("repetition_penalty", 1.0) != 1.0:
        chain.append(transformers.RepetitionPenaltyLogitsProcessor(float(options["repetition_penalty"])))
    if options.get("do_sample", False):
        if options.get("temperature", 1.0) != 1.0:
            chain.append(transformers.TemperatureLogitsWarper(float(options["temperature"])))
        if options.get("top_k", 0):
            chain.append(transformers.TopKLogitsWarper(int(options["top_k"])))
        if options.get("top_p", 1.0) < 1.0:
            chain.append(transformers.TopPLogitsWarper(float(options["top_p"])))
    generator = torch.Generator()
    if "seed" in options:
        generator.manual_seed(options["seed"])
    else:
        generator.seed()

    def pick(logits: Any, so_far: list[int]) -> int:
        scores = chain(torch.tensor([so_far]), logits)
        if not options.get("do_sample", False):
            return int(scores.argmax(dim=-1))
        return int(torch.multinomial(scores.softmax(dim=-1), 1, generator=generator))

    return pick
