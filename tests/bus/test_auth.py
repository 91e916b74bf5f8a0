"""A bus that lets in only issued users: what an agent's credentials allow, and every way beyond them is refused."""

import asyncio
import base64
import itertools
import json
import os
import re
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
import structlog
from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

import rollcall
from rollcall.bus import streams
from rollcall.bus.connection import connected
from rollcall.bus.subjects import token
from rollcall.core.errors import RollcallError
from rollcall.embedded import Authority, claims, rights
from rollcall.embedded.accounts import update_accounts
from rollcall.faces.http.server import serving as serving_face
from rollcall.faces.http.settings import FaceSettings, Listener
from rollcall.identity.keys import ACCOUNT, key_of, load_key, new_key
from tests.bus.guarded import Guarded, guarded_server
from tests.bus.plain import Plain
from tests.bus.signing import header, send
from tests.conftest import _remove_streams, eventually, ids

SEED = re.compile(rb"S[UAO][A-Z2-7]{56}")
LONG = 60
"""Seconds; whoever waits for an answer that will not come would wait for so long."""

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    with guarded_server(tmp_path_factory.mktemp("guarded")) as both:
        yield both


@pytest.fixture
def bus(guarded, tmp_path):
    server, authority = guarded
    one = Guarded(server, authority, f"a{os.getpid()}-{next(_numbers)}", tmp_path)
    yield one
    asyncio.run(_remove_streams(one))


@asynccontextmanager
async def victim(bus):
    """A served realm with an agent a1 of its own user; afterwards it stands there as if nothing had happened."""
    async with bus.served() as registry, bus.joined(bus.agent("a1")) as own:
        await own.register("worker", "a1", name="victim", ttl=None)
        before = await registry.get("a1")
        yield registry
        assert timeless(await registry.get("a1")) == timeless(before)
        assert ids(await registry.list()) == ["a1"]
        assert (await own.update("worker", "a1", {"name": "still here"})).name == "still here"
        assert {change.id for change in await registry.history("a1")} == {"a1"}


def timeless(entry):
    return structs.replace(entry, last_seen=None, expires_at=None)


async def denied(asked):
    """Refused as what it is, and long before anybody stopped waiting."""
    async with asyncio.timeout(LONG / 4):
        with pytest.raises(rollcall.Denied) as refused:
            await asked
    assert "rollcall creds" in str(refused.value)
    return refused.value


# What is allowed.


async def test_an_agent_does_all_that_an_agent_has_to(bus):
    creds = bus.agent("a1")
    async with bus.served(disconnect_grace=LONG) as registry, bus.joined(creds) as own:
        async with own.agent("worker", "one", id="a1", ttl=5, capabilities=["ocr"]) as agent:
            assert agent.entry.owner == f"nkey:{load_key(creds).public}"
            async with own.watch("worker") as watch:
                await agent.update(labels={"zone": "b"})
                assert (await anext(aiter(watch))).record.labels == {"zone": "b"}
            assert ids(await own.discover("worker", capabilities=["ocr"])) == ["a1"]
            assert (await own.get("a1")).name == "one"
            assert len(await own.history("a1")) == 2
            assert (await own.info())["agents"] == 1
            assert len((await own.since(rollcall.Position())).agents) == 1
            assert ids(await own.as_of(revision=1)) == ["a1"]
            await own.send_message("a1", content="hello")
            assert [one.content for one in await own.messages("a1")] == ["hello"]
            agent.feel(cpu_percent=12.5)

            async def feels():
                health = (await registry.get("a1")).health
                return health is not None and health.cpu_percent == 12.5

            await eventually(feels)
            assert agent.denied is None
            assert [one["worker"] for one in await own.workers()] == ["w1"]
        assert ids(await registry.list()) == []


async def test_a_lost_agent_answers_pings_with_its_own_credentials(bus):
    """A ping crosses accounts, and so does its answer: the agent may publish that."""
    async with bus.served() as registry, bus.raw(bus.agent("a1")) as raw, bus.worker_connection() as inside:

        async def answer(message):
            await message.respond(b'{"incarnation":7}')

        await raw.client.subscribe(bus.subjects.ping("a1"), cb=answer)
        assert not await raw.refuses_publish(bus.subjects.heartbeat("worker.a1"))
        reply = await inside.request(bus.subjects.ping("a1"), b"", timeout=10)
        assert json.loads(reply.data) == {"incarnation": 7}
        assert (await registry.info())["agents"] == 0


