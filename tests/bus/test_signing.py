"""Signed commands: an agent belongs to the key that registered it, and every way around that is refused."""

import json
import time

import pytest

import rollcall
from rollcall.bus import streams
from rollcall.identity.keys import new_key
from rollcall.identity.proofs import Validity, proofs
from rollcall.worker.identity import IdentitySettings
from tests.bus.plain import plain
from tests.bus.signing import header, raw, send
from tests.conftest import eventually

REQUIRED = IdentitySettings(signatures="required")


async def test_who_registers_signed_owns_the_agent_from_then_on(bus):
    mine, other = new_key(), new_key()
    async with bus.served(), plain(bus) as client:
        entry = await send(client, mine, "register.worker.a1", {"name": "x"})
        assert entry["owner"] == f"nkey:{mine.public}"

        assert (await client.ask("update.worker.a1", {"name": "y"}))["error"] == "unauthorized"
        assert (await send(client, other, "update.worker.a1", {"name": "y"}))["error"] == "unauthorized"
        assert (await client.ask("deregister.worker.a1"))["error"] == "unauthorized"
        assert (await send(client, other, "deregister.worker.a1"))["error"] == "unauthorized"
        assert (await client.ask("register.worker.a1", {"name": "y", "incarnation": 9}))["error"] == "denied"
        taken = await send(client, other, "register.worker.a1", {"name": "y"}, **{"Rollcall-Mode": "takeover"})
        assert taken["error"] == "denied"

        assert (await send(client, mine, "update.worker.a1", {"name": "z"}))["name"] == "z"
        assert (await send(client, mine, "deregister.worker.a1"))["id"] == "a1"


async def test_owner_in_a_body_is_no_proof(bus):
    mine, other = new_key(), new_key()
    async with bus.served(), plain(bus) as client:
        forged = {"name": "x", "owner": f"nkey:{mine.public}"}
        assert (await client.ask("register.worker.a1", forged))["error"] == "unauthorized"
        assert (await send(client, other, "register.worker.a1", forged))["error"] == "invalid"
        assert (await send(client, mine, "register.worker.a1", forged))["owner"] == forged["owner"]
        patch = {"owner": f"nkey:{other.public}"}
        assert (await send(client, mine, "update.worker.a1", patch))["error"] == "invalid"


async def test_a_command_counts_once_in_its_time_and_for_its_subject_and_body(bus):
    mine = new_key()
    async with bus.served() as registry, plain(bus) as client:
        subject, body = f"{client.root}.register.worker.a1", b'{"name":"x"}'
        said = header(mine, subject, body)
        assert (await raw(client, subject, body, said))["name"] == "x"

        refusals = {
            "replayed": await raw(client, subject, body, said),
            "another body": await raw(client, subject, b'{"name":"y"}', header(mine, subject, body)),
            "another subject": await raw(
                client, f"{client.root}.register.worker.a2", body, header(mine, subject, body)
            ),
            "old": await raw(client, subject, body, header(mine, subject, body, ago=31)),
            "of the future": await raw(client, subject, body, header(mine, subject, body, ago=-40)),
            "no signature of it": await raw(client, subject, body, header(mine, subject, body, sig="A" * 86)),
            "of another key": await raw(client, subject, body, header(mine, subject, body, user=new_key().public)),
        }
        assert {what: answer.get("error") for what, answer in refusals.items()} == dict.fromkeys(
            refusals, "unauthorized"
        )
        assert (await raw(client, subject, body, "{"))["error"] == "invalid"
        assert (await raw(client, subject, body, header(mine, subject, body, nonce="a b")))["error"] == "invalid"
        counted = (await registry.info())["counts"]["signatures"]
        assert counted == {"verified": 1, "replayed": 1, "forged": 4, "late": 2, "malformed": 2}


async def test_a_header_of_an_unknown_version_or_without_a_signature_proves_nothing(bus):
    mine = new_key()
    async with bus.served(), plain(bus) as client:
        claim = json.dumps({"v": 1, "account": "A", "user": mine.public})
        assert (await send(client, mine, "register.worker.a1", {"name": "x"}, sender=claim)).get("owner") is None
        newer = header(mine, f"{client.root}.register.worker.a2", b"{}").replace('"v":1', '"v":2')
        assert (await send(client, mine, "register.worker.a2", {"name": "x"}, sender=newer)).get("owner") is None


async def test_a_stripped_signature_is_a_downgrade_and_refused(bus):
    mine = new_key()
    async with bus.served(identity=REQUIRED), plain(bus) as client:
        answer = await client.ask("register.worker.a1", {"name": "x"})
        assert (answer["error"], "rollcall keys new" in answer["message"]) == ("unauthorized", True)
        assert (await send(client, mine, "register.worker.a1", {"name": "x"}))["name"] == "x"


