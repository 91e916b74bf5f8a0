"""Adding to, changing, and taking out of the registry files, one item at a time."""

import json
from pathlib import Path
from typing import Any

from rollcall import Registry
from rollcall.core.errors import Invalid, NotFound, RollcallError
from rollcall.faces.files.mindx.document import AGENTS, TOOLS, Changed, Document, File
from rollcall.faces.files.mindx.identities import IdentityManager, registration_message, tool_message
from rollcall.faces.files.mindx.running import Realm
from rollcall.faces.files.mindx.sync import empty_registry
from rollcall.faces.files.mindx.tool import AGENTS_FILE, CARDS, TOOLS_FILE, WALLETS_FILE
from rollcall.faces.files.mindx.wallets import FileWallets, KeyStore
from rollcall.store.files import write_whole

Config = dict[str, Any]  # Any: as its author has it

_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"


class RegistryManagerTool:
    """Manages the registry files, and the model card of each agent. With `registry` agents are on the roll, too."""

    def __init__(
        self,
        *,
        root: Path | str = ".",
        wallets: KeyStore | None = None,
        registry: Registry | None = None,
    ) -> None:
        base = Path(root)
        self._manager = IdentityManager(wallets or FileWallets(base / WALLETS_FILE))
        self._files = {"agent": (base / AGENTS_FILE, AGENTS), "tool": (base / TOOLS_FILE, TOOLS)}
        self._cards = base / CARDS
        self._realm = Realm(registry) if registry is not None else None

    async def execute(
        self, registry_type: str, action: str, item_id: str, item_config: Config | None = None
    ) -> tuple[bool, str]:
        """Does ``add``, ``remove`` or ``update``; returns whether it was done, and a sentence about it."""
        if registry_type not in self._files:
            return False, f"Unknown registry type: {registry_type}"
        if action not in ("add", "remove", "update"):
            return False, f"Unknown action: {action}"
        if action != "remove" and item_config is None:
            return False, f"Missing 'item_config' parameter for '{action}' action."
        try:
            return await self._do(registry_type, action, item_id, item_config or {})
        except (RollcallError, OSError) as error:
            return False, str(error)
        except Changed as error:
            return False, f"{error} was written by somebody else meanwhile; try again"

    async def _do(self, kind: str, action: str, id: str, config: Config) -> tuple[bool, str]:
        path, held = self._files[kind]
        file = File.read(path, held, _empty(held))
        called = f"{kind.capitalize()} '{id}'"
        if action == "add" and id in file.items:
            return False, f"{called} already exists."
        if action != "add" and id not in file.items:
            return False, f"{called} not found."
        match action:
            case "add":
                await self._add(kind, id, config, file)
            case "update":
                await self._update(kind, id, config, file)
            case _:
                await self._remove(kind, id, file)
        done = {"add": "added", "update": "updated", "remove": "removed"}[action]
        return True, f"{called} {done} successfully."

    async def _add(self, kind: str, id: str, config: Config, file: File) -> None:
        card = self._card_file(id)
        entity = f"tool_{id}" if kind == "tool" else id
        address = self._manager.address(entity) or self._manager.create(entity)
        message = (
            tool_message(id, str(config.get("version") or "1.0.0")) if kind == "tool" else registration_message(id)
        )
        identity: Config = {"public_key": address, "signature": self._manager.sign(entity, message)}
        if kind == "tool":
            identity |= {"entity_id": entity, "signature_message": message}
        entry = {"id": id, **config, "identity": identity}
        if kind == "agent":
            entry["model_card"] = card.name
            write_card(card, model_card(id, config, address, self._manager.sign(entity, json.dumps(config)) or ""))
        file.items[id] = entry
        if kind == "agent" and self._realm is not None:
            await self._realm.register(id, entry)
        file.write()

    async def _update(self, kind: str, id: str, config: Config, file: File) -> None:
        file.items[id] = {**file.items[id], **config}
        if kind == "agent" and self._realm is not None:
            await self._realm.change(id, dict(config), [])
        file.write()

    async def _remove(self, kind: str, id: str, file: File) -> None:
        del file.items[id]
        if kind == "agent" and self._realm is not None:
            try:
                await self._realm.deregister(id)
            except NotFound:
                pass  # it is not there, which is what was wanted
        file.write()
        if kind == "agent":
            self._card_file(id).unlink(missing_ok=True)

    def _card_file(self, id: str) -> Path:
        """Where the model card of an agent is.

        Raises:
            Invalid: its id is no name of a file.
        """
        if not id or id.startswith(".") or any(one not in _SAFE for one in id):
            raise Invalid(f"{id!r} cannot name a model card; use letters, digits, _ . and -")
        return self._cards / f"{id}.json"


def model_card(id: str, config: Config, address: str, signature: str) -> Config:
    """What an agent tells others of itself, as mindX has it."""
    return {
        "id": id,
        "name": config.get("name", id),
        "description": config.get("description", ""),
        "type": config.get("type", "agent"),
        "version": config.get("version", "1.0.0"),
        "enabled": config.get("enabled", True),
        "commands": config.get("commands", []),
        "access_control": config.get("access_control", {}),
        "identity": {"public_key": address, "signature": signature},
        "a2a_endpoint": f"https://mindx.internal/{id}/a2a",
    }


def write_card(path: Path, card: Config) -> None:
    """Writes a model card whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(card, indent=2).encode())


def _empty(held: str) -> Document:
    return empty_registry(0.0) if held == AGENTS else {TOOLS: {}, "identity_sync_version": "1.0.0"}
