"""transformers with torch in a sandbox: models made on the spot, so that nothing is fetched."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold.bridges.catalogue import Catalogue, check_ready
from bridgehold.bridges.frames import CancelFrame, ReadyFrame

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]
MANIFEST = Catalogue.load().get("transformers")
TEXTS = ["the cat sat on the mat", "the dog sat on the log"]
GPT2 = {
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "vocab_size": 300,
    "bos_token_id": 5,
    "eos_token_id": 6,
}
BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 40,
    "max_position_embeddings": 32,
}


def start(launch: Any, environment: Callable[[str], Path], binds: dict[str, Path] | None = None) -> Any:
    guest = launch(MANIFEST.folder, site_packages=environment("transformers"), binds=binds)
    ready = guest.boot(
        bridge="transformers", version=MANIFEST.version, entry=MANIFEST.entry, preload=MANIFEST.preload
    )
    assert isinstance(ready, ReadyFrame), ready
    check_ready(MANIFEST, ready)
    guest.open()
    return guest


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the module's worker has at these places."""
    return {target: tmp_path_factory.mktemp("place") for target in ("/data/0", "/scratch")}


@pytest.fixture(scope="module")
def shared(launch_once: Any, environment: Callable[[str], Path], folders: dict[str, Path]) -> Any:
    """The module's worker: torch takes its seconds once."""
    return start(launch_once, environment, folders)


@pytest.fixture
def data(folders: dict[str, Path]) -> Iterator[Path]:
    """What the worker sees as /data/0; empty again after the test."""
    yield folders["/data/0"]
    for path in folders["/data/0"].iterdir():
        path.unlink() if path.is_symlink() else shutil.rmtree(path)


@pytest.fixture
def guest(shared: Any) -> Any:
    """The module's worker, without anything of a test's before."""
    shared.drain()
    shared.seen.clear()
    for kind in ("pipeline", "model", "tokenizer", "dataset"):
        for one in run(shared, f"list_{kind}s")[f"{kind}s"]:
            run(shared, f"delete_{kind}", **{f"{kind}_id": one[f"{kind}_id"]})
    for one in run(shared, "list_saved")["saved"]:
        run(shared, "delete_saved", name=one["name"])
    return shared


def run(guest: Any, name: str, /, **args: Any) -> Any:
    MANIFEST.check_arguments(name, args)
    return guest.value(f"transformers:{name}", args)


def refused(guest: Any, name: str, /, **args: Any) -> str:
    MANIFEST.check_arguments(name, args)
    fault = guest.fault(f"transformers:{name}", args)
    assert fault.code == "invalid_input", fault
    return str(fault.message)


def begin(guest: Any, name: str, /, **args: Any) -> int:
    MANIFEST.check_arguments(name, args)
    return int(guest.start(f"transformers:{name}", args))


def causal(guest: Any, model_id: str = "g", seed: int = 1) -> Any:
    if "t" not in [one["tokenizer_id"] for one in run(guest, "list_tokenizers")["tokenizers"]]:
        run(guest, "load_tokenizer", texts=TEXTS, vocabulary=300, id="t")
        run(guest, "create_dataset", records=[{"text": text} for text in TEXTS], id="d")
    return run(guest, "load_model", config=GPT2, seed=seed, id=model_id)


def digest(guest: Any, model_id: str) -> str:
    return str(run(guest, "describe_model", model_id=model_id)["sha256"])


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"model_type": "nothing"}, "model_type"),
        ({}, "model_type"),
        ({**GPT2, "n_embed": 3}, "has no n_embed"),
        ({**GPT2, "n_embd": "wide"}, "expected int"),
        ({**GPT2, "n_embd": 33}, "divisible"),
        ({**GPT2, "n_embd": 100_000, "n_head": 10}, "at most 1073741824"),
        ({**GPT2, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "not taken"),
        ({**GPT2, "trust_remote_code": True}, "not taken"),
        ({**GPT2, "attn_implementation": "someone/kernels"}, "not taken"),
        ({**GPT2, "_attn_implementation": "someone/kernels"}, "not taken"),
    ],
)
def test_configs_that_make_no_sense(shared: Any, config: dict[str, Any], text: str) -> None:
    # First of all: what it takes to refuse them isn't hidden by what others needed.
    peak = shared.value("common:get_stats")["memory_usage"]["peak"]
    assert text in refused(shared, "load_model", config=config)
    assert shared.value("common:get_stats")["memory_usage"]["peak"] < peak + (256 << 20)


