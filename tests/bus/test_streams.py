"""Streams are made when missing, and one that differs is never changed."""

import pytest

from rollcall.bus import shapes, streams
from rollcall.bus.follow import Follower
from rollcall.bus.streams import Unsound
from rollcall.core.errors import Misconfigured, Unavailable
from tests.conftest import eventually


async def test_a_stream_with_another_configuration_is_an_error_that_names_the_difference(bus):
    async with bus.worker_connection() as inside:
        wanted = shapes.roll_config(bus.subjects, 1)
        await streams.ensure(inside, wanted, epoch="1-0")
        different = {
            **wanted,
            "max_msgs_per_subject": 3,
            "allow_msg_ttl": True,
            "subject_delete_marker_ttl": 5_000_000_000,
        }
        await streams.request(inside, f"STREAM.UPDATE.{wanted['name']}", different)

        with pytest.raises(Misconfigured) as caught:
            async with bus.worker():
                pass
        assert "max_msgs_per_subject is 3, wanted 16" in str(caught.value)
        assert "subject_delete_marker_ttl is set and must not be" in str(caught.value)
        info = await streams.request(inside, f"STREAM.INFO.{wanted['name']}")
        assert info["config"]["max_msgs_per_subject"] == 3


async def test_a_stream_keeps_its_epoch_when_it_is_found_again(bus):
    async with bus.worker_connection() as inside:
        first = await streams.ensure(inside, shapes.inbox_config(bus.subjects, 1), epoch="1-0")
        again = await streams.ensure(inside, shapes.inbox_config(bus.subjects, 1), epoch="2-0")

        assert first.epoch.startswith("1-")
        assert again.epoch == first.epoch


async def test_whoever_may_not_touch_streams_is_told_so(bus):
    async with bus.agent_connection() as outside:
        with pytest.raises(Unavailable, match="JetStream"):
            await streams.ensure(outside, shapes.inbox_config(bus.subjects, 1), epoch="1-0")


async def test_a_follower_reads_everything_once_and_heals_when_its_consumer_is_gone(bus):
    async with bus.worker_connection() as inside:
        await streams.ensure(inside, shapes.inbox_config(bus.subjects, 1), epoch="1-0")
        subject = f"rollcall.{bus.realm}.register.worker.a"
        for _ in range(2500):
            await inside.publish(subject, b"{}")
        follower, seen = Follower(inside, bus.subjects.inbox_stream, 0), []
        batches = follower.batches()
        while len(seen) < 2500:
            seen += [stored.seq for stored in await anext(batches)]

        await streams.request(inside, f"CONSUMER.DELETE.{bus.subjects.inbox_stream}.{follower._consumer}")
        await inside.publish(subject, b"{}")
        seen += [stored.seq for stored in await anext(batches)]

        assert seen == list(range(1, 2502))
        await batches.aclose()


async def test_a_follower_says_when_the_stream_lost_what_was_read(bus):
    async with bus.worker_connection() as inside:
        await streams.ensure(inside, shapes.inbox_config(bus.subjects, 1), epoch="1-0")
        with pytest.raises(Unsound, match="100 was read"):
            await anext(Follower(inside, bus.subjects.inbox_stream, 100).batches())


async def test_the_inbox_that_ends_before_the_position_goes_on_under_a_new_epoch(bus):
    async with bus.served() as registry, bus.worker_connection() as inside:
        for number in range(5):
            await registry.register("worker", f"a{number}")
        before = await streams.state(inside, bus.subjects.inbox_stream)
        await eventually(lambda: _settled(registry, 5))
    async with bus.worker_connection() as inside:
        await streams.request(inside, f"STREAM.DELETE.{bus.subjects.inbox_stream}")
        async with bus.served() as registry:
            entry = await registry.register("worker", "next")

            after = await streams.state(inside, bus.subjects.inbox_stream)
            assert after.epoch != before.epoch
            assert entry.registered_seq > 5
            assert len(await registry.list()) == 6


async def _settled(registry, seq):
    return (await registry.info())["inbox"]["settled"] >= seq
