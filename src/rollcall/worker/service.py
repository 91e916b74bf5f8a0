"""The questions of the realm, answered as a NATS micro service. Errors are answers too."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, TypeVar

import msgspec
import nats.micro
import structlog
from msgspec import Struct
from nats.aio.client import Client
from nats.micro.request import Request
from nats.micro.service import EndpointStats

from rollcall.bus import headers as h
from rollcall.bus.connection import release
from rollcall.bus.messages import held
from rollcall.bus.shapes import MESSAGES_OF_ONE
from rollcall.bus.subjects import Subjects, text
from rollcall.core import codec, limits
from rollcall.core.errors import Invalid, NotFound, RollcallError, Unavailable
from rollcall.core.healing import began
from rollcall.core.instants import Milliseconds, Seconds, timestamp
from rollcall.core.query import Query
from rollcall.core.records import Change, Message, Whole
from rollcall.store.snapshot import Position
from rollcall.worker.answers import Answers
from rollcall.worker.beats import Beats
from rollcall.worker.commit import Committer
from rollcall.worker.folding import Folding
from rollcall.worker.hindsight import AsOf, Hindsight
from rollcall.worker.measures import Times
from rollcall.worker.roster import Roster
from rollcall.worker.shelf import refusals
from rollcall.worker.sight import Sight, View

QUEUE = "rollcall"
AT_LEAST_WITHIN: Seconds = 5.0
MAX_WAITING = 10_000
"""Questions that may wait for a newer revision at once."""

log = structlog.get_logger(__name__)


class HistoryQuery(Struct, frozen=True):
    """How many changes of one agent are asked for, the newest."""

    limit: int = 100


class SinceQuery(Struct, frozen=True):
    """Which changes a client has: all of `role` (empty: of every role) up to `revision` of `epoch`."""

    epoch: str = ""
    revision: Whole = 0
    role: str = ""
    limit: int = limits.PAGE
    cursor: str = ""


T = TypeVar("T")
Answer = Callable[[Request], Awaitable[bytes]]


class Service:
    """Answers questions while it is open."""

    def __init__(
        self,
        client: Client,
        subjects: Subjects,
        *,
        worker: str,
        roster: Roster,
        committer: Committer,
        answers: Answers,
        folding: Folding,
        hindsight: Hindsight,
        beats: Beats,
        sight: Sight,
        times: Times,
        info: Callable[[], dict[str, Any]],
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._worker = worker
        self._roster = roster
        self._folding = folding
        self._hindsight = hindsight
        self._beats = beats
        self._sight = sight
        self._times = times
        self._committer = committer
        self._answers = answers
        self._info = info
        self._waiting: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Answers until the block ends; what was asked by then is still answered."""
        service = await nats.micro.add_service(
            self._client,
            name="rollcall",
            version=version("rollcall-bus"),
            description="The roll of living agents: discover by role, get, list, history, since, asof, info.",
            metadata={"realm": self._subjects.realm, "worker": self._worker},
            stats_handler=self._measured,
        )
        endpoints: list[tuple[str, str, Answer]] = [
            ("discover", self._subjects.discover("*"), self._discover),
            ("get", self._subjects.get("*"), self._get),
            ("list", self._subjects.list, self._list),
            ("history", self._subjects.history("*"), self._history),
            ("since", self._subjects.since, self._since),
            ("asof", self._subjects.asof, self._asof),
            ("messages", self._subjects.messages("*"), self._messages),
            ("info", self._subjects.info, self._tell),
        ]
        for name, subject, answer in endpoints:
            await service.add_endpoint(name=name, subject=subject, queue_group=QUEUE, handler=self._guarded(answer))
        try:
            yield
        finally:
            # The service's own stop loses requests that are on their way.
            open_ = [endpoint._subscription for endpoint in service._endpoints if endpoint._subscription]
            if self._client.is_connected:
                await release(self._client, *open_)
            for task in self._waiting:
                task.cancel()
            if self._client.is_connected:
                await service.stop()

    def _measured(self, endpoint: EndpointStats) -> Any:  # Any: plain JSON
        """What monitoring tools of the bus collect with ``$SRV.STATS``, beside the counts of requests."""
        if endpoint.name != "info":
            return None
        info = self._info()
        names = (
            "worker",
            "counts",
            "revision",
            "durable",
            "leads",
            "agents",
            "liveness",
            "beats",
            "guard",
            "healing",
            "inbox",
            "snapshot",
        )
        return msgspec.to_builtins({name: info[name] for name in names})

    def _guarded(self, answer: Answer) -> Callable[[Request], Awaitable[None]]:
        """A handler that answers errors as errors; whatever we did not foresee is logged and not leaked."""

        async def handle(request: Request) -> None:
            if not request._msg.reply:
                return  # nobody waits for the answer
            try:
                if self._knows(request.data) and not self._folding.behind():
                    await request.respond(await answer(request))
                else:
                    self._answer_later(request, answer)
            except RollcallError as error:
                await _refuse(request, error)
            except Exception:
                log.exception("a question broke the answer", subject=request.subject)
                await _refuse(request, Unavailable("the worker failed on this question; its log says why"))

        return handle

    def _knows(self, question: bytes) -> bool:
        """Whether this worker knows as much as the answer must."""
        if b"epoch" not in question and b"at_least" not in question:
            return True
        asked = codec.decode(question, _AtLeast)
        return self._roster.rolls.at >= asked.roll and self._roster.revision >= asked.wanted(self._roster.epoch)

    def _answer_later(self, request: Request, answer: Answer) -> None:
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable("too many questions wait for newer revisions; try again")
        task = asyncio.create_task(self._once_folded(request, answer), name=f"answer {request.subject} later")
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _once_folded(self, request: Request, answer: Answer) -> None:
        asked = codec.decode(request.data, _AtLeast) if request.data else _AtLeast()
        try:
            if self._folding.behind():
                await self._folding.caught_up()
            async with asyncio.timeout(AT_LEAST_WITHIN):
                await self._roster.rolls.reached(asked.roll)
                await self._roster.progress.reached(asked.wanted(self._roster.epoch))
            await request.respond(await answer(request))
        except TimeoutError:
            await _refuse(
                request,
                Unavailable(
                    f"revision {asked.at_least or 0} was not folded within {AT_LEAST_WITHIN:.0f} s; this worker is at "
                    f"{self._roster.revision} of {self._roster.epoch}",
                    revision=self._roster.revision,
                    epoch=self._roster.epoch,
                ),
            )
        except RollcallError as error:
            await _refuse(request, error)

    async def _discover(self, request: Request) -> bytes:
        started = time.perf_counter()
        role = text(request.subject.rpartition(".")[2])
        self._sight.of(request).check(role)
        question = request.data
        answer = self._answers.ready(role, question)
        if answer is None:
            query = codec.decode(question, Query) if question else Query()
            answer = self._answers.discover(role, query, question)
        self._times.add(time.perf_counter() - started)
        return answer

    async def _list(self, request: Request) -> bytes:
        query = codec.decode(request.data, Query) if request.data else Query()
        return self._answers.everybody(query, self._sight.of(request))

    async def _get(self, request: Request) -> bytes:
        id = text(request.subject.rpartition(".")[2])
        await self._beats.caught_up()
        place = self._roster.standing(id)
        if place is None or not self._sight.of(request).sees_agent(place.record):
            raise NotFound(f"no agent {id!r} is on the roll; register it first", **self._answers.signature())
        entry = self._answers.entry(place)
        said = self._answers.signature()
        # There the revision is the agent's own.
        return codec.splice(entry, {name: said[name] for name in ("epoch", "worker", "guard")})

    async def _history(self, request: Request) -> bytes:
        id = text(request.subject.rpartition(".")[2])
        query = codec.decode(request.data, HistoryQuery) if request.data else HistoryQuery()
        # History is answered from disk; it must not be older than what memory answers.
        await self._committer.settled()
        view = self._sight.of(request)
        changes = await self._committer.call(self._committer.snapshot.history, id, _page_size(query.limit))
        shown = [change for change in changes if view.sees_agent(change.record)]
        told, _ = self._fitting([_told(change) for change in reversed(shown)])
        refused = await refusals(self._client, self._subjects, id)
        refused = [one for one in refused if shown or view.sees(str(one.get("role", "")))]
        begins = await self._hindsight.begins()
        return self._answers.envelope(changes=told[::-1], refusals=refused, begins=begins)

    async def _asof(self, request: Request) -> bytes:
        query = codec.decode(request.data, AsOf) if request.data else AsOf()
        return await self._hindsight.answer(query, self._sight.of(request))

    async def _messages(self, request: Request) -> bytes:
        id = request.subject.rpartition(".")[2]
        place = self._roster.standing(text(id))
        view = self._sight.of(request)
        if place is not None and not view.sees_agent(place.record):
            view.check(place.record.role)
        stream, subject = self._subjects.messages_stream, self._subjects.message(id)
        kept = [_letter(one) for one in await held(self._client, stream, subject, MESSAGES_OF_ONE)]
        fitting, _ = self._fitting([one for one in kept[::-1] if one is not None])
        return self._answers.envelope(messages=fitting)

    async def _since(self, request: Request) -> bytes:
        query = codec.decode(request.data, SinceQuery) if request.data else SinceQuery()
        view = self._sight.of(request)
        if query.role:
            view.check(query.role)
        folded = self._roster.revision
        await self._committer.settled()
        position = Position(query.epoch, query.revision)
        horizon = await self._committer.call(self._committer.snapshot.horizon, query.epoch)
        if query.epoch != self._roster.epoch or horizon is None or query.revision < horizon:
            return self._too_old(query, view)
        limit = _page_size(query.limit)
        changes = await self._committer.call(self._committer.snapshot.since, position, limit)
        if query.epoch != self._roster.epoch:
            # The roll was replaced while the disk was read.
            return self._too_old(query, view)
        of_role = [change for change in changes if not query.role or change.role == query.role]
        wanted = [_told(change) for change in of_role if view.sees(change.role)]
        told, cut = self._fitting(wanted)
        upto = int(told[-1]["revision"]) if cut else changes[-1].revision if changes else folded
        more = cut or len(changes) == limit
        return self._answers.envelope(changes=told, upto=upto, more=more, too_old=False)

    def _too_old(self, query: SinceQuery, view: View) -> bytes:
        """A snapshot in the place of changes: everybody of the role, page by page."""
        whoever = Query(status=("all",), include=("all",), limit=_page_size(query.limit), cursor=query.cursor)
        page = (
            self._answers.discover(query.role, whoever, b"") if query.role else self._answers.everybody(whoever, view)
        )
        healed = self._roster.healings[-1] if self._roster.healings else None
        return codec.splice(page, {"too_old": True, "healed": healed})

    async def _tell(self, request: Request) -> bytes:
        view, info = self._sight.of(request), self._info()
        roles = {name: count for name, count in info["roles"].items() if view.sees(name)}
        return codec.encode({**info, "roles": roles})

    def _fitting(self, told: list[T]) -> tuple[list[T], bool]:
        """The first of `told` that one reply has room for, and whether some were left out."""
        room = self._client.max_payload - 4096
        for index, change in enumerate(told):
            room -= len(codec.encode(change)) + 1
            if room < 0:
                return told[:index], True
        return told, False


