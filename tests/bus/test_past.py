"""The roll as it was: by time and by revision, whoever answers, and whatever became of the roll since."""

import asyncio
import json
from datetime import timedelta

import pytest

import rollcall
from rollcall.bus import headers as h
from rollcall.bus import streams
from rollcall.core.instants import instant, timestamp
from rollcall.sdk.registry import Registry
from rollcall.store.snapshot import Snapshot
from rollcall.worker import IdentitySettings, Rule, housekeeping
from tests.bus.plain import plain
from tests.bus.signing import header
from tests.bus.test_healing import delete, healed_from
from tests.bus.test_visibility import FRIEND, SECRET, STRANGER, asked_by, hiding
from tests.conftest import eventually, ids, leads

UNKNOWN = "this worker does not know the roll of then"


def told(page):
    """Who was there, and what each had said last: by id, the revision and the description."""
    return {entry.id: (entry.revision, entry.description) for entry in page}


async def revision_of(registry):
    return (await registry.info(exact=True))["revision"]


async def says(registry, id, text):
    """Changes an agent; returns its entry."""
    return await registry.update("worker", id, {"description": text})


async def right_or_too_long_ago(registry, truth):
    """Compares every revision with what was; returns those that this worker knows."""
    known = []
    for revision, expected in truth.items():
        try:
            page = await registry.as_of(revision=revision)
        except rollcall.NotFound as error:
            assert UNKNOWN in error.message, (revision, error)
            continue
        assert told(page) == expected, revision
        known.append(revision)
    return known


async def all_that_was(registry, since=0):
    """What a worker that saw everything says of each revision."""
    upto = await revision_of(registry)
    return {revision: told(await registry.as_of(revision=revision)) for revision in range(since, upto + 1)}


async def asked(registry, **question):
    """One reply to one question, as it is on the wire."""
    client, subjects = registry.bus
    reply = await client.request(subjects.asof, json.dumps(question).encode(), timeout=5)
    return json.loads(reply.data)


async def test_every_revision_tells_who_was_there_and_what_they_had_said(bus):
    async with bus.served() as registry:
        steps = [
            lambda: registry.register("worker", "a", ttl=None),
            lambda: registry.register("scout", "b", ttl=None),
            lambda: says(registry, "a", "once"),
            lambda: says(registry, "a", "twice"),
            lambda: registry.deregister("worker", "a"),
            lambda: registry.register("worker", "a", ttl=None, description="again"),
            lambda: registry.deregister("scout", "b"),
        ]
        expected = {0: {}}
        for revision, step in enumerate(steps, 1):
            entry = await step()
            assert entry.revision == revision
            expected[revision] = told(await registry.list())

        for revision, those in expected.items():
            page = await registry.as_of(revision=revision)
            assert told(page) == those
            assert (page.asof.revision, page.count) == (revision, len(those))
        assert expected[4] == {"a": (4, "twice"), "b": (2, "")}
        assert expected[7] == {"a": (6, "again")}


async def test_a_time_means_what_was_last_before_it(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=None)
        await says(registry, "a", "once")
        await registry.deregister("worker", "a")
        changes = await registry.history("a")
        began = (await registry.as_of(revision=0)).asof.at

        at = {}
        for change in changes:
            at[change.at] = change.revision  # of several within one millisecond the last
        for time, revision in at.items():
            page = await registry.as_of(at=timestamp(time))
            assert (page.asof.revision, page.asof.at) == (revision, timestamp(time))
            assert told(page) == told(await registry.as_of(revision=revision))
        assert (await registry.as_of(at=timestamp(changes[0].at - 1))).asof.revision == 0
        assert (await registry.as_of(at=began)).asof.revision == 0
        assert (await registry.as_of(at=_shifted(timestamp(changes[-1].at)))).asof.revision == 3


def _shifted(text):
    """The same moment, as a clock two hours east says it."""
    return timestamp(instant(text) + round(timedelta(hours=2) / timedelta(milliseconds=1))).replace("Z", "+02:00")


async def test_without_a_moment_it_is_the_present(bus):
    async with bus.served() as registry:
        await registry.register_many({"role": "worker", "id": f"a{number}", "ttl": None} for number in range(5))
        await says(registry, "a3", "hello")

        page = await registry.as_of()

        assert told(page) == told(await registry.list())
        assert (page.asof.epoch, page.asof.revision) == (page.epoch, 6)


