"""The crash-schedule kit: any history, any cuts, failed commits and crashes must give the views that a plain fold gives."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import stamina

from refold.codecs.json import JsonCodec
from refold.engine.live.group import LiveLimits
from refold.engine.live.runner import Runner, RunnerParts
from refold.engine.policy import ErrorPolicies, ErrorRule, Retry
from refold.engine.projector import Projector
from refold.errors import ConfigurationError, RowRefused
from refold.event import DomainEvent
from refold.ports import Database, Status
from refold.subjects import SubjectScheme
from refold.testing.determinism import indeterminism
from refold.testing.faults import FaultyDatabase, Schedule
from refold.testing.history import Past, decoded, events_of, told_events
from refold.testing.plain import PlainFold
from refold.testing.scratch import scratch_database
from refold.testing.stream import NAME, ListStream
from refold.view import Row, View

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = ["check_projector"]

_APP: Final = "testing"
_SECONDS: Final = 60.0
"""How long one history may take."""


def check_projector(
    projector: Callable[[], Projector[Any]],
    *,
    payloads: Mapping[type | str, SearchStrategy[Any]] | None = None,
    histories: SearchStrategy[list[Past]] | None = None,
    history: Sequence[Past] | None = None,
    schedule: Schedule | None = None,
    database_url: str = "memory://",
    deterministic: bool = True,
    max_examples: int | None = None,
) -> None:
    """Runs a projector under many histories and schedules, and compares its views, row for row, with a plain fold.

    For each example, refold's own runner builds the projection from the beginning of the history and is then fed the rest,
    while batches are cut anywhere, events come again, commits fail (before or after they were done), and the process dies
    and another goes on. Hypothesis makes the examples, shrinks one that fails, prints it, and tries it first the next time.
    The failure also says the line that runs just that example. To be called from a plain ``def test_…``, not an async one.

    Args:
        projector: the class, or a function that gives an instance; each process gets one of its own.
        payloads: how payloads are made, by class or event type name; by default from the types of the classes' fields.
        histories: how histories are made, instead.
        history: one history, instead.
        schedule: one schedule; with `history`, that one example is run, and Hypothesis is not needed.
        database_url: where views go: memory, a temporary file for any ``sqlite:``, a schema of its own for a PostgreSQL.
        deterministic: also find handlers that use the clock, randomness or I/O, see `check_deterministic`.
        max_examples: how many; by default 200 in memory, and 20 in a database.

    Raises:
        AssertionError: views are not those of the plain fold; a handler is not deterministic; a row cannot be stored.
        ConfigurationError: Hypothesis is not installed; called within a running event loop.
    """
    _refuse_running_loop()

    def check(history: Sequence[Past], schedule: Schedule) -> None:
        with _quietly():
            asyncio.run(_check(projector, list(history), schedule, database_url, deterministic))

    if history is not None and schedule is not None:
        check(history, schedule)
        return
    try:
        from hypothesis import HealthCheck, Phase, given, settings
        from hypothesis import strategies as st

        from refold.testing import strategies
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("hypothesis"):
            raise
        raise ConfigurationError(
            "check_projector makes histories with Hypothesis: pip install 'refold[testing]', or give history= and schedule="
        ) from error
    one = projector()
    if history is not None:
        histories = st.just(list(history))
    # Hypothesis keeps what failed under the function's name.
    check.__name__ = check.__qualname__ = f"check_projector_{one.spec.name}"
    settled = settings(
        max_examples=max_examples or (200 if database_url == "memory://" else 20),
        deadline=None,
        report_multiple_bugs=False,
        phases=[phase for phase in Phase if phase is not Phase.explain],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.nested_given],
    )
    settled(
        given(
            history=strategies.histories(one, payloads) if histories is None else histories,
            schedule=strategies.schedules() if schedule is None else st.just(schedule),
        )(check)
    )()


async def _check(
    projector: Callable[[], Projector[Any]],
    history: list[Past],
    schedule: Schedule,
    database_url: str,
    deterministic: bool,
) -> None:
    spec = projector().spec
    events = events_of(history, spec)
    again = f"check_projector({_named(projector)}, history={history!r}, schedule={schedule!r})"
    with _told(spec.name, events, schedule, again):
        reason = indeterminism(projector(), events) if deterministic else ""
        if reason:
            raise AssertionError(reason)
        plain = PlainFold(projector())
        plain.feed_all(decoded(spec, events))
        if plain.unstorable is not None:
            position, error = plain.unstorable
            raise AssertionError(f"made a view {error.key!r} at position {position} that no database takes: {error}")
        if plain.halted is not None:  # the projection stops there, and waits for a person
            events = [event for event in events if event.position < plain.halted]
            plain = PlainFold(projector())
            plain.feed_all(decoded(spec, events))
        _compare_aggregates(projector(), events, plain)
        async with scratch_database(database_url) as database:
            found, letters = await _lived(projector, events, schedule, database)
        _compare(plain, found)
        expected = [(failure.position, failure.key) for failure in plain.failures]
        if sorted(letters) != sorted(expected):
            raise AssertionError(
                f"has other dead letters (position, key) than a plain fold: expected {sorted(expected)}, found {sorted(letters)}"
            )


# -- Running -----------------------------------------------------------------------------------------------------------


async def _lived(
    projector: Callable[[], Projector[Any]], events: Sequence[DomainEvent[Any]], schedule: Schedule, inner: Database
) -> tuple[dict[str, Row], list[tuple[int, str]]]:
    """Rows by key, and the positions and keys of dead letters, of a stream of which a part came while it was followed."""
    database = FaultyDatabase(inner, schedule.fates)
    stream = ListStream(events[: schedule.built], schedule.cuts)

    async def publish() -> None:
        for event in events[schedule.built :]:
            await asyncio.sleep(0)
            stream.append(event)

    publishing = asyncio.create_task(publish())
    try:
        async with asyncio.timeout(_SECONDS):
            while not await _ran(projector, stream, database, events, schedule):
                database.revive()
    finally:
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
    spec = projector().spec
    views = await inner.repository(spec.schema, spec.name).find_all()
    letters = await inner.letters(_APP, spec.name)
    return {view.id: spec.schema.freeze(view) for view in views}, [(one.position, one.key) for one in letters]


async def _ran(
    projector: Callable[[], Projector[Any]],
    stream: ListStream,
    database: FaultyDatabase,
    events: Sequence[DomainEvent[Any]],
    schedule: Schedule,
) -> bool:
    """One process: whether it got to the end of the history; False when it died."""
    own = _impatient(projector())
    name, until = own.spec.name, events[-1].position if events else 0
    parts = RunnerParts(
        source=stream,
        store=database.as_database,
        codec=JsonCodec(),
        scheme=SubjectScheme(),
        app=_APP,
        stream=NAME,
        limits=LiveLimits(batch_events=schedule.batch, idle_seconds=0.0),
    )
    stop, runner = asyncio.Event(), Runner(parts, [own])
    running = asyncio.create_task(runner.run(stop))
    try:
        while not (running.done() or database.died.is_set()):
            at = await database.as_database.positions(_APP, [name])
            if at.get(name, -1) >= until:
                stop.set()
                await asyncio.wait([running])
                if not database.died.is_set():  # as it may on its last steps
                    running.result()
                return True
            status, reason = runner.standing[name]
            if status is Status.FAULTED:
                raise AssertionError(f"stopped: {reason}")
            await asyncio.sleep(0)
        if not database.died.is_set():
            running.result()
            raise AssertionError("was not run on, for no known reason")
        return False
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _impatient(projector: Projector[Any]) -> Projector[Any]:
    """A projector that tries failed events again at once."""
    policies = projector.spec.policies

    def now(rule: ErrorRule) -> ErrorRule:
        return dataclasses.replace(rule, wait_initial=0.0, wait_max=0.0) if isinstance(rule, Retry) else rule

    quick = ErrorPolicies(now(policies.default), {kind: now(rule) for kind, rule in policies.by_type.items()})
    projector.spec = dataclasses.replace(projector.spec, policies=quick)  # type: ignore[misc]  # this instance's alone
    return projector


# -- Comparing and telling ---------------------------------------------------------------------------------------------


def _compare(plain: PlainFold, found: dict[str, Row]) -> None:
    expected = plain.rows
    if found == expected:
        return
    lines = []
    for key in sorted({*expected, *found}):
        if expected.get(key) != found.get(key):
            lines += [
                f"  {key!r}: expected {expected.get(key, 'no row')}",
                f"  {' ' * len(repr(key))}  found    {found.get(key, 'no row')}",
            ]
    raise AssertionError("has other views than a plain fold:\n" + "\n".join(lines))


def _compare_aggregates(projector: Projector[Any], events: Sequence[DomainEvent[Any]], plain: PlainFold) -> None:
    """What `project()` makes of each aggregate is the same, where that can be asked."""
    spec = projector.spec
    if spec.keyed or plain.failures or spec.wanted.start_time or spec.wanted.start_position:
        return
    for kind, aggregate_id in sorted({(event.aggregate_type, event.aggregate_id) for event in events}):
        view: View | None = projector.project(kind, aggregate_id, decoded(spec, events))
        if view != plain.views.get(aggregate_id):
            raise AssertionError(
                f"makes {view!r} of {kind} {aggregate_id!r} by project(), a plain fold {plain.views.get(aggregate_id)!r}"
            )


def _named(projector: Callable[[], Projector[Any]]) -> str:
    return getattr(projector, "__name__", repr(projector))


@contextmanager
def _told(name: str, events: Sequence[DomainEvent[Any]], schedule: Schedule, again: str) -> Iterator[None]:
    """Adds to a failure what led to it, and how to have it again."""
    __tracebackhide__ = True
    try:
        yield
    except (AssertionError, TimeoutError, RowRefused) as error:
        what = str(error) or f"did not get to the end within {_SECONDS:g} s"
        raise AssertionError(
            f"{name} {what}\nhistory:\n{told_events(events)}\n{schedule}\nto run it again: {again}"
        ) from None


@contextmanager
def _quietly() -> Iterator[None]:
    """Without waiting before commits are tried again, and without the log lines of failures that are meant."""
    testing, level = stamina.is_testing(), logging.root.manager.disable
    stamina.set_testing(True, attempts=1000)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
        stamina.set_testing(testing)


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigurationError("check_projector runs event loops of its own: call it from a plain def, not an async one")
