"""How a program signs in to the bus, and with which key it signs what it says."""

import base64
import json
import os
from pathlib import Path
from typing import ClassVar, TypeAlias, TypedDict

from rollcall.bus.tls import Tls
from rollcall.core.discreet import Discreet
from rollcall.core.errors import Invalid
from rollcall.identity.keys import Key, checked_public, default_keyring, key_of, load_jwt, load_key, may_be_secret

KeyLike: TypeAlias = Key | Path | str
"""A key, the path of its file, its name among the keys of this user, or a seed."""


class SigningIn(TypedDict, total=False):
    """How a program says it wants to sign in; see `login`."""

    key: KeyLike | None
    credentials: Path | str | None
    tls: Tls | None


class Login(Discreet, frozen=True, kw_only=True):
    """Plain values, read once. `key` signs commands and questions; `credentials` and `seed` open the connection."""

    shown: ClassVar[tuple[str, ...]] = ("key",)
    key: Key | None = None
    credentials: Path | None = None
    seed: str = ""
    account: str = ""
    inbox: str = ""
    tls: Tls | None = None


def login(key: KeyLike | None = None, credentials: Path | str | None = None, tls: Tls | None = None) -> Login:
    """What was given, or what the environment says: ``ROLLCALL_KEY``, ``ROLLCALL_CREDS`` and ``ROLLCALL_TLS_*``.

    Credentials are those of a bus user, or a bare key for a server that knows that key. What they hold also signs,
    unless another key is given.

    Raises:
        Misconfigured: a file cannot be read, or others may read it.
        Invalid: what should be a key is none.
    """
    said = credentials or os.environ.get("ROLLCALL_CREDS") or None
    path = Path(said) if said is not None else None
    named = key or os.environ.get("ROLLCALL_KEY") or None
    own = load_key(path) if path is not None else None
    jwt = load_jwt(path) if path is not None else ""
    return Login(
        key=as_key(named) if named is not None else own,
        credentials=path if jwt else None,
        seed=own.seed if own is not None and not jwt else "",
        account=_account(jwt) if jwt else "",
        inbox=f"_INBOX.{own.public}" if own is not None and jwt else "",
        tls=tls or _tls(),
    )


def as_key(key: KeyLike) -> Key:
    """The key that is meant.

    Raises:
        Misconfigured: its file cannot be read, or others may read it.
        Invalid: it is none.
    """
    found = key if isinstance(key, Key) else _found(key)
    checked_public(found.public)
    return found


def _found(key: Path | str) -> Key:
    if isinstance(key, str) and may_be_secret(key):
        return key_of(key.strip())
    path = Path(key)
    if isinstance(key, str) and os.sep not in key and not path.exists():
        return default_keyring().load(key)
    return load_key(path)


def _tls() -> Tls | None:
    """What the environment says of TLS."""
    said = {name: os.environ.get(f"ROLLCALL_TLS_{name.upper()}") for name in ("ca", "cert", "key")}
    if not any(said.values()):
        return None
    return Tls(**{name: Path(value) for name, value in said.items() if value})


def _account(jwt: str) -> str:
    """The account that a user JWT is for."""
    body = jwt.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return str(claims["nats"].get("issuer_account") or claims["iss"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid("the credentials hold no user JWT; ask for new ones (rollcall creds)") from error
