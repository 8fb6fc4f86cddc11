"""Timestamps on the wire: RFC 3339, to the microsecond."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

__all__ = ["format_timestamp", "parse_timestamp"]

# Finer digits are matched and left out: cutting them off never moves an event into the next second, or day.
_RFC3339: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:[.,](\d{1,6})\d*)?(Z|z|[+-]\d\d:?\d\d)", re.ASCII
)


def parse_timestamp(text: str) -> datetime:
    """A time with an offset as aware UTC; digits finer than microseconds are cut off.

    Raises:
        ValueError: it is no RFC 3339 time, or has no offset.
    """
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise ValueError(f"timestamp {text[:60]!r} is no RFC 3339 time with an offset, as in 2026-01-31T12:00:00.5Z")
    day, clock, fraction, offset = found.groups()
    zone = "+00:00" if offset in "Zz" else offset
    return datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0').ljust(6, '0')}{zone}").astimezone(UTC)


def format_timestamp(moment: datetime) -> str:
    """A time as UTC with six digits of fraction and a Z.

    Raises:
        ValueError: it is naive.
    """
    if moment.tzinfo is None:
        raise ValueError("the timestamp has no time zone; use an aware datetime")
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