class _AtLeast(Struct, frozen=True):
    at_least: int | None = None
    epoch: str = ""
    # Where `epoch` already says which changes a client has.
    at_least_epoch: str = ""

    @property
    def roll(self) -> Milliseconds:
        """When the roll began that the client knows of: an answer may be about that one or a later one."""
        return began(self.at_least_epoch or self.epoch)

    def wanted(self, epoch: str) -> int:
        """The revision of the roll of `epoch` that the answer must know; one of another roll says nothing about it."""
        return self.at_least or 0 if (self.at_least_epoch or self.epoch) in ("", epoch) else 0


def _letter(data: bytes) -> Message | None:
    """A message to an agent; None for what somebody left there that is none."""
    try:
        return codec.decode(data, Message)
    except Invalid as error:
        log.debug("not a message", error=str(error))
        return None


def _page_size(limit: int) -> int:
    if not 1 <= limit <= limits.PAGE:
        raise Invalid(f"limit {limit} is not between 1 and {limits.PAGE}")
    return limit


def _told(change: Change) -> dict[str, Any]:
    """A change as it is answered; `at` is text there."""
    return {
        "kind": change.kind,
        "revision": change.revision,
        "epoch": change.epoch,
        "at": timestamp(change.at),
        "reason": change.reason,
        "record": change.record,
    }


async def _refuse(request: Request, error: RollcallError) -> None:
    headers = {h.ERROR_CODE: str(error.status), h.ERROR: error.code}
    await request.respond(codec.encode_error(error), headers=headers)
