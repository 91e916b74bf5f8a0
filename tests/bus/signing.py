"""Signed messages made by hand, as any client could make them, right or wrong."""

import base64
import hashlib
import json
import secrets
import time
from typing import Any

from nacl.bindings import crypto_sign

from rollcall.identity.keys import Key
from tests.bus.plain import Plain


def header(key: Key, subject: str, payload: bytes, *, ago: float = 0.0, nonce: str = "", **said: Any) -> str:
    """An ``Agent-Sender`` header; `said` are members that say something else than what is right."""
    body = {
        "v": 1,
        "account": "AGENTS",
        "user": key.public,
        "sub": subject,
        "ts": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - ago)),
        "nonce": nonce or secrets.token_urlsafe(12),
    } | {name: value for name, value in said.items() if name != "sig"}
    digest = hashlib.sha256(payload).hexdigest()
    words = ["AGENT-SENDER-V1", *(str(body[name]) for name in ("account", "user", "sub", "ts", "nonce")), digest]
    signature = crypto_sign("".join(f"{word}\n" for word in words).encode(), key.pair[1])[:64]
    body["sig"] = said.get("sig", base64.urlsafe_b64encode(signature).rstrip(b"=").decode())
    return json.dumps(body, separators=(",", ":"))


async def send(
    client: Plain, key: Key, subject: str, body: dict[str, Any] | bytes = b"", *, sender: str = "", **more: str
) -> dict[str, Any]:
    """Sends a signed command and waits for its outcome; `sender` is the header where it shall be another one."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    whole = f"{client.root}.{subject}"
    return await raw(client, whole, data, sender or header(key, whole, data), **more)


async def raw(client: Plain, subject: str, data: bytes, sender: str, **more: str) -> dict[str, Any]:
    """Sends just this, and waits for its outcome."""
    name = secrets.token_hex(6)
    headers = {"Rollcall-Client": client.token, "Rollcall-Command": name, **more}
    if sender:
        headers["Agent-Sender"] = sender
    await client.client.publish(subject, data, headers=headers)
    return await client.outcome(name)
