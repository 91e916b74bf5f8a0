"""The past on the command line: `ls --as-of`, `diff`, `rollback`, `who-was-alive`, and where history begins."""

from datetime import UTC, datetime, timedelta

import pytest

import rollcall
from rollcall import Registry
from rollcall.core.instants import instant
from rollcall.core.records import Profile
from rollcall.faces.cli import past
from rollcall.identity.keys import new_key
from rollcall.worker import housekeeping
from tests.conftest import eventually, ids

NOBODY, INVALID, UNKNOWN, REFUSED = 1, 2, 3, 4


def said(entry):
    """All that an agent said."""
    return {name: getattr(entry, name) for name in Profile.__struct_fields__}


def in_ms(text):
    return instant(past.moment(text)["at"])


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("120", {"epoch": "", "revision": 120}),
        (" 0 ", {"epoch": "", "revision": 0}),
        ("1795000000000-0123abcd:7", {"epoch": "1795000000000-0123abcd", "revision": 7}),
        ("2026-11-21T20:00:00Z", {"at": "2026-11-21T20:00:00.000Z"}),
        ("2026-11-21T20:00:00.5", {"at": "2026-11-21T20:00:00.500Z"}),
        ("2026-11-21T20:00:00+02:00", {"at": "2026-11-21T18:00:00.000Z"}),
        ("2026-11-21 20:00", {"at": "2026-11-21T20:00:00.000Z"}),
        ("2026-11-21", {"at": "2026-11-21T00:00:00.000Z"}),
    ],
)
def test_a_moment_is_a_revision_or_a_time(text, asked):
    assert past.moment(text) == asked


@pytest.mark.parametrize(
    ("text", "ago"),
    [("0s", 0), ("90s", 90), ("10m", 600), ("2h", 7200), ("3d", 259_200), ("5 m ago", 300), ("1h ago", 3600)],
)
def test_a_moment_may_be_so_long_ago(text, ago):
    expected = (datetime.now(UTC) - timedelta(seconds=ago)).timestamp() * 1000

    assert 0 <= expected - in_ms(text) + 1 <= 5000 or 0 <= in_ms(text) - expected <= 5000


@pytest.mark.parametrize(
    "text", ["", "soon", "-5", "1.5", "10y", "m", "1795000000000-xyz:7", ":7", "9" * 19, "99999999999d", "2026-13-01"]
)
def test_what_is_no_moment_is_said_to_be_none(text):
    with pytest.raises(rollcall.Invalid) as error:
        past.moment(text)

    assert "is no moment" in error.value.message


async def test_ls_tells_who_was_there(bus, say):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=None)
        await registry.register("scout", "b", ttl=None)
        await registry.deregister("worker", "a")
        epoch = (await registry.info())["epoch"]
        at = (await registry.as_of(revision=2)).asof.at

        for moment in (f"{epoch}:2", at):
            told = await say.json("ls", "--as-of", moment)
            assert [one["id"] for one in told["agents"]] == ["a", "b"]
            assert told["asof"] == {"epoch": epoch, "revision": 2, "at": at}
            assert told["begins"]["revision"] == 0
        assert [one["id"] for one in (await say.json("ls", "worker", "--as-of", "2"))["agents"]] == ["a"]
        shown = await say("ls", "--as-of", "2")
        assert "a" in shown.stdout and "scout" in shown.stdout
        assert f"as of revision 2, {at} (worker w1)" in shown.stderr
        assert "nobody is on the roll" in (await say("ls", "--as-of", "0")).stderr
        assert "no worker is on the roll" in (await say("ls", "worker", "--as-of", "0s")).stderr
        # The present is told as ever.
        assert "as of" not in (await say("ls")).stderr


async def test_a_moment_that_cannot_be_told_has_its_exit_code(bus, say):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=None)

        assert "has not come yet" in (await say("ls", "--as-of", "99", exits=INVALID)).stderr
        assert "is no moment" in (await say("ls", "--as-of", "soon", exits=INVALID)).stderr
        assert "begins at" in (await say("ls", "--as-of", "2000-01-01", exits=UNKNOWN)).stderr
        assert "begins at" in (await say("diff", "2000-01-01", "0s", exits=UNKNOWN)).stderr
        assert "is no moment" in (await say("diff", "0s", "soon", exits=INVALID)).stderr
        assert "begins at" in (await say("rollback", "a", "--to", "2000-01-01", exits=UNKNOWN)).stderr
        assert "is no moment" in (await say("who-was-alive", "--role", "x", "--at", "y", exits=INVALID)).stderr
        for missing in (
            ["who-was-alive", "--role", "x"],
            ["who-was-alive", "--at", "1"],
            ["rollback", "a"],
            ["diff", "1"],
        ):
            await say(*missing, exits=INVALID)


