"""The keys by which workers sign in to the bundled server: NKEY users, kept in the data dir."""

import secrets
from pathlib import Path

import nkeys
from msgspec import Struct

from rollcall.store.files import write_whole


class UserKey(Struct, frozen=True):
    """An NKEY user. The seed is the secret; it never leaves the file but to sign in."""

    seed: str
    public: str

    def __repr__(self) -> str:
        return f"UserKey({self.public})"


def user_key(path: Path) -> UserKey:
    """The key kept at `path`; made there on first use, readable by its owner only."""
    if not path.exists():
        seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
        write_whole(path, bytes(seed) + b"\n", mode=0o600)
    seed = path.read_bytes().strip()
    pair = nkeys.from_seed(bytearray(seed))
    public = pair.public_key.decode()
    pair.wipe()
    return UserKey(seed.decode(), public)
