"""Commands of chosen roles wait until an operator says yes or no: nothing is lost, and nothing is done twice."""

import asyncio
import contextlib
import json
import time
from typing import Any

import msgspec
import pytest

import rollcall
from rollcall import Busy, Conflict, Denied, NotFound
from rollcall.bus import shapes
from rollcall.core import limits
from rollcall.core.errors import Waits
from rollcall.core.healing import Standing
from rollcall.worker import GoverningSettings
from rollcall.worker.antechamber import Antechamber
from rollcall.worker.shelf import Shelf, Waiting
from tests.bus import courts
from tests.bus.courts import service
from tests.bus.plain import plain
from tests.bus.waiting import empty, kept, pending, put_off, rests, there, waits
from tests.conftest import Bus, eventually, ids, leads


def approval(*approve: str, **settings: Any) -> GoverningSettings:
    return GoverningSettings(approve=approve or ("infra",), **settings)


async def approve(registry: rollcall.Registry, id: str, *, behind: int = 0) -> dict[str, Any]:
    """As soon as the command is shown to wait."""
    await eventually(waits(registry, id, behind=behind, why="approval"))
    return await registry.approve(id)


async def kinds(registry: rollcall.Registry, id: str) -> list[str]:
    return [str(change.kind) for change in await registry.history(id)]


# --- waiting


async def test_a_command_that_waits_is_told_so_and_shown(bus: Bus):
    async with bus.served(governing=approval()) as registry:
        error = await put_off(registry.register("infra", "db"))

        assert (error.status, error.code) == (202, "pending")
        assert "infra 'db'" in str(error) and "rollcall approve" in str(error)
        told = (await registry.pending())[0]
        assert {name: told[name] for name in ("id", "role", "verb", "waits_for", "behind")} == {
            "id": "db",
            "role": "infra",
            "verb": "register",
            "waits_for": "approval",
            "behind": 0,
        }
        assert told["since"].endswith("Z")
        assert ids(await registry.list()) == []


async def test_a_plain_client_is_told_so_too(bus: Bus):
    async with bus.served(governing=approval()) as registry, plain(bus) as client:
        answer = await client.ask("register.infra.db", {"name": "db"})

        assert answer["error"] == "pending"
        assert client.rejected() == []
        await approve(registry, "db")
        await eventually(lambda: client.changes("db") == ["registered"])


async def test_other_roles_need_no_approval(bus: Bus):
    async with bus.served(governing=approval()) as registry:
        await put_off(registry.register("infra", "db"))
        await registry.register("worker", "w1")
        await registry.update("worker", "w1", {"name": "x"})
        await registry.deregister("worker", "w1")

        assert await kinds(registry, "w1") == ["registered", "updated", "deregistered"]


async def test_verbs_can_be_chosen(bus: Bus):
    async with bus.served(governing=approval("infra:deregister")) as registry:
        await registry.register("infra", "db")
        await registry.update("infra", "db", {"name": "x"})
        await put_off(registry.deregister("infra", "db"))
        await approve(registry, "db")

        await eventually(lambda: _gone(registry, "db"))


async def _gone(registry: rollcall.Registry, id: str) -> bool:
    return await there(registry, id)() is None


# --- yes and no


async def test_what_is_approved_happens_once(bus: Bus):
    async with bus.served(governing=approval()) as registry:
        await put_off(registry.register("infra", "db", labels={"a": "b"}))
        told = await registry.approve("db", by="alice")

        assert (told["id"], told["verb"], told["approved"], told["behind"]) == ("db", "register", True, 0)
        entry = await eventually(there(registry, "db"))
        assert entry.labels == {"a": "b"}
        await eventually(rests(registry))
        await eventually(empty(bus))
        assert await kinds(registry, "db") == ["registered"]
        assert (await registry.story("db")).refusals == ()


async def test_whoever_still_listens_hears_the_outcome(bus: Bus):
    async with bus.served(governing=approval()) as registry, plain(bus) as client:
        name = await client.send("register.infra.db", {"name": "db"})
        await client.outcome(name)
        await approve(registry, "db")

        def outcomes() -> list[dict[str, Any]]:
            mine = [m for m in client.heard if (m.headers or {}).get("Rollcall-Command") == name]
            return [json.loads(m.data) for m in mine]

        await eventually(lambda: len(outcomes()) == 2)
        assert outcomes()[0]["error"] == "pending"
        assert outcomes()[1]["id"] == "db" and "error" not in outcomes()[1]