async def test_diff_tells_who_came_who_left_and_what_changed(bus, say):
    async with bus.served() as registry:
        await registry.register("worker", "leaves", ttl=None)
        await registry.register("worker", "changes", ttl=None, description="old", labels={"zone": "a"})
        await registry.register("worker", "stays", ttl=None)
        await registry.register("worker", "moves", ttl=None)
        before = (await registry.register("worker", "twice", ttl=None)).revision
        await registry.deregister("worker", "leaves")
        await registry.update("worker", "changes", {"description": "new", "labels": {"zone": "b"}})
        await registry.deregister("worker", "moves")
        await registry.register("scout", "moves", ttl=None, incarnation=1)
        await registry.update("worker", "twice", {"description": "x"})
        await registry.update("worker", "twice", {"description": None})
        after = (await registry.register("scout", "comes", ttl=None)).revision

        told = await say.json("diff", str(before), str(after), exits=NOBODY)

        assert told["came"] == [{"id": "comes", "role": "scout"}]
        assert told["left"] == [{"id": "leaves", "role": "worker"}]
        changed = {one["id"]: one["members"] for one in told["changed"]}
        assert changed["changes"] == {
            "description": {"before": "old", "after": "new"},
            "labels": {"before": {"zone": "a"}, "after": {"zone": "b"}},
        }
        assert changed["moves"]["role"] == {"before": "worker", "after": "scout"}
        assert changed.keys() == {"changes", "moves"}
        assert (told["from"]["revision"], told["to"]["revision"]) == (before, after)
        back = await say.json("diff", str(after), str(before), exits=NOBODY)
        assert (back["came"], back["left"]) == (told["left"], told["came"])
        shown = await say("diff", str(before), str(after), exits=NOBODY)
        for word in ("comes", "came", "leaves", "left", "description", "old", "new", '{"zone":"b"}'):
            assert word in shown.stdout
        assert shown.stderr.count("as of revision") == 2


async def test_where_nothing_differs_diff_says_so_and_is_content(bus, say):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=None)

        assert "nothing differs" in (await say("diff", "1", "0s")).stdout
        assert (await say.json("diff", "1", "1"))["changed"] == []


async def changed_of_late(registry):
    """An agent that said much, and then something else; returns what it said at first, and at which revision."""
    first = await registry.register(
        "worker",
        "a",
        name="one",
        ttl=60,
        capabilities=["ocr"],
        labels={"zone": "a", "tier": "1"},
        metadata={"deep": {"n": 1, "kept": [None]}},
        endpoints={"http": "http://h:1"},
        description="as it was",
    )
    await registry.update(
        "worker",
        "a",
        {
            "name": "two",
            "ttl": None,
            "status": "draining",
            "capabilities": [],
            "labels": {"zone": "b", "tier": None, "new": "x"},
            "metadata": {"deep": {"n": None, "more": {"x": 1}}},
            "endpoints": None,
            "description": None,
            "keep": True,
            "pointers": {"log": "/x"},
            "heartbeat_interval": 5,
        },
    )
    return first


async def test_rollback_makes_an_agent_say_again_what_it_said(bus, say):
    async with bus.served() as registry:
        was = await changed_of_late(registry)
        then = await registry.get("a")
        await registry.register("worker", "other", ttl=None)

        told = await say.json("rollback", "a", "--to", str(was.revision))

        now = await registry.get("a")
        assert said(now) == said(was) != said(then)
        assert (now.revision, now.registered_at) == (4, was.registered_at)
        assert (told["id"], told["to"], told["dry_run"], told["registers"]) == ("a", 1, False, False)
        assert told["members"]["name"] == {"before": "two", "after": "one"}
        assert told["members"]["pointers"] == {"before": {"log": "/x"}, "after": None}
        assert [change.kind for change in await registry.history("a")] == ["registered", "updated", "updated"]
        # And back again: what came in between is a revision like any other.
        shown = await say("rollback", "a", "--to", "2")
        assert "changed name: one -> two" in shown.stdout
        assert said(await registry.get("a")) == said(then)


async def test_rollback_to_what_is_said_already_changes_nothing(bus, say):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=None)
        await registry.update("worker", "a", {"description": "x"})
        await registry.update("worker", "a", {"description": None})

        shown = await say("rollback", "a", "--to", "1")

        assert "a says already what it said at revision 1" in shown.stdout
        assert (await registry.get("a")).revision == 3


