"""Somebody judges commands before they happen, in each of the three forms, and holds nobody else up."""

import asyncio
import json
import time
from typing import Any

import pytest

import rollcall
from rollcall import Denied, Unavailable
from rollcall.core.errors import Waits
from rollcall.worker import GoverningSettings
from tests.bus import courts
from tests.bus.courts import Court, names, service, trifecta
from tests.bus.plain import plain
from tests.bus.waiting import empty, rests, waits
from tests.conftest import Bus, eventually, ids, leads

QUICK = 1.0


def valid(question: dict[str, Any]) -> dict[str, Any]:
    """A Trifecta court that knows bad names."""
    if question["context"]["name"].startswith("bad"):
        return {"valid": False, "reason": "against the third law", "law": 3}
    return {"valid": True}


def allow(case: dict[str, Any]) -> dict[str, Any]:
    """The same on the bus."""
    return {"allow": False, "reason": "against the third law"} if '"bad' in json.dumps(case) else {"allow": True}


def policy(one: str | Court, **settings: Any) -> GoverningSettings:
    name = one if isinstance(one, str) else one.url or "bus"
    return GoverningSettings(policy=name if ":" in name or name == "bus" else f"tests.bus.courts:{name}", **settings)


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    courts.begin()
    yield
    courts.gate.set()


# --- a court over HTTP


async def test_a_court_is_asked_in_its_own_words_and_allows(bus: Bus):
    async with trifecta(valid) as court, bus.served(governing=policy(court)) as registry:
        await registry.register("worker", "w1", name="one", capabilities=["ocr"], category="eyes")

        context = {"name": "one", "type": "worker", "category": "eyes", "capabilities": ["ocr"]}
        assert court.asked == [{"action": "register_agent", "context": context}]
        assert ids(await registry.discover("worker")) == ["w1"]


async def test_a_court_refuses_with_its_reason_and_history_keeps_that(bus: Bus):
    async with trifecta(valid) as court, bus.served(governing=policy(court)) as registry, plain(bus) as client:
        with pytest.raises(Denied, match="against the third law") as refused:
            await registry.register("worker", "w1", name="bad")

        assert refused.value.details["judged_by"] == "court"
        story = await registry.story("w1")
        assert story.changes == []
        told = [{name: one[name] for name in ("verb", "role", "code", "by", "reason")} for one in story.refusals]
        assert told == [
            {
                "verb": "register",
                "role": "worker",
                "code": "denied",
                "by": "court",
                "reason": "against the third law",
            }
        ]
        with pytest.raises(rollcall.NotFound):
            await registry.get("w1")
        await eventually(lambda: [one["judged_by"] for one in client.rejected()] == ["court"])


async def test_a_court_judges_registrations_only(bus: Bus):
    async with trifecta(valid) as court, bus.served(governing=policy(court)) as registry:
        await registry.register("worker", "w1", name="one")
        await registry.update("worker", "w1", {"name": "bad"})
        await registry.deregister("worker", "w1")

        assert names(court) == ["one"]


async def test_a_courts_word_counts_whatever_its_status_is(bus: Bus):
    async with trifecta(valid, status=500) as court, bus.served(governing=policy(court)) as registry:
        await registry.register("worker", "w1", name="one")
        with pytest.raises(Denied):
            await registry.register("worker", "w2", name="bad")


async def test_what_is_no_verdict_refuses_and_harms_nobody(bus: Bus):
    junk = [b"", b"yes", b"[]", b'{"valid": "true"}', b"{}", b"\xff\xfe", b"[" * 200_000, b'{"valid": 1}']
    async with trifecta(lambda _: junk.pop()) as court, bus.served(governing=policy(court, cache=0)) as registry:
        while junk:
            with pytest.raises(Denied):
                await registry.register("worker", "w1")

        court.verdict = valid
        await registry.register("worker", "w2")


async def test_while_a_court_is_away_registrations_happen(bus: Bus):
    async with trifecta(valid) as court:
        pass
    async with bus.served(governing=policy(court)) as registry:
        started = time.monotonic()
        await registry.register("worker", "bad")
        assert time.monotonic() - started < 2


async def test_while_a_court_is_away_nothing_happens_where_that_means_no(bus: Bus):
    async with trifecta(valid) as court:
        pass
    async with bus.served(governing=policy(court, fail_closed=True)) as registry:
        with pytest.raises(Unavailable, match="court"):
            await registry.register("worker", "w1")
        assert ids(await registry.list()) == []
        assert (await registry.story("w1")).refusals == ()


