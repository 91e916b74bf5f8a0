"""mindx, section 7, as a command: `rollcall sync mindx`."""

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time

import pytest

from rollcall import NotFound
from rollcall.faces.files.mindx.wallets import address_of
from tests.contract.mindx import (
    SYNC_KEYS,
    Home,
    coordinator,
    done,
    entry,
    hides_keys,
    named,
    right,
    running,
    signed,
    synced,
    syncing,
)
from tests.contract.test_mindx_vectors import ADDRESSES
from tests.processes import Process, rollcall

CONFLICTS, REFUSED = 1, 6


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "mindX")


class Command:
    """`rollcall sync mindx` for one mindX and one realm."""

    def __init__(self, bus, home):
        self.home = home
        self.common = ("sync", "mindx", str(home.root), "--nats", bus.url, "--realm", bus.realm)
        self.said = []

    async def __call__(self, *options, exits=0, env=None):
        """What it printed, once it ended as it should."""
        done = await asyncio.to_thread(rollcall, *self.common, *options, env=env)
        assert done.returncode == exits, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        self.said += [done.stdout, done.stderr]
        return done.stdout + done.stderr if exits == REFUSED else done.stdout

    async def json(self, *options, **more):
        return json.loads(await self(*options, "--json", **more))


async def test_a_sync_brings_both_sides_together(home, bus):
    home.write(entry("f1", type="planner"), entry("pending", identity={"public_key": "PENDING_SYNC"}))
    command = Command(bus, home)

    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None, description="Runs")
        plan = await command.json("--dry-run")
        untouched = home.entries
        ids = [one.id for one in await core.list()]
        result = await command.json()
        found = await core.get("f1")
    assert list(untouched) == ["f1", "pending"]
    assert "identity" not in untouched["f1"]
    assert ids == ["r1"]
    assert result.keys() >= SYNC_KEYS
    assert (result["agents_added"], result["keys_updated"], result["signatures_validated"]) == (3, 3, 3)
    assert plan["agents_added"] == 3
    assert home.entry("r1")["description"] == "Runs"
    assert all(right(id, one["identity"]) for id, one in home.entries.items())
    assert (found.role, found.status) == ("planner", "defined")
    hides_keys(home, *command.said)


async def test_history_and_rollback(home, bus):
    home.write(signed("f1", capabilities=["old"]))
    command = Command(bus, home)

    async with bus.served() as core:
        await synced(home, core)
        await core.update("worker", "f1", {"capabilities": ["new"]})
        before = home.agents.read_bytes()
        second = await synced(home, core)
        told = await asyncio.gather(command("--history", "--json"), command("--status", "--json"))
        assert home.entry("f1")["capabilities"] == ["new"]
        await command("--rollback", second["sync_id"])

        assert home.agents.read_bytes() == before
    assert all(second["sync_id"] in one for one in told)


async def test_conflicts_and_deletions_are_treated_as_told(home, bus):
    home.write(signed("f1", capabilities=["base"]), signed("f2"))
    command = Command(bus, home)

    async with bus.served() as core:
        await synced(home, core)
        await core.update("worker", "f1", {"capabilities": ["core"]})
        home.edit("f1", capabilities=["file"])
        held = await command.json("--policy", "hold", exits=CONFLICTS)
        home.remove("f2")
        decided = await command.json("--policy", "file", "--deletions", "propagate")

        assert list((await core.get("f1")).capabilities) == ["file"]
        with pytest.raises(NotFound):
            await core.get("f2")
    assert [one["field"] for one in held["conflicts"]] == ["capabilities"]
    assert [one["winner"] for one in named(decided["conflicts"], "f1")] == ["file"]


async def test_errors_are_told_by_the_exit_code(home, bus):
    home.write(entry("bad", identity={"public_key": ADDRESSES[6], "signature": "00" * 65}), signed("good"))
    command = Command(bus, home)

    async with bus.served():
        result = await command.json(exits=CONFLICTS)

    assert len(result["errors"]) == 1
    assert "bad" in result["errors"][0]


async def test_options_narrow_what_is_done(home, bus):
    home.write(entry("f1"), signed("f2"))
    command = Command(bus, home)

    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None)
        result = await command.json("--no-validate", "--no-missing-keys", "--direction", "runtime_to_file")
        ids = [one.id for one in await core.list()]
        wallets = home.held()
        created = await command.json("--update-keys")

    assert (result["signatures_validated"], result["keys_updated"]) == (0, 0)
    assert wallets == {}
    assert ids == ["r1"]
    assert "r1" in home.entries
    assert created["keys_created"] == 2
    assert all(right(id, one["identity"]) for id, one in home.entries.items())


async def test_a_corrupt_file_is_refused(home, bus):
    home.text('{\n  "registered_agents": {\n    oops')
    before = home.state()
    command = Command(bus, home)

    async with bus.served():
        said = await command(exits=REFUSED)

    # A narrow terminal may break it anywhere.
    assert home.agents.name in "".join(said.split())
    assert home.state() == before


