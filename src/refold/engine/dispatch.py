"""From raw messages to folds: each message is looked at once, and decoded at most once a payload class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

import refold.speedups as speedups
from refold.engine.fold import Fold
from refold.engine.step import Step
from refold.errors import SubjectError, UndecodableEvent
from refold.event import DomainEvent
from refold.ports import Codec, PayloadDecoder, RawBatch, RawMessage
from refold.subjects import SubjectScheme

__all__ = ["Dispatcher"]

_set: Final = msgspec.structs.force_setattr
_MARKER: Final = b"Nats-Marker-Reason"


class _Entry(NamedTuple):
    """What happens to messages of one aggregate type and event type, for one payload class.

    Attributes:
        decode: of the payload class.
        step: folds the event, in every projection that wants it.
        aggregate_type, event_type: the decoded names.
        folds: whom to tell when the message cannot be decoded.
    """

    decode: PayloadDecoder
    step: Step
    aggregate_type: str
    event_type: str
    folds: tuple[Fold[Any], ...]


_Table = dict[str, tuple[_Entry, ...]]


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
        messages = batch.messages
        if speedups.dispatch is not None and isinstance(messages, speedups.Frames):
            speedups.dispatch(messages, self._tables, self._grows, lambda index: self._fold(messages[index]))
        else:
            for message in messages:
                self._fold(message)

    def _fold(self, message: RawMessage) -> None:
        """Folds one message; the C part leaves those to it that are not as usual."""
        kind, aggregate_id, name, position, headers, body = message
        known = self._tables.get(kind, self._nothing).get(name)
        entries = self._met(kind, name) if known is None else known
        if "%" in aggregate_id:
            aggregate_id = self._decoded(aggregate_id)
        for decode, step, aggregate_type, event_type, folds in entries:
            try:
                event = decode(body, headers)
            except UndecodableEvent as error:
                if headers is None or _MARKER not in headers:  # the server's note that messages were deleted
                    _tell(folds, (kind, aggregate_id, name), position, str(error))
                continue
            if (event.aggregate_id, event.type, event.aggregate_type) != (aggregate_id, event_type, aggregate_type):
                _tell(folds, (kind, aggregate_id, name), position, _mismatch(event))
                continue
            _set(event, "position", position)
            _set(event, "raw_headers", headers)
            step(event)

    # -- The less usual --------------------------------------------------------------------------------------------

    def _decoded(self, token: str) -> str:
        try:
            return self._scheme.decode(token)
        except SubjectError:
            return token  # which no envelope can agree with: a mismatch

    # -- Tables ----------------------------------------------------------------------------------------------------

    def _met(self, kind: str, name: str) -> Sequence[_Entry]:
        """Entries of tokens that no table has: of an aggregate type met for the first time by a projection of all types,
        or escaped in another way than refold's; none for what nobody wants.
        """
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
        """One entry for each payload class that folds want of this event type. A view may keep, and later change, parts of a
        payload: of the folds with such views, each has an entry of its own, for decoding again is the quickest copy.
        """
        by_payload: dict[Any, list[Fold[Any]]] = {}
        for number, fold in enumerate(folds):
            if name in fold.steps:
                own = number if fold.shares_payloads else None
                by_payload.setdefault((fold.spec.routes[name].event_type.payload, own), []).append(fold)
        entries = []
        for takers in by_payload.values():
            decode = self._codec.decoder(takers[0].spec.routes[name].event_type)
            entries.append(_Entry(decode, _shared(name, takers), aggregate_type, name, tuple(takers)))
        return tuple(entries)


def _tell(folds: Sequence[Fold[Any]], tokens: tuple[str, str, str], position: int, reason: str) -> None:
    for fold in folds:
        fold.unreadable(position, ".".join(tokens), reason)


def _mismatch(event: DomainEvent[Any]) -> str:
    said = f"{event.aggregate_type!r} {event.aggregate_id!r}, {event.type!r}"
    return f"the envelope says {said:.300}, and its subject says otherwise"


def _shared(name: str, folds: Sequence[Fold[Any]]) -> Step:
    """One step for several folds."""
    if len(folds) == 1:
        step: Step = folds[0].steps[name]
        return step
    steps = [fold.steps[name] for fold in folds]

    def step_each(event: DomainEvent[Any]) -> None:
        for step in steps:
            step(event)

    return step_each
