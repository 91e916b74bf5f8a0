"""houmao, sections 1, 4 and 5: who may publish, in which order, and what each step of a life makes of a record."""

import json
from datetime import timedelta

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from rollcall import Invalid, RollcallError
from rollcall.faces.files.houmao import publish as module
from rollcall.faces.files.houmao.directory import Directory
from rollcall.faces.files.houmao.forms import external, local, written
from rollcall.faces.files.houmao.ownership import (
    active,
    check_lease,
    conflict,
    fresh,
    relaunched,
    renewed,
    retired,
    stopped,
)
from rollcall.faces.files.houmao.publish import publish, publish_external, withdraw
from tests.contract.houmao import (
    GATEWAY,
    LIVE,
    NOW,
    OVER,
    STALWART,
    STATES,
    Document,
    ago,
    ahead,
    at,
    document,
    foreign,
    stamp,
    text,
    with_,
)

SECOND = timedelta(seconds=1)
EXPIRED = with_(document(until=ago(seconds=1)), "liveness.published_at", ago(hours=2))
EXPIRED_RELAUNCHING = with_(EXPIRED, "lifecycle.state", "relaunching")
JUST = document(until=stamp(NOW))
"""Its lease ends right now."""


def held(of: Document) -> Document:
    """What is stored under another generation."""
    return with_(of, "generation_id", "gen-0")


# --- leases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "is_fresh"),
    [(document(), True), (JUST, True), (EXPIRED, False), (document("stopped"), False), (document("retired"), False)],
)
def test_a_lease_is_fresh_to_its_last_moment(record, is_fresh):
    assert fresh(local(record), NOW) is is_fresh


@pytest.mark.parametrize("record", [document(), document("relaunching")])
def test_a_lease_that_ended_before_is_not_fresh(record):
    end = NOW + timedelta(hours=24)

    assert fresh(local(record), end)
    assert not fresh(local(record), end + timedelta(microseconds=1))


@pytest.mark.parametrize(
    ("record", "is_active"),
    [(document(), True), (document("relaunching"), False), (document("stopped"), False), (EXPIRED, False)],
)
def test_an_agent_is_active_by_its_state_and_its_lease(record, is_active):
    assert active(local(record), NOW) is is_active


@pytest.mark.parametrize("record", [EXPIRED, EXPIRED_RELAUNCHING])
def test_a_life_whose_lease_is_over_is_not_published(record):
    with pytest.raises(Invalid) as refused:
        check_lease(local(record), NOW)

    assert refused.value.message == "Refusing to publish an active record with an expired lease."


@pytest.mark.parametrize("record", [JUST, *map(document, STATES)])
def test_a_record_that_is_fresh_or_over_is_published(record):
    check_lease(local(record), NOW)


# --- conflicts --------------------------------------------------------------------------------------------------------


def text_of_conflict(when: str) -> str:
    return (
        f"Shared-registry ownership conflict for agent_id `gpu-1` {when}: active generation `gen-0` already owns that"
        " logical identity, so generation `gen-1` must stand down."
    )


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("stored", [document(), JUST], ids=["fresh", "just fresh"])
def test_an_active_generation_wins_over_whatever_another_publishes(stored, state):
    stored, record = local(held(stored)), local(document(state))

    assert conflict(stored, record, NOW) == text_of_conflict("before publish")
    assert conflict(stored, record, NOW, "after publish verification") == text_of_conflict("after publish verification")


