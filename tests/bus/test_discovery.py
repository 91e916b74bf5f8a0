"""Questions about many: filters, pages, picks, and how fresh an answer is."""

import pytest

import rollcall
from rollcall import Position
from tests.conftest import eventually, ids


async def fleet(registry, count, role="worker", **said):
    outcomes = await registry.register_many(
        {"role": role, "id": f"{role}-{number:04}", **said} for number in range(count)
    )
    assert all(isinstance(outcome, rollcall.Entry) for outcome in outcomes)


async def test_discover_gives_the_running_and_live_in_order_of_registration(bus):
    async with bus.served() as registry:
        for id, status in [("c", "running"), ("a", "running"), ("p", "paused"), ("b", "running")]:
            await registry.register("worker", id, status=status)

        assert ids(await registry.discover("worker")) == ["c", "a", "b"]
        assert ids(await registry.discover("worker", status=["paused"])) == ["p"]
        assert ids(await registry.discover("worker", status=["all"])) == ["c", "a", "p", "b"]
        assert ids(await registry.discover("nobody")) == []
        await registry.deregister("worker", "c")
        await registry.register("worker", "c")
        assert ids(await registry.discover("worker")) == ["a", "b", "c"]


async def test_filters_are_joined_by_and(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a", capabilities=["ocr", "plan"], labels={"zone": "x"}, version="1.4")
        await registry.register("worker", "b", capabilities=["ocr"], labels={"zone": "y"}, version="2.0")

        assert ids(await registry.discover("worker", capabilities=["ocr"])) == ["a", "b"]
        assert ids(await registry.discover("worker", capabilities=["ocr", "plan"])) == ["a"]
        assert ids(await registry.discover("worker", any_of=["plan", "fly"])) == ["a"]
        assert ids(await registry.discover("worker", labels={"zone": "y"})) == ["b"]
        assert ids(await registry.discover("worker", version=">=1,<2")) == ["a"]
        assert ids(await registry.discover("worker", capabilities=["ocr"], labels={"zone": "x"})) == ["a"]


async def test_pages_hold_everybody_once_and_fit_a_reply(bus):
    async with bus.served() as registry:
        await fleet(registry, 250, description="x" * 4000, metadata={"a": "y" * 4000})

        everybody = await registry.discover("worker")
        assert len(set(ids(everybody))) == len(everybody) == 250
        page = await registry.discover("worker", limit=7)
        assert (len(page), bool(page.next)) == (7, True)
        following = await registry.discover("worker", limit=7, cursor=page.next)
        assert ids(page) + ids(following) == ids(everybody)[:14]
        assert ids(await registry.list()) == ids(everybody)


async def test_list_pages_through_every_role(bus):
    async with bus.served() as registry:
        for role in ("b/b", "a", "c c"):
            await fleet(registry, 5, role.replace("/", "-")) if "/" not in role else await registry.register(
                role, "r/1"
            )

        seen, cursor = [], ""
        while cursor is not None:
            page = await registry.list(limit=3, cursor=cursor)
            seen += ids(page)
            cursor = page.next
        assert seen == ids(await registry.list())
        assert len(set(seen)) == len(seen) == 11


async def test_pick_chooses_by_each_rule(bus):
    async with bus.served() as registry:
        await fleet(registry, 6)
        for number, load in enumerate([5, 1, 9, 0, 7, 3]):
            await registry.heartbeat("worker", f"worker-{number:04}", health=rollcall.Health(active_connections=load))

        async def idle():
            return (await registry.get("worker-0005")).health

        await eventually(idle)
        assert len(set(ids(await registry.pick("worker", 4)))) == 4
        assert ids(await registry.pick("worker", 2, by="least_loaded")) == ["worker-0003", "worker-0001"]
        turns = [ids(await registry.pick("worker", by="round_robin"))[0] for _ in range(12)]
        assert turns[:6] == turns[6:]
        assert len(set(turns)) == 6
        assert len(await registry.pick("worker", 50)) == 6
        assert len(await registry.pick("nobody", 1)) == 0


async def test_explain_says_of_each_candidate_why(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a", capabilities=["ocr"])
        await registry.register("worker", "b", status="draining")

        page = await registry.discover("worker", capabilities=["ocr"], explain=True)

        assert {one["id"]: (one["kept"], one["why"]) for one in page.explained} == {
            "a": (True, ""),
            "b": (False, "status is draining, asked is running"),
        }


async def test_whoever_changed_something_sees_it_in_the_next_answer(bus):
    async with bus.served() as registry, bus.worker("w2"):
        for number in range(40):
            await registry.register("worker", f"a{number}")
            assert len(await registry.discover("worker")) == number + 1
            await registry.update("worker", f"a{number}", {"labels": {"n": str(number)}})
            assert (await registry.get(f"a{number}")).labels == {"n": str(number)}


async def test_a_question_with_what_one_has_is_answered_not_modified(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a")
        page = await registry.discover("worker")

        same = await registry.discover("worker", if_revision=page.revision, epoch=page.epoch)
        assert (same.not_modified, len(same)) == (True, 0)
        await registry.register("scout", "b")
        assert (await registry.discover("worker", if_revision=page.revision, epoch=page.epoch)).not_modified
        await registry.update("worker", "a", {"name": "new"})
        changed = await registry.discover("worker", if_revision=page.revision, epoch=page.epoch)
        assert (changed.not_modified, ids(changed)) == (False, ["a"])


async def test_at_least_waits_for_a_revision_and_then_says_unavailable(bus, monkeypatch):
    monkeypatch.setattr("rollcall.worker.service.AT_LEAST_WITHIN", 0.5)
    async with bus.served() as registry:
        epoch = (await registry.info())["epoch"]
        with pytest.raises(rollcall.Unavailable, match="revision 1000 was not folded"):
            await registry.discover("worker", at_least=1000, epoch=epoch, timeout=10)


async def test_no_worker_is_unavailable_and_not_nobody(bus):
    async with bus.registry() as registry:
        with pytest.raises(rollcall.Unavailable, match="rollcall up"):
            await registry.discover("worker")
        with pytest.raises(rollcall.Unavailable):
            await registry.register("worker", "a")


async def test_since_gives_the_changes_after_a_revision_or_everybody(bus):
    async with bus.served() as registry:
        first = await registry.register("worker", "a")
        await registry.register("scout", "b")
        await registry.deregister("worker", "a")
        epoch = (await registry.info())["epoch"]

        answer = await registry.since(Position(epoch, first.revision))
        assert [(c.kind, c.id) for c in answer.changes] == [("registered", "b"), ("deregistered", "a")]
        assert [c.id for c in (await registry.since(Position(epoch, 0), role="worker")).changes] == ["a", "a"]
        assert (await registry.since(Position(epoch, 3))).changes == []
        other = await registry.since(Position("1-deadbeef", 2))
        assert (other.too_old, ids(other.agents)) == (True, ["b"])


async def test_since_pages_without_losing_or_repeating(bus):
    async with bus.served() as registry:
        await fleet(registry, 120)
        epoch = (await registry.info())["epoch"]

        seen, position, more = [], Position(epoch, 0), True
        while more:
            answer = await registry.since(position, limit=7)
            seen += [change.revision for change in answer.changes]
            position, more = Position(epoch, answer.upto), answer.more
        assert seen == list(range(1, 121))
