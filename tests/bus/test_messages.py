"""Messages between agents: the newest hundred of each, for a day, or until it leaves."""

import asyncio
import json
import re
import time
from typing import Any

import pytest

import rollcall
from rollcall import Invalid, TooLarge, Unavailable
from rollcall.bus.connection import barrier
from rollcall.core import limits
from rollcall.core.instants import instant
from tests.bus.plain import plain
from tests.conftest import Bus, eventually, leads


async def contents(registry: rollcall.Registry, id: str) -> list[str]:
    return [message.content for message in await registry.messages(id)]


async def _are(registry: rollcall.Registry, id: str, wanted: list[str]) -> bool:
    return await contents(registry, id) == wanted


async def test_a_message_arrives_as_it_was_sent(bus: Bus):
    async with bus.served() as registry, bus.registry() as reader:
        await registry.register("worker", "w1")
        sent = await registry.send_message("w1", type="task", content="do it", data={"n": [1, None, "ü"]})

        assert list(await reader.messages("w1")) == [sent]
        assert (sent.to, sent.type, sent.content, sent.data) == ("w1", "task", "do it", {"n": [1, None, "ü"]})
        assert re.fullmatch(r"[0-9a-f]{12}", sent.id)
        assert abs(instant(sent.timestamp) / 1000 - time.time()) < 10


async def test_what_is_not_said_is_empty(bus: Bus):
    async with bus.served() as registry:
        await registry.send_message("w1")

        message = (await registry.messages("w1"))[0]
        assert (message.type, message.content, message.data) == ("", "", None)


async def test_reading_takes_no_message_away(bus: Bus):
    async with bus.served() as registry:
        await registry.send_message("w1", content="x")
        for _ in range(3):
            assert await contents(registry, "w1") == ["x"]


async def test_the_newest_hundred_are_kept_newest_first(bus: Bus):
    async with bus.served() as registry:
        for number in range(120):
            await registry.send_message("w1", content=str(number))
        await registry.send_message("w2", content="other")

        assert await contents(registry, "w1") == [str(number) for number in range(119, 19, -1)]
        assert [one.content for one in await registry.messages("w1", limit=3)] == ["119", "118", "117"]
        assert await contents(registry, "w2") == ["other"]


async def test_an_agent_that_nobody_knows_may_be_written_to(bus: Bus):
    async with bus.served() as registry:
        assert await contents(registry, "nobody") == []
        await registry.send_message("nobody", content="are you there?")
        assert await contents(registry, "nobody") == ["are you there?"]

        await registry.register("worker", "nobody")
        assert await contents(registry, "nobody") == ["are you there?"]


