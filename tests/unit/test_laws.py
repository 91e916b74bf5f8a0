"""Laws of the house that a reader could break without a test noticing."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rollcall
from rollcall.core import codec
from rollcall.core.leases import Leases
from rollcall.core.liveness import observation
from rollcall.core.records import Beat, Entry, Record
from rollcall.store import schema
from rollcall.store.snapshot import Snapshot

ROOT = Path(__file__).parents[2]
SLOW = {
    "rollcall.faces.files",
    "rollcall.faces.files.houmao",
    "rollcall.faces.http.mindx.routes",
    "rollcall.faces.http.metrics",
    "rollcall.faces.http.server",
    "rollcall.policy.court",
    "rollcall.sdk.vers",
}
"""Loaded where they are used: see docs/decisions/0026."""

SOURCES = sorted((ROOT / "src").rglob("*.py"))


@pytest.mark.parametrize("path", sorted((ROOT / "src/rollcall/core").glob("*.py")), ids=lambda path: path.name)
def test_the_core_reads_no_clock(path):
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}

    assert not {call for call in calls if re.search(r"\b(now|today|utcnow|time|monotonic|perf_counter)$", call)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_every_file_opens_with_a_sentence_and_imports_only_on_top(path):
    tree = ast.parse(path.read_text())

    assert ast.get_docstring(tree)
    inside = [
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert {node.module for node in inside if isinstance(node, ast.ImportFrom)} <= SLOW
    assert all(isinstance(node, ast.ImportFrom) for node in inside)


def test_imports_only_go_down():
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_what_is_observed_are_fields_of_an_entry_and_of_nothing_else():
    record = Record(id="a", role="w", name="x", registered_at="", updated_at="")
    lease = Leases().grant("w.a", record, 0.0)
    lease.seen_at, lease.stuck_for, lease.beat = 5, 9.0, Beat(cpu_percent=1.0)

    seen = observation(record, lease, revision=1, now=1000.0, wall=5)

    assert seen.keys() <= set(Entry.__struct_fields__) - set(Record.__struct_fields__)
    assert codec.decode(codec.splice(codec.encode_record(record), seen), Entry).missed_beats > 0


def test_the_public_face_is_sorted_and_true():
    assert sorted(rollcall.__all__, key=str) == rollcall.__all__
    assert all(hasattr(rollcall, name) for name in rollcall.__all__)


def test_an_older_snapshot_becomes_a_newer_one_without_loss(tmp_path):
    Snapshot.open(tmp_path / "s.db", now=1).close()
    again = Snapshot.open(tmp_path / "s.db", now=2)
    try:
        assert again.set_aside is None
        assert again._connection.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION
    finally:
        again.close()
