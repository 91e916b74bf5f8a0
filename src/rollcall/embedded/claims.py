"""JWTs of a NATS operator: who the operator is, which accounts there are, and who may sign in.

The form is version 2 of NATS's own: claims as JSON, signed by the NKEY of whoever issues them.
"""

import base64
import hashlib
import json
from typing import Any

from nacl.bindings import crypto_sign

from rollcall.identity.keys import Key

Claims = dict[str, Any]  # Any: claims are JSON, and the server's own

NO_LIMIT = -1
_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}


def issue(issuer: Key, *, subject: str, name: str, nats: Claims, at: int, expires: int | None = None) -> str:
    """A signed JWT about `subject`; `at` and `expires` are seconds since 1970."""
    claims: Claims = {"iat": at, "iss": issuer.public, "name": name, "sub": subject, "nats": {**nats, "version": 2}}
    if expires is not None:
        claims["exp"] = expires
    digest = hashlib.new("sha512_256", _json(claims)).digest()
    claims["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    words = b".".join((_base64(_json(_HEADER)), _base64(_json(claims))))
    return b".".join((words, _base64(crypto_sign(words, issuer.pair[1])[:64]))).decode()


def operator(system_account: str) -> Claims:
    """What is said of the operator."""
    return {"type": "operator", "system_account": system_account}


def account(*, exports: list[Claims], imports: list[Claims], revoked: dict[str, int], stores: bool) -> Claims:
    """What is said of an account; one that `stores` may use JetStream."""
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), NO_LIMIT)
    storage = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), NO_LIMIT if stores else 0)
    return {
        "type": "account",
        "exports": exports,
        "imports": imports,
        "revocations": revoked,
        "limits": {**limits, **storage, "wildcards": True},
    }


def user(rights: Claims, account_key: str) -> Claims:
    """What is said of a user: what he may publish and subscribe to."""
    return {"type": "user", "issuer_account": account_key, **rights, **_unbounded()}


def credentials(jwt: str, key: Key) -> str:
    """The file that a user signs in with."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        "Whoever has this file is this user. Keep it to yourself.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{key.seed}\n------END USER NKEY SEED------\n"
    )


def _unbounded() -> Claims:
    return dict.fromkeys(("subs", "data", "payload"), NO_LIMIT)


def _json(value: Claims) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
