"""refold's own envelope: JSON with the payload inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Final

import msgspec

import refold.speedups as speedups
from refold.codecs.payloads import PayloadCodec, encode_payload, guarded, plain_type
from refold.codecs.structs import struct_decoder
from refold.codecs.timestamps import format_timestamp, parse_timestamp
from refold.event import DomainEvent, EventType
from refold.ports import Codec, PayloadDecoder

__all__ = ["JsonCodec"]

_STAMP: Final = b'"timestamp":"'
_STAMP_END: Final = len(b'"timestamp":"2026-01-31T12:00:00.123456')
_PAYLOAD: Final = b'"payload":'


class _Envelope(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The envelope with its payload untouched; fields in the order they are written."""

    id: str
    aggregate_id: str
    event_type: str
    aggregate_type: str
    timestamp: str
    version: Annotated[int, msgspec.Meta(ge=1)]
    payload: msgspec.Raw
    payload_version: Annotated[int, msgspec.Meta(ge=1)] = 1


_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_ANYTHING: Final = msgspec.json.Decoder()
_ENCODE: Final = msgspec.json.Encoder().encode


class JsonCodec(Codec):
    """``{"id", "aggregate_id", "event_type", "aggregate_type", "timestamp", "version", "payload"}``, and
    ``"payload_version"`` where it is above 1.
    """

    name: ClassVar[str] = "json"

    def encode(self, event: DomainEvent[Any]) -> tuple[bytes, Mapping[str, str]]:
        """The envelope of an event."""
        payload = msgspec.Raw(encode_payload(event.payload))
        with guarded("envelope"):
            return _ENCODE(
                _Envelope(
                    id=event.id,
                    aggregate_id=event.aggregate_id,
                    event_type=event.type,
                    aggregate_type=event.aggregate_type,
                    timestamp=format_timestamp(event.timestamp),
                    version=event.version,
                    payload=payload,
                    payload_version=event.payload_version,
                )
            ), {}

    def decoder(self, event_type: EventType) -> PayloadDecoder:
        """Decodes envelope and payload in one go where the envelope is written as refold does."""
        payloads = PayloadCodec(event_type)
        direct = plain_type(event_type)
        if direct is None:
            return lambda body, _: _closely(body, payloads.decode)
        whole: Callable[[bytes], DomainEvent[Any]] = msgspec.json.Decoder(DomainEvent[direct]).decode  # type: ignore[valid-type]  # known at run time
        current = event_type.payload_version

        def decode(body: bytes, _: bytes | None) -> DomainEvent[Any]:
            # msgspec rounds finer digits, and keeps offsets: only six digits and a Z may take the quick way. They must
            # be the envelope's own, so no payload may come before them.
            stamp = body.find(_STAMP)
            try:
                if body[stamp + _STAMP_END] == 90 and body.find(_PAYLOAD, 0, stamp) < 0 <= stamp:
                    event = whole(body)
                    if event.payload_version == current:
                        return event
            except Exception:  # noqa: BLE001, S110 (told in full by the other way)
                pass
            return _closely(body, payloads.decode)

        if speedups.EnvelopeDecoder is None:
            return decode
        quick: PayloadDecoder = speedups.EnvelopeDecoder(
            decode, payloads.direct, struct_decoder(direct), DomainEvent, current
        )
        return quick

    def envelope(self, body: bytes, headers: bytes | None) -> DomainEvent[Any]:
        """Decodes the payload as plain JSON."""
        return _closely(body, lambda raw, _: _ANYTHING.decode(raw))


def _closely(body: bytes, decode: Callable[[bytes, int], Any]) -> DomainEvent[Any]:
    with guarded("envelope"):
        envelope = _ENVELOPE.decode(body)
        return DomainEvent(
            id=envelope.id,
            aggregate_id=envelope.aggregate_id,
            type=envelope.event_type,
            aggregate_type=envelope.aggregate_type,
            timestamp=parse_timestamp(envelope.timestamp),
            version=envelope.version,
            payload=decode(bytes(envelope.payload), envelope.payload_version),
            payload_version=envelope.payload_version,
        )
