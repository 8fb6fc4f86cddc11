"""Every way to authenticate and to encrypt, against real servers: what is let in works, what is not is told at once."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import nats.errors
import nkeys
import pytest
from jetstream_support import Proxy, eventually, exercise
from nats.aio.client import Srv
from nats_credentials import PASSWORD, TOKEN, Certificates, Key, Operator

from refold import App
from refold.embedded import EmbeddedNats
from refold.errors import ConfigurationError, NatsUnavailable, NotPermitted, RefoldError
from refold.jetstream.connection import NatsConnection, NatsSettings, connected

MakeNats = Callable[..., EmbeddedNats]
QUICK = 4.0
"""Seconds; an app tries for 15 where it believes that the server may come."""

USERS = f'authorization {{ users: [ {{ user: ann, password: "{PASSWORD}" }} ] }}'
TOKENS = f'authorization {{ token: "{TOKEN}" }}'


def app(server: EmbeddedNats, **settings: Any) -> App:
    return App("shop", **{"nats_url": server.url, "database_url": "memory://", **settings})


def tls(server: EmbeddedNats) -> str:
    return server.url.replace("nats://", "tls://")


async def works(caplog: pytest.LogCaptureFixture, app: App, *secrets: str) -> None:
    """Everything works, in bulk by the quick way, and nothing that is logged or shown has a secret in it."""
    caplog.set_level(logging.DEBUG)
    async with app:
        await exercise(app)
        shown = [repr(app), repr(app.settings), str(app.settings), repr(app._nats)]
    assert "slow public path" not in caplog.text
    assert_hidden(caplog, shown, *secrets)


async def refused(
    caplog: pytest.LogCaptureFixture, app: App, kind: type[RefoldError], words: str, *secrets: str
) -> None:
    """One error of a kind, quickly, which says what to check and shows no secret; nor does its cause or the log."""
    caplog.set_level(logging.DEBUG)
    began = monotonic()
    with pytest.raises(kind, match=words) as caught:
        async with asyncio.timeout(20), app:
            pass
    assert type(caught.value) is kind
    assert monotonic() - began < QUICK
    assert "trying again" not in caplog.text
    assert_hidden(caplog, [repr(app), *traceback.format_exception_only(caught.value), _chain(caught.value)], *secrets)


def _chain(error: BaseException | None) -> str:
    told = []
    while error is not None:
        told.append(repr(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(told)


def assert_hidden(caplog: pytest.LogCaptureFixture, shown: list[str], *secrets: str) -> None:
    logged = [str(vars(record)) for record in caplog.records]
    for text in [caplog.text, *logged, *shown]:
        for secret in secrets:
            assert secret not in text


# -- User and password, token ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_url", [False, True])
async def test_user_and_password(own_nats: MakeNats, caplog: pytest.LogCaptureFixture, in_url: bool) -> None:
    async with own_nats(config=USERS) as server:
        settings: dict[str, Any] = {"nats_user": "ann", "nats_password": PASSWORD}
        if in_url:
            settings = {"nats_url": f"nats://ann:pass%20word%2F%40s3cret@127.0.0.1:{server.port}"}
        await works(caplog, app(server, **settings), PASSWORD, "s3cret")


@pytest.mark.parametrize("in_url", [False, True])
async def test_token(own_nats: MakeNats, caplog: pytest.LogCaptureFixture, in_url: bool) -> None:
    async with own_nats(config=TOKENS) as server:
        settings = {"nats_url": f"nats://{TOKEN}@127.0.0.1:{server.port}"} if in_url else {"nats_token": TOKEN}
        await works(caplog, app(server, **settings), TOKEN)


async def test_wrong_passwords_and_tokens(own_nats: MakeNats, caplog: pytest.LogCaptureFixture) -> None:
    words = "refuses these credentials: check user, password, token"
    async with own_nats(config=USERS) as server:
        for settings in (
            {"nats_user": "ann", "nats_password": "wr0ng"},
            {"nats_user": "bob", "nats_password": "wr0ng"},
            {"nats_token": "wr0ng"},
            {"nats_url": f"nats://ann:wr0ng@127.0.0.1:{server.port}"},
            {},
        ):
            await refused(caplog, app(server, **settings), NotPermitted, words, "wr0ng")


# -- Keys ----------------------------------------------------------------------------------------------------------------


async def test_nkey(own_nats: MakeNats, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    key, other = Key.new(), Key.new()
    file = tmp_path / "user.nk"
    async with own_nats(config=f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}") as server:
        file.write_text(f"{key.seed}\n")
        await works(caplog, app(server, nats_nkey_seed_file=file), key.seed)
        async with connected(NatsSettings(url=server.url, nkey_seed=key.seed)) as client:
            assert client.is_connected
        file.write_text(other.seed)
        with_other = app(server, nats_nkey_seed_file=file)
        await refused(caplog, with_other, NotPermitted, "refuses these credentials", other.seed)


async def test_credentials_file(own_nats: MakeNats, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    operator = Operator()
    file = tmp_path / "user.creds"
    async with own_nats(config=operator.config) as server:
        for text in (operator.credentials(), operator.credentials().replace("\n", "\r\n")):
            file.write_bytes(text.encode())
            async with connected(NatsSettings(url=server.url, credentials_file=file)) as client:
                assert client.is_connected
        await works(caplog, app(server, nats_credentials_file=file), *secrets_of(text))
        for text in (operator.credentials(Key.new(nkeys.PREFIX_BYTE_ACCOUNT)), operator.credentials(expired=True)):
            file.write_text(text)
            stranger = app(server, nats_credentials_file=file)
            await refused(caplog, stranger, NotPermitted, "refuses these credentials", *secrets_of(text))


def secrets_of(credentials: str) -> list[str]:
    """JWT and seed of the text of a credentials file."""
    return [line.strip() for line in credentials.splitlines() if line.strip() and "-----" not in line]


@pytest.mark.parametrize(
    "text",
    ["", "s3cret", "-----BEGIN NATS USER JWT-----\ns3cret", "-----BEGIN NATS USER JWT-----\ns3cret\n---END x---\n"],
)
async def test_a_file_that_holds_no_credentials(
    nats: EmbeddedNats, caplog: pytest.LogCaptureFixture, tmp_path: Path, text: str
) -> None:
    """Also where the server would not ask for any. (nats-py reads a file without a JWT for ever.)"""
    file = tmp_path / "user.creds"
    file.write_text(text)
    words = r"user\.creds' holds no user JWT"
    await refused(caplog, app(nats, nats_credentials_file=file), ConfigurationError, words, "s3cret")
    if "BEGIN" not in text:
        words = r"user\.creds' is no nkey seed"
        await refused(caplog, app(nats, nats_nkey_seed_file=file), ConfigurationError, words, "s3cret")


async def test_a_seed_that_is_none(nats: EmbeddedNats, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    file = tmp_path / "user.creds"
    seed = "SUs3cret"
    file.write_text(Operator().credentials().replace("SU", seed))
    words = r"user\.creds' is no nkey seed"
    await refused(caplog, app(nats, nats_credentials_file=file), ConfigurationError, words, "s3cret")
    file.write_bytes(b"\xff\xfes3cret")
    words = "cannot be read: it is no text"
    await refused(caplog, app(nats, nats_credentials_file=file), ConfigurationError, words, "s3cret")
    with pytest.raises(ConfigurationError, match="nkey_seed is no nkey seed") as caught:
        async with connected(NatsSettings(url=nats.url, nkey_seed=seed)):
            pass
    assert seed not in _chain(caught.value)


async def test_credentials_are_read_anew_when_the_connection_is(own_nats: MakeNats, tmp_path: Path) -> None:
    """A file that cannot be used for a while does not end the connection for good."""
    operator = Operator()
    file = tmp_path / "user.creds"
    file.write_text(operator.credentials())
    async with own_nats(config=operator.config) as server:
        async with connected(NatsSettings(url=server.url, credentials_file=file)) as client:
            file.write_text("nonsense")
            await server.restart()
            await eventually(lambda: "holds no user JWT" in str(client.last_error))
            file.write_text(operator.credentials())
            await eventually(lambda: client.is_connected)
            await client.flush()


# -- TLS -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def tls_nats(own_nats: MakeNats, certificates: Certificates) -> AsyncIterator[EmbeddedNats]:
    """A server that speaks TLS."""
    async with own_nats(config=certificates.config()) as server:
        yield server


async def test_tls(tls_nats: EmbeddedNats, certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    await works(caplog, app(tls_nats, nats_url=tls(tls_nats), nats_tls_ca=certificates.ca))


async def test_tls_with_a_password(
    own_nats: MakeNats, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with own_nats(config=f"{USERS}\n{certificates.config()}") as server:
        settings = {"nats_tls_ca": certificates.ca, "nats_user": "ann"}
        await works(caplog, app(server, **settings, nats_password=PASSWORD), PASSWORD)
        wrong = app(server, **settings, nats_password="wr0ng")
        await refused(caplog, wrong, NotPermitted, "refuses these credentials", "wr0ng")


async def test_tls_with_another_host_name(
    tls_nats: EmbeddedNats, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    url = tls(tls_nats).replace("127.0.0.1", "localhost")
    settings = {"nats_url": url, "nats_tls_ca": certificates.ca}
    await refused(caplog, app(tls_nats, **settings), ConfigurationError, "not trusted.*check tls_ca and tls_hostname")
    wrong = app(tls_nats, **settings, nats_tls_hostname="other.test")
    await refused(caplog, wrong, ConfigurationError, "not valid for 'other.test'")
    await works(caplog, app(tls_nats, **settings, nats_tls_hostname="nats.test"))


@pytest.mark.parametrize("settings", [{}, {"nats_tls_ca": "other-ca.pem"}])
async def test_a_server_that_is_not_trusted(
    tls_nats: EmbeddedNats, certificates: Certificates, caplog: pytest.LogCaptureFixture, settings: dict[str, str]
) -> None:
    """Also where the URL does not demand TLS, but the server does."""
    files = {name: certificates[file] for name, file in settings.items()}
    await refused(caplog, app(tls_nats, **files), ConfigurationError, "not trusted")
    await refused(caplog, app(tls_nats, nats_url=tls(tls_nats), **files), ConfigurationError, "not trusted")


async def test_a_second_address_is_tried_after_tls_has_failed(tls_nats: EmbeddedNats, nats: EmbeddedNats) -> None:
    settings = NatsSettings(url=f"{tls_nats.url},{nats.url}")
    for _ in range(6):  # the client shuffles them
        async with connected(settings) as client:
            assert client.connected_url is not None
            assert client.connected_url.port == nats.port


async def test_client_certificates(
    own_nats: MakeNats, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    ca = {"nats_tls_ca": certificates.ca}

    def pair(name: str) -> dict[str, Path]:
        return {"nats_tls_cert": certificates[f"{name}.pem"], "nats_tls_key": certificates[f"{name}.key"]}

    async with own_nats(config=certificates.config(verify=True)) as server:
        await works(caplog, app(server, **ca, **pair("client")))
        words = "refuses the client certificate.*check tls_cert and tls_key"
        for settings in ({}, pair("stranger")):
            for _ in range(4):  # whether the refusal or the end of the connection is seen first is a matter of luck
                await refused(caplog, app(server, **ca, **settings), NotPermitted, words)
    unlike = pair("client") | {"nats_tls_key": certificates["stranger.key"]}
    await refused(caplog, app(server, **ca, **unlike), ConfigurationError, "TLS files cannot be used")


async def test_nothing_is_said_where_tls_is_demanded_and_not_offered(
    own_nats: MakeNats, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with own_nats(config=USERS) as server, Proxy().before(server.port) as proxy:
        asking = app(server, nats_url=proxy.url, nats_user="ann", nats_password=PASSWORD, nats_tls_ca=certificates.ca)
        await refused(caplog, asking, ConfigurationError, "offers no TLS, and TLS is demanded", PASSWORD)
        assert proxy.seen_by_server == b""


# -- Passwords without TLS -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"nats_url": "nats://ann:s3cret@nats.test:4222"},
        {"nats_url": "nats://nats.test", "nats_user": "ann", "nats_password": "s3cret"},
        {"nats_url": "nats://10.1.2.3", "nats_token": "s3cret"},
    ],
)
def test_passwords_go_unencrypted_to_other_hosts_only_where_allowed(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="unencrypted: use tls://.*allow_plaintext") as caught:
        App("shop", **settings)
    assert "s3cret" not in _chain(caught.value)
    App("shop", **settings, nats_allow_plaintext=True)
    App("shop", **settings | {"nats_url": settings["nats_url"].replace("nats://", "tls://")})


@pytest.mark.parametrize("allowed", [False, True])
def test_a_cluster_cannot_lead_a_password_to_another_host(allowed: bool) -> None:
    """Servers tell clients of others; the password is asked for only when one of those is greeted."""
    client = NatsConnection(NatsSettings(user="ann", password="s3cret", allow_plaintext=allowed))
    client.options |= {"verbose": False, "pedantic": False, "user": "ann", "password": "s3cret", "no_echo": False}
    client.options |= {"name": "shop", "token": None}
    client._auth_configured = True
    client._current_server = Srv(client._parse_server_uri("nats://10.1.2.3:4222"), discovered=True)
    if allowed:
        assert b"s3cret" in client._connect_command()
    else:
        with pytest.raises(nats.errors.SecureConnRequiredError):
            client._connect_command()


# -- Servers that behave oddly ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def odd_server(*answers: bytes) -> AsyncIterator[NatsSettings]:
    """A server that says something, then something at each thing it is told, and at last hangs up."""

    tasks = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        for answer in answers:
            writer.write(answer)
            await writer.drain()
            if not await reader.read(65536):
                break
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield NatsSettings(url=f"nats://127.0.0.1:{port}", connect_timeout=0.5)
        await asyncio.gather(*filter(None, tasks))


@pytest.mark.parametrize(
    "answers", [[], [b"INFO {}\r\n"], [b"INFO {nonsense\r\n"], [b"HTTP/1.1 400 Bad Request\r\n"], [b"", b""]]
)
async def test_who_hangs_up_or_says_nothing_is_away(answers: list[bytes]) -> None:
    began = monotonic()
    async with odd_server(*answers) as settings:
        with pytest.raises(NatsUnavailable, match="check the URL and that the server runs"):
            async with asyncio.timeout(20), connected(settings):
                pass
    assert monotonic() - began < QUICK