async def test_role_and_id_narrow_the_answer(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=None)
        await registry.register("scout", "b", ttl=None)
        await registry.deregister("scout", "b")
        await registry.register("worker", "b", ttl=None)

        assert ids(await registry.as_of(revision=2, role="scout")) == ["b"]
        assert ids(await registry.as_of(revision=2, role="worker")) == ["a"]
        assert ids(await registry.as_of(revision=4, role="scout")) == []
        assert ids(await registry.as_of(revision=4, role="worker")) == ["a", "b"]
        assert [one.role for one in await registry.as_of(revision=2, id="b")] == ["scout"]
        assert ids(await registry.as_of(revision=3, id="b")) == []
        assert ids(await registry.as_of(revision=4, id="b", role="scout")) == []
        assert ids(await registry.as_of(id="nobody")) == []


async def test_liveness_is_what_was_known_then(bus):
    async with bus.served() as registry:
        lost = (await registry.register("worker", "mortal", ttl=0.5)).revision
        await registry.register("worker", "resting", ttl=None, status="stopped")
        await registry.register("worker", "theirs", ttl=0.5, origin="external")

        await eventually(lambda: is_lost(registry, "mortal"))

        then = {one.id: one.liveness for one in await registry.as_of(revision=lost + 2)}
        now = {one.id: one.liveness for one in await registry.as_of()}
        assert then == {"mortal": "live", "resting": "unknown", "theirs": "unknown"}
        assert now == {"mortal": "lost", "resting": "unknown", "theirs": "unknown"}


async def is_lost(registry, id):
    return (await registry.get(id)).liveness == "lost"


async def test_more_than_one_reply_holds_is_told_whole(bus):
    many, wordy = 1100, 40
    async with bus.served() as registry:
        await registry.register_many({"role": "small", "id": f"s{number:04}", "ttl": None} for number in range(many))
        text = "x" * 60_000
        await registry.register_many(
            {"role": "wordy", "id": f"a{number:02}", "ttl": None, "metadata": {"text": text}} for number in range(wordy)
        )
        then = await revision_of(registry)
        await registry.deregister("small", "s0000")
        await registry.deregister("wordy", "a00")

        assert (await asked(registry, revision=then, role="small"))["next"]
        assert 2 <= (await asked(registry, revision=then, role="wordy"))["count"] < wordy
        assert ids(await registry.as_of(revision=then, role="small")) == [f"s{number:04}" for number in range(many)]
        assert ids(await registry.as_of(revision=then, role="wordy")) == [f"a{number:02}" for number in range(wordy)]
        assert (await registry.as_of(revision=then)).count == many + wordy


async def test_all_pages_of_an_answer_are_of_one_moment(bus, monkeypatch):
    """Whoever changes something between two pages is seen in none of them, or in all."""
    async with bus.served() as registry, bus.registry() as writer:
        await registry.register_many({"role": "worker", "id": f"a{number:04}", "ttl": None} for number in range(1100))
        ask = Registry._ask

        async def change_after(self, subject, *more):
            answer = await ask(self, subject, *more)
            if self is registry and subject == self.bus[1].asof:
                await says(writer, "a0001", "after its page")
                await says(writer, "a1099", "before its page")
            return answer

        before = await writer.list()
        monkeypatch.setattr(Registry, "_ask", change_after)

        page = await registry.as_of()

        assert told(page) == told(before)
        assert page.asof.revision == max(one.revision for one in before)


async def test_what_a_revision_was_stays_so_while_very_much_happens(bus):
    async with bus.served() as registry, bus.registry() as writer:
        await registry.register_many({"role": "worker", "id": f"a{number}", "ttl": None} for number in range(50))
        then = await revision_of(registry)
        first = await registry.as_of(revision=then)

        async def disturb(number):
            for round in range(30):
                await says(writer, f"a{number}", f"round {round}")
            await writer.deregister("worker", f"a{number}")
            await writer.register("worker", f"b{number}", ttl=None)

        async with asyncio.TaskGroup() as tasks:
            disturbing = [tasks.create_task(disturb(number)) for number in range(10)]
            looks = 0
            while not all(task.done() for task in disturbing):
                page = await registry.as_of(revision=then)
                assert (page.agents, page.asof) == (first.agents, first.asof)
                looks += 1
        assert looks > 5
        assert (await registry.as_of(revision=then)).agents == first.agents
        assert {one.revision for one in await registry.as_of()} != {one.revision for one in first}


