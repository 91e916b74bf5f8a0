"""The AsyncAPI document: as committed, complete, whole, and true of what is really said."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from rollcall.bus import asyncapi
from rollcall.bus.subjects import Subjects
from rollcall.core import codec
from rollcall.core.errors import Conflict
from rollcall.core.query import Query
from rollcall.core.records import Beat, Entry, Liveness, Profile, Record
from rollcall.embedded import config
from rollcall.sdk.answers import RollCall
from rollcall.worker import greeting, service
from tests.bus.plain import plain
from tests.conftest import eventually

COMMITTED = Path(__file__).parents[2] / "docs" / "asyncapi.json"
DOCUMENT = json.loads(json.dumps(asyncapi.document()))
SCHEMAS = DOCUMENT["components"]["schemas"]
ADDRESSES = {channel["address"] for channel in DOCUMENT["channels"].values()} - {None}

NOW = "2026-11-20T14:40:00.123Z"
PROFILE = Profile(name="x", capabilities=("ocr",), services=(), metadata={"a": [1, None]}, ttl=None)
RECORD = Record(id="a1", role="worker", name="x", registered_at=NOW, updated_at=NOW)
ENTRY = Entry(id="a1", role="worker", name="x", registered_at=NOW, updated_at=NOW, revision=3, liveness=Liveness.LIVE)
BEACON = {
    "epoch": "1-a",
    "revision": 3,
    "leader": "w1",
    "guard": None,
    "inbox": {"waiting": 0},
    "roles": {"worker": 3},
    "sums": {"worker": 6},
}
SIGNATURE = {"epoch": "1-a", "revision": 3, "worker": "w1", "guard": None}


def fits(schema: str, value: Any) -> bool:
    """Whether `value`, as it travels, is what the document says."""
    whole = {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
    return jsonschema.Draft7Validator(whole).is_valid(json.loads(codec.encode(value)))


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for member in part.values():
            yield from references(member)
    elif isinstance(part, list):
        for item in part:
            yield from references(item)


def resolved(reference: str) -> Any:
    found: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def test_the_committed_document_is_what_the_code_says():
    assert json.loads(COMMITTED.read_text()) == DOCUMENT, (
        "docs/asyncapi.json is old; make it anew: python -m rollcall.bus.asyncapi > docs/asyncapi.json"
    )


def test_every_subject_that_agents_use_has_a_channel():
    subjects = Subjects("r")
    names = {name for name, value in vars(subjects).items() if str(value).startswith("rollcall.r.")}
    asked = {name for name, _ in inspect.getmembers(Subjects, inspect.isfunction) if not name.startswith("_")}
    wanted = {"roll_call": "rollcall"}
    verbs = {subject.split(".")[2] for subject in subjects.commands()}

    # `roll`, `lease` and `pending` are subjects of the workers' own streams; on `peers` and `nonces` workers speak
    # among themselves.
    own = {"command", "commands", "roll", "lease", "pending", "peers", "nonces"}
    told = {wanted.get(name, name) for name in (names | asked) - own} | verbs

    assert told == DOCUMENT["channels"].keys() - {"reply"}


def test_the_bundled_server_lets_across_just_what_the_document_names():
    across = {*config.ASKED, config.HELLO, *config.TOLD, *config.BEATS, *config.ASKED_BACK}

    assert {".".join("*" if "{" in token else token for token in address.split(".")[2:]) for address in ADDRESSES} == (
        across
    )


def test_every_reference_leads_somewhere():
    found = list(references(DOCUMENT))

    assert len(found) > 100
    for reference in found:
        resolved(reference)


def test_the_document_has_the_structure_of_asyncapi_3():
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    for name, operation in DOCUMENT["operations"].items():
        channel = resolved(operation["channel"]["$ref"])
        assert operation["action"] in ("send", "receive"), name
        for message in operation["messages"]:
            assert message["$ref"].startswith(f"{operation['channel']['$ref']}/messages/")
        for answer in operation.get("reply", {}).get("messages", ()):
            assert answer["$ref"].startswith("#/channels/reply/messages/")
        parameters = set(channel["parameters"])
        assert parameters == {token[1:-1] for token in channel["address"].split(".") if token.startswith("{")}
    for name, message in DOCUMENT["components"]["messages"].items():
        assert message.get("headers", {"type": "object"})["type"] == "object", name


def test_every_message_and_every_schema_is_used():
    used = {reference.rpartition("/")[2] for reference in references(DOCUMENT)}

    assert DOCUMENT["components"]["messages"].keys() | SCHEMAS.keys() <= used


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_one(name):
    jsonschema.Draft7Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ("Profile", PROFILE),
        ("Record", RECORD),
        ("Entry", ENTRY),
        ("Beacon", BEACON),
        ("Beat", Beat(cpu_percent=12.5, incarnation=7)),
        ("Query", Query(capabilities=("ocr",), pick=2)),
        ("Beats", [("worker.a1", 0), ("worker.a2", 5)]),
        ("Greeted", greeting.Greeted(True, False, "1-a", 3)),
        ("Page", {"agents": [ENTRY], "count": 1, "next": None, **SIGNATURE}),
        ("Page", {"not_modified": True, **SIGNATURE}),
        ("Error", {"error": Conflict.code, "message": "taken", "holder": {"id": "a1"}, "revision": 3}),
    ],
)
def test_what_is_right_fits(schema, value):
    assert fits(schema, value)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ("Profile", {}),
        ("Profile", {"name": "x", "ttl": 0}),
        ("Profile", {"name": "x", "status": "asleep"}),
        ("Record", PROFILE),
        ("Entry", RECORD),
        ("Beacon", {**BEACON, "roles": ["worker"]}),
        ("Beacon", {"epoch": "1-a"}),
        ("Beat", {"cpu_percent": "much"}),
        ("Query", {"limit": 0}),
        ("Beats", [("worker.a1",)]),
        ("Page", {"agents": [RECORD], "count": 1, "next": None, **SIGNATURE}),
        ("Page", {"agents": [ENTRY]}),
        ("Error", {"error": "oops", "message": "no such code"}),
    ],
)
def test_what_is_wrong_does_not_fit(schema, value):
    assert not fits(schema, value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Hello", greeting.Hello),
        ("Greeted", greeting.Greeted),
        ("HistoryQuery", service.HistoryQuery),
        ("SinceQuery", service.SinceQuery),
        ("RollCall", RollCall),
    ],
)
def test_a_schema_by_hand_has_the_fields_and_defaults_of_its_struct(name, kind):
    _, made = msgspec.json.schema_components([kind])
    fields = made[kind.__name__]["properties"]

    assert SCHEMAS[name]["properties"].keys() == fields.keys()
    for field, schema in fields.items():
        assert SCHEMAS[name]["properties"][field].get("default") == schema.get("default")
        assert SCHEMAS[name]["properties"][field]["type"] == schema["type"]


def test_questions_go_to_the_queue_group_of_the_workers():
    queued = {name for name, operation in DOCUMENT["operations"].items() if "bindings" in operation}

    assert service.QUEUE == asyncapi.QUEUE
    assert queued == {"discover", "get", "list", "history", "since", "asof", "messages", "info"}


async def test_what_a_real_registry_says_fits(bus):
    async with bus.served(), plain(bus) as client:
        await client.client.subscribe(f"{client.root}.beacon", cb=client._hear)
        await client.ask("register.worker.a1", {"name": "x"})
        await client.ask("register.worker.a1", {"name": "x", "incarnation": 5})
        await client.send("heartbeat.worker.a1", {"loop_lag": 7.5})
        await client.send("heartbeat.worker.nobody")
        answers = {
            "Page": ("discover.worker", {"explain": True, "include": ["all"]}),
            "Found": ("get.a1", b""),
            "History": ("history.a1", b""),
            "Caught": ("since", b""),
            "Past": ("asof", b""),
            "Info": ("info", b""),
            "Greeted": ("hello.worker.a1", b""),
            "Error": ("get.nobody", b""),
        }
        for schema, (subject, question) in answers.items():
            assert fits(schema, await client.question(subject, question)), schema
        info = await client.question("info")
        told = await client.question("since", {"epoch": info["epoch"], "revision": 0})
        await client.ask("deregister.worker.a1", {"reason": "über"})
        schemas = {"changes": "Record", "rejected": "Error", "signs": "Sign", "beacon": "Beacon"}
        await eventually(lambda: schemas.keys() <= {message.subject.split(".")[2] for message in client.heard})

        assert fits("Caught", told) and told["changes"]
        for message in client.heard:
            kind = message.subject.split(".")[2]
            outcome = "Error" if "Nats-Service-Error" in (message.headers or {}) else "Entry"
            assert fits(schemas.get(kind, outcome), json.loads(message.data)), message.subject
            for header, schema in asyncapi.HEADERS.items():
                if header in (message.headers or {}):
                    jsonschema.validate(message.headers[header], schema)