@pytest.mark.parametrize("fail_closed", [False, True])
async def test_a_court_that_never_answers_is_given_up(bus: Bus, fail_closed: bool):
    async with trifecta(valid) as court:
        court.open.clear()
        async with bus.served(governing=policy(court, timeout=0.5, fail_closed=fail_closed)) as registry:
            try:
                await registry.register("worker", "w1")
            except Unavailable as error:
                assert fail_closed and "court" in str(error)
            assert ids(await registry.list()) == ([] if fail_closed else ["w1"])
            assert await registry.pending() == []


async def test_a_court_that_answers_drop_by_drop_is_given_up(bus: Bus):
    """The time for a verdict is the time for all of it."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        except (ConnectionError, asyncio.CancelledError):
            pass  # given up
        finally:
            writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with bus.served(governing=policy(url, timeout=0.5)) as registry:
            started = time.monotonic()
            await registry.register("worker", "w1")
            assert time.monotonic() - started < 3


# --- a service on the bus


async def test_a_service_on_the_bus_judges_across_the_accounts(bus: Bus):
    async with service(bus, allow) as court, bus.served(governing=policy("bus")) as registry:
        await registry.register("worker", "w1", labels={"a": "b"})
        with pytest.raises(Denied, match="third law") as refused:
            await registry.register("worker", "bad")

        assert refused.value.details["judged_by"] == "policy"
        assert [one["id"] for one in court.asked] == ["w1", "bad"]
        assert (court.asked[0]["verb"], court.asked[0]["held"]) == ("register", None)
        assert court.asked[0]["profile"]["labels"] == {"a": "b"}


async def test_a_service_judges_every_verb_and_is_told_what_is_held(bus: Bus):
    async with service(bus, allow) as court, bus.served(governing=policy("bus")) as registry:
        await registry.register("worker", "w1", name="one")
        await registry.update("worker", "w1", {"labels": {"a": "b"}})
        with pytest.raises(Denied):
            await registry.update("worker", "w1", {"labels": {"a": "bad"}})
        with pytest.raises(Denied):
            await registry.deregister("worker", "w1", reason="bad")
        await registry.deregister("worker", "w1", reason="good")

        told = [(one["verb"], one["held"] and one["held"].get("labels")) for one in court.asked]
        held = {"a": "b"}
        expected = [("register", None), ("update", None), ("update", held), ("deregister", held), ("deregister", held)]
        assert told == expected
        assert court.asked[1]["held"]["name"] == "one"
        assert court.asked[1]["patch"] == {"labels": {"a": "b"}}
        assert [one["verb"] for one in (await registry.story("w1")).refusals] == ["update", "deregister"]
        assert [change.kind for change in await registry.history("w1")] == ["registered", "updated", "deregistered"]


@pytest.mark.parametrize("fail_closed", [False, True])
async def test_without_a_service_commands_happen_or_not_as_is_said(bus: Bus, fail_closed: bool):
    async with bus.served(governing=policy("bus", fail_closed=fail_closed, cache=0)) as registry:
        if fail_closed:
            with pytest.raises(Unavailable, match="policy"):
                await registry.register("worker", "w1")
            async with service(bus, allow):
                await registry.register("worker", "w1")
        else:
            await registry.register("worker", "bad")
        assert len(await registry.list()) == 1


async def test_only_a_plain_yes_of_a_service_is_a_yes(bus: Bus):
    junk = [b"", b"yes", b"[]", b'{"allow": 1}', b'{"allow": "true"}', b'{"allow": false}', b"{}", b"[" * 200_000]
    governing = policy("bus", fail_closed=True, cache=0)
    async with service(bus, lambda _: junk.pop()), bus.served(governing=governing) as registry:
        while junk:
            with pytest.raises((Denied, Unavailable)):
                await registry.register("worker", "w1")
        assert ids(await registry.list()) == []


async def test_two_realms_have_two_policies(nats_server, tmp_path, bus: Bus):
    other = Bus(nats_server, f"{bus.realm}-other", tmp_path / "other")
    other.home.mkdir()
    governing = policy("bus", fail_closed=True)
    async with service(bus, allow) as mine, bus.served(governing=governing) as registry:
        async with service(other, lambda _: {"allow": False}) as theirs, other.served(governing=governing) as second:
            await registry.register("worker", "w1")
            with pytest.raises(Denied):
                await second.register("worker", "w1")

    assert (len(mine.asked), len(theirs.asked)) == (1, 1)
    await _forget(other)


async def _forget(other: Bus) -> None:
    subjects = other.subjects
    beside = (subjects.leases_stream, subjects.messages_stream, subjects.pending_stream)
    async with other.worker_connection() as inside:
        for stream in (subjects.inbox_stream, subjects.roll_stream, *beside):
            await inside.request(f"$JS.API.STREAM.DELETE.{stream}")


# --- a Python function


async def test_a_function_judges_every_verb(bus: Bus):
    async with bus.served(governing=policy("reasoned")) as registry:
        await registry.register("worker", "w1")
        await registry.update("worker", "w1", {"name": "x"})
        await registry.deregister("worker", "w1")
        with pytest.raises(Denied, match="bad1 looks bad") as refused:
            await registry.register("worker", "bad1")

        assert refused.value.details["judged_by"] == "policy"
        assert [one["verb"] for one in courts.cases] == ["register", "update", "deregister", "register"]
        assert [one["reason"] for one in (await registry.story("bad1")).refusals] == ["bad1 looks bad"]


async def test_a_function_that_breaks_has_judged_nothing(bus: Bus):
    async with bus.served(governing=policy("raising")) as registry:
        await registry.register("worker", "w1")
    async with bus.served(governing=policy("raising", fail_closed=True)) as registry:
        with pytest.raises(Unavailable, match="ZeroDivisionError"):
            await registry.register("worker", "w2")
        assert ids(await registry.list()) == ["w1"]


async def test_a_function_that_blocks_holds_nobody_up(bus: Bus):
    async with bus.served(governing=policy("gated")) as registry:
        asking = asyncio.create_task(registry.register("worker", "w1"))
        await eventually(waits(registry, "w1"))
        started = time.monotonic()
        await registry.discover("worker")
        assert time.monotonic() - started < QUICK
        courts.gate.set()
        assert (await asking).id == "w1"


async def test_a_function_judges_as_many_at_once_as_is_said(bus: Bus):
    many = [f"w{number}" for number in range(30)]
    async with bus.served(governing=policy("gated", concurrency=40, fail_closed=True)) as registry:
        asking = asyncio.create_task(registry.register_many(({"role": "worker", "id": id} for id in many), timeout=20))
        await eventually(waits(registry, *many))
        await eventually(lambda: len(courts.cases) == 30)
        courts.gate.set()

        assert [one.id for one in await asking if isinstance(one, rollcall.Entry)] == many


# --- what everybody has in common


async def test_what_is_refused_by_the_rules_is_not_judged(bus: Bus):
    async with service(bus, allow) as court, bus.served(governing=policy("bus")) as registry:
        with pytest.raises(rollcall.NotFound):
            await registry.update("worker", "nobody", {"name": "x"})
        await registry.register("worker", "w1", incarnation=1)
        await registry.register("worker", "w1", incarnation=1)

        assert [one["id"] for one in court.asked] == ["w1"]


async def test_the_same_asked_again_is_not_judged_again(bus: Bus):
    async with trifecta(valid) as court, bus.served(governing=policy(court, cache=60)) as registry:
        for _ in range(3):
            with pytest.raises(Denied, match="third law") as refused:
                await registry.register("worker", "w1", name="bad", incarnation=1)
            assert refused.value.details["judged_by"] == "court"

        assert len(court.asked) == 1
        assert len((await registry.story("w1")).refusals) == 3


async def test_history_keeps_the_newest_refusals_however_long_they_are(bus: Bus):
    async with service(bus, lambda case: {"allow": False, "reason": case["id"] + "x" * 40_000}) as court:
        async with bus.served(governing=policy("bus", cache=0)) as registry:
            for number in range(20):
                court.verdict = lambda _, n=number: {"allow": False, "reason": f"{n} " + "x" * 40_000}
                with pytest.raises(Denied, match=f"^{number} x"):
                    await registry.register("worker", "w1")

            told = [one["reason"].split()[0] for one in (await registry.story("w1")).refusals]
            assert told == [str(number) for number in range(4, 20)]


async def test_a_slow_court_holds_nobody_else_up(bus: Bus):
    """Beats, questions, and the commands of others go on; what waits is shown, and happens in the end."""
    async with service(bus, allow) as court, bus.served(governing=policy("bus", concurrency=4)) as registry:
        async with registry.agent("beating", "b", id="b", ttl=1) as beating, registry.watch() as watch:
            await registry.register("quick", "q0")
            court.verdict = allow
            court.open.clear()
            asking = [asyncio.create_task(registry.register("slow", f"s{n}", ttl=None, timeout=30)) for n in range(12)]
            await eventually(waits(registry, *(f"s{n}" for n in range(12))))
            assert {one["waits_for"] for one in await registry.pending()} == {"policy"}
            assert court.inside <= 4

            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                started = time.monotonic()
                assert ids(await registry.discover("quick")) == ["q0"]
                entry = await registry.get("b")
                assert time.monotonic() - started < QUICK
                assert entry.lost_at is None
                await asyncio.sleep(0.05)
            assert beating.registered

            court.open.set()
            assert {entry.id for entry in await asyncio.gather(*asking)} == {f"s{n}" for n in range(12)}
            await eventually(rests(registry))
            kinds = []
            async for change in watch:
                if change.role == "slow":
                    kinds.append(change.kind)
                if len(kinds) == 12:
                    break
            assert set(kinds) == {"registered"}


async def test_commands_that_need_no_word_pass_those_that_wait_for_it(bus: Bus):
    async with trifecta(valid) as court, bus.served(governing=policy(court)) as registry:
        await registry.register("worker", "w1", name="one")
        court.open.clear()
        asking = asyncio.create_task(registry.register("worker", "w2", name="two", timeout=20))
        await eventually(waits(registry, "w2"))

        started = time.monotonic()
        await registry.update("worker", "w1", {"name": "uno"})
        with pytest.raises(rollcall.Conflict):
            await registry.update("worker", "w1", {"name": "x"}, expected=999)
        await registry.deregister("worker", "w1")
        assert time.monotonic() - started < 3

        court.open.set()
        await asking


async def test_the_inbox_is_free_of_what_waits_for_a_slow_court(bus: Bus):
    async with service(bus, allow) as court, bus.served(governing=policy("bus")) as registry:
        court.open.clear()
        asking = asyncio.create_task(registry.register("worker", "w1", timeout=20))
        await eventually(waits(registry, "w1"))

        async def settled() -> bool:
            return (await registry.info())["inbox"]["waiting"] == 0

        await eventually(settled, within=5)
        court.open.set()
        await asking


async def test_commands_of_one_agent_keep_their_order(bus: Bus):
    async with service(bus, allow) as court, bus.served(governing=policy("bus")) as registry:
        court.open.clear()
        commands = [
            registry.register("worker", "w1", incarnation=1, timeout=20),
            registry.update("worker", "w1", {"labels": {"n": "1"}}, timeout=20),
            registry.update("worker", "w1", {"labels": {"n": "2"}}, timeout=20),
            registry.deregister("worker", "w1", timeout=20),
        ]
        asking = []
        for command in commands:
            asking.append(asyncio.create_task(command))
            await asyncio.sleep(0)

        await eventually(waits(registry, "w1", behind=3))
        assert len(court.asked) == 1
        court.open.set()
        entries = await asyncio.gather(*asking)

        assert [entry.labels for entry in entries] == [{}, {"n": "1"}, {"n": "2"}, {"n": "2"}]
        kinds = [change.kind for change in await registry.history("w1")]
        assert kinds == ["registered", "updated", "updated", "deregistered"]
        assert [one["verb"] for one in court.asked] == ["register", "update", "update", "deregister"]


async def test_a_refusal_lets_the_next_command_of_the_agent_go(bus: Bus):
    async with service(bus, allow) as court, bus.served(governing=policy("bus")) as registry:
        court.open.clear()
        first = asyncio.create_task(registry.register("worker", "w1", name="bad", timeout=20))
        await eventually(waits(registry, "w1"))
        second = asyncio.create_task(registry.register("worker", "w1", name="good", timeout=20))
        await eventually(waits(registry, "w1", behind=1))
        court.open.set()

        with pytest.raises(Denied):
            await first
        assert (await second).name == "good"
        await eventually(rests(registry))


async def test_what_comes_in_the_moment_of_the_verdict_happens_once(bus: Bus):
    many = [f"w{number}" for number in range(100)]
    async with service(bus, allow) as court, bus.registry() as registry:
        async with bus.worker(governing=policy("bus", concurrency=100)):
            await leads(registry)
            court.open.clear()
            asking = asyncio.create_task(
                registry.register_many(({"role": "worker", "id": id} for id in many), timeout=20)
            )
            await eventually(waits(registry, *many))
            updates = [registry.update("worker", id, {"name": str(n)}, timeout=20) for id in many for n in (1, 2, 3)]
            sending = asyncio.gather(*updates)
            await asyncio.sleep(0.01)
            court.open.set()
            await asking
            await sending

            await eventually(rests(registry))
            await eventually(empty(bus))
            for id in many[::10]:
                assert [change.kind for change in await registry.history(id)] == ["registered", *["updated"] * 3]


async def test_no_more_than_said_are_judged_at_once(bus: Bus):
    async with trifecta(valid) as court, bus.served(governing=policy(court, concurrency=3)) as registry:
        court.open.clear()
        many = [{"role": "worker", "id": f"w{n}", "name": f"n{n}"} for n in range(20)]
        asking = asyncio.create_task(registry.register_many(many, timeout=20))
        await eventually(waits(registry, *(f"w{n}" for n in range(20))))
        assert len(court.asked) == 3
        court.open.set()
        entries = await asking

        assert [entry.id for entry in entries] == [f"w{n}" for n in range(20)]
        assert (court.most_inside, len(court.asked)) == (3, 20)


async def test_whoever_asks_a_slow_court_twice_waits_for_no_operator(bus: Bus):
    async with service(bus, allow) as court, bus.served(governing=policy("bus")) as registry:
        court.open.clear()
        first = asyncio.create_task(registry.register("worker", "w1", incarnation=1, timeout=20))
        await eventually(waits(registry, "w1"))
        again = asyncio.create_task(registry.register("worker", "w1", incarnation=1, timeout=20))
        await registry.register_many([])
        await asyncio.sleep(0.1)
        court.open.set()

        assert (await first).id == "w1"
        try:
            assert (await again).id == "w1"
        except Waits as error:
            assert "approv" not in str(error)


async def test_the_next_leader_asks_about_what_waits(bus: Bus):
    async with service(bus, allow) as court, bus.registry() as registry:
        court.open.clear()
        async with bus.worker(governing=policy("bus")):
            await leads(registry)
            first = asyncio.create_task(registry.register("worker", "w1", timeout=30))
            refused = asyncio.create_task(registry.register("worker", "bad", timeout=30))
            await eventually(waits(registry, "w1", "bad"))
        court.open.set()
        async with bus.worker(governing=policy("bus")):
            assert (await first).id == "w1"
            with pytest.raises(Denied):
                await refused
            await eventually(rests(registry))
            assert [change.kind for change in await registry.history("w1")] == ["registered"]
            assert len((await registry.story("bad")).refusals) == 1


async def test_a_refusal_is_in_history_once_whoever_leads(bus: Bus):
    """Also when the next leader finds the command in the inbox, behind one that was not settled."""
    async with bus.registry() as registry:
        async with bus.worker(governing=policy("picky", cache=0)):
            await leads(registry)
            slow = asyncio.create_task(registry.register("worker", "slow", timeout=20))
            await eventually(lambda: courts.cases)
            bad = asyncio.create_task(registry.register("worker", "bad", timeout=20))

            async def remembered() -> bool:
                return len((await registry.story("bad")).refusals) == 1

            await eventually(remembered)
        async with bus.worker(governing=policy("reasoned")):
            assert (await slow).id == "slow"
            with pytest.raises(Denied, match="bad looks bad"):
                await bad
            assert len((await registry.story("bad")).refusals) == 1


async def test_a_worker_with_no_policy_any_more_settles_what_waits(bus: Bus):
    async with service(bus, allow) as court, bus.registry() as registry:
        court.open.clear()
        async with bus.worker(governing=policy("bus")):
            await leads(registry)
            asking = asyncio.create_task(registry.register("worker", "w1", timeout=30))
            await eventually(waits(registry, "w1"))
        async with bus.worker():
            assert (await asking).id == "w1"
            await eventually(rests(registry))


async def test_a_worker_ends_at_once_while_a_court_thinks(bus: Bus):
    async with service(bus, allow) as court:
        court.open.clear()
        async with bus.registry() as registry:
            async with bus.worker(governing=policy("bus", timeout=60)):
                await leads(registry)
                asking = asyncio.create_task(registry.register("worker", "w1", timeout=60))
                await eventually(waits(registry, "w1"))
                started = time.monotonic()
            assert time.monotonic() - started < 3
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
