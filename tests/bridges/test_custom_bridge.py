"""The scikit-learn template in a sandbox, with real data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridgehold.bridges.catalogue import Catalogue, check_ready
from bridgehold.bridges.frames import CancelFrame, ReadyFrame

pytestmark = pytest.mark.network
MANIFEST = Catalogue.load().get("custom")


@pytest.fixture
def custom(launch: Any, environment: Callable[[str], Path]) -> Any:
    guest = launch(MANIFEST.folder, site_packages=environment("custom"))
    ready = guest.boot(
        bridge="custom", version=MANIFEST.version, entry=MANIFEST.entry, preload=MANIFEST.preload
    )
    assert isinstance(ready, ReadyFrame), ready
    check_ready(MANIFEST, ready)
    guest.open()
    return guest


def run(guest: Any, name: str, /, **args: Any) -> Any:
    MANIFEST.check_arguments(name, args)
    return guest.value(f"custom:{name}", args)


def test_a_model_from_data_to_deletion(custom: Any) -> None:
    data = run(custom, "load_data", name="iris", id="flowers")
    assert (data["data_id"], data["rows"]) == ("flowers", 150)
    assert data["classes"] == ["setosa", "versicolor", "virginica"]
    model = run(custom, "train", model="logistic_regression", data="flowers", params={"C": 2.0}, id="m")
    assert (model["model_id"], model["trained_on"], model["held_out"]) == ("m", 112, 38)
    assert model["accuracy"] > 0.9
    found = run(custom, "predict", model_id="m", rows=[[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]])
    assert found["predictions"] == ["setosa", "virginica"]
    assert sum(found["probabilities"][0]) == pytest.approx(1)
    report = run(custom, "evaluate", model_id="m")
    assert sum(map(sum, report["confusion_matrix"])) == 38
    assert report["accuracy"] == pytest.approx(model["accuracy"])
    run(custom, "train", model="random_forest", data="flowers", params={"n_estimators": 10})
    listed = run(custom, "list_models")
    assert [entry["model_id"] for entry in listed["models"]] == ["m", "model_1"]
    assert run(custom, "delete_model", model_id="m") == {"model_id": "m", "status": "deleted"}
    assert custom.fault("custom:predict", {"model_id": "m", "rows": [[1, 2, 3, 4]]}).code == "not_found"
    stats = custom.value("common:get_stats")
    assert (stats["models_count"], stats["data_count"]) == (1, 1)
    assert stats["framework"]["name"] == "scikit-learn"


def test_arguments_that_make_no_sense(custom: Any) -> None:
    run(custom, "load_data", name="wine", id="w")
    for name, args, text in (
        ("train", {"model": "svc", "data": "nothing"}, "no data with id"),
        ("train", {"model": "svc", "data": "w", "params": {"depth": 3}}, "has no parameter depth"),
        ("train", {"model": "knn", "data": "w", "params": {"n_neighbors": -1}}, "n_neighbors"),
        ("train", {"model": "knn", "data": "w", "test_size": 0.001}, "test_size"),
    ):
        fault = custom.fault(f"custom:{name}", args)
        assert fault.code in {"invalid_input", "not_found", "application"}
        assert text in fault.message
    run(custom, "train", model="knn", data="w", id="k")
    assert "13 features" in custom.fault("custom:predict", {"model_id": "k", "rows": [[1.0]]}).message


def test_long_work_says_how_far_it_is_and_stops_when_asked(custom: Any) -> None:
    run(custom, "load_data", name="digits", id="d")
    args = {
        "model": "random_forest",
        "data": "d",
        "grid": {"n_estimators": [60, 61, 62], "max_depth": [3, 5, 8]},
    }
    MANIFEST.check_arguments("search", args)
    call = custom.start("custom:search", args)
    note = custom.take(lambda frame: getattr(frame, "total", 0) == 45)
    assert note.note.startswith("trial ")
    custom.send(CancelFrame(id=call))
    assert custom.reply(call).code == "cancelled"
    best = run(custom, "search", model="knn", data="d", grid={"n_neighbors": [1, 3]}, folds=2, id="best")
    assert len(best["trials"]) == 2
    assert best["best"]["accuracy"] == max(trial["accuracy"] for trial in best["trials"])
    assert [model["model_id"] for model in run(custom, "list_models")["models"]] == ["best"]


def test_folds_stream(custom: Any) -> None:
    run(custom, "load_data", name="iris", id="i")
    call = custom.start("custom:cross_validate", {"model": "decision_tree", "data": "i", "folds": 4})
    mean = custom.reply(call).result
    scores = [chunk.data["accuracy"] for chunk in custom.chunks(call)]
    assert len(scores) == 4
    assert mean["accuracy"] == pytest.approx(sum(scores) / 4)
