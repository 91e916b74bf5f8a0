"""houmao, section 10: a record becomes an agent of the roll and comes back letter for letter."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollcall import Entry, Invalid
from rollcall.core import codec
from rollcall.core.patch import patched
from rollcall.faces.files.houmao.forms import external, local, written
from rollcall.faces.files.houmao.mapping import (
    Inexpressible,
    express,
    express_external,
    external_fields,
    fields_of,
    patch_of,
)
from rollcall.faces.files.houmao.record import LocalRecord
from tests.contract.houmao import (
    FOREIGNS,
    GATEWAY,
    LIVE,
    NOW,
    OVER,
    RECORDS,
    STALWART,
    STATES,
    Document,
    Json,
    ago,
    ahead,
    at,
    document,
    entry_of,
    foreign,
    stamp,
    text,
    with_,
)

FRESH = {name: of for name, of in RECORDS.items() if name != "a lease that is over"}


def entered(of: Document, **more: Json) -> Entry:
    """A record as an agent of the roll."""
    record = local(of)
    until = {"expires_at": record.liveness.lease_expires_at} if record.liveness is not None else {}
    return entry_of(fields_of(record, None, NOW), **{**until, **more})


def expressed(entry: Entry, now: datetime = NOW) -> Document:
    return json.loads(written(express(entry, now)))


def why(entry: Entry) -> str:
    """Why an agent cannot be expressed."""
    with pytest.raises(Inexpressible) as refused:
        express(entry, NOW)
    assert isinstance(refused.value, Invalid)
    return refused.value.message


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", FRESH.values(), ids=FRESH)
def test_a_record_comes_back_letter_for_letter(of):
    assert expressed(entered(of)) == of
    assert written(express(entered(of), NOW)) == text(of)


@pytest.mark.parametrize("of", FRESH.values(), ids=FRESH)
def test_a_record_comes_back_over_the_wire(of):
    there = codec.encode(entered(of))

    assert written(express(codec.decode(there, Entry), NOW)) == text(of)


@pytest.mark.parametrize("of", FRESH.values(), ids=FRESH)
def test_a_record_comes_back_after_an_update_by_merge_patch(of):
    before = entered(with_(document("stopped", mailbox=STALWART), "agent_id", of["agent_id"]))
    patch = patch_of(local(of), before, NOW)

    after = entry_of(patched(codec.members(before), patch))

    assert expressed(after) == of


@pytest.mark.parametrize("of", FOREIGNS.values(), ids=FOREIGNS)
def test_an_external_record_comes_back_letter_for_letter(of):
    entry = entry_of(external_fields(external(of)))

    assert written(express_external(entry)) == text(of)
    assert written(express_external(codec.decode(codec.encode(entry), Entry))) == text(of)


@given(
    data=st.data(),
    state=st.sampled_from(STATES),
    name=st.from_regex("[A-Za-z0-9][A-Za-z0-9_-]{0,40}", fullmatch=True),
    path=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40).filter(str.strip),
)
@settings(max_examples=80, deadline=None)
def test_any_record_comes_back(data, state, name, path):
    of = document(
        state,
        name=name,
        id=data.draw(st.sampled_from(["a", "A-1", name])),
        generation=path,
        session=data.draw(st.sampled_from(["s", path])),
        mailbox=data.draw(st.sampled_from([None, STALWART, STALWART | {"address": path}])),
        gateway=data.draw(st.sampled_from([None, GATEWAY | {"state_path": path}])) if state in LIVE else None,
        runtime={
            "manifest_path": path,
            "session_root": data.draw(st.sampled_from([None, path])),
            "agent_def_dir": None,
        },
    )

    assert expressed(entered(of)) == of


# --- what the roll says of it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "status"),
    {"active": "running", "relaunching": "paused", "stopped": "stopped", "retired": "retired"}.items(),
)
def test_what_an_agent_of_the_directory_is_on_the_roll(state, status):
    fields = fields_of(local(document(state)), None, NOW)

    assert (fields["id"], fields["name"], fields["role"]) == ("gpu-1", "gpu", "claude")
    assert fields["status"] == status
    assert fields["owner"] == "houmao:gen-1"
    assert fields["extensions"] == {"houmao": {"record": [document(state)]}}
    assert fields["pointers"] == {
        "manifest_path": "/home/ada/.houmao/runtime/gpu-1/manifest.json",
        "session_root": "/home/ada/.houmao/runtime/gpu-1",
        "agent_def_dir": "/home/ada/project/.houmao/agents",
        "tmux_session_name": "gpu-1777888800000",
        "backend": "claude_headless",
    }


@pytest.mark.parametrize("state", STATES)
def test_the_fields_are_those_of_a_registration(state):
    profile = codec.as_profile(fields_of(local(document(state)), None, NOW))

    assert (profile.id, profile.role) == ("gpu-1", "claude")


def test_the_lease_of_an_agent_is_what_the_record_has_left():
    assert fields_of(local(document(until=ahead(minutes=90))), None, NOW)["ttl"] == 5400
    assert fields_of(local(document("relaunching", until=ahead(seconds=7))), None, NOW)["ttl"] == 7


@pytest.mark.parametrize("state", OVER)
def test_who_is_over_has_no_lease(state):
    assert fields_of(local(document(state)), None, NOW)["ttl"] is None


def test_a_lease_that_never_ends_is_one_the_registry_takes():
    fields = fields_of(local(document(until="2126-04-10T10:00:00+00:00")), None, NOW)

    assert codec.as_profile(fields).ttl == fields["ttl"]


def test_a_generation_keeps_its_incarnation_and_the_next_one_has_a_greater_one():
    first = entered(document(), incarnation=5)

    again = fields_of(local(document(mailbox=STALWART)), first, NOW)["incarnation"]
    next_one = fields_of(local(document(generation="gen-2")), first, NOW)["incarnation"]

    assert again == 5
    assert next_one > 5


@pytest.mark.parametrize("clock", [timedelta(days=-400), timedelta(days=400)])
def test_the_next_generation_has_a_greater_incarnation_whatever_its_clock_says(clock):
    held = entered(document(), incarnation=2**50)
    moved = NOW + clock
    record = local(
        document(
            generation="gen-2",
            liveness={"published_at": stamp(moved), "lease_expires_at": stamp(NOW + timedelta(days=500))},
        )
    )

    assert fields_of(record, held, NOW)["incarnation"] > 2**50


def test_what_an_external_agent_is_on_the_roll():
    fields = external_fields(external(foreign(id="far-1")))

    assert (fields["id"], fields["name"], fields["role"], fields["ttl"]) == ("far-1", "far", "claude", None)
    assert fields["owner"] == "houmao:gen-1"
    assert fields["extensions"] == {"houmao": {"record": [foreign(id="far-1")]}}
    assert codec.as_profile(fields).id == "far-1"


def test_an_external_agent_is_no_local_record_and_the_other_way_round():
    assert why(entry_of(external_fields(external(foreign()))))
    with pytest.raises(Inexpressible):
        express_external(entered(document()))


# --- what changed on the roll -----------------------------------------------------------------------------------------


def test_a_beat_makes_the_lease_longer_and_nothing_else():
    until = ahead(hours=30)

    after = expressed(entered(document(), expires_at=until, last_seen=stamp(NOW)))

    assert after["liveness"]["lease_expires_at"] == until
    assert with_(after, "liveness", None) == with_(document(), "liveness", None)


@pytest.mark.parametrize("until", [ahead(hours=1), ago(seconds=1)])
def test_the_later_of_two_leases_counts(until):
    assert expressed(entered(document(), expires_at=until)) == document()


@pytest.mark.parametrize("until", [ahead(seconds=1), ahead(hours=1)])
def test_a_lease_that_is_over_does_not_count_against_one_that_is_not(until):
    of = with_(document(until=ago(seconds=1)), "liveness.published_at", ago(hours=1))

    after = expressed(entered(of, expires_at=until, last_seen=stamp(NOW)))

    assert after["liveness"]["lease_expires_at"] == until


@pytest.mark.parametrize(
    ("status", "state"), {"stopped": "stopped", "retired": "retired", "paused": "relaunching"}.items()
)
def test_a_status_that_changed_on_the_roll_changes_the_state(status, state):
    fields = fields_of(local(document(gateway=GATEWAY)), None, NOW) | {"status": status}
    more = {"expires_at": ahead(hours=1)} if state in LIVE else {}

    after = expressed(entry_of(fields, updated_at=ago(minutes=1), **more))

    assert after["lifecycle"]["state"] == state
    assert after["lifecycle"]["state_updated_at"] == ago(minutes=1)
    assert after["generation_id"] == "gen-1"
    if state in OVER:
        assert after["lifecycle"]["stopped_at"] == ago(minutes=1)
        assert after["terminal"]["last_session_name"] == "gpu-1777888800000"
    assert after["lifecycle"]["relaunchable"] is (state != "retired")


def test_an_agent_that_drains_is_active():
    assert expressed(entry_of(fields_of(local(document()), None, NOW) | {"status": "draining"})) == document()


def test_who_runs_again_is_active():
    fields = fields_of(local(document("stopped")), None, NOW) | {"status": "running", "ttl": 60}

    after = expressed(entry_of(fields, updated_at=stamp(NOW), expires_at=ahead(minutes=1)))

    assert after["lifecycle"] == {
        "state": "active",
        "relaunchable": True,
        "state_updated_at": stamp(NOW),
        "stopped_at": None,
        "stop_reason": None,
    }
    assert after["terminal"]["current_session_name"] == "gpu-1777888800000"
    assert after["liveness"]["lease_expires_at"] == ahead(minutes=1)


def test_pointers_that_changed_on_the_roll_count():
    fields = fields_of(local(document()), None, NOW)
    fields["pointers"] = {**fields["pointers"], "manifest_path": "/moved/manifest.json"}

    after = expressed(entry_of(fields, expires_at=ahead(hours=24)))

    assert after["runtime"]["manifest_path"] == "/moved/manifest.json"
    assert with_(after, "runtime.manifest_path", "x") == with_(document(), "runtime.manifest_path", "x")


def test_a_name_that_changed_on_the_roll_counts():
    fields = fields_of(local(document()), None, NOW) | {"name": "renamed"}

    assert expressed(entry_of(fields, expires_at=ahead(hours=24))) == document(name="renamed")


@pytest.mark.parametrize("broken", [None, [], [{}], "x", [document(), document()], [1], [document(agent_id=7)]])
def test_a_section_that_was_broken_on_the_roll_does_no_harm(broken):
    fields = fields_of(local(document()), None, NOW)
    fields["extensions"] = {"houmao": {"record": broken}}

    after = expressed(entry_of(fields, expires_at=ahead(hours=24)))

    assert (after["agent_id"], after["generation_id"], after["runtime"]) == ("gpu-1", "gen-1", document()["runtime"])


def test_a_lost_agent_that_can_be_started_again_is_stopped():
    after = expressed(entered(document(gateway=GATEWAY), lost_at=ago(minutes=2), liveness="lost"))

    assert after["lifecycle"]["state"] == "stopped"
    assert after["lifecycle"]["relaunchable"] is True
    assert after["lifecycle"]["stopped_at"] == ago(minutes=2)
    assert (after["liveness"], after["gateway"], after["terminal"]["current_session_name"]) == (None, None, None)


def test_a_lost_agent_that_cannot_be_started_again_has_no_record():
    assert why(entered(with_(document(), "lifecycle.relaunchable", False), lost_at=ago(minutes=2), liveness="lost"))


def test_a_lease_that_is_over_is_never_written_as_alive():
    entry = entered(document(until=ahead(minutes=1)))

    with pytest.raises(Inexpressible):
        express(entry, NOW + timedelta(minutes=2))


# --- agents that were never in the directory --------------------------------------------------------------------------


POINTERS = {"manifest_path": "/run/m.json", "tmux_session_name": "w-1"}


def native(**more: Json) -> Entry:
    """An agent of rollcall's own."""
    fields = {
        "id": "w1",
        "role": "worker",
        "name": "w",
        "ttl": 60,
        "incarnation": 1,
        "pointers": POINTERS,
        "expires_at": ahead(seconds=60),
        "last_seen": stamp(NOW),
        "registered_at": ago(hours=1),
        "updated_at": ago(hours=1),
    }
    return entry_of({}, **{**fields, **more})


