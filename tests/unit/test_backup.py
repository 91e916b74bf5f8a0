"""Backups: a copy is whole or refused, whatever the disk did to it, and replaces the one before all at once."""

import os
import random
import sqlite3
import stat

import pytest

from rollcall.core import codec
from rollcall.core.errors import Invalid, Misconfigured
from rollcall.core.instants import timestamp
from rollcall.core.records import Change, ChangeKind, Record
from rollcall.store.backup import back_up, read_backup
from rollcall.store.rows import Folded, prepared, whole
from rollcall.store.schema import VERSION
from rollcall.store.snapshot import Snapshot

NOW = 1_795_000_000_000
EPOCH = f"{NOW}-0123abcd"
REFUSED = (Invalid, Misconfigured)


def folded(revision, id, kind=ChangeKind.REGISTERED, **said):
    at = timestamp(NOW + revision)
    record = Record(id=id, role="worker", name=f"{id} {revision}", registered_at=at, updated_at=at, **said)
    change = Change(kind=kind, record=record, revision=revision, epoch=EPOCH, at=NOW + revision)
    return Folded(change, codec.encode_record(record), None)


HISTORY = [
    folded(1, "a", metadata={"n": 1, "text": "ü"}),
    folded(2, "b", lost_at=timestamp(NOW)),
    folded(3, "gone"),
    folded(4, "gone", ChangeKind.DEREGISTERED),
    folded(5, "a", ChangeKind.UPDATED),
]


@pytest.fixture
def snapshot(tmp_path):
    one = Snapshot.open(tmp_path / "w1.db", now=NOW)
    one.become(whole([], EPOCH, 0), horizon=0, at=NOW)
    one.apply(prepared(HISTORY))
    yield one
    one.close()


@pytest.fixture
def backup(snapshot, tmp_path):
    file = tmp_path / "roll.backup"
    back_up(snapshot.path, file, realm="r1", now=NOW + 10)
    return file


def test_a_backup_tells_where_it_is_from_and_who_is_in_it(backup):
    made, places = read_backup(backup)

    about = made.about
    assert (about.realm, about.epoch, about.revision, about.at) == ("r1", EPOCH, 5, timestamp(NOW + 10))
    assert (about.agents, about.changes) == (2, 5)
    assert [(place.record, place.revision) for place in places] == [
        (HISTORY[1].change.record, 2),
        (HISTORY[4].change.record, 5),
    ]


def test_what_is_said_when_it_is_made_is_what_is_read(snapshot, tmp_path):
    made = back_up(snapshot.path, tmp_path / "b", realm="r1", now=NOW)

    assert read_backup(tmp_path / "b")[0] == made
    assert len(made.checksum) == 64


def test_a_backup_is_one_file_for_its_owner_only(backup, tmp_path):
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert {one.name for one in tmp_path.iterdir()} - {"w1.db", "w1.db-wal", "w1.db-shm"} == {"roll.backup"}


def test_a_backup_of_an_empty_roll_is_one(tmp_path):
    Snapshot.open(tmp_path / "new.db", now=NOW).close()

    back_up(tmp_path / "new.db", tmp_path / "b", realm="r1", now=NOW)

    assert read_backup(tmp_path / "b")[1] == []


def test_a_backup_is_a_snapshot_like_any_other(backup):
    copy = Snapshot.open(backup, now=NOW)

    assert copy.set_aside is None
    assert [kept.place.record.id for kept in copy.load() if not kept.place.gone] == ["a", "b"]
    assert [change.revision for change in copy.history("a", 10)] == [1, 5]
    copy.close()


def test_what_is_not_committed_is_not_in_it_and_what_is_committed_is(snapshot, tmp_path):
    snapshot.apply(prepared([folded(6, "c")]))
    with sqlite3.connect(snapshot.path) as writer:
        writer.execute("DELETE FROM agents")
        made = back_up(snapshot.path, tmp_path / "b", realm="r1", now=NOW)
        writer.rollback()

    assert made.about.revision == 6
    assert [place.record.id for place in read_backup(tmp_path / "b")[1]] == ["b", "a", "c"]


def test_a_second_backup_takes_the_place_of_the_first(snapshot, backup):
    snapshot.apply(prepared([folded(6, "c")]))

    back_up(snapshot.path, backup, realm="r1", now=NOW)

    assert read_backup(backup)[0].about.revision == 6


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + b"x" * 5000])
def test_a_backup_of_no_snapshot_leaves_the_one_that_there_is(backup, tmp_path, content):
    before = backup.read_bytes()
    (tmp_path / "none.db").write_bytes(content)

    with pytest.raises(REFUSED):
        back_up(tmp_path / "none.db", backup, realm="r1", now=NOW)

    assert backup.read_bytes() == before
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".roll")]


