"""pandas' frames and numpy's arrays in a session: in and out without loss, bounded, no code in arguments.

What is too large is refused before it is made; what is cut says so. `frame_columns` has the encoding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from typing import Any

import frame_filters
import frame_shapes
import numpy as np
import pandas as pd
from array_operations import Arrays
from frame_bounds import MAX_KEPT, PAGE_BYTES, check_bytes, check_shape, frame_bytes
from frame_casts import cast
from frame_csv import from_csv
from frame_facts import column_facts, index_facts
from frame_kept import Array, Frame
from frame_wire import (
    decode_frame,
    encode_frame,
    from_records,
    json_bytes,
    plain_name,
    to_records,
)

from bridgehold_sdk import Bridge, InvalidInput, Session, Store, operation

PAGE_CELLS = 200_000
CHUNK_BYTES = 256 << 10


class PandasBridge(Arrays, Bridge):
    """Tables and arrays; each operation is described in bridge.toml."""

    name = "pandas"
    version = "0.1.0"

    def open(self, session: Session) -> None:
        """The session begins: its stores are empty."""
        self.frames: Store[Frame] = Store("frame", capacity=MAX_KEPT)
        self.arrays: Store[Array] = Store("array", capacity=MAX_KEPT)

    def framework(self) -> dict[str, Any]:
        """The name and version of what it wraps, and what it can do."""
        return {
            "name": "pandas",
            "version": pd.__version__,
            "numpy": np.__version__,
            "capabilities": ["frames", "arrays", "csv"],
        }

    def stats(self) -> dict[str, Any]:
        """Numbers of its own for `common:get_stats`."""
        return {"frames_count": len(self.frames), "arrays_count": len(self.arrays), "bytes": self._held()}

    @operation(effect="create", resource="frame", id_field="id")
    def load_frame(
        self,
        *,
        columns: list[dict[str, Any]] | None = None,
        index: dict[str, Any] | None = None,
        records: list[dict[str, Any]] | None = None,
        dtypes: dict[str, str] | None = None,
        csv: str | None = None,
        options: dict[str, Any] | None = None,
        id: str | None = None,
    ) -> dict[str, Any]:
        """Make a frame of columns with dtypes, of records, or of CSV text: exactly one of them."""
        given = [
            name for name, it in (("columns", columns), ("records", records), ("csv", csv)) if it is not None
        ]
        if len(given) != 1:
            raise InvalidInput("a frame comes as one of columns, records and csv")
        facts: dict[str, Any] = {"truncated": False}
        if columns is not None:
            table = decode_frame(columns, index)
        elif records is not None:
            table, facts["absent"] = from_records(records, dtypes or {})
        else:
            table, facts["truncated"] = from_csv(csv or "", {"dtypes": dtypes, **(options or {})})
        return {**self._keep(table, f"load_frame {given[0]}", id), **facts}

    @operation(effect="read", resource="frame", id_field="frame_id")
    def describe_frame(self, frame_id: str) -> dict[str, Any]:
        """Columns with dtypes, missing cells by kind, distinct values and figures; the index; bytes."""
        frame = self.frames.get(frame_id)
        return {
            **self._summary(frame_id, frame),
            "index": index_facts(frame.table.index),
            "columns": [column_facts(frame.table, at) for at in range(len(frame.table.columns))],
        }

    @operation(effect="create", resource="frame", id_field="id")
    def select(
        self, frame_id: str, columns: list[Any], rename: dict[str, str] | None = None, id: str | None = None
    ) -> dict[str, Any]:
        """A new frame of some columns, in the order given."""
        table = self._table(frame_id)
        for name in columns:
            frame_filters.column_of(table, name)
        if len(set(columns)) != len(columns):
            raise InvalidInput("a column is selected once")
        names = [(rename or {}).get(str(name), name) for name in columns]
        if unknown := set(rename or {}) - {str(name) for name in columns}:
            raise InvalidInput(f"rename names {min(unknown)[:100]!r}, which is not selected")
        if len(set(names)) != len(names):
            raise InvalidInput("two columns of the result would have the same name")
        selected = table[columns].copy()
        selected.columns = pd.Index(names)
        return self._keep(selected, f"select of {frame_id}", id)

    @operation(effect="create", resource="frame", id_field="id")
    def filter(
        self, frame_id: str, where: list[dict[str, Any]], match: str = "all", id: str | None = None
    ) -> dict[str, Any]:
        """A new frame of the rows for which all (or any) of typed conditions hold."""
        table = self._table(frame_id)
        kept = table[frame_filters.keep_rows(table, where, match)]
        return {
            **self._keep(kept, f"filter of {frame_id}", id),
            "dropped_rows": len(table) - len(kept),
        }

    @operation(effect="create", resource="frame", id_field="id")
    def sort(
        self, frame_id: str, by: list[dict[str, Any]], missing: str = "last", id: str | None = None
    ) -> dict[str, Any]:
        """A new frame, sorted by columns; equal rows keep their order."""
        return self._keep(frame_shapes.sort(self._table(frame_id), by, missing), f"sort of {frame_id}", id)

    @operation(effect="create", resource="frame", id_field="id")
    def group(
        self,
        frame_id: str,
        by: list[Any],
        aggregate: list[dict[str, Any]] | None = None,
        keep_missing: bool = True,
        id: str | None = None,
    ) -> dict[str, Any]:
        """A new frame with a row for each group: the keys, then aggregates."""
        made = frame_shapes.group(self._table(frame_id), by, aggregate or [], keep_missing=keep_missing)
        return self._keep(made, f"group of {frame_id}", id)

    @operation(effect="create", resource="frame", id_field="id")
    def join(
        self,
        left: str,
        right: str,
        on: list[Any] | None = None,
        left_on: list[Any] | None = None,
        right_on: list[Any] | None = None,
        how: str = "inner",
        suffixes: list[str] | None = None,
        validate: str | None = None,
        id: str | None = None,
    ) -> dict[str, Any]:
        """A new frame of two; refused before it is made where it would be too large."""
        options = {
            "how": how,
            "left_on": on or left_on or [],
            "right_on": on or right_on or [],
            "suffixes": suffixes or ["_left", "_right"],
            "validate": validate,
        }
        made = frame_shapes.join(self._table(left), self._table(right), options)
        return self._keep(made, f"join of {left} and {right}", id)

    @operation(effect="create", resource="frame", id_field="id")
    def cast(self, frame_id: str, dtypes: dict[str, str], id: str | None = None) -> dict[str, Any]:
        """A new frame with other dtypes; refused where a cell would not survive."""
        table = self._table(frame_id).copy()
        for name, dtype in dtypes.items():
            table[name] = cast(frame_filters.column_of(table, name), dtype, name)
        return self._keep(table, f"cast of {frame_id}", id)

    @operation(effect="create", resource="frame", id_field="id")
    def append(self, frames: list[str], id: str | None = None) -> dict[str, Any]:
        """A new frame of the rows of several with the same columns and dtypes."""
        tables = [self._table(frame_id) for frame_id in frames]
        first = tables[0]
        for frame_id, table in zip(frames, tables, strict=True):
            if list(table.columns) != list(first.columns) or list(table.dtypes) != list(first.dtypes):
                raise InvalidInput(f"{frame_id} has other columns or dtypes than {frames[0]}")
        check_shape(sum(map(len, tables)), len(first.columns), "the frame")
        return self._keep(pd.concat(tables, ignore_index=True), f"append of {len(frames)} frames", id)

    @operation(effect="read", resource="frame", id_field="frame_id")
    def head(self, frame_id: str, rows: int = 10, layout: str = "records") -> dict[str, Any]:
        """The first rows."""
        return self.page(frame_id, 0, rows, layout)

    @operation(effect="read", resource="frame", id_field="frame_id")
    def page(
        self,
        frame_id: str,
        offset: int = 0,
        limit: int = 1000,
        layout: str = "columns",
        columns: list[Any] | None = None,
        max_bytes: int = PAGE_BYTES // 4,
    ) -> dict[str, Any]:
        """Rows from an offset on, bounded in rows, cells and bytes; the answer says what cut it."""
        whole = self._table(frame_id)
        table = whole
        if columns is not None:
            for name in columns:
                frame_filters.column_of(whole, name)
            table = whole[columns]
        width = max(1, len(table.columns))
        rows = max(0, min(limit, len(table) - offset))
        part, cut = table.iloc[offset : offset + rows], ""
        if rows * width > PAGE_CELLS:
            rows, cut = max(1, PAGE_CELLS // width), "cells"
        encoded, rows, cut = _fitting(part, rows, layout, max_bytes, cut)
        end = offset + rows
        return {
            "frame_id": frame_id,
            "offset": offset,
            "rows": rows,
            "total_rows": len(whole),
            "truncated": bool(cut),
            "truncated_by": cut,
            "next_offset": end if end < len(whole) else None,
            **encoded,
        }

    @operation(effect="read", resource="frame", id_field="frame_id", stream=True)
    def export(
        self, frame_id: str, format: str = "columns"
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        """The whole frame in chunks: columns with dtypes, records, or CSV text."""
        table = self._table(frame_id)
        digest, sent, count, offset = hashlib.sha256(), 0, 0, 0
        step = max(1, min(10_000, PAGE_CELLS // max(1, len(table.columns))))
        while offset < len(table) or count == 0:
            rows = min(step, len(table) - offset)
            part = table.iloc[offset : offset + rows]
            if format == "csv":
                text = part.to_csv(index=False, header=offset == 0, lineterminator="\n")
                digest.update(text.encode("utf-8"))
                for piece in _pieces(text):
                    sent += len(piece.encode("utf-8"))
                    yield {"text": piece}
                    count += 1
            else:
                encoded, rows, _ = _fitting(part, rows, format, PAGE_BYTES, "")
                sent += json_bytes(encoded)
                yield {"offset": offset, "rows": rows, **encoded}
                count += 1
            offset += rows
            self.progress(offset, len(table))
            if not len(table):
                break
        result = {
            "frame_id": frame_id,
            "rows": len(table),
            "chunks": count,
            "bytes": sent,
            "truncated": False,
        }
        return {**result, "sha256": digest.hexdigest()} if format == "csv" else result

    @operation(effect="read", resource="frame")
    def list_frames(self) -> dict[str, Any]:
        """The session's frames."""
        listed = [self._summary(frame_id, frame) for frame_id, frame in self.frames.items()]
        return {"frames": listed, "total_count": len(listed)}

    @operation(effect="delete", resource="frame", id_field="frame_id")
    def delete_frame(self, frame_id: str) -> dict[str, Any]:
        """Forget a frame."""
        self.frames.delete(frame_id)
        return {"frame_id": frame_id, "status": "deleted"}

    def _table(self, frame_id: str) -> Any:
        return self.frames.get(frame_id).table

    def _held(self) -> int:
        frames = sum(frame.size for _, frame in self.frames.items())
        return frames + sum(int(array.values.nbytes) for _, array in self.arrays.items())

    def _keep(self, table: Any, origin: str, frame_id: str | None) -> dict[str, Any]:
        check_shape(*table.shape, "the frame")
        size = frame_bytes(table)
        check_bytes(size, self._held(), "the frame")
        frame = Frame(table, origin[:500], size)
        kept = self.frames.add(frame, frame_id)
        dtypes = [[plain_name(name), str(dtype)] for name, dtype in table.dtypes.items()]
        return {**self._summary(kept, frame), "dtypes": dtypes}

    @staticmethod
    def _summary(frame_id: str, frame: Frame) -> dict[str, Any]:
        return {
            "frame_id": frame_id,
            "rows": len(frame.table),
            "columns_count": len(frame.table.columns),
            "bytes": frame.size,
            "origin": frame.origin,
            "created": frame.created,
        }


def _fitting(part: Any, rows: int, layout: str, most: int, cut: str) -> tuple[dict[str, Any], int, str]:
    """The first rows of `part` that take at most `most` bytes, how many they are, and what cut them."""
    while True:
        few = part.iloc[:rows]
        encoded = {"records": to_records(few)} if layout == "records" else {"frame": encode_frame(few)}
        size = json_bytes(encoded)
        if size <= most:
            return encoded, rows, cut
        if rows <= 1:
            raise InvalidInput(f"one row takes {size} bytes of {most}: ask for fewer columns")
        rows, cut = max(1, min(rows - 1, rows * most // size)), "bytes"


def _pieces(text: str) -> Generator[str, None, None]:
    for start in range(0, len(text), CHUNK_BYTES):
        yield text[start : start + CHUNK_BYTES]