KEYRING = """
import json, os
from keyring.backend import KeyringBackend

class Keyring(KeyringBackend):
    priority = 1
    path = os.environ["KEPT_AT"]

    def _held(self):
        return json.load(open(self.path)) if os.path.exists(self.path) else {}

    def get_password(self, service, username):
        return self._held().get(f"{service}/{username}")

    def set_password(self, service, username, password):
        held = {**self._held(), f"{service}/{username}": password}
        with open(self.path, "w") as file:
            json.dump(held, file)
"""


async def test_keys_may_be_kept_in_the_keyring(home, bus, tmp_path):
    home.write(entry("f1"))
    (tmp_path / "kept_keyring.py").write_text(KEYRING)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = tmp_path / "keyring.json"
    env = {"PYTHONPATH": path, "PYTHON_KEYRING_BACKEND": "kept_keyring.Keyring", "KEPT_AT": str(kept)}
    command = Command(bus, home)

    async with bus.served():
        await command("--keys", "keyring", env=env)

    said = home.entry("f1")["identity"]
    assert right("f1", said)
    (key,) = re.findall("[0-9a-f]{64}", kept.read_text())
    assert address_of(key) == said["public_key"]
    assert not home.keys.exists()


# --- killed -----------------------------------------------------------------------------------------------------------


def whole(home, texts, count):
    """The file is as it was, or as it shall be."""
    entries = home.entries
    assert len(entries) == count
    assert entries["r1"]["description"] in texts
    assert all(one["documentation"] == "x" * 3000 for id, one in entries.items() if id != "r1")


def large(home):
    return home.write(signed("r1"), *(entry(f"f{n}", documentation="x" * 3000) for n in range(200)))


async def test_a_killed_command_leaves_the_old_or_the_new_file(home, bus):
    large(home)
    options = ["--direction", "runtime_to_file", "--no-validate", "--no-missing-keys"]
    texts = ["What r1 does"]
    chance = random.Random(7)

    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None, description="text 0", name="Name of r1", capabilities=["talk"])
        for n in range(2):
            texts.append(f"text {n + 1}")
            await core.update("worker", "r1", {"description": texts[-1]})
            before, directory = home.state(), set(home.agents.parent.rglob("*"))
            process = Process(*Command(bus, home).common, *options, home=home.root.parent)
            with process:
                # As soon as it writes anything, or a little later.
                while process.popen.poll() is None:
                    if home.state() != before or set(home.agents.parent.rglob("*")) != directory:
                        await asyncio.sleep(chance.choice([0, 0.001, 0.01]))
                        process.kill()
                    await asyncio.sleep(0)
            whole(home, [*texts, "text 0"], 201)

        # What was left behind hinders nobody.
        tool = syncing(home, core, direction="runtime_to_file")
        await done(tool, "sync_all", validate_signatures=False, update_missing_keys=False)
        whole(home, texts[-1:], 201)


def _sync_for_ever(home):
    """What a process does that is going to be killed."""

    async def syncs():
        n = 0
        while True:
            n += 1
            agent = running("r1", description=f"text {os.getpid()} {n}")
            tool = syncing(home, coordinator(agent), direction="runtime_to_file")
            ok, said = await tool.execute("sync_all", validate_signatures=False, update_missing_keys=False)
            assert ok, said

    asyncio.run(syncs())


def test_a_killed_sync_leaves_a_whole_file_whenever_it_is_killed(home):
    large(home)
    chance = random.Random(11)

    for n in range(16):
        before, state = home.agents.stat(), home.state()
        child = os.fork()
        if not child:
            try:
                _sync_for_ever(home)
            finally:
                os._exit(3)
        try:
            deadline = time.monotonic() + 30
            while _same(home.agents.stat(), before):
                assert time.monotonic() < deadline, "it writes nothing"
            # At once, or at any moment of what follows.
            time.sleep(chance.random() * 0.05 * (n % 2))
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert len(home.entries) == 201
        assert home.state() != state


def _same(one, other):
    return (one.st_mtime_ns, one.st_size, one.st_ino) == (other.st_mtime_ns, other.st_size, other.st_ino)


def test_two_syncs_at_once_lose_nothing(home):
    """Two processes with agents of their own, and one file."""
    home.write()
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from tests.contract.mindx import Home, coordinator, syncing\n"
        "async def main():\n"
        "    home, name = Home(Path(sys.argv[1])), sys.argv[2]\n"
        "    for n in range(6):\n"
        "        agents = [f'{name}{m}' for m in range(n + 1)]\n"
        "        for _ in range(50):\n"
        "            ok, said = await syncing(home, coordinator(*agents)).execute()\n"
        "            if ok: break\n"
        "        assert ok, said\n"
        "        assert said['errors'] == [], said\n"
        "asyncio.run(main())\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", program, str(home.root), name]) for name in "ab"]

    assert [process.wait(60) for process in both] == [0, 0]

    assert home.entries.keys() == {f"{name}{n}" for name in "ab" for n in range(6)}
    assert all(right(id, one["identity"]) for id, one in home.entries.items())
    assert len(home.held()) == 12
