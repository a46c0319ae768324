"""torch and transformers in a real zygote: what each fork draws, its threads, and weights that are shared.

The host never imports either: weights are made in a sandbox, or written as the bytes that their format is.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import bridgehold
from bridgehold.bridges.kit.hub import HubBehaviour
from bridgehold.errors import BridgeholdError
from bridgehold.sandbox.envs.sources import default_sources
from hostile.served import running_hub
from hostile.stage import MANIFEST, Stage, stage

BRIDGE = Path(str(bridgehold.__file__)).parent / "bridges" / "shipped" / "transformers"
KIND = "root" if os.getuid() == 0 else "self"
MODULES = ["numpy", "torch", "safetensors.torch", "transformers"]
TORCH = MANIFEST.replace(
    'entry = "hostile:Hostile"\n',
    'entry = "hostile:Hostile"\nrequirements = "requirements.in"\nlock = "requirements.lock"\n'
    f"[preload]\nmodules = {json.dumps(MODULES)}\n",
)
TORCH += '[[needs.endpoints]]\nprovider = "hub"\n'
ROWS, COLUMNS = 2048, 4096  # of float32: 32 MiB
FILES = ("big.safetensors", "small.pt", "model")
REFUSED = {
    "evil.pt": "weights /data/0/evil.pt failed: UnpicklingError: Weights only load failed",
    "evil": "weights /data/0/evil failed: ValueError:",
}
"""Weights that would run code, and how the zygote ends that is told to load them."""

MAKE = """
import base64, os, tokenizers, torch, transformers
torch.manual_seed(7)
config = transformers.GPT2Config(
    vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=1
)
model = transformers.GPT2LMHeadModel(config).eval()
model.save_pretrained("/scratch/model")
model.save_pretrained("/scratch/shards", max_shard_size="4KB")
words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "a": 2, "b": 3}, unk_token="[UNK]"))
words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained("/scratch/model")
torch.save({"bias": torch.arange(5.0)}, "/scratch/small.pt")
ids = torch.tensor([[2, 3, 4]])
with torch.inference_mode():
    result["logit"] = float(model(ids).logits[0, -1, 0])
result["files"] = {
    name: base64.b64encode(open(os.path.join("/scratch", name), "rb").read()).decode()
    for name in ["small.pt", *(f"{one}/{name}" for one in ("model", "shards") for name in os.listdir(f"/scratch/{one}"))]
}
"""

CLIENT = """
import os, sys
import huggingface_hub
provider = sys._getframe(1).f_locals["self"].provider("hub")
own = {"endpoint": provider.base_url, "token": provider.placeholder}
paths = [
    huggingface_hub.hf_hub_download("acme/tiny", file, **own) for file in ("config.json", "model.safetensors")
]
result["bytes"] = [os.path.getsize(path) for path in paths]
result["commits"] = sorted({os.path.basename(os.path.dirname(path)) for path in paths})
try:
    huggingface_hub.hf_hub_download("acme/pickles", "pytorch_model.bin", **own)
except Exception as error:
    result["refused"] = str(error)
"""

DRAW = """
import os, torch
result["drawn"] = [float(torch.rand(1)), int(torch.Generator().initial_seed()), torch.initial_seed()]
result["default"] = float(torch.rand(1, generator=torch.default_generator))
result["numbers"] = [float(number) for number in torch.randperm(1000)[:8]]
result["threads"] = torch.get_num_threads()
result["before"] = len(os.listdir("/proc/self/task"))
matrix = torch.rand(600, 600)
for _ in range(20):
    matrix = torch.nn.functional.softmax(matrix @ matrix, dim=-1)
result["after"] = len(os.listdir("/proc/self/task"))
result["environment"] = os.popen("echo $OMP_NUM_THREADS").read().strip()
"""

LOOK = """
import torch
from bridgehold_sdk import preloaded

def pages(address):
    found = {}
    for line in open("/proc/self/smaps"):
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            begin, end = (int(part, 16) for part in first.split("-"))
            inside = begin <= address < end
        elif inside:
            name, _, rest = line.partition(":")
            found[name] = rest.split()[0]
    return {name: int(found[name]) for name in ("Rss", "Shared_Dirty", "Shared_Clean", "Private_Dirty")}

