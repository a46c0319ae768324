"""Running programs: as a stream of their outputs' text, and many at once."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import dspy

_MESSAGE = 2_000


def streamed(module: Any, inputs: dict[str, Any]) -> Generator[dict[str, Any], None, Any]:
    """Pieces of text as ``{module, field, text}``; the prediction at the end."""
    listeners = [
        dspy.streaming.StreamListener(field, predict=predictor, predict_name=name, allow_reuse=True)
        for name, predictor in module.named_predictors()
        for field, info in predictor.signature.output_fields.items()
        if info.annotation is str
    ]
    prediction: Any = None
    run = dspy.streamify(module, stream_listeners=listeners, async_streaming=False)
    for event in run(**inputs):
        if isinstance(event, dspy.Prediction):
            prediction = event
        elif isinstance(event, dspy.streaming.StreamResponse):
            yield {"module": event.predict_name, "field": event.signature_field_name, "text": event.chunk}
    return prediction


def each(
    items: list[Any],
    threads: int,
    one: Callable[[Any], dict[str, Any]],
    tell: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """One result for each item, in order; an item that fails says so and stops no other.

    A cancel doesn't wait for the calls that are under way: their answers reach nobody.
    """
    results: list[dict[str, Any]] = [{} for _ in items]
    pool = ThreadPoolExecutor(max_workers=threads)
    try:
        running = {
            pool.submit(contextvars.copy_context().run, one, item): number
            for number, item in enumerate(items)
        }
        for count, done in enumerate(as_completed(running), 1):
            error = done.exception()
            failed = {"error": {"type": type(error).__name__, "message": str(error)[:_MESSAGE]}}
            results[running[done]] = failed if error else done.result()
            tell(count, len(items))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return results
