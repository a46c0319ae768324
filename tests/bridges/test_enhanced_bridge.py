"""Dynamic calls in a sandbox: targets, references, pipelines, what is shown of a value, the older commands."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridgehold.bridges.catalogue import Catalogue, check_ready
from bridgehold.bridges.frames import ProviderBinding, ReadyFrame
from bridgehold.policies import shipped
from bridgehold.policies.compose import compose

MANIFEST = Catalogue.load().get("enhanced")


def test_nothing_of_it_is_granted_unless_an_operator_says_so() -> None:
    policy = compose("enhanced", shipped.read)
    assert policy.operations.allow == ()


@pytest.fixture
def plain(launch: Any) -> Any:
    """Without an environment: the standard library is target enough."""
    return _ready(launch(MANIFEST.folder), preload=())


def _ready(guest: Any, **boot: Any) -> Any:
    ready = guest.boot(bridge="enhanced", version=MANIFEST.version, entry=MANIFEST.entry, **boot)
    assert isinstance(ready, ReadyFrame), ready
    check_ready(MANIFEST, ready)
    guest.open()
    return guest


def run(guest: Any, name: str, /, **args: Any) -> Any:
    MANIFEST.check_arguments(name, args)
    return guest.value(f"enhanced:{name}", args)


def test_a_target_is_called_read_and_stored(plain: Any) -> None:
    assert run(plain, "call", target="math.sqrt", args=[16]) == {
        "status": "ok",
        "target": "math.sqrt",
        "result": {"type": "float", "value": 4.0},
    }
    assert run(plain, "call", target="math.pi")["result"]["value"] == math.pi
    assert run(plain, "call", target="sorted", args=[[3, 1, 2]])["result"]["value"] == [1, 2, 3]
    said = run(plain, "call", target="fractions.Fraction", args=[1, 3], store_as="third", debug=True)
    assert said["stored_as"] == "third"
    assert said["result"]["type"] == "fractions.Fraction"
    assert said["result"]["attributes"]["denominator"] == 3
    assert said["debug"]["resolved"] == "fractions.Fraction"
    assert run(plain, "call", target="stored.third.limit_denominator", args=[2])["result"]["text"]
    assert run(plain, "call", target="stored.third.numerator")["result"]["value"] == 1


def test_references_are_filled_in_at_any_depth_and_a_literal_is_not(plain: Any) -> None:
    run(plain, "store", id="x", value={"deep": [10, {"er": 20}]})
    run(plain, "store", id="y", value=["stored.x.deep[0]", {"z": "stored.x.deep[1].er"}])
    found = run(plain, "retrieve", id="y")
    assert found["result"]["value"] == [10, {"z": 20}]
    said = run(plain, "call", target="json.dumps", args=[[{"$literal": "stored.x"}, "stored.x.deep[0]"]])
    assert said["result"]["value"] == '["stored.x", 10]'
    said = run(plain, "call", target="dict", kwargs={"a": "stored.x.deep"})
    assert said["result"]["value"] == {"a": [10, {"er": 20}]}


def test_a_pipeline_hands_on_what_each_step_gave(plain: Any) -> None:
    steps = [
        {"target": "math.factorial", "args": [5]},
        {"target": "math.sqrt", "args": ["stored.previous"], "store_as": "root"},
        {"target": "round", "args": ["stored.previous", 2]},
    ]
    results = run(plain, "pipeline", steps=steps)["pipeline_results"]
    assert [said["result"]["value"] for said in results] == [120, pytest.approx(10.954, 1e-3), 10.95]
    assert [said.get("stored_as") for said in results] == [None, "root", None]
    fault = plain.fault(
        "enhanced:pipeline", {"steps": [steps[0], {"target": "math.sqrt", "args": [-1]}, steps[0]]}
    )
    assert fault.message.startswith("step 1 (math.sqrt)")


def test_what_is_cut_is_said_and_the_rest_can_be_had(plain: Any) -> None:
    run(plain, "call", target="range", args=[5])
    said = run(plain, "call", target="list", args=[list(range(25))], store_as="many")["result"]
    assert said["value"] == list(range(10))
    assert said["truncated"] == [{"path": "", "unit": "items", "from": 0, "shown": 10, "of": 25}]
    assert "retrieve {id: 'many'" in said["rest"]
    rest = run(plain, "retrieve", id="many", offset=10, limit=100)["result"]
    assert rest["value"] == list(range(10, 25))
    said = run(plain, "call", target="str.upper", args=["a" * 2_000], store_as="long")["result"]
    assert (len(said["value"]), said["truncated"][0]["of"]) == (500, 2_000)
    rest = run(plain, "retrieve", id="long", offset=500)["result"]
    assert len(rest["value"]) == 1_500
    run(plain, "store", id="nested", value={"rows": [{"text": "b" * 600}]})
    shown = run(plain, "call", target="stored.nested")["result"]
    assert shown["truncated"][0] == {
        "path": ".rows[0].text",
        "unit": "characters",
        "from": 0,
        "shown": 500,
        "of": 600,
    }
    whole = run(plain, "retrieve", id="nested", path=".rows[0].text")["result"]
    assert whole == {"type": "str", "value": "b" * 600}


@pytest.mark.parametrize(
    "value", ["float('nan')", "10 ** 30", "b'\\xff'", "object()", "{1: {2}}", "'\\ud800'"]
)
def test_any_value_at_all_is_shown(plain: Any, value: str) -> None:
    said = run(plain, "call", target="eval", args=[value], store_as="odd")
    assert said["result"]["type"]
    assert run(plain, "retrieve", id="odd")["result"]["type"] == said["result"]["type"]


def test_a_property_and_a_repr_that_raise_are_shown_as_that(plain: Any) -> None:
    code = (
        "class Bad:\n    def __repr__(self): raise OSError\n"
        "    @property\n    def broken(self): raise KeyError('x')\n"
        "bad = Bad()"
    )
    run(plain, "store", id="names", value={})
    run(plain, "call", target="exec", args=[code, "stored.names"])
    said = run(plain, "call", target="stored.names.get", args=["bad"])["result"]
    assert "repr raised OSError" in said["text"]
    assert said["attributes"]["broken"] == "<KeyError>"


def test_inspect_says_what_a_target_is(plain: Any) -> None:
    said = run(plain, "inspect", target="json.dumps")
    assert (said["kind"], said["signature"].startswith("(obj")) == ("callable", True)
    said = run(plain, "inspect", target="json", limit=2)
    assert (said["kind"], len(said["attributes"])) == ("module", 2)
    assert said["attribute_count"] > 2


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        ({"target": "os.__dict__"}, "invalid_input", "public"),
        ({"target": "1+1"}, "invalid_input", "dotted"),
        ({"target": "json.nothing"}, "invalid_input", "no 'nothing'"),
        ({"target": "nowhere.at_all"}, "missing_module", "nowhere"),
        ({"target": "stored.nothing"}, "not_found", "nothing"),
        ({"target": "math.pi", "args": [1]}, "invalid_input", "can't be called"),
        ({"target": "print", "store_as": "a.b"}, "invalid_input", "no name"),
        ({"target": "math.sqrt", "args": ["stored.gone"]}, "not_found", "gone"),
        ({"target": "math.sqrt", "args": [-1]}, "application", "math domain error"),
    ],
)
def test_what_makes_no_sense_is_a_typed_error(plain: Any, args: dict[str, Any], code: str, text: str) -> None:
    fault = plain.fault("enhanced:call", args)
    assert (fault.code, text in fault.message) == (code, True), fault


def test_stored_values_are_listed_replaced_and_deleted(plain: Any) -> None:
    run(plain, "store", id="a", value=1)
    run(plain, "store", id="a", value=[2])
    assert run(plain, "list_stored") == {"status": "ok", "stored": [{"id": "a", "type": "list"}], "count": 1}
    assert run(plain, "delete_stored", id="a")["deleted"] is True
    assert plain.fault("enhanced:retrieve", {"id": "a"}).code == "not_found"


@pytest.mark.network
def test_dspy_by_dynamic_calls_and_by_the_older_commands(
    launch: Any, environment: Callable[[str], Path]
) -> None:
    binding = ProviderBinding(base_url="http://127.0.0.1:9/openai", placeholder="sk-bh-placeholder")
    guest = _ready(
        launch(MANIFEST.folder, site_packages=environment("dspy")),
        preload=MANIFEST.preload,
        providers={"openai": binding},
    )
    said = run(guest, "configure", framework="dspy", model="gpt-4o-mini")
    assert (said["provider"], said["stored_as"]) == ("openai", "lm")
    said = run(guest, "call", target="dspy.Predict", args=["question -> answer"], store_as="qa")
    assert said["result"]["type"] == "dspy.predict.predict.Predict"
    said = run(guest, "call", target="dspy.Prediction", kwargs={"answer": "Paris"})
    assert said["result"] == {"type": "dspy.primitives.prediction.Prediction", "value": {"answer": "Paris"}}
    old = run(guest, "create_program", id="old", signature="question -> answer")
    assert (old["status"], old["program_id"]) == ("ok", "old")
    assert old["warning"].startswith("deprecated: use enhanced:call")
    assert run(guest, "list_programs")["programs"] == ["old"]
    fault = guest.fault("enhanced:execute_program", {"program_id": "old", "inputs": {"question": "?"}})
    assert fault.code == "provider"  # nothing listens there, and it was really asked
    assert run(guest, "delete_program", program_id="old")["status"] == "ok"
    assert run(guest, "clear_session")["removed"] == 2
