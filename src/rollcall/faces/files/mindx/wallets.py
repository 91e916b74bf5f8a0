"""Wallets of mindX: a secp256k1 key for each entity, what it signs, and where the keys are kept.

Messages are signed as EIP-191 has it; an address is the EIP-55 spelling of the key's. A private key is never written
anywhere but into its store.
"""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import keyring
import keyring.errors

from rollcall.core.errors import Invalid, Misconfigured, RollcallError
from rollcall.faces.files.mindx.ethereum import Account, encode_defunct
from rollcall.store.files import make_private, write_whole

PREFIX = "MINDX_WALLET_PK_"
SERVICE = "rollcall mindX wallets"
_NAMES = "names"

_LINE = re.compile(rf"^\s*(?:export\s+)?{PREFIX}(\w+)\s*=\s*[\"']?(?:0x)?([0-9a-fA-F]{{64}})[\"']?\s*$")
_NO_WORD = re.compile(r"\W+")


def sign_message(private_key: str, message: str) -> str:
    """The signature of a text: r, s and v as 130 hex digits without ``0x``."""
    signed = Account.from_key(private_key).sign_message(encode_defunct(text=message))
    return str(signed.signature.hex()).removeprefix("0x")


@lru_cache(maxsize=65_536)
def verify_message(message: str, signature: str, address: str) -> bool:
    """Whether the wallet at an address signed a text; nonsense was signed by nobody."""
    try:
        recovered = Account.recover_message(
            encode_defunct(text=message), signature=bytes.fromhex(signature.removeprefix("0x"))
        )
    except Exception:  # the library raises whatever its parts raise on nonsense
        return False
    return str(recovered).lower() == address.lower()


def address_of(private_key: str) -> str:
    """The address of a wallet, with the checksum in its letters."""
    return str(Account.from_key(private_key).address)


def new_private_key() -> str:
    """A fresh key, as 64 hex digits."""
    while True:
        key = secrets.token_hex(32)
        try:
            address_of(key)
        except ValueError:
            continue  # beyond the order of the curve; as good as never
        return key


def line_name(entity_id: str) -> str:
    """What the key of an entity is called in a store; several ids may have the same."""
    return PREFIX + _NO_WORD.sub("_", entity_id).upper()


def _shared(entity_id: str, owner: str, name: str) -> Invalid:
    return Invalid(f"{entity_id!r} and {owner!r} would share the wallet {name}; rename one of them")


class KeyStore(Protocol):
    """Where private keys are kept."""

    def get(self, entity_id: str) -> str | None:
        """The private key of an entity; None for none."""
        ...

    def create(self, entity_id: str) -> str:
        """Makes and keeps a key; returns it.

        Raises:
            Invalid: another entity has a key under the same name.
        """
        ...

    def create_all(self, entity_ids: Sequence[str]) -> dict[str, str | Exception]:
        """Makes and keeps a key for each, or says why there is none."""
        ...

    def entities(self) -> list[str]:
        """The ids whose keys are kept, as far as they are known; else the names of their keys."""
        ...