def test_a_native_agent_is_expressed_by_its_pointers():
    after = expressed(native())

    assert with_(after, "generation_id") == {
        "schema_version": 3,
        "agent_name": "w",
        "agent_id": "w1",
        "lifecycle": {
            "state": "active",
            "relaunchable": False,
            "state_updated_at": ago(hours=1),
            "stopped_at": None,
            "stop_reason": None,
        },
        "identity": {"backend": "local_interactive", "tool": "worker"},
        "runtime": {"manifest_path": "/run/m.json", "session_root": None, "agent_def_dir": None},
        "terminal": {"kind": "tmux", "current_session_name": "w-1", "last_session_name": "w-1"},
        "liveness": {"published_at": stamp(NOW), "lease_expires_at": ahead(seconds=60)},
        "gateway": None,
        "mailbox": None,
    }


def test_all_pointers_of_a_native_agent():
    more = {"session_root": "/run", "agent_def_dir": "/defs", "backend": "codex_headless", "other": "x"}

    after = expressed(native(pointers=POINTERS | more))

    assert after["identity"]["backend"] == "codex_headless"
    assert after["runtime"] == {"manifest_path": "/run/m.json", "session_root": "/run", "agent_def_dir": "/defs"}
    assert after["lifecycle"]["relaunchable"] is True


