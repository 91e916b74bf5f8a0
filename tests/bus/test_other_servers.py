"""Evidence on servers that are not the bundled one, and on one that was killed."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import rollcall
from rollcall.bus import presence
from rollcall.embedded import EmbeddedServer, running
from rollcall.embedded.server import binary
from tests.bus.others import signs, wire
from tests.bus.plain import plain
from tests.conftest import Bus, eventually
from tests.processes import rollcall as command


def bare(home) -> dict:
    """What somebody's own server may be: JetStream, and no accounts."""
    return {"listen": "127.0.0.1:-1", "jetstream": {"store_dir": str(home / "js")}}


def with_system_account(home) -> dict:
    accounts = {
        "SYS": {"users": [{"user": "sys", "password": "secret"}]},
        "APP": {"jetstream": "enabled", "users": [{"user": "app", "password": ""}]},
    }
    return bare(home) | {"accounts": accounts, "system_account": "SYS", "no_auth_user": "app"}


@asynccontextmanager
async def server(home, config) -> AsyncIterator[Bus]:
    file = home / "server.conf"
    file.write_text(json.dumps(config))
    popen = subprocess.Popen(
        [str(binary()), "-c", str(file), "--ports_file_dir", str(home), "-l", str(home / "log")],
        stdin=subprocess.DEVNULL,
    )
    try:
        ports = home / f"nats-server_{popen.pid}.ports"
        await eventually(lambda: ports.exists() and ports.read_text().endswith("}"), within=20)
        url = json.loads(ports.read_text())["nats"][0]
        yield Bus(EmbeddedServer(url, "", popen), "r1", home)
    finally:
        popen.kill()
        popen.wait()


async def test_without_accounts_there_is_no_connection_evidence_and_the_doctor_says_so(tmp_path):
    async with server(tmp_path, bare(tmp_path)) as bus, bus.served() as registry:
        assert (await registry.info())["connection_evidence"].startswith("off")

        told = await asyncio.to_thread(command, "doctor", "--nats", bus.url, "--realm", "r1", "--json")

        evidence = next(one for one in json.loads(told.stdout)["findings"] if one["check"] == "evidence")
        assert (evidence["verdict"], told.returncode) == ("warning", 0)
        assert "ROLLCALL_SYSTEM_NATS" in evidence["mend"]


async def test_without_accounts_nobody_is_suspected_when_a_connection_closes(tmp_path):
    async with server(tmp_path, bare(tmp_path)) as bus, bus.served(disconnect_grace=0), plain(bus) as client:
        await client.ask("register.worker.a1", {"name": "x"})
        async with wire(bus, name="rollcall:r1:worker:a1") as one:
            await one.hello("worker.a1")
            await one.close()

        await asyncio.sleep(0.3)
        assert (client.changes("a1"), signs(client, "a1")) == (["registered"], [])


async def test_the_system_account_gives_evidence_by_the_names_of_connections(tmp_path):
    async with server(tmp_path, with_system_account(tmp_path)) as bus, AsyncExitStack() as stack:
        system = bus.url.replace("//", "//sys:secret@")
        registry = await stack.enter_async_context(bus.served(disconnect_grace=0.2, system_url=system))
        client = await stack.enter_async_context(plain(bus))
        assert (await registry.info())["connection_evidence"] == "on"
        async with AsyncExitStack() as wires:
            named = (
                "rollcall:r1:worker:a1",
                "rollcall:r1:worker:a2",
                "rollcall:r1:host:h1",
                "",
                "rollcall:r2:worker:a5",
            )
            agents = [await wires.enter_async_context(wire(bus, name=name)) for name in named]
            await asyncio.sleep(0.1)  # they are connected before they are on the roll, as agents are
            for number, agent in enumerate(agents, 1):
                await client.ask(f"register.worker.a{number}", {"name": "x", "host": f"h{number - 2}"})
                await agent.hello(f"worker.a{number}")

        await eventually(lambda: client.changes().count("lost") == 3)
        assert [client.changes(f"a{number}")[1:] for number in range(1, 6)] == [["lost"]] * 3 + [[]] * 2


async def test_where_the_server_stamps_nothing_a_forged_stamp_is_ignored(tmp_path):
    async with server(tmp_path, with_system_account(tmp_path)) as bus, AsyncExitStack() as stack:
        system = bus.url.replace("//", "//sys:secret@")
        await stack.enter_async_context(bus.served(disconnect_grace=0.2, system_url=system))
        client = await stack.enter_async_context(plain(bus))
        await client.ask("register.worker.a1", {"name": "x"})

        async with wire(bus, name="rollcall:r1:worker:a1") as one, wire(bus) as forger:
            await one.hello("worker.a1")
            stamp = b'Nats-Request-Info: {"server":"elsewhere","id":7,"acc":"X","start":"2026-11-20T00:00:00Z"}\r\n'
            await forger.hello("worker.a1", headers=stamp)
            await one.close()

            await eventually(lambda: "lost" in client.changes("a1"), within=5)


async def test_a_list_of_connections_of_many_pages_names_them_all(bus, monkeypatch):
    monkeypatch.setattr(presence, "PAGE", 2)
    names = {f"rollcall:{bus.realm}:worker:a{number}" for number in range(7)}
    async with bus.worker_connection() as inside, AsyncExitStack() as stack:
        for name in names:
            await stack.enter_async_context(wire(bus, name=name))

        found = await presence.Connections(inside, system=False).open_now()

        assert names <= {seen.name for seen in found.seen}
        assert len({seen.connection for seen in found.seen}) == len(found.seen)


async def test_a_server_that_was_killed_makes_nobody_suspect(tmp_path):
    parts = AsyncExitStack()
    async with running(tmp_path / "nats") as first:
        bus = Bus(first, "r1", tmp_path)
        registry = await parts.enter_async_context(bus.served(disconnect_grace=0))
        client = await parts.enter_async_context(plain(bus))
        sdk = await parts.enter_async_context(registry.agent("worker", "sdk", id="sdk"))
        await client.ask("register.worker.plain", {"name": "x", "ttl": 60})
        assert (await client.question("hello.worker.plain"))["known"]
        first.process.kill()
        first.process.wait()
    async with running(tmp_path / "nats") as again:
        try:
            assert again.url == bus.url
            await eventually(lambda: answers(registry))
            # Evidence goes on, for those who say hello on a new connection.
            await client.ask("register.worker.later", {"name": "x", "ttl": 60})
            async with wire(bus) as one:
                await one.hello("worker.later")
                await one.close()
            await eventually(lambda: "lost" in client.changes("later"))
            assert [client.changes(id) for id in ("plain", sdk.id)] == [["registered"]] * 2
            assert [signs(client, id) for id in ("plain", sdk.id)] == [[], []]
            assert {entry.liveness for entry in await registry.list(exact=True) if entry.id != "later"} == {"live"}
            assert (await registry.info())["connection_evidence"] == "on"
        finally:
            await parts.aclose()


async def answers(registry):
    try:
        return (await registry.info(timeout=1))["leader"]
    except rollcall.Unavailable:
        return ""