async def test_what_is_denied_does_not_happen_and_history_says_so(bus: Bus):
    async with bus.served(governing=approval()) as registry, plain(bus) as client:
        await put_off(registry.register("infra", "db"))
        told = await registry.deny("db", reason="not in this cluster", by="alice")

        assert told["approved"] is False
        await eventually(rests(registry))
        refusals = (await registry.story("db")).refusals
        assert [(one["verb"], one["by"], one["reason"]) for one in refusals] == [
            ("register", "operator", "not in this cluster")
        ]
        assert ids(await registry.list()) == []
        await eventually(lambda: [one["message"] for one in client.rejected()] == ["not in this cluster"])
        await eventually(empty(bus))


async def test_an_agent_that_was_denied_may_ask_again(bus: Bus):
    async with bus.served(governing=approval()) as registry:
        await put_off(registry.register("infra", "db", incarnation=1))
        await registry.deny("db")
        await eventually(rests(registry))
        await put_off(registry.register("infra", "db", incarnation=1))
        await approve(registry, "db")

        await eventually(there(registry, "db"))
        assert len((await registry.story("db")).refusals) == 1


async def test_a_word_about_nothing_is_not_found(bus: Bus):
    async with bus.served(governing=approval()) as registry:
        for answer in (registry.approve("db"), registry.deny("db")):
            with pytest.raises(NotFound, match="rollcall pending"):
                await answer
        await put_off(registry.register("infra", "db"))
        await registry.approve("db")
        with pytest.raises(NotFound):
            await registry.approve("db")
            await registry.approve("db")


async def test_nobody_waits_longer_than_the_age(bus: Bus):
    async with bus.served(governing=approval(age=1)) as registry:
        await put_off(registry.register("infra", "db"))

        async def refused() -> bool:
            return len((await registry.story("db")).refusals) == 1

        await eventually(refused, within=5)
        assert "within 1 s" in (await registry.story("db")).refusals[0]["reason"]
        await eventually(rests(registry))
        assert ids(await registry.list()) == []


async def test_a_reason_of_any_length_is_kept_short(bus: Bus):
    async with bus.served(governing=approval()) as registry:
        for _ in range(4):
            await put_off(registry.register("infra", "db"))
            await registry.deny("db", reason="no " * 15_000)
            await eventually(rests(registry))

        assert len((await registry.story("db")).refusals) == 4


async def test_a_policy_is_asked_before_an_operator(bus: Bus):
    courts.begin()
    governing = approval(policy="tests.bus.courts:reasoned")
    async with bus.served(governing=governing) as registry:
        with pytest.raises(Denied, match="looks bad"):
            await registry.register("infra", "bad")
        await put_off(registry.register("infra", "db"))
        await approve(registry, "db")

        await eventually(there(registry, "db"))
        assert [one["id"] for one in courts.cases] == ["bad", "db"]


async def test_a_slow_policy_and_then_an_operator(bus: Bus):
    async with service(bus, lambda _: {"allow": True}) as court:
        async with bus.served(governing=approval(policy="bus")) as registry:
            court.open.clear()
            asking = asyncio.create_task(put_off(registry.register("infra", "db", timeout=20)))
            await eventually(waits(registry, "db", why="policy"))
            with pytest.raises(NotFound):
                await registry.approve("db")
            court.open.set()
            await asking
            await approve(registry, "db")

            await eventually(there(registry, "db"))
            assert len(court.asked) == 1
            await eventually(empty(bus))


# --- several commands of one agent


async def test_commands_of_one_agent_wait_in_order(bus: Bus):
    async with bus.served(governing=approval("infra:register")) as registry:
        await put_off(registry.register("infra", "db", incarnation=1))
        await put_off(registry.update("infra", "db", {"labels": {"n": "1"}}))
        await put_off(registry.update("infra", "db", {"labels": {"n": "2"}}))
        await put_off(registry.deregister("infra", "db"))
        assert (await pending(registry))["db"]["behind"] == 3

        await registry.approve("db")

        await eventually(rests(registry))
        await eventually(empty(bus))

        async def all_done() -> bool:
            return await kinds(registry, "db") == ["registered", "updated", "updated", "deregistered"]

        await eventually(all_done)
        assert [change.record.labels for change in await registry.history("db")] == [{}, {"n": "1"}, *[{"n": "2"}] * 2]


