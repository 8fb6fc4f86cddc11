"""What the codecs share: exact timestamps, payloads of every kind, and one way to tell what was wrong."""

from __future__ import annotations

import dataclasses
import math
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Annotated, Any, Final, NoReturn

import msgspec

from refold.errors import DefinitionError, UndecodableEvent
from refold.event import DomainEvent, EventType
from refold.ports.codec import Codec, PayloadDecoder

__all__ = [
    "MAX_VERSION",
    "EnvelopeCodec",
    "Version",
    "format_timestamp",
    "parse_timestamp",
    "payload_type",
]

MAX_VERSION: Final = 2**63 - 1
"""Highest version of an event or payload: what a 64-bit column holds."""

Version = Annotated[int, msgspec.Meta(ge=1, le=MAX_VERSION)]

_Text = bytes | msgspec.Raw
_LONGEST_REASON: Final = 300


class EnvelopeCodec(Codec):
    """A codec whose envelope is read first and whose payload, a JSON text in it, second."""

    def encode(self, event: DomainEvent[Any]) -> tuple[bytes, Mapping[str, str]]:
        try:
            if not 0 < event.version <= MAX_VERSION:
                raise ValueError(f"version is {event.version}; versions start at 1")
            return self._write(event, _payload_text(event.payload))
        except MemoryError:
            raise
        except Exception as error:
            raise UndecodableEvent(f"{event.type} cannot be written: {_reason(error)}") from error

    def decoder(self, event_type: EventType) -> PayloadDecoder:
        read = _payload_reader(event_type)
        where = f"payload of {event_type.name}"

        def decode(body: bytes, headers: bytes | None) -> DomainEvent[Any]:
            event = self._opened(body, headers, f"envelope of {event_type.name}")
            try:
                payload = read(event.payload, event.payload_version)
            except Exception as error:
                _refuse(where, error)
            msgspec.structs.force_setattr(event, "payload", payload)
            return event

        return decode

    def envelope(self, body: bytes, headers: bytes | None) -> DomainEvent[Any]:
        event = self._opened(body, headers, "envelope")
        try:
            payload = _ANY.decode(event.payload)
        except Exception as error:
            _refuse(f"payload of {event.type}", error)
        msgspec.structs.force_setattr(event, "payload", payload)
        return event

    def _opened(self, body: bytes, headers: bytes | None, where: str) -> DomainEvent[Any]:
        try:
            return self._open(body, headers)
        except Exception as error:
            _refuse(where, error)

    @abstractmethod
    def _open(self, body: bytes, headers: bytes | None) -> DomainEvent[Any]:
        """The event with its payload still JSON text; raises whatever it likes where there is none."""

    @abstractmethod
    def _write(self, event: DomainEvent[Any], payload: bytes) -> tuple[bytes, Mapping[str, str]]:
        """The message of an event whose payload is that JSON text; raises whatever it likes."""


# -- Timestamps --------------------------------------------------------------------------------------------------------

# msgspec rounds finer digits than microseconds, so they are cut off before it sees them.
_FINER: Final = re.compile(r"(\.[0-9]{6})[0-9]+")
_LONGEST_EXACT: Final = len("2026-01-01T00:00:00.123456Z")


def parse_timestamp(text: str, name: str = "timestamp") -> datetime:
    """An RFC 3339 timestamp as aware UTC datetime; finer digits than microseconds are cut off.

    Args:
        text: the timestamp.
        name: the field's name, for the message.

    Raises:
        ValueError: it is no RFC 3339 timestamp, has no time zone, or lies outside the years 1 to 9999 in UTC.
    """
    if len(text) > _LONGEST_EXACT:
        text = _FINER.sub(r"\1", text, count=1)
    try:
        moment = msgspec.convert(text, datetime)
        if moment.tzinfo is None:
            raise ValueError("it has no time zone")
        return moment if moment.tzinfo is timezone.utc else moment.astimezone(timezone.utc)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}: {error}; write RFC 3339 with a time zone") from error


