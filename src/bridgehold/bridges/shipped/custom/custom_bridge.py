"""A template for a bridge of your own, with scikit-learn as the framework.

What to take over: resources live in a `Store`; arguments that make no sense raise `InvalidInput`;
long work says how far it is with `self.progress` and is cancelled between two steps or inside one;
a stream is a generator. What a method returns goes through `bridgehold_sdk.plain`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sklearn
from sklearn import datasets, metrics
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from bridgehold_sdk import Bridge, InvalidInput, Session, Store, operation

LOADERS = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "digits": datasets.load_digits,
    "breast_cancer": datasets.load_breast_cancer,
}
MODELS = {
    "logistic_regression": LogisticRegression,
    "random_forest": RandomForestClassifier,
    "gradient_boosting": GradientBoostingClassifier,
    "svc": SVC,
    "knn": KNeighborsClassifier,
    "decision_tree": DecisionTreeClassifier,
}


@dataclass(eq=False, repr=False)
class Data:
    """Rows with their classes."""

    name: str
    rows: Any
    classes: Any
    features: list[str]
    class_names: list[str]


@dataclass(eq=False, repr=False)
class Model:
    """A fitted estimator, and what it was held against."""

    kind: str
    data: str
    params: dict[str, Any]
    estimator: Any
    accuracy: float
    held_out: tuple[Any, Any]
    class_names: list[str]
    created: float = field(default_factory=time.time)


class CustomBridge(Bridge):
    """scikit-learn's models and bundled data; each operation is described in bridge.toml."""

    name = "custom"
    version = "0.1.0"

    def open(self, session: Session) -> None:
        """The session begins: its stores are empty."""
        self.data: Store[Data] = Store("data")
        self.models: Store[Model] = Store("model", capacity=200)

    def framework(self) -> dict[str, Any]:
        """The name and version of what it wraps, and what it can do."""
        return {
            "name": "scikit-learn",
            "version": sklearn.__version__,
            "capabilities": ["models", "training", "prediction", "evaluation"],
        }

    def stats(self) -> dict[str, Any]:
        """Numbers of its own for `common:get_stats`."""
        return {"models_count": len(self.models), "data_count": len(self.data)}

    @operation(effect="create", resource="data", id_field="id")
    def load_data(self, name: str, id: str | None = None) -> dict[str, Any]:
        """Load one of scikit-learn's bundled data sets."""
        bunch = LOADERS[name]()
        data = Data(
            name=name,
            rows=bunch.data,
            classes=bunch.target,
            features=[str(feature) for feature in bunch.feature_names],
            class_names=[str(label) for label in bunch.target_names],
        )
        data_id = self.data.add(data, id)
        return {
            "data_id": data_id,
            "name": name,
            "rows": len(data.rows),
            "features": data.features,
            "classes": data.class_names,
        }

    @operation(effect="create", resource="model", id_field="id")
    def train(
        self,
        *,
        model: str,
        data: str,
        params: dict[str, Any] | None = None,
        id: str | None = None,
        test_size: float = 0.25,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Fit a classifier on a part of the data and score it on the rest."""
        chosen = self.data.get(data)
        parts = train_test_split(
            chosen.rows, chosen.classes, test_size=test_size, random_state=seed, stratify=chosen.classes
        )
        started = time.perf_counter()
        estimator = _fit(_estimator(model, params or {}, seed), parts[0], parts[2])
        accuracy = float(estimator.score(parts[1], parts[3]))
        kept = Model(model, data, params or {}, estimator, accuracy, (parts[1], parts[3]), chosen.class_names)
        return {
            "model_id": self.models.add(kept, id),
            "model": model,
            "data": data,
            "accuracy": accuracy,
            "trained_on": len(parts[0]),
            "held_out": len(parts[1]),
            "seconds": time.perf_counter() - started,
        }

    @operation(effect="create", resource="model", id_field="id")
    def search(
        self,
        *,
        model: str,
        data: str,
        grid: dict[str, list[Any]],
        folds: int = 5,
        id: str | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Try every combination of a grid by cross-validation, keep the best; long, with progress."""
        chosen = self.data.get(data)
        trials = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        scores: list[dict[str, Any]] = []
        steps = len(trials) * folds
        for number, params in enumerate(trials):
            found = []
            for fold, score in enumerate(_fold_scores(model, params, chosen, folds, seed)):
                found.append(score)
                self.progress(number * folds + fold + 1, steps, f"trial {number + 1} of {len(trials)}")
            scores.append({"params": params, "accuracy": float(np.mean(found))})
        best = max(scores, key=lambda trial: trial["accuracy"])
        trained = self.train(model=model, data=data, params=best["params"], id=id, seed=seed)
        return {**trained, "best": best, "trials": scores}

    @operation(effect="read", resource="data", id_field="data", stream=True)
    def cross_validate(
        self, model: str, data: str, params: dict[str, Any] | None = None, folds: int = 5, seed: int = 0
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        """Score a classifier on each fold; one chunk for each, the mean as the result."""
        found = []
        for fold, score in enumerate(_fold_scores(model, params or {}, self.data.get(data), folds, seed)):
            found.append(score)
            yield {"fold": fold, "accuracy": score}
        return {"accuracy": float(np.mean(found)), "spread": float(np.std(found)), "folds": folds}

    @operation(effect="read", resource="model", id_field="model_id")
    def predict(self, model_id: str, rows: list[list[float]]) -> dict[str, Any]:
        """Classes, and probabilities where the model has them, for rows of features."""
        model = self.models.get(model_id)
        wanted = model.estimator.n_features_in_
        if any(len(row) != wanted for row in rows):
            raise InvalidInput(f"each row has {wanted} features, as the data of {model_id} has")
        matrix = np.asarray(rows, dtype=float)
        labels = [model.class_names[index] for index in model.estimator.predict(matrix)]
        result: dict[str, Any] = {"model_id": model_id, "predictions": labels}
        if hasattr(model.estimator, "predict_proba"):
            result["classes"] = model.class_names
            result["probabilities"] = model.estimator.predict_proba(matrix)
        return result

    @operation(effect="read", resource="model", id_field="model_id")
    def evaluate(self, model_id: str, data: str | None = None) -> dict[str, Any]:
        """Accuracy, confusion matrix and per-class figures on the held-out part, or on other data."""
        model = self.models.get(model_id)
        rows, classes = model.held_out
        if data is not None:
            other = self.data.get(data)
            if other.features != self.data.get(model.data).features:
                raise InvalidInput(
                    f"{data} has other features than {model.data}, which {model_id} was trained on"
                )
            rows, classes = other.rows, other.classes
        guessed = model.estimator.predict(rows)
        report = metrics.classification_report(
            classes, guessed, target_names=model.class_names, output_dict=True, zero_division=0
        )
        return {
            "model_id": model_id,
            "rows": len(rows),
            "accuracy": metrics.accuracy_score(classes, guessed),
            "confusion_matrix": metrics.confusion_matrix(classes, guessed),
            "classes": {name: report[name] for name in model.class_names},
        }

    @operation(effect="read", resource="model")
    def list_models(self) -> dict[str, Any]:
        """The session's models."""
        listed = [
            {
                "model_id": model_id,
                "model": model.kind,
                "data": model.data,
                "params": model.params,
                "accuracy": model.accuracy,
                "created": model.created,
            }
            for model_id, model in self.models.items()
        ]
        return {"models": listed, "total_count": len(listed)}

    @operation(effect="delete", resource="model", id_field="model_id")
    def delete_model(self, model_id: str) -> dict[str, Any]:
        """Forget a model."""
        self.models.delete(model_id)
        return {"model_id": model_id, "status": "deleted"}


def _estimator(kind: str, params: dict[str, Any], seed: int) -> Any:
    plain = MODELS[kind]()
    known = plain.get_params()
    unknown = sorted(set(params) - set(known))
    if unknown:
        raise InvalidInput(f"{kind} has no parameter {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    if "random_state" in known:
        params = {"random_state": seed, **params}
    return make_pipeline(StandardScaler(), plain.set_params(**params))


def _fit(estimator: Any, rows: Any, classes: Any) -> Any:
    try:
        return estimator.fit(rows, classes)
    except (ValueError, TypeError) as error:
        raise InvalidInput(str(error)) from error


def _fold_scores(
    kind: str, params: dict[str, Any], data: Data, folds: int, seed: int
) -> Generator[float, None, None]:
    estimator = _estimator(kind, params, seed)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for train, test in splitter.split(data.rows, data.classes):
        _fit(estimator, data.rows[train], data.classes[train])
        yield float(estimator.score(data.rows[test], data.classes[test]))
