"""Signs of life, folded into leases: the hot path. Nothing here touches a disk or answers."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from rollcall.bus import headers as h
from rollcall.bus.subjects import Subjects, names
from rollcall.core import limits
from rollcall.core.codec import check_depth
from rollcall.core.errors import Invalid, NotFound, RollcallError, Unauthorized
from rollcall.core.instants import Seconds, timestamp
from rollcall.core.lease import Lease
from rollcall.core.liveness import STUCK_AFTER
from rollcall.core.records import Beat
from rollcall.worker.identity import Identity
from rollcall.worker.roster import Roster

PENDING_BEATS = 1_000_000
PENDING_BYTES = 256 << 20
"""What may wait to be folded; beyond it beats are dropped, and the next ones say the same."""

log = structlog.get_logger(__name__)

_beat = msgspec.json.Decoder(Beat)
_beats = msgspec.json.Decoder(list[tuple[str, int]])


class Hearing(Struct, frozen=True):
    """What the leader does about beats that need it: of a lost, suspect or stuck agent, and of nobody."""

    attend: Callable[[str, Lease], Awaitable[None]]
    refused: Callable[[str, RollcallError], Awaitable[None]]


class Beats:
    """Listens to every beat of the realm. `hearing` is set while this worker leads."""

    def __init__(self, client: Client, subjects: Subjects, roster: Roster, identity: Identity, *, worker: str) -> None:
        self._worker = worker
        self._identity = identity
        self._client = client
        self._subjects = subjects
        self._roster = roster
        self._single = len(subjects.heartbeat(""))
        self._many = len(subjects.heartbeats(""))
        self.hearing: Hearing | None = None
        self.count = 0
        self._taken = 0
        self._subscriptions: list[Subscription] = []
        self._nonsense = 0
        self._complained_at: Seconds = 0.0

    async def listen(self) -> None:
        """Subscribes; the connection keeps the subscriptions over reconnects."""
        for subject, hear in (
            (self._subjects.heartbeat("*.*"), self._on_one),
            (self._subjects.heartbeats("*"), self._on_many),
        ):
            self._subscriptions.append(
                await self._client.subscribe(
                    subject, cb=hear, pending_msgs_limit=PENDING_BEATS, pending_bytes_limit=PENDING_BYTES
                )
            )

    async def caught_up(self) -> None:
        """Returns once every beat that has arrived by now is folded: who beats and then asks sees its beat."""
        wanted = self._taken + sum(subscription.pending_msgs for subscription in self._subscriptions)
        # An event would cost every beat, and this turns a few times at most.
        while self._taken < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def _on_one(self, message: Msg) -> None:
        self._taken += 1
        self.count += 1
        key = message.subject[self._single :]
        data = message.data
        clock = self._roster.clock
        signed = message.headers is not None and h.SENDER in message.headers
        if signed and not await self._proves(key, message):
            return
        if message.headers is not None and message.headers.get(h.WORKER) == self._worker:
            # Told by ourselves to the other workers: here it counted when the command was decided.
            lease = self._roster.leases.get(key)
        elif not data:
            lease = self._roster.leases.beat(key, 0, clock.now(), clock.wall())
            if lease is not None:
                lease.stuck_for = 0.0
        else:
            try:
                beat = _read(data)
            except RollcallError as error:
                if self.hearing is not None:
                    await self.hearing.refused(key, error)
                return
            lease = self._roster.leases.beat(key, beat.incarnation, clock.now(), clock.wall())
            if lease is not None and (signed or not lease.owned):
                lease.stuck_for = beat.loop_lag or 0.0
                if beat.says_health:
                    lease.beat = msgspec.structs.replace(beat, checked_at=timestamp(clock.wall()))
        if self.hearing is not None and (lease is None or lease.lost or lease.told or lease.stuck_for >= STUCK_AFTER):
            await self._attend(key, lease)

    async def _on_many(self, message: Msg) -> None:
        self._taken += 1
        host = message.subject[self._many :]
        try:
            pairs = _beats.decode(message.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._complain(host, error)
            return
        self.count += len(pairs)
        leases, clock = self._roster.leases, self._roster.clock
        now, wall = clock.now(), clock.wall()
        for key, incarnation in pairs:
            known = leases.get(key)
            # A host renews only those who say that it beats for them.
            lease = leases.beat(key, incarnation, now, wall) if known is not None and known.host == host else None
            if lease is not None:
                # Who stands still beats alone and says so.
                lease.stuck_for = 0.0
            if self.hearing is not None and (lease is None or lease.lost or lease.told):
                await self._attend(key, lease)

    async def _proves(self, key: str, message: Msg) -> bool:
        """Whether a signed beat is that of the agent's owner: then it vouches for those to come, else it is refused."""
        lease = self._roster.leases.get(key)
        if lease is None or not lease.owned:
            return True
        try:
            place = self._roster.standing(names(key)[1])
            assert place is not None
            if not self._identity.proves(place.record, message.subject, message.headers, message.data):
                raise Unauthorized(f"{key} belongs to {place.record.owner!r}, and another key signed this beat")
        except RollcallError as error:
            if self.hearing is not None:
                await self.hearing.refused(key, error)
            return False
        lease.prove(self._roster.clock.now())
        return True

    def _complain(self, host: str, error: Exception) -> None:
        """Once a second: whoever floods with nonsense must not fill the log, nor take our time."""
        now = self._roster.clock.now()
        self._nonsense += 1
        if now - self._complained_at >= 1:
            log.warning("combined beats cannot be read", host=host, error=str(error), so_far=self._nonsense)
            self._complained_at = now

    async def _attend(self, key: str, lease: Lease | None) -> None:
        assert self.hearing is not None
        if lease is None:
            known = self._roster.leases.get(key)
            if known is not None and self._roster.clock.now() > known.proved_until:
                await self.hearing.refused(
                    key, Unauthorized(f"{key} belongs to a key, and its beats are not signed; sign one each minute")
                )
                return
            await self.hearing.refused(
                key,
                NotFound(
                    f"a beat for {key} renewed nothing: no such agent, another life, or another host's; register it"
                ),
            )
        else:
            await self.hearing.attend(key, lease)


def _read(data: bytes) -> Beat:
    if len(data) > limits.HEALTH_BYTES:
        raise Invalid(f"a heartbeat has {len(data)} bytes; at most {limits.HEALTH_BYTES} are allowed")
    try:
        beat = _beat.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the heartbeat is wrong: {error}") from error
    if beat.metrics:
        check_depth(beat.metrics)
    return beat