def format_timestamp(moment: datetime) -> str:
    """An aware datetime as RFC 3339 in UTC, with exactly six fraction digits and ``Z``.

    Raises:
        ValueError: it has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError("timestamp has no time zone; use an aware datetime")
    if moment.tzinfo is not timezone.utc:
        moment = moment.astimezone(timezone.utc)
    return moment.isoformat(timespec="microseconds")[:26] + "Z"


# -- Payloads ----------------------------------------------------------------------------------------------------------


def _from_plain(cls: Any, value: Any) -> Any:
    """Makes what msgspec does not know from plain JSON: subclasses of dict, and pydantic models inside other payloads."""
    if _is_dict_class(cls):
        if not isinstance(value, dict):
            raise TypeError(f"Expected `object`, got `{type(value).__name__}`")
        return cls(value)
    if _is_pydantic(cls):
        return cls.model_validate(value)
    raise TypeError(f"{getattr(cls, '__name__', cls)} is a plain class, which no JSON value can become")


def _to_json(value: Any) -> Any:
    if _is_pydantic(type(value)):
        # By alias, because that is the name by which the model reads its fields.
        return msgspec.Raw(value.model_dump_json(by_alias=True, round_trip=True).encode())
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _to_plain(value: Any) -> Any:
    if _is_pydantic(type(value)):
        return value.model_dump(round_trip=True)
    raise TypeError(f"{type(value).__name__} is no JSON value")


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_to_json, order="deterministic", decimal_format="string")
_ANY: Final = msgspec.json.Decoder()


def _is_pydantic(cls: Any) -> bool:
    """Told by its methods, so that pydantic need not be installed."""
    return isinstance(cls, type) and hasattr(cls, "model_validate_json") and hasattr(cls, "model_dump_json")


def _is_dict_class(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, dict)


def payload_type(event_type: EventType) -> Any | None:
    """The type that msgspec decodes payloads of an event type to, or None where the class decodes them itself (pydantic).

    Raises:
        DefinitionError: no JSON value can become one of the class.
    """
    cls = event_type.payload
    if _is_pydantic(cls):
        return None
    try:
        plain = isinstance(msgspec.inspect.type_info(cls), msgspec.inspect.CustomType) and not _is_dict_class(cls)
        msgspec.json.Decoder(cls, dec_hook=_from_plain)
    except (TypeError, NameError) as error:
        raise DefinitionError(f"payload class {cls!r} of event type {event_type.name!r}: {error}") from error
    if plain:
        raise DefinitionError(
            f"payload class {cls!r} of event type {event_type.name!r} is a plain class; make it a msgspec.Struct, a "
            "dataclass, a TypedDict, a dict or a pydantic model"
        )
    return cls


def typed_decoder(target: Any) -> Callable[[bytes], Any]:
    """What decodes JSON to a type that `payload_type` gave, or to one built of it."""
    return msgspec.json.Decoder(target, dec_hook=_from_plain).decode


def _payload_reader(event_type: EventType) -> Callable[[_Text, int], Any]:
    """What makes a payload of the event type from JSON text and the schema version it was published with."""
    target = payload_type(event_type)
    if target is None:
        validate = event_type.payload.model_validate_json

        def typed(text: _Text) -> Any:
            return validate(bytes(text))

    else:
        typed = typed_decoder(target)
    current = event_type.payload_version

    def read(text: _Text, version: int) -> Any:
        if version == current:
            return typed(text)
        # Through JSON once more: what an upcaster returns is checked as strictly as what is published now.
        return typed(_ENCODER.encode(event_type.upcast(_OBJECT.decode(text), version)))

    return read


_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])


def _payload_text(payload: Any) -> bytes:
    text = _ENCODER.encode(payload)
    # NaN and the infinities become null on the way, and null would be read as something else or not at all.
    if (b"null" in text or b"NaN" in text or b"Infinity" in text) and _holds_nan(
        msgspec.to_builtins(payload, enc_hook=_to_plain)
    ):
        raise ValueError("the payload holds NaN or an infinity, which JSON cannot")
    return text


def _holds_nan(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_holds_nan, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_holds_nan, value))


# -- What was wrong ----------------------------------------------------------------------------------------------------


def _refuse(where: str, error: Exception) -> NoReturn:
    if isinstance(error, MemoryError):  # says nothing of the event
        raise error
    reason = _reason(error)
    if where.startswith("payload"):
        reason = reason.replace(" - at `$", " - at `$.payload", 1)
    raise UndecodableEvent(f"{where}: {reason}") from error


def _reason(error: Exception) -> str:
    """Why, in one line that never holds the body."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeError):
        return "it has text that is no valid Unicode"
    if hasattr(error, "errors") and callable(error.errors):
        return _pydantic_reason(error)
    told = isinstance(error, (msgspec.MsgspecError, UndecodableEvent, LookupError)) or type(error) in (ValueError, TypeError)
    told = told and not isinstance(error, (KeyError, IndexError))
    text = str(error) if told else f"{type(error).__name__}: {error}"
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "…"


def _pydantic_reason(error: Any) -> str:
    """Without the input, which pydantic's own text shows."""
    first, *more = error.errors(include_url=False, include_context=False, include_input=False)
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return f"{first['msg']} - at `${path}`" + (f" (and {len(more)} more)" if more else "")