table = preloaded("/data/0/big.safetensors")["table"]
result["shape"] = list(table.shape)
result["corners"] = [float(table[0, 0]), float(table[-1, -1])]
result["sum"] = float(table.sum(dtype=torch.float64))
result["pages"] = pages(table.data_ptr() + table.numel() * 2)
result["bias"] = preloaded("/data/0/small.pt")["bias"].tolist()
model, tokenizer = preloaded("/data/0/model")
result["tokens"] = tokenizer("a b c")["input_ids"]
with torch.inference_mode():
    result["logit"] = float(model(torch.tensor([[2, 3, 4]])).logits[0, -1, 0])
result["maps"] = [line.split()[-1] for line in open("/proc/self/maps") if "/data/" in line]
table.fill_(1.0)
result["written"] = float(table.sum(dtype=torch.float64))
result["after"] = pages(table.data_ptr() + table.numel() * 2)
"""


def write_safetensors(path: Path) -> None:
    """A header's length, the header, the numbers: rows of their own number."""
    shape = {"dtype": "F32", "shape": [ROWS, COLUMNS], "data_offsets": [0, ROWS * COLUMNS * 4]}
    header = json.dumps({"table": shape}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for row in range(ROWS):
            file.write(struct.pack("<f", row) * COLUMNS)


def require_wheel() -> None:
    """The lock is of torch's CPU build, which no public index has: a folder or a further index does."""
    sources = default_sources()
    wheels = [wheel for folder in sources.folders for wheel in Path(folder).glob("torch-*+cpu-*.whl")]
    if not wheels and len(sources.indexes) < 2:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no source of torch's CPU build is configured")


@pytest.fixture(scope="module")
def torch_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    require_wheel()
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="bh-weights-", dir="/var/tmp"))
        folder = Path(name)
        folder.chmod(0o755)
        weights = json.dumps([str(folder / file) for file in FILES])
        model = json.dumps([str(folder / "model")])
        evil = [json.dumps([str(folder / file)]) for file in REFUSED]
        config = f"[bridges.hostile3]\nweights = {evil[0]}\n[bridges.hostile4]\nweights = {evil[1]}\n"
        config += f'[bridges.hostile2]\nweights = {weights}\n[bridges.transformers]\npolicy = "own"\nweights = {model}\n'
        hub = stack.enter_context(running_hub(folder / "repos", private=False))
        config += (
            f'[providers.hub]\nshape = "hub"\nauth = "none"\nbase_url = "{hub.base_url}"\nprivate = true\n'
        )
        config += f'hosts = ["{hub.files_host}"]\n'
        with stage(
            KIND, "fork", config, host=f"read_roots = [{json.dumps(name)}]", zygote="2GiB", environments=True
        ) as ready:
            for number in (1, 2, 3, 4):
                made = ready.bridge(manifest=TORCH)
                assert made == f"hostile{number}"
                for file in ("requirements.in", "requirements.lock"):
                    shutil.copy(BRIDGE / file, ready.layout.bridges / made / file)
                policy = ready.layout.policies / f"{made}.toml"
                text = (
                    policy.read_text()
                    .replace("cpu = 1.0", "cpu = 2.0")
                    .replace('memory = "256MiB"', 'memory = "2GiB"')
                    .replace('startup = "20s"', 'startup = "60s"')
                )
                read = f"[filesystem]\nread = [{json.dumps(name)}]\n" if number > 1 else ""
                hubs = '[network.endpoints.hub]\nrepos = ["acme/*"]\n' if number == 1 else ""
                policy.write_text('weakenings = ["private_network"]\n' + text + read + hubs)
            shipped = ready.layout.policies / "own.toml"
            shipped.write_text(
                f'extends = "transformers"\nweakenings = ["private_network"]\n'
                f"[filesystem]\nread = [{json.dumps(name)}]\n"
                '[network.endpoints.hub]\nrepos = ["acme/*"]\nfile_size = "1MiB"\n'
            )
            ready.__dict__["hub"] = hub
            ready.__dict__["weights"] = folder
            yield ready


@pytest.fixture(scope="module")
def logit(torch_stage: Stage) -> float:
    """The weights, in their folder on the host; made in a sandbox. What their model says there."""
    folder: Path = torch_stage.__dict__["weights"]
    with torch_stage.session("hostile1") as session:
        made = session.run("act", {"code": MAKE})
    for place in ("model", "shards"):
        (folder / place).mkdir(mode=0o755)
    for name, data in made["files"].items():
        (folder / name).write_bytes(base64.b64decode(data))
    write_safetensors(folder / "big.safetensors")
    return float(made["logit"])


