"""The tables of a snapshot, and how an older file becomes a newer one."""

import sqlite3
from collections.abc import Callable

import sqlite_utils

from rollcall.core.errors import Misconfigured

VERSION = 4


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Brings the file to `VERSION`, one step after the other.

    Raises:
        Misconfigured: the file was written by a newer rollcall.
    """
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > VERSION:
        raise Misconfigured(
            f"snapshot {path} has schema {found}, this rollcall knows {VERSION}; upgrade rollcall, or give it another "
            "--data-dir (the roll on the bus fills it)"
        )
    database = sqlite_utils.Database(connection)
    for step in _STEPS[found:]:
        step(database)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.commit()


def _first(database: sqlite_utils.Database) -> None:
    database.table("meta").create({"name": str, "value": str}, pk="name")
    database.table("agents").create(
        {
            "id": str,
            "role": str,
            "name": str,
            "status": str,
            "address": str,
            "version": str,
            "revision": int,
            "kind": str,
            "at": int,
            "lost_at": str,
            "last_seen": int,
            "health": str,
            "record": str,
        },
        pk="id",
        not_null={"role", "revision", "kind", "at", "record"},
    )
    database.table("agents").create_index(["role"])
    database.table("tombstones").create(
        {"id": str, "role": str, "revision": int, "kind": str, "at": int, "record": str}, pk="id"
    )
    # Tables without a row id, and a partial index, are beyond what sqlite-utils creates.
    database.execute("CREATE TABLE capabilities (capability TEXT, id TEXT, PRIMARY KEY (capability, id)) WITHOUT ROWID")
    database.execute(
        "CREATE TABLE changes (epoch TEXT, revision INTEGER, kind TEXT, role TEXT, id TEXT, at INTEGER, reason TEXT,"
        " cause_epoch TEXT, cause_seq INTEGER, record TEXT, PRIMARY KEY (epoch, revision)) WITHOUT ROWID"
    )
    database.table("changes").create_index(["id", "at"])
    database.execute(
        "CREATE UNIQUE INDEX changes_by_cause ON changes (cause_epoch, cause_seq) WHERE cause_seq IS NOT NULL"
    )


def _second(database: sqlite_utils.Database) -> None:
    """A checksum beside each place; rows of before have none and are not checked."""
    for table in ("agents", "tombstones"):
        database.table(table).add_column("checksum", int)


def _third(database: sqlite_utils.Database) -> None:
    """Nonces of signed commands that came to nothing: the roll tells of the others."""
    database.execute(
        "CREATE TABLE nonces (user TEXT, nonce TEXT, ts TEXT, cause TEXT, at INTEGER, PRIMARY KEY (user, nonce))"
        " WITHOUT ROWID"
    )
    database.table("nonces").create_index(["at"])


def _fourth(database: sqlite_utils.Database) -> None:
    """What states of the past stand on. Of a file of before, nothing but its present one is known."""
    database.execute(
        "CREATE TABLE bases (epoch TEXT, id TEXT, role TEXT, revision INTEGER, kind TEXT, at INTEGER, reason TEXT,"
        " record TEXT, PRIMARY KEY (epoch, id)) WITHOUT ROWID"
    )
    database.execute(
        "CREATE TABLE states (epoch TEXT PRIMARY KEY, begins INTEGER, began_at INTEGER, ends INTEGER,"
        " whole INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID"
    )
    for statement in REBASE:
        database.execute(statement)


REBASE = (
    "DELETE FROM bases WHERE epoch = (SELECT value FROM meta WHERE name = 'epoch')",
    "INSERT INTO bases (epoch, id, role, revision, kind, at, record)"
    " SELECT (SELECT value FROM meta WHERE name = 'epoch'), id, role, revision, kind, at, record FROM agents"
    " WHERE EXISTS (SELECT 1 FROM meta WHERE name = 'epoch')",
    "INSERT OR REPLACE INTO states (epoch, begins, began_at)"
    " SELECT value, (SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'revision'),"
    " max(CAST(substr(value, 1, instr(value, '-') - 1) AS INTEGER), coalesce((SELECT max(at) FROM agents), 0),"
    " coalesce((SELECT max(at) FROM tombstones), 0)) FROM meta WHERE name = 'epoch'",
)
"""States of the roll that is held are known from the present one on."""

_STEPS: list[Callable[[sqlite_utils.Database], None]] = [_first, _second, _third, _fourth]
