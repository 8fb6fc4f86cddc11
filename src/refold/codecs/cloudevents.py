"""CloudEvents 1.0 over NATS, structured (all in the body) and binary (attributes in headers).

Specification: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/nats-protocol-binding.md and
formats/json-format.md there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal
from urllib.parse import quote, unquote

import msgspec

from refold.codecs.payloads import PayloadCodec, encode_payload, guarded
from refold.codecs.timestamps import format_timestamp, parse_timestamp
from refold.errors import UndecodableEvent
from refold.event import DomainEvent, EventType, parse_headers
from refold.ports import Codec, PayloadDecoder

__all__ = ["CloudEventsCodec"]

_STRUCTURED: Final = "application/cloudevents"
_ANYTHING: Final = msgspec.json.Decoder()
_ENCODE: Final = msgspec.json.Encoder().encode


class _Attributes(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The context attributes that an event needs; ``aggregateversion`` and ``payloadversion`` are extensions."""

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    subject: str
    time: str
    aggregateversion: Annotated[int, msgspec.Meta(ge=1)]
    payloadversion: Annotated[int, msgspec.Meta(ge=1)] = 1


class _Structured(_Attributes, kw_only=True, omit_defaults=True):
    datacontenttype: str | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: bytes | msgspec.UnsetType = msgspec.UNSET


_BODY: Final = msgspec.json.Decoder(_Structured)


class CloudEventsCodec(Codec):
    """CloudEvents with an event's type as ``type``, its aggregate's id as ``subject``, the aggregate's type as the last
    segment of ``source``, and its version as the extension ``aggregateversion``. Reads both modes.

    Args:
        mode: how events are written.
    """

    name: ClassVar[str] = "cloudevents"

    def __init__(self, mode: Literal["structured", "binary"] = "structured") -> None:
        self.mode = mode

    def encode(self, event: DomainEvent[Any]) -> tuple[bytes, Mapping[str, str]]:
        """Body and headers of an event."""
        data = encode_payload(event.payload)
        with guarded("cloud event"):
            attributes = _Attributes(
                specversion="1.0",
                id=event.id,
                source="/" + quote(event.aggregate_type, safe=""),
                type=event.type,
                subject=event.aggregate_id,
                time=format_timestamp(event.timestamp),
                aggregateversion=event.version,
                payloadversion=event.payload_version,
            )
            plain: dict[str, Any] = msgspec.to_builtins(attributes)
            if self.mode == "binary":
                # The binding percent-encodes what a header cannot hold: everything but printable ASCII, '"' and '%'.
                headers = {f"ce-{name}": _header(str(value)) for name, value in plain.items()}
                return data, headers | {"content-type": "application/json"}
            whole = plain | {"datacontenttype": "application/json", "data": msgspec.Raw(data)}
            return _ENCODE(whole), {"content-type": f"{_STRUCTURED}+json"}

    def decoder(self, event_type: EventType) -> PayloadDecoder:
        """Decodes either mode, told apart by the headers."""
        payloads = PayloadCodec(event_type)
        return lambda body, headers: _decode(body, headers, payloads.decode)

    def envelope(self, body: bytes, headers: bytes | None) -> DomainEvent[Any]:
        """Decodes the data as plain JSON."""
        return _decode(body, headers, lambda raw, _: _ANYTHING.decode(raw))


def _decode(body: bytes, headers: bytes | None, decode: Callable[[bytes, int], Any]) -> DomainEvent[Any]:
    with guarded("cloud event"):
        named = {name.lower(): value for name, value in parse_headers(headers).items()} if headers else {}
        is_binary = "ce-specversion" in named and not named.get("content-type", "").startswith(_STRUCTURED)
        attributes, data = _from_headers(named, body) if is_binary else _from_body(body)
        return DomainEvent(
            id=attributes.id,
            aggregate_id=attributes.subject,
            type=attributes.type,
            aggregate_type=_aggregate_type(attributes.source),
            timestamp=parse_timestamp(attributes.time),
            version=attributes.aggregateversion,
            payload=decode(data, attributes.payloadversion),
            payload_version=attributes.payloadversion,
        )


def _from_headers(named: Mapping[str, str], body: bytes) -> tuple[_Attributes, bytes]:
    plain = {name[3:]: unquote(value, errors="strict") for name, value in named.items() if name.startswith("ce-")}
    return msgspec.convert(plain, _Attributes, strict=False), body


def _from_body(body: bytes) -> tuple[_Attributes, bytes]:
    event = _BODY.decode(body)
    if event.data is not msgspec.UNSET:
        return event, bytes(event.data)
    if event.data_base64 is not msgspec.UNSET:
        return event, event.data_base64
    raise UndecodableEvent("cloud event: it has neither data nor data_base64")


def _aggregate_type(source: str) -> str:
    return unquote(source.rstrip("/").rpartition("/")[2], errors="strict")


def _header(value: str) -> str:
    return "".join(c if 0x21 <= ord(c) <= 0x7E and c not in '"%' else quote(c, safe="") for c in value)
