"""Who sees whom: the agents of a role that a rule hides are shown to those whom it names, by any question."""

import asyncio
import json

import pytest

import rollcall
from rollcall.core.errors import Misconfigured, RollcallError
from rollcall.faces.cli.settings import worker_settings
from rollcall.identity.keys import new_key
from rollcall.worker import GoverningSettings, IdentitySettings, Rule
from tests.bus.plain import plain
from tests.bus.signing import header
from tests.conftest import eventually, ids

FRIEND, STRANGER, CHIEF = new_key(), new_key(), new_key()
SECRET = Rule(role="secret", keys=(FRIEND.public,), roles=("lieutenant",))


def hiding(*rules, **more):
    return {"identity": IdentitySettings(visibility=rules, **more)}


def asked_by(bus, key=None):
    return rollcall.connect(bus.url, realm=bus.realm, key=key)


async def seen_of(registry, id="s1", role="secret"):
    """What somebody finds out about an agent that has one change and one message: by which questions."""
    found = set()

    async def ask(what, question):
        try:
            if await question():
                found.add(what)
        except (rollcall.Denied, rollcall.NotFound):
            pass

    # Not by a search in the text: signatures hold any letters.
    def told(answer):
        return id in [one.id for one in (*answer.changes, *answer.agents)]

    async def get():
        return (await registry.get(id)).id == id

    async def discover():
        return id in ids(await registry.discover(role, include=["all"], status=["all"]))

    async def pick():
        return id in ids(await registry.pick(role, 1, include=["all"], status=["all"]))

    async def listed():
        return id in ids(await registry.list())

    async def explained():
        return id in [one["id"] for one in (await registry.list(explain=True)).explained]

    async def history():
        return [one for one in await registry.history(id) if one.id == id]

    async def since():
        return told(await registry.since(rollcall.Position()))

    async def since_of_role():
        return told(await registry.since(rollcall.Position(), role=role))

    async def changes():
        epoch = (await registry.info())["epoch"]
        return told(await registry.since(rollcall.Position(epoch, 0)))

    async def messages():
        return list(await registry.messages(id))

    async def info():
        return role in (await registry.info())["roles"]

    for question in (get, discover, pick, listed, explained, history, since, since_of_role, changes, messages, info):
        await ask(question.__name__, question)
    return found


EVERYTHING = {
    "get",
    "discover",
    "pick",
    "listed",
    "explained",
    "history",
    "since",
    "since_of_role",
    "changes",
    "messages",
    "info",
}


async def populate(registry, *roles):
    for number, role in enumerate(roles or ("secret",), 1):
        await registry.register(role, f"s{number}", ttl=None)
        await registry.send_message(f"s{number}", content="psst")


async def test_without_rules_everybody_sees_everybody(bus):
    async with bus.served() as registry:
        await populate(registry)

        assert await seen_of(registry) == EVERYTHING


async def test_a_hidden_role_is_found_by_no_question(bus):
    async with bus.served(**hiding(SECRET)) as registry, asked_by(bus, STRANGER) as stranger:
        await populate(registry)

        assert await seen_of(registry) == set()
        assert await seen_of(stranger) == set()


async def test_a_key_that_a_rule_names_sees_everything_of_it(bus):
    async with bus.served(**hiding(SECRET)) as registry, asked_by(bus, FRIEND) as friend:
        await populate(registry)

        assert await seen_of(friend) == EVERYTHING


async def test_operators_see_everybody(bus):
    settings = hiding(SECRET, operators=frozenset({CHIEF.public}))
    async with bus.served(**settings) as registry, asked_by(bus, CHIEF) as chief:
        await populate(registry)

        assert await seen_of(chief) == EVERYTHING


async def test_who_owns_an_agent_of_a_role_that_a_rule_names_sees_for_as_long_as_it_stands(bus):
    async with bus.served(**hiding(SECRET)) as registry, asked_by(bus, STRANGER) as one:
        await populate(registry)
        await one.register("private", "p1", ttl=None)
        assert await seen_of(one) == set()

        await one.register("lieutenant", "l1", ttl=None)
        assert await seen_of(one) == EVERYTHING

        await one.deregister("lieutenant", "l1")
        assert await seen_of(one) == set()


