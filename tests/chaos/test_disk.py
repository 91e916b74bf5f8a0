"""The disk of a snapshot is full, or its file is torn: the worker says so, and what was acknowledged is not lost."""

import contextlib
import random
import re
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rollcall
from tests.chaos.figures import Stopwatch, record
from tests.chaos.load import Load
from tests.chaos.recorder import Recorder
from tests.chaos.rig import Rig, leader
from tests.conftest import eventually

PAGE = 4096


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_leader_whose_disk_is_full_says_so_and_another_goes_on(rig: Rig, small_disk: Path):
    recorder = Recorder(rig)
    full = await rig.worker("w1", data=small_disk)
    async with rig.registry() as registry, recorder.watching() as watch:
        assert await leader(registry) == "w1"
        await rig.worker("w2")
        load = Load(registry, recorder, ids=40)
        async with load.running():
            await eventually(lambda: "disk is full" in full.said(), within=30, what="the word that the disk is full")
            began = Stopwatch()
            await eventually(lambda: _leads(registry, "w2"), within=10, what="another leader")
            await load.right_again()
            took = began.seconds
            await load.more(500)

        assert took < 5
        assert await leader(registry) == "w2"
        await recorder.check(watch)
    assert "Traceback" not in full.said()
    record("disk full for the snapshot", "3 MiB under load, a second worker", right_after=took)


async def _leads(registry: rollcall.Registry, name: str) -> bool:
    return (await registry.info())["leader"] == name


def truncated(db: Path, wal: Path) -> None:
    db.write_bytes(db.read_bytes()[: db.stat().st_size // 2 + 100])
    wal.unlink(missing_ok=True)


def empty(db: Path, wal: Path) -> None:
    db.write_bytes(b"")
    wal.unlink(missing_ok=True)


def no_database(db: Path, wal: Path) -> None:
    db.write_bytes(b"\0" * db.stat().st_size)
    wal.unlink(missing_ok=True)


def header_flipped(db: Path, wal: Path) -> None:
    _flip(db, range(16, 100), 12)
    wal.unlink(missing_ok=True)


def pages_flipped(db: Path, wal: Path) -> None:
    for page in range(1, db.stat().st_size // PAGE):
        _flip(db, range(page * PAGE, page * PAGE + 60), 3)


def contents_flipped(db: Path, wal: Path) -> None:
    for page in range(1, db.stat().st_size // PAGE):
        _flip(db, range(page * PAGE + 2000, (page + 1) * PAGE), 5)


def records_changed(db: Path, wal: Path) -> None:
    """The file is right in every way that SQLite itself can see."""
    data = db.read_bytes()
    changed = re.sub(rb'"mark":"(\d)', lambda found: b'"mark":"%d' % (int(found[1]) % 9 + 1), data)
    assert changed != data
    db.write_bytes(changed)


def log_lost(db: Path, wal: Path) -> None:
    wal.unlink(missing_ok=True)


def log_torn(db: Path, wal: Path) -> None:
    wal.write_bytes(wal.read_bytes()[: wal.stat().st_size * 2 // 3])


def log_flipped(db: Path, wal: Path) -> None:
    _flip(wal, range(32, wal.stat().st_size), 20)


IN_FILE = (truncated, empty, no_database, header_flipped, pages_flipped, contents_flipped, records_changed)
IN_LOG = (log_lost, log_torn, log_flipped)


def _flip(path: Path, where: range, times: int) -> None:
    data, dice = bytearray(path.read_bytes()), random.Random(7)
    for _ in range(times):
        data[dice.choice(where)] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


@pytest.mark.parametrize("fault", IN_FILE + IN_LOG)
async def test_a_worker_whose_snapshot_is_torn_starts_and_holds_what_the_roll_holds(
    rig: Rig, fault: Callable[[Path, Path], None]
):
    recorder = Recorder(rig)
    worker = await rig.worker()
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        async with (load := Load(registry, recorder)).running():
            await load.more(700)
        worker.kill()
        db = rig.snapshot()
        wal = db.with_name(db.name + "-wal")
        if fault in IN_FILE:
            _checkpoint(db)
        assert max(part.stat().st_size for part in (db, wal) if part.exists()) > 100_000

        fault(db, wal)
        db.with_name(db.name + "-shm").unlink(missing_ok=True)
        began = Stopwatch()
        await rig.worker()
        took = began.seconds
        await registry.register("worker", "after", ttl=None, timeout=10)

        await recorder.check(watch)
    aside = [path.name for path in db.parent.iterdir() if ".corrupt-" in path.name and path.name[-4] != "-"]
    did = f"{fault.__name__.replace('_', ' ')}: {'kept beside, rebuilt from the roll' if aside else 'read as it was'}"
    record("torn or bit-flipped snapshot", did, right_after=took)


def _checkpoint(db: Path) -> None:
    """Moves the log into the file itself, as a worker that runs for long does now and then."""
    with contextlib.closing(sqlite3.connect(db)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
