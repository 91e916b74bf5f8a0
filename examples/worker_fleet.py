"""A fleet of workers, and a lieutenant that gives each job to the least loaded of them.

It shows how an agent stays on the roll for as long as its block runs, how it says with `feel` how loaded it is, how
`discover` finds everybody who can do something, and how `pick` chooses among them. All agents live in this process
and share one connection; in a real fleet each would be a process or a machine, and its endpoint a real address.

Start a registry with ``rollcall up``, then::

    python examples/worker_fleet.py --workers 4 --jobs 12
"""

import argparse
import asyncio
import secrets
import sys
import time
from contextlib import AsyncExitStack

import rollcall
from rollcall import Agent, By, Entry, Health, Registry

ROLE = "worker"
SKILLS = ("ocr", "resize")
JOB_TAKES = 0.05
TOLD_WITHIN = 10.0


class Worker:
    """Does jobs. Each stays open until its result is fetched, and the number of open ones is the worker's load."""

    def __init__(self, registry: Registry, agent: Agent) -> None:
        self.agent = agent
        self.endpoint = endpoint(agent.id)
        self._registry = registry
        self._open: list[asyncio.Task[str]] = []

    async def take(self, job: str) -> None:
        """Begins a job, and tells the registry how loaded it is now."""
        self._open.append(asyncio.create_task(self._do(job)))
        await self._tell_load()

    async def results(self) -> list[str]:
        """What came of the jobs, which are closed now."""
        results = await asyncio.gather(*self._open)
        self._open.clear()
        await self._tell_load()
        return results

    async def _do(self, job: str) -> str:
        await asyncio.sleep(JOB_TAKES)
        return f"{job} done"

    async def _tell_load(self) -> None:
        load = len(self._open)
        # Every beat carries it from now on; the next one is some seconds away, so one more goes at once.
        self.agent.feel(active_connections=load)
        await self._registry.heartbeat(
            ROLE, self.agent.id, incarnation=self.agent.incarnation, health=Health(active_connections=load)
        )
        await self._until_told(load)

    async def _until_told(self, load: int) -> None:
        """Waits until the registry has heard it: a beat has no answer, and the next choice depends on it."""
        deadline = time.monotonic() + TOLD_WITHIN
        while time.monotonic() < deadline:
            if await self._told_load() == load:
                return
            await asyncio.sleep(0.01)
        raise rollcall.Unavailable(f"the registry did not hear the beat of {self.agent.id} within {TOLD_WITHIN:g} s")

    async def _told_load(self) -> int | None:
        entry = await self._registry.get(self.agent.id)
        return entry.health.active_connections if entry.health is not None else None


class Lieutenant:
    """Gives out jobs. It knows what a job needs, not who the workers are."""

    def __init__(self, registry: Registry, fleet: str, reached: dict[str, Worker]) -> None:
        self._registry = registry
        self._fleet = fleet
        self._reached = reached

    async def crew(self) -> list[Entry]:
        """Who belongs to the fleet and is live."""
        return list(await self._registry.discover(ROLE, labels={"fleet": self._fleet}))

    async def give(self, job: str, skill: str) -> str:
        """Gives a job to the least loaded worker that has the skill; says to whom."""
        page = await self._registry.pick(ROLE, by=By.LEAST_LOADED, capabilities=[skill], labels={"fleet": self._fleet})
        if not page:
            raise rollcall.NotFound(f"no live worker of fleet {self._fleet} can {skill}; start one")
        chosen = page[0]
        await self._reached[chosen.endpoints["jobs"]].take(job)
        return chosen.id


def endpoint(id: str) -> str:
    """Where a worker takes jobs; a real one would say something like ``https://10.0.0.7:8080/jobs``."""
    return f"inproc://{id}"


async def run(url: str | None, realm: str | None, workers: int, jobs: int) -> None:
    """Starts the fleet, does the jobs, and reports. Everybody has left the roll when it returns."""
    fleet = secrets.token_hex(4)
    async with rollcall.connect(url, realm=realm) as registry, AsyncExitStack() as stack:
        crew = [await stack.enter_async_context(agent(registry, fleet, number + 1)) for number in range(workers)]
        reached = {worker.endpoint: worker for worker in (Worker(registry, one) for one in crew)}
        async with registry.agent("lieutenant", f"lieutenant-{fleet}", capabilities=["dispatch"]):
            await lead(Lieutenant(registry, fleet, reached), fleet, reached, jobs)


def agent(registry: Registry, fleet: str, number: int) -> Agent:
    """One worker of the fleet, not yet on the roll."""
    id = f"{fleet}-worker-{number}"
    return registry.agent(
        ROLE,
        f"worker-{number}",
        id=id,
        capabilities=list(SKILLS),
        endpoints={"jobs": endpoint(id)},
        labels={"fleet": fleet},
    )


async def lead(lieutenant: Lieutenant, fleet: str, reached: dict[str, Worker], jobs: int) -> None:
    """The lieutenant's work: find the crew, give out the jobs, fetch the results, report."""
    crew = await lieutenant.crew()
    print(f"fleet {fleet}: {len(crew)} workers, {jobs} jobs")
    given = [await lieutenant.give(f"job-{n + 1}", SKILLS[n % len(SKILLS)]) for n in range(jobs)]
    done = [result for worker in reached.values() for result in await worker.results()]
    for worker in crew:
        print(f"{worker.name}: {given.count(worker.id)} jobs")
    print(f"done: {len(done)} of {jobs}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nats", metavar="URL", help="the bus; default ROLLCALL_NATS or the local `rollcall up`")
    parser.add_argument("--realm", help="the registry on it; default ROLLCALL_REALM or `default`")
    parser.add_argument("--workers", type=int, default=4, help="how many workers")
    parser.add_argument("--jobs", type=int, default=12, help="how many jobs")
    said = parser.parse_args()
    try:
        asyncio.run(run(said.nats, said.realm, said.workers, said.jobs))
    except rollcall.RollcallError as error:
        sys.exit(f"{error.code}: {error}")


if __name__ == "__main__":
    main()
