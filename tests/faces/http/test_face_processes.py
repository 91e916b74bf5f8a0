"""The face as a process: where it listens, what it refuses, what it writes down, and how it ends."""

import asyncio
import json
import re
import socket
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.conftest import eventually
from tests.faces.http.opened import answered, refuses
from tests.faces.http.sse import watching
from tests.processes import Process, gone
from tests.processes import rollcall as command


@contextmanager
def up(home, *arguments, env=None):
    ready = home / "ready.json"
    with Process("up", "--nats-port", "0", "--ready-file", str(ready), *arguments, home=home, env=env) as process:
        yield process, process.ready(ready)


async def test_sigterm_finishes_what_is_in_flight_tells_watchers_and_ends_cleanly(tmp_path):
    body = b'{"role": "w", "id": "a1", "name": "x"}'
    with up(tmp_path, "--http", "127.0.0.1:0") as (process, told):
        host, port = told["http"].removeprefix("http://").split(":")
        assert listens(process.popen.pid) == {("0100007F", int(port))}
        async with httpx.AsyncClient(base_url=told["http"], timeout=20) as http, watching(http) as stream:
            await stream.next("position")
            reader, writer = await asyncio.open_connection(host, int(port))
            head = f"POST /v1/agents HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
            writer.write(head.encode())
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)

            process.popen.terminate()
            ending = await asyncio.wait_for(stream.next("dropped"), 10)
            await eventually(lambda: refuses((host, int(port))))
            writer.write(body)
            answer = answered(await asyncio.wait_for(reader.read(), 10))
            writer.close()

        assert "going down" in ending.data["reason"]
        assert (answer[0], json.loads(answer[2])["id"]) == (201, "a1")
        assert await eventually(lambda: process.popen.poll() is not None)
        assert process.popen.returncode == 0, process.said()
        assert "Traceback" not in process.said()
        assert not (tmp_path / "ready.json").exists()


def test_up_without_http_listens_nowhere(tmp_path):
    with up(tmp_path, "--http", "off") as (process, told):
        assert set(told) == {"nats", "pid"}
        assert listens(process.popen.pid) == set()


def listens(pid):
    """Where a process listens, as the kernel tells it."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9]: row[1] for row in rows if row[3] == "0A"}
    return {
        (where.partition(":")[0], int(where.partition(":")[2], 16))
        for inode, where in inodes.items()
        if f"socket:[{inode}]" in links(pid)
    }


def links(pid):
    return {str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()}


def test_up_on_a_port_in_use_ends_with_one_line_and_leaves_nothing_behind(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ready = tmp_path / "ready.json"
        arguments = ["up", "--nats-port", "0", "--http", address, "--ready-file", str(ready)]
        with Process(*arguments, home=tmp_path) as process:
            assert process.popen.wait(30) == 6
            assert f"cannot listen on {address}" in " ".join(process.said().split())
            assert "Traceback" not in process.said()
            assert not ready.exists()


def test_a_face_of_its_own_says_where_every_listener_is(bus, tmp_path):
    ready = tmp_path / "ready.json"
    arguments = ["http", "--nats", bus.url, "--realm", bus.realm, "--ready-file", str(ready)]
    for dialect in ("all", "vers", "noa"):
        arguments += ["--dialect", dialect, "--listen", "127.0.0.1:0"]
    with Process(*arguments, home=tmp_path) as process:
        told = process.ready(ready)

        assert [one["dialect"] for one in told["listeners"]] == ["all", "vers", "noa"]
        assert len({one["url"] for one in told["listeners"]}) == 3
        assert told["http"] == told["listeners"][0]["url"]
        assert told["pid"] == process.popen.pid
        for one, there in zip(told["listeners"], (503, 404, 404), strict=True):
            assert httpx.get(f"{one['url']}/v1/info").status_code == there
        assert ready.stat().st_mode & 0o777 == 0o600
        process.interrupt()
    assert process.popen.returncode == 0
    assert gone(process.popen.pid)
    assert not ready.exists()


def test_the_command_refuses_an_open_address_with_one_line_that_says_the_way_out(nats_server):
    ended = command("http", "--nats", nats_server.url, "--listen", "0.0.0.0:0")

    assert (ended.returncode, ended.stdout) == (6, "")
    assert "--token" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_up_refuses_an_open_address_before_it_starts_anything(tmp_path):
    ended = command("up", "--nats-port", "0", "--http", "0.0.0.0:0", env={"ROLLCALL_DATA_DIR": str(tmp_path / "data")})

    assert (ended.returncode, "--token" in ended.stderr) == (6, True), ended.stderr
    assert not (tmp_path / "data").exists()


def test_the_logs_tell_each_accepted_change_once_and_never_a_secret(tmp_path):
    ready = tmp_path / "ready.json"
    env = {"ROLLCALL_LOG_FORMAT": "json", "ROLLCALL_HTTP_TOKENS": "read:quiet-secret", "VERS_AUTH_TOKEN": "vers-secret"}
    arguments = ["--nats-port", "0", "--http", "127.0.0.1:0", "--token", "loud-secret", "--ready-file", str(ready)]
    with Process("up", *arguments, "--log-level", "debug", home=tmp_path, env=env) as process:
        url = process.ready(ready)["http"]
        for secret in ("loud-secret", "quiet-secret", "wrong-secret", "vers-secret"):
            with httpx.Client(base_url=url, headers={"authorization": f"Bearer {secret}"}) as http:
                answer = http.post("/v1/agents", json={"role": "w", "id": "a1", "name": "x"})
                again = http.post("/v1/agents", json={"role": "w", "id": "a1", "name": "x"})
                http.patch("/v1/agents/a1", json={"version": "2"})
                http.patch("/v1/agents/a1", json={"version": "2"})
                http.delete("/v1/agents/a1")
                if secret == "loud-secret":
                    assert (answer.status_code, again.status_code) == (201, 409), answer.text
        process.interrupt()
        said = process.said()

    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    changes = [
        (line["event"], line["agent_id"], line["role"], line["revision"])
        for line in lines
        if "revision" in line and "agent_id" in line
    ]
    assert changes == [("registered", "a1", "w", 1), ("updated", "a1", "w", 2), ("deregistered", "a1", "w", 3)]
    assert not re.findall(r"\w+-secret", said)
    assert ready.exists() is False
