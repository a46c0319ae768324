"""A session's resources of one kind: programs, models, data sets, by id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from bridgehold_sdk.errors import InvalidInput, ResourceNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

MAX_ID_CHARACTERS = 200


class Store(Generic[T]):
    """`Store("program")`: values under ids that callers choose or that are made here.

    A worker serves one session, so the store is the session's. `capacity` bounds the number of
    resources; above it `add` raises `InvalidInput`.
    """

    def __init__(self, kind: str, *, capacity: int = 10_000) -> None:
        self.kind = kind
        self.capacity = capacity
        self._items: dict[str, T] = {}
        self._made = 0

    def add(self, value: T, resource_id: str | None = None) -> str:
        """Keep `value`; returns its id (``program_1`` where none is given). An id is used once."""
        if len(self._items) >= self.capacity:
            raise InvalidInput(f"{self.capacity} {self.kind}s are the most a session holds; delete some")
        name = self._new_id() if resource_id is None else self._checked(resource_id)
        self._items[name] = value
        return name

    def get(self, resource_id: str) -> T:
        """The value, or `ResourceNotFound`."""
        if resource_id not in self._items:
            raise ResourceNotFound(self.kind, resource_id)
        return self._items[resource_id]

    def delete(self, resource_id: str) -> T:
        """Remove and return the value, or `ResourceNotFound`."""
        value = self.get(resource_id)
        del self._items[resource_id]
        return value

    def ids(self) -> list[str]:
        """Ids in the order they were added."""
        return list(self._items)

    def items(self) -> list[tuple[str, T]]:
        """Names and values, oldest first."""
        return list(self._items.items())

    def clear(self) -> int:
        """Forget everything; returns how many there were."""
        count = len(self._items)
        self._items.clear()
        return count

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids())

    def __contains__(self, resource_id: object) -> bool:
        return resource_id in self._items

    def _new_id(self) -> str:
        while True:
            self._made += 1
            name = f"{self.kind}_{self._made}"
            if name not in self._items:
                return name

    def _checked(self, resource_id: str) -> str:
        if not resource_id or len(resource_id) > MAX_ID_CHARACTERS or not resource_id.isprintable():
            raise InvalidInput(f"an id is 1 to {MAX_ID_CHARACTERS} printable characters")
        if resource_id in self._items:
            raise InvalidInput(f"there is a {self.kind} with id {resource_id!r} already")
        return resource_id