async def test_an_observer_asks_and_watches_and_changes_nothing(bus):
    async with victim(bus) as registry:
        assert ids(await registry.discover("worker", include=["all"])) == ["a1"]
        assert [one["worker"] for one in await registry.workers()] == ["w1"]
        for refused in (
            registry.register("worker", "o1", timeout=LONG),
            registry.update("worker", "a1", {"name": "x"}, timeout=LONG),
            registry.deregister("worker", "a1", timeout=LONG),
            registry.messages("a1", timeout=LONG),
            registry.send_message("a1", content="x", timeout=LONG),
            registry.call_roll(timeout=LONG),
            registry.release_guard(timeout=LONG),
            registry.revoke(new_key().public, timeout=LONG),
        ):
            await denied(refused)
        await denied(_two_beats(registry, "a1"))


async def _two_beats(registry, id):
    """Beats have no answer: whoever sends the next one hears of it."""
    for _ in range(500):
        await registry.heartbeat("worker", id)
        await asyncio.sleep(0.01)


async def test_an_operator_acts_on_everybodys_agents(bus):
    async with bus.served() as registry, bus.joined(bus.agent("a1")) as own, bus.joined(bus.operator()) as operator:
        await own.register("worker", "a1", name="x")

        async def known():
            return operator.key in (await registry.info())["operators"]

        await eventually(known)
        assert (await operator.update("worker", "a1", {"name": "y"})).name == "y"
        assert (await operator.release_guard())["released"] is False
        await operator.deregister("worker", "a1")
        assert ids(await registry.list()) == []


async def test_an_operator_of_one_realm_is_none_of_another(bus):
    other = Guarded(bus.server, bus.authority, f"{bus.realm}x", bus.home)
    foreign = load_key(other.operator())
    async with victim(bus) as registry, bus.joined(bus.agent("a1"), key=foreign) as own:
        with pytest.raises(rollcall.Unauthorized):
            await own.update("worker", "a1", {"name": "evil"})
        with pytest.raises(rollcall.Denied):
            await own.register("worker", "a1", mode=rollcall.Mode.TAKEOVER)
        assert foreign.public not in (await registry.info())["operators"]


async def test_an_operator_that_is_revoked_is_no_operator_any_more(bus):
    key = load_key(bus.operator())
    async with victim(bus) as registry, bus.joined(bus.agent("a1"), key=key) as own:
        bus.authority.revoke(key.public)

        async def forgotten():
            return key.public not in (await registry.info())["operators"]

        await eventually(forgotten)
        with pytest.raises(rollcall.Unauthorized):
            await own.update("worker", "a1", {"name": "evil"})


# What is not.


def foreign_subjects(bus, other, mine, theirs):
    """What an agent a2 may not publish: everything of others, of the registry, of another realm, of the server."""
    at, far, key = bus.subjects, other.subjects, load_key(theirs).public
    names = ("worker.a1", "worker.A2", "worker.a22", "worker.a2x", "boss.a2", "a2.worker", "worker.a2.x", "worker")
    return [
        *(at.command(verb, name) for verb in ("register", "update", "deregister") for name in names),
        *(far.command(verb, "worker.a2") for verb in ("register", "update", "deregister")),
        *(at.heartbeat(name) for name in names),
        *(at.hello(name) for name in names),
        *(at.heartbeats(host) for host in ("host", "a2", "worker")),
        far.heartbeat("worker.a2"),
        far.hello("worker.a2"),
        *(at.messages(id) for id in ("a1", "=2A", "A2")),
        far.message("a2"),
        far.messages("a2"),
        *(far.discover("worker"), far.get("a2"), far.history("a2"), far.list, far.since, far.info, far.asof),
        *(at.operate(verb) for verb in ("release", "call", "pending", "approve", "deny", "restore")),
        *(at.operate(verb) for verb in ("revoke", "x")),
        *(at.ping("a1"), at.ping("a2"), at.policy, at.beacon, at.roll_call, at.peers, at.nonces),
        *(at.changes("worker.a1"), at.changes("worker.a2"), at.signs("worker.a1"), at.signs("worker.a2")),
        *(at.rejected("worker.a1"), at.rejected("worker.a2")),
        *(at.outcome(load_key(mine).public, "worker.a2"), at.outcome(key, "worker.a1")),
        *(at.roll("worker.a1"), at.roll("worker.a2"), at.lease("leader"), at.lease("revoked"), at.pending("worker.a1")),
        f"_INBOX.{key}.x",
        f"_INBOX.{load_key(mine).public}.x",
        "_INBOX.x",
        *(f"$JS.API.STREAM.{what}.{at.roll_stream}" for what in ("DELETE", "PURGE", "INFO", "UPDATE", "CREATE")),
        *(f"$JS.API.STREAM.MSG.{what}.{at.inbox_stream}" for what in ("GET", "DELETE")),
        *(f"$JS.API.{what}" for what in ("INFO", "STREAM.NAMES", "STREAM.LIST", "STREAM.CREATE.X")),
        f"$JS.API.DIRECT.GET.{at.roll_stream}",
        f"$JS.API.CONSUMER.CREATE.{at.roll_stream}",
        f"$JS.API.STREAM.PURGE.{at.messages_stream}",
        f"$JS.ACK.{at.inbox_stream}.x.1.1.1.1.1",
        *("$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.ACCOUNT.PING.CONNZ"),
        *("$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.ACCOUNT.AGENTS.CLAIMS.UPDATE", "$SYS.ACCOUNT.AGENTS.DISCONNECT"),
        *("$SYS.REQ.SERVER.X.SHUTDOWN", "$SYS.REQ.SERVER.X.RELOAD", "$SYS.REQ.SERVER.X.KICK"),
        *("$SRV.PING", "$SRV.INFO.rollcall", "$G.x", "rollcall", "x", "rollcall.x", f"{at.register_root}"),
    ]


