"""What every payload and header looks like, as JSON Schema: made from the Structs where one is, else written here."""

from inspect import cleandoc
from typing import Any, TypeAlias

import msgspec

from rollcall.bus import headers as h
from rollcall.core.commands import Mode
from rollcall.core.errors import BY_CODE
from rollcall.core.guard import Guarding
from rollcall.core.healing import Healed
from rollcall.core.query import Query
from rollcall.core.records import Beat, Change, ChangeKind, Entry, Health, Liveness, Profile, Record

# Any: JSON Schema is free-form JSON.
Json: TypeAlias = dict[str, Any]

SCHEMAS = "#/components/schemas/"
"""Where the document keeps what `payloads` returns."""

_TEXT: Json = {"type": "string"}
_WHOLE: Json = {"type": "integer", "minimum": 0}
_FLAG: Json = {"type": "boolean"}
_NOTHING: Json = {"type": "null"}
_ANYTHING: Json = {"type": "object"}
_COUNTS: Json = {"type": "object", "additionalProperties": _WHOLE}


def _ref(name: str) -> Json:
    return {"$ref": SCHEMAS + name}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _maybe(schema: Json) -> Json:
    return {"anyOf": [schema, _NOTHING]}


def _object(meaning: str, required: str = "", **members: Json) -> Json:
    schema: Json = {"description": meaning, "type": "object", "properties": members}
    return {**schema, "required": required.split()} if required else schema


def _signed(schema: Json) -> Json:
    return {"description": schema["description"], "allOf": [_ref("Signature"), schema]}


_ASKED_LIMIT: Json = {"type": "integer", "minimum": 1, "maximum": Query().limit}
_EXPLAINED = _object("Why an agent was kept or not.", "id role kept why", id=_TEXT, role=_TEXT, kept=_FLAG, why=_TEXT)

