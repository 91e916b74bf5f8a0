"""A rig for every test, and how long the long ones may take."""

import random
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chaos.rig import Rig

MINUTES = 0.5
LONG = ("test_mix.py", "test_soak.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption("--minutes", type=float, help="how long the random mix and the soak take (0.5)")
    group.addoption("--seed", type=int, help="the seed of the random mix; printed when it fails")
    group.addoption("--long", action="store_true", help="rows at their full length: more kills, longer absences")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent != Path(__file__).parent:
            continue
        # nats-py leaves transports open where a server takes a connection and says nothing, as dying ones do.
        item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
        if item.path.name in LONG or _long(config):
            item.add_marker(pytest.mark.timeout(_minutes(config) * 60 + 240))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed and Rig.latest is not None:
        report.sections += [(f"log of {name}", text) for name, text in Rig.latest.logs().items()]
    return report


def _minutes(config: pytest.Config) -> float:
    return config.getoption("minutes", None) or MINUTES


def _long(config: pytest.Config) -> bool:
    return bool(config.getoption("long", False))


@pytest.fixture
def minutes(pytestconfig: pytest.Config) -> float:
    return _minutes(pytestconfig)


@pytest.fixture
def long(pytestconfig: pytest.Config) -> bool:
    return _long(pytestconfig)


@pytest.fixture
def seed(pytestconfig: pytest.Config) -> int:
    given = pytestconfig.getoption("seed", None)
    return given if given is not None else random.randrange(1_000_000)


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig(tmp_path).running() as one:
        yield one
