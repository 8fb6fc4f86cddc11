"""Connecting: every way to authenticate, TLS, and what is said when it does not work. Real servers throughout."""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nkeys
import pytest
from jetstream_support import Proxy, eventually

from refold.embedded import EmbeddedNats
from refold.errors import ConfigurationError, JetStreamUnavailable, NatsUnavailable, NotPermitted
from refold.jetstream.api import JetStreamApi, request
from refold.jetstream.connection import NatsSettings, connected

MakeNats = Callable[..., EmbeddedNats]
PASSWORDS = 'authorization { users: [ { user: "ann", password: "pass word/@" } ] }'


async def usable(settings: NatsSettings) -> bool:
    """Whether a connection can be made and answers."""
    async with connected(settings) as client:
        await client.flush()
        return client.is_connected


# -- Ways to authenticate ----------------------------------------------------------------------------------------------


async def test_user_and_password(own_nats: MakeNats) -> None:
    async with own_nats(config=PASSWORDS) as server:
        assert await usable(NatsSettings(url=server.url, user="ann", password="pass word/@"))
        assert await usable(NatsSettings(url=f"nats://ann:pass%20word%2F%40@127.0.0.1:{server.port}"))


async def test_token(own_nats: MakeNats) -> None:
    async with own_nats(config='authorization { token: "t0ken" }') as server:
        assert await usable(NatsSettings(url=server.url, token="t0ken"))
        assert await usable(NatsSettings(url=f"nats://t0ken@127.0.0.1:{server.port}"))


async def test_nkey_seed_as_text_and_as_file(own_nats: MakeNats, tmp_path: Path) -> None:
    seed, public = new_key(nkeys.PREFIX_BYTE_USER)
    file = tmp_path / "user.nk"
    file.write_text(f"{seed}\n")
    async with own_nats(config=f"authorization {{ users: [ {{ nkey: {public} }} ] }}") as server:
        assert await usable(NatsSettings(url=server.url, nkey_seed=seed))
        assert await usable(NatsSettings(url=server.url, nkey_seed_file=file))


async def test_credentials_file(own_nats: MakeNats, tmp_path: Path) -> None:
    config, credentials = operator_mode()
    file = tmp_path / "user.creds"
    file.write_text(credentials)
    async with own_nats(config=config) as server:
        assert await usable(NatsSettings(url=server.url, credentials_file=file))
        with pytest.raises(NotPermitted):
            await usable(NatsSettings(url=server.url))


@pytest.mark.parametrize(
    "wrong",
    [{"user": "ann", "password": "wrong1"}, {"token": "wrong1"}, {"nkey_seed": "fresh"}, {}],
    ids=["password", "token", "nkey", "nothing"],
)
async def test_refused_credentials_are_told_at_once(own_nats: MakeNats, wrong: dict[str, Any]) -> None:
    if "nkey_seed" in wrong:
        wrong = {"nkey_seed": new_key(nkeys.PREFIX_BYTE_USER)[0]}
    async with own_nats(config=PASSWORDS) as server:
        began = time.monotonic()
        with pytest.raises(NotPermitted, match="refuses these credentials") as refused:
            await usable(NatsSettings(url=server.url, **wrong))
        assert time.monotonic() - began < 3
        assert "wrong1" not in str(refused.value)
        assert server.url in str(refused.value)


async def test_a_bad_seed_is_told_without_showing_it(own_nats: MakeNats, tmp_path: Path) -> None:
    file = tmp_path / "user.creds"
    file.write_text("no credentials at all: SECRET1")
    async with own_nats() as server:
        for settings in (
            NatsSettings(url=server.url, nkey_seed="SECRET1"),
            NatsSettings(url=server.url, credentials_file=file),
        ):
            with pytest.raises(ConfigurationError, match="nkey seed or credentials file") as refused:
                await usable(settings)
            assert "SECRET1" not in str(refused.value)


# -- TLS ---------------------------------------------------------------------------------------------------------------


async def test_tls_with_an_authority_of_our_own(own_nats: MakeNats, certificates: Path) -> None:
    async with own_nats(config=tls_config(certificates)) as server:
        url = server.url.replace("nats://", "tls://")
        assert await usable(NatsSettings(url=url, tls_ca=certificates / "ca.pem"))
        assert await usable(NatsSettings(url=server.url, tls_ca=certificates / "ca.pem"))
        with pytest.raises(NatsUnavailable, match="not trusted"):
            await usable(NatsSettings(url=url))


