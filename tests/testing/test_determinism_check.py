"""Handlers that use the clock, randomness or I/O are named, with call and line; others are left alone."""

from __future__ import annotations

import asyncio
import datetime
import functools
import logging
import os
import pathlib
import random
import secrets
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from kit_domain import Customer, Customers, Order, Orders, Paid, Placed

from refold import DomainEvent, Projector, View, on
from refold.testing import check_deterministic, given, impurities
from refold.testing.determinism import Watch

IMPURE: dict[str, tuple[Callable[[], Any], str, str]] = {
    "now": (lambda: datetime.datetime.now(datetime.UTC), "the clock", "datetime.now"),
    "today": (lambda: datetime.date.today(), "the clock", "date.today"),
    "time": (lambda: time.time(), "the clock", "time.time"),
    "monotonic": (lambda: time.monotonic_ns(), "the clock", "time.monotonic_ns"),
    "random": (lambda: random.random(), "randomness", "random.random"),
    "choice": (lambda: random.choice([1, 2]), "randomness", "random.Random.choice (random.getrandbits)"),
    "system": (lambda: random.SystemRandom().random(), "randomness", "random.SystemRandom.random (os.urandom)"),
    "uuid1": (lambda: uuid.uuid1(), "randomness", "uuid.uuid1"),
    "uuid4": (lambda: uuid.uuid4(), "randomness", "uuid.uuid4 (os.urandom)"),
    "urandom": (lambda: os.urandom(1), "randomness", "os.urandom"),
    "secrets": (lambda: secrets.token_hex(1), "randomness", "secrets.token_hex (os.urandom)"),
    "open": (lambda: open(os.devnull).close(), "I/O", "open"),
    "path": (lambda: pathlib.Path(os.devnull).read_text(), "I/O", "pathlib.Path.read_text"),
    "listdir": (lambda: os.listdir(os.sep), "I/O", "os.listdir"),
    "socket": (lambda: socket.create_server(("127.0.0.1", 0)).close(), "I/O", "socket.create_server"),
    "subprocess": (lambda: subprocess.run([sys.executable, "-c", ""]), "I/O", "subprocess.run"),
    "sqlite": (lambda: sqlite3.connect(":memory:").close(), "I/O", "sqlite3.connect"),
}

PURE: dict[str, Callable[[], Any]] = {
    "seeded": lambda: random.Random(7).random(),
    "uuid5": lambda: uuid.uuid5(uuid.NAMESPACE_DNS, "x"),
    "logged": lambda: logging.getLogger("kit").info("a line"),
    "imported": lambda: (sys.modules.pop("this_is_pure", None), __import__("colorsys")),
    "computed": lambda: sorted(str(n) for n in range(9)),
    "from a time": lambda: datetime.datetime.fromtimestamp(0, datetime.UTC).isoformat(),
    "fs path": lambda: os.path.join("a", os.fspath(pathlib.PurePath("b"))),
}


@pytest.mark.parametrize("name", IMPURE)
def test_what_is_impure_is_named(name: str) -> None:
    function, kind, call = IMPURE[name]
    watch = Watch()
    watch.call("placed", function)
    found = next(iter(watch.found))
    assert (found.kind, found.handler, found.file) == (kind, "placed", __file__)
    assert found.call.startswith(call)
    assert found.source.startswith(f'"{name}": (lambda:')


@pytest.mark.parametrize("name", PURE)
def test_what_is_pure_is_left_alone(name: str) -> None:
    watch = Watch()
    watch.call("placed", PURE[name])
    assert not watch.found


def test_the_profile_function_of_others_comes_back() -> None:
    calls: list[str] = []

    def mine(frame: Any, event: str, argument: Any) -> None:
        calls.append(event)

    sys.setprofile(mine)
    try:
        with pytest.raises(ZeroDivisionError):
            Watch().call("placed", lambda: 1 // 0)
        assert sys.getprofile() is mine
    finally:
        sys.setprofile(None)


def a_helper() -> int:
    return time.time_ns()


class Stamped(Projector[Order], name="stamped", aggregate="order", version=1, predicate=lambda e: time.time() > 0):
    @on(Placed)
    def placed(self, view: Order, event: DomainEvent[Placed]) -> None:
        view.notes = [str(a_helper())]


def test_handlers_predicates_and_helpers_are_found_in_a_projector() -> None:
    events = given(Stamped, ("1", Placed("ann", 1))).events  # type: ignore[arg-type]
    told = {(one.handler, one.call, one.source) for one in impurities(Stamped(), events)}
    assert told == {
        ("placed", "time.time_ns", "return time.time_ns()"),
        ("predicate", "time.time", told_line()),
    }
    with pytest.raises(
        AssertionError, match=r"(?s)placed uses the clock: time.time_ns\n.*test_determinism_check.py:\d+"
    ):
        check_deterministic(Stamped(), events)


def told_line() -> str:
    lines = pathlib.Path(__file__).read_text("utf-8").splitlines()
    return next(line for line in lines if line.startswith("class Stamped"))


class Random(View):
    value: float = 0.0


class Keeping(Projector[Random], name="keeping", aggregate="order", version=1):
    def __init__(self) -> None:
        self.kept = 0

    @on(Placed)
    def placed(self, view: Random, event: DomainEvent[Placed]) -> None:
        self.kept += 1
        view.value = float(self.kept)


class Hidden(Projector[Random], name="hidden", aggregate="order", version=1):
    draw = staticmethod(functools.partial(next, iter(random.random, 2)))  # C code calls C code

    @on(Placed)
    def placed(self, view: Random, event: DomainEvent[Placed]) -> None:
        view.value = self.draw()


@pytest.mark.parametrize("projector", [Keeping, Hidden])
def test_what_is_not_seen_is_found_by_folding_twice(projector: type[Projector[Any]]) -> None:
    events = given(projector, ("1", Placed("ann", 1))).events  # type: ignore[arg-type]
    assert impurities(projector(), events) == []
    with pytest.raises(AssertionError, match="folded twice, the same events give other views"):
        check_deterministic(projector(), events)


def test_sound_projectors_pass() -> None:
    past = [("order", "1", Placed("ann", 1)), ("order", "1", Paid(1, ["ann"]))]  # type: ignore[arg-type]
    for projector in (Orders, Customers):
        check_deterministic(projector(), given(projector, *past).events)  # type: ignore[arg-type]
    assert given(Customers, *past).view("ann") == given(Customers, *past).view("ann")  # type: ignore[arg-type]
    assert isinstance(given(Customers, *past).view("ann"), Customer)  # type: ignore[arg-type]


def test_it_does_not_disturb_an_event_loop() -> None:
    async def main() -> None:
        watch = Watch()
        watch.call("placed", lambda: None)
        await asyncio.sleep(0)
        assert not watch.found

    asyncio.run(main())