# By hand, each because no Struct of the core is it; the tests compare those that a floor above us keeps as a Struct.
_BY_HAND: dict[str, Json] = {
    # Made by `codec.encode_error` from an exception.
    "Error": _object(
        "What happened, to whom, and the next step.",
        "error message",
        error={"enum": sorted(BY_CODE)},
        message=_TEXT,
        command={**_TEXT, "description": "In a refusal: the verb that was refused."},
        subject={**_TEXT, "description": "Where the command came, if its tokens spell no name."},
        holder={**_ANYTHING, "description": "In a conflict: who holds the place."},
        revision={**_WHOLE, "description": "In a conflict: the revision that stands."},
    ),
    # What the server, not we, answers to a publish into a stream.
    "PubAck": _object("Queued, or why not.", stream=_TEXT, seq=_WHOLE, duplicate=_FLAG, error=_ANYTHING),
    # A merge patch is any object; what may be in it is what a profile may hold.
    "Patch": {**_ANYTHING, "description": "A JSON merge patch (RFC 7396) on the record."},
    # Read member by member in `bus.inbox`.
    "Goodbye": _object("Why the agent leaves.", reason=_TEXT),
    # A plain list on the hot path; in the array form of draft 7, which AsyncAPI speaks.
    "Beats": {
        "description": "Beats of many agents of one host: the key <role>.<id> in tokens, and the incarnation or 0.",
        **_list({"type": "array", "items": [_TEXT, _WHOLE], "minItems": 2, "maxItems": 2}),
    },
    # The Structs of these live with the worker, above us.
    "Hello": _object("Which life of the agent asks; 0 means any.", incarnation={"type": "integer", "default": 0}),
    "Greeted": _object(
        "Whether this life is on the roll, and whether another one took its place.",
        "known superseded epoch revision",
        known=_FLAG,
        superseded=_FLAG,
        epoch=_TEXT,
        revision=_WHOLE,
    ),
    "HistoryQuery": _object("How many changes, the newest.", limit={**_ASKED_LIMIT, "default": 100}),
    "SinceQuery": _object(
        "Which changes a client has: all of `role` (empty: of every role) up to `revision` of `epoch`.",
        epoch={**_TEXT, "default": ""},
        revision={"type": "integer", "default": 0},
        role={**_TEXT, "default": ""},
        limit={**_ASKED_LIMIT, "default": Query().limit},
        cursor={**_TEXT, "default": ""},
    ),
    "AsOf": _object(
        "Which state of the roll: the one `at` a time, or after a `revision` of `epoch`; without both the present one.",
        at={**_TEXT, "default": ""},
        revision=_maybe(_WHOLE),
        epoch={**_TEXT, "default": ""},
        role={**_TEXT, "default": ""},
        id={**_TEXT, "default": ""},
        limit={**_ASKED_LIMIT, "default": Query().limit},
        cursor={**_TEXT, "default": ""},
    ),
    "Moment": _object(
        "A state of a roll, and when it came about.", "epoch revision at", epoch=_TEXT, revision=_WHOLE, at=_TEXT
    ),
    "Freshness": _object("Which revision the answer must know at least.", at_least=_maybe(_WHOLE), epoch=_TEXT),
    # Answers are put together from ready bytes, never from one Struct.
    "Signature": _object(
        "What every answer says: which worker, how much of which roll it knows, and the guard, null while it rests.",
        "epoch revision worker guard",
        epoch=_TEXT,
        revision=_WHOLE,
        worker=_TEXT,
        guard=_maybe(_ref("Guarding")),
    ),
    "Page": _signed(
        _object(
            "Agents, one page of them; or `not_modified` alone, in answer to `if_revision`.",
            agents=_list(_ref("Entry")),
            count=_WHOLE,
            next=_maybe(_TEXT),
            explained=_list(_EXPLAINED),
            not_modified=_FLAG,
        )
    ),
    "Found": {"description": "One agent, to the moment.", "allOf": [_ref("Entry"), _ref("Signature")]},
    "History": _signed(
        _object(
            "Changes of one agent, oldest first; and commands about it that a judge or an operator refused.",
            "changes refusals",
            changes=_list(_ref("Change")),
            refusals=_list(_ANYTHING),
            begins=_maybe(_ref("Moment")),
        )
    ),
    "Past": _signed(
        _object(
            "Agents as they stood at a moment, one page of them; `begins` is how far this worker remembers.",
            "agents count asof begins",
            agents=_list(_ref("Entry")),
            count=_WHOLE,
            next=_maybe(_TEXT),
            asof=_ref("Moment"),
            begins=_maybe(_ref("Moment")),
        )
    ),
    "Letter": _object(
        "A message to an agent.",
        "to type content data timestamp id",
        to=_TEXT,
        type=_TEXT,
        content=_TEXT,
        data={},
        timestamp=_TEXT,
        id=_TEXT,
    ),
    "Letters": _signed(_object("Messages to one agent, newest first.", "messages", messages=_list(_ref("Letter")))),
    "Case": _object(
        "A command that somebody has to judge: a `profile`, a `patch` or a `reason`, by the verb.",
        "verb role id held",
        verb={"enum": ["register", "update", "deregister"]},
        role=_TEXT,
        id=_TEXT,
        signer=_TEXT,
        held=_maybe(_ref("Record")),
        profile=_ref("Profile"),
        patch=_ANYTHING,
        reason=_TEXT,
    ),
    "Judgement": _object("Whether a command may happen, and why not.", "allow", allow=_FLAG, reason=_TEXT),
    "OperatorsWord": _object(
        "Whom it is about, in `approve` and `deny`; in `revoke` the `key`; in `restore` a part of a backup.",
        upload=_TEXT,
        number=_WHOLE,
        places=_list(_ANYTHING),
        last=_FLAG,
        made_at=_TEXT,
        dry_run=_FLAG,
        id=_TEXT,
        reason=_TEXT,
        by=_TEXT,
        key=_TEXT,
    ),
    "Caught": _signed(
        _object(
            "Changes after a position; or with `too_old` the agents themselves, page by page.",
            "too_old",
            too_old=_FLAG,
            changes=_list(_ref("Change")),
            upto=_WHOLE,
            more=_FLAG,
            agents=_list(_ref("Entry")),
            count=_WHOLE,
            next=_maybe(_TEXT),
            healed=_maybe(_ref("Healed")),
        )
    ),
    "Info": _signed(
        _object(
            "The state of the registry, as one worker sees it.",
            realm=_TEXT,
            version=_TEXT,
            leader=_TEXT,
            time=_TEXT,
            started_at=_TEXT,
            snapshot=_TEXT,
            durable=_WHOLE,
            agents=_WHOLE,
            tombstones={**_WHOLE, "description": "Agents that left of late."},
            forget_after={"type": "number", "description": "Seconds for which a lost agent is kept."},
            beats=_WHOLE,
            counts={**_ANYTHING, "description": "What the worker counted and timed since it started."},
            leads=_FLAG,
            connection_evidence={**_TEXT, "description": "`on`, or why not and what to do."},
            liveness=_COUNTS,
            roles=_COUNTS,
            inbox=_maybe(_COUNTS),
            trouble={**_maybe(_TEXT), "description": "Why nothing reaches the disk; null while all is well."},
            healing={**_maybe(_TEXT), "description": "Why the roll is being made anew; null while it is sound."},
            healed=_maybe(_ref("Healed")),
        )
    ),
    "Sign": _object(
        "An agent begins or ends to be suspect, stuck or flapping.",
        "liveness last_seen revision flapping",
        liveness=_ref("Liveness"),
        last_seen=_maybe(_TEXT),
        revision=_WHOLE,
        flapping=_FLAG,
    ),
    "Operated": _object(
        "What was done: `released` and the guard that was; how many `agents` are called within `window` seconds; "
        "what is `pending`; whether a command was `approved`; or what a backup brings back.",
        taken=_WHOLE,
        restored=_WHOLE,
        unchanged=_WHOLE,
        conflicts=_list(_ANYTHING),
        dry_run=_FLAG,
        epoch=_TEXT,
        pending=_list(_ANYTHING),
        approved=_FLAG,
        released=_FLAG,
        guard=_maybe(_ref("Guarding")),
        agents=_WHOLE,
        window={"type": "number"},
    ),
    "Beacon": _object(
        "The leader's word: how far the roll is, and the last revision that touched each role.",
        "epoch revision leader guard inbox roles sums",
        epoch=_TEXT,
        revision=_WHOLE,
        leader=_TEXT,
        guard=_maybe(_ref("Guarding")),
        inbox=_COUNTS,
        roles=_COUNTS,
        sums={**_COUNTS, "description": "The revisions of all changes of a role that this leader folded, summed up."},
    ),
    # These two Structs live with the SDK, above us.
    "RollCall": _object("Announce yourself again within `window` seconds.", "window", window={"type": "number"}),
    "Pong": _object("A sign of life on demand.", incarnation=_WHOLE, loop_lag={"type": "number"}),
}