async def test_a_replay_is_refused_by_the_worker_that_leads_next(bus):
    mine = new_key()
    async with bus.registry() as registry, plain(bus) as client:
        first = bus.worker("w1")
        await first.__aenter__()
        subject, body = f"{client.root}.register.worker.a1", b'{"name":"x"}'
        accepted = header(mine, subject, body)
        unchanged = header(mine, subject, body)
        refused = header(mine, f"{client.root}.update.worker.none", b"{}")
        async with bus.worker("w2"):
            await raw(client, subject, body, accepted)
            await raw(client, subject, body, unchanged)
            assert (await raw(client, f"{client.root}.update.worker.none", b"{}", refused))["error"] == "not_found"
            await first.__aexit__(None, None, None)

            async def second_leads():
                return (await registry.info())["leader"] == "w2"

            await eventually(second_leads)
            for sent in (accepted, unchanged):
                assert "used before" in (await raw(client, subject, body, sent))["message"]
            again = await raw(client, f"{client.root}.update.worker.none", b"{}", refused)
            assert "used before" in again["message"]


async def test_what_was_signed_earlier_does_not_undo_what_came_later(bus):
    mine = new_key()
    async with bus.served(), plain(bus) as client:
        await send(client, mine, "register.worker.a1", {"name": "x"})
        subject, body = f"{client.root}.update.worker.a1", b'{"name":"old"}'
        early = header(mine, subject, body, ago=5)

        late = await raw(client, subject, body, early)

        assert (late["error"], "sign it anew" in late["message"]) == ("unauthorized", True)


async def test_an_agent_is_handed_over_when_both_keys_say_so(bus):
    mine, new = new_key(), new_key()
    async with bus.served() as anybody:
        async with rollcall.connect(bus.url, realm=bus.realm, key=mine) as registry:
            await registry.register("worker", "a1", name="x")
            entry = await registry.hand_over("worker", "a1", new)
            assert entry.owner == f"nkey:{new.public}"
            with pytest.raises(rollcall.Unauthorized):
                await registry.update("worker", "a1", {"name": "y"})
        async with rollcall.connect(bus.url, realm=bus.realm, key=new) as registry:
            await registry.update("worker", "a1", {"name": "z"})
        changes = await anybody.history("a1")
        assert [change.reason for change in changes] == ["", f"handed over to {new.public}", ""]
        assert {one.validity for one in proofs(changes)} == {Validity.VALID}


async def test_a_hand_over_that_the_new_key_did_not_sign_is_refused(bus):
    mine, new = new_key(), new_key()
    async with bus.served(), plain(bus) as client:
        await send(client, mine, "register.worker.a1", {"name": "x"})
        subject = f"{client.root}.update.worker.a1"
        body = json.dumps({"owner": f"nkey:{new.public}"}).encode()
        other = header(new, subject, b"another body")
        answer = await send(client, mine, "update.worker.a1", body, **{"Rollcall-Successor": other})
        assert answer["error"] == "unauthorized"
        stranger = header(new_key(), subject, body)
        answer = await send(client, mine, "update.worker.a1", body, **{"Rollcall-Successor": stranger})
        assert answer["error"] == "invalid"


async def test_beats_of_an_owned_agent_need_a_proof_now_and_then(bus):
    mine, other = new_key(), new_key()
    async with bus.worker() as worker, bus.registry() as registry, plain(bus) as client:
        await send(client, mine, "register.worker.a1", {"name": "x"})
        subject = f"{client.root}.heartbeat.worker.a1"

        async def seen():
            return (await registry.get("a1")).last_seen

        lease = worker._roster.leases["worker.a1"]
        lease.proved_until = 0.0
        before = await seen()
        for headers in ({}, {"Agent-Sender": header(other, subject, b"")}):
            client.heard.clear()

            async def refused(headers=headers):
                # Refusals of beats are told once a second for an agent.
                await client.client.publish(subject, b"", headers=headers)
                return [one["error"] for one in client.rejected()]

            assert set(await eventually(refused)) == {"unauthorized"}
        assert await seen() == before

        await client.client.publish(subject, b"", headers={"Agent-Sender": header(mine, subject, b"")})
        await eventually(lambda: lease.proved_until > 0)
        assert await seen() > before

        await client.client.publish(subject, b'{"cpu_percent":99}')
        await client.client.publish(
            subject, b'{"cpu_percent":7}', headers={"Agent-Sender": header(mine, subject, b'{"cpu_percent":7}')}
        )

        async def feels():
            health = (await registry.get("a1")).health
            return health is not None and health.cpu_percent

        assert await eventually(feels) == 7


async def test_a_hello_for_an_owned_agent_has_to_be_signed(bus):
    mine = new_key()
    async with bus.served(), plain(bus) as client:
        await send(client, mine, "register.worker.a1", {"name": "x"})
        assert (await client.question("hello.worker.a1"))["error"] == "unauthorized"
        subject = f"{client.root}.hello.worker.a1"
        reply = await client.client.request(
            subject, b"", timeout=5, headers={"Agent-Sender": header(mine, subject, b"")}
        )
        assert json.loads(reply.data)["known"]


