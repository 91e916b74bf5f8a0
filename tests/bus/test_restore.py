"""Backups of a realm that runs, and bringing them back: who is there stays, who is not comes back."""

import asyncio
import contextlib
import json

import pytest
from msgspec import structs

import rollcall
from rollcall.bus import streams
from rollcall.core import codec
from rollcall.core.records import ChangeKind, Place, Profile, Record
from rollcall.identity.keys import new_key
from rollcall.sdk.clock import now_ms
from rollcall.sdk.restore import PART_BYTES, restore
from rollcall.store.backup import back_up, read_backup
from rollcall.worker import IdentitySettings
from tests.bus.test_healing import delete
from tests.bus.test_past import told
from tests.conftest import eventually, ids, leads
from tests.processes import Process

MADE_AT = "2026-11-21T20:00:00.000Z"


def backed_up(bus, name="w1", to="backup"):
    """What a worker's snapshot holds, by way of a file."""
    file = bus.home / to
    back_up(bus.home / f"{name}.db", file, realm=bus.realm, now=now_ms())
    return read_backup(file)


async def brought_back(registry, places, **more):
    return await restore(registry, places, made_at=MADE_AT, **more)


def places_of(*ids, **said):
    """Agents as a backup holds them."""
    common = {"role": "worker", "registered_at": MADE_AT, "updated_at": MADE_AT, "ttl": None, **said}
    return [Place(Record(id=id, name=id, **common), 9, ChangeKind.REGISTERED, 0) for id in ids]


async def emptied(bus):
    """Takes everything of a realm away, on the server and on disk."""
    subjects = bus.subjects
    async with bus.worker_connection() as inside:
        beside = (subjects.leases_stream, subjects.messages_stream, subjects.pending_stream)
        await delete(inside, subjects.inbox_stream, subjects.roll_stream, *beside)
    for file in bus.home.glob("w*.db*"):
        file.unlink()


def said(entry):
    """All that an agent said, and since when it is there."""
    return {name: getattr(entry, name) for name in (*Profile.__struct_fields__, "registered_at", "lost_at")}


async def test_an_empty_realm_gets_everybody_back_as_they_were(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=None, labels={"zone": "a"}, metadata={"deep": {"n": [1, None]}})
        await registry.register("scout", "b", ttl=60, status="paused", keep=True, pointers={"log": "/x"})
        await registry.register("worker", "mortal", ttl=0.5)
        await registry.register("worker", "theirs", ttl=None, origin="external")
        await registry.register("worker", "left", ttl=None)
        await registry.deregister("worker", "left")
        await eventually(lambda: is_lost(registry, "mortal"))
        before = await registry.list()
        made, places = backed_up(bus)
    await emptied(bus)

    async with bus.served() as registry, registry.watch() as watch:
        epoch = (await registry.info())["epoch"]
        outcome = await brought_back(registry, places)

        after = await registry.list(exact=True)
        assert (outcome["restored"], outcome["unchanged"], outcome["conflicts"]) == (4, 0, [])
        assert {one.id: said(one) for one in after} == {one.id: said(one) for one in before}
        assert {one.id: one.liveness for one in after} == {one.id: one.liveness for one in before}
        assert made.about.agents == 4
        assert outcome["epoch"] == after.epoch > epoch
        seen = {(change.kind, change.id) async for change in first(watch, 4)}
        assert seen == {("registered", id) for id in ids(after)}
        assert watch.position.epoch == after.epoch
        assert MADE_AT in watch.reason
        assert MADE_AT in (await registry.info())["healed"]["why"]


async def first(watch, count):
    for _ in range(count):
        yield await asyncio.wait_for(anext(watch), 5)


async def is_lost(registry, id):
    return (await registry.get(id)).liveness == "lost"


