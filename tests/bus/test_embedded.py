"""The bundled server: alone on its data, at the same address again, and never without its parent."""

import asyncio
import subprocess
import sys

import pytest

from rollcall.bus.connection import connected
from rollcall.core.errors import Misconfigured
from rollcall.embedded import running
from rollcall.store.files import InUse
from tests.conftest import eventually
from tests.processes import gone


async def test_a_server_keeps_its_free_port_over_restarts(tmp_path):
    async with running(tmp_path) as first:
        url = first.url
    async with running(tmp_path) as second:
        assert second.url == url


async def test_a_kept_port_that_is_taken_meanwhile_is_given_up(tmp_path):
    async with running(tmp_path / "a") as first:
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "port").write_text(first.url.rpartition(":")[2])
        async with running(tmp_path / "b") as second:
            assert second.url != first.url


async def test_a_wanted_port_that_is_taken_is_a_clear_error(tmp_path):
    async with running(tmp_path / "a") as first:
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(Misconfigured, match=f"port {port} on 127.0.0.1 is taken"):
            async with running(tmp_path / "b", port=port):
                pass


async def test_two_servers_on_one_data_dir_are_refused(tmp_path):
    async with running(tmp_path):
        with pytest.raises(Misconfigured, match="another rollcall uses"):
            async with running(tmp_path):
                pass


async def test_secrets_are_readable_by_their_owner_only(tmp_path):
    async with running(tmp_path) as server:
        for name in ("worker.nk", "system.nk"):
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        assert server.worker_seed not in repr(server)
        assert server.worker_seed not in (tmp_path / "nats-server.conf").read_text()


PARENT = """
import asyncio, sys
from pathlib import Path
from rollcall.embedded import running
from rollcall.store.files import InUse
async def main():
    async with running(Path(sys.argv[1])) as server:
        print(server.process.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_the_server_dies_with_its_parent_and_frees_the_data(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = int(await asyncio.to_thread(parent.stdout.readline))
    assert not gone(server)

    parent.kill()
    parent.wait()
    parent.stdout.close()

    await eventually(lambda: gone(server), within=5)
    await eventually(lambda: _runs(tmp_path), within=5)


async def _runs(data_dir):
    """Whether a server can be started; the lock of a dead one ends with its last thread."""
    try:
        async with running(data_dir):
            return True
    except InUse:
        return False


async def test_an_agent_needs_no_key_on_loopback(nats_server):
    async with connected(nats_server.url, name="anybody") as client:
        assert client.is_connected
