"""Whatever comes, it gets a typed error, changes nothing, and never stops the inbox."""

import json

import pytest
from structlog.testing import capture_logs

from rollcall.bus.connection import barrier
from tests.bus.plain import plain
from tests.conftest import eventually

DEEP = b'{"name": "x", "metadata": ' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}"
DEEPEST = b'{"name": "x", "metadata": {"a": ' + b"[" * 15000 + b"]" * 15000 + b"}}"

BODIES = {
    "not JSON": (b"hello", "invalid"),
    "nothing": (b"", "invalid"),
    "not an object": (b"[1]", "invalid"),
    "missing name": (b"{}", "invalid"),
    "wrong type": (b'{"name": 5}', "invalid"),
    "wrong type inside": (b'{"name": "x", "capabilities": {"ocr": true}}', "invalid"),
    "unknown status": (b'{"name": "x", "status": "asleep"}', "invalid"),
    "deep nesting": (DEEP, "invalid"),
    "deepest nesting": (DEEPEST, "invalid"),
    "invalid UTF-8": (b'{"name": "\xff\xfe"}', "invalid"),
    "NaN": (b'{"name": "x", "ttl": NaN}', "invalid"),
    "infinite": (b'{"name": "x", "ttl": 1e999}', "invalid"),
    "ttl of nothing": (b'{"name": "x", "ttl": 0}', "invalid"),
    "other id in the body": (b'{"name": "x", "id": "somebody"}', "invalid"),
    "other role in the body": (b'{"name": "x", "role": "somebody"}', "invalid"),
    "too many capabilities": (json.dumps({"name": "x", "capabilities": ["c"] * 257}).encode(), "invalid"),
    "too large": (b'{"name": "x", "metadata": {"a": "' + b"y" * 65_600 + b'"}}', "too_large"),
    "owned by a key": (b'{"name": "x", "owner": "nkey:UABC"}', "unauthorized"),
}


@pytest.mark.parametrize("what", BODIES)
async def test_a_bad_body_is_refused_and_nothing_changes(bus, what):
    payload, code = BODIES[what]
    async with bus.served(), plain(bus) as client:
        outcome = await client.ask("register.worker.a1", payload)

        assert outcome["error"] == code
        assert outcome["message"]
        assert [refusal["error"] for refusal in client.rejected()] == [code]
        assert (await client.ask("register.worker.next", {"name": "ok"}))["revision"] == 1
        assert client.changes() == ["registered"]


@pytest.mark.parametrize(
    "subject",
    [
        "register.wor=2fker.a1",
        "register.worker.=41",
        "register.worker.*",
        "register.*.>",
        "register.>.a1",
        "register.worker.a=0A",
        "register.worker.=FF",
        "register.worker." + "x" * 129,
        "update.worker.=2e",
        "deregister.=.a1",
    ],
)
async def test_a_bad_token_is_refused_under_a_name_that_nobody_has(bus, subject):
    async with bus.served(), plain(bus) as client:
        client.client._skip_subject_validation = True  # what a careless or hostile client does
        outcome = await client.ask(subject, {"name": "x"})

        assert outcome["error"] == "invalid"
        assert outcome["subject"].endswith(".=.=")
        assert (await client.ask("register.worker.a1", {"name": "ok"}))["revision"] == 1


