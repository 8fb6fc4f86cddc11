"""Stands between a client's socket and the client, and takes one subscription's messages for itself.

`nats-py` hands every message through its subscription machinery, at about 20 µs of Python each. On a connection that serves
one bulk reader, `BulkProtocol` takes the place of the client's asyncio protocol: frames of that one subscription it parses
in bulk; every other byte goes to the client's own reader, so that authentication, TLS, ping and errors stay the library's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from nats.aio.client import Client

from refold.jetstream.frames import FrameParser

__all__ = ["BulkProtocol", "HookUnavailable", "install"]


class HookUnavailable(Exception):
    """The client does not look as expected, so its public interface must do."""


class BulkProtocol(asyncio.BufferedProtocol):
    """Takes the frames of one subscription off a connection; see the module.

    Args:
        inner: the client's own protocol, which gets everything else.
        parser: collects the subscription's frames.
        on_frames: called whenever there may be new messages.
        on_status: called with the header block of each message without a reply subject: JetStream's status messages.
        on_error: called once, with what makes further reading impossible.
    """

    def __init__(
        self,
        inner: asyncio.Protocol,
        parser: FrameParser,
        sid: int,
        *,
        on_frames: Callable[[], None],
        on_status: Callable[[bytes], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._inner = inner
        self._parser = parser
        self._sid = str(sid).encode()
        self._on_frames = on_frames
        self._on_status = on_status
        self._on_error = on_error
        self._missing = 0
        self._broken = False
        self._nowhere = memoryview(bytearray(65_536))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the transport puts what comes."""
        return self._nowhere if self._broken else self._parser.space()

    def buffer_updated(self, nbytes: int) -> None:
        """Parses what came; never raises."""
        if self._broken:
            return
        try:
            self._take(nbytes)
        except Exception as error:  # noqa: BLE001 (an exception here would close the transport without a word)
            self._broken = True
            self._on_error(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the reader and the client."""
        self._broken = True
        self._on_error(exc or ConnectionError("the connection was closed"))
        self._inner.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """Leaves it to the client."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """Leaves it to the client."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Leaves it to the client."""
        self._inner.resume_writing()

    def _take(self, count: int) -> None:
        is_other = self._parser.received(count)
        self._on_frames()
        self._missing -= count
        while is_other and self._missing <= 0:
            end = self._other(self._parser.rest())
            if end == 0:
                break
            is_other = self._parser.skip(end)
            self._on_frames()

    def _other(self, data: bytes) -> int:
        """Deals with the frame at the beginning, which is no message of the subscription; its length, or 0 while it is not
        all there.
        """
        end = data.find(b"\r\n") + 2
        if end == 1:
            return 0
        words = data[:end].split()
        if words and words[0] in (b"MSG", b"HMSG"):
            content = end
            end += int(words[-1]) + 2
            if end > len(data):
                self._missing = end - len(data)
                return 0
            if words[2] == self._sid:
                headers = int(words[-2]) if words[0] == b"HMSG" else 0
                self._on_status(data[content : content + headers])
                return end
        self._inner.data_received(data[:end])
        return end


def install(client: Client, make: Callable[[asyncio.Protocol], BulkProtocol]) -> None:
    """Puts a bulk protocol in front of a connected client's own.

    Args:
        client: connected, and used for nothing else.
        make: makes the protocol from the client's own.

    Raises:
        HookUnavailable: the client's transport is not the one this was made for (a web socket, or another release).
    """
    writer: Any = getattr(getattr(client, "_transport", None), "_io_writer", None)
    if not isinstance(writer, asyncio.StreamWriter):
        raise HookUnavailable("the client has no stream writer where nats-py 2.14 to 2.16 have it")
    transport = writer.transport
    inner = transport.get_protocol()
    if not isinstance(inner, asyncio.StreamReaderProtocol):
        raise HookUnavailable(f"the client's protocol is {type(inner).__name__}, not a StreamReaderProtocol")
    transport.set_protocol(make(cast("asyncio.Protocol", inner)))
