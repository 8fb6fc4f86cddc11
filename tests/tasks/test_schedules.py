"""When tasks are due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold.errors import ConfigurationError
from refold.tasks import At, Cron, Every, Now, Schedule


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


def due_times(schedule: Schedule, now: datetime, number: int) -> list[datetime]:
    found = [schedule.first(now)]
    while len(found) < number:
        following = schedule.after(found[-1])
        assert following is not None
        found.append(following)
    return found


NOON = utc(2026, 3, 1, 12)


def test_now_is_due_once_at_once() -> None:
    assert (Now().first(NOON), Now().after(NOON)) == (NOON, None)


def test_a_time_is_due_once_in_whatever_zone_it_is_said() -> None:
    schedule = At(datetime(2026, 3, 1, 15, tzinfo=timezone(timedelta(hours=2))))
    first = schedule.first(NOON)
    assert (first, first.tzinfo, schedule.after(first)) == (utc(2026, 3, 1, 13), UTC, None)


def test_an_interval_begins_after_itself_or_at_its_start() -> None:
    assert due_times(Every(90), NOON, 2) == [NOON + timedelta(seconds=90), NOON + timedelta(seconds=180)]
    assert Every(timedelta(hours=1), start=utc(2026, 3, 2)).first(NOON) == utc(2026, 3, 2)
    assert Every(timedelta(hours=5), start=utc(2026, 3, 1)).first(NOON) == utc(2026, 3, 1, 15)
    assert Every(timedelta(hours=6), start=utc(2026, 3, 1)).first(NOON) == NOON


@given(
    st.timedeltas(timedelta(microseconds=1), timedelta(days=9)), st.timedeltas(-timedelta(days=9), timedelta(days=9))
)
def test_an_interval_stays_on_its_grid(interval: timedelta, away: timedelta) -> None:
    start = NOON + away
    first = Every(interval, start=start).first(NOON)
    assert first >= NOON
    assert (first - start) % interval == timedelta()
    assert start > NOON or first - interval < NOON


@given(st.timedeltas(timedelta(seconds=1), timedelta(hours=1)), st.timedeltas(timedelta(0), timedelta(hours=2)))
def test_what_was_missed_is_counted_the_same_by_arithmetic_and_one_by_one(interval: timedelta, late: timedelta) -> None:
    every = Every(interval)
    assert every.latest(NOON, NOON + late) == Schedule.latest(every, NOON, NOON + late)


def test_a_time_of_day_keeps_to_local_time() -> None:
    nine = Cron("0 9 * * *", zone="Europe/Berlin")
    assert due_times(nine, utc(2026, 3, 27, 12), 3) == [utc(2026, 3, 28, 8), utc(2026, 3, 29, 7), utc(2026, 3, 30, 7)]
    assert Cron("0 9 * * *").first(NOON) == utc(2026, 3, 2, 9)


def test_a_time_in_the_gap_of_spring_comes_right_after_it() -> None:
    half_past_two = Cron("30 2 * * *", zone="Europe/Berlin")
    assert due_times(half_past_two, utc(2026, 3, 28, 12), 2) == [utc(2026, 3, 29, 1), utc(2026, 3, 30, 0, 30)]


def test_a_time_in_the_hour_that_comes_twice_comes_once() -> None:
    half_past_two = Cron("30 2 * * *", zone="Europe/Berlin")
    assert due_times(half_past_two, utc(2026, 10, 24, 12), 2) == [utc(2026, 10, 25, 0, 30), utc(2026, 10, 26, 1, 30)]
    # between the two half past twos, the one that is over does not come again
    assert half_past_two.first(utc(2026, 10, 25, 1, 10)) == utc(2026, 10, 26, 1, 30)


def test_every_hour_goes_on_through_both() -> None:
    hourly = Cron("0 * * * *", zone="Europe/Berlin")
    assert due_times(hourly, utc(2026, 10, 24, 23, 30), 4) == [utc(2026, 10, 25, hour) for hour in range(4)]


@given(
    st.sampled_from(["*/7 * * * *", "15 3 * * *", "0 0 1 * *", "*/20 * * * * *", "30 1,2 * * SUN", "5 4-6 L * *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),
)
def test_due_times_rise_and_lie_in_the_future(expression: str, zone: str, now: datetime) -> None:
    found = due_times(Cron(expression, zone=zone), now, 8)
    assert [now, *found] == sorted({now, *found})
    assert all(time.tzinfo is UTC for time in found)


def test_after_a_long_sleep_the_last_due_time_is_found_all_the_same() -> None:
    secondly = Cron("* * * * * *")
    due, passed = secondly.latest(NOON, NOON + timedelta(hours=100, milliseconds=1))
    assert (due, passed) == (NOON + timedelta(hours=100), 10_000)
    assert secondly.latest(NOON, NOON + timedelta(seconds=5)) == (NOON + timedelta(seconds=5), 5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: At(datetime(2026, 1, 1)), "has no time zone"),
        (lambda: Every(0), "above zero"),
        (lambda: Every(timedelta(seconds=-1)), "above zero"),
        (lambda: Every(1, start=datetime(2026, 1, 1)), "has no time zone"),
        (lambda: Cron("61 * * * *"), "bad minute"),
        (lambda: Cron("* * *"), "wrong number of fields"),
        (lambda: Cron("0 0 30 2 *"), "bad day-of-month"),
        (lambda: Cron("0 0 */31 * SUN#5"), "never due"),
        (lambda: Cron("0 0 * * *", zone="Mars/Olympus"), "'Mars/Olympus' is not known"),
        (lambda: Cron("0 0 * * *", zone="../etc/passwd"), "is not known"),
    ],
)
def test_mistakes_are_told_when_the_schedule_is_made(make: object, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make()  # type: ignore[operator]