@pytest.mark.parametrize("way", ["itself", "link", "hard link", "detour"])
def test_a_snapshot_is_not_replaced_by_its_backup(snapshot, tmp_path, way):
    to = tmp_path / "link"
    match way:
        case "itself":
            to = snapshot.path
        case "link":
            to.symlink_to(snapshot.path)
        case "hard link":
            os.link(snapshot.path, to)
        case "detour":
            (tmp_path / "x").mkdir()
            to = tmp_path / "x" / ".." / snapshot.path.name
    before = snapshot.path.stat().st_ino

    with pytest.raises(Misconfigured):
        back_up(snapshot.path, to, realm="r1", now=NOW)

    assert snapshot.path.stat().st_ino == before


def flipped(data, offset, bit=0):
    return data[:offset] + bytes([data[offset] ^ (1 << bit)]) + data[offset + 1 :]


def test_any_flipped_byte_of_a_record_is_refused(backup, tmp_path):
    data, broken = backup.read_bytes(), tmp_path / "broken"
    texts = {one.data for one in HISTORY[:2]} | {HISTORY[4].data}
    offsets = []
    for text in texts:
        at = data.find(text)
        assert at >= 0
        while at >= 0:
            offsets += range(at, at + len(text), 3)
            at = data.find(text, at + 1)
    assert len(offsets) > 250

    for number, offset in enumerate(offsets):
        broken.write_bytes(flipped(data, offset, number % 8))
        with pytest.raises(Invalid) as refused:
            read_backup(broken)
        assert "nothing was restored" in refused.value.message


def test_whatever_byte_is_flipped_it_is_refused_or_nothing_is_different(backup, tmp_path):
    data, broken, whole_one = backup.read_bytes(), tmp_path / "broken", read_backup(backup)
    chance = random.Random(7)

    refused = 0
    for offset in [*range(0, 100, 3), *(chance.randrange(len(data)) for _ in range(250))]:
        broken.write_bytes(flipped(data, offset, chance.randrange(8)))
        try:
            assert read_backup(broken) == whole_one, offset
        except REFUSED:
            refused += 1

    assert refused > 10


def test_a_truncated_backup_is_refused_or_nothing_is_missing(backup, tmp_path):
    data, broken, whole_one = backup.read_bytes(), tmp_path / "broken", read_backup(backup)

    for share in range(100):
        broken.write_bytes(data[: len(data) * share // 100])
        try:
            told = read_backup(broken)
        except Invalid:
            continue
        # What was cut off is a page that nobody uses.
        assert share > 80
        assert told == whole_one


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 4096, b"SQLite format 3\0" + b"x" * 5000])
def test_what_is_no_database_is_refused(tmp_path, content):
    (tmp_path / "b").write_bytes(content)

    with pytest.raises(Invalid) as error:
        read_backup(tmp_path / "b")

    assert str(tmp_path / "b") in error.value.message


def test_a_file_that_is_not_there_and_a_directory_are_refused(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(Misconfigured):
            read_backup(path)


def test_a_snapshot_that_nobody_backed_up_is_no_backup(snapshot):
    with pytest.raises(Invalid) as error:
        read_backup(snapshot.path)

    assert "rollcall backup" in error.value.message


def test_a_backup_of_a_newer_rollcall_is_refused_as_such(backup):
    with sqlite3.connect(backup) as file:
        file.execute(f"PRAGMA user_version = {VERSION + 1}")

    with pytest.raises(Misconfigured) as error:
        read_backup(backup)

    assert "upgrade rollcall" in error.value.message


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE agents SET revision = 3 WHERE id = 'a'",
        "UPDATE agents SET kind = 'updated' WHERE id = 'b'",
        "UPDATE agents SET last_seen = 1",
        "DELETE FROM agents WHERE id = 'b'",
        "DELETE FROM changes WHERE revision = 1",
        "DELETE FROM tombstones",
        "UPDATE tombstones SET at = at + 1",
        "DELETE FROM states",
        "INSERT INTO bases (epoch, id) VALUES ('x', 'y')",
        "INSERT INTO capabilities (capability, id) VALUES ('fly', 'a')",
        "INSERT INTO nonces (user, nonce) VALUES ('u', 'n')",
        "UPDATE meta SET value = '4' WHERE name = 'revision'",
        "UPDATE meta SET value = replace(value, 'r1', 'r2') WHERE name = 'backup about'",
        "DELETE FROM meta WHERE name = 'backup about'",
        "DELETE FROM meta WHERE name = 'backup checksum'",
        "DROP TABLE changes",
        "DROP TABLE meta",
    ],
)
def test_rows_that_are_not_what_was_written_are_refused(backup, change):
    with sqlite3.connect(backup) as file:
        file.execute(change)

    with pytest.raises(Invalid):
        read_backup(backup)
