"""Keys, JWTs and certificates, made for one test run, and the server configurations that go with them."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys
import trustme

PASSWORD = "pass word/@s3cret"
TOKEN = "t0ken-s3cret"


@dataclasses.dataclass(frozen=True)
class Key:
    """An nkey: its seed, which is secret, and its public part."""

    seed: str
    public: str

    @classmethod
    def new(cls, kind: int = nkeys.PREFIX_BYTE_USER) -> Key:
        seed = nkeys.encode_seed(os.urandom(32), kind)
        return cls(bytes(seed).decode(), nkeys.from_seed(bytearray(seed)).public_key.decode())

    def jwt(self, subject: Key, claims: dict[str, Any], *, expires: int | None = None) -> str:
        """A NATS JWT about another key, signed with this one; it expires at a second since 1970, or never."""
        body = {
            "jti": os.urandom(8).hex(),
            "iat": int(time.time()),
            "iss": self.public,
            "name": "test",
            "sub": subject.public,
            "nats": {"version": 2, **claims},
        }
        if expires is not None:
            body["exp"] = expires
        text = ".".join(_encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
        signature = nkeys.from_seed(bytearray(self.seed.encode())).sign(text.encode())
        return f"{text}.{_encoded(signature)}"


class Operator:
    """An operator with a system account and an account that has JetStream, and the users that this account lets in."""

    def __init__(self) -> None:
        self._operator = Key.new(nkeys.PREFIX_BYTE_OPERATOR)
        self._system = Key.new(nkeys.PREFIX_BYTE_ACCOUNT)
        self._account = Key.new(nkeys.PREFIX_BYTE_ACCOUNT)

    @property
    def config(self) -> str:
        """What makes a server trust the operator and know both accounts."""
        accounts = ", ".join(
            f"{key.public}: {self._operator.jwt(key, {'type': 'account', 'limits': limits})}"
            for key, limits in ((self._system, _LIMITS), (self._account, _LIMITS | _JETSTREAM))
        )
        return (
            f"operator: {self._operator.jwt(self._operator, {'type': 'operator'})}\n"
            f"system_account: {self._system.public}\nresolver: MEMORY\nresolver_preload: {{ {accounts} }}"
        )

    def credentials(self, issuer: Key | None = None, *, expired: bool = False) -> str:
        """The text of a ``.creds`` file of a new user; of another account, which the server does not know, if given."""
        user = Key.new()
        claims = {"type": "user", "subs": -1, "data": -1, "payload": -1}
        jwt = (issuer or self._account).jwt(user, claims, expires=1_700_000_000 if expired else None)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )


_LIMITS = {
    "subs": -1,
    "data": -1,
    "payload": -1,
    "imports": -1,
    "exports": -1,
    "wildcards": True,
    "conn": -1,
    "leaf": -1,
}
_JETSTREAM = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}


class Certificates:
    """A folder with an authority, certificates of it for a server and a client, and another authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        authority, other = trustme.CA(), trustme.CA()
        self.ca = self._written("ca.pem", authority.cert_pem)
        self.other_ca = self._written("other-ca.pem", other.cert_pem)
        server, client = authority.issue_cert("127.0.0.1", "nats.test"), authority.issue_cert("client@nats.test")
        stranger = other.issue_cert("client@nats.test")
        for name, certificate in (("server", server), ("client", client), ("stranger", stranger)):
            self._written(f"{name}.pem", *certificate.cert_chain_pems)
            self._written(f"{name}.key", certificate.private_key_pem)

    def __getitem__(self, name: str) -> Path:
        return self.folder / name

    def config(self, *, verify: bool = False) -> str:
        """A server that speaks TLS, and lets in clients with a certificate only if `verify`."""
        files = {"cert_file": self["server.pem"], "key_file": self["server.key"], "ca_file": self.ca}
        settings = ", ".join(f'{name}: "{file}"' for name, file in files.items())
        return f"tls {{ {settings}, verify: {str(verify).lower()} }}"

    def _written(self, name: str, *blobs: trustme.Blob) -> Path:
        (self.folder / name).write_bytes(b"".join(blob.bytes() for blob in blobs))
        return self.folder / name


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
