"""Connections to NATS, with errors that say what to check."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import nats.errors
from nats.aio.client import Client

from refold.errors import ConfigurationError, NatsUnavailable, NotPermitted, RefoldError
from refold.jetstream.credentials import CredentialsUnusable, signing
from refold.jetstream.settings import NatsSettings, is_loopback

__all__ = ["NatsConnection", "NatsSettings", "connected"]

log = logging.getLogger(__name__)

_DENIED: Final = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]*)\"")
_AUTHORIZATION: Final = (
    "authorization violation",
    "authorization failed",
    "authentication expired",
    "authentication revoked",
)
_LAST_WORDS: Final = 2.0
"""Seconds that a server gets to take what was sent, and again to close the connection."""


_HUNG_UP: Final = (ssl.SSLError, ConnectionError, nats.errors.UnexpectedEOF)


class _CertificateRefused(nats.errors.Error):
    """A server that demands client certificates ended the connection while it was being made."""


class NatsConnection(Client):
    """A `nats-py` client that refuses to speak unencrypted where it must not, and remembers what was forbidden.

    Args:
        settings: how to reach the server.

    Attributes:
        settings: how to reach the server.
        connecting: whether it is on its way to its first connection.
        deaf: whether nothing that the server says is heard any more, so that there is no use in waiting for it.
    """

    def __init__(self, settings: NatsSettings) -> None:
        super().__init__()
        self.settings = settings
        self.connecting = True
        self.deaf = False
        self._denials: deque[tuple[str, str]] = deque(maxlen=64)
        self._denied: asyncio.Event = asyncio.Event()

    def denied(self, subject: str) -> str | None:
        """Says what the server forbade that a request to a subject needs; None where it forbade nothing.

        Args:
            subject: the subject that was published to.
        """
        inbox = f"{self.settings.inbox_prefix}.".lower()
        for action, what in self._denials:  # the client gives the server's words in small letters
            if action == "publish" and what == subject.lower():
                return f"the NATS user may not publish to {subject!r}: check its permissions"
            if action == "subscription" and what.startswith(inbox):
                return (
                    f"the NATS user may not subscribe to {self.settings.inbox_prefix}.>: check its permissions, or set "
                    "inbox_prefix to what it may subscribe to"
                )
        return None

    async def until_denied(self, subject: str) -> str:
        """Waits until the server forbids what a request to a subject needs, and says what."""
        while (what := self.denied(subject)) is None:
            self._denied.clear()
            await self._denied.wait()
        return what

    def forget_denial(self, subject: str | None = None) -> None:
        """Lets messages to a subject, or to any, be tried again: permissions may have changed."""
        publish = ("publish", (subject or "").lower())
        kept = (d for d in self._denials if (d != publish if subject else d[0] != "publish"))
        self._denials = deque(kept, maxlen=64)

    def note_error(self, error: BaseException) -> None:
        """Takes note of an error that the server reported, if it is a denial."""
        found = _DENIED.search(str(error))
        if found:
            self._denials.append((found[1], found[2]))
            self._denied.set()

    async def shut(self) -> None:
        """Sends what is on its way, then closes; waits for a silent server a few seconds at most, and never raises."""
        if self._flush_queue is None:  # it refused its arguments: there is nothing to close, and it would complain
            return
        is_closed = False
        try:
            with suppress(OSError, nats.errors.Error):
                if self.is_connected and not self.deaf:
                    async with asyncio.timeout(_LAST_WORDS):
                        await self.flush()
            with suppress(OSError, nats.errors.Error):
                async with asyncio.timeout(_LAST_WORDS):
                    await self.close()
                    is_closed = True
        finally:
            if not is_closed:  # cancelled meanwhile, perhaps
                self._hang_up()

    def _hang_up(self) -> None:
        """Ends the connection without a goodbye: under TLS, both the encrypted one and that which carries it."""
        for name in ("_io_writer", "_bare_io_writer"):
            writer = getattr(self._transport, name, None)
            if isinstance(writer, asyncio.StreamWriter):
                writer.transport.abort()

    async def _process_connect_init(self) -> None:
        """Greets the server; the client comes here after every connection of its socket."""
        self._server_info = {}
        try:
            await super()._process_connect_init()
            if self.connecting and not self.is_connected:
                raise nats.errors.UnexpectedEOF  # the server hung up, which the client takes for an answer
        except BaseException as error:
            # After a TLS handshake that failed nobody tells the transport's reader that the socket was closed, and the
            # client would wait for that for ever.
            self._hang_up()
            self._transport = None
            theirs = isinstance(error, _HUNG_UP) and not isinstance(error, ssl.SSLCertVerificationError)
            if theirs and self._server_info.get("tls_verify"):
                raise _CertificateRefused(str(error)) from error
            raise

    def _connect_command(self) -> bytes:
        """The message that carries the credentials, after TLS if there is TLS: the last moment to refuse."""
        server = self._current_server
        host = server.uri.hostname if server is not None else None
        scheme = server.uri.scheme if server is not None else ""
        encrypted = bool(self._server_info.get("tls_required")) or scheme == "wss"
        if not encrypted and self.settings.demands_tls:
            raise nats.errors.SecureConnWantedError
        exposed = self.settings.sends_secret and not self.settings.allow_plaintext
        if not encrypted and exposed and not is_loopback(host or ""):
            raise nats.errors.SecureConnRequiredError
        return super()._connect_command()


@asynccontextmanager
async def connected(settings: NatsSettings, *, purpose: str = "") -> AsyncIterator[NatsConnection]:
    """A connection to NATS, closed in the end. Once made, it is made again whenever it is lost, for ever.

    Every address is tried once. Errors of the connection go to the log.

    Args:
        settings: how to reach the server.
        purpose: what it is for; added to its name in the server's lists.

    Raises:
        NatsUnavailable: no server answers.
        NotPermitted: the server refuses the credentials or the client's certificate.
        ConfigurationError: a credentials or TLS file cannot be used, the server's certificate is not trusted, or it speaks
            no TLS where TLS is demanded.
    """
    client = NatsConnection(settings)
    try:
        await _connect(client, settings, f"{settings.name} {purpose}".strip())
        yield client
    finally:
        await client.shut()


async def _connect(client: NatsConnection, settings: NatsSettings, name: str) -> None:
    events = _Callbacks(client)
    try:
        # Past every address once the callback raises; the limit is for a server that accepts and then says nothing.
        async with asyncio.timeout((settings.connect_timeout + 3) * len(settings.urls) + 5):
            await client.connect(
                servers=settings.urls,
                name=name,
                error_cb=events.error,
                disconnected_cb=events.disconnected,
                reconnected_cb=events.reconnected,
                closed_cb=events.closed,
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                # It takes any number, and hands it to asyncio.
                connect_timeout=settings.connect_timeout,  # type: ignore[arg-type]
                tls=settings.ssl_context(),
                tls_hostname=settings.tls_hostname,
                user=settings.user,
                password=settings.password,
                token=settings.token,
                inbox_prefix=settings.inbox_prefix,
                **signing(settings),
            )
    except (OSError, nats.errors.Error) as error:  # TimeoutError is an OSError
        raise _translated(error, settings.url) from error
    finally:
        client.connecting = False


class _Callbacks:
    """What the client tells about itself, as log lines. While it is connecting, the last address's error ends that."""

    def __init__(self, client: NatsConnection) -> None:
        self._client = client
        self._left = len(client.settings.urls)

    async def error(self, error: Exception) -> None:
        if self._client.connecting:
            # Other errors than the client's last come from tidying up after that one.
            if error is self._client.last_error:
                self._next_address(error)
            return
        self._client.note_error(error)
        if not self._client.is_closed:
            log.warning("nats reported an error", extra={"reason": str(error) or type(error).__name__})

    def _next_address(self, error: Exception) -> None:
        self._left -= 1
        translated = _translated(error, self._client.settings.url)
        if self._left <= 0 or isinstance(translated, NotPermitted):
            raise translated from error
        log.info("a nats address was not reachable; trying the next", extra={"reason": str(error)})

    async def disconnected(self) -> None:
        if not self._client.connecting and not self._client.is_closed:
            log.warning("nats connection lost; connecting again", extra={"url": self._client.settings.url})

    async def reconnected(self) -> None:
        log.info("nats connection made again", extra={"url": self._client.settings.url})

    async def closed(self) -> None:
        log.debug("nats connection closed", extra={"url": self._client.settings.url})


