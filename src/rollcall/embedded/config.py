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
from typing import Any

from msgspec import Struct

from rollcall.bus.subjects import ROOT

ASKED = (
    "register.*.*",
    "update.*.*",
    "deregister.*.*",
    "discover.*",
    "get.*",
    "history.*",
    "list",
    "since",
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


class ServerSettings(Struct, frozen=True, kw_only=True):
    """What the bundled server is told. `port` -1 means a free one."""

    store_dir: str
    host: str
    port: int
    worker_key: str
    system_key: str
    name: str


def render(settings: ServerSettings) -> str:
    """The configuration file. JSON is a form of it that the server reads."""
    return json.dumps(_document(settings), indent=2) + "\n"


def _document(settings: ServerSettings) -> dict[str, Any]:
    return {
        "server_name": settings.name,
        "listen": f"{settings.host}:{settings.port}",
        "jetstream": {"store_dir": settings.store_dir},
        "ping_interval": "5s",
        "ping_max": 2,
        "system_account": "SYS",
        "no_auth_user": AGENT_USER,
        "accounts": {
            "SYS": _system(settings.system_key),
            "REGISTRY": _registry(settings.worker_key),
            "AGENTS": _agents(),
        },
    }


def _system(key: str) -> dict[str, Any]:
    return {
        "users": [{"nkey": key}],
        "exports": [
            {"stream": "$SYS.ACCOUNT.AGENTS.CONNECT", "accounts": ["REGISTRY"]},
            {"stream": "$SYS.ACCOUNT.AGENTS.DISCONNECT", "accounts": ["REGISTRY"]},
            # Each server of a cluster answers for its own connections.
            {"service": "$SYS.REQ.ACCOUNT.AGENTS.CONNZ", "response_type": "stream", "accounts": ["REGISTRY"]},
        ],
    }


def _registry(key: str) -> dict[str, Any]:
    return {
        "jetstream": "enabled",
        "users": [{"nkey": key}],
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


def _agents() -> dict[str, Any]:
    return {
        "users": [{"user": AGENT_USER, "password": "", "permissions": AGENT_PERMISSIONS}],
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