@pytest.mark.parametrize("missing", ["session_root", "agent_def_dir"])
def test_a_native_agent_is_relaunchable_only_with_both_directories(missing):
    both = {"session_root": "/run", "agent_def_dir": "/defs"}

    after = expressed(native(pointers={name: value for name, value in (POINTERS | both).items() if name != missing}))

    assert after["lifecycle"]["relaunchable"] is False


@pytest.mark.parametrize("backend", ["cao_rest", "houmao_server_rest"])
def test_an_old_backend_is_not_relaunchable(backend):
    both = {"session_root": "/run", "agent_def_dir": "/defs", "backend": backend}

    assert expressed(native(pointers=POINTERS | both))["lifecycle"]["relaunchable"] is False


@pytest.mark.parametrize("missing", POINTERS)
def test_a_native_agent_without_its_pointers_is_left_and_told(missing):
    rest = {name: value for name, value in POINTERS.items() if name != missing}

    assert missing in why(native(pointers=rest))
    assert missing in why(native(pointers=rest | {missing: ""}))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"id": "a.b"}, "agent_id must use a filesystem-safe"),
        ({"id": "a/b"}, "agent_id must not contain path separators."),
        ({"id": ".."}, "agent_id must not be `.` or `..`."),
        ({"name": "a b"}, "agent_name must use a filesystem-safe"),
        ({"name": ""}, "agent_name must not be blank."),
        ({"status": "defined"}, "defined"),
        ({"pointers": POINTERS | {"backend": "gemini"}}, "backend"),
    ],
)
def test_an_agent_that_the_directory_has_no_words_for_is_left_and_told(more, said):
    assert said in why(native(**more))


