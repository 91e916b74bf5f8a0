"""One registry for the tests of the noa dialect, and its faces with the settings that the contract speaks of; and
commands for all dialects."""

from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from rollcall.embedded import EmbeddedServer
from tests.conftest import Bus, a_bus
from tests.contract.noa import Court, Face, Listening, until
from tests.processes import Process, rollcall

T = 1.0
TICK = 0.25
STALE = 3.0
FAST = {
    "HEARTBEAT_TIMEOUT_SECONDS": f"{T:g}",
    "ROLLCALL_NOA_TICK": f"{TICK:g}",
    "ROLLCALL_NOA_STALE": f"{STALE:g}",
    "ROLLCALL_COURT_TIMEOUT": "0.4",
}
"""The clockwork of the contract, fast enough to be watched."""


@pytest.fixture(scope="session")
def noa_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """`rollcall up`: what its ready file says, and the home of its data."""
    home = tmp_path_factory.mktemp("noa-up")
    ready = home / "ready.json"
    ports = ["--nats-port", "0", "--http", "127.0.0.1:0"]
    with Process("up", *ports, "--data-dir", str(home), "--ready-file", str(ready), home=home) as process:
        yield {**process.ready(ready), "home": home, "process": process}


@pytest.fixture(scope="session")
def noa_combined(noa_up: dict[str, Any]) -> Iterator[Face]:
    """The listener of `up`, which carries all dialects."""
    face = Face(noa_up["http"], noa_up["process"], noa_up["nats"])
    with face.http:
        yield face


@pytest.fixture(scope="session")
def court() -> Iterator[Court]:
    """The court of `fast` and `go`, who go on without it, and of `closed` and `rust`, who do not."""
    court = Court()
    yield court
    court.close()


@pytest.fixture(scope="session")
def _faces(
    noa_up: dict[str, Any], court: Court, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Listening]]:
    """All processes start together; whoever needs one waits for that one."""
    fast = {**FAST, "TRIFECTA_COURT_URL": court.url}
    settings: dict[str, dict[str, Any]] = {
        "fast": {"env": fast},
        "go": {"env": {**fast, "ROLLCALL_NOA_COMPAT": "go"}},
        "noa": {},
        "strict": {"env": {**fast, "ROLLCALL_COURT_UNREACHABLE": "closed"}, "dialects": ("noa", "noa-rust")},
    }
    with ExitStack() as stack:
        started = {
            name: stack.enter_context(Listening(tmp_path_factory.mktemp(name), noa_up["nats"], **given))
            for name, given in settings.items()
        }
        yield started
        for one in started.values():
            one.process.popen.terminate()


@pytest.fixture(scope="session")
def noa(noa_people: Any, _faces: dict[str, Listening]) -> Face:
    """The dialect as it is when nothing is set."""
    return _faces["noa"].faces[0]


@pytest.fixture(scope="session")
def fast(noa_people: Any, _faces: dict[str, Listening]) -> Face:
    """compat = superset, with a clockwork of seconds and a court."""
    return _faces["fast"].faces[0]


@pytest.fixture(scope="session")
def go(noa_people: Any, _faces: dict[str, Listening]) -> Face:
    """compat = go, with a clockwork of seconds and a court."""
    return _faces["go"].faces[0]


@pytest.fixture(scope="session")
def closed(noa_people: Any, _faces: dict[str, Listening]) -> Face:
    """A face that registers nobody without its court."""
    return _faces["strict"].faces[0]


@pytest.fixture(scope="session")
def rust(noa_people: Any, _faces: dict[str, Listening]) -> Face:
    """The Rust variant; of its JSON the contract does not say the charset."""
    face = _faces["strict"].faces[1]
    face.media = "application/json"
    return face


@pytest.fixture(scope="session")
def noa_people(noa_up: dict[str, Any], _faces: dict[str, Listening]) -> SimpleNamespace:
    """What both faces say of an empty registry, of five agents, and of these and two more from a file.

    It comes before everybody else who registers in this realm, so counts can be compared with numbers.
    """
    fast, go = _faces["fast"].faces[0], _faces["go"].faces[0]
    told = SimpleNamespace(empty=_told(fast), go_empty=_told(go), empty_metrics=fast.ask("GET", "/metrics").text)
    told.ids = _five(fast)
    told.five, told.go_five = _told(fast), _told(go)
    told.five_metrics = fast.ask("GET", "/metrics").text
    file = noa_up["home"] / "two.csv"
    file.write_text("agent_id,agent_name,capabilities\nfrom-file-1,One,reads\nfrom-file-2,Two,writes\n")
    told.imported = rollcall("import", str(file), env={"ROLLCALL_NATS": noa_up["nats"]})
    _speak(fast, told.ids)
    told.seven, told.go_seven = _told(fast), _told(go)
    return told


def _five(face: Face) -> dict[str, str]:
    """`e` is overdue at the end."""
    common = {"type": "people-1", "category": "people-c1"}
    ids = {
        "a": face.register(**common),
        "b": face.register(type="people-1", category="people-c2"),
        "c": face.register(type="people-2", category="people-c1"),
        "d": face.register(),
        "e": face.register(**common, heartbeat={"enabled": True}),
    }
    face.word(ids["c"], "busy")
    until(lambda: face.agent(ids["e"])["status"] == "unhealthy", what="overdue")
    _speak(face, ids)
    return ids


def _speak(face: Face, ids: dict[str, str]) -> None:
    """What is said of health is soon stale here."""
    for name in "ac":
        face.beat(ids[name], {"health": {"status": "healthy"}})
    face.beat(ids["d"], {"health": {"status": "degraded"}})


def _told(face: Face) -> dict[str, Any]:
    """Everything that counts."""
    return {
        "list": face.get("/agents"),
        "discover": face.told("POST", "/agents/discover", {}),
        "overview": face.get("/analytics/overview"),
        "health": face.get("/analytics/health"),
        "service": face.get("/health"),
    }


@pytest.fixture(scope="session")
def csv_realm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A registry that holds nothing but what was imported."""
    home = tmp_path_factory.mktemp("noa-csv")
    ready = home / "ready.json"
    ports = ["--nats-port", "0", "--http", "127.0.0.1:0", "--http-token", "open-sesame"]
    with Process("up", *ports, "--data-dir", str(home), "--ready-file", str(ready), home=home) as process:
        yield {**process.ready(ready), "home": home, "process": process}


@pytest.fixture(scope="module")
def realm(nats_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """One realm for all tests of a module."""
    home = tmp_path_factory.mktemp("realm")
    yield from a_bus(nats_server, home)