async def test_nothing_of_others_may_be_published(bus):
    mine, theirs = bus.agent("a2"), bus.agent("a3")
    other = Guarded(bus.server, bus.authority, f"{bus.realm}x", bus.home)
    bus.subjects.register_root = f"rollcall.{bus.realm}.register"
    async with victim(bus), bus.raw(mine) as raw:
        # What is its own is its own: this test could fail.
        assert not await raw.refuses_publish(bus.subjects.heartbeat("worker.a2"))

        allowed = [
            subject
            for subject in foreign_subjects(bus, other, mine, theirs)
            if not await raw.refuses_publish(subject, b"{}")
        ]

        assert allowed == []


async def test_nothing_may_be_heard_but_what_is_for_everybody_and_for_oneself(bus):
    mine, theirs = bus.agent("a2"), bus.agent("a3")
    at, key = bus.subjects, load_key(theirs).public
    root = f"rollcall.{bus.realm}"
    async with victim(bus), bus.raw(mine) as raw:
        forbidden = [
            *(">", "*", "*.>", "rollcall.>", "rollcall.*.>", f"{root}.>", f"{root}.*", f"{root}.*.*.*", "*.*.beacon"),
            *("rollcall.*.outcome.>", f"{root}.outcome.>", f"{root}.outcome.*.worker.a1", at.outcome(key, ">")),
            *(at.outcome(key, "worker.a1"), f"{root}.*.{load_key(mine).public}.>"),
            *("_INBOX.>", "_INBOX.*", "_INBOX.*.>", f"_INBOX.{key}.>", f"_INBOX.{key}.*", "_INBOX.x", "_R_.>", "_R_.*"),
            *(at.ping("a1"), at.ping("*"), "rollcall.*.ping.*", "rollcall.*.ping.a2", at.policy),
            *(at.rejected("*.*"), at.rejected("worker.*"), at.rejected("worker.a1"), at.rejected(">")),
            *(at.command(verb, "*.*") for verb in ("register", "update", "deregister")),
            *(at.command("register", "worker.a2"), at.hello("*.*"), at.hello("worker.a2")),
            *(at.heartbeat("*.*"), at.heartbeat("worker.a2"), at.heartbeats("*")),
            *(at.discover("*"), at.get("*"), at.list, at.info, at.since, at.history("*"), at.messages("*"), at.asof),
            *(at.message("*"), at.message("a2"), at.operate("*"), at.operate("revoke"), at.peers, at.nonces),
            *("rollcall.*.changes.*.*", "rollcall.*.changes.worker.a1", f"rollcall.{bus.realm}x.changes.*.*"),
            *("$KV.>", at.roll("*.*"), at.roll(">"), at.lease(">"), at.pending(">")),
            *("$JS.>", "$JS.API.>", "$JS.EVENT.>", "$JS.API.STREAM.DELETE.*"),
            *("$SYS.>", "$SYS.ACCOUNT.*.CONNECT", "$SYS.REQ.USER.INFO", "$SRV.>", "$SRV.PING", "$SRV.INFO.rollcall"),
        ]

        allowed = [subject for subject in forbidden if not await raw.refuses_subscribe(subject)]
        questions = (at.discover("*"), at.hello("*.*"), at.list)
        as_a_worker = [subject for subject in questions if not await raw.refuses_subscribe(subject, "rollcall")]

        assert allowed == []
        assert as_a_worker == []
        own = (at.changes("*.*"), at.changes("worker.a1"), at.signs("*.*"), at.beacon, at.roll_call, at.ping("a2"))
        assert [subject for subject in own if await raw.refuses_subscribe(subject)] == []


async def test_an_observer_publishes_nothing_but_questions(bus):
    mine, theirs = bus.observer(), bus.agent("a3")
    other = Guarded(bus.server, bus.authority, f"{bus.realm}x", bus.home)
    bus.subjects.register_root = f"rollcall.{bus.realm}.register"
    at = bus.subjects
    more = [at.command("register", "worker.a2"), at.heartbeat("worker.a2"), at.hello("worker.a2"), at.message("a1")]
    async with victim(bus), bus.raw(mine) as raw:
        subjects = [one for one in foreign_subjects(bus, other, mine, theirs) if not one.startswith("$SRV.")]
        assert [one for one in [*subjects, *more] if not await raw.refuses_publish(one, b"{}")] == []
        heard = [at.outcome(load_key(theirs).public, ">"), "_INBOX.>", at.ping("*"), at.policy, at.messages("*")]
        assert [one for one in heard if not await raw.refuses_subscribe(one)] == []


