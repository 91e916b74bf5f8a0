"""What operators ask of the leader: to end the guard, to call the roll, to approve or deny what waits."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.bus.connection import answering, refuse
from rollcall.bus.subjects import Subjects
from rollcall.core import codec, limits
from rollcall.core.commands import NKEY
from rollcall.core.errors import Invalid, NotFound, RollcallError, Unauthorized
from rollcall.core.guard import Guard
from rollcall.core.instants import timestamp
from rollcall.identity.keys import checked_public
from rollcall.worker.calling import Calling
from rollcall.worker.gazette import Gazette
from rollcall.worker.governing import Governing
from rollcall.worker.identity import Identity
from rollcall.worker.lead import Lead
from rollcall.worker.restoring import Part, Restoring
from rollcall.worker.roster import Roster
from rollcall.worker.sight import View

log = structlog.get_logger(__name__)


class Verdict(Struct, frozen=True):
    """An operator's word about the command of an agent that waits longest."""

    id: str
    reason: str = ""
    by: str = ""


class Revocation(Struct, frozen=True):
    """The public key whose signatures count no more."""

    key: str


class Operating:
    """Does what operators ask while it is open; only the leader opens it."""

    def __init__(
        self,
        client: Client,
        subjects: Subjects,
        roster: Roster,
        *,
        guard: Guard,
        calling: Calling,
        lead: Lead,
        governing: Governing,
        identity: Identity,
        gazette: Gazette,
        restoring: Restoring,
        restore: Callable[[], None],
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._roster = roster
        self._guard = guard
        self._calling = calling
        self._lead = lead
        self._governing = governing
        self._identity = identity
        self._gazette = gazette
        self._restoring = restoring
        self._restore = restore

    def opened(self) -> AbstractAsyncContextManager[None]:
        """Answers until the block ends."""
        return answering(self._client, self._subjects.operate("*"), self._on_request)

    async def _on_request(self, message: Msg) -> None:
        try:
            verb = message.subject.rpartition(".")[2]
            sender = self._identity.sender(message.subject, message.headers, message.data)
            self._check(verb, message.data, sender)
            done = await self._do(verb, message.data, View(self._identity, self._roster, sender))
        except RollcallError as error:
            await refuse(self._client, message, error)
            return
        if message.reply:
            await self._client.publish(message.reply, codec.encode(done))
        if self._restoring.due:
            self._restore()

    def _check(self, verb: str, body: bytes, sender: str) -> None:
        """Where there are operators, only they operate; a key may always be revoked by itself."""
        by_itself = verb == "revoke" and sender != "" and codec.decode(body, Revocation).key == sender
        # Without operators anybody operates; but nobody takes another's key away for good.
        may = self._identity.operates(sender) if verb == "revoke" else self._identity.may_operate(sender)
        if verb == "pending" or by_itself or may:
            return
        who = f"{sender} is none" if sender else "this is not signed"
        raise Unauthorized(f"only an operator of realm {self._subjects.realm!r} may {verb}, and {who}; sign it")

    async def _do(
        self, verb: str, body: bytes, view: View
    ) -> Any:  # Any: the answer of the verb, a Struct or a mapping
        match verb:
            case "release":
                clock = self._roster.clock
                said = self._guard.says(clock.now(), clock.wall())
                self._guard.release(clock.now())
                if said is not None:
                    log.warning("an operator ended the guard", why=said.why)
                return {"released": said is not None, "guard": said}
            case "call":
                return await self._calling.call()
            case "pending":
                return {"pending": [one for one in self._lead.antechamber.told() if view.sees(one["role"])]}
            case "approve" | "deny":
                return self._settle(codec.decode(body, Verdict), verb == "approve")
            case "restore":
                return self._restoring.take(codec.decode(body, Part))
            case "revoke":
                key = checked_public(codec.decode(body, Revocation).key)
                log.warning("a key is revoked", key=key)
                by_operator = self._identity.operates(view.key)
                if not by_operator and not self._owns(key):
                    raise NotFound(f"no agent belongs to {key}; a key that owns nothing here needs no revocation")
                at = timestamp(self._roster.clock.wall())
                return {"revoked": await self._gazette.revoke(key, at, by_operator=by_operator)}
            case _:
                raise Invalid(
                    f"operators can 'release' the guard, 'call' the roll, 'approve' or 'deny' what is 'pending', "
                    f"'revoke' a key, and 'restore' a backup, not {verb!r}"
                )

    def _owns(self, key: str) -> bool:
        return any(place.record.owner == NKEY + key for place in self._roster.places())

    def _settle(self, verdict: Verdict, approved: bool) -> dict[str, Any]:
        waiting = next((one for one in self._lead.antechamber.told() if one["id"] == verdict.id), None)
        reason = verdict.reason[: limits.REASON_CHARS] or "an operator denied it"
        self._governing.decide(verdict.id, denied=None if approved else reason)
        log.info("approved" if approved else "denied", agent_id=verdict.id, by=verdict.by, reason=verdict.reason)
        return {**(waiting or {}), "approved": approved}
