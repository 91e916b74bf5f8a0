"""The servers that the tests of the vers dialect share: one registry, and one face on a listener of its own."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.contract.vers import Face, Served, faces, started


@pytest.fixture(scope="session")
def vers_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """`rollcall up` with all dialects on one listener; what its ready file says."""
    home = tmp_path_factory.mktemp("vers-up")
    with started("up", "--nats-port", "0", "--http", "127.0.0.1:0", home=home) as (_, told):
        yield told


@pytest.fixture(scope="session")
def vers_combined(vers_up: dict[str, Any]) -> Iterator[httpx.Client]:
    """A client of the listener that carries all dialects."""
    with httpx.Client(base_url=vers_up["http"], timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def vers_served(vers_up: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A listener that speaks only vers, with the settings that hold when nothing is said."""
    with faces(vers_up["nats"], tmp_path_factory.mktemp("vers-face"), plain=Face()) as served:
        yield served["plain"]


@pytest.fixture(scope="session")
def vers(vers_served: Served) -> httpx.Client:
    """A client of that listener."""
    return vers_served.http