async def test_tls_checks_the_name_of_the_server(own_nats: MakeNats, certificates: Path) -> None:
    async with own_nats(config=tls_config(certificates)) as server:
        ca = certificates / "ca.pem"
        assert await usable(NatsSettings(url=server.url, tls_ca=ca, tls_hostname="nats.test"))
        with pytest.raises(NatsUnavailable, match="tls_hostname"):
            await usable(NatsSettings(url=server.url, tls_ca=ca, tls_hostname="other.test"))


async def test_tls_with_a_client_certificate(own_nats: MakeNats, certificates: Path) -> None:
    async with own_nats(config=tls_config(certificates, verify=True)) as server:
        ca, cert, key = (certificates / name for name in ("ca.pem", "client.pem", "client.key"))
        assert await usable(NatsSettings(url=server.url, tls_ca=ca, tls_cert=cert, tls_key=key))
        with pytest.raises(NatsUnavailable):
            await usable(NatsSettings(url=server.url, tls_ca=ca))


async def test_no_password_leaves_where_tls_is_demanded_and_not_offered(own_nats: MakeNats, certificates: Path) -> None:
    async with own_nats(config=PASSWORDS) as server, Proxy().before(server.port) as proxy:
        settings = NatsSettings(url=proxy.url, user="ann", password="pass word/@", tls_ca=certificates / "ca.pem")
        with pytest.raises(NatsUnavailable, match="offers no TLS"):
            await usable(settings)
        assert b"CONNECT" not in proxy.seen_by_server


# -- Not there, gone, back again -----------------------------------------------------------------------------------------


async def test_nobody_there_is_told_at_once_and_without_secrets() -> None:
    began = time.monotonic()
    with pytest.raises(NatsUnavailable, match="check the URL") as failed:
        await usable(NatsSettings(url="nats://ann:secret1@127.0.0.1:1"))
    assert time.monotonic() - began < 3
    assert "secret1" not in str(failed.value)
    assert "nats://127.0.0.1:1" in str(failed.value)


async def test_the_second_address_is_tried(nats: EmbeddedNats) -> None:
    assert await usable(NatsSettings(url=f"nats://127.0.0.1:1,{nats.url}"))


async def test_it_comes_back_after_a_restart_and_says_so(
    own_nats: MakeNats, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="refold")
    async with own_nats() as server, connected(NatsSettings(url=server.url)) as client:
        await server.kill()
        await eventually(lambda: not client.is_connected)
        await server.start()
        await eventually(lambda: client.is_connected)
        await eventually(lambda: "nats connection made again" in caplog.messages)
        assert "nats connection lost; connecting again" in caplog.messages
    assert capsys.readouterr().err == ""


async def test_its_purpose_is_in_the_servers_list(own_nats: MakeNats) -> None:
    config = "accounts { SYS { users: [ { user: s, password: s } ] }, A { users: [ { user: a, password: a } ] } }\n"
    async with own_nats(config=config + "system_account: SYS\njetstream: disabled") as server:
        asked = NatsSettings(url=server.url, user="s", password="s")
        async with (
            connected(NatsSettings(url=server.url, user="a", password="a", name="shop"), purpose="publisher"),
            connected(asked) as system,
        ):
            answer = await system.request("$SYS.REQ.SERVER.PING.CONNZ", b"{}", timeout=5)
            names = [connection.get("name") for connection in json.loads(answer.data)["data"]["connections"]]
    assert "shop publisher" in names


# -- What may and what cannot be done ------------------------------------------------------------------------------------


async def test_a_forbidden_request_is_told_at_once(own_nats: MakeNats) -> None:
    config = 'authorization { users: [ { user: a, password: a, permissions: { publish: { deny: "$JS.API.>" } } } ] }'
    async with own_nats(config=config) as server:
        async with connected(NatsSettings(url=server.url, user="a", password="a")) as client:
            for _ in range(2):
                began = time.monotonic()
                with pytest.raises(NotPermitted, match=r"may not publish to '\$JS.API.STREAM.INFO.S'"):
                    await JetStreamApi(client, timeout=10).stream_info("S")
                assert time.monotonic() - began < 5


