"""transformers with torch: models, tokenizers, pipelines, streams, training. No foreign code.

Models come from folders that the policy gives, from a hub that it grants, from what the operator had
loaded ahead, or are made on the spot; weights are safetensors, never pickle.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import hf_data
import hf_generate
import hf_models
import hf_names
import hf_places
import hf_saved
import hf_tasks
import hf_tokens
import hf_training
import huggingface_hub
import tokenizers
import torch
import transformers
from hf_bounds import MAX_KEPT, check_model_bytes, check_texts
from hf_datasets import Datasets

from bridgehold_sdk import Bridge, InvalidInput, Session, Store, operation

huggingface_hub.constants.HF_HUB_OFFLINE = True  # it may have been imported before the variable was set
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


class TransformersBridge(Datasets, Bridge):
    """Models, tokenizers, pipelines and training; each operation is described in bridge.toml."""

    name = "transformers"
    version = "0.1.0"

    def open(self, session: Session) -> None:
        """The session begins: its stores are empty."""
        self.models: Store[hf_models.Model] = Store("model", capacity=MAX_KEPT)
        self.tokenizers: Store[hf_tokens.Words] = Store("tokenizer", capacity=MAX_KEPT)
        self.pipelines: Store[hf_tasks.Task] = Store("pipeline", capacity=MAX_KEPT)
        self.datasets: Store[hf_data.Data] = Store("dataset", capacity=MAX_KEPT)

    def framework(self) -> dict[str, Any]:
        """The name and version of what it wraps, and what it can do."""
        return {
            "name": "transformers",
            "version": transformers.__version__,
            "torch": str(torch.__version__),
            "tokenizers": tokenizers.__version__,
            "capabilities": ["models", "tokenizers", "pipelines", "streaming", "training"],
        }

    def stats(self) -> dict[str, Any]:
        """Numbers of its own for `common:get_stats`."""
        return {
            "models_count": len(self.models),
            "tokenizers_count": len(self.tokenizers),
            "pipelines_count": len(self.pipelines),
            "datasets_count": len(self.datasets),
            "model_bytes": self._held(),
            "shared_model_bytes": sum(model.bytes for _, model in self.models.items() if model.shared),
            "saved": hf_saved.names(),
        }

    @operation(effect="read")
    def devices(self) -> dict[str, Any]:
        """What models can run on, and what is missing for the rest."""
        return {"devices": hf_places.devices(), "torch": str(torch.__version__)}

    @operation(name="stats", effect="read")
    def memory(self) -> dict[str, Any]:
        """Numbers of its own, and the bytes that models hold on each device."""
        by_device: dict[str, int] = {}
        for model in map(self.models.get, self.models):
            by_device[model.device] = by_device.get(model.device, 0) + model.bytes
        return {
            **self.stats(),
            "bytes_by_device": by_device,
            "resident_bytes": hf_places.resident_bytes(),
            "threads": torch.get_num_threads(),
        }

    # Models.

    @operation(effect="create", resource="model", id_field="id")
    def load_model(
        self,
        *,
        name: str | None = None,
        revision: str | None = None,
        refresh: bool = False,
        path: str | None = None,
        config: dict[str, Any] | None = None,
        head: str = "causal-lm",
        labels: list[str] | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        seed: int = 0,
        id: str | None = None,
    ) -> dict[str, Any]:
        """A model by its name, of a folder that is granted, or with random weights by a small config."""
        if [name, path, config].count(None) != 2:
            raise InvalidInput(
                "a model has a name, comes from a path or is made of a config: one of the three"
            )
        if labels and head != "sequence-classification":
            raise InvalidInput("labels are a sequence-classification model's")
        known: Any = {"dtype": dtype, "device": device, "labels": labels or [], "held": self._held()}
        if name is not None:
            with hf_names.named(self, name, revision, refresh=refresh, held=self._held()) as place:
                model = hf_models.load(place.folder, head, **known)
            model.source = place.source
        elif path is not None:
            model = hf_models.load(path, head, **known)
        else:
            model = hf_models.make(config or {}, head, seed=seed, **known)
        return {"model_id": self.models.add(model, id), **hf_models.describe(model), **model.loading}

    @operation(effect="read", resource="model", id_field="model_id")
    def describe_model(self, model_id: str) -> dict[str, Any]:
        """A model's facts, tensors, and a digest of its weights."""
        model = self.models.get(model_id)
        network = model.network
        tensors = [
            {"name": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
            for name, tensor in list(network.named_parameters())[:500]
        ]
        return {
            "model_id": model_id,
            **hf_models.describe(model),
            "sha256": hf_models.digest(network),
            "labels": list(network.config.id2label.values()) if model.head.startswith("sequence") else [],
            "tensors": tensors,
            "tensors_count": len(list(network.parameters())),
        }

    @operation(effect="read", resource="model")
    def list_models(self) -> dict[str, Any]:
        """The session's models."""
        listed = [
            {"model_id": model_id, **hf_models.describe(model)} for model_id, model in self.models.items()
        ]
        return {"models": listed, "total_count": len(listed)}

    @operation(effect="delete", resource="model", id_field="model_id")
    def delete_model(self, model_id: str) -> dict[str, Any]:
        """Forget a model."""
        self.models.get(model_id)
        if using := [name for name, task in self.pipelines.items() if task.model_id == model_id]:
            raise InvalidInput(f"the pipelines {', '.join(using)[:300]} use it; delete them first")
        self.models.delete(model_id)
        return {"model_id": model_id, "status": "deleted"}

    # Tokenizers.

    @operation(effect="create", resource="tokenizer", id_field="id")
    def load_tokenizer(
        self,
        *,
        name: str | None = None,
        revision: str | None = None,
        refresh: bool = False,
        path: str | None = None,
        texts: list[str] | None = None,
        kind: str = "bpe",
        vocabulary: int = 1000,
        max_length: int = 512,
        lowercase: bool = False,
        id: str | None = None,
    ) -> dict[str, Any]:
        """A tokenizer by its name, of a folder, or trained on given texts."""
        if [name, path, texts].count(None) != 2:
            raise InvalidInput(
                "a tokenizer has a name, comes from a path or is trained on texts: one of the three"
            )
        if name is not None:
            with hf_names.named(self, name, revision, refresh=refresh, words=True) as place:
                words = hf_tokens.load(place.folder)
            words.source = place.source
        elif path is not None:
            words = hf_tokens.load(path)
        else:
            words = hf_tokens.train(
                texts or [], kind=kind, vocabulary=vocabulary, length=max_length, lowercase=lowercase
            )
        return {"tokenizer_id": self.tokenizers.add(words, id), **hf_tokens.describe(words)}

    @operation(effect="read", resource="tokenizer", id_field="tokenizer_id")
    def encode(self, tokenizer_id: str, texts: list[str], special: bool = True) -> dict[str, Any]:
        """Texts to tokens."""
        tokenizer = self.tokenizers.get(tokenizer_id).tokenizer
        check_texts(texts)
        found = [tokenizer(text, add_special_tokens=special)["input_ids"] for text in texts]
        tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in found]
        return {"tokenizer_id": tokenizer_id, "token_ids": found, "tokens": tokens}

    @operation(effect="read", resource="tokenizer", id_field="tokenizer_id")
    def decode(self, tokenizer_id: str, token_ids: list[list[int]], special: bool = False) -> dict[str, Any]:
        """Tokens to texts."""
        tokenizer = self.tokenizers.get(tokenizer_id).tokenizer
        if any(number >= len(tokenizer) for row in token_ids for number in row):
            raise InvalidInput(f"a token of {tokenizer_id} is 0 … {len(tokenizer) - 1}")
        texts = [tokenizer.decode(row, skip_special_tokens=not special) for row in token_ids]
        return {"tokenizer_id": tokenizer_id, "texts": texts}

    @operation(effect="read", resource="tokenizer")
    def list_tokenizers(self) -> dict[str, Any]:
        """The session's tokenizers."""
        listed = [
            {"tokenizer_id": name, **hf_tokens.describe(words)} for name, words in self.tokenizers.items()
        ]
        return {"tokenizers": listed, "total_count": len(listed)}

    @operation(effect="delete", resource="tokenizer", id_field="tokenizer_id")
    def delete_tokenizer(self, tokenizer_id: str) -> dict[str, Any]:
        """Forget a tokenizer."""
        self.tokenizers.get(tokenizer_id)
        if using := [name for name, task in self.pipelines.items() if task.tokenizer_id == tokenizer_id]:
            raise InvalidInput(f"the pipelines {', '.join(using)[:300]} use it; delete them first")
        self.tokenizers.delete(tokenizer_id)
        return {"tokenizer_id": tokenizer_id, "status": "deleted"}

    # Running.

    @operation(effect="create", resource="pipeline", id_field="id")
    def create_pipeline(
        self, task: str, model_id: str, tokenizer_id: str, id: str | None = None
    ) -> dict[str, Any]:
        """A task over a model and a tokenizer."""
        model, words = self.models.get(model_id), self.tokenizers.get(tokenizer_id)
        made = hf_tasks.create(task, model_id, model, tokenizer_id, words)
        return {"pipeline_id": self.pipelines.add(made, id), "task": task, "model_id": model_id}

    @operation(effect="run", resource="pipeline", id_field="pipeline_id")
    def run_pipeline(
        self, pipeline_id: str, text: str, options: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run a pipeline on one text."""
        task = self.pipelines.get(pipeline_id)
        return {"pipeline_id": pipeline_id, **hf_tasks.run(task, [text], options or {})[0]}

    @operation(effect="run", resource="pipeline", id_field="pipeline_id")
    def batch(
        self, pipeline_id: str, texts: list[str], options: dict[str, Any] | None = None, batch_size: int = 8
    ) -> dict[str, Any]:
        """Run a pipeline on many texts, with progress."""
        task = self.pipelines.get(pipeline_id)
        check_texts(texts)
        results: list[Any] = []
        for start in range(0, len(texts), batch_size):
            results += hf_tasks.run(task, texts[start : start + batch_size], options or {})
            self.progress(len(results), len(texts))
        return {"pipeline_id": pipeline_id, "results": results, "total_count": len(results)}

    @operation(effect="read", resource="pipeline")
    def list_pipelines(self) -> dict[str, Any]:
        """The session's pipelines."""
        listed = [
            {
                "pipeline_id": name,
                "task": task.task,
                "model_id": task.model_id,
                "tokenizer_id": task.tokenizer_id,
                "runs": task.runs,
            }
            for name, task in self.pipelines.items()
        ]
        return {"pipelines": listed, "total_count": len(listed)}

    @operation(effect="delete", resource="pipeline", id_field="pipeline_id")
    def delete_pipeline(self, pipeline_id: str) -> dict[str, Any]:
        """Forget a pipeline."""
        self.pipelines.delete(pipeline_id)
        return {"pipeline_id": pipeline_id, "status": "deleted"}

    @operation(effect="run", resource="model", id_field="model_id", stream=True)
    def generate(
        self, model_id: str, tokenizer_id: str, prompt: str, options: dict[str, Any] | None = None
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        """Text token by token: one chunk for each, the whole as the result."""
        model, words = self.models.get(model_id), self.tokenizers.get(tokenizer_id)
        wanted = dict(options or {})
        made = hf_generate.stream(model, words, prompt, wanted)
        return (yield from self._counted(made, wanted.get("max_new_tokens", 50)))

    # Training.

    @operation(effect="run", resource="model", id_field="model_id")
    def train(
        self,
        model_id: str,
        tokenizer_id: str,
        dataset_id: str,
        options: dict[str, Any] | None = None,
        id: str | None = None,
    ) -> dict[str, Any]:
        """Train a model on a data set, with progress for each step; a cancel leaves it as it was."""
        model, words = self.models.get(model_id), self.tokenizers.get(tokenizer_id)
        wanted = hf_training.plan(model, words, self.datasets.get(dataset_id), options or {})
        check_model_bytes(model.bytes, self._held())
        if id is not None and id in self.models:
            raise InvalidInput(f"there is a model with id {id!r} already")
        network, told = hf_training.train(model, words, wanted, self.progress)
        steps = model.trained_steps + told["steps"]
        trained = hf_models.Model(network, model.head, model.source, trained_steps=steps)
        if id is None:
            self._replace(model_id, model, trained)
        else:
            self.models.add(trained, id)
        return {"model_id": id or model_id, **told}

    @operation(effect="read", resource="model", id_field="model_id")
    def evaluate(
        self, model_id: str, tokenizer_id: str, dataset_id: str, options: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The loss over a data set; accuracy for a classifier, perplexity for a causal model."""
        model, words = self.models.get(model_id), self.tokenizers.get(tokenizer_id)
        wanted = hf_training.plan(model, words, self.datasets.get(dataset_id), options or {})
        return {"model_id": model_id, **hf_training.evaluate(model, words, wanted, self.progress)}

    # Weights in the scratch.

    @operation(effect="create", resource="weights", id_field="name")
    def save_model(self, model_id: str, name: str, tokenizer_id: str | None = None) -> dict[str, Any]:
        """Write a model's weights as safetensors into the session's scratch."""
        words = self.tokenizers.get(tokenizer_id) if tokenizer_id is not None else None
        return {"model_id": model_id, **hf_saved.save(name, self.models.get(model_id), words)}

    @operation(effect="read", resource="weights")
    def list_saved(self) -> dict[str, Any]:
        """Saved weights, with files and digests."""
        listed = [hf_saved.describe(name) for name in hf_saved.names()]
        return {"saved": listed, "total_count": len(listed)}

    @operation(effect="delete", resource="weights", id_field="name")
    def delete_saved(self, name: str) -> dict[str, Any]:
        """Remove saved weights."""
        hf_saved.delete(name)
        return {"name": name, "status": "deleted"}

    def _held(self) -> int:
        return sum(model.bytes for _, model in self.models.items())

    def _replace(self, model_id: str, model: hf_models.Model, trained: hf_models.Model) -> None:
        """The id stays, and so do its pipelines: they run the trained network from now on."""
        model.network, model.shared, model.trained_steps = trained.network, False, trained.trained_steps
        for task in map(self.pipelines.get, self.pipelines):
            if task.model_id == model_id:
                task.line.model = trained.network

    def _counted(
        self, made: Generator[dict[str, Any], None, dict[str, Any]], total: int
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        """`made`, with progress for each of its chunks."""
        number = 0
        while True:
            try:
                chunk = next(made)
            except StopIteration as end:
                return dict(end.value)
            yield {"index": number, **chunk}
            number += 1
            self.progress(min(number, total), total)