async def test_each_command_has_its_own_word(bus: Bus):
    async with bus.served(governing=approval()) as registry:
        await put_off(registry.register("infra", "db", incarnation=1))
        await put_off(registry.update("infra", "db", {"labels": {"n": "1"}}))
        await put_off(registry.update("infra", "db", {"labels": {"m": "2"}}))
        await approve(registry, "db", behind=2)
        await eventually(waits(registry, "db", behind=1, why="approval"))
        assert (await pending(registry))["db"]["verb"] == "update"
        await registry.deny("db", reason="no one")
        await approve(registry, "db")

        async def second_only() -> bool:
            return (await registry.get("db")).labels == {"m": "2"}

        await eventually(second_only)
        await eventually(rests(registry))
        assert [one["reason"] for one in (await registry.story("db")).refusals] == ["no one"]


async def test_what_stood_behind_a_denied_registration_is_decided_on_what_is_there(bus: Bus):
    async with bus.served(governing=approval("infra:register")) as registry, plain(bus) as client:
        await client.ask("register.infra.db", {"name": "db"})
        name = await client.send("update.infra.db", {"name": "x"})
        await eventually(waits(registry, "db", behind=1))
        await registry.deny("db")

        await eventually(rests(registry))
        await eventually(lambda: [one["error"] for one in client.rejected()] == ["denied", "not_found"])
        assert await client.outcome(name)
        await eventually(empty(bus))


async def test_the_same_registration_sent_again_does_not_pile_up(bus: Bus):
    async with bus.served(governing=approval()) as registry:
        for _ in range(20):
            await put_off(registry.register("infra", "db", incarnation=1))

        assert (await pending(registry))["db"]["behind"] == 0
        assert await kept(bus)() == 1
        await registry.approve("db")
        await eventually(there(registry, "db"))
        assert (await registry.register("infra", "db", incarnation=1)).id == "db"
        assert await kinds(registry, "db") == ["registered"]


async def test_the_same_registration_sent_in_one_burst_does_not_pile_up(bus: Bus):
    async with bus.served(governing=approval()) as registry:
        one = {"role": "infra", "id": "db", "incarnation": 1}
        outcomes = await registry.register_many([one] * 50)

        assert {type(outcome) for outcome in outcomes} == {Waits}
        assert (await pending(registry))["db"]["behind"] == 0
        await eventually(lambda: _kept_is(bus, 1))


async def _kept_is(bus: Bus, count: int) -> bool:
    return await kept(bus)() == count


async def test_a_registration_after_a_goodbye_is_not_the_same_as_the_one_before(bus: Bus):
    async with bus.served(governing=approval("infra:register")) as registry:
        await put_off(registry.register("infra", "db", incarnation=1))
        await put_off(registry.deregister("infra", "db"))
        await put_off(registry.register("infra", "db", incarnation=1))

        assert (await pending(registry))["db"]["behind"] == 2
        await registry.approve("db")
        await approve(registry, "db")

        async def again() -> bool:
            return await kinds(registry, "db") == ["registered", "deregistered", "registered"]

        await eventually(again)


@pytest.mark.parametrize("burst", [False, True])
async def test_no_more_than_eight_commands_of_one_agent_wait(bus: Bus, burst: bool):
    async with bus.served(governing=approval("infra:update")) as registry:
        await registry.register("infra", "db")
        updates = [registry.update("infra", "db", {"labels": {"n": str(number)}}) for number in range(20)]
        if burst:
            told: list[Any] = await asyncio.gather(*updates, return_exceptions=True)
        else:
            told = [(await asyncio.gather(one, return_exceptions=True))[0] for one in updates]

        assert [type(one) for one in told] == [Waits] * 8 + [Busy] * 12
        assert (await pending(registry))["db"]["behind"] == 7
        assert await kept(bus)() == 8
        for left in range(7, -1, -1):
            await approve(registry, "db", behind=left)
        await eventually(rests(registry))

        async def last() -> bool:
            return (await registry.get("db")).labels == {"n": "7"}

        await eventually(last)


async def test_no_more_agents_wait_than_is_said(bus: Bus):
    async with bus.served(governing=approval(most=3)) as registry:
        many = [{"role": "infra", "id": f"db{number}"} for number in range(5)]
        outcomes = await registry.register_many(many)

        assert sorted(type(one).__name__ for one in outcomes) == ["Busy", "Busy", "Waits", "Waits", "Waits"]
        await registry.register("worker", "w1")
        waiting = next(iter(await pending(registry)))
        await registry.deny(waiting)
        await eventually(lambda: _waiting_is(registry, 2))
        await put_off(registry.register("infra", "db9"))


