"""Settings are checked when they are made, and never show secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from refold.errors import ConfigurationError
from refold.jetstream.connection import NatsSettings


def test_credentials_in_the_url_are_taken_out_of_it() -> None:
    settings = NatsSettings(url="nats://ann:s%40cret@localhost:4222")
    assert (settings.url, settings.user, settings.password) == ("nats://localhost:4222", "ann", "s@cret")


def test_a_lone_name_in_the_url_is_a_token() -> None:
    settings = NatsSettings(url="nats://t0ken@localhost")
    assert (settings.url, settings.token, settings.user) == ("nats://localhost", "t0ken", None)


@pytest.mark.parametrize(
    "settings",
    [
        NatsSettings(url="nats://ann:secret1@localhost"),
        NatsSettings(user="ann", password="secret1"),
        NatsSettings(token="secret1"),
        NatsSettings(nkey_seed="secret1"),
    ],
)
def test_repr_shows_no_secret(settings: NatsSettings) -> None:
    assert "secret1" not in repr(settings)
    assert "secret1" not in str(settings)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "http://localhost"}, "scheme"),
        ({"url": "nats://"}, "host"),
        ({"url": "nats://localhost:port"}, "malformed"),
        ({"user": "ann"}, "password"),
        ({"token": "secret1", "user": "ann", "password": "secret1"}, "several ways"),
        ({"url": "nats://ann:secret1@localhost", "token": "secret1"}, "leave one out"),
        ({"url": "nats://ann:secret1@localhost,nats://bob:secret1@localhost"}, "different credentials"),
        ({"credentials_file": Path("/nowhere/x.creds")}, "does not exist"),
        ({"tls_ca": Path("/nowhere/ca.pem")}, "does not exist"),
        ({"tls_key": Path("/nowhere/key.pem")}, "tls_cert"),
        ({"inbox_prefix": "a b"}, "inbox prefix"),
        ({"inbox_prefix": "a.>"}, "inbox prefix"),
        ({"connect_timeout": 0}, "connect_timeout"),
        ({"url": "nats://example.com", "token": "secret1"}, "unencrypted"),
        ({"url": "nats://ann:secret1@10.0.0.1"}, "unencrypted"),
        ({"url": "nats://localhost,example.com", "user": "ann", "password": "secret1"}, "unencrypted"),
    ],
)
def test_wrong_settings_are_refused_without_showing_secrets(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        NatsSettings(**options)  # type: ignore[arg-type]
    assert "secret1" not in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"url": "tls://example.com", "token": "t"},
        {"url": "nats://example.com", "token": "t", "allow_plaintext": True},
        {"url": "nats://example.com", "nkey_seed": "SU"},
        {"url": "nats://[::1]:4222", "token": "t"},
        {"url": "localhost:4222,127.0.0.9", "token": "t"},
    ],
)
def test_secrets_may_go_where_nobody_listens(options: dict[str, object]) -> None:
    assert NatsSettings(**options).urls  # type: ignore[arg-type]


def test_a_file_that_is_no_certificate_is_told(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    with pytest.raises(ConfigurationError, match="ca.pem"):
        NatsSettings(tls_ca=file).ssl_context()