@pytest.mark.parametrize(("status", "state"), {"stopped": "stopped", "retired": "retired"}.items())
def test_a_native_agent_that_is_over(status, state):
    after = expressed(native(status=status, ttl=None, expires_at=None))

    assert after["lifecycle"]["state"] == state
    assert after["lifecycle"]["stopped_at"] == ago(hours=1)
    assert after["terminal"] == {"kind": "tmux", "current_session_name": None, "last_session_name": "w-1"}
    assert after["liveness"] is None


def test_a_native_agent_without_a_lease_has_one_of_a_day():
    after = expressed(native(ttl=None, expires_at=None))

    assert after["liveness"] == {"published_at": stamp(NOW), "lease_expires_at": ahead(hours=24)}


def test_the_generation_of_a_native_agent_is_its_life():
    def generation(**more: Json) -> str:
        return at(expressed(native(**more)), "generation_id")

    assert generation() == generation(revision=9, expires_at=ahead(hours=2), description="x")
    assert generation() != generation(incarnation=2)
    assert generation() != generation(id="w2")


@settings(max_examples=60, deadline=None)
@given(
    status=st.sampled_from(["running", "paused", "draining", "stopped", "retired", "defined"]),
    left=st.integers(-5, 10**9),
    seen=st.integers(0, 10**6),
    lost=st.booleans(),
    pointers=st.fixed_dictionaries(
        {}, optional={name: st.sampled_from(["", " ", "x", "/x"]) for name in (*POINTERS, "backend", "session_root")}
    ),
)
def test_any_agent_is_a_record_or_left_with_a_reason(status, left, seen, lost, pointers):
    more = {"lost_at": stamp(NOW)} if lost else {}
    entry = native(
        status=status,
        pointers=pointers,
        expires_at=stamp(datetime.fromtimestamp(NOW.timestamp() + left, UTC)),
        last_seen=stamp(NOW - timedelta(seconds=seen)),
        **more,
    )

    try:
        record = express(entry, NOW)
    except Inexpressible as left_out:
        assert left_out.message
    else:
        assert isinstance(record, LocalRecord)
        assert local(json.loads(written(record))) == record
