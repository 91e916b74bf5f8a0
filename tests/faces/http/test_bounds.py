"""What no request may exceed: size, time and rate; and that a face which ends finishes what it began."""

import asyncio
import json
import time
from contextlib import AsyncExitStack, closing, suppress

import httpx
import pytest
import pytest_asyncio

from rollcall.faces.http import server
from rollcall.faces.http.bounds import CLIENTS, Rates
from tests.conftest import eventually
from tests.faces.http.opened import answered, beside, face, raw, refuses, shared_realm

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(nats_server, tmp_path_factory):
    """How a test opens a face of its own, on the worker of all tests here."""
    async with shared_realm(nats_server, tmp_path_factory.mktemp("bounds")) as facing:
        yield facing


def is_problem(said, status, code):
    """Whether an answer, read from a plain socket, is a whole problem."""
    got, headers, body = said
    told = json.loads(body)
    assert (got, told["status"], told["code"]) == (status, status, code)
    assert headers["content-type"] == "application/problem+json"
    assert told["type"] == f"urn:rollcall:error:{code}"
    return told["detail"]


async def connected(one, head, body=b""):
    """A connection on which the first bytes of a request were sent."""
    reader, writer = await asyncio.open_connection(*one.address)
    lines = [*head, "Host: test", "Content-Type: application/json", "Connection: close", "", ""]
    writer.write("\r\n".join(lines).encode() + body)
    await writer.drain()
    return reader, writer


