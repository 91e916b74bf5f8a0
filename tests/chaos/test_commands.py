"""Commands come twice, late, and in another order: the newest life wins, and each command happens once."""

import asyncio
import json
import random
from typing import Any

import pytest
from msgspec import Struct

from rollcall.bus.connection import connected
from tests.bus.plain import Plain
from tests.chaos.figures import Stopwatch, record
from tests.chaos.recorder import Recorder
from tests.chaos.rig import Rig, leader
from tests.conftest import eventually

AGENTS = 40
LIVES = 4


class Sent(Struct, frozen=True):
    """A command as it is published: the verb, whose, and of which life."""

    verb: str
    id: str
    life: int


def shuffled(seed: int) -> list[Sent]:
    """All lives of all agents, every command one to three times, in any order."""
    dice = random.Random(seed)
    once = [
        Sent(verb, f"x{agent}", life)
        for agent in range(AGENTS)
        for life in range(1, LIVES + 1)
        for verb in ("register", "deregister")
    ]
    every = [sent for sent in once for _ in range(dice.randint(1, 3))]
    dice.shuffle(every)
    return every


def expected(commands: list[Sent]) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Which life stands in the end, and the changes of each agent."""
    standing: dict[str, int] = {}
    changes: dict[str, list[str]] = {}
    for sent in commands:
        held = standing.get(sent.id)
        if sent.verb == "register" and (held is None or sent.life > held):
            standing[sent.id] = sent.life
            changes.setdefault(sent.id, []).append("registered")
        elif sent.verb == "deregister" and held == sent.life:
            del standing[sent.id]
            changes[sent.id].append("deregistered")
    return standing, changes


@pytest.mark.parametrize("killed", [False, True])
async def test_commands_in_any_order_and_number_make_what_their_order_in_the_inbox_says(
    rig: Rig, seed: int, killed: bool
):
    recorder = Recorder(rig)
    await rig.worker("w1")
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        await rig.worker("w2")
        commands = shuffled(seed)
        async with connected(rig.url, name="shuffler") as client:
            for number, sent in enumerate(commands):
                if killed and number == len(commands) // 2:
                    rig.workers["w1"].kill()
                await client.publish(f"rollcall.{rig.realm}.{sent.verb}.role.{sent.id}", body(sent), headers=life(sent))
                if number % 20 == 0:
                    await asyncio.sleep(0.005)
        sent_all = Stopwatch()
        standing, changes = expected(commands)

        async def right() -> bool:
            return {entry.id: entry.incarnation for entry in await registry.list()} == standing

        await eventually(right, within=10, what=f"the right lives (--seed {seed})")
        took = sent_all.seconds
        await recorder.check(watch)
        assert {id: recorder.changes(id) for id in changes} == changes, f"--seed {seed}"
    did = f"{len(commands)} commands of {AGENTS * LIVES} lives, shuffled, each up to three times"
    record(
        "duplicate, reordered and delayed commands", did + (", the leader killed" if killed else ""), right_after=took
    )


def body(sent: Sent) -> bytes:
    if sent.verb == "deregister":
        return b""
    return json.dumps({"name": sent.id, "owner": "me", "incarnation": sent.life, "ttl": None}).encode()


def life(sent: Sent) -> dict[str, str]:
    return {"Rollcall-Incarnation": str(sent.life), "Rollcall-Client": "shuffler-shuffler", "Rollcall-Command": "same"}


async def test_what_an_old_life_says_late_touches_nothing(rig: Rig):
    recorder = Recorder(rig)
    await rig.worker()
    async with rig.registry() as registry, recorder.watching() as watch, connected(rig.url, name="late") as client:
        await leader(registry)
        late = Plain(client, rig.realm)
        await late.listen()
        old, new = {"name": "x", "owner": "me", "incarnation": 1}, {"name": "x", "owner": "me", "incarnation": 2}
        await late.ask("register.role.x", old)
        second = await late.ask("register.role.x", new)

        answers: list[dict[str, Any]] = [
            await late.ask("register.role.x", old),
            await late.ask("update.role.x", {"labels": {"from": "the past"}}, incarnation="1"),
            await late.ask("deregister.role.x", incarnation="1"),
        ]
        await late.send("heartbeat.role.x", {"incarnation": 1, "cpu_percent": 99})
        hello = await late.question("hello.role.x", {"incarnation": 1})

        assert [answer["error"] for answer in answers] == ["conflict"] * 3
        assert hello["superseded"] is True
        entry = await registry.get("x")
        assert (entry.revision, entry.incarnation, entry.labels, entry.health) == (second["revision"], 2, {}, None)

        gone = await late.ask("deregister.role.x", incarnation="2")
        await late.send("heartbeat.role.x", {"incarnation": 2})
        again = await late.ask("deregister.role.x", incarnation="2")
        assert (gone["id"], again["error"]) == ("x", "not_found")
        assert recorder.changes("x") == ["registered", "registered", "deregistered"]
        await recorder.check(watch)
    record("words of an old life that arrive late", "register, update, deregister, beat, hello: all refused", times=5)


async def test_the_same_command_twice_happens_once(rig: Rig):
    recorder = Recorder(rig)
    await rig.worker()
    async with rig.registry() as registry, recorder.watching() as watch, connected(rig.url, name="twice") as client:
        await leader(registry)
        twice = Plain(client, rig.realm)
        await twice.listen()
        profile = {"name": "x", "incarnation": 1, "ttl": None}

        async def send(subject: str, said: dict[str, Any], **headers: str) -> list[str]:
            """Under one name, as a network that doubles messages does."""
            twice.heard.clear()
            for _ in range(2):
                await twice.send(subject, said, command="one", **headers)
            outcomes = f"{twice.root}.outcome."
            await eventually(lambda: sum(m.subject.startswith(outcomes) for m in twice.heard) == 2, what="two outcomes")
            answers = [json.loads(m.data) for m in twice.heard if m.subject.startswith(outcomes)]
            return [answer.get("error", str(answer.get("revision"))) for answer in answers]

        first = await send("register.role.x", profile)
        second = await send("update.role.x", {"labels": {"a": "b"}})
        third = await send("update.role.x", {"labels": {"c": "d"}}, expected_revision=second[0])
        fourth = await send("deregister.role.x", {})

        assert first[0] == first[1] and second[0] == second[1]
        assert third[1] == "conflict" and fourth[1] == "not_found"
        assert recorder.changes("x") == ["registered", "updated", "updated", "deregistered"]
        await recorder.check(watch)
    record("the same command twice", "register, update, compare-and-set, deregister", times=4)
