"""What changes and agents look like as rows, and the statements that take a whole batch of them."""

from collections.abc import Iterable, Sequence
from zlib import crc32

from msgspec import Struct

from rollcall.core import codec
from rollcall.core.instants import Milliseconds, instant
from rollcall.core.records import ENDINGS, Change, ChangeKind, Place, Record


class Folded(Struct, frozen=True, gc=False):
    """One change, ready to be stored: what stood before, and the record's bytes as the roll has them."""

    change: Change
    data: bytes
    before: Place | None


class Seen(Struct, frozen=True, gc=False):
    """When an agent was last heard, and how it felt then, as JSON."""

    id: str
    at: Milliseconds
    health: str | None


class Kept(Struct, frozen=True, gc=False):
    """One agent as the file has it."""

    place: Place
    seen_at: Milliseconds | None = None
    health: str | None = None


CHANGE_COLUMNS = "epoch, revision, kind, at, reason, record"


def _cells(count: int) -> str:
    """The cells of a row of `json_each`."""
    return ", ".join(f"json_extract(value, '$[{number}]')" for number in range(count))


INSERT_CHANGE = (
    "INSERT OR IGNORE INTO changes (epoch, revision, kind, role, id, at, reason, cause_epoch, cause_seq, record)"
    f" SELECT {_cells(10)} FROM json_each(?)"
)

UPSERT_AGENT = (
    "INSERT INTO agents"
    " (id, role, name, status, address, version, revision, kind, at, lost_at, record, last_seen, checksum)"
    # Without the WHERE, SQLite takes ON CONFLICT for a join.
    f" SELECT {_cells(13)} FROM json_each(?) WHERE true"
    " ON CONFLICT (id) DO UPDATE SET role = excluded.role, name = excluded.name, status = excluded.status,"
    " address = excluded.address, version = excluded.version, revision = excluded.revision, kind = excluded.kind,"
    " at = excluded.at, lost_at = excluded.lost_at, record = excluded.record, checksum = excluded.checksum,"
    " last_seen = max(coalesce(excluded.last_seen, 0), coalesce(last_seen, 0))"
)

SEE = (
    "UPDATE agents SET last_seen = json_extract(value, '$[1]'), health = json_extract(value, '$[2]')"
    " FROM json_each(?) AS heard WHERE agents.id = json_extract(value, '$[0]')"
)

DELETE_AGENTS = "DELETE FROM agents WHERE id IN (SELECT value FROM json_each(?))"
END_TOMBSTONES = "DELETE FROM tombstones WHERE id IN (SELECT value FROM json_each(?))"
BURY = (
    "INSERT OR REPLACE INTO tombstones (id, role, revision, kind, at, record, checksum)"
    f" SELECT {_cells(7)} FROM json_each(?)"
)
DELETE_CAPABILITY = f"DELETE FROM capabilities WHERE (capability, id) IN (SELECT {_cells(2)} FROM json_each(?))"
INSERT_CAPABILITY = f"INSERT OR IGNORE INTO capabilities (capability, id) SELECT {_cells(2)} FROM json_each(?)"

REBASE = (
    "DELETE FROM bases WHERE epoch = :epoch",
    "INSERT INTO bases (epoch, id, role, revision, kind, at, record)"
    " SELECT :epoch, id, role, revision, kind, at, record FROM agents",
    # The file may be ahead of what is named, and the server's clock ahead of ours.
    "INSERT OR REPLACE INTO states (epoch, begins, began_at)"
    " SELECT :epoch, max(:revision, :held), max(:at, coalesce((SELECT max(at) FROM agents), 0),"
    " coalesce((SELECT max(at) FROM tombstones), 0))",
)
"""States of a roll are known from the present one on."""

ENDING_WORDS = ", ".join(repr(str(kind)) for kind in sorted(ENDINGS))

INSERT_BASE = (
    "INSERT OR REPLACE INTO bases (epoch, id, role, revision, kind, at, reason, record)"
    f" SELECT {_cells(8)} FROM json_each(?)"
)
"""Who was on a roll when states of it began to be known."""

MOVE_BASES = (
    "INSERT OR REPLACE INTO bases (epoch, id, role, revision, kind, at, reason, record)"
    " SELECT epoch, id, role, revision, kind, at, reason, record FROM"
    " (SELECT *, max(revision) FROM changes WHERE epoch = :epoch AND revision > :begins AND revision <= :revision"
    " GROUP BY id)",
    f"DELETE FROM bases WHERE epoch = :epoch AND kind IN ({ENDING_WORDS})",
    "UPDATE states SET began_at = coalesce((SELECT at FROM changes WHERE epoch = :epoch AND revision > :begins"
    " AND revision <= :revision ORDER BY revision DESC LIMIT 1), began_at), begins = :revision WHERE epoch = :epoch",
)
"""Folds the changes up to a revision into the bases of an epoch."""

_ASKED = frozenset({ChangeKind.REGISTERED, ChangeKind.UPDATED, ChangeKind.DEREGISTERED})
"""The kinds that a command makes; the others keep the cause of the record they are about."""


def net(batch: Sequence[Folded]) -> list[Folded]:
    """What a batch does to each agent in the end: from what stood before its first change to its last one."""
    first: dict[str, Folded] = {}
    last: dict[str, Folded] = {}
    for folded in batch:
        first.setdefault(folded.change.id, folded)
        last[folded.change.id] = folded
    return [
        folded if folded is first[id] else Folded(folded.change, folded.data, first[id].before)
        for id, folded in last.items()
    ]