def test_a_causal_model_from_nothing_to_what_it_learned(guest: Any) -> None:
    made = causal(guest)
    assert (made["architecture"], made["parameters"], made["bytes"]) == ("GPT2LMHeadModel", 37120, 148480)
    before = run(guest, "evaluate", model_id="g", tokenizer_id="t", dataset_id="d")["loss"]
    call = begin(
        guest,
        "train",
        model_id="g",
        tokenizer_id="t",
        dataset_id="d",
        options={"steps": 60, "learning_rate": 0.01},
    )
    told = guest.reply(call).result
    assert (told["steps"], len(told["losses"]), told["losses"][-1]) == (60, 60, told["loss"])
    assert told["loss"] < 0.5 < told["first_loss"]
    seen = guest.progress(call)
    assert seen[-1].total == 60
    assert seen[-1].note.startswith("loss ")
    judged = run(guest, "evaluate", model_id="g", tokenizer_id="t", dataset_id="d")
    assert judged["loss"] < before
    assert judged["perplexity"] > 1
    run(guest, "create_pipeline", task="text-generation", model_id="g", tokenizer_id="t", id="p")
    options = {"max_new_tokens": 5}
    text = run(guest, "run_pipeline", pipeline_id="p", text="the cat", options=options)["generated_text"]
    assert text.startswith(" sat on the ")
    full = {**options, "return_full_text": True}
    assert (
        run(guest, "run_pipeline", pipeline_id="p", text="the cat", options=full)["generated_text"]
        == "the cat" + text
    )
    call = begin(guest, "generate", model_id="g", tokenizer_id="t", prompt="the cat", options=options)
    done = guest.reply(call).result
    assert done["text"] == text  # token by token the same as transformers' own loop
    chunks = [chunk.data for chunk in guest.chunks(call)]
    assert "".join(chunk["text"] for chunk in chunks) == text
    assert [chunk["token_id"] for chunk in chunks] == done["token_ids"]
    assert (done["prompt_tokens"], done["generated_tokens"], done["finish"]) == (2, 5, "length")
    assert run(guest, "list_models")["models"][0]["trained_steps"] == 60