async def test_a_dry_run_of_rollback_changes_nothing(bus, say):
    async with bus.served() as registry:
        was = await changed_of_late(registry)
        await registry.register("worker", "gone", ttl=None)
        await registry.deregister("worker", "gone")
        revision = (await registry.info(exact=True))["revision"]

        dry = await say.json("rollback", "a", "--to", str(was.revision), "--dry-run")
        shown = await say("rollback", "a", "--to", str(was.revision), "--dry-run")
        back = await say("rollback", "gone", "--to", "3", "--dry-run")

        assert (dry["dry_run"], dry["members"]["name"]) == (True, {"before": "two", "after": "one"})
        assert "would change name: two -> one" in shown.stdout
        assert "gone would be registered again, as it was at revision 3" in back.stdout
        assert (await registry.info(exact=True))["revision"] == revision
        assert ids(await registry.list()) == ["a"]


async def test_who_is_gone_is_registered_again_as_it_was(bus, say):
    async with bus.served() as registry:
        was = await registry.register("worker", "a", ttl=None, labels={"zone": "a"}, incarnation=7, status="paused")
        await registry.update("worker", "a", {"labels": {"zone": "b"}})
        await registry.deregister("worker", "a")

        told = await say.json("rollback", "a", "--to", str(was.revision))

        assert told["registers"] is True
        now = await registry.get("a")
        assert said(now) == said(was)
        assert now.revision == 4


async def test_who_was_not_there_then_cannot_go_back_there(bus, say):
    async with bus.served() as registry:
        await registry.register("worker", "other", ttl=None)
        await registry.register("worker", "a", ttl=None)
        await registry.deregister("worker", "a")

        for moment in ("1", "3"):
            assert "was not on the roll" in (await say("rollback", "a", "--to", moment, exits=UNKNOWN)).stderr
        await say("rollback", "nobody", "--to", "1", exits=UNKNOWN)
        assert ids(await registry.list()) == ["other"]


async def test_rollback_never_brings_a_lost_agent_back_to_life(bus, say):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=0.5, description="first")
        await registry.update("worker", "a", {"description": "second"}, beat=True)
        await eventually(lambda: is_lost(registry, "a"))
        lost = await registry.get("a")

        await say("rollback", "a", "--to", "1")

        now = await registry.get("a")
        assert (now.description, now.liveness, now.lost_at) == ("first", "lost", lost.lost_at)
        assert [change.kind for change in await registry.history("a")][-2:] == ["lost", "updated"]


async def is_lost(registry, id):
    return (await registry.get(id)).liveness == "lost"


async def test_rollback_to_a_moment_when_it_was_lost_loses_nobody(bus, say):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=0.5, description="first", incarnation=1)
        await eventually(lambda: is_lost(registry, "a"))
        lost = (await registry.get("a")).revision
        await registry.register("worker", "a", ttl=None, description="second", incarnation=2)
        await registry.update("worker", "a", {"ttl": None})

        await say("rollback", "a", "--to", str(lost))

        now = await registry.get("a")
        assert (now.description, now.ttl, now.lost_at, now.incarnation) == ("first", 0.5, None, 2)


async def test_rollback_of_who_has_another_role_now_is_refused(bus, say):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=None)
        await registry.deregister("worker", "a")
        await registry.register("scout", "a", ttl=None)

        assert "a' is scout now and was worker then" in (await say("rollback", "a", "--to", "1", exits=REFUSED)).stderr


NULLS = [
    ({"n": None}, {"n": 1}, False),
    ({"deep": {"n": None}}, {"deep": {"n": 1}}, False),
    ({"deep": {"n": None}}, {"deep": 5}, False),
    ({"deep": {"n": None}}, {}, False),
    ({"n": None, "x": 1}, {"n": None, "x": 2}, True),
    ({"list": [None, {"n": None}]}, {"list": []}, True),
    ({"x": 1}, {"x": 1, "n": None}, True),
]


async def test_a_null_deep_inside_that_no_update_can_say_is_refused(bus):
    async with bus.served() as registry:
        for number, (then, now, reachable) in enumerate(NULLS):
            id = f"a{number}"
            was = await registry.register("worker", id, ttl=None, metadata=then, incarnation=1)
            await registry.deregister("worker", id)
            before = await registry.register("worker", id, ttl=None, metadata=now, incarnation=1)

            for dry_run in (True, False):
                rolling_back = past._roll_back(registry, id, past.moment(str(was.revision)), dry_run=dry_run)
                if reachable:
                    assert (await rolling_back)["members"].keys() == {"metadata"}
                    continue
                with pytest.raises(rollcall.Invalid) as error:
                    await rolling_back
                assert "metadata: a member within was null then" in error.value.message

            assert (await registry.get(id)).metadata == (then if reachable else before.metadata), (then, now)


