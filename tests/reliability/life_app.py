"""The app whose processes are killed: imported by each of them from the folder of its test.

Three projections of one stream: accounts (a view an aggregate), tags (one event into several views), and entries, one row an
event, from which a trigger in the database writes the applied-log in the same transaction.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import msgspec

from refold import DELETE, App, DomainEvent, Index, Projector, View, event, on


@event("added")
class Added(msgspec.Struct, gc=False):
    amount: Decimal
    tags: list[str] = []


@event("noted")
class Noted(msgspec.Struct, gc=False):
    text: str


@event("closed")
class Closed(msgspec.Struct, gc=False):
    pass


@event("broken")
class Broken(msgspec.Struct, gc=False):
    pass


class Account(View):
    total: Decimal = Decimal(0)
    last: Annotated[str, Index()] = ""
    notes: list[str] = []


class Tag(View):
    events: int = 0
    total: Decimal = Decimal(0)


class Entry(View):
    applied: int = 0
    account: str = ""


class Accounts(Projector[Account], name="accounts", aggregate="account"):
    @on(Added)
    def added(self, view: Account, event: DomainEvent[Added]) -> None:
        view.total += event.payload.amount
        view.last = event.id

    @on(Noted, create=False)
    def noted(self, view: Account, event: DomainEvent[Noted]) -> None:
        view.notes.append(event.payload.text)

    @on(Closed)
    def closed(self, view: Account, event: DomainEvent[Closed]) -> object:
        return DELETE

    @on(Broken)
    def broken(self, view: Account, event: DomainEvent[Broken]) -> None:
        view.total += 1_000_000
        raise ValueError("broken on purpose")


class Tags(Projector[Tag], name="tags", aggregate="account"):
    @on(Added, keys=lambda event: event.payload.tags)
    def added(self, view: Tag, event: DomainEvent[Added]) -> None:
        view.events += 1
        view.total += event.payload.amount


class Entries(Projector[Entry], name="entries", aggregate="account"):
    @on(Added, Noted, Closed, Broken, key=lambda event: event.id)
    def any(self, view: Entry, event: DomainEvent[Added | Noted | Closed | Broken]) -> None:
        view.applied += 1
        view.account = event.aggregate_id


PROJECTORS = (Accounts, Tags, Entries)

app = App("life")
app.register(*PROJECTORS)