async def _waiting_is(registry: rollcall.Registry, count: int) -> bool:
    return len(await pending(registry)) == count


async def test_very_many_that_wait_are_all_shown(bus: Bus):
    async with bus.served(governing=approval()) as registry:
        many = [{"role": "infra", "id": f"db{number}-" + "x" * 60} for number in range(900)]
        outcomes = await registry.register_many(many, timeout=20)

        assert {type(outcome) for outcome in outcomes} == {Waits}
        assert len(await registry.pending()) == 900


# --- bounds of the realm


async def test_agents_that_wait_or_were_denied_take_nobodys_place(bus: Bus):
    governing = approval("infra", "r0", "r1", "r2")
    async with bus.served(governing=governing, max_agents=2, max_roles=3) as registry:
        for number in range(3):
            await put_off(registry.register(f"r{number}", f"denied{number}"))
            await registry.deny(f"denied{number}")
            await eventually(rests(registry))
        for number in range(3):
            await put_off(registry.register("infra", f"waits{number}"))

        await registry.register("worker", "w1")
        await registry.register("other", "w2")
        with pytest.raises(Busy):
            await registry.register("worker", "w3")

        await registry.deregister("other", "w2")
        await approve(registry, "waits0")
        await eventually(there(registry, "waits0"))
        async with plain(bus) as client:
            await approve(registry, "waits1")
            await eventually(lambda: [one["error"] for one in client.rejected()] == ["busy"])


async def test_a_full_pending_bucket_refuses_and_holds_nobody_up(bus: Bus, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shapes, "PENDING_BYTES", 200_000)
    async with bus.served(governing=approval()) as registry:
        big = {"role": "infra", "metadata": {"x": "y" * 50_000}}
        outcomes = await registry.register_many({**big, "id": f"db{number}"} for number in range(6))
        told = [type(one).__name__ for one in outcomes]
        assert told[0] == "Waits" and told[-1] in ("Busy", "Unavailable")

        started = time.monotonic()
        await registry.register("worker", "w1")
        with pytest.raises(Conflict):
            await registry.update("worker", "w1", {"name": "x"}, expected=999)
        assert time.monotonic() - started < 2


async def test_a_lower_bound_refuses_nothing_that_waits_already(bus: Bus):
    async with bus.registry() as registry:
        async with bus.worker(governing=approval(most=3)):
            await leads(registry)
            for number in range(3):
                await put_off(registry.register("infra", f"db{number}"))
        async with bus.worker(governing=approval(most=1)):
            await eventually(waits(registry, "db0", "db1", "db2"))
            with pytest.raises(Busy):
                await registry.register("infra", "db3")