async def test_an_agent_that_nobody_owns_opens_no_eyes(bus):
    async with bus.served(**hiding(SECRET)) as registry:
        await populate(registry)
        await registry.register("lieutenant", "l1", ttl=None)
        await registry.register("lieutenant", "l2", ttl=None, owner="somebody")

        assert await seen_of(registry) == set()


async def test_other_roles_are_open_to_everybody(bus):
    async with bus.served(**hiding(SECRET)) as registry, asked_by(bus, STRANGER) as stranger:
        await populate(registry, "secret", "worker")

        for one in (registry, stranger):
            assert await seen_of(one, "s2", "worker") == EVERYTHING
            assert ids(await one.list()) == ["s2"]
            assert (await one.info())["roles"] == {"worker": 1}


async def test_a_star_at_the_end_hides_what_begins_so_and_the_first_rule_counts(bus):
    rules = (Rule("secret-open*"), Rule("secret-o*", keys=(FRIEND.public,)), Rule("secret*", keys=(CHIEF.public,)))
    roles = ("secret", "secret-x", "secret-o", "secret-open-1", "secre", "a-secret", "worker")
    async with bus.served(**hiding(*rules)) as registry, asked_by(bus, FRIEND) as friend, asked_by(bus, CHIEF) as chief:
        await populate(registry, *roles)

        async def seen(one):
            return {entry.role for entry in await one.list()}

        assert await seen(registry) == {"secre", "a-secret", "worker"}
        assert await seen(friend) == {"secre", "a-secret", "worker", "secret-o"}
        assert await seen(chief) == {"secre", "a-secret", "worker", "secret", "secret-x"}


async def test_a_star_alone_hides_everybody(bus):
    async with bus.served(**hiding(Rule("*", keys=(FRIEND.public,)))) as registry, asked_by(bus, FRIEND) as friend:
        await populate(registry, "secret", "worker")

        assert ids(await registry.list()) == []
        assert (await registry.info())["roles"] == {}
        assert ids(await friend.list()) == ["s1", "s2"]


async def test_what_is_hidden_answers_as_what_is_not_there(bus):
    async with bus.served(**hiding(SECRET)) as registry:
        await populate(registry)

        told = []
        for id in ("s1", "s9"):
            with pytest.raises(rollcall.NotFound) as error:
                await registry.get(id)
            told.append((error.value.message.replace(id, "ID"), sorted(error.value.details)))
        assert told[0] == told[1]
        assert list(await registry.history("s1")) == list(await registry.history("s9")) == []


async def test_a_refusal_says_what_to_do(bus):
    async with bus.served(**hiding(SECRET)) as registry, asked_by(bus, STRANGER) as stranger:
        with pytest.raises(rollcall.Denied, match="not signed"):
            await registry.discover("secret")
        with pytest.raises(rollcall.Denied, match=STRANGER.public):
            await stranger.discover("secret")


async def test_an_answer_kept_ready_for_a_friend_is_not_given_to_others(bus):
    async with bus.served(**hiding(SECRET)) as registry, plain(bus) as client:
        await populate(registry)
        subject, body = f"{client.root}.discover.secret", b'{"include":["all"]}'

        async def asked(headers):
            return json.loads((await client.client.request(subject, body, timeout=10, headers=headers)).data)

        assert (await asked({"Agent-Sender": header(FRIEND, subject, body)}))["count"] == 1
        assert (await asked(None))["error"] == "denied"
        assert (await asked({"Agent-Sender": header(STRANGER, subject, body)}))["error"] == "denied"


async def test_pages_of_a_list_leave_out_the_hidden_wherever_they_begin(bus):
    async with bus.served(**hiding(SECRET)) as registry, plain(bus) as client:
        await populate(registry, "alpha", "secret", "zulu", "secret")
        everything = {"include": ["all"], "status": ["all"]}
        found, cursor = [], ""
        while cursor is not None:
            page = await client.question("list", {**everything, "limit": 1, "cursor": cursor})
            found += [one["id"] for one in page["agents"]]
            cursor = page["next"]
        assert found == ["s1", "s3"]
        for forged in ("secret.0.a", "secret.1.s1", "secret.0."):
            page = await client.question("list", {**everything, "cursor": forged})
            assert not [one for one in page["agents"] if one["role"] == "secret"]


