"""When a task is due: now, at a time, every interval, or by a cron expression in a time zone."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import ClassVar, Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from refold.errors import ConfigurationError

__all__ = ["At", "Cron", "Every", "Now", "Schedule"]

_COUNTED: Final = 10_000
"""Missed due times of a cron expression that are counted one by one; after a longer sleep the rest is jumped over."""


class Schedule(ABC):
    """When a task is due. A value without state: a due time follows from the one before. All times are aware, UTC.

    Attributes:
        recurring: whether there may be more than one due time.
        timed: False for what is due as soon as it is scheduled.
    """

    recurring: ClassVar[bool] = False
    timed: ClassVar[bool] = True

    @abstractmethod
    def first(self, now: datetime) -> datetime:
        """The first due time of a task that is scheduled now; one in the past is due at once."""

    def after(self, due: datetime) -> datetime | None:
        """The due time that follows another; None where that was the last."""
        return None

    def latest(self, due: datetime, now: datetime) -> tuple[datetime, int]:
        """The last due time that has come by now, from `due` on, and how many before it are thereby passed over."""
        passed = 0
        while (following := self.after(due)) is not None and following <= now:
            due, passed = following, passed + 1
        return due, passed


@dataclasses.dataclass(frozen=True, slots=True)
class Now(Schedule):
    """Once, as soon as may be."""

    timed: ClassVar[bool] = False

    def first(self, now: datetime) -> datetime:
        return now


@dataclasses.dataclass(frozen=True, slots=True)
class At(Schedule):
    """Once, at a time.

    Args:
        time: when; aware, of any time zone.

    Raises:
        ConfigurationError: the time has no time zone.
    """

    time: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "time", _utc(self.time, "At"))

    def first(self, now: datetime) -> datetime:
        return self.time


@dataclasses.dataclass(frozen=True, slots=True)
class Every(Schedule):
    """Again and again, at a fixed rate: due times stay on the grid of the first one, however long runs take.

    Args:
        interval: how far due times are apart; a number is seconds.
        start: a due time that the others are counted from; by default the first one is an interval after scheduling.

    Raises:
        ConfigurationError: the interval is not positive, or the start has no time zone.
    """

    interval: timedelta
    start: datetime | None
    recurring: ClassVar[bool] = True

    def __init__(self, interval: timedelta | float, *, start: datetime | None = None) -> None:
        given = interval if isinstance(interval, timedelta) else timedelta(seconds=interval)
        if given <= timedelta():
            raise ConfigurationError(f"Every({interval!r}): the interval must be above zero")
        object.__setattr__(self, "interval", given)
        object.__setattr__(self, "start", None if start is None else _utc(start, "Every"))

    def first(self, now: datetime) -> datetime:
        if self.start is None:
            return now + self.interval
        return self.start if now <= self.start else self.start + -((self.start - now) // self.interval) * self.interval

    def after(self, due: datetime) -> datetime:
        return due + self.interval

    def latest(self, due: datetime, now: datetime) -> tuple[datetime, int]:
        passed = max((now - due) // self.interval, 0)
        return due + passed * self.interval, passed


@dataclasses.dataclass(frozen=True, slots=True)
class Cron(Schedule):
    """By a cron expression, in the local time of a zone.

    Where local time jumps forward, what would be due in the gap is due right after it; where it falls back, a fixed time
    of day comes once, and ``*`` goes on through both hours, as with Debian's cron.

    Args:
        expression: five fields (minute, hour, day of month, month, day of week), or six with seconds in front.
        zone: name of the time zone: ``Europe/Berlin``.

    Raises:
        ConfigurationError: the expression is wrong or never due, or there is no such zone.
    """

    expression: str
    zone: str = "UTC"
    recurring: ClassVar[bool] = True

    def __post_init__(self) -> None:
        try:
            self._zone()
        except (KeyError, ValueError, OSError) as error:
            raise ConfigurationError(
                f"Cron: time zone {self.zone!r} is not known; check its name, or pip install tzdata"
            ) from error
        try:
            self.first(datetime.now(UTC))  # whether there is one does not depend on when it is asked
        except CronSimError as error:
            raise ConfigurationError(f"Cron({self.expression!r}): {str(error).lower()}") from error

    def first(self, now: datetime) -> datetime:
        following = self.after(now)
        if following is None:
            raise ConfigurationError(f"Cron({self.expression!r}) is never due")
        return following

    def after(self, due: datetime) -> datetime | None:
        return next(self._following(due), None)

    def latest(self, due: datetime, now: datetime) -> tuple[datetime, int]:
        passed = 0
        for following in self._following(due):
            if following > now:
                break
            due, passed = following, passed + 1
            if passed == _COUNTED:
                return max(due, self._last(now)), passed
        return due, passed

    def _following(self, due: datetime) -> Iterator[datetime]:
        for local in CronSim(self.expression, due.astimezone(self._zone())):
            following = local.astimezone(UTC)
            if following > due:  # an hour that comes twice is told as its first coming
                yield following

    def _last(self, now: datetime) -> datetime:
        """The last due time up to now."""
        local = (now + timedelta(microseconds=1)).astimezone(self._zone())  # so that now itself may be it
        found = next(CronSim(self.expression, local, reverse=True)).astimezone(UTC)
        return min(found, now)

    def _zone(self) -> tzinfo:
        return UTC if self.zone == "UTC" else ZoneInfo(self.zone)


def _utc(time: datetime, what: str) -> datetime:
    if time.utcoffset() is None:
        raise ConfigurationError(f"{what}: {time} has no time zone; give it one: datetime(…, tzinfo=UTC)")
    return time.astimezone(UTC)
