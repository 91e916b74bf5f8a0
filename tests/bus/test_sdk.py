"""The SDK as its users meet it."""

import asyncio
import threading
import time

import pytest

import rollcall
from rollcall import ChangeKind, Mode, Position, View
from tests.conftest import eventually, ids


async def test_an_agent_is_on_the_roll_while_its_block_runs(bus):
    async with bus.served() as registry:
        async with registry.agent("worker", "billing", capabilities=["ocr"], labels={"zone": "a"}) as me:
            assert me.registered
            found = (await registry.discover("worker", capabilities=["ocr"]))[0]
            assert (found.id, found.name, found.incarnation) == (me.id, "billing", me.incarnation)
            assert me.id.startswith("billing-")
        assert ids(await registry.list()) == []


async def test_an_agent_beats_and_feels_from_its_own_thread(bus):
    async with bus.served() as registry:
        async with registry.agent("worker", "busy", ttl=1.5) as me, registry.agent("worker", "other", ttl=1.5):
            me.feel(cpu_percent=7.5)

            async def felt():
                return (await registry.get(me.id)).health

            assert (await eventually(felt)).cpu_percent == 7.5
            time.sleep(2.5)  # the loop stands still for longer than the ttl, as a busy program's does
            entry = await registry.get(me.id)
            assert entry.liveness == "live"
            assert [change.kind for change in await registry.history(me.id)] == ["registered"]


async def test_an_agent_whose_loop_stands_still_is_stuck_and_not_lost(bus, monkeypatch):
    stuck_after = 2.0
    for module in ("core.liveness", "sdk.pulse", "worker.beats"):
        monkeypatch.setattr(f"rollcall.{module}.STUCK_AFTER", stuck_after)
    async with bus.served() as registry:
        blocked = threading.Event()

        def program():
            async def main():
                async with rollcall.connect(bus.url, realm=bus.realm) as own:
                    async with own.agent("worker", "stuck", id="s1", ttl=1.5):
                        blocked.wait(30)  # blocks the loop, not the beats

            asyncio.run(main())

        thread = threading.Thread(target=program)
        thread.start()
        try:

            async def stuck():
                entries = await registry.discover("worker", include=["all"])
                return entries and entries[0].liveness == "stuck" and entries[0].stuck_for >= stuck_after

            await eventually(stuck, within=20)
        finally:
            blocked.set()
            await asyncio.to_thread(thread.join)
        kinds = [change.kind for change in await registry.history("s1")]
        assert kinds == ["registered", "deregistered"]


async def test_an_agent_updates_itself(bus):
    async with bus.served() as registry, registry.agent("worker", "x", labels={"a": "1"}) as me:
        entry = await me.update(status="draining", labels={"b": "2"})

        assert (entry.status, entry.labels) == ("draining", {"a": "1", "b": "2"})
        assert ids(await registry.discover("worker")) == []


async def test_a_forgotten_agent_registers_again_with_what_it_said_last(bus):
    async with bus.served() as registry, registry.agent("worker", "x", ttl=1) as me:
        await me.update(labels={"kept": "yes"})
        await registry.deregister("worker", me.id)
        assert me.beating is not None
        me.beating.hello_due = 0.0  # the minute until the next hello, passed

        async def back():
            return [entry for entry in await registry.discover("worker") if entry.labels == {"kept": "yes"}]

        await eventually(back)


async def test_an_agent_answers_the_roll_call(bus):
    async with bus.served() as registry, registry.agent("worker", "x") as me, bus.worker_connection() as inside:
        await registry.deregister("worker", me.id)
        await inside.publish(bus.subjects.roll_call, b'{"window": 0.1}')

        await eventually(lambda: _present(registry, me.id))


async def _present(registry, id):
    return id in ids(await registry.list())


async def test_a_newer_life_silences_the_older_one(bus):
    async with bus.served() as registry, bus.registry() as elsewhere:
        async with registry.agent("worker", "x", id="x1", owner="fleet") as old:
            async with elsewhere.agent("worker", "x", id="x1", owner="fleet", incarnation=old.incarnation + 1) as new:
                assert old.beating is not None
                old.beating.hello_due = 0.0
                await asyncio.wait_for(old.superseded.wait(), 15)
                assert (await registry.get("x1")).incarnation == new.incarnation
                # The older one's goodbye must not remove its successor.
                await old.__aexit__(None, None, None)
                assert (await registry.get("x1")).incarnation == new.incarnation