NO_MOMENTS = [
    ({"revision": 2}, rollcall.Invalid, "revision 2 has not come yet; the roll is at 1"),
    ({"at": "2100-01-01T00:00:00Z"}, rollcall.Invalid, "has not come yet"),
    ({"at": "yesterday"}, rollcall.Invalid, "'yesterday' is not an RFC 3339 time"),
    ({"at": "2026-11-21T20:00:00"}, rollcall.Invalid, "names no time zone"),
    ({"at": "2000-01-01T00:00:00Z"}, rollcall.NotFound, UNKNOWN),
    ({"epoch": "1000000000000-0123abcd", "revision": 1}, rollcall.NotFound, UNKNOWN),
    ({"at": "2026-11-21T20:00:00Z", "revision": 1}, rollcall.Invalid, "two ways to name a moment"),
    ({"revision": -1}, rollcall.Invalid, "revision"),
    ({"id": "x" * 257}, rollcall.Invalid, "id"),
]


async def test_a_moment_that_cannot_be_told_is_refused_in_words(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=None)

        for question, error, why in NO_MOMENTS:
            with pytest.raises(error) as refused:
                await registry.as_of(**question)
            assert why in refused.value.message, question


NO_QUESTIONS = [b"[]", b"{", b'{"limit": 0}', b'{"limit": 1001}', b'{"revision": "1"}', b'{"at": 1}', b"\xff"]


async def test_a_question_about_the_past_that_is_none_is_invalid(bus):
    async with bus.served(), plain(bus) as client:
        for body in NO_QUESTIONS:
            reply = await client.client.request(bus.subjects.asof, body, timeout=5)

            assert reply.headers[h.ERROR] == "invalid", body


async def test_what_was_pruned_is_too_long_ago_and_the_rest_stands_on_it(bus, monkeypatch):
    monkeypatch.setattr(housekeeping, "PRUNE_EVERY", 0.1)
    async with bus.served(history_rows=4) as registry:
        assert (await registry.story("a")).begins.revision == 0
        await registry.register("worker", "stays", ttl=None)
        await registry.register("worker", "leaves", ttl=None)
        await registry.deregister("worker", "leaves")
        truth = {}
        for number in range(6):
            entry = await registry.register("worker", f"a{number}", ttl=None)
            truth[entry.revision] = told(await registry.list())

        begins = await eventually(lambda: begins_at(registry, 5))

        page = await registry.as_of(revision=5)
        assert (begins.revision, begins.epoch, page.begins) == (5, page.epoch, begins)
        assert await right_or_too_long_ago(registry, truth) == [5, 6, 7, 8, 9]
        with pytest.raises(rollcall.NotFound) as error:
            await registry.as_of(revision=4)
        assert f"begins at {begins.at}, with revision 5 of epoch {begins.epoch}" in error.value.message
        assert told(await registry.as_of(at=begins.at)) == truth[5]
        assert (await registry.story("leaves")).changes == []


async def begins_at(registry, revision):
    begins = (await registry.story("a")).begins
    return begins if begins is not None and begins.revision == revision else None


async def test_what_was_before_a_healing_is_told_as_before(bus):
    async with bus.served() as registry, bus.worker_connection() as inside:
        await registry.register("worker", "a", ttl=None)
        await registry.register("worker", "b", ttl=None)
        await registry.deregister("worker", "b")
        await says(registry, "a", "before")
        truth, first = await all_that_was(registry), (await registry.info())["epoch"]
        at = (await registry.as_of()).asof.at

        await delete(inside, bus.subjects.roll_stream)
        second = (await healed_from(registry, first))["epoch"]
        await says(registry, "a", "between")
        between = await registry.as_of()
        await delete(inside, bus.subjects.roll_stream)
        await healed_from(registry, second)
        await registry.deregister("worker", "a")

        for revision, expected in truth.items():
            assert told(await registry.as_of(epoch=first, revision=revision)) == expected
            assert told(await registry.as_of(revision=revision)) == expected
        assert told(await registry.as_of(at=at)) == truth[4]
        assert told(await registry.as_of(at=timestamp(instant(at) + 1))) == truth[4]
        assert between.asof.epoch == second
        assert told(await registry.as_of(epoch=second, revision=between.asof.revision)) == told(between)
        assert (
            told(await registry.as_of(at=between.asof.at)) == told(between) == {"a": (between[0].revision, "between")}
        )
        assert told(await registry.as_of()) == {}


