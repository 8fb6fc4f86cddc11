"""Event types that nobody wants, identities that are hard to write down, payloads that projections share."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any
from unittest.mock import Mock

import pytest
from chaos_domain import PROJECTORS, Accounts, Added, ByCode, Code, Script, plain_fold, publish, shown, views_of

from refold import App, DomainEvent, JsonCodec, Projector, View, on
from refold.engine.dispatch import Dispatcher
from refold.engine.fold import Fold
from refold.jetstream.frames import frame_parser
from refold.ports import RawBatch
from refold.subjects import SubjectScheme

UNWANTED = 100_000


def unwanted(first: int, count: int) -> RawBatch:
    """Messages of as many event types, as they come off the wire, with bodies that nobody could decode."""
    parser = frame_parser(1, SubjectScheme())
    data = b"".join(
        f"MSG account.id{i}.type-{i} 1 $JS.ACK.S.C.1.{i}.{i - first + 1}.1.0 9\r\n".encode() + b"\xff{garbage\r\n"
        for i in range(first, first + count)
    )
    parser.space()[: len(data)] = data
    assert not parser.received(len(data))
    frames = parser.take()
    assert frames is not None
    assert len(frames) == count
    return RawBatch(frames, first + count - 1)


class Everything(Projector[Code], name="everything", version=1):
    """Reads every aggregate type."""

    @on(Added)
    def added(self, view: Code, event: DomainEvent[Added]) -> None:
        view.total += event.payload.amount


@pytest.mark.parametrize("projector", [Accounts, Everything])
def test_event_types_that_nobody_wants_cost_next_to_nothing(projector: type[Projector[Any]], speed: str) -> None:
    """They are dropped by their subject: not decoded, no fault, and nothing is kept of them."""
    fold: Fold[Any] = Fold(projector())
    codec = Mock(wraps=JsonCodec())
    dispatcher = Dispatcher([fold], codec, SubjectScheme())
    dispatcher.apply(unwanted(1, 10))
    codec.reset_mock()
    batches = [unwanted(first, 5_000) for first in range(11, UNWANTED, 5_000)]
    tracemalloc.start()
    try:
        for batch in batches:
            dispatcher.apply(batch)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (fold.counts.failed, fold.faults, len(fold.cache)) == (0, [], 0)
    assert not codec.method_calls
    assert kept < UNWANTED
    assert peak < 10 * UNWANTED


async def test_many_unwanted_types_amid_wanted_events(app: App, speed: str) -> None:
    app.register(*PROJECTORS)
    script = Script()
    for i in range(100):
        script.say("added", "ann", i + 1, amount=1)
        script.garbage("", "ann", b"\xff", kind=f"type {i}")
    await publish(app, script.messages)
    for result in await app.rebuild():
        assert (result.complete, result.failed) == (True, 0)
    assert await shown(app) == views_of(plain_fold(script.messages, quarantine=True))


IDENTITIES = ["a.b", "%2E", "*", ">", " ", "ü", "😀", "\n", "'; DROP TABLE x; --", '"', "\\", "\x7f", "k" * 1_500]
NO_KEYS = ["a\0b", "k" * 3_000]


async def test_ids_that_are_hard_to_write(app: App, speed: str) -> None:
    """Those that no database can hold as a key are faults where they are keys, and nowhere else."""
    app.register(Accounts, ByCode)
    script = Script()
    for account in IDENTITIES + NO_KEYS:
        script.say("added", account, 1, amount=1)
        script.say("closed", account, 2)
        script.say("added", account, 3, amount=3)
        script.say("added", account, 3, amount=3)
    await publish(app, script.messages)
    expected = plain_fold(script.messages, quarantine=True)
    bad = [expected["accounts"].views.pop(account)["position"] for account in NO_KEYS]
    accounts, codes = await app.rebuild(accept_incomplete=True)
    assert [(fault.position, fault.key, fault.parked) for fault in accounts.faults] == [
        (position + step, key, step > -2) for position, key in zip(bad, NO_KEYS, strict=True) for step in (-2, -1, 0, 1)
    ]
    assert (codes.complete, codes.duplicates) == (True, len(IDENTITIES + NO_KEYS))
    assert await shown(app, Accounts, ByCode) == {name: expected[name].views for name in ("accounts", "by_code")}


async def test_ids_spelt_in_another_way_are_the_same_ids(app: App, speed: str) -> None:
    """Percent-encoding leaves a choice, and another publisher may choose otherwise."""
    app.register(Accounts)
    script = Script()
    for version in (1, 2, 3):
        script.say("added", "x.", version, amount=1)
    context = app.client.jetstream()
    for message, spelt in zip(script.messages, ["x%2E", "%78%2E", "%78%2e"], strict=True):
        await context.publish(f"{app.scheme.prefix}.account.{spelt}.added", message.body)
    (result,) = await app.rebuild()
    (view,) = await app.views(Accounts).find_all()
    assert (result.complete, view.id, view.total) == (True, "x.", 3)


class Tree(View):
    tree: dict[str, Any] = {}


class Trees(Projector[Tree], name="trees", aggregate="account", version=1):
    @on("grown")
    def grown(self, view: Tree, event: DomainEvent[dict[str, Any]]) -> None:
        view.tree = event.payload


class MoreTrees(Projector[Tree], name="more_trees", aggregate="account", version=1):
    @on("grown")
    def grown(self, view: Tree, event: DomainEvent[dict[str, Any]]) -> None:
        view.tree = event.payload
        view.tree["more"] = True


async def test_projections_that_keep_parts_of_one_payload_do_not_share_them(app: App, speed: str) -> None:
    """Nor does a payload nested 600 deep, which can be decoded and kept, fail because there are two of them."""
    app.register(Trees, MoreTrees)
    script = Script()
    deep: Any = {}
    for _ in range(600):
        deep = {"in": deep}
    script.say("grown", "flat", 1, leaf=1)
    script.say("grown", "deep", 1, deep=deep)
    await publish(app, script.messages)
    assert [result.complete for result in await app.rebuild()] == [True, True]
    for projector, more in ((Trees, {}), (MoreTrees, {"more": True})):
        views = {view.id: view.tree for view in await app.views(projector).find_all()}
        assert views["flat"] == {"leaf": 1} | more
        assert json.dumps(views["deep"]) == json.dumps({"deep": deep} | more)
