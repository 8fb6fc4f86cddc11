"""refold's own envelope: one JSON object with the payload as a value in it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timezone
from typing import Any, ClassVar, Final

import msgspec

from refold.codecs._envelope import (
    MAX_VERSION,
    EnvelopeCodec,
    Version,
    format_timestamp,
    parse_timestamp,
    payload_type,
    typed_decoder,
)
from refold.event import DomainEvent, EventType
from refold.ports.codec import PayloadDecoder

__all__ = ["JsonCodec"]


class _Envelope(msgspec.Struct, gc=False, omit_defaults=True):
    id: str
    aggregate_id: str
    event_type: str
    aggregate_type: str
    timestamp: str
    version: Version
    payload: msgspec.Raw
    payload_version: Version = 1


_READ: Final = msgspec.json.Decoder(_Envelope)
_WRITE: Final = msgspec.json.Encoder()

# With the comma, this is a whole key wherever it stands in valid JSON, never the end of a longer one.
_KEY: Final = b',"timestamp":"'
_KEY_SIZE: Final = len(_KEY)
_TO_Z: Final = len(b',"timestamp":"2026-01-01T00:00:00.123456')
_Z: Final = ord("Z")


class JsonCodec(EnvelopeCodec):
    """``{"id", "aggregate_id", "event_type", "aggregate_type", "timestamp", "version", "payload"}``, in this order.

    ``payload_version`` follows where it is above 1. Timestamps are written with six digits and ``Z``. Other orders and
    further fields are read as well, a little slower where ``timestamp`` stands behind a nested object.
    """

    name: ClassVar[str] = "json"

    def decoder(self, event_type: EventType) -> PayloadDecoder:
        exact = super().decoder(event_type)
        target = payload_type(event_type)
        if target is None:
            return exact
        typed = typed_decoder(DomainEvent[target])  # type: ignore[valid-type]
        current = event_type.payload_version
        utc = timezone.utc
        hint = 0  # where the key stood last time: ids of one stream are mostly of one length

        def decode(body: bytes, headers: bytes | None) -> DomainEvent[Any]:
            nonlocal hint
            try:
                event: DomainEvent[Any] = typed(body)
                at = hint
                if body[at : at + _KEY_SIZE] != _KEY:
                    hint = at = body.find(_KEY)
                # msgspec rounds nanoseconds. This key, not inside a nested object, with a Z where microseconds end, has
                # none; whatever else it may be is left to the exact way, which also tells what is wrong.
                if (
                    body[at + _TO_Z] == _Z
                    and at > 0
                    and b"{" not in body[1:at]
                    and event.timestamp.tzinfo is utc
                    and event.payload_version == current
                    and 0 < event.version <= MAX_VERSION
                ):
                    return event
            except Exception:  # noqa: BLE001, S110 (the exact way raises it again, told well)
                pass
            return exact(body, headers)

        return decode

    def _open(self, body: bytes, headers: bytes | None) -> DomainEvent[Any]:
        read = _READ.decode(body)
        return DomainEvent(
            id=read.id,
            aggregate_id=read.aggregate_id,
            type=read.event_type,
            aggregate_type=read.aggregate_type,
            timestamp=parse_timestamp(read.timestamp),
            version=read.version,
            payload=read.payload,
            payload_version=read.payload_version,
        )

    def _write(self, event: DomainEvent[Any], payload: bytes) -> tuple[bytes, Mapping[str, str]]:
        written = _Envelope(
            event.id,
            event.aggregate_id,
            event.type,
            event.aggregate_type,
            format_timestamp(event.timestamp),
            event.version,
            msgspec.Raw(payload),
            event.payload_version,
        )
        return _WRITE.encode(written), {}
