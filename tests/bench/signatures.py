"""What signatures cost: the check of each command, beside a loop that does nothing but verify."""

import time
from collections import Counter

from nacl.bindings import crypto_sign, crypto_sign_open

from rollcall.bus import headers as h
from rollcall.bus.follow import Stored
from rollcall.bus.inbox import read_command
from rollcall.core import codec
from rollcall.core.records import Profile
from rollcall.identity.keys import new_key
from rollcall.identity.signing import SenderSigner
from rollcall.worker.clock import Clock
from rollcall.worker.identity import Identity, IdentitySettings

COUNT = 10_000
ROUNDS = 3
WORDS = 300
"""Bytes of what a command signs."""


async def signatures() -> list[tuple[str, str, str]]:
    """Rows of the table."""
    signed, plain = _commands(signs=True), _commands(signs=False)
    pair = new_key().pair
    words = [crypto_sign(bytes(WORDS), pair[1])] * COUNT
    bare = min(_bare(words, pair[0]) for _ in range(ROUNDS))
    checked = min(_checked(signed) for _ in range(ROUNDS))
    unsigned = min(_checked(plain) for _ in range(ROUNDS))
    return [
        ("signatures verified by a bare loop", f"{COUNT / bare:,.0f}/s", ""),
        (
            "signed registrations checked, one core",
            f"{COUNT / checked:,.0f}/s = {bare / checked:.2f}x bare",
            ">= 10,000/s, 0.7x",
        ),
        ("unsigned registrations passed on", f"{unsigned / COUNT * 1e9:,.0f} ns each", ""),
    ]


def _commands(*, signs: bool) -> list[Stored]:
    signer = SenderSigner(new_key(), "AGENTS")
    now = Clock().wall()
    found = []
    for number in range(COUNT):
        subject = f"rollcall.default.register.worker.a{number}"
        profile = Profile(id=f"a{number}", role="worker", name="a", capabilities=("ocr", "plan"), labels={"zone": "a"})
        body = codec.encode(profile)
        headers = {h.CLIENT: "c" * 24, h.COMMAND: str(number)}
        if signs:
            headers[h.SENDER] = signer.sign(subject, body, now)
        found.append(Stored(number + 1, subject, headers, body, now, 0))
    return found


def _bare(words: list[bytes], public: bytes) -> float:
    started = time.process_time()
    for one in words:
        crypto_sign_open(one, public)
    return time.process_time() - started


def _checked(commands: list[Stored]) -> float:
    """Seconds for all of them, by an identity that has seen none."""
    identity = Identity(IdentitySettings(), Clock(), Counter())
    read = [read_command(stored, "i1", 0) for stored in commands]
    started = time.process_time()
    for command, stored in zip(read, commands, strict=True):
        identity.signed(command, stored)
    return time.process_time() - started