async def test_an_agent_of_the_sdk_signs_whatever_it_says(bus):
    mine = new_key()
    async with bus.served(identity=REQUIRED) as anybody:
        async with (
            rollcall.connect(bus.url, realm=bus.realm) as registry,
            registry.agent("worker", "x", id="a1", key=mine, ttl=5) as agent,
        ):
            assert agent.entry.owner == f"nkey:{mine.public}"
            await agent.update(labels={"zone": "b"})
            agent.feel(cpu_percent=12.5)

            async def feels():
                health = (await anybody.get("a1")).health
                return health is not None and health.cpu_percent == 12.5

            await eventually(feels)
        changes = await anybody.history("a1")
        assert [one.validity for one in proofs(changes)] == [Validity.VALID] * 3


async def test_the_same_key_in_two_processes_follows_the_rule_of_incarnations(bus):
    mine = new_key()
    async with bus.served(), plain(bus) as client:
        await send(client, mine, "register.worker.a1", {"name": "x", "incarnation": 5})
        assert (await send(client, mine, "register.worker.a1", {"name": "x", "incarnation": 4}))["error"] == "conflict"
        newer = await send(client, mine, "register.worker.a1", {"name": "x", "incarnation": 6})
        assert newer["incarnation"] == 6


async def test_a_revoked_key_says_nothing_any_more(bus):
    mine, operator = new_key(), new_key()
    identity = IdentitySettings(operators=frozenset({operator.public}))
    async with bus.served(identity=identity), plain(bus) as client:
        await send(client, mine, "register.worker.a1", {"name": "x"})
        async with rollcall.connect(bus.url, realm=bus.realm, key=new_key()) as stranger:
            with pytest.raises(rollcall.Unauthorized):
                await stranger.revoke(mine.public)
        async with rollcall.connect(bus.url, realm=bus.realm, key=operator) as registry:
            assert list(await registry.revoke(mine.public)) == [mine.public]
            answer = await send(client, mine, "update.worker.a1", {"name": "y"})
            assert (answer["error"], "revoked" in answer["message"]) == ("unauthorized", True)
            assert (await registry.update("worker", "a1", {"name": "z"})).name == "z"
        async with bus.worker("w2") as second:
            await eventually(lambda: mine.public in second._identity.revoked)


async def test_a_key_may_revoke_itself(bus):
    mine, operator = new_key(), new_key()
    async with bus.served(identity=IdentitySettings(operators=frozenset({operator.public}))):
        async with rollcall.connect(bus.url, realm=bus.realm, key=mine) as registry:
            with pytest.raises(rollcall.NotFound):
                await registry.revoke(mine.public)
            await registry.register("worker", "a1")
            assert list(await registry.revoke(mine.public)) == [mine.public]


async def test_revoked_keys_survive_the_loss_of_the_leases_bucket(bus):
    mine = new_key()
    async with bus.served(), rollcall.connect(bus.url, realm=bus.realm, key=mine) as registry:
        await registry.register("worker", "a1")
        await registry.revoke(mine.public)
    async with bus.worker_connection() as inside:
        await streams.request(inside, f"STREAM.DELETE.{bus.subjects.leases_stream}")

    async with bus.served(), plain(bus) as client:
        answer = await send(client, mine, "update.worker.a1", {"name": "y"})
        assert (answer["error"], "revoked" in answer["message"]) == ("unauthorized", True)


async def test_a_replay_that_waits_while_no_worker_is_there_is_refused(bus):
    mine, now = new_key(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    async with plain(bus) as client:
        subject, body = f"{client.root}.register.worker.a1", b'{"name":"x"}'
        taken = header(mine, subject, body, ts=now)
        refused = header(mine, f"{client.root}.update.worker.a1", b'{"name":"y"}', ts=now)
        async with bus.worker():
            await raw(client, subject, body, taken)
            late = await raw(
                client,
                f"{client.root}.update.worker.a1",
                b'{"name":"y"}',
                refused,
                **{"Rollcall-Expected-Revision": "99"},
            )
            assert late["error"] == "conflict"
            goodbye = header(mine, f"{client.root}.deregister.worker.a1", b"", ts=now)
            await raw(client, f"{client.root}.deregister.worker.a1", b"", goodbye)
            again = header(mine, subject, b'{"name":"z"}', ts=now)
            await raw(client, subject, b'{"name":"z"}', again)

        replays = [
            (subject, body, taken),
            (f"{client.root}.update.worker.a1", b'{"name":"y"}', refused),
        ]
        for to, said, sender in replays:
            name = {"Rollcall-Client": client.token, "Rollcall-Command": sender[-8:], "Agent-Sender": sender}
            await client.client.publish(to, said, headers=name)
        await client.client.flush()
        async with bus.worker():
            for _, _, sender in replays:
                assert "used before" in (await client.outcome(sender[-8:]))["message"]
            assert (await client.question("get.a1"))["name"] == "z"


async def test_where_there_are_operators_only_they_operate(bus):
    operator = new_key()
    async with bus.served(identity=IdentitySettings(operators=frozenset({operator.public}))) as anybody:
        for refused in (anybody.release_guard(), anybody.call_roll(), anybody.approve("a"), anybody.deny("a")):
            with pytest.raises(rollcall.Unauthorized):
                await refused
        async with rollcall.connect(bus.url, realm=bus.realm, key=operator) as registry:
            assert (await registry.release_guard())["released"] is False
