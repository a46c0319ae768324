"""A model from a folder, from what the operator had loaded ahead, or made on the spot from a small config.

Nothing that comes with a model is run: no code of its folder, no pickle. Weights are safetensors.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from hf_bounds import check_model_bytes
from hf_places import device_of, model_folder

from bridgehold_sdk import InvalidInput, preloaded

HEADS: dict[str, Any] = {
    "causal-lm": transformers.AutoModelForCausalLM,
    "masked-lm": transformers.AutoModelForMaskedLM,
    "sequence-classification": transformers.AutoModelForSequenceClassification,
    "base": transformers.AutoModel,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
REFUSED_FIELDS = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "custom_pipelines",
        "experts_implementation",
        "quantization_config",
        "trust_remote_code",
        "use_kernels",
    }
)
"""Of a config: what names code, or kernels from elsewhere."""
OFFLINE = {"local_files_only": True, "trust_remote_code": False}


@dataclass(eq=False, repr=False)
class Model:
    """A network with its head."""

    network: Any
    head: str
    source: str
    shared: bool = False
    """Loaded in the process that this session was forked from: other sessions see the same pages."""
    trained_steps: int = 0
    loading: dict[str, list[str]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """What its weights take."""
        return weight_bytes(self.network)

    @property
    def device(self) -> str:
        """Where it is: ``cpu``, ``cuda:0``."""
        return str(self.network.device)


def weight_bytes(network: Any) -> int:
    """Of parameters and buffers; tied ones once."""
    seen = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in seen.values())


def make(
    config: dict[str, Any], head: str, *, dtype: str, device: str, labels: list[str], seed: int, held: int
) -> Model:
    """A model of random weights. Its size is known before any of it is there."""
    target = device_of(device)
    made = _config(config, labels)
    with torch.device("meta"):
        try:
            outline = HEADS[head].from_config(made, dtype=DTYPES[dtype], **_no_code())
        except _FAULTS as error:
            raise InvalidInput(f"config: no {head} model of it: {str(error)[:500]}") from error
    check_model_bytes(weight_bytes(outline), held)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = HEADS[head].from_config(made, dtype=DTYPES[dtype], **_no_code())
    return Model(network.to(target).eval(), head, f"config {made.model_type}, seed {seed}")


def load(path: str, head: str, *, dtype: str, device: str, labels: list[str], held: int) -> Model:
    """A model of a folder, or the operator's own where the same path was loaded ahead and the head fits."""
    target = device_of(device)
    ahead = _preloaded(path, head, dtype)
    if ahead is not None and not labels and target.type == "cpu":
        return Model(ahead, head, path, shared=True)
    folder = model_folder(path)
    check_model_bytes(_weights_on_disk(folder), held)
    extra: dict[str, Any] = {}
    if labels:
        extra = {"num_labels": len(labels), "id2label": dict(enumerate(labels))}
        extra["label2id"] = {label: at for at, label in enumerate(labels)}
    try:
        network, info = HEADS[head].from_pretrained(
            folder,
            use_safetensors=True,
            dtype=DTYPES[dtype],
            output_loading_info=True,
            **OFFLINE,
            **extra,
        )
    except (*_FAULTS, OSError, RuntimeError, ImportError) as error:
        raise InvalidInput(f"{path[:200]!r} can't be loaded as {head}: {str(error)[:500]}") from error
    loading = {key: sorted(map(str, info.get(key, ())))[:100] for key in ("missing_keys", "unexpected_keys")}
    check_model_bytes(weight_bytes(network), held)
    return Model(network.to(target).eval(), head, path, loading=loading)


def describe(model: Model) -> dict[str, Any]:
    """What callers are told of a model."""
    network = model.network
    return {
        "model_type": network.config.model_type,
        "architecture": type(network).__name__,
        "head": model.head,
        "parameters": int(network.num_parameters()),
        "bytes": model.bytes,
        "dtype": str(network.dtype).removeprefix("torch."),
        "device": model.device,
        "source": model.source,
        "shared": model.shared,
        "trained_steps": model.trained_steps,
    }


def digest(network: Any) -> str:
    """sha256 over every tensor's name, dtype, shape and bytes: equal weights, equal digest."""
    total = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        total.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        total.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def context_length(network: Any, most: int) -> int:
    """How many tokens the model takes; at most `most`."""
    for name in ("max_position_embeddings", "n_positions"):
        length = getattr(network.config, name, None)
        if isinstance(length, int) and length > 0:
            return min(length, most)
    return most


def _config(given: dict[str, Any], labels: list[str]) -> Any:
    values = dict(given)
    kind = values.pop("model_type", None)
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        raise InvalidInput(
            "config.model_type: one of transformers' own, such as gpt2, bert, llama, distilbert"
        )
    for name in values:
        if name.startswith("_") or name in REFUSED_FIELDS:
            raise InvalidInput(f"config.{name[:100]}: not taken here")
    if labels:
        values["num_labels"] = len(labels)
        values["id2label"] = dict(enumerate(labels))
        values["label2id"] = {label: at for at, label in enumerate(labels)}
    known = set(transformers.CONFIG_MAPPING[kind]().to_dict()) | set(
        getattr(transformers.CONFIG_MAPPING[kind], "attribute_map", {})
    )
    if unknown := sorted(set(values) - known - {"num_labels"}):
        raise InvalidInput(f"config: {kind} has no {', '.join(unknown)[:300]}")
    try:
        return transformers.AutoConfig.for_model(kind, **values)
    except _FAULTS as error:
        raise InvalidInput(f"config: {str(error)[:500]}") from error


def _preloaded(path: str, head: str, dtype: str) -> Any:
    try:
        ahead = preloaded(path)
    except KeyError:
        return None
    network = ahead[0] if isinstance(ahead, tuple) else None
    if network is None or network.dtype is not DTYPES[dtype]:
        return None
    name = type(network).__name__
    causal = "CausalLM" in name or "LMHead" in name
    fits = {"causal-lm": causal, "base": not causal and name.endswith("Model")}
    return network if fits.get(head) else None


def _weights_on_disk(folder: Path) -> int:
    files = list(folder.glob("*.safetensors"))
    if not files:
        raise InvalidInput(
            f"{str(folder)[:200]!r} holds no .safetensors; other kinds can run code and are not read"
        )
    return sum(file.stat().st_size for file in files)


def _no_code() -> dict[str, bool]:
    return {"trust_remote_code": False}


def _faults() -> tuple[type[Exception], ...]:
    """What configs and files that make no sense raise, transformers' strict checks among it."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    return (
        *(ValueError, TypeError, KeyError, AttributeError),
        *(ZeroDivisionError, AssertionError, IndexError, StrictDataclassError, SafetensorError),
    )


_FAULTS = _faults()
