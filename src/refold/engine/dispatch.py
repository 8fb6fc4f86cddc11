"""From raw messages to folds: each message is looked at once, and decoded at most once a payload class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from refold.engine.fold import Fold, Step, detached
from refold.errors import SubjectError, UndecodableEvent
from refold.event import DomainEvent
from refold.ports import Codec, PayloadDecoder, RawBatch
from refold.subjects import SubjectScheme

__all__ = ["Dispatcher"]

_set: Final = msgspec.structs.force_setattr
_MARKER: Final = b"Nats-Marker-Reason"


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    """What happens to messages of one aggregate type and event type, for one payload class.

    Attributes:
        aggregate_type, event_type: the decoded names.
        decode: of the payload class.
        step: folds the event, in every projection that wants it.
        folds: whom to tell when the message cannot be decoded.
    """

    aggregate_type: str
    event_type: str
    decode: PayloadDecoder
    step: Step
    folds: tuple[Fold[Any], ...]


_Table = Mapping[str, tuple[_Entry, ...]]


class Dispatcher:
    """Gives every message of a batch to the folds that want it.

    A message whose event type no handler wants is dropped by its subject, before anything is decoded.

    Args:
        folds: the projections that are folded together.
        codec: how messages are written.
        scheme: how subjects are written.
    """

    def __init__(self, folds: Sequence[Fold[Any]], codec: Codec, scheme: SubjectScheme) -> None:
        self._folds = folds
        self._codec = codec
        self._scheme = scheme
        named = {t for fold in folds for t in fold.spec.wanted.aggregate_types or ()}
        self._tables: dict[str, _Table] = {scheme.encode(t): self._table(t) for t in named}
        open_to_all = [fold for fold in folds if fold.spec.wanted.aggregate_types is None]
        self._grows = bool(open_to_all)
        self._nothing: _Table = {}

    def apply(self, batch: RawBatch) -> None:
        """Folds a batch of messages.

        Raises:
            HandlerError: an event failed, and its projection's policy says halt.
        """
        tables, nothing = self._tables, self._nothing
        for kind, aggregate_id, name, position, body, headers in zip(
            batch.aggregate_types,
            batch.aggregate_ids,
            batch.event_types,
            batch.positions,
            batch.bodies,
            batch.headers,
            strict=True,
        ):
            entries = tables.get(kind, nothing).get(name)
            if entries is None:
                entries = self._met(kind, name)
            if "%" in aggregate_id:
                aggregate_id = self._decoded(aggregate_id)
            for entry in entries:
                try:
                    event = entry.decode(body, headers)
                except UndecodableEvent as error:
                    self._undecodable(entry, kind, aggregate_id, position, headers, str(error))
                    continue
                if (
                    event.aggregate_id != aggregate_id
                    or event.type != entry.event_type
                    or event.aggregate_type != entry.aggregate_type
                ):
                    self._mismatch(entry, kind, aggregate_id, position, event)
                    continue
                _set(event, "position", position)
                _set(event, "raw_headers", headers)
                entry.step(event)

    # -- The less usual --------------------------------------------------------------------------------------------

    def _decoded(self, token: str) -> str:
        try:
            return self._scheme.decode(token)
        except SubjectError:
            return token  # which no envelope can agree with: a mismatch

    def _undecodable(
        self, entry: _Entry, kind: str, aggregate_id: str, position: int, headers: bytes | None, reason: str
    ) -> None:
        if headers is not None and _MARKER in headers:
            return  # the server's own note that messages were deleted: no event
        self._tell(entry, f"{kind}.{aggregate_id}.{entry.event_type}", position, reason)

    def _mismatch(self, entry: _Entry, kind: str, aggregate_id: str, position: int, event: DomainEvent[Any]) -> None:
        said = f"{event.aggregate_type} {event.aggregate_id!r}, {event.type!r}"
        subject = f"{kind}.{aggregate_id}.{entry.event_type}"
        self._tell(entry, subject, position, f"the envelope says {said:.300}, and its subject says otherwise")

    def _tell(self, entry: _Entry, subject: str, position: int, reason: str) -> None:
        for fold in entry.folds:
            fold.unreadable(position, subject, reason)

    # -- Tables ----------------------------------------------------------------------------------------------------

    def _met(self, kind: str, name: str) -> Sequence[_Entry]:
        """Entries of tokens that no table has: of an aggregate type met for the first time by a projection of all types,
        or escaped in another way than refold's; none for what nobody wants."""
        if kind not in self._tables and self._grows:
            try:
                self._tables[kind] = self._table(self._scheme.decode(kind))
            except SubjectError:
                return ()
            return self._tables[kind].get(name, ())
        if "%" not in kind and "%" not in name:
            return ()
        try:
            plain_kind, plain_name = (self._scheme.encode(self._scheme.decode(token)) for token in (kind, name))
        except SubjectError:
            return ()
        return self._tables.get(plain_kind, self._nothing).get(plain_name, ())

    def _table(self, aggregate_type: str) -> _Table:
        folds = [
            fold
            for fold in self._folds
            if fold.spec.wanted.aggregate_types is None or aggregate_type in fold.spec.wanted.aggregate_types
        ]
        names = dict.fromkeys(name for fold in folds for name in fold.steps)
        return {self._scheme.encode(name): self._entries(aggregate_type, name, folds) for name in names}

    def _entries(self, aggregate_type: str, name: str, folds: Sequence[Fold[Any]]) -> tuple[_Entry, ...]:
        """One entry for each payload class that folds want of this event type."""
        by_payload: dict[Any, list[Fold[Any]]] = {}
        for fold in folds:
            if name in fold.steps:
                by_payload.setdefault(fold.spec.routes[name].event_type.payload, []).append(fold)
        entries = []
        for takers in by_payload.values():
            decode = self._codec.decoder(takers[0].spec.routes[name].event_type)
            entries.append(_Entry(aggregate_type, name, decode, _shared(name, takers), tuple(takers)))
        return tuple(entries)


def _shared(name: str, folds: Sequence[Fold[Any]]) -> Step:
    """One step for several folds. A view may keep, and later change, parts of a payload: only the last such fold gets the
    event as it was decoded, the others before it get copies."""
    if len(folds) == 1:
        step: Step = folds[0].steps[name]
        return step
    ordered = sorted(folds, key=lambda fold: fold.shares_payloads)
    steps = [(fold.steps[name], fold.shares_payloads) for fold in ordered[:-1]]
    last = ordered[-1].steps[name]

    def step_each(event: DomainEvent[Any]) -> None:
        for step, own in steps:
            step(detached(event) if own else event)
        last(event)

    return step_each
