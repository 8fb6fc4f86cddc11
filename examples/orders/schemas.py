"""What goes over HTTP; what people send is checked here, so that every event can be used."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from refold import Status, TaskStatus

from .events import Line

Text = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^\P{Cc}{1,100}$")]
OrderId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


class NewLine(BaseModel):
    product: Text
    quantity: Annotated[int, Field(gt=0, le=1000)]
    price: Annotated[Decimal, Field(ge=0, max_digits=8, decimal_places=2)]


class NewOrder(BaseModel):
    customer: Text
    lines: Annotated[list[NewLine], Field(min_length=1, max_length=100)]


class Stored(BaseModel):
    """An event was stored; give its position as `min_position` to read views that include it."""

    id: str
    version: int
    position: int


class _OfView(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Order(_OfView):
    id: str
    customer: str
    status: str
    lines: list[Line]
    total: Decimal
    note: str
    created_at: datetime
    updated_at: datetime
    version: int


class OrderPage(_OfView):
    items: Sequence[Order]
    total: int
    offset: int
    limit: int
    has_more: bool


class Day(_OfView):
    id: str
    orders: int
    cancelled: int
    total: Decimal


class Projection(_OfView):
    projection: str
    status: Status
    reason: str
    position: int | None
    lag_events: int | None
    lag_seconds: float | None
    unknown: str
    dead_letters: int


class Nightly(_OfView):
    status: TaskStatus
    due_at: datetime
    completed: int
    failed: int
    last_error: str | None


class Health(BaseModel):
    well: bool
    projections: list[Projection]
    scheduler: list[str]
    nightly: Nightly
