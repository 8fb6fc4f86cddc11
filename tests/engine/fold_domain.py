"""A small domain for tests of the engine, and a plain fold of it that shares no code with refold's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from refold import DELETE, DomainEvent, JsonCodec, Projector, View, event, on
from refold.errors import NatsUnavailable, StreamReplaced
from refold.ports import EventSource, RawBatch, RawMessage, StreamIdentity, StreamState, anchor_of
from refold.subjects import SubjectScheme

START = datetime(2026, 1, 1, tzinfo=UTC)


@event("added")
class Added(msgspec.Struct, gc=False):
    amount: int
    tags: list[str] = []


@event("closed")
class Closed(msgspec.Struct, gc=False):
    pass


@event("noted")
class Noted(msgspec.Struct, gc=False):
    text: str


@event("broke")
class Broke(msgspec.Struct, gc=False):
    pass


class Total(View):
    total: int = 0
    notes: int = 0
    tags: list[str] = []


class Totals(Projector[Total], name="totals", aggregate="account", version=1):
    @on(Added)
    def added(self, view: Total, event: DomainEvent[Added]) -> None:
        view.total += event.payload.amount
        view.tags = event.payload.tags

    @on(Noted, create=False)
    def noted(self, view: Total, event: DomainEvent[Noted]) -> None:
        view.notes += 1
        view.tags.append(event.payload.text)

    @on(Closed)
    def closed(self, view: Total, event: DomainEvent[Closed]) -> object:
        return DELETE

    @on(Broke)
    def broke(self, view: Total, event: DomainEvent[Broke]) -> None:
        view.total += 1_000_000
        raise ValueError("broken on purpose")


class Tags(View):
    events: int = 0
    accounts: list[str] = []


class ByTag(Projector[Tags], name="by_tag", aggregate="account", version=1):
    @on(Added, keys=lambda event: event.payload.tags)
    def added(self, view: Tags, event: DomainEvent[Added]) -> None:
        view.events += 1
        view.accounts = [*view.accounts, event.aggregate_id]


def make(position: int, aggregate_id: str, version: int, payload: Any) -> DomainEvent[Any]:
    name = {Added: "added", Closed: "closed", Noted: "noted", Broke: "broke"}[type(payload)]
    return DomainEvent(
        id=f"e{position}",
        aggregate_id=aggregate_id,
        type=name,
        aggregate_type="account",
        timestamp=START + timedelta(seconds=position),
        version=version,
        payload=payload,
        position=position,
    )


def plain_totals(events: Iterable[DomainEvent[Any]], *, quarantine: bool = True) -> dict[str, dict[str, Any]]:
    """What `Totals` should come to, said in the plainest way."""
    views: dict[str, dict[str, Any]] = {}
    handled: dict[str, int] = {}
    stuck: set[str] = set()
    for e in events:
        key = e.aggregate_id
        if key in stuck or e.version <= handled.get(key, 0):
            continue
        if e.type == "broke":
            if quarantine:
                stuck.add(key)
            continue
        handled[key] = e.version
        if e.type == "noted" and key not in views:
            continue
        view = views.setdefault(key, {"total": 0, "notes": 0, "tags": [], "created": e.timestamp})
        if e.type == "added":
            view["total"] += e.payload.amount
            view["tags"] = list(e.payload.tags)
        elif e.type == "noted":
            view["notes"] += 1
            view["tags"].append(e.payload.text)
        else:
            del views[key]
            continue
        view |= {"version": e.version, "position": e.position, "updated": e.timestamp}
    return views


def plain_tags(events: Iterable[DomainEvent[Any]]) -> dict[str, list[str]]:
    accounts: dict[str, list[str]] = {}
    handled: dict[str, int] = {}
    for e in events:
        if e.type != "added" or e.version <= handled.get(e.aggregate_id, 0):
            continue
        handled[e.aggregate_id] = e.version
        for tag in dict.fromkeys(e.payload.tags):
            accounts.setdefault(tag, []).append(e.aggregate_id)
    return accounts


def shown(view: Total) -> dict[str, Any]:
    return {
        "total": view.total,
        "notes": view.notes,
        "tags": view.tags,
        "created": view.created_at,
        "updated": view.updated_at,
        "version": view.version,
        "position": view.position,
    }


class ListSource(EventSource):
    """A stream that is a list of messages, given in batches of any size; `append` lets more come to those who follow it."""

    created = "2026-01-01T00:00:00Z"

    def __init__(self, events: list[DomainEvent[Any]], batch: int = 3, raw: dict[int, bytes] | None = None) -> None:
        self.events = events
        self.batch = batch
        self.raw = raw or {}
        self.reads = 0
        self.given = 0  # the last position that one who follows was given
        self.began: list[int] = []  # where those who follow began
        self.tail = 0  # where the stream ends, where its last messages are gone
        self.missing: Exception | None = None
        self.stateless = 0  # so often the server does not answer
        self.gate: asyncio.Event | None = None  # which rebuilds wait for
        self._interruption: Exception | None = None
        self._more = asyncio.Event()

    def interrupt(self, error: Exception) -> None:
        """Ends the reading of one who follows, once, by an exception."""
        self._interruption = error
        self.append()

    def append(self, *events: DomainEvent[Any]) -> None:
        self.events += events
        self._more.set()
        self._more = asyncio.Event()

    async def state(self) -> StreamState:
        if self.missing is not None:
            raise self.missing
        if self.stateless:
            self.stateless -= 1
            raise NatsUnavailable("it does not answer")
        return StreamState("list", self.created, 1, len(self.events), len(self.events))

    async def batches(self, wanted: Any, *, until: int) -> Any:
        self.reads += 1
        for start in range((wanted.start_position or 1) - 1, until, self.batch):
            if self.gate is not None:
                await self.gate.wait()
            part = self.events[start : min(start + self.batch, until)]
            yield RawBatch(list(map(self._message, part)), part[-1].position)

    async def follow(
        self, wanted: Any, identity: StreamIdentity, *, name: str = "", accept_expired: bool = False
    ) -> Any:
        """Ends each time that all has been given with a batch without messages, then waits for more."""
        self.reads += 1
        if self.missing is not None:
            raise self.missing
        if identity.created != self.created:
            raise StreamReplaced(f"expected {identity.created}, found {self.created}")
        if identity.anchor is not None:
            position = int(identity.anchor.partition(":")[0])
            if position > identity.position or await self.anchor(position) != identity.anchor:
                raise StreamReplaced(f"another message at {position}")
        self.began.append(identity.position)
        last = max(identity.position, (wanted.start_position or 1) - 1)
        while True:
            last = max(last, self.tail if last >= len(self.events) else 0)
            more = self._more
            if self._interruption is not None:
                error, self._interruption = self._interruption, None
                raise error
            while part := self.events[last : last + self.batch]:
                self.given = last = part[-1].position
                yield RawBatch(list(map(self._message, part)), last, len(self.events) - last)
            yield RawBatch((), last)
            await more.wait()

    async def anchor(self, position: int) -> str | None:
        return anchor_of(self._message(self.events[position - 1])) if 0 < position <= len(self.events) else None

    def _message(self, e: DomainEvent[Any]) -> RawMessage:
        kind, aggregate_id, name = map(SubjectScheme().encode, (e.aggregate_type, e.aggregate_id, e.type))
        return kind, aggregate_id, name, e.position, None, self.raw.get(e.position) or JsonCodec().encode(e)[0]
