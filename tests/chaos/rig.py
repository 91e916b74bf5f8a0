"""A registry of real processes, each of which can be killed, frozen and started again."""

import itertools
import json
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from signal import Signals
from typing import Any, ClassVar

from nats.aio.client import Client

import rollcall
from rollcall.bus.connection import connected
from rollcall.bus.subjects import Subjects
from tests.chaos.server import Server
from tests.conftest import eventually
from tests.processes import ROLLCALL, Process

HERE = Path(__file__).parent


def script(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(HERE / name), *arguments]


class Agents:
    """Agents of one process."""

    def __init__(self, process: Process, ready: Path, ids: set[str]) -> None:
        self.process = process
        self.ids = ids
        self._ready = ready

    async def registered(self, within: float = 30.0) -> None:
        """Returns once the registry has accepted all of them."""
        await started(self.process, self._ready, within=within)

    def kill(self) -> None:
        self.process.kill()

    def pause(self) -> None:
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()

    def signal(self, number: Signals) -> None:
        self.process.popen.send_signal(number)


async def started(process: Process, ready: Path, *, within: float = 30.0) -> dict[str, Any]:
    """What the ready file says, once it is there; other tasks go on meanwhile."""

    def there() -> bool:
        assert process.popen.poll() is None, f"ended at once: {process.said()}"
        return ready.exists()

    await eventually(there, within=within, what="a process that is ready")
    return json.loads(ready.read_text())


class Rig:
    """One realm on a server of its own, with workers and agents in processes. Everything ends with the block."""

    latest: ClassVar["Rig | None"] = None
    """The one that was made last: whose logs belong to a failure."""

    def __init__(self, home: Path, servers: Iterable[Server] = (), *, realm: str = "chaos") -> None:
        self.home = home
        self.servers = list(servers) or [Server(home / "nats")]
        self.realm = realm
        self.subjects = Subjects(realm)
        self.workers: dict[str, Process] = {}
        self.fleets: list[Agents] = []
        self._numbers = itertools.count(1)
        self._stack = ExitStack()
        Rig.latest = self

    @property
    def server(self) -> Server:
        return self.servers[0]

    @property
    def url(self) -> str:
        return ",".join(server.url for server in self.servers)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Rig"]:
        try:
            for server in self.servers:
                await server.start()
            yield self
        finally:
            for process in (*self.workers.values(), *(fleet.process for fleet in self.fleets)):
                process.popen.kill()
            self._stack.close()
            for server in self.servers:
                await server.end()

    async def worker(
        self, name: str = "w1", *, command: list[str] = ROLLCALL, url: str = "", data: Path | None = None, **env: Any
    ) -> Process:
        """A worker that serves; `env` are its bounds, such as ``disconnect_grace=0.2``."""
        process, ready = self.starting(name, command=command, url=url, data=data, **env)
        await started(process, ready)
        return process

    def starting(
        self, name: str = "w1", *, command: list[str] = ROLLCALL, url: str = "", data: Path | None = None, **env: Any
    ) -> tuple[Process, Path]:
        """A worker that was just started, and its ready file. Under the same name it finds its snapshot again."""
        home = self.home / name
        home.mkdir(exist_ok=True)
        seed, ready = home / "worker.nk", home / "ready.json"
        seed.write_text(self.server.worker_seed)
        seed.chmod(0o600)
        ready.unlink(missing_ok=True)
        arguments = ["worker", "--nats", url or self.url, "--realm", self.realm, "--data-dir", str(data or home)]
        process = Process(
            *(*arguments, "--key", str(seed), "--name", name, "--ready-file", str(ready)),
            home=home,
            env={f"ROLLCALL_{key.upper()}": str(value) for key, value in env.items()},
            command=command,
        )
        self.workers[name] = self._stack.enter_context(process)
        return process, ready

    def snapshot(self, name: str = "w1") -> Path:
        return self.home / name / "snapshots" / f"{self.realm}.db"

    def starting_agents(
        self,
        prefix: str,
        count: int = 1,
        *,
        ttl: float = 30.0,
        role: str = "agent",
        url: str = "",
        command: list[str] | None = None,
        **more: Any,
    ) -> Agents:
        """One more process with agents ``<prefix>0`` and so on."""
        ready = self.home / f"agents-{next(self._numbers)}.json"
        options = {"url": url or self.url, "realm": self.realm, "role": role, "prefix": prefix, "count": count}
        options |= {"ttl": ttl, "ready": ready, **more}
        arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        process = Process(*arguments, home=self.home, command=command or script("agents.py"))
        self._stack.enter_context(process)
        self.fleets.append(Agents(process, ready, {f"{prefix}{number}" for number in range(count)}))
        return self.fleets[-1]

    async def agents(self, prefix: str, count: int = 1, **said: Any) -> Agents:
        """As `starting_agents`, once all are registered."""
        agents = self.starting_agents(prefix, count, **said)
        await agents.registered()
        return agents

    def logs(self, lines: int = 40) -> dict[str, str]:
        """The last words of every worker, server and process of agents."""
        said = {name: process.said() for name, process in self.workers.items()}
        said |= {server.name: server.said() for server in self.servers}
        said |= {f"agents {number}": fleet.process.said() for number, fleet in enumerate(self.fleets)}
        return {name: "\n".join(text.splitlines()[-lines:]) for name, text in said.items() if text}

    def registry(self) -> AbstractAsyncContextManager[rollcall.Registry]:
        return rollcall.connect(self.url, realm=self.realm)

    def inside(self) -> AbstractAsyncContextManager[Client]:
        """A plain NATS connection with the rights of a worker."""
        return connected(self.url, name="test worker", nkey_seed=self.server.worker_seed)


async def leader(registry: rollcall.Registry, *, within: float = 15.0) -> str:
    """Who leads, as soon as somebody does."""

    async def somebody() -> str:
        try:
            return (await registry.info(timeout=1))["leader"]
        except rollcall.Unavailable:
            return ""

    return await eventually(somebody, within=within, what="a leader")
