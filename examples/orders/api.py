"""The HTTP API: commands publish events, queries read views, and `min_position` ties the two."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Final, TypedDict

from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from refold import App, Condition, Order, PublishAck, Scheduler, SequentialScheduler, Status, alongside
from refold.errors import StoreError, StreamError, VersionConflict, WaitTimeout
from refold.tasks import HealthStatus

from . import commands, schemas
from .events import Line, OrderCancelled, OrderPaid, OrderShipped
from .nightly import nightly
from .views import Days, Orders

_STATUS_CODES: Final[dict[type[Exception], int]] = {
    commands.UnknownOrder: 404,
    commands.NotPossible: 409,
    VersionConflict: 409,
    WaitTimeout: 503,
    StreamError: 503,
    StoreError: 503,
}
_WELL: Final = {Status.LIVE, Status.CATCHING_UP}


class State(TypedDict):
    """What is there while the API is up."""

    app: App
    scheduler: Scheduler


@asynccontextmanager
async def running(app: App, scheduler: Scheduler | None = None) -> AsyncIterator[State]:
    """An app whose projections run, and are built anew every night, as long as the block lasts."""
    async with app:
        await app.create_stream()
    async with alongside(app), scheduler or SequentialScheduler() as tasks:
        await tasks.schedule(nightly(app))
        yield {"app": app, "scheduler": tasks}


def create_api(lifespan: Callable[[FastAPI], AbstractAsyncContextManager[State]]) -> FastAPI:
    """The API; its lifespan is `running`, or something around it."""
    api = FastAPI(title="Orders", lifespan=lifespan)
    api.include_router(router)
    for kind, code in _STATUS_CODES.items():
        api.add_exception_handler(kind, partial(_refuse, code))
    return api


async def _refuse(code: int, request: Request, error: Exception) -> Response:
    headers = {"Retry-After": "1"} if code == 503 else {}
    return JSONResponse({"detail": str(error)}, code, headers)


# -- What routes ask for -----------------------------------------------------------------------------------------------


async def _app(request: Request) -> App:
    app: App = request.state.app
    return app


async def _scheduler(request: Request) -> Scheduler:
    scheduler: Scheduler = request.state.scheduler
    return scheduler


TheApp = Annotated[App, Depends(_app)]


async def _caught_up(
    app: TheApp,
    min_position: Annotated[int, Query(ge=0, description="A command's `position`: its event is in what you read.")] = 0,
) -> App:
    """The app, when its views include a position: so one reads one's own writes."""
    if min_position:
        await app.wait_for([Orders, Days], min_position, timeout=2)
    return app


CaughtUp = Annotated[App, Depends(_caught_up)]
Seen = Annotated[int | None, Query(ge=1, alias="version", description="The version that you decided upon.")]

router = APIRouter()

# -- Commands ----------------------------------------------------------------------------------------------------------


@router.post("/orders", status_code=201)
async def place(order: schemas.NewOrder, app: TheApp, response: Response) -> schemas.Stored:
    lines = [Line(line.product, line.quantity, line.price) for line in order.lines]
    order_id, ack = await commands.place(app, order.customer, lines)
    response.headers["Location"] = f"/orders/{order_id}?min_position={ack.position}"
    return _stored(order_id, ack)


@router.post("/orders/{order_id}/pay")
async def pay(order_id: schemas.OrderId, app: TheApp, seen: Seen = None) -> schemas.Stored:
    return _stored(order_id, await commands.go_on(app, order_id, OrderPaid(), seen))


@router.post("/orders/{order_id}/ship")
async def ship(
    order_id: schemas.OrderId, tracking: Annotated[schemas.Text, Body(embed=True)], app: TheApp, seen: Seen = None
) -> schemas.Stored:
    return _stored(order_id, await commands.go_on(app, order_id, OrderShipped(tracking), seen))


@router.post("/orders/{order_id}/cancel")
async def cancel(
    order_id: schemas.OrderId, reason: Annotated[schemas.Text, Body(embed=True)], app: TheApp, seen: Seen = None
) -> schemas.Stored:
    return _stored(order_id, await commands.go_on(app, order_id, OrderCancelled(reason), seen))


def _stored(order_id: str, ack: PublishAck) -> schemas.Stored:
    return schemas.Stored(id=order_id, version=ack.version, position=ack.position)


# -- Queries -----------------------------------------------------------------------------------------------------------


@router.get("/orders")
async def list_orders(
    app: CaughtUp,
    customer: schemas.Text | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> schemas.OrderPage:
    """Orders, the newest first."""
    conditions = [] if customer is None else [Condition("customer", "=", customer)]
    newest = [Order("created_at", descending=True)]
    page = await app.views(Orders).page(*conditions, order_by=newest, limit=limit, offset=offset)
    return schemas.OrderPage.model_validate(page)


@router.get("/orders/{order_id}")
async def one_order(order_id: schemas.OrderId, app: CaughtUp) -> schemas.Order:
    view = await app.views(Orders).find_by_id(order_id)
    if view is None:
        raise HTTPException(404, f"there is no order {order_id!r}")
    return schemas.Order.model_validate(view)


@router.get("/days")
async def list_days(app: CaughtUp, limit: Annotated[int, Query(ge=1, le=100)] = 31) -> list[schemas.Day]:
    """Days on which orders were placed or cancelled, the last first."""
    days = await app.views(Days).find(order_by=[Order("id", descending=True)], limit=limit)
    return [schemas.Day.model_validate(day) for day in days]


@router.get("/health")
async def health(
    app: TheApp, scheduler: Annotated[Scheduler, Depends(_scheduler)], response: Response
) -> schemas.Health:
    """Whether views are up to date; 503 where somebody should look."""
    projections = await app.status()
    tasks = scheduler.health
    well = tasks.status is not HealthStatus.RED and all(p.status in _WELL and not p.unknown for p in projections)
    response.status_code = 200 if well else 503
    task = await scheduler.status("nightly")
    return schemas.Health(
        well=well,
        projections=[schemas.Projection.model_validate(one) for one in projections],
        scheduler=list(tasks.reasons),
        nightly=schemas.Nightly.model_validate(task),
    )


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html"))
