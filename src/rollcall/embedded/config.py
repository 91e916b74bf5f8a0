"""The configuration of the bundled server: three accounts, and just what crosses between them.

::

    AGENTS  --commands, hello, the questions, messages----------->   REGISTRY   (services)
    AGENTS  --heartbeat, heartbeats----------------------------->    REGISTRY   (streams: cheap, many)
    REGISTRY --changes, outcome, rejected, signs, beacon, rollcall--> AGENTS    (streams)
    REGISTRY --ping, policy----------------------------------------> AGENTS     (services)
    SYS      --connect, disconnect; connz--------------------------> REGISTRY

Streams live in REGISTRY, so nobody but a worker can touch one, whatever he publishes.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from msgspec import Struct

from rollcall.bus.subjects import ROOT

Document: TypeAlias = dict[str, Any]  # Any: the server's own form

ASKED = (
    "register.*.*",
    "update.*.*",
    "deregister.*.*",
    "discover.*",
    "get.*",
    "history.*",
    "list",
    "since",
    "asof",
    "info",
    "message.*",
    "messages.*",
    "operate.*",
)
"""What agents may ask of the registry."""

HELLO = "hello.*.*"
"""Asked too, but with the connection's identity stamped on by the server."""

TOLD = ("changes.*.*", "outcome.*.*.*", "rejected.*.*", "signs.*.*", "beacon", "rollcall")
"""What the registry tells agents."""

BEATS = ("heartbeat.*.*", "heartbeats.*")
"""What agents send without an answer."""

ASKED_BACK = ("ping.*", "policy")
"""What the registry asks of agents: whether they live, and of a judge whether a command may happen."""

AGENT_USER = "agent"
"""Who comes without a key is this user of AGENTS."""


def _of_any_realm(subject: str) -> str:
    return f"{ROOT}.*.{subject}"


AGENT_PERMISSIONS = {
    "publish": {"deny": [_of_any_realm(subject) for subject in TOLD]},
    "subscribe": {"deny": [_of_any_realm(subject) for subject in (*ASKED, HELLO)]},
}
"""What the registry tells nobody else may tell, and what it is asked nobody else may answer: forged ones deceive."""


class ServerTls(Struct, frozen=True):
    """The server's own certificate and key, as PEM files; with `ca`, clients have to show one of that authority."""

    cert: str
    key: str
    ca: str = ""


class ServerSettings(Struct, frozen=True, kw_only=True):
    """What the bundled server is told. `port` -1 means a free one; `access` says who may sign in."""

    store_dir: str
    host: str
    port: int
    access: Document
    name: str
    tls: ServerTls | None = None


def render(settings: ServerSettings) -> str:
    """The configuration file. JSON is a form of it that the server reads."""
    return json.dumps(_document(settings), indent=2) + "\n"


def open_access(worker_key: str, system_key: str) -> Document:
    """Workers sign in with a key; whoever comes without one is an agent."""
    users = {
        "SYS": {"nkey": system_key},
        "REGISTRY": {"nkey": worker_key},
        "AGENTS": {"user": AGENT_USER, "password": "", "permissions": AGENT_PERMISSIONS},
    }
    accounts = {name: {**account, "users": [users[name]]} for name, account in ACCOUNTS.items()}
    return {"system_account": "SYS", "no_auth_user": AGENT_USER, "accounts": accounts}


def crossings(name: str, keys: Mapping[str, str]) -> tuple[list[Document], list[Document]]:
    """What an account exports and imports, as its JWT says it; `keys` are the public keys of the accounts."""
    exports, imports = ACCOUNTS[name].get("exports", []), ACCOUNTS[name].get("imports", [])
    return [_exported(one, keys) for one in exports], [_imported(one, keys) for one in imports]


def _exported(one: Document, keys: Mapping[str, str]) -> Document:
    kind = "service" if "service" in one else "stream"
    told = {"name": one[kind], "subject": _spelled(one[kind], keys), "type": kind}
    return {**told, "response_type": "Stream"} if "response_type" in one else told


