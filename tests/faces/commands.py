"""Commands for one realm, each in a process of its own."""

import asyncio
import json
import os
from subprocess import CompletedProcess
from typing import Any

from tests.conftest import Bus
from tests.processes import rollcall


class Commands:
    """`rollcall` for one realm, with nothing of whoever runs the tests."""

    def __init__(self, bus: Bus) -> None:
        self.env = {
            "HOME": str(bus.home),
            "XDG_CONFIG_HOME": str(bus.home / "config"),
            "XDG_DATA_HOME": str(bus.home / "data"),
            "ROLLCALL_DATA_DIR": "",
            "ROLLCALL_NATS": bus.url,
            "ROLLCALL_REALM": bus.realm,
            "COLUMNS": "200",
        }

    async def __call__(self, *arguments: str, exits: int = 0, **env: str) -> "CompletedProcess[str]":
        """A command that ends as it should."""
        done = await asyncio.to_thread(rollcall, *arguments, env={**os.environ, **self.env, **env})
        assert done.returncode == exits, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    async def json(self, *arguments: str, exits: int = 0, **env: str) -> Any:
        """What it tells programs."""
        return json.loads((await self(*arguments, "--json", exits=exits, **env)).stdout)
