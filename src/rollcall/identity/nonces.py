"""Each nonce once: what was signed lately and must not come again.

Nonces are remembered by the time of their signature, ten seconds together, until that is too old to be accepted.
"""

from rollcall.core.errors import Busy
from rollcall.core.instants import Milliseconds, timestamp
from rollcall.core.records import Cause
from rollcall.core.senders import Sender

SKEW: Milliseconds = 30_000
"""How far the time of a signature may be off: section 13.7 of the Synadia Agent Protocol for NATS."""

MOST = 524_288
MOST_OF_ONE = MOST // 2
"""Bounds of the table. Nothing is forgotten early to make room: what comes beyond them is refused."""

_TOGETHER: Milliseconds = 10_000


class Nonces:
    """The nonces of the last while, each with the command that had it; None stands for what is no command."""

    def __init__(self, *, most: int = MOST, most_of_one: int = MOST_OF_ONE) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._seen: dict[int, dict[tuple[str, str], Cause | None]] = {}
        self._count = 0
        self._of: dict[str, int] = {}

    def __len__(self) -> int:
        return self._count

    def late(self, sender: Sender, now: Milliseconds) -> str:
        """Why a signature is too old, or of the future; empty when it is not."""
        off = now - sender.at
        if abs(off) <= SKEW:
            return ""
        way = "old" if off > 0 else "in the future"
        return (
            f"it was signed at {sender.ts}, {abs(off) / 1000:.0f} s {way} at {timestamp(now)}, and "
            f"{SKEW // 1000} s are allowed; sign it anew, and set the clock if that is wrong"
        )

    def take(self, sender: Sender, cause: Cause | None, now: Milliseconds) -> bool:
        """Remembers the nonce of a message whose signature is proved; False when another message had it.

        Raises:
            Busy: too many are remembered, of this key or of all.
        """
        self._forget(now)
        name = (sender.user, sender.nonce)
        for bucket in self._seen.values():
            if name in bucket:
                return cause is not None and bucket[name] == cause
        if self._count >= self._most or self._of.get(sender.user, 0) >= self._most_of_one:
            raise Busy(f"{self._count} signed messages came in the last {SKEW // 1000} s, the bound; wait a little")
        self._put(sender, cause)
        return True

    def learn(self, sender: Sender, cause: Cause | None, now: Milliseconds) -> None:
        """Takes over what another worker has seen, or the roll tells, while half of the room is left."""
        self._forget(now)
        if not self.late(sender, now):
            self.recall(sender, cause)

    def recall(self, sender: Sender, cause: Cause | None) -> None:
        """Remembers what was taken at some time before, however late that is, while half of the room is left."""
        name = (sender.user, sender.nonce)
        known = any(name in bucket for bucket in self._seen.values())
        if not known and self._count < self._most_of_one:
            self._put(sender, cause)

    def _put(self, sender: Sender, cause: Cause | None) -> None:
        self._seen.setdefault(sender.at // _TOGETHER, {})[sender.user, sender.nonce] = cause
        self._count += 1
        self._of[sender.user] = self._of.get(sender.user, 0) + 1

    def _forget(self, now: Milliseconds) -> None:
        horizon = (now - SKEW) // _TOGETHER
        for bucket in [bucket for bucket in self._seen if bucket < horizon]:
            for user, _ in self._seen.pop(bucket):
                self._count -= 1
                left = self._of[user] - 1
                if left:
                    self._of[user] = left
                else:
                    del self._of[user]
