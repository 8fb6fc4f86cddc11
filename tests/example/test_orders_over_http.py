"""The order service of `examples/orders`, over real HTTP, NATS and databases."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from example_support import until

from orders.events import OrderPaid
from orders.views import Orders, make_app
from refold import App, Wanted, alongside

CUPS = [{"product": "cup", "quantity": 2, "price": "7.50"}]


async def place(client: httpx.AsyncClient, customer: str = "ann", **order: Any) -> dict[str, Any]:
    """Places an order; what was stored."""
    answer = await client.post("/orders", json={"customer": customer, "lines": CUPS} | order)
    assert answer.status_code == 201, answer.text
    stored: dict[str, Any] = answer.json()
    return stored


async def command(
    client: httpx.AsyncClient, order: dict[str, Any], what: str, version: int | None = None
) -> httpx.Response:
    bodies = {"ship": {"tracking": "parcel 7"}, "cancel": {"reason": "too late"}}
    params = {} if version is None else {"version": version}
    return await client.post(f"/orders/{order['id']}/{what}", json=bodies.get(what), params=params)


async def read(client: httpx.AsyncClient, path: str, **params: Any) -> Any:
    answer = await client.get(path, params=params or None)
    assert answer.status_code == 200, answer.text
    return answer.json()


# -- Commands ----------------------------------------------------------------------------------------------------------


async def test_an_order_is_placed_paid_and_shipped(client: httpx.AsyncClient) -> None:
    answer = await client.post("/orders", json={"customer": "ann", "lines": CUPS})
    order = answer.json()
    view = await read(client, answer.headers["Location"])  # which waits for the view
    assert (view["customer"], view["status"], view["total"], view["version"]) == ("ann", "placed", "15.00", 1)
    assert view["lines"] == CUPS

    paid = (await command(client, order, "pay", version=1)).json()
    assert (paid["id"], paid["version"]) == (order["id"], 2)
    shipped = (await command(client, order, "ship")).json()  # though no view may show that it is paid
    view = await read(client, f"/orders/{order['id']}", min_position=shipped["position"])
    assert (view["status"], view["note"], view["version"]) == ("shipped", "parcel 7", 3)


@pytest.mark.parametrize(
    ("before", "refused"), [([], "ship"), (["pay"], "pay"), (["pay", "ship"], "cancel"), (["cancel"], "pay")]
)
async def test_what_the_status_does_not_allow_is_a_conflict(
    client: httpx.AsyncClient, before: list[str], refused: str
) -> None:
    order = await place(client)
    for what in before:
        assert (await command(client, order, what)).status_code == 200
    answer = await command(client, order, refused)
    assert answer.status_code == 409
    assert "cannot be" in answer.json()["detail"]


async def test_who_decided_upon_an_old_version_is_told(client: httpx.AsyncClient) -> None:
    order = await place(client)
    await command(client, order, "pay")
    answer = await command(client, order, "cancel", version=1)
    assert answer.status_code == 409
    assert "is at version 2, expected 1" in answer.json()["detail"]
    assert (await command(client, order, "cancel", version=2)).status_code == 200


async def test_of_commands_at_once_one_wins(client: httpx.AsyncClient) -> None:
    order = await place(client)
    answers = await asyncio.gather(*(command(client, order, what, version=1) for what in ["pay", "cancel"] * 3))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409, 409]


async def test_unknown_orders_are_not_found(client: httpx.AsyncClient) -> None:
    unknown = {"id": "0" * 32}
    assert (await command(client, unknown, "pay")).status_code == 404
    assert (await client.get(f"/orders/{unknown['id']}")).status_code == 404
    assert (await client.get("/orders/no-id")).status_code == 422
    assert (await client.get("/orders", params={"customer": "a\0b"})).status_code == 422


@pytest.mark.parametrize(
    "order",
    [
        {"customer": ""},
        {"customer": "a\0b"},
        {"customer": "a" * 101},
        {"lines": []},
        {"lines": [CUPS[0] | {"quantity": 0}]},
        {"lines": [CUPS[0] | {"price": "-1"}]},
        {"lines": [CUPS[0] | {"price": "NaN"}]},
        {"lines": [CUPS[0] | {"price": "1e30"}]},
    ],
)
async def test_what_no_view_could_hold_is_refused(client: httpx.AsyncClient, order: dict[str, Any]) -> None:
    answer = await client.post("/orders", json={"customer": "ann", "lines": CUPS} | order)
    assert answer.status_code == 422
    assert await read(client, "/orders") == {"items": [], "total": 0, "offset": 0, "limit": 20, "has_more": False}


# -- Queries -----------------------------------------------------------------------------------------------------------


async def test_orders_are_listed_by_customer_and_page(client: httpx.AsyncClient) -> None:
    stored = [await place(client, customer) for customer in ("ann", "bob", "ann", "ann")]
    mine = [one["id"] for one in (stored[3], stored[2], stored[0])]
    params = {"customer": "ann", "limit": 2, "min_position": stored[-1]["position"]}
    first, second = [await read(client, "/orders", offset=offset, **params) for offset in (0, 2)]
    assert [order["id"] for order in first["items"]] == mine[:2]
    assert [order["id"] for order in second["items"]] == mine[2:]
    assert (first["total"], first["has_more"], second["has_more"]) == (3, True, False)
    assert (await read(client, "/orders"))["total"] == 4
    assert (await read(client, "/orders", customer="nobody"))["items"] == []


async def test_days_sum_orders_up(client: httpx.AsyncClient) -> None:
    orders = [await place(client), await place(client)]
    ack = (await command(client, orders[0], "cancel")).json()
    days = await read(client, "/days", min_position=ack["position"])
    assert sum(day["orders"] for day in days) == 2  # of two days, at midnight
    assert sum(day["cancelled"] for day in days) == 1
    assert sum(float(day["total"]) for day in days) == 30


async def test_one_reads_ones_own_writes(client: httpx.AsyncClient) -> None:
    for number in range(1, 21):
        stored = await place(client)
        assert (await read(client, "/orders", limit=1, min_position=stored["position"]))["total"] == number


async def test_a_position_that_does_not_come_is_told(client: httpx.AsyncClient) -> None:
    stored = await place(client)
    answer = await client.get("/orders", params={"min_position": stored["position"] + 1})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert f"waiting for position {stored['position'] + 1}" in answer.json()["detail"]


# -- Running -----------------------------------------------------------------------------------------------------------


async def test_health_tells_how_projections_stand(client: httpx.AsyncClient, app: App) -> None:
    stored = await place(client)
    await read(client, "/orders", min_position=stored["position"])
    health = await until(lambda health: bool(health["well"]), client)
    assert [one["projection"] for one in health["projections"]] == ["orders", "days"]
    assert all(one["lag_events"] == 0 for one in health["projections"])
    assert (await client.get("/health")).status_code == 200

    await app.order(Orders, Wanted.PAUSE)
    health = await until(lambda health: not health["well"], client)
    assert health["projections"][0]["status"] == "paused"
    assert (await client.get("/health")).status_code == 503
    await app.order(Orders, Wanted.RUN)
    await until(lambda health: bool(health["well"]), client)


async def test_views_are_read_while_nats_is_away(serve: Any, own_nats: Any, sqlite_url: str) -> None:
    async with own_nats() as nats:
        async with serve(make_app(nats_url=nats.url, database_url=sqlite_url, environment=False)) as client:
            stored = await place(client)
            await read(client, "/orders", min_position=stored["position"])
            await nats.stop()
            assert (await read(client, "/orders"))["total"] == 1
            health = await until(lambda health: not health["well"], client)
            assert all(one["unknown"] for one in health["projections"])
            await nats.start()
            await until(lambda health: bool(health["well"]), client)
            stored = await place(client)
            assert (await read(client, "/orders", min_position=stored["position"]))["total"] == 2


async def test_every_night_all_views_are_built_anew(client: httpx.AsyncClient, app: App, clock: Any) -> None:
    stored = await place(client)
    view = await read(client, f"/orders/{stored['id']}", min_position=stored["position"])
    before = [one.generation for one in await app.status()]
    nightly = (await client.get("/health")).json()["nightly"]
    assert (nightly["due_at"], nightly["status"]) == ("2026-03-02T02:00:00Z", "waiting")  # 3 o'clock in Berlin

    clock.set(datetime(2026, 3, 2, 2, tzinfo=UTC))
    health = await until(lambda health: health["nightly"]["completed"] == 1, client)
    assert health["nightly"]["due_at"] == "2026-03-03T02:00:00Z"
    after = [one.generation for one in await app.status()]
    assert all(new > old for old, new in zip(before, after, strict=True))
    assert await read(client, f"/orders/{stored['id']}") == view

    more = await place(client)  # live running goes on
    assert (await read(client, "/orders", min_position=more["position"]))["total"] == 2


async def test_what_is_stored_outlives_the_service(serve: Any, app: App) -> None:
    async with serve(app) as client:
        stored = await place(client)
    async with serve(app) as client:
        answer = await command(client, stored, "pay", version=1)
        view = await read(client, f"/orders/{stored['id']}", min_position=answer.json()["position"])
        assert (view["status"], view["version"]) == ("paid", 2)


async def test_a_second_process_serves_while_the_first_one_projects(serve: Any, app: App) -> None:
    async with app:
        await app.create_stream()
        await app.rebuild()
    async with alongside(app.twin()) as first, serve(app) as client:
        stored = await place(client)
        ack = await first.publish("order", stored["id"], [OrderPaid()], expected_version=1)
        assert (await read(client, f"/orders/{stored['id']}", min_position=ack.position))["status"] == "paid"


async def test_the_page_and_the_description_are_there(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "<table>" in page.text
    paths = (await read(client, "/openapi.json"))["paths"]
    assert sorted(paths) == [
        "/days",
        "/health",
        "/orders",
        "/orders/{order_id}",
        "/orders/{order_id}/cancel",
        "/orders/{order_id}/pay",
        "/orders/{order_id}/ship",
    ]
