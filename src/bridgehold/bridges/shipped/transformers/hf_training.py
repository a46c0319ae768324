"""A small training loop. It works on a copy: what is cancelled or fails leaves the model as it was."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from hf_bounds import MAX_STEPS, MAX_TOKENS, check_texts
from hf_data import Data
from hf_models import Model, context_length
from hf_tokens import Words, batch, require_fit

from bridgehold_sdk import InvalidInput

IGNORED = -100
"""What transformers leaves out of a loss."""
MASKED_SHARE = 0.15
SHOWN_LOSSES = 200


@dataclass(eq=False, repr=False)
class Plan:
    """What is to be learned, and how."""

    texts: list[str]
    labels: list[int]
    batch_size: int
    learning_rate: float
    steps: int
    length: int
    seed: int
    weight_decay: float
    warmup_steps: int


def plan(model: Model, words: Words, data: Data, options: dict[str, Any]) -> Plan:
    """What a training would do, checked before it begins. Raises `InvalidInput`."""
    if model.head == "base":
        raise InvalidInput("a base model has no head to train; load causal-lm, masked-lm or a classifier")
    require_fit(words, model.network)
    if model.head == "masked-lm" and words.tokenizer.mask_token_id is None:
        raise InvalidInput("this tokenizer has no mask token")
    texts = data.texts(options.get("text_field", "text"))
    check_texts(texts)
    labels: list[int] = []
    if model.head == "sequence-classification":
        config = model.network.config
        known = {str(name): int(number) for name, number in (config.label2id or {}).items()}
        labels = data.labels(options.get("label_field", "label"), known, config.num_labels)
    size = min(options.get("batch_size", 8), len(texts))
    steps = options.get("steps") or options.get("epochs", 1) * math.ceil(len(texts) / size)
    if steps > MAX_STEPS:
        raise InvalidInput(f"{steps} steps; at most {MAX_STEPS}")
    return Plan(
        texts=texts,
        labels=labels,
        batch_size=size,
        learning_rate=options.get("learning_rate", 5e-4),
        steps=steps,
        length=min(options.get("max_length", 128), context_length(model.network, MAX_TOKENS)),
        seed=options.get("seed", 0),
        weight_decay=options.get("weight_decay", 0.0),
        warmup_steps=options.get("warmup_steps", 0),
    )


def train(
    model: Model, words: Words, wanted: Plan, progress: Callable[[int, int, str], None]
) -> tuple[Any, dict[str, Any]]:
    """The trained copy, and how it went. Equal plans give equal weights on one machine."""
    network = copy.deepcopy(model.network).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=wanted.learning_rate, weight_decay=wanted.weight_decay
    )
    losses: list[float] = []
    tokens, begun = 0, time.perf_counter()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(wanted.seed)
        for step, chosen in enumerate(_batches(len(wanted.texts), wanted)):
            made = _example(model.head, words, wanted, chosen)
            rate = wanted.learning_rate * min(1.0, (step + 1) / max(1, wanted.warmup_steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = _outcome(network, made).loss
            number = float(loss.detach())
            if not math.isfinite(number):
                raise InvalidInput(f"the loss is no number at step {step + 1}: take a smaller learning_rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            losses.append(number)
            tokens += int(made["attention_mask"].sum())
            progress(step + 1, wanted.steps, f"loss {number:.4f}")
    seconds = time.perf_counter() - begun
    stride = max(1, math.ceil(len(losses) / SHOWN_LOSSES))
    return network.eval(), {
        "steps": len(losses),
        "loss": losses[-1],
        "first_loss": losses[0],
        "losses": losses[::stride],
        "losses_every": stride,
        "tokens": tokens,
        "seconds": seconds,
    }


def evaluate(
    model: Model, words: Words, wanted: Plan, progress: Callable[[int, int, str], None]
) -> dict[str, Any]:
    """The mean loss over every text, and for a classifier how many it gets right."""
    total, right = 0.0, 0
    counted = 0
    starts = range(0, len(wanted.texts), wanted.batch_size)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(wanted.seed)
        for number, start in enumerate(starts):
            chosen = list(range(start, min(start + wanted.batch_size, len(wanted.texts))))
            made = _example(model.head, words, wanted, chosen)
            out = _outcome(model.network, made)
            total += float(out.loss) * len(chosen)
            counted += len(chosen)
            if wanted.labels:
                right += int((out.logits.argmax(dim=-1).cpu() == made["labels"]).sum())
            progress(number + 1, len(starts), "")
    result: dict[str, Any] = {"loss": total / counted, "texts": counted}
    if wanted.labels:
        result["accuracy"] = right / counted
    elif model.head == "causal-lm":
        result["perplexity"] = math.exp(min(result["loss"], 700.0))
    return result


def _outcome(network: Any, made: dict[str, Any]) -> Any:
    out = network(**{name: part.to(network.device) for name, part in made.items()})
    if out.loss is None:
        raise InvalidInput(f"{type(network).__name__} has no loss of these labels")
    return out


def _batches(count: int, wanted: Plan) -> Iterator[list[int]]:
    """Which texts each step takes: all of them in a new order, again and again."""
    shuffled = random.Random(wanted.seed)  # noqa: S311 - an order, not a secret
    waiting: list[int] = []
    for _ in range(wanted.steps):
        if not waiting:
            waiting = list(range(count))
            shuffled.shuffle(waiting)
        yield waiting[: wanted.batch_size]
        waiting = waiting[wanted.batch_size :]


def _example(head: str, words: Words, wanted: Plan, chosen: list[int]) -> dict[str, Any]:
    made = batch(words, [wanted.texts[at] for at in chosen], wanted.length)
    tensors = {name: made[name] for name in ("input_ids", "attention_mask")}
    if head == "sequence-classification":
        tensors["labels"] = torch.tensor([wanted.labels[at] for at in chosen])
        return tensors
    labels = tensors["input_ids"].clone()
    labels[tensors["attention_mask"] == 0] = IGNORED
    if head == "masked-lm":
        special = torch.isin(tensors["input_ids"], torch.tensor(sorted(words.tokenizer.all_special_ids)))
        free = ~special & (tensors["attention_mask"] == 1)
        masked = (torch.rand(labels.shape) < MASKED_SHARE) & free
        for row in range(len(masked)):  # a text without a masked word would have no loss
            there = free[row].nonzero().flatten()
            if not masked[row].any() and len(there):
                masked[row, there[torch.randint(len(there), (1,))]] = True
        labels[~masked] = IGNORED
        tensors["input_ids"] = tensors["input_ids"].masked_fill(masked, words.tokenizer.mask_token_id)
    tensors["labels"] = labels
    return tensors