async def test_rollback_does_not_overrule_who_changes_the_agent_meanwhile(bus, monkeypatch):
    async with bus.served() as registry, bus.registry() as other:
        await registry.register("worker", "a", ttl=None, description="first")
        await registry.update("worker", "a", {"description": "second"})
        await registry.register("worker", "gone", ttl=None, incarnation=1)
        await registry.deregister("worker", "gone")
        get = Registry.get

        async def get_and_be_late(self, id, **more):
            try:
                return await get(self, id, **more)
            finally:
                if self is registry and id == "a":
                    await other.update("worker", "a", {"labels": {"zone": "mine"}})
                elif self is registry:
                    await other.register("worker", "gone", ttl=None, description="is back", incarnation=2)

        monkeypatch.setattr(Registry, "get", get_and_be_late)
        for id, moment in (("a", "1"), ("gone", "3")):
            with pytest.raises(rollcall.Conflict):
                await past._roll_back(registry, id, past.moment(moment), dry_run=False)

        assert (await other.get("a")).labels == {"zone": "mine"}
        assert (await other.get("a")).description == "second"
        assert (await other.get("gone")).description == "is back"


async def test_rollback_of_who_belongs_to_a_key_needs_that_key(bus, say):
    key = new_key()
    file = bus.home / "owner.key"
    file.write_text(key.seed)
    file.chmod(0o600)
    async with bus.served(), rollcall.connect(bus.url, realm=bus.realm, key=key) as owner:
        await owner.register("worker", "a", ttl=None, description="first")
        await owner.update("worker", "a", {"description": "second"})
        await owner.register("worker", "gone", ttl=None)
        await owner.deregister("worker", "gone")

        await say("rollback", "a", "--to", "1", exits=REFUSED)
        await say("rollback", "gone", "--to", "3", exits=REFUSED)
        assert (await owner.get("a")).description == "second"

        await say("rollback", "a", "--to", "1", "--key", str(file))
        await say("rollback", "gone", "--to", "3", "--key", str(file))
        assert (await owner.get("a")).description == "first"
        assert (await owner.get("gone")).owner == f"nkey:{key.public}"


async def test_who_was_alive_is_whom_the_registry_believed_alive_then(bus, say):
    async with bus.served() as registry:
        await registry.register("worker", "mortal", ttl=0.5)
        await registry.register("worker", "steady", ttl=None)
        await registry.register("worker", "stopped", ttl=None, status="stopped")
        await registry.register("worker", "paused", ttl=None, status="paused")
        await registry.register("worker", "theirs", ttl=None, origin="external")
        then = (await registry.register("scout", "scout", ttl=None)).revision
        at = (await registry.as_of(revision=then)).asof.at
        await eventually(lambda: is_lost(registry, "mortal"))
        await registry.deregister("worker", "steady")

        told = await say.json("who-was-alive", "--role", "worker", "--at", at)
        assert [one["id"] for one in told["agents"]] == ["mortal", "paused", "steady"]
        assert (told["count"], told["asof"]["revision"]) == (3, then)
        now = await say.json("who-was-alive", "--role", "worker", "--at", "0s")
        assert [one["id"] for one in now["agents"]] == ["paused"]
        assert "steady" in (await say("who-was-alive", "--role", "worker", "--at", str(then))).stdout
        none = await say("who-was-alive", "--role", "worker", "--at", "0", exits=NOBODY)
        assert "no worker was alive then" in none.stderr


async def test_history_says_where_it_begins(bus, say, monkeypatch):
    monkeypatch.setattr(housekeeping, "PRUNE_EVERY", 0.1)
    async with bus.served(history_rows=2) as registry:
        await registry.register("worker", "a", ttl=None)
        assert "begins" not in (await say("history", "a")).stderr
        for number in range(4):
            await registry.update("worker", "a", {"description": str(number)})
        begins = await eventually(lambda: begins_at(registry, 3))

        assert f"history of this worker begins at revision 3, {begins.at}" in (await say("history", "a")).stderr
        told = await say.json("history", "a")
        assert told["begins"] == {"epoch": begins.epoch, "revision": 3, "at": begins.at}
        assert [one["revision"] for one in told["changes"]] == [4, 5]


async def begins_at(registry, revision):
    begins = (await registry.story("a")).begins
    return begins if begins.revision == revision else None
