"""noa, sections 4, 11 and 12: when the registry is away, and when it is back."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from tests.contract.noa import Listening, moment, until
from tests.processes import Process

T = 1.0
TICK = 0.6
UNHEALTHY_AFTER = T + 3 * TICK

UNAVAILABLE = {"error": "Registry unavailable"}

CALLS = [
    ("GET", "/agents", b""),
    ("GET", "/agents/x", b""),
    ("GET", "/agents/x/health", b""),
    ("POST", "/agents/register", {}),
    ("POST", "/agents/discover", {}),
    ("POST", "/agents/x/heartbeat", {}),
    ("PUT", "/agents/x/status", {"status": "busy"}),
    ("DELETE", "/agents/x", b""),
    ("DELETE", "/agents/x/deregister", b""),
    ("GET", "/analytics/overview", b""),
    ("GET", "/analytics/health", b""),
]

FULL = {"status": "degraded", "cpu_percent": 12.5, "error_count": 3, "metrics": {"q": 1}}


@pytest.fixture(scope="module")
def workerless(noa_people, noa_up, tmp_path_factory):
    """A face of a realm that no worker serves."""
    with Listening(tmp_path_factory.mktemp("nobody"), noa_up["nats"], "--realm", "nobody") as listening:
        yield listening.faces[0]


@pytest.fixture(scope="module")
def outage(tmp_path_factory):
    """What a face told before, while and after its bus and its registry were down for longer than any lease."""
    home = tmp_path_factory.mktemp("outage")
    told = SimpleNamespace()
    env = {"HEARTBEAT_TIMEOUT_SECONDS": f"{T:g}", "ROLLCALL_NOA_TICK": f"{TICK:g}", "LOG_LEVEL": "error"}
    with _up(home, 0) as (process, bus):
        with Listening(home, bus["nats"], env=env) as listening:
            [face] = listening.faces
            told.awaited = face.register(name="awaited", heartbeat={"enabled": True, "interval_seconds": 9})
            told.other = face.register(type="kept", metadata={"none": None})
            face.word(told.other, "busy")
            face.beat(told.other, {"health": FULL})
            face.told("POST", f"/agents/{told.other}/message", {"content": "kept"})
            told.before = {id: face.agent(id) for id in (told.awaited, told.other)}
            process.interrupt()
            with ThreadPoolExecutor(len(CALLS) + 1) as pool:
                health = pool.submit(face.ask, "GET", "/health")
                calls = [pool.submit(face.ask, *call) for call in CALLS]
            told.health = health.result()
            told.down = {call[:2]: answer.result() for call, answer in zip(CALLS, calls, strict=True)}
            last = moment(told.before[told.awaited]["heartbeat"]["last_beat"])
            until(lambda: time.time() - last > UNHEALTHY_AFTER + 0.2, what="longer than any lease")
            with _up(home, int(bus["nats"].rpartition(":")[2])):
                told.back_at = time.monotonic()
                told.first = until(lambda: _agents(face), what="an answer")
                told.answered_after = time.monotonic() - told.back_at
                told.after = {agent["id"]: agent for agent in told.first}
                told.messages = face.get(f"/agents/{told.other}/messages")
                told.later = until(lambda: _unhealthy(face, told.awaited), what="unhealthy after the grace")
                told.calm = face.agent(told.other)
                told.beaten = face.beat(told.awaited)
                told.again = face.get("/health")
                told.log = face.process.said()
                yield told


@contextmanager
def _up(home, port):
    ready = home / f"up-{time.monotonic_ns()}.json"
    ports = ["--nats-port", str(port), "--http", "off"]
    with Process("up", *ports, "--data-dir", str(home), "--ready-file", str(ready), home=home) as process:
        yield process, process.ready(ready)


def _agents(face):
    answer = face.ask("GET", "/agents")
    return answer.json()["agents"] if answer.status_code == 200 else None


def _unhealthy(face, id):
    agent = face.agent(id)
    return agent if agent["status"] == "unhealthy" else None


# No worker


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_without_workers_the_registry_is_unavailable(workerless, method, path, body):
    assert workerless.told(method, path, body, status=503) == UNAVAILABLE


@pytest.mark.parametrize(("method", "path"), [("POST", "/agents/register"), ("POST", "/agents/discover")])
def test_without_workers_a_wrong_body_is_still_the_callers_fault(workerless, method, path):
    assert workerless.told(method, path, b"{", status=400) == {"error": "Invalid request format"}


def test_without_workers_the_service_is_degraded_for_want_of_a_store(workerless):
    answer = workerless.get("/health")

    assert answer["status"] == "degraded"
    assert (answer["dependencies"]["redis"], answer["dependencies"]["database"]) == ("healthy", "unhealthy")


# No bus


def test_without_a_bus_the_service_still_says_how_it_is(outage):
    assert outage.health.status_code == 200
    assert outage.health.json()["status"] == "degraded"
    assert outage.health.json()["dependencies"]["redis"] == "unhealthy"
    assert outage.health.json()["dependencies"]["database"] == "unhealthy"


@pytest.mark.parametrize("call", [call[:2] for call in CALLS], ids=" ".join)
def test_without_a_bus_the_registry_is_unavailable(outage, call):
    answer = outage.down[call]

    assert (answer.status_code, answer.json()) == (503, UNAVAILABLE)


# Back again


def test_agents_survive_a_restart_in_their_order(outage):
    assert [agent["id"] for agent in outage.first] == [outage.awaited, outage.other]


def test_an_agent_is_after_a_restart_what_it_was(outage):
    assert outage.after[outage.other] == outage.before[outage.other]


def test_after_a_restart_nobody_is_unhealthy_at_once(outage):
    agent = outage.after[outage.awaited]
    if outage.answered_after > UNHEALTHY_AFTER - 0.8:
        pytest.skip("this machine was too slow to look within the grace")

    assert agent["status"] == "active"
    assert agent["heartbeat"]["interval_seconds"] == 9


def test_messages_survive_a_restart(outage):
    assert [message["content"] for message in outage.messages["messages"]] == ["kept"]


def test_after_the_grace_who_does_not_beat_is_unhealthy(outage):
    assert outage.later["status"] == "unhealthy"
    assert outage.calm["status"] == "busy"


def test_after_a_restart_a_beat_is_enough(outage):
    assert outage.beaten["status"] == "active"


def test_after_a_restart_the_service_is_healthy(outage):
    assert outage.again["status"] == "healthy"


@pytest.mark.parametrize("level", ["debug", "info", "warn"])
def test_log_level_error_leaves_out_what_is_less(outage, level):
    assert f'"level": "{level}' not in outage.log.replace('":"', '": "')
    assert outage.awaited not in outage.log
