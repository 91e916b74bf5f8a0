"""Commands for a realm of the test server."""

import pytest

from tests.conftest import Bus
from tests.faces.commands import Commands


@pytest.fixture
def say(bus: Bus) -> Commands:
    """Commands for the realm of this test."""
    return Commands(bus)
