"""A bare connection to NATS: a socket and the protocol by hand, to measure without the costs of a client."""

from __future__ import annotations

import json
import socket
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

from refold.errors import ConfigurationError, JetStreamUnavailable, NatsUnavailable, StreamError, StreamNotFound

__all__ = ["BareConnection"]

_INBOX: Final = "_INBOX.refold.bench"
_STREAM_NOT_FOUND: Final = 10059


class BareConnection:
    """A blocking connection for one thread; a context manager.

    Args:
        url: ``nats://[user:password@|token@]host[:port]``; without TLS.
        timeout: seconds to wait for any answer.

    Attributes:
        socket: the socket, for bulk traffic. Nothing may be on its way while `api` is used.
        inbox: where answers come to.
        version: of the server.

    Raises:
        ConfigurationError: the URL is of another kind.
        NatsUnavailable: on entering: no connection, or the server refuses it.
    """

    socket: socket.socket

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "nats" or not parts.hostname:
            raise ConfigurationError("the benchmark speaks plain NATS: give it a URL like nats://127.0.0.1:4222")
        self._address = (parts.hostname, parts.port or 4222)
        self._login = {}
        if parts.username and parts.password:
            self._login = {"user": unquote(parts.username), "pass": unquote(parts.password)}
        elif parts.username:
            self._login = {"auth_token": unquote(parts.username)}
        self._timeout = timeout
        self._left = b""
        self.inbox = ""
        self.version = ""

    def __enter__(self) -> Self:
        try:
            self.socket = socket.create_connection(self._address, self._timeout)
        except OSError as error:
            raise self._lost(error) from error
        try:
            self._greet()
        except OSError as error:
            self.socket.close()
            raise self._lost(error) from error
        self.inbox = f"{_INBOX}.{id(self):x}"
        self.send(f"SUB {self.inbox} 1\r\n".encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def _greet(self) -> None:
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "lang": "python"}
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.version = str(json.loads(self._line().removeprefix(b"INFO "))["version"])
        self.socket.sendall(b"CONNECT %b\r\nPING\r\n" % json.dumps(options | self._login).encode())
        while self._line() != b"PONG":
            pass

    def send(self, data: bytes) -> None:
        """Sends protocol lines.

        Raises:
            NatsUnavailable: the connection is gone.
        """
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise self._lost(error) from error

    def api(self, operation: str, stream: str, request: Any = None) -> dict[str, Any]:
        """Asks JetStream: ``api("STREAM.INFO", "orders")``.

        Raises:
            StreamNotFound: there is no such stream.
            JetStreamUnavailable: the server has no JetStream.
            StreamError: JetStream refuses.
            NatsUnavailable: the connection is gone.
        """
        body = b"" if request is None else json.dumps(request).encode()
        lines = f"PUB $JS.API.{operation}.{stream} {self.inbox} {len(body)}\r\n".encode() + body + b"\r\n"
        return self.ask(lines, f"{operation} of stream {stream!r}", stream)

    def ask(self, lines: bytes, what: str, stream: str) -> dict[str, Any]:
        """Sends lines that publish one message with `inbox` as reply subject, and waits for JetStream's answer.

        Args:
            lines: the lines.
            what: what is asked for, to be told when it is refused.
            stream: of which stream.

        Raises: as `api`.
        """
        self.send(lines)
        try:
            answer = self._message()
        except OSError as error:
            raise self._lost(error) from error
        if answer is None:
            raise JetStreamUnavailable("NATS answers, JetStream does not: start the server with JetStream (-js)")
        problem = answer.get("error")
        if problem is None:
            return answer
        if problem.get("err_code") == _STREAM_NOT_FOUND:
            raise StreamNotFound(stream)
        raise StreamError(f"{what} was refused: {problem.get('description')}")

    def _message(self) -> dict[str, Any] | None:
        """The next answer; None where nobody is there to answer."""
        while True:
            line = self._line()
            if line.startswith((b"MSG ", b"HMSG ")):
                size = int(line.rsplit(b" ", 1)[1])
                while len(self._left) < size + 2:
                    self._left += self._received()
                content, self._left = self._left[:size], self._left[size + 2 :]
                answer: dict[str, Any] | None = None if line.startswith(b"HMSG ") else json.loads(content)
                return answer

    def _line(self) -> bytes:
        while b"\r\n" not in self._left:
            self._left += self._received()
        line, self._left = self._left.split(b"\r\n", 1)
        if line == b"PING":
            self.socket.sendall(b"PONG\r\n")
        elif line.startswith(b"-ERR"):
            raise ConnectionError(line[5:].decode("utf-8", "replace"))
        return line

    def _received(self) -> bytes:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def _lost(self, error: OSError) -> NatsUnavailable:
        host, port = self._address
        return NatsUnavailable(
            f"no use of NATS at {host}:{port}: {error}; check the URL, the server and the credentials"
        )