async def test_what_the_bus_refuses_is_denied_at_once_through_the_sdk(bus):
    async with victim(bus), bus.joined(bus.agent("a2")) as stranger:
        for refused in (
            stranger.register("worker", "a1", mode=rollcall.Mode.TAKEOVER, timeout=LONG),
            stranger.register("boss", "a2", timeout=LONG),
            stranger.register("worker", "*", timeout=LONG),
            stranger.update("worker", "a1", {"name": "evil"}, timeout=LONG),
            stranger.deregister("worker", "a1", timeout=LONG),
            stranger.messages("a1", timeout=LONG),
            stranger.call_roll(timeout=LONG),
            stranger.release_guard(timeout=LONG),
            stranger.approve("a1", timeout=LONG),
            stranger.deny("a1", timeout=LONG),
            stranger.pending(timeout=LONG),
            stranger.revoke(load_key(bus.operator()).public, timeout=LONG),
            stranger.hand_over("worker", "a1", new_key(), timeout=LONG),
        ):
            await denied(refused)
        await denied(_two_beats(stranger, "a1"))
        with pytest.raises(rollcall.Denied):
            async with asyncio.timeout(LONG / 4), stranger.agent("worker", "evil", id="a1"):
                pass
        outcomes = await stranger.register_many(
            [{"role": "worker", "id": "a1"}, {"role": "worker", "id": "a9"}], timeout=LONG
        )
        assert [type(one) for one in outcomes] == [rollcall.Denied] * 2


async def test_a_refusal_concerns_only_what_was_refused(bus):
    async with bus.served(), bus.joined(bus.agent("a1")) as own:
        mine = own.register("worker", "a1", name="x", timeout=LONG)
        others = [own.register("worker", f"b{number}", timeout=LONG) for number in range(5)]

        entry, *refused = await asyncio.gather(mine, *others, own.get("b1"), return_exceptions=True)

        assert entry.name == "x"
        assert [type(one) for one in refused] == [rollcall.Denied] * 5 + [rollcall.NotFound]


async def test_ids_that_differ_only_by_case_are_refused_apart(bus):
    """nats-py tells refusals in small letters."""
    async with bus.served(), bus.joined(bus.agent("a1")) as own:
        entry, refused = await asyncio.gather(
            own.register("worker", "a1", name="x"), own.register("worker", "A1"), return_exceptions=True
        )

        assert isinstance(refused, rollcall.Denied)
        assert not isinstance(entry, RollcallError)


async def test_another_realm_is_neither_read_nor_watched(bus):
    other = Guarded(bus.server, bus.authority, f"{bus.realm}x", bus.home)
    for creds in (bus.agent("a2"), bus.observer(), bus.operator()):
        async with bus.joined(creds, realm=other.realm) as far:
            for refused in (
                far.discover("worker", timeout=LONG),
                far.get("a1", timeout=LONG),
                far.list(timeout=LONG),
                far.history("a1", timeout=LONG),
                far.since(rollcall.Position(), timeout=LONG),
                far.as_of(timeout=LONG),
                far.info(timeout=LONG),
                far.messages("a1", timeout=LONG),
                far.register("worker", "a2", timeout=LONG),
            ):
                await denied(refused)
            await denied(far.watch().open())
            await denied(far.mirror("worker").__aenter__())


async def test_a_body_that_names_another_agent_is_refused(bus):
    async with victim(bus), bus.joined(bus.agent("a2")) as stranger:
        for said in ({"id": "a1"}, {"role": "boss"}, {"id": "a1", "role": "boss"}, {"id": "*"}):
            outcome = await _own_words(bus, stranger, "register", {"name": "evil", **said})
            assert outcome["error"] == "invalid", said
        victims = (await stranger.get("a1")).owner
        assert victims.startswith("nkey:U")
        forged = await _own_words(bus, stranger, "register", {"name": "evil", "owner": victims})
        assert forged["error"] == "invalid"


async def _own_words(bus, registry, verb, body, **headers):
    """A command of a2 with these words, signed by its own key; its outcome."""
    client, _ = registry.bus
    plain = Plain(client, bus.realm)
    plain.token = registry.key
    await client.subscribe(bus.subjects.outcome(registry.key, ">"), cb=plain._hear)
    return await send(plain, _key(bus, registry), f"{verb}.worker.a2", body, **headers)


def _key(bus, registry):
    return load_key(bus.home / f"{registry.key}.creds")