class Prepared(Struct, frozen=True, gc=False):
    """A batch as statements, each with its rows as one JSON parameter; and up to where it holds the roll."""

    statements: list[tuple[str, str]]
    epoch: str
    revision: int


def prepared(batch: Sequence[Folded]) -> Prepared:
    """The statements that store a batch."""
    ends = net(batch)
    living = [folded for folded in ends if folded.change.kind not in ENDINGS]
    ended = [folded for folded in ends if folded.change.kind in ENDINGS]
    risen = [folded.change.id for folded in living if folded.before is not None and folded.before.gone]
    cells: list[tuple[str, Sequence[object]]] = [
        (INSERT_CHANGE, [change_row(folded) for folded in batch]),
        (UPSERT_AGENT, [agent_row(folded) for folded in living]),
        (DELETE_CAPABILITY, [pair for folded in ends for pair in lost_capabilities(folded)]),
        (INSERT_CAPABILITY, [pair for folded in living for pair in new_capabilities(folded)]),
        (END_TOMBSTONES, risen),
        (DELETE_AGENTS, [folded.change.id for folded in ended]),
        (BURY, [grave_row(folded) for folded in ended]),
    ]
    last = batch[-1].change
    statements = [(statement, codec.encode(some).decode()) for statement, some in cells if some]
    return Prepared(statements, last.epoch, last.revision)


def whole(places: Sequence[Folded], epoch: str, revision: int, told: Sequence[Folded] = ()) -> Prepared:
    """The statements that fill an empty file with the places of a roll; of `told` ones the last change is history."""
    cells: list[tuple[str, Sequence[object]]] = [
        (INSERT_CHANGE, [change_row(folded) for folded in told]),
        (INSERT_BASE, [base_row(folded) for folded in places if folded.change.kind not in ENDINGS]),
        (UPSERT_AGENT, [agent_row(folded) for folded in places if folded.change.kind not in ENDINGS]),
        (
            INSERT_CAPABILITY,
            [pair for folded in places if folded.change.kind not in ENDINGS for pair in new_capabilities(folded)],
        ),
        (BURY, [grave_row(folded) for folded in places if folded.change.kind in ENDINGS]),
    ]
    return Prepared([(statement, codec.encode(some).decode()) for statement, some in cells if some], epoch, revision)


def grave_row(folded: Folded) -> tuple[object, ...]:
    """A tombstone, for `BURY`."""
    change = folded.change
    return (
        change.id,
        change.role,
        change.revision,
        change.kind,
        change.at,
        folded.data.decode(),
        checksum(change.kind, change.revision, change.at, folded.data),
    )


def base_row(folded: Folded) -> tuple[object, ...]:
    """A place that later changes stand on, for `INSERT_BASE`."""
    change = folded.change
    told = (change.kind, change.at, change.reason or None, folded.data.decode())
    return (change.epoch, change.id, change.role, change.revision, *told)


def change_row(folded: Folded) -> tuple[object, ...]:
    """A change, for `INSERT_CHANGE`."""
    change = folded.change
    cause = change.record.cause if change.kind in _ASKED else None
    return (
        change.epoch,
        change.revision,
        change.kind,
        change.role,
        change.id,
        change.at,
        change.reason or None,
        cause.inbox_epoch if cause else None,
        cause.seq if cause else None,
        folded.data.decode(),
    )


def agent_row(folded: Folded) -> tuple[object, ...]:
    """An agent after a change, for `UPSERT_AGENT`."""
    change, record = folded.change, folded.change.record
    return (
        record.id,
        record.role,
        record.name,
        record.status,
        record.address,
        record.version,
        change.revision,
        change.kind,
        change.at,
        record.lost_at,
        folded.data.decode(),
        # A registration is a sign of life; what else is heard is stored by `see`.
        instant(record.updated_at) if change.kind is ChangeKind.REGISTERED else None,
        checksum(change.kind, change.revision, change.at, folded.data),
    )


def _capabilities(record: Record | None) -> tuple[str, ...]:
    return record.capabilities if record is not None else ()


def _standing_before(folded: Folded) -> Record | None:
    return folded.before.record if folded.before is not None and not folded.before.gone else None


def lost_capabilities(folded: Folded) -> Iterable[tuple[str, str]]:
    """What an agent can do no more, as pairs with its id."""
    before = _capabilities(_standing_before(folded))
    after = () if folded.change.kind in ENDINGS else folded.change.record.capabilities
    return [(name, folded.change.id) for name in before if name not in after] if before != after else []


def new_capabilities(folded: Folded) -> Iterable[tuple[str, str]]:
    """What an agent can do now, as pairs with its id; nothing when that did not change."""
    before, after = _capabilities(_standing_before(folded)), folded.change.record.capabilities
    return [(name, folded.change.id) for name in after] if before != after else []


def checksum(kind: str, revision: int, at: Milliseconds, record: bytes) -> int:
    """What tells a place from one in which the disk turned a bit."""
    return crc32(record, crc32(f"{kind} {revision} {at} ".encode()))


def place(kind: str, revision: int, at: Milliseconds, record: bytes) -> Place:
    """A place as the file has it."""
    return Place(codec.decode_record(record), revision, ChangeKind(kind), at)


def read_change(row: tuple[str, int, str, int, str | None, str]) -> Change:
    """A row of `CHANGE_COLUMNS` as a change."""
    epoch, revision, kind, at, reason, record = row
    return Change(
        kind=ChangeKind(kind),
        record=codec.decode_record(record.encode()),
        revision=revision,
        epoch=epoch,
        at=at,
        reason=reason or "",
    )
