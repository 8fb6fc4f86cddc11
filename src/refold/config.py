"""Settings: arguments first, then environment (``REFOLD_…``), then a ``.env`` file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from refold.errors import ConfigurationError
from refold.jetstream.settings import NatsSettings

__all__ = ["Settings", "load_settings"]


class Settings(BaseSettings):
    """Everything that an `App` can be told. Each has an environment variable: ``REFOLD_`` and its name in capitals.

    Secrets never show in `repr`.

    Attributes:
        nats_url: address of the server, or several with commas between.
        nats_user, nats_password: who to be.
        nats_token: instead of user and password.
        nats_nkey_seed_file: file with an nkey seed, instead.
        nats_credentials_file: ``.creds`` file, instead.
        nats_tls_ca, nats_tls_cert, nats_tls_key: PEM files.
        nats_tls_hostname: the name in the server's certificate, if it is not the address's.
        nats_allow_plaintext: send passwords to other hosts without TLS too.
        nats_inbox_prefix: what the NATS user may subscribe to.
        database_url: ``sqlite:///views.db``, ``postgresql://user@host/name`` or ``memory://``.
        stream: the stream's name; that of the app by default.
        codec: how events are written: ``json``, ``go``, ``cloudevents`` or ``cloudevents-binary``.
        subject_scheme: ``refold``, or ``raw`` for streams whose ids are written as they are.
        subject_prefix: tokens before the aggregate type.
        startup_timeout: for how many seconds connecting at start is tried again.
    """

    model_config = SettingsConfigDict(env_prefix="REFOLD_", env_file=".env", extra="ignore", frozen=True)

    nats_url: SecretStr = SecretStr("nats://127.0.0.1:4222")
    nats_user: str | None = None
    nats_password: SecretStr | None = None
    nats_token: SecretStr | None = None
    nats_nkey_seed_file: Path | None = None
    nats_credentials_file: Path | None = None
    nats_tls_ca: Path | None = None
    nats_tls_cert: Path | None = None
    nats_tls_key: Path | None = None
    nats_tls_hostname: str | None = None
    nats_allow_plaintext: bool = False
    nats_inbox_prefix: str = "_INBOX"
    database_url: SecretStr = SecretStr("sqlite:///refold.db")
    stream: str | None = None
    codec: str = "json"
    subject_scheme: Literal["refold", "raw"] = "refold"
    subject_prefix: str = ""
    startup_timeout: float = 15.0

    def nats(self, name: str) -> NatsSettings:
        """The part about NATS.

        Args:
            name: how connections are called in the server's lists.

        Raises:
            ConfigurationError: settings contradict each other, or a file is missing.
        """
        return NatsSettings(
            url=self.nats_url.get_secret_value(),
            user=self.nats_user,
            password=_open(self.nats_password),
            token=_open(self.nats_token),
            nkey_seed_file=self.nats_nkey_seed_file,
            credentials_file=self.nats_credentials_file,
            tls_ca=self.nats_tls_ca,
            tls_cert=self.nats_tls_cert,
            tls_key=self.nats_tls_key,
            tls_hostname=self.nats_tls_hostname,
            allow_plaintext=self.nats_allow_plaintext,
            inbox_prefix=self.nats_inbox_prefix,
            name=name,
        )


class _GivenSettings(Settings):
    """Settings that only arguments tell."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the base class has it so
        init_settings: PydanticBaseSettingsSource,
        *others: Any,  # noqa: ARG003
        **named: Any,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The arguments alone."""
        return (init_settings,)


def load_settings(*, environment: bool = True, **given: Any) -> Settings:
    """Settings from arguments (None: not given), environment and ``.env``.

    Args:
        environment: False looks at the arguments alone.
        given: by name.

    Raises:
        ConfigurationError: a value is not of its type, or a name is not known; it names the settings, never a value.
    """
    unknown = sorted(set(given) - set(Settings.model_fields))
    if unknown:
        raise ConfigurationError(
            f"settings {', '.join(unknown)} are not known; there are {', '.join(Settings.model_fields)}"
        )
    try:
        kind = Settings if environment else _GivenSettings
        return kind(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise ConfigurationError(f"settings are wrong (arguments, REFOLD_… variables, .env): {wrong}") from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"settings cannot be read from .env: {error}") from error


def _open(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
