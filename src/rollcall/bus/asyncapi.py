"""The protocol as an AsyncAPI 3.0.0 document, from a client's point of view: it *sends* what it publishes.

::

    Subjects ─▶ channels ◀─ messages ◀─ payloads ◀─ Structs of the core
    python -m rollcall.bus.asyncapi > docs/asyncapi.json
"""

import json
from collections.abc import Iterable

from msgspec import Struct

from rollcall.bus import headers as h
from rollcall.bus.schemas import HEADERS, SCHEMAS, Json, payloads
from rollcall.bus.subjects import ROOT, Subjects

QUEUE = "rollcall"
"""The queue group of the workers: one of them answers each question."""

_REALM = "realm"
_at = Subjects(_REALM)


class Message(Struct, frozen=True):
    """What may be said; `payload` names a schema, empty for no payload."""

    payload: str
    summary: str
    headers: tuple[str, ...] = ()


class Channel(Struct, frozen=True):
    """One subject: where, whether a client sends or receives there, what is said, and what is answered."""

    address: str
    action: str
    summary: str
    said: tuple[str, ...]
    answered: tuple[str, ...] = ()
    queue: bool = False


_NAMED = (h.CLIENT, h.COMMAND, h.SENDER)
_SIGNED = (h.SENDER,)
_REFUSED = (h.ERROR_CODE, h.ERROR)
_TOLD = (h.CHANGE, h.REASON, h.EPOCH, h.SEQUENCE, h.LAST_SEQUENCE, h.STORED_AT, h.KV_OPERATION)

_MESSAGES = {
    "register": Message("Profile", "What the agent says of itself.", (*_NAMED, h.MODE, h.EXPECTED_REVISION)),
    "update": Message("Patch", "What changes.", (*_NAMED, h.EXPECTED_REVISION, h.INCARNATION, h.BEAT, h.SUCCESSOR)),
    "deregister": Message("Goodbye", "Empty, or the reason.", (*_NAMED, h.INCARNATION)),
    "queued": Message("PubAck", "The server's word that the command waits in the inbox."),
    "heartbeat": Message("Beat", "Empty, or how the agent feels.", _SIGNED),
    "heartbeats": Message("Beats", "The agents that beat."),
    "hello": Message("Hello", "Empty, or which life asks.", _SIGNED),
    "greeted": Message("Greeted", "What the leader knows of the agent."),
    "query": Message("Query", "Empty, or what is asked.", _SIGNED),
    "freshness": Message("Freshness", "Empty, or how new the answer must be.", _SIGNED),
    "historyQuery": Message("HistoryQuery", "Empty, or how many.", _SIGNED),
    "asOfQuery": Message("AsOf", "Empty, or which moment is meant.", _SIGNED),
    "sinceQuery": Message("SinceQuery", "Empty, or what the client has.", _SIGNED),
    "page": Message("Page", "The agents that fit."),
    "found": Message("Found", "The agent."),
    "history": Message("History", "The agent's changes."),
    "caught": Message("Caught", "What changed since."),
    "past": Message("Past", "Who was on the roll."),
    "info": Message("Info", "The state of the registry."),
    "error": Message("Error", "Why there is no answer.", _REFUSED),
    "change": Message("Record", "The record after the change; the last one of an agent that is gone.", _TOLD),
    "accepted": Message("Entry", "The agent as it stands now.", (h.COMMAND, h.CHANGE, h.EPOCH)),
    "refused": Message("Error", "Why the command did not happen.", (h.COMMAND, h.EPOCH, *_REFUSED)),
    "sign": Message("Sign", "What to believe of the agent."),
    "beacon": Message("Beacon", "How far the roll is."),
    "rollcall": Message("RollCall", "Empty, or how long agents may take."),
    "letter": Message("Letter", "What is left for the agent."),
    "kept": Message("PubAck", "The server's word that it is kept."),
    "lettersQuery": Message("", "Empty.", _SIGNED),
    "letters": Message("Letters", "The newest messages."),
    "case": Message("Case", "What is asked, and what is held."),
    "judgement": Message("Judgement", "Whether it may happen."),
    "operate": Message("OperatorsWord", "Empty, or whom it is about.", _SIGNED),
    "operated": Message("Operated", "What was done."),
    "ping": Message("", "Empty."),
    "pong": Message("Pong", "The agent lives."),
}

