"""Credentials that sign what the server asks, and are not sent: nkey seeds, and ``.creds`` files with a user JWT beside."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any, Final

import nats.errors

from refold.jetstream.settings import NatsSettings

__all__ = ["CredentialsUnusable", "signing"]

_PART: Final = re.compile(r"-{3,}BEGIN (NATS USER JWT|USER NKEY SEED)-{3,}\s+(\S+)\s+-{3,}END ")


class CredentialsUnusable(nats.errors.Error):
    """A seed or credentials file cannot be used; an error of the client's kind, which then connects again later.

    Its message holds nothing of the seed.
    """


def signing(settings: NatsSettings) -> dict[str, Any]:
    """Arguments of the client's ``connect`` for the credentials that sign; none where the settings have none.

    Raises:
        CredentialsUnusable: a file cannot be read, or the seed is none.
    """
    if settings.credentials_file is not None:
        file = _CredentialsFile(Path(settings.credentials_file))
        file.sign("")  # what is wrong is told before anything is connected
        return {"user_jwt_cb": file.jwt, "signature_cb": file.sign}
    if settings.nkey_seed_file is not None:
        seed, source = _read(Path(settings.nkey_seed_file)).strip(), f"nkey seed file {str(settings.nkey_seed_file)!r}"
    elif settings.nkey_seed is not None:
        seed, source = settings.nkey_seed.strip(), "nkey_seed"
    else:
        return {}
    _key_pair(seed, source)
    return {"nkeys_seed_str": seed}


class _CredentialsFile:
    """A ``.creds`` file, read anew for every connection: it may have been replaced. (The client's own way of reading
    one goes on for ever where there is no JWT in it.)
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def jwt(self) -> bytes:
        return self._parts()["NATS USER JWT"].encode()

    def sign(self, nonce: str) -> bytes:
        pair = _key_pair(self._parts()["USER NKEY SEED"], f"the seed in credentials file {str(self._path)!r}")
        return base64.b64encode(pair.sign(nonce.encode()))

    def _parts(self) -> dict[str, str]:
        parts: dict[str, str] = dict(_PART.findall(_read(self._path)))
        if len(parts) < 2:
            raise CredentialsUnusable(
                f"credentials file {str(self._path)!r} holds no user JWT with its nkey seed: use a .creds file as "
                "`nsc generate creds` writes it"
            )
        return parts


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CredentialsUnusable(f"credentials file {str(path)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise CredentialsUnusable(f"credentials file {str(path)!r} cannot be read: it is no text") from None


def _key_pair(seed: str, source: str) -> Any:
    import nkeys  # type: ignore[import-untyped]  # few need it, and it brings a library of its own

    try:
        return nkeys.from_seed(bytearray(seed.encode()))
    except Exception as error:  # noqa: BLE001 - see below
        # What is raised about a bad seed has no base class of its own, and may quote the seed.
        raise CredentialsUnusable(f"{source} is no nkey seed ({type(error).__name__}): it begins with SU") from None
