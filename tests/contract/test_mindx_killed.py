"""A sync that is killed half way: the next one does not take its work for somebody else's."""

import json

import pytest

from rollcall.faces.files.mindx import RegistrySyncTool
from rollcall.faces.files.mindx.history import Store


class Killed(BaseException):
    """Stands for kill -9."""


def said(root, text):
    path = root / "data/config/official_agents_registry.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"registered_agents": {"a": {"id": "a", "type": "x", "description": text}}}, indent=2))


async def test_what_a_killed_sync_wrote_to_the_core_is_no_change_of_the_core(bus, tmp_path, monkeypatch):
    async with bus.served() as core:
        tool = RegistrySyncTool(registry=core, root=tmp_path)
        said(tmp_path, "first")
        assert (await tool.execute())[0]

        said(tmp_path, "second")
        saved = Store.save

        def save(self, state, item=None):
            if not state.intent:
                raise Killed
            saved(self, state, item)

        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(Store, "save", save)
            await tool.execute()
        assert (await core.get("a")).description == "second"

        said(tmp_path, "third")
        ok, told = await tool.execute()

        assert (ok, told["conflicts"]) == (True, [])
        assert (await core.get("a")).description == "third"
