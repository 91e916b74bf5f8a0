"""Identities of the agents' and the tools' registry files: made where they are missing, checked, counted."""

import time
from pathlib import Path
from typing import Any

from rollcall.core.errors import RollcallError
from rollcall.faces.files.mindx.document import AGENTS, TOOLS, Changed, File, Refused
from rollcall.faces.files.mindx.identities import (
    IdentityManager,
    is_signed,
    public_key,
    registration_message,
    tool_message,
)
from rollcall.faces.files.mindx.repair import MISMATCH, MISSING
from rollcall.faces.files.mindx.tool import AGENTS_FILE, TOOLS_FILE, WALLETS_FILE, Answer, Result
from rollcall.faces.files.mindx.wallets import FileWallets, KeyStore

_DROPPED = ("registration_priority", "registration_notes")
"""Members that an entry needs no more once it has an identity."""


class _Kind:
    """Agents or tools: where they are kept, and how they sign."""

    def __init__(self, name: str, path: Path, held: str) -> None:
        self.name = name
        self.path = path
        self.held = held

    @property
    def of_tools(self) -> bool:
        return self.held == TOOLS

    def entity(self, id: str) -> str:
        """Whose wallet signs."""
        return f"tool_{id}" if self.of_tools else id

    def message(self, id: str, entry: dict[str, Any]) -> str:
        """What is signed."""
        if not self.of_tools:
            return registration_message(id)
        return tool_message(id, str(entry.get("version") or "1.0.0"))

    def read(self) -> File:
        if not self.path.exists():
            raise Refused(f"{self.name.capitalize()} registry not found: {self.path}")
        return File.read(self.path, self.held)


class IdentitySyncTool:
    """Gives every entry of the registry files an identity."""

    def __init__(self, *, root: Path | str = ".", wallets: KeyStore | None = None) -> None:
        base = Path(root)
        self._manager = IdentityManager(wallets or FileWallets(base / WALLETS_FILE))
        self._agents = _Kind("agents", base / AGENTS_FILE, AGENTS)
        self._tools = _Kind("tools", base / TOOLS_FILE, TOOLS)

    async def execute(self, action: str = "sync_all") -> Answer:
        """Does ``sync_all``, ``sync_agents``, ``sync_tools``, ``validate`` or ``status``."""
        try:
            match action:
                case "sync_all":
                    return True, {"agents": self._sync(self._agents), "tools": self._sync(self._tools)}
                case "sync_agents":
                    return True, self._sync(self._agents)
                case "sync_tools":
                    return True, self._sync(self._tools)
                case "validate":
                    return self._validate()
                case "status":
                    return True, self._status()
                case _:
                    return False, f"Unknown action: {action}"
        except (RollcallError, OSError) as error:
            return False, str(error)
        except Changed as error:
            return False, f"{error} was written by somebody else meanwhile; try again"

    def _sync(self, kind: _Kind) -> Result:
        file = kind.read()
        processed: list[Result] = []
        errors: list[str] = []
        for id, entry in file.items.items():
            try:
                processed.append(self._one(kind, id, entry))
            except RollcallError as error:
                errors.append(f"Failed to sync {kind.name[:-1]} {id}: {error}")
        updated = sum(1 for one in processed if one["status"] == "updated")
        if updated:
            if kind.of_tools:
                file.data["identity_sync_version"] = "1.0.0"
            file.write()
        told: Result = {"updated": updated, "skipped": len(processed) - updated, "errors": errors}
        return {**told, f"{kind.name}_processed": processed}

    def _one(self, kind: _Kind, id: str, entry: dict[str, Any]) -> Result:
        name = f"{kind.name[:-1]}_id"
        stored, message = entry.get("identity"), kind.message(id, entry)
        key, held = public_key(stored), self._manager.address(kind.entity(id))
        foreign = key and (held is None or held.lower() != key.lower())
        if foreign or is_signed(stored, message):
            return {name: id, "status": "skipped", "reason": "already_has_identity", "public_key": key}
        address = held or self._manager.create(kind.entity(id))
        known = stored if isinstance(stored, dict) else {}
        identity = {**known, "public_key": address, "signature": self._manager.sign(kind.entity(id), message)}
        if kind.of_tools:
            identity |= {"entity_id": kind.entity(id), "signature_message": message}
        entry["identity"] = identity
        entry["identity_enabled"] = True
        entry["last_identity_update"] = time.time()
        for dropped in _DROPPED:
            entry.pop(dropped, None)
        return {name: id, "status": "updated", "reason": "identity_created", "public_key": address}

    def _validate(self) -> Answer:
        agents, tools = self._checked(self._agents), self._checked(self._tools)
        ok = not agents["issues"] and not tools["issues"]
        return ok, {"agents": agents, "tools": tools, "validation_timestamp": time.time()}

    def _checked(self, kind: _Kind) -> Result:
        name = f"{kind.name[:-1]}_id"
        issues: list[Result] = []
        valid = 0
        for id, entry in (kind.read().items if kind.path.exists() else {}).items():
            issue = self._issue(kind, id, entry)
            if issue:
                issues.append({name: id, **issue})
            else:
                valid += 1
        return {"valid": valid, "invalid": len(issues), "issues": issues}

    def _issue(self, kind: _Kind, id: str, entry: Any) -> Result:  # Any: as the file has it
        stored = entry.get("identity") if isinstance(entry, dict) else None
        held = self._manager.address(kind.entity(id))
        key = public_key(stored)
        if not key:
            return {"issue": MISSING}
        if held is not None and held.lower() != key.lower():
            return {"issue": MISMATCH, "stored": held, "registry": key}
        return {} if is_signed(stored, kind.message(id, entry)) else {"issue": MISSING}

    def _status(self) -> Result:
        told = {kind.name: _counted(kind) for kind in (self._agents, self._tools)}
        return {**told, "wallet_keys": self._manager.count(), "report_timestamp": time.time()}


def _counted(kind: _Kind) -> Result:
    items = kind.read().items if kind.path.exists() else {}
    signed = sum(1 for entry in items.values() if isinstance(entry, dict) and public_key(entry.get("identity")))
    percentage = 100.0 * signed / len(items) if items else 0.0
    return {"total": len(items), "with_identity": signed, "percentage": percentage}