async def test_any_id_can_be_written_to(bus: Bus):
    async with bus.served() as registry:
        for id in ("a/b.c", "ü *>", "x" * limits.NAME_BYTES, "ü" * (limits.NAME_BYTES // 2), "."):
            sent = await registry.send_message(id, content="x")
            assert sent.to == id
            assert list(await registry.messages(id)) == [sent]


async def test_an_id_that_names_nobody_is_refused(bus: Bus):
    async with bus.served() as registry:
        for id in ("", "x" * (limits.NAME_BYTES + 1), "a\nb"):
            for answer in (registry.send_message(id), registry.messages(id)):
                with pytest.raises(Invalid):
                    await answer


async def test_a_message_that_is_too_large_is_refused_and_one_just_fits(bus: Bus):
    async with bus.served() as registry:
        with pytest.raises(TooLarge, match=str(limits.RECORD_BYTES)):
            await registry.send_message("w1", content="x" * limits.RECORD_BYTES)
        await registry.send_message("w1", content="x" * (limits.RECORD_BYTES - 200))

        assert [len(content) for content in await contents(registry, "w1")] == [limits.RECORD_BYTES - 200]


async def test_what_is_no_message_is_refused_and_not_kept(bus: Bus):
    wrong: list[dict[str, Any]] = [{"data": object()}, {"content": 5}, {"type": None}, {"content": {"a": 1}}]
    async with bus.served() as registry:
        await registry.send_message("w1", content="before")
        for said in wrong:
            with pytest.raises(Invalid):
                await registry.send_message("w1", **said)
        assert await contents(registry, "w1") == ["before"]


async def test_large_messages_fill_an_answer_with_the_newest(bus: Bus):
    async with bus.served() as registry:
        for number in range(40):
            await registry.send_message("w1", content=f"{number} " + "x" * 60_000)

        told = [content.split()[0] for content in await contents(registry, "w1")]
        assert 10 <= len(told) <= 40
        assert told == [str(number) for number in range(39, 39 - len(told), -1)]


async def test_junk_in_a_mailbox_hides_no_message(bus: Bus):
    """Any client may publish there."""
    async with bus.served() as registry, bus.agent_connection() as client:
        await registry.send_message("w1", content="before")
        for junk in (b"", b"no json", b"[]", b"{", b"\xff", b'{"to": 5}', b'{"content": 5}', b"1", b"[" * 20_000):
            await client.publish(f"rollcall.{bus.realm}.message.w1", junk)
        await barrier(client)
        await registry.send_message("w1", content="after")

        readable = [content for content in await contents(registry, "w1") if content]
        assert readable == ["after", "before"]


async def test_messages_go_with_their_agent(bus: Bus):
    async with bus.served() as registry:
        for id in ("w1", "w2"):
            await registry.register("worker", id)
            await registry.send_message(id, content=f"to {id}")
        await registry.deregister("worker", "w1")

        await eventually(lambda: _are(registry, "w1", []))
        assert await contents(registry, "w2") == ["to w2"]


async def test_messages_go_with_an_agent_that_expires(bus: Bus):
    async with bus.served(forget_after=0.2) as registry:
        await registry.register("worker", "w1", ttl=0.5)
        await registry.send_message("w1", content="x")

        await eventually(lambda: _are(registry, "w1", []))


async def test_messages_of_an_agent_that_is_lost_are_kept(bus: Bus):
    async with bus.served() as registry:
        await registry.register("worker", "w1", ttl=0.5)
        await registry.send_message("w1", content="x")

        async def lost() -> bool:
            return (await registry.get("w1")).lost_at is not None

        await eventually(lost)
        assert await contents(registry, "w1") == ["x"]


async def test_who_comes_at_once_after_one_left_finds_none_of_its_letters(bus: Bus):
    async with bus.served() as registry:
        await registry.register("worker", "w1")
        await registry.send_message("w1", content="to the first")
        await registry.deregister("worker", "w1")
        await registry.register("worker", "w1")
        await registry.send_message("w1", content="to the second")

        await eventually(lambda: _are(registry, "w1", ["to the second"]), within=5)


async def test_messages_are_kept_while_no_worker_runs(bus: Bus):
    async with bus.registry() as registry:
        async with bus.worker():
            await leads(registry)
            await registry.send_message("w1", content="before")
        await registry.send_message("w1", content="meanwhile")
        with pytest.raises(Unavailable):
            await registry.messages("w1", timeout=1)
        async with bus.worker():
            await eventually(lambda: _are(registry, "w1", ["meanwhile", "before"]))


async def test_messages_go_with_an_agent_that_left_just_before_the_leader(bus: Bus):
    async with bus.registry() as registry:
        async with bus.worker():
            await leads(registry)
            await registry.register("worker", "w1")
            await registry.send_message("w1", content="x")
            await registry.deregister("worker", "w1")
        async with bus.worker():
            await leads(registry)
            await eventually(lambda: _are(registry, "w1", []), within=5)


async def test_any_worker_reads_the_messages(bus: Bus):
    async with bus.worker("w1"), bus.worker("w2"), bus.registry() as registry:
        await leads(registry)
        await registry.send_message("a", content="x")
        told = await asyncio.gather(*(registry.messages("a") for _ in range(20)))
        assert {one[0].content for one in told} == {"x"}


async def test_a_plain_client_writes_and_reads(bus: Bus):
    async with bus.served(), plain(bus) as client:
        stored = await client.question("message.w1", {"to": "w1", "type": "t", "content": "c", "data": None})
        assert "error" not in stored

        answer = await client.question("messages.w1")
        assert [(one["type"], one["content"]) for one in answer["messages"]] == [("t", "c")]
        assert answer["worker"] == "w1"


async def test_two_realms_have_two_mailboxes(nats_server, tmp_path, bus: Bus):
    async with bus.served() as registry, bus.agent_connection() as client:
        await registry.send_message("w1", content="x")
        body = json.dumps({"to": "w1", "content": "elsewhere"}).encode()
        await client.publish(f"rollcall.{bus.realm}-other.message.w1", body)
        await barrier(client)

        assert await contents(registry, "w1") == ["x"]