def length(head):
    """How many bytes of body follow a head."""
    (line,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(line.partition(b":")[2])


async def read(reader, within=10):
    return answered(await asyncio.wait_for(reader.read(), within))


# Size


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(served):
    async with served(body_bytes=1000) as one:
        reader, writer = await connected(one, ["POST /v1/agents HTTP/1.1", "Content-Length: 1000000000"])

        assert "1000 bytes" in is_problem(await read(reader), 413, "too_large")
        writer.close()


async def test_a_body_that_grows_too_large_is_refused_at_the_bound(served):
    async with served(body_bytes=1000) as one:
        head = ["POST /v1/agents HTTP/1.1", "Transfer-Encoding: chunked"]
        reader, writer = await connected(one, head, b"1f4\r\n" + b" " * 500 + b"\r\n")
        writer.write((b"1f4\r\n" + b" " * 500 + b"\r\n") * 2)

        is_problem(await read(reader), 413, "too_large")
        writer.close()


async def test_a_body_at_the_bound_is_read(served):
    body = b'{"role": "w", "id": "padded", "name": "x"}'.ljust(1000)
    async with served(body_bytes=1000) as one:
        kind = {"content-type": "application/json"}

        right = await one.client.post("/v1/agents", content=body, headers=kind)
        wrong = await one.client.post("/v1/agents", content=body + b" ", headers=kind)

        assert (right.status_code, wrong.status_code) == (201, 413)


async def test_a_huge_body_is_refused_and_the_face_goes_on(served):
    async with served() as one:
        answer = await one.client.post(
            "/v1/agents", content=b"x" * 20_000_000, headers={"content-type": "application/json"}
        )

        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert (await one.client.get("/v1/info")).status_code == 200


async def test_a_refusal_has_the_shape_that_belongs_to_its_path(served):
    async with served(body_bytes=10) as one:
        said = {}
        for path in ("/registry/vms", "/agents/register", "/v1/agents"):
            answer = await one.client.post(path, json={"x": "y" * 100})
            assert answer.status_code == 413
            said[path] = (answer.headers["content-type"].partition(";")[0], set(answer.json()))

        assert said["/v1/agents"] == ("application/problem+json", {"type", "title", "status", "detail", "code"})
        assert said["/registry/vms"][0] == said["/agents/register"][0] == "application/json"
        assert "error" in said["/registry/vms"][1]
        assert "error" in said["/agents/register"][1]


async def test_a_head_without_end_is_refused(served):
    async with served() as one:
        status, _, _ = await raw(one, "GET", "/v1/agents?" + "x" * 100_000)
        many, _, _ = await raw(one, "GET", "/v1/info", **{f"x_{n}": "y" * 1000 for n in range(200)})

        assert status < 500 and many < 500
        assert (await one.client.get("/v1/info")).status_code == 200


# Time


async def test_a_body_that_does_not_come_is_not_waited_for(served):
    async with served(body_timeout=0.3) as one:
        reader, writer = await connected(one, ["POST /v1/agents HTTP/1.1", "Content-Length: 100"], b'{"role"')
        started = time.monotonic()

        detail = is_problem(await read(reader), 408, "timeout")

        assert "0.3 s" in detail
        assert time.monotonic() - started < 5
        writer.close()


async def test_a_body_that_trickles_is_not_waited_for_either(served):
    async with served(body_timeout=0.5) as one:
        reader, writer = await connected(one, ["POST /v1/agents HTTP/1.1", "Content-Length: 100000"])

        async def trickle():
            while True:
                writer.write(b" ")
                await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        is_problem(await read(reader), 408, "timeout")
        trickling.cancel()
        writer.close()


@pytest.mark.parametrize(
    "sent", [b"", b"GET /v1/info HTTP/1.1\r\nHost: te", b"GET /v1/info HTTP/1.1\r\nHost: test\r\n"]
)
async def test_a_connection_on_which_no_request_comes_is_closed(served, monkeypatch, sent):
    monkeypatch.setattr(server, "HEADERS_WITHIN", 0.3)
    async with served() as one:
        reader, writer = await asyncio.open_connection(*one.address)
        writer.write(sent)

        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_headers_that_trickle_are_not_waited_for(served, monkeypatch):
    monkeypatch.setattr(server, "HEADERS_WITHIN", 0.3)
    async with served() as one:
        reader, writer = await asyncio.open_connection(*one.address)
        writer.write(b"GET /v1/info HTTP/1.1\r\nHost: test\r\n")

        async def trickle():
            while True:
                writer.write(b"X-More: header\r\n")
                await asyncio.sleep(0.05)

        async with beside(trickle()):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_a_connection_is_used_for_many_requests(served, monkeypatch):
    """The time for headers is that of each request, not of the connection. A busy machine may take half of it."""
    monkeypatch.setattr(server, "HEADERS_WITHIN", 1.0)
    async with served() as one:
        reader, writer = await asyncio.open_connection(*one.address)
        started = time.monotonic()
        with closing(writer):
            while time.monotonic() - started < 1.4:
                writer.write(b"GET /v1/guard HTTP/1.1\r\nHost: test\r\n\r\n")
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
                assert head.startswith(b"HTTP/1.1 200")
                # On a machine that stood still the guard holds, and more is said than that it does not.
                await asyncio.wait_for(reader.readexactly(length(head)), 5)


async def test_slow_clients_hold_up_nobody(served):
    async with served(body_timeout=5) as one, AsyncExitStack() as stack:
        for _ in range(100):
            _, writer = await connected(one, ["POST /v1/agents HTTP/1.1", "Content-Length: 100"], b"{")
            stack.callback(writer.close)
        started = time.monotonic()

        for _ in range(20):
            assert (await one.client.get("/v1/info")).status_code == 200

        assert time.monotonic() - started < 2


async def test_a_client_that_goes_in_the_middle_of_its_body_changed_nothing(served):
    async with served() as one:
        entry = await one.registry.register("w", "a1", ttl=600)
        for head in ("DELETE /v1/agents/a1", "PATCH /v1/agents/a1", "POST /v1/agents/a1/heartbeat", "POST /v1/agents"):
            body = b"" if "POST /v1/agents/a1" in head else b'{"role": "w", "id": "new", "name": "x"}'
            _, writer = await connected(one, [f"{head} HTTP/1.1", "Content-Length: 100"], body)
            writer.close()
            await writer.wait_closed()

        async def all_answered():
            text = (await one.client.get("/metrics")).text
            counts = [line for line in text.splitlines() if line.startswith("http_request_duration_seconds_count")]
            return sum(float(line.rpartition(" ")[2]) for line in counts if "/metrics" not in line) >= 4

        await eventually(all_answered)
        after = await one.registry.get("a1")
        assert (after.revision, after.last_seen) == (entry.revision, entry.last_seen)
        assert (await one.client.get("/v1/agents/new")).status_code == 404


# Rate


async def test_a_rate_is_kept_over_time_and_saves_up_one_second():
    rates = Rates(10)

    assert [rates.wait("a", 0.0) for _ in range(10)] == [0.0] * 10
    assert abs(rates.wait("a", 0.0) - 0.1) < 1e-9
    assert rates.wait("b", 0.0) == 0.0
    assert rates.wait("a", 0.1 + 1e-9) == 0.0
    assert rates.wait("a", 0.1 + 1e-9) > 0
    assert [rates.wait("a", 100.0) for _ in range(11)].count(0.0) == 10


async def test_a_rate_below_one_lets_one_come_at_once():
    rates = Rates(0.25)

    assert rates.wait("a", 0.0) == 0.0
    assert rates.wait("a", 0.0) == 4.0
    assert rates.wait("a", 4.0) == 0.0


async def test_clients_without_number_are_not_remembered():
    rates = Rates(1)

    for number in range(CLIENTS * 2):
        rates.wait(str(number), 0.0)

    assert len(rates._clients) == CLIENTS


async def test_who_asks_too_often_is_told_when_to_come_again_and_others_are_served(served):
    async with served(rate=5) as one:
        answers = [await one.client.get("/v1/info") for _ in range(20)]
        other = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        async with httpx.AsyncClient(base_url=one.url, transport=other) as elsewhere:
            served = [(await elsewhere.get("/v1/info")).status_code for _ in range(5)]

        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) >= 10
        assert {answer.status_code for answer in answers} == {200, 429}
        assert refused[-1].headers["content-type"] == "application/problem+json"
        assert refused[-1].json()["code"] == "busy"
        assert int(refused[-1].headers["retry-after"]) >= 1
        assert served == [200] * 5

        async def welcome_again():
            return (await one.client.get("/v1/info")).status_code == 200

        await eventually(welcome_again)