async def test_an_id_that_was_hidden_once_tells_nothing_of_that_later(bus):
    async with bus.served(**hiding(SECRET)) as registry:
        await registry.register("secret", "x", name="hidden", ttl=None)
        await registry.deregister("secret", "x", reason="hidden")
        await registry.register("worker", "x", name="open", ttl=None)

        assert "hidden" not in str(await registry.history("x"))
        assert (await registry.get("x")).name == "open"
        epoch = (await registry.info())["epoch"]
        assert "hidden" not in str(await registry.since(rollcall.Position(epoch, 0)))


async def test_a_question_that_proves_nothing_is_refused_where_there_are_rules(bus):
    async with bus.served(**hiding(SECRET)) as registry, plain(bus) as client:
        await populate(registry)
        subject, body = f"{client.root}.discover.secret", b'{"include":["all"]}'

        async def asked(sender):
            reply = await client.client.request(subject, body, timeout=10, headers={"Agent-Sender": sender})
            return json.loads(reply.data)

        assert (await asked(header(FRIEND, subject, body)))["count"] == 1
        wrong = {
            "another subject": header(FRIEND, f"{client.root}.list", body),
            "another body": header(FRIEND, subject, b"{}"),
            "late": header(FRIEND, subject, body, ago=40),
            "of another key": header(STRANGER, subject, body, user=FRIEND.public),
        }
        assert {what: (await asked(sender)).get("error") for what, sender in wrong.items()} == dict.fromkeys(
            wrong, "unauthorized"
        )
        claim = json.dumps({"v": 1, "account": "AGENTS", "user": FRIEND.public})
        assert (await asked(claim))["error"] == "denied"


async def test_a_signed_question_is_answered_once(bus):
    async with bus.served(**hiding(SECRET)) as registry, plain(bus) as client:
        await populate(registry)

        assert await _replayed(client, 3) == ["unauthorized"] * 3


async def test_a_signed_question_is_answered_once_however_many_workers_there_are(bus):
    """Whoever overhears one may ask it again for half a minute, and it reaches any of them."""
    async with bus.served(**hiding(SECRET)) as registry, bus.worker("w2", **hiding(SECRET)), plain(bus) as client:
        await populate(registry)

        assert await _replayed(client, 20) == ["unauthorized"] * 20


async def _replayed(client, times):
    """Asks, then asks the very same again and again; what was answered to that."""
    subject, body = f"{client.root}.get.s1", b""
    sender = header(FRIEND, subject, body)

    async def asked():
        reply = await client.client.request(subject, body, timeout=10, headers={"Agent-Sender": sender})
        return json.loads(reply.data)

    assert (await asked())["id"] == "s1"
    return [(await asked()).get("error", "answered") for _ in range(times)]


async def test_a_revoked_key_sees_nothing_any_more(bus):
    async with bus.served(**hiding(SECRET)) as registry, asked_by(bus, FRIEND) as friend:
        await populate(registry)
        await friend.register("open", "friend", ttl=None)
        await friend.revoke(FRIEND.public)

        with pytest.raises(rollcall.Unauthorized):
            await friend.get("s1")


async def test_an_agent_sees_itself_and_reads_its_messages_whatever_hides_it(bus):
    async with bus.served(**hiding(Rule("secret"))) as registry, asked_by(bus, STRANGER) as own:
        await own.register("secret", "s1", ttl=None)
        await registry.send_message("s1", content="psst")

        assert (await own.get("s1")).id == "s1"
        assert [one.content for one in await own.messages("s1")] == ["psst"]


async def test_hidden_agents_register_beat_and_leave_like_others(bus):
    async with bus.served(**hiding(SECRET)) as registry, asked_by(bus, FRIEND) as friend:
        async with registry.agent("secret", "x", id="s1", ttl=2) as agent:
            agent.feel(cpu_percent=5)

            async def feels():
                health = (await friend.get("s1")).health
                return health is not None and health.cpu_percent == 5

            await eventually(feels)
        assert ids(await friend.list()) == []


