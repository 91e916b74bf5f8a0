"""What the roll was at an earlier moment: from the changes of a snapshot, read beside whoever writes them.

A state stands on a base: who was there when everything about an epoch began to be known. Later changes are folded onto
it. Of an epoch that is over, states are known up to where this worker had followed it.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from rollcall.core.instants import Milliseconds
from rollcall.core.records import Change
from rollcall.store.rows import CHANGE_COLUMNS, ENDING_WORDS, read_change

_STANDING = (
    f"WITH told AS (SELECT {CHANGE_COLUMNS}, id, role, max(revision) FROM changes"
    " WHERE epoch = :epoch AND revision > :begins AND revision <= :revision AND id > :after AND id <= :upto"
    " GROUP BY id)"
    f" SELECT {CHANGE_COLUMNS} FROM (SELECT {CHANGE_COLUMNS}, id, role FROM told"
    f" UNION ALL SELECT {CHANGE_COLUMNS}, id, role FROM bases"
    " WHERE epoch = :epoch AND id > :after AND id <= :upto AND id NOT IN (SELECT id FROM told))"
    f" WHERE kind NOT IN ({ENDING_WORDS}) AND (:role = '' OR role = :role) ORDER BY id"
)

_KNOWN = "SELECT epoch, begins, began_at, ends, ended_at FROM states"


class Moment(Struct, frozen=True, order=True):
    """A state of a roll; `at` is when it came about."""

    epoch: str
    revision: int
    at: Milliseconds


class Known(Struct, frozen=True, order=True):
    """Which states of an epoch are known: from `begins` to `ends`, until `ended_at`; on and on while these are None."""

    epoch: str
    begins: int
    began_at: Milliseconds
    ends: int | None
    ended_at: Milliseconds | None

    def has(self, revision: int) -> bool:
        """Whether the state after a revision is known."""
        return self.begins <= revision and (self.ends is None or revision <= self.ends)


class Past:
    """The past as the file at `path` knows it. Everything here blocks, and takes a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begins(self) -> Moment | None:
        """From when on states are known; None for nothing yet."""
        with self._reading() as connection:
            known = min(_known(connection), default=None)
            return None if known is None else Moment(known.epoch, known.begins, known.began_at)

    def at_time(self, at: Milliseconds) -> Moment | None:
        """The state at a time; None when it is not known."""
        with self._reading() as connection:
            known = max((one for one in _known(connection) if one.began_at <= at), default=None)
            if known is None or (known.ended_at is not None and at >= known.ended_at):
                return None
            found = connection.execute(
                "SELECT revision, at FROM changes WHERE epoch = ? AND revision > ? AND at <= ?"
                " ORDER BY revision DESC LIMIT 1",
                (known.epoch, known.begins, at),
            ).fetchone()
            return Moment(known.epoch, *(found or (known.begins, known.began_at)))

    def at_revision(self, epoch: str, revision: int) -> Moment | None:
        """The state after a revision; without an epoch, of the roll that had it: a revision never comes back.

        None when it is not known.
        """
        with self._reading() as connection:
            fitting = [one for one in _known(connection) if epoch in ("", one.epoch) and one.has(revision)]
            known = max(fitting, default=None)
            if known is None:
                return None
            found = connection.execute(
                "SELECT at FROM changes WHERE epoch = ? AND revision > ? AND revision <= ?"
                " ORDER BY revision DESC LIMIT 1",
                (known.epoch, known.begins, revision),
            ).fetchone()
            return Moment(known.epoch, revision, found[0] if found is not None else known.began_at)

    def standing(
        self, moment: Moment, *, role: str = "", id: str = "", after: str = "", limit: int
    ) -> tuple[list[Change], str]:
        """Who was on the roll, by id, and the last change of each until then; of `limit` ids behind `after`.

        With it comes behind which id to go on; empty when there is nobody more.
        """
        with self._reading() as connection:
            begins = next((one.begins for one in _known(connection) if one.epoch == moment.epoch), 0)
            ids = [id] if id else _ids(connection, moment.epoch, after, limit)
            if not ids:
                return [], ""
            asked = {"epoch": moment.epoch, "revision": moment.revision, "begins": begins, "role": role}
            bounds = {"after": "" if id else after, "upto": ids[-1]}
            found = [read_change(row) for row in connection.execute(_STANDING, {**asked, **bounds})]
            if id:
                return [change for change in found if change.id == id], ""
            return found, ids[-1] if len(ids) == limit else ""

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
        try:
            # What is known and what is read of it are of one moment.
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()


def _known(connection: sqlite3.Connection) -> list[Known]:
    return [Known(*row) for row in connection.execute(_KNOWN)]


def _ids(connection: sqlite3.Connection, epoch: str, after: str, limit: int) -> list[str]:
    """The next ids of which anything is known, in order."""
    found: set[str] = set()
    for query, values in (
        ("SELECT DISTINCT id FROM changes WHERE id > ? ORDER BY id LIMIT ?", (after, limit)),
        ("SELECT id FROM bases WHERE epoch = ? AND id > ? ORDER BY id LIMIT ?", (epoch, after, limit)),
    ):
        found.update(row[0] for row in connection.execute(query, values))
    return sorted(found)[:limit]
