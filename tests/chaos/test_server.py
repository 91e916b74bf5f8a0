"""The NATS server goes and comes back: nobody is lost because of it, and everything goes on."""

import asyncio
from contextlib import AsyncExitStack

import pytest

import rollcall
from rollcall.embedded import running
from rollcall.worker import WorkerSettings, serving
from tests.conftest import eventually, leads


@pytest.mark.parametrize("end", ["kill", "terminate"])
async def test_a_server_that_was_away_longer_than_a_ttl_costs_nobody_his_place(tmp_path, end):
    parts = AsyncExitStack()
    async with running(tmp_path / "nats") as first:
        url, seed = first.url, first.worker_seed
        settings = WorkerSettings(url=url, name="w1", snapshot=tmp_path / "w1.db", nkey_seed=seed)
        await parts.enter_async_context(serving(settings))
        registry = await parts.enter_async_context(rollcall.connect(url))
        watch = await parts.enter_async_context(registry.watch())
        await leads(registry)
        await parts.enter_async_context(registry.agent("worker", "x", id="beats", ttl=12))
        await registry.register("worker", "silent", ttl=1.5)
        getattr(first.process, end)()
        first.process.wait()
    await asyncio.sleep(2.0)  # the absence itself, longer than the ttl
    async with running(tmp_path / "nats") as again:
        try:
            assert again.url == url
            silent = await eventually(lambda: _answers(registry), within=20)
            assert silent.liveness != "lost"
            await eventually(lambda: _lost(registry))
            await registry.register("worker", "after", timeout=20)
            seen = [await asyncio.wait_for(anext(watch), 20) for _ in range(4)]
            assert [(change.kind, change.id) for change in seen] == [
                ("registered", "beats"),
                ("registered", "silent"),
                ("lost", "silent"),
                ("registered", "after"),
            ]
            assert (await registry.get("beats")).liveness == "live"
        finally:
            await parts.aclose()


async def _lost(registry):
    return (await registry.get("silent")).liveness == "lost"


async def _answers(registry):
    try:
        return await registry.get("silent", timeout=1)
    except rollcall.Unavailable:
        return None
