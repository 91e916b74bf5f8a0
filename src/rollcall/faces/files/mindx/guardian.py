"""Whether a new agent is who it says: its identity, its entry, a challenge, its workspace."""

import hmac
import secrets
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from pathlib import Path
from typing import Any

from rollcall.core.errors import RollcallError
from rollcall.faces.files.mindx.document import AGENTS, File
from rollcall.faces.files.mindx.identities import IdentityManager, public_key
from rollcall.faces.files.mindx.tool import AGENTS_FILE, WALLETS_FILE
from rollcall.faces.files.mindx.wallets import FileWallets, KeyStore, verify_message

MOST_CHALLENGES = 10_000

Sign = Callable[[str], str | Awaitable[str | None] | None]


class GuardianAgent:
    """Checks agents before they are let in. A challenge counts once, and not after it has expired."""

    def __init__(
        self,
        *,
        root: Path | str = ".",
        wallets: KeyStore | None = None,
        challenge_expiry_seconds: float = 300,
        clock: Callable[[], float] = time.time,
    ) -> None:
        base = Path(root)
        self._manager = IdentityManager(wallets or FileWallets(base / WALLETS_FILE))
        self._path = base / AGENTS_FILE
        self._expiry = challenge_expiry_seconds
        self._clock = clock
        self._challenges: dict[str, tuple[str, float]] = {}

    def create_challenge(self, agent_id: str) -> str:
        """32 random bytes, as hex, for an agent to sign; an earlier one of it counts no more."""
        self._forget()
        challenge = secrets.token_hex(32)
        self._challenges[agent_id] = (challenge, self._clock() + self._expiry)
        return challenge

    def check_challenge(self, agent_id: str, challenge: str, signature: str, public_key: str = "") -> bool:
        """Whether an agent signed its challenge, in time and for the first time."""
        held = self._challenges.pop(agent_id, None)
        if held is None or not hmac.compare_digest(held[0].encode(), challenge.encode()) or self._clock() > held[1]:
            return False
        address = public_key or self._manager.address(agent_id) or ""
        return bool(address) and verify_message(challenge, signature, address)

    async def validate_new_agent(
        self, agent_id: str, public_key: str, workspace_path: Path | str, sign: Sign | None = None
    ) -> tuple[bool, dict[str, Any]]:
        """Does all checks; `sign` is how the agent signs, None where its wallet is held here.

        An agent that is in no registry may be valid all the same: ``registry_status`` says so.
        """
        steps: dict[str, Any] = {
            "identity_validation": self._identity(agent_id, public_key),
            "registry_validation": self._registered(agent_id),
            "challenge_response": await self._answers(agent_id, public_key, sign),
            "workspace_validation": _workspace(Path(workspace_path)),
        }
        ok = all(step["passed"] for name, step in steps.items() if name != "registry_validation")
        registered = steps["registry_validation"]["passed"]
        status = "REGISTERED" if registered else "UNREGISTERED_BUT_VALID" if ok else "INVALID"
        return ok, {"agent_id": agent_id, **steps, "registry_status": status}

    def _identity(self, agent_id: str, key: str) -> dict[str, Any]:
        held = self._manager.address(agent_id)
        if held is not None and held.lower() != key.lower():
            return {"passed": False, "reason": "the public key is not that of the agent's wallet"}
        return {"passed": bool(key), "reason": "" if key else "no public key"}

    def _registered(self, agent_id: str) -> dict[str, Any]:
        try:
            entry = File.read(self._path, AGENTS).items.get(agent_id)
        except RollcallError as error:
            return {"passed": False, "reason": str(error)}
        if not isinstance(entry, dict):
            return {"passed": False, "reason": "not registered"}
        if entry.get("enabled", True) is False:
            return {"passed": False, "reason": "disabled"}
        has_key = bool(public_key(entry.get("identity")))
        return {"passed": has_key, "reason": "" if has_key else "no public key in the registry"}

    async def _answers(self, agent_id: str, key: str, sign: Sign | None) -> dict[str, Any]:
        challenge = self.create_challenge(agent_id)
        said = sign(challenge) if sign is not None else self._manager.sign(agent_id, challenge)
        signature = await said if isawaitable(said) else said
        passed = isinstance(signature, str) and self.check_challenge(agent_id, challenge, signature, key)
        return {"passed": passed, "reason": "" if passed else "the challenge was not signed by the public key"}

    def _forget(self) -> None:
        now = self._clock()
        expired = [id for id, (_, until) in self._challenges.items() if now > until]
        for id in expired:
            del self._challenges[id]
        while len(self._challenges) >= MOST_CHALLENGES:
            del self._challenges[next(iter(self._challenges))]


def _workspace(path: Path) -> dict[str, Any]:
    there = path.is_dir()
    return {"passed": there, "reason": "" if there else f"{path} is no directory"}