async def test_an_owners_restart_with_a_slow_clock_takes_its_place_back(bus):
    async with bus.served() as registry:
        await registry.register("worker", "x1", owner="fleet", incarnation=5_000_000_000_000)
        async with registry.agent("worker", "x", id="x1", owner="fleet") as me:
            assert me.incarnation == 5_000_000_000_001
            assert (await registry.get("x1")).incarnation == me.incarnation


async def test_a_live_id_is_a_conflict_that_names_its_holder(bus):
    async with bus.served() as registry:
        await registry.register("worker", "x1", registered_by="ops")

        with pytest.raises(rollcall.Conflict, match="registered by 'ops'") as caught:
            await registry.register("worker", "x1")
        assert caught.value.details["holder"]["registered_by"] == "ops"
        with pytest.raises(rollcall.Conflict):
            await registry.register("worker", "x1", mode=Mode.CREATE)
        assert (await registry.register("worker", "x1", mode=Mode.TAKEOVER)).registered_by == ""


async def test_of_many_that_create_one_id_exactly_one_wins(bus):
    async with bus.served() as registry, bus.registry() as other:
        attempts = [
            who.register(f"role{number % 3}", "the-one", mode=Mode.CREATE)
            for number in range(50)
            for who in (registry, other)
        ]
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)

        assert sum(isinstance(outcome, rollcall.Entry) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, rollcall.Conflict) for outcome in outcomes) == 99


async def test_an_agent_that_need_not_wait_starts_without_a_registry(bus):
    async with bus.registry() as registry:
        async with registry.agent("worker", "early", wait=False) as me:
            assert not me.registered
            async with bus.worker():
                entry = await asyncio.wait_for(me.wait_registered(), 20)
                assert entry.id == me.id


async def test_an_agent_survives_a_registry_that_goes_and_comes_back(bus):
    async with bus.registry() as registry:
        async with bus.worker():
            agent = registry.agent("worker", "x", id="x1", ttl=60)
            await agent.__aenter__()
        with pytest.raises(rollcall.Unavailable):
            await registry.discover("worker", timeout=1)
        async with bus.worker():
            await eventually(lambda: _present(registry, "x1"))
            await agent.__aexit__(None, None, None)
            assert not await _present(registry, "x1")


async def test_wrong_fields_are_refused_before_anything_is_sent(bus):
    async with bus.registry() as registry:
        with pytest.raises(rollcall.Invalid, match="capabilites"):
            registry.agent("worker", "x", capabilites=["ocr"])
        with pytest.raises(rollcall.Invalid, match="ttl"):
            registry.agent("worker", "x", ttl=-1)
        with pytest.raises(rollcall.Invalid, match="role"):
            await registry.discover("")
        with pytest.raises(rollcall.Invalid):
            await registry.get("a\nb")


async def test_a_watch_tells_each_change_once_in_order(bus):
    async with bus.served() as registry, registry.watch("worker") as watch:
        await registry.register("worker", "a")
        await registry.register("scout", "not watched")
        await registry.update("worker", "a", {"name": "new"})
        await registry.deregister("worker", "a", reason="done")

        changes = [await anext(watch) for _ in range(3)]

        assert [(c.kind, c.id) for c in changes] == [("registered", "a"), ("updated", "a"), ("deregistered", "a")]
        assert changes[1].record.name == "new"
        assert changes[2].reason == "done"
        assert watch.state is View.CURRENT


async def test_a_watch_resumes_after_a_position_without_gap_or_repetition(bus):
    async with bus.served() as registry:
        async with registry.watch() as watch:
            await registry.register("worker", "a")
            await anext(watch)
            position = watch.position
        for number in range(20):
            await registry.register("worker", f"b{number}")

        async with registry.watch(since=position) as resumed:
            await registry.register("worker", "last")
            seen = [(await anext(resumed)).id for _ in range(21)]
        assert seen == [f"b{number}" for number in range(20)] + ["last"]


