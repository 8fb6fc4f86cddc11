"""``refold import``: envelopes from a file, one a line, to a stream."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from refold.app import App
from refold.errors import ConfigurationError, EventError
from refold.event import DomainEvent
from refold.jetstream.bulk_publisher import BulkPublisher, BulkResult
from refold.subjects import covers

__all__ = ["run_import"]

_SHOWN = 20


class _Lines:
    """The events of a file; what cannot be read is told by line number, and passed over."""

    def __init__(self, app: App, file: BinaryIO, stored: Sequence[str] = (">",)) -> None:
        self._app = app
        self._file = file
        self._stored = stored
        self.numbers: list[int] = []
        self.bad: list[tuple[int, str]] = []

    def __iter__(self) -> Iterator[DomainEvent[Any]]:
        for number, line in enumerate(self._file, 1):
            if not line.strip():
                continue
            try:
                event = self._app.codec.envelope(line, None)
                subject = self._app.scheme.format(event.aggregate_type, event.aggregate_id, event.type)
            except EventError as error:
                self.bad.append((number, str(error)))
                continue
            if any(covers(pattern, subject) for pattern in self._stored):
                self.numbers.append(number)
                yield event
            else:
                self.bad.append(
                    (number, f"stream {self._app.stream!r} does not store {subject!r}; add it to its subjects")
                )


async def run_import(file: Path, stream: str, codec: str, *, as_json: bool) -> int:
    """Publishes and tells; the exit code: 0 all lines, 1 not all."""
    if codec == "cloudevents-binary":
        raise ConfigurationError(
            "binary cloud events keep half of an event in headers, which a file has not; use cloudevents"
        )
    with _opened(file) as opened:
        app = App("import", stream=stream, codec=codec, database_url="memory://")
        async with app:
            lines = _Lines(app, opened)
            types = {event.aggregate_type for event in lines}
            result = BulkResult(0, 0, (), 0)
            if types:
                await app.create_stream(*types)
                opened.seek(0)
                lines = _Lines(app, opened, (await app.api.stream_info(stream)).config.subjects)
                publisher = BulkPublisher(app.client, stream, app.codec, app.scheme, max_failures=sys.maxsize)
                result = await publisher.publish_many(lines)
    bad = lines.bad + [(lines.numbers[failure.index], failure.reason) for failure in result.failures]
    told = {"stored": result.stored, "duplicates": result.duplicates, "position": result.position, "bad": sorted(bad)}
    if as_json:
        plain = told | {"bad": [{"line": number, "reason": reason} for number, reason in sorted(bad)]}
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
    else:
        lines_word = "line" if len(bad) == 1 else "lines"
        sys.stdout.write(
            f"{result.stored:,} events stored, {result.duplicates:,} were there already, {len(bad):,} bad {lines_word}\n"
        )
        for number, reason in sorted(bad)[:_SHOWN]:
            sys.stderr.write(f"{file}:{number}: {reason}\n")
        if len(bad) > _SHOWN:
            sys.stderr.write(f"and {len(bad) - _SHOWN:,} more (--json lists them all)\n")
    return 1 if bad else 0


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file, which is read twice; standard input is kept in a temporary one."""
    if str(path) == "-":
        import shutil
        import tempfile

        with tempfile.TemporaryFile() as kept:
            shutil.copyfileobj(sys.stdin.buffer, kept)
            kept.seek(0)
            yield kept
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        yield file
