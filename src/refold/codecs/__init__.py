"""Codecs: how events are written as messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from refold.codecs.cloudevents import CloudEventsCodec
from refold.codecs.go import GoCodec
from refold.codecs.json import JsonCodec
from refold.errors import ConfigurationError
from refold.ports import Codec

__all__ = ["CloudEventsCodec", "GoCodec", "JsonCodec", "codec_named"]

_CODECS: Final[dict[str, Callable[[], Codec]]] = {
    "json": JsonCodec,
    "go": GoCodec,
    "cloudevents": CloudEventsCodec,
    "cloudevents-binary": lambda: CloudEventsCodec("binary"),
}


def codec_named(name: str) -> Codec:
    """The codec of a name, as configuration and command line say it.

    Raises:
        ConfigurationError: there is none; lists those there are.
    """
    if name not in _CODECS:
        raise ConfigurationError(f"codec {name!r} is not known; there are {', '.join(_CODECS)}")
    return _CODECS[name]()
