"""How to reach a NATS server: addresses, credentials, TLS."""

from __future__ import annotations

import dataclasses
import ipaddress
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from refold.errors import ConfigurationError

__all__ = ["NatsSettings", "is_loopback"]

_SCHEMES: Final = ("nats", "tls", "ws", "wss")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NatsSettings:
    """How to reach a NATS server, and as whom; checked when made. Secrets never show in `repr`.

    At most one way of authentication: user and password, token, nkey seed, or credentials file. User and password, or a
    token, may also stand in the URL (``nats://user:password@host``, ``nats://token@host``, percent-encoded).

    Attributes:
        url: the server's address, or several of one cluster with commas between. ``tls://`` demands TLS.
        user: user name; needs `password`.
        password: its password.
        token: authentication token.
        nkey_seed: nkey seed (``SU…``).
        nkey_seed_file: file that holds one.
        credentials_file: ``.creds`` file with a user JWT and its seed.
        tls_ca: PEM file of the authorities to trust, instead of the system's; demands TLS.
        tls_cert: PEM file of the client's certificate (chain); demands TLS.
        tls_key: PEM file of its key; needs `tls_cert`.
        tls_hostname: the name that the server's certificate must carry, if it is not the address's.
        allow_plaintext: send passwords and tokens to other hosts without TLS too.
        inbox_prefix: first tokens of the subjects that answers come to; what the NATS user may subscribe to.
        name: how the connection is called in the server's lists.
        connect_timeout: seconds for one attempt to connect to one address.

    Raises:
        ConfigurationError: an address is malformed, settings contradict each other, a file is missing, or a password or
            token would go to another host unencrypted.
    """

    url: str = "nats://127.0.0.1:4222"
    user: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    token: str | None = dataclasses.field(default=None, repr=False)
    nkey_seed: str | None = dataclasses.field(default=None, repr=False)
    nkey_seed_file: Path | None = None
    credentials_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_hostname: str | None = None
    allow_plaintext: bool = False
    inbox_prefix: str = "_INBOX"
    name: str = "refold"
    connect_timeout: float = 5.0

    def __post_init__(self) -> None:
        addresses = [_address(text) for text in self.url.split(",")]
        self._take_userinfo(addresses)
        object.__setattr__(self, "url", ",".join(_without_userinfo(address) for address in addresses))
        self._check_authentication()
        self._check_tls()
        if not self.inbox_prefix or any(c in self.inbox_prefix for c in " \t\r\n*>"):
            raise ConfigurationError(f"inbox prefix {self.inbox_prefix!r} is no subject")
        if self.connect_timeout <= 0:
            raise ConfigurationError(f"connect_timeout is {self.connect_timeout}; give seconds above 0")
        exposed = self.sends_secret and not self.demands_tls and not self.allow_plaintext
        for address in addresses:
            if exposed and address.scheme != "wss" and not is_loopback(address.hostname or ""):
                raise ConfigurationError(
                    f"a password or token would go to {address.hostname} unencrypted: use tls://, an nkey or a "
                    "credentials file, or allow_plaintext where the network is trusted"
                )

    @property
    def urls(self) -> list[str]:
        """The addresses, without credentials."""
        return self.url.split(",")

    @property
    def demands_tls(self) -> bool:
        """Whether a connection that is not encrypted is refused."""
        wanted = self.tls_ca or self.tls_cert or self.tls_hostname
        return bool(wanted) or any(url.startswith(("tls://", "wss://")) for url in self.urls)

    @property
    def sends_secret(self) -> bool:
        """Whether connecting sends something that who listens could use: a password or a token."""
        return self.password is not None or self.token is not None

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS side of the settings; None where they have none.

        Raises:
            ConfigurationError: a file cannot be read or is not what it should be.
        """
        if not self.demands_tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert is not None:
                context.load_cert_chain(self.tls_cert, self.tls_key)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = ", ".join(str(file) for file in (self.tls_ca, self.tls_cert, self.tls_key) if file)
            raise ConfigurationError(f"TLS files cannot be used ({files}): {error}") from error
        return context

    def _take_userinfo(self, addresses: list[SplitResult]) -> None:
        found = {(a.username, a.password) for a in addresses if a.username is not None}
        if not found:
            return
        if len(found) > 1:
            raise ConfigurationError("the NATS URLs carry different credentials; give one for all")
        if self.user is not None or self.token is not None:
            raise ConfigurationError("credentials stand in the NATS URL and beside it; leave one out")
        user, password = found.pop()
        if password is None:
            object.__setattr__(self, "token", unquote(user or ""))
        else:
            object.__setattr__(self, "user", unquote(user or ""))
            object.__setattr__(self, "password", unquote(password))

    def _check_authentication(self) -> None:
        if (self.user is None) != (self.password is None):
            raise ConfigurationError("NATS user and password belong together; one of them is missing")
        given = {
            "user and password": self.user,
            "token": self.token,
            "nkey seed": self.nkey_seed,
            "nkey seed file": self.nkey_seed_file,
            "credentials file": self.credentials_file,
        }
        ways = [way for way, value in given.items() if value is not None]
        if len(ways) > 1:
            raise ConfigurationError(
                f"several ways to authenticate with NATS: {', '.join(ways)}; leave all out but one"
            )
        for file in (self.nkey_seed_file, self.credentials_file):
            if file is not None and not Path(file).is_file():
                raise ConfigurationError(f"NATS credentials file {str(file)!r} does not exist")

    def _check_tls(self) -> None:
        if self.tls_key is not None and self.tls_cert is None:
            raise ConfigurationError("tls_key needs tls_cert, the certificate that it belongs to")
        for file in (self.tls_ca, self.tls_cert, self.tls_key):
            if file is not None and not Path(file).is_file():
                raise ConfigurationError(f"TLS file {str(file)!r} does not exist")


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address(text: str) -> SplitResult:
    """One address, checked; messages show nothing but its host, for the rest may hold a password."""
    text = text.strip()
    try:
        parts = urlsplit(text if "://" in text else f"nats://{text}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError("a NATS URL is malformed; write nats://host:4222") from None
    if parts.scheme not in _SCHEMES:
        raise ConfigurationError(f"NATS URL scheme {parts.scheme!r} is not known; use {', '.join(_SCHEMES)}")
    if not host:
        raise ConfigurationError("a NATS URL has no host; write nats://host:4222")
    return parts


def _without_userinfo(address: SplitResult) -> str:
    return address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()