_KEY = "{role}.{id}"
_CHANNELS = {
    "register": Channel(_at.command("register", _KEY), "send", "Take a place.", ("register",), ("queued",)),
    "update": Channel(_at.command("update", _KEY), "send", "Change the own record.", ("update",), ("queued",)),
    "deregister": Channel(_at.command("deregister", _KEY), "send", "Leave.", ("deregister",), ("queued",)),
    "heartbeat": Channel(_at.heartbeat(_KEY), "send", "One sign of life.", ("heartbeat",)),
    "heartbeats": Channel(_at.heartbeats("{host}"), "send", "Signs of life of many agents.", ("heartbeats",)),
    "hello": Channel(_at.hello(_KEY), "send", "Does the leader know me?", ("hello",), ("greeted", "error")),
    "discover": Channel(_at.discover("{role}"), "send", "Who is there?", ("query",), ("page", "error"), True),
    "get": Channel(_at.get("{id}"), "send", "How is this one?", ("freshness",), ("found", "error"), True),
    "list": Channel(_at.list, "send", "Who is there, of every role?", ("query",), ("page", "error"), True),
    "history": Channel(
        _at.history("{id}"), "send", "What happened to it?", ("historyQuery",), ("history", "error"), True
    ),
    "asof": Channel(_at.asof, "send", "Who was there then?", ("asOfQuery",), ("past", "error"), True),
    "since": Channel(_at.since, "send", "What changed?", ("sinceQuery",), ("caught", "error"), True),
    "info": Channel(_at.info, "send", "How is the registry?", ("freshness",), ("info", "error"), True),
    "operate": Channel(_at.operate("{verb}"), "send", "An operator's wish.", ("operate",), ("operated", "error")),
    "message": Channel(_at.message("{id}"), "send", "Leave a message for an agent.", ("letter",), ("kept",)),
    "messages": Channel(
        _at.messages("{id}"), "send", "What was left for it?", ("lettersQuery",), ("letters", "error"), True
    ),
    "policy": Channel(_at.policy, "receive", "May this happen?", ("case",), ("judgement",)),
    "changes": Channel(_at.changes(_KEY), "receive", "An accepted change.", ("change",)),
    "outcome": Channel(_at.outcome("{client}", _KEY), "receive", "What became of a command.", ("accepted", "refused")),
    "rejected": Channel(_at.rejected(_KEY), "receive", "A command or beat was refused.", ("error",)),
    "signs": Channel(_at.signs(_KEY), "receive", "Suspicion begins or ends.", ("sign",)),
    "beacon": Channel(_at.beacon, "receive", "The registry is there.", ("beacon",)),
    "rollcall": Channel(_at.roll_call, "receive", "Announce yourselves again.", ("rollcall",)),
    "ping": Channel(_at.ping("{id}"), "receive", "Is this agent there?", ("ping",), ("pong",)),
}

_PARAMETERS: dict[str, Json] = {
    _REALM: {"description": "An isolated registry on the bus: 1 to 32 of A-Za-z0-9_-.", "default": "default"},
    "role": {
        "description": "The agent's role as a token: bytes outside A-Za-z0-9_- are =XX.",
        "examples": ["worker"],
    },
    "id": {"description": "The agent's id as one token, spelled like the role.", "examples": ["a1", "a=2Fb=2Ec"]},
    "verb": {"description": "What the leader shall do.", "enum": ["release", "call", "pending", "approve", "deny"]},
    "host": {"description": "The token that the agents' records name as their host.", "examples": ["vm-7"]},
    "client": {
        "description": "What Rollcall-Client says: 16 to 64 of A-Za-z0-9_-.",
        "examples": ["c0ffee0123456789"],
    },
}

# Where answers go is the client's own choice, so it has no address.
_REPLY = "reply"


def document() -> Json:
    """The whole document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "rollcall",
            "version": "1.0.0",
            "description": "The roll of living agents on a NATS bus. In words: protocol.md.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"local": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "What `rollcall up` runs."}},
        "channels": {**{name: _channel(channel) for name, channel in _CHANNELS.items()}, _REPLY: _reply_channel()},
        "operations": {name: _operation(name, channel) for name, channel in _CHANNELS.items()},
        "components": {
            "messages": {name: _message(name, message) for name, message in _MESSAGES.items()},
            "parameters": _PARAMETERS,
            "schemas": payloads(),
        },
    }


def _channel(channel: Channel) -> Json:
    address = channel.address.replace(f"{ROOT}.{_REALM}.", f"{ROOT}.{{{_REALM}}}.", 1)
    return {
        "address": address,
        "summary": channel.summary,
        "messages": _messages(channel.said),
        "parameters": {
            name: {"$ref": f"#/components/parameters/{name}"} for name in _PARAMETERS if f"{{{name}}}" in address
        },
    }


def _reply_channel() -> Json:
    answers = {name: None for channel in _CHANNELS.values() for name in channel.answered}
    return {"address": None, "summary": "The reply subject of a request.", "messages": _messages(answers)}


def _messages(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _operation(name: str, channel: Channel) -> Json:
    operation: Json = {"action": channel.action, **_pointing(name, channel.said), "summary": channel.summary}
    if channel.answered:
        operation["reply"] = _pointing(_REPLY, channel.answered)
    if channel.queue:
        operation["bindings"] = {"nats": {"queue": QUEUE, "bindingVersion": "0.1.0"}}
    return operation


def _pointing(channel: str, names: Iterable[str]) -> Json:
    return {
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
    }


def _message(name: str, message: Message) -> Json:
    told: Json = {"name": name, "summary": message.summary}
    if message.headers:
        told["headers"] = {"type": "object", "properties": {header: HEADERS[header] for header in message.headers}}
    if h.COMMAND in message.headers:
        told["correlationId"] = {"location": f"$message.header#/{h.COMMAND}"}
    if message.payload:
        told["payload"] = {"$ref": SCHEMAS + message.payload}
    return told


if __name__ == "__main__":
    print(json.dumps(document(), indent=2))
