"""The protocol in words says what the code says."""

import json
import re
import shlex

import pytest
from msgspec import Struct

from rollcall.bus import asyncapi, headers, shapes
from rollcall.bus.subjects import Subjects
from rollcall.core import limits
from rollcall.core.commands import Mode
from rollcall.core.errors import BY_CODE
from rollcall.core.lease import MISSED_IS_SUSPECT
from rollcall.core.liveness import STUCK_AFTER
from rollcall.core.patch import FIXED
from rollcall.core.query import Query
from rollcall.core.records import DEFAULT_TTL, Beat, ChangeKind, Entry, Liveness, Profile, Status
from tests.bus.plain import plain
from tests.conftest import eventually
from tests.documents import Document

PROTOCOL = Document("docs/protocol.md")
TEXT, section = PROTOCOL.text, PROTOCOL.section
DOCUMENT = asyncapi.document()


def rows(title: str) -> list[list[str]]:
    """The cells of the tables of a section, without marks."""
    return [[cell.replace("`", "") for cell in row] for row in PROTOCOL.rows(title)]


def words(text: str) -> set[str]:
    return {word for marked in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"[\w-]+", marked)}


def test_the_limits_are_those_of_the_code():
    told = {name: float(value) for name, value, *_ in rows("Limits")[1:]}

    assert told == {name.lower(): float(value) for name, value in vars(limits).items() if name.isupper()}


def test_the_errors_are_those_of_the_code():
    told = {code: int(status) for code, status, _ in rows("Errors")[1:]}

    assert told == {code: kind.status for code, kind in BY_CODE.items()}


@pytest.mark.parametrize("name", DOCUMENT["operations"])
def test_every_subject_is_in_the_table(name):
    told = {subject for subject, *_ in rows("Subjects")[1:]}

    assert DOCUMENT["channels"][name]["address"] in told
    assert len(told) == len(DOCUMENT["operations"])


@pytest.mark.parametrize(
    ("title", "kind", "besides"),
    [("Register", Profile, ()), ("Beat", Beat, ()), ("Entries and liveness", Entry, Profile.__struct_fields__)],
)
def test_every_field_is_explained(title: str, kind: type[Struct], besides: tuple[str, ...]):
    told = {name.strip() for first, *_ in rows(title) for name in first.split(",")}

    assert set(kind.__struct_fields__) - set(besides) <= told


def test_every_member_of_a_query_is_explained_with_its_default():
    told = {name: default for name, default, *_ in rows("Questions") if name in Query.__struct_fields__}
    plain_query = Query()

    assert told.keys() == set(Query.__struct_fields__)
    for name, default in told.items():
        value = getattr(plain_query, name)
        assert default in (json.dumps(value), str(value)), name


def test_every_word_and_header_is_there():
    spoken = words(TEXT)
    ours = {value for name, value in vars(headers).items() if name.isupper() and value.startswith("Rollcall-")}

    assert ours | {str(word) for kind in (Mode, Liveness, Status, ChangeKind) for word in kind} <= spoken
    assert words(section("Update")) >= FIXED


def test_the_times_are_those_of_the_code():
    interval = DEFAULT_TTL / 3
    late = MISSED_IS_SUSPECT + 0.5

    assert f"after {late:g} intervals of silence" in TEXT
    assert f"suspect after {late * interval:g} s and lost after {DEFAULT_TTL:g} s" in TEXT
    assert f"each {interval:g} s by default" in TEXT
    assert f"`loop_lag` of {STUCK_AFTER:g} s or more" in TEXT


def test_the_bounds_of_the_inbox_are_those_of_the_code():
    inbox = shapes.inbox_config(Subjects("r"), 1)

    hours, mebibytes = inbox["max_age"] // 3600 // 10**9, inbox["max_bytes"] >> 20
    assert f"at most {hours} h, {mebibytes} MiB, {inbox['max_msg_size']} bytes each with headers" in TEXT
    assert f"history {shapes.HISTORY}" in TEXT


def test_examples_publish_json_where_a_client_may():
    addresses = [channel["address"] for name, channel in DOCUMENT["channels"].items() if name != "reply"]
    allowed = [re.compile(re.sub(r"\\{\w+\\}", r"[^.]+", re.escape(address))) for address in addresses]
    shells = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).replace("\\\n", " ")

    examples = [shlex.split(line, comments=True) for line in shells.splitlines() if line.startswith("nats ")]

    assert len(examples) >= 8
    for _, _, subject, body, *_ in examples:
        assert any(pattern.fullmatch(subject) for pattern in allowed), subject
        assert not body or json.loads(body), body


async def test_the_example_client_registers_beats_and_leaves(bus, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)

    async with bus.served(), plain(bus) as client:
        await names["main"](bus.url, bus.realm)
        await eventually(lambda: client.changes("a1") == ["registered", "deregistered"])

        assert not client.rejected()
        assert '"liveness": "live"' in capsys.readouterr().out.replace("'", '"')