def _imported(one: Document, keys: Mapping[str, str]) -> Document:
    kind = "service" if "service" in one else "stream"
    subject, account = one[kind]["subject"], one[kind]["account"]
    told = {"name": subject, "subject": _spelled(subject, keys), "account": keys[account], "type": kind}
    if told["subject"] != subject:
        told["local_subject"] = subject
    return {**told, "share": True} if one.get("share") else told


def _spelled(subject: str, keys: Mapping[str, str]) -> str:
    """The server names accounts by their keys where a JWT makes them."""
    return ".".join(keys.get(part, part) for part in subject.split("."))


def _document(settings: ServerSettings) -> Document:
    told = {
        "server_name": settings.name,
        "listen": f"{settings.host}:{settings.port}",
        "jetstream": {"store_dir": settings.store_dir},
        "ping_interval": "5s",
        "ping_max": 2,
        # What a user may publish and hear is not in it, but its JWT, its name and its signature are.
        "max_control_line": 32768,
        **settings.access,
    }
    if settings.tls is not None:
        told["tls"] = _tls(settings.tls)
    return told


def _tls(tls: ServerTls) -> Document:
    told = {"cert_file": tls.cert, "key_file": tls.key}
    return {**told, "ca_file": tls.ca, "verify": True} if tls.ca else told


def _system() -> Document:
    return {
        "exports": [
            {"stream": "$SYS.ACCOUNT.AGENTS.CONNECT", "accounts": ["REGISTRY"]},
            {"stream": "$SYS.ACCOUNT.AGENTS.DISCONNECT", "accounts": ["REGISTRY"]},
            # Each server of a cluster answers for its own connections.
            {"service": "$SYS.REQ.ACCOUNT.AGENTS.CONNZ", "response_type": "stream", "accounts": ["REGISTRY"]},
        ],
    }


def _registry() -> Document:
    return {
        "jetstream": "enabled",
        "exports": [
            *({"service": _of_any_realm(subject), "accounts": ["AGENTS"]} for subject in (*ASKED, HELLO)),
            {"service": "$SRV.>", "response_type": "stream", "accounts": ["AGENTS"]},
            *({"stream": _of_any_realm(subject), "accounts": ["AGENTS"]} for subject in TOLD),
        ],
        "imports": [
            *({"stream": {"account": "AGENTS", "subject": _of_any_realm(subject)}} for subject in BEATS),
            *({"service": {"account": "AGENTS", "subject": _of_any_realm(subject)}} for subject in ASKED_BACK),
            {"stream": {"account": "SYS", "subject": "$SYS.ACCOUNT.AGENTS.CONNECT"}},
            {"stream": {"account": "SYS", "subject": "$SYS.ACCOUNT.AGENTS.DISCONNECT"}},
            {"service": {"account": "SYS", "subject": "$SYS.REQ.ACCOUNT.AGENTS.CONNZ"}},
        ],
    }


def _agents() -> Document:
    return {
        "exports": [
            *({"stream": _of_any_realm(subject), "accounts": ["REGISTRY"]} for subject in BEATS),
            *({"service": _of_any_realm(subject), "accounts": ["REGISTRY"]} for subject in ASKED_BACK),
        ],
        "imports": [
            *({"service": {"account": "REGISTRY", "subject": _of_any_realm(subject)}} for subject in ASKED),
            {"service": {"account": "REGISTRY", "subject": _of_any_realm(HELLO)}, "share": True},
            {"service": {"account": "REGISTRY", "subject": "$SRV.>"}},
            *({"stream": {"account": "REGISTRY", "subject": _of_any_realm(subject)}} for subject in TOLD),
        ],
    }


ACCOUNTS = {"SYS": _system(), "REGISTRY": _registry(), "AGENTS": _agents()}
