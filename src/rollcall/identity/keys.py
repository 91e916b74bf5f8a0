"""NKEYs: the bus's own identities. A seed is the secret; it stays in its file and in memory.

A key file is a seed on one line, or the credentials of a bus user, which hold one. Only its owner may read it.
"""

import base64
import os
import re
import secrets
import stat
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import nkeys
import platformdirs
from nacl.bindings import crypto_sign_seed_keypair

from rollcall.core.discreet import Discreet
from rollcall.core.errors import Invalid, Misconfigured
from rollcall.store.files import make_private, write_whole

USER = nkeys.PREFIX_BYTE_USER
ACCOUNT = nkeys.PREFIX_BYTE_ACCOUNT
OPERATOR = nkeys.PREFIX_BYTE_OPERATOR

SUFFIX = ".nk"

_SEED = re.compile(rb"\bS[UAO][A-Z2-7]{56}\b")
_SECRET = re.compile(r"\bS[UAOXPNC][A-Z2-7]{20,}", re.IGNORECASE)
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_PUBLIC = re.compile(r"[UAO][A-Z2-7]{55}")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")


class Key(Discreet, frozen=True):
    """A key pair. Only `public` is ever shown."""

    shown: ClassVar[tuple[str, ...]] = ("public",)
    seed: str
    public: str

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """The public half and the signing half, as Ed25519 has them."""
        return crypto_sign_seed_keypair(_raw_seed(self.seed))


def new_key(kind: int = USER) -> Key:
    """A fresh key."""
    return key_of(bytes(nkeys.encode_seed(secrets.token_bytes(32), kind)).decode())


def key_of(seed: str) -> Key:
    """The key of a seed.

    Raises:
        Invalid: it is none; the message does not repeat it.
    """
    try:
        if not _sound(base64.b32decode(seed + "=" * (-len(seed) % 8))):
            raise nkeys.ErrInvalidSeed
        pair = nkeys.from_seed(bytearray(seed.encode()))
        public = pair.public_key.decode()
        pair.wipe()
    except (nkeys.NkeysError, ValueError, IndexError) as error:
        raise Invalid("that is no NKEY seed; make a key with `rollcall keys new NAME`") from error
    return Key(seed, public)


@lru_cache(maxsize=65_536)
def public_bytes(public: str) -> bytes:
    """The 32 bytes of a public key.

    Raises:
        Invalid: it is none.
    """
    if not _PUBLIC.fullmatch(public):
        if may_be_secret(public):
            raise Invalid("that is a secret seed; give the public key, U... (rollcall keys show NAME)")
        raise Invalid(f"{public[:64]!r} is no public NKEY; one has 56 characters and begins with U")
    raw = base64.b32decode(public)
    if not _sound(raw):
        raise Invalid(f"{public!r} is no public NKEY: its checksum is wrong")
    return raw[1:-2]


def may_be_secret(text: str) -> bool:
    """Whether a text may hold a seed, whole or misspelled: it must not be shown."""
    return _SECRET.search(text) is not None


def _sound(raw: bytes) -> bool:
    """Whether the two bytes at the end are the checksum of those before."""
    return bytes(nkeys.crc16_checksum(bytearray(raw[:-2]))) == raw[-2:]


def checked_public(public: str) -> str:
    """`public` when it is the public key of a user.

    Raises:
        Invalid: it is not.
    """
    public_bytes(public)
    if not public.startswith("U"):
        raise Invalid(f"{public!r} is the key of an account or an operator; agents and people have user keys, U...")
    return public


def load_key(path: Path) -> Key:
    """The key in a file that only its owner may read.

    Raises:
        Misconfigured: there is none, or others may read it.
        Invalid: it holds no key.
    """
    found = _SEED.search(private_bytes(path))
    if found is None:
        raise Invalid(f"{path} holds no NKEY seed; make a key with `rollcall keys new NAME`")
    return key_of(found[0].decode())


def load_jwt(path: Path) -> str:
    """The user JWT in a credentials file; empty in a file that holds just a key."""
    found = _JWT.search(private_bytes(path).decode(errors="replace"))
    return found[0] if found is not None else ""


def private_bytes(path: Path) -> bytes:
    """What a file holds that only its owner may read.

    Raises:
        Misconfigured: it cannot be read, or others may read it, or it is another user's.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            _check_private(path, status)
            return file.read()
    except OSError as error:
        raise Misconfigured(f"the key file {path} cannot be read: {error.strerror}") from error


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Misconfigured(f"{path} is not a file; give the path of a key")
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(status.st_mode)
        raise Misconfigured(f"others may read the key {path} (mode {mode:04o}); run: chmod 600 {path}")
    if status.st_uid not in (os.geteuid(), 0):
        raise Misconfigured(f"the key {path} belongs to another user; run: chown {os.geteuid()} {path}")


def save_key(path: Path, key: Key) -> None:
    """Writes a key for its owner only; a reader, or a crash, finds all of it or nothing."""
    make_private(path.parent)
    write_whole(path, key.seed.encode() + b"\n", mode=0o600)


def kept_key(path: Path, kind: int = USER) -> Key:
    """The key kept at `path`; made there on first use."""
    if not path.exists():
        save_key(path, new_key(kind))
    return load_key(path)


class Keyring:
    """The keys that a person keeps, by name, in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, name: str) -> Path:
        """Where the key of that name is kept.

        Raises:
            Invalid: it is no name.
        """
        if may_be_secret(name):
            raise Invalid(
                "that is a secret seed, not a name of a key; keep it with `rollcall keys new NAME --from FILE`"
            )
        if not _NAME.fullmatch(name):
            raise Invalid(f"{name!r} is no name of a key; use 1 to 64 of A-Z a-z 0-9 _ . -")
        return self._directory / (name + SUFFIX)

    def names(self) -> list[str]:
        """The names of all keys."""
        return sorted(path.name.removesuffix(SUFFIX) for path in self._directory.glob(f"*{SUFFIX}"))

    def load(self, name: str) -> Key:
        """The key of that name.

        Raises:
            Misconfigured: there is none, or others may read it.
        """
        self.check()
        return load_key(self.path(name))

    def new(self, name: str, key: Key | None = None) -> Key:
        """Keeps a key under a name that is free; a fresh one unless it is given.

        Raises:
            Invalid: the name is taken.
        """
        path = self.path(name)
        make_private(self._directory)
        self.check()
        if path.exists():
            raise Invalid(f"there is a key {name!r} already; choose another name, or rotate it")
        key = key or new_key()
        save_key(path, key)
        return key

    def replace(self, name: str, key: Key) -> Path:
        """Puts another key under a name; the former one is kept beside it, and its path returned."""
        path = self.path(name)
        former = load_key(path)
        aside = path.with_name(f"{name}.{former.public[-8:]}{SUFFIX}.old")
        save_key(aside, former)
        save_key(path, key)
        return aside

    def check(self) -> None:
        """Refuses a directory that others may look into.

        Raises:
            Misconfigured: they may.
        """
        try:
            mode = stat.S_IMODE(self._directory.stat().st_mode)
        except OSError:
            return
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Misconfigured(
                f"others may look into {self._directory} (mode {mode:04o}); run: chmod 700 {self._directory}"
            )


def default_keyring() -> Keyring:
    """The keys of this user."""
    return Keyring(Path(platformdirs.user_config_dir("rollcall", appauthor=False)) / "keys")


def _raw_seed(seed: str) -> bytes:
    return bytes(nkeys.decode_seed(bytearray(seed.encode()))[1])
