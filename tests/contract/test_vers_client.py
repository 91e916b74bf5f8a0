"""The client side of Vers: an agent that reports itself over HTTP, alone and under `rollcall run`."""

import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from rollcall.faces.http.server import serving
from rollcall.faces.http.settings import Dialect, FaceSettings, Listener, VersSettings
from rollcall.sdk.vers import VersAgent, reporting
from tests.conftest import Bus, eventually
from tests.processes import Process

SECRET = "a-long-random-word"


@asynccontextmanager
async def vers(bus: Bus) -> AsyncIterator[httpx.AsyncClient]:
    """A Vers registry on the realm of the test that wants a token."""
    settings = FaceSettings(vers=VersSettings(token=SECRET))
    async with bus.served(), serving(bus.url, bus.realm, [Listener("127.0.0.1", 0, Dialect.VERS)], settings) as found:
        headers = {"Authorization": f"Bearer {SECRET}"}
        async with httpx.AsyncClient(base_url=found[0].url, headers=headers) as client:
            yield client


def agent(client: httpx.AsyncClient, **said: str) -> VersAgent:
    return VersAgent(**{"url": str(client.base_url).rstrip("/"), "id": "vm/1", "name": "n", "token": SECRET, **said})


async def entry(client: httpx.AsyncClient, id: str = "vm%2F1") -> dict | None:
    answer = await client.get(f"/registry/vms/{id}")
    return answer.json() if answer.status_code == 200 else None


async def test_it_registers_and_says_that_it_stopped(bus):
    async with vers(bus) as client:
        async with reporting(agent(client, role="infra")):
            told = await eventually(lambda: entry(client))
            assert (told["role"], told["status"], told["registeredBy"]) == ("infra", "running", "n")
            assert told["address"] == "vm/1.vm.vers.sh"
            assert told["metadata"].keys() == {"pid", "startedAt"}

        assert (await entry(client))["status"] == "stopped"


async def test_an_id_that_is_held_is_taken_up_by_an_update(bus):
    async with vers(bus) as client:
        async with reporting(agent(client)):
            await eventually(lambda: entry(client))
        async with reporting(agent(client, name="again")):

            async def runs():
                told = await entry(client)
                return told["status"] == "running" and told["name"] == "again"

            await eventually(runs)


async def test_it_beats_and_registers_again_when_it_was_dropped(bus):
    async with vers(bus) as client, reporting(agent(client), beat_every=0.05):
        first = await eventually(lambda: entry(client))

        async def beats():
            return (await entry(client))["lastSeen"] > first["lastSeen"]

        await eventually(beats)
        assert (await client.delete("/registry/vms/vm%2F1")).status_code == 200
        assert await eventually(lambda: entry(client))


async def test_a_registry_that_is_away_disturbs_nobody():
    async with reporting(VersAgent(url="http://127.0.0.1:9", id="a", name="a"), beat_every=0.01):
        worked = True
    assert worked


@pytest.mark.parametrize(
    ("said", "name", "role"),
    [
        ({"VERS_AGENT_NAME": "n", "VERS_AGENT_ROLE": "infra"}, "n", "infra"),
        ({"VERS_AGENT_NAME": "n"}, "n", "worker"),
    ],
)
def test_the_environment_says_who_reports(said, name, role):
    found = VersAgent.from_environment({"VERS_INFRA_URL": "http://x/", "VERS_VM_ID": "v", **said})

    assert (found.url, found.id, found.name, found.role) == ("http://x", "v", name, role)


@pytest.mark.parametrize("said", [{}, {"VERS_VM_ID": "v"}, {"VERS_INFRA_URL": "http://x"}])
def test_without_a_url_or_an_id_nothing_is_reported(said):
    assert VersAgent.from_environment(said) is None


async def test_run_reports_a_program_while_it_lives(bus, tmp_path):
    async with vers(bus) as client:
        environment = {
            "VERS_INFRA_URL": str(client.base_url),
            "VERS_VM_ID": "vm-9",
            "VERS_AGENT_NAME": "sleeper",
            "VERS_AUTH_TOKEN": SECRET,
        }
        program = ["--", sys.executable, "-c", "import time; time.sleep(60)"]
        run = ["run", "--role", "worker", "--nats", bus.url, "--realm", bus.realm, *program]
        with Process(*run, home=tmp_path, env=environment) as process:
            told = await eventually(lambda: entry(client, "vm-9"))
            assert (told["name"], told["status"]) == ("sleeper", "running")
            process.popen.terminate()

            async def stopped():
                return (await entry(client, "vm-9"))["status"] == "stopped"

            await eventually(stopped)


async def test_a_registry_that_accepts_and_never_answers_keeps_nobody_from_ending():
    # The kernel accepts for it; nobody ever reads.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        started = time.monotonic()
        async with reporting(VersAgent(url=f"http://127.0.0.1:{port}", id="a", name="a")):
            pass

    assert time.monotonic() - started < 8
