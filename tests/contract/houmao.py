"""What the tests of the houmao dialect share: records as Houmao writes them, and changing one in a single place."""

import copy
import json
import re
import shutil
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from rollcall import Entry, Invalid

Json = Any  # whatever JSON can hold
Document = dict[str, Any]
Place = tuple[str, ...]

NOW = datetime(2026, 5, 4, 10, 0, tzinfo=UTC)
GONE: Final = object()
"""In place of a value: the key itself is taken out."""

GATEWAY: Document = {
    "host": "127.0.0.1",
    "port": 43123,
    "state_path": "/home/ada/.houmao/runtime/gpu/gateway/state.json",
    "protocol_version": "v1",
}
FILESYSTEM: Document = {
    "transport": "filesystem",
    "principal_id": "HOUMAO-gpu",
    "address": "gpu@agents.localhost",
    "filesystem_root": "/home/ada/.houmao/mailbox",
    "bindings_version": "2026-05-04T09:59:00.000001Z",
}
STALWART: Document = {
    "transport": "stalwart",
    "principal_id": "HOUMAO-gpu",
    "address": "gpu@agents.localhost",
    "bindings_version": "2026-05-04T09:59:00.000001Z",
    "jmap_url": "http://127.0.0.1:8080/jmap",
    "management_url": "http://127.0.0.1:8080/api",
    "login_identity": "gpu",
    "credential_ref": "stalwart-gpu",
}
LIVE = ("active", "relaunching")
OVER = ("stopped", "retired")
STATES = (*LIVE, *OVER)


def stamp(at: datetime) -> str:
    """A time as it stands in a record."""
    return at.astimezone(UTC).isoformat(timespec="seconds")


def ago(**span: float) -> str:
    """A time before NOW."""
    return stamp(NOW - timedelta(**span))


def ahead(**span: float) -> str:
    """A time after NOW."""
    return stamp(NOW + timedelta(**span))


def document(
    state: str = "active",
    *,
    id: str = "gpu-1",
    name: str = "gpu",
    generation: str = "gen-1",
    session: str = "gpu-1777888800000",
    until: str = ahead(hours=24),
    **more: Json,
) -> Document:
    """A record v3 in one of the four states."""
    live = state in LIVE
    return {
        "schema_version": 3,
        "agent_name": name,
        "agent_id": id,
        "generation_id": generation,
        "lifecycle": {
            "state": state,
            "relaunchable": state != "retired",
            "state_updated_at": ago(hours=1),
            "stopped_at": None if live else ago(hours=1),
            "stop_reason": {"stopped": "operator_stop", "retired": "cleanup_session"}.get(state),
        },
        "identity": {"backend": "claude_headless", "tool": "claude"},
        "runtime": {
            "manifest_path": f"/home/ada/.houmao/runtime/{id}/manifest.json",
            "session_root": f"/home/ada/.houmao/runtime/{id}",
            "agent_def_dir": "/home/ada/project/.houmao/agents",
        },
        "terminal": {"kind": "tmux", "current_session_name": session if live else None, "last_session_name": session},
        "liveness": {"published_at": ago(hours=1), "lease_expires_at": until} if live else None,
        "gateway": None,
        "mailbox": None,
        **more,
    }


def legacy(**more: Json) -> Document:
    """A record v2."""
    return {
        "schema_version": 2,
        "agent_name": "gpu",
        "agent_id": "gpu-1",
        "generation_id": "gen-1",
        "published_at": ago(hours=1),
        "lease_expires_at": ahead(hours=23),
        "identity": {"backend": "claude_headless", "tool": "claude"},
        "runtime": {
            "manifest_path": "/home/ada/.houmao/runtime/gpu-1/manifest.json",
            "session_root": "/home/ada/.houmao/runtime/gpu-1",
            "agent_def_dir": None,
        },
        "terminal": {"kind": "tmux", "session_name": "gpu-1777888800000"},
        "gateway": None,
        "mailbox": None,
        **more,
    }


