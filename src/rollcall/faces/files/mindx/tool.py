"""The registry sync of mindX as its callers know it: actions, and dictionaries as results."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from rollcall import Registry
from rollcall.core.errors import Misconfigured
from rollcall.faces.files.mindx.identities import IdentityManager, public_key
from rollcall.faces.files.mindx.merge import Deletions, Direction, Policy, Rules
from rollcall.faces.files.mindx.rollback import roll_back
from rollcall.faces.files.mindx.running import Coordinator, Realm, Side
from rollcall.faces.files.mindx.sync import Event, Options, Outcome, RegistrySync
from rollcall.faces.files.mindx.wallets import FileWallets, KeyStore

AGENTS_FILE = Path("data/config/official_agents_registry.json")
TOOLS_FILE = Path("data/config/official_tools_registry.json")
WALLETS_FILE = Path("data/identity/.wallet_keys.env")
CARDS = Path("data/memory/a2a_model_cards")

Result = dict[str, Any]  # Any: as mindX has it
Answer = tuple[bool, Result | str]


class RegistrySyncTool:
    """Keeps the agents' registry file in step with the agents of a coordinator, or of a realm.

    `coordinator_ref.agent_registry` is the map of agents that run; without a coordinator they are those of `registry`.
    Settings that do what the original did: direction ``runtime_to_file``, and neither `add_missing` nor
    `repair_identities`.
    """

    def __init__(
        self,
        memory_agent: object = None,
        coordinator_ref: Any = None,  # Any: whoever has an agent_registry
        *,
        registry: Registry | None = None,
        root: Path | str = ".",
        agents_registry_path: Path | str | None = None,
        tools_registry_path: Path | str | None = None,
        wallets: KeyStore | None = None,
        direction: str = Direction.BOTH,
        policy: str = Policy.RUNTIME,
        deletions: str = Deletions.KEEP,
        add_missing: bool = True,
        repair_identities: bool = True,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.memory_agent = memory_agent
        self.coordinator_ref = coordinator_ref
        base = Path(root)
        self.agents_registry_path = Path(agents_registry_path or base / AGENTS_FILE)
        self.tools_registry_path = Path(tools_registry_path or base / TOOLS_FILE)
        self._manager = IdentityManager(wallets or FileWallets(base / WALLETS_FILE))
        self._rules = Rules(
            policy=Policy(policy),
            direction=Direction(direction),
            deletions=Deletions(deletions),
            add_missing=add_missing,
        )
        self._repair = repair_identities
        self._side = _side(coordinator_ref, registry)
        self.sync = RegistrySync(self.agents_registry_path, self._side, self._manager, on_event=on_event)

    async def execute(
        self,
        action: str = "sync_all",
        validate_signatures: bool = True,
        update_missing_keys: bool = True,
        *,
        sync_id: str = "",
    ) -> Answer:
        """Does an action: ``sync_all``, ``update_keys``, ``plan``, ``status``, ``history`` or ``rollback``.

        Returns whether it was done, and what was done, or why it was not.
        """
        try:
            match action:
                case "sync_all" | "plan":
                    options = self._options(validate_signatures, update_missing_keys, write=action == "sync_all")
                    outcome = await self.sync.sync(options)
                    told = _synced(outcome)
                    return True, told if options.write else {**told, "changes": msgspec.to_builtins(outcome.edits)}
                case "update_keys":
                    only_keys = Options(validate=False, only_keys=True)
                    return True, _keyed(await self.sync.sync(only_keys))
                case "status":
                    return True, self._status()
                case "history":
                    return True, {"history": msgspec.to_builtins(self.sync.store.history())}
                case "rollback":
                    outcome = await roll_back(self.sync, self._side, self.agents_registry_path, sync_id)
                    told = {"rolled_back": sync_id, "agents_changed": outcome.changed, "errors": outcome.errors}
                    return True, {**told, "sync_id": outcome.sync_id}
                case _:
                    return False, f"Unknown action: {action}"
        except Exception as error:  # a coordinator is somebody else's code; the caller is told, whatever it was
            return False, f"{_FAILED.get(action, 'Sync failed')}: {error}"

    def _options(self, validate: bool, create: bool, *, write: bool) -> Options:
        return Options(rules=self._rules, repair=self._repair, create=create, validate=validate, write=write)

    def _status(self) -> Result:
        file, state = self.sync.read(), self.sync.store.state()
        signed = [
            entry for entry in file.items.values() if isinstance(entry, dict) and public_key(entry.get("identity"))
        ]
        return {
            "last_sync": msgspec.to_builtins(state.last),
            "agents": len(file.items),
            "with_identity": len(signed),
            "open_conflicts": state.open_conflicts,
            "file": str(self.agents_registry_path),
            "file_hash": file.digest,
            "report_timestamp": time.time(),
        }


_FAILED = {
    "sync_all": "Registry sync failed",
    "update_keys": "Key update failed",
    "rollback": "Rollback failed",
}


def _side(coordinator: Any, registry: Registry | None) -> Side:  # Any: whoever has an agent_registry
    if coordinator is not None:
        return Coordinator(coordinator)
    if registry is not None:
        return Realm(registry)
    raise Misconfigured("there is nobody to sync with; give coordinator_ref or registry")


def _synced(outcome: Outcome) -> Result:
    return {
        "agents_synced": outcome.synced,
        "keys_updated": outcome.wallets,
        "signatures_validated": outcome.validated,
        "errors": outcome.errors,
        "agents_added": outcome.added,
        "agents_changed": outcome.changed,
        "conflicts": msgspec.to_builtins(outcome.conflicts),
        "sync_id": outcome.sync_id,
    }


def _keyed(outcome: Outcome) -> Result:
    return {
        "keys_created": outcome.wallets,
        "keys_updated": outcome.rewritten,
        "errors": outcome.errors,
        "sync_id": outcome.sync_id,
    }
