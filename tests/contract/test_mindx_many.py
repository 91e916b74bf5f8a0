"""Very many at once, and a path that is none."""

import json

from rollcall.faces.files.mindx import FileWallets, RegistrySyncTool
from tests.contract.mindx import Home
from tests.processes import rollcall

MANY = 1500


async def test_a_file_of_very_many_is_synced_and_asks_the_wallets_to_be_written_once(bus, tmp_path, monkeypatch):
    home = Home(tmp_path)
    home.text(json.dumps({"registered_agents": {f"a{number}": {"type": "x"} for number in range(MANY)}}))
    written = []
    create_all = FileWallets.create_all
    monkeypatch.setattr(FileWallets, "create_all", lambda self, ids: written.append(len(ids)) or create_all(self, ids))

    async with bus.served() as core:
        ok, told = await RegistrySyncTool(registry=core, root=tmp_path).execute()

        assert (ok, told["errors"], told["agents_added"], told["keys_updated"]) == (True, [], MANY, MANY)
        assert len(await core.list()) == MANY
    assert written == [MANY]


def test_a_path_that_is_no_directory_is_refused_and_not_made(tmp_path):
    told = rollcall("sync", "mindx", str(tmp_path / "nope"), "--nats", "nats://127.0.0.1:1")

    assert (told.returncode, "no directory" in " ".join(told.stderr.split())) == (6, True)
    assert not (tmp_path / "nope").exists()
