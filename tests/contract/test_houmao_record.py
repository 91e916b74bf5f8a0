"""houmao, sections 1, 3 and 12: what a record is, which text refuses another, and how it is written."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rollcall import Invalid
from rollcall.faces.files.houmao.forms import (
    external,
    external_schema,
    local,
    local_schema,
    read_external,
    read_local,
    written,
)
from tests.contract.houmao import (
    FILESYSTEM,
    FOREIGNS,
    FULL,
    FULL_V2,
    GATEWAY,
    GONE,
    IDENTITY_TEXTS,
    LIVE,
    NAMED,
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
    foreign,
    issues,
    legacy,
    objects,
    places,
    refusal,
    text,
    with_,
)

PATH = "/registry/live_agents/gpu-1/record.json"
BACKENDS = (
    *("local_interactive", "codex_headless", "codex_app_server", "claude_headless", "kimi_headless"),
    *("cao_rest", "houmao_server_rest"),
)


def read(of: Json) -> Document:
    """What is written of what was read."""
    return json.loads(written(read_local(text(of), PATH)))


def why(of: Json) -> list[tuple[str, str]]:
    """Why a record cannot be read."""
    return issues(refusal(read_local, text(of), PATH), f"Invalid registry record `{PATH}`")


def texts(of: Json) -> list[str]:
    """The same without the places."""
    return [said for _, said in why(of)]


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_record_that_was_read_is_written_letter_for_letter(record):
    assert json.loads(written(read_local(text(record), PATH))) == record
    assert written(read_local(text(record), PATH)) == text(record)


def test_a_record_is_written_with_sorted_keys_an_indent_of_two_and_one_newline_at_the_end():
    lines = written(local(document())).decode().split("\n")

    assert lines[0] == "{"
    assert lines[-2:] == ["}", ""]
    names = [line.split('"')[1] for line in lines if line.startswith('  "')]
    assert names == [
        *("agent_id", "agent_name", "gateway", "generation_id", "identity", "lifecycle", "liveness"),
        *("mailbox", "runtime", "schema_version", "terminal"),
    ]
    assert '    "backend": "claude_headless",' in lines


def test_another_layout_and_order_are_read_alike():
    other = json.dumps(dict(reversed(document().items()))).encode()

    assert written(read_local(other, PATH)) == text(document())


OPTIONAL = {
    "schema_version": 3,
    "terminal.kind": "tmux",
    "gateway": None,
    "mailbox": None,
    "lifecycle.stopped_at": None,
    "lifecycle.stop_reason": None,
    "runtime.session_root": None,
    "runtime.agent_def_dir": None,
}


@pytest.mark.parametrize(("place", "default"), OPTIONAL.items(), ids=OPTIONAL)
def test_an_optional_key_may_be_missing_and_is_written(place, default):
    assert at(read(with_(document(), place)), place) == default


@pytest.mark.parametrize(("place", "state"), [("liveness", "stopped"), ("terminal.current_session_name", "retired")])
def test_what_a_stopped_record_must_not_have_may_be_missing_and_is_written_as_null(place, state):
    assert at(read(with_(document(state), place)), place) is None


@pytest.mark.parametrize("place", [place for place in places(FULL) if place not in OPTIONAL])
def test_a_required_key_must_be_there(place):
    if place == "terminal.last_session_name":
        assert texts(with_(FULL, place)) == ["terminal.last_session_name is required"]
    elif place == "terminal.current_session_name":
        assert texts(with_(FULL, place)) == [
            "active or relaunching lifecycle records require terminal.current_session_name"
        ]
    elif place == "mailbox.transport":
        assert why(with_(FULL, place))
    else:
        assert why(with_(FULL, place))[0][0].split(".")[-1] == place.split(".")[-1]


@pytest.mark.parametrize("place", ["lifecycle", "identity", "runtime", "terminal"])
def test_a_required_object_must_be_there(place):
    # Without `lifecycle`, `schema_version` alone says that this is no record v2.
    assert why(with_(FULL, place))[0][0] == place


# --- strictness -------------------------------------------------------------------------------------------------------


def wrong(value: Json) -> Iterator[Json]:
    """Values of every other type; a word stays a word."""
    others: list[Json] = ["text", 7, 1.5, True, [], ["x"], {}, {"x": 1}]
    for other in others:
        if type(other) is not type(value):
            yield other
    if isinstance(value, int) and not isinstance(value, bool):
        yield float(value)
        yield str(value)
    if isinstance(value, bool):
        yield from (0, 1, "true")


@pytest.mark.parametrize("place", places(FULL))
def test_types_are_strict(place):
    for other in wrong(at(FULL, place)):
        if at(FULL, place) is None and isinstance(other, str):
            continue
        found = why(with_(FULL, place, other))

        assert found[0][0].split(".")[-1] == place.split(".")[-1] or place in ("schema_version", "mailbox.transport")


NULLABLE = {
    *("lifecycle.stopped_at", "lifecycle.stop_reason", "runtime.session_root", "runtime.agent_def_dir"),
    *("terminal.current_session_name", "terminal.last_session_name", "liveness", "gateway", "mailbox"),
}


@pytest.mark.parametrize("place", sorted({*places(FULL), *objects(FULL)} - {"", *NULLABLE}))
def test_only_what_may_be_null_may_be_null(place):
    assert why(with_(FULL, place, None))


@pytest.mark.parametrize("place", [place for place in objects(FULL) if place])
@pytest.mark.parametrize("other", [[], "text", 1, True, ["x"]], ids=repr)
def test_an_object_must_be_an_object(place, other):
    assert why(with_(FULL, place, other))[0][0].split(".")[0] == place.split(".")[0]


@pytest.mark.parametrize("place", objects(FULL), ids=lambda place: place or "record")
def test_unknown_keys_are_refused_everywhere(place):
    unknown = f"{place}.unknown".lstrip(".")

    found = why(with_(FULL, unknown, "x"))

    assert [place.split(".")[-1] for place, _ in found] == ["unknown"]


@pytest.mark.parametrize("place", ["", "identity", "terminal"])
def test_unknown_keys_are_refused_in_a_record_v2(place):
    assert why(with_(legacy(), f"{place}.unknown".lstrip("."), None))


@pytest.mark.parametrize(
    ("place", "words"),
    {
        "lifecycle.state": ("active", "relaunching", "stopped", "retired"),
        "identity.backend": BACKENDS,
        "terminal.kind": ("tmux",),
        "gateway.host": ("127.0.0.1", "0.0.0.0"),
        "gateway.protocol_version": ("v1",),
        "mailbox.transport": ("filesystem", "stalwart"),
    }.items(),
)
def test_words_are_of_closed_sets(place, words):
    of = FULL
    for word in words:
        if place == "lifecycle.state":
            of = document(word)
        elif place == "mailbox.transport":
            of = document(mailbox={"filesystem": FILESYSTEM, "stalwart": STALWART}[word])
        assert at(read(with_(of, place, word)), place) == word
    for odd in ("", "x", words[0].upper() + " ", f" {words[0]}"):
        assert why(with_(of, place, odd))[0][0].startswith(place.split(".")[0])


@pytest.mark.parametrize("mailbox", [FILESYSTEM, STALWART], ids=["filesystem", "stalwart"])
def test_a_mailbox_has_the_keys_of_its_transport_and_no_others(mailbox):
    other = STALWART if mailbox is FILESYSTEM else FILESYSTEM
    for name in mailbox:
        assert why(document(mailbox={key: value for key, value in mailbox.items() if key != name}))
    for name in other.keys() - mailbox.keys():
        assert why(document(mailbox=mailbox | {name: "x"}))


# --- the texts --------------------------------------------------------------------------------------------------------


NOT_BLANK = [
    *("generation_id", "identity.tool", "runtime.manifest_path", "runtime.session_root", "runtime.agent_def_dir"),
    *("terminal.current_session_name", "terminal.last_session_name", "gateway.state_path"),
    *(f"mailbox.{name}" for name in STALWART if name != "transport"),
]


@pytest.mark.parametrize("place", NOT_BLANK)
@pytest.mark.parametrize("blank", ["", " ", "\t\n"], ids=repr)
def test_a_text_must_not_be_blank(place, blank):
    assert [said for _, said in why(with_(FULL, place, blank))] == ["must not be empty"]
    assert why(with_(FULL, place, blank))[0][0].split(".")[-1] == place.split(".")[-1]


@pytest.mark.parametrize("name", [name for name in FILESYSTEM if name != "transport"])
def test_a_text_of_a_filesystem_mailbox_must_not_be_blank(name):
    assert texts(document(mailbox=FILESYSTEM | {name: " "})) == ["must not be empty"]


FORM = (
    "must use a filesystem-safe and URL-safe form"
    " (ASCII letters/digits plus `_` and `-`, starting with a letter or digit)."
)
ODD = {
    " a": "must not include leading or trailing whitespace",
    "a\n": "must not include leading or trailing whitespace",
    ".": "must not be `.` or `..`.",
    "..": "must not be `.` or `..`.",
    "a/b": "must not contain path separators.",
    "a\\b": "must not contain path separators.",
    "a b": FORM,
    "-a": FORM,
    "_a": FORM,
    "a.b": FORM,
    "ä": FORM,
}


@pytest.mark.parametrize("name", ["agent_id", "agent_name"])
@pytest.mark.parametrize(("odd", "said"), ODD.items(), ids=[repr(odd) for odd in ODD])
def test_an_id_and_a_name_have_the_form_of_section_2(name, odd, said):
    assert texts(document(**{name: odd})) == [f"{name} {said}"]


@pytest.mark.parametrize("name", ["agent_id", "agent_name"])
@pytest.mark.parametrize("blank", ["", "  "], ids=repr)
def test_a_blank_id_and_a_blank_name_are_refused(name, blank):
    (said,) = texts(document(**{name: blank}))

    assert said in (f"{name} must not be blank.", "must not be empty")


LIVE_RULES = {
    "liveness": (None, "active or relaunching lifecycle records require liveness"),
    "terminal.current_session_name": (
        None,
        "active or relaunching lifecycle records require terminal.current_session_name",
    ),
    "terminal.last_session_name": (None, "terminal.last_session_name is required"),
    "lifecycle.stopped_at": (ago(hours=1), "stopped_at is only valid for stopped or retired lifecycle states"),
    "lifecycle.stop_reason": ("x", "stop_reason is only valid for stopped or retired lifecycle states"),
}
OVER_RULES = {
    "lifecycle.stopped_at": (None, "stopped_at is required when lifecycle.state is stopped or retired"),
    "liveness": (document()["liveness"], "stopped or retired lifecycle records must not carry liveness"),
    "gateway": (GATEWAY, "stopped or retired lifecycle records must not carry gateway"),
    "terminal.current_session_name": (
        "gpu-1",
        "stopped or retired lifecycle records must clear terminal.current_session_name",
    ),
    "terminal.last_session_name": (
        None,
        "current_session_name or last_session_name must be present for tmux records",
    ),
}


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize(("place", "value", "said"), [(place, *rule) for place, rule in LIVE_RULES.items()])
def test_the_rules_of_a_live_record(state, place, value, said):
    assert texts(with_(document(state), place, value)) == [said]


@pytest.mark.parametrize("state", OVER)
@pytest.mark.parametrize(("place", "value", "said"), [(place, *rule) for place, rule in OVER_RULES.items()])
def test_the_rules_of_a_record_that_is_over(state, place, value, said):
    assert texts(with_(document(state), place, value)) == [said]


def test_a_retired_record_is_never_relaunchable():
    assert texts(with_(document("retired"), "lifecycle.relaunchable", True)) == [
        "retired lifecycle records must not remain relaunchable"
    ]


def test_a_live_record_without_any_session_is_refused():
    neither = document() | {"terminal": {"kind": "tmux", "current_session_name": None, "last_session_name": None}}

    assert texts(neither) == ["current_session_name or last_session_name must be present for tmux records"]


@pytest.mark.parametrize("until", [ago(hours=1), ago(hours=2), "2026-05-04T11:00:00+02:00"])
def test_a_lease_ends_after_it_was_published(until):
    assert texts(document(until=until)) == ["lease_expires_at must be later than published_at"]


@pytest.mark.parametrize("port", [0, -1, 65536, 2**70])
def test_a_port_is_a_port(port):
    assert why(with_(FULL, "gateway.port", port)) == [("gateway.port", "must be between 1 and 65535")]


@pytest.mark.parametrize("port", [1, 65535])
def test_the_first_and_the_last_port_are_ports(port):
    assert read(with_(FULL, "gateway.port", port))["gateway"]["port"] == port


@pytest.mark.parametrize("version", [4, 1, 0, -3, 33])
def test_other_versions_are_refused(version):
    assert texts(document(schema_version=version)) == ["schema_version must be 3"]


TIMES = {
    "lifecycle.state_updated_at": document(),
    "lifecycle.stopped_at": document("stopped"),
    "liveness.published_at": document(),
    "liveness.lease_expires_at": document(),
}
NO_TIMES = ["x", "yesterday", "2026-13-01T00:00:00+00:00", "2026-05-04T25:00:00Z", "1777888800", "2026-05-04T10:00:00+"]
NAIVE = ["2026-05-04T10:00:00", "2026-05-04", "2026-05-04 10:00"]


@pytest.mark.parametrize("place", TIMES)
@pytest.mark.parametrize("odd", NO_TIMES)
def test_a_time_must_be_a_time(place, odd):
    assert texts(with_(TIMES[place], place, odd)) == [f"{place.split('.')[1]} must be a valid ISO-8601 timestamp"]


@pytest.mark.parametrize("place", TIMES)
@pytest.mark.parametrize("naive", NAIVE)
def test_a_time_must_have_an_offset(place, naive):
    assert texts(with_(TIMES[place], place, naive)) == [
        f"{place.split('.')[1]} must be a timezone-aware ISO-8601 timestamp"
    ]


@pytest.mark.parametrize("place", TIMES)
def test_a_time_must_not_be_blank(place):
    assert texts(with_(TIMES[place], place, " ")) == ["must not be empty"]


@pytest.mark.parametrize("time", ["2026-05-04T09:00:00Z", "2026-05-04T11:00:00+02:00", "2026-05-04T09:00:00+00:00"])
@pytest.mark.parametrize("place", ["lifecycle.state_updated_at", "liveness.published_at"])
def test_a_time_with_any_offset_is_the_same_time(place, time):
    from_zulu, plain = (read_local(text(with_(document(), place, one)), PATH) for one in (time, ago(hours=1)))

    assert instants(from_zulu) == instants(plain)


@given(odd=st.text("0123456789TZ:+-. W", max_size=30) | st.datetimes(timezones=st.timezones()).map(str))
@example(odd="0001-01-01T00:00:00+23:59")
@example(odd="9999-12-31T23:59:59-23:59")
@settings(max_examples=100, deadline=None)
def test_whatever_stands_for_a_time_is_read_or_refused(odd):
    try:
        again = read(with_(document(), "lifecycle.state_updated_at", odd))
    except Invalid as refused:
        assert "state_updated_at must be a " in refused.message or "must not be empty" in refused.message
    else:
        assert datetime.fromisoformat(again["lifecycle"]["state_updated_at"]).utcoffset() is not None


def test_times_are_written_with_seconds_and_an_offset_of_zero():
    record = local(with_(document(), "liveness.published_at", "2026-05-04T09:00:00+00:00"))

    assert at(json.loads(written(record)), "liveness.published_at") == "2026-05-04T09:00:00+00:00"


def instants(record: object) -> str:
    """What is written, with its times in one notation."""
    plain = written(record).decode()
    return plain.replace("2026-05-04T09:00:00Z", ago(hours=1)).replace("2026-05-04T11:00:00+02:00", ago(hours=1))


# --- prefixes ---------------------------------------------------------------------------------------------------------


def test_at_most_three_issues_are_shown():
    bad = document()
    for place in ("agent_name", "agent_id", "generation_id", "identity.tool", "runtime.manifest_path"):
        bad = with_(bad, place, 7)

    assert [place for place, _ in why(bad)] == ["agent_name", "agent_id", "generation_id"]


def test_two_issues_are_both_shown():
    assert why(with_(with_(FULL, "identity.tool", " "), "gateway.port", 0)) == [
        ("identity.tool", "must not be empty"),
        ("gateway.port", "must be between 1 and 65535"),
    ]


NOT_JSON = {
    "empty": b"",
    "cut off": text(document())[:-30],
    "two": text(document()) * 2,
    "a word": b"oops",
    "one comma too many": b'{"agent_id": "a",}',
    "not UTF-8": text(document()).replace(b"gpu", b"g\xffu"),
    "UTF-16": text(document()).decode().encode("utf-16"),
    "zeros": b"\0" * 100,
    "too deep": b"[" * 200_000,
    "too deep an object": b'{"a":' * 200_000,
}


@pytest.mark.parametrize("data", NOT_JSON.values(), ids=NOT_JSON)
def test_bytes_that_are_no_json_are_refused_with_the_path(data):
    assert refusal(read_local, data, PATH) == f"Invalid JSON in registry record `{PATH}`."
    assert refusal(read_external, data, PATH) == f"Invalid JSON in external registry record `{PATH}`."


@pytest.mark.parametrize("value", [None, [], "text", 3, True, [document()]], ids=lambda value: str(value)[:9])
def test_json_that_is_no_object_is_refused(value):
    assert refusal(read_local, text(value), PATH).startswith(f"Invalid registry record `{PATH}`: $: ")
    assert refusal(read_external, text(value), PATH).startswith(f"Invalid external registry record `{PATH}`: $: ")


ODD_JSON = {
    "a number of 5000 digits": text(document()).replace(b'"schema_version": 3', b'"schema_version": ' + b"3" * 5000),
    "not a number": text(document()).replace(b'"schema_version": 3', b'"schema_version": NaN'),
    "half a character": text(document()).replace(b'"gen-1"', rb'"gen-\ud83d"'),
    "half a character in a key": text(document()).replace(b'"mailbox"', rb'"\ud83d"'),
}


@pytest.mark.parametrize("data", ODD_JSON.values(), ids=ODD_JSON)
def test_odd_json_is_refused_like_any_other(data):
    assert PATH in refusal(read_local, data, PATH)


@pytest.mark.parametrize("at_most", [3])
def test_a_record_to_publish_is_refused_with_its_id(at_most):
    prefix = "Shared registry record schema validation failed before publish for `gpu-1`"

    assert issues(refusal(local, with_(FULL, "gateway.port", 0)), prefix) == [
        ("gateway.port", "must be between 1 and 65535")
    ]
    many = FULL
    for place in places(FULL):
        if not place.startswith("agent_id"):
            many = with_(many, place, [])
    assert len(issues(refusal(local, many), prefix)) == at_most


def test_an_external_record_to_publish_is_refused_with_its_id():
    prefix = "External managed-agent registry record schema validation failed before publish for `far-1`"

    assert issues(refusal(external, foreign(id="far-1", generation_id="")), prefix) == [
        ("generation_id", "must not be empty")
    ]


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_record_to_publish_is_the_record_that_is_read(record):
    assert local(record) == read_local(text(record), PATH)


def test_a_record_cannot_be_changed():
    record = local(document())

    with pytest.raises(Exception, match="frozen"):
        record.agent_name = "other"
    with pytest.raises(Exception, match="frozen"):
        record.lifecycle.state = "retired"


@pytest.mark.parametrize(
    ("record", "session"),
    [
        (document(session="now"), "now"),
        (with_(document(session="now"), "terminal.last_session_name", "before"), "now"),
        (document("stopped", session="before"), "before"),
    ],
    ids=["current", "current before last", "last"],
)
def test_the_session_shown_is_the_current_one_or_the_last(record, session):
    assert local(record).session == session


# --- version 2 --------------------------------------------------------------------------------------------------------


UPGRADED = document(
    lifecycle={
        "state": "active",
        "relaunchable": True,
        "state_updated_at": ago(hours=1),
        "stopped_at": None,
        "stop_reason": None,
    },
    runtime=legacy()["runtime"],
    until=ahead(hours=23),
)


@pytest.mark.parametrize("more", [{}, {"gateway": GATEWAY}, {"mailbox": STALWART}, {"mailbox": FILESYSTEM}], ids=str)
def test_a_record_v2_is_read_as_v3(more):
    assert read(legacy(**more)) == UPGRADED | more


def test_a_record_v2_is_written_as_v3():
    assert written(read_local(text(legacy()), PATH)) == text(UPGRADED)


def test_a_record_v2_that_is_published_is_v3():
    assert written(local(legacy())) == text(UPGRADED)


def test_a_record_v2_without_a_session_root_is_not_relaunchable():
    upgraded = read(with_(legacy(), "runtime.session_root", None))

    assert upgraded["lifecycle"]["relaunchable"] is False


@pytest.mark.parametrize("place", ["gateway", "mailbox", "terminal.kind", "runtime.agent_def_dir"])
def test_an_optional_key_of_a_record_v2_may_be_missing(place):
    assert read(with_(legacy(), place)) == UPGRADED


@pytest.mark.parametrize(
    "place",
    [place for place in places(FULL_V2) if place not in (*OPTIONAL, "mailbox.transport")],
)
def test_a_required_key_of_a_record_v2_must_be_there(place):
    assert why(with_(FULL_V2, place))[0][0].split(".")[-1] == place.split(".")[-1]


@pytest.mark.parametrize("place", [place for place in places(FULL_V2) if at(FULL_V2, place) is not None])
def test_types_of_a_record_v2_are_strict(place):
    for other in wrong(at(FULL_V2, place)):
        assert why(with_(FULL_V2, place, other))


V2_TEXTS = {
    "published_at": [
        ("x", "published_at must be a valid ISO-8601 timestamp"),
        ("2026-05-04T10:00:00", "published_at must be a timezone-aware ISO-8601 timestamp"),
        (ahead(hours=23), "lease_expires_at must be later than published_at"),
    ],
    "lease_expires_at": [
        ("x", "lease_expires_at must be a valid ISO-8601 timestamp"),
        ("2026-05-04", "lease_expires_at must be a timezone-aware ISO-8601 timestamp"),
        (ago(hours=1), "lease_expires_at must be later than published_at"),
        ("", "must not be empty"),
    ],
    "generation_id": [(" ", "must not be empty")],
    "terminal.session_name": [("", "must not be empty")],
    "agent_id": [(" a", "agent_id must not include leading or trailing whitespace"), ("a.b", f"agent_id {FORM}")],
    "agent_name": [
        ("a/b", "agent_name must not contain path separators."),
        ("..", "agent_name must not be `.` or `..`."),
    ],
}


@pytest.mark.parametrize(
    ("place", "value", "said"), [(place, *rule) for place, rules in V2_TEXTS.items() for rule in rules]
)
def test_the_rules_of_a_record_v2(place, value, said):
    assert texts(with_(legacy(), place, value)) == [said]


def test_a_record_without_a_version_is_v3_when_it_has_a_lifecycle():
    assert read(with_(document("stopped"), "schema_version")) == document("stopped")


def test_a_record_without_a_version_and_a_lifecycle_is_v2():
    assert read(with_(legacy(), "schema_version")) == UPGRADED


def test_a_record_v2_with_a_lifecycle_is_no_record_v2():
    assert why(document(schema_version=2))


# --- external ---------------------------------------------------------------------------------------------------------


FOREIGN_PATH = "/registry/external_agents/far-1/record.json"


def reread(of: Json) -> Document:
    """What is written of an external record that was read."""
    return json.loads(written(read_external(text(of), FOREIGN_PATH)))


def whynot(of: Json) -> list[tuple[str, str]]:
    """Why an external record cannot be read."""
    return issues(refusal(read_external, text(of), FOREIGN_PATH), f"Invalid external registry record `{FOREIGN_PATH}`")


@pytest.mark.parametrize("record", FOREIGNS.values(), ids=FOREIGNS)
def test_an_external_record_that_was_read_is_written_letter_for_letter(record):
    assert reread(record) == record
    assert written(read_external(text(record), FOREIGN_PATH)) == text(record)
    assert external(record) == read_external(text(record), FOREIGN_PATH)


FOREIGN_DEFAULTS = {
    "schema_version": 1,
    "kind": "external_communication_only",
    "lifecycle_owner": "remote",
    "gateway_expected": False,
    "verified_at_utc": None,
    **dict.fromkeys((f"cached_identity.{name}" for name in IDENTITY_TEXTS), None),
    **dict.fromkeys(f"cached_identity.{name}" for name in ("lifecycle_state", "management_kind", "lifecycle_owner")),
}


@pytest.mark.parametrize(("place", "default"), FOREIGN_DEFAULTS.items(), ids=FOREIGN_DEFAULTS)
def test_an_optional_key_of_an_external_record_may_be_missing_and_is_written(place, default):
    assert at(reread(with_(NAMED, place)), place) == default


@pytest.mark.parametrize(
    "place", ["cached_identity", *(place for place in places(NAMED) if place not in FOREIGN_DEFAULTS)]
)
def test_a_required_key_of_an_external_record_must_be_there(place):
    (found,) = whynot(with_(NAMED, place))

    assert found[0] == place or f"`{place.split('.')[-1]}`" in found[1]


@pytest.mark.parametrize("place", places(NAMED))
def test_types_of_an_external_record_are_strict(place):
    for other in wrong(at(NAMED, place)):
        assert whynot(with_(NAMED, place, other))[0][0].startswith((place, "schema_version"))


@pytest.mark.parametrize("place", ["", "cached_identity"])
def test_unknown_keys_of_an_external_record_are_refused(place):
    (found,) = whynot(with_(NAMED, f"{place}.unknown".lstrip("."), "x"))

    assert "unknown" in f"{found[0]} {found[1]}"


FIXED = {
    "schema_version": 2,
    "kind": "local",
    "lifecycle_owner": "local",
    "cached_identity.transport": "tmux",
    "cached_identity.lifecycle_state": "paused",
    "cached_identity.management_kind": "external",
    "cached_identity.lifecycle_owner": "me",
}


@pytest.mark.parametrize(("place", "value"), FIXED.items(), ids=FIXED)
def test_fixed_values_of_an_external_record_are_fixed(place, value):
    (found,) = whynot(with_(NAMED, place, value))

    assert found[0] == place or found == ("", "schema_version must be 1")


@pytest.mark.parametrize(
    ("place", "words"),
    {
        "lifecycle_state": STATES,
        "management_kind": ("local_lifecycle", "external_communication_only"),
        "lifecycle_owner": ("local", "remote"),
        "transport": ("tui", "headless"),
    }.items(),
)
def test_words_of_a_cached_identity(place, words):
    for word in words:
        assert reread(with_(NAMED, f"cached_identity.{place}", word)) == with_(NAMED, f"cached_identity.{place}", word)


@pytest.mark.parametrize("name", ["tracked_agent_id", "tool", *IDENTITY_TEXTS])
@pytest.mark.parametrize("blank", ["", " "], ids=repr)
def test_a_text_of_a_cached_identity_must_not_be_blank(name, blank):
    # Houmao does not read such a record.
    assert whynot(with_(NAMED, f"cached_identity.{name}", blank)) == [(f"cached_identity.{name}", "must not be empty")]


RESERVED = (
    "Managed-agent names must not begin with reserved `HOUMAO` plus a separator."
    " Use the raw creation-time name without the `HOUMAO-` prefix."
)
FOREIGN_TEXTS = {
    "local_name": [
        ("", "agent_name must not be blank."),
        ("a/b", "agent_name must not contain path separators."),
        ("..", "agent_name must not be `.` or `..`."),
        ("a b", f"agent_name {FORM}"),
        ("HOUMAO-x", RESERVED),
        ("houmao_x", RESERVED),
    ],
    "external_agent_id": [
        ("", "agent_id must not be blank."),
        (".", "agent_id must not be `.` or `..`."),
        ("a\\b", "agent_id must not contain path separators."),
        ("-a", f"agent_id {FORM}"),
    ],
    "generation_id": [("", "must not be empty"), (" ", "must not be empty")],
    "remote_agent_ref": [("", "must not be empty"), ("\n", "must not be empty")],
    **{
        name: [
            ("x", f"{name} must be a valid ISO-8601 timestamp"),
            ("2026-05-04T10:00:00", f"{name} must be a timezone-aware ISO-8601 timestamp"),
            (" ", "must not be empty"),
        ]
        for name in ("created_at_utc", "updated_at_utc", "verified_at_utc")
    },
}


@pytest.mark.parametrize(
    ("place", "value", "said"), [(place, *rule) for place, rules in FOREIGN_TEXTS.items() for rule in rules]
)
def test_the_rules_of_an_external_record(place, value, said):
    ((_, found),) = whynot(foreign() | {place: value})

    # An external id is called by its own name, or as every id.
    assert found.replace("external_agent_id", "agent_id").replace("local_name", "agent_name") == said


def test_an_external_name_like_houmaox_is_fine():
    assert reread(foreign(name="houmaox"))["local_name"] == "houmaox"


@pytest.mark.parametrize("place", ["updated_at_utc", "verified_at_utc"])
def test_an_external_record_is_not_updated_or_verified_before_it_was_created(place):
    ((_, said),) = whynot(foreign() | {place: ago(hours=3)})

    assert said.startswith(place)
    assert "created_at_utc" in said


BASES = {
    "http://10.0.0.7:9889": "http://10.0.0.7:9889",
    "http://10.0.0.7:9889/": "http://10.0.0.7:9889",
    "http://10.0.0.7:9889//": "http://10.0.0.7:9889",
    " http://10.0.0.7:9889 ": "http://10.0.0.7:9889",
    "http://Far.Example:80": "http://far.example:80",
    "HTTP://far.example:80": "http://far.example:80",
    "http://[::1]:99": "http://[::1]:99",
    "http://[2001:DB8::7]:9889/": "http://[2001:db8::7]:9889",
}


@pytest.mark.parametrize(("base", "canonical"), BASES.items(), ids=BASES)
def test_a_base_url_is_brought_to_one_form(base, canonical):
    assert reread(foreign(pair_api_base_url=base))["pair_api_base_url"] == canonical


NO_BASES = [
    *("", " ", "far", "far:80", "//far:80", "https://far:80", "ftp://far:80", "http://far", "http://:80", "http://"),
    *("http://far:80/api", "http://far:80?x=1", "http://far:80#x", "http://far:80/?x", "http://far:x"),
    *("http://far:70000", "http://[::1:80", "http://far:-1", "http://ada:lovelace@far:80", "http://ada@far:80"),
]


@pytest.mark.parametrize("base", NO_BASES, ids=repr)
def test_another_base_url_is_refused(base):
    assert [place for place, _ in whynot(foreign(pair_api_base_url=base))] == ["pair_api_base_url"]


# --- JSON Schema ------------------------------------------------------------------------------------------------------


def validator(schema: Document) -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


LOCAL = validator(local_schema())
FOREIGN = validator(external_schema())


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_what_is_written_keeps_the_json_schema(record):
    assert list(LOCAL.iter_errors(json.loads(written(local(record))))) == []


@pytest.mark.parametrize("record", FOREIGNS.values(), ids=FOREIGNS)
def test_what_is_written_of_an_external_record_keeps_its_json_schema(record):
    assert list(FOREIGN.iter_errors(json.loads(written(external(record))))) == []


Both = tuple[jsonschema.Draft202012Validator, Callable[[Document], object], Document]
BOTH: dict[str, Both] = {
    "local": (LOCAL, local, FULL),
    "filesystem": (LOCAL, local, document(mailbox=FILESYSTEM)),
    "stopped": (LOCAL, local, document("stopped")),
    "external": (FOREIGN, external, NAMED),
}


@pytest.mark.parametrize(("schema", "model", "of"), BOTH.values(), ids=BOTH)
def test_the_json_schema_refuses_the_types_that_the_model_refuses(schema, model, of):
    for place in places(of):
        for other in (*wrong(at(of, place)), None):
            changed = with_(of, place, other)
            if isinstance(other, float) and other.is_integer():
                continue  # 3.0 is an integer for JSON Schema
            if not schema.is_valid(changed):
                assert not right(model, changed), (place, other)
            elif type(other) is not type(at(of, place)) and other is not None:
                assert right(model, changed) or isinstance(other, str), (place, other)


@pytest.mark.parametrize(("schema", "model", "of"), BOTH.values(), ids=BOTH)
def test_the_json_schema_and_the_model_agree_on_missing_and_unknown_keys(schema, model, of):
    for place in (*places(of), *(place for place in objects(of) if place)):
        if not place.startswith("terminal.") and place not in ("liveness", "lifecycle.stopped_at"):
            assert schema.is_valid(with_(of, place)) == right(model, with_(of, place)), place
    for place in objects(of):
        unknown = with_(of, f"{place}.unknown".lstrip("."), None)
        assert not schema.is_valid(unknown), place
        assert not right(model, unknown), place


@pytest.mark.parametrize(("schema", "model", "of"), BOTH.values(), ids=BOTH)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_what_the_json_schema_refuses_the_model_refuses(schema, model, of, data):
    place = data.draw(st.sampled_from([*places(of), *filter(None, objects(of))]))
    value = data.draw(ANY | st.just(GONE))
    changed = with_(of, place, value)

    if not schema.is_valid(changed):
        assert not right(model, changed)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(STATES),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def right(model: Callable[[Document], object], of: Document) -> bool:
    """Whether a model takes a document."""
    try:
        model(of)
    except Invalid:
        return False
    return True


ONLY_MODEL = {
    "a port out of range": with_(FULL, "gateway.port", 70_000),
    "no last session": with_(document(), "terminal.last_session_name", None),
    "a blank name": document(name=" "),
    "active without liveness": document(liveness=None),
    "stopped with a gateway": document("stopped", gateway=GATEWAY),
}


@pytest.mark.parametrize("record", ONLY_MODEL.values(), ids=ONLY_MODEL)
def test_rules_that_only_the_model_knows(record):
    assert LOCAL.is_valid(record)
    assert not right(local, record)


def test_the_json_schemas_name_the_required_keys():
    assert sorted(local_schema()["required"]) == [
        *("agent_id", "agent_name", "generation_id", "identity", "lifecycle", "runtime", "terminal"),
    ]
    assert sorted(external_schema()["required"]) == [
        *("cached_identity", "created_at_utc", "external_agent_id", "generation_id", "local_name"),
        *("pair_api_base_url", "remote_agent_ref", "updated_at_utc"),
    ]


def test_the_properties_of_the_json_schemas_are_the_keys_of_a_record():
    assert set(local_schema()["properties"]) == set(document())
    assert set(external_schema()["properties"]) == set(foreign())
    assert local_schema()["additionalProperties"] is False
    assert external_schema()["additionalProperties"] is False


# --- anything at all --------------------------------------------------------------------------------------------------


@given(data=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_record_or_invalid(data):
    for read_one in (read_local, read_external):
        with pytest.raises(Invalid, match="record `p`"):
            read_one(data, "p")


@given(place=st.sampled_from([*places(FULL), *filter(None, objects(FULL))]), value=ANY)
@settings(max_examples=150, deadline=None)
def test_what_can_be_read_can_be_written_and_read_again(place, value):
    try:
        record = read_local(text(with_(FULL, place, value)), PATH)
    except Invalid:
        return

    assert read_local(written(record), PATH) == record