async def test_whoever_is_there_stays_and_who_differs_is_told(bus):
    async with bus.served() as registry:
        for id in ("same", "differs", "left", "reborn"):
            await registry.register("worker", id, ttl=None, incarnation=1)
        _, places = backed_up(bus)
        await registry.update("worker", "differs", {"description": "newer", "labels": {"zone": "b"}})
        await registry.deregister("worker", "left")
        await registry.deregister("worker", "reborn")
        await registry.register("scout", "reborn", ttl=None)
        await registry.register("worker", "new", ttl=None)
        before = {one.id: one for one in await registry.list()}
        when = await registry.as_of()

        outcome = await brought_back(registry, places)

        after = {one.id: one for one in await registry.list(exact=True)}
        assert (outcome["restored"], outcome["unchanged"]) == (1, 1)
        conflicts = {one["id"]: one for one in outcome["conflicts"]}
        assert conflicts.keys() == {"differs", "reborn"}
        assert conflicts["differs"]["differs"] == ["description", "labels"]
        assert (conflicts["differs"]["role"], conflicts["differs"]["backed_up_at"]) == ("worker", 2)
        assert conflicts["differs"]["revision"] == before["differs"].revision
        assert "role" in conflicts["reborn"]["differs"]
        assert after.keys() == before.keys() | {"left"}
        assert {id: said(after[id]) for id in before} == {id: said(one) for id, one in before.items()}
        # What was before is known as before.
        assert told(await registry.as_of(epoch=when.asof.epoch, revision=when.asof.revision)) == told(when)


async def test_a_restored_realm_goes_on(bus):
    async with bus.served() as registry:
        await registry.register("worker", "there", ttl=None, incarnation=1)

        await brought_back(registry, places_of("back", "mortal", ttl=0.6))

        later = await registry.register("worker", "later", ttl=None)
        changed = await registry.update("worker", "back", {"description": "changed", "ttl": None})
        assert changed.revision > later.revision > 4
        assert {one.id: one.liveness for one in await registry.list()}["mortal"] == "live"
        await eventually(lambda: is_lost(registry, "mortal"))
        assert (await registry.get("back")).liveness == "live"
        with pytest.raises(rollcall.Conflict):
            await registry.register("worker", "back", incarnation=3)
        await registry.deregister("worker", "back")
        assert "back" not in ids(await registry.list())


async def test_a_second_restore_changes_nothing_and_makes_no_new_epoch(bus):
    async with bus.served() as registry:
        first_time = await brought_back(registry, places_of("a", "b"))
        revision = (await registry.info(exact=True))["revision"]

        again = await brought_back(registry, places_of("a", "b"))

        assert (again["restored"], again["unchanged"], again["conflicts"]) == (0, 2, [])
        assert again["epoch"] == first_time["epoch"] == (await registry.info())["epoch"]
        assert (await registry.info())["revision"] == revision


async def test_a_dry_run_says_what_would_happen_and_changes_nothing(bus):
    async with bus.served() as registry:
        await registry.register("worker", "differs", ttl=None)
        before = await registry.info(exact=True)

        dry = await brought_back(registry, places_of("a", "differs"), dry_run=True)

        after = await registry.info(exact=True)
        assert (dry["dry_run"], dry["restored"], [one["id"] for one in dry["conflicts"]]) == (True, 1, ["differs"])
        assert (after["epoch"], after["revision"], after["agents"]) == (before["epoch"], before["revision"], 1)
        await registry.register("worker", "next", ttl=None)
        assert ids(await registry.list()) == ["differs", "next"]
        assert (await brought_back(registry, places_of("a", "differs")))["restored"] == 1


async def test_an_empty_backup_is_restored_at_once(bus):
    async with bus.served() as registry:
        assert (await brought_back(registry, []))["restored"] == 0


async def test_a_backup_taken_while_commands_pour_in_is_a_state_that_was(bus):
    async with bus.served() as registry, bus.registry() as writer:
        acknowledged, stop = [0], asyncio.Event()

        async def pour(number):
            round = 0
            while not stop.is_set():
                round += 1
                entry = await writer.register("worker", f"a{number}-{round}", ttl=None)
                acknowledged.append(entry.revision)
                if round % 3:
                    entry = await writer.update("worker", entry.id, {"description": f"round {round}"})
                else:
                    entry = await writer.deregister("worker", entry.id)
                acknowledged.append(entry.revision)

        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(pour(number))
            made = []
            for number in range(5):
                upto = max(acknowledged)
                made.append((upto, *await asyncio.to_thread(backed_up, bus, to=f"backup{number}")))
                await eventually(lambda upto=upto: max(acknowledged) > upto)
            stop.set()

        for upto, one, places in made:
            about = one.about
            then = await registry.as_of(epoch=about.epoch, revision=about.revision)
            assert about.revision >= upto
            assert {place.record.id: (place.revision, place.record.description) for place in places} == told(then)
        assert len({one.about.revision for _, one, _ in made}) > 1


