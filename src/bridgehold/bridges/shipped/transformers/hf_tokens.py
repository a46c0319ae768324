"""Tokenizers: from a folder, or trained on the spot on given texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers
from hf_bounds import check_texts
from hf_models import OFFLINE
from hf_places import model_folder
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from bridgehold_sdk import InvalidInput, preloaded

SPECIAL = {
    "unk_token": "[UNK]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "bos_token": "[BOS]",
    "eos_token": "[EOS]",
}


@dataclass(eq=False, repr=False)
class Words:
    """A tokenizer and where it came from."""

    tokenizer: Any
    source: str


def load(path: str) -> Words:
    """A tokenizer from a folder, or the preloaded one. Raises `InvalidInput`."""
    try:
        ahead = preloaded(path)
    except KeyError:
        ahead = None
    if isinstance(ahead, tuple) and ahead[1] is not None:
        return Words(ahead[1], path)
    folder = model_folder(path)
    if not (folder / "tokenizer.json").is_file():
        raise InvalidInput(f"{path[:200]!r} holds no tokenizer.json")
    try:
        return Words(transformers.AutoTokenizer.from_pretrained(folder, **OFFLINE), path)
    except Exception as error:  # the parser of tokenizer.json raises plain Exceptions
        raise InvalidInput(f"{path[:200]!r} holds no tokenizer: {str(error)[:500]}") from error


def train(texts: list[str], *, kind: str, vocabulary: int, length: int, lowercase: bool) -> Words:
    """Of `kind` bpe (bytes, nothing is unknown), wordpiece or words. Deterministic."""
    check_texts(texts)
    special = list(SPECIAL.values())
    if kind == "bpe":
        made = Tokenizer(models.BPE(unk_token=SPECIAL["unk_token"]))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    elif kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk_token"]))
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocabulary, special_tokens=special, show_progress=False
        )
    else:
        made = Tokenizer(models.WordLevel(unk_token=SPECIAL["unk_token"]))
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocabulary, special_tokens=special, show_progress=False
        )
    if lowercase:
        made.normalizer = normalizers.Lowercase()
    made.train_from_iterator(texts, trainer=trainer)
    if kind != "bpe":
        ends = [(SPECIAL[name], made.token_to_id(SPECIAL[name])) for name in ("cls_token", "sep_token")]
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
        )
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=length, clean_up_tokenization_spaces=False, **SPECIAL
    )
    return Words(wrapped, f"trained {kind} on {len(texts)} texts")


def describe(words: Words) -> dict[str, Any]:
    """What callers are told of a tokenizer."""
    return {
        "vocabulary": len(words.tokenizer),
        "special": {
            name: value
            for name, value in words.tokenizer.special_tokens_map.items()
            if isinstance(value, str)
        },
        "source": words.source,
    }


def batch(words: Words, texts: list[str], length: int) -> Any:
    """Tensors of texts, cut at `length` tokens and padded to the longest."""
    tokenizer = words.tokenizer
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise InvalidInput(
                "this tokenizer has neither a padding nor an end token; texts can't be batched"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=length)


def stop_tokens(words: Words, network: Any) -> list[int]:
    """What ends a text: the tokenizer's word for it, and the model's own where its table has them."""
    own = getattr(getattr(network, "generation_config", None), "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    known = {number for number in listed if isinstance(number, int) and number < len(words.tokenizer)}
    if words.tokenizer.eos_token_id is not None:
        known.add(int(words.tokenizer.eos_token_id))
    return sorted(known)


def require_fit(words: Words, network: Any) -> None:
    """A token beyond the model's table would be an index error deep inside."""
    table = network.get_input_embeddings().weight.shape[0]
    if len(words.tokenizer) > table:
        raise InvalidInput(f"the tokenizer has {len(words.tokenizer)} tokens, the model's table {table}")
