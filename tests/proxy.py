"""A TCP proxy that tests put between a client and a server, to lose, change, hold or cut what goes through."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

Filter = Callable[[bytes], bytes]


class Proxy:
    """Stands between client and server. `to_server` and `to_client` change what goes through, chunk by chunk.

    Args:
        port: where it listens; 0 for any free one.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.seen_by_server = b""
        self.seen_by_client = b""
        self.to_server: Filter = bytes
        self.to_client: Filter = bytes
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def hold(self) -> None:
        """Lets nothing through, until `release`: as a network that has lost its way."""
        self._open.clear()

    def release(self) -> None:
        """Lets everything through again, what was held first."""
        self._open.set()

    def cut(self) -> None:
        """Ends every connection through it."""
        for writer in list(self._writers):
            writer.transport.abort()

    @asynccontextmanager
    async def before(self, port: int) -> AsyncIterator[Proxy]:
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                writer.close()
                return
            self._writers |= {writer, upstream_writer}
            for source, target, to_server in ((reader, upstream_writer, True), (upstream_reader, writer, False)):
                task = asyncio.create_task(self._pump(source, target, to_server=to_server))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.wait_closed()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, to_server: bool) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                await self._open.wait()
                data = self.to_server(data) if to_server else self.to_client(data)
                if to_server:
                    self.seen_by_server += data
                else:
                    self.seen_by_client += data
                target.write(data)
                await target.drain()
        self._writers.discard(target)
        target.close()


def losing(pattern: bytes, times: int = 1) -> Filter:
    """Loses so many chunks that have a pattern in them."""
    left = times

    def pass_on(data: bytes) -> bytes:
        nonlocal left
        if left and pattern in data:
            left -= 1
            return b""
        return data

    return pass_on


def rewriting(pattern: bytes, replacement: bytes) -> Filter:
    """Rewrites what matches a pattern. For control lines, whose length nobody counts, or for texts of equal length."""
    return lambda data: re.sub(pattern, replacement, data)
