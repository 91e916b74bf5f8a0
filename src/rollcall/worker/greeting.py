"""Hello: an agent asks on every new connection, and once a minute, whether it is known; the leader answers.

Every worker listens: the connection that a hello came by speaks for the agent, whoever leads next.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.bus.connection import answering, refuse
from rollcall.bus.subjects import Subjects, names
from rollcall.core import codec
from rollcall.core.errors import RollcallError, Unauthorized
from rollcall.core.records import Place
from rollcall.worker.identity import Identity
from rollcall.worker.roster import Roster
from rollcall.worker.witness import Witness


class Hello(Struct, frozen=True):
    """What an agent says on a new connection."""

    incarnation: int = 0


class Greeted(Struct, frozen=True):
    """What the leader answers: whether the agent is on the roll, and whether a newer life took its place."""

    known: bool
    superseded: bool
    epoch: str
    revision: int


class Greeting:
    """Hears hellos while it is open; `leads` says whether they are to be answered."""

    def __init__(
        self,
        client: Client,
        subjects: Subjects,
        roster: Roster,
        witness: Witness,
        identity: Identity,
        *,
        leads: Callable[[], bool],
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._roster = roster
        self._witness = witness
        self._identity = identity
        self._leads = leads

    def opened(self) -> AbstractAsyncContextManager[None]:
        """Hears until the block ends; what was asked by then is still answered."""
        return answering(self._client, self._subjects.hello("*.*"), self._on_hello)

    async def _on_hello(self, message: Msg) -> None:
        key_ = ".".join(message.subject.split(".")[3:])
        try:
            role, id = names(key_)
            hello = codec.decode(message.data, Hello) if message.data else Hello()
            place = self._proved(role, id, message)
        except RollcallError as error:
            if self._leads():
                await refuse(self._client, message, error)
            return
        if place is not None and hello.incarnation in (0, place.record.incarnation):
            await self._witness.greeted(key_, place.record.host, message)
        if self._leads() and message.reply:
            # Not message.respond: that sends the question's headers back, and with them who asked.
            await self._client.publish(message.reply, codec.encode(self._greeted(place, hello.incarnation)))

    def _proved(self, role: str, id: str, message: Msg) -> Place | None:
        """The agent that says hello, if it is on the roll.

        Raises:
            Unauthorized: it belongs to a key that did not sign this.
        """
        place = self._roster.standing(id)
        if place is None or place.record.role != role:
            return None
        lease = self._roster.lease(place.record)
        if lease.owned:
            if not self._identity.proves(place.record, message.subject, message.headers, message.data):
                raise Unauthorized(
                    f"{role} {id!r} belongs to {place.record.owner!r}, which did not sign this hello; sign it"
                )
            lease.prove(self._roster.clock.now())
        return place

    def _greeted(self, place: Place | None, incarnation: int) -> Greeted:
        epoch, revision = self._roster.epoch, self._roster.revision
        if place is None:
            return Greeted(False, False, epoch, revision)
        held = place.record.incarnation
        return Greeted(incarnation in (0, held), 0 < incarnation < held, epoch, revision)