@pytest.mark.network
@pytest.mark.timeout(400)
def test_forks_of_torch_draw_their_own_and_get_their_threads(torch_stage: Stage) -> None:  # ABUSE 38
    found = []
    for _ in range(3):
        with torch_stage.session("hostile1") as session:
            found.append(session.run("act", {"code": DRAW}))
    for name in ("default", "numbers"):
        assert len({str(one[name]) for one in found}) == 3, name
    assert len({one["drawn"][0] for one in found}) == 3
    assert len({one["drawn"][2] for one in found}) == 3
    for one in found:
        assert one["threads"] == 2
        assert one["environment"] == "2"
        assert one["after"] >= 3  # the interpreter's two, and at least one more of the pool
    assert [event["reason"] for event in torch_stage.events("start.fell_back")] == []
    started = [event for event in torch_stage.events("zygote.started") if event["bridge"] == "hostile1"]
    assert [event["modules"] for event in started] == [MODULES]
    proofs = torch_stage.events("worker.attested")
    assert proofs
    assert all(proof["zygote"] for proof in proofs)


@pytest.mark.network
@pytest.mark.timeout(400)
def test_weights_are_loaded_once_and_shared_until_written(torch_stage: Stage, logit: float) -> None:
    for _ in range(3):
        with torch_stage.session("hostile2") as session:
            assert [event["reason"] for event in torch_stage.events("start.fell_back")] == []
            found = session.run("act", {"code": LOOK})
        assert found["shape"] == [ROWS, COLUMNS]
        assert found["corners"] == [0.0, ROWS - 1]
        assert found["sum"] == COLUMNS * ROWS * (ROWS - 1) / 2  # and not what the fork before has written
        assert found["bias"] == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert found["logit"] == pytest.approx(logit, rel=1e-5)
        assert found["tokens"] == [2, 3, 0]
        size = ROWS * COLUMNS * 4 // 1024
        assert found["pages"]["Shared_Dirty"] + found["pages"]["Shared_Clean"] >= size
        assert found["pages"]["Private_Dirty"] < size // 10
        assert found["maps"] == []  # memory: a file that changes on the host changes no session
        assert found["written"] == ROWS * COLUMNS
        assert found["after"]["Private_Dirty"] >= size
    started = [event for event in torch_stage.events("zygote.started") if event["bridge"] == "hostile2"]
    assert [event["modules"] for event in started] == [
        [*MODULES, *(f"weights /data/0/{name}" for name in FILES)]
    ]
    assert [event["reason"] for event in torch_stage.events("start.fell_back")] == []


@pytest.mark.network
@pytest.mark.timeout(400)
def test_the_shipped_bridge_is_forked_with_the_operators_model(torch_stage: Stage, logit: float) -> None:
    config = {
        "model_type": "gpt2",
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "n_positions": 32,
        "vocab_size": 300,
    }
    digests = []
    for _ in range(2):
        with torch_stage.session("transformers") as session:
            model = session.run("load_model", {"path": "/data/0/model", "id": "m"})
            assert (model["shared"], model["architecture"]) == (True, "GPT2LMHeadModel")
            digests.append(session.run("describe_model", {"model_id": "m"})["sha256"])
            session.run("load_tokenizer", {"texts": ["a b c"], "kind": "words", "vocabulary": 20, "id": "t"})
            session.run("create_dataset", {"records": [{"text": "a b c"}], "id": "d"})
            plan = {"model_id": "m", "tokenizer_id": "t", "dataset_id": "d", "options": {"steps": 3}}
            assert session.run("train", plan)["steps"] == 3
            changed = session.run("describe_model", {"model_id": "m"})
            assert (changed["shared"], changed["sha256"] == digests[0]) == (False, False)
            session.run("load_model", {"config": config, "id": "new"})
            stats = session.run("stats")
            assert (stats["threads"], stats["models_count"], stats["shared_model_bytes"]) == (2, 2, 0)
    assert digests[0] == digests[1]  # what one session trains is its own
    assert [event["reason"] for event in torch_stage.events("start.fell_back")] == []
    started = [event for event in torch_stage.events("zygote.started") if event["bridge"] == "transformers"]
    assert len(started) == 1
    assert started[0]["modules"][-1] == "weights /data/0/model"  # type: ignore[index]  # the audit's fields are plain


