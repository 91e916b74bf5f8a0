"""Reporting to a Vers registry over HTTP: what the extension of that registry does in an agent's process.

The environment says where and as whom: ``VERS_INFRA_URL``, ``VERS_VM_ID``, ``VERS_AGENT_NAME``, ``VERS_AGENT_ROLE``,
``VERS_AUTH_TOKEN``. Without the first two nothing is reported. A registry that is away never disturbs the agent.

::

    async with reporting():
        await work()
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

import httpx
import structlog
from msgspec import Struct

from rollcall.core.instants import Seconds, timestamp
from rollcall.sdk.clock import now_ms

BEAT_EVERY: Seconds = 60.0
TIMEOUT: Seconds = 10.0
GOODBYE_WITHIN: Seconds = 1.0
"""A registry that does not answer keeps nobody from ending."""

log = structlog.get_logger(__name__)


class VersAgent(Struct, frozen=True, kw_only=True):
    """Who reports, and where. `id` is the id of its VM."""

    url: str
    id: str
    name: str
    role: str = "worker"
    token: str = ""

    @staticmethod
    def from_environment(environment: Mapping[str, str] | None = None) -> "VersAgent | None":
        """What the variables say; None without a URL or an id."""
        said = os.environ if environment is None else environment
        url, id = said.get("VERS_INFRA_URL", ""), said.get("VERS_VM_ID", "")
        if not url or not id:
            return None
        return VersAgent(
            url=url.rstrip("/"),
            id=id,
            name=said.get("VERS_AGENT_NAME") or f"agent-{os.getpid()}",
            role=said.get("VERS_AGENT_ROLE") or "worker",
            token=said.get("VERS_AUTH_TOKEN", ""),
        )


@asynccontextmanager
async def reporting(agent: VersAgent | None = None, *, beat_every: Seconds = BEAT_EVERY) -> AsyncIterator[None]:
    """Registers the agent while the block runs, beats, and says in the end that it stopped.

    Without an `agent` it is the one of the environment, or none.
    """
    agent = agent or VersAgent.from_environment()
    if agent is None:
        yield
        return
    headers = {"Authorization": f"Bearer {agent.token}"} if agent.token else {}
    async with httpx.AsyncClient(base_url=agent.url, headers=headers, timeout=TIMEOUT) as client:
        reporter = _Reporter(client, agent)
        beating = asyncio.create_task(reporter.run(beat_every), name="vers: report")
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.wait((beating,))
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_WITHIN):
                    await reporter.tell("PATCH", "", {"status": "stopped"})


class _Reporter:
    def __init__(self, client: httpx.AsyncClient, agent: VersAgent) -> None:
        self._client = client
        self._agent = agent
        self._started = timestamp(now_ms())

    async def run(self, every: Seconds) -> None:
        await self._register()
        while True:
            await asyncio.sleep(every)
            if await self.tell("POST", "/heartbeat") == httpx.codes.NOT_FOUND:
                # It was dropped there: it lives, so it registers again.
                await self._register()

    async def _register(self) -> None:
        agent = self._agent
        body = {
            "id": agent.id,
            "name": agent.name,
            "role": agent.role,
            "address": f"{agent.id}.vm.vers.sh",
            "registeredBy": agent.name,
            "metadata": {"pid": os.getpid(), "startedAt": self._started},
        }
        if await self._send("POST", "/registry/vms", body) != httpx.codes.CREATED:
            await self.tell("PATCH", "", {"name": agent.name, "status": "running"})

    async def tell(self, method: str, part: str, body: dict[str, Any] | None = None) -> int:
        return await self._send(method, f"/registry/vms/{quote(self._agent.id, safe='')}{part}", body)

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> int:
        """The status of the answer; 0 when there was none."""
        try:
            response = await self._client.request(method, path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.debug("the Vers registry cannot be reached", error=f"{type(error).__name__}: {error}")
            return 0
        if response.is_error:
            log.debug("the Vers registry refused", path=path, status=response.status_code, answer=response.text[:200])
        return response.status_code