IDENTITY_TEXTS = (
    *("session_name", "terminal_id", "runtime_session_id", "tmux_session_name", "tmux_window_name", "manifest_path"),
    *("session_root", "agent_name", "agent_id", "external_agent_id", "remote_pair_api_base_url", "remote_agent_ref"),
)


def foreign(
    *, id: str = "external-0123456789abcdef0123456789abcdef", name: str = "far", generation: str = "gen-1", **more: Json
) -> Document:
    """A record of an external agent."""
    return {
        "schema_version": 1,
        "kind": "external_communication_only",
        "local_name": name,
        "external_agent_id": id,
        "generation_id": generation,
        "pair_api_base_url": "http://10.0.0.7:9889",
        "remote_agent_ref": "gpu",
        "gateway_expected": False,
        "lifecycle_owner": "remote",
        "created_at_utc": ago(hours=2),
        "updated_at_utc": ago(hours=1),
        "verified_at_utc": ago(hours=1),
        "cached_identity": {
            "tracked_agent_id": "gpu-1",
            "transport": "tui",
            "tool": "claude",
            **dict.fromkeys(IDENTITY_TEXTS),
            "lifecycle_state": None,
            "management_kind": None,
            "lifecycle_owner": None,
        },
        **more,
    }


def text(of: Json) -> bytes:
    """As Houmao writes it."""
    return (json.dumps(of, indent=2, sort_keys=True) + "\n").encode()


def at(of: Document, place: str) -> Json:
    """The value at a place such as `lifecycle.state`."""
    for name in place.split("."):
        of = of[name]
    return of


def with_(of: Document, place: str, value: Json = GONE) -> Document:
    """A copy that differs at one place; without a value the key is taken out."""
    new = copy.deepcopy(of)
    *above, last = place.split(".")
    inner = at(new, ".".join(above)) if above else new
    if value is GONE:
        del inner[last]
    else:
        inner[last] = value
    return new


def places(of: Document, above: str = "") -> list[str]:
    """Every place of a document that holds a value of its own."""
    deep = ((f"{above}{name}", value) for name, value in of.items())
    found = (places(value, f"{place}.") if isinstance(value, dict) else [place] for place, value in deep)
    return [place for inner in found for place in inner]


def objects(of: Document, above: str = "") -> list[str]:
    """Every place of a document that holds an object; "" is the document itself."""
    inner = (objects(value, f"{above}{name}.") for name, value in of.items() if isinstance(value, dict))
    return [above.rstrip("."), *(place for found in inner for place in found)]


FULL = document(gateway=GATEWAY, mailbox=STALWART)
FULL_V2 = legacy(gateway=GATEWAY, mailbox=FILESYSTEM)
RECORDS = {
    **{state: document(state) for state in STATES},
    "gateway": document(gateway=GATEWAY),
    "gateway of all addresses": document(gateway=GATEWAY | {"host": "0.0.0.0"}),
    "filesystem mailbox": document(mailbox=FILESYSTEM),
    "stalwart mailbox": document(mailbox=STALWART),
    "stopped with a mailbox": document("stopped", mailbox=STALWART),
    "no pointers but the manifest": with_(
        with_(document(), "runtime.session_root", None), "runtime.agent_def_dir", None
    ),
    "a manifest path that is not absolute": with_(document(), "runtime.manifest_path", "manifest.json"),
    "stopped without a reason": with_(document("stopped"), "lifecycle.stop_reason", None),
    "stopped, not relaunchable": with_(document("stopped"), "lifecycle.relaunchable", False),
    "relaunching, not relaunchable": with_(document("relaunching"), "lifecycle.relaunchable", False),
    "another last session": with_(document(), "terminal.last_session_name", "gpu-1"),
    "a lease that never ends": document(until="2126-04-10T10:00:00+00:00"),
    "a lease that is over": with_(document(until=ago(hours=2)), "liveness.published_at", ago(hours=3)),
    "characters of all kinds": with_(document(), "runtime.manifest_path", '/höme/ada/"\\\n\t😀/manifest.json'),
    "a name of the reserved prefix": document(name="HOUMAO-gpu"),
    "a long id": document(id="g" * 200),
    "a long name": document(name="g" * 300),
    "a long path": with_(document(), "runtime.manifest_path", "/" + "g" * 5000),
    "an address that looks like a time": document(mailbox=FILESYSTEM | {"address": "2026-05-04T10:00:00Z"}),
}