@pytest.mark.network
@pytest.mark.timeout(400)
def test_models_come_by_name(torch_stage: Stage, logit: float) -> None:
    folder, hub = torch_stage.__dict__["weights"], torch_stage.__dict__["hub"]
    for repo, source in (("acme/tiny", "model"), ("acme/shards", "shards"), ("other/tiny", "model")):
        shutil.copytree(folder / source, folder / "repos" / repo)
    shutil.copytree(folder / "model", folder / "acme" / "given")
    pickles = folder / "repos" / "acme" / "pickles"
    pickles.mkdir()
    (pickles / "config.json").write_text("{}")
    (pickles / "pytorch_model.bin").write_bytes(b"\x80\x02cposix\nsystem\n(X\x07\x00\x00\x00sleep 9tR.")
    with torch_stage.session("transformers") as session:
        session.run("load_model", {"path": "/data/0/model", "id": "own"})
        given = session.run("load_model", {"name": "acme/given", "id": "given"})
        assert (given["source"], len(hub.log)) == ("/data/0/acme/given", 0)  # the operator's own comes first
        tiny = session.run("load_model", {"name": "acme/tiny", "id": "tiny"})
        assert tiny["source"] == f"acme/tiny@{hub.commit('acme/tiny')}"
        session.run("load_model", {"name": "acme/shards", "revision": "main", "id": "shards"})
        session.run("load_tokenizer", {"name": "acme/tiny", "id": "words"})
        assert session.run("encode", {"tokenizer_id": "words", "texts": ["a b"]})["token_ids"] == [[2, 3]]
        same = {
            session.run("describe_model", {"model_id": one})["sha256"]
            for one in ("own", "given", "tiny", "shards")
        }
        assert len(same) == 1
        files = [one.path.rpartition("/")[2] for one in hub.log if one.at == "files"]
        assert len([file for file in files if file.startswith("model-0")]) >= 2
        refusals = {
            "acme/pickles": "no config.json with model.safetensors that may be fetched",
            "other/tiny": "other/tiny@main is none of the granted repos: acme/*",
            "acme/none": "hub knows no acme/none@main",
            "../tiny": "a name is OWNER/NAME",
        }
        for name, expected in refusals.items():
            with pytest.raises(BridgeholdError) as caught:
                session.run("load_model", {"name": name})
            assert caught.value.code == "usage", name
            assert expected in caught.value.message
        (folder / "repos" / "acme" / "tiny" / "model.safetensors").write_bytes(b"\xff" * 100)
        with pytest.raises(BridgeholdError, match="can't be loaded as causal-lm"):
            session.run("load_model", {"name": "acme/tiny", "refresh": True})
        hub.behave(HubBehaviour(status=403))
        with pytest.raises(BridgeholdError, match="hub gives no"):
            session.run("load_model", {"name": "acme/tiny", "refresh": True})
    with torch_stage.session("transformers") as session:  # what was fetched once needs no hub
        asked = len(hub.log)
        session.run("load_model", {"name": "acme/shards", "id": "again"})
        assert {session.run("describe_model", {"model_id": "again"})["sha256"]} == same
        assert len(hub.log) == asked
    hub.behave(HubBehaviour())
    with torch_stage.session("hostile1") as session:  # the hub's own client finds its paths at the gateway
        found = session.run("act", {"code": CLIENT})
    repo = folder / "repos" / "acme" / "tiny"
    assert found["bytes"] == [(repo / file).stat().st_size for file in ("config.json", "model.safetensors")]
    assert found["commits"] == [hub.commit("acme/tiny")]
    assert found["refused"]
    assert torch_stage.events("egress.refused")[-1]["rule"] == "hub.kind"
    assert all("pytorch_model" not in one.path for one in hub.log)


@pytest.mark.network
@pytest.mark.timeout(400)
def test_weights_that_would_run_code_are_not_loaded(torch_stage: Stage) -> None:
    folder: Path = torch_stage.__dict__["weights"]
    # What `pickle.loads` would run: posix.system of a command, which leaves a process behind.
    (folder / "evil.pt").write_bytes(b"\x80\x02cposix\nsystem\n(X\x07\x00\x00\x00sleep 9tR.")
    (folder / "evil").mkdir()
    code = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoModelForCausalLM": "evil.Model"}
    (folder / "evil" / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": code}))
    (folder / "evil" / "evil.py").write_text("raise RuntimeError('the folder has run')\n")
    write_safetensors(folder / "evil" / "model.safetensors")
    before = len(torch_stage.events("start.fell_back"))
    for bridge in ("hostile3", "hostile4"):
        with torch_stage.session(bridge) as session:  # cold: the session itself is none the worse
            assert session.run("act", {"code": "result['there'] = 1"}) == {"there": 1}
    told = [str(event["reason"]) for event in torch_stage.events("start.fell_back")[before:]]
    assert len(told) == len(REFUSED)
    for reason, expected in zip(told, REFUSED.values(), strict=True):
        assert reason.startswith(expected)