async def test_a_forbidden_inbox_is_told_and_another_prefix_helps(own_nats: MakeNats) -> None:
    config = 'authorization { users: [ { user: a, password: a, permissions: { subscribe: "_INBOX_mine.>" } } ] }'
    async with own_nats(config=config) as server:
        async with connected(NatsSettings(url=server.url, user="a", password="a")) as client:
            with pytest.raises(NotPermitted, match="inbox_prefix"):
                await JetStreamApi(client, timeout=10).ensure_stream("S", ["s.>"])
        mine = NatsSettings(url=server.url, user="a", password="a", inbox_prefix="_INBOX_mine")
        async with connected(mine) as client:
            assert (await JetStreamApi(client).ensure_stream("S", ["s.>"])).config.name == "S"


@pytest.mark.parametrize(
    "config",
    ["jetstream: disabled", "accounts { A { users: [ { user: a, password: a } ] } }\nno_auth_user: a"],
    ids=["server", "account"],
)
async def test_a_server_or_account_without_jetstream_is_told(own_nats: MakeNats, config: str) -> None:
    async with own_nats(config=config) as server, connected(NatsSettings(url=server.url)) as client:
        with pytest.raises(JetStreamUnavailable, match="JetStream on"):
            await JetStreamApi(client).stream_info("S")


async def test_no_answer_in_time_is_told(own_nats: MakeNats) -> None:
    async with own_nats() as server, connected(NatsSettings(url=server.url)) as client:
        await client.subscribe("silent")
        with pytest.raises(NatsUnavailable, match="no answer at 'silent' within 0.1 s"):
            await request(client, "silent", timeout=0.1)
        await client.close()
        with pytest.raises(NatsUnavailable, match="closed"):
            await request(client, "silent", timeout=0.1)


# -- Keys, tokens, certificates ----------------------------------------------------------------------------------------


def new_key(kind: int) -> tuple[str, str]:
    """A fresh nkey: its seed and its public part."""
    seed = nkeys.encode_seed(os.urandom(32), kind)
    return bytes(seed).decode(), nkeys.from_seed(bytearray(seed)).public_key.decode()


def operator_mode() -> tuple[str, str]:
    """A server configuration that trusts an operator, and the credentials of a user of one of its accounts."""
    operator, operator_key = new_key(nkeys.PREFIX_BYTE_OPERATOR)
    account, account_key = new_key(nkeys.PREFIX_BYTE_ACCOUNT)
    user, user_key = new_key(nkeys.PREFIX_BYTE_USER)
    unlimited = {"subs": -1, "data": -1, "payload": -1}
    limits = {**unlimited, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
    operator_jwt = jwt(operator, operator_key, operator_key, {"type": "operator", "version": 2})
    account_jwt = jwt(operator, operator_key, account_key, {"type": "account", "version": 2, "limits": limits})
    user_jwt = jwt(account, account_key, user_key, {"type": "user", "version": 2, **unlimited})
    config = (
        f"operator: {operator_jwt}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {account_key}: {account_jwt} }}\njetstream: disabled"
    )
    lines = [
        "-----BEGIN NATS USER JWT-----",
        user_jwt,
        "------END NATS USER JWT------",
        "",
        "-----BEGIN USER NKEY SEED-----",
        user,
        "------END USER NKEY SEED------",
        "",
    ]
    return config, "\n".join(lines)


def jwt(seed: str, issuer: str, subject: str, claims: dict[str, Any]) -> str:
    """A signed NATS JWT."""

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    body = {"jti": "x", "iat": int(time.time()), "iss": issuer, "name": "test", "sub": subject, "nats": claims}
    text = ".".join(encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
    return f"{text}.{encoded(nkeys.from_seed(bytearray(seed.encode())).sign(text.encode()))}"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and certificates of it for a server and a client."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    ca_extensions = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA", *ca_extensions)
    for name, extension in {
        "server": "subjectAltName=IP:127.0.0.1,DNS:nats.test",
        "client": "extendedKeyUsage=clientAuth",
    }.items():
        key = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"]
        openssl("req", "-x509", *curve, *key, "-CA", "ca.pem", "-CAkey", "ca.key", "-addext", extension)
    return folder


def tls_config(folder: Path, *, verify: bool = False) -> str:
    return (
        f'tls {{ cert_file: "{folder}/server.pem", key_file: "{folder}/server.key", '
        f'ca_file: "{folder}/ca.pem", verify: {str(verify).lower()} }}'
    )