@pytest.mark.parametrize("first", ["leaves", "stays"])
async def test_a_worker_that_started_later_answers_right_or_says_too_long_ago(bus, first):
    """The roll holds sixteen changes of an agent, and of one that left only that it did."""
    async with bus.registry() as registry:
        async with bus.worker("w1"):
            await leads(registry)
            await registry.register("worker", first, ttl=None)
            if first != "leaves":
                await registry.register("worker", "leaves", ttl=None)
            await registry.register("worker", "talks", ttl=None)
            for number in range(10):
                await says(registry, "talks", f"a {number}")
            await registry.register("worker", "calm", ttl=None)
            await registry.deregister("worker", "leaves")
            for number in range(10):
                await says(registry, "talks", f"b {number}")
            truth = await all_that_was(registry)
            async with bus.worker("w2") as second:
                await eventually(lambda: second.info()["revision"] == max(truth))
                await registry.register("worker", "later", ttl=None)
        async with bus.worker("w2"):
            await leads(registry)
            now = await registry.register("worker", "alone", ttl=None)

            known = await right_or_too_long_ago(registry, truth)
            assert told(await registry.as_of(revision=now.revision)) == told(await registry.list())
            assert known == [revision for revision in truth if revision >= (await registry.as_of()).begins.revision]


async def test_who_left_while_a_worker_was_away_is_not_there_in_what_it_tells(bus):
    async with bus.registry() as registry:
        async with bus.worker("w1", tombstone_ttl=1):
            await leads(registry)
            await registry.register("worker", "leaves", ttl=None)
            await registry.register("worker", "stays", ttl=None)
            async with bus.worker("w2", tombstone_ttl=1):
                pass
            await says(registry, "stays", "meanwhile")
            await registry.register("worker", "visits", ttl=None)
            await registry.deregister("worker", "visits")
            await registry.deregister("worker", "leaves")
            truth = await all_that_was(registry)
            await eventually(lambda: tombstone_ended(bus), what="the end of a tombstone")
        async with bus.worker("w2", tombstone_ttl=1):
            await leads(registry)
            now = await registry.register("worker", "new", ttl=None)

            assert ids(await registry.as_of()) == ["new", "stays"]
            assert ids(await registry.as_of(revision=now.revision)) == ["new", "stays"]
            await right_or_too_long_ago(registry, truth)


async def test_who_came_and_left_while_a_worker_was_away_is_not_denied(bus):
    async with bus.registry() as registry:
        async with bus.worker("w1", tombstone_ttl=1):
            await leads(registry)
            await registry.register("worker", "stays", ttl=None)
            async with bus.worker("w2", tombstone_ttl=1):
                pass
            await registry.register("worker", "visits", ttl=None)
            await registry.deregister("worker", "visits")
            truth = await all_that_was(registry)
            await eventually(lambda: tombstone_ended(bus), what="the end of a tombstone")
        async with bus.worker("w2", tombstone_ttl=1):
            await leads(registry)

            await right_or_too_long_ago(registry, truth)
            assert ids(await registry.as_of()) == ["stays"]


async def test_a_worker_whose_disk_is_slow_tells_no_older_state(bus, monkeypatch):
    async with bus.served() as registry, bus.worker("w2") as second:
        commit = second._committer._commit_some

        async def slowly():
            await asyncio.sleep(0.3)
            await commit()

        monkeypatch.setattr(second._committer, "_commit_some", slowly)
        for number in range(3):
            entry = await registry.register("worker", f"a{number}", ttl=None)
            pages = [await registry.as_of(revision=entry.revision)]
            while pages[-1].worker != "w2":
                pages.append(await registry.as_of(revision=entry.revision))

            assert {len(page) for page in pages} == {number + 1}


