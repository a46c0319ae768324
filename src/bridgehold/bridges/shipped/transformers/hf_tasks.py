"""Pipelines of transformers: which model fits which task, and which words a run of it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from hf_bounds import MAX_TOKENS, MAX_VALUES, check_texts
from hf_models import Model, context_length
from hf_tokens import Words, require_fit, stop_tokens

from bridgehold_sdk import InvalidInput

HEAD_OF = {
    "text-generation": ("causal-lm",),
    "text-classification": ("sequence-classification",),
    "fill-mask": ("masked-lm",),
    "feature-extraction": ("base",),
}
OPTIONS = {
    "text-generation": {
        *("max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "num_beams"),
        *("return_full_text", "seed"),
    },
    "text-classification": {"top_k", "function_to_apply"},
    "fill-mask": {"top_k", "targets"},
    "feature-extraction": {"pooling"},
}
POOLINGS = ("none", "mean", "first")


@dataclass(eq=False, repr=False)
class Task:
    """A pipeline, and what it was made from."""

    task: str
    model_id: str
    tokenizer_id: str
    line: Any
    words: Words
    length: int
    runs: int = 0


def create(task: str, model_id: str, model: Model, tokenizer_id: str, words: Words) -> Task:
    """A task for a model and a tokenizer that fit together. Raises `InvalidInput`."""
    if model.head not in HEAD_OF[task]:
        raise InvalidInput(f"{task} needs a {HEAD_OF[task][0]} model; {model_id} is a {model.head}")
    require_fit(words, model.network)
    if task == "fill-mask" and words.tokenizer.mask_token is None:
        raise InvalidInput(f"{tokenizer_id} has no mask token")
    if words.tokenizer.pad_token_id is None and words.tokenizer.eos_token_id is not None:
        words.tokenizer.pad_token = words.tokenizer.eos_token
    line = transformers.pipeline(
        task, model=model.network, tokenizer=words.tokenizer, device=model.network.device
    )
    return Task(task, model_id, tokenizer_id, line, words, context_length(model.network, MAX_TOKENS))


def run(task: Task, texts: list[str], options: dict[str, Any]) -> list[Any]:
    """One result a text, of plain values."""
    check_texts(texts)
    if unknown := sorted(set(options) - OPTIONS[task.task]):
        known = ", ".join(sorted(OPTIONS[task.task]))
        raise InvalidInput(f"{task.task} has no option {', '.join(unknown)[:200]}; it has {known}")
    task.runs += 1
    with torch.inference_mode():
        try:
            return _RUN[task.task](task, texts, dict(options))
        except (ValueError, transformers.pipelines.base.PipelineException) as error:
            raise InvalidInput(f"{task.task}: {str(error)[:500]}") from error


def _generate(task: Task, texts: list[str], options: dict[str, Any]) -> list[Any]:
    wanted = options.setdefault("max_new_tokens", 50)
    for text in texts:
        count = len(task.line.tokenizer(text)["input_ids"])
        if not count or count + wanted > task.length:
            raise InvalidInput(
                f"a prompt has {count} tokens, and {wanted} more are asked for; there are 1 to {task.length}"
            )
    if not options.get("do_sample", False) and set(options) & {"temperature", "top_k", "top_p"}:
        raise InvalidInput("temperature, top_k and top_p only count with do_sample")
    full = options.pop("return_full_text", False)
    seed = options.pop("seed", None)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        found = task.line(
            texts,
            return_full_text=full,
            eos_token_id=stop_tokens(task.words, task.line.model) or None,
            pad_token_id=task.line.tokenizer.pad_token_id,
            **{"do_sample": False, **options},
        )
    return [{"generated_text": one[0]["generated_text"]} for one in found]


def _classify(task: Task, texts: list[str], options: dict[str, Any]) -> list[Any]:
    top = options.pop("top_k", None)
    found = task.line(texts, top_k=top, truncation=True, max_length=task.length, **options)
    return [
        {"labels": [{"label": one["label"], "score": _number(one["score"])} for one in row]} for row in found
    ]


def _fill(task: Task, texts: list[str], options: dict[str, Any]) -> list[Any]:
    mask = task.line.tokenizer.mask_token
    rows = []
    for text in texts:
        if mask not in text:
            raise InvalidInput(f"each text holds {mask} where a word is missing")
        found = task.line(text, tokenizer_kwargs={"truncation": True, "max_length": task.length}, **options)
        masks = found if isinstance(found[0], list) else [found]
        rows.append(
            {
                "masks": [
                    [
                        {
                            "token_id": int(one["token"]),
                            "token": one["token_str"],
                            "score": _number(one["score"]),
                            "sequence": one["sequence"],
                        }
                        for one in candidates
                    ]
                    for candidates in masks
                ]
            }
        )
    return rows


def _extract(task: Task, texts: list[str], options: dict[str, Any]) -> list[Any]:
    pooling = options.pop("pooling", "mean")
    if pooling not in POOLINGS:
        raise InvalidInput(f"pooling: one of {', '.join(POOLINGS)}")
    rows: list[Any] = []
    numbers = 0
    for text in texts:
        found = task.line(
            text, return_tensors=True, tokenize_kwargs={"truncation": True, "max_length": task.length}
        )
        vectors = found[0].float()
        if pooling != "none":
            vectors = vectors.mean(dim=0) if pooling == "mean" else vectors[0]
        numbers += vectors.numel()
        if numbers > MAX_VALUES:
            raise InvalidInput(
                f"more than {MAX_VALUES} numbers in one answer: give fewer texts, or pool them"
            )
        rows.append({"shape": list(vectors.shape), "features": vectors.tolist()})
    return rows


def _number(value: Any) -> float | None:
    """A score; None where a model of broken weights gives NaN."""
    number = float(value)
    return number if math.isfinite(number) else None


_RUN = {
    "text-generation": _generate,
    "text-classification": _classify,
    "fill-mask": _fill,
    "feature-extraction": _extract,
}
