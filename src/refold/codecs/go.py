"""The envelope of the Go services: JSON whose payload is base64 of the event's own JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Final

import msgspec

from refold.codecs.payloads import PayloadCodec, encode_payload, guarded
from refold.codecs.timestamps import format_timestamp, parse_timestamp
from refold.event import DomainEvent, EventType
from refold.ports import Codec, PayloadDecoder

__all__ = ["GoCodec"]


class _Envelope(msgspec.Struct, kw_only=True, omit_defaults=True):
    """As Go's encoding/json writes it: ``[]byte`` is base64, and nil is null."""

    id: str
    aggregate_id: str
    event_type: str
    aggregate_type: str
    timestamp: str
    version: Annotated[int, msgspec.Meta(ge=1)]
    payload: bytes | None
    payload_version: Annotated[int, msgspec.Meta(ge=1)] = 1


_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_ANYTHING: Final = msgspec.json.Decoder()
_ENCODE: Final = msgspec.json.Encoder().encode


class GoCodec(Codec):
    """The envelope of the Go services. A payload of null, which Go writes for nil, stands for an empty object."""

    name: ClassVar[str] = "go"

    def encode(self, event: DomainEvent[Any]) -> tuple[bytes, Mapping[str, str]]:
        """The envelope of an event."""
        payload = encode_payload(event.payload)
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
        """Decodes the envelope, then the payload in it."""
        payloads = PayloadCodec(event_type)
        return lambda body, _: _decode(body, payloads.decode)

    def envelope(self, body: bytes, headers: bytes | None) -> DomainEvent[Any]:
        """Decodes the payload as plain JSON."""
        return _decode(body, lambda raw, _: _ANYTHING.decode(raw))


def _decode(body: bytes, decode: Callable[[bytes, int], Any]) -> DomainEvent[Any]:
    with guarded("envelope"):
        envelope = _ENVELOPE.decode(body)
        return DomainEvent(
            id=envelope.id,
            aggregate_id=envelope.aggregate_id,
            type=envelope.event_type,
            aggregate_type=envelope.aggregate_type,
            timestamp=parse_timestamp(envelope.timestamp),
            version=envelope.version,
            payload=decode(b"{}" if envelope.payload is None else envelope.payload, envelope.payload_version),
            payload_version=envelope.payload_version,
        )
