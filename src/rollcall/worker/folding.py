"""The one path by which anything becomes known to a worker: it follows the roll and folds what it tells.

When the roll is not the one that was folded, what is known keeps being answered until there is one to change over to.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from nats.aio.client import Client

from rollcall.bus import headers as h
from rollcall.bus import streams
from rollcall.bus.follow import Follower, Stored
from rollcall.bus.roll import Roll, read_change
from rollcall.bus.streams import StreamState, Unsound
from rollcall.bus.subjects import Subjects, key
from rollcall.core.errors import Unavailable
from rollcall.core.healing import Found, Standing, Verdict, began, is_news, missed_since, verdict
from rollcall.core.instants import Milliseconds, Seconds
from rollcall.core.records import ENDINGS, Change, Place
from rollcall.store.rows import Folded, whole
from rollcall.worker.commit import Committer
from rollcall.worker.ground import Ground
from rollcall.worker.healer import Seeding
from rollcall.worker.roster import Roster

LOOK_EVERY: Seconds = 0.2
CATCH_UP_WITHIN: Seconds = 1.5
"""So long questions wait for a worker that hears the roll no more. After that what it knows is better than nothing:
the bus may be there and JetStream away."""

log = structlog.get_logger(__name__)


class Folding:
    """Folds the roll into the roster, and hands each change to the disk and to the leader's term."""

    def __init__(
        self,
        client: Client,
        subjects: Subjects,
        roster: Roster,
        committer: Committer,
        ground: Ground,
        *,
        worker: str,
        tombstone_ttl: Seconds,
        on_fold: Callable[[Change], Awaitable[None]],
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._stream = subjects.roll_stream
        self._roster = roster
        self._committer = committer
        self._ground = ground
        self._worker = worker
        self._tombstone_ttl = tombstone_ttl
        self._on_fold = on_fold
        self._follower = Follower(client, self._stream, 0)
        self._newest: tuple[int, Milliseconds] = (0, 0)
        self._end = 0
        self._following = False
        self._answers_from = 0.0
        self._doubtful = False

    @property
    def standing(self) -> Standing:
        """How far this worker is."""
        return Standing(self._roster.epoch, self._roster.revision, self._newest[1], self._worker)

    def start(self, newest: tuple[int, Milliseconds]) -> None:
        """Sets out from what the roster holds by now; `newest` is the last change in it, and when it was stored."""
        self._newest = newest

    async def run(self) -> None:
        """Folds until cancelled, whatever becomes of the roll."""
        self._doubtful = await self._committer.call(self._committer.snapshot.doubtful)
        while True:
            try:
                await self._follow()
            except Unsound as error:
                # Whoever knows nothing yet misses nothing.
                tell = log.warning if self._roster.epoch else log.debug
                tell("the roll cannot be followed", why=str(error))
                self._ground.shake(str(error))
                await self._change_over()
            except Unavailable as error:
                log.warning("folding begins again", why=str(error))
                await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> tuple[Verdict, str, StreamState | None]:
        """What to think of the roll that is there.

        Raises:
            Unavailable: the server did not answer.
        """
        try:
            state = await streams.state(self._client, self._stream)
        except Unsound:
            return *verdict(self.standing, None), None
        return *verdict(self._known_there(), await self._found(state)), state

    def look_again(self) -> None:
        """The bus was away: nothing is decided before the roll that is there was looked at."""
        self._ground.shake("the bus was away; the roll is looked at")
        self._follower.begin_again("the bus was away")

    async def check(self) -> None:
        """Looks at the roll while nothing tells of a fault: what was purged leaves no other trace."""
        try:
            what, why, _ = await self.look()
        except Unavailable as error:
            log.debug("the roll cannot be looked at", error=str(error))
            return
        if what is not Verdict.SOUND and self._ground.firm.is_set():
            self._ground.shake(why)
            self._follower.begin_again(why)

    async def reached(self, end: int) -> None:
        """Returns once everything up to `end` is folded, where the roll still has it."""
        self._follower.expect(end)
        await self._roster.progress.reached(end)

    def behind(self) -> bool:
        """Whether a question must wait, because this worker may have missed what the whole realm knows."""
        if not self._following or (self._follower.current.is_set() and self._roster.revision >= self._end):
            self._answers_from = 0.0
            return False
        now = self._roster.clock.now()
        # Counted from the first question: before that the bus itself may have been away, and nobody noticed.
        self._answers_from = self._answers_from or now + CATCH_UP_WITHIN
        return now < self._answers_from

    async def caught_up(self) -> None:
        """Returns as soon as no question must wait."""
        try:
            async with asyncio.timeout(max(0.0, self._answers_from - self._roster.clock.now())):
                await self._follower.current.wait()
                await self._roster.progress.reached(self._end)
        except TimeoutError:
            log.debug("answers what it knew when it last heard the roll", revision=self._roster.revision)

    async def _follow(self) -> None:
        self._follower = Follower(self._client, self._stream, self._roster.revision, sound=self._sound)
        self._following = True
        try:
            await self._fold_all()
        finally:
            self._following = False

    async def _fold_all(self) -> None:
        async for batch in self._follower.batches():
            await self._note_gap(batch)
            for stored in batch:
                self._check_epoch(stored)
                change = read_change(stored, self._roster.epoch)
                if change is not None:
                    before = self._roster.fold(change)
                    self._committer.add(Folded(change, stored.data, before))
                    await self._on_fold(change)
                self._newest = (stored.seq, stored.at)
                self._roster.progress.advance(stored.seq)
            if self._follower.upto > self._roster.revision:
                # What stood there at the end came and went while nobody here listened.
                await self._doubt(self._follower.upto)
            self._roster.progress.advance(self._follower.upto)
            self._settle()
            await self._trust_states()
            await self._committer.has_room()

    def _check_epoch(self, stored: Stored) -> None:
        """What a later roll tells is none of ours: the stream is being made anew under our eyes."""
        epoch = stored.headers.get(h.EPOCH, self._roster.epoch)
        if epoch != self._roster.epoch and began(epoch) > began(self._roster.epoch):
            raise Unsound(f"the roll is made anew, as epoch {epoch}")

    async def _sound(self, state: StreamState) -> None:
        what, why = verdict(self._known_there(), await self._found(state))
        if what is not Verdict.SOUND:
            raise Unsound(why)
        self._roster.healings = state.healings
        self._end = state.last
        self._follower.expect(state.last)
        self._settle()
        await self._trust_states()

    async def _trust_states(self) -> None:
        """Where something was missed, states are known again once everything is folded that the roll held."""
        if not self._doubtful or not self._ground.firm.is_set():
            return
        try:
            await self._committer.settled()
            now = self._roster.clock.wall()
            await self._committer.call(self._committer.snapshot.rebase, self._roster.revision, now)
            self._doubtful = False
        except Unavailable as error:
            log.debug("states of the past are not known yet", error=str(error))

    def _settle(self) -> None:
        """The ground is firm once everything is folded that the roll held when it was found sound."""
        if not self._ground.firm.is_set() and self._roster.revision >= self._end:
            self._ground.settle()

    def _known_there(self) -> Standing:
        """What is known, for a comparison with the server: at our newest message, not at the end of what was read."""
        return Standing(self._roster.epoch, self._roster.revision, self._newest[1])

    async def _found(self, state: StreamState) -> Found:
        seq = self._newest[0]
        stored_at = await streams.stored_at(self._client, self._stream, seq) if seq and state.epoch else None
        return Found(state.epoch, state.last, stored_at, await self._missing(state))

    async def _missing(self, state: StreamState) -> int:
        """How many of our agents the roll lacks, though it tells nothing that we have not folded."""
        places = sum(1 for _ in self._roster.places())
        if state.epoch != self._roster.epoch or state.last != self._roster.revision or state.subjects >= places:
            return 0
        held = await streams.subjects_held(self._client, self._stream)
        records = (place.record for place in self._roster.agents())
        return sum(1 for record in records if self._subjects.roll(key(record.role, record.id)) not in held)

    async def _change_over(self) -> None:
        """Waits until there is a roll to follow, ours again or another one, and takes it over."""
        while True:
            try:
                what, why, state = await self.look()
                if what is Verdict.SOUND:
                    return
                if what is Verdict.OTHER and state is not None:
                    await self._take_over(state, why)
                    return
            except Unavailable as error:
                log.debug("the roll cannot be looked at", error=str(error))
            self._ground.mended.clear()
            try:
                async with asyncio.timeout(LOOK_EVERY):
                    await self._ground.mended.wait()
            except TimeoutError:
                pass  # time to look again

    async def _take_over(self, state: StreamState, why: str) -> None:
        """Reads another roll whole, changes over at once, and offers what it lacks."""
        known, mine = self.standing, list(self._roster.places())
        horizon = max([state.first - 1 if state.first > 1 else 0, *(healed.upto for healed in state.healings[-1:])])
        if not known.epoch:
            # Nothing to change over from: its whole history is folded in the ordinary way.
            await self._committer.become(whole([], state.epoch, 0), horizon=horizon, at=began(state.epoch))
            self._doubtful = horizon > 0
            self._roster.become(state.epoch, 0, [], state.healings)
            return
        folded = await self._read(state)
        news = _news(mine, folded, missed_since(known, state.healings))
        revision = max([state.last, *(one.change.revision for one in folded)])
        places = [Place(one.change.record, one.change.revision, one.change.kind, one.change.at) for one in folded]
        log.warning("changes over to another roll", why=why, agents=len(places), offers=len(news), epoch=state.epoch)
        # On disk first: what cannot be kept is not known either.
        told = _told(mine, folded)
        # How it came to what it is between its beginning and now was not read.
        healed_here = any(one.epoch == known.epoch and one.revision <= known.revision for one in state.healings[-1:])
        ended_at = began(state.epoch) if healed_here else None
        at = max((one.change.at for one in folded), default=began(state.epoch))
        await self._committer.become(
            whole(folded, state.epoch, revision, told), horizon=revision, at=at, ended_at=ended_at
        )
        self._roster.become(state.epoch, revision, places, state.healings)
        self._newest = max(((one.change.revision, one.change.at) for one in folded), default=(0, 0))
        await self._offer(news, known)

    async def _read(self, state: StreamState) -> list[Folded]:
        """The newest change of each agent of a roll, in order, up to the end that it has now."""
        newest: dict[str, Folded] = {}

        async def same(now: StreamState) -> None:
            if now.epoch != state.epoch:
                raise Unsound(f"the roll of epoch {state.epoch} was replaced while it was read")

        follower = Follower(self._client, self._stream, 0, sound=same)
        follower.expect(state.last)
        async for batch in follower.batches():
            for stored in batch:
                change = read_change(stored, state.epoch)
                if change is not None:
                    newest.pop(change.id, None)
                    newest[change.id] = Folded(change, stored.data, None)
            if follower.upto >= state.last:
                break
        return list(newest.values())

    async def _offer(self, news: list[tuple[Place, int]], known: Standing) -> None:
        """Writes what this worker had more of the roll that was; whatever changed meanwhile wins over it."""
        if not news:
            return
        writer = Roll(self._client, self._subjects, tombstone_ttl=self._tombstone_ttl)
        async with writer.opened() as roll:
            reason = f"offered by {self._worker}, from the roll of epoch {known.epoch}"
            seeding = Seeding(roll, epoch=self._roster.epoch, reason=reason)
            for place, expected in news:
                await seeding.write(place, expected=expected)
            await seeding.settled()
        log.warning("offered what the roll lacked", offered=len(news), taken=seeding.written)

    async def _note_gap(self, batch: list[Stored]) -> None:
        """What the roll gave up before we read it is missing from history; whoever asks must hear so."""
        expected, gap = self._roster.revision + 1, 0
        for stored in batch:
            if stored.seq > expected:
                gap = stored.seq - 1
            expected = stored.seq + 1
        if gap:
            await self._doubt(gap)

    async def _doubt(self, upto: int) -> None:
        """Changes up to a revision are missing. Whose they were is known when everything after them is."""
        await self._committer.call(self._committer.snapshot.start_history, self._roster.epoch, upto)
        await self._committer.call(self._committer.snapshot.doubt, self._roster.epoch)
        self._doubtful = True


def _told(mine: list[Place], folded: list[Folded]) -> list[Folded]:
    """What another roll says of an agent that is not what was known: that belongs to its history."""
    known = {place.record.id: place for place in mine}

    def same(one: Folded) -> bool:
        held = known.get(one.change.id)
        return held is not None and (held.gone, held.record) == (one.change.kind in ENDINGS, one.change.record)

    return [one for one in folded if not same(one)]


def _news(mine: list[Place], folded: list[Folded], since: Milliseconds) -> list[tuple[Place, int]]:
    """What we had that the roll lacks, each with the revision that the roll holds for its id."""
    theirs = {
        one.change.id: Place(one.change.record, one.change.revision, one.change.kind, one.change.at) for one in folded
    }
    return [
        (place, theirs[place.record.id].revision if place.record.id in theirs else 0)
        for place in mine
        if place.at > since and is_news(place, theirs.get(place.record.id))
    ]
