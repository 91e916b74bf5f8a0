"""What the roll was at an earlier moment: from the changes of a snapshot, read beside whoever writes them."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from rollcall.core.healing import began
from rollcall.core.instants import Milliseconds
from rollcall.core.records import ENDINGS, Change
from rollcall.store.rows import CHANGE_COLUMNS, read_change

_HORIZON = "horizon "

_STANDING = (
    f"SELECT {CHANGE_COLUMNS} FROM (SELECT {CHANGE_COLUMNS}, id, role, max(epoch || printf('.%020d', revision))"
    " FROM changes WHERE id > :after AND (:id = '' OR id = :id)"
    " AND (epoch < :epoch OR (epoch = :epoch AND revision <= :revision)) GROUP BY id)"
    f" WHERE kind NOT IN ({', '.join(repr(str(kind)) for kind in sorted(ENDINGS))})"
    " AND (:role = '' OR role = :role) ORDER BY id LIMIT :limit"
)


class Moment(Struct, frozen=True, order=True):
    """A state of a roll; `at` is when it came about."""

    epoch: str
    revision: int
    at: Milliseconds


class Past:
    """The past as the file at `path` knows it. Everything here blocks, and takes a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begins(self) -> Moment | None:
        """From when on everything is known; None for nothing yet."""
        with self._reading() as connection:
            horizons = _horizons(connection)
            if not horizons:
                return None
            epoch = min(horizons)
            return Moment(epoch, horizons[epoch], _at(connection, epoch, horizons[epoch]))

    def moment(self, at: Milliseconds) -> Moment | None:
        """The state at a time; None when that is before everything that is known."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT epoch, revision, at FROM changes WHERE at <= ? ORDER BY epoch DESC, revision DESC LIMIT 1",
                (at,),
            ).fetchone()
            if found is not None:
                return Moment(*found)
            horizons = _horizons(connection)
            # A roll that was seen from its beginning was empty then.
            empty = [epoch for epoch, revision in horizons.items() if revision == 0 and began(epoch) <= at]
            return Moment(max(empty), 0, began(max(empty))) if empty else None

    def at_revision(self, epoch: str, revision: int) -> Moment:
        """The state after a revision; without an epoch, of the roll that had it: a revision never comes back."""
        with self._reading() as connection:
            if not epoch:
                horizons = _horizons(connection)
                epoch = max((one for one, horizon in horizons.items() if horizon <= revision), default="")
            return Moment(epoch, revision, _at(connection, epoch, revision))

    def knows(self, moment: Moment) -> bool:
        """Whether nothing is missing of a state."""
        with self._reading() as connection:
            horizon = _horizons(connection).get(moment.epoch)
            return horizon is not None and moment.revision >= horizon

    def standing(self, moment: Moment, *, role: str = "", id: str = "", after: str = "", limit: int) -> list[Change]:
        """Who was on the roll, by id: the last change of each until then, behind `after`."""
        asked = {"epoch": moment.epoch, "revision": moment.revision, "role": role, "id": id, "after": after}
        with self._reading() as connection:
            found = connection.execute(_STANDING, {**asked, "limit": limit})
            return [read_change(row) for row in found]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
        try:
            yield connection
        finally:
            connection.close()


def _horizons(connection: sqlite3.Connection) -> dict[str, int]:
    found = connection.execute("SELECT name, value FROM meta WHERE name LIKE ?", (f"{_HORIZON}%",))
    return {name.removeprefix(_HORIZON): int(value) for name, value in found}


def _at(connection: sqlite3.Connection, epoch: str, revision: int) -> Milliseconds:
    found = connection.execute(
        "SELECT max(at) FROM changes WHERE epoch = ? AND revision <= ?", (epoch, revision)
    ).fetchone()
    return found[0] if found[0] is not None else began(epoch)
