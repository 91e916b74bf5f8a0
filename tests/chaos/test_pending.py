"""The leader is killed while commands wait for somebody's word: nothing is lost, nothing is done twice."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from nats.aio.msg import Msg

import rollcall
from rollcall.bus.connection import barrier, connected
from rollcall.core.errors import Waits
from tests.bus.waiting import pending, rests, waits
from tests.chaos.figures import Stopwatch, record
from tests.chaos.rig import Rig, leader, script, started
from tests.conftest import eventually

MANY = 20


async def two_workers(rig: Rig, *first: str, **env: Any) -> None:
    """`w1` leads; `w2` stands by."""
    command = {"command": script("failing_worker.py", *first)} if first else {}
    await rig.worker("w1", **command, **env)
    async with rig.registry() as registry:
        assert await leader(registry) == "w1"
    await started(*rig.starting("w2", **env))


async def changes(registry: rollcall.Registry, id: str) -> list[str]:
    return [str(change.kind) for change in await registry.history(id)]


async def approve_all(registry: rollcall.Registry, ids: set[str]) -> None:
    """Until each is on the roll, whoever leads; an operator's word that got lost is said again."""

    async def there() -> bool:
        for id in set(await pending(registry)) & ids:
            with contextlib.suppress(rollcall.NotFound, rollcall.Unavailable):
                await registry.approve(id, timeout=1)
        return ids <= {entry.id for entry in await registry.list()}

    await eventually(there, what="all that were approved")


class Court:
    """A judge on the bus, as slow as a test wants it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = asyncio.Event()

    async def judge(self, message: Msg) -> None:
        case = json.loads(message.data)
        self.asked.append(case["id"])
        await self.open.wait()
        verdict = {"allow": not case["id"].startswith("bad"), "reason": "against the law"}
        await message.respond(json.dumps(verdict).encode())


@asynccontextmanager
async def sitting(rig: Rig) -> AsyncIterator[Court]:
    court, tasks = Court(), set()

    async def on_case(message: Msg) -> None:
        tasks.add(asyncio.create_task(court.judge(message)))

    async with connected(rig.url, name="court") as client:
        await client.subscribe(f"rollcall.{rig.realm}.policy", cb=on_case)
        await barrier(client)
        try:
            yield court
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_leader_killed_while_commands_wait_for_an_approval(rig: Rig):
    await two_workers(rig, approve="infra:register")
    yes, no = {f"yes{number}" for number in range(MANY)}, {f"no{number}" for number in range(MANY)}
    async with rig.registry() as registry:
        outcomes = await registry.register_many({"role": "infra", "id": id} for id in sorted(yes | no))
        assert {type(outcome) for outcome in outcomes} == {Waits}
        for id in sorted(yes):
            with pytest.raises(Waits):
                await registry.update("infra", id, {"labels": {"second": id}})
        before = await pending(registry)

        rig.workers["w1"].kill()
        killed = Stopwatch()
        await eventually(waits(registry, *yes, behind=1))
        took = killed.seconds
        assert await pending(registry) == before
        rig.starting("w1", approve="infra:register")
        for id in sorted(no):
            await registry.deny(id, reason="not here")
        await approve_all(registry, yes)
        await eventually(rests(registry))

        for id in yes:

            async def both(id: str = id) -> bool:
                return await changes(registry, id) == ["registered", "updated"]

            await eventually(both)
            assert (await registry.get(id)).labels == {"second": id}
        for id in no:
            assert await changes(registry, id) == []
            assert [one["reason"] for one in (await registry.story(id)).refusals] == ["not here"]
    assert took < 5
    record("leader kill -9 while commands wait", f"{3 * MANY} commands wait for an approval", right_after=took)


@pytest.mark.parametrize("step", ["publish", "fold", "answer"])
async def test_a_leader_killed_amid_approvals_does_each_once(rig: Rig, step: str):
    await two_workers(rig, step, str(MANY // 2), approve="infra:register")
    ids = {f"db{number}" for number in range(MANY)}
    async with rig.registry() as registry:
        await registry.register_many({"role": "infra", "id": id} for id in sorted(ids))
        await eventually(waits(registry, *ids))

        await approve_all(registry, ids)
        await eventually(lambda: rig.workers["w1"].popen.poll() is not None, what=f"its end at {step}")
        await eventually(rests(registry))

        assert rig.workers["w1"].popen.returncode == -9
        assert await leader(registry) == "w2"
        assert {id: await changes(registry, id) for id in ids} == {id: ["registered"] for id in ids}
    record(f"leader kill -9 after {step}, amid approvals", f"{MANY} commands wait", times=1)


async def test_a_leader_killed_while_a_slow_court_thinks(rig: Rig):
    good, bad = {f"good{number}" for number in range(MANY)}, {f"bad{number}" for number in range(MANY)}
    async with sitting(rig) as court, rig.registry() as registry:
        await two_workers(rig, policy="bus", policy_timeout=60, policy_concurrency=2 * MANY, policy_fail="closed")
        asking = asyncio.create_task(
            registry.register_many(({"role": "worker", "id": id} for id in sorted(good | bad)), timeout=30)
        )
        await eventually(waits(registry, *good, *bad))

        rig.workers["w1"].kill()
        killed = Stopwatch()
        await eventually(waits(registry, *good, *bad))
        took = killed.seconds
        court.open.set()
        outcomes = dict(zip(sorted(good | bad), await asking, strict=True))

        assert {id for id, one in outcomes.items() if isinstance(one, rollcall.Entry)} == good
        assert {id for id, one in outcomes.items() if isinstance(one, rollcall.Denied)} == bad
        await eventually(rests(registry))
        assert {id: await changes(registry, id) for id in good} == {id: ["registered"] for id in good}
        assert {len((await registry.story(id)).refusals) for id in bad} == {1}
    record("leader kill -9 while a court thinks", f"{2 * MANY} registrations", right_after=took)
