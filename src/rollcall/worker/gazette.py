"""What workers tell each other about identities: which nonces were used, and which keys are revoked.

Commands are checked by the leader, and whoever leads next must know what it took. Revoked keys stand in the leases
bucket and in each worker's snapshot; a key that was revoked once stays revoked, so what is known here and what stands
there is put together.
"""

import asyncio

import nats.errors
import structlog
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.bus.connection import subscribe_all
from rollcall.bus.leader import LeaseKey
from rollcall.bus.subjects import Subjects
from rollcall.core import codec, limits
from rollcall.core.errors import Busy, RollcallError, Unavailable
from rollcall.core.instants import Seconds, Timestamp
from rollcall.worker.commit import Committer
from rollcall.worker.identity import Identity, Used

LOOK_EVERY: Seconds = 2.0
MOST_TOGETHER = 256
TRIES = 5
NOTE = "revoked"

log = structlog.get_logger(__name__)


class Revoked(Struct, frozen=True):
    """Since when which keys count no more."""

    keys: dict[str, Timestamp] = {}


class Gazette:
    """Tells and hears while the worker runs."""

    def __init__(self, client: Client, subjects: Subjects, identity: Identity, committer: Committer) -> None:
        self._client = client
        self._committer = committer
        self._subject = subjects.nonces
        self._identity = identity
        self._key = LeaseKey(client, subjects, "revoked")
        self._keys: dict[str, Timestamp] = {}

    async def listen(self) -> None:
        """Knows what this worker noted, and hears of nonces from now on, over reconnects too."""
        noted = await self._committer.call(self._committer.snapshot.noted, NOTE)
        if noted:
            self._know(codec.decode(noted.encode(), Revoked).keys)
        await subscribe_all(self._client, self._subject, self._on_nonces)

    async def run(self) -> None:
        """Looks which keys are revoked and who the operators are, until cancelled."""
        while True:
            try:
                self._identity.look()
                await self._put_together({})
            except (RollcallError, ValueError) as error:
                log.debug("revoked keys cannot be read now", error=str(error))
            await asyncio.sleep(LOOK_EVERY)

    async def share(self) -> None:
        """Tells the other workers which nonces were taken, as soon as they are, until cancelled."""
        while True:
            await self._identity.news.wait()
            used = self._identity.used()
            for start in range(0, len(used), MOST_TOGETHER):
                try:
                    await self._client.publish(self._subject, codec.encode(used[start : start + MOST_TOGETHER]))
                except nats.errors.Error as error:
                    log.debug("nonces cannot be told now", error=str(error))

    async def revoke(self, key: str, at: Timestamp, *, by_operator: bool) -> dict[str, Timestamp]:
        """From now on the signatures of a key count no more; returns all revoked keys.

        Keys that revoke themselves may fill half of the list: nobody keeps operators from revoking one.

        Raises:
            Unavailable: the bus did not take it.
            Busy: there is no room for more.
        """
        if not by_operator and len(codec.encode(Revoked({**self._keys, key: at}))) > limits.RECORD_BYTES // 2:
            raise Busy(f"{len(self._keys)} keys are revoked; only an operator can revoke more")
        await self._put_together({key: at})
        return self._keys

    async def _put_together(self, news: dict[str, Timestamp]) -> None:
        for _ in range(TRIES):
            held = await self._key.read()
            standing = codec.decode(held, Revoked).keys if held else {}
            keys = {**self._keys, **news, **standing}
            body = codec.encode(Revoked(keys))
            if len(body) > limits.RECORD_BYTES:
                raise Busy(f"{len(standing)} keys are revoked, the bound; give the realm new operators' keys instead")
            if keys == standing or await self._key.write(body):
                if keys != self._keys:
                    self._know(keys)
                    await self._committer.call(self._committer.snapshot.note, NOTE, body.decode())
                return
        raise Unavailable("the list of revoked keys changed again and again; try again")

    def _know(self, keys: dict[str, Timestamp]) -> None:
        self._keys = keys
        self._identity.revoked = frozenset(keys)

    async def _on_nonces(self, message: Msg) -> None:
        try:
            for used in codec.decode(message.data, list[Used]):
                self._identity.learn(used)
        except RollcallError as error:
            log.debug("not a list of nonces", error=str(error))