class FileWallets:
    """Keys as lines of one file that only its owner may read. Which id has which line stands in a comment above it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[object, dict[str, tuple[str, str]]] = (None, {})

    def get(self, entity_id: str) -> str | None:
        """The private key of an entity; None for none."""
        owner, key = self._read().get(line_name(entity_id), ("", ""))
        return key if key and owner in ("", entity_id) else None

    def create(self, entity_id: str) -> str:
        """Makes and keeps a key; returns it.

        Raises:
            Invalid: another entity has a key under the same name.
        """
        made = self.create_all([entity_id])[entity_id]
        if isinstance(made, Exception):
            raise made
        return made

    def create_all(self, entity_ids: Sequence[str]) -> dict[str, str | Exception]:
        """Makes and keeps a key for each in one go, or says why there is none."""
        make_private(self._path.parent)
        with self._locked():
            held = dict(self._read())
            made: dict[str, str | Exception] = {}
            lines = ""
            for entity_id in entity_ids:
                name = line_name(entity_id)
                if name in held:
                    made[entity_id] = _shared(entity_id, held[name][0] or "another entity", name)
                    continue
                key = made[entity_id] = new_private_key()
                held[name] = (entity_id, key)
                lines += f"# {entity_id.encode('unicode_escape').decode()}\n{name}={key}\n"
            before = self._path.read_text() if self._path.exists() else ""
            if before and not before.endswith("\n"):
                before += "\n"
            if lines:
                write_whole(self._path, (before + lines).encode(), mode=0o600)
        return made

    def entities(self) -> list[str]:
        """The ids whose keys are kept; of lines without a comment, the name in lower case."""
        return [owner or name.removeprefix(PREFIX).lower() for name, (owner, _) in self._read().items()]

    def _read(self) -> dict[str, tuple[str, str]]:
        """Owner and key, by the name of the line; read again when the file is another one than before."""
        try:
            status = self._path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)
            if self._known[0] == stamp:
                return self._known[1]
            lines, mode = self._path.read_text().splitlines(), status.st_mode
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(f"the wallets {self._path} cannot be read: {error}") from error
        if mode & 0o077:
            raise Misconfigured(f"others may read the wallets {self._path}; run: chmod 600 {self._path}")
        found: dict[str, tuple[str, str]] = {}
        comment = ""
        for line in lines:
            match = _LINE.match(line)
            if match is None:
                comment = line.removeprefix("# ") if line.startswith("# ") else ""
                continue
            owner = comment.encode().decode("unicode_escape") if comment else ""
            name = PREFIX + match[1].upper()
            # A comment of somebody else's above a line is no id.
            found[name] = (owner if owner and line_name(owner) == name else "", match[2].lower())
            comment = ""
        self._known = (stamp, found)
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time: what two create at once must both be there afterwards."""
        descriptor = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class VaultFirst:
    """A vault, and what it does not have in another store, such as the file. New keys go into the vault."""

    def __init__(self, vault: KeyStore, fallback: KeyStore) -> None:
        self._vault = vault
        self._fallback = fallback

    def get(self, entity_id: str) -> str | None:
        """The private key of an entity; None for none."""
        return self._vault.get(entity_id) or self._fallback.get(entity_id)

    def create(self, entity_id: str) -> str:
        """Makes a key and keeps it in the vault; returns it.

        Raises:
            Invalid: another entity has a key under the same name.
        """
        return self._vault.create(entity_id)

    def create_all(self, entity_ids: Sequence[str]) -> dict[str, str | Exception]:
        """Makes a key for each and keeps it in the vault, or says why there is none."""
        return self._vault.create_all(entity_ids)

    def entities(self) -> list[str]:
        """The ids whose keys are kept, here or there."""
        return list(dict.fromkeys([*self._vault.entities(), *self._fallback.entities()]))


class KeyringWallets:
    """Keys in the keyring of the platform, for one set of wallets named `space`."""

    def __init__(self, space: str) -> None:
        self._service = f"{SERVICE}: {space}"

    def get(self, entity_id: str) -> str | None:
        """The private key of an entity; None for none."""
        held = self._ask(line_name(entity_id))
        if held is None:
            return None
        owner, _, key = held.rpartition(":")
        return key if owner == entity_id else None

    def create(self, entity_id: str) -> str:
        """Makes and keeps a key; returns it.

        Raises:
            Invalid: another entity has a key under the same name.
        """
        name = line_name(entity_id)
        held = self._ask(name)
        if held is not None:
            raise _shared(entity_id, held.rpartition(":")[0], name)
        key = new_private_key()
        self._keep(name, f"{entity_id}:{key}")
        # A keyring cannot be listed: what is in it is kept beside the keys.
        self._keep(_NAMES, "\n".join(sorted({*self._names(), name})))
        return key

    def create_all(self, entity_ids: Sequence[str]) -> dict[str, str | Exception]:
        """Makes and keeps a key for each, or says why there is none."""
        made: dict[str, str | Exception] = {}
        for entity_id in entity_ids:
            try:
                made[entity_id] = self.create(entity_id)
            except RollcallError as error:
                made[entity_id] = error
        return made

    def entities(self) -> list[str]:
        """The ids whose keys are kept."""
        held = (self._ask(name) for name in self._names())
        return [one.rpartition(":")[0] for one in held if one is not None]

    def _names(self) -> list[str]:
        return (self._ask(_NAMES) or "").split()

    def _ask(self, name: str) -> str | None:
        try:
            return keyring.get_password(self._service, name)
        except keyring.errors.KeyringError as error:
            raise Misconfigured(f"the keyring cannot be read: {error}; use --keys file") from error

    def _keep(self, name: str, value: str) -> None:
        try:
            keyring.set_password(self._service, name, value)
        except keyring.errors.KeyringError as error:
            raise Misconfigured(f"the keyring keeps nothing: {error}; use --keys file") from error