async def test_what_the_registry_says_of_an_agent_nobody_else_says(bus):
    forged = {
        "cause": {"inbox_epoch": "evil", "seq": 1},
        "signature": {"sender": "evil", "payload": "evil", "successor": "evil"},
        "lost_at": "2020-01-01T00:00:00.000Z",
        "registered_seq": 1,
        "registered_at": "2020-01-01T00:00:00.000Z",
        "updated_at": "2020-01-01T00:00:00.000Z",
        "revision": 1,
        "liveness": "lost",
        "last_seen": "2020-01-01T00:00:00.000Z",
        "health": {"cpu_percent": 99},
        "flapping": True,
    }
    headers = {
        "Rollcall-Cause": '{"inbox_epoch":"evil","seq":1}',
        "Rollcall-Change": "expired",
        "Rollcall-Epoch": "evil",
        "Rollcall-Worker": "evil",
        "Rollcall-Reason": "evil",
        "Nats-Sequence": "1",
        "Nats-Time-Stamp": "2020-01-01T00:00:00Z",
        "Nats-Request-Info": '{"acc":"REGISTRY","user":"evil"}',
        "KV-Operation": "DEL",
    }
    async with bus.served() as registry, bus.joined(bus.agent("a2")) as own:
        outcome = await _own_words(bus, own, "register", {"name": "x", **forged}, **headers)

        assert outcome["name"] == "x"
        entry = await registry.get("a2")
        assert entry.owner == f"nkey:{own.key}"
        assert entry.cause.inbox_epoch not in ("", "evil")
        assert json.loads(entry.signature.sender)["user"] == own.key
        assert entry.signature.successor == ""
        assert (entry.lost_at, entry.liveness, entry.health, entry.flapping) == (None, "live", None, False)
        assert min(entry.registered_at, entry.updated_at) > "2026"
        assert [str(change.kind) for change in await registry.history("a2")] == ["registered"]
        for name in ("cause", "signature", "lost_at", "registered_seq", "registered_at", "updated_at"):
            refused = await _own_words(bus, own, "update", {name: 77 if name == "registered_seq" else forged[name]})
            assert refused["error"] == "invalid", name
        assert timeless(await registry.get("a2")) == timeless(entry)


async def test_no_header_of_the_server_reaches_beyond_ones_own_subject(bus):
    """Rollups would take others' commands and messages away."""
    async with victim(bus) as registry, bus.raw(bus.agent("a2")) as raw:
        for rollup in ("all", "sub"):
            for subject in (bus.subjects.command("deregister", "worker.a2"), bus.subjects.message("a1")):
                reply = await raw.client.request(subject, b"{}", timeout=10, headers={"Nats-Rollup": rollup})
                assert "rollup" in json.loads(reply.data)["error"]["description"], (rollup, subject)
        async with bus.joined(bus.agent("a1")) as own:
            assert list(await own.messages("a1")) == []
        assert (await registry.info())["agents"] == 1


async def test_two_users_of_one_agent_are_two_owners(bus):
    """Rights are for the id; whose the agent is, its first registration says."""
    async with victim(bus), bus.joined(bus.agent("a1")) as second:
        with pytest.raises(rollcall.Denied):
            await second.register("worker", "a1", mode=rollcall.Mode.TAKEOVER)
        for refused in (second.update("worker", "a1", {"name": "evil"}), second.deregister("worker", "a1")):
            with pytest.raises(rollcall.Unauthorized):
                await refused


NAMES = {
    "dots": "a.b",
    "a star": "*",
    "a greater-than": ">",
    "a wildcard of tokens": "*.*",
    "a blank inside": "a b",
    "a blank": " ",
    "not ASCII": "é🐟",
    "an escape": "=2A",
    "128 bytes": "x" * 128,
    "128 bytes of escapes": "." * 128,
    "a template": "{{tag(id)}}",
    "quotes": '"a"',
    "slashes": "../a1",
}


@pytest.mark.parametrize("id", NAMES.values(), ids=NAMES)
def test_an_id_gives_rights_for_its_one_token(id, tmp_path):
    authority = Authority(tmp_path)
    authority.prepare("r")
    for role, name in ((id, "a1"), ("worker", id), (id, id)):
        said = _claims(authority.agent("r", role, name).credentials)
        mine = [one for one in said["nats"]["pub"]["allow"] if one.startswith("rollcall.r.register.")]
        assert mine == [f"rollcall.r.register.{token(role)}.{token(name)}"]
        own = re.compile(r"rollcall\.r\.(register|update|deregister|heartbeat|hello|messages|ping|rejected)\.")
        everything = said["nats"]["pub"]["allow"] + said["nats"]["sub"]["allow"]
        assert not [one for one in everything if own.match(one) and re.search(r"[*>{} ]", one)]