async def test_a_watch_whose_position_is_too_old_compares_everything(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a")
        async with registry.watch("worker", since=Position("1-deadbeef", 99)) as watch:
            change = await anext(watch)
            assert (change.kind, change.id) == (ChangeKind.REGISTERED, "a")
            assert "replaced" in change.reason
            assert "replaced" in watch.reason


async def test_a_watch_that_missed_changes_finds_out_by_the_beacon(bus):
    async with bus.served() as registry, registry.watch("worker") as watch:
        await watch._client._send_unsubscribe(
            watch._subscriptions[0]._id
        )  # the broadcast does not reach it, the beacon does
        await registry.register("worker", "a")

        change = await asyncio.wait_for(anext(watch), 15)

        assert (change.kind, change.id) == (ChangeKind.REGISTERED, "a")


async def test_a_watch_that_hears_nothing_says_stale_and_not_gone(bus, monkeypatch):
    monkeypatch.setattr("rollcall.sdk.watch.STALE_AFTER", 0.5)
    async with bus.registry() as registry:
        async with bus.worker():
            await eventually(lambda: _leader(registry))
            async with registry.mirror("worker") as mirror:
                await registry.register("worker", "a")
                await mirror.wait_for(lambda m: "a" in m)
                monkeypatch.setattr("rollcall.worker.beacon.EVERY", 3600)
                await eventually(lambda: mirror.state is View.STALE)
                assert [entry.id for entry in mirror.find()] == ["a"]


async def _leader(registry):
    return (await registry.info())["leader"]


async def test_a_mirror_keeps_itself_and_answers_without_asking(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a", capabilities=["ocr"])
        async with registry.mirror("worker") as mirror:
            assert [entry.id for entry in mirror.find(capabilities=["ocr"])] == ["a"]
            await registry.register("worker", "b", ttl=0.9)
            await registry.update("worker", "a", {"status": "draining"})
            await mirror.wait_for(lambda m: len(m.find()) == 1 and "b" in m)
            await mirror.wait_for(lambda m: m.get("b").liveness == "suspect")
            await mirror.wait_for(lambda m: m.get("b").liveness == "lost")
            await registry.heartbeat("worker", "b")
            await mirror.wait_for(lambda m: m.get("b").liveness == "live")
            await registry.deregister("worker", "a")
            await mirror.wait_for(lambda m: "a" not in m)
            assert len(mirror) == 1
            with pytest.raises(rollcall.Unavailable):
                await mirror.wait_for(lambda m: len(m) == 9, timeout=0.1)


async def test_a_mirror_ends_up_as_the_roll_under_churn(bus):
    async with bus.served() as registry, bus.registry() as other, other.mirror() as mirror:

        async def churn(who):
            for number in range(60):
                id = f"{who}-{number % 7}"
                try:
                    await registry.register(f"role{who}", id)
                    await registry.update(f"role{who}", id, {"name": str(number)})
                except rollcall.Conflict:
                    await registry.deregister(f"role{who}", id)

        await asyncio.gather(*(churn(who) for who in range(8)))
        wanted = {entry.id: (entry.revision, entry.name) for entry in await registry.list()}

        await mirror.wait_for(lambda m: {e.id: (e.revision, e.name) for e in m} == wanted)


async def test_many_are_registered_in_one_call_each_with_its_outcome(bus):
    async with bus.served() as registry:
        await registry.register("worker", "w3", registered_by="ops")
        outcomes = await registry.register_many({"role": "worker", "id": f"w{number}"} for number in range(1500))

        assert isinstance(outcomes[3], rollcall.Conflict)
        assert sum(isinstance(outcome, rollcall.Entry) for outcome in outcomes) == 1499
        assert len(await registry.discover("worker")) == 1500


def test_scripts_use_the_registry_without_a_loop(bus):
    stop, serving = threading.Event(), threading.Event()

    def serve():
        async def main():
            async with bus.served():
                serving.set()
                await asyncio.to_thread(stop.wait)

        asyncio.run(main())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert serving.wait(20)
        with rollcall.sync.connect(bus.url, realm=bus.realm) as registry:
            with registry.agent("worker", "script", id="s1") as me:
                assert ids(registry.discover("worker")) == [me.id]
            changes = registry.watch("worker")
            first = threading.Thread(target=lambda: seen.append(next(changes)))
            seen: list[rollcall.Change] = []
            first.start()
            time.sleep(0.2)
            registry.register("worker", "a")
            first.join(15)
            assert [change.id for change in seen] == ["a"]
            changes.close()
            registry.update("worker", "a", {"name": "new"})
            registry.heartbeat("worker", "a")
            assert registry.get("a").name == "new"
            assert len(registry.list()) == 1
            assert len(registry.pick("worker")) == 1
            assert registry.deregister("worker", "a").id == "a"
            assert [change.kind for change in registry.history("a")] == ["registered", "updated", "deregistered"]
            assert registry.info()["agents"] == 0
            with pytest.raises(rollcall.NotFound):
                registry.get("a")
    finally:
        stop.set()
        thread.join()


async def test_a_server_that_is_not_there_is_unavailable_soon():
    with pytest.raises(rollcall.Unavailable, match="rollcall up"):
        async with rollcall.connect("nats://127.0.0.1:1", timeout=0.5):
            pass