FREE = {
    "nothing": None,
    "relaunching": held(document("relaunching")),
    "stopped": held(document("stopped")),
    "retired": held(document("retired")),
    "expired": held(EXPIRED),
    "the same generation": document(),
    "the same generation, expired": EXPIRED,
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("stored", FREE.values(), ids=FREE)
def test_any_other_place_is_free(stored, state):
    assert conflict(None if stored is None else local(stored), local(document(state)), NOW) == ""


# --- the steps of a life ----------------------------------------------------------------------------------------------


LATER = NOW + timedelta(minutes=5)
BUSY = local(document(gateway=GATEWAY, mailbox=STALWART))


def told(record: object) -> Document:
    return json.loads(written(record))


def changes(before: object, after: object) -> Document:
    """Which members differ, and how they are now."""
    return {name: value for name, value in told(after).items() if told(before)[name] != value}


def test_a_stopped_agent_keeps_what_it_needs_to_be_started_again():
    assert changes(BUSY, stopped(BUSY, LATER)) == {
        "lifecycle": {
            "state": "stopped",
            "relaunchable": True,
            "state_updated_at": stamp(LATER),
            "stopped_at": stamp(LATER),
            "stop_reason": "operator_stop",
        },
        "terminal": {"kind": "tmux", "current_session_name": None, "last_session_name": "gpu-1777888800000"},
        "liveness": None,
        "gateway": None,
    }


@pytest.mark.parametrize("flag", [True, False])
def test_a_stop_keeps_whether_the_agent_can_be_started_again(flag):
    record = local(with_(document(), "lifecycle.relaunchable", flag))

    assert told(stopped(record, LATER))["lifecycle"]["relaunchable"] is flag


def test_a_stop_may_have_another_reason():
    assert told(stopped(BUSY, LATER, "out_of_memory"))["lifecycle"]["stop_reason"] == "out_of_memory"


def test_the_last_session_of_a_stopped_agent_is_the_one_it_ran_in():
    record = local(with_(document(session="now"), "terminal.last_session_name", "before"))

    assert told(stopped(record, LATER))["terminal"]["last_session_name"] == "now"


@pytest.mark.parametrize("state", LIVE)
def test_a_retired_agent_is_never_started_again(state):
    record = local(document(state))

    after = told(retired(record, LATER))

    assert after["lifecycle"] == {
        "state": "retired",
        "relaunchable": False,
        "state_updated_at": stamp(LATER),
        "stopped_at": stamp(LATER),
        "stop_reason": "cleanup_session",
    }
    assert after["generation_id"] == "gen-1"
    assert (after["liveness"], after["gateway"], after["terminal"]["current_session_name"]) == (None, None, None)


def test_who_was_stopped_before_keeps_when_and_why_once_it_is_retired():
    lifecycle = told(retired(local(document("stopped")), LATER))["lifecycle"]

    assert (lifecycle["stopped_at"], lifecycle["stop_reason"]) == (ago(hours=1), "operator_stop")
    assert (lifecycle["state"], lifecycle["state_updated_at"]) == ("retired", stamp(LATER))


def test_who_was_stopped_without_a_reason_is_retired_with_one():
    record = local(with_(document("stopped"), "lifecycle.stop_reason", None))

    assert told(retired(record, LATER))["lifecycle"]["stop_reason"] == "cleanup_session"


def test_a_relaunch_is_a_new_generation():
    before = local(document("stopped", mailbox=STALWART))

    after = relaunched(before, LATER, "gen-2", "gpu-1777889100000")

    assert changes(before, after) == {
        "generation_id": "gen-2",
        "lifecycle": {
            "state": "active",
            "relaunchable": True,
            "state_updated_at": stamp(LATER),
            "stopped_at": None,
            "stop_reason": None,
        },
        "terminal": {
            "kind": "tmux",
            "current_session_name": "gpu-1777889100000",
            "last_session_name": "gpu-1777889100000",
        },
        "liveness": {
            "published_at": stamp(LATER),
            "lease_expires_at": stamp(LATER + timedelta(hours=24)),
        },
    }


def test_a_relaunch_without_a_session_runs_in_the_last_one_and_may_have_another_lease():
    after = told(relaunched(local(document("stopped")), LATER, "gen-2", lease=timedelta(minutes=1)))

    assert after["terminal"]["current_session_name"] == "gpu-1777888800000"
    assert after["liveness"]["lease_expires_at"] == stamp(LATER + timedelta(minutes=1))


def test_a_lease_is_renewed():
    until = NOW + timedelta(hours=25)

    assert changes(BUSY, renewed(BUSY, LATER, until)) == {
        "liveness": {"published_at": stamp(LATER), "lease_expires_at": stamp(until)}
    }


@pytest.mark.parametrize("until", [NOW, NOW + timedelta(hours=24)])
def test_a_lease_is_never_made_shorter(until):
    assert renewed(BUSY, LATER, until) == BUSY


@pytest.mark.parametrize("state", OVER)
def test_who_is_over_has_no_lease_to_renew(state):
    record = local(document(state))

    assert renewed(record, LATER, NOW + timedelta(days=9)) == record


@given(st.lists(st.sampled_from([stopped, retired]), max_size=4), st.sampled_from(STATES))
def test_no_step_makes_a_record_that_is_refused(steps, state):
    record = local(document(state))
    for step in steps:
        record = step(record, LATER)
        assert local(told(record)) == record
        assert step(record, LATER) == record


# --- publishing -------------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path):
    return Directory(tmp_path / "registry")


def stored(registry: Directory, id: str = "gpu-1") -> bytes | None:
    return registry.read(Directory.LOCAL, id)


@pytest.mark.parametrize("state", STATES)
def test_a_record_is_published(registry, state):
    assert publish(registry, local(document(state)), NOW) is True
    assert stored(registry) == text(document(state))


def test_what_stands_there_already_is_not_written_again(registry):
    publish(registry, local(document()), NOW)
    before = (registry.root / "live_agents/gpu-1/record.json").stat()

    assert publish(registry, local(document()), NOW) is False
    after = (registry.root / "live_agents/gpu-1/record.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("before", [one for one in FREE.values() if one is not None], ids=list(FREE)[1:])
@pytest.mark.parametrize("state", STATES)
def test_a_free_place_is_taken(registry, before, state):
    registry.write(Directory.LOCAL, "gpu-1", text(before))

    publish(registry, local(document(state, mailbox=STALWART)), NOW)

    assert stored(registry) == text(document(state, mailbox=STALWART))


@pytest.mark.parametrize("state", STATES)
def test_whoever_must_stand_down_leaves_the_record_of_the_other_byte_for_byte(registry, state):
    other = text(held(document())).replace(b"\n", b"\r\n")
    registry.write(Directory.LOCAL, "gpu-1", other)

    with pytest.raises(RollcallError) as refused:
        publish(registry, local(document(state)), NOW)

    assert refused.value.message.startswith(text_of_conflict("before publish"))
    assert stored(registry) == other
    assert names(registry) == ["live_agents/gpu-1/record.json"]


BAD = {
    "a lease that is over": (EXPIRED, "Refusing to publish an active record with an expired lease."),
    "a secret": (
        with_(document(), "runtime.session_root", "http://ada:lovelace1815@host/"),
        "$.runtime.session_root",
    ),
}


@pytest.mark.parametrize(("record", "said"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("before", [document(), None], ids=["a refresh", "a first"])
def test_a_bad_publish_changes_nothing(registry, record, said, before):
    if before is not None:
        registry.write(Directory.LOCAL, "gpu-1", text(before))
    files = names(registry)

    with pytest.raises(Invalid) as refused:
        publish(registry, local(record), NOW)

    assert said in refused.value.message
    assert names(registry) == files
    assert stored(registry) == (text(before) if before is not None else None)
    assert registry.root.exists() is (before is not None)


def names(registry: Directory) -> list[str]:
    """Every file, and no directory made in vain."""
    return sorted(
        str(path.relative_to(registry.root))
        for path in registry.root.rglob("*")
        if path.is_file() or not any(path.iterdir())
    )


def test_the_lease_is_checked_before_the_owner(registry):
    registry.write(Directory.LOCAL, "gpu-1", text(held(document())))

    with pytest.raises(RollcallError, match="expired lease"):
        publish(registry, local(EXPIRED), NOW)


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"\xff\xfe", text(document(agent_name="")), text({})])
def test_a_record_that_cannot_be_read_gives_way_with_a_warning(registry, junk):
    registry.write(Directory.LOCAL, "gpu-1", junk)

    with structlog.testing.capture_logs() as logs:
        publish(registry, local(document()), NOW)

    assert stored(registry) == text(document())
    assert [one["log_level"] for one in logs] == ["warning"]


@pytest.mark.parametrize("place", ["live_agents", "live_agents/gpu-1", "live_agents/gpu-1/record.json"])
def test_a_link_in_the_way_is_replaced(registry, tmp_path, place):
    (tmp_path / "elsewhere").mkdir()
    link = registry.root / place
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere")

    publish(registry, local(document()), NOW)

    assert stored(registry) == text(document())
    assert not link.is_symlink()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_id_with_a_new_name_is_a_warning(registry):
    publish(registry, local(document(name="old")), NOW)

    with structlog.testing.capture_logs() as logs:
        publish(registry, local(document(name="new")), NOW)

    assert [(one["log_level"], one["event"]) for one in logs] == [
        (
            "warning",
            "authoritative agent_id `gpu-1` is being reused with canonical agent name `new` after previously publishing"
            " `old`",
        )
    ]


def test_one_name_may_be_of_several_ids(registry):
    for id in ("gpu-1", "gpu-2"):
        publish(registry, local(document(id=id)), NOW)

    assert registry.ids(Directory.LOCAL) == ["gpu-1", "gpu-2"]


class Snatched(Directory):
    """Whatever is written there, another has its own in the same moment."""

    other: bytes | None = None

    def write(self, kind: str, id: str, data: bytes) -> None:
        super().write(kind, id, data)
        if self.other is None:
            super().remove(kind, id)
        else:
            super().write(kind, id, self.other)


def test_whoever_loses_the_place_while_publishing_stands_down(tmp_path):
    registry = Snatched(tmp_path)
    registry.other = text(held(document()))

    with pytest.raises(RollcallError) as refused:
        publish(registry, local(document()), NOW)

    assert refused.value.message.startswith(text_of_conflict("after publish verification"))
    assert stored(registry) == registry.other


def test_a_record_that_is_gone_after_the_write_is_told(tmp_path):
    registry = Snatched(tmp_path)

    with pytest.raises(RollcallError) as refused:
        publish(registry, local(document()), NOW)
    assert refused.value.message == "Registry publish verification failed for agent_id `gpu-1`."
    with pytest.raises(RollcallError) as refused:
        publish_external(registry, external(foreign(id="far-1")))
    assert refused.value.message == "External registry publish verification failed for external_agent_id `far-1`."


def test_the_schema_is_checked_before_anything_is_made(registry, monkeypatch):
    def refuse(_: object) -> bytes:
        raise Invalid("no")

    monkeypatch.setattr(module, "written", refuse)

    with pytest.raises(Invalid):
        publish(registry, local(document()), NOW)
    assert not registry.root.exists()


# --- external ---------------------------------------------------------------------------------------------------------


def test_an_external_record_is_published(registry):
    assert publish_external(registry, external(foreign(id="far-1"))) is True
    assert publish_external(registry, external(foreign(id="far-1"))) is False
    assert registry.read(Directory.EXTERNAL, "far-1") == text(foreign(id="far-1"))


def test_an_external_name_is_of_one_id(registry):
    publish_external(registry, external(foreign(id="far-1", name="far")))

    with pytest.raises(RollcallError) as refused:
        publish_external(registry, external(foreign(id="far-2", name="far")))

    assert refused.value.message == (
        "External managed-agent registry name conflict: local_name `far` is already owned by external_agent_id `far-1`."
    )
    assert registry.ids(Directory.EXTERNAL) == ["far-1"]


def test_an_external_record_with_a_secret_is_refused(registry):
    with pytest.raises(Invalid, match="remote_agent_ref"):
        publish_external(registry, external(foreign(remote_agent_ref="Bearer aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0z")))
    assert not registry.root.exists()


# --- taking away ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Directory.LOCAL, Directory.EXTERNAL])
def test_a_record_is_taken_away_by_its_generation_only(registry, kind):
    of = document if kind == Directory.LOCAL else foreign
    registry.write(kind, "gpu-1", text(of(id="gpu-1", generation="gen-1")))

    assert withdraw(registry, kind, "gpu-1", "gen-2") is False
    assert registry.ids(kind) == ["gpu-1"]
    assert withdraw(registry, kind, "gpu-1", "gen-1") is True
    assert registry.ids(kind) == []
    assert withdraw(registry, kind, "gpu-1", "gen-1") is False


@pytest.mark.parametrize("junk", [b"", b"{", b"\xff"])
def test_a_record_that_cannot_be_read_is_taken_away_by_anybody(registry, junk):
    registry.write(Directory.LOCAL, "gpu-1", junk)

    assert withdraw(registry, Directory.LOCAL, "gpu-1", "gen-1") is True
    assert registry.ids(Directory.LOCAL) == []


def test_a_lease_of_a_day_is_the_usual_one():
    lease = at(told(relaunched(local(document("stopped")), NOW, "g")), "liveness.lease_expires_at")

    assert lease == ahead(days=1)
