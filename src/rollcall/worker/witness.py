"""The evidence of connections: who speaks for whom, and whose last connection ended.

An agent is bound to the connections that said hello for it, by the server's own stamp. Just after a start, and where
the server stamps nothing, the names that connections gave bind them too.
"""

from collections.abc import Awaitable, Callable

import structlog
from nats.aio.msg import Msg

from rollcall.bus.presence import Connections, Seen, sender
from rollcall.bus.subjects import ROOT, Subjects, key
from rollcall.core.errors import Unavailable
from rollcall.core.instants import Seconds
from rollcall.core.lease import Lease
from rollcall.core.presence import Connection, Presence
from rollcall.core.records import Change, ChangeKind
from rollcall.worker.roster import Roster

NAMED_FOR: Seconds = 90.0
"""How long a name binds where connections say hello: every agent does so once a minute."""

OFF = (
    "off: the server tells this worker nothing of connections; sign in to its system account "
    "(ROLLCALL_SYSTEM_NATS), or import its events as the bundled server does (docs/operations.md)"
)

log = structlog.get_logger(__name__)

Sign = Callable[[str, Lease], Awaitable[None]]


class Witness:
    """What one worker knows of connections. `sign` is set while it leads, and hears of whoever is gone or back."""

    def __init__(self, subjects: Subjects, roster: Roster, connections: Connections, *, account: str) -> None:
        self._roster = roster
        self._connections = connections
        self._account = account
        self._presence = Presence()
        self._prefix = f"{ROOT}:{subjects.realm}:"
        self._names: dict[Connection, str] = {}
        self._named: dict[str, dict[Connection, None]] = {}
        self._bound_by_name: set[str] = set()
        self._names_until: Seconds = 0.0
        self._stamped = False
        self._boots: dict[str, str] = {}
        self.on = False
        self.unanswered = False
        """Nobody answered who is connected; it has to be asked again."""
        self.sign: Sign | None = None

    @property
    def named(self) -> int:
        """How many open connections call themselves an agent's or a host's."""
        return len(self._names)

    @property
    def evidence(self) -> str:
        """Whether ends of connections are seen, and what to do if not."""
        return "on" if self.on else OFF

    async def listen(self) -> None:
        """Hears of connections from now on."""
        await self._connections.listen(self._on_up, self._on_down)

    async def look(self) -> None:
        """Compares what is known with the connections that are open: at the start, and after each absence.

        A server that was restarted told nobody's end; one that ran on did, and we missed it.
        """
        # Whoever says hello while the list is on its way is not on it, and not gone.
        bound = self._presence.connections()
        try:
            open_now = await self._connections.open_now()
        except Unavailable as error:
            log.debug("nobody lists connections; asks again", error=str(error))
            self.unanswered = True
            return
        self.on = open_now is not None
        self.unanswered = open_now is not None and not open_now.whole
        if open_now is None:
            return
        restarted = {name for name, boot in open_now.boots.items() if self._boots.get(name, boot) != boot}
        self._boots.update(open_now.boots)
        there = {seen.connection for seen in open_now.seen}
        for connection in bound:
            if open_now.whole and connection.server in open_now.boots and connection not in there:
                missed = self._end(connection)
                if connection.server not in restarted:
                    await self._gone(missed, closed=False)
        self._names_until = self._roster.clock.now() + NAMED_FOR
        hosts = self._hosts()
        for seen in open_now.seen:
            await self._on_up(seen)
            for key_ in hosts.get(seen.name, ()):
                await self._bind_by_name(key_, seen.connection)

    async def greeted(self, key_: str, host: str, message: Msg) -> None:
        """An agent said hello: the connection that it came by speaks for it."""
        seen = sender(message, self._account) if self._connections.stamps else None
        if seen is None:
            for name in (self._prefix + key_.replace(".", ":"), self._host_name(host)):
                for connection in self._named.get(name, ()):
                    await self._bind(key_, connection, said=True)
            return
        self._stamped = True
        if key_ in self._bound_by_name:
            # Anybody may give himself any name; from now on only what the server itself says counts.
            self._bound_by_name.discard(key_)
            self._presence.unbind(key_)
        await self._bind(key_, seen.connection, said=True)

    def on_fold(self, change: Change) -> None:
        """Another life, or none: the connections of the one before speak for it no more."""
        key_ = key(change.role, change.id)
        lease = self._roster.leases.get(key_)
        if lease is None or (change.kind is ChangeKind.REGISTERED and not lease.greeted):
            self._presence.unbind(key_)
            self._bound_by_name.discard(key_)

    def connected(self, key_: str) -> bool:
        """Whether the agent is known to hold an open connection."""
        return self._presence.connected(key_)

    async def _on_up(self, seen: Seen) -> None:
        if not seen.name.startswith(self._prefix):
            return
        self._names[seen.connection] = seen.name
        self._named.setdefault(seen.name, {})[seen.connection] = None
        key_ = seen.name.removeprefix(self._prefix).replace(":", ".")
        if self._roster.leases.get(key_) is not None:
            await self._bind_by_name(key_, seen.connection)

    async def _on_down(self, connection: Connection, closed: bool) -> None:
        await self._gone(self._end(connection), closed=closed)

    def _end(self, connection: Connection) -> list[str]:
        name = self._names.pop(connection, None)
        if name is not None:
            self._named[name].pop(connection, None)
            if not self._named[name]:
                del self._named[name]
        return self._presence.ended(connection)

    async def _bind_by_name(self, key_: str, connection: Connection) -> None:
        if self._names_count() and not (self._presence.connected(key_) and key_ not in self._bound_by_name):
            self._bound_by_name.add(key_)
            await self._bind(key_, connection, said=False)

    def _names_count(self) -> bool:
        return not self._stamped or self._roster.clock.now() < self._names_until

    async def _bind(self, key_: str, connection: Connection, *, said: bool) -> None:
        """`said`: the agent itself spoke, which ends being lost; a name is no sign of life."""
        self._presence.bind(key_, connection)
        lease = self._roster.leases.get(key_)
        if lease is None:
            return
        lease.greeted = True
        back = self._roster.leases.return_(key_)
        if (back is not None or (lease.lost and said)) and self.sign is not None:
            await self.sign(key_, lease)

    async def _gone(self, keys: list[str], *, closed: bool) -> None:
        now = self._roster.clock.now()
        for key_ in keys:
            if key_ in self._bound_by_name and not self._names_count():
                continue
            lease = self._roster.leases.vanish(key_, now, closed=closed)
            if lease is not None and self.sign is not None:
                await self.sign(key_, lease)

    def _hosts(self) -> dict[str, list[str]]:
        """The keys of the agents of each host, by the name that its connection gives."""
        hosts: dict[str, list[str]] = {}
        for place in self._roster.agents():
            if place.record.host:
                agent = key(place.record.role, place.record.id)
                hosts.setdefault(self._host_name(place.record.host), []).append(agent)
        return hosts

    def _host_name(self, host: str) -> str:
        return f"{self._prefix}host:{host}"