NAMED = with_(
    with_(with_(foreign(), "cached_identity.lifecycle_state", "active"), "cached_identity.lifecycle_owner", "local"),
    "cached_identity.management_kind",
    "local_lifecycle",
)
for _name in IDENTITY_TEXTS:
    NAMED = with_(NAMED, f"cached_identity.{_name}", f"some {_name}")
FOREIGNS = {
    "plain": foreign(),
    "every word of the identity": NAMED,
    "with a gateway": foreign(gateway_expected=True),
    "never verified": foreign(verified_at_utc=None),
    "headless": with_(foreign(), "cached_identity.transport", "headless"),
    "updated when it was created": foreign(updated_at_utc=ago(hours=2), verified_at_utc=ago(hours=2)),
    "verified after it was updated": foreign(verified_at_utc=ahead(hours=1)),
}


Check = Callable[..., Any]


def refusal(check: Check, *given: Any) -> str:
    """With which text something is refused."""
    with pytest.raises(Invalid) as refused:
        check(*given)
    return refused.value.message


def entry_of(fields: Document, **more: Json) -> Entry:
    """An agent as the roll tells it: what was said of it, and what the registry adds."""
    added = {"registered_at": stamp(NOW), "updated_at": stamp(NOW), "revision": 7, "liveness": "live"}
    return msgspec.convert({**fields, **added, **more}, Entry)


def issues(message: str, prefix: str) -> list[tuple[str, str]]:
    """Place and text of each issue after a prefix; `$.a.b` is `a.b`."""
    assert message.startswith(f"{prefix}: "), message
    parts = re.split(r"; (?=\$)", message.removeprefix(f"{prefix}: "))
    pairs = (part.partition(": ")[::2] for part in parts)
    return [(place.removeprefix("$").removeprefix("."), said.removeprefix("Value error, ")) for place, said in pairs]


def today(of: Document, *, lease: timedelta = timedelta(hours=1)) -> Document:
    """The record with a lease of the real present, where it has one."""
    now = datetime.now(UTC)
    liveness = {"published_at": stamp(now - timedelta(seconds=5)), "lease_expires_at": stamp(now + lease)}
    return of if of["liveness"] is None else of | {"liveness": liveness}


class Files:
    """A registry directory, as Houmao's own tools leave it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, id: str, kind: str = "live_agents") -> Path:
        return self.root / kind / id / "record.json"

    def put(self, *records: Document) -> None:
        """Writes records where they belong, by a rename, as whoever reads meanwhile would see a part."""
        for of in records:
            kind, id = (
                ("live_agents", of["agent_id"]) if "agent_id" in of else ("external_agents", of["external_agent_id"])
            )
            self.put_bytes(id, text(of), kind)

    def put_bytes(self, id: str, data: bytes, kind: str = "live_agents") -> None:
        path = self.path(id, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"record.json.{uuid.uuid4().hex}.tmp")
        beside.write_bytes(data)
        beside.replace(path)

    def read(self, id: str, kind: str = "live_agents") -> Document | None:
        """The record that stands there; None for none."""
        try:
            return json.loads(self.path(id, kind).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def edit(self, id: str, place: str, value: Json) -> Document:
        """Somebody changes a record."""
        of = with_(self.read(id) or {}, place, value)
        self.put(of)
        return of

    def remove(self, id: str, kind: str = "live_agents") -> None:
        shutil.rmtree(self.path(id, kind).parent)

    def state(self) -> dict[str, tuple[bytes, int, int]]:
        """Each file: its bytes, when it was written, and which file it is; equal when nobody wrote any."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            if path.is_file():
                stat = path.stat()
                found[str(path.relative_to(self.root))] = (path.read_bytes(), stat.st_mtime_ns, stat.st_ino)
        return found
