"""Identities of mindX: which wallet an entity has, and what it signs."""

from collections.abc import Sequence
from typing import Any

from rollcall.faces.files.mindx.wallets import KeyStore, address_of, sign_message, verify_message

Identity = dict[str, Any]  # Any: as the file has it, with members that we do not know

PLACEHOLDERS = frozenset(
    {"", "PENDING_SYNC", "PENDING_FRESH_SYNC", "0x1234567890123456789012345678901234567890".upper()}
)
"""Public keys that stand for none."""


class IdentityManager:
    """Wallets by entity."""

    def __init__(self, wallets: KeyStore) -> None:
        self._wallets = wallets

    async def get_public_address(self, entity_id: str) -> str | None:
        """The address of an entity; None when it has no wallet."""
        return self.address(entity_id)

    async def create_new_wallet(self, entity_id: str) -> str:
        """Makes a wallet for an entity that has none; returns its address.

        Raises:
            Invalid: it would share the wallet of another.
        """
        return self.address(entity_id) or self.create(entity_id)

    async def sign_message(self, entity_id: str, message: str) -> str | None:
        """What an entity signs; None when it has no wallet."""
        return self.sign(entity_id, message)

    def verify_signature(self, public_address: str, message: str, signature: str) -> bool:
        """Whether the wallet at an address signed a text."""
        return verify_message(message, signature, public_address)

    async def list_managed_identities(self) -> list[dict[str, str]]:
        """Every entity with a wallet, and its address."""
        return [
            {"entity_id": entity, "public_address": self.address(entity) or ""} for entity in self._wallets.entities()
        ]

    def address(self, entity_id: str) -> str | None:
        """As `get_public_address`."""
        key = self._wallets.get(entity_id)
        return address_of(key) if key is not None else None

    def create(self, entity_id: str) -> str:
        """As `create_new_wallet`, for an entity that has none."""
        return address_of(self._wallets.create(entity_id))

    def create_all(self, entity_ids: Sequence[str]) -> dict[str, str | Exception]:
        """The addresses of new wallets, or why there is none."""
        made = self._wallets.create_all(entity_ids)
        return {id: key if isinstance(key, Exception) else address_of(key) for id, key in made.items()}

    def sign(self, entity_id: str, message: str) -> str | None:
        """As `sign_message`."""
        key = self._wallets.get(entity_id)
        return sign_message(key, message) if key is not None else None

    def count(self) -> int:
        """How many wallets there are."""
        return len(self._wallets.entities())


def registration_message(entity_id: str) -> str:
    """What an agent signs to be in the registry."""
    return f"agent_registration:{entity_id}"


def tool_message(tool_id: str, version: str) -> str:
    """What a tool signs to be in the registry."""
    return f"tool_registration:{tool_id}:{version}"


def public_key(identity: object) -> str:
    """The public key of an identity; empty where there is none, or something that stands for none."""
    key = identity.get("public_key") if isinstance(identity, dict) else None
    return key if isinstance(key, str) and key.upper() not in PLACEHOLDERS else ""


def is_signed(identity: object, message: str) -> bool:
    """Whether the signature of an identity really is of its key."""
    if not isinstance(identity, dict) or not public_key(identity):
        return False
    signature = identity.get("signature")
    return isinstance(signature, str) and verify_message(message, signature, public_key(identity))
