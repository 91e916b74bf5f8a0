"""What the tests of the mindx dialect share: a mindX root with its files, running agents, entries, and their keys."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rollcall.faces.files.mindx import FileWallets, IdentityManager, RegistrySyncTool
from rollcall.faces.files.mindx.wallets import address_of, sign_message, verify_message

KEYS = {number: f"{number:064x}" for number in (1, 2, 3, 4, 5, 6, 7)}
"""Private key n means the 32-byte integer n (section 3)."""

PLACEHOLDERS = ["PENDING_SYNC", "PENDING_FRESH_SYNC", "0x1234567890123456789012345678901234567890"]
INVALID_SIGNATURES = {"of nobody": "00" * 65, "no hex": "PENDING_SYNC", "too short": "ab" * 10, "empty": ""}
FILE_KEYS = ["last_updated_at", "last_updated_by", "registered_agents", "agents_schema_version"]
SYNC_KEYS = {
    *("agents_synced", "keys_updated", "signatures_validated", "errors"),
    *("agents_added", "agents_changed", "conflicts", "sync_id"),
}
IGNORED = ("last_updated", "last_updated_at")
"""What a sync may stamp at any time."""


class Home:
    """The root directory of a mindX, with its registry files and its key store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.agents = root / "data/config/official_agents_registry.json"
        self.tools = root / "data/config/official_tools_registry.json"
        self.keys = root / "data/identity/.wallet_keys.env"
        self.cards = root / "data/memory/a2a_model_cards"

    def write(self, *entries: dict[str, Any], **top: Any) -> "Home":
        """The file of agents, as mindX writes it. An entry stands under its `id`."""
        agents = {entry["id"]: entry for entry in entries}
        return self.text(json.dumps(registry(agents, **top), indent=2))

    def text(self, text: str | bytes) -> "Home":
        """The file of agents, letter by letter."""
        self.agents.parent.mkdir(parents=True, exist_ok=True)
        # By a rename, as whoever reads meanwhile would see a part of it.
        beside = self.agents.with_name("written-by-the-test")
        beside.write_bytes(text.encode() if isinstance(text, str) else text)
        beside.replace(self.agents)
        return self

    def write_tools(self, **tools: dict[str, Any]) -> "Home":
        self.tools.parent.mkdir(parents=True, exist_ok=True)
        content = {"registered_tools": tools, "identity_sync_version": "1.0.0"}
        self.tools.write_text(json.dumps(content, indent=2))
        return self

    def read(self) -> dict[str, Any]:
        return json.loads(self.agents.read_text())

    @property
    def entries(self) -> dict[str, Any]:
        return self.read()["registered_agents"]

    def entry(self, id: str) -> dict[str, Any]:
        return self.entries[id]

    def edit(self, id: str, /, **fields: Any) -> None:
        """Somebody changes fields of an entry by hand; an id that is not there is added."""
        content = self.read()
        content["registered_agents"].setdefault(id, {"id": id}).update(fields)
        self.text(json.dumps(content, indent=2))

    def remove(self, id: str) -> None:
        """Somebody takes an entry out by hand."""
        content = self.read()
        del content["registered_agents"][id]
        self.text(json.dumps(content, indent=2))

    def state(self) -> tuple[bytes, int, int]:
        """The bytes of the file, when they were written, and which file it is: equal when nobody wrote it."""
        stat = self.agents.stat()
        return self.agents.read_bytes(), stat.st_mtime_ns, stat.st_ino

    def tree(self) -> dict[str, bytes]:
        """Every file under the root."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }

    def hold(self, id: str, number: int) -> "Home":
        """The key store holds private key `number` for an entity."""
        self.keys.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.keys.parent.chmod(0o700)
        with self.keys.open("a") as file:
            file.write(f"{env_var(id)}={KEYS[number]}\n")
        self.keys.chmod(0o600)
        return self

    def held(self) -> dict[str, str]:
        """The private key of each line of the key store."""
        if not self.keys.exists():
            return {}
        lines = [line for line in self.keys.read_text().splitlines() if line.startswith("MINDX_WALLET_PK_")]
        return dict(line.split("=", 1) for line in lines)

    def wallets(self) -> FileWallets:
        return FileWallets(self.keys)

    def manager(self) -> IdentityManager:
        return IdentityManager(self.wallets())


def env_var(id: str) -> str:
    """The name of a line of the key store."""
    return "MINDX_WALLET_PK_" + re.sub(r"\W+", "_", id).upper()


def registry(agents: Mapping[str, Any], **top: Any) -> dict[str, Any]:
    """The content of a file of agents."""
    usual = {"last_updated_at": 1.5, "last_updated_by": "somebody"}
    return {**usual, "registered_agents": dict(agents), "agents_schema_version": "2.0", **top}


def entry(id: str, **said: Any) -> dict[str, Any]:
    """An entry as mindX writes it, without an identity unless that is said."""
    usual = {
        "id": id,
        "name": f"Name of {id}",
        "type": "worker",
        "description": f"What {id} does",
        "version": "1.0.0",
        "enabled": True,
        "capabilities": ["talk"],
        "access_control": {},
    }
    return {**usual, **said}


def identity(id: str, number: int) -> dict[str, str]:
    """A right identity: the address of private key `number`, and its signature."""
    key = KEYS[number]
    return {"public_key": address_of(key), "signature": sign_message(key, f"agent_registration:{id}")}


def signed(id: str, number: int = 3, **said: Any) -> dict[str, Any]:
    """An entry with a right identity."""
    return entry(id, identity=identity(id, number), **said)


def running(id: str, **said: Any) -> dict[str, Any]:
    """A runtime entry that says the same of an agent as `entry`."""
    usual = {
        "agent_id": id,
        "agent_type": "worker",
        "description": f"What {id} does",
        "instance": object(),
        "status": "active",
        "registered_at": 1_700_000_000.0,
    }
    return {**usual, **said}


def coordinator(*agents: str | dict[str, Any], **others: Any) -> SimpleNamespace:
    """What holds the runtime map."""
    entries = [agent if isinstance(agent, dict) else running(agent) for agent in agents]
    return SimpleNamespace(agent_registry={**{one["agent_id"]: one for one in entries}, **others})


def syncing(home: Home, runtime: Any = None, **settings: Any) -> RegistrySyncTool:
    """A tool as a process has it that just started; `runtime` is a coordinator (nobody runs, if None) or a registry."""
    settings = {"root": home.root, "wallets": home.wallets(), **settings}
    runtime = coordinator() if runtime is None else runtime
    if hasattr(runtime, "agent_registry"):
        return RegistrySyncTool(None, runtime, **settings)
    return RegistrySyncTool(None, None, registry=runtime, **settings)


async def done(tool: Any, action: str = "sync_all", **said: Any) -> dict[str, Any]:
    """The result of an action that must succeed."""
    ok, result = await tool.execute(action, **said)
    assert ok is True, result
    return result


async def synced(home: Home, runtime: Any = None, action: str = "sync_all", **settings: Any) -> dict[str, Any]:
    """One action by a tool that just started, and nothing goes wrong for any agent."""
    result = await done(syncing(home, runtime, **settings), action)
    assert result.get("errors", []) == []
    return result


async def refused(tool: Any, action: str = "sync_all", **said: Any) -> str:
    """The answer of an action that must fail."""
    ok, result = await tool.execute(action, **said)
    assert ok is False, result
    assert isinstance(result, str), result
    return result


async def idle(home: Home, runtime: Any = None, **settings: Any) -> None:
    """A sync now changes nothing: neither the file nor the wallets, and it says so."""
    before, keys = home.state(), home.held()

    result = await synced(home, runtime, **settings)

    counts = {name: result[name] for name in ("agents_added", "agents_changed", "keys_updated")}
    assert counts == {"agents_added": 0, "agents_changed": 0, "keys_updated": 0}
    assert home.state() == before
    assert home.held() == keys


async def history(home: Home, runtime: Any = None, **settings: Any) -> list[dict[str, Any]]:
    """The items of the history, newest first."""
    result = await done(syncing(home, runtime, **settings), "history")
    if isinstance(result, list):
        return result
    found = [value for value in result.values() if isinstance(value, list)]
    assert len(found) == 1, result
    return found[0]


def right(id: str, identity: Mapping[str, str]) -> bool:
    """Whether an identity is an address with its signature."""
    return verify_message(f"agent_registration:{id}", identity["signature"], identity["public_key"])


def without(value: Any, *names: str) -> Any:
    """A value without the members of these names, however deep."""
    if isinstance(value, dict):
        return {name: without(one, *names) for name, one in value.items() if name not in names}
    if isinstance(value, list):
        return [without(one, *names) for one in value]
    return value


def carried(source: Home, target: Home) -> dict[str, Any]:
    """What the entries of `target` say of everything that those of `source` say, as `(id, name): (this, that)` where
    they differ."""
    here, there = source.entries, target.entries
    names = [(id, name) for id in here for name in here[id] if name not in IGNORED]
    found = {(id, name): (here[id][name], there.get(id, {}).get(name, "not there")) for id, name in names}
    return {place: pair for place, pair in found.items() if pair[0] != pair[1]}


def named(told: Any, id: str) -> list[Any]:
    """The conflicts about an agent."""
    return [one for one in told if one["id"] == id]


def members(value: Any) -> dict[str, Any]:
    """All members of a value, however deep, by their names; the outermost wins."""
    found: dict[str, Any] = {}
    if isinstance(value, dict):
        for one in value.values():
            found = {**found, **members(one)}
        found = {**found, **value}
    return found


def told(events: list[dict[str, Any]], kind: str, id: str) -> list[dict[str, Any]]:
    """The events of a kind about an agent, all their members at one level."""
    flat = [members(event) for event in events]
    return [one for one in flat if kind in one.values() and one.get("agent_id") == id]


def elsewhere(home: Home) -> dict[str, bytes]:
    """Every file under the root that is not the key store."""
    kept = str(home.keys.relative_to(home.root))
    return {name: content for name, content in home.tree().items() if name != kept}


def hides_keys(home: Home, *said: Any) -> None:
    """No private key stands in any file but the key store, nor in what was said."""
    secrets = list(home.held().values())
    assert secrets
    places: dict[str, bytes] = elsewhere(home)
    for number, text in enumerate(said):
        places[f"said {number}"] = str(text).encode()
    for secret in secrets:
        raw = bytes.fromhex(secret)
        for place, content in places.items():
            assert secret.encode() not in content.lower(), place
            assert raw not in content, place


def ends(process: Any) -> None:
    """A process has to end, whatever it does."""
    with suppress(ProcessLookupError):
        process.kill()
