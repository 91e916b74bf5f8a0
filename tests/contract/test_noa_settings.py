"""noa, sections 1, 5 and 6: ports, times, the environment, logs, tokens."""

import socket
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

import rollcall
from tests.contract.conftest import TICK, T
from tests.contract.noa import Court, Listening, moment, unique, until

SECRET = "s3cret-of-the-url"
TOKEN = "open-sesame"


@pytest.fixture(scope="module")
def wordy(noa_people, noa_up, tmp_path_factory):
    """A face that wants a token, whose environment names a port and the databases of the original."""
    port = _free()
    env = {
        "DATABASE_URL": f"postgres://postgres:{SECRET}@localhost:5432/ark",
        "REDIS_URL": f"redis://:{SECRET}@localhost:6379",
        "SERVER_PORT": str(port),
        "LOG_LEVEL": "debug",
    }
    home = tmp_path_factory.mktemp("wordy")
    arguments = ["--dialect", "noa", "--token", TOKEN]
    with Listening(home, noa_up["nats"], *arguments, dialects=(), env=env) as listening:
        [face] = listening.faces
        face.port = port
        yield face


def _free():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _port(url):
    return urlsplit(url).port


@pytest.fixture(scope="module")
def usual_go(noa_people, noa_up, tmp_path_factory):
    """Faces in go that were given no address, on the ports of the originals, and what is there the usual court."""
    _undisturbed(8006, 3003, 8000)
    dialects = ["--dialect", "noa", "--dialect", "noa-rust"]
    env = {"ROLLCALL_NOA_COMPAT": "go"}
    court = Court(8000)
    try:
        with Listening(tmp_path_factory.mktemp("go"), noa_up["nats"], *dialects, dialects=(), env=env) as listening:
            yield SimpleNamespace(listening=listening, face=listening.faces[0], court=court)
    finally:
        court.close()


def _undisturbed(*ports):
    for port in ports:
        if _taken(port):
            pytest.skip(f"port {port} is taken on this machine")


def _taken(port):
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


async def ttl(face, **said):
    """Until when the registry waits for a beat of an agent."""
    async with rollcall.connect(face.nats) as registry:
        return (await registry.get(face.register(**said))).ttl


# Ports


def test_the_default_port_is_8080(noa_people, noa_up, tmp_path):
    _undisturbed(8080)

    with Listening(tmp_path, noa_up["nats"], "--dialect", "noa", dialects=()) as listening:
        assert [_port(one["url"]) for one in listening.told] == [8080]


def test_the_default_port_of_go_is_8006_and_of_rust_3003(usual_go):
    told = [(one["dialect"], _port(one["url"])) for one in usual_go.listening.told]

    assert told == [("noa", 8006), ("noa-rust", 3003)]


async def test_in_go_an_awaited_agent_has_60_seconds_and_three_ticks(usual_go):
    assert await ttl(usual_go.face, heartbeat={"enabled": True}) == 60 + 3 * 30


def test_in_go_the_court_is_on_port_8000_unless_told_otherwise(usual_go):
    name = unique("asked")

    usual_go.face.register(name=name)

    assert len(usual_go.court.asked(name)) == 1


def test_server_port_is_the_port(wordy):
    assert _port(wordy.url) == wordy.port
    assert wordy.get("/health")["status"] == "healthy"


# Times


async def test_an_awaited_agent_has_30_seconds_and_three_ticks(noa):
    assert await ttl(noa, heartbeat={"enabled": True, "interval_seconds": 5}) == 30 + 3 * 30


@pytest.mark.parametrize("heartbeat", [None, {"enabled": False}])
async def test_an_agent_that_nobody_awaits_has_no_ttl(noa, heartbeat):
    assert await ttl(noa, heartbeat=heartbeat) is None


@pytest.mark.parametrize("of", ["fast", "go"])
async def test_the_timeout_of_the_environment_counts_for_both(request, of):
    face = request.getfixturevalue(of)

    assert await ttl(face, heartbeat={"enabled": True}) == pytest.approx(T + 3 * TICK)


def test_within_30_seconds_no_beat_is_missed(noa, fast):
    """What the fast face counts, the other does not yet."""
    id = noa.register(heartbeat={"enabled": True})

    until(lambda: fast.agent(id)["heartbeat"]["missed_beats"], what="a missed beat")

    assert noa.agent(id)["heartbeat"]["missed_beats"] == 0