async def test_a_watch_of_open_roles_is_whole_beside_a_hidden_one(bus):
    async with bus.served(**hiding(SECRET)) as registry, registry.watch("worker") as watch:
        await registry.register("secret", "s1", ttl=None)
        await registry.register("worker", "o1", ttl=None)
        await registry.update("secret", "s1", {"name": "x"})
        await registry.register("worker", "o2", ttl=None)

        changes = aiter(watch)
        async with asyncio.timeout(30):
            assert [(await anext(changes)).id, (await anext(changes)).id] == ["o1", "o2"]
        assert watch.reason == ""


async def test_what_waits_for_an_approval_is_hidden_too(bus):
    settings = {
        **hiding(SECRET, operators=frozenset({CHIEF.public})),
        "governing": GoverningSettings(approve=("secret", "worker")),
    }
    async with bus.served(**settings) as registry, asked_by(bus, CHIEF) as chief:
        with pytest.raises(rollcall.Waits):
            await registry.register("secret", "s1")
        with pytest.raises(rollcall.Waits):
            await registry.register("worker", "o1")

        async def waiting(one):
            return {each["id"] for each in await one.pending()}

        assert await waiting(chief) == {"s1", "o1"}
        assert await waiting(registry) == {"o1"}


async def test_a_refusal_of_a_hidden_agent_is_not_told_to_others(bus):
    settings = {
        **hiding(SECRET, operators=frozenset({CHIEF.public})),
        "governing": GoverningSettings(approve=("secret", "worker")),
    }
    async with bus.served(**settings) as registry, asked_by(bus, CHIEF) as chief:
        with pytest.raises(rollcall.Waits):
            await registry.register("secret", "s1")
        await chief.deny("s1", reason="too secret")

        async def told():
            return (await chief.story("s1")).refusals

        assert await eventually(told)
        assert list((await registry.story("s1")).refusals) == []


# The file of rules.


def settings(tmp_path):
    return worker_settings(url="nats://127.0.0.1:1", realm="default", name="w", snapshot=tmp_path / "w.db")


def test_rules_are_read_from_the_file_that_the_environment_names(tmp_path, monkeypatch):
    rules = [
        {"role": "secret*", "keys": [FRIEND.public], "roles": ["lieutenant"]},
        {"role": "x"},
    ]
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    monkeypatch.setenv("ROLLCALL_VISIBILITY", str(tmp_path / "rules.json"))

    assert settings(tmp_path).identity.visibility == (
        Rule("secret*", (FRIEND.public,), ("lieutenant",)),
        Rule("x"),
    )


def test_without_a_file_there_are_no_rules(tmp_path, monkeypatch):
    monkeypatch.delenv("ROLLCALL_VISIBILITY", raising=False)

    assert settings(tmp_path).identity.visibility == ()


WRONG = {
    "nothing": "",
    "no JSON": "{",
    "an object": "{}",
    "a rule that is none": '["secret"]',
    "no role": '[{"keys": []}]',
    "an empty role": '[{"role": ""}]',
    "an unknown member": '[{"role": "a", "key": "U"}]',
    "a role that is a number": '[{"role": 7}]',
    "keys that are a text": '[{"role": "a", "keys": "U"}]',
    "a key that is none": '[{"role": "a", "keys": ["U"]}]',
    "a seed for a key": json.dumps([{"role": "a", "keys": [FRIEND.seed]}]),
    "not UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_wrong_rules_are_named_with_their_file(tmp_path, monkeypatch, text):
    """Rules that cannot be read hide nothing: a worker does not start with them."""
    path = tmp_path / "rules.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.setenv("ROLLCALL_VISIBILITY", str(path))

    with pytest.raises(RollcallError) as error:
        settings(tmp_path)
    assert isinstance(error.value, Misconfigured)
    assert str(path) in str(error.value)
    assert FRIEND.seed not in str(error.value)


def test_a_file_of_rules_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ROLLCALL_VISIBILITY", str(tmp_path / "nothing.json"))
    with pytest.raises(Misconfigured, match=r"nothing\.json"):
        settings(tmp_path)
    monkeypatch.setenv("ROLLCALL_VISIBILITY", str(tmp_path))
    with pytest.raises(Misconfigured, match="cannot be read"):
        settings(tmp_path)
