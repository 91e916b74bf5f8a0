"""A broadcast that never came is asked for, whatever came after it."""

import asyncio

import pytest

from rollcall.sdk.watch import Watch


@pytest.fixture
def losing(monkeypatch):
    """Broadcasts of these revisions never arrive."""
    lost: set[int] = set()
    hear = Watch._on_change

    async def hear_some(self, message):
        if int(message.headers["Nats-Sequence"]) not in lost:
            await hear(self, message)

    monkeypatch.setattr(Watch, "_on_change", hear_some)
    return lost


async def told(watch, count):
    return [await asyncio.wait_for(anext(watch), 10) for _ in range(count)]


@pytest.mark.parametrize("role", ["worker", None])
async def test_a_change_lost_between_others_is_told_too(bus, losing, role):
    async with bus.served() as registry, registry.watch(role) as watch:
        await registry.register("worker", "before")
        losing.add(2)
        await registry.register("worker", "lost")
        await registry.register("worker", "after")

        changes = await told(watch, 3)

        assert sorted(change.id for change in changes) == ["after", "before", "lost"]
        assert len({change.revision for change in changes}) == 3


@pytest.mark.parametrize("role", ["worker", None])
async def test_changes_of_one_agent_stay_in_order_when_one_is_lost(bus, losing, role):
    async with bus.served() as registry, registry.watch(role) as watch:
        await registry.register("worker", "a", incarnation=1)
        losing.add(2)
        for number in range(3):
            await registry.update("worker", "a", {"labels": {"step": str(number)}})

        changes = await told(watch, 4)

        assert [change.revision for change in changes] == [1, 2, 3, 4]


async def test_many_lost_changes_under_load_are_all_told_once(bus, losing):
    losing.update(range(7, 500, 13))
    async with bus.served() as registry, registry.watch("worker") as watch:
        await registry.register_many({"role": "worker", "id": f"a{number}"} for number in range(500))

        changes = await told(watch, 500)

        assert sorted(change.revision for change in changes) == list(range(1, 501))


async def test_who_missed_nothing_asks_nothing(bus, monkeypatch):
    async with bus.served() as registry, registry.watch("worker") as watch, registry.watch() as of_all:
        asked = []
        monkeypatch.setattr(registry, "since", lambda *args, **named: asked.append(args))
        await registry.register_many({"role": "worker", "id": f"a{number}"} for number in range(200))
        await told(watch, 200)
        await told(of_all, 200)
        await asyncio.sleep(0.3)

        assert asked == []
