"""The operator of a bundled server with `--auth`: its keys, its three accounts, and the users it lets in.

Everything is kept in one directory for its owner only. Who can read that can issue users, so it stays where it is.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rollcall.core.discreet import Discreet
from rollcall.core.errors import Misconfigured
from rollcall.embedded import claims, config, rights
from rollcall.embedded.claims import Claims
from rollcall.identity.keys import ACCOUNT, OPERATOR, Key, checked_public, kept_key, load_key, new_key
from rollcall.store.files import make_private, write_whole

DIRECTORY = "auth"
OPERATOR_USER = "operator"
HTTP_USER = "http"


class Issued(Discreet, frozen=True):
    """A user that may sign in: what it is called, its public key, and its credentials as a file holds them."""

    shown: ClassVar[tuple[str, ...]] = ("name", "public")
    name: str
    public: str
    credentials: str


class Authority:
    """Issues users, and says to the server whom to let in."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir / DIRECTORY

    @classmethod
    def of(cls, data_dir: Path) -> "Authority":
        """The one that is there already.

        Raises:
            Misconfigured: there is none.
        """
        found = cls(data_dir)
        if not found.path("operator.nk").exists():
            raise Misconfigured(f"{data_dir} has no operator; start it once with `rollcall up --auth`")
        return found

    def path(self, name: str) -> Path:
        """A file of its own."""
        return self._directory / name

    def user(self, realm: str, name: str) -> Path:
        """The credentials of this machine in a realm: `OPERATOR_USER` for commands, `HTTP_USER` for the HTTP face."""
        return self.path(f"{realm}.{name}.creds")

    @property
    def worker_user(self) -> Path:
        """The credentials of the workers of this machine."""
        return self.path("worker.creds")

    def prepare(self, realm: str) -> None:
        """Makes what is missing: the keys, and users for workers, the system account, and this machine in a realm."""
        make_private(self._directory)
        self._operator()
        for name in config.ACCOUNTS:
            self._account(name)
        self._keep("worker.creds", lambda key: self._user(key, "worker", {}, "REGISTRY", None))
        self._keep("system.creds", lambda key: self._user(key, "system", {}, "SYS", None))
        for name in (OPERATOR_USER, HTTP_USER):
            made = partial(self._operator_user, name=name, realm=realm)
            self._appoint(realm, self._keep(self.user(realm, name).name, made))

    def document(self) -> dict[str, Any]:
        """What the server's configuration says of it. Any: the server's own form."""
        at = int(time.time())
        keys = {name: self._account(name) for name in config.ACCOUNTS}
        operator = self._operator()
        said = claims.operator(keys["SYS"].public)
        return {
            "operator": claims.issue(operator, subject=operator.public, name="rollcall", nats=said, at=at),
            "system_account": keys["SYS"].public,
            "resolver": "MEMORY",
            "resolver_preload": {key.public: self._account_jwt(name, keys, at) for name, key in keys.items()},
        }

    def account_jwt(self, name: str) -> tuple[str, str]:
        """The public key of an account and what the server shall know of it now."""
        keys = {each: self._account(each) for each in config.ACCOUNTS}
        return keys[name].public, self._account_jwt(name, keys, int(time.time()))

    def agent(self, realm: str, role: str, id: str, *, key: Key | None = None, lasts: int | None = None) -> Issued:
        """A user that is one agent of a realm; `lasts` is seconds."""
        key = key or new_key()
        granted = rights.agent(realm, role, id, key.public)
        return self._user(key, f"{realm}:{role}:{id}"[:128], granted, "AGENTS", lasts)

    def observer(self, realm: str, *, key: Key | None = None, lasts: int | None = None) -> Issued:
        """A user that asks and watches."""
        key = key or new_key()
        return self._user(key, f"{realm}:observer", rights.observer(realm, key.public), "AGENTS", lasts)

    def operator(self, realm: str, *, key: Key | None = None, lasts: int | None = None) -> Issued:
        """A user that acts on everybody's agents; workers of this data dir know its key from now on."""
        issued = self._operator_user(key or new_key(), "operator", realm, lasts)
        self._appoint(realm, issued.public)
        return issued

    def worker(self, *, key: Key | None = None, lasts: int | None = None) -> Issued:
        """One more worker, on this machine or another."""
        return self._user(key or new_key(), "worker", {}, "REGISTRY", lasts)

    @staticmethod
    def template(realm: str) -> rights.Rights:
        """The rights of an agent, for a scoped signing key of somebody else's operator."""
        return rights.template(realm)

    def operators_file(self, realm: str) -> Path:
        """Where the public keys of the operators of a realm stand, one on a line."""
        return self.path(f"{realm}.operators")

    def revoke(self, public: str) -> None:
        """The server lets no user with this key in any more, once it is told; nor is it an operator's."""
        revoked = self._revoked()
        revoked[checked_public(public)] = int(time.time())
        write_whole(self.path("revoked.json"), json.dumps(revoked).encode(), mode=0o600)
        for path in self._directory.glob("*.operators"):
            self._write_operators(path, [one for one in path.read_text().split() if one != public])

    def _appoint(self, realm: str, public: str) -> None:
        path = self.operators_file(realm)
        known = path.read_text().split() if path.exists() else []
        if public not in known and public not in self._revoked():
            self._write_operators(path, [*known, public])

    @staticmethod
    def _write_operators(path: Path, keys: list[str]) -> None:
        write_whole(path, "".join(f"{one}\n" for one in keys).encode(), mode=0o600)

    def _operator_user(self, key: Key, name: str, realm: str, lasts: int | None = None) -> Issued:
        return self._user(key, f"{realm}:{name}", rights.operator(realm, key.public), "AGENTS", lasts)

    def _keep(self, name: str, made: Callable[[Key], Issued]) -> str:
        """The public key of the user whose credentials are kept under a name; made there on first use."""
        path = self.path(name)
        if path.exists():
            return load_key(path).public
        issued = made(new_key())
        write_whole(path, issued.credentials.encode(), mode=0o600)
        return issued.public

    def _user(self, key: Key, name: str, granted: Claims, account: str, lasts: int | None) -> Issued:
        checked_public(key.public)
        issuer, at = self._account(account), int(time.time())
        said = claims.user(granted, issuer.public)
        expires = at + lasts if lasts is not None else None
        jwt = claims.issue(issuer, subject=key.public, name=name, nats=said, at=at, expires=expires)
        return Issued(name, key.public, claims.credentials(jwt, key))

    def _account_jwt(self, name: str, keys: dict[str, Key], at: int) -> str:
        exports, imports = config.crossings(name, {each: key.public for each, key in keys.items()})
        said = claims.account(exports=exports, imports=imports, revoked=self._revoked(), stores=name == "REGISTRY")
        return claims.issue(self._operator(), subject=keys[name].public, name=name, nats=said, at=at)

    def _operator(self) -> Key:
        return kept_key(self.path("operator.nk"), OPERATOR)

    def _account(self, name: str) -> Key:
        return kept_key(self.path(f"{name.lower()}.nk"), ACCOUNT)

    def _revoked(self) -> dict[str, int]:
        path = self.path("revoked.json")
        return dict(json.loads(path.read_text())) if path.exists() else {}