_NUMBER: Json = {"type": "string", "pattern": "^[0-9]{1,19}$"}
HEADERS: dict[str, Json] = {
    h.MODE: {**_TEXT, "enum": [str(mode) for mode in Mode], "default": str(Mode.CLAIM)},
    h.CLIENT: {**_TEXT, "pattern": "^[A-Za-z0-9_-]{16,64}$", "description": "The token under which outcomes come."},
    h.COMMAND: {**_TEXT, "description": "The client's own name for the command; the outcome repeats it."},
    h.INCARNATION: {**_NUMBER, "description": "Refuse unless the record is of this life."},
    h.EXPECTED_REVISION: {
        **_NUMBER,
        "description": "Refuse unless the agent stands at this revision; 0: at none.",
    },
    h.SENDER: {**_TEXT, "description": "Who sends this, signed: Agent-Sender of the Synadia Agent Protocol for NATS."},
    h.SUCCESSOR: {**_TEXT, "description": "Agent-Sender of the key that the agent is handed over to, signed by it."},
    h.BEAT: {**_TEXT, "enum": ["1"], "description": "The update is a sign of life too."},
    h.CHANGE: {**_TEXT, "description": f"{', '.join(ChangeKind)}; in an outcome also unchanged."},
    h.REASON: {**_TEXT, "description": "Why, as percent-encoded UTF-8."},
    h.EPOCH: {**_TEXT, "description": "Which roll."},
    h.ERROR_CODE: {**_TEXT, "enum": sorted(str(kind.status) for kind in BY_CODE.values())},
    h.ERROR: {**_TEXT, "enum": sorted(BY_CODE)},
    h.SEQUENCE: {**_NUMBER, "description": "The revision of the change."},
    h.LAST_SEQUENCE: {**_NUMBER, "description": "The agent's revision before this one; 0 for none."},
    h.STORED_AT: {**_TEXT, "format": "date-time", "description": "When the server stored it."},
    h.KV_OPERATION: {**_TEXT, "enum": ["PURGE"], "description": "There when the agent is gone."},
}


_STRUCTS = (Profile, Record, Entry, Health, Beat, Query, Change, Liveness, Guarding, Healed)


def payloads() -> dict[str, Json]:
    """The schemas of all payloads, by name."""
    _, made = msgspec.json.schema_components(_STRUCTS, ref_template=SCHEMAS + "{name}")
    # Answers write the instant as text; see core.instants.
    made["Change"]["properties"]["at"] = _TEXT
    return {name: _clean(schema) for name, schema in sorted({**made, **_BY_HAND}.items())}


def _clean(schema: Json) -> Json:
    return {**schema, "description": cleandoc(schema["description"]).replace("``", "`")}
