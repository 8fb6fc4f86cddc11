"""A proxy before PostgreSQL that cuts the connection around a COMMIT."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

from sqlalchemy import make_url

COMMIT = b"COMMIT\0"


class CuttingProxy:
    """Passes bytes on, until it is told to cut: then the next COMMIT is the connection's last word.

    Attributes:
        url: of the database, through the proxy.
        cut: ``before`` the COMMIT gets to the server, ``after`` the server has answered it; None passes it on.
        cuts: how often it did.
    """

    def __init__(self, url: str) -> None:
        given = make_url(url)
        self._server = (given.host, given.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = given.set(port=self._listener.getsockname()[1]).render_as_string(hide_password=False)
        self.cut: str | None = None
        self.cuts = 0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._sockets:
            self._end(one)
        for thread in self._threads:
            thread.join(10)
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            self._sockets += [client, server]
            connection: dict[str, Any] = {"client": client, "server": server, "last": False}
            for target in (self._up, self._down):
                self._threads.append(threading.Thread(target=target, args=(connection,)))
                self._threads[-1].start()

    def _up(self, connection: dict[str, Any]) -> None:
        with suppress(OSError):
            while data := connection["client"].recv(65536):
                if self.cut and COMMIT in data:
                    where, self.cut = self.cut, None
                    self.cuts += 1
                    if where == "before":
                        break
                    connection["last"] = True
                connection["server"].sendall(data)
        self._end(connection["client"], connection["server"])

    def _down(self, connection: dict[str, Any]) -> None:
        with suppress(OSError):
            while data := connection["server"].recv(65536):
                if connection["last"]:
                    break
                connection["client"].sendall(data)
        self._end(connection["client"], connection["server"])

    def _end(self, *sockets: socket.socket) -> None:
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
