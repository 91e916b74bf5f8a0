"""Commands for a realm of the test server."""

from collections.abc import Iterator

import pytest

from tests.conftest import Bus
from tests.faces.commands import Commands
from tests.forked import Forked


@pytest.fixture(scope="session")
def forks() -> Iterator[Forked]:
    """Commands, each in a process of its own, without the second that Python needs to start."""
    with Forked() as one:
        yield one


@pytest.fixture
def say(bus: Bus, forks: Forked) -> Commands:
    """Commands for the realm of this test."""
    return Commands(bus, forks)