def _claims(credentials):
    body = re.search(r"eyJ[\w-]+\.([\w-]+)\.", credentials)[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


async def test_strange_ids_are_agents_like_others_and_no_wildcards(bus):
    async with victim(bus):
        for id in NAMES.values():
            if len(token(id)) > 128:
                continue  # see below
            async with bus.joined(bus.agent(id)) as own:
                assert (await own.register("worker", id, ttl=None)).id == id
                assert (await own.get(id)).owner == f"nkey:{own.key}"
                await denied(own.update("worker", "a1", {"name": "evil"}, timeout=LONG))
                await own.deregister("worker", id)


async def test_the_longest_names_can_sign_in(bus):
    """A user's rights are in its JWT, which goes with the first line of a connection: the server bounds that."""
    longest = Guarded(bus.server, bus.authority, bus.realm.ljust(32, "x"), bus.home)
    async with bus.joined(longest.agent("." * 128, role="x" * 128), realm=longest.realm) as own:
        assert own.connected


async def test_signing_in_asks_for_nothing_that_ones_rights_do_not_allow(bus):
    """Or each command of an observer would begin with a warning."""
    with structlog.testing.capture_logs() as logs:
        for creds in (bus.agent("a1"), bus.observer(), bus.operator()):
            async with bus.joined(creds):
                pass

    assert [one for one in logs if "refuses" in one["event"]] == []


@pytest.mark.parametrize("id", ["", "x" * 129, "a\nb", "\x00"], ids=["empty", "129 bytes", "a line feed", "a zero"])
def test_no_user_is_issued_for_what_cannot_be_an_agent(id, tmp_path):
    authority = Authority(tmp_path)
    authority.prepare("r")
    for role, name in ((id, "a1"), ("worker", id)):
        with pytest.raises(rollcall.Invalid):
            authority.agent("r", role, name)


@pytest.mark.parametrize("realm", ["", "*", ">", "a.b", "a b", "x" * 33])
def test_no_user_is_issued_for_what_cannot_be_a_realm(realm, tmp_path):
    authority = Authority(tmp_path)
    authority.prepare("r")
    for issue in (lambda: authority.agent(realm, "worker", "a1"), lambda: authority.observer(realm)):
        with pytest.raises(rollcall.Invalid):
            issue()
    with pytest.raises(rollcall.Invalid):
        authority.operator(realm)


def test_the_template_gives_the_rights_of_an_agent_and_no_others():
    filled = json.dumps(rights.template("r"))
    for tag, value in (("{{tag(role)}}", "worker"), ("{{tag(id)}}", "a1"), ("{{subject()}}", "UKEY")):
        filled = filled.replace(tag, value)

    assert json.loads(filled) == rights.agent("r", "worker", "a1", "UKEY")


# Who is let in at all.


async def refused_at_the_door(bus, credentials):
    with pytest.raises(rollcall.Unauthorized) as refused:
        async with bus.joined(credentials, timeout=LONG):
            pass
    assert not SEED.search(str(refused.value).encode())


async def test_without_credentials_nobody_is_let_in(bus):
    await refused_at_the_door(bus, None)
    for login in ("agent:@", "agent:agent@", "operator:@"):
        with pytest.raises(rollcall.Unauthorized):
            async with rollcall.connect(bus.url.replace("//", f"//{login}"), realm=bus.realm, timeout=LONG):
                pass
    for seed in (bus.server.worker_seed, new_key().seed):
        with pytest.raises(rollcall.Unauthorized):
            async with connected(bus.url, name="test", nkey_seed=seed, timeout=LONG):
                pass


def forged(bus, change, *, by=None):
    """Good credentials of an agent with other claims; signed `by` a key, or with the signature of the good ones."""
    key = new_key()
    good = bus.authority.agent(bus.realm, "worker", "a2", key=key).credentials
    jwt = re.search(r"eyJ[\w.-]+", good)[0]
    head, _, signature = jwt.split(".")
    said = _claims(good)
    said = change(said) or said
    if by is None:
        body = base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=").decode()
        jwt = f"{head}.{body}.{signature}"
    else:
        jwt = claims.issue(by, subject=said["sub"], name="x", nats=said["nats"], at=int(time.time()))
    path = bus.home / f"forged-{next(_numbers)}.creds"
    path.write_text(claims.credentials(jwt, key))
    path.chmod(0o600)
    return path


def more_rights(said):
    said["nats"]["pub"] = {"allow": [">"]}
    said["nats"]["sub"] = {"allow": [">"]}


def of_the_workers(bus):
    def change(said):
        said["nats"]["issuer_account"] = key_of(_seed(bus, "registry.nk")).public
        said["iss"] = said["nats"]["issuer_account"]

    return change


def _seed(bus, name):
    return bus.authority.path(name).read_text().strip()


async def test_credentials_that_somebody_else_made_or_changed_are_refused(bus, tmp_path):
    elsewhere = Authority(tmp_path / "elsewhere")
    elsewhere.prepare(bus.realm)
    others = (
        elsewhere.agent(bus.realm, "worker", "a2"),
        elsewhere.operator(bus.realm),
        elsewhere.worker(),
        elsewhere.observer(bus.realm),
    )
    key, account = new_key(), new_key(ACCOUNT)

    def later(said):
        said["exp"] = int(time.time()) + 3600

    def itself(said):
        said["iss"] = said["sub"]

    def another(said):
        said["sub"] = new_key().public

    bad = [
        *(bus.file(one) for one in others),
        forged(bus, more_rights),
        forged(bus, later),
        forged(bus, another),
        forged(bus, of_the_workers(bus)),
        forged(bus, itself),
        forged(bus, lambda said: None, by=key),
        forged(bus, lambda said: None, by=account),
        forged(bus, more_rights, by=account),
        forged(bus, of_the_workers(bus), by=account),
    ]
    stolen = bus.home / "stolen.creds"
    good = bus.authority.agent(bus.realm, "worker", "a2")
    jwt = re.search(r"eyJ[\w.-]+", good.credentials)[0]
    stolen.write_text(claims.credentials(jwt, new_key()))
    stolen.chmod(0o600)

    for credentials in [*bad, stolen]:
        await refused_at_the_door(bus, credentials)
    async with bus.joined(bus.file(good)):
        pass  # and what was not changed is let in


async def test_a_key_that_only_signs_agents_cannot_sign_workers(bus):
    """The account of the agents is one of three: its key says nothing about the others."""
    agents = key_of(_seed(bus, "agents.nk"))
    assert load_key(bus.authority.path("agents.nk")) == agents

    await refused_at_the_door(bus, forged(bus, of_the_workers(bus), by=agents))


async def test_credentials_end_when_they_said_they_would(bus):
    creds = bus.agent("a1", lasts=2)
    expires = _claims(creds.read_text())["exp"]
    async with bus.served(), bus.joined(creds) as own:
        await own.register("worker", "a1")

        async def ended():
            try:
                await own.info(timeout=1)
            except rollcall.Unauthorized as error:
                return error
            except rollcall.Unavailable:
                return None  # the connection ends in this moment
            return None

        error = await eventually(ended)
        assert "expired" in str(error)
        with pytest.raises(rollcall.Unauthorized):
            await own.register("worker", "a1", timeout=LONG)
        # In the very second of the end the server still opens the door, and closes it at once.
        await eventually(lambda: time.time() > expires + 1)
        await refused_at_the_door(bus, creds)


async def test_a_revoked_user_is_put_out_at_once_and_not_let_in_again(bus):
    creds, others = bus.agent("a1"), bus.agent("a2")
    async with bus.served() as registry, bus.joined(creds) as own, bus.joined(others) as other:
        await own.register("worker", "a1", ttl=None)
        bus.authority.revoke(load_key(creds).public)
        assert own.connected
        await update_accounts(bus.authority, bus.url, None)

        await eventually(lambda: not own.connected)
        await refused_at_the_door(bus, creds)
        assert (await other.register("worker", "a2")).id == "a2"
        assert (await registry.get("a1")).id == "a1"


async def test_a_revoked_user_hears_that_it_was_not_that_nobody_answers(bus):
    creds = bus.agent("a1")
    async with bus.served(), bus.joined(creds) as own:
        bus.authority.revoke(load_key(creds).public)
        await update_accounts(bus.authority, bus.url, None)
        await eventually(lambda: not own.connected)

        with pytest.raises(rollcall.Unauthorized):
            await own.info(timeout=2)


async def test_only_the_system_account_changes_who_is_let_in(bus):
    public, jwt = bus.authority.account_jwt("AGENTS")
    for creds in (bus.agent("a1"), bus.operator()):
        async with bus.raw(creds) as raw:
            for subject in (f"$SYS.REQ.ACCOUNT.{public}.CLAIMS.UPDATE", "$SYS.REQ.CLAIMS.UPDATE"):
                assert await raw.refuses_publish(subject, jwt.encode())


# One key in two processes.


async def test_two_processes_with_one_key_hear_their_own_outcomes(bus):
    creds = bus.agent("a1")
    async with bus.served(), bus.joined(creds) as one, bus.joined(creds) as two:
        await one.register("worker", "a1", incarnation=5, ttl=None)

        async def said(registry, word):
            return [
                (await registry.update("worker", "a1", {"description": f"{word}{n}"})).description for n in range(20)
            ]

        assert await asyncio.gather(said(one, "one"), said(two, "two")) == [
            [f"one{n}" for n in range(20)],
            [f"two{n}" for n in range(20)],
        ]


async def test_two_processes_with_one_key_follow_the_rule_of_incarnations(bus):
    creds = bus.agent("a1")
    async with bus.served() as registry, bus.joined(creds) as one, bus.joined(creds) as two:
        async with one.agent("worker", "first", id="a1", ttl=5, incarnation=5) as first:
            with pytest.raises(rollcall.Conflict):
                await two.register("worker", "a1", incarnation=4)
            async with two.agent("worker", "second", id="a1", ttl=5, incarnation=6):
                first.beating.hello_due = 0.0  # as within the next minute
                async with asyncio.timeout(LONG):
                    await first.superseded.wait()
                with pytest.raises(rollcall.Conflict):
                    await first.update(description="late")
                assert (await registry.get("a1")).name == "second"
        assert ids(await registry.list()) == []


# What is told of it all.


async def test_refused_signatures_are_counted_and_told_by_metrics(bus):
    operator = bus.operator()
    creds = bus.agent("a1")
    mine, subject, body = load_key(creds), bus.subjects.command("register", "worker.a1"), b'{"name":"x"}'
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(bus.served())
        own = await stack.enter_async_context(bus.joined(creds))
        client, _ = own.bus
        for sender in (
            header(new_key(), subject, body, user=mine.public),
            header(mine, subject, b"other"),
            header(mine, bus.subjects.command("register", "worker.a2"), body),
            header(mine, subject, body, ago=60),
            "{",
        ):
            await client.publish(subject, body, headers={"Agent-Sender": sender})

        async def counted():
            return (await registry.info())["counts"]["signatures"]

        wanted = {"forged": 3, "late": 1, "malformed": 1}
        await eventually(lambda: _is(counted, wanted))
        assert ids(await registry.list()) == []
        listeners = [Listener("127.0.0.1", 0)]
        face = serving_face(bus.url, bus.realm, listeners, FaceSettings(), {"credentials": operator})
        found = await stack.enter_async_context(face)
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=found[0].url, timeout=20))
        page = (await http.get("/metrics")).text
        told = {
            sample.labels["result"]: sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "rollcall_signatures_total" and sample.labels["worker"] == "w1"
        }
        assert {what: told.get(what) for what in wanted} == wanted


