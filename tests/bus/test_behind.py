"""A worker that may have missed what the whole realm knows: questions wait until it has caught up, and not for ever."""

import asyncio

import pytest

from rollcall.bus.follow import Follower
from rollcall.core.errors import Unavailable
from rollcall.worker import folding
from tests.conftest import eventually, ids, leads


class Deaf:
    """Makes followers hear nothing, as behind a half-open connection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = False
        receive = Follower._receive

        def hear(follower, message):
            if not self.now:
                receive(follower, message)

        monkeypatch.setattr(Follower, "_receive", hear)
        create = Follower._create_consumer

        async def made(follower):
            if self.now:
                raise Unavailable("nothing comes through")
            await create(follower)

        monkeypatch.setattr(Follower, "_create_consumer", made)


async def lost_touch(worker):
    """Waits until a worker has given up its consumer."""
    await eventually(worker._folding.behind, within=5)


async def test_a_question_waits_until_the_worker_has_caught_up(bus, monkeypatch):
    deaf = Deaf(monkeypatch)
    monkeypatch.setattr(folding, "CATCH_UP_WITHIN", 30.0)
    async with bus.worker() as worker, bus.registry() as registry:
        await leads(registry)
        await registry.register("worker", "before", ttl=None)
        deaf.now = True
        await lost_touch(worker)
        asked = asyncio.create_task(registry.discover("worker"))
        done, _ = await asyncio.wait((asked,), timeout=0.3)
        assert not done

        deaf.now = False

        assert ids(await asked) == ["before"]


async def test_what_is_known_is_answered_after_a_while_when_nobody_tells_more(bus, monkeypatch):
    deaf = Deaf(monkeypatch)
    monkeypatch.setattr(folding, "CATCH_UP_WITHIN", 0.5)
    async with bus.worker() as worker, bus.registry() as registry:
        await leads(registry)
        await registry.register("worker", "known", ttl=None)
        deaf.now = True
        await lost_touch(worker)

        assert ids(await registry.discover("worker")) == ["known"]
        deaf.now = False
