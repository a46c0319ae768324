"""Weights that an operator gives, loaded once in the zygote and shared by its forks until written.

A bridge gets them by `bridgehold_sdk.preloaded(path)`. Nothing here executes what a file holds: no
pickles, and no code that comes with a model.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, Callable, Dict

from bridgehold_sdk import preload


def load(path: str) -> None:
    """Load a file, or a folder of a transformers model. Raises `ValueError` for a kind that isn't known."""
    if os.path.isdir(path):
        preload.keep(path, _load_transformers(path))
        return
    suffix = os.path.splitext(path)[1]
    loader = _LOADERS.get(suffix)
    if loader is None:
        raise ValueError(f"weights of kind {suffix or 'none'!r}; these are possible: {', '.join(_LOADERS)}")
    preload.keep(path, loader(path))


def _load_transformers(path: str) -> Any:
    """Model and tokenizer; the tokenizer is None where the folder has none."""
    transformers = importlib.import_module("transformers")
    # A bar would leave a thread that looks after bars, and a semaphore that all forks could write.
    bars: Any = importlib.import_module("transformers.utils.logging")
    bars.disable_progress_bar()
    _torch()
    local = {"local_files_only": True, "trust_remote_code": False}
    config = transformers.AutoConfig.from_pretrained(path, **local)
    causal = any("CausalLM" in name or "LMHead" in name for name in config.architectures or ())
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    model = kind.from_pretrained(path, use_safetensors=True, **local).eval()
    has_tokenizer = any(
        os.path.exists(os.path.join(path, name)) for name in ("tokenizer.json", "tokenizer_config.json")
    )
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()  # memory, not a map of a file that may change
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, **local) if has_tokenizer else None
    bars.enable_progress_bar()
    return model, tokenizer


def _torch() -> Any:
    """With one thread: more could not be forked."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    return torch


def _load_safetensors(path: str) -> Any:
    _torch()
    loaded = importlib.import_module("safetensors.torch").load_file(path)
    return {name: tensor.clone() for name, tensor in loaded.items()}  # memory, not a map of the file


def _load_torch(path: str) -> Any:
    return _torch().load(path, weights_only=True, map_location="cpu")


def _load_numpy(path: str) -> Any:
    loaded = importlib.import_module("numpy").load(path, allow_pickle=False)
    return dict(loaded) if hasattr(loaded, "files") else loaded


_LOADERS: Dict[str, Callable[[str], Any]] = {
    ".safetensors": _load_safetensors,
    ".pt": _load_torch,
    ".pth": _load_torch,
    ".npy": _load_numpy,
    ".npz": _load_numpy,
}