async def test_a_worker_that_was_broken_off_before_it_knew_all_knows_the_past_again_from_now_on(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=None)
        epoch = (await registry.info())["epoch"]
    snapshot = Snapshot.open(bus.home / "w1.db", now=0)
    snapshot.doubt(epoch)
    snapshot.close()
    async with bus.served() as registry:
        await eventually(lambda: begins_at(registry, 1))

        assert told(await registry.as_of()) == {"a": (1, "")}
        await says(registry, "a", "more")
        assert told(await registry.as_of(revision=1)) == {"a": (1, "")}
        assert told(await registry.as_of()) == {"a": (2, "more")}


async def tombstone_ended(bus):
    async with bus.worker_connection() as inside:
        return len(await streams.subjects_held(inside, bus.subjects.roll_stream)) == 1


async def test_a_worker_that_missed_a_healing_answers_right_or_says_too_long_ago(bus):
    async with bus.registry() as registry, bus.worker_connection() as inside:
        async with bus.worker("w1"):
            await leads(registry)
            await registry.register("worker", "a", ttl=None)
            await registry.register("worker", "leaves", ttl=None)
            async with bus.worker("w2"):
                pass
            await says(registry, "a", "unseen by the second")
            await registry.deregister("worker", "leaves")
            epoch = (await registry.info())["epoch"]
            truth = await all_that_was(registry)
            at = (await registry.as_of()).asof.at
            await delete(inside, bus.subjects.roll_stream)
            healed = (await healed_from(registry, epoch))["healed"]["upto"]
            for number in range(3):
                await says(registry, "a", f"healed {number}")
                await registry.register("worker", f"new{number}", ttl=None)
            truth |= await all_that_was(registry, since=healed)
            async with bus.worker("w2") as second:
                await eventually(lambda: second.info()["revision"] == max(truth))
        async with bus.worker("w2"):
            await leads(registry)
            now = await registry.register("worker", "alone", ttl=None)

            known = await right_or_too_long_ago(registry, truth)
            assert max(truth) in known
            assert told(await registry.as_of(revision=now.revision)) == told(await registry.list())
            try:
                assert told(await registry.as_of(at=at)) == truth[4]
            except rollcall.NotFound as error:
                assert UNKNOWN in error.message


async def test_the_past_of_a_hidden_role_is_hidden(bus):
    async with (
        bus.served(**hiding(SECRET)) as registry,
        asked_by(bus, STRANGER) as stranger,
        asked_by(bus, FRIEND) as friend,
    ):
        await registry.register("secret", "s1", ttl=None)
        await registry.register("worker", "a", ttl=None)
        await registry.deregister("secret", "s1")
        await registry.register("worker", "s1", ttl=None)

        for nosy in (registry, stranger):
            assert ids(await nosy.as_of(revision=2)) == ["a"]
            assert ids(await nosy.as_of(revision=2, id="s1")) == []
            assert ids(await nosy.as_of(revision=4)) == ["a", "s1"]
            with pytest.raises(rollcall.Denied):
                await nosy.as_of(revision=2, role="secret")
        assert ids(await friend.as_of(revision=2)) == ["a", "s1"]
        assert ids(await friend.as_of(revision=2, role="secret")) == ["s1"]


async def test_pages_of_the_hidden_are_passed_over(bus):
    rule = Rule(role="secret", keys=(FRIEND.public,))
    async with bus.served(identity=IdentitySettings(visibility=(rule,))) as registry:
        for id in ("a", "b", "c", "d", "e"):
            await registry.register("worker" if id in "ae" else "secret", id, ttl=None)

        pages, cursor = [], ""
        while cursor is not None:
            page = await asked(registry, revision=5, limit=1, cursor=cursor)
            pages.append([one["id"] for one in page["agents"]])
            cursor = page["next"]

        assert [id for page in pages for id in page] == ["a", "e"]


async def test_a_forged_question_about_the_past_is_refused(bus):
    async with bus.served(**hiding(SECRET)) as registry:
        await registry.register("secret", "s1", ttl=None)
        client, subjects = registry.bus
        forged = {h.SENDER: header(FRIEND, subjects.asof, b'{"role": "other"}')}

        reply = await client.request(subjects.asof, b'{"role": "secret"}', headers=forged, timeout=5)

        assert reply.headers[h.ERROR] == "unauthorized"
