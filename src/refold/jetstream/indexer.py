"""Listing aggregates by the stream's own index of subjects: no message is read."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from typing import Final

from nats.aio.client import Client

from refold.errors import StreamError, StreamNotFound, SubjectError
from refold.jetstream.api import JetStreamApi
from refold.ports import AggregateIndexer
from refold.subjects import SubjectScheme

__all__ = ["JetStreamIndexer"]

log = logging.getLogger(__name__)

_RESTARTS: Final = 100


class JetStreamIndexer(AggregateIndexer):
    """An `AggregateIndexer` over one stream. It remembers the ids it gave, so memory grows with their number.

    An aggregate that was there from beginning to end is listed; one that comes or goes meanwhile may be.

    Args:
        client: connected.
        stream: the stream's name.
        scheme: how subjects are written.
        timeout: seconds to wait for one page of subjects.
    """

    def __init__(self, client: Client, stream: str, scheme: SubjectScheme, *, timeout: float = 30.0) -> None:
        self._api = JetStreamApi(client, timeout=timeout)
        self._stream = stream
        self._scheme = scheme

    async def aggregate_ids(self, aggregate_type: str) -> AsyncGenerator[str, None]:
        """The ids of every aggregate of a type that has events, each once."""
        given: set[str] = set()
        try:
            async for subject in self._subjects(self._scheme.pattern(aggregate_type)):
                try:
                    aggregate_id = self._scheme.parse(subject).aggregate_id
                except SubjectError as error:
                    log.warning(
                        "subject cannot be read and is passed over",
                        extra={"stream": self._stream, "subject": subject, "reason": str(error)},
                    )
                    continue
                if aggregate_id not in given:
                    given.add(aggregate_id)
                    yield aggregate_id
        except StreamNotFound:
            log.warning("stream does not exist; nothing to list", extra={"stream": self._stream})

    async def _subjects(self, pattern: str) -> AsyncGenerator[str, None]:
        """Subjects that match, some of them more than once.

        The server makes each page from the subjects of that moment, sorted. So each page begins with the last subject
        of the one before; one that begins behind it has slid because subjects went away, and may have skipped some.
        """
        offset, last, restarts = 0, "", 0
        while True:
            info = await self._api.stream_info(self._stream, subjects_filter=pattern, offset=offset)
            page = info.state.subjects or {}
            if offset and (not page or min(page) > last):
                restarts += 1
                if restarts > _RESTARTS:
                    raise StreamError(f"the subjects of stream {self._stream!r} vanish faster than they can be listed")
                offset = 0
                continue
            for subject in page:
                yield subject
            if not page or offset + len(page) >= info.total:
                return
            offset, last = offset + len(page) - 1, max(page)
