"""The leader's judgement of life: who is suspect, who is lost, who is back.

::

    beats missed ──▶ suspect, asked ──▶ lease over ──┐
                                                      ├─▶ guard: silence of very many is not believed ─▶ lost
    last connection ended ──▶ suspect ──▶ grace over ┘   (closed connections are)

*Lost* rests on hearing, not on the roll, so it is said only while the leader lease is fresh and this process heard
everything (`Vigil`).
"""

from collections.abc import Callable

import structlog
from nats.aio.client import Client

from rollcall.bus import headers as h
from rollcall.bus.subjects import Subjects, names
from rollcall.core import codec
from rollcall.core.commands import Lose, Recover
from rollcall.core.errors import RollcallError
from rollcall.core.guard import Guard
from rollcall.core.instants import Seconds, timestamp
from rollcall.core.lease import Lease, Stage
from rollcall.core.liveness import liveness
from rollcall.core.records import DEFAULT_TTL, Liveness
from rollcall.worker.inquiry import Inquiry
from rollcall.worker.lead import Lead
from rollcall.worker.roster import Roster

ANSWER_WITHIN: Seconds = 0.2
"""How long an agent that was never asked before may take to answer when its lease is over already."""

LOST_AT_MOST_EVERY: Seconds = 1.0
"""An agent that comes and goes is not called lost more often."""

REFUSALS_PER_SECOND = 100

log = structlog.get_logger(__name__)


class Judge:
    """Judges while this worker leads; `fresh` says whether its lease may be relied on at this moment.

    `grace` is how long an agent may be without a connection; `wake` asks for a sweep at once.
    """

    def __init__(
        self,
        client: Client,
        subjects: Subjects,
        roster: Roster,
        lead: Lead,
        *,
        guard: Guard,
        inquiry: Inquiry,
        grace: Seconds,
        fresh: Callable[[], bool],
        wake: Callable[[], None],
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._roster = roster
        self._lead = lead
        self._guard = guard
        self._inquiry = inquiry
        self._grace = grace
        self._fresh = fresh
        self._wake = wake
        self._refused: set[str] = set()
        self._refused_since: Seconds = 0.0

    def next_due(self) -> Seconds | None:
        """When somebody may be due next."""
        return self._roster.leases.next_due(self._grace)

    async def sweep(self, now: Seconds) -> None:
        """Judges whoever is due."""
        if not self._fresh():
            return
        due: list[tuple[str, Lease]] = []
        for key, lease, stage in self._roster.leases.due(now):
            if stage is Stage.FRESH:
                await self.sign(key, lease)
                await self._ask(key, lease, now)
            elif await self._had_his_say(key, lease, now):
                due.append((key, lease))
        over = {key for key, _ in due}
        due += [one for one in self._roster.leases.vanished(now - self._grace) if one[0] not in over]
        if due or self._guard.active:
            self._weigh(now, [lease for _, lease in due])
        for key, lease in due:
            if self._guard.holds(now, lease):
                await self._ask(key, lease, now)
            else:
                await self._lose(key, lease, now)

    async def sign_vanished(self) -> None:
        """Tells of those whose connection ended while nobody led."""
        for key, lease in self._roster.leases.vanished(self._roster.clock.now()):
            await self.sign(key, lease)

    async def attend(self, key: str, lease: Lease) -> None:
        """There is news of an agent: of a lost one, or one that is more or less to be believed than was told."""
        if not lease.lost:
            await self.sign(key, lease)
        else:
            role, id = names(key)
            # What follows the word that it is back is told as a sign.
            lease.told = Liveness.LOST
            await self._lead.observe(Recover(role=role, id=id))

    async def sign(self, key: str, lease: Lease) -> None:
        """Tells when an agent begins or ends to be suspect, stuck or flapping."""
        _, id = names(key)
        place = self._roster.standing(id)
        if place is None or place.record.lost_at is not None:
            return
        if lease.gone_at is not None:
            self._wake()
        now = self._roster.clock.now()
        believed, flapping = liveness(place.record, lease, now), lease.flapping(now)
        told = f"{believed} flapping" if flapping else "" if believed is Liveness.LIVE else str(believed)
        if told == lease.told:
            return
        lease.told = told
        seen = timestamp(lease.seen_at) if lease.seen_at is not None else None
        body = {"liveness": believed, "last_seen": seen, "revision": place.revision, "flapping": flapping}
        await self._client.publish(self._subjects.signs(key), codec.encode(body))

    async def refused(self, key: str, error: RollcallError) -> None:
        """Tells that a beat renewed nothing: once a second for an agent, and not more often than bounds allow."""
        now = self._roster.clock.now()
        if now - self._refused_since >= 1:
            self._refused, self._refused_since = set(), now
        if key in self._refused or len(self._refused) >= REFUSALS_PER_SECOND:
            return
        self._refused.add(key)
        try:
            names(key)
        except RollcallError:
            # Whoever spells no name cannot be listening for it.
            return
        body = codec.encode_error(type(error)(error.message, command="heartbeat"))
        headers = {h.ERROR_CODE: str(error.status), h.ERROR: error.code}
        await self._client.publish(self._subjects.rejected(key), body, headers=headers)

    async def _ask(self, key: str, lease: Lease, now: Seconds) -> None:
        """Not while we are blind: whoever lost the bus with us listens again a little later."""
        if not self._guard.is_blind(now):
            await self._inquiry.ask(key, lease, now)

    async def _had_his_say(self, key: str, lease: Lease, now: Seconds) -> bool:
        """Whether the agent was asked, and had the time to answer."""
        if lease.doubt is None or lease.doubt.asked_at is None:
            await self._ask(key, lease, now)
            return False
        return lease.doubt.proves or now - lease.doubt.asked_at >= ANSWER_WITHIN

    def _weigh(self, now: Seconds, due: list[Lease]) -> None:
        was, silent = self._guard.active, list(self._roster.leases.silent())
        self._guard.weigh(
            now,
            silent=len(silent),
            believed=self._roster.leases.believed(),
            ttl=max((lease.ttl or DEFAULT_TTL for lease in due), default=0.0),
        )
        over = (lease for lease in silent if lease.ends_at is None or lease.ends_at <= now)
        self._guard.held = sum(1 for lease in over if self._guard.holds(now, lease))
        if self._guard.active != was:
            said = self._guard.says(now, self._roster.clock.wall())
            log.warning("the guard holds" if said else "the guard rests", why=said.why if said else "")

    async def _lose(self, key: str, lease: Lease, now: Seconds) -> None:
        # When very many are due this is some time after the look: who was heard since is due no more.
        heard = lease.gone_at is None and (lease.ends_at is None or lease.ends_at > now)
        if heard or not self._fresh() or (lease.flaps and now - lease.flaps[-1] < LOST_AT_MOST_EVERY):
            return
        role, id = names(key)
        place = self._roster.standing(id)
        if place is None or not place.record.beating:
            self._roster.leases.return_(key)
            return
        taken = await self._lead.observe(Lose(role=role, id=id, reason=_why(lease, now)))
        if taken and not (lease.doubt is not None and lease.doubt.proves):
            self._guard.lost(now)


def _why(lease: Lease, now: Seconds) -> str:
    silence = f"no heartbeat for {now - lease.at:.1f} s"
    doubt = lease.doubt
    if doubt is None:
        return silence
    if doubt.gone_at is not None:
        how = "its connection closed" if doubt.closed else "the server gave up its connection"
        return f"{how} and it did not come back within {now - doubt.gone_at:.1f} s"
    return f"{silence}, and nobody listens where it is asked" if doubt.deaf else f"{silence}, nor an answer"