async def test_commands_of_any_name_and_size_can_wait(bus: Bus):
    async with bus.registry() as registry:
        names = ["a/b.c", "ü *>", "x" * limits.NAME_BYTES, "ü" * (limits.NAME_BYTES // 2)]
        async with bus.worker(governing=approval("in/fra *")):
            await leads(registry)
            for id in names:
                await put_off(registry.register("in/fra *", id, metadata={"x": "y" * 60_000}))
        async with bus.worker(governing=approval("in/fra *")):
            await eventually(waits(registry, *names))
            for id in names:
                await approve(registry, id)
                assert len((await eventually(there(registry, id))).metadata["x"]) == 60_000
            await eventually(empty(bus))


# --- what goes on meanwhile


async def test_an_agent_whose_command_waits_is_lost_and_recovers(bus: Bus):
    async with bus.served(governing=approval("infra:update", "infra:deregister")) as registry:
        entry = await registry.register("infra", "db", ttl=0.6, incarnation=1)
        await put_off(registry.update("infra", "db", {"labels": {"a": "b"}}))

        async def liveness() -> str:
            return str((await registry.get("db")).liveness)

        await eventually(lambda: _is(liveness, "lost"))
        await registry.heartbeat("infra", "db", incarnation=1)
        await eventually(lambda: _is(liveness, "live"))
        assert await kinds(registry, "db") == ["registered", "lost", "recovered"]
        await approve(registry, "db")

        async def updated() -> bool:
            return (await registry.get("db")).labels == {"a": "b"}

        await eventually(updated)
        assert (await registry.get("db")).registered_at == entry.registered_at


async def _is(answer: Any, wanted: str) -> bool:
    return await answer() == wanted


async def test_an_approved_update_with_a_revision_is_compared_when_it_happens(bus: Bus):
    async with bus.served(governing=approval("infra:update")) as registry, plain(bus) as client:
        entry = await registry.register("infra", "db", ttl=0.6, incarnation=1)
        other = await registry.register("infra", "other")
        await put_off(registry.update("infra", "other", {"name": "x"}, expected=other.revision))
        await put_off(registry.update("infra", "db", {"name": "x"}, expected=entry.revision))

        async def lost() -> bool:
            return (await registry.get("db")).lost_at is not None

        await eventually(lost)
        await approve(registry, "db")
        await approve(registry, "other")
        await eventually(lambda: [one["error"] for one in client.rejected()] == ["conflict"])
        await eventually(lambda: client.changes("other") == ["registered", "updated"])

        assert ((await registry.get("db")).name, (await registry.get("other")).name) == ("db", "x")
        assert (await registry.story("db")).refusals == ()


async def test_what_was_approved_of_an_agent_that_was_forgotten_meanwhile_is_refused(bus: Bus):
    async with bus.served(governing=approval("infra:update"), forget_after=0.2) as registry, plain(bus) as client:
        await registry.register("infra", "db", ttl=0.5)
        await put_off(registry.update("infra", "db", {"name": "x"}))
        await eventually(lambda: client.changes("db") == ["registered", "lost", "expired"])
        await approve(registry, "db")

        await eventually(lambda: [one["error"] for one in client.rejected()] == ["not_found"])
        await eventually(empty(bus))


async def test_what_waits_outlives_a_roll_that_was_lost(bus: Bus):
    async with bus.served(governing=approval("infra:register")) as registry, plain(bus) as client:
        await registry.register("worker", "w1")
        await put_off(registry.register("infra", "db"))
        epoch = (await registry.info())["epoch"]
        async with bus.worker_connection() as inside:
            await inside.request(f"$JS.API.STREAM.DELETE.{bus.subjects.roll_stream}", timeout=5)

        async def healed() -> bool:
            return (await registry.info())["epoch"] != epoch

        await eventually(healed)
        await approve(registry, "db")
        await eventually(there(registry, "db"))
        assert (await registry.get("w1")).id == "w1"
        assert client.changes("db") == ["registered"]


async def test_a_pending_bucket_that_was_deleted_is_made_again(bus: Bus):
    async with bus.served(governing=approval("infra:register")) as registry:
        await put_off(registry.register("infra", "db"))
        async with bus.worker_connection() as inside:
            await inside.request(f"$JS.API.STREAM.DELETE.{bus.subjects.pending_stream}", timeout=5)
        await approve(registry, "db")
        await eventually(there(registry, "db"))

        async def waits_again() -> bool:
            try:
                await registry.register("infra", "db2", timeout=2)
            except Waits:
                return True
            except (Busy, rollcall.Unavailable):
                return False
            raise AssertionError("nobody was asked")

        await eventually(waits_again)


async def test_an_update_with_a_wrong_revision_is_refused_at_once(bus: Bus):
    async with bus.served(governing=approval("infra:update")) as registry:
        await registry.register("infra", "db")
        with pytest.raises(Conflict):
            await registry.update("infra", "db", {"name": "x"}, expected=999)
        assert await pending(registry) == {}


async def test_an_agent_that_leaves_while_it_waits_is_gone_in_the_end(bus: Bus):
    async with bus.served(governing=approval("infra:register")) as registry:
        await put_off(registry.register("infra", "db"))
        await put_off(registry.deregister("infra", "db"))
        await registry.approve("db")

        async def came_and_went() -> bool:
            return await kinds(registry, "db") == ["registered", "deregistered"]

        await eventually(came_and_went)


async def test_who_is_lost_and_says_the_same_again_needs_no_approval(bus: Bus):
    """Its place was approved; being heard again is no news."""
    async with bus.served(governing=approval()) as registry:
        await put_off(registry.register("infra", "db", ttl=0.5, incarnation=1))
        await approve(registry, "db")

        async def lost() -> bool:
            entry = await there(registry, "db")()
            return entry is not None and entry.lost_at is not None

        await eventually(lost)
        entry = await registry.register("infra", "db", ttl=0.5, incarnation=1)
        assert entry.lost_at is None


async def test_an_agent_of_the_sdk_is_there_once_it_is_approved(bus: Bus):
    async with bus.served(governing=approval("infra:register")) as registry, bus.registry() as program:
        async with program.agent("infra", "db", id="db", ttl=1, wait=False) as agent:
            await eventually(waits(registry, "db"))
            assert not agent.registered
            await approve(registry, "db")
            await asyncio.wait_for(agent.wait_registered(), 12)

            async def beats() -> bool:
                return (await registry.get("db")).liveness == "live"

            await eventually(beats)
        await eventually(lambda: _gone(registry, "db"))


async def test_an_agent_of_the_sdk_that_waits_to_be_registered_leaves_nothing_behind(bus: Bus):
    """Whether entering its block waits or raises: once approved it beats, or is not there."""
    async with bus.served(governing=approval("infra:register")) as registry, bus.registry() as program:

        async def live() -> None:
            async with program.agent("infra", "db", id="db", ttl=1) as agent:
                await agent.wait_registered()
                await asyncio.Event().wait()

        async def right() -> bool:
            told = await kinds(registry, "db")
            if living.done():
                return told == ["registered", "deregistered"] and not await pending(registry)
            return told == ["registered"] and (await registry.get("db")).liveness == "live"

        living = asyncio.create_task(live())
        try:
            await eventually(lambda: _shown(registry, "db"))
            await registry.approve("db")
            await eventually(right)
        finally:
            living.cancel()
            with contextlib.suppress(asyncio.CancelledError, Waits):
                await living


async def _shown(registry: rollcall.Registry, id: str) -> bool:
    return id in await pending(registry)


async def test_a_restart_of_an_agent_waits_again_and_its_old_life_stands_meanwhile(bus: Bus):
    async with bus.served(governing=approval("infra:register")) as registry:
        await put_off(registry.register("infra", "db", incarnation=1, owner="me"))
        await approve(registry, "db")
        await eventually(there(registry, "db"))
        await put_off(registry.register("infra", "db", incarnation=2, owner="me"))

        assert (await registry.get("db")).incarnation == 1
        await approve(registry, "db")

        async def second() -> bool:
            return (await registry.get("db")).incarnation == 2

        await eventually(second)


# --- leaders come and go


async def test_the_next_leader_goes_on_with_what_waits(bus: Bus):
    async with bus.registry() as registry:
        async with bus.worker("w1", governing=approval("infra:register")):
            await leads(registry)
            await put_off(registry.register("infra", "db1"))
            await put_off(registry.register("infra", "db2", incarnation=1))
            await put_off(registry.update("infra", "db2", {"labels": {"a": "b"}}))
            before = await pending(registry)
        async with bus.worker("w2", governing=approval("infra:register")):
            await eventually(waits(registry, "db1"))
            await eventually(waits(registry, "db2", behind=1))
            assert {id: one["since"] for id, one in (await pending(registry)).items()} == {
                id: one["since"] for id, one in before.items()
            }
            await approve(registry, "db1")
            await approve(registry, "db2", behind=1)

            await eventually(rests(registry))
            await eventually(empty(bus))

            async def done() -> list[list[str]]:
                return [await kinds(registry, id) for id in ("db1", "db2")]

            await eventually(lambda: _is(done, [["registered"], ["registered", "updated"]]))  # type: ignore[arg-type]


async def test_a_standby_takes_over_while_a_leader_that_waits_ends(bus: Bus):
    async with bus.worker("w1", governing=approval()) as first, bus.registry() as registry:
        await leads(registry)
        async with contextlib.AsyncExitStack() as stack:
            await put_off(registry.register("infra", "db"))
            await stack.enter_async_context(bus.worker("w2", governing=approval()))
            first._leadership._give_way(Standing("", 0, 0, "w2"))
            await eventually(waits(registry, "db"))
            await approve(registry, "db")

            await eventually(there(registry, "db"))
            await eventually(rests(registry))
            assert await kinds(registry, "db") == ["registered"]


async def test_a_leader_that_ends_between_two_copies_keeps_the_order(bus: Bus, monkeypatch: pytest.MonkeyPatch):
    """Whatever of them is in the pending bucket by then, and whatever in the inbox."""
    put = Shelf.put

    async def stuck(self: Shelf, waiting: Waiting, id: str) -> None:
        if ".register." in waiting.subject:
            await asyncio.Event().wait()
        await put(self, waiting, id)

    async with bus.registry() as registry:
        async with bus.worker(governing=approval("infra:register")):
            await leads(registry)
            with monkeypatch.context() as broken:
                broken.setattr(Shelf, "put", stuck)
                commands = [
                    registry.register("infra", "db", incarnation=1, timeout=1),
                    registry.update("infra", "db", {"labels": {"n": "1"}}, timeout=1),
                    registry.update("infra", "db", {"labels": {"n": "2"}}, timeout=1),
                ]
                await asyncio.gather(*commands, return_exceptions=True)
        async with plain(bus) as client, bus.worker(governing=approval("infra:register")):
            await eventually(lambda: _shown(registry, "db"))
            await registry.approve("db")

            async def in_order() -> bool:
                return await kinds(registry, "db") == ["registered", "updated", "updated"]

            await eventually(in_order, within=5)
            assert (await registry.get("db")).labels == {"n": "2"}
            assert client.rejected() == []


async def test_what_was_taken_up_is_not_taken_from_the_inbox_again(bus: Bus, monkeypatch: pytest.MonkeyPatch):
    """The position may stand before it, because of an older command of somebody else."""
    put, take_up = Shelf.put, Antechamber.take_up

    async def stuck(self: Shelf, waiting: Waiting, id: str) -> None:
        if id == "stuck":
            await asyncio.Event().wait()
        await put(self, waiting, id)

    async def take_up_whole(self: Antechamber) -> None:
        """Until all of it is done; then the inbox is read."""
        await take_up(self)
        await eventually(empty(bus))
        await asyncio.sleep(0.02)

    async with bus.registry() as registry:
        async with bus.worker(governing=approval("infra:deregister")):
            await leads(registry)
            for id in ("stuck", "db"):
                await registry.register("infra", id)
            with monkeypatch.context() as broken:
                broken.setattr(Shelf, "put", stuck)
                with pytest.raises(rollcall.Unavailable):
                    await registry.deregister("infra", "stuck", timeout=0.5)
                await put_off(registry.deregister("infra", "db"))
        monkeypatch.setattr(Antechamber, "take_up", take_up_whole)
        async with plain(bus) as client, bus.worker():
            await eventually(lambda: _gone(registry, "stuck"))
            await eventually(lambda: _gone(registry, "db"))
            await registry.register("infra", "later")
            with pytest.raises(NotFound):
                await registry.deregister("infra", "nobody")

            assert [one["command"] for one in client.rejected()] == ["deregister"]
            assert await kinds(registry, "db") == ["registered", "deregistered"]


async def test_a_leader_starts_when_the_newest_that_waited_is_settled(bus: Bus):
    """The end of the pending bucket was purged; the rest is there."""
    async with bus.registry() as registry:
        async with bus.worker(governing=approval()):
            await leads(registry)
            for id in ("db1", "db2", "db3"):
                await put_off(registry.register("infra", id))
            for id in ("db2", "db3"):
                await registry.approve(id)
                await eventually(there(registry, id))
            await eventually(lambda: _kept_is(bus, 1))
        async with bus.worker(governing=approval()):
            await eventually(waits(registry, "db1"), within=5)
            assert set(await pending(registry)) == {"db1"}


async def test_what_an_operator_decided_is_not_asked_again(bus: Bus):
    async with bus.registry() as registry:
        async with bus.worker(governing=approval()):
            await leads(registry)
            for id in ("yes", "no"):
                await put_off(registry.register("infra", id))
            await registry.approve("yes")
            await registry.deny("no")
            await eventually(rests(registry))
        async with bus.worker(governing=approval()):
            await leads(registry)
            await eventually(rests(registry))
            assert await kept(bus)() == 0
            await eventually(there(registry, "yes"))
            assert ids(await registry.list()) == ["yes"]
            assert len((await registry.story("no")).refusals) == 1


@pytest.mark.parametrize("number", range(2))
async def test_a_worker_that_ends_amid_approvals_ends_well(bus: Bus, number: int):
    many = [f"db{one}" for one in range(30)]
    async with bus.registry() as registry:
        async with bus.worker(governing=approval()):
            await leads(registry)
            await registry.register_many({"role": "infra", "id": id} for id in many)
            await eventually(waits(registry, *many))
            for id in many:
                await registry.approve(id)
            await asyncio.sleep(number * 0.002)
        async with bus.worker(governing=approval()):
            await leads(registry)

            async def again() -> bool:
                for id in await pending(registry):
                    with contextlib.suppress(NotFound):
                        await registry.approve(id)
                return len(await registry.list()) == 30

            await eventually(again)
            for id in many:
                assert await kinds(registry, id) == ["registered"]
            await eventually(empty(bus))


async def test_a_new_inbox_blocks_no_refusals(bus: Bus):
    """A command of an earlier inbox may have a number that this one will not reach for long."""
    async with bus.registry() as registry:
        async with bus.worker(governing=approval()):
            await leads(registry)
            await registry.register_many({"role": "worker", "id": f"w{number}"} for number in range(50))
            await put_off(registry.register("infra", "db"))
        async with bus.worker_connection() as inside:
            await inside.request(f"$JS.API.STREAM.DELETE.{bus.subjects.inbox_stream}")
        async with bus.worker(governing=approval()), plain(bus) as client:
            await eventually(waits(registry, "db"))
            await registry.deny("db", reason="not now")
            await eventually(rests(registry))

            with pytest.raises(Conflict):
                await registry.update("worker", "w1", {"name": "x"}, expected=999)
            await eventually(lambda: "denied" in [one["error"] for one in client.rejected()], within=5)


async def test_a_command_of_an_earlier_inbox_happens_when_it_is_approved(bus: Bus):
    async with bus.registry() as registry:
        async with bus.worker(governing=approval()):
            await leads(registry)
            await registry.register("worker", "w1")
            await put_off(registry.register("infra", "db"))
        async with bus.worker_connection() as inside:
            await inside.request(f"$JS.API.STREAM.DELETE.{bus.subjects.inbox_stream}")
        async with bus.worker(governing=approval()):
            await approve(registry, "db")
            await eventually(there(registry, "db"))
            await eventually(empty(bus))


async def test_two_realms_do_not_mix(nats_server, tmp_path, bus: Bus):
    other = Bus(nats_server, f"{bus.realm}-other", tmp_path / "other")
    other.home.mkdir()
    async with bus.served(governing=approval()) as registry, other.served(governing=approval()) as second:
        await put_off(registry.register("infra", "db"))
        await put_off(second.register("infra", "db"))
        await second.approve("db")
        await eventually(there(second, "db"))

        assert set(await pending(registry)) == {"db"}
        assert await there(registry, "db")() is None
    subjects = other.subjects
    beside = (subjects.leases_stream, subjects.messages_stream, subjects.pending_stream)
    async with other.worker_connection() as inside:
        for stream in (subjects.inbox_stream, subjects.roll_stream, *beside):
            await inside.request(f"$JS.API.STREAM.DELETE.{stream}")


def odd(bus: Bus, **changed: Any) -> bytes:
    """A message of the pending bucket, with some members as they should not be."""
    subject = f"rollcall.{bus.realm}.register.infra.odd"
    whole = {"seq": 5, "subject": subject, "headers": {}, "data": b'{"name": "odd"}', "at": 5}
    whole |= {"inbox_epoch": "1-aaaaaaaa", "after": 0, "why": "approval"}
    assert msgspec.json.decode(msgspec.json.encode(whole), type=Waiting).seq == 5
    return msgspec.json.encode({**whole, **changed})


async def test_a_corrupt_message_in_the_pending_bucket_stops_nobody(bus: Bus):
    async with bus.registry() as registry:
        async with bus.worker(governing=approval()):
            await leads(registry)
            await put_off(registry.register("infra", "db"))
        bucket, root = f"$KV.{bus.subjects.pending_bucket}", f"rollcall.{bus.realm}"
        async with bus.worker_connection() as inside:
            corrupt = {
                "wait.a.1": b"",
                "wait.b.1": b"no json",
                "wait.c.1": b"[]",
                "wait.d.1": b"\xff\xfe",
                "wait.e.1": odd(bus, subject="x"),
                "wait.f.1": odd(bus, subject=""),
                "wait.g.1": odd(bus, subject=f"{root}.register.infra.odd", data=b"no json"),
                "wait.h.1": odd(bus, subject=f"{root}.register.=.=="),
                "wait.i.1": odd(bus, headers={"Rollcall-Mode": "sideways"}),
                "wait": b"{}",
                "refused.db": b"no json",
                "something.else": b"[",
            }
            for key, value in corrupt.items():
                stored = await inside.request(f"{bucket}.{key}", value, timeout=5)
                assert b"error" not in stored.data, stored.data
        async with bus.worker(governing=approval()):
            await eventually(waits(registry, "db"), within=5)
            await registry.register("worker", "w1")
            await registry.deny("db", reason="no")
            await eventually(rests(registry))
            await put_off(registry.register("infra", "db"))
            await approve(registry, "db")
            await eventually(there(registry, "db"))
            assert [one["reason"] for one in (await registry.story("db")).refusals] in ([], ["no"])
            await eventually(rests(registry))
