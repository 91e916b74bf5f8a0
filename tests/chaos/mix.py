"""Faults by chance: each is done, undone, and waited out, while clients go on."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from signal import Signals

import rollcall
from rollcall.bus import streams
from tests.chaos.figures import Stopwatch
from tests.chaos.load import Load
from tests.chaos.proxy import Proxy
from tests.chaos.recorder import Recorder
from tests.chaos.rig import Agents, Rig, leader, script
from tests.processes import Process

WORKERS = ("w1", "w2")
EACH = 10
TTL = 3.0
RIGHT_WITHIN = 20.0
TWO_AT_ONCE = 0.3


class Mix:
    """One run. `dice` decides everything that chance decides; `proxy` is the watcher's way to the bus."""

    def __init__(
        self, rig: Rig, registry: rollcall.Registry, recorder: Recorder, load: Load, proxy: Proxy, dice: random.Random
    ) -> None:
        self._rig = rig
        self._registry = registry
        self._recorder = recorder
        self._load = load
        self._proxy = proxy
        self._dice = dice
        self._fleets: list[Agents] = []
        self._born = 0
        self.done: list[str] = []
        """Every fault so far, and the seconds until all was right again."""

    @property
    def counts(self) -> dict[str, int]:
        """How many times each fault was done."""
        return dict(sorted(Counter(one.partition(":")[0] for one in self.done).items()))

    async def begin(self) -> None:
        """Two workers, and agents in four processes."""
        for name in WORKERS:
            await self._rig.worker(name)
        await leader(self._registry)
        for _ in range(4):
            await self._bear()

    async def one_fault(self) -> None:
        """Does the next one, or two at once, and waits until commands are answered again."""
        kinds = self._dice.sample(list(self.faults), 2 if self._dice.random() < TWO_AT_ONCE else 1)
        faults = [self._dice.choice(self.faults[kind]) for kind in kinds]
        name = " + ".join(fault.__name__.strip("_").replace("_", " ") for fault in faults)
        self.done.append(f"{name}: not over")
        await asyncio.gather(*(fault() for fault in faults))
        began = Stopwatch()
        await self._load.right_again(within=RIGHT_WITHIN)
        self.done[-1] = f"{name}: {began.seconds:.1f} s"

    @property
    def living(self) -> set[str]:
        """The ids of the agents whose processes run."""
        return set().union(*(fleet.ids for fleet in self._fleets))

    @property
    def faults(self) -> dict[str, list[Callable[[], Awaitable[None]]]]:
        """By what they touch: two of the same kind would undo each other."""
        return {
            "workers": [
                *(self._kill_the_leader, self._kill_the_other, self._freeze_the_leader, self._freeze_the_other),
                self._forget_a_snapshot,
            ],
            "the server": [self._restart_the_server, self._kill_the_server],
            "streams": [self._delete_the_roll, self._delete_the_inbox, self._delete_the_leases],
            "agents": [self._kill_agents, self._freeze_agents, self._block_agents],
            "others": [self._cut_the_watcher, self._call_the_roll, self._flood],
        }

    async def _leader(self) -> str:
        return await leader(self._registry)

    async def _other(self) -> str:
        leads = await self._leader()
        return next(name for name in WORKERS if name != leads)

    async def _kill_the_leader(self) -> None:
        await self._reborn(await self._leader())

    async def _kill_the_other(self) -> None:
        await self._reborn(await self._other())

    async def _reborn(self, name: str) -> None:
        self._rig.workers[name].kill()
        await self._moment(1.5)
        await self._rig.worker(name)

    async def _freeze_the_leader(self) -> None:
        await self._frozen(self._rig.workers[await self._leader()])

    async def _freeze_the_other(self) -> None:
        await self._frozen(self._rig.workers[await self._other()])

    async def _frozen(self, process: Process) -> None:
        process.pause()
        await self._moment(TTL + 1)
        process.resume()

    async def _restart_the_server(self) -> None:
        await self._rig.server.restart(Signals.SIGTERM, away=self._dice.uniform(0, 1))

    async def _kill_the_server(self) -> None:
        await self._rig.server.restart(Signals.SIGKILL, away=self._dice.uniform(0, 1))

    async def _bear(self) -> None:
        """One more process of agents, under ids that were never used."""
        self._born += 1
        self._fleets.append(await self._rig.agents(f"p{self._born}-", EACH, ttl=TTL, block=2))

    async def _kill_agents(self) -> None:
        fleet = self._fleets.pop(self._dice.randrange(len(self._fleets)))
        self._recorder.mortal |= fleet.ids
        fleet.kill()
        await self._bear()

    async def _freeze_agents(self) -> None:
        fleet = self._dice.choice(self._fleets)
        self._recorder.mortal |= fleet.ids
        await self._frozen(fleet.process)

    async def _block_agents(self) -> None:
        self._dice.choice(self._fleets).signal(Signals.SIGUSR1)

    async def _cut_the_watcher(self) -> None:
        self._proxy.cut()
        await self._moment(2)
        await self._proxy.mend()

    async def _call_the_roll(self) -> None:
        try:
            await self._registry.call_roll()
        except (rollcall.Busy, rollcall.Unavailable):
            pass  # it was called a moment ago

    async def _forget_a_snapshot(self) -> None:
        """Of one worker; the other one keeps its own."""
        name = await self._other()
        self._rig.workers[name].kill()
        for part in self._rig.snapshot(name).parent.iterdir():
            if part.suffix != ".lock":
                part.unlink()
        await self._rig.worker(name)

    async def _delete_the_roll(self) -> None:
        await self._delete(self._rig.subjects.roll_stream)

    async def _delete_the_inbox(self) -> None:
        await self._delete(self._rig.subjects.inbox_stream)

    async def _delete_the_leases(self) -> None:
        await self._delete(self._rig.subjects.leases_stream)

    async def _delete(self, stream: str) -> None:
        with contextlib.suppress(rollcall.Unavailable):  # the server is away: then it is not deleted
            async with self._rig.inside() as inside:
                await streams.request(inside, f"STREAM.DELETE.{stream}")

    async def _flood(self) -> None:
        options = ["--url", self._rig.url, "--realm", self._rig.realm, "--ready", str(self._rig.home / "flood.json")]
        more = ["--ids", "5000", "--rate", "10000", "--count", "15000"]
        with Process("beats", *options, *more, home=self._rig.home, command=script("flood.py")) as flood:
            while flood.popen.poll() is None:
                await asyncio.sleep(0.05)

    async def _moment(self, most: float) -> None:
        await asyncio.sleep(self._dice.uniform(0, most))
