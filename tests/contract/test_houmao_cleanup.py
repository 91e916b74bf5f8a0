"""houmao, section 7: which records are of no use any more, why, and that nothing else is taken away."""

import asyncio
import json
import os
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from rollcall import Registry
from rollcall.core import codec
from rollcall.faces.files.houmao import cleanup as module
from rollcall.faces.files.houmao.cleanup import Probe, clean, judged, tmux_sessions
from rollcall.faces.files.houmao.directory import Directory
from rollcall.faces.files.houmao.forms import local
from rollcall.faces.files.houmao.incoming import Incoming
from rollcall.faces.files.houmao.mapping import fields_of
from tests.conftest import eventually
from tests.contract.houmao import (
    FILESYSTEM,
    NOW,
    OVER,
    Document,
    Files,
    Json,
    ago,
    document,
    foreign,
    legacy,
    text,
    today,
    with_,
)
from tests.processes import rollcall

GRACE = timedelta(seconds=300)
SESSION = "gpu-1777888800000"
NO_PROBE = Probe(False)
HERE = Probe(True, frozenset({SESSION, "other"}))
ELSEWHERE = Probe(True, frozenset({"other"}))

TOP = "shared-registry live_agents root is a symlink"
ENTRY = "shared-registry entry is a symlink"
RECORD = "shared-registry record.json is a symlink"
MISSING = "shared-registry record.json is missing"
MALFORMED = "shared-registry record.json is malformed"
EXPIRED = "registry lease expired beyond the cleanup grace period"
NO_SESSION = "local tmux liveness probe found no owning session"
HAS_SESSION = "local tmux liveness probe confirmed the owning session"
FRESH = "lease remains fresh and local tmux checking was disabled"
VALID = "registry record remains valid"


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path / "registry")


def cleaned(files: Files, probe: Probe = NO_PROBE, *, grace: timedelta = GRACE, dry_run: bool = False) -> Document:
    directory = Directory(files.root)
    return clean(directory, judged(directory, NOW, grace, probe), grace, probe, dry_run=dry_run)


def reasons(told: Document) -> dict[str, tuple[str, str]]:
    """What became of each entry, and why."""
    names = {"planned": "planned", "applied": "removed", "blocked": "failed", "preserved": "preserved"}
    return {
        action["details"]["agent_id"]: (outcome, action["reason"])
        for name, outcome in names.items()
        for action in told[f"{name}_actions"]
    }


def ended(seconds: float, state: str = "active") -> Document:
    """A record whose lease ended so long ago."""
    return with_(document(state, until=ago(seconds=seconds)), "liveness.published_at", ago(hours=2))


# --- the table --------------------------------------------------------------------------------------------------------


RULES = {
    "active, nobody asks tmux": (document(), NO_PROBE, "preserved", FRESH),
    "relaunching, nobody asks tmux": (document("relaunching"), NO_PROBE, "preserved", FRESH),
    "its session lives": (document(), HERE, "preserved", HAS_SESSION),
    "its session is gone": (document(), ELSEWHERE, "removed", NO_SESSION),
    "no session at all": (document(), Probe(True, frozenset()), "removed", NO_SESSION),
    "relaunching, its session is gone": (document("relaunching"), ELSEWHERE, "removed", NO_SESSION),
    "tmux cannot be asked": (document(), Probe(True, None), "preserved", VALID),
    "the lease is over": (ended(301), NO_PROBE, "removed", EXPIRED),
    "the lease is over, its session lives": (ended(301), HERE, "removed", EXPIRED),
    "relaunching, the lease is over": (ended(301, "relaunching"), NO_PROBE, "removed", EXPIRED),
    "just within the grace, its session lives": (ended(300), HERE, "preserved", HAS_SESSION),
    "just within the grace, its session is gone": (ended(300), ELSEWHERE, "removed", NO_SESSION),
    "stopped": (document("stopped"), ELSEWHERE, "preserved", "lifecycle state `stopped` is durable"),
    "retired": (document("retired"), NO_PROBE, "preserved", "lifecycle state `retired` is durable"),
    "an old record": (legacy(), HERE, "preserved", HAS_SESSION),
}


@pytest.mark.parametrize(("of", "probe", "outcome", "reason"), RULES.values(), ids=RULES)
def test_what_becomes_of_a_record_and_why(files, of, probe, outcome, reason):
    files.put(of)

    told = cleaned(files, probe)

    assert reasons(told) == {"gpu-1": (outcome, reason)}
    assert files.path("gpu-1").parent.exists() is (outcome == "preserved")


@pytest.mark.parametrize(("of", "probe", "outcome", "reason"), RULES.values(), ids=RULES)
def test_a_dry_run_says_the_same_and_changes_nothing(files, of, probe, outcome, reason):
    files.put(of)
    state = files.state()

    told = cleaned(files, probe, dry_run=True)

    assert reasons(told) == {"gpu-1": ("planned" if outcome == "removed" else outcome, reason)}
    assert files.state() == state