def _translated(error: BaseException, url: str) -> RefoldError:
    """What an error of a first connection means: what is away may come, what is set wrong stays wrong."""
    text = str(error) or type(error).__name__
    if any(words in text.lower() for words in _AUTHORIZATION):
        return NotPermitted(
            f"NATS at {url} refuses these credentials: check user, password, token, nkey or credentials file"
        )
    if isinstance(error, CredentialsUnusable):
        return ConfigurationError(text)
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConfigurationError(f"the TLS certificate of {url} is not trusted: {text}; check tls_ca and tls_hostname")
    if isinstance(error, _CertificateRefused):
        return NotPermitted(f"NATS at {url} refuses the client certificate: {text}; check tls_cert and tls_key")
    if isinstance(error, ssl.SSLError):
        return NatsUnavailable(f"no TLS connection to {url}: {text}; check the URL and the server's TLS settings")
    if isinstance(error, nats.errors.SecureConnWantedError):
        return ConfigurationError(f"NATS at {url} offers no TLS, and TLS is demanded: check the server or the URL")
    if isinstance(error, nats.errors.SecureConnRequiredError):
        return ConfigurationError(
            f"NATS at {url} led to another host without TLS, where no password or token is sent: use tls://"
        )
    if isinstance(error, ImportError):
        return ConfigurationError(f"web sockets need another library ({text}): pip install aiohttp, or use nats://")
    return NatsUnavailable(f"no connection to NATS at {url}: {text}; check the URL and that the server runs")