async def _is(ask, wanted):
    return await ask() == wanted


async def test_no_seed_is_told_anywhere(bus, capfd):
    """Refused, let in, put out, thrown: whatever was said of all that, and whatever was kept, holds no secret."""
    creds, other = bus.agent("a1"), bus.agent("a2")
    with structlog.testing.capture_logs() as logs:
        async with bus.served(), bus.joined(creds) as own, bus.joined(other) as stranger:
            await own.register("worker", "a1", ttl=None)
            for refused in (stranger.update("worker", "a1", {"name": "x"}), own.update("worker", "a1", {"ttl": -1})):
                with pytest.raises(RollcallError) as error:
                    await refused
                assert not SEED.search(repr(error.value).encode() + str(error.value.details).encode())
            told = json.dumps([await own.info(), [str(one) for one in await own.history("a1")]])
            assert not SEED.search(told.encode())
            processes = b"".join(
                path.read_bytes() for path in Path("/proc").glob(f"{bus.server.process.pid}/[ce][mn][dv]*")
            )
            assert b"nats-server" in processes
            assert not SEED.search(processes)
            with pytest.raises(rollcall.Misconfigured) as error:
                creds.chmod(0o644)
                async with bus.joined(creds):
                    pass
            assert not SEED.search(str(error.value).encode())
    assert not SEED.search(repr(logs).encode())
    assert not SEED.search("".join(capfd.readouterr()).encode())
    home = bus.authority.path("").parent
    secret = {"operator.nk", "sys.nk", "registry.nk", "agents.nk", "worker.nk", "system.nk"}
    kept = [path for path in home.rglob("*") if path.is_file() and path.name not in secret and path.suffix != ".creds"]
    assert {"nats-server.conf", "nats-server.log", f"{bus.realm}.operators"} <= {path.name for path in kept}
    snapshots = list(bus.home.glob("*.db*"))
    assert snapshots
    assert [path for path in [*kept, *snapshots] if SEED.search(path.read_bytes())] == []


async def test_everything_that_an_authority_keeps_is_for_its_owner_only(bus):
    directory = bus.authority.path("")
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o077 for path in directory.iterdir() if path.stat().st_mode & 0o077} == {}
    assert (directory.parent / "nats-server.conf").stat().st_mode & 0o077 == 0


async def test_streams_are_out_of_reach_for_everybody_but_workers(bus):
    """A stream of JetStream answers to its own account: agents have none."""
    async with bus.served():
        for creds in (bus.agent("a2"), bus.observer(), bus.operator()):
            async with bus.raw(creds) as raw:
                for what in ("INFO", "DELETE", "PURGE"):
                    assert await raw.refuses_publish(f"$JS.API.STREAM.{what}.{bus.subjects.roll_stream}")
        async with bus.worker_connection() as inside:
            told = await streams.request(inside, f"STREAM.INFO.{bus.subjects.roll_stream}")
            assert told["config"]["name"] == bus.subjects.roll_stream
