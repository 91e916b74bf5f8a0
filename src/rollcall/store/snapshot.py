"""A worker's SQLite file: the roll folded, at a revision, with the changes that led there.

One writer. Everything here blocks; who calls it from a loop uses a thread. Beats never come here one by one.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import structlog
from msgspec import Struct

from rollcall.core import codec
from rollcall.core.errors import Misconfigured, Unavailable
from rollcall.core.instants import Milliseconds
from rollcall.core.records import Cause, Change
from rollcall.store import rows, schema
from rollcall.store.files import make_private
from rollcall.store.rows import Kept, Prepared, Seen

SPENT_FOR: Milliseconds = 2 * 3600 * 1000
"""How long nonces of commands that came to nothing are kept: longer than a command may wait in the inbox."""

log = structlog.get_logger(__name__)


class Position(Struct, frozen=True):
    """Up to where the roll is folded."""

    epoch: str
    revision: int


class Snapshot:
    """The file at `path`."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, set_aside: Path | None) -> None:
        self._connection = connection
        self.path = path
        self.set_aside = set_aside
        """Where a corrupt file was moved when this one was opened; None when there was none."""

    @classmethod
    def open(cls, path: Path, *, now: Milliseconds) -> "Snapshot":
        """The snapshot at `path`, made or migrated; a corrupt file is kept beside it under another name.

        Raises:
            Misconfigured: a newer rollcall wrote it.
        """
        make_private(path.parent)
        try:
            return cls(_connect(path), path, set_aside=None)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise Unavailable(
                    f"snapshot {path} cannot be opened: {error}; check the disk and its rights"
                ) from error
            aside = _set_aside(path, now)
            log.error("snapshot is corrupt; kept, and rebuilt from the roll", kept=str(aside), error=str(error))
            return cls(_connect(path), path, set_aside=aside)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction.

        Raises:
            Unavailable: the disk does not take it now; nothing was written.
            Misconfigured: the file is damaged.
        """
        try:
            with self._connection:
                yield
        except sqlite3.OperationalError as error:
            raise Unavailable(f"snapshot {self.path} cannot be written: {error}; see to its disk") from error
        except sqlite3.DatabaseError as error:
            raise Misconfigured(
                f"snapshot {self.path} is damaged: {error}; start this worker again, it rebuilds the file from the roll"
            ) from error

    def close(self) -> None:
        """Ends the use of the file."""
        self._connection.close()

    def position(self) -> Position:
        """Up to where the roll is folded; the epoch is empty in a new file."""
        told = dict(self._connection.execute("SELECT name, value FROM meta").fetchall())
        return Position(told.get("epoch", ""), int(told.get("revision", "0")))

    def noted(self, name: str) -> str:
        """What was noted under a name; empty for nothing."""
        row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (f"note {name}",)).fetchone()
        return str(row[0]) if row is not None else ""

    def spend(self, rows: Iterable[tuple[str, str, str, str]], *, now: Milliseconds) -> None:
        """Keeps nonces of commands that came to nothing, as user, nonce, time of the signature, and cause."""
        with self._writing():
            self._connection.execute("DELETE FROM nonces WHERE at < ?", (now - SPENT_FOR,))
            self._connection.executemany(
                "INSERT OR IGNORE INTO nonces (user, nonce, ts, cause, at) VALUES (?, ?, ?, ?, ?)",
                [(*row, now) for row in rows],
            )

    def spent(self, since: Milliseconds) -> list[tuple[str, str, str, str]]:
        """The nonces that were spent since then."""
        return self._connection.execute("SELECT user, nonce, ts, cause FROM nonces WHERE at >= ?", (since,)).fetchall()

    def latest(self, epoch: str, since: Milliseconds) -> list[Change]:
        """The changes of a roll since then, newest first."""
        found: list[Change] = []
        query = f"SELECT {rows.CHANGE_COLUMNS} FROM changes WHERE epoch = ? ORDER BY revision DESC"
        for row in self._connection.execute(query, (epoch,)):
            if row[3] < since:
                break
            found.append(rows.read_change(row))
        return found

    def note(self, name: str, value: str) -> None:
        """Keeps something that is not part of the roll."""
        with self._writing():
            self._connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (f"note {name}", value))

    def load(self) -> Iterable[Kept]:
        """Every place of the file: agents, then tombstones."""
        for kind, revision, at, seen, health, record in self._connection.execute(
            "SELECT kind, revision, at, last_seen, health, CAST(record AS BLOB) FROM agents"
        ):
            yield Kept(rows.place(kind, revision, at, record), seen or None, health)
        for kind, revision, at, record in self._connection.execute(
            "SELECT kind, revision, at, CAST(record AS BLOB) FROM tombstones"
        ):
            yield Kept(rows.place(kind, revision, at, record))

    def become(self, roll: Prepared, *, horizon: int, at: Milliseconds, ended_at: Milliseconds | None = None) -> None:
        """Holds another roll from now on, in one transaction; the changes of earlier ones stay.

        Its own changes are complete only after `horizon`; its states are known from `at` on. Of the earlier roll it is
        known what it was until `ended_at`; None where it may have gone on after what was folded of it.
        """
        with self._writing():
            known = self.position()
            self._connection.execute(
                "UPDATE states SET ends = :revision, ended_at = coalesce(:ended_at,"
                " (SELECT max(at) + 1 FROM changes WHERE epoch = :epoch), began_at)"
                " WHERE epoch = :epoch AND epoch != :next",
                {"revision": known.revision, "ended_at": ended_at, "epoch": known.epoch, "next": roll.epoch},
            )
            for table in ("agents", "tombstones", "capabilities"):
                self._connection.execute(f"DELETE FROM {table}")
            self._connection.execute("DELETE FROM bases WHERE epoch = ?", (roll.epoch,))
            self._store(roll)
            self._raise_horizon(roll.epoch, horizon)
            self._connection.execute(
                "INSERT OR REPLACE INTO states (epoch, begins, began_at) VALUES (?, ?, ?)",
                (roll.epoch, roll.revision, at),
            )

    def rebase(self, revision: int, at: Milliseconds) -> None:
        """States of the roll are known from the present one on: what came before `revision` was not all seen."""
        with self._writing():
            held = self.position()
            asked = {"epoch": held.epoch, "held": held.revision, "revision": revision, "at": at}
            for statement in rows.REBASE:
                self._connection.execute(statement, asked)

    def doubtful(self) -> bool:
        """Whether of the roll that is held no state is known."""
        known = self._connection.execute("SELECT count(*) FROM states WHERE epoch = ?", (self.position().epoch,))
        return bool(known.fetchone()[0] == 0)

    def doubt(self, epoch: str) -> None:
        """Not everything that happened was seen: of no state is it sure before the next `rebase`."""
        with self._writing():
            for table in ("states", "bases"):
                self._connection.execute(f"DELETE FROM {table} WHERE epoch = ?", (epoch,))

    def apply(self, batch: Prepared) -> None:
        """Stores a batch in one transaction; when it returns, the batch is on disk.

        Raises:
            Unavailable: the disk does not take it now.
        """
        with self._writing():
            self._store(batch)

    def see(self, batch: Sequence[Seen]) -> None:
        """Stores when agents were last heard."""
        with self._writing():
            self._each(rows.SEE, [(seen.id, seen.at, seen.health) for seen in batch])

    def forget(self, ids: Sequence[str]) -> None:
        """Drops agents and tombstones that the roll no longer holds."""
        with self._writing():
            self._each(rows.DELETE_AGENTS, ids)
            self._each("DELETE FROM capabilities WHERE id IN (SELECT value FROM json_each(?))", ids)
            self._each(rows.END_TOMBSTONES, ids)

    def history(self, id: str, limit: int) -> list[Change]:
        """The newest `limit` changes of one agent, oldest first."""
        found = self._connection.execute(
            f"SELECT {rows.CHANGE_COLUMNS} FROM changes WHERE id = ? ORDER BY at DESC, revision DESC LIMIT ?",
            (id, limit),
        )
        return [rows.read_change(row) for row in found][::-1]

    def since(self, position: Position, limit: int) -> list[Change]:
        """At most `limit` changes after `position`, in the order of the roll."""
        found = self._connection.execute(
            f"SELECT {rows.CHANGE_COLUMNS} FROM changes WHERE epoch = ? AND revision > ? ORDER BY revision LIMIT ?",
            (position.epoch, position.revision, limit),
        )
        return [rows.read_change(row) for row in found]

    def horizon(self, epoch: str) -> int | None:
        """The revision after which no change of `epoch` is missing; None when the file never held that roll."""
        row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (f"horizon {epoch}",)).fetchone()
        return None if row is None else int(row[0])

    def caused(self, cause: Cause) -> Change | None:
        """The change that a command made."""
        row = self._connection.execute(
            f"SELECT {rows.CHANGE_COLUMNS} FROM changes WHERE cause_epoch = ? AND cause_seq = ?",
            (cause.inbox_epoch, cause.seq),
        ).fetchone()
        return None if row is None else rows.read_change(row)

    def highest_cause(self, inbox_epoch: str) -> int:
        """The last command of an inbox that made a change; 0 for none."""
        row = self._connection.execute(
            "SELECT max(cause_seq) FROM changes WHERE cause_epoch = ? AND cause_seq IS NOT NULL", (inbox_epoch,)
        ).fetchone()
        return row[0] or 0

    def prune(self, *, keep: int, before: Milliseconds) -> int:
        """Removes the oldest changes, beyond the newest `keep` and older than `before`; says how many."""
        with self._writing():
            count = self._connection.execute("SELECT count(*) FROM changes").fetchone()[0]
            doomed = self._connection.execute(
                "SELECT epoch, max(revision) FROM (SELECT epoch, revision, at FROM changes"
                " ORDER BY epoch, revision LIMIT max(0, ? - ?)) GROUP BY epoch"
                " UNION ALL SELECT epoch, max(revision) FROM changes WHERE at < ? GROUP BY epoch",
                (count, keep, before),
            ).fetchall()
            removed = 0
            for epoch, revision in doomed:
                self._move_bases(epoch, revision)
                removed += self._connection.execute(
                    "DELETE FROM changes WHERE epoch = ? AND revision <= ?", (epoch, revision)
                ).rowcount
                self._raise_horizon(epoch, revision)
            if doomed:
                self._forget_epochs()
        return removed

    def _move_bases(self, epoch: str, revision: int) -> None:
        """States are known from `revision` on: who was there then is what later changes stand on."""
        found = self._connection.execute("SELECT begins FROM states WHERE epoch = ?", (epoch,)).fetchone()
        if found is not None and found[0] < revision:
            for statement in rows.MOVE_BASES:
                self._connection.execute(statement, {"epoch": epoch, "begins": found[0], "revision": revision})

    def _forget_epochs(self) -> None:
        """Of rolls that are over and have no changes left, nothing is remembered."""
        for table in ("states", "bases"):
            self._connection.execute(
                f"DELETE FROM {table} WHERE epoch != ? AND epoch NOT IN (SELECT DISTINCT epoch FROM changes)",
                (self.position().epoch,),
            )

    def _store(self, batch: Prepared) -> None:
        for statement, cells in batch.statements:
            self._connection.execute(statement, (cells,))
        self._mark(batch.epoch, batch.revision)

    def _mark(self, epoch: str, revision: int) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)",
            [("epoch", epoch), ("revision", str(revision))],
        )

    def start_history(self, epoch: str, revision: int) -> None:
        """Says that changes of `epoch` are complete only after `revision`."""
        with self._writing():
            self._raise_horizon(epoch, revision)

    def _raise_horizon(self, epoch: str, revision: int) -> None:
        known = self.horizon(epoch)
        if known is None or known < revision:
            self._connection.execute(
                "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (f"horizon {epoch}", str(revision))
            )

    def _each(self, statement: str, cells: Sequence[object]) -> None:
        """Runs a statement over all rows at once, as one JSON parameter.

        Row by row, this thread would take the interpreter lock back for every one of them; beside a busy loop that
        is eight times slower.
        """
        if cells:
            self._connection.execute(statement, (codec.encode(cells).decode(),))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -32768")
        connection.execute("PRAGMA wal_autocheckpoint = 8000")
        schema.migrate(connection, str(path))
        _verify(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _verify(connection: sqlite3.Connection) -> None:
    """Looks for what a torn write or a turned bit leaves; a tenth of a second for 100,000 agents.

    Raises:
        sqlite3.DatabaseError: the file is not what was written.
    """
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(found)
    for table in ("agents", "tombstones"):
        for checksum, *written in connection.execute(
            f"SELECT checksum, kind, revision, at, CAST(record AS BLOB) FROM {table} WHERE checksum IS NOT NULL"
        ):
            if checksum != rows.checksum(*written):
                raise sqlite3.DatabaseError(f"a row of {table}, at revision {written[1]}, is not what was written")


def _set_aside(path: Path, now: Milliseconds) -> Path:
    aside = path.with_name(f"{path.name}.corrupt-{now}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
