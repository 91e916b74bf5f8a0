"""Which connections speak for which agents."""

from collections.abc import Iterable
from typing import NamedTuple


class Connection(NamedTuple):
    """One connection to one server; `start` tells apart those that had the same number before and after a restart."""

    server: str
    number: int
    start: str


class Presence:
    """Bindings between connections and the keys of agents. An agent may hold several connections, and a connection
    speak for many agents."""

    def __init__(self) -> None:
        self._agents: dict[Connection, dict[str, None]] = {}
        self._connections: dict[str, tuple[Connection, ...]] = {}

    def bind(self, key: str, connection: Connection) -> None:
        """The connection speaks for the agent."""
        held = self._connections.get(key, ())
        if connection not in held:
            self._connections[key] = (*held, connection)
            self._agents.setdefault(connection, {})[key] = None

    def unbind(self, key: str) -> None:
        """Nothing is known of the agent's connections any more."""
        for connection in self._connections.pop(key, ()):
            self._leave(connection, key)

    def ended(self, connection: Connection) -> list[str]:
        """The connection is no more; returns the agents that have none left."""
        last = []
        for key in self._agents.pop(connection, ()):
            rest = tuple(other for other in self._connections[key] if other != connection)
            if rest:
                self._connections[key] = rest
            else:
                del self._connections[key]
                last.append(key)
        return last

    def connected(self, key: str) -> bool:
        """Whether a connection that speaks for the agent is known to be open."""
        return key in self._connections

    def connections(self) -> Iterable[Connection]:
        """Every connection that speaks for somebody."""
        return list(self._agents)

    def _leave(self, connection: Connection, key: str) -> None:
        keys = self._agents[connection]
        del keys[key]
        if not keys:
            del self._agents[connection]