@pytest.mark.parametrize(("seconds", "outcome"), [(0, "preserved"), (1, "removed")])
def test_a_grace_of_nothing(files, seconds, outcome):
    files.put(ended(seconds))

    assert reasons(cleaned(files, HERE, grace=timedelta(0)))["gpu-1"][0] == outcome


def test_who_beats_over_the_bus_needs_no_session_here(files):
    files.put(document())

    assert reasons(cleaned(files, Probe(True, frozenset(), {"gpu-1"}))) == {"gpu-1": ("preserved", VALID)}


# --- what is no record ------------------------------------------------------------------------------------------------


MALFORMEDS = {
    "empty": b"",
    "cut off": text(document())[:99],
    "not UTF-8": text(document()).replace(b"gpu", b"\xff"),
    "of another schema": text(document(schema_version=7)),
    "a list": b"[]",
    "with an unknown key": text(document(mood="good")),
    "without its liveness": text(document(liveness=None)),
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("data", MALFORMEDS.values(), ids=MALFORMEDS)
def test_a_malformed_record_is_removed(files, data):
    files.put_bytes("bad", data)

    assert reasons(cleaned(files, HERE)) == {"bad": ("removed", MALFORMED)}
    assert not files.path("bad").parent.exists()


@pytest.mark.parametrize("make", [None, os.mkdir, os.mkfifo], ids=["nothing", "directory", "pipe"])
def test_an_entry_without_a_record_is_removed(files, make):
    files.path("a").parent.mkdir(parents=True)
    (files.path("a").parent / "notes.txt").write_text("of a legacy key")
    if make is not None:
        make(files.path("a"))

    assert reasons(cleaned(files)) == {"a": ("removed", MISSING)}
    assert not files.path("a").parent.exists()


@pytest.fixture
def elsewhere(tmp_path):
    """A registry that is none of ours."""
    other = Files(tmp_path / "elsewhere")
    other.put(document())
    yield other
    assert other.read("gpu-1") == document()
    assert [path.name for path in (other.root / "live_agents").iterdir()] == ["gpu-1"]


def test_an_entry_that_is_a_link_is_removed_and_its_target_is_not(files, elsewhere):
    files.put(document("stopped", id="b"))
    files.path("a").parent.symlink_to(elsewhere.path("gpu-1").parent)

    assert reasons(cleaned(files))["a"] == ("removed", ENTRY)
    assert sorted(path.name for path in (files.root / "live_agents").iterdir()) == ["b"]


def test_an_entry_whose_record_is_a_link_is_removed_and_its_target_is_not(files, elsewhere):
    files.path("a").parent.mkdir(parents=True)
    files.path("a").symlink_to(elsewhere.path("gpu-1"))

    assert reasons(cleaned(files)) == {"a": ("removed", RECORD)}
    assert not files.path("a").parent.exists()


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_linked_directory_ends_the_pass(files, elsewhere, dry_run):
    files.root.mkdir()
    (files.root / "live_agents").symlink_to(elsewhere.root / "live_agents")

    told = cleaned(files, dry_run=dry_run)

    outcome = "planned" if dry_run else "removed"
    assert reasons(told) == {"live_agents": (outcome, TOP)}
    assert told[f"{outcome}_agent_ids"] == ["live_agents"]
    assert (files.root / "live_agents").is_symlink() is dry_run


def test_plain_files_are_skipped(files):
    files.put(document("stopped"))
    (files.root / "live_agents/index.json").write_text("{}")

    assert list(reasons(cleaned(files))) == ["gpu-1"]
    assert (files.root / "live_agents/index.json").exists()


def test_external_records_are_never_touched(files):
    files.put(foreign(id="far-1", created_at_utc=ago(days=900)))
    files.put_bytes("bad", b"{", "external_agents")
    state = files.state()

    assert reasons(cleaned(files, ELSEWHERE, grace=timedelta(0))) == {}
    assert files.state() == state


def test_no_directory_is_nothing_to_do(files):
    told = cleaned(files)

    assert (told["summary"]["removed_count"], told["preserved_agent_ids"]) == (0, [])
    assert not files.root.exists()


# --- what is told -----------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(files):
    """Some of each kind, not in order."""
    files.put(*(document(state, id=f"c-{state}") for state in OVER))
    files.put(with_(ended(999), "agent_id", "b-expired"), document(id="d-fresh", session="other"))
    files.put_bytes("a-bad", b"{")
    return files


def test_entries_are_told_in_order(mixed):
    told = cleaned(mixed)

    assert told["removed_agent_ids"] == ["a-bad", "b-expired"]
    assert told["preserved_agent_ids"] == ["c-retired", "c-stopped", "d-fresh"]


def test_the_whole_answer(mixed):
    root = str(mixed.root)

    def action(id: str, what: str, reason: str) -> Json:
        return {
            "artifact_kind": "registry_live_agent_record",
            "path": f"{root}/live_agents/{id}",
            "proposed_action": what,
            "reason": reason,
            "details": {"agent_id": id},
        }

    assert cleaned(mixed, grace=timedelta(seconds=60)) == {
        "dry_run": False,
        "scope": {"kind": "registry_cleanup", "registry_root": root, "grace_seconds": 60},
        "resolution": {"authority": "registry_root", "probe_local_tmux": False},
        "planned_actions": [],
        "applied_actions": [action("a-bad", "remove", MALFORMED), action("b-expired", "remove", EXPIRED)],
        "blocked_actions": [],
        "preserved_actions": [
            action("c-retired", "preserve", "lifecycle state `retired` is durable"),
            action("c-stopped", "preserve", "lifecycle state `stopped` is durable"),
            action("d-fresh", "preserve", FRESH),
        ],
        "summary": {
            "planned_count": 0,
            "applied_count": 2,
            "blocked_count": 0,
            "preserved_count": 3,
            "removed_count": 2,
            "failed_count": 0,
        },
        "registry_root": root,
        "removed_agent_ids": ["a-bad", "b-expired"],
        "planned_agent_ids": [],
        "preserved_agent_ids": ["c-retired", "c-stopped", "d-fresh"],
        "failed_agent_ids": [],
        "grace_seconds": 60,
        "probe_local_tmux": False,
    }


def test_the_answer_of_a_dry_run(mixed):
    told = cleaned(mixed, HERE, dry_run=True)

    assert told["dry_run"] is True
    assert told["resolution"] == {"authority": "registry_root", "probe_local_tmux": True}
    assert told["planned_agent_ids"] == ["a-bad", "b-expired"]
    assert [one["proposed_action"] for one in told["planned_actions"]] == ["remove", "remove"]
    assert told["summary"] == {
        "planned_count": 2,
        "applied_count": 0,
        "blocked_count": 0,
        "preserved_count": 3,
        "removed_count": 0,
        "failed_count": 0,
    }


def test_what_cannot_be_removed_is_told_and_the_pass_goes_on(mixed, monkeypatch):
    real = Directory.remove

    def remove(self: Directory, kind: str, id: str) -> bool:
        if id == "a-bad":
            raise PermissionError(1, "Operation not permitted")
        return real(self, kind, id)

    monkeypatch.setattr(Directory, "remove", remove)

    told = cleaned(mixed)

    assert reasons(told)["a-bad"] == ("failed", f"{MALFORMED}; removal failed: [Errno 1] Operation not permitted")
    assert told["removed_agent_ids"] == ["b-expired"]
    assert told["failed_agent_ids"] == ["a-bad"]
    assert (told["summary"]["failed_count"], told["summary"]["blocked_count"]) == (1, 1)
    assert mixed.path("a-bad").exists()


# --- tmux -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tmux(tmp_path, monkeypatch):
    """A tmux that says what it is told to say."""

    def says(script: str) -> None:
        program = tmp_path / "bin/tmux"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return says


@pytest.mark.parametrize(
    ("script", "sessions"),
    {
        "printf 'a-1\\nwith space\\n'": {"a-1", "with space"},
        "echo 'no server running on /tmp/tmux-0/default' >&2; exit 1": set(),
        "echo 'error connecting to /tmp/tmux-0/default (No such file or directory)' >&2; exit 1": set(),
        "echo 'error connecting to /tmp/tmux-0/default (Permission denied)' >&2; exit 1": None,
        "echo 'permission denied' >&2; exit 1": None,
        "exit 127": None,
    }.items(),
)
def test_which_sessions_there_are(tmux, script, sessions):
    tmux(script)

    assert tmux_sessions() == (None if sessions is None else frozenset(sessions))


def test_where_there_is_no_tmux_nobody_is_taken_for_dead(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert tmux_sessions() is None


def test_a_tmux_that_hangs_is_not_waited_for(tmux, monkeypatch):
    tmux("exec sleep 20")
    monkeypatch.setattr(module, "ASK_WITHIN", 0.05)

    assert tmux_sessions() is None


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(bus, tmp_path, tmux):
    """`rollcall cleanup` in a realm of its own, with a tmux of its own."""

    tmux("printf 'other\\n'")

    async def run(*arguments: str) -> tuple[int, Json]:
        env = {**os.environ, "ROLLCALL_NATS": bus.url, "ROLLCALL_REALM": bus.realm, "COLUMNS": "200"}
        command = ("cleanup", "--root", str(tmp_path / "registry"), "--json", *arguments)
        done = await asyncio.to_thread(rollcall, *command, env=env)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout.startswith("{") else done.stderr

    return run


async def test_the_command_cleans_up_directory_and_roll(bus, run, mixed):
    mixed.put(today(document(id="d-fresh", session="other")), today(document(id="e-dead", session="gone")))
    async with bus.served() as core:
        await core.register("w", "retired-long-ago", status="retired", ttl=None)
        await core.register("w", "stopped", status="stopped", ttl=None)
        await core.register("w", "live")

        planned_code, planned = await run("--dry-run", "--grace-seconds", "0")
        code, told = await run("--grace-seconds", "0")

        assert (planned_code, code) == (0, 0)
        assert planned["planned_agent_ids"] == told["removed_agent_ids"] == ["a-bad", "b-expired", "e-dead"]
        assert [one["id"] for one in planned["roll"]["planned"]] == ["retired-long-ago"]
        assert [one["id"] for one in told["roll"]["removed"]] == ["retired-long-ago"]
        assert isinstance(told["roll"]["tombstones"], int)
        assert sorted(entry.id for entry in await core.list()) == ["live", "stopped"]
    assert mixed.read("e-dead") is None
    assert mixed.read("d-fresh") is not None


async def test_the_command_takes_an_agent_off_the_roll_with_its_record(bus, run, mixed):
    dead, other = (today(document(id=id, session="gone")) for id in ("e-dead", "f-other"))
    mixed.put(dead, other)
    async with bus.served() as core:
        await Incoming(core, mixed.root).take_in()
        # The roll knows a later generation of this one already.
        await core.deregister("claude", "f-other")
        fields = fields_of(local(other | {"generation_id": "gen-2"}), None, datetime.now(UTC))
        await core.announce(codec.as_profile(fields), "claim")

        _, planned = await run("--dry-run")
        _, told = await run()

        for outcome, said in (("planned", planned), ("removed", told)):
            assert {one["id"]: one["reason"] for one in said["roll"][outcome]} == {"e-dead": NO_SESSION}
        left = {entry.id for entry in await core.list()}
        assert "e-dead" not in left
        assert "f-other" in left
    assert mixed.read("e-dead") is None


async def test_the_command_leaves_who_beats_over_the_bus(bus, run, mixed):
    mixed.put(today(document(id="e-far", session="on another host")))
    async with bus.served() as core:
        await Incoming(core, mixed.root).take_in()
        await core.heartbeat("claude", "e-far")
        await eventually(lambda: beats(core), what="heard")

        _, told = await run()

        assert reasons(told)["e-far"] == ("preserved", VALID)
        assert "e-far" in {entry.id for entry in await core.list()}


async def beats(core: Registry) -> bool:
    entry = await core.get("e-far")
    return (entry.last_seen or "") > entry.updated_at


async def test_the_command_without_tmux(bus, run, mixed):
    mixed.put(today(document(id="e-dead", session="gone")))
    async with bus.served():
        code, told = await run("--no-tmux-check")

    assert code == 0
    assert told["probe_local_tmux"] is False
    assert reasons(told)["e-dead"] == ("preserved", FRESH)
    assert told["grace_seconds"] == 300


async def test_the_directory_is_cleaned_up_while_the_roll_cannot_be_asked(bus, run, mixed):
    code, told = await run("--no-tmux-check", "--nats", "nats://127.0.0.1:1")

    assert code == 5
    # What was fresh in May is not any more.
    assert told["removed_agent_ids"] == ["a-bad", "b-expired", "d-fresh"]
    assert "error" in told["roll"]


async def test_a_grace_below_nothing_is_refused(run):
    assert (await run("--grace-seconds", "-1"))[0] == 2


async def test_the_command_finds_its_directory_by_the_environment(bus, mixed, tmp_path):
    shutil.copytree(mixed.root, tmp_path / "moved")
    async with bus.served():
        env = {**os.environ, "ROLLCALL_NATS": bus.url, "ROLLCALL_REALM": bus.realm, "COLUMNS": "200"}
        named = {"HOUMAO_GLOBAL_REGISTRY_DIR": str(tmp_path / "moved")}
        done = await asyncio.to_thread(rollcall, "cleanup", "--json", "--dry-run", env={**env, **named})
        wrong = {**env, "HOUMAO_GLOBAL_REGISTRY_DIR": "moved"}
        relative = await asyncio.to_thread(rollcall, "cleanup", "--dry-run", env=wrong)

    assert json.loads(done.stdout)["registry_root"] == str(tmp_path / "moved")
    assert relative.returncode == 6
    assert "`HOUMAO_GLOBAL_REGISTRY_DIR` must be an absolute path." in relative.stderr


def test_an_ordinary_mailbox_is_no_reason_to_remove(files):
    files.put(document("stopped", mailbox=FILESYSTEM))

    assert cleaned(files)["preserved_agent_ids"] == ["gpu-1"]