async def test_commands_that_cannot_happen_say_why(bus):
    async with bus.served(), plain(bus) as client:
        assert (await client.ask("update.worker.a1", {"name": "x"}))["error"] == "not_found"
        assert (await client.ask("deregister.worker.a1"))["error"] == "not_found"

        entry = await client.ask("register.worker.a1", {"name": "x", "incarnation": 5})
        assert (await client.ask("register.worker.a1", {"name": "x", "incarnation": 6}))["error"] == "conflict"
        assert (await client.ask("register.scout.a1", {"name": "x", "incarnation": 5}))["error"] == "conflict"
        stale = await client.ask("update.worker.a1", {"name": "y"}, expected_revision=str(entry["revision"] + 1))
        assert (stale["error"], stale["revision"]) == ("conflict", entry["revision"])
        for patch in ({"capabilities": ["c"] * 257}, {"name": None}, {"owner": "me"}, {"id": "a2"}):
            assert (await client.ask("update.worker.a1", patch))["error"] == "invalid"
        assert (await client.ask("update.worker.a1", {"metadata": {"a": "y" * 64_000, "b": "z" * 2_000}}))[
            "error"
        ] == "too_large"
        assert (await client.ask("deregister.worker.a1", incarnation="4"))["error"] == "conflict"
        assert (await client.ask("deregister.worker.a1", b"[]"))["error"] == "invalid"
        assert (await client.ask("deregister.worker.a1", {"reason": 5}))["error"] == "invalid"
        assert (await client.ask("register.worker.a1", {"name": "x"}, mode="steal"))["error"] == "invalid"
        assert (await client.ask("update.worker.a1", {}, expected_revision="soon"))["error"] == "invalid"

        assert (await client.question("get.a1"))["revision"] == entry["revision"]
        assert (await client.ask("deregister.worker.a1"))["revision"] == entry["revision"] + 1
        assert (await client.ask("deregister.worker.a1"))["error"] == "not_found"


async def test_a_beat_that_renews_nothing_is_told_to_everybody(bus):
    async with bus.served(), plain(bus) as client:
        await client.send("heartbeat.worker.nobody")
        refusal = await eventually(lambda: next(iter(client.rejected()), None))
        assert (refusal["error"], refusal["command"]) == ("not_found", "heartbeat")

        await client.ask("register.worker.a1", {"name": "x", "incarnation": 5})
        client.heard.clear()
        for payload in (b"hello", b'{"cpu_percent": "much"}', b'{"incarnation": -1}', b"\xff", b"x" * 5000):
            await client.send("heartbeat.worker.a1", payload)
        await eventually(lambda: [r for r in client.rejected() if r["error"] == "invalid"])
        client.heard.clear()
        await client.send("heartbeats.somewhere", b"nonsense")
        await client.send("heartbeats.somewhere", b'[["worker.a1", 5], ["no key", 1]]')
        assert (await client.question("get.a1"))["liveness"] == "live"
        assert client.changes() == []


async def test_bad_questions_are_answered_with_their_error(bus):
    async with bus.served(), plain(bus) as client:
        for subject, body in [
            ("discover.worker", b"not json"),
            ("discover.worker", {"status": ["asleep"]}),
            ("discover.worker", {"include": ["dead"]}),
            ("discover.worker", {"version": "about two"}),
            ("discover.worker", {"limit": 0}),
            ("discover.worker", {"limit": 100_000}),
            ("discover.worker", {"cursor": "nonsense"}),
            ("discover.worker", {"at_least": "soon"}),
            ("discover.wor=2fker", b""),
            ("get.=41", b""),
            ("list", b"[]"),
            ("since", {"revision": "x"}),
            ("since", {"limit": 5000}),
            ("history.a1", {"limit": 0}),
        ]:
            answer = await client.question(subject, body)
            assert answer["error"] == "invalid", (subject, body, answer)
        assert (await client.question("discover.worker"))["count"] == 0


async def test_nonsense_in_combined_beats_is_told_once_a_second(bus):
    with capture_logs() as logs:
        async with bus.served() as registry, bus.agent_connection() as attacker:
            for _ in range(5000):
                await attacker.publish(f"rollcall.{bus.realm}.heartbeats.h", b"{")
            await barrier(attacker)
            await registry.info()

    assert 1 <= sum(log["event"] == "combined beats cannot be read" for log in logs) < 5


async def test_a_loop_that_stands_still_longer_than_any_ttl_is_refused(bus):
    async with bus.served() as registry, plain(bus) as client:
        await registry.register("worker", "a", ttl=None)

        await client.send("heartbeat.worker.a", {"loop_lag": 1e308})

        await eventually(client.rejected)
        assert (await registry.get("a")).liveness == "live"