def test_seeds_decide_weights_training_and_sampling(guest: Any) -> None:
    for model_id, seed in (("a", 1), ("b", 1), ("c", 2)):
        causal(guest, model_id, seed)
    assert digest(guest, "a") == digest(guest, "b") != digest(guest, "c")
    plan = {"tokenizer_id": "t", "dataset_id": "d", "options": {"steps": 4, "batch_size": 1, "seed": 3}}
    for model_id in ("a", "b"):
        run(guest, "train", model_id=model_id, **plan)
    assert digest(guest, "a") == digest(guest, "b")

    def sampled(**options: Any) -> list[int]:
        wanted = {"max_new_tokens": 20, "do_sample": True, **options}
        call = begin(guest, "generate", model_id="c", tokenizer_id="t", prompt="the", options=wanted)
        return list(guest.reply(call).result["token_ids"])

    assert sampled(seed=1) == sampled(seed=1) != sampled(seed=2)
    assert sampled() != sampled()
    greedy = sampled(seed=4, top_k=1)
    assert greedy == sampled(seed=5, top_k=1)
    call = begin(
        guest, "generate", model_id="c", tokenizer_id="t", prompt="the", options={"max_new_tokens": 20}
    )
    assert guest.reply(call).result["token_ids"] == greedy
    run(guest, "create_pipeline", task="text-generation", model_id="c", tokenizer_id="t", id="p")
    options = {"max_new_tokens": 20, "do_sample": True}
    texts = [
        run(guest, "run_pipeline", pipeline_id="p", text="the", options={**options, **more})["generated_text"]
        for more in ({"seed": 1}, {"seed": 1}, {}, {})
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_what_is_cancelled_leaves_the_model_as_it_was(guest: Any) -> None:
    causal(guest)
    before = digest(guest, "g")
    call = begin(guest, "train", model_id="g", tokenizer_id="t", dataset_id="d", options={"steps": 100000})
    guest.take(lambda frame: getattr(frame, "total", 0) == 100000)
    guest.send(CancelFrame(id=call))
    assert guest.reply(call).code == "cancelled"
    assert digest(guest, "g") == before
    big = {**GPT2, "n_embd": 256, "n_layer": 8, "n_positions": 4096, "eos_token_id": None}
    run(guest, "load_model", config=big, id="big")
    call = begin(
        guest, "generate", model_id="big", tokenizer_id="t", prompt="the", options={"max_new_tokens": 4000}
    )
    guest.take(lambda frame: getattr(frame, "seq", -1) == 3)
    guest.send(CancelFrame(id=call))
    assert guest.reply(call).code == "cancelled"
    told = run(
        guest, "train", model_id="g", tokenizer_id="t", dataset_id="d", options={"steps": 2}, id="kept"
    )
    assert told["model_id"] == "kept"
    assert digest(guest, "g") == before != digest(guest, "kept")


def test_every_task(guest: Any) -> None:
    run(guest, "load_tokenizer", texts=TEXTS, kind="words", max_length=32, id="w")
    for model_id, head, more in (
        ("mask", "masked-lm", {}),
        ("class", "sequence-classification", {"labels": ["calm", "angry", "other"]}),
        ("base", "base", {}),
    ):
        run(guest, "load_model", config=BERT, head=head, id=model_id, **more)
    for task, model_id in (
        ("fill-mask", "mask"),
        ("text-classification", "class"),
        ("feature-extraction", "base"),
    ):
        run(guest, "create_pipeline", task=task, model_id=model_id, tokenizer_id="w", id=task)
    found = run(
        guest, "run_pipeline", pipeline_id="fill-mask", text="the [MASK] sat on [MASK]", options={"top_k": 3}
    )
    assert [len(candidates) for candidates in found["masks"]] == [3, 3]
    found = run(
        guest, "run_pipeline", pipeline_id="fill-mask", text="the [MASK]", options={"targets": ["cat", "dog"]}
    )
    assert {one["token"] for one in found["masks"][0]} == {"cat", "dog"}
    found = run(guest, "run_pipeline", pipeline_id="text-classification", text="the cat")
    assert {one["label"] for one in found["labels"]} == {"calm", "angry", "other"}
    assert sum(one["score"] for one in found["labels"]) == pytest.approx(1, abs=1e-5)
    shapes = {
        pooling: run(
            guest,
            "run_pipeline",
            pipeline_id="feature-extraction",
            text="the cat",
            options={"pooling": pooling},
        )["shape"]
        for pooling in ("none", "mean", "first")
    }
    assert shapes == {"none": [4, 32], "mean": [32], "first": [32]}
    call = begin(
        guest,
        "batch",
        pipeline_id="text-classification",
        texts=["the cat"] * 10,
        batch_size=4,
        options={"top_k": 1},
    )
    done = guest.reply(call).result
    assert (done["total_count"], [len(row["labels"]) for row in done["results"]]) == (10, [1] * 10)
    assert guest.progress(call)[-1].total == 10
    assert [task["runs"] for task in run(guest, "list_pipelines")["pipelines"]] == [2, 4, 3]
    for text, args in (
        ("[MASK]", {"pipeline_id": "fill-mask", "text": "no gap"}),
        (
            "has no option",
            {"pipeline_id": "fill-mask", "text": "the [MASK]", "options": {"max_new_tokens": 3}},
        ),
    ):
        assert text in refused(guest, "run_pipeline", **args)
    assert "needs a masked-lm" in refused(
        guest, "create_pipeline", task="fill-mask", model_id="base", tokenizer_id="w"
    )
    assert "use it" in refused(guest, "delete_model", model_id="mask")
    assert "use it" in refused(guest, "delete_tokenizer", tokenizer_id="w")
    for task in ("fill-mask", "text-classification", "feature-extraction"):
        run(guest, "delete_pipeline", pipeline_id=task)
    for model_id in ("mask", "class", "base"):
        run(guest, "delete_model", model_id=model_id)
    run(guest, "delete_tokenizer", tokenizer_id="w")
    stats = guest.value("common:get_stats")
    assert [stats[f"{kind}_count"] for kind in ("models", "pipelines", "tokenizers")] == [0, 0, 0]


def test_a_classifier_and_a_masked_model_learn(guest: Any) -> None:
    run(guest, "load_tokenizer", texts=TEXTS, kind="wordpiece", vocabulary=40, max_length=32, id="w")
    records = [{"text": "the cat", "label": "calm"}, {"text": "the dog", "label": 1}]
    assert run(guest, "create_dataset", records=records, id="d")["fields"] == {
        "text": "str",
        "label": "int|str",
    }
    run(guest, "load_model", config=BERT, head="sequence-classification", labels=["calm", "angry"], id="c")
    options = {"epochs": 30, "learning_rate": 0.01, "warmup_steps": 2, "weight_decay": 0.01}
    assert run(guest, "train", model_id="c", tokenizer_id="w", dataset_id="d", options=options)["loss"] < 0.1
    assert run(guest, "evaluate", model_id="c", tokenizer_id="w", dataset_id="d")["accuracy"] == 1.0
    run(guest, "load_model", config=BERT, head="masked-lm", id="m")
    told = run(
        guest,
        "train",
        model_id="m",
        tokenizer_id="w",
        dataset_id="d",
        options={"steps": 60, "learning_rate": 0.01},
    )
    assert told["loss"] < told["first_loss"]
    run(guest, "create_dataset", records=[{"text": "the", "label": "unheard"}], id="odd")
    assert "none of the classes" in refused(guest, "train", model_id="c", tokenizer_id="w", dataset_id="odd")
    assert "is a text" in refused(
        guest, "train", model_id="m", tokenizer_id="w", dataset_id="d", options={"text_field": "no"}
    )
    run(guest, "load_model", config=BERT, head="base", id="b")
    assert "no head" in refused(guest, "train", model_id="b", tokenizer_id="w", dataset_id="d")
    page = run(guest, "page_dataset", dataset_id="d", offset=1, limit=5)
    assert (page["records"], page["total_rows"], page["next_offset"]) == (records[1:], 2, None)
    assert [one["rows"] for one in run(guest, "list_datasets")["datasets"]] == [2, 1]
    run(guest, "delete_dataset", dataset_id="odd")
    assert run(guest, "list_datasets")["total_count"] == 1


def test_weights_go_to_the_scratch_and_come_back_the_same(guest: Any) -> None:
    causal(guest)
    saved = run(guest, "save_model", model_id="g", tokenizer_id="t", name="mine")
    names = {file["file"] for file in saved["files"]}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".py"))]
    back = run(guest, "load_model", path=saved["path"], id="back")
    assert (back["missing_keys"], back["unexpected_keys"]) == ([], [])
    assert digest(guest, "back") == digest(guest, "g")
    run(guest, "load_tokenizer", path=saved["path"], id="words")
    for text in (*TEXTS, "ä 😀"):
        ids = [run(guest, "encode", tokenizer_id=name, texts=[text])["token_ids"] for name in ("t", "words")]
        assert ids[0] == ids[1]
        assert run(guest, "decode", tokenizer_id="words", token_ids=ids[0])["texts"] == [text]
    half = run(guest, "load_model", path=saved["path"], dtype="bfloat16", id="half")
    assert (half["dtype"], half["bytes"]) == ("bfloat16", back["bytes"] // 2)
    told = run(
        guest, "load_model", path=saved["path"], head="sequence-classification", labels=["a", "b"], id="head"
    )
    assert told["missing_keys"] == ["score.weight"]  # said, not hidden: this part is random
    assert "already" in refused(guest, "save_model", model_id="g", name="mine")
    for name in ("..", "a/b", "x.part"):
        assert "a name of saved weights" in refused(guest, "save_model", model_id="g", name=name)
    assert [one["name"] for one in run(guest, "list_saved")["saved"]] == ["mine"]
    run(guest, "delete_saved", name="mine")
    assert guest.fault("transformers:delete_saved", {"name": "mine"}).code == "not_found"
    assert run(guest, "list_saved")["total_count"] == 0


def test_a_name_without_a_folder_and_a_hub_says_what_to_grant(shared: Any) -> None:
    for name in ("load_model", "load_tokenizer"):
        said = refused(shared, name, name="acme/tiny")
        assert "acme/tiny is in no folder that this session can read, and no hub is granted" in said
        assert "[network.endpoints.hub] repos = ['acme/tiny']" in said
        assert "one of the three" in refused(shared, name, name="acme/tiny", path="/data/0")
    for wrong in ("../tiny", "acme/../tiny", "a/b/c", "/data/0", "acme/tiny "):
        assert "a name is OWNER/NAME" in refused(shared, "load_model", name=wrong)
    assert "a name is OWNER/NAME" in refused(shared, "load_model", name="acme/tiny", revision="../main")


def test_a_name_is_found_in_a_hubs_cache(guest: Any, folders: dict[str, Path], data: Path) -> None:
    commit = "c" * 40
    causal(guest)
    run(guest, "save_model", model_id="g", name="w", tokenizer_id="t")
    repo = data / "models--acme--tiny"
    shutil.copytree(folders["/scratch"] / "saved" / "w", repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    for revision in (None, "main", commit):
        more = {"revision": revision} if revision else {}
        found = run(guest, "load_model", name="acme/tiny", **more)
        assert found["source"] == f"acme/tiny@{commit}"
    assert digest(guest, found["model_id"]) == digest(guest, "g")
    assert run(guest, "load_tokenizer", name="acme/tiny")["source"] == f"acme/tiny@{commit}"
    assert "no hub is granted" in refused(guest, "load_model", name="acme/tiny", revision="v2")


def test_a_device_that_is_not_there_is_refused_by_name(guest: Any) -> None:
    by_name = {one["device"]: one for one in run(guest, "devices")["devices"]}
    assert by_name["cpu"]["available"] is True
    assert by_name["cuda"]["available"] is False
    assert "without CUDA" in by_name["cuda"]["missing"]
    for device in ("cuda", "cuda:0"):
        fault = guest.fault("transformers:load_model", {"config": GPT2, "device": device})
        assert (fault.type, fault.code) == ("InvalidInput", "invalid_input")
        assert "without CUDA, and the sandbox has no /dev/nvidiactl" in fault.message
    assert "only cpu and cuda" in refused(guest, "load_model", config=GPT2, device="xpu")
    causal(guest)
    stats = run(guest, "stats")
    assert stats["bytes_by_device"] == {"cpu": 148480}
    assert stats["resident_bytes"] > 100 << 20


def test_texts_and_tokens_are_bounded(guest: Any) -> None:
    causal(guest)
    run(guest, "create_pipeline", task="text-generation", model_id="g", tokenizer_id="t", id="p")
    long = {"max_new_tokens": 64}
    assert "64" in refused(guest, "run_pipeline", pipeline_id="p", text="the cat", options=long)
    assert "together" in refused(
        guest, "generate", model_id="g", tokenizer_id="t", prompt="the cat", options=long
    )
    assert "characters" in refused(guest, "encode", tokenizer_id="t", texts=["x" * 1_000_001])
    assert "do_sample" in refused(
        guest, "generate", model_id="g", tokenizer_id="t", prompt="a", options={"top_k": 3}
    )
    run(guest, "load_tokenizer", texts=TEXTS, vocabulary=300, id="more")
    run(guest, "load_model", config={**GPT2, "vocab_size": 100}, id="few")
    assert "the model's table 100" in refused(
        guest, "create_pipeline", task="text-generation", model_id="few", tokenizer_id="more"
    )
    assert "is 0" in refused(guest, "decode", tokenizer_id="t", token_ids=[[99999]])
    assert "one of the three" in refused(guest, "load_model")
    assert "one of the three" in refused(guest, "load_tokenizer", path="/data/x", texts=["a"])


def write_model(folder: Path, config: dict[str, Any], table: str = "transformer.wte.weight") -> None:
    """A folder as a stranger would give it: a config, and one tensor as safetensors."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    shape = {table: {"dtype": "F32", "shape": [300, 32], "data_offsets": [0, 300 * 32 * 4]}}
    header = json.dumps(shape).encode()
    (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + struct.pack("<f", 0.5) * (300 * 32)
    )


EVIL = "import pathlib\npathlib.Path('/scratch/ran').mkdir()\nraise SystemExit\n"


PROBE = """
import os, sys
from bridgehold_sdk import operation
before = "huggingface_hub" in sys.modules
from transformers_bridge import TransformersBridge

class Probe(TransformersBridge):
    @operation(effect="read")
    def probe(self):
        import huggingface_hub, transformers
        try:
            transformers.AutoConfig.from_pretrained("someone/model")
            said = ""
        except Exception as error:
            said = str(error)
        return {"before": before, "variable": os.environ["HF_HUB_OFFLINE"], "said": said,
                "offline": huggingface_hub.is_offline_mode()}
"""


def test_the_hub_is_never_asked(
    launch: Any, environment: Callable[[str], Path], bridge_folder: Callable[[str], Path]
) -> None:
    folder = bridge_folder(PROBE)
    for file in MANIFEST.folder.glob("*.py"):
        shutil.copy(file, folder)
    guest = launch(folder, site_packages=environment("transformers"))
    ready = guest.boot(
        bridge="transformers", version=MANIFEST.version, entry="sample:Probe", preload=MANIFEST.preload
    )
    assert isinstance(ready, ReadyFrame), ready
    guest.open()
    found = guest.value("transformers:probe")
    assert found["before"] is True  # as in a zygote: imported before the bridge could set a variable
    assert (found["variable"], found["offline"]) == ("1", True)
    assert "offline" in found["said"].lower(), found["said"]


def test_a_folder_brings_weights_and_never_code(guest: Any, data: Path) -> None:
    code = {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    write_model(data / "plain", {**GPT2, "architectures": ["GPT2LMHeadModel"]})
    write_model(data / "known", {**GPT2, **code})
    write_model(data / "foreign", {**GPT2, **code, "model_type": "evil"})
    for name in ("known", "foreign"):
        (data / name / "evil.py").write_text(EVIL)
    (data / "pickled").mkdir()
    (data / "pickled" / "config.json").write_text(json.dumps(GPT2))
    # What `pickle.loads` would run: os.system of a command.
    (data / "pickled" / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'mkdir /scratch/ran'\ntR.")
    (data / "link").symlink_to("/etc")
    (data / "tokens").mkdir()
    (data / "tokens" / "tokenizer.json").write_text('{"model": {}}')
    loaded = run(guest, "load_model", path="/data/0/plain", id="plain")
    assert "transformer.wte.weight" not in loaded["missing_keys"]
    assert "transformer.ln_f.weight" in loaded["missing_keys"]
    run(guest, "load_model", path="/data/0/known", id="known")  # transformers' own class, not the folder's
    assert "can't be loaded" in refused(guest, "load_model", path="/data/0/foreign")
    assert "no .safetensors" in refused(guest, "load_model", path="/data/0/pickled")
    assert "neither /data" in refused(guest, "load_model", path="/data/0/link")
    assert "neither /data" in refused(guest, "load_model", path="/data/0/../../etc")
    assert "no folder" in refused(guest, "load_model", path="/data/0/absent")
    assert "no tokenizer" in refused(guest, "load_tokenizer", path="/data/0/tokens")
    assert "no tokenizer.json" in refused(guest, "load_tokenizer", path="/data/0/plain")
    (data / "plain" / "model.safetensors").write_bytes(b"\xff" * 64)
    assert "can't be loaded" in refused(guest, "load_model", path="/data/0/plain")
    saved = run(guest, "save_model", model_id="known", name="n")
    assert not [file for file in saved["files"] if file["file"].endswith(".py")]
    assert "is no folder" in refused(guest, "load_model", path="/scratch/ran")  # neither code nor pickle ran
    assert [one["model_id"] for one in run(guest, "list_models")["models"]] == ["plain", "known"]