# Logs


def test_a_registration_is_logged_as_json(noa):
    name, kind = unique("logged"), unique()

    id = noa.register(name=name, type=kind)

    [line] = until(lambda: [line for line in noa.logged() if line.get("agent_id") == id], what="a line")
    assert line["msg"] == "Agent registered successfully"
    assert (line["agent_name"], line["agent_type"]) == (name, kind)
    assert line["level"] == "info"
    assert line["time"]


def test_every_line_of_the_log_is_json_with_time_level_and_message(noa):
    noa.register()

    lines = [line for line in noa.process.said().splitlines() if line.strip()]

    assert len(noa.logged()) == len(lines)
    assert all({"time", "level", "msg"} <= set(line) for line in noa.logged())


def test_the_time_of_a_line_is_a_time(noa):
    id = noa.register()

    [line] = until(lambda: [line for line in noa.logged() if line.get("agent_id") == id], what="a line")

    moment(line["time"])


def test_the_databases_of_the_original_are_named_in_one_line(wordy):
    lines = [line for line in wordy.process.said().splitlines() if "DATABASE_URL" in line or "REDIS_URL" in line]

    assert len(lines) == 1
    assert "DATABASE_URL" in lines[0]
    assert "REDIS_URL" in lines[0]


def test_without_them_there_is_no_such_line(noa):
    assert "DATABASE_URL" not in noa.process.said()
    assert "REDIS_URL" not in noa.process.said()


@pytest.mark.parametrize("secret", [SECRET, TOKEN])
def test_no_secret_is_logged(wordy, secret):
    wordy.ask("POST", "/agents/register", {}, headers=BEARER)
    wordy.ask("POST", "/agents/register", {}, headers={"Authorization": f"Basic {TOKEN}"})

    assert secret not in wordy.process.said()


# Tokens

BEARER = {"Authorization": f"Bearer {TOKEN}"}
MUTATING = [
    ("POST", "/agents/register", {}),
    ("POST", "/agents/{}/heartbeat", {}),
    ("PUT", "/agents/{}/status", {"status": "busy"}),
    ("POST", "/agents/{}/status", {"status": "busy"}),
    ("POST", "/agents/{}/message", {}),
    ("DELETE", "/agents/{}/deregister", b""),
    ("DELETE", "/agents/{}", b""),
]
READING = [
    ("GET", "/health"),
    ("GET", "/agents"),
    ("GET", "/agents/{}"),
    ("GET", "/agents/{}/health"),
    ("GET", "/agents/{}/messages"),
    ("GET", "/analytics/overview"),
    ("GET", "/analytics/health"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def somebody(noa):
    """An agent that every face sees."""
    return noa.register()


@pytest.mark.parametrize(("method", "path", "body"), MUTATING)
@pytest.mark.parametrize("header", [None, "", "Bearer wrong", "Basic open-sesame", "open-sesame", "Bearer"])
def test_what_changes_something_needs_the_token(wordy, somebody, method, path, body, header):
    headers = {} if header is None else {"Authorization": header}

    answer = wordy.ask(method, path.format(somebody), body, headers=headers)

    assert answer.status_code == 401


def test_what_was_refused_for_want_of_a_token_changed_nothing(wordy, somebody):
    before = wordy.agent(somebody)

    for method, path, body in MUTATING:
        assert wordy.ask(method, path.format(somebody), body).status_code == 401

    assert wordy.agent(somebody) == before
    assert wordy.get(f"/agents/{somebody}/messages")["total"] == 0


@pytest.mark.parametrize(("method", "path", "body"), MUTATING)
def test_with_the_token_it_is_done(wordy, noa, method, path, body):
    id = noa.register()

    answer = wordy.ask(method, path.format(id), body, headers=BEARER)

    assert answer.status_code == 200


@pytest.mark.parametrize(("method", "path"), READING)
def test_reading_needs_no_token(wordy, somebody, method, path):
    assert wordy.ask(method, path.format(somebody)).status_code == 200


def test_discover_is_reading(wordy):
    assert wordy.ask("POST", "/agents/discover", {}).status_code == 200
