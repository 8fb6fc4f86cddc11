"""Payloads: JSON to the class of an event type, lifted from older schema versions, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final, is_typeddict

import msgspec

from refold.errors import DefinitionError, UndecodableEvent
from refold.event import EventType

__all__ = ["PayloadCodec", "encode_payload", "guarded", "plain_type"]

_PLAIN: Final = msgspec.json.Decoder()
_ENCODER: Final = msgspec.json.Encoder(decimal_format="string")


def is_pydantic(cls: Any) -> bool:
    """Whether a class is a pydantic model; pydantic is not imported for it."""
    return isinstance(cls, type) and hasattr(cls, "model_validate_json") and hasattr(cls, "model_dump_json")


def plain_type(event_type: EventType) -> Any:
    """What msgspec decodes payloads of an event type to directly; None where more is to be done.

    Raises:
        DefinitionError: the payload class is of no known kind.
    """
    cls = event_type.payload
    if is_pydantic(cls):
        return None
    if cls is dict:
        return dict[str, Any]
    if (
        (isinstance(cls, type) and issubclass(cls, msgspec.Struct))
        or dataclasses.is_dataclass(cls)
        or is_typeddict(cls)
    ):
        return cls
    if isinstance(cls, type) and issubclass(cls, dict):
        return None
    raise DefinitionError(
        f"event type {event_type.name!r}: payloads cannot be of {cls!r}; use a msgspec.Struct, a dataclass, a TypedDict, "
        "a pydantic model or dict"
    )


class PayloadCodec:
    """Decodes payloads of one event type.

    Args:
        event_type: the type.

    Attributes:
        direct: decodes a payload of the current schema version; raises what it likes.

    Raises:
        DefinitionError: its payload class is of no known kind.
    """

    def __init__(self, event_type: EventType) -> None:
        self._event_type = event_type
        self.direct = self._decoder(plain_type(event_type))

    def _decoder(self, direct: Any) -> Callable[[bytes], Any]:
        if direct is not None:
            return msgspec.json.Decoder(direct).decode
        cls = self._event_type.payload
        if is_pydantic(cls):
            validate: Callable[[bytes], Any] = cls.model_validate_json
            return validate
        return lambda raw: cls(msgspec.json.decode(raw, type=dict[str, Any]))

    def decode(self, raw: bytes, version: int) -> Any:
        """The payload of one event.

        Args:
            raw: its JSON.
            version: the schema version that it was written in.

        Raises:
            UndecodableEvent: it is not what the event type says, or an upcaster failed.
        """
        name = self._event_type.name
        with guarded(f"payload of {name}"):
            if version != self._event_type.payload_version:
                lifted = self._event_type.upcast(msgspec.json.decode(raw, type=dict[str, Any]), version)
                raw = _ENCODER.encode(lifted)
            return self.direct(raw)


def encode_payload(payload: Any) -> bytes:
    """A payload as JSON; decimals as text.

    Raises:
        UndecodableEvent: it cannot be written as JSON.
    """
    with guarded("payload"):
        if is_pydantic(type(payload)):
            text: str = payload.model_dump_json()
            return text.encode()
        return _ENCODER.encode(payload)


class guarded:  # noqa: N801 (reads as a statement)
    """Turns whatever goes wrong inside into an `UndecodableEvent` that says where; the body is never shown.

    Args:
        where: what was looked at.
    """

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UndecodableEvent) or not isinstance(error, Exception):
            return
        if isinstance(error, RecursionError):
            reason = "nested too deep"
        elif type(error).__module__.startswith("pydantic"):  # its text quotes the input
            reason = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))  # type: ignore[attr-defined]
        elif isinstance(error, (msgspec.MsgspecError, LookupError, ValueError, TypeError)):
            reason = str(error)
        else:
            reason = f"{type(error).__name__}: {error}"
        raise UndecodableEvent(f"{self._where}: {reason[:500]}") from error
