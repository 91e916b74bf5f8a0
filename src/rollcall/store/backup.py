"""A snapshot as one file that proves itself: written while the worker goes on, read only if it is whole.

The copy is a snapshot like any other, with a word about where it is from and a checksum over every row.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from rollcall.core import codec
from rollcall.core.errors import Invalid, Misconfigured, RollcallError, Unavailable
from rollcall.core.instants import Milliseconds, Timestamp, timestamp
from rollcall.core.records import Place
from rollcall.store import rows, schema

_CHECKSUM = "backup checksum"
_ABOUT = "backup about"
_ORDERS = {
    "agents": "id",
    "tombstones": "id",
    "capabilities": "capability, id",
    "changes": "epoch, revision",
    "nonces": "user, nonce",
    "bases": "epoch, id",
    "states": "epoch",
    "meta": "name",
}


class About(Struct, frozen=True):
    """Where a backup is from: which roll, up to where, when it was made; how many agents and changes it holds."""

    realm: str
    epoch: str
    revision: int
    at: Timestamp
    agents: int
    changes: int


class Made(Struct, frozen=True):
    """A backup that was made, or found whole."""

    about: About
    checksum: str


def back_up(snapshot: Path, to: Path, *, realm: str, now: Milliseconds) -> Made:
    """Copies a snapshot, as it is at one moment, into one file; whatever stood there is replaced once that is done.

    Raises:
        Misconfigured: the snapshot is none, or the file cannot be written.
        Unavailable: the disk is full, or the snapshot is busy.
    """
    if to.exists() and snapshot.exists() and to.samefile(snapshot):
        raise Misconfigured(f"{to} is the snapshot of the worker itself; give the backup another name")
    scratch = to.with_name(f".{to.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    try:
        # SQLite makes its files readable for everybody; records are nobody's business.
        os.close(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        made = _copied(snapshot, scratch, realm, now)
        scratch.replace(to)
    except sqlite3.OperationalError as error:
        raise Unavailable(f"{snapshot} cannot be copied to {to}: {error}; see to the disk, then try again") from error
    except sqlite3.DatabaseError as error:
        raise Misconfigured(f"{snapshot} is no snapshot, or damaged: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)
    return made


def read_backup(path: Path) -> tuple[Made, list[Place]]:
    """A backup, and the agents in it, if every row is what was written.

    Raises:
        Invalid: it is corrupt, or no backup.
        Misconfigured: a newer rollcall wrote it.
    """
    if not path.is_file():
        raise Misconfigured(f"there is no file {path}; write one with `rollcall backup`")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            _check_schema(connection, path)
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                raise Invalid(f"{path} is corrupt: {found}; nothing was restored")
            return _whole(connection, path)
    except sqlite3.DatabaseError as error:
        raise Invalid(f"{path} is no backup, or corrupt: {error}; nothing was restored") from error


def _copied(snapshot: Path, scratch: Path, realm: str, now: Milliseconds) -> Made:
    with closing(sqlite3.connect(f"{snapshot.absolute().as_uri()}?mode=ro", uri=True, timeout=30.0)) as source:
        # One transaction sees one state, whatever the worker writes meanwhile.
        source.execute("VACUUM INTO ?", (str(scratch),))
    with closing(sqlite3.connect(scratch)) as copy:
        told = dict(copy.execute("SELECT name, value FROM meta").fetchall())
        about = About(
            realm,
            told.get("epoch", ""),
            int(told.get("revision", "0")),
            timestamp(now),
            _count(copy, "agents"),
            _count(copy, "changes"),
        )
        with copy:
            _note(copy, _ABOUT, codec.encode(about).decode())
            checksum = _checksum(copy)
            _note(copy, _CHECKSUM, checksum)
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    return Made(about, checksum)


def _whole(connection: sqlite3.Connection, path: Path) -> tuple[Made, list[Place]]:
    told = dict(connection.execute("SELECT name, value FROM meta WHERE name IN (?, ?)", (_ABOUT, _CHECKSUM)).fetchall())
    if told.keys() != {_ABOUT, _CHECKSUM}:
        raise Invalid(f"{path} is no backup: nothing in it says where it is from; write one with `rollcall backup`")
    if _checksum(connection) != told[_CHECKSUM]:
        raise Invalid(f"{path} is corrupt: its rows are not those that were written; nothing was restored")
    try:
        about = codec.decode(told[_ABOUT].encode(), About)
        places = [rows.place(*row) for row in _agents(connection)]
    except (RollcallError, ValueError) as error:
        raise Invalid(f"{path} is no backup of ours: {error}; nothing was restored") from error
    return Made(about, told[_CHECKSUM]), places


def _agents(connection: sqlite3.Connection) -> Iterator[tuple[str, int, int, bytes]]:
    yield from connection.execute("SELECT kind, revision, at, CAST(record AS BLOB) FROM agents ORDER BY revision")


def _checksum(connection: sqlite3.Connection) -> str:
    """SHA-256 over every row of every table, in order, but for the checksum itself."""
    told = hashlib.sha256()
    for table, order in _ORDERS.items():
        but = f" WHERE name != '{_CHECKSUM}'" if table == "meta" else ""
        told.update(f"{table}\n".encode())
        for row in connection.execute(f"SELECT * FROM {table}{but} ORDER BY {order}"):
            told.update(repr(row).encode("utf-8", "surrogateescape"))
    return told.hexdigest()


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > schema.VERSION:
        raise Misconfigured(f"{path} has schema {found}, this rollcall knows {schema.VERSION}; upgrade rollcall")


def _count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _note(connection: sqlite3.Connection, name: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))