async def test_nothing_that_is_acknowledged_during_a_restore_is_lost(bus):
    async with bus.served() as registry, bus.registry() as writer:
        acknowledged, stop = {}, asyncio.Event()

        async def pour(number):
            round = 0
            while not stop.is_set():
                round += 1
                with contextlib.suppress(rollcall.Unavailable):
                    entry = await writer.register("worker", f"a{number}-{round}", ttl=None)
                    acknowledged[entry.id] = entry.incarnation

        async with asyncio.TaskGroup() as tasks:
            for number in range(4):
                tasks.create_task(pour(number))
            await eventually(lambda: len(acknowledged) > 20)
            await brought_back(registry, places_of(*(f"back{number}" for number in range(50))))
            count = len(acknowledged)
            await eventually(lambda: len(acknowledged) > count)
            stop.set()

        there = {one.id: one.incarnation for one in await registry.list(exact=True)}
        assert acknowledged.items() <= there.items()
        assert {f"back{number}" for number in range(50)} <= there.keys()


async def test_of_two_restores_at_once_each_is_done_or_refused(bus):
    async with bus.served() as registry, bus.registry() as other:
        wordy = {"metadata": {"text": "x" * (PART_BYTES // 20)}}
        one = places_of(*(f"one{number}" for number in range(60)), **wordy)
        two = places_of(*(f"two{number}" for number in range(60)), **wordy)

        for mine, theirs in ((one, two), (one[:1], two[:1]), (places_of("x"), places_of("y"))):
            outcomes = await asyncio.gather(
                brought_back(registry, mine), brought_back(other, theirs), return_exceptions=True
            )

            there = set(ids(await registry.list(exact=True)))
            for outcome, places in zip(outcomes, (mine, theirs), strict=True):
                wanted = {place.record.id for place in places}
                if isinstance(outcome, BaseException):
                    assert isinstance(outcome, rollcall.Invalid | rollcall.Busy | rollcall.Unavailable), outcome
                else:
                    assert wanted <= there
            for places in (mine, theirs):
                await eventually(lambda places=places: at_last(registry, places))


async def test_a_restore_that_was_promised_is_not_forgotten_for_the_next_one(bus):
    async with bus.served() as registry:
        outcomes = await asyncio.gather(
            *(part(registry, upload=id, places=places_of(id)) for id in "abcd"), return_exceptions=True
        )

        promised = [id for id, outcome in zip("abcd", outcomes, strict=True) if not isinstance(outcome, Exception)]
        assert promised
        assert {type(one) for one in outcomes if isinstance(one, Exception)} <= {rollcall.Busy, rollcall.Unavailable}
        await eventually(lambda: all_there(registry, promised))


async def all_there(registry, wanted):
    with contextlib.suppress(rollcall.Unavailable):
        return set(wanted) <= set(ids(await registry.list(exact=True)))


async def at_last(registry, places):
    """Whether a backup is restored, by and by."""
    with contextlib.suppress(rollcall.Invalid, rollcall.Busy, rollcall.Unavailable):
        await brought_back(registry, places)
        return True


async def test_a_restore_that_was_broken_off_leaves_nothing(bus):
    wordy = {"metadata": {"text": "x" * (PART_BYTES // 6)}}
    async with bus.served() as registry:
        before = await registry.info(exact=True)

        def interrupt(_):
            raise KeyError("interrupted")

        with pytest.raises(KeyError):
            await brought_back(registry, places_of(*"abcdefghijklmno", **wordy), advance=interrupt)

        assert ids(await registry.list()) == []
        assert (await registry.info())["epoch"] == before["epoch"]
        assert (await brought_back(registry, places_of("d")))["restored"] == 1
        assert ids(await registry.list(exact=True)) == ["d"]


async def part(registry, **told):
    body = {"upload": "u1", "number": 0, "places": [], "last": True, "made_at": MADE_AT, "dry_run": False}
    return codec.decode_object(await registry.operate("restore", codec.encode({**body, **told}), 5))


async def test_parts_come_in_order_and_of_one_backup(bus):
    async with bus.served() as registry:
        some = places_of("a")
        for wrong in ({"number": 1}, {"number": 1, "upload": "u2"}, {"number": 3}):
            await part(registry, places=some, last=False)
            if wrong == {"number": 1}:
                await part(registry, number=1, last=False)
            with pytest.raises(rollcall.Invalid):
                await part(registry, places=some, **wrong)
        assert ids(await registry.list()) == []


NOBODIES = [
    {"role": ""},
    {"id": "a\u0000b"},
    {"id": ""},
    {"registered_at": "some day"},
    {"updated_at": ""},
    {"updated_at": "2026-11-21"},
    {"lost_at": "junk"},
    {"ttl": -1},
    {"name": 5},
    {"name": "x" * 300},
]


async def test_what_is_no_agent_is_refused_whole_and_harms_nobody(bus):
    async with bus.served() as registry:
        for wrong in NOBODIES:
            place = json.loads(codec.encode(places_of("bad")[0]))
            place["record"].update(wrong)
            with pytest.raises(rollcall.Invalid):
                await part(registry, places=[json.loads(codec.encode(places_of("good")[0])), place])

        assert ids(await registry.list(exact=True)) == []
        assert ids([await registry.register("worker", "next", ttl=None)]) == ["next"]


async def test_more_than_a_realm_may_have_is_refused_whole(bus):
    async with bus.served(max_agents=3, max_roles=2) as registry:
        await registry.register("worker", "there", ttl=None)
        scouts = [structs.replace(p, record=structs.replace(p.record, role=p.record.id)) for p in places_of("r1", "r2")]

        for many in (places_of("a", "b", "c"), places_of("a", "b", "c", "d"), scouts):
            for dry_run in (True, False):
                with pytest.raises(rollcall.Busy):
                    await brought_back(registry, many, dry_run=dry_run)

        assert ids(await registry.list()) == ["there"]
        assert (await brought_back(registry, places_of("a", "b")))["restored"] == 2


async def test_where_there_are_operators_only_they_restore(bus):
    chief, stranger = new_key(), new_key()
    identity = IdentitySettings(operators=frozenset({chief.public}))
    async with (
        bus.served(identity=identity) as nobody,
        rollcall.connect(bus.url, realm=bus.realm, key=stranger) as other,
        rollcall.connect(bus.url, realm=bus.realm, key=chief) as operator,
    ):
        for registry in (nobody, other):
            for dry_run in (True, False):
                with pytest.raises(rollcall.Unauthorized):
                    await brought_back(registry, places_of("a"), dry_run=dry_run)
        assert ids(await nobody.list()) == []

        assert (await brought_back(operator, places_of("a")))["restored"] == 1
        assert ids(await nobody.list(exact=True)) == ["a"]


async def test_who_belongs_to_a_key_belongs_to_it_after_a_restore(bus):
    key = new_key()
    async with bus.served() as registry, rollcall.connect(bus.url, realm=bus.realm, key=key) as owner:
        await owner.register("worker", "signed", ttl=None)
        _, places = backed_up(bus)
        await owner.deregister("worker", "signed")

        await brought_back(registry, places)

        assert (await registry.get("signed")).owner == f"nkey:{key.public}"
        with pytest.raises(rollcall.Unauthorized):
            await registry.update("worker", "signed", {"description": "mine now"})
        assert (await owner.update("worker", "signed", {"description": "mine"})).description == "mine"


async def test_who_belongs_to_a_key_comes_back_by_its_signature_or_by_an_operators_word(bus):
    key, chief = new_key(), new_key()
    async with bus.served() as registry, rollcall.connect(bus.url, realm=bus.realm, key=key) as owner:
        await owner.register("worker", "signed", ttl=None)
        await owner.register("worker", "changed", ttl=None)
        await owner.update("worker", "changed", {"description": "by its owner"})
        _, places = backed_up(bus)
        signed = next(place for place in places if place.record.id == "signed")
        await owner.deregister("worker", "signed")
        await owner.deregister("worker", "changed")
        altered = structs.replace(signed, record=structs.replace(signed.record, description="not by its owner"))
        unsigned = places_of("unsigned", owner=f"nkey:{key.public}")
        renamed = structs.replace(signed, record=structs.replace(signed.record, id="renamed"))

        forged = await brought_back(registry, [altered, renamed, *unsigned, *places_of("free", owner="somebody")])
        assert (forged["restored"], {one["id"] for one in forged["refused"]}) == (1, {"signed", "renamed", "unsigned"})
        assert "does not prove" in forged["refused"][0]["why"]
        assert ids(await registry.list(exact=True)) == ["free"]

        # What is left of a history of many changes proves nothing by itself.
        true = await brought_back(registry, places)
        assert (true["restored"], [one["id"] for one in true["refused"]]) == (1, ["changed"])
    identity = IdentitySettings(operators=frozenset({chief.public}))
    async with (
        bus.served(identity=identity),
        rollcall.connect(bus.url, realm=bus.realm, key=chief) as operator,
    ):
        told = await brought_back(operator, places)
        assert (told["restored"], told["unchanged"], told["refused"]) == (1, 1, [])
        assert (await operator.get("changed")).owner == f"nkey:{key.public}"


async def test_a_worker_that_is_there_beside_knows_what_was_restored(bus):
    async with bus.registry() as registry:
        async with bus.worker("w1"), bus.worker("w2") as second:
            await leads(registry)
            await registry.register("worker", "there", ttl=None)
            outcome = await brought_back(registry, places_of("a"))
            await eventually(lambda: second.info()["epoch"] == outcome["epoch"])
        async with bus.worker("w2"):
            await leads(registry)
            assert sorted(ids(await registry.list(exact=True))) == ["a", "there"]
            assert sorted(ids(await registry.as_of())) == ["a", "there"]


WORDY = {"metadata": {"text": "x" * (PART_BYTES // 40)}}


async def test_a_leader_that_ends_between_two_parts_leaves_nothing(bus):
    places = places_of(*(f"back{number}" for number in range(100)), **WORDY)
    parts = [places[:50], places[50:]]
    async with bus.registry() as registry, contextlib.AsyncExitStack() as first:
        await first.enter_async_context(bus.worker("w1"))
        await leads(registry)
        await registry.register("worker", "there", ttl=None)
        assert await part(registry, places=parts[0], last=False) == {"taken": 50}
        async with bus.worker("w2"):
            await first.aclose()
            await eventually(lambda: led_by(registry, "w2"))

            with pytest.raises(rollcall.Invalid):
                await part(registry, number=1, places=parts[1])

            assert ids(await registry.list(exact=True)) == ["there"]
            await brought_back(registry, places)
            assert len(await registry.list(exact=True)) == 101


async def led_by(registry, name):
    with contextlib.suppress(rollcall.Unavailable):
        return (await registry.info())["leader"] == name


async def test_a_leader_killed_while_it_restores_leaves_whoever_was_there_and_does_not_claim_more(bus):
    places = places_of(*(f"back{number}" for number in range(400)), **WORDY)
    async with process_that_leads(bus) as (process, registry):
        for number in range(20):
            await registry.register("worker", f"there{number}", ttl=None)
        async with bus.worker("w2") as second:
            await eventually(lambda: second.info()["revision"] == 20)

            restoring = asyncio.create_task(brought_back(registry, places))
            await while_it_is_made_anew(bus, restoring)
            process.kill()
            try:
                done = await restoring
            except (rollcall.Unavailable, rollcall.Invalid):
                done = None

            await eventually(lambda: second.info()["leads"], what="another leader")
            there = set(ids(await registry.list(exact=True)))
            assert {f"there{number}" for number in range(20)} <= there
            if done is not None:
                assert {f"back{number}" for number in range(400)} <= there
            await eventually(lambda: at_last(registry, places))
            assert len(await registry.list(exact=True)) == 420


async def while_it_is_made_anew(bus, restoring):
    """Returns while the roll has no epoch; or, if that was too short to be seen, when all is done."""
    async with bus.worker_connection() as inside:
        while not restoring.done() and (await streams.state(inside, bus.subjects.roll_stream)).epoch:
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def process_that_leads(bus):
    """A worker that can be killed, and a registry that it serves."""
    home = bus.home / "killed"
    home.mkdir()
    seed, ready = home / "worker.nk", home / "ready.json"
    seed.write_text(bus.server.worker_seed)
    seed.chmod(0o600)
    where = ("--nats", bus.url, "--realm", bus.realm, "--key", str(seed))
    with Process("worker", *where, "--name", "killed", "--ready-file", str(ready), home=home) as process:
        await asyncio.to_thread(process.ready, ready)
        async with bus.registry() as registry:
            await leads(registry)
            yield process, registry