async def test_who_comes_back_when_it_was_told_to_is_served(bus):
    """Retry-After is whole seconds: never fewer than it takes."""
    async with face(bus, rate=0.3) as url, httpx.AsyncClient(base_url=url) as http:
        await http.get("/nothing")

        refused = await http.get("/nothing")

        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) == 4


async def test_without_a_rate_anybody_may_ask_as_often_as_they_like(served):
    async with served() as one:
        answers = await asyncio.gather(*(one.client.get("/v1/guard") for _ in range(60)))

        assert {answer.status_code for answer in answers} == {200}


# The end


async def test_what_is_in_flight_is_finished_when_the_face_ends(bus):
    body = b'{"role": "w", "id": "a1", "name": "x"}'
    async with bus.served() as registry:
        serving = AsyncExitStack()
        url = await serving.enter_async_context(face(bus))
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/agents HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
        writer.write(head.encode())
        # It is waited for: the face reads this request now.
        assert b"100" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)

        ending = asyncio.create_task(serving.aclose())
        await eventually(lambda: refuses((host, int(port))))
        assert not ending.done()
        writer.write(body)

        assert (await read(reader))[0] == 201
        await asyncio.wait_for(ending, 10)
        writer.close()
        assert (await registry.get("a1")).name == "x"


async def test_a_client_that_keeps_its_connection_does_not_hold_up_the_end(bus):
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bus.served())
        serving = await stack.enter_async_context(AsyncExitStack())
        url = await serving.enter_async_context(face(bus))
        for _ in range(5):
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=url))
            assert (await http.get("/v1/info")).status_code == 200
        started = time.monotonic()

        await serving.aclose()

        assert time.monotonic() - started < 2


async def test_a_request_that_never_ends_is_waited_for_no_longer_than_said(bus):
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bus.served())
        serving = await stack.enter_async_context(AsyncExitStack())
        url = await serving.enter_async_context(face(bus, drain=1.0, body_timeout=60))
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/agents HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        started = time.monotonic()

        await serving.aclose()

        assert time.monotonic() - started < 4
        writer.close()


async def test_a_chunk_whose_extension_never_ends_is_cut_off(served):
    """The parser would look at all of it again with each piece."""
    async with served() as one:
        _, writer = await asyncio.open_connection(*one.address)
        writer.write(b"POST /v1/agents HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;")
        sent = 0
        with suppress(ConnectionError):
            while sent < 16 << 20 and not writer.is_closing():
                writer.write(b"a" * 65_536)
                sent += 65_536
                await writer.drain()
        writer.close()

        assert sent < 16 << 20
        assert (await one.client.get("/health")).status_code == 200
