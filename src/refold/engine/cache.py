"""Views in memory: hot ones as objects, cool ones packed, least recently used first."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from operator import itemgetter
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import msgspec

import refold.speedups as speedups
from refold.cells import check
from refold.errors import RowRefused
from refold.view import Kind, Row, View, ViewSchema

__all__ = ["Unpackable", "ViewCache"]

V = TypeVar("V", bound=View)

_CELLS: Final = {
    Kind.TEXT: str,
    Kind.INTEGER: int,
    Kind.FLOAT: float,
    Kind.BOOLEAN: bool,
    Kind.DECIMAL: Decimal,
    Kind.TIMESTAMP: datetime,
    Kind.DATE: date,
    Kind.UUID: UUID,
    Kind.BYTES: bytes,
    Kind.JSON: str,
}
_OVERHEAD: Final = 200
"""Bytes that a packed view costs beside its content: key, dictionary slot, object headers."""


_TOGETHER: Final = 1000
"""Views that are packed together."""


class Unpackable(Exception):
    """A view holds a value that no column can."""


class ViewCache(Generic[V]):
    """The views of one projection that are in memory.

    Two generations stand in for a list of last uses: a hit costs one dictionary look-up, and what was not used for a whole
    generation is packed to a fifth of its size. A view that cannot be packed stays as it is: its next event may mend it.

    Attributes:
        hot: views used lately, by key. The fold looks keys up here without a detour; the object never changes.
        packed_bytes: about how much memory the packed views take.
    """

    __slots__ = ("_cool", "_decode", "_encode", "_packed", "_schema", "_types", "capacity", "hot", "packed_bytes")

    def __init__(self, schema: ViewSchema[V], capacity: int) -> None:
        self.hot: Any = {} if speedups.Views is None else speedups.Views()
        self.packed_bytes = 0
        self.capacity = capacity
        self._cool: dict[str, V] = {}
        self._packed: dict[str, bytes] = {}
        self._schema = schema
        self._types: set[tuple[type, ...]] = set()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(tuple[tuple(_CELLS[c.kind] | None for c in schema.columns)]).decode  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.hot) + len(self._cool) + len(self._packed)

    def get(self, key: str) -> V | None:
        """A view, made hot; None where it is not here."""
        view = self.hot.get(key)
        return self.recall(key) if view is None else view

    def recall(self, key: str) -> V | None:
        """A view that is not hot, made hot; None where it is not here."""
        view = self._cool.pop(key, None)
        if view is None:
            packed = self._packed.pop(key, None)
            if packed is None:
                return None
            self.packed_bytes -= len(packed) + _OVERHEAD
            view = self._schema.thaw(self._decode(packed))
        self.put(key, view)
        return view

    def put(self, key: str, view: V) -> None:
        """Takes a view in, as the one used last."""
        self.hot[key] = view
        if len(self.hot) >= self.capacity:
            self._age()

    def drop(self, key: str) -> None:
        """Forgets a view."""
        if self.hot.pop(key, None) is None and self._cool.pop(key, None) is None:
            packed = self._packed.pop(key, None)
            if packed is not None:
                self.packed_bytes -= len(packed) + _OVERHEAD

    def put_back(self, row: Row) -> None:
        """Takes in a row that `drain_packed` gave."""
        self._cool[row[0]] = self._schema.thaw(row)

    def pack(self, view: V) -> bytes:
        """A view as bytes, which later changes leave as they are, and of which `unpack` makes the very same view.

        Raises:
            Unpackable: it holds a value that no column can.
        """
        try:
            row = self._schema.freeze(view)
            types = tuple(map(type, row))
            if types not in self._types:  # msgspec would make a Decimal of a float, and so on
                check(self._schema, row)
                self._types.add(types)
            for i, decode in self._schema.decoders:
                if row[i] is not None:
                    decode(row[i])
            return self._encode(row)
        except Exception as error:
            raise Unpackable(str(error)) from error

    def unpack(self, packed: bytes) -> V:
        """The view that `pack` took."""
        return self._schema.thaw(self._decode(packed))

    def drain_packed(self, size: int) -> Iterator[list[Row]]:
        """Every packed view as a row, leaving the cache as it goes, in lists of a size."""
        while self._packed:
            yield [self._decode(self._packed.popitem()[1]) for _ in range(min(size, len(self._packed)))]
        self.packed_bytes = 0

    def drain_views(self, size: int) -> Iterator[list[tuple[str, V]]]:
        """Every other view with its key, leaving the cache as it goes, in lists of a size."""
        for views in (self.hot, self._cool):
            items = list(views.items())
            views.clear()
            while items:
                part = items[-size:]
                del items[-size:]
                yield part

    def _age(self) -> None:
        cool, self._cool = list(self._cool.items()), {}
        for start in range(0, len(cool), _TOGETHER):
            part = cool[start : start + _TOGETHER]
            rows = self._good_rows(part)
            if rows is None:
                self._pack_each(part)
            else:
                packed = list(map(self._encode, rows))
                self._packed.update(zip(map(itemgetter(0), rows), packed, strict=True))
                self.packed_bytes += sum(map(len, packed)) + _OVERHEAD * len(packed)
        self._cool |= self.hot.items()
        self.hot.clear()

    def _good_rows(self, items: list[tuple[str, V]]) -> list[Row] | None:
        """The rows of views that are certain to be packed and unpacked as they are; None where each needs a look."""
        codec = self._schema.codec
        if codec is None or self._schema.decoders:
            return None
        try:
            rows = self._schema.freeze_all(items)
        except RowRefused:
            return None
        return rows if codec.are_good(rows) else None

    def _pack_each(self, items: list[tuple[str, V]]) -> None:
        for key, view in items:
            view.id = key
            try:
                packed = self.pack(view)
            except Unpackable:
                self._cool[key] = view
            else:
                self._packed[key] = packed
                self.packed_bytes += len(packed) + _OVERHEAD
